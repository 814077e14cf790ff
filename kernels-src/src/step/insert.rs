//! Carrying out a planned decode step.

use leankv_dsl::format::Tiering;
use leankv_dsl::lang::attention::{Codecs, PagedKvMut, Tiers, Tokens};
use leankv_dsl::lang::*;

use super::StepPlan;
use super::plan::two_tiers;
use crate::policy::{Peaks, Received};

/// Specialisation of [`insert_token`](fn@insert_token).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
pub struct InsertSpec {
    /// Formats of the tiers, such as `K8V4/K4V2`.
    #[spec(default = two_tiers(), values = [
        two_tiers(),
        Tiering::single(two_tiers().high),
        "K8V4g1.2/K4V2g2.4".parse().expect("this is a name of a tiering"),
    ])]
    pub tiering: Tiering,
    /// Elements of a vector.
    #[spec(default = 128, values = [64, 128])]
    pub head_dim: usize,
    /// Type of keys and values.
    #[spec(default = FloatType::F16, values = FloatType::ALL)]
    pub input: FloatType,
    /// Bytes of a page.
    #[spec(default = 6784)]
    pub page_bytes: usize,
    /// Weight of tokens' peaks in their scores, in thousandths; 0 keeps none ([`Peaks`]).
    #[spec(default = 0)]
    pub peaks: u32,
}

/// Carries out one layer's part of a plan: the new token of every (request, KV head) goes into the high tier, its victim into the low
/// tier or away, and holes are filled.
///
/// * Shapes: `keys`, `values` are `[requests, kv_heads, head_dim]`, keys after RoPE; `positions` is `[requests]`; `priors` is `[requests, kv_heads]`,
///   what the new tokens' peaks start from, and is not looked at where none are kept; `plan` is `[requests, kv_heads, StepPlan::COLUMNS]`,
///   this layer's rows of what [`plan_step`](fn@super::plan_step) wrote; `kv` as its type says, with the pages that the plan needs.
/// * Grid: `[kv_heads, requests]`.
/// * Values: the new token starts with significance 0 and its prior as its peak; a demoted one is decoded and encoded again and keeps significance and
///   position; one that moves keeps every byte. Lengths become the plan's. A request with a negative slot is left out.
/// * Errors: formats that do not fit the page are refused at specialisation.
/// * Source: LeanKV, decode phase.
#[kernel(warps = 1)]
pub fn insert_token<C: Codecs>(
    #[comptime] spec: InsertSpec,
    #[arg(align = 16, element = spec.input)] keys: FloatView<3>,
    #[arg(align = 16, element = spec.input)] values: FloatView<3>,
    positions: View<i32, 1>,
    priors: View<f32, 2>,
    plan: View<i32, 3>,
    kv: PagedKvMut,
    codecs: C,
) {
    let tiers = Tiers::new(&codecs, &spec.tiering, spec.head_dim, spec.page_bytes, 1);
    let Some(tiers) = tiers else { return };
    let (head, request) = (program_id(0), program_id(1));
    let slot = kv.slot(request);
    let at = StepPlan::AT;
    let number = |column: i32| plan.get([request, head, lit(column)]);
    let new = number(at.new);
    if slot.ge(0) & new.ge(0) {
        if let Some(low) = tiers.low() {
            let source = number(at.source);
            if source.ge(0) {
                kv.place(slot, head, low, number(at.hole)).copy_from(&kv.place(slot, head, low, source));
            }
            if number(at.demote).ne(0) {
                let victim = kv.place(slot, head, tiers.high(), number(at.victim));
                let tokens = victim.tokens(head);
                let (keys, values) = victim.load(tokens);
                let to = kv.place(slot, head, low, number(at.low));
                to.store(keys, values, victim.significance(), tokens);
            }
        }
        let (here, extents) = ((request, head, 0), [1, 1, spec.head_dim]);
        let (keys, values) = (keys.tile(here, extents).load(), values.tile(here, extents).load());
        let tokens = Tokens { positions: positions.tile(request, [1]).load(), head };
        let place = kv.place(slot, head, tiers.high(), new);
        let mut start = Received::none(1);
        if spec.peaks > 0 {
            start.most = priors.tile((request, head), [1, 1]).load().squeeze(1);
        }
        let word = Peaks::new(spec.peaks).word_tile(start);
        place.store(keys.squeeze(1), values.squeeze(1), word, tokens);
        kv.set_lengths(slot, head, number(at.len_high), number(at.len_low));
    }
}
