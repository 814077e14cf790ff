//! Tiers of a prompt's tokens, and moving cached tokens to where they belong.

use leankv_dsl::lang::attention::{Lengths, PerTier};

use super::error::{ReferenceError, check_len};
use super::pages::{PagedFormat, page, page_mut, place, read_token, row_mut, write_token};
use super::step::HeadLists;
use crate::policy::{Counting, HIGH, HeadNumbers, LOW, PRUNED, Peaks, PolicyMath, last_behind};

/// What decides the tier of a prompt's tokens besides their significance.
#[derive(Clone, Copy)]
pub struct TierRule<'a> {
    /// The policy.
    pub policy: &'a dyn PolicyMath,
    /// Tokens of the recent window.
    pub window: i32,
    /// Attention sinks.
    pub sinks: i32,
    /// Which queries count.
    pub counting: Counting,
    /// How words of significance are read.
    pub peaks: Peaks,
    /// Tokens of the prompt.
    pub prompt: i32,
    /// Tokens of the sequence so far.
    pub tokens: i32,
    /// Whether there is a low tier.
    pub has_low: bool,
}

impl std::fmt::Debug for TierRule<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TierRule")
            .field("window", &self.window)
            .field("sinks", &self.sinks)
            .field("counting", &self.counting)
            .field("prompt", &self.prompt)
            .field("tokens", &self.tokens)
            .field("has_low", &self.has_low)
            .finish_non_exhaustive()
    }
}

impl TierRule<'_> {
    /// The tier of one token: [`PRUNED`], [`LOW`] or [`HIGH`]. `word` is its word of significance.
    #[must_use]
    pub fn tier(&self, thresholds: PerTier<f32>, word: f32, position: i32) -> i32 {
        let queries = self.counting.before(Counting::asked(self.tokens, self.prompt), self.prompt);
        let counted = queries - self.counting.before(position, self.prompt);
        if position > last_behind(self.tokens - 1, self.window) || position < self.sinks || counted <= 0 {
            return HIGH;
        }
        let PerTier { high: a_high, low: a_low } = thresholds;
        let head = HeadNumbers { a_high, a_low, tokens: self.tokens, has_low: self.has_low };
        let (mass, peak) = self.peaks.parts(word);
        let sig = self.peaks.score(Counting::significance(mass, counted), peak);
        match self.policy.prompt_tier(sig, &head) {
            LOW if !self.has_low => HIGH,
            tier => tier,
        }
    }
}

/// Where every token of a chunk goes: `[kv_heads, n]`, -1 for a token that is pruned, else twice its number in its tier's list, plus 1 for
/// the low tier. The tokens of each head's `lengths`, `[kv_heads, 4]`, grow.
///
/// * `thresholds`: `[kv_heads, 2]`, high and low; `words`: `[kv_heads, n]`, of significance.
///
/// # Errors
/// Slices that do not fit the shapes.
pub fn classify_chunk(
    rule: &TierRule<'_>,
    thresholds: &[f32],
    words: &[f32],
    before: i32,
    lengths: &mut [i32],
) -> Result<Vec<i32>, ReferenceError> {
    let kv_heads = lengths.len() / Lengths::COLUMNS;
    check_len("lengths [kv_heads, 4]", kv_heads * Lengths::COLUMNS, lengths.len())?;
    check_len("thresholds [kv_heads, 2]", kv_heads * PerTier::COLUMNS, thresholds.len())?;
    let n = words.len() / kv_heads.max(1);
    check_len("words [kv_heads, n]", kv_heads * n, words.len())?;
    let mut dest = Vec::with_capacity(words.len());
    for head in 0..kv_heads {
        let (thresholds, mut now) = (PerTier::get(thresholds, head), Lengths::get(lengths, head));
        for t in 0..n {
            let tier = rule.tier(thresholds, words[head * n + t], before + t as i32);
            if tier == PRUNED {
                dest.push(-1);
                continue;
            }
            let next = if tier == LOW { &mut now.low } else { &mut now.high };
            dest.push(2 * *next + i32::from(tier == LOW));
            *next += 1;
        }
        now.put(lengths, head);
    }
    Ok(dest)
}

/// Reclassifies the tokens of one (request, layer, KV head) that are not frozen, in place, and gives the new lengths.
///
/// * `held_low`: pages of the low list.
///
/// # Errors
/// Lengths beyond the lists, page ids outside the arena.
pub fn recompact(
    rule: &TierRule<'_>,
    thresholds: PerTier<f32>,
    lists: &HeadLists<'_>,
    arena: &mut [u8],
    lengths: Lengths,
    held_low: usize,
) -> Result<Lengths, ReferenceError> {
    let Lengths { high: len_high, low: len_low, frozen_high, frozen_low } = lengths;
    let mut low = len_low;
    let mut room = 0;
    if let Some(paged) = lists.low {
        low = frozen_low;
        for number in frozen_low..len_low {
            let token = read(paged, arena, lists.low_ids, number)?;
            if rule.tier(thresholds, token.significance, token.position) != PRUNED {
                copy(paged, arena, lists.low_ids, number, low)?;
                low += 1;
            }
        }
        room = (held_low * paged.tokens_per_page()) as i32 - low;
    }
    let mut high = frozen_high;
    for number in frozen_high..len_high {
        let token = read(lists.high, arena, lists.high_ids, number)?;
        match (rule.tier(thresholds, token.significance, token.position), lists.low) {
            (PRUNED, _) => {}
            (LOW, Some(paged)) if room > 0 => {
                let (id, slot) = at(paged, lists.low_ids, low)?;
                let page = page_mut(paged, arena, id)?;
                write_token(paged, page, slot, &token.key, &token.value, token.significance, token.position)?;
                low += 1;
                room -= 1;
            }
            _ => {
                copy(lists.high, arena, lists.high_ids, number, high)?;
                high += 1;
            }
        }
    }
    Ok(Lengths { high, low, ..lengths })
}

fn at(paged: &PagedFormat, ids: &[i32], number: i32) -> Result<(i32, u32), ReferenceError> {
    let beyond = ReferenceError::LengthBeyondPages { len: number.into(), room: 0 };
    place(paged, ids, usize::try_from(number).map_err(|_| beyond)?)
}

fn read(paged: &PagedFormat, arena: &[u8], ids: &[i32], number: i32) -> Result<super::Token, ReferenceError> {
    let (id, slot) = at(paged, ids, number)?;
    read_token(paged, page(paged, arena, id)?, slot)
}

/// Copies a token's bytes within its list.
fn copy(
    paged: &PagedFormat,
    arena: &mut [u8],
    ids: &[i32],
    from: i32,
    to: i32,
) -> Result<(), ReferenceError> {
    let ((from_page, from), (to_page, to)) = (at(paged, ids, from)?, at(paged, ids, to)?);
    for segment in paged.layout().segments() {
        let bytes = row_mut(page_mut(paged, arena, from_page)?, segment, from).to_vec();
        row_mut(page_mut(paged, arena, to_page)?, segment, to).copy_from_slice(&bytes);
    }
    Ok(())
}
