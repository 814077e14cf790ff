//! The tile IR that every shipped kernel records, at its default specialisation.
//!
//! Other tests say that it is right; this one shows what a change to the language or to a kernel changes.
//! `INSTA_UPDATE=always cargo test -p leankv-kernels --test tile_ir` accepts new text; review the difference.

use leankv_dsl::lang::{KernelDef, Settings};
use leankv_kernels::KERNELS;

fn text(kernel: &dyn KernelDef) -> String {
    let func = kernel.build(&Settings::new()).unwrap_or_else(|found| panic!("{found}"));
    func.compact().to_string()
}

#[test]
fn tile_ir_of_every_kernel() {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for kernel in KERNELS {
            insta::assert_snapshot!(kernel.name(), text(*kernel));
        }
    });
}

#[test]
fn recording_is_deterministic_on_every_thread() {
    let expected: Vec<String> = KERNELS.iter().map(|k| text(*k)).collect();
    let all = || KERNELS.iter().map(|k| text(*k)).collect::<Vec<String>>();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(all)).collect();
        for thread in threads {
            assert_eq!(thread.join().expect("recording does not panic"), expected);
        }
    });
}
