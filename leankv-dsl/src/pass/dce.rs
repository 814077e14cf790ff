//! Drops what nobody needs: ops without effects whose results are unused, and carried values and results of loops
//! and branches that feed nothing but themselves.

use super::manager::{Facts, Pass};
use crate::diag::Diagnostics;
use crate::ir::{Block, Def, Effect, Entity, Func, Inst, Op, Value};

/// Dead code elimination: marks what effects need, then sweeps the rest.
pub struct Dce;

impl Pass for Dce {
    fn name(&self) -> &'static str {
        "dce"
    }

    fn run(&self, func: &mut Func, _: &mut Facts) -> Result<bool, Diagnostics> {
        let mut marks = Marks::new(func);
        for inst in func.walk() {
            // Terminators are needed as far as what they yield is.
            if !func.inst(inst).op.is_terminator() && func.effect(inst) == Effect::Write {
                marks.need_inst(inst);
            }
        }
        marks.spread();
        let needed = marks.needed;
        Ok(sweep(func, func.entry(), &needed))
    }
}

/// What is needed.
struct Needed {
    values: Vec<bool>,
    insts: Vec<bool>,
}

struct Marks<'f> {
    func: &'f Func,
    needed: Needed,
    /// The op whose region a block is.
    owner: Vec<Option<Inst>>,
    /// The block an op stands in.
    home: Vec<Option<Block>>,
    work: Vec<Value>,
}

impl<'f> Marks<'f> {
    fn new(func: &'f Func) -> Marks<'f> {
        let mut marks = Marks {
            func,
            needed: Needed { values: vec![false; func.value_count()], insts: vec![false; func.inst_count()] },
            owner: vec![None; func.block_count()],
            home: vec![None; func.inst_count()],
            work: Vec::new(),
        };
        marks.place(func.entry());
        marks
    }

    fn place(&mut self, block: Block) {
        for &inst in &self.func.block(block).insts {
            self.home[inst.index()] = Some(block);
            for &region in &self.func.inst(inst).regions {
                self.owner[region.index()] = Some(inst);
                self.place(region);
            }
        }
    }

    fn need(&mut self, value: Value) {
        if !std::mem::replace(&mut self.needed.values[value.index()], true) {
            self.work.push(value);
        }
    }

    /// Marks an op, the ops around it, and the operands that it needs whatever is used of it.
    fn need_inst(&mut self, inst: Inst) {
        if std::mem::replace(&mut self.needed.insts[inst.index()], true) {
            return;
        }
        let func = self.func;
        let data = func.inst(inst);
        match data.op {
            Op::For { .. } => data.operands[..3].iter().for_each(|&v| self.need(v)),
            Op::While => self.need_yielded(inst, 0, 0),
            _ => data.operands.iter().for_each(|&v| self.need(v)),
        }
        if !matches!(data.op, Op::For { .. } | Op::While | Op::If) {
            // Regions that combine elements are needed whole.
            for (i, &region) in data.regions.iter().enumerate() {
                let count = func.terminator(region).map_or(0, |end| func.inst(end).operands.len());
                (0..count).for_each(|index| self.need_yielded(inst, i, index));
            }
        }
        let parent = self.home[inst.index()].and_then(|home| self.owner[home.index()]);
        if let Some(parent) = parent {
            self.need_inst(parent);
        }
    }

    fn need_yielded(&mut self, inst: Inst, region: usize, index: usize) {
        let func = self.func;
        let end = func.terminator(func.inst(inst).regions[region]);
        if let Some(&value) = end.and_then(|end| func.inst(end).operands.get(index)) {
            self.need(value);
        }
    }

    /// Marks everything that feeds value `index` of a loop or branch.
    fn need_carried(&mut self, inst: Inst, index: usize) {
        let data = self.func.inst(inst);
        match data.op {
            Op::For { .. } => {
                self.need(data.operands[3 + index]);
                self.need_yielded(inst, 0, index);
            }
            Op::While => {
                self.need(data.operands[index]);
                self.need_yielded(inst, 0, index + 1);
                self.need_yielded(inst, 1, index);
            }
            Op::If => {
                self.need_yielded(inst, 0, index);
                self.need_yielded(inst, 1, index);
            }
            _ => {}
        }
    }

    fn spread(&mut self) {
        while let Some(value) = self.work.pop() {
            match self.func.value(value).def {
                Def::Result(inst, index) => {
                    self.need_inst(inst);
                    self.need_carried(inst, index as usize);
                }
                Def::Param(block, index) => {
                    let Some(owner) = self.owner[block.index()] else { continue };
                    self.need_inst(owner);
                    match (&self.func.inst(owner).op, index) {
                        (Op::For { .. }, 0) => {}
                        (Op::For { .. }, _) => self.need_carried(owner, index as usize - 1),
                        _ => self.need_carried(owner, index as usize),
                    }
                }
            }
        }
    }
}

/// Drops what is not needed from a block. Whether something was.
fn sweep(func: &mut Func, block: Block, needed: &Needed) -> bool {
    let insts = std::mem::take(func.block_insts_mut(block));
    let count = insts.len();
    let kept: Vec<Inst> = insts
        .into_iter()
        .filter(|&inst| needed.insts[inst.index()] || func.inst(inst).op.is_terminator())
        .collect();
    let mut changed = kept.len() != count;
    for &inst in &kept {
        changed |= drop_carried(func, inst, needed);
        for region in func.inst(inst).regions.clone() {
            changed |= sweep(func, region, needed);
        }
    }
    *func.block_insts_mut(block) = kept;
    changed
}

/// Drops carried values and results that nothing needs. Whether there were any.
fn drop_carried(func: &mut Func, inst: Inst, needed: &Needed) -> bool {
    let data = func.inst(inst).clone();
    // Operands before the carried ones; parameters of the regions before them; values yielded before them.
    let (operands, params, yields): (usize, &[usize], &[usize]) = match data.op {
        Op::For { .. } => (3, &[1], &[0]),
        Op::While => (0, &[0, 0], &[1, 0]),
        Op::If => (0, &[], &[0, 0]),
        _ => return false,
    };
    let mut changed = false;
    for index in (0..data.results.len()).rev() {
        let mut users = vec![data.results[index]];
        for (&region, first) in data.regions.iter().zip(params) {
            users.push(func.block(region).params[first + index]);
        }
        if users.iter().any(|v| needed.values[v.index()]) {
            continue;
        }
        changed = true;
        remove_carried(func, inst, index, operands, params, yields);
    }
    changed
}

/// Removes value `index` of a loop or branch everywhere.
pub(super) fn remove_carried(
    func: &mut Func,
    inst: Inst,
    index: usize,
    operands: usize,
    params: &[usize],
    yields: &[usize],
) {
    let regions = func.inst(inst).regions.clone();
    func.remove_result(inst, index);
    if !matches!(func.inst(inst).op, Op::If) {
        func.inst_mut(inst).operands.remove(operands + index);
    }
    for (&region, first) in regions.iter().zip(params) {
        func.remove_block_param(region, first + index);
    }
    for (&region, first) in regions.iter().zip(yields) {
        if let Some(end) = func.terminator(region) {
            func.inst_mut(end).operands.remove(first + index);
        }
    }
}
