//! Single- and double-precision arithmetic: every rounding, flush, saturation, NaN and zero rule.

use crate::harness::{T, check, check_if, doubles, floats};
use crate::reference::{MODES, R, add, canon, div, f, fma, ftz, mul, sat, sqrt};

fn two() -> [(T, Vec<u64>); 2] {
    [(T::B32, floats(1)), (T::B32, floats(2))]
}

fn three() -> [(T, Vec<u64>); 3] {
    [(T::B32, floats(3)), (T::B32, floats(4)), (T::B32, floats(5))]
}

type Op2 = fn(f32, f32, R) -> f32;

#[test]
fn add_sub_mul_in_every_rounding_and_modifier() {
    let ops: [(&str, Op2); 3] = [("add", add), ("sub", |a, b, r| add(a, -b, r)), ("mul", mul)];
    for (name, op) in ops {
        for (mode, r) in MODES {
            check(&format!("{name}.{mode}.f32 d, a, b;"), &two(), T::B32, |v| canon(op(f(v[0]), f(v[1]), r)));
            check(&format!("{name}.{mode}.ftz.f32 d, a, b;"), &two(), T::B32, |v| {
                canon(ftz(op(ftz(f(v[0])), ftz(f(v[1])), r)))
            });
            check(&format!("{name}.{mode}.sat.f32 d, a, b;"), &two(), T::B32, |v| {
                canon(sat(op(f(v[0]), f(v[1]), r)))
            });
        }
        check(&format!("{name}.f32 d, a, b;"), &two(), T::B32, |v| canon(op(f(v[0]), f(v[1]), R::N)));
        check(&format!("{name}.ftz.f32 d, a, b;"), &two(), T::B32, |v| {
            canon(ftz(op(ftz(f(v[0])), ftz(f(v[1])), R::N)))
        });
    }
}

#[test]
fn fused_multiply_add_in_every_rounding_and_modifier() {
    for (mode, r) in MODES {
        check(&format!("fma.{mode}.f32 d, a, b, c;"), &three(), T::B32, |v| {
            canon(fma(f(v[0]), f(v[1]), f(v[2]), r))
        });
        check(&format!("fma.{mode}.ftz.f32 d, a, b, c;"), &three(), T::B32, |v| {
            canon(ftz(fma(ftz(f(v[0])), ftz(f(v[1])), ftz(f(v[2])), r)))
        });
        check(&format!("fma.{mode}.sat.f32 d, a, b, c;"), &three(), T::B32, |v| {
            canon(sat(fma(f(v[0]), f(v[1]), f(v[2]), r)))
        });
    }
    check("mad.rn.f32 d, a, b, c;", &three(), T::B32, |v| canon(fma(f(v[0]), f(v[1]), f(v[2]), R::N)));
}

#[test]
fn packed_pairs_of_singles() {
    let pair = |s| floats(s).into_iter().zip(floats(s + 50)).map(|(a, b)| a | b << 32).collect::<Vec<_>>();
    let ins = [(T::B64, pair(6)), (T::B64, pair(7)), (T::B64, pair(8))];
    let both = |v: &[u64], op: &dyn Fn(f32, f32, f32) -> f32| {
        let one = |s: u32| canon(op(f(v[0] >> s), f(v[1] >> s), f(v[2] >> s)));
        one(0) | one(32) << 32
    };
    check("add.rn.f32x2 d, a, b;\n mov.b64 %u0, c;", &ins, T::B64, |v| both(v, &|a, b, _| add(a, b, R::N)));
    check("mul.rz.f32x2 d, a, b;\n mov.b64 %u0, c;", &ins, T::B64, |v| both(v, &|a, b, _| mul(a, b, R::Z)));
    check("fma.rn.f32x2 d, a, b, c;", &ins, T::B64, |v| both(v, &|a, b, c| fma(a, b, c, R::N)));
}

#[test]
fn exact_division_reciprocal_and_root() {
    for (mode, r) in MODES {
        check(&format!("div.{mode}.f32 d, a, b;"), &two(), T::B32, |v| canon(div(f(v[0]), f(v[1]), r)));
        check(&format!("div.{mode}.ftz.f32 d, a, b;"), &two(), T::B32, |v| {
            canon(ftz(div(ftz(f(v[0])), ftz(f(v[1])), r)))
        });
        check(&format!("div.ftz.{mode}.f32 d, a, b;"), &two(), T::B32, |v| {
            canon(ftz(div(ftz(f(v[0])), ftz(f(v[1])), r)))
        });
        check(&format!("rcp.{mode}.f32 d, a;"), &two()[..1], T::B32, |v| canon(div(1.0, f(v[0]), r)));
        check(&format!("sqrt.{mode}.f32 d, a;"), &two()[..1], T::B32, |v| canon(sqrt(f(v[0]), r)));
        check(&format!("sqrt.{mode}.ftz.f32 d, a;"), &two()[..1], T::B32, |v| {
            canon(ftz(sqrt(ftz(f(v[0])), r)))
        });
    }
}

fn min_max(a: f32, b: f32, max: bool, nan: bool) -> f32 {
    if a.is_nan() && b.is_nan() || nan && (a.is_nan() || b.is_nan()) {
        return f32::NAN;
    }
    if a.is_nan() {
        return b;
    }
    if b.is_nan() {
        return a;
    }
    // A total order in which -0 is below +0.
    if (a.total_cmp(&b) == std::cmp::Ordering::Greater) == max { a } else { b }
}

#[test]
fn minimum_and_maximum_of_singles() {
    for (name, max) in [("min", false), ("max", true)] {
        check(&format!("{name}.f32 d, a, b;"), &two(), T::B32, |v| {
            canon(min_max(f(v[0]), f(v[1]), max, false))
        });
        check(&format!("{name}.NaN.f32 d, a, b;"), &two(), T::B32, |v| {
            canon(min_max(f(v[0]), f(v[1]), max, true))
        });
        check(&format!("{name}.ftz.f32 d, a, b;"), &two(), T::B32, |v| {
            canon(min_max(ftz(f(v[0])), ftz(f(v[1])), max, false))
        });
        check(&format!("{name}.xorsign.abs.f32 d, a, b;"), &two(), T::B32, |v| {
            let m = min_max(f(v[0]).abs(), f(v[1]).abs(), max, false);
            if m.is_nan() {
                return canon(m);
            }
            canon(m) | (v[0] ^ v[1]) & 0x8000_0000
        });
        check(&format!("{name}.f32 d, a, b, c;"), &three(), T::B32, |v| {
            canon(min_max(min_max(f(v[0]), f(v[1]), max, false), f(v[2]), max, false))
        });
    }
}

#[test]
fn sign_operations() {
    let a = &two()[..1];
    check("neg.f32 d, a;", a, T::B32, |v| v[0] ^ 0x8000_0000);
    check("abs.f32 d, a;", a, T::B32, |v| v[0] & 0x7fff_ffff);
    check("neg.ftz.f32 d, a;", a, T::B32, |v| u64::from(ftz(f(v[0])).to_bits() ^ 0x8000_0000));
    check("abs.ftz.f32 d, a;", a, T::B32, |v| u64::from(ftz(f(v[0])).to_bits() & 0x7fff_ffff));
    check("copysign.f32 d, a, b;", &two(), T::B32, |v| v[0] & 0x8000_0000 | v[1] & 0x7fff_ffff);
}

#[test]
fn doubles_in_nearest_rounding() {
    let d = |v: u64| f64::from_bits(v);
    let canon = |v: f64| if v.is_nan() { 0x7ff8_0000_0000_0000 } else { v.to_bits() };
    let two = [(T::B64, doubles(11)), (T::B64, doubles(12))];
    let three = [(T::B64, doubles(11)), (T::B64, doubles(12)), (T::B64, doubles(13))];
    check("add.f64 d, a, b;", &two, T::B64, |v| canon(d(v[0]) + d(v[1])));
    check("sub.rn.f64 d, a, b;", &two, T::B64, |v| canon(d(v[0]) - d(v[1])));
    check("mul.f64 d, a, b;", &two, T::B64, |v| canon(d(v[0]) * d(v[1])));
    check("div.rn.f64 d, a, b;", &two, T::B64, |v| canon(d(v[0]) / d(v[1])));
    check("fma.rn.f64 d, a, b, c;", &three, T::B64, |v| canon(d(v[0]).mul_add(d(v[1]), d(v[2]))));
    check("sqrt.rn.f64 d, a;", &two[..1], T::B64, |v| canon(d(v[0]).sqrt()));
    check("rcp.rn.f64 d, a;", &two[..1], T::B64, |v| canon(1.0 / d(v[0])));
    check("neg.f64 d, a;", &two[..1], T::B64, |v| v[0] ^ 1 << 63);
    check("abs.f64 d, a;", &two[..1], T::B64, |v| v[0] & !(1 << 63));
    check("copysign.f64 d, a, b;", &two, T::B64, |v| v[0] & 1 << 63 | v[1] & !(1 << 63));
    for (name, max) in [("min", false), ("max", true)] {
        check(&format!("{name}.f64 d, a, b;"), &two, T::B64, |v| {
            let (a, b) = (d(v[0]), d(v[1]));
            match (a.is_nan(), b.is_nan()) {
                (true, true) => canon(a),
                (true, false) => v[1],
                (false, true) => v[0],
                _ if (a.total_cmp(&b) == std::cmp::Ordering::Greater) == max => v[0],
                _ => v[1],
            }
        });
    }
}

#[test]
fn doubles_in_directed_roundings_bracket_the_exact_result() {
    // Error-free transformations give the exact remainder of a nearest result wherever nothing over- or
    // underflows; the directed result is then the nearest one or its neighbour.
    let ordinary = |v: f64| v.is_finite() && v.abs() > 1e-140 && v.abs() < 1e140;
    let step = |near: f64, err: f64, r: R| {
        let toward_zero = |v: f64| if v > 0.0 { v.next_down() } else { v.next_up() };
        match r {
            R::N => near,
            R::M if err < 0.0 => near.next_down(),
            R::P if err > 0.0 => near.next_up(),
            R::Z if err != 0.0 && (err < 0.0) == (near > 0.0) => toward_zero(near),
            _ => near,
        }
    };
    let ins = [(T::B64, doubles(14)), (T::B64, doubles(15))];
    for (mode, r) in MODES {
        check_if(&format!("add.{mode}.f64 d, a, b;"), &ins, T::B64, |v| {
            let (a, b) = (f64::from_bits(v[0]), f64::from_bits(v[1]));
            if !ordinary(a) || !ordinary(b) {
                return None;
            }
            let (s, e) = crate::reference::two_sum(a, b);
            (s != 0.0).then(|| step(s, e, r).to_bits())
        });
        check_if(&format!("mul.{mode}.f64 d, a, b;"), &ins, T::B64, |v| {
            let (a, b) = (f64::from_bits(v[0]), f64::from_bits(v[1]));
            if !ordinary(a) || !ordinary(b) {
                return None;
            }
            let p = a * b;
            Some(step(p, a.mul_add(b, -p), r).to_bits())
        });
        check_if(&format!("div.{mode}.f64 d, a, b;"), &ins, T::B64, |v| {
            let (a, b) = (f64::from_bits(v[0]), f64::from_bits(v[1]));
            if !ordinary(a) || !ordinary(b) {
                return None;
            }
            let q = a / b;
            Some(step(q, (-q).mul_add(b, a) * b.signum(), r).to_bits())
        });
        check_if(&format!("sqrt.{mode}.f64 d, a;"), &ins[..1], T::B64, |v| {
            let a = f64::from_bits(v[0]);
            if !ordinary(a) || a < 0.0 {
                return None;
            }
            let q = a.sqrt();
            Some(step(q, (-q).mul_add(q, a), r).to_bits())
        });
    }
}

/// Approximate functions: within the stated bound of the true value.
fn approx(body: &str, ins: &[(T, Vec<u64>)], ulps: f64, absolute: f64, want: impl Fn(f64, f64) -> f64) {
    let got = &crate::harness::run(leankv_ptx::Config::default(), body, ins, &[T::B32])[0];
    for (i, g) in got.iter().enumerate() {
        let (a, b) = (f(ins[0].1[i]), ins.get(1).map_or(0.0, |x| f(x.1[i])));
        let w = want(f64::from(a), f64::from(b));
        let g = f(*g);
        if w.is_nan() {
            assert!(g.is_nan(), "{body} of {a} {b}: {g}");
            continue;
        }
        let near = w as f32;
        if near.is_infinite() || near == 0.0 || near.is_subnormal() {
            let tiny = g == near || (g - near).abs() < 1e-37;
            assert!(tiny, "{body} of {a} {b}: {g}, want {w}");
            continue;
        }
        let ulp = f64::from(near.abs().next_up() - near.abs());
        let err = (f64::from(g) - w).abs();
        assert!(err <= ulps * ulp + absolute, "{body} of {a:e} {b:e}: {g:e}, want {w:e}");
    }
}

#[test]
fn approximate_functions_stay_within_their_bounds() {
    let moderate: Vec<u64> = floats(21)
        .into_iter()
        .map(|v| u64::from((f(v) % 100.0).to_bits()))
        .filter(|v| f(*v).is_finite())
        .chain(std::iter::repeat(0x3f80_0000))
        .take(512)
        .collect();
    let one = [(T::B32, moderate.clone())];
    let two = [
        (T::B32, moderate),
        (T::B32, floats(22).into_iter().map(|v| v & 0xbfff_ffff | 0x3000_0000).collect()),
    ];
    approx("rcp.approx.f32 d, a;", &one, 1.0, 0.0, |a, _| 1.0 / a);
    approx("rcp.approx.ftz.f32 d, a;", &one, 1.0, 0.0, |a, _| 1.0 / f64::from(ftz(a as f32)));
    approx("sqrt.approx.f32 d, a;", &one, 1.0, 0.0, |a, _| a.sqrt());
    approx("rsqrt.approx.f32 d, a;", &one, 2.0, 0.0, |a, _| {
        if a == 0.0 { f64::INFINITY.copysign(a) } else { 1.0 / a.sqrt() }
    });
    approx("ex2.approx.f32 d, a;", &one, 2.0, 0.0, |a, _| a.exp2());
    approx("ex2.approx.ftz.f32 d, a;", &one, 2.0, 0.0, |a, _| a.exp2());
    approx("lg2.approx.f32 d, a;", &one, 1.0, 2.4e-7, |a, _| a.log2());
    approx("sin.approx.f32 d, a;", &one, 0.0, 5e-7, |a, _| a.sin());
    approx("cos.approx.f32 d, a;", &one, 0.0, 5e-7, |a, _| a.cos());
    approx("tanh.approx.f32 d, a;", &one, 4096.0, 0.0, |a, _| a.tanh());
    approx("div.full.f32 d, a, b;", &two, 2.0, 0.0, |a, b| a / b);
    approx("div.approx.f32 d, a, b;", &two, 2.0, 0.0, |a, b| a / b);
}

#[test]
fn perturbed_functions_differ_but_stay_within_their_bounds() {
    let ins = [(
        T::B32,
        floats(23)
            .into_iter()
            .map(|v| u64::from((f(v) % 10.0).to_bits()))
            .filter(|v| !f(*v).is_nan())
            .chain(std::iter::repeat(0x4040_0000))
            .take(512)
            .collect::<Vec<_>>(),
    )];
    let mut config = leankv_ptx::Config { approx_seed: 7, ..Default::default() };
    let moved = crate::harness::run(config.clone(), "ex2.approx.f32 d, a;", &ins, &[T::B32]);
    config.approx_seed = 0;
    let exact = crate::harness::run(config, "ex2.approx.f32 d, a;", &ins, &[T::B32]);
    let mut differ = 0;
    for (m, e) in moved[0].iter().zip(&exact[0]) {
        let distance = (*m as i64 - *e as i64).abs();
        assert!(distance <= 2, "{m:x} against {e:x}");
        differ += usize::from(distance > 0);
    }
    assert!(differ > 100, "only {differ} of 512 results moved");
}

#[test]
fn comparisons_of_singles_and_doubles() {
    let unordered = |a: f32, b: f32| a.is_nan() || b.is_nan();
    let ops: [(&str, fn(f32, f32) -> bool); 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    let dbl = [(T::B64, doubles(16)), (T::B64, doubles(17))];
    for (name, op) in ops {
        check(&format!("setp.{name}.f32 d, a, b;"), &two(), T::P, |v| {
            u64::from(!unordered(f(v[0]), f(v[1])) && op(f(v[0]), f(v[1])))
        });
        check(&format!("setp.{name}u.f32 d, a, b;"), &two(), T::P, |v| {
            u64::from(unordered(f(v[0]), f(v[1])) || op(f(v[0]), f(v[1])))
        });
        check(&format!("setp.{name}.ftz.f32 d, a, b;"), &two(), T::P, |v| {
            let (a, b) = (ftz(f(v[0])), ftz(f(v[1])));
            u64::from(!unordered(a, b) && op(a, b))
        });
        check(&format!("setp.{name}.f64 d, a, b;"), &dbl, T::P, |v| {
            let (a, b) = (f64::from_bits(v[0]), f64::from_bits(v[1]));
            let Some(o) = a.partial_cmp(&b) else { return 0 };
            u64::from(op(o as i8 as f32, 0.0))
        });
    }
    check("setp.num.f32 d, a, b;", &two(), T::P, |v| u64::from(!unordered(f(v[0]), f(v[1]))));
    check("setp.nan.f32 d, a, b;", &two(), T::P, |v| u64::from(unordered(f(v[0]), f(v[1]))));
}

#[test]
fn classes_of_floats() {
    let a = &two()[..1];
    check("testp.finite.f32 d, a;", a, T::P, |v| u64::from(v[0] >> 23 & 255 != 255));
    check("testp.infinite.f32 d, a;", a, T::P, |v| u64::from(v[0] & 0x7fff_ffff == 0x7f80_0000));
    check("testp.number.f32 d, a;", a, T::P, |v| u64::from(v[0] & 0x7fff_ffff <= 0x7f80_0000));
    check("testp.notanumber.f32 d, a;", a, T::P, |v| u64::from(v[0] & 0x7fff_ffff > 0x7f80_0000));
    check("testp.subnormal.f32 d, a;", a, T::P, |v| {
        u64::from(v[0] >> 23 & 255 == 0 && v[0] & 0x7f_ffff != 0)
    });
    check("testp.normal.f32 d, a;", a, T::P, |v| {
        u64::from((v[0] >> 23 & 255 != 255 && v[0] >> 23 & 255 != 0) || v[0] & 0x7fff_ffff == 0)
    });
}

#[test]
fn integer_comparisons_and_their_combinations() {
    use crate::harness::ints;
    use crate::integer_value as int;
    for ty in ["u16", "s16", "u32", "s32", "u64", "s64"] {
        let t = match &ty[1..] {
            "16" => T::B16,
            "32" => T::B32,
            _ => T::B64,
        };
        let ins = [(t, ints(31)), (t, ints(32))];
        let ops: [(&str, fn(i128, i128) -> bool); 6] = [
            ("eq", |a, b| a == b),
            ("ne", |a, b| a != b),
            ("lt", |a, b| a < b),
            ("le", |a, b| a <= b),
            ("gt", |a, b| a > b),
            ("ge", |a, b| a >= b),
        ];
        for (name, op) in ops {
            check(&format!("setp.{name}.{ty} d, a, b;"), &ins, T::P, |v| {
                u64::from(op(int(ty, v[0]), int(ty, v[1])))
            });
        }
    }
    let ins = [(T::B32, ints(33)), (T::B32, ints(34)), (T::P, ints(35).into_iter().map(|v| v & 1).collect())];
    for (name, f) in
        [("and", (|a, b| a & b) as fn(u64, u64) -> u64), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)]
    {
        check(&format!("setp.lo.{name}.u32 d, a, b, c;"), &ins, T::P, |v| f(u64::from(v[0] < v[1]), v[2]));
        check(&format!("setp.hs.{name}.u32 d, a, b, !c;"), &ins, T::P, |v| {
            f(u64::from(v[0] >= v[1]), 1 - v[2])
        });
        check(&format!("set.gt.{name}.u32.u32 d, a, b, c;"), &ins, T::B32, |v| {
            if f(u64::from(v[0] > v[1]), v[2]) == 1 { 0xffff_ffff } else { 0 }
        });
    }
    check("set.eq.f32.s32 d, a, b;\n mov.pred %q0, c;", &ins, T::B32, |v| {
        if v[0] == v[1] { 0x3f80_0000 } else { 0 }
    });
    // Both outputs: q is the complement before the combination.
    let both = crate::harness::run(Default::default(), "setp.lt.or.s32 d|d2, a, b, c;", &ins, &[T::P, T::P]);
    for i in 0..both[0].len() {
        let less = u64::from((ins[0].1[i] as i32) < (ins[1].1[i] as i32));
        let c = ins[2].1[i];
        assert_eq!((both[0][i], both[1][i]), (less | c, (1 - less) | c));
    }
}
