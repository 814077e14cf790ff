//! Recording is a function of the kernel and its settings alone. What the recorded tile IR becomes is told by the filetests and the
//! table of metrics in `tests/`; that it is right, by the executors.

use leankv_dsl::lang::{KernelDef, Settings};
use leankv_kernels::KERNELS;

fn text(kernel: &dyn KernelDef) -> String {
    let func = kernel.build(&Settings::new()).unwrap_or_else(|found| panic!("{found}"));
    func.compact().to_string()
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
