//! Shuffles, votes, matches, reductions, masks.

use crate::harness::Rng;
use crate::matrix::warp;
use leankv_ptx::{Config, Divergence};

fn random(seed: u64) -> [u32; 32] {
    let mut r = Rng(seed | 1);
    std::array::from_fn(|_| (r.next() >> 20) as u32)
}

/// The ISA's pseudo-code of shfl for one lane: source lane and predicate.
fn source(mode: &str, lane: i32, b: i32, c: i32) -> (usize, bool) {
    let (bval, cval, mask) = (b & 31, c & 31, c >> 8 & 31);
    let max = (lane & mask) | (cval & !mask);
    let min = lane & mask;
    let (j, p) = match mode {
        "up" => (lane - bval, lane - bval >= max),
        "down" => (lane + bval, lane + bval <= max),
        "bfly" => (lane ^ bval, (lane ^ bval) <= max),
        _ => {
            let j = min | (bval & !mask);
            (j, j <= max)
        }
    };
    (if p { j as usize } else { lane as usize }, p)
}

#[test]
fn shuffles_of_every_mode_and_segment() {
    let v = random(1);
    for mode in ["up", "down", "bfly", "idx"] {
        for width in [32, 16, 8, 4] {
            for b in [0, 1, 3, 7, 16, 31] {
                let c = (32 - width) << 8 | if mode == "up" { 0 } else { 31 };
                let body = format!(
                    "shfl.sync.{mode}.b32 %o0|%p0, %i0, {b}, {c}, 0xffffffff;\n selp.b32 %o1, 1, 0, %p0;"
                );
                for divergence in [Divergence::Reconverge, Divergence::Independent] {
                    let out = warp(&body, 2, &[v], Config { divergence, seed: 5, ..Config::default() });
                    for l in 0..32 {
                        let (j, p) = source(mode, l as i32, b, c);
                        assert_eq!(
                            (out[0][l], out[1][l]),
                            (v[j], u32::from(p)),
                            "{mode} width {width} b {b} lane {l}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn shuffles_by_a_different_lane_each() {
    let (v, idx) = (random(2), random(3));
    let out = warp("shfl.sync.idx.b32 %o0, %i0, %i1, 31, -1;", 1, &[v, idx], Config::default());
    for l in 0..32 {
        assert_eq!(out[0][l], v[(idx[l] & 31) as usize]);
    }
}

#[test]
fn votes_of_every_mode() {
    for bits in [0u32, 1, 0x8000_0000, 0xffff_ffff, 0x0f0f_1234] {
        let v: [u32; 32] = std::array::from_fn(|l| bits >> l & 1);
        let body = "setp.ne.u32 %p0, %i0, 0;\n vote.sync.ballot.b32 %o0, %p0, 0xffffffff;\n vote.sync.all.pred %p1, %p0, 0xffffffff;\n selp.b32 %o1, 1, 0, %p1;\n \
                    vote.sync.any.pred %p1, %p0, 0xffffffff;\n selp.b32 %o2, 1, 0, %p1;\n vote.sync.uni.pred %p1, !%p0, 0xffffffff;\n selp.b32 %o3, 1, 0, %p1;";
        let out = warp(body, 4, &[v], Config::default());
        for l in 0..32 {
            assert_eq!(out[0][l], bits);
            assert_eq!(out[1][l], u32::from(bits == u32::MAX));
            assert_eq!(out[2][l], u32::from(bits != 0));
            assert_eq!(out[3][l], u32::from(bits == 0 || bits == u32::MAX));
        }
    }
}

#[test]
fn matches_find_equal_lanes() {
    let v: [u32; 32] = std::array::from_fn(|l| (l as u32 * 7) % 5);
    let out = warp("match.any.sync.b32 %o0, %i0, 0xffffffff;", 1, &[v], Config::default());
    for l in 0..32 {
        let want = (0..32).filter(|k| v[*k] == v[l]).fold(0u32, |m, k| m | 1 << k);
        assert_eq!(out[0][l], want);
    }
    let body = "match.all.sync.b32 %o0|%p0, %i0, 0xffffffff;\n selp.b32 %o1, 1, 0, %p0;\n mov.b64 %wide, {%i1, %i1};\n match.all.sync.b64 %o2|%p0, %wide, 0xffffffff;";
    let out = warp(body, 3, &[v, [9; 32]], Config::default());
    assert_eq!((out[0][3], out[1][3], out[2][3]), (0, 0, u32::MAX));
}

#[test]
fn reductions_over_the_warp() {
    let v = random(4);
    let s = v.map(|x| x as i32);
    let fold = |f: fn(u32, u32) -> u32| v.iter().copied().reduce(f).unwrap();
    for (op, want) in [
        ("add.u32", fold(u32::wrapping_add)),
        ("add.s32", fold(u32::wrapping_add)),
        ("min.u32", *v.iter().min().unwrap()),
        ("max.u32", *v.iter().max().unwrap()),
        ("min.s32", *s.iter().min().unwrap() as u32),
        ("max.s32", *s.iter().max().unwrap() as u32),
        ("and.b32", fold(|a, b| a & b)),
        ("or.b32", fold(|a, b| a | b)),
        ("xor.b32", fold(|a, b| a ^ b)),
    ] {
        let out = warp(&format!("redux.sync.{op} %o0, %i0, 0xffffffff;"), 1, &[v], Config::default());
        assert_eq!(out[0], [want; 32], "{op}");
    }
    let f = v.map(|x| ((x as i32) as f32 / 1e6).to_bits());
    let max = f.iter().map(|x| f32::from_bits(*x)).fold(f32::MIN, f32::max);
    let out = warp("redux.sync.max.f32 %o0, %i0, 0xffffffff;", 1, &[f], Config::default());
    assert_eq!(f32::from_bits(out[0][7]), max);
}

#[test]
fn collectives_of_part_of_the_warp() {
    // The lower and the upper half reduce separately, in one instruction with two masks.
    let v = random(5);
    let body = "setp.lt.u32 %p0, %lane, 16;\n selp.b32 %x0, 0x0000ffff, 0xffff0000, %p0;\n redux.sync.add.u32 %o0, %i0, %x0;";
    for divergence in [Divergence::Reconverge, Divergence::Independent] {
        let out = warp(body, 1, &[v], Config { divergence, seed: 9, ..Config::default() });
        let half = |r: std::ops::Range<usize>| v[r].iter().fold(0u32, |a, b| a.wrapping_add(*b));
        assert_eq!(out[0][0], half(0..16));
        assert_eq!(out[0][31], half(16..32));
    }
    // Each half in its own branch.
    let body = "setp.lt.u32 %p0, %lane, 16;\n @%p0 bra LOW;\n redux.sync.max.u32 %o0, %i0, 0xffff0000;\n bra.uni END;\nLOW:\n redux.sync.min.u32 %o0, %i0, 0x0000ffff;\nEND:";
    for divergence in [Divergence::Reconverge, Divergence::Independent] {
        let out = warp(body, 1, &[v], Config { divergence, seed: 3, ..Config::default() });
        assert_eq!(out[0][0], *v[..16].iter().min().unwrap());
        assert_eq!(out[0][31], *v[16..].iter().max().unwrap());
    }
}

#[test]
fn leaders_and_lane_masks() {
    let body = "elect.sync %o0|%p0, 0xffffffff;\n selp.b32 %o1, 1, 0, %p0;\n activemask.b32 %o2;\n mov.u32 %o3, %lanemask_lt;\n mov.u32 %o4, %lanemask_ge;\n mov.u32 %o5, %lanemask_eq;\n mov.u32 %o6, %lanemask_le;\n mov.u32 %o7, %lanemask_gt;";
    let out = warp(body, 8, &[], Config::default());
    for l in 0..32u32 {
        let i = l as usize;
        assert_eq!((out[0][i], out[1][i], out[2][i]), (0, u32::from(l == 0), u32::MAX));
        let lt: u32 = (0..l).fold(0, |m, k| m | 1 << k);
        assert_eq!((out[3][i], out[5][i]), (lt, 1 << l));
        assert_eq!(out[4][i], !lt);
        assert_eq!(out[6][i], lt | 1 << l);
        assert_eq!(out[7][i], !(lt | 1 << l));
    }
}
