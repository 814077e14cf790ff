//! What a crate's own tests of its kernels' PTX look like.

use leankv_dsl::lang::TypedKernel;
use leankv_runtime::{assert_ptx_budget, assert_ptx_snapshot};
use own_kernels::{RowNormSpec, row_norm};

fn kernel() -> leankv_dsl::ir::Func {
    let spec = RowNormSpec { block: 256, rows_per_program: 4 };
    row_norm::KERNEL.build_spec(&spec).unwrap_or_else(|found| panic!("{found}"))
}

#[test]
fn its_ptx_is_the_reviewed_one() {
    assert_ptx_snapshot!("row_norm", kernel(), sm_90);
}

#[test]
fn it_stays_within_its_budget() {
    assert_ptx_budget!(kernel(), sm_80, regs <= 40, spills == 0, wide_loads >= 1, loop_barriers == 0);
    assert_ptx_budget!(kernel(), sm_120, regs <= 40, spills == 0, local == 0);
}
