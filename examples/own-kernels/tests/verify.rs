//! A crate's own kernel on every executor, without a GPU: what `leankv verify` does for the shipped kernels.

use leankv_dsl::lang::TypedKernel;
use leankv_dsl::workload::{Check, Generator, Workload, given};
use leankv_runtime::Sm;
use leankv_runtime::verify::{Options, profile, verify};
use own_kernels::{RowNormArgs, RowNormSpec, row_norm};

/// Rows of which the last program has fewer, with what plain Rust says of them. They do not fill the block, but start at multiples
/// of 32 bytes: the kernel asks for 16.
fn workload(spec: &RowNormSpec, seed: u64) -> Workload {
    let (rows, cols) = (10, spec.block - 8);
    let x = Generator::new(seed).f32s(rows * cols, -1.0, 1.0);
    let lengths: Vec<f32> = x.chunks(cols).map(|row| row.iter().map(|x| x * x).sum::<f32>().sqrt()).collect();
    let out = given(&vec![f32::NAN; rows])
        .output(Check::close(1e-6, 1e-6))
        .expect(&lengths, Check::close(1e-5, 1e-6));
    let args = RowNormArgs { x: given(&x).tensor([rows, cols]), out: out.tensor_mut([rows]) };
    Workload::of::<row_norm>([rows.div_ceil(spec.rows_per_program), 1, 1], args)
}

#[test]
fn it_does_the_same_on_every_executor() {
    for block in [64, 256] {
        let spec = RowNormSpec { block, rows_per_program: 4 };
        let func = row_norm::KERNEL.build_spec(&spec).unwrap_or_else(|found| panic!("{found}"));
        let options = Options { targets: vec![Sm::Sm80, Sm::Sm90], perturb: true, ..Options::default() };
        let report = verify(&func, &workload(&spec, 1), &options).unwrap();
        assert!(report.passed(), "{report}");
    }
}

#[test]
fn it_reads_each_sector_once_and_has_no_bank_conflicts() {
    let spec = RowNormSpec { block: 256, rows_per_program: 4 };
    let func = row_norm::KERNEL.build_spec(&spec).unwrap_or_else(|found| panic!("{found}"));
    let profile = profile(&func, &workload(&spec, 1), Sm::Sm80).unwrap();
    assert_eq!(profile.counters.bank_conflicts, 0);
    assert_eq!(profile.buffers[0].repeat_ratio(), Some(1.0));
}
