//! A crate's own kernel on every executor, without a GPU: what `leankv verify` does for the shipped kernels.

use leankv_dsl::lang::TypedKernel;
use leankv_dsl::workload::{Check, Generator, Workload, given};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::tune::{Effort, Tuner};
use leankv_runtime::verify::{Options, profile, verify};
use leankv_runtime::{Compiler, Device, Sm};
use own_kernels::{RowNormArgs, RowNormSpec, row_norm};

/// Rows of which the last program has fewer, with what plain Rust says of them. They do not fill the block, but start at multiples
/// of 32 bytes: the kernel asks for 16.
fn workload(spec: &RowNormSpec, rows: usize, seed: u64) -> Workload {
    let cols = spec.block - 8;
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
        let report = verify(&func, &workload(&spec, 10, 1), &options).unwrap();
        assert!(report.passed(), "{report}");
    }
}

#[test]
fn it_reads_each_sector_once_and_has_no_bank_conflicts() {
    let spec = RowNormSpec { block: 256, rows_per_program: 4 };
    let func = row_norm::KERNEL.build_spec(&spec).unwrap_or_else(|found| panic!("{found}"));
    let profile = profile(&func, &workload(&spec, 10, 1), Sm::Sm80).unwrap();
    assert_eq!(profile.counters.bank_conflicts, 0);
    assert_eq!(profile.buffers[0].repeat_ratio(), Some(1.0));
}

/// Ten lines from a kernel that says what can be tuned to its fastest specialisation on this machine.
#[test]
fn its_fastest_specialisation_is_found() {
    let (compiler, device) = (Compiler::new(KernelCache::without_folder()), Device::host());
    let spec = RowNormSpec { block: 256, rows_per_program: 4 };
    let tuner = Tuner::new(&compiler, &device).effort(Effort::Full);
    let found = tuner.tune(&row_norm::KERNEL, &spec, |spec| workload(spec, 1000, 1)).unwrap();
    println!("{found}");
    for trial in &found.trials {
        println!("{trial:?}");
    }
    let kernel = compiler.load(&device, &row_norm::KERNEL, &found.best).unwrap();

    // Whichever it is, it is one that was measured, and not behind the one that was given.
    assert!([1, 4, 16, 64].contains(&kernel.spec().rows_per_program) && found.gain.low >= 1.0, "{found}");
    assert_eq!((found.timed(), found.candidates), (4, 4), "{found}");
}
