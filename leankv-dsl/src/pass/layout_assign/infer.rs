//! Forwards: which layout each value gets.

use crate::ir::{Block, Combine, Func, Inst, Op, Value};
use crate::layout::{Conversion, LANE_BITS, LinearLayout, Route, SharedLayout, staging};

use super::memory;
use super::pull::{dims, is_elementwise, pull, push};
use super::{Pass, State, needs_layout, stored_columns};

/// The most cheap ops one below the other: copying them for a consumer takes stack for each.
const LONGEST_CHAIN: u32 = 256;

impl Pass {
    pub(super) fn infer_block(&mut self, func: &Func, block: Block) {
        for &inst in &func.block(block).insts {
            self.infer_inst(func, inst);
        }
    }

    fn fix(&mut self, value: Value, layout: LinearLayout) {
        self.states[value] = State::Fixed(layout);
        self.chains[value] = 0;
    }

    /// The layout of an operand that must have one: its own, or the one that suits it.
    fn settle(&self, func: &Func, value: Value) -> LinearLayout {
        self.preferred(func, value)
    }

    fn infer_inst(&mut self, func: &Func, inst: Inst) {
        let data = func.inst(inst);
        match &data.op {
            Op::For { .. } => {
                let body = data.regions[0];
                let params = func.block(body).params[1..].to_vec();
                self.infer_carried(func, &data.operands[3..], &params, &[body], body, 0);
                for (&param, &result) in params.iter().zip(&data.results) {
                    self.states[result] = self.states[param].clone();
                }
            }
            Op::While => {
                let (before, after) = (data.regions[0], data.regions[1]);
                let params = func.block(before).params.clone();
                let inner = func.block(after).params.clone();
                for (&p, &q) in params.iter().zip(&inner) {
                    let layout = self.loop_layout(func, p);
                    if let Some(layout) = layout {
                        self.fix(p, layout.clone());
                        self.fix(q, layout);
                    }
                }
                self.infer_carried(func, &data.operands, &params, &[before, after], after, 0);
                for ((&param, &q), &result) in params.iter().zip(&inner).zip(&data.results) {
                    self.states[q] = self.states[param].clone();
                    self.states[result] = self.states[param].clone();
                }
            }
            Op::If => {
                for &region in &data.regions {
                    self.infer_block(func, region);
                }
                for (i, &result) in data.results.iter().enumerate().filter(|(_, r)| needs_layout(func, **r)) {
                    let yields = data.regions.iter().filter_map(|&r| func.terminator(r));
                    let values: Vec<Value> = yields.map(|t| func.inst(t).operands[i]).collect();
                    let fixed = values.iter().find(|v| matches!(self.states[**v], State::Fixed(_)));
                    let hint = || if fixed.is_none() { self.hint(func, result) } else { None };
                    let layout = hint().unwrap_or_else(|| self.settle(func, *fixed.unwrap_or(&values[0])));
                    self.fix(result, layout);
                }
            }
            Op::Dot => {
                let layout = match self.out.dots.get(&inst) {
                    Some([_, _, acc]) => acc.clone(),
                    None => {
                        let shape = func.ty(data.results[0]).shape().expect("a dot gives a tile");
                        memory::default_layout(shape, self.warp_bits)
                    }
                };
                self.fix(data.results[0], layout);
            }
            Op::Load { .. } if needs_layout(func, data.results[0]) => match self.loads.get(&inst).cloned() {
                Some(layout) => self.fix(data.results[0], layout),
                None if data.operands[1..].iter().all(|&v| self.is_free(func, v)) => {
                    if let Some(layout) = self.hint(func, data.results[0]) {
                        self.fix(data.results[0], layout);
                    } else if !self.chain(func, inst) {
                        let layout = self.preferred(func, data.results[0]);
                        self.fix(data.results[0], layout);
                    }
                }
                None => {
                    let fixed = self.fixed_operand(func, inst).expect("an operand is not free");
                    self.fix(data.results[0], fixed);
                }
            },
            Op::Reduce { .. } | Op::Scan { .. } => {
                let shape = func.ty(data.operands[0]).shape().expect("a reduction takes tiles");
                // Order matters to a scan and to a combination that may not commute.
                let layout = match data.op {
                    Op::Scan { axis, .. } | Op::Reduce { axis, combine: Combine::Region } => {
                        memory::scan_layout(shape, axis.into(), self.warp_bits)
                    }
                    _ => self.first_fixed(func, &data.operands),
                };
                self.out.operand_layouts.insert(inst, layout.clone());
                let result = push(func, data, &layout).expect("layouts pass through reductions");
                for &value in data.results.iter().filter(|&&r| needs_layout(func, r)) {
                    self.fix(value, result.clone());
                }
            }
            Op::Gather { .. } => {
                let layout = self.first_fixed(func, &data.operands[1..]);
                self.out.operand_layouts.insert(inst, self.settle(func, data.operands[0]));
                self.fix(data.results[0], layout);
            }
            Op::Store { .. } if needs_layout(func, data.operands[1]) => {
                let layout = self.store_layout(func, inst);
                self.out.operand_layouts.insert(inst, layout);
            }
            Op::AtomicRmw { .. } | Op::AtomicCas { .. } if needs_layout(func, data.operands[1]) => {
                let layout = match &self.states[data.operands[2]] {
                    State::Fixed(layout) => layout.clone(),
                    State::Free => self.coalesced(func, inst),
                };
                self.out.operand_layouts.insert(inst, layout.clone());
                self.fix(data.results[0], layout);
            }
            Op::AsyncCopy { .. } => {
                let layout = self.coalesced(func, inst);
                self.out.operand_layouts.insert(inst, layout);
            }
            Op::LocalAlloc => {
                let ty = func.ty(data.results[0]);
                let shape = ty.shape().expect("shared memory holds tiles");
                let bytes = super::stored_bytes(ty.dtype()).trailing_zeros();
                let layout = self
                    .staging(func, data.results[0], bytes)
                    .unwrap_or_else(|| SharedLayout::swizzled_rows(&dims(shape), bytes));
                self.out.shared.insert(data.results[0], layout);
            }
            Op::LocalLoad => {
                let result = data.results[0];
                let shape = func.ty(result).shape().expect("a load gives a tile");
                // A row is read again in each layout that somebody asks for.
                let cheap = shape.rank() == 1 && self.is_small(func.ty(result));
                let copy = self.copy_into(func, data.operands[0]).filter(|_| self.requests[result].is_none());
                if let Some(layout) = self.hint(func, result).filter(|_| cheap || copy.is_some()) {
                    self.fix(result, layout);
                } else if !(cheap && self.chain(func, inst)) {
                    let layout = match copy {
                        // What nobody asks for in another layout is read as it was copied, by all threads.
                        Some(copy) => {
                            let threads = LANE_BITS as u32 + self.warp_bits;
                            let spare = dims(shape).iter().sum::<u32>().saturating_sub(threads) as u8;
                            let mut access = self.access(func, copy);
                            access.vector.iter_mut().for_each(|bits| *bits = (*bits).min(spare));
                            memory::coalesced(shape, &access, self.warp_bits)
                        }
                        None => self.preferred(func, result),
                    };
                    self.fix(result, layout);
                }
            }
            Op::LocalStore => {
                let (block, value) = (data.operands[0], data.operands[2]);
                let layout = self.settle(func, value);
                let ty = func.ty(value);
                if let (16, Some(shape)) = (ty.dtype().bits(), ty.shape().filter(|shape| shape.rank() == 2)) {
                    let columns = stored_columns(func, value, self.warp_bits);
                    let shared = SharedLayout::matrices(&dims(shape), &columns, &layout);
                    self.out.shared.insert(block, shared);
                }
                self.out.operand_layouts.insert(inst, layout);
            }
            Op::Assert { .. } | Op::Print { .. } => {
                if let Some(&tile) = data.operands.iter().find(|v| needs_layout(func, **v)) {
                    let layout = self.settle(func, tile);
                    self.out.operand_layouts.insert(inst, layout);
                }
            }
            Op::Constant(_) | Op::Iota | Op::Splat => {}
            Op::ExpandDims { .. } | Op::Broadcast => {
                self.chain(func, inst);
            }
            _ => self.infer_in_place(func, inst),
        }
    }

    /// How a block of shared memory lies that is copied to and read in a layout that somebody asks for; `None` for 16-bit elements, which are read as matrices.
    fn staging(&self, func: &Func, block: Value, element_bytes: u32) -> Option<SharedLayout> {
        let copy = self.copy_into(func, block)?;
        let mut users = self.users[block].iter();
        let load = *users.find(|&&inst| matches!(func.inst(inst).op, Op::LocalLoad))?;
        let (_, to) = self.requests[func.result(load)].as_ref().filter(|_| element_bytes != 1)?;
        let from = self.coalesced(func, copy);
        let vector = memory::vector_bits(&from, &self.access(func, copy)).min(4 - element_bytes);
        Some(staging(&from, to, vector as usize, element_bytes))
    }

    /// The first of the copies into a block of shared memory.
    fn copy_into(&self, func: &Func, block: Value) -> Option<Inst> {
        let is_copy = |inst: &Inst| matches!(func.inst(*inst).op, Op::AsyncCopy { .. });
        self.users[block].iter().copied().find(is_copy)
    }

    /// Counts a cheap op onto the longest chain of cheap ops that it uses. Whether the chain may grow so long.
    fn chain(&mut self, func: &Func, inst: Inst) -> bool {
        let data = func.inst(inst);
        let longest = data.operands.iter().map(|&v| self.chains[v]).max().unwrap_or(0) + 1;
        for &result in &data.results {
            self.chains[result] = longest;
        }
        longest < LONGEST_CHAIN
    }

    /// Ops that layouts pass through: free when all operands are, else the layout of one that is not.
    fn infer_in_place(&mut self, func: &Func, inst: Inst) {
        let data = func.inst(inst);
        let Some(&first) = data.results.first() else { return };
        if !needs_layout(func, first) {
            return;
        }
        let inline = matches!(data.op, Op::InlinePtx { .. });
        let free = data.operands.iter().all(|&v| self.is_free(func, v));
        let renames = pull(
            func,
            data,
            0,
            &memory::default_layout(func.ty(first).shape().expect("a tile has a shape"), self.warp_bits),
        )
        .is_some();
        if free && renames && !inline && self.chain(func, inst) {
            return;
        }
        let layout = match self.fixed_operand(func, inst) {
            Some(layout) => layout,
            None => self.preferred(func, first),
        };
        for &result in &data.results {
            self.fix(result, layout.clone());
        }
    }

    /// The layout that an op's results get from its operands that have one.
    fn fixed_operand(&self, func: &Func, inst: Inst) -> Option<LinearLayout> {
        let data = func.inst(inst);
        let candidates: Vec<LinearLayout> = data
            .operands
            .iter()
            .filter_map(|&v| match &self.states[v] {
                State::Fixed(layout) if is_elementwise(&data.op) || matches!(data.op, Op::Load { .. }) => {
                    Some(layout.clone())
                }
                // What lanes held pairs of, they hold copies of: each keeps one half instead.
                State::Fixed(layout) if matches!(data.op, Op::Split) => push(func, data, layout)
                    .map(|half| half.spread_over_copies(|lane| layout.lanes()[lane] != 0)),
                State::Fixed(layout) => push(func, data, layout),
                State::Free => None,
            })
            .collect();
        if let Some((_, wanted)) = &self.requests[data.results[0]] {
            let in_place = |from: &LinearLayout| {
                let plan = Conversion::plan(from, wanted);
                plan.route == Route::Registers && plan.choices().is_empty()
            };
            if candidates.iter().any(in_place) {
                return Some(wanted.clone());
            }
        }
        // Fewer copies, less work; then the first.
        let best = candidates.into_iter().reduce(|a, b| if b.copies() < a.copies() { b } else { a })?;
        let alone =
            best.rank() == 1 && is_elementwise(&data.op) && self.hint(func, data.results[0]).is_none();
        Some(if alone { best.spread_over_copies(|_| true) } else { best })
    }

    fn is_free(&self, func: &Func, value: Value) -> bool {
        !needs_layout(func, value) || self.states[value] == State::Free
    }

    fn first_fixed(&self, func: &Func, operands: &[Value]) -> LinearLayout {
        let fixed = operands.iter().find(|v| matches!(self.states[**v], State::Fixed(_)));
        self.settle(func, *fixed.unwrap_or(&operands[0]))
    }

    fn store_layout(&self, func: &Func, inst: Inst) -> LinearLayout {
        let data = func.inst(inst);
        let best = self.coalesced(func, inst);
        let State::Fixed(own) = &self.states[data.operands[2]] else { return best };
        let access = self.access(func, inst);
        let bytes = func.ty(data.operands[2]).dtype().bytes().unwrap_or(1);
        let vector = memory::vector_bits(own, &access);
        let widest = bytes << memory::vector_bits(&best, &access);
        if bytes << vector < widest.min(4) {
            return best;
        }
        // What one access cannot take, lanes that hold it too can: one store of a whole sector instead of several of parts.
        own.shared_by_copies(access.order[0], vector)
    }

    fn loop_layout(&self, func: &Func, param: Value) -> Option<LinearLayout> {
        if !needs_layout(func, param) {
            return None;
        }
        match (&self.states[param], &self.requests[param]) {
            (State::Fixed(layout), _) => Some(layout.clone()),
            (State::Free, Some((_, layout))) => Some(layout.clone()),
            _ => None,
        }
    }

    /// Carried values: a wish decides, else what the body computes, else the initial value.
    fn infer_carried(
        &mut self,
        func: &Func,
        inits: &[Value],
        params: &[Value],
        blocks: &[Block],
        last: Block,
        skip: usize,
    ) {
        for &param in params {
            if let Some(layout) = self.loop_layout(func, param) {
                self.fix(param, layout);
            }
        }
        loop {
            for &block in blocks {
                self.infer_block(func, block);
            }
            let yields = func.terminator(last).map(|t| func.inst(t).operands.clone()).unwrap_or_default();
            let mut changed = false;
            for (&param, &back) in params.iter().zip(yields.iter().skip(skip)) {
                if let (State::Free, State::Fixed(layout)) = (&self.states[param], &self.states[back])
                    && needs_layout(func, param)
                {
                    let layout = layout.clone();
                    self.fix(param, layout);
                    changed = true;
                }
            }
            if changed {
                continue;
            }
            // Nothing in the loop decides: the first undecided one takes its initial value's layout, and again.
            let undecided = params
                .iter()
                .zip(inits)
                .find(|(p, _)| needs_layout(func, **p) && self.states[**p] == State::Free);
            match undecided {
                Some((&param, &init)) => {
                    let layout = self.settle(func, init);
                    self.fix(param, layout);
                }
                None => return,
            }
        }
    }
}
