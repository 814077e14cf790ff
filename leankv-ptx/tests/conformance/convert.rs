//! Conversions between all types, roundings and saturations.

use crate::harness::{T, check, doubles, floats, halves, ints};
use crate::integer_value as int;
use crate::reference::{MODES, R, Table, canon, f, to_f32};

fn t_of(ty: &str) -> T {
    match &ty[1..] {
        "8" | "16" => T::B16,
        "64" => T::B64,
        _ => T::B32,
    }
}

const INTS: [&str; 8] = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"];

fn bits(ty: &str) -> u32 {
    ty[1..].parse().unwrap()
}

fn range(ty: &str) -> (i128, i128) {
    let n = bits(ty);
    if ty.starts_with('s') { (-(1 << (n - 1)), (1 << (n - 1)) - 1) } else { (0, (1 << n) - 1) }
}

#[test]
fn integers_truncate_extend_and_saturate() {
    for from in INTS {
        for to in INTS {
            let (s, d) = (t_of(from), t_of(to));
            // An 8-bit result in a 16-bit register is extended by its type.
            let stored = |v: i128| {
                let n = bits(to);
                let cut = (v & ((1i128 << n) - 1)) as u64;
                if n == 8 { (int(to, cut) & 0xffff) as u64 } else { cut }
            };
            let ins = [(s, ints(u64::from(bits(from)) + 3))];
            check(&format!("cvt.{to}.{from} d, a;"), &ins, d, |v| stored(int(from, v[0])));
            let (lo, hi) = range(to);
            check(&format!("cvt.sat.{to}.{from} d, a;"), &ins, d, |v| stored(int(from, v[0]).clamp(lo, hi)));
        }
    }
}

#[test]
fn integers_to_singles_in_every_rounding() {
    for from in INTS {
        for (mode, r) in MODES {
            check(&format!("cvt.{mode}.f32.{from} d, a;"), &[(t_of(from), ints(9))], T::B32, |v| {
                let v = int(from, v[0]);
                // 64 bits do not fit a double: the low half is the remainder.
                let hi = (v as f64).clamp(-1.9e19, 1.9e19);
                let lo = (v - hi as i128) as f64;
                u64::from((to_f32(hi, lo, r) + 0.0).to_bits())
            });
        }
    }
}

#[test]
fn singles_and_doubles_to_integers_in_every_rounding() {
    let rule = |v: f64, name: &str| match name {
        "rni" => v.round_ties_even(),
        "rzi" => v.trunc(),
        "rmi" => v.floor(),
        _ => v.ceil(),
    };
    for to in INTS {
        let n = bits(to);
        let stored = |v: i128| {
            let cut = (v & ((1i128 << n) - 1)) as u64;
            if n == 8 { (int(to, cut) & 0xffff) as u64 } else { cut }
        };
        let (lo, hi) = range(to);
        let clamp = |v: f64| {
            if v >= 3e19 {
                hi
            } else if v <= -3e19 {
                lo
            } else {
                (v as i128).clamp(lo, hi)
            }
        };
        for mode in ["rni", "rzi", "rmi", "rpi"] {
            check(&format!("cvt.{mode}.{to}.f32 d, a;"), &[(T::B32, floats(11))], t_of(to), |v| {
                let x = f64::from(f(v[0]));
                // NaN: zero from the 32-bit converter, the integer indefinite from the 64-bit one.
                let out = if x.is_nan() { if n == 64 { 1 << 63 } else { 0 } } else { clamp(rule(x, mode)) };
                stored(out)
            });
            check(&format!("cvt.{mode}.{to}.f64 d, a;"), &[(T::B64, doubles(12))], t_of(to), |v| {
                let x = f64::from_bits(v[0]);
                stored(if x.is_nan() { 1 << (n - 1) } else { clamp(rule(x, mode)) })
            });
        }
    }
    check("cvt.rzi.ftz.s32.f32 d, a;", &[(T::B32, floats(11))], T::B32, |v| {
        let x = f(v[0]);
        u64::from(x as i32 as u32)
    });
}

#[test]
fn singles_round_to_integral_values() {
    for (mode, rule) in [
        ("rni", f32::round_ties_even as fn(f32) -> f32),
        ("rzi", f32::trunc),
        ("rmi", f32::floor),
        ("rpi", f32::ceil),
    ] {
        check(&format!("cvt.{mode}.f32.f32 d, a;"), &[(T::B32, floats(13))], T::B32, |v| {
            canon(rule(f(v[0])))
        });
    }
    check("cvt.sat.f32.f32 d, a;", &[(T::B32, floats(13))], T::B32, |v| {
        canon(crate::reference::sat(f(v[0])))
    });
    check("cvt.ftz.f32.f32 d, a;", &[(T::B32, floats(13))], T::B32, |v| {
        canon(crate::reference::ftz(f(v[0])))
    });
}

#[test]
fn between_singles_and_doubles() {
    check("cvt.f64.f32 d, a;", &[(T::B32, floats(14))], T::B64, |v| {
        let x = f64::from(f(v[0]));
        if x.is_nan() { 0x7ff8_0000_0000_0000 } else { x.to_bits() }
    });
    for (mode, r) in MODES {
        check(&format!("cvt.{mode}.f32.f64 d, a;"), &[(T::B64, doubles(15))], T::B32, |v| {
            let x = f64::from_bits(v[0]);
            if x.is_nan() {
                return 0x7fff_ffff;
            }
            if x != 0.0 && x.abs() < 2f64.powi(-149) {
                // Below the smallest subnormal: only the direction counts.
                let up = (r == R::P && x > 0.0)
                    || (r == R::M && x < 0.0)
                    || (r == R::N && x.abs() > 2f64.powi(-150));
                return u64::from(f32::from_bits(u32::from(up)).copysign(x as f32).to_bits());
            }
            u64::from(to_f32(x, 0.0, r).to_bits())
        });
    }
}

#[test]
fn halves_widen_exactly() {
    for (ty, table) in [("f16", Table::f16()), ("bf16", Table::bf16())] {
        check(&format!("cvt.f32.{ty} d, a;"), &[(T::B16, halves(16))], T::B32, |v| {
            canon(table.value(v[0]) as f32)
        });
        check(&format!("cvt.f64.{ty} d, a;"), &[(T::B16, halves(16))], T::B64, |v| {
            let x = table.value(v[0]);
            if x.is_nan() { 0x7ff8_0000_0000_0000 } else { x.to_bits() }
        });
    }
}

#[test]
fn singles_narrow_to_halves_in_every_rounding() {
    for (ty, table, exp) in [("f16", Table::f16(), 0x7c00u64), ("bf16", Table::bf16(), 0x7f80)] {
        for (mode, r) in MODES {
            let ins = [(T::B32, floats(17))];
            check(&format!("cvt.{mode}.{ty}.f32 d, a;"), &ins, T::B16, |v| {
                table.round(f64::from(f(v[0])), 0.0, r)
            });
            if matches!(r, R::N | R::Z) {
                check(&format!("cvt.{mode}.relu.{ty}.f32 d, a;"), &ins, T::B16, |v| {
                    let o = table.round(f64::from(f(v[0])), 0.0, r);
                    if o & 0x8000 != 0 && o & 0x7fff <= exp { 0 } else { o }
                });
                let two = [(T::B32, floats(17)), (T::B32, floats(18))];
                check(&format!("cvt.{mode}.{ty}x2.f32 d, a, b;"), &two, T::B32, |v| {
                    // The first operand is the upper half.
                    table.round(f64::from(f(v[0])), 0.0, r) << 16 | table.round(f64::from(f(v[1])), 0.0, r)
                });
                check(&format!("cvt.{mode}.satfinite.{ty}.f32 d, a;"), &ins, T::B16, |v| {
                    let o = table.round(f64::from(f(v[0])), 0.0, r);
                    if o & 0x7fff == exp { (o & 0x8000) | (exp - 1) } else { o }
                });
            }
        }
    }
    let table = Table::f16();
    check("cvt.rn.sat.f16.f32 d, a;", &[(T::B32, floats(17))], T::B16, |v| {
        table.round(f64::from(crate::reference::sat(f(v[0]))), 0.0, R::N)
    });
    check("cvt.rn.f16.s32 d, a;", &[(T::B32, ints(18))], T::B16, |v| {
        table.round(int("s32", v[0]) as f64, 0.0, R::N) & 0xffff
    });
    check("cvt.rn.f16.u8 d, a;", &[(T::B16, ints(18))], T::B16, |v| {
        table.round(int("u8", v[0]) as f64, 0.0, R::N)
    });
    check("cvt.rzi.s16.f16 d, a;", &[(T::B16, halves(19))], T::B16, |v| {
        let x = table.value(v[0]);
        if x.is_nan() { 0 } else { (x.trunc().clamp(-32768.0, 32767.0) as i32 as u64) & 0xffff }
    });
    check("cvt.rni.f16.f16 d, a;", &[(T::B16, halves(19))], T::B16, |v| {
        let x = table.value(v[0]);
        table.round(x.round_ties_even(), 0.0, R::N)
    });
}

#[test]
fn tf32_keeps_ten_fraction_bits() {
    check("cvt.rna.tf32.f32 d, a;", &[(T::B32, floats(20))], T::B32, |v| {
        let x = f(v[0]);
        if x.is_nan() {
            return 0x7fff_e000;
        }
        if x.is_infinite() {
            return v[0];
        }
        // Ties away from zero: add half of the thirteenth bit and cut.
        (v[0] + 0x1000) & 0xffff_e000
    });
}

/// Nearest value of an fp8 format to `x`, ties to even, saturating.
fn fp8(x: f64, e4m3: bool) -> u64 {
    let value = |b: u64| -> f64 {
        let (e, m) = if e4m3 { (b >> 3, (b & 7) as f64 / 8.0) } else { (b >> 2, (b & 3) as f64 / 4.0) };
        let bias = if e4m3 { 7 } else { 15 };
        if e == 0 { m * 2f64.powi(1 - bias) } else { (1.0 + m) * 2f64.powi(e as i32 - bias) }
    };
    let max = if e4m3 { 0x7e } else { 0x7b };
    if x.is_nan() {
        return 0x7f;
    }
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let m = x.abs();
    if m >= value(max) {
        return sign | max;
    }
    let best = (0..=max)
        .min_by(|a, b| {
            let (da, db) = ((value(*a) - m).abs(), (value(*b) - m).abs());
            da.partial_cmp(&db).unwrap().then((a & 1).cmp(&(b & 1)))
        })
        .unwrap();
    sign | best
}

#[test]
fn eight_bit_floats_round_and_widen() {
    let ins = [(T::B32, floats(21)), (T::B32, floats(22))];
    for (ty, e4m3) in [("e4m3", true), ("e5m2", false)] {
        check(&format!("cvt.rn.satfinite.{ty}x2.f32 d, a, b;"), &ins, T::B16, |v| {
            fp8(f64::from(f(v[0])), e4m3) << 8 | fp8(f64::from(f(v[1])), e4m3)
        });
        let f16 = Table::f16();
        check(&format!("cvt.rn.f16x2.{ty}x2 d, a;"), &[(T::B16, ints(23))], T::B32, |v| {
            let one = |b: u64| {
                let nan = if e4m3 { b & 0x7f == 0x7f } else { b & 0x7f > 0x7c };
                if nan {
                    return 0x7fff;
                }
                if !e4m3 && b & 0x7f == 0x7c {
                    return 0x7c00 | (b & 0x80) << 8;
                }
                // Every fp8 value is an f16 value: search it.
                let magnitude = (0..0x7c00u64)
                    .find(|h| exact(f16.value(*h), e4m3) && fp8(f16.value(*h), e4m3) == b & 0x7f);
                magnitude.unwrap() | (b & 0x80) << 8
            };
            one(v[0] >> 8) << 16 | one(v[0] & 255)
        });
    }
}

/// Whether `x` is a value of the format: rounding it up or down by the smallest step changes nothing.
fn exact(x: f64, e4m3: bool) -> bool {
    let (frac, bias) = if e4m3 { (3, 7) } else { (2, 15) };
    if x == 0.0 {
        return true;
    }
    let e = x.log2().floor().max(f64::from(1 - bias));
    (x / 2f64.powf(e - f64::from(frac))).fract() == 0.0
}

#[test]
fn saturating_packs() {
    let two = [(T::B32, ints(24)), (T::B32, ints(25))];
    let three = [(T::B32, ints(24)), (T::B32, ints(25)), (T::B32, ints(26))];
    for ty in ["s16", "u16"] {
        let (lo, hi) = range(ty);
        let one = |v: u64| (int("s32", v).clamp(lo, hi) & 0xffff) as u64;
        check(&format!("cvt.pack.sat.{ty}.s32 d, a, b;"), &two, T::B32, |v| one(v[0]) << 16 | one(v[1]));
    }
    for ty in ["s8", "u8"] {
        let (lo, hi) = range(ty);
        let one = |v: u64| (int("s32", v).clamp(lo, hi) & 0xff) as u64;
        check(&format!("cvt.pack.sat.{ty}.s32.b32 d, a, b, c;"), &three, T::B32, |v| {
            (v[2] << 16 | one(v[0]) << 8 | one(v[1])) & 0xffff_ffff
        });
    }
}

#[test]
fn sources_and_destinations_may_be_wider_registers() {
    let a = [(T::B32, ints(27))];
    check("cvt.u32.u8 d, a;", &a, T::B32, |v| v[0] & 0xff);
    check("cvt.s32.s8 d, a;", &a, T::B32, |v| v[0] as u8 as i8 as i32 as u32 as u64);
    check("cvt.s8.s32 d, a;", &a, T::B32, |v| v[0] as u8 as i8 as i32 as u32 as u64);
    check("cvt.s64.s16 d, a;", &a, T::B64, |v| v[0] as u16 as i16 as i64 as u64);
    check("cvt.rn.f32.u8 d, a;", &a, T::B32, |v| u64::from(f32::from(v[0] as u8).to_bits()));
    check("cvt.u16.u64 d, a;", &[(T::B64, ints(28))], T::B16, |v| v[0] & 0xffff);
}
