//! Compiled code onto a device.

use leankv_dsl::codegen::LoadError as HostLoadError;

use crate::compiled::{Code, CompiledKernel};
use crate::compiler::LoadError;
use crate::device::{Device, DeviceError, DeviceKind};
use crate::kernel::{Kernel, Loaded};
use crate::lower::{self, Native};
use crate::target::Target;

impl Device {
    /// Makes a compiled kernel launchable on this device.
    ///
    /// # Errors
    /// [`LoadError::Target`] when it was compiled for something that this device does not run; what the device's loader
    /// says otherwise.
    pub fn load(&self, kernel: &CompiledKernel) -> Result<Kernel, LoadError> {
        let info = &kernel.info;
        let loaded = match (&*self.inner, &kernel.code) {
            (DeviceKind::Host, Code::Host(artifact)) => {
                let here = lower::processor(Target::Host).map_err(HostLoadError::Target);
                let here = here.map_err(|source| self.host_error(kernel, source))?;
                if here != info.processor {
                    return Err(self.wrong_target(kernel, here));
                }
                let code = Native::load(artifact).map_err(|source| self.host_error(kernel, source))?;
                Loaded::Host(Box::new(code))
            }
            (DeviceKind::Cuda(cuda), Code::Ptx(ptx)) => {
                let (major, minor) = cuda.compute_capability();
                // PTX of an older generation runs on a newer one; not the other way round.
                let runs = matches!(info.target, Target::Gpu(sm) if sm.sm() <= major * 10 + minor);
                if !runs {
                    return Err(self.wrong_target(kernel, format!("sm_{major}{minor} or older")));
                }
                Loaded::Cuda(cuda.load(
                    ptx.as_bytes(),
                    &info.entry,
                    info.threads,
                    info.dynamic_shared_bytes,
                )?)
            }
            (DeviceKind::Emulated(device), Code::Ptx(ptx)) => {
                if info.target != Target::Gpu(device.sm()) {
                    return Err(self.wrong_target(kernel, device.sm().to_string()));
                }
                let code = device.load(ptx, info).map_err(|why| DeviceError::BadKernel {
                    kernel: info.signature.kernel.clone(),
                    why: format!("its PTX is not understood: {why}"),
                })?;
                Loaded::Host(Box::new(code))
            }
            (kind, _) => {
                let needed = match kind {
                    DeviceKind::Host => "host".to_owned(),
                    DeviceKind::Reference => "tile IR".to_owned(),
                    DeviceKind::Emulated(device) => device.sm().to_string(),
                    DeviceKind::Cuda(_) => "a GPU target".to_owned(),
                };
                return Err(self.wrong_target(kernel, needed));
            }
        };
        Ok(Kernel::new(self.clone(), info.signature.clone(), loaded))
    }

    fn wrong_target(&self, kernel: &CompiledKernel, needed: String) -> LoadError {
        LoadError::Target {
            kernel: kernel.info.signature.kernel.clone(),
            compiled: match kernel.info.target {
                Target::Host => kernel.info.processor.clone(),
                Target::Gpu(sm) => sm.to_string(),
            },
            device: self.name(),
            needed,
        }
    }

    fn host_error(&self, kernel: &CompiledKernel, source: HostLoadError) -> LoadError {
        LoadError::Host { kernel: kernel.info.signature.kernel.clone(), source: Box::new(source) }
    }
}
