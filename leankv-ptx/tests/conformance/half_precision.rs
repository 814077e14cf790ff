//! f16 and bf16 arithmetic, against a table of all values of the format.

use crate::harness::{T, check, halves};
use crate::reference::{R, Table, two_sum};

fn nan16(v: u64) -> u64 {
    v
}

/// Applies a scalar rule to one or both halves.
fn packed(n: usize, v: &[u64], f: &dyn Fn(&[u64]) -> u64) -> u64 {
    (0..n).fold(0, |o, i| {
        let part: Vec<u64> = v.iter().map(|x| x >> (16 * i) & 0xffff).collect();
        o | f(&part) << (16 * i)
    })
}

fn flush(v: u64, mask: u64) -> u64 {
    if v & mask == 0 { v & 0x8000 } else { v }
}

struct Form {
    ty: &'static str,
    n: usize,
    t: T,
    table: fn() -> Table,
    /// Exponent bits of the format.
    exp: u64,
}

const FORMS: [Form; 4] = [
    Form { ty: "f16", n: 1, t: T::B16, table: Table::f16, exp: 0x7c00 },
    Form { ty: "f16x2", n: 2, t: T::B32, table: Table::f16, exp: 0x7c00 },
    Form { ty: "bf16", n: 1, t: T::B16, table: Table::bf16, exp: 0x7f80 },
    Form { ty: "bf16x2", n: 2, t: T::B32, table: Table::bf16, exp: 0x7f80 },
];

#[test]
fn add_sub_mul_round_once() {
    for form in FORMS {
        let table = (form.table)();
        let ins = [(form.t, halves(1)), (form.t, halves(2))];
        for (name, sign) in [("add", 1.0), ("sub", -1.0)] {
            let rule = |v: &[u64]| {
                let (a, b) = (table.value(v[0]), sign * table.value(v[1]));
                let (hi, lo) = two_sum(a, b);
                if hi == 0.0 && lo == 0.0 {
                    let both = a.is_sign_negative() && b.is_sign_negative();
                    return if both { 0x8000 } else { 0 };
                }
                nan16(table.round(
                    if hi.is_nan() { f64::NAN } else { hi },
                    if lo.is_nan() { 0.0 } else { lo },
                    R::N,
                ))
            };
            check(&format!("{name}.{} d, a, b;", form.ty), &ins, form.t, |v| packed(form.n, v, &rule));
            check(&format!("{name}.rn.{} d, a, b;", form.ty), &ins, form.t, |v| packed(form.n, v, &rule));
        }
        let rule = |v: &[u64]| table.round(table.value(v[0]) * table.value(v[1]), 0.0, R::N);
        check(&format!("mul.{} d, a, b;", form.ty), &ins, form.t, |v| packed(form.n, v, &rule));
        if form.ty.starts_with('f') {
            check(&format!("mul.ftz.{} d, a, b;", form.ty), &ins, form.t, |v| {
                packed(form.n, v, &|v| {
                    let z: Vec<u64> = v.iter().map(|x| flush(*x, form.exp)).collect();
                    flush(rule(&z), form.exp)
                })
            });
            check(&format!("add.sat.{} d, a, b;", form.ty), &ins, form.t, |v| {
                packed(form.n, v, &|v| {
                    let s = table.value(v[0]) + table.value(v[1]);
                    if s.is_nan() || s <= 0.0 { 0 } else { table.round(s.min(1.0), 0.0, R::N) }
                })
            });
        }
    }
}

#[test]
fn fused_multiply_add_rounds_once() {
    for form in FORMS {
        let table = (form.table)();
        let ins = [(form.t, halves(3)), (form.t, halves(4)), (form.t, halves(5))];
        let rule = |v: &[u64]| {
            let (a, b, c) = (table.value(v[0]), table.value(v[1]), table.value(v[2]));
            let p = a * b;
            let (hi, lo) = two_sum(p, c);
            if hi == 0.0 && lo == 0.0 {
                let both = p.is_sign_negative() && c.is_sign_negative();
                return if both { 0x8000 } else { 0 };
            }
            table.round(hi, if lo.is_nan() { 0.0 } else { lo }, R::N)
        };
        check(&format!("fma.rn.{} d, a, b, c;", form.ty), &ins, form.t, |v| packed(form.n, v, &rule));
        check(&format!("fma.rn.relu.{} d, a, b, c;", form.ty), &ins, form.t, |v| {
            packed(form.n, v, &|v| {
                let o = rule(v);
                if o & 0x7fff > form.exp {
                    0x7fff
                } else if o & 0x8000 != 0 {
                    0
                } else {
                    o
                }
            })
        });
    }
}

#[test]
fn minimum_and_maximum_of_halves() {
    for form in FORMS {
        let table = (form.table)();
        let ins = [(form.t, halves(6)), (form.t, halves(7))];
        for (name, max) in [("min", false), ("max", true)] {
            let pick = |v: &[u64], nan: bool| {
                let (a, b) = (table.value(v[0]), table.value(v[1]));
                match (a.is_nan(), b.is_nan()) {
                    (true, true) => 0x7fff,
                    (true, _) | (_, true) if nan => 0x7fff,
                    (true, false) => v[1],
                    (false, true) => v[0],
                    _ if (a.total_cmp(&b) == std::cmp::Ordering::Greater) == max => v[0],
                    _ => v[1],
                }
            };
            check(&format!("{name}.{} d, a, b;", form.ty), &ins, form.t, |v| {
                packed(form.n, v, &|v| pick(v, false))
            });
            check(&format!("{name}.NaN.{} d, a, b;", form.ty), &ins, form.t, |v| {
                packed(form.n, v, &|v| pick(v, true))
            });
        }
    }
}

#[test]
fn sign_operations_of_halves() {
    for form in FORMS {
        let ins = [(form.t, halves(8))];
        let all = if form.n == 2 { 0x8000_8000 } else { 0x8000 };
        check(&format!("neg.{} d, a;", form.ty), &ins, form.t, |v| v[0] ^ all);
        check(&format!("abs.{} d, a;", form.ty), &ins, form.t, |v| v[0] & !all);
    }
}

#[test]
fn comparisons_of_halves() {
    for form in &FORMS[..] {
        let table = (form.table)();
        let ins = [(form.t, halves(9)), (form.t, halves(10))];
        for (name, op) in
            [("lt", (|a, b| a < b) as fn(f64, f64) -> bool), ("ge", |a, b| a >= b), ("eq", |a, b| a == b)]
        {
            let at = |v: &[u64], i: u32| u64::from(op(table.value(v[0] >> i), table.value(v[1] >> i)));
            if form.n == 1 {
                check(&format!("setp.{name}.{} d, a, b;", form.ty), &ins, T::P, |v| at(v, 0));
            } else {
                let got = crate::harness::run(
                    Default::default(),
                    &format!("setp.{name}.{} d|d2, a, b;", form.ty),
                    &ins,
                    &[T::P, T::P],
                );
                for i in 0..got[0].len() {
                    let v = [ins[0].1[i], ins[1].1[i]];
                    assert_eq!((got[0][i], got[1][i]), (at(&v, 0), at(&v, 16)), "{} {name}", form.ty);
                }
            }
        }
    }
}

#[test]
fn set_writes_each_half_of_a_pair() {
    for (ty, table, one) in [("f16x2", Table::f16(), 0x3c00), ("bf16x2", Table::bf16(), 0x3f80)] {
        let ins = [
            (T::B32, halves(1)),
            (T::B32, halves(2)),
            (T::P, halves(3).into_iter().map(|v| v & 1).collect()),
        ];
        let compare = |op: &str, a: u64, b: u64| {
            let (a, b) = (table.value(a), table.value(b));
            let unordered = a.is_nan() || b.is_nan();
            match op {
                "eq" => a == b,
                "ne" => !unordered && a != b,
                "ltu" => unordered || a < b,
                "ge" => a >= b,
                "num" => !unordered,
                _ => unordered,
            }
        };
        for op in ["eq", "ne", "ltu", "ge", "num", "nan"] {
            for (dst, yes) in [(ty, one), ("u32", 0xffff), ("s32", 0xffff)] {
                check(&format!("set.{op}.{dst}.{ty} d, a, b;"), &ins[..2], T::B32, |v| {
                    packed(2, v, &|v| if compare(op, v[0], v[1]) { yes } else { 0 })
                });
                check(&format!("set.{op}.and.{dst}.{ty} d, a, b, !c;"), &ins, T::B32, |v| {
                    packed(2, &v[..2], &|h| if compare(op, h[0], h[1]) && v[2] & 1 == 0 { yes } else { 0 })
                });
            }
        }
    }
}

#[test]
fn singles_and_halves_in_every_rounding() {
    use crate::harness::floats;
    use crate::reference::{MODES, add, canon, f, fma, sat};
    for (ty, table) in [("f16", Table::f16()), ("bf16", Table::bf16())] {
        let half = |v: u64| table.value(v & 0xffff) as f32;
        let two = [(T::B16, halves(1)), (T::B32, floats(2))];
        let three = [(T::B16, halves(3)), (T::B16, halves(4)), (T::B32, floats(5))];
        for (mode, r) in MODES {
            check(&format!("add.{mode}.f32.{ty} d, a, b;"), &two, T::B32, |v| {
                canon(add(half(v[0]), f(v[1]), r))
            });
            check(&format!("sub.{mode}.f32.{ty} d, a, b;"), &two, T::B32, |v| {
                canon(add(half(v[0]), -f(v[1]), r))
            });
            check(&format!("sub.{mode}.sat.f32.{ty} d, a, b;"), &two, T::B32, |v| {
                canon(sat(add(half(v[0]), -f(v[1]), r)))
            });
            check(&format!("fma.{mode}.f32.{ty} d, a, b, c;"), &three, T::B32, |v| {
                canon(fma(half(v[0]), half(v[1]), f(v[2]), r))
            });
            check(&format!("fma.{mode}.sat.f32.{ty} d, a, b, c;"), &three, T::B32, |v| {
                canon(sat(fma(half(v[0]), half(v[1]), f(v[2]), r)))
            });
        }
        check(&format!("add.f32.{ty} d, a, b;"), &two, T::B32, |v| canon(add(half(v[0]), f(v[1]), R::N)));
    }
}
