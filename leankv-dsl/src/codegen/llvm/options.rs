//! LLVM options that exist only on its command line.

use std::sync::Once;

/// Sets the options of this process, once. Whoever makes a target machine calls this first, so that no LLVM pass of ours runs
/// while options are read.
pub(crate) fn set_options() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        let args = [
            c"leankv".as_ptr(),
            // Straight-line strength reduction took 40 % of the time of writing PTX and a few moves from it, which ptxas makes up for. What
            // reassociates sums to share them, and what joins loads and stores, find nothing in what the emitter writes. Only GPUs have these
            // passes, and the NVPTX back end has no other switch for them.
            c"-opt-disable=slsr,nary-reassociate,load-store-vectorizer".as_ptr(),
            // The preparation for instruction selection visits a function until nothing changes. In functions of so many blocks it visits only
            // blocks that changed, which gives the same code and took a fifth off the time of writing PTX.
            c"-cgpp-huge-func=0".as_ptr(),
        ];
        // SAFETY: strings that end with NUL and live as long as the process; LLVM copies what it keeps. The options are there in
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
