//! Calls and returns.

use super::access::{Exec, get, lanes};
use super::context::{At, Ctx, Worker};
use super::warp::{Frame, Group, NONE, State, Warp};
use super::window;
use crate::decode::op::{Call, Callee, Initial, Op, Pass, Reg};
use crate::decode::{Formal, Width};
use crate::error::FaultKind;
use crate::finding::FindingKind;

/// Deepest call chain.
const MAX_DEPTH: u32 = 256;
/// Local memory of one thread in bytes.
const MAX_LOCAL: u32 = 512 * 1024;

impl Ctx<'_> {
    /// Executes a call for the lanes `m`; the others wait behind the call. The group is replaced.
    pub(crate) fn call(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        g: &mut Group,
        m: u32,
        call: &Call,
        at: At,
    ) -> Exec<()> {
        let rest = g.mask & !m;
        if rest != 0 {
            if call.uniform && m != 0 && self.launch.config.checks.uniform {
                let l = m.trailing_zeros();
                self.report(w, FindingKind::NotUniform, at, l, None, "a call marked .uni splits its warp");
            }
            // Lanes that skip the call and lanes that return from it go on separately.
            warp.groups.push(Group { pc: g.pc + 1, mask: rest, ..*g });
        }
        if m == 0 {
            return Ok(());
        }
        match call.callee {
            Callee::Direct(f) => self.enter(warp, g, m, call, f, at),
            Callee::Indirect(slot) => {
                let values = warp.frame(g.frame).regs.r64[slot as usize];
                let mut left = m;
                while left != 0 {
                    let target = values[left.trailing_zeros() as usize];
                    let part = lanes(left).filter(|l| values[*l] == target).fold(0u32, |p, l| p | 1 << l);
                    left &= !part;
                    let index = target.wrapping_sub(window::CODE) / 16;
                    let ok = target >= window::CODE
                        && target.is_multiple_of(16)
                        && index < self.launch.program.funcs.len() as u64;
                    let funcs = &self.launch.program.funcs;
                    if !ok || funcs[index as usize].is_entry || funcs[index as usize].ops.is_empty() {
                        let message = format!("indirect call of 0x{target:x}, which is not a function");
                        return Err(self.fault(FaultKind::Illegal(message), at, part.trailing_zeros()));
                    }
                    let code = &funcs[index as usize];
                    if code.formals.len() != call.args.len() || code.results.len() != call.rets.len() {
                        let message = format!("indirect call of `{}` with another signature", code.name);
                        return Err(self.fault(FaultKind::Illegal(message), at, part.trailing_zeros()));
                    }
                    self.enter(warp, g, part, call, index as u32, at)?;
                }
                Ok(())
            }
        }
    }

    fn enter(&mut self, warp: &mut Warp, g: &Group, m: u32, call: &Call, func: u32, at: At) -> Exec<()> {
        let code = &self.launch.program.funcs[func as usize];
        let caller = warp.frame(g.frame);
        let caller_code = &self.launch.program.funcs[caller.func as usize];
        let (depth, caller_base) = (caller.depth + 1, caller.local_base);
        let base = (caller_base + caller_code.local_bytes).next_multiple_of(16);
        let top = base + code.local_bytes;
        if depth > MAX_DEPTH || top > MAX_LOCAL {
            let message = format!("call depth {depth}, {top} bytes of local memory");
            return Err(self.fault(FaultKind::StackOverflow(message), at, m.trailing_zeros()));
        }
        for l in lanes(m) {
            if warp.local[l].len() < top as usize {
                warp.local[l].resize(top as usize, 0);
            }
        }
        let mut regs = self.launch.templates[func as usize].clone();
        self.fill_specials(&mut regs, func, warp.index);
        for (wide, slot, initial, offset) in &code.initials {
            if let Initial::Local(o) = initial {
                let v = i64::from(base + o).wrapping_add(*offset) as u64;
                if *wide {
                    regs.r64[*slot as usize] = [v; 32];
                } else {
                    regs.r32[*slot as usize] = [v as u32; 32];
                }
            }
        }
        for (arg, formal) in call.args.iter().zip(&code.formals) {
            match (arg, formal) {
                (Pass::Pred(s), Formal::Reg(Width::Pred, slot)) => {
                    let v = warp.frame(g.frame).regs.p[*s as usize];
                    regs.putp(*slot, m, v);
                }
                (Pass::Pred(_), _) | (_, Formal::Reg(Width::Pred | Width::W128, _)) => {
                    let message = format!("an argument of `{}` is a predicate on one side alone", code.name);
                    return Err(self.fault(FaultKind::Illegal(message), at, m.trailing_zeros()));
                }
                (Pass::Mem { offset, bytes }, Formal::Mem { offset: to, bytes: want }) => {
                    let n = (*bytes).min(*want) as usize;
                    let (from, to) = ((caller_base + offset) as usize, (base + to) as usize);
                    for l in lanes(m) {
                        warp.local[l].copy_within(from..from + n, to);
                    }
                }
                (Pass::Reg(r), Formal::Reg(width, slot)) => {
                    let v = get(&warp.frame(g.frame).regs, *r);
                    match width {
                        Width::W64 => regs.put64(*slot, m, &v),
                        _ => regs.put32(*slot, m, &v.map(|v| v as u32)),
                    }
                }
                (Pass::Reg(r), Formal::Mem { offset: to, bytes }) => {
                    let v = get(&warp.frame(g.frame).regs, *r);
                    let n = (*bytes).min(8) as usize;
                    let to = (base + to) as usize;
                    for l in lanes(m) {
                        warp.local[l][to..to + n].copy_from_slice(&v[l].to_le_bytes()[..n]);
                    }
                }
                (Pass::Mem { offset, bytes }, Formal::Reg(width, slot)) => {
                    let from = (caller_base + offset) as usize;
                    let n = (*bytes).min(8) as usize;
                    let mut v = [0u64; 32];
                    for l in lanes(m) {
                        let mut b = [0u8; 8];
                        b[..n].copy_from_slice(&warp.local[l][from..from + n]);
                        v[l] = u64::from_le_bytes(b);
                    }
                    match width {
                        Width::W64 => regs.put64(*slot, m, &v),
                        _ => regs.put32(*slot, m, &v.map(|v| v as u32)),
                    }
                }
            }
        }
        let frame = warp.new_frame(Frame {
            func,
            regs,
            written: vec![0; code.watch.names.len()],
            local_base: base,
            caller: Some((g.frame, g.pc)),
            lanes: m,
            depth,
        });
        warp.groups.push(Group { pc: 0, mask: m, frame, meet: g.meet, state: State::Ready });
        Ok(())
    }

    /// Lanes of a group return from their frame, first to the meeting points inside it, then to the caller.
    pub(crate) fn do_return(&mut self, warp: &mut Warp, g: Group) -> Exec<()> {
        if warp.frame(g.frame).caller.is_none() {
            return self.finish(warp, g);
        }
        if g.meet != NONE && warp.meets[g.meet as usize].frame == g.frame {
            let m = warp.meets[g.meet as usize];
            if m.pc == NONE {
                warp.arrive(g.meet, g.mask);
                return Ok(());
            }
            // The lanes return before the point they were expected at.
            let parent = m.parent;
            warp.meets[g.meet as usize].expected &= !g.mask;
            let now = warp.meets[g.meet as usize];
            if now.expected == 0 {
                warp.free_meets.push(g.meet);
            } else if now.waiting == now.expected {
                warp.arrive(g.meet, 0);
            }
            return self.do_return(warp, Group { meet: parent, ..g });
        }
        self.finish(warp, g)
    }

    fn finish(&mut self, warp: &mut Warp, g: Group) -> Exec<()> {
        let frame = warp.frame(g.frame);
        let Some((caller, call_pc)) = frame.caller else {
            return Ok(());
        };
        let (func, base) = (frame.func, frame.local_base);
        let code = &self.launch.program.funcs[func as usize];
        let caller_base = warp.frame(caller).local_base;
        let caller_func = warp.frame(caller).func;
        let Op::Call(call) = &self.launch.program.funcs[caller_func as usize].ops[call_pc as usize] else {
            return Ok(());
        };
        for (ret, formal) in call.rets.iter().zip(&code.results) {
            match (ret, formal) {
                (Pass::Mem { offset, bytes }, Formal::Mem { offset: from, bytes: have }) => {
                    let n = (*bytes).min(*have) as usize;
                    let (from, to) = ((base + from) as usize, (caller_base + offset) as usize);
                    for l in lanes(g.mask) {
                        warp.local[l].copy_within(from..from + n, to);
                    }
                }
                (Pass::Pred(d), Formal::Reg(Width::Pred, slot)) => {
                    let v = warp.frame(g.frame).regs.p[*slot as usize];
                    warp.frame_mut(caller).regs.putp(*d, g.mask, v);
                }
                (Pass::Reg(r), Formal::Reg(width @ (Width::W16 | Width::W32 | Width::W64), slot)) => {
                    let from = if *width == Width::W64 { Reg::R64(*slot) } else { Reg::R32(*slot) };
                    let v = get(&warp.frame(g.frame).regs, from);
                    let regs = &mut warp.frame_mut(caller).regs;
                    match r {
                        Reg::R64(s) => regs.put64(*s, g.mask, &v),
                        Reg::R32(s) | Reg::R16(s) => regs.put32(*s, g.mask, &v.map(|v| v as u32)),
                        Reg::Sink => {}
                    }
                }
                _ => {
                    let at = At { func: caller_func, pc: call_pc, warp: warp.index };
                    let message = "a result of a call is of another kind on each side".to_string();
                    return Err(self.fault(FaultKind::Illegal(message), at, g.mask.trailing_zeros()));
                }
            }
        }
        let f = warp.frame_mut(g.frame);
        f.lanes &= !g.mask;
        if f.lanes == 0 {
            warp.frames[g.frame as usize] = None;
        }
        warp.groups.push(Group {
            pc: call_pc + 1,
            mask: g.mask,
            frame: caller,
            meet: g.meet,
            state: State::Ready,
        });
        Ok(())
    }
}
