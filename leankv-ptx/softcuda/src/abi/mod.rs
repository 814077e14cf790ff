//! The C functions. Each one only converts: out pointers, handles and names in, a result code out. What happens stands
//! in [`crate::driver`].
//!
//! No panic crosses into the program: [`enter`] turns one into `CUDA_ERROR_UNKNOWN`.

mod context;
mod device;
mod graph;
mod launch;
mod lookup;
mod memory;
mod module;
mod pool;
mod stream;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::code::{Code, Fail, Res};
use crate::driver::{self, Driver};

/// Defines an exported function: its name, its parameters, and what it does with the driver.
macro_rules! entry {
    ($(fn $name:ident($driver:ident $(, $argument:ident: $ty:ty)* $(,)?) $body:block)*) => { $(
        /// A function of the driver interface, see NVIDIA's documentation of it.
        ///
        /// # Safety
        /// Pointers are null or valid as the driver interface demands.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub(crate) unsafe extern "C" fn $name($($argument: $ty),*) -> i32 {
            $crate::abi::enter(stringify!($name), |$driver| $body)
        }
    )* };
}
use entry;

/// Runs the body of a C function and gives its result code.
fn enter(name: &'static str, body: impl FnOnce(&'static Driver) -> Res<()>) -> i32 {
    let run = || {
        if driver::in_host_call() {
            let why = "a function that a stream runs may not call the driver";
            return Err(Fail::new(Code::NotPermitted, why));
        }
        body(driver::global()?)
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => 0,
        Ok(Err(fail)) => {
            explain(name, &fail);
            fail.code as i32
        }
        Err(_) => {
            let why = "internal error of the emulator: a panic, its message is above";
            explain(name, &Fail::new(Code::Unknown, why));
            Code::Unknown as i32
        }
    }
}

/// Tells the program's author why a call failed, if asked to. Not being ready is no failure.
fn explain(name: &str, fail: &Fail) {
    if fail.code == Code::NotReady {
        return;
    }
    let write = || {
        if let Ok(driver) = driver::global() {
            driver.reporter.explanation(&format!("{name}: {}: {}", fail.code.name(), fail.why));
        }
    };
    // Nothing is left to be done about a panic here.
    let _ = catch_unwind(AssertUnwindSafe(write));
}
