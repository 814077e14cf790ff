//! From tile IR to LLVM IR for one CPU thread that runs one program.
//!
//! A tile value is either *fused*, that is computed on demand as a function of element coordinates wherever a consumer needs
//! elements ([`eval`]), or *materialised* in the program's scratch memory ([`Buf`]). Consumers (stores, reductions, `dot`,
//! carried values) are loop nests over coordinates with vectors along one dimension. Which value is which is decided in
//! [`super::plan`].

mod ahead;
mod atomics;
mod clamped;
mod control;
mod dot;
mod elementwise;
mod eval;
mod lanes;
mod math;
mod memory;
mod pack;
mod point;
mod reduce;
mod report;
mod scattered;
mod stmt;
mod strided;

use std::collections::HashMap;

use super::build::{Build, Elem, IntCmp, V};
use super::plan::Plan;
use super::{HostTarget, Site};
use crate::codegen::llvm::CodegenError;
use crate::ir::{Dtype, Func, Shape, SideTable, Value};
pub(super) use elementwise::register;
pub(super) use lanes::lane_stride;
pub(super) use memory::is_read_only;
pub(super) use point::{Coord, Point};

/// A scalar (`lanes` 1: one for all lanes) or a vector of `lanes` elements, in register form.
#[derive(Clone, Copy)]
pub(super) struct Val {
    pub(super) v: V,
    pub(super) lanes: u32,
}

impl Val {
    fn scalar(v: V) -> Val {
        Val { v, lanes: 1 }
    }
}

/// A materialised tile: row-major in scratch memory.
#[derive(Clone)]
pub(super) struct Buf {
    /// The first element.
    ptr: V,
    /// What it holds.
    dtype: Dtype,
    /// Extents.
    shape: Shape,
}

/// How elements of a materialised tile lie in scratch memory: 16-bit floats keep their exact `f32` form.
fn scratch_elem(dtype: Dtype) -> Elem {
    match dtype {
        Dtype::I1 | Dtype::Code(_) => Elem::I8,
        other => register(other),
    }
}

/// How elements lie in the user's memory.
fn memory_elem(dtype: Dtype) -> Elem {
    match dtype {
        Dtype::I1 | Dtype::Code(_) => Elem::I8,
        Dtype::F16 => Elem::F16,
        Dtype::BF16 => Elem::I16,
        other => register(other),
    }
}

type MemoKey = (Value, Point, u32);

/// The emitter of one kernel.
pub(super) struct Emit<'f, 'c> {
    f: &'f Func,
    plan: &'f Plan,
    b: Build<'c>,
    /// Elements of 32 bits in a vector register.
    width: u32,
    /// Vector registers of the machine.
    registers: u32,
    /// Whether a byte may take any 8 bits of its lane of 64.
    multishift: bool,
    /// Scalars and pointers.
    env: SideTable<Value, Option<Val>>,
    /// Materialised tiles.
    bufs: SideTable<Value, Option<Buf>>,
    /// Where a value that is about to be materialised should go.
    hints: SideTable<Value, Option<V>>,
    /// Elements that were already computed, a map per open loop.
    memo: Vec<HashMap<MemoKey, Val>>,
    scratch: V,
    scratch_bytes: u64,
    ids: V,
    callbacks: V,
    sites: Vec<Site>,
    ahead: ahead::Ahead,
}

/// Bytes at the start of scratch memory that are always zero: what masked-off vector loads read.
pub(super) const ZERO_BYTES: u64 = 512;

/// What an emitted kernel needs beside its code.
pub(super) struct Emitted<'c> {
    pub(super) build: Build<'c>,
    pub(super) scratch_bytes: u64,
    pub(super) sites: Vec<Site>,
}

/// Emits `func` as the body of the function that `build` has begun, whose parameters are those of
/// [`super::abi`].
pub(super) fn emit<'c>(
    func: &Func,
    plan: &Plan,
    build: Build<'c>,
    width: u32,
    target: &HostTarget,
) -> Result<Emitted<'c>, CodegenError> {
    let (args, scratch, ids, callbacks) = (build.param(0), build.param(1), build.param(2), build.param(3));
    let mut emit = Emit {
        f: func,
        plan,
        b: build,
        width,
        registers: target.registers(),
        multishift: width == 16 && target.has_multishift(),
        env: SideTable::new(),
        bufs: SideTable::new(),
        hints: SideTable::new(),
        memo: vec![HashMap::new()],
        scratch,
        scratch_bytes: ZERO_BYTES,
        ids,
        callbacks,
        sites: Vec::new(),
        ahead: ahead::Ahead::default(),
    };
    for (index, &value) in func.param_values().iter().enumerate() {
        let ty = func.ty(value);
        let slot = emit.b.offset(args, Elem::I64, emit.b.index(index as u64));
        let v = if ty.is_ptr() {
            emit.b.load(Elem::Ptr, 1, slot, true)
        } else {
            let raw = emit.b.load(memory_elem(ty.dtype()), 1, slot, true);
            emit.memory_to_register(ty.dtype(), raw, 1)
        };
        emit.env[value] = Some(Val::scalar(v));
    }
    emit.block(func.entry())?;
    emit.b.ret(emit.b.int(Elem::I32, 1, 0));
    Ok(Emitted { build: emit.b, scratch_bytes: emit.scratch_bytes, sites: emit.sites })
}

impl<'f, 'c> Emit<'f, 'c> {
    /// Scratch memory for `elements` elements.
    fn alloc(&mut self, dtype: Dtype, elements: u64) -> V {
        self.alloc_bytes(elements * scratch_elem(dtype).bytes())
    }

    /// Scratch memory for so many bytes.
    fn alloc_bytes(&mut self, bytes: u64) -> V {
        let at = self.scratch_bytes;
        // A vector may be read past the last element where its lanes are not used.
        let bytes = bytes + 64;
        self.scratch_bytes = (at + bytes).next_multiple_of(64);
        self.b.offset(self.scratch, Elem::I8, self.b.index(at))
    }

    /// A new buffer for a value's type, where the hint says if there is one.
    fn alloc_for(&mut self, value: Value) -> Buf {
        let ty = self.f.ty(value).clone();
        let (dtype, shape) = ty.as_tile().expect("only tiles are materialised");
        let ptr = match self.hints[value] {
            Some(hint) => hint,
            None => self.alloc(dtype, shape.elements()),
        };
        Buf { ptr, dtype, shape: shape.clone() }
    }

    /// Runs `body` with memoised elements that are forgotten afterwards.
    fn scoped<R>(&mut self, body: impl FnOnce(&mut Self) -> R) -> R {
        self.memo.push(HashMap::new());
        let out = body(self);
        self.memo.pop();
        out
    }

    /// A loop over `start, start + step, .. < end` with constant bounds and at least one trip; `carried` values pass from trip to trip.
    /// One trip is emitted without a loop.
    fn repeat(
        &mut self,
        start: u64,
        end: u64,
        step: u64,
        carried: &[V],
        body: impl FnOnce(&mut Self, V, &[V]) -> Result<Vec<V>, CodegenError>,
    ) -> Result<Vec<V>, CodegenError> {
        if start + step >= end {
            let at = self.b.index(start);
            return body(self, at, carried);
        }
        let before = self.b.here();
        let head = self.b.block();
        self.b.jump(head);
        self.b.enter(head);
        let index = self.b.phi(self.b.elem(Elem::I64, 1));
        self.b.incoming(index, self.b.index(start), before);
        let phis: Vec<V> = carried
            .iter()
            .map(|&v| {
                let phi = self.b.phi(self.b.ty(v));
                self.b.incoming(phi, v, before);
                phi
            })
            .collect();
        let outs = self.scoped(|me| body(me, index, &phis))?;
        let latch = self.b.here();
        let next = self.b.add(index, self.b.index(step));
        let more = self.b.icmp(IntCmp::LLVMIntULT, next, self.b.index(end));
        let exit = self.b.block();
        self.b.branch(more, head, exit);
        self.b.incoming(index, next, latch);
        for (&phi, &out) in phis.iter().zip(&outs) {
            self.b.incoming(phi, out, latch);
        }
        self.b.enter(exit);
        Ok(outs)
    }

    /// Runs `body` once for each row coordinate of `extents`, without carried values.
    fn nest(
        &mut self,
        extents: &[u32],
        point: &mut Point,
        body: &mut dyn FnMut(&mut Self, &mut Point) -> Result<(), CodegenError>,
    ) -> Result<(), CodegenError> {
        let Some((&extent, inner)) = extents.split_first() else {
            return body(self, point);
        };
        self.repeat(0, extent.into(), 1, &[], |me, index, _| {
            point.push(Coord::at(index, &me.b));
            me.nest(inner, point, body)?;
            point.pop();
            Ok(Vec::new())
        })?;
        Ok(())
    }

    /// Runs `body` for each group of lanes along an extent: whole vectors in a loop, then ever shorter ones.
    fn chunks(
        &mut self,
        extent: u32,
        width: u32,
        body: &mut dyn FnMut(&mut Self, Coord, u32) -> Result<(), CodegenError>,
    ) -> Result<(), CodegenError> {
        let whole = extent / width * width;
        if whole > 0 {
            self.repeat(0, whole.into(), width.into(), &[], |me, base, _| {
                let coord = Coord::lanes(base, width, &me.b);
                body(me, coord, width)?;
                Ok(Vec::new())
            })?;
        }
        let mut at = whole;
        let mut lanes = width;
        while at < extent {
            lanes /= 2;
            if at + lanes <= extent {
                let coord = Coord::lanes(self.b.index(at.into()), lanes, &self.b);
                self.scoped(|me| body(me, coord, lanes))?;
                at += lanes;
            }
        }
        Ok(())
    }

    /// Runs `body` over all elements of a shape, with vectors along the last dimension that has more than one.
    fn elements(
        &mut self,
        shape: &Shape,
        body: &mut dyn FnMut(&mut Self, &Point, u32) -> Result<(), CodegenError>,
    ) -> Result<(), CodegenError> {
        let extents = shape.extents();
        if extents.is_empty() {
            return body(self, &Point::new(), 1);
        }
        let along = extents.iter().rposition(|&extent| extent > 1).unwrap_or(0);
        let width = self.width;
        self.nest(&extents[..along], &mut Point::new(), &mut |me, point| {
            me.chunks(extents[along], width, &mut |me, coord, lanes| {
                let mut at = point.clone();
                at.push(coord);
                at.resize(extents.len(), Coord::at(me.b.index(0), &me.b));
                body(me, &at, lanes)
            })
        })
    }

    /// The value of a scalar or pointer.
    fn scalar(&self, value: Value) -> Result<V, CodegenError> {
        match self.env[value] {
            Some(val) => Ok(val.v),
            None => Err(CodegenError::Malformed(format!("{value} is used before it is defined"))),
        }
    }
}
