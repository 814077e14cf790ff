//! Elements of which each second, fourth or eighth is meant: one masked access to all of them, for machines that mask bytes and halves.
//!
//! Of a view's strides only the last one is known when its kernel is compiled. A tile that is a column of a view, as one of two counts of every list, has
//! neighbours at another one: which is 2 where it matters, and that is asked when the kernel runs.

use super::super::build::{Elem, IntCmp, Ty, V};
use super::lanes::{Pattern, lane_stride, pattern, without_units};
use super::{CodegenError, Emit, Point};
use crate::ir::{BinaryOp, Dtype, Op, Value};

impl Emit<'_, '_> {
    /// The first offset of an access whose lanes lie apart by a number that is known when the kernel runs, and whether it is 2. `None` for others, and where
    /// 2 is no better than any other number.
    pub(super) fn stride_of_a_view(
        &mut self,
        offsets: Value,
        point: &Point,
        lanes: u32,
        elem: Elem,
    ) -> Result<Option<(V, V)>, CodegenError> {
        if self.width < 16 || lanes == 1 || elem.bytes() > 4 || self.stride_at(offsets, point).is_some() {
            return Ok(None);
        }
        let Some(factor) = self.factor(offsets, &pattern(point)) else { return Ok(None) };
        let (by, dtype) = (self.env[factor], self.f.ty(factor).dtype());
        let Some(by) = by else { return Ok(None) };
        let by = self.cast(dtype, Dtype::I64, by)?.v;
        let first: Point = point.iter().map(|coord| coord.first(&self.b)).collect();
        let at = self.eval(offsets, &first, 1)?;
        let at = self.cast(self.f.ty(offsets).dtype(), Dtype::I64, at)?.v;
        Ok(Some((at, self.b.icmp(IntCmp::LLVMIntEQ, by, self.b.index(2)))))
    }

    /// The scalar by which neighbours are multiplied that differ by 1, in a sum with what is the same in all lanes.
    fn factor(&self, value: Value, pattern: &Pattern) -> Option<Value> {
        if self.bufs[value].is_some() {
            return None;
        }
        let data = self.f.inst(self.f.def_inst(value)?);
        let opaque = |v: Value| self.bufs[v].is_some();
        let stride = |i: usize| lane_stride(self.f, &opaque, data.operands[i], pattern);
        match &data.op {
            Op::Binary(BinaryOp::Add) => match (stride(0), stride(1)) {
                (_, Some(0)) => self.factor(data.operands[0], pattern),
                (Some(0), _) => self.factor(data.operands[1], pattern),
                _ => None,
            },
            Op::Binary(BinaryOp::Mul) => {
                let by = match (stride(0)?, stride(1)?) {
                    (1, 0) => 1,
                    (0, 1) => 0,
                    _ => return None,
                };
                let splat = self.f.inst(self.f.def_inst(data.operands[by])?);
                matches!(splat.op, Op::Splat).then(|| splat.operands[0])
            }
            Op::Reshape => {
                let (to, from) = (self.f.ty(value).shape()?, self.f.ty(data.operands[0]).shape()?);
                self.factor(data.operands[0], &without_units(pattern, to.extents(), from.extents())?)
            }
            _ => None,
        }
    }

    /// What one of two ways of doing it gives.
    pub(super) fn either(
        &mut self,
        cond: V,
        yes: impl FnOnce(&mut Self) -> Result<V, CodegenError>,
        no: impl FnOnce(&mut Self) -> Result<V, CodegenError>,
    ) -> Result<V, CodegenError> {
        let (first, second, after) = (self.b.block(), self.b.block(), self.b.block());
        self.b.branch(cond, first, second);
        self.b.enter(first);
        let a = (self.scoped(yes)?, self.b.here());
        self.b.jump(after);
        self.b.enter(second);
        let b = (self.scoped(no)?, self.b.here());
        self.b.jump(after);
        self.b.enter(after);
        let phi = self.b.phi(self.b.ty(a.0));
        self.b.incoming(phi, a.0, a.1);
        self.b.incoming(phi, b.0, b.1);
        Ok(phi)
    }

    /// A mask of every `stride`-th of `lanes * stride` elements, and their type, in which `wide` ones have the size of `stride`.
    fn strided_mask(&self, elem: Elem, stride: u32, mask: V, lanes: u32) -> (V, Ty, Ty) {
        let bits = elem.bytes() as u32 * 8;
        let (wide, narrow) = (self.b.int_type(bits * stride, lanes), self.b.int_type(bits, lanes * stride));
        let held = self.b.bitcast(self.b.zext(mask, wide), narrow);
        (self.b.icmp(IntCmp::LLVMIntNE, held, self.b.zero(narrow)), wide, narrow)
    }

    /// Every `stride`-th element as one masked store, which leaves those between them alone.
    pub(super) fn strided_store(
        &mut self,
        elem: Elem,
        to: V,
        stride: u32,
        raw: V,
        mask: V,
        lanes: u32,
    ) -> Result<(), CodegenError> {
        let (wanted, wide, narrow) = self.strided_mask(elem, stride, mask, lanes);
        let bits = self.b.bitcast(raw, self.b.int_type(elem.bytes() as u32 * 8, lanes));
        let spread = self.b.bitcast(self.b.zext(bits, wide), narrow);
        let types = [narrow, self.b.elem(Elem::Ptr, 1)];
        self.masked_call("llvm.masked.store", &types, elem, &[spread, to, wanted], 2)?;
        Ok(())
    }

    /// Every `stride`-th element as one masked load of all of them, whose mask holds the wanted ones alone; so nothing
    /// else is accessed. For machines that mask bytes and halves.
    pub(super) fn strided_load(
        &mut self,
        elem: Elem,
        from: V,
        stride: u32,
        mask: V,
        lanes: u32,
    ) -> Result<V, CodegenError> {
        let (wanted, wide, narrow) = self.strided_mask(elem, stride, mask, lanes);
        let types = [narrow, self.b.elem(Elem::Ptr, 1)];
        let zero = self.b.zero(narrow);
        let all = self.masked_call("llvm.masked.load", &types, elem, &[from, wanted, zero], 1)?;
        let picked = self.b.bitcast(all, wide);
        let picked = self.b.trunc(picked, self.b.int_type(elem.bytes() as u32 * 8, lanes));
        Ok(self.b.bitcast(picked, self.b.elem(elem, lanes)))
    }
}
