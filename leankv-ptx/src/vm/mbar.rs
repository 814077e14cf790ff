//! Shared-memory barrier objects (`mbarrier`).

use super::access::{Exec, addresses, lanes};
use super::context::{At, Ctx, Worker};
use super::regs::SINK;
use super::warp::Warp;
use super::window;
use crate::decode::op::{Mbar, MbarOp};
use crate::error::FaultKind;
use crate::finding::FindingKind;

/// State of one object, kept beside shared memory; its 8 bytes there stay opaque, as the ISA says.
#[derive(Clone, Debug, Default)]
pub(crate) struct MbarState {
    /// Arrivals each phase expects.
    expected: u32,
    /// Arrivals still missing in this phase.
    pending: u32,
    /// Bytes still missing; only `expect_tx` raises it, because nothing lowers it without bulk copies.
    tx: u32,
    phase: u64,
    /// Clocks released by this phase's arrivals, and by the last completed phase.
    clock: Vec<u32>,
    done_clock: Vec<u32>,
}

impl MbarState {
    fn arrive(&mut self, n: u32) {
        self.pending -= n;
        if self.pending == 0 && self.tx == 0 {
            self.phase += 1;
            self.pending = self.expected;
            self.done_clock = std::mem::take(&mut self.clock);
        }
    }
}

impl Ctx<'_> {
    pub(crate) fn mbarrier(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        x: &Mbar,
        m: u32,
        at: At,
    ) -> Exec<()> {
        let regs = &warp.frame(frame).regs;
        if x.op == MbarOp::PendingCount {
            let v = x.src.map_or([0; 32], |s| regs.r64[s as usize].map(|v| (v >> 32) as u32));
            warp.frame_mut(frame).regs.put32(x.d, m, &v);
            return Ok(());
        }
        let mut a = addresses(regs, &x.addr);
        if x.generic {
            a = a.map(|v| v.wrapping_sub(window::SHARED));
        }
        let off = self.shared_offsets("mbarrier", m, &a, 8, at)?;
        let wide = matches!(x.op, MbarOp::TestWait | MbarOp::TryWait);
        let src = |l: usize| match x.src {
            None => 1,
            Some(s) if wide => regs.r64[s as usize][l],
            Some(s) => u64::from(regs.r32[s as usize][l]),
        };
        let values: Vec<u64> = (0..32).map(src).collect();
        let mut state = [0u64; 32];
        let mut bits = 0u32;
        for l in lanes(m) {
            if x.op == MbarOp::Init {
                let n = values[l] as u32;
                if n == 0 || n > (1 << 20) - 1 {
                    let message = format!("mbarrier.init with a count of {n}");
                    return Err(self.fault(FaultKind::Illegal(message), at, l as u32));
                }
                self.mbars.insert(off[l], MbarState { expected: n, pending: n, ..MbarState::default() });
                self.shared.store(off[l], 8, u64::from(n));
                continue;
            }
            let Some(b) = self.mbars.get_mut(&off[l]) else {
                let message = format!("no mbarrier was initialised at shared offset 0x{:x}", off[l]);
                return Err(self.fault(FaultKind::Illegal(message), at, l as u32));
            };
            match x.op {
                MbarOp::Inval => {
                    self.mbars.remove(&off[l]);
                }
                MbarOp::ExpectTx => b.tx += values[l] as u32,
                MbarOp::Arrive | MbarOp::ArriveDrop | MbarOp::ArriveExpectTx | MbarOp::CpAsyncArriveNoInc => {
                    let n = if x.op == MbarOp::ArriveExpectTx { 1 } else { values[l] as u32 };
                    if x.op == MbarOp::ArriveExpectTx {
                        b.tx += values[l] as u32;
                    }
                    if x.op == MbarOp::CpAsyncArriveNoInc {
                        // The copies of this thread land before it arrives.
                        let mut copies = std::mem::take(&mut warp.copies);
                        for c in copies.iter_mut().filter(|c| c.mask >> l & 1 == 1) {
                            self.land(warp.index, c, 1 << l);
                            c.mask &= !(1 << l);
                        }
                        copies.retain(|c| c.mask != 0);
                        warp.copies = copies;
                    }
                    let Some(b) = self.mbars.get_mut(&off[l]) else { continue };
                    if n > b.pending {
                        let message = format!("{n} arrivals at an mbarrier that expects {} more", b.pending);
                        return Err(self.fault(FaultKind::Illegal(message), at, l as u32));
                    }
                    state[l] = b.phase | u64::from(b.pending) << 32;
                    if x.op == MbarOp::ArriveDrop {
                        b.expected -= n;
                    }
                    let mut clock = std::mem::take(&mut b.clock);
                    self.clocks.release(warp.index, &mut clock);
                    b.clock = clock;
                    b.arrive(n);
                }
                MbarOp::CpAsyncArrive => {
                    // Counts up and down again once the copies land: no net arrival, only the landing.
                    let mut copies = std::mem::take(&mut warp.copies);
                    for c in copies.iter_mut().filter(|c| c.mask >> l & 1 == 1) {
                        self.land(warp.index, c, 1 << l);
                        c.mask &= !(1 << l);
                    }
                    copies.retain(|c| c.mask != 0);
                    warp.copies = copies;
                }
                MbarOp::TestWait | MbarOp::TryWait | MbarOp::TestWaitParity | MbarOp::TryWaitParity => {
                    let done = if wide {
                        b.phase > values[l] & 0xffff_ffff
                    } else {
                        // True when the phase with this parity has completed.
                        b.phase & 1 != values[l] & 1
                    };
                    if done {
                        bits |= 1 << l;
                        let clock = std::mem::take(&mut b.done_clock);
                        self.clocks.acquire(warp.index, &clock);
                        if let Some(b) = self.mbars.get_mut(&off[l]) {
                            b.done_clock = clock;
                        }
                    }
                }
                MbarOp::Init | MbarOp::PendingCount => {}
            }
        }
        if self.launch.config.checks.barriers && x.op == MbarOp::Init {
            let first = off[m.trailing_zeros() as usize];
            if m.count_ones() > 1 && lanes(m).all(|l| off[l] == first) {
                let message = "several lanes initialise one mbarrier";
                self.report(
                    w,
                    FindingKind::BarrierMismatch,
                    at,
                    m.trailing_zeros(),
                    Some(u64::from(first)),
                    message,
                );
            }
        }
        let regs = &mut warp.frame_mut(frame).regs;
        match x.op {
            MbarOp::Arrive | MbarOp::ArriveDrop | MbarOp::ArriveExpectTx if x.d != SINK => {
                regs.put64(x.d, m, &state)
            }
            MbarOp::TestWait | MbarOp::TryWait | MbarOp::TestWaitParity | MbarOp::TryWaitParity => {
                regs.putp(x.d, m, bits);
            }
            _ => {}
        }
        Ok(())
    }
}
