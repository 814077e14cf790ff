//! Loads of neighbours up to a last one: `min(first + lane, last)`, as what stands for rows that are not there reads the last one again.

use super::super::build::{Elem, IntCmp, V};
use super::{CodegenError, Emit, Point};
use crate::ir::{BinaryOp, Dtype, Op, Value};

impl Emit<'_, '_> {
    /// The elements at such offsets: those up to the last one in one load, the last one in the lanes behind it. `None` for other offsets.
    pub(super) fn clamped_load(
        &mut self,
        elem: Elem,
        pointer: V,
        offsets: Value,
        point: &Point,
        lanes: u32,
    ) -> Result<Option<V>, CodegenError> {
        // Where vectors are shorter the machine has no masked loads of bytes and halves.
        if lanes == 1 || (self.width < 16 && elem.bytes() < 4) {
            return Ok(None);
        }
        let Some((along, most)) = self.clamp(offsets, point) else { return Ok(None) };
        let here: Point = point.iter().map(|coord| coord.first(&self.b)).collect();
        let dtype = self.f.ty(offsets).dtype();
        let mut scalar = |value| -> Result<V, CodegenError> {
            let val = self.eval(value, &here, 1)?;
            Ok(self.cast(dtype, Dtype::I64, val)?.v)
        };
        let (first, most) = (scalar(along)?, scalar(most)?);
        let b = &self.b;
        let steps: Vec<i64> = (0..i64::from(lanes)).collect();
        let numbers = b.add(b.splat(first, lanes), b.ints(Elem::I64, &steps));
        let within = b.icmp(IntCmp::LLVMIntSLE, numbers, b.splat(most, lanes));
        // Some lane reads this one, if only the last lane.
        let end = b.add(first, b.index(u64::from(lanes) - 1));
        let last = b.select(b.icmp(IntCmp::LLVMIntSLT, most, end), most, end);
        let last = b.load(elem, 1, b.offset(pointer, elem, last), false);
        let (last, from) = (b.splat(last, lanes), b.offset(pointer, elem, first));
        Ok(Some(self.masked_load(elem, from, within, last)?))
    }

    /// The operands of a `min` of offsets that run from neighbour to neighbour and one that is the same in all lanes.
    fn clamp(&self, offsets: Value, point: &Point) -> Option<(Value, Value)> {
        let data = self.f.inst(self.f.def_inst(offsets)?);
        let least = matches!(data.op, Op::Binary(BinaryOp::Min)) && self.bufs[offsets].is_none();
        if !least || !self.f.ty(offsets).dtype().is_signed_int() {
            return None;
        }
        let (a, b) = (data.operands[0], data.operands[1]);
        match (self.stride_at(a, point)?, self.stride_at(b, point)?) {
            (1, 0) => Some((a, b)),
            (0, 1) => Some((b, a)),
            _ => None,
        }
    }
}
