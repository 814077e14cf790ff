//! Launches of compiled kernels on one host thread, timed.
#![allow(dead_code, reason = "not every bench needs all of it")]

use std::time::Instant;

use leankv_dsl::codegen::host::{HostArg, HostArtifact, HostKernel, HostOptions, compile};
use leankv_dsl::ir::Func;
use leankv_dsl::lang::{Spec, TypedKernel};
use leankv_dsl::pass::{self, Facts};
use leankv_dsl::workload::{Argument, Guarded, Item, Workload, scalar_bits};

/// A kernel's function and code.
pub(crate) type Compiled = (Func, HostArtifact);

/// Compiles a kernel with these settings, as `name=value,name=value`.
pub(crate) fn compiled<K: TypedKernel>(kernel: &K, settings: &str, options: &HostOptions) -> Compiled {
    let pairs = settings.split(',').filter_map(|pair| pair.split_once('='));
    let settings = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let spec = K::Spec::from_settings(&settings).unwrap_or_else(|e| panic!("{e}"));
    let func = kernel.build_spec(&spec).unwrap_or_else(|e| panic!("{e}"));
    let mut lowered = func.clone();
    pass::standard().run(&mut lowered, &mut Facts::new()).unwrap_or_else(|e| panic!("{e}"));
    let artifact = compile(&lowered, options).unwrap_or_else(|e| panic!("{e}"));
    (func, artifact)
}

/// A kernel with its arguments in memory of their own.
pub(crate) struct Launch {
    kernel: HostKernel,
    grid: [u32; 3],
    args: Vec<HostArg>,
    buffers: Vec<(String, Guarded)>,
}

impl Launch {
    pub(crate) fn new<K: TypedKernel>(
        (func, artifact): &Compiled,
        _: &K,
        grid: [usize; 3],
        args: K::Args<'_>,
    ) -> Launch {
        let workload = Workload::of::<K>(grid, args);
        let arguments = workload.arguments(func).unwrap_or_else(|e| panic!("{e}"));
        let kernel = HostKernel::load(artifact).unwrap_or_else(|e| panic!("{e}"));
        let mut launch = Launch { kernel, grid: workload.grid(), args: Vec::new(), buffers: Vec::new() };
        for (name, argument) in arguments {
            launch.args.push(match argument {
                Argument::Scalar(value) => HostArg::Bits(scalar_bits(value)),
                Argument::Buffer(buffer) => {
                    let mut memory = Guarded::new(&buffer.bytes);
                    let at = HostArg::Ptr(memory.as_mut_ptr());
                    launch.buffers.push((name, memory));
                    at
                }
            });
        }
        launch
    }

    /// Runs once; milliseconds.
    pub(crate) fn time(&self) -> f64 {
        let start = Instant::now();
        // SAFETY: a workload's arguments are the kernel's parameters in order, and views describe their buffers.
        unsafe { self.kernel.launch(self.grid, &self.args, 1) }.unwrap_or_else(|e| panic!("{e}"));
        start.elapsed().as_secs_f64() * 1e3
    }

    /// The shortest of several launches; milliseconds.
    pub(crate) fn best(&self, turns: usize) -> f64 {
        (0..turns).map(|_| self.time()).fold(f64::MAX, f64::min)
    }

    /// What a buffer holds now, by the name of its parameter.
    pub(crate) fn read<T: Item>(&self, name: &str) -> Vec<T> {
        let (_, memory) = self.buffers.iter().find(|(of, _)| of == name).expect("there is such a buffer");
        T::take(memory.bytes())
    }
}
