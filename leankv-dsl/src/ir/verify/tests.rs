//! What IR text cannot say. The rest stands in the file tests and in the pages of the codes.

use super::*;
use crate::ir::{Access, Builder, Const, Loc, Param, parse};

fn codes(func: &Func) -> Vec<&'static str> {
    verify(func).map_or_else(|errors| errors.iter().map(|e| e.code).collect(), |()| Vec::new())
}

fn loc() -> Loc {
    Loc::new("k.rs", 3, 5)
}

#[test]
fn a_region_in_two_ops_is_reported_and_not_entered_again() {
    let mut func = parse(
        "t",
        "kernel @k(%c c: i1) { if %c { yield } else { yield } if %c { yield } else { yield } return }",
    )
    .unwrap();
    let insts = func.block(func.entry()).insts.clone();
    let region = func.inst(insts[0]).regions[0];
    func.inst_mut(insts[1]).regions[1] = region;
    assert_eq!(codes(&func), [STRUCTURE]);
}

#[test]
fn an_op_in_two_places_is_reported() {
    let mut func = parse("t", "kernel @k() { %a = constant 1 : i32 return }").unwrap();
    let entry = func.entry();
    let first = func.block(entry).insts[0];
    func.block_insts_mut(entry).insert(0, first);
    assert_eq!(codes(&func), ["K0213"]);
}

#[test]
fn a_value_whose_op_was_removed_is_reported_in_the_compacted_function_too() {
    let mut func =
        parse("t", "kernel @k(%p p: ptr<i32> write) { %a = constant 1 : i32 store %p[%a], %a return }")
            .unwrap();
    let entry = func.entry();
    func.block_insts_mut(entry).remove(0);
    assert_eq!(codes(&func), [NOT_VISIBLE; 2]);
    assert_eq!(codes(&func.compact()), [NOT_VISIBLE; 2]);
}

#[test]
fn nesting_is_bounded() {
    let mut builder = Builder::new("k", vec![Param::new("c", Type::scalar(Dtype::I1), Access::Read)], loc());
    let condition = builder.func().param_values()[0];
    let mut open = Vec::new();
    for _ in 0..MAX_DEPTH + 5 {
        let inst = builder.begin(Op::If, &[condition], loc()).unwrap();
        builder.open_region(inst, &[]);
        open.push(inst);
    }
    for inst in open.into_iter().rev() {
        builder.close_region(inst, &[], loc()).unwrap();
        builder.open_region(inst, &[]);
        builder.close_region(inst, &[], loc()).unwrap();
    }
    let func = builder.build(loc()).unwrap();
    assert_eq!(codes(&func), [STRUCTURE; 2], "one for each branch that is too deep");
}

#[test]
fn a_code_of_nine_bits_is_reported() {
    let mut builder = Builder::new("k", vec![], loc());
    builder.constant(Const::Int(0), &Type::tile(Dtype::Code(9), &[4]), loc()).unwrap();
    assert_eq!(codes(&builder.build(loc()).unwrap()), [infer::UNSUPPORTED_ELEMENT]);
}

#[test]
fn body_and_signature_must_agree() {
    let mut func = parse("t", "kernel @k(%c c: i1) { return }").unwrap();
    func.params[0].ty = Type::scalar(Dtype::I32);
    assert_eq!(codes(&func), [PARAMETER]);
}

#[test]
fn access_is_followed_through_pointer_arithmetic_loops_and_branches() {
    let text = "kernel @k(%r r: ptr<f32> read, %w w: ptr<f32> write, %c c: i1, %n n: i64) {
        %v = constant 1.0 : f32
        %zero = constant 0 : i64
        %q = for %zero to %n step %n carry %r : ptr<f32> { |%i: i64, %p: ptr<f32>|
          %moved = ptr_add %p, %i : ptr<f32>
          yield %moved
        }
        %either = if %c : ptr<f32> { yield %q } else { yield %w }
        store %either[%zero], %v
        return
      }";
    let errors = verify(&parse("t", text).unwrap()).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors}");
    let error = errors.iter().next().unwrap();
    assert_eq!((error.code, error.loc().line()), (WRITES_READ_ONLY, 9));
    assert_eq!(error.message, "`store` writes through `r`, which the kernel only reads");
}

#[test]
fn everything_is_collected_in_the_order_of_the_text() {
    let text = "kernel @k(%n n: i32, %x x: f32) num_warps 3 {
        %a = add %n, %x : f32
        %b = exp2 %n : i32
        yield
      }";
    let errors = verify(&parse("t", text).unwrap()).unwrap_err();
    let found: Vec<_> = errors.iter().map(|e| (e.code, e.loc().line())).collect();
    assert_eq!(found, [(NUM_WARPS, 1), ("K0101", 2), ("K0103", 3), (TERMINATOR, 4)]);
}

#[test]
fn the_builders_refusals_have_codes() {
    let mut builder = Builder::new("k", vec![Param::new("c", Type::scalar(Dtype::I1), Access::Read)], loc());
    let condition = builder.func().param_values()[0];
    let outer = builder.begin(Op::If, &[condition], loc()).unwrap();
    builder.open_region(outer, &[]);
    let inside = builder.i32(1, loc());
    let inner = builder.begin(Op::If, &[condition], loc()).unwrap();
    builder.open_region(inner, &[]);
    let nesting = builder.close_region(outer, &[], loc()).unwrap_err();
    assert_eq!(Diagnostic::building(&nesting, loc()).code, "K0108");
    builder.close_region(inner, &[], loc()).unwrap();
    builder.close_region(outer, &[], loc()).unwrap();
    let outside = builder.value(Op::Cast, &[inside], Some(&Type::scalar(Dtype::I64)), loc()).unwrap_err();
    assert_eq!(Diagnostic::building(&outside, loc()).code, "K0109");
    let sum = builder.value(Op::Fma, &[condition; 3], None, loc()).unwrap_err();
    assert_eq!(Diagnostic::building(&sum, loc()).code, "K0103");
}
