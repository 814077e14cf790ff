//! Warp collectives: who must be there, and what they compute.

use super::access::{Exec, get, lanes};
use super::context::{At, Ctx, Worker};
use super::regs::{FULL, L32, SINK};
use super::warp::{Group, State, Warp};
use crate::alu::float::min_max_bits;
use crate::decode::op::{Collective, Guard, Op, ReduxOp, Reg, ShflMode, VoteMode};
use crate::finding::FindingKind;
use crate::ty::Ty;

impl Ctx<'_> {
    /// Executes a collective if all its lanes are in `m`. Returns false if some have yet to come.
    #[inline(always)]
    pub(crate) fn collective(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        g: &Group,
        m: u32,
        what: &Collective,
        mask: Option<u32>,
        at: At,
    ) -> Exec<bool> {
        let Some(slot) = mask else {
            // `.aligned`: every lane of the warp.
            if warp.live & !m != 0 {
                return Ok(false);
            }
            self.perform(w, warp, g.frame, m, what, m, at)?;
            return Ok(true);
        };
        let masks = &warp.frame(g.frame).regs.r32[slot as usize];
        let first = masks[m.trailing_zeros() as usize];
        let mut differ = 0;
        for l in 0..32 {
            differ |= (masks[l] ^ first) & 0u32.wrapping_sub(m >> l & 1);
        }
        let uniform = differ == 0;
        if !uniform || first & m != m {
            return self.odd_masks(w, warp, g, m, what, slot, at);
        }
        if first & warp.live & !m != 0 {
            return Ok(false);
        }
        self.perform(w, warp, g.frame, m, what, first, at)?;
        Ok(true)
    }

    /// Lanes with different masks, or outside their own.
    #[cold]
    fn odd_masks(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        g: &Group,
        m: u32,
        what: &Collective,
        slot: u32,
        at: At,
    ) -> Exec<bool> {
        let masks = warp.frame(g.frame).regs.r32[slot as usize];
        let needed = lanes(m).fold(0, |n, l| n | masks[l]) & warp.live;
        if needed & !m != 0 {
            return Ok(false);
        }
        let mut left = m;
        while left != 0 {
            let l = left.trailing_zeros() as usize;
            let same = lanes(left).filter(|k| masks[*k] == masks[l]).fold(0u32, |p, k| p | 1 << k);
            left &= !same;
            let outside = same & !masks[l];
            if outside != 0 && self.launch.config.checks.membermask {
                let message = format!(
                    "lanes 0x{outside:08x} execute with membermask 0x{:08x}, which omits them",
                    masks[l]
                );
                self.report(w, FindingKind::Membermask, at, outside.trailing_zeros(), None, &message);
            }
            self.perform(w, warp, g.frame, same, what, masks[l], at)?;
        }
        Ok(true)
    }

    /// Groups of lanes wait at the same collective: executes it if together they are enough. With `force` it
    /// runs with the lanes that are there, and the missing ones are reported.
    pub(crate) fn try_collective(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        pc: u32,
        frame: u32,
        force: bool,
    ) -> Exec<bool> {
        let here = |g: &Group| g.state == State::Collective && g.pc == pc && g.frame == frame;
        let union = warp.groups.iter().filter(|g| here(g)).fold(0, |u, g| u | g.mask);
        let func = warp.frame(frame).func;
        let code = &self.launch.program.funcs[func as usize];
        let Op::Collective { what, mask } = &code.ops[pc as usize] else { return Ok(false) };
        let guard = code.guards[pc as usize];
        let m = if guard == Guard::NONE { union } else { union & warp.frame(frame).regs.pred(guard.0) };
        let at = At { func, pc, warp: warp.index };
        let whole = Group { pc, mask: union, frame, meet: super::warp::NONE, state: State::Ready };
        let mut ready = self.collective(w, warp, &whole, m, what, *mask, at)?;
        if !ready && force {
            let named = match mask {
                Some(slot) => {
                    let v = &warp.frame(frame).regs.r32[*slot as usize];
                    lanes(m).fold(0, |n, l| n | v[l])
                }
                None => FULL,
            };
            let missing = named & warp.live & !m;
            let checks = &self.launch.config.checks;
            let l = missing.trailing_zeros();
            if mask.is_some() && checks.membermask {
                let message = format!("lanes 0x{missing:08x} are named by the membermask but never arrive");
                self.report(w, FindingKind::Membermask, at, l, None, &message);
            } else if mask.is_none() && checks.uniform {
                let message =
                    format!("an .aligned instruction runs without lanes 0x{missing:08x} of its warp");
                self.report(w, FindingKind::NotUniform, at, l, None, &message);
            }
            self.perform(w, warp, frame, m, what, named & m, at)?;
            ready = true;
        }
        if ready {
            let independent = self.launch.config.divergence == crate::Divergence::Independent;
            for g in warp.groups.iter_mut().filter(|g| here(g)) {
                g.pc += 1;
                g.state = State::Ready;
            }
            if independent {
                // They stand together now; the scheduler may part them again.
                let mut joined: Option<usize> = None;
                let mut i = 0;
                while i < warp.groups.len() {
                    let g = warp.groups[i];
                    if g.state == State::Ready && g.pc == pc + 1 && g.frame == frame {
                        match joined {
                            None => joined = Some(i),
                            Some(k) => {
                                warp.groups[k].mask |= g.mask;
                                warp.groups.remove(i);
                                continue;
                            }
                        }
                    }
                    i += 1;
                }
            }
        }
        Ok(ready)
    }

    /// Computes a collective for the lanes `m`, which are all there.
    fn perform(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        m: u32,
        what: &Collective,
        members: u32,
        at: At,
    ) -> Exec<()> {
        match what {
            Collective::Mma(mma) => {
                let seed = self.launch.config.mma_seed;
                super::mma::run(&mut warp.frame_mut(frame).regs, mma, m, seed);
            }
            Collective::Wmma(x) => self.wmma(w, warp, frame, x, m, at)?,
            Collective::LdMatrix(x) => self.ldmatrix(w, warp, frame, x, m, at)?,
            Collective::StMatrix(x) => self.stmatrix(w, warp, frame, x, m, at)?,
            Collective::Shfl { mode, d, p, a, b, c } => {
                self.shfl(w, warp, frame, m, *mode, *d, *p, [*a, *b, *c], at);
            }
            Collective::Vote { mode, d, src } => {
                let regs = &mut warp.frame_mut(frame).regs;
                let bits = regs.pred(*src) & m;
                match mode {
                    VoteMode::Ballot => regs.put32(*d, m, &[bits; 32]),
                    VoteMode::All => regs.putp(*d, m, if bits == m { FULL } else { 0 }),
                    VoteMode::Any => regs.putp(*d, m, if bits != 0 { FULL } else { 0 }),
                    VoteMode::Uni => regs.putp(*d, m, if bits == 0 || bits == m { FULL } else { 0 }),
                }
            }
            Collective::Match { all, d, p, src } => {
                let regs = &mut warp.frame_mut(frame).regs;
                let v = get(regs, *src);
                if *all {
                    let first = v[m.trailing_zeros() as usize];
                    let same = lanes(m).all(|l| v[l] == first);
                    regs.put32(*d, m, &[if same { m } else { 0 }; 32]);
                    regs.putp(*p, m, if same { FULL } else { 0 });
                } else {
                    let mut o: L32 = [0; 32];
                    for l in lanes(m) {
                        o[l] = lanes(m).filter(|k| v[*k] == v[l]).fold(0, |s, k| s | 1 << k);
                    }
                    regs.put32(*d, m, &o);
                }
            }
            Collective::Redux { op, ty, nan, abs, d, a } => {
                let regs = &mut warp.frame_mut(frame).regs;
                let v = regs.r32[*a as usize];
                let clear = |x: u32| if *abs { x & 0x7fff_ffff } else { x };
                let first = clear(v[m.trailing_zeros() as usize]);
                let rest = m & (m - 1);
                let out = lanes(rest).fold(first, |acc, l| redux(*op, *ty, *nan, acc, clear(v[l])));
                regs.put32(*d, m, &[out; 32]);
            }
            Collective::Elect { d, p } => {
                let leader = m.trailing_zeros();
                let regs = &mut warp.frame_mut(frame).regs;
                regs.put32(*d, m, &[leader; 32]);
                regs.putp(*p, m, 1 << leader);
            }
            Collective::MovMatrix { d, a } => {
                super::matrix::movmatrix(&mut warp.frame_mut(frame).regs, *d, *a, m)
            }
            Collective::WarpSync | Collective::Nothing => {}
        }
        self.clocks.collective(warp.index, members & m, warp.live);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn shfl(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        m: u32,
        mode: ShflMode,
        d: Reg,
        p: u32,
        [a, b, c]: [u32; 3],
        at: At,
    ) {
        let regs = &mut warp.frame_mut(frame).regs;
        let (a, b, c) = (regs.r32[a as usize], regs.r32[b as usize], regs.r32[c as usize]);
        let mut out: L32 = a;
        let mut valid = 0u32;
        let mut inactive = 0u32;
        for l in 0..32usize {
            if m >> l & 1 == 0 {
                continue;
            }
            let lane = l as i32;
            let bval = (b[l] & 31) as i32;
            let cval = (c[l] & 31) as i32;
            let segment = (c[l] >> 8 & 31) as i32;
            let max_lane = (lane & segment) | (cval & !segment);
            let min_lane = lane & segment;
            let (j, ok) = match mode {
                ShflMode::Up => (lane - bval, lane - bval >= max_lane),
                ShflMode::Down => (lane + bval, lane + bval <= max_lane),
                ShflMode::Bfly => (lane ^ bval, lane ^ bval <= max_lane),
                ShflMode::Idx => {
                    let j = min_lane | (bval & !segment);
                    (j, j <= max_lane)
                }
            };
            if ok {
                let j = (j & 31) as usize;
                valid |= 1 << l;
                out[l] = a[j];
                if m >> j & 1 == 0 {
                    inactive |= 1 << l;
                }
            }
        }
        if let Reg::R32(s) = d {
            regs.put32(s, m, &out);
        }
        if p != SINK {
            regs.putp(p, m, valid);
        }
        if inactive != 0 && self.launch.config.checks.membermask {
            let l = inactive.trailing_zeros();
            let message = "shfl reads a lane that does not take part";
            self.report(w, FindingKind::InactiveLane, at, l, None, message);
        }
    }
}

fn redux(op: ReduxOp, ty: Ty, nan: bool, a: u32, b: u32) -> u32 {
    match op {
        ReduxOp::Add => a.wrapping_add(b),
        ReduxOp::And => a & b,
        ReduxOp::Or => a | b,
        ReduxOp::Xor => a ^ b,
        ReduxOp::Min | ReduxOp::Max => {
            let max = op == ReduxOp::Max;
            match ty {
                Ty::F32 => min_max_bits(a, b, max, nan),
                Ty::S32 => {
                    let (x, y) = (a as i32, b as i32);
                    (if max { x.max(y) } else { x.min(y) }) as u32
                }
                _ => {
                    if max {
                        a.max(b)
                    } else {
                        a.min(b)
                    }
                }
            }
        }
    }
}
