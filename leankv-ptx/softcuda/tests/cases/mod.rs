//! The programs. Each uses cudarc as any program does.

pub(crate) mod basics;
pub(crate) mod faults;
pub(crate) mod graphs;
pub(crate) mod kernels;
pub(crate) mod memory;
pub(crate) mod streams;

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaFunction, DriverError, LaunchConfig};
use cudarc::nvrtc::Ptx;

/// The kernels of `common/kernels.ptx`.
pub(crate) const PTX: &str = include_str!("../common/kernels.ptx");

/// Device 0.
pub(crate) fn context() -> Arc<CudaContext> {
    CudaContext::new(0).expect("a device is visible")
}

/// A kernel of the test module.
pub(crate) fn kernel(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    let module = context.load_module(Ptx::from_src(PTX)).expect("the module loads");
    module.load_function(name).expect("the kernel is there")
}

/// `blocks` blocks of `threads` threads.
pub(crate) fn shape(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

/// The code of a failure.
pub(crate) fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.err().map_or(CUresult::CUDA_SUCCESS, |error| error.0)
}
