//! Decode attention over paged, two-tier, per-head page lists.
//!
//! One query token per request; `group = query_heads / kv_heads` query heads share a KV head. The tokens of
//! a KV head are its high tier's tokens followed by its low tier's; softmax runs over both.
//!
//! Split-KV: the concatenated page list (high pages, then low pages) is cut into splits of `split_pages` pages;
//! each yields a [`Partial`] and [`merge_partials`] combines them in split order. The result does not depend on
//! how many pages a split has, up to rounding.
//!
//! Significance of a token in one decode step is its probability, maximised over the query group (LeanKV,
//! significance in the decode phase): [`received`] by the logarithm of the sum of exponentials that the queries had when
//! they were asked; [`add_shares`] accumulates it into the pages.

use leankv_dsl::lang::attention::{ALL_PAGES, Lengths, pages_of_split, splits_of};

use super::chunk::Share;
use super::error::{ReferenceError, check_len, group_size};
use super::pages::{PagedFormat, four, page_mut, place, read_tokens, row_mut};
use crate::pattern::HeadPattern;
use crate::policy::{Peaks, last_behind};

/// Paged keys and values of several requests.
#[derive(Debug, Clone, Copy)]
pub struct PagedKv<'a> {
    /// Format of the high tier.
    pub high: &'a PagedFormat,
    /// Format of the low tier; none where there is no low tier (low lengths are then 0).
    pub low: Option<&'a PagedFormat>,
    /// `[pages, page_bytes]`, all pages of both tiers.
    pub arena: &'a [u8],
    /// `[requests]` where in `page_table` and `lengths` a request is found; negative for one that is left out and has no
    /// tokens.
    pub slots: &'a [i32],
    /// `[slots, kv_heads, table_len]` page ids: high page `k` at index `k`, low page `k` at index
    /// `table_len - 1 - k`.
    pub page_table: &'a [i32],
    /// `[slots, kv_heads, 4]` tokens: high, low, and the frozen ones of each: the leading ones of the list, in
    /// pages shared with another request.
    pub lengths: &'a [i32],
    /// Entries per table.
    pub table_len: usize,
}

/// Arguments of decode attention besides the cache.
#[derive(Debug, Clone, Copy)]
pub struct DecodeArgs<'a> {
    /// `[requests, query_heads, head_dim]`, after RoPE.
    pub q: &'a [f32],
    /// `[requests]` positions of the queries; read by patterns other than dense.
    pub query_positions: &'a [i32],
    /// Query heads per request.
    pub query_heads: usize,
    /// KV heads per request; divides the query heads.
    pub kv_heads: usize,
    /// Factor on the logits, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Which tokens are attended to.
    pub pattern: HeadPattern,
}

/// Result of decode attention.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeOutput {
    /// `[requests, query_heads, head_dim]`; zeros where no token is attended to.
    pub out: Vec<f32>,
    /// `[requests, query_heads]` natural log of the sum of exponentials of the logits; negative infinity
    /// where no token is attended to.
    pub lse: Vec<f32>,
}

/// Attention of one query head over one split: an online softmax that is not yet normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Partial {
    /// Largest logit; negative infinity for an empty split.
    pub max: f32,
    /// Sum of `exp(logit - max)`.
    pub sum: f32,
    /// `[head_dim]` sum of `exp(logit - max) * value`.
    pub acc: Vec<f32>,
}

impl Partial {
    fn empty(head_dim: usize) -> Self {
        Self { max: f32::NEG_INFINITY, sum: 0.0, acc: vec![0.0; head_dim] }
    }

    /// Natural logarithm of the sum of exponentials of the logits; minus infinity for an empty split.
    #[must_use]
    pub fn lse(&self) -> f32 {
        if self.sum == 0.0 { f32::NEG_INFINITY } else { self.max + self.sum.ln() }
    }

    /// Attention to the split's tokens alone, `[head_dim]`; zeros for an empty split.
    #[must_use]
    pub fn output(&self) -> Vec<f32> {
        let sum = if self.sum == 0.0 { 1.0 } else { self.sum };
        self.acc.iter().map(|acc| acc / sum).collect()
    }

    /// Takes in one token: the running maximum, sum and output of flash attention.
    fn push(&mut self, logit: f32, value: &[f32]) {
        let max = self.max.max(logit);
        let (old, new) = (rescale(self.max, max), rescale(logit, max));
        self.sum = self.sum * old + new;
        for (acc, v) in self.acc.iter_mut().zip(value) {
            *acc = *acc * old + new * v;
        }
        self.max = max;
    }
}

/// Decode attention in one pass (one split).
///
/// # Errors
/// Slices that do not fit the shapes, lengths beyond the page table, page ids outside the arena.
pub fn decode_attention(args: &DecodeArgs<'_>, kv: &PagedKv<'_>) -> Result<DecodeOutput, ReferenceError> {
    merge_partials(args, &decode_partials(args, kv, ALL_PAGES)?)
}

/// The partials of decode attention in splits of `split_pages` pages: for each row of `[requests, query_heads]` those of its own splits.
///
/// # Errors
/// As [`decode_attention`].
pub fn decode_partials(
    args: &DecodeArgs<'_>,
    kv: &PagedKv<'_>,
    split_pages: usize,
) -> Result<Vec<Vec<Partial>>, ReferenceError> {
    let d = kv.high.head_dim();
    let mut out = Vec::with_capacity(args.query_positions.len() * args.query_heads);
    for_groups(args, kv, split_pages, |rows, parts| {
        for row in rows {
            let partial = |tokens: &Vec<super::Token>| {
                let mut partial = Partial::empty(d);
                for token in tokens {
                    if let Some(logit) = args.logit(row, token) {
                        partial.push(logit, &token.value);
                    }
                }
                partial
            };
            out.push(parts.iter().map(partial).collect());
        }
    })?;
    Ok(out)
}

/// What every token of each (request, KV head), high tier then low, receives from queries whose logarithms of the sum of exponentials
/// are `lse: [requests, query_heads]`: `exp(logit - lse)`, maximised over the query group. Tokens outside the pattern have 0, and an infinite
/// `lse` gives nothing.
///
/// # Errors
/// As [`decode_attention`].
pub fn received(
    args: &DecodeArgs<'_>,
    kv: &PagedKv<'_>,
    lse: &[f32],
) -> Result<Vec<Vec<f32>>, ReferenceError> {
    check_len("lse [requests, query_heads]", args.query_positions.len() * args.query_heads, lse.len())?;
    let mut out = Vec::new();
    for_groups(args, kv, ALL_PAGES, |rows, parts| {
        let share = |token: &super::Token, row: usize| match args.logit(row, token) {
            Some(logit) if lse[row].is_finite() => (logit - lse[row]).exp(),
            _ => 0.0,
        };
        let most = |token: &super::Token| rows.clone().map(|row| share(token, row)).fold(0.0, f32::max);
        out.push(parts[0].iter().map(most).collect());
    })?;
    Ok(out)
}

impl DecodeArgs<'_> {
    /// The scaled logit of a query, by its row of `[requests, query_heads]`; none where it does not attend to the token.
    fn logit(&self, row: usize, token: &super::Token) -> Option<f32> {
        let (d, position) = (token.key.len(), self.query_positions[row / self.query_heads]);
        let attends = self.pattern.attends(position, token.position);
        let dot = || self.q[row * d..][..d].iter().zip(&token.key).map(|(q, k)| q * k).sum::<f32>();
        attends.then(|| dot() * self.scale)
    }
}

/// Calls `visit` for every (request, KV head) with the rows of `[requests, query_heads]` that are its query group, and the tokens of each of
/// its splits.
fn for_groups(
    args: &DecodeArgs<'_>,
    kv: &PagedKv<'_>,
    split_pages: usize,
    mut visit: impl FnMut(std::ops::Range<usize>, &[Vec<super::Token>]),
) -> Result<(), ReferenceError> {
    let d = kv.high.head_dim();
    let group = group_size(args.query_heads, args.kv_heads)?;
    let requests = args.query_positions.len();
    check_len("q [requests, query_heads, head_dim]", requests * args.query_heads * d, args.q.len())?;
    check_len("slots [requests]", requests, kv.slots.len())?;
    let slots = kv.lengths.len() / (Lengths::COLUMNS * args.kv_heads);
    check_len("lengths [slots, kv_heads, 4]", slots * args.kv_heads * Lengths::COLUMNS, kv.lengths.len())?;
    check_len(
        "page_table [slots, kv_heads, table_len]",
        slots * args.kv_heads * kv.table_len,
        kv.page_table.len(),
    )?;
    let place = |request: usize| {
        let slot = kv.slots[request];
        match usize::try_from(slot) {
            Ok(known) if known < slots => Ok(Some(known)),
            Ok(_) => Err(ReferenceError::SlotOutOfRange { slot, slots }),
            Err(_) => Ok(None),
        }
    };
    if let Some(low) = kv.low {
        check_len("head dim of the low tier", d, low.head_dim())?;
        let bytes = |paged: &PagedFormat| paged.layout().page_bytes() as usize;
        check_len("page bytes of the low tier", bytes(kv.high), bytes(low))?;
    }
    for request in 0..requests {
        for kv_head in 0..args.kv_heads {
            let parts = match place(request)? {
                Some(slot) => split_tokens(kv, slot * args.kv_heads + kv_head, split_pages)?,
                None => vec![Vec::new()],
            };
            let first = request * args.query_heads + kv_head * group;
            visit(first..first + group, &parts);
        }
    }
    Ok(())
}

/// Merges the partials of each row of `[requests, query_heads]` in split order; there is at least one.
///
/// # Errors
/// [`ReferenceError::Shape`] for another number of rows.
pub fn merge_partials(
    args: &DecodeArgs<'_>,
    partials: &[Vec<Partial>],
) -> Result<DecodeOutput, ReferenceError> {
    let rows = args.query_positions.len() * args.query_heads;
    check_len("partials [requests, query_heads]", rows, partials.len())?;
    let mut result = DecodeOutput { out: Vec::new(), lse: Vec::new() };
    for parts in partials {
        let max = parts.iter().map(|p| p.max).fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = parts.iter().map(|p| p.sum * rescale(p.max, max)).sum();
        let factor = |p: &Partial| if sum == 0.0 { 0.0 } else { rescale(p.max, max) / sum };
        let mut out = vec![0.0; parts[0].acc.len()];
        for p in parts {
            out.iter_mut().zip(&p.acc).for_each(|(out, acc)| *out += acc * factor(p));
        }
        result.out.extend(out);
        result.lse.push(if sum == 0.0 { f32::NEG_INFINITY } else { max + sum.ln() });
    }
    Ok(result)
}

/// Queries of the step before, whose significance is still to be added.
#[derive(Debug, Clone, Copy)]
pub struct PendingQueries<'a> {
    /// `[slots, query_heads, head_dim]`.
    pub q: &'a [f32],
    /// `[slots, query_heads]` logs of their sums of exponentials; infinity for a query that adds nothing.
    pub lse: &'a [f32],
    /// `[requests, kv_heads]` numbers, in the lists of the high tier, of the tokens that came after them; negative for none.
    pub newest: &'a [i32],
}

/// Adds to `arena`, a copy of that of `kv`, what decode attention with these arguments adds: the significance of the pending queries,
/// whose positions are one below those of the step's. Frozen and newest tokens get nothing. The peaks of the high tier rise behind a window of `window` tokens alone.
///
/// # Errors
/// As [`decode_attention`].
pub fn add_pending(
    args: &DecodeArgs<'_>,
    pending: &PendingQueries<'_>,
    (peaks, window): (Peaks, i32),
    kv: &PagedKv<'_>,
    arena: &mut [u8],
) -> Result<(), ReferenceError> {
    let (slots, heads) = (kv.lengths.len() / (Lengths::COLUMNS * args.kv_heads), args.query_heads);
    let d = kv.high.head_dim();
    check_len("pending queries [slots, query_heads, head_dim]", slots * heads * d, pending.q.len())?;
    check_len("their lse [slots, query_heads]", slots * heads, pending.lse.len())?;
    check_len("newest [requests, kv_heads]", kv.slots.len() * args.kv_heads, pending.newest.len())?;
    let positions: Vec<i32> = args.query_positions.iter().map(|position| position - 1).collect();
    let mut gathered = (Vec::new(), Vec::new());
    for &slot in kv.slots {
        // A request that is left out has no tokens.
        let row = usize::try_from(slot).unwrap_or(0).min(slots.saturating_sub(1)) * heads;
        gathered.0.extend_from_slice(&pending.q[row * d..][..heads * d]);
        gathered.1.extend_from_slice(&pending.lse[row..][..heads]);
    }
    let asked = DecodeArgs { q: &gathered.0, query_positions: &positions, ..*args };
    for (row, step) in received(&asked, kv, &gathered.1)?.into_iter().enumerate() {
        let Ok(slot) = usize::try_from(kv.slots[row / args.kv_heads]) else { continue };
        let list = slot * args.kv_heads + row % args.kv_heads;
        let lengths = Lengths::get(kv.lengths, list);
        let last = last_behind(positions[row / args.kv_heads], window);
        let tokens = split_tokens(kv, list, ALL_PAGES)?.remove(0);
        let share =
            |(number, (token, share)): (usize, (&super::Token, f32))| match number < lengths.high as usize {
                true if pending.newest[row] == number as i32 => Share::default(),
                true if token.position > last => Share { sum: share, most: 0.0 },
                _ => Share::once(share),
            };
        let shares: Vec<Share> = tokens.iter().zip(step).enumerate().map(share).collect();
        add_shares(kv, list, peaks, &shares, arena)?;
    }
    Ok(())
}

/// Adds to `arena`, a copy of that of `kv`, what the tokens of list number `list` received: high tier's tokens, then the low tier's. Frozen ones get nothing.
///
/// # Errors
/// More tokens than the list holds, or a page id outside the arena.
pub fn add_shares(
    kv: &PagedKv<'_>,
    list: usize,
    peaks: Peaks,
    shares: &[Share],
    arena: &mut [u8],
) -> Result<(), ReferenceError> {
    let lengths = Lengths::get(kv.lengths, list);
    let (of_high, of_low) = shares.split_at(lengths.high as usize);
    for (low, paged, shares) in [(false, Some(kv.high), of_high), (true, kv.low, of_low)] {
        let Some(paged) = paged else { continue };
        let ids = tier_ids(kv, list, low);
        for (t, share) in shares.iter().enumerate().skip(lengths.frozen(low) as usize) {
            let (page, slot) = place(paged, &ids, t)?;
            let row = row_mut(page_mut(paged, arena, page)?, paged.layout().significance(), slot);
            let word = peaks.add(f32::from_le_bytes(four(row)), share.sum, share.most);
            row.copy_from_slice(&word.to_le_bytes());
        }
    }
    Ok(())
}

/// `exp(from - to)`, with an empty part (negative infinity) weighing nothing.
fn rescale(from: f32, to: f32) -> f32 {
    if from == f32::NEG_INFINITY { 0.0 } else { (from - to).exp() }
}

/// The page ids of one tier of list number `list` of `kv`.
pub(super) fn tier_ids(kv: &PagedKv<'_>, list: usize, low: bool) -> Vec<i32> {
    let table = &kv.page_table[list * kv.table_len..][..kv.table_len];
    match low {
        false => table.to_vec(),
        true => table.iter().rev().copied().collect(),
    }
}

/// The tokens of one KV head, cut into splits.
pub(super) fn split_tokens(
    kv: &PagedKv<'_>,
    head: usize,
    split_pages: usize,
) -> Result<Vec<Vec<super::Token>>, ReferenceError> {
    let table = &kv.page_table[head * kv.table_len..][..kv.table_len];
    let reversed: Vec<i32> = table.iter().rev().copied().collect();
    let mut pages = Vec::new();
    let mut free = kv.table_len;
    let lengths = Lengths::get(kv.lengths, head);
    for (paged, ids, len) in [(Some(kv.high), table, lengths.high), (kv.low, &reversed[..], lengths.low)] {
        let room = paged.map_or(0, |p| p.tokens_per_page() * free);
        let beyond = ReferenceError::LengthBeyondPages { len: len.into(), room };
        let tokens = usize::try_from(len).ok().filter(|&n| n <= room).ok_or(beyond)?;
        if let Some(paged) = paged {
            free -= tokens.div_ceil(paged.tokens_per_page());
            let tokens = read_tokens(paged, kv.arena, ids, tokens)?;
            pages.extend(tokens.chunks(paged.tokens_per_page()).map(<[_]>::to_vec));
        }
    }
    let part = |split: usize| pages[pages_of_split(pages.len(), split_pages, split)].concat();
    Ok((0..splits_of(pages.len(), split_pages)).map(part).collect())
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
