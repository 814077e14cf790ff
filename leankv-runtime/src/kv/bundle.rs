//! The kernels of caches, compiled beforehand.

use std::sync::Arc;

use super::{Basis, CacheConfig, EngineKernels, KvError, ManagerKernels, Means};
use crate::cache::{BundleWriter, KernelCache};
use crate::compiler::Compiler;
use crate::device::Device;
use crate::target::Target;

/// All kernels that caches of these configurations need on these targets. How much a cache holds (layers, KV heads, pages, slots, tokens) is nothing that they depend
/// on, and neither is whether a GPU is real or emulated.
///
/// ```
/// use leankv_runtime::cache::{Bundle, KernelCache};
/// use leankv_runtime::kv::{CacheConfig, KvCache, bundle};
/// use leankv_runtime::{Compiler, Device, Sm, Target};
///
/// // Beforehand, on a machine with LLVM: two query heads a KV head, vectors of 64 elements.
/// let config = CacheConfig::new([2, 2, 2, 64], 4, 1000, 100);
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("kernels.lkvb");
/// bundle(KernelCache::without_folder(), &[config.clone()], &[Target::Gpu(Sm::Sm80)])?.write(&path)?;
///
/// // In production, without LLVM (or with it, and compiling denied).
/// let compiler = Compiler::new(KernelCache::without_folder());
/// compiler.cache().deny_jit(true);
/// compiler.cache().add_bundle(Bundle::open(&path)?);
/// KvCache::new(&compiler, &Device::emulated(Sm::Sm80), config)?; // or `Device::cuda(0)?`
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`KvError::Shape`] and [`KvError::Compile`].
pub fn bundle(
    cache: KernelCache,
    configs: &[CacheConfig],
    targets: &[Target],
) -> Result<BundleWriter, KvError> {
    let compiler = Compiler::new(cache).recording();
    for &target in targets {
        let device = match target {
            Target::Host => Device::host(),
            Target::Gpu(sm) => Device::emulated(sm),
        };
        for config in configs {
            // It need not fit this machine, and what means and priors are is nothing that kernels depend on.
            let zeros = vec![0.0; config.head_dim];
            let means = Means { keys: zeros.clone(), values: zeros };
            let means = config.basis.means.as_ref().map(|_| Arc::new(means));
            let small = CacheConfig {
                layers: 1,
                kv_heads: 1,
                slots: 1,
                pages: 16,
                priors: Vec::new(),
                basis: Basis { means, ..config.basis },
                ..config.clone()
            };
            EngineKernels::new(&compiler, &device, &small)?;
            let shape = small.shape()?;
            for size in ManagerKernels::SIZES {
                let shape = super::CacheShape { kv_heads: size, slots: size, table_len: size, ..shape };
                ManagerKernels::new(&compiler, &device, &shape)?;
            }
        }
    }
    Ok(compiler.recorded())
}
