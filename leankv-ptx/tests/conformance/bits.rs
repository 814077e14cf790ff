//! Logic, shifts, fields, permutes, counting.

use crate::harness::{T, check, ints, values};

fn small(seed: u64) -> Vec<u64> {
    let mut v: Vec<u64> = (0..70).collect();
    v.extend([127, 128, 255, 256, 257, 0xffff_ffff]);
    values(&v, seed)
}

#[test]
fn logic_of_every_width() {
    for (t, ty, m) in [(T::B16, "b16", 0xffff), (T::B32, "b32", 0xffff_ffff), (T::B64, "b64", u64::MAX)] {
        let ins = [(t, ints(1)), (t, ints(2))];
        check(&format!("and.{ty} d, a, b;"), &ins, t, |v| v[0] & v[1]);
        check(&format!("or.{ty} d, a, b;"), &ins, t, |v| v[0] | v[1]);
        check(&format!("xor.{ty} d, a, b;"), &ins, t, |v| v[0] ^ v[1]);
        check(&format!("not.{ty} d, a;"), &ins[..1], t, |v| !v[0] & m);
        check(&format!("cnot.{ty} d, a;"), &ins[..1], t, |v| u64::from(v[0] == 0));
    }
}

#[test]
fn logic_of_predicates() {
    let bit = |seed| values(&[0, 1], seed).into_iter().map(|v| v & 1).collect::<Vec<_>>();
    let ins = [(T::P, bit(3)), (T::P, bit(4))];
    check("and.pred d, a, b;", &ins, T::P, |v| v[0] & v[1]);
    check("or.pred d, a, !b;", &ins, T::P, |v| v[0] | (1 - v[1]));
    check("xor.pred d, a, b;", &ins, T::P, |v| v[0] ^ v[1]);
    check("not.pred d, a;", &ins[..1], T::P, |v| 1 - v[0]);
    check("mov.pred d, a;", &ins[..1], T::P, |v| v[0]);
    check("mov.pred d, !a;", &ins[..1], T::P, |v| 1 - v[0]);
}

#[test]
fn shifts_clamp_their_amount() {
    for (t, n) in [(T::B16, 16u32), (T::B32, 32), (T::B64, 64)] {
        let m = u64::MAX >> (64 - n);
        let ins = [(t, ints(5)), (T::B32, small(6))];
        check(
            &format!("shl.b{n} d, a, b;"),
            &ins,
            t,
            |v| if v[1] >= n as u64 { 0 } else { v[0] << v[1] & m },
        );
        check(&format!("shr.u{n} d, a, b;"), &ins, t, |v| if v[1] >= n as u64 { 0 } else { v[0] >> v[1] });
        check(&format!("shr.b{n} d, a, b;"), &ins, t, |v| if v[1] >= n as u64 { 0 } else { v[0] >> v[1] });
        check(&format!("shr.s{n} d, a, b;"), &ins, t, |v| {
            let s = ((v[0] << (64 - n)) as i64) >> (64 - n);
            (s >> v[1].min(63)) as u64 & m
        });
    }
}

#[test]
fn funnel_shifts() {
    let ins = [(T::B32, ints(7)), (T::B32, ints(8)), (T::B32, small(9))];
    let pair = |v: &[u64]| u128::from(v[1] << 32 | v[0]);
    check("shf.l.wrap.b32 d, a, b, c;", &ins, T::B32, |v| {
        (pair(v) << (v[2] & 31) >> 32) as u64 & 0xffff_ffff
    });
    check("shf.l.clamp.b32 d, a, b, c;", &ins, T::B32, |v| {
        (pair(v) << v[2].min(32) >> 32) as u64 & 0xffff_ffff
    });
    check("shf.r.wrap.b32 d, a, b, c;", &ins, T::B32, |v| (pair(v) >> (v[2] & 31)) as u64 & 0xffff_ffff);
    check("shf.r.clamp.b32 d, a, b, c;", &ins, T::B32, |v| (pair(v) >> v[2].min(32)) as u64 & 0xffff_ffff);
}

#[test]
fn any_function_of_three_inputs() {
    let ins = [(T::B32, ints(10)), (T::B32, ints(11)), (T::B32, ints(12))];
    for lut in [0x00u32, 0x01, 0x80, 0xfe, 0x96, 0xea, 0xca, 0xe2, 0xf8, 0x1e, 0x6a, 0xd8, 0xff, 0x40] {
        check(&format!("lop3.b32 d, a, b, c, {lut};"), &ins, T::B32, |v| {
            (0..32).fold(0, |o, i| {
                let index = (v[0] >> i & 1) << 2 | (v[1] >> i & 1) << 1 | (v[2] >> i & 1);
                o | u64::from(lut >> index & 1) << i
            })
        });
    }
}

#[test]
fn byte_permutes() {
    let ins = [(T::B32, ints(13)), (T::B32, ints(14)), (T::B32, ints(15))];
    check("prmt.b32 d, a, b, c;", &ins, T::B32, |v| {
        let bytes: Vec<u64> = (0..8).map(|i| (v[1] << 32 | v[0]) >> (8 * i) & 255).collect();
        (0..4).fold(0, |o, i| {
            let sel = v[2] >> (4 * i) & 15;
            let byte = bytes[(sel & 7) as usize];
            let byte = if sel & 8 != 0 { if byte & 128 != 0 { 255 } else { 0 } } else { byte };
            o | byte << (8 * i)
        })
    });
    // The named modes, as byte indices for each selector.
    let tables: [(&str, [[usize; 4]; 4]); 6] = [
        ("f4e", [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]),
        ("b4e", [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]]),
        ("rc8", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecl", [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]),
        ("rc16", [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]),
    ];
    for (mode, table) in tables {
        check(&format!("prmt.b32.{mode} d, a, b, c;"), &ins, T::B32, |v| {
            let all = v[1] << 32 | v[0];
            let row = table[(v[2] & 3) as usize];
            (0..4).fold(0, |o, i| o | (all >> (8 * row[i]) & 255) << (8 * i))
        });
    }
}

#[test]
fn bit_fields_extract_and_insert() {
    for (t, n) in [(T::B32, 32u64), (T::B64, 64)] {
        let ins = [(t, ints(16)), (T::B32, small(17)), (T::B32, small(18))];
        for signed in [false, true] {
            let ty = if signed { 's' } else { 'u' };
            check(&format!("bfe.{ty}{n} d, a, b, c;"), &ins, t, |v| {
                let (pos, len) = (v[1] & 255, v[2] & 255);
                let sign = if !signed || len == 0 { 0 } else { v[0] >> (pos + len - 1).min(n - 1) & 1 };
                // Bit by bit, as the ISA writes it.
                (0..n).fold(0, |o, i| {
                    let bit = if i < len && pos + i < n { v[0] >> (pos + i) & 1 } else { sign };
                    o | bit << i
                })
            });
        }
        let ins = [(t, ints(19)), (t, ints(20)), (T::B32, small(21)), (T::B32, small(22))];
        check(&format!("bfi.b{n} d, a, b, c, e;"), &ins, t, |v| {
            let (pos, len) = (v[2] & 255, v[3] & 255);
            let mut o = v[1];
            for i in 0..len {
                if pos + i < n {
                    o = o & !(1 << (pos + i)) | (v[0] >> i & 1) << (pos + i);
                }
            }
            o
        });
    }
}

#[test]
fn counting_and_finding_bits() {
    for (t, n) in [(T::B32, 32u32), (T::B64, 64)] {
        let ins = [(t, ints(23))];
        check(&format!("popc.b{n} d, a;"), &ins, T::B32, |v| {
            (0..64).filter(|i| v[0] >> i & 1 == 1).count() as u64
        });
        check(&format!("clz.b{n} d, a;"), &ins, T::B32, |v| {
            (0..n).rev().take_while(|i| v[0] >> i & 1 == 0).count() as u64
        });
        check(&format!("brev.b{n} d, a;"), &ins, t, |v| {
            (0..n).fold(0, |o, i| o | (v[0] >> i & 1) << (n - 1 - i))
        });
        for ty in ['u', 's'] {
            let find = |v: u64| {
                let want = if ty == 's' && v >> (n - 1) & 1 == 1 { 0 } else { 1 };
                (0..n).rev().find(|i| v >> i & 1 == want)
            };
            check(&format!("bfind.{ty}{n} d, a;"), &ins, T::B32, |v| {
                find(v[0]).map_or(0xffff_ffff, u64::from)
            });
            check(&format!("bfind.shiftamt.{ty}{n} d, a;"), &ins, T::B32, |v| {
                find(v[0]).map_or(0xffff_ffff, |i| u64::from(n - 1 - i))
            });
        }
    }
}

#[test]
fn nth_set_bit_masks_and_extensions() {
    let offsets = values(&[0, 1, 2, 3, 31, 0xffff_ffff, 0xffff_fffe, 40], 24);
    let base: Vec<u64> = ints(25).into_iter().map(|v| v & 31).collect();
    check("fns.b32 d, a, b, c;", &[(T::B32, ints(26)), (T::B32, base), (T::B32, offsets)], T::B32, |v| {
        let offset = v[2] as u32 as i32;
        let positions: Vec<u64> = (0..32).filter(|i| v[0] >> i & 1 == 1).collect();
        let found = match offset {
            0 => positions.iter().find(|p| **p == v[1]).copied(),
            n if n > 0 => positions.iter().filter(|p| **p >= v[1]).nth(n as usize - 1).copied(),
            n => positions.iter().rev().filter(|p| **p <= v[1]).nth(n.unsigned_abs() as usize - 1).copied(),
        };
        found.unwrap_or(0xffff_ffff)
    });
    let ins = [(T::B32, small(27)), (T::B32, small(28))];
    check("bmsk.clamp.b32 d, a, b;", &ins, T::B32, |v| {
        (0..32).filter(|i| *i >= v[0] && *i < v[0].min(32) + v[1].min(32)).fold(0, |o, i| o | 1 << i)
    });
    check("bmsk.wrap.b32 d, a, b;", &ins, T::B32, |v| {
        (0..32).filter(|i| *i >= v[0] & 31 && *i < (v[0] & 31) + (v[1] & 31)).fold(0, |o, i| o | 1 << i)
    });
    let ins = [(T::B32, ints(29)), (T::B32, small(30))];
    for (mode, ty) in [("clamp", 'u'), ("clamp", 's'), ("wrap", 'u'), ("wrap", 's')] {
        check(&format!("szext.{mode}.{ty}32 d, a, b;"), &ins, T::B32, |v| {
            let n = if mode == "clamp" { v[1].min(32) } else { v[1] & 31 };
            if n == 0 {
                return 0;
            }
            let sign = if ty == 's' { v[0] >> (n - 1) & 1 } else { 0 };
            (0..32).fold(0, |o, i| o | (if i < n { v[0] >> i & 1 } else { sign }) << i)
        });
    }
}

#[test]
fn packing_and_unpacking() {
    let w = [(T::B32, ints(31)), (T::B32, ints(32))];
    check("mov.b64 d, {a, b};", &w, T::B64, |v| v[1] << 32 | v[0]);
    check(
        ".reg .b32 %x, %y;\n mov.b64 {%x, %y}, a;\n mov.b64 d, {%y, %x};",
        &[(T::B64, ints(33))],
        T::B64,
        |v| v[0].rotate_right(32),
    );
    check("mov.b64 {d, _}, a;", &[(T::B64, ints(33))], T::B32, |v| v[0] & 0xffff_ffff);
    check("mov.b32 {%h0, %h1}, a;\n mov.b32 d, {%h1, %h0};", &w[..1], T::B32, |v| {
        (v[0] << 16 | v[0] >> 16) & 0xffff_ffff
    });
    let h = [(T::B16, ints(34)), (T::B16, ints(35)), (T::B16, ints(36)), (T::B16, ints(37))];
    check("mov.b64 d, {a, b, c, e};", &h, T::B64, |v| v[0] | v[1] << 16 | v[2] << 32 | v[3] << 48);
}

#[test]
fn selection() {
    let p: Vec<u64> = ints(38).into_iter().map(|v| v & 1).collect();
    for (t, ty) in [(T::B16, "b16"), (T::B32, "f32"), (T::B32, "s32"), (T::B64, "u64"), (T::B64, "f64")] {
        let ins = [(t, ints(39)), (t, ints(40)), (T::P, p.clone())];
        check(&format!("selp.{ty} d, a, b, c;"), &ins, t, |v| if v[2] == 1 { v[0] } else { v[1] });
        let ins = [(t, ints(39)), (t, ints(40)), (T::B32, ints(41))];
        check(&format!("slct.{ty}.s32 d, a, b, c;"), &ins, t, |v| {
            if (v[2] as u32 as i32) >= 0 { v[0] } else { v[1] }
        });
    }
    let ins = [(T::B32, ints(39)), (T::B32, ints(40)), (T::B32, crate::harness::floats(42))];
    check("slct.b32.f32 d, a, b, c;", &ins, T::B32, |v| {
        if f32::from_bits(v[2] as u32) >= 0.0 { v[0] } else { v[1] }
    });
}

#[test]
fn immediates_take_the_type_of_the_instruction() {
    let a = [(T::B32, ints(43))];
    check("add.s32 d, a, -7;", &a, T::B32, |v| u64::from((v[0] as u32).wrapping_sub(7)));
    check("and.b32 d, a, 0xFF00U;", &a, T::B32, |v| v[0] & 0xff00);
    check("xor.b32 d, a, 0b1011;", &a, T::B32, |v| v[0] ^ 11);
    check("xor.b32 d, a, 017;", &a, T::B32, |v| v[0] ^ 15);
    check("add.s32 d, a, (3 + 4) * 2 - (1 << 3);", &a, T::B32, |v| u64::from((v[0] as u32).wrapping_add(6)));
    check("mov.f32 d, 1.5;\n mov.b32 %w, a;", &a, T::B32, |_| 0x3fc0_0000);
    check("mov.f32 d, 0f40490FDB;\n mov.b32 %w, a;", &a, T::B32, |_| 0x4049_0fdb);
    check("mov.f64 d, 0d400921FB54442D18;\n mov.b32 %w, a;", &a, T::B64, |_| std::f64::consts::PI.to_bits());
    check("mov.u32 d, WARP_SZ;\n mov.b32 %w, a;", &a, T::B32, |_| 32);
}
