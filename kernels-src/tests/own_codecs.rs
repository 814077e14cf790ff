//! A user's codecs and attention variants in the stock kernels, with no edit anywhere else.

#[path = "own/codebook.rs"]
mod codebook;
mod common;
#[path = "own/key_offset.rs"]
mod key_offset;

use codebook::{Codebook, CodebookArgs};
use common::{
    Run, close, filled, halves, no_finds, no_partials, no_shortlist, not_looking, nothing_pending, partials,
    random,
};
use half::f16;
use key_offset::{KeyOffset, KeyOffsetArgs};
use leankv_dsl::lang::attention::{
    AttentionHooks, Of, OfArgs, PagedKv, PagedKvArgs, Plain, Raw, Site, Stock,
};
use leankv_dsl::lang::*;
use leankv_dsl::workload::given;
use leankv_kernels::chunk::{WriteChunkArgs, write_chunk};
use leankv_kernels::decode::{DecodeAttentionArgs, MergeSplitsArgs, decode_attention, merge_splits};
use leankv_kernels::pending::PendingMutArgs;
use leankv_kernels::quantize::{DequantizeArgs, QuantizeArgs, dequantize, quantize};

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

fn book() -> CodebookArgs<'static> {
    CodebookArgs { levels: given(&levels()).slice() }
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
    let books = || OfArgs { keys: book(), values: book() };
    let args = QuantizeArgs {
        n: rows as i64,
        x: given(&x).tensor([rows, D]),
        codes: given(&vec![0; rows * D / 2]).slice_mut(),
        meta: given(&vec![0; rows]).slice_mut(),
        codecs: books(),
    };
    let settings = "head_dim=64,rows=8";
    let run = Run::new(&quantize::<Books>::named("quantize_book"), settings, [2, 1, 1], args).launch();
    let args = DequantizeArgs {
        n: rows as i64,
        codes: given(&run.read("codes")).slice(),
        meta: given(&run.read("meta")).slice(),
        out: filled(0.0, [rows, D]),
        codecs: books(),
    };
    let back = Run::new(&dequantize::<Books>::named("dequantize_book"), settings, [2, 1, 1], args).launch();
    let expected: Vec<f32> = x.chunks(D).flat_map(coded).collect();
    close("codebook", &back.read::<f32>("out"), &expected, 1e-5);
}

/// One request with one KV head: writes a prompt of keys and values that are halves, attends to it, gives the output.
fn attend<C, H>(
    names: [&'static str; 3],
    keys: &[f32],
    values: &[f32],
    q: &[f16],
    codecs: impl Fn() -> C::Given<'static>,
    hooks: impl Fn() -> H::Given<'static>,
) -> Vec<f32>
where
    C: attention::Codecs + KernelArg + 'static,
    H: AttentionHooks + KernelArg + 'static,
{
    let pages = format!("tiering=K4V4,head_dim={D},page_bytes={PAGE}");
    let kv = |arena: &[u8]| PagedKvArgs {
        arena: given(arena).slice_mut(),
        slots: given(&[0]).tensor([1]),
        table: given(&[2, 0, 3, 1]).tensor([1, 1, 4]),
        lengths: given(&[TOKENS as i32, 0, 0, 0]).tensor([1, 1, 4]),
    };
    let args = WriteChunkArgs {
        keys: given(&halves(keys).0).tensor([TOKENS, 1, D]).into(),
        values: given(&halves(values).0).tensor([TOKENS, 1, D]).into(),
        words: given(&[0.0; TOKENS]).tensor([1, TOKENS]),
        dest: given(&(0..TOKENS as i32).map(|t| 2 * t).collect::<Vec<_>>()).tensor([1, TOKENS]),
        before: 0,
        kv: kv(&vec![0xFF; 4 * PAGE]),
        codecs: codecs(),
    };
    let (kernel, grid) = (write_chunk::<C>::named(names[0]), [TOKENS.div_ceil(8), 1, 1]);
    let write = Run::new(&kernel, &format!("{pages},block=8"), grid, args).launch();
    let args = DecodeAttentionArgs {
        q: given(q).tensor([1, GROUP, D]).into(),
        query_positions: given(&[TOKENS as i32]).tensor([1]),
        scale: 0.125,
        kv: kv(&write.read::<u8>("kv.arena")),
        out: no_partials([1, GROUP, 1], 1, D),
        pending: nothing_pending(GROUP, 1, D),
        shortlist: not_looking(1),
        codecs: codecs(),
        hooks: hooks(),
    };
    let settings = format!("{pages},group={GROUP},block=16");
    let kernel = decode_attention::<C, H, PagedKv>::named(names[1]);
    let decode = Run::new(&kernel, &settings, [1, 1, 1], args).launch();
    let args = MergeSplitsArgs {
        parts: partials(&decode, [1, GROUP, 1], 1, D),
        q: given(q).tensor([1, GROUP, D]).into(),
        slots: given(&[]).tensor([0]),
        finds: no_finds(1),
        shortlist: no_shortlist(1),
        pending: PendingMutArgs { q: filled(f16::ZERO, [0, GROUP, D]), lse: filled(0.0, [0, GROUP]) },
        out: filled(0.0, [1, GROUP, D]),
        lse: filled(0.0, [1, GROUP]),
        hooks: hooks(),
    };
    Run::new(&merge_splits::<H>::named(names[2]), &settings, [1, 1, 1], args).launch().read("out")
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
    let books = || OfArgs { keys: book(), values: book() };
    let names = ["write_book", "decode_book", "merge_book"];
    let got = attend::<Books, Plain>(names, &keys, &values, &q, books, || ());
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
    let with_offset = || OfArgs {
        keys: KeyOffsetArgs { table: given(&offset).tensor([1, TOKENS + 1, D]) },
        values: book(),
    };
    let names = ["write_offset", "decode_offset", "merge_offset"];
    let got = attend::<Offset, Plain>(names, &keys, &values, &q, with_offset, || ());
    let coded_values: Vec<f32> = values.chunks(D).flat_map(coded).collect();
    let exact = expected(&q32, &keys, &coded_values, |l| l);
    let error = |x: &[f32]| x.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    let plain = attend::<Stock, Plain>(
        ["write_plain", "decode_plain", "merge_plain"],
        &keys,
        &coded_values,
        &q,
        || (),
        || (),
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
#[derive(Clone, Copy, KernelArg)]
struct HalfPages;

impl attention::Codecs for HalfPages {
    fn keys(&self, _: &leankv_dsl::format::CodecSpec) -> Box<dyn attention::Codec> {
        Box::new(Raw { dtype: Default::default() })
    }

    fn values(&self, named: &leankv_dsl::format::CodecSpec) -> Box<dyn attention::Codec> {
        self.keys(named)
    }
}

#[test]
fn hooks_change_logits_mask_and_output() {
    let (keys, values) = (halves(&random(9, TOKENS * D)).1, halves(&random(10, TOKENS * D)).1);
    let (q, q32) = halves(&random(11, GROUP * D).iter().map(|x| 4.0 * x).collect::<Vec<_>>());
    let names = ["write_capped", "decode_capped", "merge_capped"];
    let capped = || CappedEvenArgs { cap: 0.75 };
    let got = attend::<HalfPages, CappedEven>(names, &keys, &values, &q, || (), capped);
    let even = |x: &[f32]| x.chunks(2 * D).flat_map(|pair| pair[..D].to_vec()).collect::<Vec<f32>>();
    let cap = |l: f32| (l / 0.75).tanh() * 0.75;
    let exact: Vec<f32> = expected(&q32, &even(&keys), &even(&values), cap).iter().map(|x| 2.0 * x).collect();
    close("capped attention", &got, &exact, 2e-3);
}
