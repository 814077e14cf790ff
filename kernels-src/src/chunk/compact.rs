//! Reclassifying what is cached, in place.

use leankv_dsl::format::Tiering;
use leankv_dsl::lang::attention::{Codecs, LayeredKvMut, PerTier, Spread, Tier, Tiers, TokenList, Tokens};
use leankv_dsl::lang::*;

use super::classify::tiers_of;
use super::few_tierings;
use crate::policy::{HIGH, HeadFacts, LOW, PRUNED, Policies, PolicySpec, Progress, Rule, SINKS};

/// Specialisation of [`recompact`](fn@recompact).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
#[spec(valid = |s| s.chunk >= 1 && s.window >= 0 && s.sinks >= 0)]
pub struct RecompactSpec {
    /// Formats of the tiers, such as `K8V4/K4V2`.
    #[spec(default = few_tierings()[0], values = few_tierings())]
    pub tiering: Tiering,
    /// Elements of a vector.
    #[spec(default = 128)]
    pub head_dim: usize,
    /// Bytes of a page.
    #[spec(default = 6784)]
    pub page_bytes: usize,
    /// Tokens that are looked at, and moved, together.
    #[spec(default = 16, tune = [4, 8, 16, 32, 64])]
    pub block: usize,
    /// Which tokens stay, in which tier.
    #[spec(default = PolicySpec::default())]
    pub policy: PolicySpec,
    /// Tokens of the recent window: always high.
    #[spec(default = 64)]
    pub window: i32,
    /// Attention sinks: tokens at positions `0..sinks` are always high.
    #[spec(default = SINKS)]
    pub sinks: i32,
    /// Tokens of a chunk of a prompt.
    #[spec(default = 512)]
    pub chunk: usize,
    /// How many of a chunk's last queries count towards significance.
    #[spec(default = 64)]
    pub window_q: usize,
    /// Weight of tokens' peaks in their scores, in thousandths; 0 keeps none ([`Peaks`](crate::policy::Peaks)).
    #[spec(default = 0)]
    pub peaks: u32,
}

/// Some tokens of a list, with what decides about them.
#[derive(Clone, Copy, Debug)]
struct Looked<'t> {
    numbers: Tile<i32, 1>,
    from: Spread<'t>,
    words: Tile<f32, 1>,
    tokens: Tokens,
}

impl<'t> Looked<'t> {
    /// `block` tokens from number `first` on, of a list of `len`.
    #[track_caller]
    fn new(
        list: &TokenList<'t>,
        first: Scalar<i32>,
        len: Scalar<i32>,
        block: usize,
        head: Scalar<i32>,
    ) -> Self {
        let numbers = first + iota(block);
        let from = list.at(numbers, numbers.lt(len));
        let tokens = Tokens { positions: from.positions(), head };
        Looked { numbers, from, words: from.significance(), tokens }
    }

    /// Their keys and values, as `tier` stores them.
    #[track_caller]
    fn vectors(&self, tier: &Tier) -> [Tile<f32, 2>; 2] {
        let (keys, values) = (self.from.keys(self.tokens), self.from.values(self.tokens));
        [tier.keys.decode(&keys), tier.values.decode(&values)]
    }

    /// Moves those tokens that are `mine` to other numbers of their own list, byte for byte.
    #[track_caller]
    fn shift(&self, list: &TokenList<'t>, to: Tile<i32, 1>, mine: Tile<bool, 1>) {
        let from = self.from.only(mine);
        let (keys, values) = (from.keys(self.tokens).stored(), from.values(self.tokens).stored());
        list.at(to, mine).store_as_is(&keys, &values, self.words, self.tokens.positions);
    }
}

/// Reclassifies every token of one request that is not frozen in layers of one tiering, after a chunk of its prompt or where its budget is solved for again: high ones
/// stay, are demoted or dropped, low ones stay or are dropped, and both lists close up.
///
/// * Shapes: `tokens` is the number of tokens of the sequence so far, `prompt` the length of the prompt; `layers` is `[moved]`, the numbers of those layers;
///   `thresholds` is
///   `[slots, layers, kv_heads, 2]`, high and low; `held` is `[slots, layers, kv_heads, 2]`, the pages of each list; `kv` holds all layers, `kv.slots`
///   is `[1]`.
/// * Grid: `[kv_heads, moved]`.
/// * Values: tokens keep their order, their significance and their positions; who stays high or low keeps every byte. A demoted token is decoded
///   and encoded again. Where the low list's pages are full, the rest of the demoted tokens stay high until there is room. Tokens of the
///   recent window, sinks, and those for which no query has counted stay; frozen ones are neither read nor written. Lengths become the
///   new ones; pages that fall empty are the caller's to release. A negative slot changes nothing.
/// * Errors: formats that do not fit the page are refused at specialisation.
/// * Source: LeanKV, prompt phase, for prompts in chunks.
#[kernel]
pub fn recompact<C: Codecs, P: Policies>(
    #[comptime] spec: RecompactSpec,
    tokens: Scalar<i32>,
    prompt: Scalar<i32>,
    layers: View<i32, 1>,
    thresholds: View<f32, 4>,
    held: View<i32, 4>,
    kv: LayeredKvMut,
    codecs: C,
    policies: P,
) {
    let tiers = Tiers::new(&codecs, &spec.tiering, spec.head_dim, spec.page_bytes, spec.block);
    let Some(tiers) = tiers else { return };
    let policy = policies.policy(&spec.policy);
    let rule = Rule::new(spec.window, spec.sinks, spec.chunk, spec.window_q, spec.peaks);
    let (head, layer, block) = (program_id(0), layers.get([program_id(1)]), spec.block as i32);
    let kv = kv.layer(layer);
    let slot = kv.slot(lit(0));
    if slot.ge(0) {
        let now = Progress::new(prompt, tokens);
        let threshold = |column: i32| thresholds.get([slot, layer, head, lit(column)]);
        let has_low = tiers.low().is_some();
        let (a_high, a_low) = (threshold(PerTier::AT.high), threshold(PerTier::AT.low));
        let facts = HeadFacts { a_high, a_low, tokens, has_low, layer, head };

        // The low list first: what it drops makes room for what is demoted.
        let (mut low, mut room) = (kv.length(slot, head, true), lit(0));
        if let Some(tier) = tiers.low() {
            let (list, len) = (kv.list(slot, head, tier), low);
            low = kv.frozen(slot, head, true);
            for first in range(low, len).step(block) {
                let looked = Looked::new(&list, first, len, spec.block, head);
                let tier = tiers_of(
                    &*policy,
                    &facts,
                    rule.judge(now, looked.words, looked.tokens.positions),
                    LOW,
                    &|| looked.vectors(tier),
                );
                let stays = looked.from.valid() & tier.ne(PRUNED);
                let to = low + stays.cast::<i32>().cumsum(0) - 1;
                let moves = stays & to.ne(looked.numbers);
                if moves.reduce_or(0) {
                    looked.shift(&list, to, moves);
                }
                low += stays.cast::<i32>().reduce_sum(0);
            }
            let pages = held.get([slot, layer, head, lit(PerTier::AT.low)]);
            room = pages * tier.layout().tokens() as i32 - low;
        }

        let (tier, len) = (tiers.high(), kv.length(slot, head, false));
        let list = kv.list(slot, head, tier);
        let mut high = kv.frozen(slot, head, false);
        for first in range(high, len).step(block) {
            let looked = Looked::new(&list, first, len, spec.block, head);
            let tier = tiers_of(
                &*policy,
                &facts,
                rule.judge(now, looked.words, looked.tokens.positions),
                HIGH,
                &|| looked.vectors(tiers.high()),
            );
            let mut stays = looked.from.valid() & tier.eq(HIGH);
            if let Some(tier_low) = tiers.low() {
                let down = looked.from.valid() & tier.eq(LOW);
                let rank = down.cast::<i32>().cumsum(0);
                let fits = down & rank.le(room);
                stays |= down & !fits;
                let count = fits.cast::<i32>().reduce_sum(0);
                if count.gt(0) {
                    let from = looked.from.only(fits);
                    let keys = tiers.high().keys.decode(&from.keys(looked.tokens));
                    let values = tiers.high().values.decode(&from.values(looked.tokens));
                    let to = kv.list(slot, head, tier_low).at(low + rank - 1, fits);
                    to.store(keys, values, looked.words, looked.tokens);
                }
                low += count;
                room -= count;
            }
            let to = high + stays.cast::<i32>().cumsum(0) - 1;
            let moves = stays & to.ne(looked.numbers);
            if moves.reduce_or(0) {
                looked.shift(&list, to, moves);
            }
            high += stays.cast::<i32>().reduce_sum(0);
        }
        kv.set_lengths(slot, head, high, low);
    }
}
