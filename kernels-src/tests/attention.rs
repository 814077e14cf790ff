//! Decode attention against its reference, on every executor.

mod common;

use common::paged::{D, PAGE, growing_cache};
use common::{
    Run, close, filled, halves, no_finds, no_partials, no_shortlist, not_looking, partials, random,
};
use leankv_dsl::lang::attention::{ALL_PAGES, Lengths, PagedKv, Plain, Stock};
use leankv_dsl::workload::given;
use leankv_kernels::decode::{DecodeAttentionArgs, MergeSplitsArgs, decode_attention, merge_splits};
use leankv_kernels::pattern::HeadPattern;
use leankv_kernels::pending::{PendingArgs, PendingMutArgs};
use leankv_kernels::policy::Peaks;
use leankv_kernels::reference::{self, DecodeArgs, DecodeOutput, PendingQueries, add_pending};

fn check(tiering: &str, group: usize, split_pages: usize, pattern: HeadPattern, block: usize) {
    check_as(tiering, group, split_pages, pattern, block, [1.0, 1.0], "");
}

/// With keys and values that grow along the list, and more settings. Gives the largest errors: of the output, of the logarithms, of significance.
fn check_as(
    tiering: &str,
    group: usize,
    split_pages: usize,
    pattern: HeadPattern,
    block: usize,
    growth: [f32; 2],
    more: &str,
) -> [f32; 3] {
    let kv_heads = 2;
    let lengths = [[37, 20], [1, 0], [0, 0], [50, 41], [16, 3], [33, 1]];
    let lengths: Vec<[usize; 2]> =
        lengths.iter().map(|&[h, l]| [h, if tiering.contains('/') { l } else { 0 }]).collect();
    let cache = growing_cache(tiering, kv_heads, &lengths, growth);
    let slots = lengths.len() / kv_heads;
    let (requests, heads) = (slots + 1, kv_heads * group);
    let (q, q32) = halves(&random(7, requests * heads * D));
    let positions = vec![60, 20, 40, 30];
    let kv = cache.view();
    let args = DecodeArgs {
        q: &q32,
        query_positions: &positions,
        query_heads: heads,
        kv_heads,
        scale: 0.125,
        pattern,
    };
    let expected: DecodeOutput = reference::decode_attention(&args, &kv).unwrap();

    let settings = format!(
        "tiering={tiering},group={group},split_pages={split_pages},block={block},head_dim={D},page_bytes={PAGE},pattern={pattern},significance=true{more}"
    );
    // Pending queries of every slot; in the last one they have added what they had to.
    let (old, old32) = halves(&random(8, slots * heads * D));
    let own: Vec<i32> = (0..slots as i32).collect();
    let before = DecodeArgs { q: &old32, query_positions: &[58, 25, 33], ..args };
    let mut old_lse =
        reference::decode_attention(&before, &reference::PagedKv { slots: &own, ..kv }).unwrap().lse;
    old_lse[(slots - 1) * heads..].fill(f32::INFINITY);
    old_lse.iter_mut().filter(|lse| !lse.is_finite()).for_each(|lse| *lse = f32::INFINITY);
    let newest: Vec<i32> = (0..requests * kv_heads)
        .map(|row| match usize::try_from(cache.slots[row / kv_heads]) {
            Ok(slot) => Lengths::get(&cache.lengths, slot * kv_heads + row % kv_heads).high * 2 / 3 - 1,
            Err(_) => -1,
        })
        .collect();
    // What is left where nothing is pending is not looked at.
    let mut stale = old.clone();
    stale[(slots - 1) * heads * D..].fill(half::f16::NAN);

    // One more than the longest list has.
    let own_splits = reference::decode_partials(&args, &kv, split_pages).unwrap();
    let splits = own_splits.iter().map(Vec::len).max().unwrap_or(0) + 1;
    let parts = [requests, heads, splits];
    let launch = DecodeAttentionArgs {
        q: given(&q).tensor([requests, heads, D]).into(),
        query_positions: given(&positions).tensor([requests]),
        scale: 0.125,
        kv: cache.kv(requests),
        out: no_partials(parts, kv_heads, D),
        pending: PendingArgs {
            q: given(&stale).tensor([slots, heads, D]),
            lse: given(&old_lse).tensor([slots, heads]),
            newest: given(&newest).tensor([requests, kv_heads, 1]),
        },
        shortlist: not_looking(kv_heads),
        codecs: (),
        hooks: (),
    };
    let kernel = decode_attention::<Stock, Plain, PagedKv>::KERNEL;
    let decode = Run::new(&kernel, &settings, [kv_heads, requests, splits], launch).launch();

    let launch = MergeSplitsArgs {
        parts: partials(&decode, parts, kv_heads, D),
        q: given(&q).tensor([requests, heads, D]).into(),
        slots: given(&cache.slots).tensor([requests]),
        finds: no_finds(kv_heads),
        shortlist: no_shortlist(kv_heads),
        pending: PendingMutArgs {
            q: given(&stale).tensor_mut([slots, heads, D]),
            lse: given(&old_lse).tensor_mut([slots, heads]),
        },
        out: filled(f32::NAN, [requests, heads, D]),
        lse: filled(f32::NAN, [requests, heads]),
        hooks: (),
    };
    // Behind a list's own splits nothing is written.
    for (part, lse) in decode.read::<f32>("out.lse").iter().enumerate() {
        let own = part % splits < own_splits[part / splits].len();
        assert_eq!(own, !lse.is_nan(), "{tiering}, {split_pages} pages a split: part {part}");
    }
    let merge = Run::new(&merge_splits::<Plain>::KERNEL, &settings, [kv_heads, requests, 1], launch).launch();

    let what = format!("{tiering}, group {group}, {split_pages} pages a split, {pattern}{more}");
    close(&format!("output of {what}"), &merge.read::<f32>("out"), &expected.out, 2e-3);
    let lse = merge.read::<f32>("lse");
    close(&format!("lse of {what}"), &lse, &expected.lse, 1e-3);

    let largest = |got: &[f32], expected: &[f32]| {
        let errors = got.iter().zip(expected).map(|(x, y)| if x == y { 0.0 } else { (x - y).abs() });
        errors.fold(0f32, f32::max)
    };
    let [out_error, lse_error] = [largest(&merge.read("out"), &expected.out), largest(&lse, &expected.lse)];

    // This step's queries are the pending ones of their slots, with the final logarithms.
    let (next, next_lse) = (merge.read::<half::f16>("pending.q"), merge.read::<f32>("pending.lse"));
    for (request, &slot) in cache.slots.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
        let slot = slot as usize;
        assert!(next[slot * heads * D..][..heads * D] == q[request * heads * D..][..heads * D], "{what}");
        for (next, lse) in next_lse[slot * heads..][..heads].iter().zip(&lse[request * heads..]) {
            assert_eq!(*next, if lse.is_finite() { *lse } else { f32::INFINITY }, "{what}");
        }
    }

    // The pending significance was added to every token that is neither frozen nor new, and nothing else changed.
    let mut arena = cache.arena.clone();
    let pending = PendingQueries { q: &old32, lse: &old_lse, newest: &newest };
    add_pending(&args, &pending, (Peaks::NONE, 0), &kv, &mut arena).unwrap();
    let words = |bytes: &[u8]| -> Vec<u32> {
        bytes.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect()
    };
    let (before, got, expected) = (words(&cache.arena), words(&decode.read::<u8>("kv.arena")), words(&arena));
    let mut significance = 0f32;
    for (i, ((before, got), expected)) in before.iter().zip(&got).zip(&expected).enumerate() {
        if before == expected {
            let change = f32::from_bits(*got) - f32::from_bits(*before);
            assert!(got == before || change.abs() < 1e-4, "{what}: word {i} of the arena changed");
        } else {
            let error = (f32::from_bits(*got) - f32::from_bits(*expected)).abs();
            assert!(error < 1e-4, "{what}: significance at word {i} is off by {error}");
            significance = significance.max(error);
        }
    }
    [out_error, lse_error, significance]
}

#[test]
fn one_tier_of_every_kind_of_codec() {
    for tiering in ["fp16", "K8V4", "K4V2", "K8sV4s", "K3V5", "K16V4", "K4V2g2.4", "K4V4-bf16"] {
        check(tiering, 2, ALL_PAGES, HeadPattern::Dense, 16);
    }
}

#[test]
fn two_tiers_in_one_pass_with_any_number_of_splits() {
    for (split_pages, block) in [(ALL_PAGES, 32), (1, 16), (2, 8), (3, 16)] {
        check("K8V4/K4V2", 2, split_pages, HeadPattern::Dense, block);
    }
    check("K8V4g1.2/K4V2g2.4", 1, 2, HeadPattern::Dense, 16);
}

/// What is rare: each tile has logits far above those before it, and larger scales of values.
#[test]
fn logits_and_values_that_outgrow_what_was_before() {
    for tiering in ["K8V4/K4V2", "K4V2", "K8sV4s", "fp16", "K4V2g2.4"] {
        check_as(tiering, 2, ALL_PAGES, HeadPattern::Dense, 16, [1.05, 1.04], "");
    }
    // From the largest down nothing ever outgrows, and all but the first may vanish.
    check_as("K8V4/K4V2", 2, 2, HeadPattern::Dense, 16, [1.0, 0.8], "");
}

/// Every width of codes, several groups, tiers in any order whose values share sums, and scales and logits that outgrow those before: as close to plain Rust as
/// exact codes are, but for how single roundings fall.
#[test]
fn codes_as_subnormal_numbers() {
    let check = |tiering: &str, group, split_pages, growth| {
        let check = |more| check_as(tiering, group, split_pages, HeadPattern::Dense, 16, growth, more);
        let (exact, subnormal) = (check(""), check(",subnormal=true"));
        println!("{tiering}, group {group}: exact {exact:?}, subnormal {subnormal:?}");
        for (exact, subnormal) in exact.into_iter().zip(subnormal) {
            assert!(subnormal < 1.5 * exact + 2e-6, "{tiering}: {subnormal} beside {exact}");
        }
    };
    let single =
        ["K8V4", "K4V2", "K8sV4s", "K3V5", "K16V1", "K6V16", "K7V2", "K1V8", "K4V2g2.4", "K4V4-bf16"];
    for tiering in single {
        check(tiering, 2, ALL_PAGES, [1.0, 1.0]);
    }
    for tiering in ["K8V4/K4V2", "fp16/K4V2", "K4V2/fp16", "K8V8/K4V4", "K8V4g1.2/K4V2g2.4"] {
        check(tiering, 2, 2, [1.0, 1.0]);
    }
    for tiering in ["K8V4/K4V2", "fp16/K4V2", "K4V2"] {
        check(tiering, 2, ALL_PAGES, [1.05, 1.04]);
        check(tiering, 2, 2, [1.0, 0.8]);
    }
    for group in [1, 8, 19] {
        check("K8V4/K4V2", group, 2, [1.0, 1.0]);
    }
}

#[test]
fn query_groups_of_one_to_eight() {
    for group in [1, 3, 7, 8] {
        check("K8V4/K4V2", group, ALL_PAGES, HeadPattern::Dense, 16);
    }
}

/// In parts: equal ones, and one whose last part reaches beyond the group, into the rows of the next KV head.
#[test]
fn query_groups_of_more_heads_than_a_tile_has() {
    for (group, split_pages) in [(32, ALL_PAGES), (48, 2), (71, 1)] {
        check("K8V4/K4V2", group, split_pages, HeadPattern::Dense, 16);
    }
    check("fp16", 17, ALL_PAGES, HeadPattern::SinkWindow { sinks: 3, window: 9 }, 16);
}

#[test]
fn head_dims_and_groups_that_no_kernel_is_built_for_are_refused_in_a_sentence() {
    let kernels =
        ["decode_attention", "merge_splits", "chunk_attention", "cached_significance", "chunk_significance"];
    let refused = |kernel: &str, field: &str, value: &str| {
        let settings = [(field.to_owned(), value.to_owned())].into();
        leankv_kernels::find(kernel).unwrap().build(&settings).unwrap_err().to_string()
    };
    for kernel in kernels {
        for dim in ["4", "100", "1024"] {
            let found = refused(kernel, "head_dim", dim);
            let wanted = format!("head dim {dim} is not supported: it must be a multiple of 8 from 8 to 512");
            assert_eq!(found.matches(&wanted).count(), 1, "{kernel}: {found}");
        }
        let found = refused(kernel, "group", "300");
        assert!(found.contains("300 query heads a KV head; at most 256 are possible"), "{kernel}: {found}");
    }
    assert!(refused("chunk_attention", "group", "17").contains("272 rows of queries; at most 256"));
}

#[test]
fn head_patterns_mask_by_position() {
    check("K8V4/K4V2", 2, 2, HeadPattern::Causal, 16);
    check("K8V4/K4V2", 2, 2, HeadPattern::SinkWindow { sinks: 3, window: 9 }, 16);
}
