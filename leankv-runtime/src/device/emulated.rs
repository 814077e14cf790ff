//! A GPU that is not there: PTX executed by `leankv-ptx` on this processor, with memory, race and synchronisation checks.
//!
//! Each launch runs on a machine of its own that holds exactly the launch's buffers, so an access outside them is found
//! wherever it goes.

use std::slice;
use std::sync::{Arc, Mutex};

use leankv_ptx::{Arg, Config, LaunchConfig, LaunchReport, Machine, Module};

use crate::compiled::KernelInfo;
use crate::kernel::{HostArg, HostCode};
use crate::signature::ParamKind;
use crate::target::Sm;

/// The device: a GPU generation and how its machine runs.
pub(crate) struct EmulatedDevice {
    sm: Sm,
    config: Config,
    last: Arc<Mutex<Option<LaunchReport>>>,
}

/// A kernel's PTX, parsed.
pub(crate) struct EmulatedCode {
    module: Module,
    info: KernelInfo,
    config: Config,
    last: Arc<Mutex<Option<LaunchReport>>>,
}

impl EmulatedDevice {
    pub(super) fn new(sm: Sm, config: Config) -> EmulatedDevice {
        EmulatedDevice { sm, config, last: Arc::default() }
    }

    /// The GPU generation.
    pub(crate) fn sm(&self) -> Sm {
        self.sm
    }

    /// Parses the PTX of a kernel.
    ///
    /// # Errors
    /// What the parser says, with line and column.
    pub(crate) fn load(&self, ptx: &str, info: &KernelInfo) -> Result<EmulatedCode, String> {
        let module = Module::parse(ptx).map_err(|e| e.to_string())?;
        Ok(EmulatedCode { module, info: info.clone(), config: self.config.clone(), last: self.last.clone() })
    }

    pub(super) fn take_report(&self) -> Option<LaunchReport> {
        self.last.lock().unwrap_or_else(|e| e.into_inner()).take()
    }
}

impl HostCode for EmulatedCode {
    unsafe fn run(&self, grid: [u32; 3], args: &[HostArg]) -> Result<(), String> {
        let text = |e: leankv_ptx::Error| e.to_string();
        let mut machine = Machine::new(self.config.clone());
        let mut words = Vec::new();
        for (param, arg) in self.info.signature.params.iter().zip(args) {
            let (bits, bytes) = match *arg {
                HostArg::Pointer { start, bytes } => {
                    // The machine has no empty allocations; one byte that nobody wrote stands for an empty buffer.
                    let at = machine.alloc(bytes.max(1) as u64, param.multiple_of).map_err(text)?;
                    machine.name(at, &param.name);
                    machine.track(&param.name, at, bytes as u64);
                    // SAFETY: a launch passes live, initialised buffers; nobody writes them while it borrows them.
                    machine.write(at, unsafe { slice::from_raw_parts(start, bytes) }).map_err(text)?;
                    (at, 8)
                }
                HostArg::Scalar(bits) => (bits, param.dtype.bytes().unwrap_or(8) as usize),
            };
            words.push((bits, bytes));
        }
        let args_packed: Vec<Arg> =
            words.iter().map(|(bits, bytes)| Arg::Bytes(bits.to_le_bytes()[..*bytes].to_vec())).collect();
        let shape = LaunchConfig {
            grid,
            block: [self.info.threads, 1, 1],
            dynamic_shared_bytes: self.info.dynamic_shared_bytes,
        };
        let report = machine.launch(&self.module, &self.info.entry, shape, &args_packed).map_err(text)?;
        let errors: Vec<String> = report.errors().map(ToString::to_string).collect();
        let clean = report.is_clean();
        *self.last.lock().unwrap_or_else(|e| e.into_inner()) = Some(report);
        if !clean {
            return Err(errors.join("\n"));
        }
        for ((param, arg), (address, _)) in self.info.signature.params.iter().zip(args).zip(&words) {
            if let (&HostArg::Pointer { start, bytes }, ParamKind::Write) = (arg, param.kind) {
                // SAFETY: a launch holds the buffers it writes exclusively, and they overlap no other.
                let out = unsafe { slice::from_raw_parts_mut(start, bytes) };
                machine.read(*address, out).map_err(text)?;
            }
        }
        Ok(())
    }
}
