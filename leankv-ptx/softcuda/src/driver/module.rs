//! Modules and the functions in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::memory::{Allocation, Kind};
use super::{Driver, State};
use crate::arch::{self, REGISTERS};
use crate::code::{Code, Fail, Res, invalid};
use crate::engine::{Image, Kernel, Source};
use crate::handles::Id;

/// A module in a context.
pub(crate) struct LoadedModule {
    pub(super) context: Id,
    pub(super) image: Arc<Image>,
    /// Handles given out, by name: a name has one.
    functions: BTreeMap<String, Id>,
}

/// A kernel of a module.
pub(crate) struct Function {
    pub(super) context: Id,
    pub(super) module: Id,
    pub(super) image: Arc<Image>,
    pub(super) kernel: Arc<Kernel>,
    /// Dynamic shared memory that a launch may ask for, in bytes.
    pub(super) max_dynamic_shared: u32,
    carveout: i32,
}

/// A module that was refused: the failure, and the text for the JIT's error log.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) fail: Fail,
    pub(crate) log: String,
}

impl From<Fail> for Refused {
    fn from(fail: Fail) -> Refused {
        let log = fail.why.clone();
        Refused { fail, log }
    }
}

impl State {
    pub(super) fn function(&self, id: Id) -> Res<&Function> {
        let function = self.functions.get(id)?;
        self.usable(function.context)?;
        Ok(function)
    }

    fn module(&self, id: Id) -> Res<&LoadedModule> {
        let module = self.modules.get(id)?;
        self.usable(module.context)?;
        Ok(module)
    }
}

impl Function {
    /// An upper bound on registers of a thread: what `ptxas` may use so that the largest block still fits.
    fn registers(&self) -> u32 {
        (REGISTERS / self.kernel.block_limit().max(1)).min(255)
    }
}

impl Driver {
    /// `cuModuleLoadData` of PTX text.
    pub(crate) fn module_load(&self, image: &[u8]) -> Result<Id, Refused> {
        let state = self.ready()?;
        let context = state.current()?;
        drop(state);
        let text = ptx_text(image)?;
        let source = Source::parse(text).map_err(|error| {
            let log = format!("ptx line {}, column {}: error: {}", error.line, error.col, error.message);
            Refused { fail: Fail::new(Code::InvalidPtx, log.clone()), log }
        })?;
        if !self.settings.arch.runs(source.target()) {
            let why = format!(
                "the PTX is for {}, this device is {} (SOFTCUDA_ARCH)",
                source.target(),
                self.settings.arch.name()
            );
            return Err(Fail::new(Code::InvalidPtx, why).into());
        }
        let image = self.engine().place(source).map_err(|why| Fail::new(Code::InvalidPtx, why))?;
        let image = Arc::new(image);
        let mut state = self.lock();
        let device = state.usable(context)?.device;
        for (address, bytes) in image.globals.values() {
            let block = Allocation { bytes: *bytes, context, device, kind: Kind::Module, freeing: false };
            state.memory.insert(*address, block);
        }
        let id = state.serial.next();
        state.modules.insert(id, LoadedModule { context, image, functions: BTreeMap::new() });
        Ok(id)
    }

    /// `cuModuleUnload`: waits for the context's work, which may be running the module's kernels.
    pub(crate) fn module_unload(&self, id: Id) -> Res<()> {
        let state = self.ready()?;
        let context = state.modules.get(id)?.context;
        // A fault of that work does not keep the module.
        let waited = self.finish_context(state, context);
        let mut state = self.ready()?;
        let module = state.modules.remove(id)?;
        state.functions.retain(|_, function| function.module != id);
        for (address, _) in module.image.globals.values() {
            state.forget_memory(*address);
        }
        drop(state);
        self.engine().unload(&module.image);
        waited
    }

    /// `cuModuleGetFunction`.
    pub(crate) fn module_function(&self, id: Id, name: &str) -> Res<Id> {
        let mut state = self.ready()?;
        let module = state.module(id)?;
        if let Some(function) = module.functions.get(name) {
            return Ok(*function);
        }
        let (context, image) = (module.context, module.image.clone());
        let kernel = image.kernels.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = image.kernels.keys().map(String::as_str).collect();
            Fail::new(Code::NotFound, format!("no kernel {name} in the module; it has {}", known.join(", ")))
        })?;
        let function = state.serial.next();
        let max_dynamic_shared = arch::SHARED_PER_BLOCK.saturating_sub(kernel.shared_bytes);
        state.functions.insert(
            function,
            Function { context, module: id, image, kernel, max_dynamic_shared, carveout: -1 },
        );
        state.modules.get_mut(id)?.functions.insert(name.to_owned(), function);
        Ok(function)
    }

    /// `cuModuleGetFunctionCount`.
    pub(crate) fn module_function_count(&self, id: Id) -> Res<usize> {
        Ok(self.ready()?.module(id)?.image.kernels.len())
    }

    /// `cuModuleGetGlobal`: address and size.
    pub(crate) fn module_global(&self, id: Id, name: &str) -> Res<(u64, usize)> {
        let state = self.ready()?;
        let globals = &state.module(id)?.image.globals;
        globals.get(name).map(|(address, bytes)| (*address, *bytes as usize)).ok_or_else(|| {
            let known: Vec<&str> = globals.keys().map(String::as_str).collect();
            Fail::new(
                Code::NotFound,
                format!("no variable {name} in the module; it has {}", known.join(", ")),
            )
        })
    }

    /// `cuFuncGetModule`.
    pub(crate) fn function_module(&self, id: Id) -> Res<Id> {
        Ok(self.ready()?.function(id)?.module)
    }

    /// The kernel of a function.
    pub(crate) fn function_kernel(&self, id: Id) -> Res<Arc<Kernel>> {
        Ok(self.ready()?.function(id)?.kernel.clone())
    }

    /// `cuFuncGetAttribute`.
    pub(crate) fn function_attribute(&self, id: Id, attribute: i32) -> Res<i32> {
        let state = self.ready()?;
        let function = state.function(id)?;
        let (major, minor) = self.settings.arch.capability();
        let value = match attribute {
            0 => function.kernel.block_limit(),
            1 => function.kernel.shared_bytes,
            2 => function.image.constant_bytes,
            3 => function.kernel.local_bytes,
            4 => function.registers(),
            5 => function.image.version.0 * 10 + function.image.version.1,
            6 => major * 10 + minor,
            // Cache mode; clusters, which are not set.
            7 | 10..=15 => 0,
            8 => function.max_dynamic_shared,
            9 => return Ok(function.carveout),
            _ => return Err(invalid(format!("there is no function attribute {attribute}"))),
        };
        Ok(i32::try_from(value).unwrap_or(i32::MAX))
    }

    /// `cuFuncSetAttribute`.
    pub(crate) fn function_set_attribute(&self, id: Id, attribute: i32, value: i32) -> Res<()> {
        let mut state = self.ready()?;
        state.function(id)?;
        let limit = self.settings.arch.limits().shared_per_block_opt_in;
        let function = state.functions.get_mut(id)?;
        match attribute {
            8 => {
                let most = limit.saturating_sub(function.kernel.shared_bytes);
                function.max_dynamic_shared =
                    u32::try_from(value).ok().filter(|bytes| *bytes <= most).ok_or_else(|| {
                        invalid(format!(
                            "{value} bytes of dynamic shared memory; at most {most} are possible"
                        ))
                    })?;
            }
            9 if (-1..=100).contains(&value) => function.carveout = value,
            _ => return Err(invalid(format!("function attribute {attribute} cannot be set to {value}"))),
        }
        Ok(())
    }

    /// `cuFuncSetCacheConfig`: checked, without effect.
    pub(crate) fn function_set_cache_config(&self, id: Id, config: i32) -> Res<()> {
        self.ready()?.function(id)?;
        if (0..=3).contains(&config) { Ok(()) } else { Err(invalid("not a cache configuration")) }
    }
}

/// The PTX text of an image.
fn ptx_text(image: &[u8]) -> Res<&str> {
    let machine_code = image.starts_with(b"\x7fELF") || image.starts_with(&0xBA55_ED50_u32.to_le_bytes());
    if machine_code {
        let why = "the image is machine code (a cubin or a fat binary); softcuda executes PTX text only";
        return Err(Fail::new(Code::NoBinaryForGpu, why));
    }
    let text = std::str::from_utf8(image)
        .map_err(|_| Fail::new(Code::InvalidImage, "the image is neither PTX text nor machine code"))?;
    if text.trim().is_empty() {
        return Err(Fail::new(Code::InvalidImage, "the image is empty"));
    }
    Ok(text)
}
