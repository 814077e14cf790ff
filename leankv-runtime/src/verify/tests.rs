//! Kernels that do not end, and verdicts with their reasons.

use leankv_dsl::lang::*;
use leankv_dsl::workload::{Check, Generator, Workload, given};

use super::*;
use crate::cache::KernelCache;

fn compiler() -> Compiler {
    Compiler::new(KernelCache::without_folder())
}

#[kernel]
fn never_ends(out: PtrMut<i32>) {
    let mut i = lit(0);
    for _ in range(0, 3) {
        while i.ge(0) {
            for _ in range(0, 10) {
                i *= 1;
            }
        }
    }
    out.set(0, i);
}

#[test]
fn an_endless_loop_is_stopped_and_named() {
    let func = never_ends::build(&NeverEndsSpec {}).unwrap();
    let args = NeverEndsArgs { out: given(&[0i32; 4]).output(Check::Bits).slice_mut() };
    let workload = Workload::of::<never_ends>([4, 1, 1], args);
    let report = verify_within(&compiler(), &func, &workload, &Options::default(), 100_000).unwrap();
    let [run] = &report.runs[..] else { panic!("only the interpreter runs: {report}") };
    assert!(matches!(run.outcome, Outcome::Faults { .. }), "{report}");
    let text = run.details().join("\n");
    assert!(text.contains("the program did not end within 100000 steps"), "{text}");
    assert!(text.contains("verify/tests.rs:17:9"), "the loop's place: {text}");
}

#[kernel]
fn adds_one(x: Ptr<i32>, out: PtrMut<i32>) {
    out.store(iota(64), x.load(iota(64)) + 1);
}

#[test]
fn endless_ptx_is_stopped_by_a_budget_in_proportion() {
    let func = adds_one::build(&AddsOneSpec {}).unwrap();
    let x: Vec<i32> = (0..64).collect();
    let out = given(&[0i32; 64]).output(Check::Bits).slice_mut();
    let workload = Workload::of::<adds_one>([1, 1, 1], AddsOneArgs { x: given(&x).slice(), out });
    let compiled = compiler().compile(&func, Target::Gpu(Sm::Sm80)).unwrap().kernel;
    let ptx = compiled.ptx().unwrap();
    let ret = ptx.rfind("ret;").unwrap();
    let endless = format!("{}$L__again:\n\tbra.uni \t$L__again;\n\t{}", &ptx[..ret], &ptx[ret..]);
    let options = Options { ptx: Some(endless), ..Options::default() };
    let report = verify_with(&compiler(), &func, &workload, &options).unwrap();
    assert_eq!(report.runs.len(), 5, "{report}");
    for run in &report.runs {
        assert_eq!(run.passed(), run.target.is_none(), "{report}");
        assert!(run.passed() || run.details()[0].contains("look for an endless loop"), "{report}");
    }
}

/// Programs that write the same values to the same places: benign, at more instructions than findings are kept.
#[kernel]
fn all_write_the_same(x: Ptr<f32>, out: PtrMut<f32>) {
    out.store(iota(1 << 16), x.load(iota(1 << 16)) * 2.0);
}

#[test]
fn benign_findings_are_no_verdict() {
    let func = all_write_the_same::build(&AllWriteTheSameSpec {}).unwrap();
    let x = Generator::new(1).f32s(1 << 16, -1.0, 1.0);
    let out = given(&vec![0f32; 1 << 16]).output(Check::Bits).slice_mut();
    let args = AllWriteTheSameArgs { x: given(&x).slice(), out };
    let workload = Workload::of::<all_write_the_same>([2, 1, 1], args);
    let report = verify_with(&compiler(), &func, &workload, &Options::default()).unwrap();
    for run in &report.runs {
        assert!(run.passed() || !run.details().is_empty(), "a verdict has its reasons: {report}");
    }
    assert!(report.passed(), "{report}");
}
