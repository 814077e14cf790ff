//! A small instruction builder over LLVM's C interface.
//!
//! The emitter's values are scalars or vectors of a width that is chosen at run time, which inkwell's typed values cannot say;
//! so values are plain handles here, and whether types fit is checked by LLVM's verifier afterwards.

use std::collections::HashMap;
use std::ffi::CString;

use inkwell::builder::Builder;
use inkwell::context::{AsContextRef, Context};
use inkwell::module::Module;
use inkwell::types::BasicTypeEnum;
use inkwell::values::AsValueRef;
use llvm_sys::LLVMAtomicOrdering;
use llvm_sys::core::*;
use llvm_sys::prelude::*;
pub(super) use llvm_sys::{
    LLVMAtomicRMWBinOp as RmwOp, LLVMIntPredicate as IntCmp, LLVMRealPredicate as FloatCmp,
};

use super::super::llvm::{CodegenError, intrinsic};

/// A value: scalar or vector.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct V(LLVMValueRef);

/// A type.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ty(LLVMTypeRef);

/// A basic block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Bb(LLVMBasicBlockRef);

/// Element types as LLVM has them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Elem {
    I1,
    I8,
    I16,
    I32,
    I64,
    F16,
    F32,
    F64,
    Ptr,
}

impl Elem {
    /// Bytes in memory.
    pub(super) fn bytes(self) -> u64 {
        match self {
            Elem::I1 | Elem::I8 => 1,
            Elem::I16 | Elem::F16 => 2,
            Elem::I32 | Elem::F32 => 4,
            Elem::I64 | Elem::F64 | Elem::Ptr => 8,
        }
    }
}

/// The name of all values: names are not kept.
const NONE: *const std::ffi::c_char = c"".as_ptr();

/// Builds one function of one module.
pub(super) struct Build<'c> {
    cx: LLVMContextRef,
    builder: Builder<'c>,
    pub(super) module: Module<'c>,
    function: Option<LLVMValueRef>,
    intrinsics: HashMap<(String, Vec<Ty>), V>,
    /// `!{}` and the metadata kind for loads of memory that nobody writes.
    invariant: (LLVMValueRef, u32),
}

macro_rules! binary_ops {
    ($($name:ident = $llvm:ident;)*) => {
        $(pub(super) fn $name(&self, a: V, b: V) -> V {
            // SAFETY: both operands are live values of this module, the builder stands in a block of it.
            V(unsafe { $llvm(self.raw(), a.0, b.0, NONE) })
        })*
    };
}

macro_rules! cast_ops {
    ($($name:ident = $llvm:ident;)*) => {
        $(pub(super) fn $name(&self, a: V, to: Ty) -> V {
            if self.ty(a) == to { return a; }
            // SAFETY: the operand is a live value of this module, the type is of the same context.
            V(unsafe { $llvm(self.raw(), a.0, to.0, NONE) })
        })*
    };
}

impl<'c> Build<'c> {
    /// A builder for `module`, without a function yet.
    pub(super) fn new(cx: &'c Context, module: Module<'c>) -> Build<'c> {
        let raw = cx.as_ctx_ref();
        let empty = cx.metadata_node(&[]).as_value_ref();
        let invariant = (empty, cx.get_kind_id("invariant.load"));
        Build {
            cx: raw,
            builder: cx.create_builder(),
            module,
            function: None,
            intrinsics: HashMap::new(),
            invariant,
        }
    }

    fn raw(&self) -> LLVMBuilderRef {
        self.builder.as_mut_ptr()
    }

    /// Starts the function that the following blocks belong to.
    pub(super) fn begin(&mut self, function: inkwell::values::FunctionValue<'c>) {
        self.function = Some(function.as_value_ref());
        let entry = self.block();
        self.enter(entry);
    }

    /// Parameter `index` of the function.
    pub(super) fn param(&self, index: u32) -> V {
        let function = self.function.expect("a function was begun");
        // SAFETY: the function is live and the caller names one of its parameters.
        V(unsafe { LLVMGetParam(function, index) })
    }

    // Types.

    /// The type of one element, or of a vector of `lanes` > 1.
    pub(super) fn elem(&self, elem: Elem, lanes: u32) -> Ty {
        // SAFETY: the context is live as long as the module.
        let scalar = unsafe {
            match elem {
                Elem::I1 => LLVMInt1TypeInContext(self.cx),
                Elem::I8 => LLVMInt8TypeInContext(self.cx),
                Elem::I16 => LLVMInt16TypeInContext(self.cx),
                Elem::I32 => LLVMInt32TypeInContext(self.cx),
                Elem::I64 => LLVMInt64TypeInContext(self.cx),
                Elem::F16 => LLVMHalfTypeInContext(self.cx),
                Elem::F32 => LLVMFloatTypeInContext(self.cx),
                Elem::F64 => LLVMDoubleTypeInContext(self.cx),
                Elem::Ptr => LLVMPointerTypeInContext(self.cx, 0),
            }
        };
        self.vector(Ty(scalar), lanes)
    }

    /// An integer type of any width.
    pub(super) fn int_type(&self, bits: u32, lanes: u32) -> Ty {
        // SAFETY: as in `elem`.
        self.vector(Ty(unsafe { LLVMIntTypeInContext(self.cx, bits) }), lanes)
    }

    /// A vector of a scalar type; the type itself for one lane.
    pub(super) fn vector(&self, scalar: Ty, lanes: u32) -> Ty {
        // SAFETY: vector element types are integers, floats and pointers.
        if lanes <= 1 { scalar } else { Ty(unsafe { LLVMVectorType(scalar.0, lanes) }) }
    }

    /// The type of a value.
    pub(super) fn ty(&self, v: V) -> Ty {
        // SAFETY: the value is live.
        Ty(unsafe { LLVMTypeOf(v.0) })
    }

    // Constants.

    /// An integer constant, in every lane; wraps to the type's width.
    pub(super) fn int(&self, elem: Elem, lanes: u32, value: i64) -> V {
        let ty = self.elem(elem, 1);
        // SAFETY: the type is an integer type.
        self.splat_constant(V(unsafe { LLVMConstInt(ty.0, value as u64, 1) }), lanes)
    }

    /// An `i64` constant.
    pub(super) fn index(&self, value: u64) -> V {
        self.int(Elem::I64, 1, value as i64)
    }

    /// A float constant, in every lane.
    pub(super) fn real(&self, elem: Elem, lanes: u32, value: f64) -> V {
        let ty = self.elem(elem, 1);
        // SAFETY: the type is a float type.
        self.splat_constant(V(unsafe { LLVMConstReal(ty.0, value) }), lanes)
    }

    /// Zero of any type.
    pub(super) fn zero(&self, ty: Ty) -> V {
        // SAFETY: the type is of a live context.
        V(unsafe { LLVMConstNull(ty.0) })
    }

    /// A vector of different integer constants.
    pub(super) fn ints(&self, elem: Elem, values: &[i64]) -> V {
        let scalars: Vec<V> = values.iter().map(|&value| self.int(elem, 1, value)).collect();
        self.constants(&scalars)
    }

    fn constants(&self, scalars: &[V]) -> V {
        if let [one] = scalars {
            return *one;
        }
        let mut raw: Vec<LLVMValueRef> = scalars.iter().map(|v| v.0).collect();
        // SAFETY: all elements are constants of one type.
        V(unsafe { LLVMConstVector(raw.as_mut_ptr(), raw.len() as u32) })
    }

    fn splat_constant(&self, scalar: V, lanes: u32) -> V {
        if lanes <= 1 { scalar } else { self.constants(&vec![scalar; lanes as usize]) }
    }

    /// The value of an integer constant.
    pub(super) fn as_constant(&self, v: V) -> Option<i64> {
        // SAFETY: the value is live; the second call is made for constant integers alone.
        unsafe {
            let is_int = !LLVMIsAConstantInt(v.0).is_null();
            is_int.then(|| LLVMConstIntGetSExtValue(v.0))
        }
    }

    // Instructions.

    binary_ops! {
        add = LLVMBuildAdd;
        sub = LLVMBuildSub;
        mul = LLVMBuildMul;
        sdiv = LLVMBuildSDiv;
        udiv = LLVMBuildUDiv;
        srem = LLVMBuildSRem;
        urem = LLVMBuildURem;
        fadd = LLVMBuildFAdd;
        fsub = LLVMBuildFSub;
        fmul = LLVMBuildFMul;
        fdiv = LLVMBuildFDiv;
        and = LLVMBuildAnd;
        or = LLVMBuildOr;
        xor = LLVMBuildXor;
        shl = LLVMBuildShl;
        lshr = LLVMBuildLShr;
        ashr = LLVMBuildAShr;
        extract = LLVMBuildExtractElement;
    }

    cast_ops! {
        trunc = LLVMBuildTrunc;
        zext = LLVMBuildZExt;
        sext = LLVMBuildSExt;
        fptrunc = LLVMBuildFPTrunc;
        fpext = LLVMBuildFPExt;
        sitofp = LLVMBuildSIToFP;
        uitofp = LLVMBuildUIToFP;
        fptosi = LLVMBuildFPToSI;
        bitcast = LLVMBuildBitCast;
    }

    /// Negates a float.
    pub(super) fn fneg(&self, a: V) -> V {
        // SAFETY: as for the binary ops.
        V(unsafe { LLVMBuildFNeg(self.raw(), a.0, NONE) })
    }

    /// Compares integers.
    pub(super) fn icmp(&self, op: IntCmp, a: V, b: V) -> V {
        // SAFETY: as for the binary ops.
        V(unsafe { LLVMBuildICmp(self.raw(), op, a.0, b.0, NONE) })
    }

    /// Compares floats.
    pub(super) fn fcmp(&self, op: FloatCmp, a: V, b: V) -> V {
        // SAFETY: as for the binary ops.
        V(unsafe { LLVMBuildFCmp(self.raw(), op, a.0, b.0, NONE) })
    }

    /// `c ? a : b`; `c` may be a scalar over vectors.
    pub(super) fn select(&self, c: V, a: V, b: V) -> V {
        // SAFETY: as for the binary ops.
        V(unsafe { LLVMBuildSelect(self.raw(), c.0, a.0, b.0, NONE) })
    }

    /// The scalar in every lane.
    pub(super) fn splat(&self, v: V, lanes: u32) -> V {
        if lanes <= 1 {
            return v;
        }
        // SAFETY: the value is live.
        if unsafe { LLVMIsConstant(v.0) } != 0 {
            return self.splat_constant(v, lanes);
        }
        let ty = self.vector(self.ty(v), lanes);
        // SAFETY: a vector type has a poison value.
        let poison = V(unsafe { LLVMGetPoison(ty.0) });
        let first = self.insert(poison, v, 0);
        self.shuffle(first, first, &vec![0; lanes as usize])
    }

    /// Puts a scalar into a lane.
    pub(super) fn insert(&self, vector: V, scalar: V, lane: u32) -> V {
        let lane = self.int(Elem::I32, 1, lane.into());
        // SAFETY: the lane is within the vector.
        V(unsafe { LLVMBuildInsertElement(self.raw(), vector.0, scalar.0, lane.0, NONE) })
    }

    /// Takes one lane.
    pub(super) fn lane(&self, vector: V, lane: u32) -> V {
        self.extract(vector, self.int(Elem::I32, 1, lane.into()))
    }

    /// A vector from scalars.
    pub(super) fn gather_lanes(&self, scalars: &[V]) -> V {
        if let [one] = scalars {
            return *one;
        }
        let ty = self.vector(self.ty(scalars[0]), scalars.len() as u32);
        // SAFETY: a vector type has a poison value.
        let mut out = V(unsafe { LLVMGetPoison(ty.0) });
        for (i, &scalar) in scalars.iter().enumerate() {
            out = self.insert(out, scalar, i as u32);
        }
        out
    }

    /// Lanes of `a` and then `b` by number; one number gives a scalar.
    pub(super) fn shuffle(&self, a: V, b: V, lanes: &[u32]) -> V {
        if let [one] = lanes {
            // SAFETY: both are vectors of one type.
            let width = unsafe { LLVMGetVectorSize(LLVMTypeOf(a.0)) };
            return if *one < width { self.lane(a, *one) } else { self.lane(b, one - width) };
        }
        let mask = self.ints(Elem::I32, &lanes.iter().map(|&l| i64::from(l)).collect::<Vec<_>>());
        // SAFETY: both are vectors of one type, the mask is a constant vector.
        V(unsafe { LLVMBuildShuffleVector(self.raw(), a.0, b.0, mask.0, NONE) })
    }

    /// `base + offset * elem` bytes.
    pub(super) fn offset(&self, base: V, elem: Elem, offset: V) -> V {
        let ty = self.elem(elem, 1);
        let mut indices = [offset.0];
        // SAFETY: the base is a pointer, the offset an integer (or a vector of them).
        V(unsafe { LLVMBuildGEP2(self.raw(), ty.0, base.0, indices.as_mut_ptr(), 1, NONE) })
    }

    /// Loads with the element's alignment. `invariant` says that nobody writes the memory while the kernel runs.
    pub(super) fn load(&self, elem: Elem, lanes: u32, at: V, invariant: bool) -> V {
        let ty = self.elem(elem, lanes);
        // SAFETY: `at` is a pointer; the load is an instruction, which takes an alignment and metadata.
        unsafe {
            let load = LLVMBuildLoad2(self.raw(), ty.0, at.0, NONE);
            LLVMSetAlignment(load, elem.bytes() as u32);
            if invariant {
                LLVMSetMetadata(load, self.invariant.1, self.invariant.0);
            }
            V(load)
        }
    }

    /// Stores with the element's alignment.
    pub(super) fn store(&self, elem: Elem, value: V, at: V) {
        // SAFETY: `at` is a pointer.
        unsafe {
            let store = LLVMBuildStore(self.raw(), value.0, at.0);
            LLVMSetAlignment(store, elem.bytes() as u32);
        }
    }

    /// An atomic read-modify-write on one element.
    pub(super) fn atomic_rmw(&self, op: RmwOp, at: V, value: V, order: LLVMAtomicOrdering) -> V {
        // SAFETY: `at` points to an element of the value's type.
        V(unsafe { LLVMBuildAtomicRMW(self.raw(), op, at.0, value.0, order, 0) })
    }

    /// A strong compare-and-exchange: the old value and whether it was replaced.
    pub(super) fn cmpxchg(&self, at: V, compare: V, new: V, order: LLVMAtomicOrdering) -> (V, V) {
        let failure = match order {
            LLVMAtomicOrdering::LLVMAtomicOrderingRelease => LLVMAtomicOrdering::LLVMAtomicOrderingMonotonic,
            LLVMAtomicOrdering::LLVMAtomicOrderingAcquireRelease => {
                LLVMAtomicOrdering::LLVMAtomicOrderingAcquire
            }
            other => other,
        };
        // SAFETY: `at` points to an integer of the operands' type; the result is a pair.
        unsafe {
            let pair = LLVMBuildAtomicCmpXchg(self.raw(), at.0, compare.0, new.0, order, failure, 0);
            let old = LLVMBuildExtractValue(self.raw(), pair, 0, NONE);
            (V(old), V(LLVMBuildExtractValue(self.raw(), pair, 1, NONE)))
        }
    }

    /// Calls an intrinsic that is overloaded on `types`.
    pub(super) fn intrinsic(&mut self, name: &str, types: &[Ty], args: &[V]) -> Result<V, CodegenError> {
        let function = self.declared(name, types)?;
        Ok(self.call(function, args))
    }

    /// The declaration of an intrinsic.
    pub(super) fn declared(&mut self, name: &str, types: &[Ty]) -> Result<V, CodegenError> {
        let key = (name.to_owned(), types.to_vec());
        if let Some(&known) = self.intrinsics.get(&key) {
            return Ok(known);
        }
        // SAFETY: each is a first-class type of this context.
        let basic: Vec<BasicTypeEnum<'c>> =
            types.iter().map(|ty| unsafe { BasicTypeEnum::new(ty.0) }).collect();
        let declared = V(intrinsic(&self.module, name, &basic)?.as_value_ref());
        self.intrinsics.insert(key, declared);
        Ok(declared)
    }

    /// The number of parameters of a declared function.
    pub(super) fn param_count(&self, function: V) -> u32 {
        // SAFETY: the value is a function.
        unsafe { LLVMCountParams(function.0) }
    }

    /// Calls a function of this module.
    pub(super) fn call(&self, function: V, args: &[V]) -> V {
        let mut raw: Vec<LLVMValueRef> = args.iter().map(|v| v.0).collect();
        // SAFETY: the value is a function; the verifier checks the arguments' types.
        unsafe {
            let ty = LLVMGlobalGetValueType(function.0);
            V(LLVMBuildCall2(self.raw(), ty, function.0, raw.as_mut_ptr(), raw.len() as u32, NONE))
        }
    }

    /// Calls through a pointer; the result has type `result`, `None` for no result.
    pub(super) fn call_pointer(&self, pointer: V, result: Option<Ty>, args: &[V]) -> V {
        let mut types: Vec<LLVMTypeRef> = args.iter().map(|&v| self.ty(v).0).collect();
        let mut raw: Vec<LLVMValueRef> = args.iter().map(|v| v.0).collect();
        // SAFETY: the types are of this context; the callee has this signature by the contract of the callback table.
        unsafe {
            let result = result.map_or_else(|| LLVMVoidTypeInContext(self.cx), |ty| ty.0);
            let ty = LLVMFunctionType(result, types.as_mut_ptr(), types.len() as u32, 0);
            V(LLVMBuildCall2(self.raw(), ty, pointer.0, raw.as_mut_ptr(), raw.len() as u32, NONE))
        }
    }

    /// Declares (once) a library function of `count` operands of one type with a result of that type.
    pub(super) fn math_function(&mut self, name: &str, ty: Ty, count: usize) -> V {
        let key = (name.to_owned(), vec![ty]);
        if let Some(&known) = self.intrinsics.get(&key) {
            return known;
        }
        let symbol = CString::new(name).expect("library names have no zero bytes");
        let mut types = vec![ty.0; count];
        // SAFETY: the module is live, the name ends with a zero.
        let function = V(unsafe {
            let ty = LLVMFunctionType(ty.0, types.as_mut_ptr(), count as u32, 0);
            LLVMAddFunction(self.module.as_mut_ptr(), symbol.as_ptr(), ty)
        });
        self.intrinsics.insert(key, function);
        function
    }

    // Control flow.

    /// A new block of the function, not entered yet.
    pub(super) fn block(&self) -> Bb {
        let function = self.function.expect("a function was begun");
        // SAFETY: function and context are live.
        Bb(unsafe { LLVMAppendBasicBlockInContext(self.cx, function, NONE) })
    }

    /// Continues at the end of a block.
    pub(super) fn enter(&self, block: Bb) {
        // SAFETY: the block is of the function.
        unsafe { LLVMPositionBuilderAtEnd(self.raw(), block.0) }
    }

    /// The block that is being filled.
    pub(super) fn here(&self) -> Bb {
        // SAFETY: the builder stands in a block.
        Bb(unsafe { LLVMGetInsertBlock(self.raw()) })
    }

    /// Jumps.
    pub(super) fn jump(&self, to: Bb) {
        // SAFETY: the block is of the function.
        unsafe { LLVMBuildBr(self.raw(), to.0) };
    }

    /// Branches.
    pub(super) fn branch(&self, cond: V, yes: Bb, no: Bb) {
        // SAFETY: the condition is an `i1`, the blocks are of the function.
        unsafe { LLVMBuildCondBr(self.raw(), cond.0, yes.0, no.0) };
    }

    /// Returns a value.
    pub(super) fn ret(&self, value: V) {
        // SAFETY: the builder stands in an open block.
        unsafe { LLVMBuildRet(self.raw(), value.0) };
    }

    /// A phi without incoming values.
    pub(super) fn phi(&self, ty: Ty) -> V {
        // SAFETY: the builder stands at a block's start, which the caller sees to.
        V(unsafe { LLVMBuildPhi(self.raw(), ty.0, NONE) })
    }

    /// Adds an incoming value to a phi.
    pub(super) fn incoming(&self, phi: V, value: V, from: Bb) {
        let (mut values, mut blocks) = ([value.0], [from.0]);
        // SAFETY: `phi` is a phi of the value's type.
        unsafe { LLVMAddIncoming(phi.0, values.as_mut_ptr(), blocks.as_mut_ptr(), 1) }
    }
}
