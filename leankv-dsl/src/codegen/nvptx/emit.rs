//! The emitter: values, control flow, and dispatch to the op families.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use inkwell::IntPredicate;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{FunctionValue, PhiValue, PointerValue};
use smallvec::SmallVec;

use crate::codegen::CodegenError;
use crate::ir::{Access, Axis, Block, Const, Dtype, Entity, Func, Inst, InstData, Op, Type, Value};
use crate::layout::LinearLayout;
use crate::pass::axis::AxisAnalysis;
use crate::pass::layout_assign::Assignment;
use crate::target::Gpu;

use super::address::Strides;
use super::blocks::LocalBlocks;
use super::debug::DebugInfo;
use super::dot::DotCode;
use super::ir::{Ir, Val};

/// What a tile-IR value is in LLVM.
#[derive(Clone, Debug)]
pub(super) enum Repr<'c> {
    /// The same in every thread.
    Scalar(Val<'c>),
    /// This thread's registers, numbered as in the value's layout.
    Tile(Vec<Val<'c>>),
    /// An address in global memory; whether nothing writes there while the kernel runs.
    Ptr(PointerValue<'c>, bool),
    /// A byte offset in shared memory and how far stages lie apart.
    Shared(u32, u32),
}

pub(super) type Emitted<T = ()> = Result<T, CodegenError>;

/// What is emitted, and for what.
pub(super) struct Input<'f> {
    pub(super) gpu: &'f Gpu,
    pub(super) func: &'f Func,
    pub(super) plan: &'f Assignment,
    pub(super) dots: &'f BTreeMap<Inst, Box<dyn DotCode>>,
}

/// Emits one kernel.
pub(super) struct Emitter<'c, 'f> {
    pub(super) ir: Ir<'c>,
    pub(super) gpu: &'f Gpu,
    pub(super) func: &'f Func,
    pub(super) plan: &'f Assignment,
    pub(super) dots: &'f BTreeMap<Inst, Box<dyn DotCode>>,
    pub(super) axis: AxisAnalysis,
    pub(super) function: FunctionValue<'c>,
    pub(super) lane: Val<'c>,
    pub(super) warp: Val<'c>,
    /// The block of shared memory.
    pub(super) smem: PointerValue<'c>,
    /// The shared memory of `local_alloc`; scratch lies behind it.
    pub(super) local: LocalBlocks,
    /// The most scratch that any op needed.
    pub(super) scratch_bytes: u32,
    pub(super) notes: Vec<String>,
    pub(super) debug: Option<DebugInfo>,
    /// Integer values that are only parts of addresses: their arithmetic does not wrap.
    pub(super) addresses: BTreeSet<Value>,
    /// By how much a thread's offsets differ.
    pub(super) strides: RefCell<Strides<'f>>,
    /// Of tiles whose elements a dot takes two to a register: by how much the indices of the two differ.
    pub(super) packed: BTreeMap<Value, u32>,
    values: Vec<Option<Repr<'c>>>,
}

impl<'c, 'f> Emitter<'c, 'f> {
    pub(super) fn new(
        ir: Ir<'c>,
        Input { gpu, func, plan, dots }: Input<'f>,
        function: FunctionValue<'c>,
        smem: PointerValue<'c>,
        debug: Option<DebugInfo>,
    ) -> Emitted<Emitter<'c, 'f>> {
        let zero = ir.c32(0);
        let mut out = Emitter {
            axis: AxisAnalysis::run(func),
            addresses: super::address::address_values(func),
            strides: RefCell::new(Strides::new(func, plan)),
            packed: super::codes::packed_pairs(func, plan, dots),
            ir,
            gpu,
            func,
            plan,
            dots,
            function,
            lane: zero,
            warp: zero,
            smem,
            local: LocalBlocks::new(func, plan),
            scratch_bytes: 0,
            notes: Vec::new(),
            debug,
            values: vec![None; func.value_count()],
        };
        out.locate(func.loc);
        let tid = out.ir.call("llvm.nvvm.read.ptx.sreg.tid.x", &[], &[])?;
        if func.num_warps == 1 {
            out.lane = tid;
        } else {
            out.lane = out.ir.and(tid, out.ir.c32(31));
            out.warp = out.ir.lshr(tid, 5);
        }
        for (i, (param, &value)) in func.params.iter().zip(func.param_values()).enumerate() {
            let arg =
                function.get_nth_param(i as u32).expect("the function was declared with these parameters");
            let repr = match &param.ty {
                Type::Ptr { .. } => Repr::Ptr(arg.into_pointer_value(), param.access == Access::Read),
                ty if ty.dtype() == Dtype::I1 => {
                    Repr::Scalar(out.ir.icmp(IntPredicate::NE, arg, out.ir.zero(arg.get_type())))
                }
                _ => Repr::Scalar(arg),
            };
            out.values[value.index()] = Some(repr);
        }
        Ok(out)
    }

    /// Emits the body.
    pub(super) fn run(&mut self) -> Emitted {
        self.block(self.func.entry())
    }

    // Values.

    pub(super) fn set(&mut self, value: Value, repr: Repr<'c>) {
        self.values[value.index()] = Some(repr);
    }

    pub(super) fn get(&self, value: Value) -> &Repr<'c> {
        self.values[value.index()]
            .as_ref()
            .unwrap_or_else(|| panic!("internal error: {value} was not emitted"))
    }

    /// A tile's registers, or a scalar as one.
    pub(super) fn registers(&self, value: Value) -> SmallVec<[Val<'c>; 8]> {
        match self.get(value) {
            Repr::Scalar(v) => SmallVec::from_elem(*v, 1),
            Repr::Tile(regs) => SmallVec::from_slice(regs),
            other => panic!("internal error: {value} is no tile: {other:?}"),
        }
    }

    pub(super) fn scalar(&self, value: Value) -> Val<'c> {
        self.registers(value)[0]
    }

    pub(super) fn pointer(&self, value: Value) -> (PointerValue<'c>, bool) {
        match self.get(value) {
            Repr::Ptr(pointer, read_only) => (*pointer, *read_only),
            other => panic!("internal error: {value} is no pointer: {other:?}"),
        }
    }

    /// Gives a value its registers.
    pub(super) fn set_registers(&mut self, value: Value, regs: Vec<Val<'c>>) {
        let repr = if self.func.ty(value).is_scalar() { Repr::Scalar(regs[0]) } else { Repr::Tile(regs) };
        self.set(value, repr);
    }

    pub(super) fn dtype(&self, value: Value) -> Dtype {
        self.func.ty(value).dtype()
    }

    pub(super) fn is_tile(&self, value: Value) -> bool {
        crate::pass::layout_assign::needs_layout(self.func, value)
    }

    pub(super) fn layout(&self, value: Value) -> &'f LinearLayout {
        self.plan.layout(value)
    }

    /// The LLVM type of an element in a register: codes are 32-bit integers.
    pub(super) fn llvm_type(&self, dtype: Dtype) -> BasicTypeEnum<'c> {
        match dtype {
            Dtype::F16 => self.ir.f16().into(),
            Dtype::BF16 => self.ir.cx.bf16_type().into(),
            Dtype::F32 => self.ir.f32().into(),
            Dtype::F64 => self.ir.cx.f64_type().into(),
            Dtype::Code(_) => self.ir.i32().into(),
            other => self.ir.int_type(other.bits()).into(),
        }
    }

    /// A constant of an element type.
    pub(super) fn constant(&self, value: Const, dtype: Dtype) -> Val<'c> {
        match self.llvm_type(dtype) {
            BasicTypeEnum::FloatType(ty) => ty.const_float(value.as_f64()).into(),
            BasicTypeEnum::IntType(ty) => ty.const_int(value.as_int().unwrap_or(0) as u64, false).into(),
            other => unreachable!("internal error: an element of type {other}"),
        }
    }

    fn locate(&mut self, loc: crate::ir::Loc) {
        if let Some(debug) = &mut self.debug {
            debug.set(&self.ir, loc);
        }
    }

    // Control flow.

    /// Emits the ops of a block up to its terminator.
    pub(super) fn block(&mut self, block: Block) -> Emitted {
        for &inst in &self.func.block(block).insts {
            self.locate(self.func.inst(inst).loc);
            self.inst(inst)?;
        }
        Ok(())
    }

    fn yields(&self, block: Block) -> &'f [Value] {
        let terminator = self.func.terminator(block).expect("the verifier checked that blocks end");
        &self.func.inst(terminator).operands
    }

    /// All LLVM values of tile-IR values, in order.
    fn flatten(&self, values: &[Value]) -> Vec<Val<'c>> {
        let mut out = Vec::new();
        for &value in values {
            match self.get(value) {
                Repr::Scalar(v) => out.push(*v),
                Repr::Tile(regs) => out.extend(regs),
                Repr::Ptr(pointer, _) => out.push((*pointer).into()),
                Repr::Shared(..) => panic!("internal error: shared memory is not carried"),
            }
        }
        out
    }

    /// Gives `targets` the shapes of `sources` with new LLVM values.
    fn assign_like(&mut self, targets: &[Value], sources: &[Value], values: &[Val<'c>]) {
        let mut next = values.iter().copied();
        let mut take = || next.next().expect("as many values as were flattened");
        for (&target, &source) in targets.iter().zip(sources) {
            let repr = match self.get(source) {
                Repr::Scalar(_) => Repr::Scalar(take()),
                Repr::Tile(regs) => Repr::Tile(regs.iter().map(|_| take()).collect()),
                // Which parameter a carried pointer points into is not tracked.
                Repr::Ptr(..) => Repr::Ptr(take().into_pointer_value(), false),
                Repr::Shared(..) => panic!("internal error: shared memory is not carried"),
            };
            self.set(target, repr);
        }
    }

    fn phis(&self, values: &[Val<'c>], from: inkwell::basic_block::BasicBlock<'c>) -> Vec<PhiValue<'c>> {
        values
            .iter()
            .map(|v| {
                let phi = self.ir.phi(v.get_type());
                phi.add_incoming(&[(v, from)]);
                phi
            })
            .collect()
    }

    fn add_incoming(&self, phis: &[PhiValue<'c>], values: &[Val<'c>]) {
        let from = self.ir.block();
        for (phi, value) in phis.iter().zip(values) {
            phi.add_incoming(&[(value, from)]);
        }
    }

    fn for_loop(&mut self, data: &InstData) -> Emitted {
        let body = data.regions[0];
        let params = &self.func.block(body).params;
        let (lower, upper, step) =
            (self.scalar(data.operands[0]), self.scalar(data.operands[1]), self.scalar(data.operands[2]));
        let inits = &data.operands[3..];
        let start = self.flatten(inits);
        let [inner, exit] = ["for", "for.end"].map(|name| self.ir.cx.append_basic_block(self.function, name));
        let mut runs = self.ir.icmp(IntPredicate::SLT, lower, upper);
        let known = self.func.constant(data.operands[2]).and_then(Const::as_int);
        if known.is_none_or(|step| step <= 0) {
            let positive = self.ir.icmp(IntPredicate::SGT, step, self.ir.zero(step.get_type()));
            runs = self.ir.and(runs, positive);
        }
        // A step of 1 never leaves the type, since the index is below the upper bound before it. Any other might: then the
        // indices that a turn follows are those below `upper - step`.
        let last = match known {
            Some(1) => None,
            _ => Some(self.ir.call("llvm.ssub.sat", &[upper.get_type()], &[upper, step])?),
        };
        let entry = self.ir.block();
        self.ir.cond_br(runs, inner, exit);
        self.ir.b.position_at_end(inner);
        let index = self.ir.phi(lower.get_type());
        index.add_incoming(&[(&lower, entry)]);
        let phis = self.phis(&start, entry);
        let carried: Vec<Val<'c>> = phis.iter().map(|p| p.as_basic_value()).collect();
        self.set(params[0], Repr::Scalar(index.as_basic_value()));
        self.assign_like(&params[1..], inits, &carried);
        self.block(body)?;
        let back = self.flatten(self.yields(body));
        let next = self.ir.add_nsw(index.as_basic_value(), step);
        let more = match last {
            None => self.ir.icmp(IntPredicate::SLT, next, upper),
            Some(last) => self.ir.icmp(IntPredicate::SLT, index.as_basic_value(), last),
        };
        index.add_incoming(&[(&next, self.ir.block())]);
        self.add_incoming(&phis, &back);
        let latch = self.ir.block();
        self.ir.cond_br(more, inner, exit);
        self.ir.b.position_at_end(exit);
        let ends = self.phis(&start, entry);
        for (end, value) in ends.iter().zip(&back) {
            end.add_incoming(&[(value, latch)]);
        }
        let finals: Vec<Val<'c>> = ends.iter().map(|p| p.as_basic_value()).collect();
        self.assign_like(&data.results, inits, &finals);
        Ok(())
    }

    fn while_loop(&mut self, data: &InstData) -> Emitted {
        let (before, after) = (data.regions[0], data.regions[1]);
        let inits = &data.operands;
        let start = self.flatten(inits);
        let entry = self.ir.block();
        let [head, inner, exit] = ["while", "while.body", "while.end"]
            .map(|name| self.ir.cx.append_basic_block(self.function, name));
        self.ir.br(head);
        self.ir.b.position_at_end(head);
        let phis = self.phis(&start, entry);
        let carried: Vec<Val<'c>> = phis.iter().map(|p| p.as_basic_value()).collect();
        self.assign_like(&self.func.block(before).params, inits, &carried);
        self.block(before)?;
        let yields = self.yields(before);
        let (more, rest) = (self.scalar(yields[0]), &yields[1..]);
        let kept = self.flatten(rest);
        self.ir.cond_br(more, inner, exit);
        self.ir.b.position_at_end(inner);
        self.assign_like(&self.func.block(after).params, rest, &kept);
        self.block(after)?;
        let back = self.flatten(self.yields(after));
        self.add_incoming(&phis, &back);
        self.ir.br(head);
        self.ir.b.position_at_end(exit);
        self.assign_like(&data.results, rest, &kept);
        Ok(())
    }

    fn if_else(&mut self, data: &InstData) -> Emitted {
        let cond = self.scalar(data.operands[0]);
        let [yes, no, exit] =
            ["then", "else", "endif"].map(|name| self.ir.cx.append_basic_block(self.function, name));
        self.ir.cond_br(cond, yes, no);
        let mut arms = Vec::new();
        for (&region, at) in data.regions.iter().zip([yes, no]) {
            self.ir.b.position_at_end(at);
            self.block(region)?;
            arms.push((self.flatten(self.yields(region)), self.ir.block()));
            self.ir.br(exit);
        }
        self.ir.b.position_at_end(exit);
        let phis = self.phis(&arms[0].0, arms[0].1);
        for (phi, value) in phis.iter().zip(&arms[1].0) {
            phi.add_incoming(&[(value, arms[1].1)]);
        }
        let values: Vec<Val<'c>> = phis.iter().map(|p| p.as_basic_value()).collect();
        self.assign_like(&data.results, self.yields(data.regions[0]), &values);
        Ok(())
    }

    /// All threads of the block meet.
    pub(super) fn barrier(&mut self) -> Emitted {
        if self.func.num_warps == 1 {
            return self.ir.call_void("llvm.nvvm.bar.warp.sync", &[], &[self.ir.c32(u32::MAX)]);
        }
        self.ir.call_void("llvm.nvvm.barrier.cta.sync.aligned.all", &[], &[self.ir.c32(0)])
    }

    /// Byte offset of scratch for an exchange through shared memory: everybody is done with it before.
    pub(super) fn scratch(&mut self, bytes: u32) -> Emitted<u32> {
        self.scratch_bytes = self.scratch_bytes.max(bytes);
        self.barrier()?;
        Ok(self.local.bytes)
    }

    /// The address of a byte of shared memory.
    pub(super) fn shared_at(&self, base: u32, offset: Val<'c>) -> PointerValue<'c> {
        let start = self.ir.gep(self.ir.i8().into(), self.smem, self.ir.c32(base));
        self.ir.gep(self.ir.i8().into(), start, offset)
    }

    fn special(&self, axis: Axis, register: &str) -> Emitted<Val<'c>> {
        let axis = match axis {
            Axis::X => "x",
            Axis::Y => "y",
            Axis::Z => "z",
        };
        self.ir.call(&format!("llvm.nvvm.read.ptx.sreg.{register}.{axis}"), &[], &[])
    }

    fn inst(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        match &data.op {
            Op::ProgramId(axis) => {
                let id = self.special(*axis, "ctaid")?;
                self.set(data.results[0], Repr::Scalar(id));
            }
            Op::NumPrograms(axis) => {
                let n = self.special(*axis, "nctaid")?;
                self.set(data.results[0], Repr::Scalar(n));
            }
            Op::Constant(_)
            | Op::Iota
            | Op::Splat
            | Op::Reshape
            | Op::Transpose { .. }
            | Op::ExpandDims { .. }
            | Op::Broadcast
            | Op::Join
            | Op::Split
            | Op::Pack
            | Op::Unpack => self.shape_op(inst)?,
            Op::Unary(_)
            | Op::Binary(_)
            | Op::Fma
            | Op::Cmp(_)
            | Op::Select
            | Op::Bitcast
            | Op::Quantize
            | Op::Dequantize
            | Op::InlinePtx { .. } => self.elementwise(inst)?,
            Op::Cast => self.cast(inst)?,
            Op::Reduce { .. } => self.reduce(inst)?,
            Op::Scan { .. } => self.scan(inst)?,
            Op::Dot => self.dot(inst)?,
            Op::Gather { .. } => self.gather(inst)?,
            Op::PtrCast => {
                let (pointer, read_only) = self.pointer(data.operands[0]);
                self.set(data.results[0], Repr::Ptr(pointer, read_only));
            }
            Op::PtrAdd => {
                let (pointer, read_only) = self.pointer(data.operands[0]);
                let bytes = self.dtype(data.operands[0]).bytes().unwrap_or(1);
                let ty = self.ir.int_type(bytes * 8).into();
                let moved = self.ir.gep(ty, pointer, self.scalar(data.operands[1]));
                self.set(data.results[0], Repr::Ptr(moved, read_only));
            }
            Op::Load { .. } => self.load(inst)?,
            Op::Store { .. } => self.store(inst)?,
            Op::AtomicRmw { .. } | Op::AtomicCas { .. } => self.atomic(inst)?,
            Op::Assert { .. } => self.assert(inst)?,
            Op::Print { .. } => unreachable!("internal error: `print` was refused before"),
            Op::For { .. } => self.for_loop(data)?,
            Op::While => self.while_loop(data)?,
            Op::If => self.if_else(data)?,
            Op::Yield | Op::Return => {}
            Op::ConvertLayout => self.convert_layout(inst)?,
            Op::LocalAlloc => {
                let (start, stride) = self.local.place_of(data.results[0]);
                self.set(data.results[0], Repr::Shared(start, stride));
            }
            Op::AsyncCopy { .. } => self.async_copy(inst)?,
            Op::AsyncCommit => self.ir.call_void("llvm.nvvm.cp.async.commit.group", &[], &[])?,
            Op::AsyncWait { pending } => {
                let n = self.ir.c32((*pending).into());
                self.ir.call_void("llvm.nvvm.cp.async.wait.group", &[], &[n])?;
            }
            Op::LocalLoad => self.local_load(inst)?,
            Op::LocalStore => self.local_store(inst)?,
            Op::Barrier => self.barrier()?,
        }
        Ok(())
    }
}
