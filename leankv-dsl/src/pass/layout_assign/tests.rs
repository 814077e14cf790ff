use super::*;
use crate::ir::{Access, BinaryOp, Builder, Const, Loc, Param, UnaryOp};

/// Offsets `row * stride + column` over a tile.
fn grid(b: &mut Builder, rows: u32, columns: u32, stride: i128) -> Value {
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

/// A target for kernels without dots.
struct NoDots;

impl Target for NoDots {
    type Dot = ();

    fn dot(&self, _: &DotSite<'_>) -> DotPlan<()> {
        unreachable!("the kernel has no dot")
    }
}

/// A kernel over two buffers, `x` and `y`, and offsets of 64 rows of 128.
fn two_buffers() -> (Builder, [Value; 3]) {
    let mut b = Builder::new("k", vec![pointer("x", Dtype::F32), pointer("y", Dtype::F32)], Loc::unknown());
    let (x, y) = (b.func().param_values()[0], b.func().param_values()[1]);
    let offsets = grid(&mut b, 64, 128, 128);
    (b, [x, y, offsets])
}

#[test]
fn an_elementwise_kernel_needs_no_conversion() {
    let at = Loc::unknown();
    let (mut b, [x, y, offsets]) = two_buffers();
    let v = load(&mut b, x, offsets);
    let v = b.value(Op::Unary(UnaryOp::Exp2), &[v], None, at).unwrap();
    store(&mut b, y, offsets, v);
    let mut func = b.build(at).unwrap();
    let (out, _) = assign(&mut func, &NoDots);
    assert!(func.walk().iter().all(|&i| !matches!(func.inst(i).op, Op::ConvertLayout)));
    assert_eq!(out.conversions(&func), (0, 0));
}

#[test]
fn a_description_has_the_layout_of_each_number_that_it_prints() {
    let at = Loc::unknown();
    let (mut b, [x, y, offsets]) = two_buffers();
    // Nobody uses it: its number is free after the pass.
    load(&mut b, y, offsets);
    let v = load(&mut b, x, offsets);
    store(&mut b, y, offsets, v);
    let mut func = b.build(at).unwrap();
    let (out, _) = assign(&mut func, &NoDots);
    let text = describe(&func, &out);
    let (body, layouts) = text.split_once("// layouts").unwrap();
    let loaded = body.lines().find_map(|line| line.trim().strip_suffix(" : tile<64x128xf32>")).unwrap();
    let number = loaded.split_once(" = load").unwrap().0;
    assert!(layouts.lines().any(|line| line.starts_with(&format!("// {number} : [64x128"))), "{text}");
    let printed = body.lines().filter(|line| line.contains(" : tile<")).count();
    assert_eq!(layouts.lines().filter(|line| line.starts_with("// %")).count(), printed, "{text}");
}
