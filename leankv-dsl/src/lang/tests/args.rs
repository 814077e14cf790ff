//! Structs of parameters, and of what a launch gives for them.

use crate::lang::*;
use crate::workload::{Workload, given};

/// Parameters of any element type.
#[derive(Clone, Copy, KernelArg)]
struct Ends<E: Plain> {
    values: View<E, 1>,
    last: Scalar<E>,
}

#[kernel]
fn of_an_element(ends: Ends<i32>, out: PtrMut<i32>) {
    out.set(0, ends.values.get([lit(0)]) + ends.last);
}

#[test]
fn parameter_structs_are_generic_over_element_types() {
    let func = of_an_element::build(&OfAnElementSpec {}).unwrap();
    let names: Vec<&str> = func.params.iter().map(|param| &*param.name).collect();
    assert_eq!(names, ["ends.values", "ends.values.shape0", "ends.last", "out"]);
    let ends = EndsArgs { values: given(&[40i32]).tensor([1]), last: 2 };
    let args = OfAnElementArgs { ends, out: given(&[0i32]).slice_mut() };
    assert!(Workload::of::<of_an_element>([1, 1, 1], args).arguments(&func).is_ok());
}
