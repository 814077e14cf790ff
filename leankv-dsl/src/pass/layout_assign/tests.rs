use super::*;
use crate::ir::{Access, BinaryOp, Builder, Const, Loc, Param, UnaryOp};

/// Offsets `row * stride + column` over a tile.
pub(crate) fn grid(b: &mut Builder, rows: u32, columns: u32, stride: i128) -> Value {
    let at = Loc::unknown();
    let (r, c) = (Type::tile(Dtype::I32, &[rows]), Type::tile(Dtype::I32, &[columns]));
    let full = Type::tile(Dtype::I32, &[rows, columns]);
    let row = b.value(Op::Iota, &[], Some(&r), at).unwrap();
    let stride = b.constant(Const::Int(stride), &r, at).unwrap();
    let row = b.value(Op::Binary(BinaryOp::Mul), &[row, stride], None, at).unwrap();
    let row = b.value(Op::ExpandDims { axis: 1 }, &[row], None, at).unwrap();
    let row = b.value(Op::Broadcast, &[row], Some(&full), at).unwrap();
    let column = b.value(Op::Iota, &[], Some(&c), at).unwrap();
    let column = b.value(Op::ExpandDims { axis: 0 }, &[column], None, at).unwrap();
    let column = b.value(Op::Broadcast, &[column], Some(&full), at).unwrap();
    b.value(Op::Binary(BinaryOp::Add), &[row, column], None, at).unwrap()
}

fn pointer(name: &str, dtype: Dtype) -> Param {
    Param { multiple_of: 16, ..Param::new(name, Type::ptr(dtype), Access::ReadWrite) }
}

fn load(b: &mut Builder, ptr: Value, offsets: Value) -> Value {
    let op = Op::Load { masked: false, other: false, cache: crate::ir::CacheHint::Default };
    b.value(op, &[ptr, offsets], None, Loc::unknown()).unwrap()
}

fn store(b: &mut Builder, ptr: Value, offsets: Value, value: Value) {
    let op = Op::Store { masked: false, cache: crate::ir::CacheHint::Default };
    b.op(op, &[ptr, offsets, value], None, Loc::unknown()).unwrap();
}

#[test]
fn an_elementwise_kernel_needs_no_conversion() {
    let at = Loc::unknown();
    let mut b = Builder::new("k", vec![pointer("x", Dtype::F32), pointer("y", Dtype::F32)], at);
    let (x, y) = (b.func().param_values()[0], b.func().param_values()[1]);
    let offsets = grid(&mut b, 64, 128, 128);
    let v = load(&mut b, x, offsets);
    let v = b.value(Op::Unary(UnaryOp::Exp2), &[v], None, at).unwrap();
    store(&mut b, y, offsets, v);
    let mut func = b.build(at).unwrap();
    let out = assign(&mut func);
    assert!(func.walk().iter().all(|&i| !matches!(func.inst(i).op, Op::ConvertLayout)));
    assert_eq!(out.conversions(&func), (0, 0));
}

/// `(a b) c` with 16 rows, 64 columns and 64 columns again: attention without its softmax.
#[test]
fn quantised_operands_are_loaded_into_fragments_without_shared_memory() {
    let at = Loc::unknown();
    let params = vec![
        pointer("q", Dtype::F16),
        pointer("k", Dtype::U8),
        pointer("v", Dtype::U8),
        pointer("o", Dtype::F32),
    ];
    let mut b = Builder::new("k", params, at);
    b.func_mut().num_warps = 1;
    let [q, k, v, o] = b.func().param_values()[..] else { unreachable!() };
    let at_q = grid(&mut b, 16, 128, 128);
    let q = load(&mut b, q, at_q);
    // Keys lie token by token, 8 bits a code.
    let at_k = grid(&mut b, 64, 128, 128);
    let keys = load(&mut b, k, at_k);
    let keys = b.value(Op::Cast, &[keys], Some(&Type::tile(Dtype::F16, &[64, 128])), at).unwrap();
    let keys = b.value(Op::Transpose { perm: [1, 0].into_iter().collect() }, &[keys], None, at).unwrap();
    let zero = b.constant(Const::float(0.0), &Type::tile(Dtype::F32, &[16, 64]), at).unwrap();
    let s = b.value(Op::Dot, &[q, keys, zero], None, at).unwrap();
    let p = b.value(Op::Cast, &[s], Some(&Type::tile(Dtype::F16, &[16, 64])), at).unwrap();
    // Values, 4 bits a code.
    let at_v = grid(&mut b, 64, 64, 64);
    let words = load(&mut b, v, at_v);
    let codes = b.value(Op::Unpack, &[words], Some(&Type::tile(Dtype::Code(4), &[64, 128])), at).unwrap();
    let values = b.value(Op::Cast, &[codes], Some(&Type::tile(Dtype::F16, &[64, 128])), at).unwrap();
    let zero = b.constant(Const::float(0.0), &Type::tile(Dtype::F32, &[16, 128]), at).unwrap();
    let out = b.value(Op::Dot, &[p, values, zero], None, at).unwrap();
    let at_o = grid(&mut b, 16, 128, 128);
    store(&mut b, o, at_o, out);
    let mut func = b.build(at).unwrap();
    let axis_of = |func: &Func, inst: Inst| {
        AxisAnalysis::run(func).access(func, func.inst(inst).operands[0], func.inst(inst).operands[1], None)
    };
    let assignment = assign(&mut func);
    assert_eq!(assignment.conversions(&func), (0, 0), "{}", describe(&func, &assignment));
    let widths: Vec<u32> = func
        .walk()
        .into_iter()
        .filter(|&i| matches!(func.inst(i).op, Op::Load { .. }))
        .map(|i| {
            let result = func.result(i);
            let bits = memory::vector_bits(assignment.layout(result), &axis_of(&func, i));
            func.ty(result).dtype().bits() << bits
        })
        .collect();
    // Queries in fragment order, keys and values in whole words.
    assert_eq!(widths, [128, 128, 64]);
}
