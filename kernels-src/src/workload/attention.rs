//! Attention: decode over pages, the merge of its splits.

use half::f16;
use leankv_dsl::workload::{Check, Generator, Workload};

use super::cache::Cache;
use super::{RecipeError, Shapes};
use crate::candidates::{SHORTLIST_STATE, shortlist_columns};
use crate::decode::DecodeSpec;
use crate::pattern::HeadPattern;
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
    let (requests, heads) = (cache.requests, cache.kv_heads * spec.group);
    let (q, q32) = random.f16s(requests * heads * spec.head_dim, -1.0, 1.0);
    let positions = query_positions(&cache);
    let args = DecodeArgs {
        q: &q32,
        query_positions: &positions,
        query_heads: heads,
        kv_heads: cache.kv_heads,
        scale: scale(spec.head_dim),
        pattern: spec.pattern,
    };
    let parts = decode_partials(&args, &cache.paged(), spec.splits)?;
    let max: Vec<f32> = parts.iter().map(|p| p.max).collect();
    let sum: Vec<f32> = parts.iter().map(|p| p.sum).collect();
    let acc: Vec<f32> = parts.iter().flat_map(|p| p.acc.iter().copied()).collect();
    let splits = [requests, heads, spec.splits];
    let workload = Workload::new([cache.kv_heads, requests, spec.splits])
        .view("q", &q, &[requests, heads, spec.head_dim])
        .view("query_positions", &positions, &[requests])
        .scalar("scale", args.scale)
        .view("out.max", &vec![f32::NAN; max.len()], &splits)
        .view("out.sum", &vec![f32::NAN; sum.len()], &splits)
        .view("out.acc", &vec![f32::NAN; acc.len()], &[requests, heads, spec.splits, spec.head_dim])
        .output("out.max", PRECISE)
        .output("out.sum", PRECISE)
        .output("out.acc", sums(cache.longest))
        .expect("out.max", &max, PRECISE)
        .expect("out.sum", &sum, Check::close(1e-3, 1e-3))
        .expect("out.acc", &acc, exact_sums(cache.longest));
    let positions_read = spec.pattern != HeadPattern::Dense;
    let least = cache.least_read_bytes(positions_read);
    let workload = cache.arguments(workload);
    if !spec.significance {
        let workload = workload.least_read("kv.arena", least);
        let workload = pending_arguments(workload, [0, heads, spec.head_dim], (&[], &[]), &[], [0, 0]);
        return Ok(no_shortlist(workload, cache.kv_heads));
    }
    let (old, old32) = random.f16s(requests * heads * spec.head_dim, -1.0, 1.0);
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
    let newest: Vec<i32> = (0..requests * cache.kv_heads)
        .map(|row| {
            let list = cache.slots[row / cache.kv_heads] as usize * cache.kv_heads + row % cache.kv_heads;
            cache.lengths[list * 4] - 1
        })
        .collect();
    let mut arena = cache.arena.clone();
    let pending = PendingQueries { q: &old32, lse: &lse, newest: &newest };
    add_pending(&args, &pending, &cache.paged(), &mut arena)?;
    let workload = workload.output("kv.arena", SIGNIFICANCE).expect("kv.arena", &arena, SIGNIFICANCE);
    let extents = [requests, heads, spec.head_dim];
    let of = [requests, cache.kv_heads];
    let workload = pending_arguments(workload, extents, (&old, &lse), &newest, of);
    if !spec.candidates {
        return Ok(no_shortlist(workload, cache.kv_heads));
    }
    shortlist_arguments(workload, spec, &cache, &positions, &arena)
}

/// Decode attention's `shortlist`, which is not looked at.
fn no_shortlist(workload: Workload, kv_heads: usize) -> Workload {
    workload
        .view::<i32>("shortlist.prompts", &[], &[0])
        .view::<f32>("shortlist.sig", &[], &[0, kv_heads, 0])
        .view::<i32>("shortlist.at", &[], &[0, kv_heads, 0])
        .view::<i32>("shortlist.state", &[], &[0, kv_heads, SHORTLIST_STATE])
}

/// Decode attention's `shortlist`, with what it finds in `arena` as the kernel leaves it.
fn shortlist_arguments(
    workload: Workload,
    spec: &DecodeSpec,
    cache: &Cache,
    positions: &[i32],
    arena: &[u8],
) -> Result<Workload, RecipeError> {
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
    let mut state = vec![-7; lists * SHORTLIST_STATE];
    let before = (sig.clone(), at.clone(), state.clone());
    for (row, found) in rows.iter().enumerate() {
        let list = cache.slots[row / kv_heads] as usize * kv_heads + row % kv_heads;
        sig[list * columns[0]..][..columns[0]].copy_from_slice(&found.sig);
        at[list * columns[1]..][..columns[1]].copy_from_slice(&found.at);
        state[list * SHORTLIST_STATE..][..SHORTLIST_STATE].copy_from_slice(&found.state);
        if cache.low.is_none() {
            // Nobody reads what was found in a tier that is not there.
            sig[list * columns[0] + 2 * spec.splits..][..spec.splits].fill(f32::NAN);
            at[list * columns[1] + 2 * spec.splits..][..spec.splits].fill(-7);
            at[list * columns[1] + 5 * spec.splits..][..spec.splits].fill(-7);
        }
    }
    let of = |columns: usize| [requests, kv_heads, columns];
    Ok(workload
        .view("shortlist.prompts", &prompts, &[requests])
        .view("shortlist.sig", &before.0, &of(columns[0]))
        .view("shortlist.at", &before.1, &of(columns[1]))
        .view("shortlist.state", &before.2, &of(SHORTLIST_STATE))
        .output("shortlist.sig", PRECISE)
        .output("shortlist.at", Check::Bits)
        .output("shortlist.state", Check::Bits)
        .expect("shortlist.sig", &sig, Check::close(1e-3, 1e-4))
        .expect("shortlist.at", &at, Check::Bits)
        .expect("shortlist.state", &state, Check::Bits))
}

/// Decode attention's `pending`.
fn pending_arguments(
    workload: Workload,
    extents: [usize; 3],
    (q, lse): (&[f16], &[f32]),
    newest: &[i32],
    [requests, kv_heads]: [usize; 2],
) -> Workload {
    workload.view("pending.q", q, &extents).view("pending.lse", lse, &extents[..2]).view(
        "pending.newest",
        newest,
        &[requests, kv_heads, 1],
    )
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
    let (q, _) = random.f16s(requests * heads * d, -1.0, 1.0);
    // A request in slot 0 and up leaves its queries there; the one whose slot is negative leaves nothing.
    let kept = if spec.significance { requests } else { 0 };
    let (mut old, mut old_lse) =
        (random.f16s(kept * heads * d, -1.0, 1.0).0, random.f32s(kept * heads, 0.0, 9.0));
    let before = (old.clone(), old_lse.clone());
    for (request, &slot) in slots.iter().enumerate().filter(|(_, slot)| spec.significance && **slot >= 0) {
        let slot = slot as usize;
        old[slot * heads * d..][..heads * d].copy_from_slice(&q[request * heads * d..][..heads * d]);
        for (old, lse) in old_lse[slot * heads..].iter_mut().zip(&merged.lse[request * heads..][..heads]) {
            *old = if lse.is_finite() { *lse } else { f32::INFINITY };
        }
    }
    let splits = [requests, heads, spec.splits];
    Ok(Workload::new([kv_heads, requests, 1])
        .view("parts.max", &max, &splits)
        .view("parts.sum", &sum, &splits)
        .view("parts.acc", &acc, &[requests, heads, spec.splits, d])
        .view("q", &q, &[requests, heads, d])
        .view("slots", &slots, &[requests])
        .view("pending.q", &before.0, &[kept, heads, d])
        .view("pending.lse", &before.1, &[kept, heads])
        .view("out", &vec![f32::NAN; requests * heads * d], &[requests, heads, d])
        .view("lse", &vec![f32::NAN; requests * heads], &[requests, heads])
        .output("pending.q", Check::Bits)
        .output("pending.lse", PRECISE)
        .output("out", PRECISE)
        .output("lse", PRECISE)
        .expect("pending.q", &old, Check::Bits)
        .expect("pending.lse", &old_lse, PRECISE)
        .expect("out", &merged.out, PRECISE)
        .expect("lse", &merged.lse, PRECISE))
}
