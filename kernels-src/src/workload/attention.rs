//! Attention: decode over pages, the merge of its splits.

use leankv_dsl::lang::attention::{Lengths, PagedKv as Pages, Plain, Stock};
use leankv_dsl::workload::{Check, Generator, Workload, given};

use super::cache::Cache;
use super::floats::{Floats, halves, rounded};
use super::{RecipeError, Shapes, changed, filled};
use crate::candidates::{FindsArgs, LookingArgs, SHORTLIST_COLUMNS, ShortlistMutArgs, ShortlistState};
use crate::decode::{
    DecodeAttentionArgs, DecodeSpec, MergeSplitsArgs, PartialsArgs, decode_attention as decode_kernel,
    merge_splits,
};
use crate::pattern::HeadPattern;
use crate::pending::{PendingArgs, PendingMutArgs};
use crate::policy::{Counting, Peaks, Uniform};
use crate::reference::{
    DecodeArgs, Found, PagedKv, Partial, PendingQueries, StepArgs, add_pending, decode_attention,
    decode_partials, merge_partials, shortlist,
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
pub(super) fn significance(peaks: Peaks) -> Check {
    Check::WordSums { rel: 0.0, abs: 1e-3, code_bits: peaks.code_bits() }
}

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

/// Parts of rows as they lie in tensors of `splits` splits, `[rows, splits]`; where there is none stands no number, which nobody reads or writes.
struct Parts {
    lse: Vec<f32>,
    out: Vec<f32>,
}

impl Parts {
    fn new(rows: &[Vec<Partial>], splits: usize, head_dim: usize) -> Parts {
        let n = rows.len() * splits;
        let mut parts = Parts { lse: vec![f32::NAN; n], out: vec![f32::NAN; n * head_dim] };
        for (row, of_row) in rows.iter().enumerate() {
            for (split, part) in of_row.iter().enumerate() {
                let at = row * splits + split;
                parts.lse[at] = part.lse();
                let out = part.output();
                parts.out[at * head_dim..][..head_dim].copy_from_slice(&out);
            }
        }
        parts
    }
}

/// What splits found, as it lies in tensors of `splits` splits: `[lists, 3, splits]`, and `[lists, 6, splits]`. Each list's are named with its number.
fn finds<'a>(
    lists: usize,
    splits: usize,
    found: impl Iterator<Item = (usize, &'a Vec<[Found; 3]>)>,
) -> (Vec<f32>, Vec<i32>) {
    let [sigs, ats] = SHORTLIST_COLUMNS;
    let (mut sig, mut at) = (vec![f32::NAN; lists * sigs * splits], vec![-7; lists * ats * splits]);
    for (list, of_list) in found {
        for (split, kinds) in of_list.iter().enumerate() {
            let (of_sig, of_at) = Found::columns(*kinds);
            let put = |column: usize, columns: usize| (list * columns + column) * splits + split;
            of_sig.into_iter().enumerate().for_each(|(column, number)| sig[put(column, sigs)] = number);
            of_at.into_iter().enumerate().for_each(|(column, number)| at[put(column, ats)] = number);
        }
    }
    (sig, at)
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
    let parts = decode_partials(&args, &cache.paged(), spec.split_pages)?;
    let counts: Vec<i32> = parts.iter().step_by(spec.group).map(|parts| parts.len() as i32).collect();
    // One more than the longest list has.
    let splits = parts.iter().map(Vec::len).max().unwrap_or(0) + 1;
    let parts = Parts::new(&parts, splits, d);
    let mut launch = DecodeAttentionArgs {
        q: q.tensor,
        query_positions: given(&positions).tensor([requests]),
        scale: args.scale,
        kv: cache
            .kv(given(&cache.arena).least_read(cache.least_read_bytes(spec.pattern != HeadPattern::Dense))),
        out: PartialsArgs {
            splits: filled(-7, &counts, Check::Bits).tensor_mut([requests, kv_heads]),
            lse: filled(f32::NAN, &parts.lse, PRECISE).tensor_mut([requests, heads, splits]),
            out: given(&vec![f32::NAN; parts.out.len()])
                .output(sums(cache.longest))
                .expect(&parts.out, exact_sums(cache.longest))
                .tensor_mut([requests, heads, splits, d]),
        },
        // Neither is looked at.
        pending: PendingArgs {
            q: given(&[]).tensor([0, heads, d]),
            lse: given(&[]).tensor([0, heads]),
            newest: given(&[]).tensor([0, 0, 1]),
        },
        shortlist: LookingArgs {
            prompts: given(&[]).tensor([0]),
            finds: no_finds(kv_heads),
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
        let peaks = Peaks::new(spec.peaks);
        add_pending(&args, &pending, (peaks, spec.window), &cache.paged(), &mut arena)?;
        let check = significance(peaks);
        launch.kv = cache.kv(given(&cache.arena).output(check).expect(&arena, check));
        launch.pending = PendingArgs {
            q: given(&old).tensor([requests, heads, d]),
            lse: given(&lse).tensor([requests, heads]),
            newest: given(&newest).tensor([requests, kv_heads, 1]),
        };
        if spec.candidates {
            launch.shortlist = found_candidates(spec, &cache, &positions, &arena, splits)?;
        }
    }
    Ok(Workload::of::<decode_kernel<Stock, Plain, Pages>>([kv_heads, requests, splits], launch))
}

/// Finds that are not looked at.
fn no_finds(kv_heads: usize) -> FindsArgs<'static> {
    let [sigs, ats] = SHORTLIST_COLUMNS;
    FindsArgs {
        sig: given(&[]).tensor_mut([0, kv_heads, sigs, 0]),
        at: given(&[]).tensor_mut([0, kv_heads, ats, 0]),
    }
}

/// Decode attention's `shortlist`, with what its splits find in `arena` as the kernel leaves it.
fn found_candidates(
    spec: &DecodeSpec,
    cache: &Cache,
    positions: &[i32],
    arena: &[u8],
    splits: usize,
) -> Result<LookingArgs<'static>, RecipeError> {
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
        peaks: Peaks::new(spec.peaks),
        policy: &Uniform,
    };
    let mut rows = shortlist(&args, &PagedKv { arena, ..cache.paged() }, spec.split_pages)?;
    let list = |row: usize| cache.slots[row / kv_heads] as usize * kv_heads + row % kv_heads;
    let lists = requests * kv_heads;
    let mut state = vec![-7; lists * ShortlistState::COLUMNS];
    let before = state.clone();
    for (row, found) in rows.iter_mut().enumerate() {
        found.state.put(&mut state, list(row));
        if cache.low.is_none() {
            // Nobody reads what was found in a tier that is not there.
            let nothing = Found { sig: f32::NAN, position: -7, index: -7 };
            found.splits.iter_mut().for_each(|kinds| kinds[2] = nothing);
        }
    }
    let (sig, at) =
        finds(lists, splits, rows.iter().enumerate().map(|(row, found)| (list(row), &found.splits)));
    let [sigs, ats] = SHORTLIST_COLUMNS;
    Ok(LookingArgs {
        prompts: given(&prompts).tensor([requests]),
        finds: FindsArgs {
            sig: given(&vec![f32::NAN; sig.len()])
                .output(PRECISE)
                .expect(&sig, Check::close(1e-3, 1e-4))
                .tensor_mut([requests, kv_heads, sigs, splits]),
            at: filled(-7, &at, Check::Bits).tensor_mut([requests, kv_heads, ats, splits]),
        },
        state: changed(&before, &state).tensor_mut([requests, kv_heads, ShortlistState::COLUMNS]),
    })
}

pub(super) fn merge(spec: &DecodeSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let mut random = Generator::new(seed);
    let (requests, kv_heads, d) = (shapes.get("requests"), shapes.get("kv_heads"), spec.head_dim);
    let (heads, lists) = (kv_heads * spec.group, requests * kv_heads);
    // Lists of one split and more; the launch may have had more than the longest one needs.
    let splits = shapes.get("splits") + 1;
    let counts: Vec<usize> =
        (0..lists).map(|list| (shapes.get("splits") * (list + 1) / lists).max(1)).collect();
    let mut part = |row: usize, split: usize| match (row, split) {
        // Some splits saw no token, and one row saw none at all.
        _ if row == 0 || (row + split) % 5 == 3 => {
            Partial { max: f32::NEG_INFINITY, sum: 0.0, acc: vec![0.0; d] }
        }
        _ => Partial {
            max: random.f32s(1, -2.0, 2.0)[0],
            sum: random.f32s(1, 1.0, 20.0)[0],
            acc: random.f32s(d, -4.0, 4.0),
        },
    };
    let of_row = |row: usize| (0..counts[row / spec.group]).map(|split| part(row, split)).collect();
    let parts: Vec<Vec<Partial>> = (0..requests * heads).map(of_row).collect();
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
    let (found, shortlist) = merged_finds(spec, &counts, &slots, [kv_heads, splits], &mut random);
    let parts = Parts::new(&parts, splits, d);
    let counts: Vec<i32> = counts.into_iter().map(|splits| splits as i32).collect();
    let args = MergeSplitsArgs {
        parts: PartialsArgs {
            splits: given(&counts).tensor_mut([requests, kv_heads]),
            lse: given(&parts.lse).tensor_mut([requests, heads, splits]),
            out: given(&parts.out).tensor_mut([requests, heads, splits, d]),
        },
        q: q.tensor,
        slots: given(&slots).tensor([requests]),
        finds: found,
        shortlist,
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

/// What the splits of lists, so many of each, found, and the shortlist that the merge makes of it.
fn merged_finds(
    spec: &DecodeSpec,
    counts: &[usize],
    slots: &[i32],
    [kv_heads, splits]: [usize; 2],
    random: &mut Generator,
) -> (FindsArgs<'static>, ShortlistMutArgs<'static>) {
    let [sigs, ats] = SHORTLIST_COLUMNS;
    if !spec.candidates {
        let shortlist = ShortlistMutArgs {
            sig: given(&[]).tensor_mut([0, kv_heads, sigs]),
            at: given(&[]).tensor_mut([0, kv_heads, ats]),
        };
        return (no_finds(kv_heads), shortlist);
    }
    // Many are as significant as others, and many splits found none.
    let mut token = || match random.below(3) {
        0 => Found::NONE,
        _ => Found {
            sig: random.below(2) as f32,
            position: random.below(1 << 20) as i32,
            index: random.below(1 << 10) as i32,
        },
    };
    let lists: Vec<Vec<[Found; 3]>> =
        counts.iter().map(|&count| (0..count).map(|_| [token(), token(), token()]).collect()).collect();
    let place = |row: usize| {
        let slot = usize::try_from(slots[row / kv_heads]).ok()?;
        Some(slot * kv_heads + row % kv_heads)
    };
    let placed = lists.iter().enumerate().filter_map(|(row, found)| Some((place(row)?, found)));
    let (mut sig, mut at) = (vec![-7.0; lists.len() * sigs], vec![-7; lists.len() * ats]);
    let before = (sig.clone(), at.clone());
    for (list, found) in placed.clone() {
        let (of_sig, of_at) = Found::columns(Found::best_of(found));
        sig[list * sigs..][..sigs].copy_from_slice(&of_sig);
        at[list * ats..][..ats].copy_from_slice(&of_at);
    }
    let finds = finds(lists.len(), splits, placed);
    let requests = slots.len();
    let found = FindsArgs {
        sig: given(&finds.0).tensor_mut([requests, kv_heads, sigs, splits]),
        at: given(&finds.1).tensor_mut([requests, kv_heads, ats, splits]),
    };
    let shortlist = ShortlistMutArgs {
        sig: changed(&before.0, &sig).tensor_mut([requests, kv_heads, sigs]),
        at: changed(&before.1, &at).tensor_mut([requests, kv_heads, ats]),
    };
    (found, shortlist)
}
