//! The manager's kernels, compiled for a device.

use leankv_kernels::manager::{
    CommitPagesSpec, CopyTailsSpec, FitPagesSpec, ForkPagesSpec, PlanForkSpec, PreparePagesSpec,
    ScanPagesSpec, commit_pages, copy_tails, fit_pages, fork_pages, plan_fork, prepare_pages, scan_pages,
};

use crate::compiler::Compiler;
use crate::device::Device;
use crate::kernel::KernelOf;
use crate::kv::{CacheShape, KvError};

/// The kernels of a [`DeviceManager`](super::DeviceManager). Clones share the loaded code.
#[derive(Clone, Debug)]
pub struct ManagerKernels {
    pub(super) prepare: KernelOf<prepare_pages>,
    pub(super) scan: KernelOf<scan_pages>,
    pub(super) commit: KernelOf<commit_pages>,
    pub(super) fit: KernelOf<fit_pages>,
    pub(super) plan_fork: KernelOf<plan_fork>,
    pub(super) fork: KernelOf<fork_pages>,
    pub(super) copy: KernelOf<copy_tails>,
    /// Lists that one program works on.
    pub(super) block: usize,
}

impl ManagerKernels {
    /// Extents of a shape that stand for all: a block is the next of them, at most.
    pub(in crate::kv) const SIZES: [usize; 4] = [32, 64, 128, 256];

    /// Kernels that suit caches of this shape; they work for others too.
    ///
    /// # Errors
    /// [`KvError::Compile`].
    pub fn new(compiler: &Compiler, device: &Device, shape: &CacheShape) -> Result<ManagerKernels, KvError> {
        let up_to = |n: usize, most: usize| n.next_power_of_two().clamp(Self::SIZES[0], most);
        let block = up_to(shape.lists(), Self::SIZES[3]);
        let requests = up_to(shape.slots, 128);
        let pages = up_to(shape.table_len, 128);
        Ok(ManagerKernels {
            prepare: compiler.load(device, &prepare_pages::KERNEL, &PreparePagesSpec { block })?,
            scan: compiler.load(device, &scan_pages::KERNEL, &ScanPagesSpec { block: requests })?,
            commit: compiler.load(device, &commit_pages::KERNEL, &CommitPagesSpec { block })?,
            fit: compiler.load(device, &fit_pages::KERNEL, &FitPagesSpec { block })?,
            plan_fork: compiler.load(device, &plan_fork::KERNEL, &PlanForkSpec { block })?,
            fork: compiler.load(device, &fork_pages::KERNEL, &ForkPagesSpec { block: pages })?,
            copy: compiler.load(device, &copy_tails::KERNEL, &CopyTailsSpec { block: 128 })?,
            block,
        })
    }
}
