//! Moves what does not change out of loops.

use super::manager::{Facts, Pass};
use super::memory::clobbers;
use crate::diag::Diagnostics;
use crate::ir::pointer::Pointers;
use crate::ir::{BinaryOp, Block, Const, Effect, Entity, Func, Inst, Op, Value};

/// Loop-invariant code motion out of `for` and `while`, innermost loops first.
///
/// * Ops without effects move even out of a loop that may not run at all, unless they can be a checked error there: integer
///   division by a value that may be 0, `gather`.
/// * Those, and loads whose memory the loop does not change, move where the loop surely runs: a `for` with constant bounds,
///   the condition of a `while`.
pub struct Licm;

impl Pass for Licm {
    fn name(&self) -> &'static str {
        "licm"
    }

    fn run(&self, func: &mut Func, _: &mut Facts) -> Result<bool, Diagnostics> {
        let constant_memory = {
            let pointers = Pointers::new(func);
            let mut out = vec![false; func.inst_count()];
            for inst in func.walk() {
                if let Op::Load { .. } = func.inst(inst).op {
                    out[inst.index()] = pointers.never_written(func.inst(inst).operands[0]);
                }
            }
            out
        };
        let mut motion = Motion { inside: vec![false; func.value_count()], constant_memory, changed: false };
        motion.block(func, func.entry());
        Ok(motion.changed)
    }
}

struct Motion {
    /// Values that the current loop computes.
    inside: Vec<bool>,
    /// Loads of memory that nothing writes while the kernel runs.
    constant_memory: Vec<bool>,
    changed: bool,
}

impl Motion {
    fn block(&mut self, func: &mut Func, block: Block) {
        let insts = std::mem::take(func.block_insts_mut(block));
        let mut out = Vec::with_capacity(insts.len());
        for inst in insts {
            for region in func.inst(inst).regions.clone() {
                self.block(func, region);
            }
            if matches!(func.inst(inst).op, Op::For { .. } | Op::While) {
                self.hoist(func, inst, &mut out);
            }
            out.push(inst);
        }
        *func.block_insts_mut(block) = out;
    }

    /// Moves what a loop does not change before it.
    fn hoist(&mut self, func: &mut Func, looped: Inst, out: &mut Vec<Inst>) {
        let regions = func.inst(looped).regions.clone();
        self.inside.fill(false);
        for &region in &regions {
            self.enter(func, region);
        }
        let quiet = !clobbers(func, looped);
        for (i, &region) in regions.iter().enumerate() {
            let runs = match func.inst(looped).op {
                Op::For { .. } => runs_at_least_once(func, looped),
                _ => i == 0,
            };
            // Order matters: an op that may fail must not overtake one that stops the program, or reports.
            let mut straight = runs;
            let insts = std::mem::take(func.block_insts_mut(region));
            let mut kept = Vec::with_capacity(insts.len());
            for inst in insts {
                if self.movable(func, inst, straight, quiet) {
                    for &result in &func.inst(inst).results {
                        self.inside[result.index()] = false;
                    }
                    self.leave(func, inst);
                    out.push(inst);
                    self.changed = true;
                    continue;
                }
                straight &= func.effect(inst) != Effect::Write;
                kept.push(inst);
            }
            *func.block_insts_mut(region) = kept;
        }
    }

    fn enter(&mut self, func: &Func, block: Block) {
        for &param in &func.block(block).params {
            self.inside[param.index()] = true;
        }
        for &inst in &func.block(block).insts {
            for &result in &func.inst(inst).results {
                self.inside[result.index()] = true;
            }
            for &region in &func.inst(inst).regions {
                self.enter(func, region);
            }
        }
    }

    /// The values inside the regions of a moved op moved too.
    fn leave(&mut self, func: &Func, inst: Inst) {
        let mut insts = Vec::new();
        for &region in &func.inst(inst).regions {
            for &param in &func.block(region).params {
                self.inside[param.index()] = false;
            }
            func.walk_block(region, &mut insts);
        }
        for inner in insts {
            for &result in &func.inst(inner).results {
                self.inside[result.index()] = false;
            }
        }
    }

    fn movable(&self, func: &Func, inst: Inst, runs: bool, quiet: bool) -> bool {
        let data = func.inst(inst);
        if data.op.is_terminator() || matches!(data.op, Op::For { .. } | Op::While | Op::If) {
            return false;
        }
        let effect = match func.effect(inst) {
            Effect::None => runs || is_total(func, inst),
            Effect::Read => runs && (quiet || self.constant_memory[inst.index()]),
            Effect::Write => false,
        };
        effect && self.uses_nothing_inside(func, inst, &[])
    }

    /// Whether an op and its regions use only values from outside the loop (and their own).
    fn uses_nothing_inside(&self, func: &Func, inst: Inst, own: &[Value]) -> bool {
        let data = func.inst(inst);
        let outside = |v: &Value| !self.inside[v.index()] || own.contains(v);
        data.operands.iter().all(outside)
            && data.regions.iter().all(|&region| {
                let mut inner = own.to_vec();
                inner.extend(&func.block(region).params);
                let mut walked = Vec::new();
                func.walk_block(region, &mut walked);
                inner.extend(walked.iter().flat_map(|&i| func.inst(i).results.iter()));
                func.block(region).insts.iter().all(|&i| self.uses_nothing_inside(func, i, &inner))
            })
    }
}

/// Whether an op is defined for all operands, so that running it in vain does no harm. Ops in its regions count.
fn is_total(func: &Func, inst: Inst) -> bool {
    let data = func.inst(inst);
    let own = match data.op {
        Op::Gather { .. } => false,
        Op::Binary(BinaryOp::Div | BinaryOp::Rem) => {
            func.ty(data.operands[0]).dtype().is_float()
                || matches!(func.constant(data.operands[1]), Some(Const::Int(divisor)) if divisor != 0)
        }
        _ => true,
    };
    own && data.regions.iter().all(|&region| func.block(region).insts.iter().all(|&i| is_total(func, i)))
}

/// Whether a `for` is known to run.
fn runs_at_least_once(func: &Func, inst: Inst) -> bool {
    let bounds = &func.inst(inst).operands[..3];
    let known: Option<Vec<i128>> = bounds.iter().map(|&v| func.constant(v)?.as_int()).collect();
    matches!(known.as_deref(), Some([lower, upper, step]) if lower < upper && *step > 0)
}
