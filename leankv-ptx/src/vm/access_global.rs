//! Loads and stores in global memory, their checks and counters.

use super::access::{Exec, get, lanes, put};
use super::context::{At, Ctx, Worker};
use super::global::Alloc;
use super::model;
use super::regs::{L32, L64};
use super::warp::Warp;
use crate::decode::op::{Mem, Reg};
use crate::error::FaultKind;
use crate::finding::FindingKind;

/// `size` bytes of an allocation, zero-extended.
#[inline(always)]
fn load(al: &Alloc, offset: u64, size: u32) -> u64 {
    match size {
        1 => u64::from(al.load8(offset)),
        2 => u64::from(al.load16(offset)),
        4 => u64::from(al.load32(offset)),
        _ => al.load64(offset),
    }
}

impl Ctx<'_> {
    /// The allocation that holds all lanes' accesses, and the lanes' offsets in it; faults with the first lane
    /// that is wrong. Lanes in other allocations are left out of the returned mask.
    #[inline(always)]
    pub(crate) fn locate(
        &mut self,
        access: &'static str,
        m: u32,
        a: &L64,
        bytes: u32,
        align: u32,
        at: At,
    ) -> Exec<(usize, u32, L64)> {
        let g = self.launch.global;
        let first = m.trailing_zeros() as usize;
        let mut i = self.hint;
        let hit = g.allocs.get(i).is_some_and(|al| a[first] >= al.base && a[first] < al.end());
        if !hit {
            match g.find(a[first]) {
                Some(k) => i = k,
                None => return Err(self.oob(access, bytes, a[first], g.nearest(a[first]), at, first)),
            }
            self.hint = i;
        }
        let al = &g.allocs[i];
        let limit = al.bytes.wrapping_sub(u64::from(bytes));
        let mut offsets = [0u64; 32];
        let mut bad = 0u32;
        let mut low = 0u64;
        for l in 0..32 {
            let o = a[l].wrapping_sub(al.base);
            offsets[l] = o;
            let active = m >> l & 1;
            bad |= (u32::from(o > limit) & active) << l;
            low |= if active == 1 { a[l] } else { 0 };
        }
        if u64::from(bytes) > al.bytes {
            bad = m;
        }
        if low & u64::from(align - 1) != 0 {
            self.aligned(access, m, a, align, at)?;
        }
        if al.freed && bad != m {
            let l = (m & !bad).trailing_zeros() as usize;
            let detail = format!("allocation {} was freed", al.describe());
            return Err(self.fault(
                FaultKind::UseAfterFree { access, bytes, address: a[l], detail },
                at,
                l as u32,
            ));
        }
        if bad >> first & 1 == 1 {
            return Err(self.oob(access, bytes, a[first], g.nearest(a[first]), at, first));
        }
        Ok((i, m & !bad, offsets))
    }

    pub(crate) fn load_global(
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
        let count = u32::from(mem.count);
        let bytes = size * count;
        let mut left = m;
        while left != 0 {
            let (i, part, off) = self.locate("load", left, a, bytes, bytes.next_power_of_two(), at)?;
            left &= !part;
            let al = &self.launch.global.allocs[i];
            let regs = &mut warp.frame_mut(frame).regs;
            for e in 0..mem.count as usize {
                let step = e as u64 * u64::from(size);
                match (mem.regs[e], size) {
                    (Reg::R32(s), 4) => {
                        let mut v: L32 = [0; 32];
                        for l in lanes(part) {
                            v[l] = al.load32(off[l] + step);
                        }
                        regs.put32(s, part, &v);
                    }
                    (reg, _) => {
                        let mut v: L64 = [0; 32];
                        for l in lanes(part) {
                            v[l] = load(al, off[l] + step, size);
                        }
                        put(regs, reg, mem.ty, part, &v);
                    }
                }
            }
            self.after_global(w, i, part, &off, a, bytes, size, false, mem, at);
        }
        Ok(())
    }

    pub(crate) fn store_global(
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
        let mut left = m;
        while left != 0 {
            let (i, part, off) = self.locate("store", left, a, bytes, bytes.next_power_of_two(), at)?;
            left &= !part;
            let al = &self.launch.global.allocs[i];
            if al.read_only {
                let l = part.trailing_zeros();
                return Err(self.fault(FaultKind::ReadOnly { address: a[l as usize] }, at, l));
            }
            let races = self.launch.config.checks.global_races && !mem.strong;
            let regs = &warp.frame(frame).regs;
            for e in 0..mem.count as usize {
                let v = get(regs, mem.regs[e]);
                let step = e as u64 * u64::from(size);
                for l in lanes(part) {
                    let o = off[l] + step;
                    if races {
                        let changes = load(al, o, size) != v[l] & (u64::MAX >> (64 - size * 8));
                        self.within_block(w, i, o, size, Some(changes), false, at, l as u32);
                    }
                    match size {
                        1 => al.store8(o, v[l] as u8),
                        2 => al.store16(o, v[l] as u16),
                        4 => al.store32(o, v[l] as u32),
                        _ => al.store64(o, v[l]),
                    }
                    al.set_init(o, size);
                }
            }
            self.after_global(w, i, part, &off, a, bytes, size, true, mem, at);
        }
        Ok(())
    }

    /// Checks and counters of a global access that lies within allocation `i`.
    #[inline(always)]
    fn after_global(
        &mut self,
        w: &mut Worker,
        i: usize,
        part: u32,
        off: &L64,
        a: &L64,
        bytes: u32,
        size: u32,
        write: bool,
        mem: &Mem,
        at: At,
    ) {
        let al = &self.launch.global.allocs[i];
        let checks = &self.launch.config.checks;
        let unit = size.min(8);
        if !write && checks.uninit_global {
            for l in lanes(part) {
                for e in 0..bytes / unit {
                    let o = off[l] + u64::from(e * unit);
                    if !al.is_init(o, unit) {
                        let message =
                            format!("load of global memory that nothing wrote, in {}", al.describe());
                        self.report(w, FindingKind::UninitGlobal, at, l as u32, Some(al.base + o), &message);
                    }
                }
            }
        }
        if checks.global_races && !al.read_only && !mem.strong && !mem.read_only && !write {
            for l in lanes(part) {
                self.within_block(w, i, off[l], bytes, None, false, at, l as u32);
            }
        }
        if checks.global_races && !al.read_only && !mem.strong && self.launch.grid != [1, 1, 1] {
            for l in lanes(part) {
                if bytes < 4 {
                    self.global_access(w, al, off[l], bytes, write, false, at, l as u32);
                } else {
                    for e in 0..bytes / 4 {
                        self.global_access(w, al, off[l] + u64::from(e * 4), 4, write, false, at, l as u32);
                    }
                }
            }
        }
        if checks.read_only {
            self.check_read_only(w, i, part, off, bytes, mem, write, at);
        }
        if mem.strong && checks.global_races {
            for l in lanes(part) {
                self.synchronise(at.warp, a[l], !write, write, mem.acquire, mem.release);
            }
        }
        self.count_global(w, i, part, a, bytes, write, at);
    }

    /// `.nc` loads of words that the launch also stores to are undefined.
    fn check_read_only(
        &mut self,
        w: &mut Worker,
        i: usize,
        part: u32,
        off: &L64,
        bytes: u32,
        mem: &Mem,
        write: bool,
        at: At,
    ) {
        use std::sync::atomic::Ordering::Relaxed;
        let al = &self.launch.global.allocs[i];
        if al.read_only {
            return;
        }
        if mem.read_only {
            let marks = al.nc_marks();
            for l in lanes(part) {
                for word in off[l] / 4..(off[l] + u64::from(bytes)).div_ceil(4) {
                    marks[word as usize].store(self.launch.number, Relaxed);
                }
            }
        } else if write && let Some(marks) = al.nc.get() {
            for l in lanes(part) {
                for word in off[l] / 4..(off[l] + u64::from(bytes)).div_ceil(4) {
                    if marks[word as usize].load(Relaxed) == self.launch.number {
                        let message =
                            format!("store to memory that this launch reads with .nc, in {}", al.describe());
                        let address = Some(al.base + off[l]);
                        self.report(w, FindingKind::ReadOnlyWrite, at, l as u32, address, &message);
                    }
                }
            }
        }
    }

    /// Sectors and traffic.
    #[inline(always)]
    pub(crate) fn count_global(
        &mut self,
        w: &mut Worker,
        i: usize,
        part: u32,
        a: &L64,
        bytes: u32,
        write: bool,
        at: At,
    ) {
        let n = part.count_ones();
        let sectors = model::sectors(a, part, bytes);
        let total = u64::from(n * bytes);
        let c = &mut w.counters[self.launch.counter_base[at.func as usize] + at.pc as usize];
        c.sectors += sectors;
        c.ideal_sectors += model::ideal_sectors(n, bytes, sectors);
        c.bytes += total;
        let t = &mut w.traffic[i];
        if write {
            t.written += total;
            t.written_sectors += sectors;
        } else {
            t.read += total;
            t.read_sectors += sectors;
            if let Some(touched) = w.touched.get_mut(i) {
                let base = self.launch.global.allocs[i].base;
                t.distinct_sectors += touched.first(self.linear, base, a, part, bytes);
            }
        }
        for (k, (start, end)) in self.launch.tracked.iter().enumerate() {
            let mut inside = 0u32;
            for l in lanes(part) {
                inside |= u32::from(a[l] >= *start && a[l] < *end) << l;
            }
            if inside != 0 {
                let sectors = model::sectors(a, inside, bytes);
                let total = u64::from(inside.count_ones() * bytes);
                let t = &mut w.tracked[k];
                if write {
                    t.written += total;
                    t.written_sectors += sectors;
                } else {
                    t.read += total;
                    t.read_sectors += sectors;
                    if let Some(touched) = w.touched.get_mut(self.launch.global.allocs.len() + k) {
                        t.distinct_sectors += touched.first(self.linear, *start, a, inside, bytes);
                    }
                }
            }
        }
    }
}
