//! Loads and stores in shared memory, their checks and counters.

use super::access::{Exec, get, lanes, put};
use super::context::{At, Ctx, OtherSide, Worker};
use super::model;
use super::regs::{L32, L64, SINK};
use super::shared::{Actor, Trouble};
use super::warp::Warp;
use crate::decode::op::{Mem, Reg};
use crate::finding::{FindingKind, Severity};

impl Ctx<'_> {
    /// Offsets in shared memory, checked for bounds and alignment.
    #[inline(always)]
    pub(crate) fn shared_offsets(
        &self,
        access: &'static str,
        m: u32,
        a: &L64,
        bytes: u32,
        at: At,
    ) -> Exec<L32> {
        let limit = u64::from(self.launch.shared_bytes).wrapping_sub(u64::from(bytes));
        let too_big = u64::from(bytes) > u64::from(self.launch.shared_bytes);
        let mut bad = 0u32;
        let mut low = 0u64;
        for l in 0..32 {
            let active = m >> l & 1;
            bad |= (u32::from(a[l] > limit) & active) << l;
            low |= if active == 1 { a[l] } else { 0 };
        }
        if bad != 0 || too_big {
            let l = if too_big { m.trailing_zeros() } else { bad.trailing_zeros() } as usize;
            let detail = self.describe_shared();
            return Err(self.oob(access, bytes, a[l], detail, at, l));
        }
        let align = bytes.next_power_of_two();
        if low & u64::from(align - 1) != 0 {
            self.aligned(access, m, a, align, at)?;
        }
        let out = a.map(|v| v as u32);
        let ranges = &self.launch.shared_ranges;
        let whole = ranges.first().is_some_and(|r| r.0 == 0 && r.1 == self.launch.shared_bytes);
        if !whole {
            for l in lanes(m) {
                let i = ranges.partition_point(|r| r.0 <= out[l]);
                if i == 0 || out[l] + bytes > ranges[i - 1].1 {
                    return Err(self.oob(access, bytes, a[l], self.describe_shared(), at, l));
                }
            }
        }
        Ok(out)
    }

    fn describe_shared(&self) -> String {
        let list: Vec<String> =
            self.launch.shared_ranges.iter().map(|(s, e, n)| format!("`{n}` [0x{s:x}, 0x{e:x})")).collect();
        if list.is_empty() {
            "this launch has no shared memory".to_string()
        } else {
            format!("shared memory holds {}", list.join(", "))
        }
    }

    #[cold]
    pub(crate) fn shared_trouble(
        &self,
        w: &mut Worker,
        t: Trouble,
        at: At,
        lane: u32,
        address: u32,
        write: bool,
    ) {
        let checks = &self.launch.config.checks;
        let address64 = u64::from(address);
        match t {
            Trouble::Uninit => {
                self.report(
                    w,
                    FindingKind::UninitShared,
                    at,
                    lane,
                    Some(address64),
                    "load of shared memory that nothing wrote",
                );
            }
            Trouble::Pending { instr } => {
                if checks.async_copies {
                    let other =
                        OtherSide { write: true, instr, block: Some(self.linear), warp: None, lane: None };
                    let message = if write {
                        "store to the destination of a cp.async that is still in flight"
                    } else {
                        "load from the destination of a cp.async that is still in flight"
                    };
                    let kind = FindingKind::AsyncCopyInFlight;
                    self.report_race(w, kind, Severity::Error, at, lane, address64, message, other);
                }
            }
            Trouble::Race { .. } => {
                self.report_conflict(w, FindingKind::SharedRace, t, at, lane, address64, write);
            }
        }
    }

    /// Reports two accesses of the block's threads to one place of shared or global memory that nothing orders.
    #[cold]
    pub(crate) fn report_conflict(
        &self,
        w: &mut Worker,
        kind: FindingKind,
        t: Trouble,
        at: At,
        lane: u32,
        address: u64,
        write: bool,
    ) {
        let Trouble::Race { write: other_write, instr, warp, lane: other_lane, same_value } = t else {
            return;
        };
        let memory = if kind == FindingKind::GlobalRace { "global" } else { "shared" };
        let message = match (write, other_write, warp == at.warp) {
            (true, true, true) => {
                format!("lanes of one warp write the same {memory} memory without ordering")
            }
            (true, true, false) => {
                format!("two warps write the same {memory} memory without a barrier between")
            }
            (true, false, true) => {
                format!("a lane writes {memory} memory that another lane read, without ordering")
            }
            (true, false, false) => {
                format!("a warp writes {memory} memory that another read, without a barrier between")
            }
            (false, _, true) => {
                format!("a lane reads {memory} memory that another lane wrote, without ordering")
            }
            (false, _, false) => {
                format!("a warp reads {memory} memory that another wrote, without a barrier between")
            }
        };
        let severity = if same_value { Severity::Benign } else { Severity::Error };
        let (block, warp) = (Some(self.linear), Some(warp));
        let other = OtherSide { write: other_write, instr, block, warp, lane: other_lane };
        self.report_race(w, kind, severity, at, lane, address, &message, other);
    }

    pub(crate) fn load_shared(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        mem: &Mem,
        m: u32,
        at: At,
        a: &L64,
    ) -> Exec<()> {
        let size = mem.ty.bytes();
        let bytes = size * u32::from(mem.count);
        let off = self.shared_offsets("shared load", m, a, bytes, at)?;
        let regs = &mut warp.frame_mut(frame).regs;
        for e in 0..mem.count as usize {
            let step = e as u32 * size;
            match (mem.regs[e], size) {
                (Reg::R32(s), 4) if s != SINK => {
                    let mut v: L32 = [0; 32];
                    for l in lanes(m) {
                        v[l] = self.shared.load32(off[l] + step);
                    }
                    regs.put32(s, m, &v);
                }
                (reg, _) => {
                    let mut v: L64 = [0; 32];
                    for l in lanes(m) {
                        v[l] = self.shared.load(off[l] + step, size);
                    }
                    put(regs, reg, mem.ty, m, &v);
                }
            }
        }
        // Volatile and relaxed loads poll on purpose.
        if self.shared.shadowed && !mem.strong {
            let instr = self.launch.number(at);
            let unit = bytes.min(4);
            for l in lanes(m) {
                let who = Actor { warp: at.warp, lane: l as u32, instr };
                if bytes == 16 {
                    if let Some((o, t)) = self.shared.on_read16(off[l], who, &self.clocks) {
                        self.shared_trouble(w, t, at, l as u32, o, false);
                    }
                    continue;
                }
                for e in 0..bytes / unit {
                    let o = off[l] + e * unit;
                    if let Some(t) = self.shared.on_read(o, unit, who, &self.clocks) {
                        self.shared_trouble(w, t, at, l as u32, o, false);
                    }
                }
            }
        }
        self.count_shared(w, &off, m, bytes, at);
        Ok(())
    }

    pub(crate) fn store_shared(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        mem: &Mem,
        m: u32,
        at: At,
        a: &L64,
    ) -> Exec<()> {
        let size = mem.ty.bytes();
        let bytes = size * u32::from(mem.count);
        let off = self.shared_offsets("shared store", m, a, bytes, at)?;
        let instr = self.launch.number(at);
        let regs = &warp.frame(frame).regs;
        for e in 0..mem.count as usize {
            let step = e as u32 * size;
            let v = get(regs, mem.regs[e]);
            let unit = size.min(4);
            for l in lanes(m) {
                let o = off[l] + step;
                if self.shared.shadowed {
                    let who = Actor { warp: at.warp, lane: l as u32, instr };
                    let changes = self.shared.load(o, size) != v[l] & (u64::MAX >> (64 - size * 8));
                    for part in 0..size / unit {
                        let p = o + part * unit;
                        if let Some(t) = self.shared.on_write(p, unit, who, &self.clocks, changes, false) {
                            self.shared_trouble(w, t, at, l as u32, p, true);
                        }
                    }
                }
                self.shared.store(o, size, v[l]);
            }
        }
        self.count_shared(w, &off, m, bytes, at);
        Ok(())
    }

    pub(crate) fn count_shared(&mut self, w: &mut Worker, off: &L32, m: u32, bytes: u32, at: At) {
        let (waves, ideal) = model::wavefronts(off, m, bytes);
        let c = &mut w.counters[self.launch.counter_base[at.func as usize] + at.pc as usize];
        c.wavefronts += waves;
        c.ideal_wavefronts += ideal;
        c.bytes += u64::from(m.count_ones() * bytes);
    }
}
