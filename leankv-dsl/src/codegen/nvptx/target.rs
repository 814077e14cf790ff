//! Targets: a GPU and its ways to do dots.

use crate::pass::layout_assign::{self, DotSite};
use crate::target::{Gpu, NvptxTarget};

use super::dot::{DotCode, DotPlan, DotStrategy, mma_sync, multiply_adds};

/// What code is made for.
pub(super) struct Target {
    /// The GPU.
    pub(super) gpu: Gpu,
    /// Its ways to do dots, best first. The last one takes every dot.
    pub(super) dots: &'static [&'static dyn DotStrategy],
}

impl From<NvptxTarget> for Target {
    fn from(name: NvptxTarget) -> Target {
        // All of today's have the same; a way that only some have makes this a choice by name.
        Target { gpu: name.gpu(), dots: &[&mma_sync::HALVES, &mma_sync::BYTES, &multiply_adds::MultiplyAdds] }
    }
}

impl layout_assign::Target for Target {
    type Dot = Box<dyn DotCode>;

    fn dot(&self, site: &DotSite<'_>) -> DotPlan {
        self.dots
            .iter()
            .find_map(|way| way.plan(site))
            .expect("the last strategy of a target takes every dot")
    }
}

/// The PTX version that is written, as LLVM names it: old enough for the first driver that knows the GPU well.
pub(super) fn ptx_feature(target: NvptxTarget) -> &'static str {
    match target {
        NvptxTarget::Sm80 | NvptxTarget::Sm86 | NvptxTarget::Sm89 | NvptxTarget::Sm90 => "+ptx80",
        NvptxTarget::Sm100 => "+ptx86",
        NvptxTarget::Sm120 => "+ptx87",
    }
}
