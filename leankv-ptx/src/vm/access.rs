//! Loads and stores in every state space.

use super::context::{At, Ctx, OtherSide, Worker};
use super::model;
use super::regs::{L32, L64, Regs, SINK};
use super::shared::{Actor, Trouble};
use super::warp::Warp;
use super::window;
use crate::decode::op::{Addr, Mem, Reg};
use crate::error::{Fault, FaultKind};
use crate::finding::{FindingKind, Severity};
use crate::syntax::ast::Space;
use crate::ty::Ty;

pub(crate) type Exec<T> = Result<T, Box<Fault>>;

/// Lane addresses of an operand.
#[inline(always)]
pub(crate) fn addresses(regs: &Regs, addr: &Addr) -> L64 {
    let o = addr.offset as u64;
    match addr.base {
        Reg::R64(s) => {
            let v = &regs.r64[s as usize];
            std::array::from_fn(|l| v[l].wrapping_add(o))
        }
        // A 32-bit address wraps within 32 bits.
        Reg::R32(s) | Reg::R16(s) => {
            let v = &regs.r32[s as usize];
            std::array::from_fn(|l| u64::from(v[l].wrapping_add(o as u32)))
        }
        Reg::Sink => [o; 32],
    }
}

#[inline(always)]
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut m = mask;
    std::iter::from_fn(move || {
        if m == 0 {
            return None;
        }
        let l = m.trailing_zeros() as usize;
        m &= m - 1;
        Some(l)
    })
}

/// Writes loaded bits to a register, extended by the type.
#[inline(always)]
fn put(regs: &mut Regs, reg: Reg, ty: Ty, mask: u32, v: &L64) {
    let bits = ty.bits();
    let shift = 64 - bits;
    let ext = |v: u64| if ty.is_signed() { ((v << shift) as i64 >> shift) as u64 } else { v };
    match reg {
        Reg::R64(s) => regs.put64(s, mask, &v.map(ext)),
        Reg::R32(s) => regs.put32(s, mask, &v.map(|v| ext(v) as u32)),
        Reg::R16(s) => regs.put32(s, mask, &v.map(|v| ext(v) as u32 & 0xffff)),
        Reg::Sink => {}
    }
}

/// Bits of a source register.
#[inline(always)]
pub(crate) fn get(regs: &Regs, reg: Reg) -> L64 {
    match reg {
        Reg::R64(s) => regs.r64[s as usize],
        Reg::R32(s) | Reg::R16(s) => regs.r32[s as usize].map(u64::from),
        Reg::Sink => [0; 32],
    }
}

impl Ctx<'_> {
    pub(crate) fn load(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        mem: &Mem,
        m: u32,
        at: At,
    ) -> Exec<()> {
        if m == 0 {
            return Ok(());
        }
        let a = addresses(&warp.frame(frame).regs, &mem.addr);
        match mem.space {
            Space::Generic => self.by_space(w, warp, frame, mem, m, at, &a, true),
            s => self.load_in(s, w, warp, frame, mem, m, at, &a),
        }
    }

    pub(crate) fn store(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        mem: &Mem,
        m: u32,
        at: At,
    ) -> Exec<()> {
        if m == 0 {
            return Ok(());
        }
        let a = addresses(&warp.frame(frame).regs, &mem.addr);
        match mem.space {
            Space::Generic => self.by_space(w, warp, frame, mem, m, at, &a, false),
            s => self.store_in(s, w, warp, frame, mem, m, at, &a),
        }
    }

    /// Splits the lanes of a generic access by window.
    pub(crate) fn by_space(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        mem: &Mem,
        m: u32,
        at: At,
        a: &L64,
        load: bool,
    ) -> Exec<()> {
        let mut left = m;
        while left != 0 {
            let base = window::of(a[left.trailing_zeros() as usize]);
            let mut part = 0;
            for l in lanes(left) {
                if window::of(a[l]) == base {
                    part |= 1 << l;
                }
            }
            left &= !part;
            let local: L64 = a.map(|v| v.wrapping_sub(base));
            let space = match base {
                window::SHARED => Space::Shared,
                window::LOCAL => Space::Local,
                window::PARAM => Space::Param,
                // The code window is not data; global lookup reports it as out of bounds.
                _ => Space::Global,
            };
            if load {
                self.load_in(space, w, warp, frame, mem, part, at, &local)?;
            } else {
                self.store_in(space, w, warp, frame, mem, part, at, &local)?;
            }
        }
        Ok(())
    }

    pub(crate) fn load_in(
        &mut self,
        space: Space,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        mem: &Mem,
        m: u32,
        at: At,
        a: &L64,
    ) -> Exec<()> {
        match space {
            Space::Shared => self.load_shared(w, warp, frame, mem, m, at, a),
            Space::Local => self.load_local(w, warp, frame, mem, m, at, a),
            Space::Param => {
                let size = mem.ty.bytes();
                let regs = &mut warp.frame_mut(frame).regs;
                for (e, reg) in mem.regs[..mem.count as usize].iter().enumerate() {
                    let mut v = [0u64; 32];
                    for l in lanes(m) {
                        let o = a[l].wrapping_add(e as u64 * u64::from(size));
                        let end = o.wrapping_add(u64::from(size));
                        if end > self.launch.params.len() as u64 || o > end {
                            let detail = format!("kernel parameters are {} bytes", self.launch.params.len());
                            return Err(self.oob("parameter load", size, o, detail, at, l));
                        }
                        let mut b = [0u8; 8];
                        b[..size as usize].copy_from_slice(&self.launch.params[o as usize..end as usize]);
                        v[l] = u64::from_le_bytes(b);
                    }
                    put(regs, *reg, mem.ty, m, &v);
                }
                Ok(())
            }
            _ => self.load_global(w, warp, frame, mem, m, at, a),
        }
    }

    pub(crate) fn store_in(
        &mut self,
        space: Space,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        mem: &Mem,
        m: u32,
        at: At,
        a: &L64,
    ) -> Exec<()> {
        match space {
            Space::Shared => self.store_shared(w, warp, frame, mem, m, at, a),
            Space::Local => self.store_local(w, warp, frame, mem, m, at, a),
            Space::Param => {
                let l = m.trailing_zeros();
                Err(self.fault(FaultKind::ReadOnly { address: a[l as usize] + window::PARAM }, at, l))
            }
            _ => self.store_global(w, warp, frame, mem, m, at, a),
        }
    }

    #[cold]
    pub(crate) fn oob(
        &self,
        access: &'static str,
        bytes: u32,
        address: u64,
        detail: String,
        at: At,
        lane: usize,
    ) -> Box<Fault> {
        self.fault(FaultKind::OutOfBounds { access, bytes, address, detail }, at, lane as u32)
    }

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
            for l in lanes(m) {
                if a[l] & u64::from(align - 1) != 0 {
                    return Err(self.fault(
                        FaultKind::Misaligned { access, address: a[l], align },
                        at,
                        l as u32,
                    ));
                }
            }
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

    fn load_global(
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
                            let o = off[l] + step;
                            v[l] = match size {
                                1 => u64::from(al.load8(o)),
                                2 => u64::from(al.load16(o)),
                                4 => u64::from(al.load32(o)),
                                _ => al.load64(o),
                            };
                        }
                        put(regs, reg, mem.ty, part, &v);
                    }
                }
            }
            self.after_global(w, i, part, &off, a, bytes, size, false, mem, at);
        }
        Ok(())
    }

    fn store_global(
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
            let regs = &warp.frame(frame).regs;
            for e in 0..mem.count as usize {
                let v = get(regs, mem.regs[e]);
                let step = e as u64 * u64::from(size);
                for l in lanes(part) {
                    let o = off[l] + step;
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
                self.synchronise(a[l], !write, write, mem.acquire, mem.release);
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
                }
            }
        }
    }

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
            for l in lanes(m) {
                if a[l] & u64::from(align - 1) != 0 {
                    return Err(self.fault(
                        FaultKind::Misaligned { access, address: a[l], align },
                        at,
                        l as u32,
                    ));
                }
            }
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
            Trouble::Pending { pc } => {
                if checks.async_copies {
                    let other = OtherSide { write: true, pc, block: self.linear, warp: None, lane: None };
                    let message = if write {
                        "store to the destination of a cp.async that is still in flight"
                    } else {
                        "load from the destination of a cp.async that is still in flight"
                    };
                    let kind = FindingKind::AsyncCopyInFlight;
                    self.report_race(w, kind, Severity::Error, at, lane, address64, message, other);
                }
            }
            Trouble::Race { write: other_write, pc, warp, lane: other_lane, same_value } => {
                let severity = if same_value { Severity::Benign } else { Severity::Error };
                let other = OtherSide {
                    write: other_write,
                    pc,
                    block: self.linear,
                    warp: Some(warp),
                    lane: other_lane,
                };
                let message = match (write, other_write, warp == at.warp) {
                    (true, true, true) => "lanes of one warp write the same shared memory without ordering",
                    (true, true, false) => "two warps write the same shared memory without a barrier between",
                    (true, false, true) => {
                        "a lane writes shared memory that another lane read, without ordering"
                    }
                    (true, false, false) => {
                        "a warp writes shared memory that another read, without a barrier between"
                    }
                    (false, _, true) => {
                        "a lane reads shared memory that another lane wrote, without ordering"
                    }
                    (false, _, false) => {
                        "a warp reads shared memory that another wrote, without a barrier between"
                    }
                };
                self.report_race(w, FindingKind::SharedRace, severity, at, lane, address64, message, other);
            }
        }
    }

    fn load_shared(
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
            let unit = bytes.min(4);
            for l in lanes(m) {
                let who = Actor { warp: at.warp, lane: l as u32, pc: at.pc };
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

    fn store_shared(
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
        let regs = &warp.frame(frame).regs;
        for e in 0..mem.count as usize {
            let step = e as u32 * size;
            let v = get(regs, mem.regs[e]);
            let unit = size.min(4);
            for l in lanes(m) {
                let o = off[l] + step;
                if self.shared.shadowed {
                    let who = Actor { warp: at.warp, lane: l as u32, pc: at.pc };
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

    /// Range of a lane's local memory, checked.
    fn local_range(
        &self,
        access: &'static str,
        warp: &Warp,
        o: u64,
        bytes: u32,
        at: At,
        l: usize,
    ) -> Exec<usize> {
        let have = warp.local[l].len() as u64;
        if o < 16 || o.checked_add(u64::from(bytes)).is_none_or(|e| e > have) {
            let detail = format!("local memory of the thread is [0x10, 0x{have:x})");
            return Err(self.oob(access, bytes, o, detail, at, l));
        }
        let align = bytes.next_power_of_two();
        if o & u64::from(align - 1) != 0 {
            return Err(self.fault(FaultKind::Misaligned { access, address: o, align }, at, l as u32));
        }
        Ok(o as usize)
    }

    fn load_local(
        &mut self,
        _w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        mem: &Mem,
        m: u32,
        at: At,
        a: &L64,
    ) -> Exec<()> {
        let size = mem.ty.bytes();
        let bytes = size * u32::from(mem.count);
        for e in 0..mem.count as usize {
            let mut v = [0u64; 32];
            for l in lanes(m) {
                let o = self.local_range("local load", warp, a[l], bytes, at, l)? + e * size as usize;
                let mut b = [0u8; 8];
                b[..size as usize].copy_from_slice(&warp.local[l][o..o + size as usize]);
                v[l] = u64::from_le_bytes(b);
            }
            put(&mut warp.frame_mut(frame).regs, mem.regs[e], mem.ty, m, &v);
        }
        Ok(())
    }

    fn store_local(
        &mut self,
        _w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        mem: &Mem,
        m: u32,
        at: At,
        a: &L64,
    ) -> Exec<()> {
        let size = mem.ty.bytes();
        let bytes = size * u32::from(mem.count);
        for e in 0..mem.count as usize {
            let v = get(&warp.frame(frame).regs, mem.regs[e]);
            for l in lanes(m) {
                let o = self.local_range("local store", warp, a[l], bytes, at, l)? + e * size as usize;
                warp.local[l][o..o + size as usize].copy_from_slice(&v[l].to_le_bytes()[..size as usize]);
            }
        }
        Ok(())
    }
}
