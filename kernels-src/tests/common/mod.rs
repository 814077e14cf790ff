//! Launching a kernel on the reference interpreter, by parameter name.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;

use half::f16;
use leankv_dsl::interp::{self, Arg, BufferId, Memory, Options, Report, ScalarValue};
use leankv_dsl::ir::Func;
use leankv_dsl::lang::{KernelDef, Settings};

/// Element types of host data.
pub trait Item: Copy {
    const BYTES: usize;
    fn write(self, out: &mut Vec<u8>);
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! items {
    ($($ty:ty)*) => {$(
        impl Item for $ty {
            const BYTES: usize = size_of::<$ty>();
            fn write(self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Self {
                <$ty>::from_le_bytes(bytes.try_into().expect("chunks have the element's size"))
            }
        }
    )*};
}
items!(u8 u16 u32 i32 i64 f32 f16);

/// A kernel with its arguments so far.
pub struct Run {
    pub func: Func,
    pub memory: Memory,
    args: BTreeMap<String, Arg>,
    buffers: BTreeMap<String, BufferId>,
}

impl Run {
    /// A kernel at a specialisation.
    #[track_caller]
    pub fn new(kernel: &dyn KernelDef, settings: &[(&str, &str)]) -> Run {
        let settings: Settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let func = kernel.build(&settings).unwrap_or_else(|found| panic!("{found}"));
        Run { func, memory: Memory::new(), args: BTreeMap::new(), buffers: BTreeMap::new() }
    }

    /// A pointer to a copy of `data`.
    pub fn buffer<T: Item>(&mut self, name: &str, data: &[T]) -> &mut Run {
        let mut bytes = Vec::new();
        data.iter().for_each(|x| x.write(&mut bytes));
        let id = self.memory.alloc_bytes(&bytes);
        self.buffers.insert(name.to_owned(), id);
        self.args.insert(name.to_owned(), Arg::Buffer(id, 0));
        self
    }

    /// A view of a copy of `data`.
    pub fn view<T: Item>(&mut self, name: &str, data: &[T], extents: &[usize]) -> &mut Run {
        assert_eq!(data.len(), extents.iter().product::<usize>(), "{name}");
        self.buffer(name, data);
        let mut stride = 1;
        for (axis, &extent) in extents.iter().enumerate().rev() {
            self.scalar(&format!("{name}.shape{axis}"), extent as i64);
            self.scalar(&format!("{name}.stride{axis}"), stride as i64);
            stride *= extent;
        }
        self
    }

    /// A scalar.
    pub fn scalar(&mut self, name: &str, value: impl Into<ScalarValue>) -> &mut Run {
        self.args.insert(name.to_owned(), Arg::Scalar(value.into()));
        self
    }

    /// Runs, with every check of the interpreter.
    #[track_caller]
    pub fn launch(&mut self, grid: [usize; 3]) -> Report {
        let args: Vec<Arg> = self
            .func
            .params
            .iter()
            .map(|p| *self.args.get(&p.name).unwrap_or_else(|| panic!("no argument `{}`", p.name)))
            .collect();
        let grid = grid.map(|n| u32::try_from(n).expect("grids are small"));
        interp::launch(&self.func, grid, &args, &mut self.memory, &Options::default())
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// What a buffer holds now.
    pub fn read<T: Item>(&self, name: &str) -> Vec<T> {
        self.memory.bytes(self.buffers[name]).chunks_exact(T::BYTES).map(T::read).collect()
    }
}

/// `len` reproducible numbers in `-1..1`.
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32) / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

/// The numbers as f16, and what f16 makes of them.
pub fn halves(x: &[f32]) -> (Vec<f16>, Vec<f32>) {
    let halves: Vec<f16> = x.iter().map(|&x| f16::from_f32(x)).collect();
    let rounded = halves.iter().map(|h| h.to_f32()).collect();
    (halves, rounded)
}

/// Asserts that numbers agree within `tolerance`; infinities must be equal.
#[track_caller]
pub fn close(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let fine = g == e || (g - e).abs() <= tolerance;
        assert!(fine, "{what}: element {i} is {g}, expected {e}");
    }
}
