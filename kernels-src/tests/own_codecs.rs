//! A user's codecs and attention variants in the stock kernels, with no edit anywhere else.

#[path = "own/codebook.rs"]
mod codebook;
mod common;
#[path = "own/key_offset.rs"]
mod key_offset;

use codebook::Codebook;
use common::{Run, close, halves, random};
use half::f16;
use key_offset::KeyOffset;
use leankv_dsl::lang::attention::{AttentionHooks, Of, PagedKv, Plain, Raw, Site, Stock};
use leankv_dsl::lang::*;
use leankv_kernels::chunk::write_chunk;
use leankv_kernels::decode::{decode_attention, merge_splits};
use leankv_kernels::quantize::{dequantize, quantize};

const D: usize = 64;
const PAGE: usize = 4096;
const TOKENS: usize = 40;
const GROUP: usize = 2;

type Books = Of<Codebook, Codebook>;
type Offset = Of<KeyOffset, Codebook>;

#[test]
fn a_codec_is_less_than_sixty_lines_in_one_file() {
    for text in [include_str!("own/codebook.rs"), include_str!("own/key_offset.rs")] {
        assert!(text.lines().count() < 60, "{} lines", text.lines().count());
    }
}

fn levels() -> Vec<f32> {
    (0..16).map(|k| ((k as f32 - 7.5) / 7.5).powi(3) * 0.5 + (k as f32 - 7.5) / 15.0).collect()
}

/// What the codebook makes of a row.
fn coded(row: &[f32]) -> Vec<f32> {
    let scale = f16::from_f32(row.iter().fold(0f32, |m, x| m.max(x.abs()))).to_f32();
    let nearest = |x: f32| {
        let distance = |l: &f32| (x / scale.max(1e-6) - l).abs();
        levels().into_iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).expect("there are 16 levels")
    };
    row.iter().map(|&x| nearest(x) * scale).collect()
}

#[test]
fn a_codebook_quantises_and_dequantises() {
    let (rows, x) = (9, random(1, 9 * D));
    let settings = [("head_dim", "64"), ("rows", "8")];
    let mut run = Run::new(&quantize::<Books>::named("quantize_book"), &settings);
    run.scalar("n", rows as i64).view("x", &x, &[rows, D]).buffer("codecs.keys.levels", &levels());
    run.buffer("codecs.values.levels", &levels());
    run.buffer("codes", &vec![0u8; rows * D / 2]).buffer("meta", &vec![0u16; rows]);
    run.launch([2, 1, 1]);
    let mut back = Run::new(&dequantize::<Books>::named("dequantize_book"), &settings);
    back.scalar("n", rows as i64).buffer("codecs.keys.levels", &levels());
    back.buffer("codecs.values.levels", &levels());
    back.buffer("codes", &run.read::<u8>("codes")).buffer("meta", &run.read::<u16>("meta"));
    back.view("out", &vec![0f32; rows * D], &[rows, D]);
    back.launch([2, 1, 1]);
    let expected: Vec<f32> = x.chunks(D).flat_map(coded).collect();
    close("codebook", &back.read::<f32>("out"), &expected, 1e-5);
}

/// One request with one KV head: writes a prompt of keys and values that are halves, attends to it, gives the output.
fn attend<C, H>(
    names: [&'static str; 3],
    keys: &[f32],
    values: &[f32],
    q: &[f16],
    extra: &dyn Fn(&mut Run),
) -> Vec<f32>
where
    C: attention::Codecs + KernelArg + 'static,
    H: AttentionHooks + KernelArg + 'static,
{
    let (dim, page, group) = (D.to_string(), PAGE.to_string(), GROUP.to_string());
    let pages = [2i32, 0, 3, 1];
    let settings = [
        ("tiering", "K4V4"),
        ("group", &*group),
        ("head_dim", &*dim),
        ("page_bytes", &*page),
        ("block", "16"),
    ];
    let cache = |run: &mut Run, arena: &[u8]| {
        run.buffer("kv.arena", arena).view("kv.table", &pages, &[1, 1, 4]);
        run.view("kv.lengths", &[TOKENS as i32, 0, 0, 0], &[1, 1, 4]).view("kv.slots", &[0i32], &[1]);
        extra(run);
    };
    let mut write = Run::new(
        &write_chunk::<C, f16>::named(names[0]),
        &[("tiering", "K4V4"), ("head_dim", &*dim), ("page_bytes", &*page), ("block", "8")],
    );
    write.view("keys", &halves(keys).0, &[TOKENS, 1, D]).view("values", &halves(values).0, &[TOKENS, 1, D]);
    let dest: Vec<i32> = (0..TOKENS as i32).map(|t| 2 * t).collect();
    write.view("mass", &[0f32; TOKENS], &[1, TOKENS]).view("dest", &dest, &[1, TOKENS]).scalar("before", 0);
    cache(&mut write, &vec![0xFFu8; 4 * PAGE]);
    write.launch([TOKENS.div_ceil(8), 1, 1]);
    let arena = write.read::<u8>("kv.arena");
    let mut decode = Run::new(&decode_attention::<C, H, PagedKv, f16>::named(names[1]), &settings);
    decode
        .view("q", q, &[1, GROUP, D])
        .view("query_positions", &[TOKENS as i32], &[1])
        .scalar("scale", 0.125f32);
    cache(&mut decode, &arena);
    let parts = |run: &mut Run, prefix: &str, from: Option<&Run>| {
        for (name, extents) in
            [("max", vec![1, GROUP, 1]), ("sum", vec![1, GROUP, 1]), ("acc", vec![1, GROUP, 1, D])]
        {
            let len = extents.iter().product();
            let data = from.map_or(vec![0f32; len], |run| run.read(&format!("out.{name}")));
            run.view(&format!("{prefix}.{name}"), &data, &extents);
        }
    };
    parts(&mut decode, "out", None);
    // Without significance nobody looks at pending queries.
    let pending = |run: &mut Run| {
        run.view::<f16>("pending.q", &[], &[0, GROUP, D]).view::<f32>("pending.lse", &[], &[0, GROUP]);
    };
    pending(&mut decode);
    decode.view::<i32>("pending.newest", &[], &[0, 1, 1]).no_shortlist(1);
    decode.launch([1, 1, 1]);
    let mut merge = Run::new(&merge_splits::<H, f16>::named(names[2]), &settings);
    parts(&mut merge, "parts", Some(&decode));
    pending(&mut merge);
    merge.view("q", q, &[1, GROUP, D]).view::<i32>("slots", &[], &[0]);
    extra(&mut merge);
    merge.view("out", &[0f32; GROUP * D], &[1, GROUP, D]).view("lse", &[0f32; GROUP], &[1, GROUP]);
    merge.launch([1, 1, 1]);
    merge.read("out")
}

/// Softmax attention in f32, with a function on the logits.
fn expected(q: &[f32], keys: &[f32], values: &[f32], change: impl Fn(f32) -> f32) -> Vec<f32> {
    let mut out = Vec::new();
    for q in q.chunks(D) {
        let logit = |k: &[f32]| change(0.125 * q.iter().zip(k).map(|(a, b)| a * b).sum::<f32>());
        let logits: Vec<f32> = keys.chunks(D).map(logit).collect();
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = logits.iter().map(|l| (l - max).exp()).collect();
        let sum: f32 = weights.iter().sum();
        for d in 0..D {
            out.push(weights.iter().zip(values.chunks(D)).map(|(w, v)| w * v[d]).sum::<f32>() / sum);
        }
    }
    out
}

#[test]
fn a_codebook_works_in_the_page_writer_and_in_attention() {
    let (keys, values) = (halves(&random(2, TOKENS * D)).1, halves(&random(3, TOKENS * D)).1);
    let (q, q32) = halves(&random(4, GROUP * D));
    let tables = |run: &mut Run| {
        run.buffer("codecs.keys.levels", &levels()).buffer("codecs.values.levels", &levels());
    };
    let names = ["write_book", "decode_book", "merge_book"];
    let got = attend::<Books, Plain>(names, &keys, &values, &q, &tables);
    let decoded = |x: &[f32]| x.chunks(D).flat_map(coded).collect::<Vec<f32>>();
    close("attention", &got, &expected(&q32, &decoded(&keys), &decoded(&values), |l| l), 1e-4);
}

#[test]
fn a_known_offset_costs_nothing_and_saves_four_bit_keys() {
    let offset: Vec<f32> = random(5, (TOKENS + 1) * D).iter().map(|x| 100.0 * x).collect();
    let rest = random(6, TOKENS * D);
    let keys: Vec<f32> = rest.iter().zip(&offset).map(|(x, o)| x + o).collect();
    let (keys, values) = (halves(&keys).1, halves(&random(7, TOKENS * D)).1);
    let (q, q32) = halves(&random(8, GROUP * D));
    let with_offset = |run: &mut Run| {
        run.view("codecs.keys.table", &offset, &[1, TOKENS + 1, D]).buffer("codecs.values.levels", &levels());
    };
    let names = ["write_offset", "decode_offset", "merge_offset"];
    let got = attend::<Offset, Plain>(names, &keys, &values, &q, &with_offset);
    let coded_values: Vec<f32> = values.chunks(D).flat_map(coded).collect();
    let exact = expected(&q32, &keys, &coded_values, |l| l);
    let error = |x: &[f32]| x.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    let plain = attend::<Stock, Plain>(
        ["write_plain", "decode_plain", "merge_plain"],
        &keys,
        &coded_values,
        &q,
        &|_| {},
    );
    assert!(error(&got) < 0.1, "with the offset taken out: {}", error(&got));
    assert!(error(&plain) > 3.0 * error(&got), "{} against {}", error(&plain), error(&got));
}

/// Logits are squeezed into `-cap .. cap`, and odd positions are left out.
#[derive(Clone, Copy, KernelArg)]
struct CappedEven {
    cap: Scalar<f32>,
}

impl AttentionHooks for CappedEven {
    fn logits(&self, logits: Tile<f32, 2>, _: &Site) -> Tile<f32, 2> {
        (logits / self.cap).tanh() * self.cap
    }

    fn mask(&self, site: &Site) -> Option<Tile<bool, 2>> {
        Some((site.keys % 2).eq(0).expand_dims(0))
    }

    fn output(&self, out: Tile<f32, 2>) -> Tile<f32, 2> {
        out * 2.0
    }
}

/// Unquantised keys and values.
#[derive(Clone, Copy)]
struct HalfPages;

impl attention::Codecs for HalfPages {
    fn keys(&self, _: &leankv_dsl::format::CodecSpec) -> Box<dyn attention::Codec> {
        Box::new(Raw { dtype: Default::default() })
    }

    fn values(&self, named: &leankv_dsl::format::CodecSpec) -> Box<dyn attention::Codec> {
        self.keys(named)
    }
}

impl KernelArg for HalfPages {
    fn declare(_: &mut ArgScope, _: &str, _: ArgOptions) -> Self {
        HalfPages
    }
}

#[test]
fn hooks_change_logits_mask_and_output() {
    let (keys, values) = (halves(&random(9, TOKENS * D)).1, halves(&random(10, TOKENS * D)).1);
    let (q, q32) = halves(&random(11, GROUP * D).iter().map(|x| 4.0 * x).collect::<Vec<_>>());
    let names = ["write_capped", "decode_capped", "merge_capped"];
    let run_cap = |run: &mut Run| {
        run.scalar("hooks.cap", 0.75f32);
    };
    let got = attend::<HalfPages, CappedEven>(names, &keys, &values, &q, &run_cap);
    let even = |x: &[f32]| x.chunks(2 * D).flat_map(|pair| pair[..D].to_vec()).collect::<Vec<f32>>();
    let cap = |l: f32| (l / 0.75).tanh() * 0.75;
    let exact: Vec<f32> = expected(&q32, &even(&keys), &even(&values), cap).iter().map(|x| 2.0 * x).collect();
    close("capped attention", &got, &exact, 2e-3);
}
