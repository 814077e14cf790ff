//! The manager's kernels, compiled for a device.

use leankv_dsl::lang::{Choices, Settings, Spec};
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
    /// Lists that one program works on: the same in these kernels, so it is not tuned for each.
    pub(super) block: usize,
}

impl ManagerKernels {
    /// Those whose blocks can be tuned each by itself, by name, with what they are specialised for.
    pub(in crate::kv) fn specialisations(&self) -> Vec<(String, Settings)> {
        let (scan, fork, copy) = (self.scan.spec(), self.fork.spec(), self.copy.spec());
        [("scan_pages", scan.settings()), ("fork_pages", fork.settings()), ("copy_tails", copy.settings())]
            .map(|(name, settings)| (name.to_owned(), settings))
            .into()
    }

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
        let (any, sizes) = (
            Choices::new(),
            [("requests", shape.slots), ("lists", shape.lists()), ("pages", shape.table_len)],
        );
        Ok(ManagerKernels {
            prepare: compiler.load(device, &prepare_pages::KERNEL, &PreparePagesSpec { block })?,
            scan: compiler.load_tuned(
                device,
                &scan_pages::KERNEL,
                &ScanPagesSpec { block: requests },
                &any,
                &sizes,
            )?,
            commit: compiler.load(device, &commit_pages::KERNEL, &CommitPagesSpec { block })?,
            fit: compiler.load(device, &fit_pages::KERNEL, &FitPagesSpec { block })?,
            plan_fork: compiler.load(device, &plan_fork::KERNEL, &PlanForkSpec { block })?,
            fork: compiler.load_tuned(
                device,
                &fork_pages::KERNEL,
                &ForkPagesSpec { block: pages },
                &any,
                &sizes,
            )?,
            copy: compiler.load_tuned(
                device,
                &copy_tails::KERNEL,
                &CopyTailsSpec { block: 128 },
                &any,
                &sizes,
            )?,
            block,
        })
    }
}
