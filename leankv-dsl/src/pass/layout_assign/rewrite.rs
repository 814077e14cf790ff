//! Makes the chosen layouts true: copies of cheap values, conversions of others.

use std::collections::{BTreeMap, HashMap};

use crate::ir::{Block, Def, Effect, Entity, Func, Inst, Op, Value};
use crate::layout::LinearLayout;

use super::pull::{dims, pull, push};
use super::{Pass, State, needs_layout};

/// Where new ops go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Start(Block),
    After(Inst),
}

struct Rewriter<'p> {
    pass: &'p mut Pass,
    made: HashMap<(Value, LinearLayout), Value>,
    extra: BTreeMap<Place, Vec<Inst>>,
}

/// Rewrites all operands of `func`.
pub(super) fn rewrite(func: &mut Func, pass: &mut Pass) {
    for inst in func.walk() {
        for value in func.inst(inst).results.clone() {
            if let State::Fixed(layout) = pass.states[value].clone() {
                pass.out.layouts[value] = Some(layout);
            }
        }
        for region in func.inst(inst).regions.clone() {
            for value in func.block(region).params.clone() {
                if let State::Fixed(layout) = pass.states[value].clone() {
                    pass.out.layouts[value] = Some(layout);
                }
            }
        }
    }
    let mut rewriter = Rewriter { pass, made: HashMap::new(), extra: BTreeMap::new() };
    rewriter.block(func, func.entry(), None);
    let extra = std::mem::take(&mut rewriter.extra);
    for (place, insts) in extra {
        let (block, at) = match place {
            Place::Start(block) => (block, 0),
            Place::After(inst) => {
                let (block, index) = find(func, inst);
                (block, index + 1)
            }
        };
        func.block_insts_mut(block).splice(at..at, insts);
    }
}

/// The block that an op stands in, and its place there.
pub(crate) fn find(func: &Func, inst: Inst) -> (Block, usize) {
    for i in 0..func.block_count() {
        let block = Block::from_index(i);
        if let Some(index) = func.block(block).insts.iter().position(|&other| other == inst) {
            return (block, index);
        }
    }
    unreachable!("internal error: {inst} stands in no block")
}

impl Rewriter<'_> {
    /// Rewrites a block; `owner` is the op whose region it is.
    fn block(&mut self, func: &mut Func, block: Block, owner: Option<Inst>) {
        for inst in func.block(block).insts.clone() {
            for region in func.inst(inst).regions.clone() {
                // Combine regions and the meaning of inline PTX work on scalars.
                if matches!(func.inst(inst).op, Op::For { .. } | Op::While | Op::If) {
                    self.block(func, region, Some(inst));
                }
            }
            self.inst(func, inst, owner, block);
        }
    }

    fn inst(&mut self, func: &mut Func, inst: Inst, owner: Option<Inst>, block: Block) {
        let data = func.inst(inst).clone();
        for (i, &operand) in data.operands.iter().enumerate() {
            if !needs_layout(func, operand) {
                continue;
            }
            let Some(wanted) = self.wanted(func, inst, i, owner, block) else { continue };
            let value = self.materialise(func, operand, &wanted);
            func.inst_mut(inst).operands[i] = value;
        }
    }

    /// The layout that operand `i` must have; `None` when the op itself is free and will be copied.
    fn wanted(
        &self,
        func: &Func,
        inst: Inst,
        i: usize,
        owner: Option<Inst>,
        block: Block,
    ) -> Option<LinearLayout> {
        let data = func.inst(inst);
        let layouts = &self.pass.out.layouts;
        match &data.op {
            Op::For { .. } => layouts[func.block(data.regions[0]).params[i - 2]].clone(),
            Op::While => layouts[func.block(data.regions[0]).params[i]].clone(),
            Op::Yield => {
                let owner = owner?;
                let parent = func.inst(owner);
                let target = match parent.op {
                    Op::For { .. } => func.block(parent.regions[0]).params[i + 1],
                    Op::While if block == parent.regions[0] => func.block(parent.regions[1]).params[i - 1],
                    Op::While => func.block(parent.regions[0]).params[i],
                    _ => parent.results[i],
                };
                layouts[target].clone()
            }
            Op::Dot => match self.pass.out.dots.get(&inst) {
                Some(all) => Some(all[i].clone()),
                None if i == 2 => layouts[data.results[0]].clone(),
                None => Some(self.pass.preferred(func, data.operands[i])),
            },
            // To scalars: every thread has all elements.
            Op::Reshape | Op::Split if !needs_layout(func, data.results[0]) => {
                let shape = func.ty(data.operands[i]).shape()?;
                Some(LinearLayout::replicated(&dims(shape), self.pass.warp_bits as usize))
            }
            Op::Gather { .. } if i == 1 => layouts[data.results[0]].clone(),
            _ => {
                if let Some(layout) = self.pass.out.operand_layouts.get(&inst) {
                    return Some(layout.clone());
                }
                let result = layouts[*data.results.first()?].as_ref()?;
                match pull(func, data, i, result) {
                    Some(layout) => Some(layout),
                    // Through shared memory: any layout will do.
                    None => Some(self.pass.preferred(func, data.operands[i])),
                }
            }
        }
    }

    /// The value in the wanted layout: itself, a copy of a cheap op, or a conversion.
    fn materialise(&mut self, func: &mut Func, value: Value, wanted: &LinearLayout) -> Value {
        if self.pass.out.layouts[value].as_ref() == Some(wanted) {
            return value;
        }
        let key = (value, wanted.clone());
        if let Some(&made) = self.made.get(&key) {
            return made;
        }
        let made = match self.pass.out.layouts[value] {
            Some(_) => self.convert(func, value, wanted),
            None => self.copy(func, value, wanted),
        };
        self.made.insert(key, made);
        made
    }

    fn convert(&mut self, func: &mut Func, value: Value, wanted: &LinearLayout) -> Value {
        let (place, loc) = match func.value(value).def {
            Def::Result(inst, _) => (Place::After(inst), func.inst(inst).loc),
            Def::Param(block, _) => (Place::Start(block), func.loc),
        };
        let ty = func.ty(value).clone();
        let inst = func.make_inst(Op::ConvertLayout, &[value], &[ty], &[], loc);
        let result = func.result(inst);
        self.pass.out.layouts[result] = Some(wanted.clone());
        self.extra.entry(place).or_default().push(inst);
        result
    }

    /// A copy of a cheap op whose results have the wanted layout.
    fn copy(&mut self, func: &mut Func, value: Value, wanted: &LinearLayout) -> Value {
        let Def::Result(inst, index) = func.value(value).def else {
            unreachable!("internal error: carried value {value} has no layout")
        };
        let data = func.inst(inst).clone();
        let mut layout = wanted.clone();
        let mut operands = data.operands.clone();
        for (i, operand) in operands.iter_mut().enumerate() {
            if !needs_layout(func, *operand) {
                continue;
            }
            let operand_layout = pull(func, &data, i, wanted).expect("layouts pass through cheap ops");
            *operand = self.materialise(func, *operand, &operand_layout);
            // What the op really gives, for ops whose result bits depend on the operand's registers.
            if matches!(data.op, Op::Unpack | Op::Join) {
                layout = wanted.clone();
            } else if matches!(data.op, Op::Pack | Op::Split) {
                layout = push(func, &data, &operand_layout).unwrap_or(layout);
            }
        }
        let types: Vec<_> = data.results.iter().map(|&r| func.ty(r).clone()).collect();
        let new = func.make_inst(data.op.clone(), &operands, &types, &[], data.loc);
        for &result in &func.inst(new).results.clone() {
            self.pass.out.layouts[result] = Some(layout.clone());
        }
        self.extra.entry(Place::After(inst)).or_default().push(new);
        func.inst(new).results[index as usize]
    }
}

/// Drops ops whose results nobody uses.
pub(crate) fn sweep(func: &mut Func) {
    loop {
        let mut uses = func.use_counts();
        let mut dead = std::collections::BTreeSet::new();
        // Users first, so that a chain goes at once.
        for inst in func.walk().into_iter().rev() {
            let data = func.inst(inst);
            let unused = !data.op.is_terminator()
                && func.effect(inst) != Effect::Write
                && data.results.iter().all(|r| uses[r.index()] == 0);
            if unused {
                data.operands.iter().for_each(|v| uses[v.index()] -= 1);
                dead.insert(inst);
            }
        }
        if dead.is_empty() {
            return;
        }
        for i in 0..func.block_count() {
            func.block_insts_mut(Block::from_index(i)).retain(|inst| !dead.contains(inst));
        }
    }
}
