//! Brings ops to their simplest form.
//!
//! * Constants are folded by running the reference executor on one element, so folding cannot disagree with it. Integer division by
//!   zero, a checked error there, is left alone.
//! * Identities are applied where they are exact for all values of the type: `x + 0` for integers but not for floats, where
//!   -0 + 0 is +0.
//! * Shape ops of splats and constants become splats and constants; element-wise ops of splats move to scalars.
//! * Constants stand on the right of ops that commute, and of comparisons.
//! * Loops and branches lose what they carry unchanged; branches with a constant condition and loops with no or one
//!   iteration are dissolved.

mod arith;
mod control;
mod convert;
mod fold;
mod memory;
mod shape;

use super::manager::{Facts, Pass};
use crate::diag::Diagnostics;
use crate::ir::{Block, Const, Dtype, Func, Inst, InstData, Loc, Op, SideTable, Type, Value, infer};
use smallvec::SmallVec;

/// Rounds over the function at most; each one finds what the one before made possible.
const MAX_ROUNDS: usize = 8;

/// Canonicalisation.
pub struct Canonicalise;

impl Pass for Canonicalise {
    fn name(&self) -> &'static str {
        "canonicalise"
    }

    fn run(&self, func: &mut Func, _: &mut Facts) -> Result<bool, Diagnostics> {
        let mut any = false;
        for _ in 0..MAX_ROUNDS {
            let mut walk = Walk { func, replaced: SideTable::new(), out: Vec::new(), changed: false };
            walk.block(walk.func.entry());
            if !walk.changed {
                break;
            }
            any = true;
        }
        Ok(any)
    }
}

/// What to do with an op.
enum Rewrite {
    /// It stays, possibly changed in place.
    Keep,
    /// Its results are these values.
    To(SmallVec<[Value; 2]>),
}

impl Rewrite {
    fn value(value: Value) -> Rewrite {
        Rewrite::To(smallvec::smallvec![value])
    }

    /// An op without results goes.
    fn erase() -> Rewrite {
        Rewrite::To(SmallVec::new())
    }
}

/// One walk over the function in the order of the text.
///
/// Every op is seen after those that its operands come from, so `replaced` is complete for them and uses are
/// renamed as they are met.
struct Walk<'f> {
    func: &'f mut Func,
    replaced: SideTable<Value, Option<Value>>,
    /// The block that is being rebuilt.
    out: Vec<Inst>,
    changed: bool,
}

impl Walk<'_> {
    fn block(&mut self, block: Block) {
        let insts = std::mem::take(self.func.block_insts_mut(block));
        let around = std::mem::take(&mut self.out);
        for inst in insts {
            self.inst(inst);
        }
        *self.func.block_insts_mut(block) = std::mem::replace(&mut self.out, around);
    }

    fn inst(&mut self, inst: Inst) {
        for i in 0..self.func.inst(inst).operands.len() {
            let operand = self.func.inst(inst).operands[i];
            self.func.inst_mut(inst).operands[i] = self.resolve(operand);
        }
        match self.rewrite(inst) {
            Rewrite::Keep => {
                for region in self.func.inst(inst).regions.clone() {
                    self.block(region);
                }
                self.out.push(inst);
            }
            Rewrite::To(values) => {
                self.changed = true;
                let results = self.func.inst(inst).results.clone();
                debug_assert_eq!(results.len(), values.len());
                for (result, value) in results.into_iter().zip(values) {
                    debug_assert_eq!(self.func.ty(result), self.func.ty(value));
                    self.replace(result, value);
                }
            }
        }
    }

    fn rewrite(&mut self, inst: Inst) -> Rewrite {
        let data = self.func.inst(inst).clone();
        if let Some(rewrite) = self.fold(&data) {
            return rewrite;
        }
        if let Some(rewrite) = self.scalarise(&data) {
            return rewrite;
        }
        match &data.op {
            Op::Unary(op) => self.unary(inst, &data, *op),
            Op::Binary(op) => self.binary(inst, &data, *op),
            Op::Fma => self.fma(inst, &data),
            Op::Cmp(op) => self.cmp(inst, &data, *op),
            Op::Select => self.select(inst, &data),
            Op::Cast => self.cast(inst, &data),
            Op::Bitcast => self.bitcast(inst, &data),
            Op::Iota | Op::Splat | Op::Reshape | Op::Transpose { .. } | Op::ExpandDims { .. } => {
                self.shape(inst, &data)
            }
            Op::Broadcast | Op::Join | Op::Split | Op::Pack | Op::Unpack => self.shape(inst, &data),
            Op::Reduce { .. } => self.reduce(&data),
            Op::PtrCast | Op::PtrAdd => self.pointer(inst, &data),
            Op::Load { .. } | Op::Store { .. } | Op::AtomicRmw { .. } | Op::Assert { .. } => {
                self.access(inst, &data)
            }
            Op::For { .. } => self.for_loop(inst),
            Op::While => self.while_loop(inst),
            Op::If => self.branch(inst),
            _ => Rewrite::Keep,
        }
    }

    /// What a value is replaced by by now.
    fn resolve(&self, mut value: Value) -> Value {
        while let Some(next) = self.replaced[value] {
            value = next;
        }
        value
    }

    fn replace(&mut self, from: Value, to: Value) {
        debug_assert_ne!(from, to);
        self.replaced[from] = Some(to);
    }

    /// Emits an op before the current one.
    fn emit(&mut self, op: Op, operands: &[Value], wanted: Option<&Type>, loc: Loc) -> Value {
        let types: Vec<&Type> = operands.iter().map(|&v| self.func.ty(v)).collect();
        let results = infer::result_types(&op, &types, wanted)
            .expect("a rewrite keeps the typing rules of what it replaces");
        let inst = self.func.make_inst(op, operands, &results, &[], loc);
        self.out.push(inst);
        self.func.result(inst)
    }

    fn constant(&mut self, value: Const, ty: &Type, loc: Loc) -> Value {
        self.emit(Op::Constant(value.rounded(ty.dtype())), &[], Some(ty), loc)
    }

    /// Replaces a one-result op by a new op of the same type.
    fn emit_instead(&mut self, data: &InstData, op: Op, operands: &[Value]) -> Rewrite {
        let ty = self.func.ty(data.results[0]).clone();
        Rewrite::value(self.emit(op, operands, Some(&ty), data.loc))
    }

    /// Replaces a one-result op by a constant.
    fn constant_instead(&mut self, data: &InstData, value: Const) -> Rewrite {
        let ty = self.func.ty(data.results[0]).clone();
        Rewrite::value(self.constant(value, &ty, data.loc))
    }

    /// Changes op and operands in place; the results keep their types.
    fn become_op(&mut self, inst: Inst, op: Op, operands: &[Value]) -> Rewrite {
        let data = self.func.inst_mut(inst);
        data.op = op;
        data.operands = operands.into();
        self.changed = true;
        Rewrite::Keep
    }

    fn dtype(&self, value: Value) -> Dtype {
        self.func.ty(value).dtype()
    }

    /// The op that makes a value, for patterns.
    fn def(&self, value: Value) -> Option<&InstData> {
        self.func.def_inst(value).map(|inst| self.func.inst(inst))
    }

    /// The integer that a value is known to be in all elements.
    fn int(&self, value: Value) -> Option<i128> {
        self.func.constant(value)?.as_int()
    }
}
