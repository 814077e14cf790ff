//! Attention: decode over pages, the merge of its splits.

use leankv_dsl::lang::attention::{Lengths, PagedKv as Pages, Plain, Stock};
use leankv_dsl::workload::{Check, Generator, Workload, given};

use super::cache::Cache;
use super::floats::{Floats, halves, rounded};
use super::{RecipeError, Shapes, changed, filled};
use crate::candidates::{ShortlistMutArgs, ShortlistState, shortlist_columns};
use crate::decode::{
    DecodeAttentionArgs, DecodeSpec, MergeSplitsArgs, PartialsArgs, decode_attention as decode_kernel,
    merge_splits,
};
use crate::pattern::HeadPattern;
use crate::pending::{PendingArgs, PendingMutArgs};
use crate::policy::{Counting, Uniform};
use crate::reference::{
    DecodeArgs, PagedKv, Partial, PendingQueries, StepArgs, add_pending, decode_attention, decode_partials,
    merge_partials, shortlist,
};

/// Sums of `n` weights that are rounded to f16 before they meet values: two executors differ where a rounding falls the other way.
fn sums(n: usize) -> Check {
    Check::close(2e-3, 1.5e-3 + 1e-5 * n as f64)
}

/// The same against a reference that does not round weights.
fn exact_sums(n: usize) -> Check {
    Check::close(4e-3, 2e-3 + 2e-4 * n as f64)
}

/// Logits, maxima, sums of exponentials: f32 throughout.
const PRECISE: Check = Check::close(2e-4, 2e-4);

/// Probabilities that are added to significance in the pages.
const SIGNIFICANCE: Check = Check::WordSums { abs: 1e-3 };

fn scale(head_dim: usize) -> f32 {
    1.0 / (head_dim.max(1) as f32).sqrt()
}

fn cache(spec: &DecodeSpec, shapes: &Shapes, random: &mut Generator) -> Result<Cache, RecipeError> {
    Cache::new(&spec.tiering, spec.head_dim, spec.page_bytes, shapes, random)
}

/// The position that a query has after the longest list.
fn query_positions(cache: &Cache) -> Vec<i32> {
    (0..cache.requests).map(|r| (cache.longest + 3 * r) as i32).collect()
}

pub(super) fn decode(spec: &DecodeSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let mut random = Generator::new(seed);
    let cache = cache(spec, shapes, &mut random)?;
    let (requests, kv_heads, d) = (cache.requests, cache.kv_heads, spec.head_dim);
    let heads = kv_heads * spec.group;
    let q = Floats::random(spec.input, &mut random, [requests, heads, d]);
    let q32 = rounded(&q.exact);
    let positions = query_positions(&cache);
    let args = DecodeArgs {
        q: &q32,
        query_positions: &positions,
        query_heads: heads,
        kv_heads,
        scale: scale(d),
        pattern: spec.pattern,
    };
    let parts = decode_partials(&args, &cache.paged(), spec.splits)?;
    let acc: Vec<f32> = parts.iter().flat_map(|p| p.acc.iter().copied()).collect();
    let of_parts = |number: fn(&Partial) -> f32, close: Check| {
        let expected: Vec<f32> = parts.iter().map(number).collect();
        let buffer = given(&vec![f32::NAN; parts.len()]).output(PRECISE).expect(&expected, close);
        buffer.tensor_mut([requests, heads, spec.splits])
    };
    let acc = given(&vec![f32::NAN; acc.len()])
        .output(sums(cache.longest))
        .expect(&acc, exact_sums(cache.longest))
        .tensor_mut([requests, heads, spec.splits, d]);
    let mut launch = DecodeAttentionArgs {
        q: q.tensor,
        query_positions: given(&positions).tensor([requests]),
        scale: args.scale,
        kv: cache
            .kv(given(&cache.arena).least_read(cache.least_read_bytes(spec.pattern != HeadPattern::Dense))),
        out: PartialsArgs {
            max: of_parts(|p| p.max, PRECISE),
            sum: of_parts(|p| p.sum, Check::close(1e-3, 1e-3)),
            acc,
        },
        // Neither is looked at.
        pending: PendingArgs {
            q: given(&[]).tensor([0, heads, d]),
            lse: given(&[]).tensor([0, heads]),
            newest: given(&[]).tensor([0, 0, 1]),
        },
        shortlist: ShortlistMutArgs {
            prompts: given(&[]).tensor([0]),
            sig: given(&[]).tensor_mut([0, kv_heads, 0]),
            at: given(&[]).tensor_mut([0, kv_heads, 0]),
            state: given(&[]).tensor_mut([0, kv_heads, ShortlistState::COLUMNS]),
        },
        codecs: (),
        hooks: (),
    };
    if spec.significance {
        let (old, old32) = random.f16s(requests * heads * d, -1.0, 1.0);
        // Their logarithms are those of requests in slots of the same number; the last slot's have added theirs.
        let slots: Vec<i32> = (0..requests as i32).collect();
        let kv = PagedKv { slots: &slots, ..cache.paged() };
        let mut lse = decode_attention(&DecodeArgs { q: &old32, ..args }, &kv)?.lse;
        let adding = heads * requests.saturating_sub(1);
        lse.iter_mut()
            .enumerate()
            .filter(|(row, lse)| *row >= adding || !lse.is_finite())
            .for_each(|(_, lse)| *lse = f32::INFINITY);
        // The last token of every list is new; -1 where there is none.
        let newest: Vec<i32> = (0..requests * kv_heads)
            .map(|row| {
                let list = cache.slots[row / kv_heads] as usize * kv_heads + row % kv_heads;
                Lengths::get(&cache.lengths, list).high - 1
            })
            .collect();
        let mut arena = cache.arena.clone();
        let pending = PendingQueries { q: &old32, lse: &lse, newest: &newest };
        add_pending(&args, &pending, &cache.paged(), &mut arena)?;
        launch.kv = cache.kv(given(&cache.arena).output(SIGNIFICANCE).expect(&arena, SIGNIFICANCE));
        launch.pending = PendingArgs {
            q: given(&old).tensor([requests, heads, d]),
            lse: given(&lse).tensor([requests, heads]),
            newest: given(&newest).tensor([requests, kv_heads, 1]),
        };
        if spec.candidates {
            launch.shortlist = found_candidates(spec, &cache, &positions, &arena)?;
        }
    }
    Ok(Workload::of::<decode_kernel<Stock, Plain, Pages>>([kv_heads, requests, spec.splits], launch))
}

/// Decode attention's `shortlist`, with what it finds in `arena` as the kernel leaves it.
fn found_candidates(
    spec: &DecodeSpec,
    cache: &Cache,
    positions: &[i32],
    arena: &[u8],
) -> Result<ShortlistMutArgs<'static>, RecipeError> {
    let (requests, kv_heads) = (cache.requests, cache.kv_heads);
    let prompts: Vec<i32> = positions.iter().map(|p| p / 2).collect();
    let next: Vec<i32> = positions.iter().map(|p| p + 1).collect();
    let args = StepArgs {
        positions: &next,
        prompts: &prompts,
        thresholds: &[],
        heads: kv_heads,
        window: spec.window,
        sinks: spec.sinks,
        counting: Counting::new(spec.chunk, spec.window_q),
        policy: &Uniform,
    };
    let rows = shortlist(&args, &PagedKv { arena, ..cache.paged() }, spec.splits)?;
    let columns = shortlist_columns(spec.splits);
    let lists = requests * kv_heads;
    let (mut sig, mut at) = (vec![f32::NAN; lists * columns[0]], vec![-7; lists * columns[1]]);
    let mut state = vec![-7; lists * ShortlistState::COLUMNS];
    let before = (sig.clone(), at.clone(), state.clone());
    for (row, found) in rows.iter().enumerate() {
        let list = cache.slots[row / kv_heads] as usize * kv_heads + row % kv_heads;
        sig[list * columns[0]..][..columns[0]].copy_from_slice(&found.sig);
        at[list * columns[1]..][..columns[1]].copy_from_slice(&found.at);
        found.state.put(&mut state, list);
        if cache.low.is_none() {
            // Nobody reads what was found in a tier that is not there.
            sig[list * columns[0] + 2 * spec.splits..][..spec.splits].fill(f32::NAN);
            at[list * columns[1] + 2 * spec.splits..][..spec.splits].fill(-7);
            at[list * columns[1] + 5 * spec.splits..][..spec.splits].fill(-7);
        }
    }
    let of = |columns: usize| [requests, kv_heads, columns];
    let found = given(&before.0).output(PRECISE).expect(&sig, Check::close(1e-3, 1e-4));
    Ok(ShortlistMutArgs {
        prompts: given(&prompts).tensor([requests]),
        sig: found.tensor_mut(of(columns[0])),
        at: changed(&before.1, &at).tensor_mut(of(columns[1])),
        state: changed(&before.2, &state).tensor_mut(of(ShortlistState::COLUMNS)),
    })
}

pub(super) fn merge(spec: &DecodeSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let mut random = Generator::new(seed);
    let (requests, kv_heads, d) = (shapes.get("requests"), shapes.get("kv_heads"), spec.head_dim);
    let heads = kv_heads * spec.group;
    let n = requests * heads * spec.splits;
    let (mut max, mut sum) = (random.f32s(n, -2.0, 2.0), random.f32s(n, 1.0, 20.0));
    let mut acc = random.f32s(n * d, -4.0, 4.0);
    // Some splits saw no token, and one row saw none at all.
    let empty = (0..n).filter(|i| i % 5 == 3 || *i < spec.splits);
    for i in empty {
        (max[i], sum[i]) = (f32::NEG_INFINITY, 0.0);
        acc[i * d..][..d].fill(0.0);
    }
    let parts: Vec<Partial> =
        (0..n).map(|i| Partial { max: max[i], sum: sum[i], acc: acc[i * d..][..d].to_vec() }).collect();
    let args = DecodeArgs {
        q: &[],
        query_positions: &vec![0; requests],
        query_heads: heads,
        kv_heads,
        scale: scale(d),
        pattern: spec.pattern,
    };
    let merged = merge_partials(&args, &parts)?;
    let slots: Vec<i32> = random.permutation(requests).into_iter().map(|slot| slot as i32 - 1).collect();
    let q = Floats::random(spec.input, &mut random, [requests, heads, d]);
    let halves = halves(&q.exact);
    // A request in slot 0 and up leaves its queries there; the one whose slot is negative leaves nothing.
    let kept = if spec.significance { requests } else { 0 };
    let (mut old, mut old_lse) =
        (random.f16s(kept * heads * d, -1.0, 1.0).0, random.f32s(kept * heads, 0.0, 9.0));
    let before = (old.clone(), old_lse.clone());
    for (request, &slot) in slots.iter().enumerate().filter(|(_, slot)| spec.significance && **slot >= 0) {
        let slot = slot as usize;
        old[slot * heads * d..][..heads * d].copy_from_slice(&halves[request * heads * d..][..heads * d]);
        for (old, lse) in old_lse[slot * heads..].iter_mut().zip(&merged.lse[request * heads..][..heads]) {
            *old = if lse.is_finite() { *lse } else { f32::INFINITY };
        }
    }
    let splits = [requests, heads, spec.splits];
    let args = MergeSplitsArgs {
        parts: PartialsArgs {
            max: given(&max).tensor_mut(splits),
            sum: given(&sum).tensor_mut(splits),
            acc: given(&acc).tensor_mut([requests, heads, spec.splits, d]),
        },
        q: q.tensor,
        slots: given(&slots).tensor([requests]),
        pending: PendingMutArgs {
            q: changed(&before.0, &old).tensor_mut([kept, heads, d]),
            lse: given(&before.1).output(PRECISE).expect(&old_lse, PRECISE).tensor_mut([kept, heads]),
        },
        out: filled(f32::NAN, &merged.out, PRECISE).tensor_mut([requests, heads, d]),
        lse: filled(f32::NAN, &merged.lse, PRECISE).tensor_mut([requests, heads]),
        hooks: (),
    };
    Ok(Workload::of::<merge_splits<Plain>>([kv_heads, requests, 1], args))
}
