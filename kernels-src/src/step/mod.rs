//! The decode step: what each head does with the new token, and doing it.
//!
//! [`plan_step`](fn@plan_step) looks at every (request, layer, KV head) at once and writes one row of a plan for each; the page manager
//! then takes what the plan needs; [`insert_token`](fn@insert_token) carries the plan out for one layer, before that layer's attention;
//! [`advance_positions`](fn@advance_positions) ends it. A step
//! adds one token to the high tier, in a victim's place where there is one, demotes at most one, and drops at most one of
//! each tier. Places that become free are filled, by the new token, by the demoted one, or by the last of the list.

mod advance;
mod insert;
mod plan;

pub use advance::{AdvancePositionsArgs, AdvancePositionsSpec, advance_positions};
pub use insert::{InsertSpec, InsertTokenArgs, insert_token};
pub(crate) use plan::two_tiers;
pub use plan::{PlanSpec, PlanStepArgs, plan_step};

/// Columns of a plan: `plan` is `[requests, layers, kv_heads, PLAN_COLUMNS]`.
pub const PLAN_COLUMNS: usize = 8;

/// What one (request, layer, KV head) does in a decode step: one row of a plan. Numbers count tokens of the head's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepPlan {
    /// Where in the high list the new token goes; -1 for a request that is left out, whose other columns mean nothing.
    pub new: i32,
    /// The high token that gives its place to it, or -1.
    pub victim: i32,
    /// Whether the victim is demoted; it is dropped otherwise.
    pub demote: bool,
    /// Where in the low list the demoted token goes, or -1. The token that was there is dropped.
    pub low: i32,
    /// The low token that is dropped without another in its place, or -1.
    pub hole: i32,
    /// The low token that moves into the hole, or -1.
    pub source: i32,
    /// Tokens of the high list afterwards.
    pub len_high: i32,
    /// Tokens of the low list afterwards.
    pub len_low: i32,
}

impl StepPlan {
    /// The row of a request that is left out.
    pub const NOTHING: Self =
        Self { new: -1, victim: -1, demote: false, low: -1, hole: -1, source: -1, len_high: 0, len_low: 0 };

    /// The plan as a row.
    #[must_use]
    pub const fn to_row(self) -> [i32; PLAN_COLUMNS] {
        [
            self.new,
            self.victim,
            self.demote as i32,
            self.low,
            self.hole,
            self.source,
            self.len_high,
            self.len_low,
        ]
    }

    /// The plan in a row.
    #[must_use]
    pub const fn from_row(row: [i32; PLAN_COLUMNS]) -> Self {
        let [new, victim, demote, low, hole, source, len_high, len_low] = row;
        Self { new, victim, demote: demote != 0, low, hole, source, len_high, len_low }
    }
}
