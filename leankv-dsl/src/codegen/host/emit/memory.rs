//! Loads and stores: of the user's memory and of scratch memory.

use super::super::build::{Elem, Ty, V};
use super::{Buf, CodegenError, Coord, Emit, Point, Val, memory_elem, scratch_elem};
use crate::ir::{Access, Dtype, Func, Inst, Op, Value};

/// Where the lanes of an access lie, in elements from a base pointer.
#[derive(Clone, Copy)]
enum Place {
    /// All at one element.
    One(V),
    /// Neighbouring elements, from this one.
    Next(V),
    /// From this element, every second, fourth or eighth.
    Every(V, u32),
    /// Anywhere: a vector.
    Any(V),
}

/// Whether nobody writes the memory behind a pointer while the kernel runs.
pub(in super::super) fn is_read_only(func: &Func, pointer: Value) -> bool {
    func.pointer_param(pointer).is_some_and(|index| func.params[index].access == Access::Read)
}

impl Emit<'_, '_> {
    // Scratch memory.

    /// Elements of a materialised tile.
    pub(super) fn read(&mut self, buf: &Buf, point: &Point, lanes: u32) -> Result<Val, CodegenError> {
        let elem = scratch_elem(buf.dtype);
        let (place, lanes) = self.place_in(buf, point, lanes);
        let (raw, lanes) = match place {
            Place::One(at) => (self.b.load(elem, 1, self.b.offset(buf.ptr, elem, at), false), 1),
            Place::Next(at) | Place::Every(at, _) => {
                (self.b.load(elem, lanes, self.b.offset(buf.ptr, elem, at), false), lanes)
            }
            Place::Any(at) => {
                let loaded: Vec<V> = (0..lanes)
                    .map(|lane| {
                        let at = self.b.offset(buf.ptr, elem, self.b.lane(at, lane));
                        self.b.load(elem, 1, at, false)
                    })
                    .collect();
                (self.b.gather_lanes(&loaded), lanes)
            }
        };
        Ok(Val { v: self.scratch_to_register(buf.dtype, raw, lanes), lanes })
    }

    /// Writes elements of a materialised tile.
    pub(super) fn write(&mut self, buf: &Buf, point: &Point, lanes: u32, val: Val) {
        let elem = scratch_elem(buf.dtype);
        let (place, lanes) = self.place_in(buf, point, lanes);
        let value = self.widen(val, lanes);
        let raw = self.register_to_scratch(buf.dtype, value, lanes);
        match place {
            Place::One(at) | Place::Next(at) | Place::Every(at, _) => {
                self.b.store(elem, raw, self.b.offset(buf.ptr, elem, at));
            }
            Place::Any(at) => {
                for lane in 0..lanes {
                    let to = self.b.offset(buf.ptr, elem, self.b.lane(at, lane));
                    self.b.store(elem, self.b.lane(raw, lane), to);
                }
            }
        }
    }

    /// A register value as it lies in scratch memory.
    pub(super) fn register_to_scratch(&self, dtype: Dtype, v: V, lanes: u32) -> V {
        match dtype {
            Dtype::I1 => self.b.zext(v, self.b.elem(Elem::I8, lanes)),
            Dtype::Code(_) => self.b.trunc(v, self.b.elem(Elem::I8, lanes)),
            _ => v,
        }
    }

    fn scratch_to_register(&self, dtype: Dtype, raw: V, lanes: u32) -> V {
        match dtype {
            Dtype::I1 => self.b.trunc(raw, self.b.elem(Elem::I1, lanes)),
            Dtype::Code(_) => self.b.zext(raw, self.b.elem(Elem::I32, lanes)),
            _ => raw,
        }
    }

    fn place_in(&self, buf: &Buf, point: &Point, lanes: u32) -> (Place, u32) {
        let b = &self.b;
        let mut base = b.index(0);
        let mut spread: Option<V> = None;
        let mut stride = 0i64;
        let mut step = 1i64;
        for (i, coord) in point.iter().enumerate().rev() {
            let scale = b.int(Elem::I64, 1, step);
            match *coord {
                Coord::At { base: at, .. } => base = b.add(base, b.mul(at, scale)),
                Coord::Lanes { base: at, stride: by, .. } => {
                    base = b.add(base, b.mul(at, scale));
                    stride += by * step;
                }
                Coord::Each(at) => {
                    let term = b.mul(at, b.splat(scale, lanes));
                    spread = Some(spread.map_or(term, |sum| b.add(sum, term)));
                }
            }
            step *= i64::from(buf.shape[i]);
        }
        match (spread, stride) {
            (None, 0) => (Place::One(base), 1),
            (None, 1) => (Place::Next(base), lanes),
            (spread, stride) => {
                let mut at = b.splat(base, lanes);
                if stride != 0 {
                    let steps: Vec<i64> = (0..i64::from(lanes)).map(|lane| lane * stride).collect();
                    at = b.add(at, b.ints(Elem::I64, &steps));
                }
                (Place::Any(spread.map_or(at, |sum| b.add(at, sum))), lanes)
            }
        }
    }

    // The user's memory.

    /// Where an access with these offsets goes. Small strides are told apart when `strides` says that the caller can use them.
    fn place_at(
        &mut self,
        offsets: Value,
        point: &Point,
        lanes: u32,
        strides: bool,
    ) -> Result<Place, CodegenError> {
        let dtype = self.f.ty(offsets).dtype();
        let stride = self.stride_at(offsets, point);
        let known = match stride {
            Some(0 | 1) => true,
            Some(2 | 4 | 8) => strides && lanes > 1,
            _ => false,
        };
        if let (Some(stride), true) = (stride, known) {
            let first: Point = point.iter().map(|coord| coord.first(&self.b)).collect();
            let at = self.eval(offsets, &first, 1)?;
            let at = self.cast(dtype, Dtype::I64, at)?.v;
            return Ok(match stride {
                _ if stride == 0 || lanes == 1 => Place::One(at),
                1 => Place::Next(at),
                stride => Place::Every(at, stride as u32),
            });
        }
        let at = self.eval(offsets, point, lanes)?;
        let at = self.cast(dtype, Dtype::I64, at)?;
        Ok(if at.lanes == 1 { Place::One(at.v) } else { Place::Any(at.v) })
    }

    /// The offsets of all lanes.
    fn offsets(&self, place: Place, lanes: u32) -> V {
        let (first, stride) = match place {
            Place::Any(at) => return at,
            Place::One(at) => (at, 0),
            Place::Next(at) => (at, 1),
            Place::Every(at, stride) => (at, stride),
        };
        let steps: Vec<i64> = (0..lanes).map(|lane| i64::from(lane * stride)).collect();
        self.b.add(self.b.splat(first, lanes), self.b.ints(Elem::I64, &steps))
    }

    /// A load's elements.
    pub(super) fn loaded(&mut self, inst: Inst, point: &Point, lanes: u32) -> Result<Val, CodegenError> {
        let data = self.f.inst(inst);
        let Op::Load { masked, other, .. } = data.op else {
            return Err(CodegenError::Malformed("not a load".to_owned()));
        };
        let dtype = self.f.ty(data.results[0]).dtype();
        let elem = memory_elem(dtype);
        let invariant = is_read_only(self.f, data.operands[0]);
        let pointer = self.scalar(data.operands[0])?;
        if !masked && let Some(raw) = self.clamped_load(elem, pointer, data.operands[1], point, lanes)? {
            return Ok(Val { v: self.memory_to_register(dtype, raw, lanes), lanes });
        }
        if let Some((first, stride)) = self.stride_of_a_view(data.operands[1], point, lanes, elem)? {
            let mask = if masked { Some(self.eval(data.operands[2], point, lanes)?) } else { None };
            let other = if other { Some(self.eval(data.operands[3], point, lanes)?) } else { None };
            let on = mask.map_or_else(|| self.b.int(Elem::I1, lanes, 1), |mask| self.widen(mask, lanes));
            let raw = self.either(
                stride,
                |me| me.strided_load(elem, me.b.offset(pointer, elem, first), 2, on, lanes),
                |me| {
                    let at = me.place_at(data.operands[1], point, lanes, false)?;
                    me.gather(elem, pointer, me.offsets(at, lanes), Some(on), lanes, invariant)
                },
            )?;
            let loaded = Val { v: self.memory_to_register(dtype, raw, lanes), lanes };
            return Ok(match mask.zip(other) {
                None => loaded,
                Some((mask, other)) => self.choose(mask, loaded, other),
            });
        }
        // Masked accesses to bytes and halves are single instructions only where vectors have 16 lanes.
        let place = self.place_at(data.operands[1], point, lanes, self.width >= 16)?;
        let place = match place {
            Place::Every(_, stride) if u64::from(stride) * elem.bytes() > 8 => {
                Place::Any(self.offsets(place, lanes))
            }
            place => place,
        };
        let mask = if masked { Some(self.eval(data.operands[2], point, lanes)?) } else { None };
        let default = if other { Some(self.eval(data.operands[3], point, lanes)?) } else { None };
        let place_lanes = if matches!(place, Place::One(_)) { 1 } else { lanes };
        match mask {
            None => {
                let raw = match place {
                    Place::One(at) | Place::Next(at) => {
                        self.b.load(elem, place_lanes, self.b.offset(pointer, elem, at), invariant)
                    }
                    Place::Every(at, stride) => {
                        let from = self.b.offset(pointer, elem, at);
                        let all = self.b.int(Elem::I1, lanes, 1);
                        self.strided_load(elem, from, stride, all, lanes)?
                    }
                    Place::Any(at) => self.gather(elem, pointer, at, None, lanes, invariant)?,
                };
                Ok(Val { v: self.memory_to_register(dtype, raw, place_lanes), lanes: place_lanes })
            }
            // One mask for all lanes: masked off, the access goes to memory that is always zero.
            Some(mask) if mask.lanes == 1 && matches!(place, Place::One(_) | Place::Next(_)) => {
                let (Place::One(at) | Place::Next(at) | Place::Every(at, _) | Place::Any(at)) = place;
                let real = self.b.offset(pointer, elem, at);
                let safe = self.b.select(mask.v, real, self.scratch);
                let raw = self.b.load(elem, place_lanes, safe, invariant);
                let loaded = Val { v: self.memory_to_register(dtype, raw, place_lanes), lanes: place_lanes };
                Ok(match default {
                    None => loaded,
                    Some(default) => self.choose(mask, loaded, default),
                })
            }
            Some(mask) => {
                let mask_vector = self.widen(mask, lanes);
                let raw = match place {
                    Place::Next(at) => {
                        let from = self.b.offset(pointer, elem, at);
                        let zero = self.b.zero(self.b.elem(elem, lanes));
                        self.masked_load(elem, from, mask_vector, zero)?
                    }
                    Place::One(at) => {
                        let at = self.b.splat(at, lanes);
                        self.gather(elem, pointer, at, Some(mask_vector), lanes, invariant)?
                    }
                    Place::Every(at, stride) => {
                        let from = self.b.offset(pointer, elem, at);
                        self.strided_load(elem, from, stride, mask_vector, lanes)?
                    }
                    Place::Any(at) => self.gather(elem, pointer, at, Some(mask_vector), lanes, invariant)?,
                };
                let loaded = Val { v: self.memory_to_register(dtype, raw, lanes), lanes };
                Ok(match default {
                    None => loaded,
                    Some(default) => self.choose(mask, loaded, default),
                })
            }
        }
    }

    /// Neighbours under a mask; other lanes are taken from `otherwise`.
    pub(super) fn masked_load(
        &mut self,
        elem: Elem,
        from: V,
        mask: V,
        otherwise: V,
    ) -> Result<V, CodegenError> {
        let types = [self.b.ty(otherwise), self.b.elem(Elem::Ptr, 1)];
        self.masked_call("llvm.masked.load", &types, elem, &[from, mask, otherwise], 1)
    }

    /// Calls a masked intrinsic; where it takes the alignment as an operand, that is operand `slot`.
    pub(super) fn masked_call(
        &mut self,
        name: &str,
        types: &[Ty],
        elem: Elem,
        args: &[V],
        slot: usize,
    ) -> Result<V, CodegenError> {
        let function = self.b.declared(name, types)?;
        let mut args = args.to_vec();
        if self.b.param_count(function) as usize > args.len() {
            args.insert(slot, self.b.int(Elem::I32, 1, elem.bytes() as i64));
        }
        Ok(self.b.call(function, &args))
    }

    /// `store`.
    pub(super) fn emit_store(&mut self, inst: Inst) -> Result<(), CodegenError> {
        let data = self.f.inst(inst);
        let Op::Store { masked, .. } = data.op else {
            return Err(CodegenError::Malformed("not a store".to_owned()));
        };
        let (pointer, offsets, value) = (data.operands[0], data.operands[1], data.operands[2]);
        let mask = masked.then(|| data.operands[3]);
        let shape = self.f.ty(value).shape().expect("a store takes a tile").clone();
        self.elements(&shape, &mut |me, point, lanes| {
            me.store_elements(pointer, offsets, value, mask, point, lanes)
        })
    }

    fn store_elements(
        &mut self,
        pointer: Value,
        offsets: Value,
        value: Value,
        mask: Option<Value>,
        point: &Point,
        lanes: u32,
    ) -> Result<(), CodegenError> {
        let dtype = self.f.ty(value).dtype();
        let elem = memory_elem(dtype);
        let base = self.scalar(pointer)?;
        let mask = match mask {
            Some(mask) => Some(self.eval(mask, point, lanes)?),
            None => None,
        };
        if let Some(mask) = mask
            && mask.lanes == 1
        {
            // One mask for all lanes: nothing is computed where it is off.
            let (yes, after) = (self.b.block(), self.b.block());
            self.b.branch(mask.v, yes, after);
            self.b.enter(yes);
            self.scoped(|me| me.store_lanes(base, offsets, value, None, point, lanes, dtype, elem))?;
            self.b.jump(after);
            self.b.enter(after);
            return Ok(());
        }
        self.store_lanes(base, offsets, value, mask.map(|mask| mask.v), point, lanes, dtype, elem)
    }

    fn store_lanes(
        &mut self,
        base: V,
        offsets: Value,
        value: Value,
        mask: Option<V>,
        point: &Point,
        lanes: u32,
        dtype: Dtype,
        elem: Elem,
    ) -> Result<(), CodegenError> {
        let val = self.eval(value, point, lanes)?;
        let wide = self.widen(val, lanes);
        let raw = self.register_to_memory(dtype, wide, lanes);
        if let Some((first, stride)) = self.stride_of_a_view(offsets, point, lanes, elem)? {
            let on = mask.unwrap_or_else(|| self.b.int(Elem::I1, lanes, 1));
            let none = self.b.index(0);
            self.either(
                stride,
                |me| {
                    me.strided_store(elem, me.b.offset(base, elem, first), 2, raw, on, lanes)?;
                    Ok(none)
                },
                |me| {
                    let at = me.place_at(offsets, point, lanes, false)?;
                    me.scatter(elem, base, me.offsets(at, lanes), raw, Some(on), lanes)?;
                    Ok(none)
                },
            )?;
            return Ok(());
        }
        match (self.place_at(offsets, point, lanes, self.width >= 16)?, mask) {
            (Place::Next(at), None) => self.b.store(elem, raw, self.b.offset(base, elem, at)),
            (Place::One(at), None) => {
                // Several lanes store to one element: by contract equal bits.
                let one = if lanes == 1 { raw } else { self.b.lane(raw, 0) };
                self.b.store(elem, one, self.b.offset(base, elem, at));
            }
            (Place::Next(at), Some(mask)) => {
                let to = self.b.offset(base, elem, at);
                let types = [self.b.ty(raw), self.b.elem(Elem::Ptr, 1)];
                self.masked_call("llvm.masked.store", &types, elem, &[raw, to, mask], 2)?;
            }
            (Place::Every(at, stride), mask) if u64::from(stride) * elem.bytes() <= 8 => {
                let mask = mask.unwrap_or_else(|| self.b.int(Elem::I1, lanes, 1));
                self.strided_store(elem, self.b.offset(base, elem, at), stride, raw, mask, lanes)?;
            }
            (place, mask) => {
                let at = self.offsets(place, lanes);
                self.scatter(elem, base, at, raw, mask, lanes)?;
            }
        }
        Ok(())
    }
}
