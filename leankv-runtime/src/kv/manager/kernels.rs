//! The manager's kernels, compiled for a device.

use leankv_kernels::manager;

use crate::compiler::Compiler;
use crate::device::Device;
use crate::kernel::Kernel;
use crate::kv::{CacheShape, KvError};

/// The kernels of a [`DeviceManager`](super::DeviceManager). Clones share the loaded code.
#[derive(Clone, Debug)]
pub struct ManagerKernels {
    pub(super) prepare: Kernel,
    pub(super) scan: Kernel,
    pub(super) commit: Kernel,
    pub(super) fit: Kernel,
    pub(super) plan_fork: Kernel,
    pub(super) fork: Kernel,
    pub(super) copy: Kernel,
    /// Lists that one program works on.
    pub(super) block: usize,
}

impl ManagerKernels {
    /// Kernels that suit caches of this shape; they work for others too.
    ///
    /// # Errors
    /// [`KvError::Compile`].
    pub fn new(compiler: &Compiler, device: &Device, shape: &CacheShape) -> Result<ManagerKernels, KvError> {
        let up_to = |n: usize, most: usize| n.next_power_of_two().clamp(32, most);
        let block = up_to(shape.lists(), 256);
        let requests = up_to(shape.slots, 128);
        let pages = up_to(shape.table_len, 128);
        let build = |func: Result<leankv_dsl::ir::Func, leankv_dsl::diag::Diagnostics>| {
            let func = func.map_err(crate::compiler::CompileError::Refused)?;
            Ok::<Kernel, KvError>(compiler.kernel(device, &func)?)
        };
        Ok(ManagerKernels {
            prepare: build(manager::prepare_pages::build(&manager::PreparePagesSpec { block }))?,
            scan: build(manager::scan_pages::build(&manager::ScanPagesSpec { block: requests }))?,
            commit: build(manager::commit_pages::build(&manager::CommitPagesSpec { block }))?,
            fit: build(manager::fit_pages::build(&manager::FitPagesSpec { block }))?,
            plan_fork: build(manager::plan_fork::build(&manager::PlanForkSpec { block }))?,
            fork: build(manager::fork_pages::build(&manager::ForkPagesSpec { block: pages }))?,
            copy: build(manager::copy_tails::build(&manager::CopyTailsSpec { block: 128 }))?,
            block,
        })
    }
}
