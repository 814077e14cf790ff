//! A case: a kernel, its arguments, and what its outputs must be. And the builder that cases are made with.

use leankv_dsl::interp::ScalarValue;
use leankv_dsl::ir::{Access, Builder, CacheHint, Const, Dtype, Func, Inst, Loc, Op, Param, Type, Value};

use super::number::{Num, size, write_all};

/// How an output is compared.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Check {
    /// Equal bits; any NaN equals any other.
    Bits,
    /// Equal values: as bits, but -0 equals +0.
    Value,
    /// Floats within `rel` of the larger magnitude plus `abs` plus one rounding of a 16-bit type.
    Close {
        /// Relative bound.
        rel: f64,
        /// Absolute bound.
        abs: f64,
    },
}

/// What must stand in a buffer afterwards.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it is compared, with the interpreter's and with the expected one.
    pub check: Check,
    /// What is expected, found independently of the interpreter.
    pub expect: Option<Vec<u8>>,
}

/// A buffer argument.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The parameter's name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Content before the launch.
    pub bytes: Vec<u8>,
    /// What to check after it; inputs must be unchanged.
    pub output: Option<Output>,
}

/// An argument.
#[derive(Clone, Debug)]
pub enum CaseArg {
    /// Memory.
    Buffer(Slot),
    /// A number.
    Scalar(ScalarValue),
}

/// A kernel with arguments.
#[derive(Clone, Debug)]
pub struct Case {
    /// `op.dtype..`: unique in its group.
    pub name: String,
    /// The kernel.
    pub func: Func,
    /// The grid.
    pub grid: [u32; 3],
    /// Its arguments.
    pub args: Vec<CaseArg>,
    /// Whether the launch must fail instead of giving outputs.
    pub fails: bool,
    /// Whether integer division by zero and steps of 0 or below are errors; where not, they do what generated code does.
    pub checked: bool,
}

impl Case {
    /// A launch of one program of a kernel that is there already; its arguments are added in order.
    pub fn of(name: impl Into<String>, func: Func) -> Case {
        Case { name: name.into(), func, grid: [1, 1, 1], args: Vec::new(), fails: false, checked: true }
    }

    /// Adds a number.
    pub fn scalar(&mut self, value: impl Into<ScalarValue>) {
        self.args.push(CaseArg::Scalar(value.into()));
    }

    /// Adds an input buffer.
    pub fn input(&mut self, name: &str, dtype: Dtype, values: &[Num]) {
        let bytes = write_all(dtype, values.iter().copied());
        self.args.push(CaseArg::Buffer(Slot { name: name.into(), dtype, bytes, output: None }));
    }

    /// Adds an output buffer with what is expected in it.
    pub fn expected(&mut self, name: &str, dtype: Dtype, expect: &[Num], check: Check) {
        let bytes = pattern(dtype, expect.len());
        let output = Some(Output { check, expect: Some(write_all(dtype, expect.iter().copied())) });
        self.args.push(CaseArg::Buffer(Slot { name: name.into(), dtype, bytes, output }));
    }

    /// The buffers, in order.
    pub fn buffers(&self) -> impl Iterator<Item = &Slot> {
        self.args.iter().filter_map(|arg| match arg {
            CaseArg::Buffer(slot) => Some(slot),
            CaseArg::Scalar(_) => None,
        })
    }
}

/// Builds a case. Ops that break a typing rule are mistakes of the suite and panic with the rule's message.
pub struct K {
    b: Builder,
    args: Vec<CaseArg>,
    name: String,
    grid: [u32; 3],
    fails: bool,
    checked: bool,
}

impl K {
    /// A case of this name.
    #[track_caller]
    pub fn new(name: impl Into<String>) -> K {
        let name = name.into();
        let ident: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let b = Builder::new(format!("k_{ident}"), Vec::new(), Loc::caller());
        K { b, args: Vec::new(), name, grid: [1, 1, 1], fails: false, checked: true }
    }

    /// Runs over this grid instead of one program.
    pub fn grid(&mut self, grid: [u32; 3]) -> &mut K {
        self.grid = grid;
        self
    }

    /// Runs a program with so many warps.
    pub fn warps(&mut self, warps: u32) -> &mut K {
        self.b.func_mut().num_warps = warps;
        self
    }

    /// The launch must fail.
    pub fn fails(&mut self) -> &mut K {
        self.fails = true;
        self
    }

    /// Division by zero and steps of 0 or below do what generated code does instead of failing.
    pub fn unchecked(&mut self) -> &mut K {
        self.checked = false;
        self
    }

    /// A scalar argument.
    #[track_caller]
    pub fn scalar(&mut self, name: &str, value: impl Into<ScalarValue>) -> Value {
        let value = value.into();
        self.args.push(CaseArg::Scalar(value));
        self.param(Param::new(name, Type::scalar(value.dtype()), Access::Read))
    }

    /// An input buffer.
    pub fn input(&mut self, name: &str, dtype: Dtype, values: &[Num]) -> Value {
        let bytes = write_all(dtype, values.iter().copied());
        self.buffer(name, dtype, bytes, Access::Read, 1, None)
    }

    /// As [`K::input`], with a promise that the address is a multiple of 16.
    pub fn aligned_input(&mut self, name: &str, dtype: Dtype, values: &[Num]) -> Value {
        let bytes = write_all(dtype, values.iter().copied());
        self.buffer(name, dtype, bytes, Access::Read, 16, None)
    }

    /// An output buffer of `n` elements, filled with a pattern before.
    pub fn output(&mut self, name: &str, dtype: Dtype, n: usize, check: Check) -> Value {
        let bytes = pattern(dtype, n);
        self.buffer(name, dtype, bytes, Access::Write, 1, Some(Output { check, expect: None }))
    }

    /// An output buffer with what is expected in it.
    pub fn expected(&mut self, name: &str, dtype: Dtype, expect: &[Num], check: Check) -> Value {
        let bytes = pattern(dtype, expect.len());
        let expect = Some(write_all(dtype, expect.iter().copied()));
        self.buffer(name, dtype, bytes, Access::Write, 1, Some(Output { check, expect }))
    }

    /// A buffer of any kind.
    pub fn buffer(
        &mut self,
        name: &str,
        dtype: Dtype,
        bytes: Vec<u8>,
        access: Access,
        multiple_of: u64,
        output: Option<Output>,
    ) -> Value {
        self.args.push(CaseArg::Buffer(Slot { name: name.into(), dtype, bytes, output }));
        self.param(Param { multiple_of, ..Param::new(name, Type::ptr(dtype), access) })
    }

    fn param(&mut self, param: Param) -> Value {
        let func = self.b.func_mut();
        let ty = param.ty.clone();
        func.params.push(param);
        let entry = func.entry();
        func.add_block_param(entry, ty)
    }

    /// An op with one result that its operands imply.
    #[track_caller]
    pub fn op(&mut self, op: Op, operands: &[Value]) -> Value {
        self.ops(op, operands, None)[0]
    }

    /// An op with one result of a type that has to be said.
    #[track_caller]
    pub fn typed(&mut self, op: Op, operands: &[Value], ty: &Type) -> Value {
        self.ops(op, operands, Some(ty))[0]
    }

    /// An op with any number of results.
    #[track_caller]
    pub fn ops(&mut self, op: Op, operands: &[Value], ty: Option<&Type>) -> Vec<Value> {
        let name = op.name();
        match self.b.op(op, operands, ty, Loc::caller()) {
            Ok(results) => results.to_vec(),
            Err(error) => panic!("the suite built a wrong `{name}` in {}: {error}", self.name),
        }
    }

    /// A constant scalar or tile.
    #[track_caller]
    pub fn constant(&mut self, value: Const, ty: &Type) -> Value {
        self.b.constant(value, ty, Loc::caller()).expect("the suite's constants have tile types")
    }

    /// An `i32` scalar.
    #[track_caller]
    pub fn i32(&mut self, value: i32) -> Value {
        self.b.i32(value, Loc::caller())
    }

    /// The number of parameters so far.
    pub fn func_params(&self) -> usize {
        self.args.len()
    }

    /// The type of a value.
    pub fn ty(&self, value: Value) -> Type {
        self.b.ty(value).clone()
    }

    /// Row-major offsets of a whole tile, as `i32`.
    #[track_caller]
    pub fn offsets(&mut self, extents: &[u32]) -> Value {
        let n = extents.iter().product();
        if extents.is_empty() {
            return self.i32(0);
        }
        let flat = self.typed(Op::Iota, &[], &Type::tile(Dtype::I32, &[n]));
        self.typed(Op::Reshape, &[flat], &Type::tile(Dtype::I32, extents))
    }

    /// `ptr` moved by elements.
    #[track_caller]
    pub fn at(&mut self, ptr: Value, elements: usize) -> Value {
        if elements == 0 {
            return ptr;
        }
        let by = self.b.i64(elements as i64, Loc::caller());
        self.op(Op::PtrAdd, &[ptr, by])
    }

    /// Loads a whole tile that lies row-major.
    #[track_caller]
    pub fn load(&mut self, ptr: Value, extents: &[u32]) -> Value {
        let offsets = self.offsets(extents);
        self.op(LOAD, &[ptr, offsets])
    }

    /// Stores a whole tile row-major.
    #[track_caller]
    pub fn store(&mut self, ptr: Value, value: Value) {
        let ty = self.ty(value);
        let extents = ty.shape().expect("a tile is stored").extents().to_vec();
        let offsets = self.offsets(&extents);
        self.ops(STORE, &[ptr, offsets, value], None);
    }

    /// Converts to another element type.
    #[track_caller]
    pub fn cast(&mut self, value: Value, dtype: Dtype) -> Value {
        let ty = self.ty(value).with_dtype(dtype);
        self.typed(Op::Cast, &[value], &ty)
    }

    /// Loads a tile of any element type: codes come from bytes, truth values from `i1` memory.
    #[track_caller]
    pub fn load_as(&mut self, ptr: Value, dtype: Dtype, extents: &[u32]) -> Value {
        let tile = self.load(ptr, extents);
        if dtype.is_code() { self.cast(tile, dtype) } else { tile }
    }

    /// Stores a tile of any element type; codes become bytes.
    #[track_caller]
    pub fn store_as(&mut self, ptr: Value, value: Value) {
        let value = if self.ty(value).dtype().is_code() { self.cast(value, Dtype::U8) } else { value };
        self.store(ptr, value);
    }

    /// Starts an op with regions.
    #[track_caller]
    pub fn begin(&mut self, op: Op, operands: &[Value]) -> Inst {
        self.b.begin(op, operands, Loc::caller()).expect("the suite's control flow is well typed")
    }

    /// Opens the next region.
    pub fn open(&mut self, inst: Inst, params: &[Type]) -> Vec<Value> {
        self.b.open_region(inst, params)
    }

    /// Closes the region.
    #[track_caller]
    pub fn close(&mut self, inst: Inst, yields: &[Value]) {
        self.b.close_region(inst, yields, Loc::caller()).expect("the suite closes regions in order");
    }

    /// Gives an op with regions its results.
    pub fn finish(&mut self, inst: Inst, types: &[Type]) -> Vec<Value> {
        self.b.finish(inst, types).to_vec()
    }

    /// `for i in lower..upper step step` over carried values.
    #[track_caller]
    pub fn for_loop(
        &mut self,
        [lower, upper, step]: [Value; 3],
        inits: &[Value],
        stages: u8,
        body: impl FnOnce(&mut K, Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let operands: Vec<Value> = [lower, upper, step].iter().chain(inits).copied().collect();
        let inst = self.begin(Op::For { stages }, &operands);
        let types: Vec<Type> = inits.iter().map(|&v| self.ty(v)).collect();
        let params: Vec<Type> = std::iter::once(self.ty(lower)).chain(types.iter().cloned()).collect();
        let params = self.open(inst, &params);
        let yields = body(self, params[0], &params[1..]);
        self.close(inst, &yields);
        self.finish(inst, &types)
    }

    /// `if cond` with results.
    #[track_caller]
    pub fn if_else(
        &mut self,
        cond: Value,
        then: impl FnOnce(&mut K) -> Vec<Value>,
        otherwise: impl FnOnce(&mut K) -> Vec<Value>,
    ) -> Vec<Value> {
        let inst = self.begin(Op::If, &[cond]);
        self.open(inst, &[]);
        let yields = then(self);
        let types: Vec<Type> = yields.iter().map(|&v| self.ty(v)).collect();
        self.close(inst, &yields);
        self.open(inst, &[]);
        let yields = otherwise(self);
        self.close(inst, &yields);
        self.finish(inst, &types)
    }

    /// `while` over carried values.
    #[track_caller]
    pub fn while_loop(
        &mut self,
        inits: &[Value],
        cond: impl FnOnce(&mut K, &[Value]) -> Value,
        body: impl FnOnce(&mut K, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let inst = self.begin(Op::While, inits);
        let types: Vec<Type> = inits.iter().map(|&v| self.ty(v)).collect();
        let params = self.open(inst, &types);
        let go_on = cond(self, &params);
        let yields: Vec<Value> = std::iter::once(go_on).chain(params).collect();
        self.close(inst, &yields);
        let params = self.open(inst, &types);
        let yields = body(self, &params);
        self.close(inst, &yields);
        self.finish(inst, &types)
    }

    /// An op with one region of scalars: `reduce`, `scan` by region, `inline_ptx`.
    #[track_caller]
    pub fn with_region(
        &mut self,
        op: Op,
        operands: &[Value],
        params: &[Type],
        results: &[Type],
        body: impl FnOnce(&mut K, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let inst = self.begin(op, operands);
        let params = self.open(inst, params);
        let yields = body(self, &params);
        self.close(inst, &yields);
        self.finish(inst, results)
    }

    /// Ends the kernel.
    #[track_caller]
    pub fn done(self) -> Case {
        let func = self.b.build(Loc::caller()).expect("the suite closes its regions");
        Case {
            name: self.name,
            func,
            grid: self.grid,
            args: self.args,
            fails: self.fails,
            checked: self.checked,
        }
    }
}

/// A load without mask.
pub const LOAD: Op = Op::Load { masked: false, other: false, cache: CacheHint::Default };
/// A store without mask.
pub const STORE: Op = Op::Store { masked: false, cache: CacheHint::Default };
/// A masked load, zero where masked off.
pub const LOAD_MASKED: Op = Op::Load { masked: true, other: false, cache: CacheHint::Default };
/// A masked load with a value for masked-off elements.
pub const LOAD_OTHER: Op = Op::Load { masked: true, other: true, cache: CacheHint::Default };
/// A masked store.
pub const STORE_MASKED: Op = Op::Store { masked: true, cache: CacheHint::Default };

/// What outputs hold before: no element is 0, so that a missing store shows.
fn pattern(dtype: Dtype, n: usize) -> Vec<u8> {
    match dtype {
        Dtype::I1 => vec![1; n],
        _ => (0..n * size(dtype)).map(|i| 0x35 ^ (i as u8 & 7)).collect(),
    }
}
