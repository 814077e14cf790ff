//! The reference executor: it defines the meaning of the IR.
//!
//! [`launch`] runs a kernel over a grid on a [`Memory`]. Programs run one after another, in order or in a seeded
//! permutation; a kernel whose result depends on that is wrong, and the checks say so. It is slow next to generated code and
//! fast enough to run whole attention kernels at small shapes in a test.
//!
//! * Each op works on whole tiles, exactly as [`crate::ir::op`] says. `reduce`, `scan` and `dot` combine sequentially by index.
//! * Every access is checked: bounds, alignment, bytes never written, races between programs, duplicate addresses;
//!   see [`Options`] for what can be turned off. A [`Fault`] says what went wrong and where the user wrote
//!   it.
//! * Nothing a kernel does can panic or hang: a loop that does not end exceeds its step budget.
//!
//! ```
//! use leankv_dsl::interp::{self, Arg, Memory, Options};
//! use leankv_dsl::ir::{Access, Builder, Const, Dtype, Loc, Op, Param, Type, CacheHint, BinaryOp};
//!
//! let loc = Loc::caller();
//! let mut b = Builder::new("double", vec![Param::new("x", Type::ptr(Dtype::F32), Access::ReadWrite)], loc);
//! let x = b.func().param_values()[0];
//! let at = b.value(Op::Iota, &[], Some(&Type::tile(Dtype::I32, &[4])), loc)?;
//! let load = Op::Load { masked: false, other: false, cache: CacheHint::Default };
//! let v = b.value(load, &[x, at], None, loc)?;
//! let sum = b.value(Op::Binary(BinaryOp::Add), &[v, v], None, loc)?;
//! b.op(Op::Store { masked: false, cache: CacheHint::Default }, &[x, at, sum], None, loc)?;
//! let func = b.build(loc)?;
//!
//! let mut mem = Memory::new();
//! let data: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
//! let x = mem.alloc_bytes(&data);
//! let report = interp::launch(&func, [1, 1, 1], &[Arg::Buffer(x, 0)], &mut mem, &Options::default())?;
//! assert_eq!(&mem.bytes(x)[12..], 8f32.to_le_bytes());
//! assert_eq!(report.traffic[0].loaded, 16);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod args;
mod constant;
mod data;
mod elementwise;
mod exec;
mod fault;
mod fold;
mod memory;
mod number;
mod race;
mod shape_ops;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

pub use args::{Arg, ArgError, ScalarValue};
pub use constant::fold_constant;
pub use fault::{Fault, FaultKind};
pub use memory::{BufferId, Memory};

use crate::diag::Diagnostics;
use crate::ir::{Entity, Func, InstData, Op, Shape, Value, verify};

/// The largest number of programs of one launch (2^24); the interpreter is not for more.
pub const MAX_PROGRAMS: u64 = 1 << 24;

/// The order in which programs run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// By index, x fastest.
    #[default]
    Sequential,
    /// A permutation that depends on the seed alone.
    Shuffled(u64),
}

/// What to check and how far to go. By default everything is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Order of the programs.
    pub order: Order,
    /// Addresses must be multiples of the element's size.
    pub check_alignment: bool,
    /// Bytes must be written before they are read.
    pub check_uninitialised: bool,
    /// Programs must not race: no byte written with different values by two of them, none read by one and written by another,
    /// unless atomics order the two. Two atomics never race.
    pub check_races: bool,
    /// One store must not write different values to one address.
    pub check_duplicate_stores: bool,
    /// Integer division by zero is a fault; otherwise it gives 0, as in generated code.
    pub check_division: bool,
    /// A loop that would run but for a step of 0 or below is a fault; otherwise it does not run, as in generated code.
    pub check_steps: bool,
    /// Steps (ops and iterations) that one program may take.
    pub max_steps: u64,
    /// The launch stops at this many faults. A program ends at its first.
    pub max_faults: usize,
    /// Prints beyond this many are dropped.
    pub max_prints: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            order: Order::Sequential,
            check_alignment: true,
            check_uninitialised: true,
            check_races: true,
            check_duplicate_stores: true,
            check_division: true,
            check_steps: true,
            max_steps: 50_000_000,
            max_faults: 8,
            max_prints: 10_000,
        }
    }
}

/// Bytes that a launch moved through one parameter; masked-off elements do not count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// The parameter's name.
    pub param: String,
    /// Bytes loaded, asynchronous copies included.
    pub loaded: u64,
    /// Bytes stored.
    pub stored: u64,
    /// Bytes of elements that atomics changed.
    pub atomic: u64,
}

/// One execution of `print`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Printed {
    /// The program that printed.
    pub program: [u32; 3],
    /// The prefix and the values, tiles in brackets.
    pub text: String,
}

/// What a launch did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Programs that ran.
    pub programs: u64,
    /// Steps taken by all of them.
    pub steps: u64,
    /// How much there was to do: for each op that ran, the elements of its largest tile, or the products of a `dot`.
    pub work: u64,
    /// How often each op ran, by its name in IR text.
    pub ops: BTreeMap<&'static str, u64>,
    /// One entry a parameter, in order; those of scalars stay 0.
    pub traffic: Vec<Traffic>,
    /// What was printed, in the order in which programs ran.
    pub printed: Vec<Printed>,
}

/// Why a launch failed.
#[derive(Clone, PartialEq, Debug)]
pub enum LaunchError {
    /// The kernel breaks the IR's rules; nothing ran.
    Invalid(Diagnostics),
    /// The arguments do not fit the kernel's parameters; nothing ran.
    Arguments(Vec<ArgError>),
    /// The grid has more than [`MAX_PROGRAMS`] programs; nothing ran.
    Grid([u32; 3]),
    /// The kernel did something wrong. Memory holds what was written until then.
    Faults(Vec<Fault>),
}

impl LaunchError {
    /// The faults; empty when nothing ran.
    pub fn faults(&self) -> &[Fault] {
        match self {
            LaunchError::Faults(faults) => faults,
            _ => &[],
        }
    }
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn lines<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T], between: &str) -> fmt::Result {
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    f.write_str(between)?;
                }
                write!(f, "{item}")?;
            }
            Ok(())
        }
        match self {
            LaunchError::Invalid(errors) => errors.fmt(f),
            LaunchError::Arguments(errors) => lines(f, errors, "\n"),
            LaunchError::Grid([x, y, z]) => {
                write!(
                    f,
                    "a grid of {x} x {y} x {z} programs is too large for the interpreter (at most {MAX_PROGRAMS})"
                )
            }
            LaunchError::Faults(faults) => lines(f, faults, "\n\n"),
        }
    }
}

impl std::error::Error for LaunchError {}

/// Runs `func` once for each program of the grid. A grid with an extent of 0 runs nothing.
///
/// # Errors
/// When the kernel breaks the IR's rules, the arguments do not fit, the grid is too large, or a program faults.
pub fn launch(
    func: &Func,
    grid: [u32; 3],
    args: &[Arg],
    memory: &mut Memory,
    options: &Options,
) -> Result<Report, LaunchError> {
    verify(func).map_err(LaunchError::Invalid)?;
    let bound = args::bind(func, args, memory).map_err(LaunchError::Arguments)?;
    let programs: u64 = grid
        .iter()
        .try_fold(1u64, |n, &extent| n.checked_mul(extent.into()).filter(|&n| n <= MAX_PROGRAMS))
        .or_else(|| grid.contains(&0).then_some(0))
        .ok_or(LaunchError::Grid(grid))?;
    let global = access::Global {
        races: (options.check_races && (programs > 1 || args::may_alias(args)))
            .then(|| race::Races::new(memory.len())),
        memory,
        options,
        access: func.params.iter().map(|p| p.access).collect(),
        traffic: func
            .params
            .iter()
            .map(|p| Traffic { param: p.name.clone(), ..Traffic::default() })
            .collect(),
        grid,
    };
    let mut machine = exec::Machine::new(func, options, global, bound);
    let mut faults = Vec::new();
    for linear in order(programs as u32, options.order) {
        if let Err(fault) = machine.run_program(access::program_at(grid, linear), linear) {
            // What does not end in one program takes as long in the next.
            let endless = matches!(fault.kind, FaultKind::StepBudget { .. });
            faults.push(*fault);
            if endless || faults.len() >= options.max_faults.max(1) {
                break;
            }
        }
    }
    if !faults.is_empty() {
        return Err(LaunchError::Faults(faults));
    }
    let (mut ops, mut work) = (BTreeMap::new(), 0u64);
    for inst in func.walk() {
        let (data, count) = (func.inst(inst), machine.counts[inst.index()]);
        *ops.entry(data.op.name()).or_insert(0) += count;
        work = work.saturating_add(count.saturating_mul(size(func, data)));
    }
    Ok(Report {
        programs,
        steps: machine.steps,
        work,
        ops,
        traffic: machine.global.traffic,
        printed: machine.printed,
    })
}

/// The elements of an op's largest tile, or the products of a `dot`.
fn size(func: &Func, data: &InstData) -> u64 {
    let elements = |&v: &Value| func.ty(v).shape().map_or(1, Shape::elements);
    let largest = data.operands.iter().chain(&data.results).map(elements).max().unwrap_or(1);
    match (&data.op, data.operands.first().and_then(|&a| func.ty(a).shape())) {
        (Op::Dot, Some(a)) => largest.max(elements(&data.results[0]) * u64::from(a[1])),
        _ => largest,
    }
}

fn order(programs: u32, order: Order) -> Vec<u32> {
    let mut out: Vec<u32> = (0..programs).collect();
    if let Order::Shuffled(seed) = order {
        let mut state = seed;
        for i in (1..out.len()).rev() {
            // Fisher and Yates, with splitmix64 for the draws.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let draw = (z ^ (z >> 31)) % (i as u64 + 1);
            out.swap(i, draw as usize);
        }
    }
    out
}
