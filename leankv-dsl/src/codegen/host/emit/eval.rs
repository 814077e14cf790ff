//! Elements of tiles, computed where they are needed.

use super::super::build::{Elem, IntCmp};
use super::point::is_uniform;
use super::{Buf, CodegenError, Coord, Emit, Point, Val, memory_elem, register};
use crate::ir::{Def, Dtype, Inst, InstData, Op, Value};

impl Emit<'_, '_> {
    /// The element (or the `lanes` elements) of `value` at `point`. The result is scalar when no coordinate depends on the lane.
    pub(super) fn eval(&mut self, value: Value, point: &Point, lanes: u32) -> Result<Val, CodegenError> {
        if let Some(known) = self.env[value] {
            return Ok(known);
        }
        let lanes = if is_uniform(point) { 1 } else { lanes };
        let key = (value, point.clone(), lanes);
        if let Some(&known) = self.memo.iter().rev().find_map(|scope| scope.get(&key)) {
            return Ok(known);
        }
        let out = if let Some(buf) = self.buffer_of(value) {
            self.read(&buf, point, lanes)?
        } else {
            let Def::Result(inst, index) = self.f.value(value).def else {
                return Err(CodegenError::Malformed(format!("{value} is used before it is defined")));
            };
            self.compute(inst, index, point, lanes)?
        };
        self.memo.last_mut().expect("there is always a scope").insert(key, out);
        Ok(out)
    }

    /// The memory that holds a value: its own, or that of the tile of which it is another shape.
    pub(super) fn buffer_of(&self, value: Value) -> Option<Buf> {
        let mut source = value;
        loop {
            if let Some(buf) = &self.bufs[source] {
                return Some(Buf { shape: self.f.ty(value).shape()?.clone(), ..buf.clone() });
            }
            let data = self.f.inst(self.f.def_inst(source)?);
            match data.op {
                Op::Reshape | Op::ExpandDims { .. } => source = data.operands[0],
                _ => return None,
            }
        }
    }

    /// As [`Emit::eval`], by the op that makes the value, whether or not it is materialised.
    pub(super) fn compute(
        &mut self,
        inst: Inst,
        index: u32,
        point: &Point,
        lanes: u32,
    ) -> Result<Val, CodegenError> {
        let data: &InstData = self.f.inst(inst);
        let operand = |i: usize| data.operands[i];
        let ty = self.f.ty(data.results[index as usize]);
        let dtype = ty.dtype();
        let of = |i: usize| self.f.ty(data.operands[i]).dtype();
        Ok(match &data.op {
            Op::Constant(value) => Val::scalar(self.constant(*value, dtype)),
            Op::Splat => Val::scalar(self.scalar(operand(0))?),
            Op::Iota => {
                let (v, lanes) = point[0].value(lanes, &self.b);
                let elem = register(dtype);
                let ty = self.b.elem(elem, lanes);
                Val { v: if elem == Elem::I64 { v } else { self.b.trunc(v, ty) }, lanes }
            }
            Op::Unary(op) => {
                let x = self.eval(operand(0), point, lanes)?;
                self.unary(*op, dtype, x)?
            }
            Op::Binary(op) => {
                let x = self.eval(operand(0), point, lanes)?;
                let y = self.eval(operand(1), point, lanes)?;
                self.binary(*op, dtype, x, y)?
            }
            Op::Fma => {
                let x = self.eval(operand(0), point, lanes)?;
                let y = self.eval(operand(1), point, lanes)?;
                let z = self.eval(operand(2), point, lanes)?;
                self.fused(dtype, x, y, z)?
            }
            Op::Cmp(op) => {
                let x = self.eval(operand(0), point, lanes)?;
                let y = self.eval(operand(1), point, lanes)?;
                self.cmp(*op, of(0), x, y)
            }
            Op::Select => {
                let c = self.eval(operand(0), point, lanes)?;
                let x = self.eval(operand(1), point, lanes)?;
                let y = self.eval(operand(2), point, lanes)?;
                self.choose(c, x, y)
            }
            Op::Cast => {
                let x = self.eval(operand(0), point, lanes)?;
                self.cast(of(0), dtype, x)?
            }
            Op::Bitcast => {
                let x = self.eval(operand(0), point, lanes)?;
                self.recast(of(0), dtype, x)
            }
            Op::Reshape => return self.reshaped(operand(0), ty, point, lanes),
            Op::Transpose { perm } => {
                let mut source = point.clone();
                for (i, &p) in perm.iter().enumerate() {
                    source[usize::from(p)] = point[i];
                }
                self.eval(operand(0), &source, lanes)?
            }
            Op::ExpandDims { axis } => {
                let mut source = point.clone();
                source.remove(usize::from(*axis));
                self.eval(operand(0), &source, lanes)?
            }
            Op::Broadcast => {
                let from = self.f.ty(operand(0)).shape().expect("broadcast takes a tile");
                let mut source = point.clone();
                for (i, coord) in source.iter_mut().enumerate() {
                    if from[i] == 1 {
                        *coord = Coord::at(self.b.index(0), &self.b);
                    }
                }
                self.eval(operand(0), &source, lanes)?
            }
            Op::Join => self.joined(operand(0), operand(1), point, lanes)?,
            Op::Split => {
                let mut source = point.clone();
                source.push(Coord::at(self.b.index(index.into()), &self.b));
                self.eval(operand(0), &source, lanes)?
            }
            Op::Gather { axis } => {
                let index_type = of(1);
                let at = self.eval(operand(1), point, lanes)?;
                let wide = self.cast(index_type, Dtype::I64, at)?;
                // An index out of range gives an element that means nothing, and reads no memory but the tile's; a negative one is a
                // large unsigned number.
                let last = i64::from(
                    self.f.ty(operand(0)).shape().expect("gather takes a tile")[usize::from(*axis)],
                ) - 1;
                let last = self.b.splat(self.b.int(Elem::I64, 1, last), wide.lanes);
                let within = self.b.icmp(IntCmp::LLVMIntULE, wide.v, last);
                let wide = Val { v: self.b.select(within, wide.v, last), ..wide };
                let mut source = point.clone();
                source[usize::from(*axis)] =
                    if wide.lanes == 1 { Coord::at(wide.v, &self.b) } else { Coord::Each(wide.v) };
                self.eval(operand(0), &source, lanes)?
            }
            Op::PtrCast => Val::scalar(self.scalar(operand(0))?),
            Op::PtrAdd => {
                let (base, by) = (self.scalar(operand(0))?, self.scalar(operand(1))?);
                Val::scalar(self.b.offset(base, memory_elem(dtype), by))
            }
            Op::Load { .. } => return self.loaded(inst, point, lanes),
            Op::Pack => self.packed(operand(0), dtype, point, lanes)?,
            Op::Unpack => self.unpacked(operand(0), dtype, point, lanes)?,
            Op::Quantize => {
                let x = self.eval(operand(0), point, lanes)?;
                let scale = self.eval(operand(1), point, lanes)?;
                let zero = self.eval(operand(2), point, lanes)?;
                self.quantize(dtype.bits() as u8, x, scale, zero)?
            }
            Op::Dequantize => {
                let code = self.eval(operand(0), point, lanes)?;
                let scale = self.eval(operand(1), point, lanes)?;
                let zero = self.eval(operand(2), point, lanes)?;
                self.dequantize(code, scale, zero)?
            }
            Op::InlinePtx { .. } => {
                let mut args = Vec::new();
                for &operand in &data.operands {
                    args.push(self.eval(operand, point, lanes)?);
                }
                self.region(data.regions[0], &args)?[0]
            }
            Op::ProgramId(axis) => self.program(*axis as u64),
            Op::NumPrograms(axis) => self.program(3 + *axis as u64),
            op => {
                return Err(CodegenError::Malformed(format!("`{}` was not materialised", op.name())));
            }
        })
    }

    /// Lane by lane: what is left where no vector form fits.
    pub(super) fn lanewise(
        &mut self,
        point: &Point,
        lanes: u32,
        each: &mut dyn FnMut(&mut Self, &Point) -> Result<Val, CodegenError>,
    ) -> Result<Val, CodegenError> {
        let mut out = Vec::new();
        for lane in 0..lanes {
            let at: Point = point.iter().map(|coord| coord.lane(lane, &self.b)).collect();
            out.push(each(self, &at)?.v);
        }
        Ok(Val { v: self.b.gather_lanes(&out), lanes })
    }

    /// `join`: the last coordinate selects the operand.
    fn joined(&mut self, a: Value, b: Value, point: &Point, lanes: u32) -> Result<Val, CodegenError> {
        let mut source = point.clone();
        let which = source.pop().expect("a join has a last dimension");
        if let Coord::At { base, .. } = which
            && let Some(constant) = self.b.as_constant(base)
        {
            return self.eval(if constant == 0 { a } else { b }, &source, lanes);
        }
        let x = self.eval(a, &source, lanes)?;
        let y = self.eval(b, &source, lanes)?;
        let (index, index_lanes) = which.value(lanes, &self.b);
        let zero = self.b.int(Elem::I64, index_lanes, 0);
        let first = Val { v: self.b.icmp(IntCmp::LLVMIntEQ, index, zero), lanes: index_lanes };
        Ok(self.choose(first, x, y))
    }

    /// `program_id` and `num_programs`: word `index` of the ids.
    fn program(&self, index: u64) -> Val {
        let at = self.b.offset(self.ids, Elem::I32, self.b.index(index));
        Val::scalar(self.b.load(Elem::I32, 1, at, true))
    }
}
