//! Matrix multiply-accumulate.
//!
//! Products are exact; the order in which they are added is not specified by the ISA and is chosen by a seed
//! (0: ascending k). Each addition rounds to single precision; f16 accumulators round once at the end.

use super::fast;
use super::regs::Regs;
use crate::config::Rng;
use crate::decode::op::{AccTy, Mma, MmaTy};
use crate::soft;

/// Accumulation order for a seed.
pub(crate) fn order(k: usize, seed: u64) -> [u8; 16] {
    let mut o: [u8; 16] = std::array::from_fn(|i| i as u8);
    if seed != 0 {
        let mut rng = Rng(seed);
        for i in (1..k.min(16)).rev() {
            o.swap(i, rng.below(i + 1));
        }
    }
    o
}

pub(crate) fn run(regs: &mut Regs, x: &Mma, m: u32, seed: u64) {
    match (x.a_ty, x.m, x.acc) {
        (MmaTy::F16 | MmaTy::Bf16, 16, _) => half(regs, x, m, seed),
        (MmaTy::F64, ..) => double(regs, x, m),
        (_, _, AccTy::S32) => integer(regs, x, m),
        _ => single(regs, x, m, seed),
    }
}

/// Element (row, k) of A or (column, k) of B as a bit field: register and position within it.
///
/// A register of 32 bits holds `32 / bits` consecutive k; rows repeat every 8, k blocks every 4 registers'
/// worth of lanes.
fn fragment(bits: u32, rows: u32, row: u32, k: u32) -> (usize, usize, u32) {
    let per = 32 / bits;
    // Lane group of the row, thread of the quad, position within the register.
    let g = row % 8;
    let block = k / (4 * per);
    let t = k % (4 * per) / per;
    let pos = k % per;
    let row_blocks = rows / 8;
    let reg = block * row_blocks + row / 8;
    (reg as usize, (4 * g + t) as usize, pos * bits)
}

fn raw(regs: &Regs, slots: &[u32], bits: u32, rows: u32, row: u32, k: u32) -> u32 {
    let (reg, lane, shift) = fragment(bits, rows, row, k);
    let v = regs.r32[slots[reg] as usize][lane] >> shift;
    if bits == 32 { v } else { v & ((1 << bits) - 1) }
}

/// Register, lane and position of element (row, column) of C and D: two columns per lane.
fn acc_at(row: u32, col: u32) -> (u32, usize, u32) {
    (row / 8, (4 * (row % 8) + col / 2) as usize, col % 2)
}

fn load_acc(regs: &Regs, x: &Mma, c: &mut [[f32; 8]; 16]) {
    for row in 0..x.m {
        for col in 0..8 {
            let (block, lane, pos) = acc_at(row, col);
            c[row as usize][col as usize] = match x.acc {
                AccTy::F16 => {
                    soft::f16_to_f32((regs.r32[x.c[block as usize] as usize][lane] >> (16 * pos)) as u16)
                }
                _ => f32::from_bits(regs.r32[x.c[(2 * block + pos) as usize] as usize][lane]),
            };
        }
    }
}

fn store_acc(regs: &mut Regs, x: &Mma, m: u32, c: &[[f32; 8]; 16]) {
    for block in 0..(x.m / 8) {
        match x.d_acc {
            AccTy::F16 => {
                let v = std::array::from_fn(|lane| {
                    let row = &c[(8 * block) as usize + lane / 4];
                    let col = 2 * (lane % 4);
                    u32::from(soft::f32_to_f16(row[col])) | u32::from(soft::f32_to_f16(row[col + 1])) << 16
                });
                regs.put32(x.d[block as usize], m, &v);
            }
            _ => {
                for pos in 0..2 {
                    let v = std::array::from_fn(|lane| {
                        crate::alu::canon32(c[(8 * block) as usize + lane / 4][2 * (lane % 4) + pos])
                    });
                    regs.put32(x.d[2 * block as usize + pos], m, &v);
                }
            }
        }
    }
}

/// m16n8k8 and m16n8k16 of f16 and bf16: whole registers are converted at once.
fn half(regs: &mut Regs, x: &Mma, m: u32, seed: u64) {
    let convert = |slot: u32| {
        let v = &regs.r32[slot as usize];
        if x.a_ty == MmaTy::F16 {
            fast::f16_pairs(v)
        } else {
            std::array::from_fn(|i| {
                f32::from_bits(if i % 2 == 0 { v[i / 2] << 16 } else { v[i / 2] & 0xffff_0000 })
            })
        }
    };
    let mut a = [[0.0f32; 16]; 16];
    for (i, slot) in x.a.iter().enumerate() {
        let v = convert(*slot);
        let (row, k) = (8 * (i & 1), 8 * (i >> 1));
        for g in 0..8 {
            a[row + g][k..k + 8].copy_from_slice(&v[8 * g..8 * g + 8]);
        }
    }
    let mut b = [[0.0f32; 8]; 16];
    for (i, slot) in x.b.iter().enumerate() {
        let v = convert(*slot);
        for n in 0..8 {
            for k in 0..8 {
                b[8 * i + k][n] = v[8 * n + k];
            }
        }
    }
    let mut c = [[0.0f32; 8]; 16];
    load_acc(regs, x, &mut c);
    let k = x.k as usize;
    fast::mma_f32(&a, &b, &mut c, &order(k, seed)[..k]);
    store_acc(regs, x, m, &c);
}

/// tf32 and fp8: element by element, in blocks of sixteen k.
fn single(regs: &mut Regs, x: &Mma, m: u32, seed: u64) {
    let bits = crate::decode::element_bits(x.a_ty);
    let value = |ty: MmaTy, v: u32| match ty {
        // Only the upper 19 bits take part.
        MmaTy::Tf32 => f32::from_bits(v & 0xffff_e000),
        MmaTy::E4m3 => {
            f32::from_bits(soft::convert(soft::E4M3, soft::F32, u64::from(v), soft::Round::Nearest) as u32)
        }
        MmaTy::E5m2 => {
            f32::from_bits(soft::convert(soft::E5M2, soft::F32, u64::from(v), soft::Round::Nearest) as u32)
        }
        MmaTy::F16 => soft::f16_to_f32(v as u16),
        _ => soft::bf16_to_f32(v as u16),
    };
    let mut c = [[0.0f32; 8]; 16];
    load_acc(regs, x, &mut c);
    for start in (0..x.k).step_by(16) {
        let n = (x.k - start).min(16);
        let mut a = [[0.0f32; 16]; 16];
        let mut b = [[0.0f32; 8]; 16];
        for k in 0..n {
            for row in 0..x.m {
                a[row as usize][k as usize] = value(x.a_ty, raw(regs, &x.a, bits, x.m, row, start + k));
            }
            for col in 0..8 {
                b[k as usize][col as usize] = value(x.b_ty, raw(regs, &x.b, bits, 8, col, start + k));
            }
        }
        fast::mma_f32(&a, &b, &mut c, &order(n as usize, seed)[..n as usize]);
    }
    store_acc(regs, x, m, &c);
}

fn integer(regs: &mut Regs, x: &Mma, m: u32) {
    let bits = crate::decode::element_bits(x.a_ty);
    let value = |ty: MmaTy, v: u32| match ty {
        MmaTy::S8 => i64::from(v as u8 as i8),
        MmaTy::S4 => i64::from(((v as u8) << 4) as i8 >> 4),
        _ => i64::from(v),
    };
    // Unpack once: 16 x k and 8 x k elements.
    let k = x.k as usize;
    let unpack = |slots: &[u32], ty: MmaTy, rows: u32| -> Vec<i64> {
        let mut out = vec![0; rows as usize * k];
        for row in 0..rows {
            for kk in 0..x.k {
                out[row as usize * k + kk as usize] = value(ty, raw(regs, slots, bits, rows, row, kk));
            }
        }
        out
    };
    let a = unpack(&x.a, x.a_ty, x.m);
    let b = unpack(&x.b, x.b_ty, 8);
    let mut out = vec![[0u32; 32]; x.d.len()];
    for row in 0..x.m {
        for col in 0..8u32 {
            let (block, lane, pos) = acc_at(row, col);
            let reg = (2 * block + pos) as usize;
            let mut sum = i64::from(regs.r32[x.c[reg] as usize][lane] as i32);
            for kk in 0..k {
                let (p, q) = (a[row as usize * k + kk], b[col as usize * k + kk]);
                sum += match (x.a_ty, x.xor) {
                    (MmaTy::B1, true) => p ^ q,
                    _ => p * q,
                };
            }
            out[reg][lane] = if x.satfinite {
                sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32 as u32
            } else {
                sum as u32
            };
        }
    }
    for (slot, v) in x.d.iter().zip(&out) {
        regs.put32(*slot, m, v);
    }
}

/// f64: m8n8k4, and m16n8k4/8/16 whose fragments repeat it.
fn double(regs: &mut Regs, x: &Mma, m: u32) {
    // One element per register: k advances by four lanes, then by registers; rows by eight.
    let row_blocks = x.m / 8;
    let a = |regs: &Regs, row: u32, k: u32| {
        let reg = k / 4 * row_blocks + row / 8;
        f64::from_bits(regs.r64[x.a[reg as usize] as usize][(4 * (row % 8) + k % 4) as usize])
    };
    let b = |regs: &Regs, col: u32, k: u32| {
        f64::from_bits(regs.r64[x.b[(k / 4) as usize] as usize][(4 * col + k % 4) as usize])
    };
    let mut out = vec![[0u64; 32]; x.d.len()];
    for row in 0..x.m {
        for col in 0..8 {
            let (block, lane, pos) = acc_at(row, col);
            let reg = (2 * block + pos) as usize;
            let mut sum = f64::from_bits(regs.r64[x.c[reg] as usize][lane]);
            for k in 0..x.k {
                sum = a(regs, row, k).mul_add(b(regs, col, k), sum);
            }
            out[reg][lane] = sum.to_bits();
        }
    }
    for (slot, v) in x.d.iter().zip(&out) {
        regs.put64(*slot, m, v);
    }
}
