//! Some heads keep everything, the others attention sinks and a recent window.

use leankv_dsl::lang::*;
use leankv_kernels::policy::{
    HIGH, HeadFacts, PRUNED, Policy, PolicyVariant, StepAction, StepFacts, TokenFacts,
};
use leankv_runtime::{Device, DeviceBuffer, DeviceError};

/// The variant: which heads look far back.
#[derive(Debug)]
pub struct Duo {
    /// 1 for a head that keeps everything, `[layers, kv_heads]`.
    keeps: DeviceBuffer<i32>,
    extents: [usize; 2],
}

/// The policy by the table that a launch gives.
#[derive(Clone, Copy, KernelArg)]
pub struct ByHead {
    keeps: View<i32, 2>,
}

impl Duo {
    /// Uploads which heads keep everything, `[layers, kv_heads]`.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(device: &Device, keeps: Vec<bool>, extents: [usize; 2]) -> Result<Duo, DeviceError> {
        let keeps: Vec<i32> = keeps.into_iter().map(i32::from).collect();
        Ok(Duo { keeps: device.upload(&keeps)?, extents })
    }
}

impl PolicyVariant for Duo {
    type Params = ByHead;

    fn policy(&self, table: ByHead) -> Box<dyn Policy> {
        Box::new(table)
    }

    fn given(&self) -> ByHeadArgs<'_> {
        ByHeadArgs { keeps: self.keeps.tensor(self.extents) }
    }
}

impl Policy for ByHead {
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, head: &HeadFacts) -> Tile<i32, 1> {
        let tier: Scalar<i32> = self.keeps.get([head.layer, head.head]).ne(0).select(HIGH, PRUNED);
        tier.splat(tokens.sig.extents())
    }

    fn step(&self, facts: &StepFacts) -> StepAction {
        let streams = self.keeps.get([facts.head.layer, facts.head.head]).eq(0);
        let late: Scalar<i32> = facts.least_high.exists.select(1, 0);
        let victim: Scalar<i32> = facts.leaving.exists.select(2, late);
        StepAction {
            victim: streams.select(victim, 0),
            demote: lit(false),
            evict_low: streams & facts.least_low.exists,
        }
    }
}
