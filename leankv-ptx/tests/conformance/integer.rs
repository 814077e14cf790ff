//! Integer arithmetic: add, sub, mul, mad, div, rem, min, max, sad, dot products, carries.

use crate::harness::{T, check, ints, run};
use leankv_ptx::Config;

fn t_of(bits: u32) -> T {
    match bits {
        16 => T::B16,
        32 => T::B32,
        _ => T::B64,
    }
}

/// Operand as a wide integer by type name.
pub fn int(ty: &str, v: u64) -> i128 {
    let bits: u32 = ty[1..].parse().unwrap();
    let v = if bits == 64 { v } else { v & ((1 << bits) - 1) };
    if ty.starts_with('s') && v >> (bits - 1) & 1 == 1 {
        i128::from(v) - (1i128 << bits)
    } else {
        i128::from(v)
    }
}

fn cut(bits: u32, v: i128) -> u64 {
    (v & ((1i128 << bits) - 1)) as u64
}

const TYPES: [&str; 6] = ["u16", "s16", "u32", "s32", "u64", "s64"];

fn bits(ty: &str) -> u32 {
    ty[1..].parse().unwrap()
}

/// Checks `op.ty d, a, b` for all six integer types against arithmetic on wide integers.
fn all_types(op: &str, f: impl Fn(i128, i128, u32) -> i128) {
    for ty in TYPES {
        let n = bits(ty);
        let t = t_of(n);
        check(&format!("{op}.{ty} d, a, b;"), &[(t, ints(1)), (t, ints(2))], t, |v| {
            cut(n, f(int(ty, v[0]), int(ty, v[1]), n))
        });
    }
}

#[test]
fn add_and_sub_wrap() {
    all_types("add", |a, b, _| a + b);
    all_types("sub", |a, b, _| a - b);
}

#[test]
fn add_and_sub_saturate() {
    let s = [(T::B32, ints(3)), (T::B32, ints(4))];
    let clamp = |v: i128| cut(32, v.clamp(i128::from(i32::MIN), i128::from(i32::MAX)));
    check("add.sat.s32 d, a, b;", &s, T::B32, |v| clamp(int("s32", v[0]) + int("s32", v[1])));
    check("sub.sat.s32 d, a, b;", &s, T::B32, |v| clamp(int("s32", v[0]) - int("s32", v[1])));
}

#[test]
fn products_low_high_and_wide() {
    all_types("mul.lo", |a, b, _| a.wrapping_mul(b));
    all_types("mul.hi", |a, b, n| {
        if n == 64 && a > 0 && b > 0 { ((a as u128 * b as u128) >> 64) as i128 } else { (a * b) >> n }
    });
    for (ty, t, out, n) in [
        ("u16", T::B16, T::B32, 32),
        ("s16", T::B16, T::B32, 32),
        ("u32", T::B32, T::B64, 64),
        ("s32", T::B32, T::B64, 64),
    ] {
        check(&format!("mul.wide.{ty} d, a, b;"), &[(t, ints(5)), (t, ints(6))], out, |v| {
            cut(n, int(ty, v[0]) * int(ty, v[1]))
        });
        check(
            &format!("mad.wide.{ty} d, a, b, c;"),
            &[(t, ints(5)), (t, ints(6)), (out, ints(7))],
            out,
            |v| cut(n, int(ty, v[0]) * int(ty, v[1]) + i128::from(v[2])),
        );
    }
}

#[test]
fn multiply_add() {
    for ty in TYPES {
        let n = bits(ty);
        let t = t_of(n);
        let ins = [(t, ints(8)), (t, ints(9)), (t, ints(10))];
        check(&format!("mad.lo.{ty} d, a, b, c;"), &ins, t, |v| {
            cut(n, int(ty, v[0]).wrapping_mul(int(ty, v[1])).wrapping_add(int(ty, v[2])))
        });
        check(&format!("mad.hi.{ty} d, a, b, c;"), &ins, t, |v| {
            let (a, b) = (int(ty, v[0]), int(ty, v[1]));
            let hi = if n == 64 && a > 0 && b > 0 {
                ((a as u128 * b as u128) >> 64) as i128
            } else {
                (a * b) >> n
            };
            cut(n, hi + int(ty, v[2]))
        });
    }
    check(
        "mad.hi.sat.s32 d, a, b, c;",
        &[(T::B32, ints(8)), (T::B32, ints(9)), (T::B32, ints(10))],
        T::B32,
        |v| {
            let hi = (int("s32", v[0]) * int("s32", v[1])) >> 32;
            cut(32, (hi + int("s32", v[2])).clamp(i128::from(i32::MIN), i128::from(i32::MAX)))
        },
    );
}

#[test]
fn twenty_four_bit_products() {
    let low = |ty: &str, v: u64| {
        let v = v & 0xff_ffff;
        if ty == "s32" && v >> 23 == 1 { i128::from(v) - (1 << 24) } else { i128::from(v) }
    };
    for ty in ["u32", "s32"] {
        let two = [(T::B32, ints(11)), (T::B32, ints(12))];
        let three = [(T::B32, ints(11)), (T::B32, ints(12)), (T::B32, ints(13))];
        check(&format!("mul24.lo.{ty} d, a, b;"), &two, T::B32, |v| cut(32, low(ty, v[0]) * low(ty, v[1])));
        check(&format!("mul24.hi.{ty} d, a, b;"), &two, T::B32, |v| {
            cut(32, (low(ty, v[0]) * low(ty, v[1])) >> 16)
        });
        check(&format!("mad24.lo.{ty} d, a, b, c;"), &three, T::B32, |v| {
            cut(32, low(ty, v[0]) * low(ty, v[1]) + i128::from(v[2]))
        });
        check(&format!("mad24.hi.{ty} d, a, b, c;"), &three, T::B32, |v| {
            cut(32, ((low(ty, v[0]) * low(ty, v[1])) >> 16) + i128::from(v[2]))
        });
    }
}

#[test]
fn division_and_remainder() {
    for ty in TYPES {
        let n = bits(ty);
        let t = t_of(n);
        let ins = [(t, ints(14)), (t, ints(15))];
        for op in ["div", "rem"] {
            crate::harness::check_if(&format!("{op}.{ty} d, a, b;"), &ins, t, |v| {
                let (a, b) = (int(ty, v[0]), int(ty, v[1]));
                // Division by zero has no specified value.
                (b != 0).then(|| cut(n, if op == "div" { a / b } else { a % b }))
            });
        }
    }
}

#[test]
fn minimum_and_maximum() {
    all_types("min", |a, b, _| a.min(b));
    all_types("max", |a, b, _| a.max(b));
    let ins = [(T::B32, ints(16)), (T::B32, ints(17))];
    check("min.relu.s32 d, a, b;", &ins, T::B32, |v| cut(32, int("s32", v[0]).min(int("s32", v[1])).max(0)));
    check("max.relu.s32 d, a, b;", &ins, T::B32, |v| cut(32, int("s32", v[0]).max(int("s32", v[1])).max(0)));
    for (op, ty) in
        [("min", "s16"), ("max", "s16"), ("min", "u16"), ("max", "u16"), ("add", "s16"), ("add", "u16")]
    {
        check(&format!("{op}.{ty}x2 d, a, b;"), &ins, T::B32, |v| {
            let half = |s: u32| {
                let (a, b) = (int(ty, v[0] >> s), int(ty, v[1] >> s));
                cut(
                    16,
                    match op {
                        "min" => a.min(b),
                        "max" => a.max(b),
                        _ => a + b,
                    },
                )
            };
            half(0) | half(16) << 16
        });
    }
}

#[test]
fn absolute_and_negated() {
    for ty in ["s16", "s32", "s64"] {
        let n = bits(ty);
        let t = t_of(n);
        check(&format!("abs.{ty} d, a;"), &[(t, ints(18))], t, |v| cut(n, int(ty, v[0]).abs()));
        check(&format!("neg.{ty} d, a;"), &[(t, ints(18))], t, |v| cut(n, -int(ty, v[0])));
    }
}

#[test]
fn sum_of_absolute_differences() {
    for ty in TYPES {
        let n = bits(ty);
        let t = t_of(n);
        check(&format!("sad.{ty} d, a, b, c;"), &[(t, ints(19)), (t, ints(20)), (t, ints(21))], t, |v| {
            cut(n, int(ty, v[2]) + (int(ty, v[0]) - int(ty, v[1])).abs())
        });
    }
}

#[test]
fn byte_dot_products_of_every_sign() {
    let ins = [(T::B32, ints(22)), (T::B32, ints(23)), (T::B32, ints(24))];
    for ta in ["u32", "s32"] {
        for tb in ["u32", "s32"] {
            let byte = |t: &str, v: u64, i: u32| int(if t == "s32" { "s8" } else { "u8" }, v >> (8 * i));
            let half = |t: &str, v: u64, i: u32| int(if t == "s32" { "s16" } else { "u16" }, v >> (16 * i));
            check(&format!("dp4a.{ta}.{tb} d, a, b, c;"), &ins, T::B32, |v| {
                cut(
                    32,
                    (0..4).map(|i| byte(ta, v[0], i) * byte(tb, v[1], i)).sum::<i128>() + i128::from(v[2]),
                )
            });
            for (mode, first) in [("lo", 0), ("hi", 2)] {
                check(&format!("dp2a.{mode}.{ta}.{tb} d, a, b, c;"), &ins, T::B32, |v| {
                    let dot: i128 = (0..2).map(|i| half(ta, v[0], i) * byte(tb, v[1], first + i)).sum();
                    cut(32, dot + i128::from(v[2]))
                });
            }
        }
    }
}

#[test]
fn carries_chain_to_wider_sums() {
    // A 64-bit sum and difference from 32-bit halves.
    for (op, f) in [("add", (|a, b| a + b) as fn(i128, i128) -> i128), ("sub", |a, b| a - b)] {
        let body = format!(
            ".reg .b32 %lo, %hi, %alo, %ahi, %blo, %bhi;\n mov.b64 {{%alo, %ahi}}, a;\n mov.b64 {{%blo, %bhi}}, b;\n {op}.cc.u32 %lo, %alo, %blo;\n {op}c.u32 %hi, %ahi, %bhi;\n mov.b64 d, {{%lo, %hi}};"
        );
        check(&body, &[(T::B64, ints(25)), (T::B64, ints(26))], T::B64, |v| {
            cut(64, f(i128::from(v[0]), i128::from(v[1])))
        });
    }
    // The flag of a subtraction is the carry of adding the complement: an addition after it sees "no borrow".
    let body = "sub.cc.u32 d, a, b;\n addc.u32 d, 0, 0;";
    check(body, &[(T::B32, ints(25)), (T::B32, ints(26))], T::B32, |v| u64::from(v[0] >= v[1]));
    // Three words: the carry passes through the middle.
    let body = "add.cc.u64 d, a, b;\n addc.cc.u64 d2, c, e;\n addc.u64 d, 0, 0;";
    let ins = [(T::B64, ints(27)), (T::B64, ints(28)), (T::B64, ints(29)), (T::B64, ints(30))];
    let out = run(Config::default(), body, &ins, &[T::B64, T::B64]);
    for i in 0..out[0].len() {
        let v: Vec<u128> = ins.iter().map(|x| u128::from(x.1[i])).collect();
        let c1 = (v[0] + v[1]) >> 64;
        let mid = v[2] + v[3] + c1;
        assert_eq!(u128::from(out[1][i]), mid & u128::from(u64::MAX));
        assert_eq!(u128::from(out[0][i]), mid >> 64);
    }
    // Full 64-bit product from 32-bit parts: the usual madc sequence.
    let body = ".reg .b32 %p0, %p1;\n mul.lo.u32 %p0, a, b;\n mul.hi.u32 %p1, a, b;\n mad.lo.cc.u32 %p0, a, b, %p0;\n madc.hi.u32 %p1, a, b, %p1;\n mov.b64 d, {%p0, %p1};";
    check(body, &[(T::B32, ints(31)), (T::B32, ints(32))], T::B64, |v| {
        (v[0] as u128 * v[1] as u128 * 2) as u64
    });
}
