//! Launching a kernel on the reference interpreter, whose results a test goes on with, and on every other executor, which must leave the same
//! in every buffer.
#![allow(dead_code, unreachable_pub)]

pub mod cache;
pub mod paged;

use half::f16;
use leankv_dsl::interp::{self, Arg, BufferId, Memory, Options};
use leankv_dsl::ir::{Dtype, Func};
use leankv_dsl::lang::launch::TensorMut;
use leankv_dsl::lang::{Choices, Plain, Settings, Spec, TypedKernel};
use leankv_dsl::workload::{Argument, Generator, Item, Workload, given};
use leankv_kernels::candidates::{
    FindsArgs, LookingArgs, SHORTLIST_COLUMNS, ShortlistMutArgs, ShortlistState,
};
use leankv_kernels::decode::PartialsArgs;
use leankv_kernels::pending::PendingArgs;
use leankv_tests::conformance::case::{Output, Slot};
use leankv_tests::conformance::compare::differences;
use leankv_tests::conformance::executors::{Host, Ptx, PtxApart};
use leankv_tests::conformance::{Case, CaseArg, Check, Executor};

/// A launch of a kernel, and the memory that it works on.
pub struct Run {
    /// With the buffers as they are before it.
    pub case: Case,
    memory: Memory,
    args: Vec<Arg>,
}

/// The settings in `name=value,name=value`.
pub fn settings(text: &str) -> Settings {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Of a kernel, the spec with these [`settings`].
#[track_caller]
pub fn spec<K: TypedKernel>(_: &K, text: &str) -> K::Spec {
    Spec::from_settings(&settings(text)).unwrap_or_else(|error| panic!("{error}"))
}

impl Run {
    /// A kernel at the specialisation with these [`settings`].
    #[track_caller]
    pub fn new<K: TypedKernel>(kernel: &K, settings: &str, grid: [usize; 3], args: K::Args<'_>) -> Run {
        Run::with(kernel, &spec(kernel, settings), &Choices::new(), grid, args)
    }

    /// A kernel at a specialisation, recorded with choices.
    #[track_caller]
    pub fn with<K: TypedKernel>(
        kernel: &K,
        spec: &K::Spec,
        choices: &Choices,
        grid: [usize; 3],
        args: K::Args<'_>,
    ) -> Run {
        let func = kernel.build_with(spec, choices).unwrap_or_else(|found| panic!("{found}"));
        Run::of(func, &Workload::of::<K>(grid, args))
    }

    #[track_caller]
    fn of(func: Func, workload: &Workload) -> Run {
        let arguments = workload.arguments(&func).unwrap_or_else(|error| panic!("{error}"));
        let mut memory = Memory::new();
        let mut case = Case { grid: workload.grid(), ..Case::of(func.name.clone(), func) };
        let mut args = Vec::new();
        for (name, argument) in arguments {
            match argument {
                Argument::Scalar(value) => {
                    args.push(Arg::Scalar(value));
                    case.args.push(CaseArg::Scalar(value));
                }
                Argument::Buffer(buffer) => {
                    args.push(Arg::Buffer(memory.alloc_bytes(&buffer.bytes), 0));
                    // Weights are rounded to f16 before they meet values of magnitude 3 and less, so one rounding that falls
                    // the other way moves a sum by up to 2^-11 of that.
                    let check = match buffer.dtype.is_float() {
                        true => Check::Close { rel: 2e-3, abs: 1.5e-3 },
                        false => Check::Bits,
                    };
                    let output = Some(Output { check, expect: None });
                    case.args.push(CaseArg::Buffer(Slot {
                        name,
                        dtype: buffer.dtype,
                        bytes: buffer.bytes,
                        output,
                    }));
                }
            }
        }
        Run { case, memory, args }
    }

    /// Runs on the interpreter alone, with every check.
    #[track_caller]
    pub fn interpret(mut self) -> Run {
        let Case { func, grid, .. } = &self.case;
        interp::launch(func, *grid, &self.args, &mut self.memory, &Options::default())
            .unwrap_or_else(|error| panic!("{error}"));
        self
    }

    /// Runs, with every check of the interpreter, then on the other executors.
    #[track_caller]
    pub fn launch(self) -> Run {
        let run = self.interpret();
        for executor in [&Host as &dyn Executor, &Ptx, &PtxApart] {
            run.compare(executor);
        }
        run
    }

    /// The buffers with their content before the launch.
    fn buffers(&self) -> impl Iterator<Item = (&Slot, BufferId)> {
        self.case.args.iter().zip(&self.args).filter_map(|both| match both {
            (CaseArg::Buffer(slot), Arg::Buffer(id, _)) => Some((slot, *id)),
            _ => None,
        })
    }

    /// Runs on another executor and compares every buffer with what the interpreter left.
    #[track_caller]
    fn compare(&self, executor: &dyn Executor) {
        let Case { func, .. } = &self.case;
        let what = format!("{} ({}) on {}", func.name, func.spec, executor.name());
        let got = executor.run(&self.case).unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
        for ((slot, id), got) in self.buffers().zip(&got) {
            let want = self.memory.bytes(id);
            let check = slot.output.as_ref().map_or(Check::Bits, |output| output.check);
            // Only these add floats to an arena of bytes; its words are either untouched or sums of probabilities.
            let adds = ["cached_significance", "decode_attention"].contains(&func.name.as_str());
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

    /// What a buffer holds now, by the name of its parameter.
    #[track_caller]
    pub fn read<T: Item>(&self, name: &str) -> Vec<T> {
        let found = self.buffers().find(|(slot, _)| slot.name == name);
        let (slot, id) = found.unwrap_or_else(|| panic!("there is no buffer `{name}`"));
        assert_eq!(slot.dtype, T::DTYPE, "{name}");
        T::take(self.memory.bytes(id))
    }
}

/// A tensor to write, of one number.
pub fn filled<T: Item + Plain, const R: usize>(fill: T, extents: [usize; R]) -> TensorMut<'static, T, R> {
    given(&vec![fill; extents.iter().product()]).tensor_mut(extents)
}

/// What decode attention leaves of `kv_heads` KV heads: `[requests, query_heads, splits]`, no numbers yet.
pub fn no_partials<'a>(extents: [usize; 3], kv_heads: usize, head_dim: usize) -> PartialsArgs<'a> {
    let [requests, heads, splits] = extents;
    PartialsArgs {
        splits: filled(-7, [requests, kv_heads]),
        lse: filled(f32::NAN, extents),
        out: filled(f32::NAN, [requests, heads, splits, head_dim]),
    }
}

/// What decode attention left.
pub fn partials<'a>(decode: &Run, extents: [usize; 3], kv_heads: usize, head_dim: usize) -> PartialsArgs<'a> {
    let [requests, heads, splits] = extents;
    PartialsArgs {
        splits: given(&decode.read("out.splits")).tensor_mut([requests, kv_heads]),
        lse: given(&decode.read("out.lse")).tensor_mut(extents),
        out: given(&decode.read("out.out")).tensor_mut([requests, heads, splits, head_dim]),
    }
}

/// No pending queries: without significance nobody looks at them.
pub fn nothing_pending<'a>(heads: usize, kv_heads: usize, head_dim: usize) -> PendingArgs<'a> {
    PendingArgs {
        q: given(&[]).tensor([0, heads, head_dim]),
        lse: given(&[]).tensor([0, heads]),
        newest: given(&[]).tensor([0, kv_heads, 1]),
    }
}

/// Finds of splits, which are not looked at.
pub fn no_finds<'a>(kv_heads: usize) -> FindsArgs<'a> {
    let [sigs, ats] = SHORTLIST_COLUMNS;
    FindsArgs { sig: filled(0.0, [0, kv_heads, sigs, 0]), at: filled(0, [0, kv_heads, ats, 0]) }
}

/// What decode attention looks for candidates with, which is not looked at.
pub fn not_looking<'a>(kv_heads: usize) -> LookingArgs<'a> {
    LookingArgs {
        prompts: given(&[]).tensor([0]),
        finds: no_finds(kv_heads),
        state: filled(0, [0, kv_heads, ShortlistState::COLUMNS]),
    }
}

/// The shortlist that a merge does not write.
pub fn no_shortlist<'a>(kv_heads: usize) -> ShortlistMutArgs<'a> {
    let [sigs, ats] = SHORTLIST_COLUMNS;
    ShortlistMutArgs { sig: filled(0.0, [0, kv_heads, sigs]), at: filled(0, [0, kv_heads, ats]) }
}

/// Zeroes, in both, the words that changed and that agree as f32 within 1e-4.
fn clear_close_sums(before: &[u8], got: &mut [u8], want: &mut [u8]) {
    let words = before.chunks_exact(4).zip(got.chunks_exact_mut(4)).zip(want.chunks_exact_mut(4));
    for ((before, got), want) in words {
        if before != want && (f32::take(got)[0] - f32::take(want)[0]).abs() < 1e-4 {
            got.fill(0);
            want.fill(0);
        }
    }
}

/// `len` reproducible numbers in `-1..1`.
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    Generator::new(seed).f32s(len, -1.0, 1.0)
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
