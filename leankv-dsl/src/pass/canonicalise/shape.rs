//! Ops that move elements: of splats and constants, of each other, and those that do nothing.

use super::*;
use crate::ir::{Combine, CombineKind};

impl Walk<'_> {
    pub(super) fn shape(&mut self, inst: Inst, data: &InstData) -> Rewrite {
        if let Some(rewrite) = self.shape_of_uniform(data) {
            return rewrite;
        }
        let ty = self.func.ty(data.results[0]).clone();
        let Some(&x) = data.operands.first() else { return self.iota(data, &ty) };
        let same_type = *self.func.ty(x) == ty;
        let inner = self.def(x).cloned();
        let inner_op = inner.as_ref().map(|d| &d.op);
        let source = inner.as_ref().and_then(|d| d.operands.first().copied());
        match (&data.op, inner_op, source) {
            (Op::Splat | Op::Reshape | Op::Broadcast, _, _) if same_type => Rewrite::value(x),
            (Op::Transpose { perm }, _, _) if perm.iter().enumerate().all(|(i, &p)| i == usize::from(p)) => {
                Rewrite::value(x)
            }
            (Op::Reshape, Some(Op::Reshape | Op::ExpandDims { .. }), Some(source)) => {
                if *self.func.ty(source) == ty {
                    return Rewrite::value(source);
                }
                self.become_op(inst, Op::Reshape, &[source])
            }
            (Op::Broadcast, Some(Op::Broadcast), Some(source)) => {
                self.become_op(inst, Op::Broadcast, &[source])
            }
            (Op::Transpose { perm }, Some(Op::Transpose { perm: first }), Some(source)) => {
                let both = perm.iter().map(|&p| first[usize::from(p)]).collect();
                self.become_op(inst, Op::Transpose { perm: both }, &[source])
            }
            (Op::Split, Some(Op::Join), _) => Rewrite::To(inner.expect("it was matched").operands[..].into()),
            (Op::Join, Some(Op::Split), Some(source)) => {
                let halves = inner.expect("it was matched").results;
                if halves[..] == data.operands[..] { Rewrite::value(source) } else { Rewrite::Keep }
            }
            (Op::Pack, Some(Op::Unpack), Some(source)) | (Op::Unpack, Some(Op::Pack), Some(source))
                if *self.func.ty(source) == ty =>
            {
                Rewrite::value(source)
            }
            _ => Rewrite::Keep,
        }
    }

    /// A tile with one value in all elements keeps it under another shape.
    fn shape_of_uniform(&mut self, data: &InstData) -> Option<Rewrite> {
        let moves = matches!(
            data.op,
            Op::Splat | Op::Reshape | Op::Transpose { .. } | Op::ExpandDims { .. } | Op::Broadcast
        );
        if !moves {
            return None;
        }
        let x = data.operands[0];
        if let Some(value) = self.func.constant(x) {
            return Some(self.constant_instead(data, value));
        }
        let inner = self.def(x)?;
        if data.op == Op::Splat || inner.op != Op::Splat {
            return None;
        }
        let scalar = inner.operands[0];
        Some(self.emit_instead(data, Op::Splat, &[scalar]))
    }

    /// `iota` of one element.
    fn iota(&mut self, data: &InstData, ty: &Type) -> Rewrite {
        match ty.shape() {
            Some(shape) if shape.elements() == 1 => self.constant_instead(data, Const::Int(0)),
            _ => Rewrite::Keep,
        }
    }

    /// Reductions of equal elements where combining two of them gives the same.
    pub(super) fn reduce(&mut self, data: &InstData) -> Rewrite {
        let Op::Reduce { combine: Combine::Kind(kind), .. } = data.op else { return Rewrite::Keep };
        let x = data.operands[0];
        let idempotent =
            matches!(kind, CombineKind::Min | CombineKind::Max | CombineKind::And | CombineKind::Or);
        if !idempotent {
            return Rewrite::Keep;
        }
        if let Some(value) = self.func.constant(x) {
            return self.constant_instead(data, value);
        }
        let Some(inner) = self.def(x).filter(|d| d.op == Op::Splat) else { return Rewrite::Keep };
        let scalar = inner.operands[0];
        if self.func.ty(data.results[0]).is_scalar() {
            return Rewrite::value(scalar);
        }
        self.emit_instead(data, Op::Splat, &[scalar])
    }
}
