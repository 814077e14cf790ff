//! The interpreter loop: runs one warp until it cannot go on or has used its time slice.

use super::access::{Exec, lanes};
use super::context::{At, Ctx, Worker};
use super::regs::Regs;
use super::warp::{Group, Meet, NONE, State, Warp};
use crate::config::Divergence;
use crate::decode::Use;
use crate::decode::op::{Guard, Op, Reg, Timer};
use crate::error::FaultKind;
use crate::finding::{FindingKind, Severity};

/// Why a warp stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its time slice is over.
    Slice,
    /// Nothing can run until another warp does something.
    Blocked,
    /// All lanes exited.
    Done,
}

/// Instructions one group of diverged lanes runs before another gets a turn.
const TURN: u32 = 4096;

/// What happens to the current group after an instruction.
enum Next {
    /// It goes on at this instruction.
    Pc(u32),
    /// It is gone, or waits on the list.
    Gone,
}

impl Ctx<'_> {
    pub(crate) fn run(&mut self, w: &mut Worker, warp: &mut Warp, slice: u32) -> Exec<Stop> {
        let mut left = slice;
        let independent = self.launch.config.divergence == Divergence::Independent;
        loop {
            if warp.live == 0 {
                return Ok(Stop::Done);
            }
            let Some(gi) = self.pick(warp, independent) else { return Ok(Stop::Blocked) };
            let mut group = warp.groups.swap_remove(gi);
            if group.pc == NONE {
                self.do_return(warp, group)?;
                continue;
            }
            let mut turn = if independent {
                1 + warp.rng.as_mut().map_or(0, |r| r.below(8)) as u32
            } else if warp.groups.is_empty() {
                left
            } else {
                TURN.min(left)
            };
            turn = turn.min(left);
            let given = turn;
            let meet_pc = match group.meet {
                NONE => NONE,
                m => {
                    let m = &warp.meets[m as usize];
                    if m.frame == group.frame { m.pc } else { NONE }
                }
            };
            let alive = loop {
                if group.pc == meet_pc && meet_pc != NONE {
                    warp.arrive(group.meet, group.mask);
                    break false;
                }
                if turn == 0 {
                    break true;
                }
                turn -= 1;
                match self.step(w, warp, &mut group)? {
                    Next::Pc(pc) => group.pc = pc,
                    Next::Gone => break false,
                }
            };
            let used = given - turn;
            left -= used.min(left);
            warp.executed += u64::from(used);
            if alive {
                if independent {
                    split_at_random(warp, group);
                } else {
                    // Other groups of the warp get their turn first.
                    warp.groups.insert(0, group);
                }
                if left == 0 {
                    return Ok(Stop::Slice);
                }
            } else if left == 0 && warp.live != 0 {
                return Ok(Stop::Slice);
            }
        }
    }

    /// The ready group to run: the last one made, or a random one.
    fn pick(&self, warp: &mut Warp, independent: bool) -> Option<usize> {
        if !independent {
            return warp.groups.iter().rposition(|g| g.state == State::Ready);
        }
        let ready: Vec<usize> =
            (0..warp.groups.len()).filter(|i| warp.groups[*i].state == State::Ready).collect();
        if ready.is_empty() {
            return None;
        }
        let i = warp.rng.as_mut().map_or(0, |r| r.below(ready.len()));
        Some(ready[i])
    }

    #[inline(always)]
    fn step(&mut self, w: &mut Worker, warp: &mut Warp, g: &mut Group) -> Exec<Next> {
        let launch = self.launch;
        let frame = warp.frames[g.frame as usize].as_mut().expect("groups only name live frames");
        let func = frame.func;
        let code = &launch.program.funcs[func as usize];
        let pc = g.pc as usize;
        let guard = code.guards[pc];
        let m = if guard == Guard::NONE { g.mask } else { g.mask & frame.regs.pred(guard.0) };
        let c = &mut w.counters[launch.counter_base[func as usize] + pc];
        c.warp += 1;
        c.lanes += u64::from(m.count_ones());
        let next = g.pc + 1;
        let at = At { func, pc: g.pc, warp: warp.index };
        if code.watch.touches[pc] && launch.config.checks.uninit_registers {
            self.watch(w, warp, g, m, at);
        }
        let frame = warp.frames[g.frame as usize].as_mut().expect("groups only name live frames");
        match &code.ops[pc] {
            Op::Alu(f, x) => {
                if m != 0 {
                    f(&mut frame.regs, x, m);
                }
            }
            Op::Ld(mem) => self.load(w, warp, g.frame, mem, m, at)?,
            Op::St(mem) => self.store(w, warp, g.frame, mem, m, at)?,
            Op::Bra { target, uniform } => return self.branch(w, warp, g, m, *target, *uniform, at),
            Op::Collective { what, mask } => {
                if m == 0 {
                    return Ok(Next::Pc(next));
                }
                if self.collective(w, warp, g, m, what, *mask, at)? {
                    return Ok(Next::Pc(next));
                }
                g.state = State::Collective;
                warp.groups.push(*g);
                self.try_collective(w, warp, g.pc, g.frame, false)?;
                return Ok(Next::Gone);
            }
            Op::Bar(bar) => {
                if m == 0 {
                    return Ok(Next::Pc(next));
                }
                return self
                    .at_barrier(w, warp, g, m, bar, at)
                    .map(|stay| if stay { Next::Pc(next) } else { Next::Gone });
            }
            Op::CpAsync(cp) => self.copy_async(w, warp, g.frame, cp, m, at)?,
            Op::CpCommit => {
                for l in lanes(m) {
                    warp.commits[l] += 1;
                }
            }
            Op::CpWait { leave } => self.copy_wait(w, warp, m, *leave)?,
            Op::Atom(a) => self.atomic(w, warp, g.frame, a, m, at)?,
            Op::Fence { acquire, release, block_only } => {
                if m != 0 && !block_only {
                    self.fence(*acquire, *release);
                }
            }
            Op::Div(f, x, wide) => {
                if m != 0 {
                    f(&mut frame.regs, x, m);
                    let zero = zero_lanes(&frame.regs, x.s[1], *wide) & m;
                    if zero != 0 && self.launch.config.checks.division_by_zero {
                        let l = zero.trailing_zeros();
                        self.report(w, FindingKind::DivisionByZero, at, l, None, "integer division by zero");
                    }
                }
            }
            Op::BrxIdx { index, targets, uniform } => {
                return self.branch_index(w, warp, g, m, *index, targets, *uniform, at);
            }
            Op::Call(call) => return self.call(w, warp, g, m, call, at).map(|()| Next::Gone),
            Op::Ret => {
                if m == 0 {
                    return Ok(Next::Pc(next));
                }
                return self.leave(warp, g, m, next, false);
            }
            Op::Exit => {
                if m == 0 {
                    return Ok(Next::Pc(next));
                }
                return self.leave(warp, g, m, next, true);
            }
            Op::Trap => {
                if m != 0 {
                    return Err(self.fault(FaultKind::Trap, at, m.trailing_zeros()));
                }
            }
            Op::ActiveMask { d } => {
                // Any subset of the lanes that could be here is a legal answer; these are the ones that are.
                frame.regs.put32(*d, m, &[m; 32]);
            }
            Op::Mbar(mbar) => {
                if m != 0 {
                    self.mbarrier(w, warp, g.frame, mbar, m, at)?;
                }
            }
            Op::ReadClock { d, which } => {
                self.ticks += 1;
                let t = self.ticks * 4;
                let v = match which {
                    Timer::Cycles | Timer::Cycles64 => t,
                    Timer::CyclesHi => t >> 32,
                    Timer::Global => t * 32,
                    Timer::GlobalLo => (t * 32) & 0xffff_ffff,
                    Timer::GlobalHi => (t * 32) >> 32,
                };
                match d {
                    Reg::R64(s) => frame.regs.put64(*s, m, &[v; 32]),
                    Reg::R32(s) | Reg::R16(s) => frame.regs.put32(*s, m, &[v as u32; 32]),
                    Reg::Sink => {}
                }
            }
            Op::Nop | Op::Nanosleep => {}
        }
        Ok(Next::Pc(next))
    }

    /// Reads and writes of registers that may be read before they are written. `m` are the lanes whose guard holds.
    #[cold]
    fn watch(&mut self, w: &mut Worker, warp: &mut Warp, g: &Group, m: u32, at: At) {
        let code = &self.launch.program.funcs[at.func as usize];
        for (_, number, how) in code.watch.at(at.pc) {
            let written = &mut warp.frame_mut(g.frame).written[*number as usize];
            if *how == Use::Write {
                *written |= m;
                continue;
            }
            let missing = if *how == Use::Guard { g.mask } else { m } & !*written;
            if missing != 0 {
                let name = &code.watch.names[*number as usize];
                let message = format!("read of {name}, which the lane never wrote");
                let severity = if *how == Use::Value { Severity::Benign } else { Severity::Error };
                let lane = missing.trailing_zeros();
                self.report_register(w, severity, at, lane, *number, &message);
            }
        }
    }

    #[inline(always)]
    fn branch(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        g: &mut Group,
        m: u32,
        target: u32,
        uniform: bool,
        at: At,
    ) -> Exec<Next> {
        if m == g.mask {
            return Ok(Next::Pc(target));
        }
        if m == 0 {
            return Ok(Next::Pc(g.pc + 1));
        }
        self.diverge(w, warp, g, &[(g.pc + 1, g.mask & !m), (target, m)], uniform, at)
    }

    fn branch_index(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        g: &mut Group,
        m: u32,
        index: u32,
        targets: &[u32],
        uniform: bool,
        at: At,
    ) -> Exec<Next> {
        let mut parts: Vec<(u32, u32)> = Vec::new();
        let mut add = |pc: u32, mask: u32| match parts.iter_mut().find(|p| p.0 == pc) {
            Some(p) => p.1 |= mask,
            None => parts.push((pc, mask)),
        };
        if g.mask & !m != 0 {
            add(g.pc + 1, g.mask & !m);
        }
        let values = warp.frame(g.frame).regs.r32[index as usize];
        for l in lanes(m) {
            match targets.get(values[l] as usize) {
                Some(t) => add(*t, 1 << l),
                None => {
                    let message = format!("brx.idx with index {} of {} targets", values[l], targets.len());
                    return Err(self.fault(FaultKind::Illegal(message), at, l as u32));
                }
            }
        }
        if let [(pc, _)] = parts[..] {
            return Ok(Next::Pc(pc));
        }
        self.diverge(w, warp, g, &parts, uniform, at)
    }

    fn diverge(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        g: &mut Group,
        parts: &[(u32, u32)],
        uniform: bool,
        at: At,
    ) -> Exec<Next> {
        w.counters[self.launch.counter_base[at.func as usize] + at.pc as usize].divergent += 1;
        if uniform && self.launch.config.checks.uniform {
            let l = parts[0].1.trailing_zeros();
            self.report(w, FindingKind::NotUniform, at, l, None, "a branch marked .uni splits its warp");
        }
        if self.launch.config.divergence == Divergence::Independent {
            for (pc, mask) in parts {
                warp.groups.push(Group { pc: *pc, mask: *mask, ..*g });
            }
            return Ok(Next::Gone);
        }
        let code = &self.launch.program.funcs[at.func as usize];
        let point = code.meet[at.pc as usize];
        let mut meet = g.meet;
        let here = |m: u32, warp: &Warp| {
            m != NONE && warp.meets[m as usize].pc == point && warp.meets[m as usize].frame == g.frame
        };
        // Lanes of a kernel that meet only at its end simply exit one by one.
        if !(here(meet, warp) || (point == NONE && code.is_entry)) {
            meet = warp.new_meet(Meet {
                pc: point,
                frame: g.frame,
                expected: g.mask,
                waiting: 0,
                parent: g.meet,
            });
        }
        for (pc, mask) in parts {
            if *pc == point && here(meet, warp) {
                warp.arrive(meet, *mask);
            } else {
                warp.groups.push(Group { pc: *pc, mask: *mask, frame: g.frame, meet, state: State::Ready });
            }
        }
        Ok(Next::Gone)
    }

    /// `ret` or `exit` of some lanes of a group; the rest go on.
    fn leave(&mut self, warp: &mut Warp, g: &mut Group, m: u32, next: u32, exit: bool) -> Exec<Next> {
        let rest = g.mask & !m;
        let kernel = warp.frame(g.frame).caller.is_none();
        let gone = Group { mask: m, ..*g };
        if exit || kernel {
            self.exit_lanes(warp, gone);
        } else {
            self.do_return(warp, gone)?;
        }
        if rest == 0 {
            return Ok(Next::Gone);
        }
        g.mask = rest;
        Ok(Next::Pc(next))
    }

    fn exit_lanes(&mut self, warp: &mut Warp, g: Group) {
        warp.live &= !g.mask;
        self.live_threads -= g.mask.count_ones();
        warp.leave(g.meet, g.mask);
        let mut frame = Some(g.frame);
        while let Some(f) = frame {
            let fr = warp.frame_mut(f);
            fr.lanes &= !g.mask;
            let caller = fr.caller.map(|c| c.0);
            if fr.lanes == 0 && caller.is_some() {
                warp.frames[f as usize] = None;
            }
            frame = caller;
        }
    }
}

fn zero_lanes(r: &Regs, slot: u32, wide: bool) -> u32 {
    let mut z = 0;
    for l in 0..32 {
        let zero = if wide { r.r64[slot as usize][l] == 0 } else { r.r32[slot as usize][l] == 0 };
        z |= u32::from(zero) << l;
    }
    z
}

/// Puts a group back whole, or as two that drift apart; joins groups that stand at the same place.
fn split_at_random(warp: &mut Warp, g: Group) {
    let Some(rng) = warp.rng.as_mut() else {
        warp.groups.push(g);
        return;
    };
    let roll = rng.next();
    if roll & 1 == 0 && g.mask.count_ones() > 1 {
        let part = (roll >> 32) as u32 & g.mask;
        if part != 0 && part != g.mask {
            warp.groups.push(Group { mask: part, ..g });
            warp.groups.push(Group { mask: g.mask & !part, ..g });
            return;
        }
    }
    if let Some(other) =
        warp.groups.iter_mut().find(|o| o.state == State::Ready && o.pc == g.pc && o.frame == g.frame)
    {
        other.mask |= g.mask;
        return;
    }
    warp.groups.push(g);
}
