//! Matrix products: the ways to do one, each in a file of its own.
//!
//! A way ([`DotStrategy`]) says whether it takes a dot, which layouts it wants, and writes its instructions. A target lists those that it
//! has, best first ([`super::target`]); nothing else names them.

pub(super) mod mma_sync;
pub(super) mod multiply_adds;

use crate::ir::Inst;
use crate::pass::layout_assign::{self, DotSite};

use super::emit::{Emitted, Emitter};

/// A way to do dots.
pub(super) trait DotStrategy: Sync {
    /// How it does this one; `None` if it cannot.
    fn plan(&self, site: &DotSite<'_>) -> Option<DotPlan>;
}

/// How one dot is done: layouts for the passes, code for the emitter.
pub(super) type DotPlan = layout_assign::DotPlan<Box<dyn DotCode>>;

/// The code of one dot.
pub(super) trait DotCode {
    /// Which instructions it takes, and why if they are not the best: for people.
    fn note(&self) -> String;

    /// By how much the indices of two elements differ that it takes in one register, for `a` and `b`, which are tiles of these log2 extents; `None` where
    /// it takes no pairs.
    fn packed(&self, dims: [[u32; 2]; 2]) -> Option<[u32; 2]> {
        let _ = dims;
        None
    }

    /// Emits it. Operands have the layouts of the plan.
    fn emit(&self, emitter: &mut Emitter<'_, '_>, inst: Inst) -> Emitted;
}

impl Emitter<'_, '_> {
    pub(super) fn dot(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let (a, b) = (self.dtype(data.operands[0]), self.dtype(data.operands[1]));
        let shape = |i: usize| self.func.ty(data.operands[i]).shape().cloned().unwrap_or_default();
        let (m, k, n) = (shape(0)[0], shape(0)[1], shape(1)[1]);
        let code = &self.dots[&inst];
        self.notes.push(format!("{}: dot {m}x{n}x{k} of {a}, {b}: {}", data.loc, code.note()));
        code.emit(self, inst)
    }
}
