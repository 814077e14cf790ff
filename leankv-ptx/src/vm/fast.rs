//! Inner loops that need vector instructions beyond the baseline, chosen at run time.

use super::regs::L32;
use crate::soft;

/// Lanewise fused multiply-add of single-precision bits.
#[inline(always)]
pub(crate) fn fma32(a: &L32, b: &L32, c: &L32) -> L32 {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("fma") && std::is_x86_feature_detected!("avx2") {
        // SAFETY: both features were just detected.
        return unsafe { fma32_avx2(a, b, c) };
    }
    fma32_any(a, b, c)
}

#[inline(always)]
fn fma32_any(a: &L32, b: &L32, c: &L32) -> L32 {
    let mut o = [0; 32];
    for l in 0..32 {
        o[l] = f32::from_bits(a[l]).mul_add(f32::from_bits(b[l]), f32::from_bits(c[l])).to_bits();
    }
    o
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fma32_avx2(a: &L32, b: &L32, c: &L32) -> L32 {
    fma32_any(a, b, c)
}

/// The low half of every lane as f16, widened to single-precision bits.
pub(crate) fn f16_lanes(a: &L32) -> L32 {
    a.map(|v| soft::f16_to_f32(v as u16).to_bits())
}

/// Both halves of every lane as f16, widened: element `2 * lane + half`.
#[inline(always)]
pub(crate) fn f16_pairs(a: &L32) -> [f32; 64] {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("f16c") {
        // SAFETY: the feature was just detected.
        return unsafe { f16_pairs_f16c(a) };
    }
    let mut o = [0.0; 64];
    for l in 0..32 {
        o[2 * l] = soft::f16_to_f32(a[l] as u16);
        o[2 * l + 1] = soft::f16_to_f32((a[l] >> 16) as u16);
    }
    o
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,f16c")]
fn f16_pairs_f16c(a: &L32) -> [f32; 64] {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    let mut o = [0.0f32; 64];
    for i in 0..8 {
        // SAFETY: four lanes are 16 bytes of `a`, eight results 32 bytes of `o`; both loads are unaligned.
        unsafe {
            let h = _mm_loadu_si128(a.as_ptr().add(4 * i).cast());
            _mm256_storeu_ps(o.as_mut_ptr().add(8 * i), _mm256_cvtph_ps(h));
        }
    }
    o
}

/// `c[16][8] += a[16][k] * b[k][8]`, accumulated in the order of `order`, one rounding per step.
#[inline(always)]
pub(crate) fn mma_f32(a: &[[f32; 16]; 16], b: &[[f32; 8]; 16], c: &mut [[f32; 8]; 16], order: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("fma") && std::is_x86_feature_detected!("avx2") {
        // SAFETY: both features were just detected.
        return unsafe { mma_f32_avx2(a, b, c, order) };
    }
    mma_f32_any(a, b, c, order);
}

#[inline(always)]
fn mma_f32_any(a: &[[f32; 16]; 16], b: &[[f32; 8]; 16], c: &mut [[f32; 8]; 16], order: &[u8]) {
    for row in 0..16 {
        let mut acc = c[row];
        for k in order {
            let k = usize::from(*k & 15);
            let x = a[row][k];
            for n in 0..8 {
                acc[n] = x.mul_add(b[k][n], acc[n]);
            }
        }
        c[row] = acc;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn mma_f32_avx2(a: &[[f32; 16]; 16], b: &[[f32; 8]; 16], c: &mut [[f32; 8]; 16], order: &[u8]) {
    // Four rows at a time hide the latency of the accumulation chain.
    for rows in 0..4 {
        let base = rows * 4;
        let mut acc = [c[base], c[base + 1], c[base + 2], c[base + 3]];
        for k in order {
            let k = usize::from(*k & 15);
            for (i, acc) in acc.iter_mut().enumerate() {
                let x = a[base + i][k];
                for n in 0..8 {
                    acc[n] = x.mul_add(b[k][n], acc[n]);
                }
            }
        }
        c[base..base + 4].copy_from_slice(&acc);
    }
}
