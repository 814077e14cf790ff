//! `while`.

use std::marker::PhantomData;

use super::if_branch::{Cond, Decision};
use super::slot::{Kind, KindOf, Slot};
use super::state::Carried;
use crate::ir::{Const, Dtype, Loc, Op, Type};
use crate::lang::record::{self, Handle, Region};

/// A `while` that is being recorded, or runs.
pub struct WhileLoop<K: Kind> {
    loc: Loc,
    state: State,
    turns: u64,
    kind: PhantomData<fn() -> K>,
}

/// How far a recorded loop is.
enum State {
    /// A static loop, or nothing happened yet, or it is done.
    Idle,
    /// The condition's region is open.
    Condition { region: Option<Region>, depth: usize, carried: Carried, params: Vec<Handle> },
    /// The body's region is open.
    Body { region: Option<Region>, depth: usize, carried: Carried, params: Vec<Handle> },
    /// Both are closed.
    Done { region: Option<Region>, carried: Carried },
}

/// Starts a `while`.
#[doc(hidden)]
#[track_caller]
pub fn while_begin<K: Kind>() -> WhileLoop<K> {
    WhileLoop { loc: Loc::caller(), state: State::Idle, turns: 0, kind: PhantomData }
}

#[doc(hidden)]
impl<K: Kind> WhileLoop<K> {
    pub fn kind(&self) -> KindOf<K> {
        KindOf(PhantomData)
    }

    pub fn enter(&mut self, slots: &mut [Slot<'_>]) {
        if !K::RECORDED {
            return;
        }
        let depth = record::depth();
        let carried = Carried::of(slots, self.loc);
        let region = record::begin(Op::While, &carried.inits(), self.loc);
        let params = region.map(|r| record::open(r, &carried.types())).unwrap_or_default();
        carried.rebind(slots, &params);
        self.state = State::Condition { region, depth, carried, params };
    }

    /// Whether there is another turn to try: of a recorded loop there is one.
    pub fn pass(&mut self) -> bool {
        self.turns += 1;
        !K::RECORDED || self.turns == 1
    }

    #[track_caller]
    pub fn test<C: Cond<Kind = K>>(&mut self, cond: C, slots: &mut [Slot<'_>]) -> bool {
        let loc = Loc::caller();
        let cond = match cond.decide() {
            Decision::Known(known) => return known,
            Decision::Run(handle) => handle,
        };
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Condition { region, depth, carried, params } => {
                let params = match region {
                    Some(region) if record::depth() == depth + 1 => {
                        let cond = if cond.is_poison() {
                            record::constant(Const::Int(0), &Type::scalar(Dtype::I1), loc)
                        } else {
                            cond
                        };
                        let mut yields = vec![cond];
                        yields.extend(carried.yields(slots, &params, "loop"));
                        record::close(region, &yields, loc);
                        record::open(region, &carried.types())
                    }
                    _ => params,
                };
                carried.rebind(slots, &params);
                self.state = State::Body { region, depth, carried, params };
            }
            other => self.state = other,
        }
        true
    }

    pub fn again(&mut self, slots: &mut [Slot<'_>]) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Body { region, depth, carried, params } => {
                if let Some(region) = region {
                    if record::depth() != depth + 1 {
                        record::abandoned("`while`", depth, self.loc);
                        return;
                    }
                    let yields = carried.yields(slots, &params, "loop");
                    record::close(region, &yields, self.loc);
                }
                self.state = State::Done { region, carried };
            }
            other => self.state = other,
        }
    }

    pub fn exit(&mut self, slots: &mut [Slot<'_>]) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Done { region, carried } => {
                if let Some(region) = region {
                    let results = record::finish(region, &carried.types());
                    carried.rebind(slots, &results);
                }
            }
            State::Idle => {}
            State::Condition { depth, carried, .. } | State::Body { depth, carried, .. } => {
                record::abandoned("`while`", depth, self.loc);
                carried.restore(slots);
            }
        }
    }
}

impl<K: Kind> Drop for WhileLoop<K> {
    fn drop(&mut self) {
        if let State::Condition { depth, .. } | State::Body { depth, .. } = &self.state
            && !std::thread::panicking()
        {
            record::abandoned("`while`", *depth, self.loc);
        }
    }
}
