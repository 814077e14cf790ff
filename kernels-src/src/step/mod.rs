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

use leankv_dsl::lang::row;

pub use advance::{AdvancePositionsArgs, AdvancePositionsSpec, advance_positions};
pub use insert::{InsertSpec, InsertTokenArgs, insert_token};
pub(crate) use plan::two_tiers;
pub use plan::{PlanSpec, PlanStepArgs, plan_step};

row! {
    /// What one (request, layer, KV head) does in a decode step: one row of a plan. Numbers count tokens of the head's lists.
    pub struct StepPlan {
        /// Where in the high list the new token goes; -1 for a request that is left out, whose other columns mean nothing.
        new,
        /// The high token that gives its place to it, or -1.
        victim,
        /// 1 where the victim is demoted; it is dropped otherwise.
        demote,
        /// Where in the low list the demoted token goes, or -1. The token that was there is dropped.
        low,
        /// The low token that is dropped without another in its place, or -1.
        hole,
        /// The low token that moves into the hole, or -1.
        source,
        /// Tokens of the high list afterwards.
        len_high,
        /// Tokens of the low list afterwards.
        len_low,
    }
}

impl StepPlan {
    /// The row of a request that is left out.
    pub const NOTHING: Self =
        Self { new: -1, victim: -1, demote: 0, low: -1, hole: -1, source: -1, len_high: 0, len_low: 0 };

    /// Whether the victim is demoted.
    #[must_use]
    pub const fn demotes(&self) -> bool {
        self.demote != 0
    }
}
