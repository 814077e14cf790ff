//! `leankv cache`: where compiled kernels lie, and how to remove them.

use leankv_runtime::cache::{CACHE_DIR_VARIABLE, KernelCache};

use crate::args;
use crate::failure::{Failure, at_path};

/// Runs the command.
pub(crate) fn run(args: &args::Cache, cache: &KernelCache) -> Result<(), Failure> {
    let Some(dir) = cache.dir() else {
        return Err(Failure::machine("there is no cache folder: HOME is not set")
            .help(format_args!("set {CACHE_DIR_VARIABLE} to a folder")));
    };
    if args.clear {
        let removed = cache.clear().map_err(at_path(dir))?;
        println!("removed {removed} kernels from {}", dir.display());
    } else {
        println!("{}", dir.display());
    }
    Ok(())
}
