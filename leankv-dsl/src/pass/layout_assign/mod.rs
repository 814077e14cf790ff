//! Layout assignment: gives every tile a [`LinearLayout`] and makes conversions explicit.
//!
//! * **Anchors** are dots (in the layouts that the [`Target`] gives them), memory accesses (coalesced blocked layouts from the axis
//!   analysis) and reductions.
//! * A load that feeds a dot takes the fragment's layout when it can then still load whole words; so operands need no
//!   conversion.
//! * **Cheap values** (constants, iotas, broadcasts, small loads, and element-wise ops of those) have no layout of their own: each
//!   consumer gets a copy in the layout it wants.
//! * Carried values take the layout of what the loop computes for them.
//! * Afterwards each operand has the layout its op needs, by `convert_layout` where necessary.

mod dots;
mod hint;
mod infer;
mod memory;
mod pull;
mod request;
mod rewrite;

use std::collections::BTreeMap;

use crate::ir::{Dtype, Entity, Func, Inst, Op, Print, SideTable, Type, Value};
use crate::layout::{Conversion, LANE_BITS, LinearLayout, Route, SharedLayout};
use crate::pass::axis::AxisAnalysis;

pub(crate) use dots::stored_columns;
pub use dots::{DotPlan, DotSite, Origin, Target};
pub(crate) use pull::{codes_a_word, is_elementwise, padded_elements, reshape_keeps_bits};
pub(crate) use rewrite::find;

/// Where everything lives: the result of the pass, beside the rewritten function.
#[derive(Clone, Default)]
pub struct Assignment {
    /// The layout of every tile value of rank 1 or more.
    pub layouts: SideTable<Value, Option<LinearLayout>>,
    /// The layouts of each dot's operands and accumulator, where it asks for some.
    pub dots: BTreeMap<Inst, [LinearLayout; 3]>,
    /// The layout that the operands of a `reduce`, `scan`, `gather`, `store`, `assert` or `print` have.
    pub operand_layouts: BTreeMap<Inst, LinearLayout>,
    /// The layouts of blocks of shared memory.
    pub shared: BTreeMap<Value, SharedLayout>,
}

impl Assignment {
    /// The layout of a tile.
    ///
    /// # Panics
    /// When the pass gave it none: a bug of the pass.
    pub fn layout(&self, value: Value) -> &LinearLayout {
        self.layouts[value].as_ref().unwrap_or_else(|| panic!("internal error: {value} has no layout"))
    }

    /// The conversions that move data, by route: (between lanes, through shared memory).
    pub fn conversions(&self, func: &Func) -> (usize, usize) {
        let mut counts = (0, 0);
        for inst in func.walk() {
            let data = func.inst(inst);
            if !matches!(data.op, Op::ConvertLayout) {
                continue;
            }
            match Conversion::plan(self.layout(data.operands[0]), self.layout(data.results[0])).route {
                Route::Registers => {}
                Route::Shuffle => counts.0 += 1,
                Route::Shared => counts.1 += 1,
            }
        }
        counts
    }
}

/// What is known about a value's layout while inferring.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum State {
    /// Not decided: cheap to make in any layout, or a carried value whose loop has not said yet.
    #[default]
    Free,
    /// Decided.
    Fixed(LinearLayout),
}

/// Assigns layouts and rewrites `func`; also gives what the target's code generator needs for each dot.
pub fn assign<T: Target>(func: &mut Func, target: &T) -> (Assignment, BTreeMap<Inst, T::Dot>) {
    let warp_bits = func.num_warps.trailing_zeros();
    let axis = AxisAnalysis::run(func);
    let mut pass = Pass {
        warp_bits,
        axis,
        requests: SideTable::new(),
        states: SideTable::new(),
        chains: SideTable::new(),
        users: hint::users(func),
        loads: BTreeMap::new(),
        out: Assignment::default(),
    };
    let dots = pass.plan_dots(func, target);
    pass.request_block(func, func.entry());
    pass.infer_block(func, func.entry());
    rewrite::rewrite(func, &mut pass);
    rewrite::sweep(func);
    (pass.out, dots)
}

/// The pass's working state.
pub(crate) struct Pass {
    warp_bits: u32,
    axis: AxisAnalysis,
    /// What consumers would like: priority and layout. Dots ask with 2, addresses with 1.
    requests: SideTable<Value, Option<(u8, LinearLayout)>>,
    states: SideTable<Value, State>,
    /// How many cheap ops without a layout stand one below the other in a value.
    chains: SideTable<Value, u32>,
    /// The ops that take a value.
    users: SideTable<Value, Vec<Inst>>,
    /// The layout chosen for each load that is not cheap.
    loads: BTreeMap<Inst, LinearLayout>,
    out: Assignment,
}

impl Pass {
    fn plan_dots<T: Target>(&mut self, func: &Func, target: &T) -> BTreeMap<Inst, T::Dot> {
        let mut codes = BTreeMap::new();
        for inst in func.walk().into_iter().filter(|&inst| matches!(func.inst(inst).op, Op::Dot)) {
            let plan = target.dot(&DotSite::new(func, &self.axis, inst, self.warp_bits));
            self.out.dots.extend(plan.layouts.map(|layouts| (inst, layouts)));
            codes.insert(inst, plan.code);
        }
        codes
    }

    /// A tile that every warp can afford to load on its own.
    fn is_small(&self, ty: &Type) -> bool {
        let Type::Tile { dtype, shape } = ty else { return true };
        let bytes = shape.elements() * u64::from(dtype.bits().max(8)) / 8;
        shape.elements() <= 64 << self.warp_bits && bytes <= 256 << self.warp_bits
    }

    /// The coalesced layout of a memory access.
    fn coalesced(&self, func: &Func, inst: Inst) -> LinearLayout {
        let data = func.inst(inst);
        let access = self.access(func, inst);
        let shape =
            func.ty(data.operands[address_operand(&data.op) + 1]).shape().expect("offsets are a tile");
        memory::coalesced(shape, &access, self.warp_bits)
    }

    fn access(&self, func: &Func, inst: Inst) -> crate::pass::axis::AccessShape {
        let data = func.inst(inst);
        let at = address_operand(&data.op);
        let mask = mask_operand(&data.op, &data.operands);
        let (pointer, offsets) = (data.operands[at], data.operands[at + 1]);
        match data.op {
            Op::AsyncCopy { .. } => {
                let mut out = self.axis.access_of_prefixes(func, pointer, offsets, mask);
                let few = func.ty(offsets).shape().is_some_and(|s| s.elements() <= 32 << self.warp_bits);
                if few && func.ty(pointer).dtype().bits() >= 32 {
                    // A word each, by all lanes.
                    out.vector.iter_mut().for_each(|bits| *bits = 0);
                }
                out
            }
            Op::Load { .. } | Op::Store { .. } => {
                let mut out = self.axis.access(func, pointer, offsets, mask);
                let checked = self.axis.access_checked(func, pointer, offsets, mask);
                // Vectors that must be asked for are worth it where each thread has that many elements anyway.
                let total: u32 = func.ty(offsets).shape().map_or(0, |s| pull::dims(s).iter().sum());
                let spare = total.saturating_sub(LANE_BITS as u32 + self.warp_bits) as u8;
                out.vector
                    .iter_mut()
                    .zip(&checked.vector)
                    .for_each(|(known, asked)| *known = (*known).max((*asked).min(spare)));
                out
            }
            _ => self.axis.access(func, pointer, offsets, mask),
        }
    }

    /// The layout that suits a value best when no consumer decides: that of a load in its chain, or a plain one.
    fn preferred(&self, func: &Func, value: Value) -> LinearLayout {
        if let State::Fixed(layout) = &self.states[value] {
            return layout.clone();
        }
        if let Some((_, layout)) = &self.requests[value] {
            return layout.clone();
        }
        let shape = func.ty(value).shape().cloned().unwrap_or_default();
        self.chain_layout(func, value, 16).unwrap_or_else(|| memory::default_layout(&shape, self.warp_bits))
    }

    fn chain_layout(&self, func: &Func, value: Value, depth: u32) -> Option<LinearLayout> {
        let inst = func.def_inst(value)?;
        let data = func.inst(inst);
        match &data.op {
            Op::Load { .. } => Some(self.coalesced(func, inst)),
            _ if depth == 0 => None,
            op if pull::is_elementwise(op) => {
                data.operands.iter().find_map(|&v| self.chain_layout(func, v, depth - 1))
            }
            Op::Unpack | Op::Transpose { .. } | Op::ExpandDims { .. } | Op::Reshape | Op::Pack | Op::Join => {
                let inner = self.chain_layout(func, data.operands[0], depth - 1)?;
                pull::push(func, data, &inner)
            }
            _ => None,
        }
    }
}

/// The number of the operand that is a memory op's pointer; offsets follow it.
fn address_operand(op: &Op) -> usize {
    if matches!(op, Op::AsyncCopy { .. }) { 2 } else { 0 }
}

/// The mask operand of a memory op.
pub(crate) fn mask_operand(op: &Op, operands: &[Value]) -> Option<Value> {
    match op {
        Op::Load { masked: true, .. } => Some(operands[2]),
        Op::Store { masked: true, .. } | Op::AtomicRmw { masked: true, .. } => Some(operands[3]),
        Op::AsyncCopy { masked: true, .. } => Some(operands[4]),
        _ => None,
    }
}

/// Whether a value is a tile that needs a layout.
pub(crate) fn needs_layout(func: &Func, value: Value) -> bool {
    matches!(func.ty(value), Type::Tile { shape, .. } if shape.rank() > 0)
}

/// Bytes of one element in shared memory: codes and truth values take one.
pub(crate) fn stored_bytes(dtype: Dtype) -> u32 {
    dtype.bits().div_ceil(8)
}

#[cfg(test)]
mod tests;

/// Prints a function with the layout of each tile: what the pass made of it.
pub fn describe(func: &Func, assignment: &Assignment) -> String {
    // Layouts are kept by the values' own numbers.
    let mut out = Print { raw: true, ..Print::default() }.func(func);
    out.push_str("\n// layouts\n");
    for inst in func.walk() {
        for &result in &func.inst(inst).results {
            if let Some(layout) = assignment.layouts[result].as_ref().filter(|_| needs_layout(func, result)) {
                out.push_str(&format!("// %{} : {layout}\n", result.index()));
            }
        }
    }
    out
}
