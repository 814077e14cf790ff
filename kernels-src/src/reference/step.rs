//! The decode step: planning it for every head, and carrying it out.

use leankv_dsl::lang::attention::{Lengths, PerTier};

use super::decode::{PagedKv, split_tokens, tier_ids};
use super::error::{ReferenceError, check_len};
use super::pages::{PagedFormat, page_mut, place, read_token, row_mut, write_token};
use crate::candidates::ShortlistState;
use crate::policy::{Counting, HeadNumbers, Peaks, PolicyMath, StepNumbers, last_behind};
use crate::step::StepPlan;

/// Arguments of planning besides the cache.
#[derive(Clone, Copy)]
pub struct StepArgs<'a> {
    /// `[requests]` positions of the new tokens.
    pub positions: &'a [i32],
    /// `[requests]` lengths of the prompts.
    pub prompts: &'a [i32],
    /// `[slots, heads, 2]` high and low thresholds.
    pub thresholds: &'a [f32],
    /// Heads of the cache: KV heads of all layers.
    pub heads: usize,
    /// Tokens of the recent window, the new one included.
    pub window: i32,
    /// Attention sinks.
    pub sinks: i32,
    /// Which queries count.
    pub counting: Counting,
    /// How words of significance are read.
    pub peaks: Peaks,
    /// The policy.
    pub policy: &'a dyn PolicyMath,
}

impl std::fmt::Debug for StepArgs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepArgs")
            .field("positions", &self.positions)
            .field("prompts", &self.prompts)
            .field("heads", &self.heads)
            .finish_non_exhaustive()
    }
}

/// A plan with the pages of either tier that carrying it out needs; -1 for a request that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What to do.
    pub plan: StepPlan,
    /// Pages: high, low.
    pub target: [i32; 2],
}

/// A token that may change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Its significance.
    pub sig: f32,
    /// Its position.
    pub position: i32,
    /// Its number in its list.
    pub index: i32,
}

impl Found {
    /// What kernels write where there is none.
    pub const NONE: Found = Found { sig: f32::INFINITY, position: i32::MAX, index: -1 };

    /// The columns of a shortlist that these candidates, one of each kind, make: significance, and positions and numbers.
    pub fn columns(kinds: [Found; 3]) -> ([f32; 3], [i32; 6]) {
        let [a, b, c] = kinds;
        (kinds.map(|f| f.sig), [a.position, b.position, c.position, a.index, b.index, c.index])
    }

    /// The best of each kind among what splits found.
    pub fn best_of(splits: &[[Found; 3]]) -> [Found; 3] {
        std::array::from_fn(|kind| {
            let of_kind: Vec<Found> = splits.iter().map(|found| found[kind]).collect();
            least(&of_kind).unwrap_or(Found::NONE)
        })
    }
}

/// Plans a decode step of every (request, head), in that order. `kv` lists all heads of all layers; a request with a negative slot is
/// left out.
///
/// # Errors
/// Slices that do not fit the shapes, lengths beyond the page table, page ids outside the arena.
pub fn plan_step(args: &StepArgs<'_>, kv: &PagedKv<'_>) -> Result<Vec<Planned>, ReferenceError> {
    let requests = args.positions.len();
    check_len("prompts [requests]", requests, args.prompts.len())?;
    check_len("slots [requests]", requests, kv.slots.len())?;
    check_len("thresholds [slots, heads, 2]", kv.lengths.len() / 2, args.thresholds.len())?;
    let mut out = Vec::new();
    for (request, &slot) in kv.slots.iter().enumerate() {
        for head in 0..args.heads {
            out.push(match usize::try_from(slot) {
                Ok(slot) => plan_head(args, kv, request, slot * args.heads + head)?,
                Err(_) => Planned { plan: StepPlan::NOTHING, target: [-1; 2] },
            });
        }
    }
    Ok(out)
}

fn plan_head(
    args: &StepArgs<'_>,
    kv: &PagedKv<'_>,
    request: usize,
    list: usize,
) -> Result<Planned, ReferenceError> {
    let slots = kv.lengths.len() / (Lengths::COLUMNS * args.heads);
    if list >= slots * args.heads {
        return Err(ReferenceError::SlotOutOfRange { slot: kv.slots[request], slots });
    }
    let (lengths, thresholds) = (Lengths::get(kv.lengths, list), PerTier::get(args.thresholds, list));
    let position = args.positions[request];
    let (high, low) =
        (candidates(args, kv, request, list, false)?, candidates(args, kv, request, list, true)?);
    let needs = args.policy.needs();
    let least_high = least(&high).filter(|_| needs.least_high || needs.leaving);
    let leaving =
        high.iter().copied().find(|f| needs.leaving && f.position == last_behind(position, args.window));
    let least_low = least(&low).filter(|_| needs.least_low);
    let (len_high, len_low) = (lengths.high, lengths.low);
    let choice = args.policy.step(&StepNumbers {
        head: HeadNumbers {
            a_high: thresholds.high,
            a_low: thresholds.low,
            tokens: position + 1,
            has_low: kv.low.is_some(),
        },
        len_high,
        len_low,
        least_high: least_high.map(|f| f.sig),
        leaving: leaving.map(|f| f.sig),
        least_low: least_low.map(|f| f.sig),
    });
    let victim = match choice.victim {
        _ if choice.demote && kv.low.is_none() => None,
        1 => least_high,
        2 => leaving,
        _ => None,
    };
    let victim = victim.map_or(-1, |f| f.index);
    let demote = choice.demote && victim >= 0;
    let evicted = least_low.filter(|_| choice.evict_low).map_or(-1, |f| f.index);
    let mut plan = StepPlan { victim, demote: demote.into(), len_high, len_low, ..StepPlan::NOTHING };
    if victim >= 0 {
        plan.new = victim;
    } else {
        plan.new = len_high;
        plan.len_high += 1;
    }
    match (demote, evicted >= 0) {
        (true, true) => plan.low = evicted,
        (true, false) => {
            plan.low = len_low;
            plan.len_low += 1;
        }
        (false, true) => {
            plan.hole = evicted;
            plan.source = if evicted < len_low - 1 { len_low - 1 } else { -1 };
            plan.len_low -= 1;
        }
        (false, false) => {}
    }
    let pages = |paged: Option<&PagedFormat>, before: i32, after: i32| {
        paged.map_or(0, |p| (before.max(after) as usize).div_ceil(p.tokens_per_page()) as i32)
    };
    let target = [pages(Some(kv.high), len_high, plan.len_high), pages(kv.low, len_low, plan.len_low)];
    Ok(Planned { plan, target })
}

/// The tokens of a tier's list that a step may change.
fn candidates(
    args: &StepArgs<'_>,
    kv: &PagedKv<'_>,
    request: usize,
    list: usize,
    low: bool,
) -> Result<Vec<Found>, ReferenceError> {
    let Some(paged) = (if low { kv.low } else { Some(kv.high) }) else { return Ok(Vec::new()) };
    let (position, prompt) = (args.positions[request], args.prompts[request]);
    let queries = args.counting.before(Counting::asked(position, prompt), prompt);
    let lengths = Lengths::get(kv.lengths, list);
    let ids = tier_ids(kv, list, low);
    let mut found = Vec::new();
    for index in lengths.frozen(low)..lengths.tokens(low) {
        let (page, slot) = place(paged, &ids, index as usize)?;
        let token = token(paged, kv.arena, page, slot)?;
        let counted = queries - args.counting.before(token.position, prompt);
        let old = token.position <= last_behind(position, args.window) && token.position >= args.sinks;
        if old && counted > 0 {
            let (mass, peak) = args.peaks.parts(token.significance);
            let sig = args.peaks.score(Counting::significance(mass, counted), peak);
            found.push(Found { sig, position: token.position, index });
        }
    }
    Ok(found)
}

/// The least significant; of equals, the one at the lowest position.
fn least(found: &[Found]) -> Option<Found> {
    found.iter().copied().min_by(|a, b| a.sig.total_cmp(&b.sig).then(a.position.cmp(&b.position)))
}

/// What decode attention finds for one (slot, head) and the step that `args` describes.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortlisted {
    /// Of each split the least of the high tier, the one that leaves the window, the least of the low tier.
    pub splits: Vec<[Found; 3]>,
    /// What they hold for.
    pub state: ShortlistState,
}

/// The shortlists of every (request, head), in that order, where attention runs in splits of `split_pages` pages. `kv` is as attention leaves it, and
/// has slots for all requests.
///
/// # Errors
/// As [`plan_step`].
pub fn shortlist(
    args: &StepArgs<'_>,
    kv: &PagedKv<'_>,
    split_pages: usize,
) -> Result<Vec<Shortlisted>, ReferenceError> {
    let mut out = Vec::new();
    for (request, &slot) in kv.slots.iter().enumerate() {
        let slots = kv.lengths.len() / (Lengths::COLUMNS * args.heads);
        let known = usize::try_from(slot).ok().filter(|slot| *slot < slots);
        let slot = known.ok_or(ReferenceError::SlotOutOfRange { slot, slots })?;
        for list in slot * args.heads..(slot + 1) * args.heads {
            let (high, low) =
                (candidates(args, kv, request, list, false)?, candidates(args, kv, request, list, true)?);
            let last = last_behind(args.positions[request], args.window);
            let leaving: Vec<Found> = high.iter().copied().filter(|f| f.position == last).collect();
            let state = ShortlistState::new(args.positions[request], Lengths::get(kv.lengths, list));
            let of_split = |part: &Vec<super::Token>| {
                [&high, &leaving, &low].map(|found| {
                    let here = |f: &&Found| part.iter().any(|token| token.position == f.position);
                    let here: Vec<Found> = found.iter().filter(here).copied().collect();
                    least(&here).unwrap_or(Found::NONE)
                })
            };
            let splits = split_tokens(kv, list, split_pages)?.iter().map(of_split).collect();
            out.push(Shortlisted { splits, state });
        }
    }
    Ok(out)
}

fn token(paged: &PagedFormat, arena: &[u8], page: i32, slot: u32) -> Result<super::Token, ReferenceError> {
    read_token(paged, super::pages::page(paged, arena, page)?, slot)
}

/// Where one (request, KV head) keeps its tokens.
#[derive(Clone, Copy, Debug)]
pub struct HeadLists<'a> {
    /// Format of the high tier.
    pub high: &'a PagedFormat,
    /// Format of the low tier, if there is one.
    pub low: Option<&'a PagedFormat>,
    /// Page ids of the high list.
    pub high_ids: &'a [i32],
    /// Page ids of the low list.
    pub low_ids: &'a [i32],
}

/// Carries out the plan of one (request, KV head): fills the hole, demotes the victim, writes the new token with its word of significance. Lengths are the
/// caller's to set.
///
/// # Errors
/// A plan that names places outside the lists, page ids outside the arena, vectors of the wrong length.
pub fn insert_token(
    lists: &HeadLists<'_>,
    arena: &mut [u8],
    plan: &StepPlan,
    key: &[f32],
    value: &[f32],
    word: f32,
    position: i32,
) -> Result<(), ReferenceError> {
    let beyond = |len: i32| ReferenceError::LengthBeyondPages { len: len.into(), room: 0 };
    let at = |paged, ids, index: i32| place(paged, ids, usize::try_from(index).map_err(|_| beyond(index))?);
    if let Some(low) = lists.low {
        if plan.source >= 0 {
            let ((page, slot), (hole_page, hole)) =
                (at(low, lists.low_ids, plan.source)?, at(low, lists.low_ids, plan.hole)?);
            for segment in low.layout().segments() {
                let bytes = row_mut(page_mut(low, arena, page)?, segment, slot).to_vec();
                row_mut(page_mut(low, arena, hole_page)?, segment, hole).copy_from_slice(&bytes);
            }
        }
        if plan.demotes() {
            let (page, slot) = at(lists.high, lists.high_ids, plan.victim)?;
            let victim = token(lists.high, arena, page, slot)?;
            let (page, slot) = at(low, lists.low_ids, plan.low)?;
            let page = page_mut(low, arena, page)?;
            write_token(low, page, slot, &victim.key, &victim.value, victim.significance, victim.position)?;
        }
    }
    let (page, slot) = at(lists.high, lists.high_ids, plan.new)?;
    write_token(lists.high, page_mut(lists.high, arena, page)?, slot, key, value, word, position)
}
