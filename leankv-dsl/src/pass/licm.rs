//! Moves what does not change out of loops.

use super::manager::{Facts, Pass};
use super::memory::clobbers;
use crate::diag::Diagnostics;
use crate::ir::pointer::Pointers;
use crate::ir::{
    BinaryOp, Block, CmpOp, Const, Dtype, Effect, Func, Inst, InstData, Op, SideTable, Type, Value,
};

/// Loop-invariant code motion out of `for` and `while`, innermost loops first.
///
/// * Ops without effects move even out of a loop that may not run at all, unless they can be a checked error there: integer
///   division by a value that may be 0, `gather`.
/// * Those, assertions, and loads whose memory the loop does not change, move where the loop surely runs: a `for` with constant bounds,
///   the condition of a `while`.
/// * Assertions and such loads also move out of a `for` that may not run, and then ask whether it does: `lower < upper`.
pub struct Licm;

impl Pass for Licm {
    fn name(&self) -> &'static str {
        "licm"
    }

    fn run(&self, func: &mut Func, _: &mut Facts) -> Result<bool, Diagnostics> {
        let constant_memory = {
            let pointers = Pointers::new(func);
            let mut out = SideTable::new();
            for inst in func.walk() {
                if let Op::Load { .. } = func.inst(inst).op {
                    out[inst] = pointers.never_written(func.inst(inst).operands[0]);
                }
            }
            out
        };
        let mut motion = Motion { inside: SideTable::new(), constant_memory, changed: false };
        motion.block(func, func.entry());
        Ok(motion.changed)
    }
}

struct Motion {
    /// Values that the current loop computes.
    inside: SideTable<Value, bool>,
    /// Loads of memory that nothing writes while the kernel runs.
    constant_memory: SideTable<Inst, bool>,
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
        self.inside = SideTable::new();
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
            let mut straight = true;
            let insts = std::mem::take(func.block_insts_mut(region));
            let mut kept = Vec::with_capacity(insts.len());
            for inst in insts {
                let asks = !runs && can_ask(func, looped, inst);
                if self.movable(func, inst, straight && (runs || asks), quiet) {
                    if asks {
                        ask(func, looped, inst, out);
                    }
                    for &result in &func.inst(inst).results {
                        self.inside[result] = false;
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
            self.inside[param] = true;
        }
        for &inst in &func.block(block).insts {
            for &result in &func.inst(inst).results {
                self.inside[result] = true;
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
                self.inside[param] = false;
            }
            func.walk_block(region, &mut insts);
        }
        for inner in insts {
            for &result in &func.inst(inner).results {
                self.inside[result] = false;
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
            Effect::Read => runs && (quiet || self.constant_memory[inst]),
            Effect::Write => runs && matches!(data.op, Op::Assert { .. }),
        };
        effect && self.uses_nothing_inside(func, inst, &[])
    }

    /// Whether an op and its regions use only values from outside the loop (and their own).
    fn uses_nothing_inside(&self, func: &Func, inst: Inst, own: &[Value]) -> bool {
        let data = func.inst(inst);
        let outside = |v: &Value| !self.inside[*v] || own.contains(v);
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

/// Whether an op can be told to do nothing where a loop does not run.
fn can_ask(func: &Func, looped: Inst, inst: Inst) -> bool {
    let counted = matches!(func.inst(looped).op, Op::For { .. });
    // A constant step is positive. With another one `lower < upper` does not say whether the loop runs.
    let forwards = counted && func.constant(func.inst(looped).operands[2]).is_some();
    forwards && matches!(func.inst(inst).op, Op::Load { .. } | Op::Assert { .. })
}

/// Has a load or an assertion do nothing where a `for` does not run; what it takes for that goes to `out`.
fn ask(func: &mut Func, looped: Inst, inst: Inst, out: &mut Vec<Inst>) {
    let InstData { op, operands, loc, .. } = func.inst(inst).clone();
    let bounds = [func.inst(looped).operands[0], func.inst(looped).operands[1]];
    let of = if matches!(op, Op::Load { .. }) { operands[1] } else { operands[0] };
    let ty = func.ty(of).with_dtype(Dtype::I1);
    let mut put = |op, operands: &[Value], ty: &Type| {
        let inst = func.make_inst(op, operands, std::slice::from_ref(ty), &[], loc);
        out.push(inst);
        func.result(inst)
    };
    let mut compare = |op| {
        let is = put(Op::Cmp(op), &bounds, &Type::scalar(Dtype::I1));
        if ty.is_scalar() { is } else { put(Op::Splat, &[is], &ty) }
    };
    let (op, at, condition) = match op {
        Op::Load { masked, other, cache } => {
            let runs = compare(CmpOp::Lt);
            let mask = if masked { put(Op::Binary(BinaryOp::And), &[operands[2], runs], &ty) } else { runs };
            (Op::Load { masked: true, other, cache }, 2, mask)
        }
        op => {
            let idle = compare(CmpOp::Ge);
            (op, 0, put(Op::Binary(BinaryOp::Or), &[operands[0], idle], &ty))
        }
    };
    let data = func.inst_mut(inst);
    data.op = op;
    match data.operands.get_mut(at) {
        Some(operand) => *operand = condition,
        None => data.operands.push(condition),
    }
}
