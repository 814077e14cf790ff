//! Atomic read-modify-write operations.

use super::access::{Exec, addresses, get, lanes};
use super::context::{At, Ctx, Worker};
use super::regs::L64;
use super::shared::Actor;
use super::warp::Warp;
use super::window;
use crate::decode::op::{Atom, AtomOp, Reg};
use crate::soft;
use crate::syntax::ast::Space;
use crate::ty::Ty;
use std::sync::atomic::Ordering::Relaxed;

/// The new value of one operation.
pub(crate) fn apply(op: AtomOp, ty: Ty, old: u64, a: u64, b: u64) -> u64 {
    let signed = |v: u64| if ty == Ty::S32 { i64::from(v as u32 as i32) } else { v as i64 };
    match op {
        AtomOp::Add => match ty {
            Ty::F32 => u64::from((f32::from_bits(old as u32) + f32::from_bits(a as u32)).to_bits()),
            Ty::F64 => (f64::from_bits(old) + f64::from_bits(a)).to_bits(),
            Ty::F16 => u64::from(half_add::<false>(old as u16, a as u16)),
            Ty::Bf16 => u64::from(half_add::<true>(old as u16, a as u16)),
            Ty::F16x2 => pair(old, a, half_add::<false>),
            Ty::Bf16x2 => pair(old, a, half_add::<true>),
            _ => old.wrapping_add(a),
        },
        AtomOp::Min | AtomOp::Max => {
            let max = op == AtomOp::Max;
            let take_a = match ty {
                Ty::S32 | Ty::S64 => (signed(a) > signed(old)) == max,
                Ty::F16 => return u64::from(half_pick::<false>(old as u16, a as u16, max)),
                Ty::Bf16 => return u64::from(half_pick::<true>(old as u16, a as u16, max)),
                Ty::F16x2 => return pair(old, a, |x, y| half_pick::<false>(x, y, max)),
                Ty::Bf16x2 => return pair(old, a, |x, y| half_pick::<true>(x, y, max)),
                _ => (a > old) == max,
            };
            if take_a { a } else { old }
        }
        AtomOp::And => old & a,
        AtomOp::Or => old | a,
        AtomOp::Xor => old ^ a,
        AtomOp::Exch => a,
        AtomOp::Cas => {
            if old == a {
                b
            } else {
                old
            }
        }
        AtomOp::Inc => {
            if old >= a {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > a {
                a
            } else {
                old - 1
            }
        }
    }
}

fn half_add<const BF: bool>(a: u16, b: u16) -> u16 {
    if BF {
        soft::f32_to_bf16(soft::bf16_to_f32(a) + soft::bf16_to_f32(b))
    } else {
        soft::f32_to_f16(soft::f16_to_f32(a) + soft::f16_to_f32(b))
    }
}

fn half_pick<const BF: bool>(a: u16, b: u16, max: bool) -> u16 {
    let f = |v: u16| if BF { soft::bf16_to_f32(v) } else { soft::f16_to_f32(v) };
    let bits = crate::alu::float::min_max_bits(f(a).to_bits(), f(b).to_bits(), max, false);
    let v = f32::from_bits(bits);
    if BF { soft::f32_to_bf16(v) } else { soft::f32_to_f16(v) }
}

fn pair(old: u64, a: u64, f: impl Fn(u16, u16) -> u16) -> u64 {
    u64::from(f(old as u16, a as u16)) | u64::from(f((old >> 16) as u16, (a >> 16) as u16)) << 16
}

impl Ctx<'_> {
    pub(crate) fn atomic(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        atom: &Atom,
        m: u32,
        at: At,
    ) -> Exec<()> {
        if m == 0 {
            return Ok(());
        }
        let a = addresses(&warp.frame(frame).regs, &atom.addr);
        let mut left = m;
        while left != 0 {
            let first = left.trailing_zeros() as usize;
            let (base, space) = match atom.space {
                Space::Generic => match window::of(a[first]) {
                    window::SHARED => (window::SHARED, Space::Shared),
                    window::LOCAL => (window::LOCAL, Space::Local),
                    _ => (0, Space::Global),
                },
                s => (0, s),
            };
            let mut part = left;
            if atom.space == Space::Generic {
                part = lanes(left)
                    .filter(|l| window::of(a[*l]) == window::of(a[first]))
                    .fold(0, |p, l| p | 1 << l);
            }
            left &= !part;
            let local: L64 = a.map(|v| v.wrapping_sub(base));
            match space {
                Space::Shared => self.atomic_shared(w, warp, frame, atom, part, &local, at)?,
                Space::Local => {
                    let detail = "atomics work on global and shared memory only".to_string();
                    return Err(self.oob("atomic", atom.ty.bytes(), a[first], detail, at, first));
                }
                _ => self.atomic_global(w, warp, frame, atom, part, &local, at)?,
            }
        }
        // Lanes on one address are served one after the other.
        let mut sorted: Vec<u64> = lanes(m).map(|l| a[l]).collect();
        sorted.sort_unstable();
        let worst = sorted.chunk_by(|x, y| x == y).map(<[u64]>::len).max().unwrap_or(0);
        w.counters[self.launch.counter_base[at.func as usize] + at.pc as usize].contention += worst as u64;
        Ok(())
    }

    fn atomic_global(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        atom: &Atom,
        m: u32,
        a: &L64,
        at: At,
    ) -> Exec<()> {
        let size = atom.ty.bytes();
        let bytes = size * u32::from(atom.count);
        let mut left = m;
        while left != 0 {
            let (i, part, off) = self.locate("atomic", left, a, bytes, bytes.next_power_of_two(), at)?;
            left &= !part;
            let launch = self.launch;
            let al = &launch.global.allocs[i];
            if al.read_only {
                let l = part.trailing_zeros();
                return Err(self.fault(crate::error::FaultKind::ReadOnly { address: a[l as usize] }, at, l));
            }
            let checks = &launch.config.checks;
            if checks.global_races {
                for l in lanes(part) {
                    self.synchronise(at.warp, a[l], true, true, atom.acquire, atom.release);
                }
            }
            for e in 0..usize::from(atom.count) {
                let step = e as u64 * u64::from(size);
                let regs = &warp.frame(frame).regs;
                let x = get(regs, atom.src[e]);
                let y = if atom.op == AtomOp::Cas { get(regs, atom.src[1]) } else { [0; 32] };
                let mut old = [0u64; 32];
                for l in lanes(part) {
                    let o = off[l] + step;
                    if checks.uninit_global && atom.op != AtomOp::Exch && !al.is_init(o, size) {
                        let message =
                            format!("atomic on global memory that nothing wrote, in {}", al.describe());
                        let kind = crate::finding::FindingKind::UninitGlobal;
                        self.report(w, kind, at, l as u32, Some(al.base + o), &message);
                    }
                    old[l] = match size {
                        8 => al
                            .atomic64(o)
                            .fetch_update(Relaxed, Relaxed, |v| Some(apply(atom.op, atom.ty, v, x[l], y[l])))
                            .unwrap_or_else(|v| v),
                        4 => u64::from(
                            al.atomic32(o)
                                .fetch_update(Relaxed, Relaxed, |v| {
                                    Some(apply(
                                        atom.op,
                                        atom.ty,
                                        u64::from(v),
                                        x[l] & 0xffff_ffff,
                                        y[l] & 0xffff_ffff,
                                    ) as u32)
                                })
                                .unwrap_or_else(|v| v),
                        ),
                        _ => {
                            // A 16-bit atomic works on its half of the containing word.
                            let shift = (o & 2) * 8;
                            let word = al.atomic32(o & !3);
                            let v = word
                                .fetch_update(Relaxed, Relaxed, |v| {
                                    let half = u64::from(v >> shift) & 0xffff;
                                    let new =
                                        apply(atom.op, atom.ty, half, x[l] & 0xffff, y[l] & 0xffff) as u32;
                                    Some((v & !(0xffff << shift)) | (new & 0xffff) << shift)
                                })
                                .unwrap_or_else(|v| v);
                            u64::from(v >> shift) & 0xffff
                        }
                    };
                    al.set_init(o, size);
                    if checks.global_races {
                        self.within_block(w, i, o, size, Some(true), true, at, l as u32);
                    }
                    if checks.global_races && launch.grid != [1, 1, 1] {
                        for word in 0..size.div_ceil(4) {
                            let o = o + u64::from(word * 4);
                            self.global_access(w, al, o, size.min(4), true, true, at, l as u32);
                        }
                    }
                }
                self.put_old(warp, frame, atom.dsts[e], part, &old);
            }
            self.count_global(w, i, part, a, bytes, true, at);
        }
        Ok(())
    }

    fn atomic_shared(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        atom: &Atom,
        m: u32,
        a: &L64,
        at: At,
    ) -> Exec<()> {
        let size = atom.ty.bytes();
        let bytes = size * u32::from(atom.count);
        let off = self.shared_offsets("shared atomic", m, a, bytes, at)?;
        let instr = self.launch.number(at);
        for e in 0..usize::from(atom.count) {
            let step = e as u32 * size;
            let regs = &warp.frame(frame).regs;
            let x = get(regs, atom.src[e]);
            let y = if atom.op == AtomOp::Cas { get(regs, atom.src[1]) } else { [0; 32] };
            let mut old = [0u64; 32];
            let keep = u64::MAX >> (64 - size * 8);
            for l in lanes(m) {
                let o = off[l] + step;
                if self.shared.shadowed {
                    let who = Actor { warp: at.warp, lane: l as u32, instr };
                    let unit = size.min(4);
                    for part in 0..size / unit {
                        let p = o + part * unit;
                        if let Some(t) = self.shared.on_write(p, unit, who, &self.clocks, true, true) {
                            self.shared_trouble(w, t, at, l as u32, p, true);
                        }
                    }
                }
                old[l] = self.shared.load(o, size);
                let new = apply(atom.op, atom.ty, old[l], x[l] & keep, y[l] & keep);
                self.shared.store(o, size, new & keep);
            }
            self.put_old(warp, frame, atom.dsts[e], m, &old);
        }
        self.count_shared(w, &off, m, bytes, at);
        Ok(())
    }

    fn put_old(&self, warp: &mut Warp, frame: u32, d: Reg, m: u32, old: &L64) {
        let regs = &mut warp.frame_mut(frame).regs;
        match d {
            Reg::R64(s) => regs.put64(s, m, old),
            Reg::R32(s) | Reg::R16(s) => regs.put32(s, m, &old.map(|v| v as u32)),
            Reg::Sink => {}
        }
    }
}
