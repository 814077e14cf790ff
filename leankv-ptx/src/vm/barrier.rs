//! Block barriers.

use super::access::{Exec, lanes};
use super::context::{At, Ctx, Worker};
use super::regs::SINK;
use super::warp::{Group, State, Warp};
use crate::decode::op::{Bar, BarKind, Op};
use crate::error::FaultKind;
use crate::finding::FindingKind;

/// State of one of the sixteen barriers.
#[derive(Clone, Debug, Default)]
pub(crate) struct BarState {
    /// Threads that arrived, `bar.arrive` included.
    pub(crate) arrived: u32,
    /// Thread count of the first arrival; 0 for the whole block.
    pub(crate) count: u32,
    pub(crate) in_use: bool,
    /// Released clocks of the arrivals.
    clock: Vec<u32>,
    reduction: Option<BarKind>,
    popc: u32,
    and: bool,
    or: bool,
}

impl Ctx<'_> {
    /// Lanes `m` of a group arrive. Returns true if they go on at once (`bar.arrive`).
    pub(crate) fn at_barrier(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        g: &mut Group,
        m: u32,
        bar: &Bar,
        at: At,
    ) -> Exec<bool> {
        let regs = &warp.frame(g.frame).regs;
        let first = m.trailing_zeros();
        let ids = regs.r32[bar.id as usize];
        let id = ids[first as usize];
        let counts = bar.count.map(|c| regs.r32[c as usize]);
        let count = counts.map_or(0, |c| c[first as usize]);
        let check = self.launch.config.checks.barriers;
        if lanes(m).any(|l| ids[l] != id || counts.is_some_and(|c| c[l] != count)) {
            let message = "lanes of one warp reach a barrier with different numbers or thread counts";
            return Err(self.fault(FaultKind::Illegal(message.to_string()), at, first));
        }
        if id > 15 {
            return Err(self.fault(
                FaultKind::Illegal(format!("barrier number {id}; 0 to 15 exist")),
                at,
                first,
            ));
        }
        if bar.count.is_some() && (count == 0 || !count.is_multiple_of(32)) {
            let message = format!("barrier for {count} threads; the count must be a positive multiple of 32");
            return Err(self.fault(FaultKind::Illegal(message), at, first));
        }
        if check
            && bar.aligned
            && m != warp.live
            && self.launch.config.divergence == crate::Divergence::Reconverge
        {
            let missing = warp.live & !m;
            let message = format!(
                "barrier reached by lanes 0x{m:08x} only; lanes 0x{missing:08x} of the warp are elsewhere"
            );
            self.report(w, FindingKind::BarrierDivergence, at, missing.trailing_zeros(), None, &message);
        }
        let pred =
            if bar.kind == BarKind::Sync || bar.kind == BarKind::Arrive { 0 } else { regs.pred(bar.src) & m };
        // Lanes that a guard keeps away go on alone.
        let rest = g.mask & !m;
        if rest != 0 {
            warp.groups.push(Group { pc: g.pc + 1, mask: rest, ..*g });
            g.mask = m;
        }
        let b = &mut self.bars[id as usize];
        let kind =
            matches!(bar.kind, BarKind::RedPopc | BarKind::RedAnd | BarKind::RedOr).then_some(bar.kind);
        let mismatch = b.in_use && (b.count != count || b.reduction != kind && bar.kind != BarKind::Arrive);
        if !b.in_use {
            *b = BarState {
                in_use: true,
                count,
                reduction: kind,
                and: true,
                clock: std::mem::take(&mut b.clock),
                ..BarState::default()
            };
            b.clock.clear();
        }
        // With a count, a warp counts whole; otherwise threads are counted.
        let whole = m == warp.live;
        b.arrived += if count != 0 && whole { 32 } else { m.count_ones() };
        b.popc += pred.count_ones();
        b.and &= pred == m;
        b.or |= pred != 0;
        let (arrived, expected) = (b.arrived, count);
        self.clocks.release(warp.index, &mut self.bars[id as usize].clock);
        if mismatch && check {
            let message = "threads meet at one barrier with different thread counts or kinds";
            self.report(w, FindingKind::BarrierMismatch, at, first, None, message);
        }
        if expected != 0 && arrived > expected {
            let message = format!("{arrived} threads arrive at barrier {id}, which expects {expected}");
            return Err(self.fault(FaultKind::Illegal(message), at, first));
        }
        if bar.kind == BarKind::Arrive {
            return Ok(rest == 0 || {
                // The group itself goes on; its mask was narrowed.
                true
            });
        }
        g.state = State::Barrier(id);
        warp.groups.push(*g);
        Ok(false)
    }

    /// Completes barriers whose threads are all there. Returns whether any was.
    pub(crate) fn release_barriers(&mut self, warps: &mut [Warp]) -> bool {
        let mut any = false;
        for id in 0..16 {
            let b = &self.bars[id];
            if !b.in_use {
                continue;
            }
            let expected = if b.count != 0 { b.count } else { self.live_threads };
            if b.arrived < expected || (expected == 0 && b.arrived == 0) {
                continue;
            }
            any = true;
            let b = std::mem::take(&mut self.bars[id]);
            let mut participants = 0u32;
            let mut all = true;
            for warp in warps.iter_mut() {
                let mut here = 0;
                for i in 0..warp.groups.len() {
                    let g = warp.groups[i];
                    if g.state != State::Barrier(id as u32) {
                        continue;
                    }
                    here |= g.mask;
                    let frame = warp.frame_mut(g.frame);
                    let code = &self.launch.program.funcs[frame.func as usize];
                    if let Op::Bar(bar) = &code.ops[g.pc as usize] {
                        match bar.kind {
                            BarKind::RedPopc if bar.d != SINK => {
                                frame.regs.put32(bar.d, g.mask, &[b.popc; 32])
                            }
                            BarKind::RedAnd => {
                                frame.regs.putp(bar.d, g.mask, if b.and { u32::MAX } else { 0 })
                            }
                            BarKind::RedOr => frame.regs.putp(bar.d, g.mask, if b.or { u32::MAX } else { 0 }),
                            _ => {}
                        }
                    }
                    let g = &mut warp.groups[i];
                    g.state = State::Ready;
                    g.pc += 1;
                }
                if here != 0 {
                    participants += here.count_ones();
                    self.clocks.acquire(warp.index, &b.clock);
                }
                all &= here == warp.live;
            }
            // Only a barrier of the whole block starts a new generation of reads.
            if all && participants == self.live_threads {
                self.shared.epoch += 1;
            }
            let mut clock = b.clock;
            clock.clear();
            self.bars[id].clock = clock;
        }
        any
    }

    /// Describes where every warp stands, for a deadlock report.
    pub(crate) fn describe_stuck(&self, warps: &[Warp]) -> String {
        let mut out = Vec::new();
        for warp in warps.iter().filter(|w| w.live != 0).take(8) {
            for g in &warp.groups {
                let func = warp.frame(g.frame).func;
                let code = &self.launch.program.funcs[func as usize];
                let line = code.info.get(g.pc as usize).map_or(0, |i| i.pos.line);
                let what = match g.state {
                    State::Ready => "ready".to_string(),
                    State::Collective => "at a warp collective".to_string(),
                    State::Barrier(id) => format!("at barrier {id}"),
                };
                out.push(format!("warp {} lanes 0x{:08x} {what}, PTX line {line}", warp.index, g.mask));
            }
        }
        out.join("; ")
    }
}
