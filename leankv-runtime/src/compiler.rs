//! From tile IR to a compiled kernel, through the cache.

use std::cell::Cell;
use std::sync::{Arc, Mutex, OnceLock};

use leankv_dsl::codegen::{self, CodegenError};
use leankv_dsl::diag::Diagnostics;
use leankv_dsl::ir::{Func, Print};
use leankv_dsl::lang::{Choices, Settings, Spec, SpecField, TypedKernel};
use leankv_dsl::pass::PassError;

use crate::cache::{BundleWriter, CacheError, CacheKey, KernelCache, Origin};
use crate::compiled::CompiledKernel;
use crate::device::{Device, DeviceError, Kind};
use crate::kernel::{Kernel, KernelOf};
use crate::lower;
use crate::target::Target;
use crate::tune::{self, Question, TunedTable};

/// What to keep and to add while compiling. Every field is part of the cache key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CompileOptions {
    /// Keep LLVM IR, for people to read.
    pub llvm_ir: bool,
}

/// A compiled kernel and how it came about.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The kernel.
    pub kernel: CompiledKernel,
    /// Whether it was compiled now or found.
    pub origin: Origin,
    /// What it is stored under.
    pub key: CacheKey,
}

impl Compiled {
    /// What a launch looks for and what it should find, whatever this compiler kept besides: key and bytes at default options. For
    /// bundles.
    pub fn for_launch(&self) -> (CacheKey, Vec<u8>) {
        let key = CacheKey { options: CompileOptions::default().printed(), ..self.key.clone() };
        // What people read; the code is the same.
        let kernel = CompiledKernel { tile_ir: String::new(), llvm_ir: String::new(), ..self.kernel.clone() };
        (key, kernel.to_bytes())
    }
}

impl CompileOptions {
    /// As part of a key.
    fn printed(&self) -> String {
        format!("{self:?}")
    }
}

/// Why there is no compiled kernel.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CompileError {
    /// The kernel breaks a rule of tile IR or asks for something no target has; each finding has its place in the source.
    #[error("{0}")]
    Refused(Diagnostics),
    /// A pass made invalid tile IR: a bug of the compiler.
    #[error("{0}")]
    Pass(Arc<PassError>),
    /// The target cannot express the kernel, or the compiler failed.
    #[error("kernel `{kernel}`{}: {source}", at_spec(spec))]
    Codegen {
        /// The kernel.
        kernel: String,
        /// Its specialisation.
        spec: String,
        /// Why.
        source: Box<CodegenError>,
    },
    /// A parameter is neither a number nor a pointer.
    #[error(
        "kernel `{kernel}`: parameter `{param}` is neither a number nor a pointer, and cannot be given at a launch"
    )]
    Parameter {
        /// The kernel.
        kernel: String,
        /// The parameter.
        param: String,
    },
    /// Compiling at run time is denied and the kernel is in no bundle.
    #[error("kernel `{kernel}`{} for {target}: {source}", at_spec(spec))]
    Denied {
        /// The kernel.
        kernel: String,
        /// Its specialisation.
        spec: String,
        /// The target.
        target: Target,
        /// What to do.
        source: CacheError<std::convert::Infallible>,
    },
    /// This build has no compiler (feature `llvm`) and the kernel is in no bundle.
    #[error(
        "kernel `{kernel}`{} for {target} is in no bundle, and this program was built without a compiler; add the kernel to \
         the bundle (`leankv compile --bundle`, `leankv bundle-cache`, `Compiler::recording`) or build with feature `llvm`",
        at_spec(spec)
    )]
    NoCompiler {
        /// The kernel.
        kernel: String,
        /// Its specialisation.
        spec: String,
        /// The target.
        target: Target,
    },
    /// The GPU is older than every target.
    #[error("{device} has compute capability {}.{}; the oldest GPUs that kernels are compiled for have 8.0",
        capability.0, capability.1)]
    OldGpu {
        /// The GPU.
        device: String,
        /// Its compute capability.
        capability: (u32, u32),
    },
    /// The code cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Why compiled code cannot be loaded on a device.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// It was compiled for something else.
    #[error("kernel `{kernel}` was compiled for {compiled}, and {device} needs {needed}")]
    Target {
        /// The kernel.
        kernel: String,
        /// What it was compiled for.
        compiled: String,
        /// The device.
        device: String,
        /// What the device needs.
        needed: String,
    },
    /// The device refused it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The host loader refused it.
    #[error("kernel `{kernel}`: {source}")]
    Host {
        /// The kernel.
        kernel: String,
        /// Why.
        source: Box<codegen::LoadError>,
    },
}

fn at_spec(spec: &str) -> String {
    if spec.is_empty() { String::new() } else { format!(" ({spec})") }
}

/// Compiles kernels and remembers them.
#[derive(Debug)]
pub struct Compiler {
    cache: KernelCache,
    options: CompileOptions,
    recorded: Option<Mutex<BundleWriter>>,
    /// In the order in which they are asked.
    tuned: Vec<TunedTable>,
}

impl Compiler {
    /// A compiler over a cache.
    pub fn new(cache: KernelCache) -> Compiler {
        Compiler { cache, options: CompileOptions::default(), recorded: None, tuned: Vec::new() }
    }

    /// The process's compiler, over the user's cache and with the user's table of tuned specialisations; what [`Device::kernel`] uses.
    pub fn global() -> &'static Compiler {
        static GLOBAL: OnceLock<Compiler> = OnceLock::new();
        GLOBAL.get_or_init(|| Compiler::new(KernelCache::user()).with_tuned(TunedTable::user()))
    }

    /// The same compiler, which looks for tuned specialisations in this table, after those that it has ([`Compiler::load_tuned`]).
    pub fn with_tuned(mut self, table: TunedTable) -> Compiler {
        self.tuned.push(table);
        self
    }

    /// The same compiler with other options.
    pub fn with_options(self, options: CompileOptions) -> Compiler {
        Compiler { options, ..self }
    }

    /// The same compiler, which remembers every kernel that it gives, for a bundle: run what the program will run, on
    /// [emulated](Device::emulated) GPUs of every target.
    pub fn recording(self) -> Compiler {
        Compiler { recorded: Some(Mutex::default()), ..self }
    }

    /// What a [recording](Compiler::recording) compiler gave so far; nothing of another one.
    pub fn recorded(&self) -> BundleWriter {
        let lock =
            |recorded: &Mutex<BundleWriter>| recorded.lock().unwrap_or_else(|e| e.into_inner()).clone();
        self.recorded.as_ref().map(lock).unwrap_or_default()
    }

    /// Its cache: to deny compiling, add bundles, read statistics.
    pub fn cache(&self) -> &KernelCache {
        &self.cache
    }

    /// What a kernel is stored under.
    ///
    /// # Errors
    /// When this machine cannot be compiled for.
    pub fn key(&self, func: &Func, target: Target) -> Result<CacheKey, CompileError> {
        let processor = lower::processor(target).map_err(|source| CompileError::Codegen {
            kernel: func.name.clone(),
            spec: func.spec.clone(),
            source: Box::new(source),
        })?;
        Ok(CacheKey {
            // With locations: they reach the code as debug lines and in the messages of assertions.
            ir: Print { locs: true, ..Print::default() }.func(func),
            target: format!("{target} {processor}"),
            llvm: lower::llvm_version(),
            compiler: leankv_dsl::COMPILER_FINGERPRINT.to_owned(),
            options: self.options.printed(),
        })
    }

    /// The kernel for `target`, from the cache or compiled now.
    ///
    /// # Errors
    /// [`CompileError`]; never for the sake of the cache's files.
    pub fn compile(&self, func: &Func, target: Target) -> Result<Compiled, CompileError> {
        let key = self.key(func, target)?;
        // What was read of stored bytes to see that they can be used.
        let read = Cell::new(None);
        let fetched = self
            .cache
            .get_or_build(
                &key,
                |bytes| {
                    let found = CompiledKernel::from_bytes(bytes).filter(|k| k.info.target == target);
                    let usable = found.is_some();
                    read.set(found);
                    usable
                },
                || lower::lower(func, target, self.options).map(|kernel| kernel.to_bytes()),
            )
            .map_err(|error| match error {
                CacheError::Build(error) => error,
                CacheError::Denied { digest } => CompileError::Denied {
                    kernel: func.name.clone(),
                    spec: func.spec.clone(),
                    target,
                    source: CacheError::Denied { digest },
                },
            })?;
        let kernel = read
            .take()
            .or_else(|| CompiledKernel::from_bytes(&fetched.bytes))
            .expect("the cache gives bytes that were asked about, or that `to_bytes` just made");
        let compiled = Compiled { kernel, origin: fetched.origin, key };
        if let Some(recorded) = &self.recorded {
            let (key, bytes) = compiled.for_launch();
            recorded.lock().unwrap_or_else(|e| e.into_inner()).add(&key, bytes);
        }
        Ok(compiled)
    }

    /// The kernel, compiled for `device` and loaded on it.
    ///
    /// # Errors
    /// [`CompileError`].
    pub fn kernel(&self, device: &Device, func: &Func) -> Result<Kernel, CompileError> {
        if device.kind() == Kind::Reference {
            return Ok(device.interpret(func).map_err(LoadError::Device)?);
        }
        let target = device.target().ok_or_else(|| CompileError::OldGpu {
            device: device.name(),
            capability: device.compute_capability().unwrap_or_default(),
        })?;
        Ok(device.load(&self.compile(func, target)?.kernel)?)
    }

    /// One specialisation of a kernel, compiled for `device` and loaded on it.
    ///
    /// # Errors
    /// [`CompileError`]; [`CompileError::Refused`] for what is wrong with the kernel at this specialisation.
    pub fn load<K: TypedKernel>(
        &self,
        device: &Device,
        kernel: &K,
        spec: &K::Spec,
    ) -> Result<KernelOf<K>, CompileError> {
        self.load_with(device, kernel, spec, &Choices::new())
    }

    /// As [`Compiler::load`], recorded with these values: a user's codecs, hooks, policies.
    ///
    /// # Errors
    /// As [`Compiler::load`].
    pub fn load_with<K: TypedKernel>(
        &self,
        device: &Device,
        kernel: &K,
        spec: &K::Spec,
        choices: &Choices,
    ) -> Result<KernelOf<K>, CompileError> {
        let func = kernel.build_with(spec, choices).map_err(CompileError::Refused)?;
        Ok(KernelOf::new(self.kernel(device, &func)?, spec.clone()))
    }

    /// The kernel at the specialisation that a table has for this one: the fields that can be tuned ([`SpecField::tune`](leankv_dsl::lang::SpecField::tune)) are what was found
    /// for the device, for this specialisation or the nearest one that differs from it in numbers alone, and for the nearest sizes of a workload, as
    /// [`Tuner::sizes`](crate::tune::Tuner::sizes) names them; where nothing was found they are `spec`'s.
    /// [`KernelOf::spec`] says which: a launch's grid depends on it. A kernel of a table that cannot be had, since compiling is denied, say, is no error: then it is `spec`'s.
    ///
    /// # Errors
    /// As [`Compiler::load`].
    pub fn load_tuned<K: TypedKernel>(
        &self,
        device: &Device,
        kernel: &K,
        spec: &K::Spec,
        choices: &Choices,
        sizes: &[(&str, usize)],
    ) -> Result<KernelOf<K>, CompileError> {
        match self.tuned_spec(device, kernel, spec, choices, sizes) {
            Some(tuned) if tuned != *spec => match self.load_with(device, kernel, &tuned, choices) {
                Ok(kernel) => Ok(kernel),
                Err(error) => {
                    tracing::warn!(%error, "a tuned specialisation is not used");
                    self.load_with(device, kernel, spec, choices)
                }
            },
            _ => self.load_with(device, kernel, spec, choices),
        }
    }

    /// What the tables have for a specialisation.
    fn tuned_spec<K: TypedKernel>(
        &self,
        device: &Device,
        kernel: &K,
        spec: &K::Spec,
        choices: &Choices,
        sizes: &[(&str, usize)],
    ) -> Option<K::Spec> {
        if self.tuned.iter().all(TunedTable::is_empty) {
            return None;
        }
        let device = tune::device_key(device)?;
        let (fields, usual) = (K::Spec::fields(), spec.settings());
        let tunable: Vec<_> = fields.iter().filter(|field| !field.tune.is_empty()).collect();
        let mut given = usual.clone();
        given.retain(|name, _| !tunable.iter().any(|field| field.name == name));
        let question = Question { kernel: kernel.kernel_name(), device: &device, given: &given, sizes };
        let build =
            |settings: &Settings| kernel.build_with(&K::Spec::from_settings(settings).ok()?, choices).ok();
        let fingerprint = |all: &Settings| Some(tune::fingerprint(&build(all)?));
        // A table's file is anybody's: what it sets are fields that can be tuned, to values that the kernel declares.
        let usable = |set: &Settings| {
            let declared = |field: &&SpecField| {
                set.get(field.name)
                    .is_some_and(|v| field.tune.contains(v) || usual.get(field.name) == Some(v))
            };
            set.len() == tunable.len() && tunable.iter().all(declared)
        };
        let set = self.tuned.iter().find_map(|table| table.find(&question, fingerprint, usable))?;
        given.extend(set.clone());
        K::Spec::from_settings(&given).ok().filter(|spec| spec.check().is_ok())
    }
}

impl Device {
    /// Compiles `func` for this device, or finds it in the user's cache, and loads it.
    ///
    /// # Errors
    /// [`CompileError`].
    pub fn kernel(&self, func: &Func) -> Result<Kernel, CompileError> {
        Compiler::global().kernel(self, func)
    }
}
