//! Launching a kernel by parameter name: on the reference interpreter, whose results a test goes on with, and on every
//! other executor, which must leave the same in every buffer.
#![allow(dead_code, unreachable_pub)]

pub mod cache;
pub mod paged;

use std::collections::BTreeMap;

use half::{bf16, f16};
use leankv_dsl::interp::{self, Arg, BufferId, Memory, Options, Report, ScalarValue};
use leankv_dsl::ir::{Dtype, Func};
use leankv_dsl::lang::{KernelDef, Settings};
use leankv_tests::conformance::case::{Output, Slot};
use leankv_tests::conformance::compare::differences;
use leankv_tests::conformance::executors::{Host, Ptx, PtxApart};
use leankv_tests::conformance::{Case, CaseArg, Check, Executor};

/// Element types of host data.
pub trait Item: Copy {
    const BYTES: usize;
    const DTYPE: Dtype;
    fn write(self, out: &mut Vec<u8>);
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! items {
    ($($ty:ty: $dtype:ident)*) => {$(
        impl Item for $ty {
            const BYTES: usize = size_of::<$ty>();
            const DTYPE: Dtype = Dtype::$dtype;
            fn write(self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Self {
                <$ty>::from_le_bytes(bytes.try_into().expect("chunks have the element's size"))
            }
        }
    )*};
}
items!(u8: U8 u16: U16 u32: U32 i32: I32 i64: I64 f32: F32 f16: F16 bf16: BF16);

/// A kernel with its arguments so far.
pub struct Run {
    pub func: Func,
    pub memory: Memory,
    args: BTreeMap<String, Arg>,
    buffers: BTreeMap<String, (BufferId, Dtype)>,
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
        self.buffers.insert(name.to_owned(), (id, T::DTYPE));
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
    /// Decode attention's shortlist, which is not looked at.
    pub fn no_shortlist(&mut self, kv_heads: usize) -> &mut Run {
        self.view::<i32>("shortlist.prompts", &[], &[0]);
        self.view::<f32>("shortlist.sig", &[], &[0, kv_heads, 0]);
        self.view::<i32>("shortlist.at", &[], &[0, kv_heads, 0]);
        self.view::<i32>("shortlist.state", &[], &[0, kv_heads, 5])
    }

    pub fn scalar(&mut self, name: &str, value: impl Into<ScalarValue>) -> &mut Run {
        self.args.insert(name.to_owned(), Arg::Scalar(value.into()));
        self
    }

    /// Runs on the interpreter alone, with every check.
    #[track_caller]
    pub fn interpret(&mut self, grid: [usize; 3]) -> Report {
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

    /// Runs, with every check of the interpreter, then on the other executors.
    #[track_caller]
    pub fn launch(&mut self, grid: [usize; 3]) -> Report {
        let case = self.case(grid.map(|n| u32::try_from(n).expect("grids are small")));
        let report = self.interpret(grid);
        for executor in [&Host as &dyn Executor, &Ptx, &PtxApart] {
            self.compare(executor, &case);
        }
        report
    }

    /// The launch as a case, with the buffers as they are before it.
    pub fn case(&self, grid: [u32; 3]) -> Case {
        let arg = |name: &String| match (self.args[name], self.buffers.get(name)) {
            (Arg::Scalar(value), _) => CaseArg::Scalar(value),
            (Arg::Buffer(id, _), Some(&(_, dtype))) => {
                // Weights are rounded to f16 before they meet values of magnitude 3 and less, so one rounding that falls
                // the other way moves a sum by up to 2^-11 of that.
                let check = match dtype.is_float() {
                    true => Check::Close { rel: 2e-3, abs: 1.5e-3 },
                    false => Check::Bits,
                };
                let bytes = self.memory.bytes(id).to_vec();
                CaseArg::Buffer(Slot {
                    name: name.clone(),
                    dtype,
                    bytes,
                    output: Some(Output { check, expect: None }),
                })
            }
            (Arg::Buffer(..), None) => unreachable!("every buffer of a run has an element type"),
        };
        let args = self.func.params.iter().map(|p| arg(&p.name)).collect();
        Case {
            name: self.func.name.clone(),
            func: self.func.clone(),
            grid,
            args,
            fails: false,
            checked: true,
        }
    }

    /// Runs on another executor and compares every buffer with what the interpreter left.
    #[track_caller]
    fn compare(&self, executor: &dyn Executor, case: &Case) {
        let what = format!("{} ({}) on {}", self.func.name, self.func.spec, executor.name());
        let got = executor.run(case).unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
        for (slot, got) in case.buffers().zip(&got) {
            let want = self.memory.bytes(self.buffers[&slot.name].0);
            let check = slot.output.as_ref().map_or(Check::Bits, |output| output.check);
            // Only these add floats to an arena of bytes; its words are either untouched or sums of probabilities.
            let adding = ["cached_significance", "decode_attention"];
            let adds = adding.contains(&self.func.name.as_str());
            let found = if slot.dtype == Dtype::U8 && adds {
                let (mut got, mut want) = (got.clone(), want.to_vec());
                clear_close_sums(&slot.bytes, &mut got, &mut want);
                differences(&slot.name, slot.dtype, Check::Bits, &got, &want)
            } else {
                differences(&slot.name, slot.dtype, check, got, want)
            };
            if let Some(found) = found {
                panic!("{what}: {found}");
            }
        }
    }

    /// What a buffer holds now.
    pub fn read<T: Item>(&self, name: &str) -> Vec<T> {
        self.memory.bytes(self.buffers[name].0).chunks_exact(T::BYTES).map(T::read).collect()
    }
}

/// Zeroes, in both, the words that changed and that agree as f32 within 1e-4.
fn clear_close_sums(before: &[u8], got: &mut [u8], want: &mut [u8]) {
    let words = before.chunks_exact(4).zip(got.chunks_exact_mut(4)).zip(want.chunks_exact_mut(4));
    for ((before, got), want) in words {
        if before != want && (f32::read(got) - f32::read(want)).abs() < 1e-4 {
            got.fill(0);
            want.fill(0);
        }
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
