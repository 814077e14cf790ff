//! `for`.

use std::marker::PhantomData;

use super::slot::{Kind, KindOf, Recorded, Slot, Static};
use super::state::Carried;
use super::turns::Rehearsal;
use crate::ir::{Loc, Op, Type};
use crate::lang::element::Index;
use crate::lang::ops::scalar;
use crate::lang::record::{self, Handle, Region};
use crate::lang::tile::{Operand, Scalar, Tile};

/// Run-time bounds of a loop.
#[derive(Clone, Debug)]
pub struct Bounds {
    lower: Handle,
    upper: Handle,
    step: Handle,
    index: Type,
    stages: u8,
    loc: Loc,
}

/// What a kernel can loop over: a recorded [`Range`] (or something made of one with [`Range::map`]), or any Rust iterator, whose turns
/// are then all recorded one after another.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be looped over",
    label = "neither a run-time range nor a Rust iterator",
    note = "a loop with run-time bounds is written `for i in range(low, high)`"
)]
pub trait Iterable: Sized {
    /// Whether the loop is recorded.
    type Kind: Kind;
    /// What the loop variable is.
    type Item;
    /// Gives the items: all of a static loop, exactly one of a recorded loop, each time it is asked.
    type Iter: Iterator<Item = Self::Item>;

    /// The bounds of a recorded loop.
    fn bounds(&self) -> Option<Bounds>;
    /// The items; `index` is a recorded loop's index. A static loop is asked once and takes the source.
    #[doc(hidden)]
    fn items(source: &mut Option<Self>, index: Scalar<i64>) -> Option<Self::Iter>;
}

#[diagnostic::do_not_recommend]
impl<I: IntoIterator> Iterable for I {
    type Kind = Static;
    type Item = I::Item;
    type Iter = I::IntoIter;

    fn bounds(&self) -> Option<Bounds> {
        None
    }

    fn items(source: &mut Option<I>, _: Scalar<i64>) -> Option<I::IntoIter> {
        source.take().map(I::into_iter)
    }
}

/// Run-time indices `low, low + step, ..` below `high`.
pub struct Range<E> {
    bounds: Bounds,
    index: PhantomData<fn() -> E>,
}

impl<E> Clone for Range<E> {
    fn clone(&self) -> Self {
        Range { bounds: self.bounds.clone(), index: PhantomData }
    }
}

impl<E> std::fmt::Debug for Range<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("range")
    }
}

/// The run-time range `low .. high` of `i32` or `i64`: a recorded loop.
///
/// A loop over a plain Rust range (`0..4`) is unrolled while the kernel is recorded.
#[track_caller]
pub fn range<E: Index>(low: impl Operand<E, 0>, high: impl Operand<E, 0>) -> Range<E> {
    let loc = Loc::caller();
    let bounds = Bounds {
        lower: scalar::<E>(low, loc),
        upper: scalar::<E>(high, loc),
        step: record::constant(crate::ir::Const::Int(1), &Type::scalar(E::TYPE), loc),
        index: Type::scalar(E::TYPE),
        stages: 1,
        loc,
    };
    Range { bounds, index: PhantomData }
}

impl<E: Index> Range<E> {
    /// With this step, which must be positive.
    #[track_caller]
    pub fn step(mut self, step: impl Operand<E, 0>) -> Self {
        self.bounds.step = scalar::<E>(step, Loc::caller());
        self
    }

    /// Asks for a software pipeline of this depth: loads of later turns run ahead.
    #[track_caller]
    pub fn stages(mut self, stages: usize) -> Self {
        match u8::try_from(stages) {
            Ok(stages @ 1..=16) => self.bounds.stages = stages,
            _ => record::report(
                crate::diag::Diagnostic::error(
                    record::BAD_ARGUMENT,
                    Loc::caller(),
                    format!("a pipeline of {stages} stages"),
                )
                .help("a pipeline has 1 to 16 stages; 1 asks for none"),
            ),
        }
        self
    }

    /// The range of what `f` makes of each index. `f` runs inside of the loop and may record ops.
    pub fn map<T, F: FnMut(Scalar<E>) -> T>(self, f: F) -> Mapped<E, F> {
        Mapped { range: self, f }
    }
}

/// A [`Range`] of values made from indices.
pub struct Mapped<E, F> {
    range: Range<E>,
    f: F,
}

impl<E, F> std::fmt::Debug for Mapped<E, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("range")
    }
}

impl<E: Index> Iterable for Range<E> {
    type Kind = Recorded;
    type Item = Scalar<E>;
    type Iter = std::option::IntoIter<Scalar<E>>;

    fn bounds(&self) -> Option<Bounds> {
        Some(self.bounds.clone())
    }

    fn items(_: &mut Option<Self>, index: Scalar<i64>) -> Option<Self::Iter> {
        Some(Some(Tile::new(index.handle)).into_iter())
    }
}

impl<E: Index, T, F: FnMut(Scalar<E>) -> T> Iterable for Mapped<E, F> {
    type Kind = Recorded;
    type Item = T;
    type Iter = std::option::IntoIter<T>;

    fn bounds(&self) -> Option<Bounds> {
        Some(self.range.bounds.clone())
    }

    fn items(source: &mut Option<Self>, index: Scalar<i64>) -> Option<Self::Iter> {
        source.as_mut().map(|mapped| Some((mapped.f)(Tile::new(index.handle))).into_iter())
    }
}

/// A `for` that is being recorded, or runs.
///
/// The kind stands in the type by itself: where `I` cannot be looped over it is unknown, and follow-up errors stay away.
pub struct ForLoop<I, K> {
    source: Option<I>,
    bounds: Option<Bounds>,
    loc: Loc,
    begun: bool,
    state: State,
    marker: PhantomData<fn() -> K>,
}

/// How far a recorded loop is.
enum State {
    /// A static loop, or nothing happened yet, or it was left early.
    Idle,
    /// The region is open.
    Open { open: Open, params: Vec<Handle>, index: Handle, ended: bool },
    /// The region is closed.
    Done { region: Region, carried: Carried, params: Vec<Handle>, yields: Vec<Handle> },
}

/// What a loop keeps from turn to turn.
struct Open {
    region: Option<Region>,
    depth: usize,
    index: Type,
    carried: Carried,
    rehearsal: Rehearsal,
}

impl Open {
    /// Opens the region and gives the variables its parameters.
    fn open(self, slots: &mut [Slot<'_>]) -> State {
        let mut types = vec![self.index.clone()];
        types.extend(self.carried.types());
        let mut params = self.region.map(|region| record::open(region, &types)).unwrap_or_default();
        let index = if params.is_empty() { Handle::poison() } else { params.remove(0) };
        self.carried.rebind(slots, &params);
        State::Open { open: self, params, index, ended: false }
    }
}

/// Starts a `for`.
#[doc(hidden)]
#[track_caller]
pub fn for_begin<I: Iterable>(source: I) -> ForLoop<I, I::Kind> {
    let bounds = source.bounds();
    let loc = bounds.as_ref().map_or(Loc::caller(), |b| b.loc);
    ForLoop { source: Some(source), bounds, loc, begun: false, state: State::Idle, marker: PhantomData }
}

/// The items of a `for`.
#[doc(hidden)]
pub fn indices<I: Iterable, K>(
    region: &mut ForLoop<I, K>,
) -> std::iter::Flatten<std::option::IntoIter<I::Iter>> {
    let index = match &region.state {
        State::Open { index, .. } => *index,
        _ => Handle::poison(),
    };
    // An iterator of one iterator: a static loop that was entered twice would give nothing.
    I::items(&mut region.source, Tile::new(index)).into_iter().flatten()
}

#[doc(hidden)]
impl<I, K: Kind> ForLoop<I, K> {
    pub fn kind(&self) -> KindOf<K> {
        KindOf(PhantomData)
    }

    /// Whether the body runs, once more: once for all turns of a static loop; of a recorded one as often as it is recorded.
    pub fn turn(&mut self, slots: &mut [Slot<'_>]) -> bool {
        if !std::mem::replace(&mut self.begun, true) {
            self.begin(slots);
            return true;
        }
        let State::Open { mut open, params, ended, .. } = std::mem::replace(&mut self.state, State::Idle)
        else {
            return false;
        };
        let Some(region) = open.region else { return false };
        if !ended || record::depth() != open.depth + 1 {
            record::abandoned("`for`", open.depth, self.loc);
            open.carried.restore(slots);
            return false;
        }
        let yields = open.carried.yields(slots, &params, "loop");
        record::close(region, &yields, self.loc);
        if open.rehearsal.again(region) {
            self.state = open.open(slots);
            return true;
        }
        self.state = State::Done { region, carried: open.carried, params, yields };
        false
    }

    fn begin(&mut self, slots: &mut [Slot<'_>]) {
        let Some(bounds) = self.bounds.take() else { return };
        let depth = record::depth();
        let carried = Carried::of(slots, self.loc);
        let mut operands = vec![bounds.lower, bounds.upper, bounds.step];
        if operands.iter().any(|h| h.is_poison()) && record::active() {
            // The body is still recorded, for its own messages.
            operands = vec![record::constant(crate::ir::Const::Int(0), &bounds.index, self.loc); 3];
        }
        operands.extend(carried.inits());
        let region = record::begin(Op::For { stages: bounds.stages }, &operands, self.loc);
        let open = Open { region, depth, index: bounds.index, carried, rehearsal: Rehearsal::begin() };
        self.state = open.open(slots);
    }

    pub fn reached_end(&mut self) {
        if let State::Open { ended, .. } = &mut self.state {
            *ended = true;
        }
    }

    pub fn exit(&mut self, slots: &mut [Slot<'_>]) {
        let State::Done { region, carried, params, yields } = std::mem::replace(&mut self.state, State::Idle)
        else {
            return;
        };
        // Variables that the body left alone are not carried after all.
        let mut results: Vec<Option<Handle>> = vec![None; params.len()];
        let inits = carried.inits();
        for i in (0..params.len()).rev() {
            if yields[i] == params[i] {
                record::replace_uses(params[i], inits[i]);
                record::drop_carried(region, 3, 1, i);
                results[i] = Some(inits[i]);
            }
        }
        let types: Vec<Type> =
            carried.types().into_iter().zip(&results).filter(|(_, r)| r.is_none()).map(|(t, _)| t).collect();
        let mut fresh = record::finish(region, &types).into_iter();
        let results: Vec<Handle> =
            results.into_iter().map(|r| r.or_else(|| fresh.next()).unwrap_or_else(Handle::poison)).collect();
        carried.rebind(slots, &results);
    }
}

impl<I, K> Drop for ForLoop<I, K> {
    fn drop(&mut self) {
        if let State::Open { open, .. } = &self.state
            && !std::thread::panicking()
        {
            record::abandoned("`for`", open.depth, self.loc);
        }
    }
}
