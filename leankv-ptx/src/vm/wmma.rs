//! `wmma` loads, stores and products over the fragment layout of the decoder.

use super::access::{Exec, addresses, lanes};
use super::context::{At, Ctx, Worker};
use super::regs::Regs;
use super::warp::Warp;
use crate::decode::op::{Addr, Mem, Reg, Wmma, WmmaKind};
use crate::soft;
use crate::syntax::ast::Space;
use crate::ty::Ty;

/// Element held at a register, lane and position.
fn element_at(reg: usize, lane: usize, pos: u32, per: u32, total: u32) -> u32 {
    ((reg as u32 * 32 + lane as u32) * per + pos) % total
}

fn per_register(ty: Ty) -> u32 {
    32 / ty.bits().min(32)
}

impl Ctx<'_> {
    pub(crate) fn wmma(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        x: &Wmma,
        m: u32,
        at: At,
    ) -> Exec<()> {
        let WmmaKind::Move { load, row, rows, cols, ty, space, addr, stride, regs, scratch } = &x.kind else {
            let regs = &mut warp.frame_mut(frame).regs;
            let seed = self.launch.config.mma_seed;
            multiply(regs, x, m, seed);
            return Ok(());
        };
        let base = addresses(&warp.frame(frame).regs, addr);
        let stride = warp.frame(frame).regs.r32[*stride as usize];
        let (per, total, bits) = (per_register(*ty), rows * cols, ty.bits());
        let move_ty = match bits {
            8 => Ty::B8,
            16 => Ty::B16,
            _ => Ty::B32,
        };
        let mut mem_regs = [Reg::Sink; 8];
        mem_regs[0] = Reg::R32(*scratch);
        let mem = Mem {
            space: *space,
            ty: move_ty,
            regs: mem_regs,
            count: 1,
            addr: Addr { base: Reg::Sink, offset: 0 },
            read_only: false,
            acquire: false,
            release: false,
            strong: false,
        };
        for (r, slot) in regs.iter().enumerate() {
            let mut word = if *load { [0u32; 32] } else { warp.frame(frame).regs.r32[*slot as usize] };
            for pos in 0..per {
                let mut a = [0u64; 32];
                let mut part = 0u32;
                for l in lanes(m) {
                    let linear = (r as u32 * 32 + l as u32) * per + pos;
                    // Repeated elements are stored once.
                    if !load && linear >= total {
                        continue;
                    }
                    part |= 1 << l;
                    let e = element_at(r, l, pos, per, total);
                    let (i, j) = (e / cols, e % cols);
                    let offset = if *row {
                        u64::from(i) * u64::from(stride[l]) + u64::from(j)
                    } else {
                        u64::from(j) * u64::from(stride[l]) + u64::from(i)
                    };
                    a[l] = base[l].wrapping_add(offset * u64::from(bits / 8));
                }
                if part == 0 {
                    continue;
                }
                if *load {
                    self.load_at(w, warp, frame, &mem, part, at, &a)?;
                    let v = warp.frame(frame).regs.r32[*scratch as usize];
                    for l in lanes(part) {
                        word[l] |= v[l] << (pos * bits % 32);
                    }
                } else {
                    let v = word.map(|v| if bits == 32 { v } else { v >> (pos * bits) & ((1 << bits) - 1) });
                    warp.frame_mut(frame).regs.put32(*scratch, part, &v);
                    self.store_at(w, warp, frame, &mem, part, at, &a)?;
                }
            }
            if *load {
                warp.frame_mut(frame).regs.put32(*slot, m, &word);
            }
        }
        Ok(())
    }

    fn load_at(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        mem: &Mem,
        m: u32,
        at: At,
        a: &[u64; 32],
    ) -> Exec<()> {
        match mem.space {
            Space::Generic => self.by_space(w, warp, frame, mem, m, at, a, true),
            s => self.load_in(s, w, warp, frame, mem, m, at, a),
        }
    }

    fn store_at(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        mem: &Mem,
        m: u32,
        at: At,
        a: &[u64; 32],
    ) -> Exec<()> {
        match mem.space {
            Space::Generic => self.by_space(w, warp, frame, mem, m, at, a, false),
            s => self.store_in(s, w, warp, frame, mem, m, at, a),
        }
    }
}

/// The elements of a fragment as numbers; integers up to 32 bits are exact in a double.
fn gather(regs: &Regs, slots: &[u32], ty: Ty, total: u32) -> Vec<f64> {
    let per = per_register(ty);
    let bits = ty.bits();
    (0..total)
        .map(|e| {
            let linear = e / per;
            let (reg, lane, pos) = ((linear / 32) as usize, (linear % 32) as usize, e % per);
            let v = regs.r32[slots[reg] as usize][lane];
            let v = if bits == 32 { v } else { v >> (pos * bits) & ((1 << bits) - 1) };
            match ty {
                Ty::F16 => f64::from(soft::f16_to_f32(v as u16)),
                Ty::Bf16 => f64::from(soft::bf16_to_f32(v as u16)),
                Ty::Tf32 => f64::from(f32::from_bits(v & 0xffff_e000)),
                Ty::S8 => f64::from(v as u8 as i8),
                Ty::U8 => f64::from(v),
                Ty::S32 => f64::from(v as i32),
                _ => f64::from(f32::from_bits(v)),
            }
        })
        .collect()
}

fn multiply(regs: &mut Regs, x: &Wmma, m: u32, seed: u64) {
    let WmmaKind::Multiply { shape: [rows, cols, depth], ab, c_ty, d_ty, satfinite, a, b, c, d } = &x.kind
    else {
        return;
    };
    let (rows, cols, depth) = (*rows as usize, *cols as usize, *depth as usize);
    let va = gather(regs, a, *ab, (rows * depth) as u32);
    let vb = gather(regs, b, *ab, (depth * cols) as u32);
    let vc = gather(regs, c, *c_ty, (rows * cols) as u32);
    let integer = *d_ty == Ty::S32;
    let order = super::mma::order(depth, seed);
    let bits_of = |e: usize| -> u32 {
        let (i, j) = (e / cols, e % cols);
        if integer {
            // Exact in an i64: at most 16 byte products and a word.
            let sum = (0..depth).fold(vc[e] as i64, |s, k| s + (va[i * depth + k] * vb[k * cols + j]) as i64);
            return if *satfinite {
                sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32 as u32
            } else {
                sum as u32
            };
        }
        let sum = order[..depth].iter().fold(vc[e] as f32, |s, k| {
            let k = usize::from(*k);
            (va[i * depth + k] as f32).mul_add(vb[k * cols + j] as f32, s)
        });
        if *d_ty == Ty::F16 { u32::from(soft::f32_to_f16(sum)) } else { crate::alu::canon32(sum) }
    };
    let per = per_register(*d_ty);
    let bits = d_ty.bits();
    for (r, slot) in d.iter().enumerate() {
        let v = std::array::from_fn(|l| {
            (0..per).fold(0, |w, p| {
                let e = element_at(r, l, p, per, (rows * cols) as u32) as usize;
                w | bits_of(e) << (p * bits % 32)
            })
        });
        regs.put32(*slot, m, &v);
    }
}
