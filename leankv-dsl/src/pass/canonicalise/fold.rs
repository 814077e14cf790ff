//! Constants and splats: what can be computed now, or once instead of for each element.

use super::*;
use crate::interp;

impl Walk<'_> {
    /// Folds an element-wise op whose operands are all constant.
    pub(super) fn fold(&mut self, data: &InstData) -> Option<Rewrite> {
        if !is_elementwise(&data.op) {
            return None;
        }
        let args: Option<Vec<(Const, Dtype)>> =
            data.operands.iter().map(|&v| Some((self.func.constant(v)?, self.dtype(v)))).collect();
        let out = self.dtype(data.results[0]);
        let value = interp::fold_constant(&data.op, &args?, out)?;
        Some(self.constant_instead(data, value))
    }

    /// Moves an element-wise op on splats (and constants) to scalars.
    pub(super) fn scalarise(&mut self, data: &InstData) -> Option<Rewrite> {
        if !is_elementwise(&data.op) || self.func.ty(data.results[0]).is_scalar() {
            return None;
        }
        let is_splat = |v: Value| self.def(v).is_some_and(|d| matches!(d.op, Op::Splat));
        let any = data.operands.iter().any(|&v| is_splat(v));
        let all = data.operands.iter().all(|&v| is_splat(v) || self.func.constant(v).is_some());
        if !any || !all {
            return None;
        }
        let scalars: Vec<Value> = data.operands.iter().map(|&v| self.scalar_of(v, data.loc)).collect();
        let ty = self.func.ty(data.results[0]).clone();
        let one = self.emit(data.op.clone(), &scalars, Some(&Type::scalar(ty.dtype())), data.loc);
        Some(Rewrite::value(self.emit(Op::Splat, &[one], Some(&ty), data.loc)))
    }

    /// The scalar in all elements of a splat or constant.
    pub(super) fn scalar_of(&mut self, value: Value, loc: Loc) -> Value {
        if let Some(constant) = self.func.constant(value) {
            let ty = Type::scalar(self.dtype(value));
            return self.constant(constant, &ty, loc);
        }
        self.def(value).expect("only splats and constants are asked for").operands[0]
    }
}

fn is_elementwise(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(_)
            | Op::Binary(_)
            | Op::Fma
            | Op::Cmp(_)
            | Op::Select
            | Op::Cast
            | Op::Bitcast
            | Op::Quantize
            | Op::Dequantize
    )
}
