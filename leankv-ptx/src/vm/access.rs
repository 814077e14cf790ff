//! Loads and stores: lanes' addresses and the state space that each access goes to.

use super::context::{At, Ctx, Worker};
use super::regs::{L64, Regs};
use super::warp::Warp;
use super::window;
use crate::decode::op::{Addr, Mem, Reg};
use crate::error::{Fault, FaultKind};
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
pub(crate) fn put(regs: &mut Regs, reg: Reg, ty: Ty, mask: u32, v: &L64) {
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
            Space::Local => self.load_local(warp, frame, mem, m, at, a),
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
            Space::Local => self.store_local(warp, frame, mem, m, at, a),
            Space::Param => {
                let l = m.trailing_zeros();
                Err(self.fault(FaultKind::ReadOnly { address: a[l as usize] + window::PARAM }, at, l))
            }
            _ => self.store_global(w, warp, frame, mem, m, at, a),
        }
    }

    /// Faults with the first lane whose address is not a multiple of `align`.
    pub(crate) fn aligned(&self, access: &'static str, m: u32, a: &L64, align: u32, at: At) -> Exec<()> {
        match lanes(m).find(|&l| a[l] & u64::from(align - 1) != 0) {
            Some(l) => Err(self.fault(FaultKind::Misaligned { access, address: a[l], align }, at, l as u32)),
            None => Ok(()),
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
}
