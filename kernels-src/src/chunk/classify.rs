//! Tiers of a prompt's tokens: of a new chunk's, and of those cached before it.

use leankv_dsl::lang::attention::{Lengths, PerTier};
use leankv_dsl::lang::*;

use crate::policy::{
    HIGH, HeadFacts, Judged, LOW, Policies, Policy, PolicySpec, Progress, Rule, SINKS, TokenFacts,
};

/// Tiers of judged tokens that are in tier `now`: the policy's where it is asked, high elsewhere. `vectors` reads their keys and values.
#[track_caller]
pub(super) fn tiers_of(
    policy: &dyn Policy,
    head: &HeadFacts,
    tokens: Judged,
    now: i32,
    vectors: &dyn Fn() -> [Tile<f32, 2>; 2],
) -> Tile<i32, 1> {
    let tier = policy.prompt_tier(&TokenFacts::new(&tokens, lit(now), vectors), head);
    // Whoever names a tier that does not exist gets the one that does.
    let tier = if head.has_low { tier } else { tier.eq(LOW).select(HIGH, tier) };
    tokens.open.select(tier, HIGH)
}

/// Specialisation of [`classify_chunk`](fn@classify_chunk).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
#[spec(valid = |s| s.block >= 1 && s.chunk >= 1 && s.window >= 0 && s.sinks >= 0)]
pub struct ClassifySpec {
    /// Whether there is a low tier.
    #[spec(default = true, values = [true, false])]
    pub two_tiers: bool,
    /// Elements of a vector.
    #[spec(default = 128)]
    pub head_dim: usize,
    /// Type of keys and values.
    #[spec(default = FloatType::F16)]
    pub input: FloatType,
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
    /// Tokens that are looked at together.
    #[spec(default = 128, tune = [32, 64, 128, 256, 512])]
    pub block: usize,
}

/// Decides the tier of every token of a chunk, and where in its tier's list it goes.
///
/// * Shapes: `words` is `[kv_heads, n]`, words of significance over the chunk's counted queries; `before` is the position of the chunk's first
///   token, `prompt` the length of the whole prompt; `layer` is what policies are told; `keys`, `values` are `[n, kv_heads, head_dim]`, for policies
///   that ask for norms; `slots` is `[1]`, `thresholds` is `[slots, kv_heads, 2]`, high and low; `lengths` is
///   `[slots, kv_heads, Lengths::COLUMNS]`, of which the tokens grow by what is kept; `dest` is `[kv_heads, n]`, as
///   [`write_chunk`](fn@crate::chunk::write_chunk) takes it.
/// * Grid: `[kv_heads]`.
/// * Values: a stable partition by prefix sums, without a sort; within a tier tokens stay in order. Tokens of the recent window, sinks and
///   tokens for which no query has counted are high. A negative slot prunes everything and changes no length.
/// * Source: LeanKV, prompt phase; significance against `1 / tokens` so far.
#[kernel]
pub fn classify_chunk<P: Policies>(
    #[comptime] spec: ClassifySpec,
    words: View<f32, 2>,
    before: Scalar<i32>,
    prompt: Scalar<i32>,
    layer: Scalar<i32>,
    #[arg(align = 16, element = spec.input)] keys: FloatView<3>,
    #[arg(align = 16, element = spec.input)] values: FloatView<3>,
    slots: View<i32, 1>,
    thresholds: View<f32, 3>,
    lengths: ViewMut<i32, 3>,
    dest: ViewMut<i32, 2>,
    policies: P,
) {
    let policy = policies.policy(&spec.policy);
    let rule = Rule::new(spec.window, spec.sinks, spec.chunk, spec.window_q, spec.peaks);
    let head = program_id(0);
    let slot = slots.get([lit(0)]);
    let row = slot.max(0);
    let n = words.extent(1).cast::<i32>();
    let now = Progress::new(prompt, before + n);
    let threshold = |column: i32| thresholds.get([row, head, lit(column)]);
    let (tokens, has_low) = (now.tokens, spec.two_tiers);
    let (a_high, a_low) = (threshold(PerTier::AT.high), threshold(PerTier::AT.low));
    let facts = HeadFacts { a_high, a_low, tokens, has_low, layer, head };
    let length = |column: i32| lengths.get([row, head, lit(column)]);
    let (mut high, mut low) = (length(Lengths::AT.high), length(Lengths::AT.low));
    for tile in range(0, n.cdiv(spec.block as i32)) {
        let numbers = tile * spec.block as i32 + iota(spec.block);
        let words = words.tile((head, tile), [1, spec.block]).load().squeeze(0);
        let vectors = || {
            let extents = [spec.block, 1, spec.head_dim];
            [keys, values].map(|view| view.tile((tile, head, 0), extents).load().squeeze(1))
        };
        let judged = rule.judge(now, words, before + numbers);
        let tiers = tiers_of(&*policy, &facts, judged, HIGH, &vectors);
        let exist = numbers.lt(n) & slot.ge(0);
        let to_high = (exist & tiers.eq(HIGH)).cast::<i32>();
        let to_low = (exist & tiers.eq(LOW)).cast::<i32>();
        let high_place = (high + to_high.cumsum(0) - 1) * 2;
        let low_place = (low + to_low.cumsum(0) - 1) * 2 + 1;
        let place: Tile<i32, 1> = to_low.ne(0).select(low_place, -1);
        let place: Tile<i32, 1> = to_high.ne(0).select(high_place, place);
        dest.tile((head, tile), [1, spec.block]).store(place.expand_dims(0));
        high += to_high.reduce_sum(0);
        low += to_low.reduce_sum(0);
    }
    if slot.ge(0) {
        lengths.set([slot, head, lit(Lengths::AT.high)], high);
        lengths.set([slot, head, lit(Lengths::AT.low)], low);
    }
}
