//! LLVM options that exist only on its command line.

use std::sync::Once;

/// Sets the options of this process, once. Whoever makes a target machine calls this first, so that no LLVM pass of ours runs
/// while options are read.
pub(crate) fn set_options() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        // Straight-line strength reduction took 40 % of the time of writing PTX and a few moves from it, which ptxas makes
        // up for; the NVPTX back end has no other switch for it.
        let args = [c"leankv".as_ptr(), c"-opt-disable=slsr".as_ptr()];
        // SAFETY: two strings that end with NUL and live as long as the process; LLVM copies what it keeps. The option is there in
        // every LLVM 22.1, which the library's name pins, so LLVM has nothing to refuse.
        unsafe {
            llvm_sys::support::LLVMParseCommandLineOptions(
                args.len() as std::ffi::c_int,
                args.as_ptr(),
                c"".as_ptr(),
            );
        }
    });
}
