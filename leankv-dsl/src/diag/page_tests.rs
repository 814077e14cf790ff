//! The kernels on the pages of typing rules: they are compiled here, and the pages show their lines.

use super::explain;
use crate::diag::Diagnostics;
use crate::ir::Func;
use crate::lang::*;

#[kernel]
fn extents_wrong(x: View<f32, 1>, out: ViewMut<f32, 1>) {
    let long = x.tile(0, [64]).load();
    let short = x.tile(0, [32]).load();
    out.tile(0, [64]).store(long + short);
}

#[kernel]
fn extents_right(x: View<f32, 1>, out: ViewMut<f32, 1>) {
    let rows = x.tile(0, [64]).load().expand_dims(1).broadcast([64, 32]);
    let cols = x.tile(0, [32]).load().expand_dims(0).broadcast([64, 32]);
    out.tile(0, [64]).store((rows + cols).reduce_sum(1));
}

#[kernel]
fn elements_wrong(x: View<u8, 1>, out: ViewMut<u32, 1>) {
    let codes = x.tile(0, [32]).load().cast_code(3);
    out.tile(0, [3]).store(codes.pack::<u32>());
}

#[kernel]
fn elements_right(x: View<u8, 1>, out: ViewMut<u32, 1>) {
    let codes = x.tile(0, [32]).load().cast_code(4);
    out.tile(0, [4]).store(codes.pack::<u32>());
}

#[kernel]
fn axis_wrong(x: View<f32, 2>, out: ViewMut<f32, 1>) {
    let sums = x.tile((0, 0), [16, 64]).load().reduce_sum(2);
    out.tile(0, [16]).store(sums);
}

#[kernel]
fn axis_right(x: View<f32, 2>, out: ViewMut<f32, 1>) {
    let sums = x.tile((0, 0), [16, 64]).load().reduce_sum(1);
    out.tile(0, [16]).store(sums);
}

/// A kernel's lines between its braces.
fn body(name: &str) -> Vec<&'static str> {
    let source = include_str!("page_tests.rs");
    let start = source.find(&format!("fn {name}(")).expect("the kernel stands above");
    source[start..].lines().skip(1).take_while(|line| *line != "}").map(str::trim).collect()
}

#[track_caller]
fn check(code: &str, name: &str, wrong: Result<Func, Diagnostics>, right: Result<Func, Diagnostics>) {
    let found = wrong.expect_err("the wrong kernel is refused");
    assert!(found.iter().all(|d| d.code == code), "{found}");
    right.unwrap_or_else(|found| panic!("the right kernel is refused:\n{found}"));
    let page = explain(code).expect("it has a page");
    for line in [body(&format!("{name}_wrong")), body(&format!("{name}_right"))].concat() {
        assert!(page.contains(line), "the page of {code} does not show `{line}`");
    }
}

#[test]
fn pages_show_kernels_that_give_their_code() {
    let (wrong, right) =
        (extents_wrong::build(&ExtentsWrongSpec {}), extents_right::build(&ExtentsRightSpec {}));
    check("K0102", "extents", wrong, right);
    let (wrong, right) =
        (elements_wrong::build(&ElementsWrongSpec {}), elements_right::build(&ElementsRightSpec {}));
    check("K0103", "elements", wrong, right);
    check("K0104", "axis", axis_wrong::build(&AxisWrongSpec {}), axis_right::build(&AxisRightSpec {}));
}
