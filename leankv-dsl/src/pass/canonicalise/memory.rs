//! Pointers, and accesses with a constant mask.

use super::*;

impl Walk<'_> {
    pub(super) fn pointer(&mut self, inst: Inst, data: &InstData) -> Rewrite {
        let x = data.operands[0];
        let ty = self.func.ty(data.results[0]).clone();
        if matches!(data.op, Op::PtrCast) && *self.func.ty(x) == ty {
            return Rewrite::value(x);
        }
        if matches!(data.op, Op::PtrAdd) && self.int(data.operands[1]) == Some(0) {
            return Rewrite::value(x);
        }
        let Some(inner) = self.def(x).cloned() else { return Rewrite::Keep };
        match (&data.op, &inner.op) {
            (Op::PtrCast, Op::PtrCast) => {
                let source = inner.operands[0];
                if *self.func.ty(source) == ty {
                    return Rewrite::value(source);
                }
                self.become_op(inst, Op::PtrCast, &[source])
            }
            (Op::PtrAdd, Op::PtrAdd) => {
                let (Some(a), Some(b)) = (self.int(inner.operands[1]), self.int(data.operands[1])) else {
                    return Rewrite::Keep;
                };
                let sum = self.constant(Const::Int(a + b), &Type::scalar(Dtype::I64), data.loc);
                self.become_op(inst, Op::PtrAdd, &[inner.operands[0], sum])
            }
            _ => Rewrite::Keep,
        }
    }

    /// Drops masks that are true everywhere, and accesses whose mask is false everywhere.
    pub(super) fn access(&mut self, inst: Inst, data: &InstData) -> Rewrite {
        match data.op {
            Op::Load { masked: true, other, cache } => match self.int(data.operands[2]) {
                Some(1) => {
                    let op = Op::Load { masked: false, other: false, cache };
                    self.become_op(inst, op, &data.operands[..2])
                }
                Some(_) if other => Rewrite::value(data.operands[3]),
                Some(_) => self.zero_instead(data),
                None => Rewrite::Keep,
            },
            Op::Store { masked: true, cache } => match self.int(data.operands[3]) {
                Some(1) => self.become_op(inst, Op::Store { masked: false, cache }, &data.operands[..3]),
                Some(_) => Rewrite::erase(),
                None => Rewrite::Keep,
            },
            Op::AtomicRmw { op, order, scope, masked: true } => match self.int(data.operands[3]) {
                Some(1) => {
                    let op = Op::AtomicRmw { op, order, scope, masked: false };
                    self.become_op(inst, op, &data.operands[..3])
                }
                Some(_) => self.zero_instead(data),
                None => Rewrite::Keep,
            },
            Op::Assert { .. } if self.int(data.operands[0]) == Some(1) => Rewrite::erase(),
            _ => Rewrite::Keep,
        }
    }

    fn zero_instead(&mut self, data: &InstData) -> Rewrite {
        let zero = if self.dtype(data.results[0]).is_float() { Const::float(0.0) } else { Const::Int(0) };
        self.constant_instead(data, zero)
    }
}
