//! `while`.

use std::marker::PhantomData;

use super::if_branch::{Cond, Decision};
use super::slot::{Kind, KindOf, Slot};
use super::state::Carried;
use super::turns::Rehearsal;
use crate::ir::{Const, Dtype, Loc, Op, Type};
use crate::lang::record::{self, Handle, Region};

/// A `while` that is being recorded, or runs.
pub struct WhileLoop<K: Kind> {
    loc: Loc,
    state: State,
    begun: bool,
    passed: bool,
    kind: PhantomData<fn() -> K>,
}

/// How far a recorded loop is.
enum State {
    /// A static loop, or nothing happened yet, or it is done.
    Idle,
    /// The condition's region is open.
    Condition(Open),
    /// The body's region is open.
    Body(Open),
    /// Both are closed.
    Done(Open),
}

/// What a loop keeps from turn to turn.
struct Open {
    region: Option<Region>,
    depth: usize,
    carried: Carried,
    params: Vec<Handle>,
    rehearsal: Rehearsal,
}

impl Open {
    /// Opens the next region and gives the variables its parameters.
    fn open(&mut self, slots: &mut [Slot<'_>]) {
        let Some(region) = self.region else { return };
        self.params = record::open(region, &self.carried.types());
        self.carried.rebind(slots, &self.params);
    }
}

/// Starts a `while`.
#[doc(hidden)]
#[track_caller]
pub fn while_begin<K: Kind>() -> WhileLoop<K> {
    WhileLoop { loc: Loc::caller(), state: State::Idle, begun: false, passed: false, kind: PhantomData }
}

#[doc(hidden)]
impl<K: Kind> WhileLoop<K> {
    pub fn kind(&self) -> KindOf<K> {
        KindOf(PhantomData)
    }

    /// Whether condition and body run, once more: once for all turns of a static loop; of a recorded one as often as it is recorded.
    pub fn turn(&mut self, slots: &mut [Slot<'_>]) -> bool {
        if !std::mem::replace(&mut self.begun, true) {
            self.begin(slots);
            return true;
        }
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Done(mut open) => {
                if let Some(region) = open.region
                    && open.rehearsal.again(region)
                {
                    open.open(slots);
                    self.state = State::Condition(open);
                    self.passed = false;
                    return true;
                }
                self.state = State::Done(open);
            }
            other => self.state = other,
        }
        false
    }

    fn begin(&mut self, slots: &mut [Slot<'_>]) {
        if !K::RECORDED {
            return;
        }
        let depth = record::depth();
        let carried = Carried::of(slots, self.loc);
        let region = record::begin(Op::While, &carried.inits(), self.loc);
        let mut open = Open { region, depth, carried, params: Vec::new(), rehearsal: Rehearsal::begin() };
        match region {
            Some(_) => open.open(slots),
            None => open.carried.rebind(slots, &[]),
        }
        self.state = State::Condition(open);
    }

    /// Whether there is another turn to try: of a recorded loop there is one.
    pub fn pass(&mut self) -> bool {
        !std::mem::replace(&mut self.passed, true) || !K::RECORDED
    }

    #[track_caller]
    pub fn test<C: Cond<Kind = K>>(&mut self, cond: C, slots: &mut [Slot<'_>]) -> bool {
        let loc = Loc::caller();
        let cond = match cond.decide() {
            Decision::Known(known) => return known,
            Decision::Run(handle) => handle,
        };
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Condition(mut open) => {
                if let Some(region) = open.region
                    && record::depth() == open.depth + 1
                {
                    let cond = if cond.is_poison() {
                        record::constant(Const::Int(0), &Type::scalar(Dtype::I1), loc)
                    } else {
                        cond
                    };
                    let mut yields = vec![cond];
                    yields.extend(open.carried.yields(slots, &open.params, "loop"));
                    record::close(region, &yields, loc);
                    open.open(slots);
                } else {
                    open.carried.rebind(slots, &open.params);
                }
                self.state = State::Body(open);
            }
            other => self.state = other,
        }
        true
    }

    pub fn again(&mut self, slots: &mut [Slot<'_>]) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Body(open) => {
                if let Some(region) = open.region {
                    if record::depth() != open.depth + 1 {
                        record::abandoned("`while`", open.depth, self.loc);
                        return;
                    }
                    let yields = open.carried.yields(slots, &open.params, "loop");
                    record::close(region, &yields, self.loc);
                }
                self.state = State::Done(open);
            }
            other => self.state = other,
        }
    }

    pub fn exit(&mut self, slots: &mut [Slot<'_>]) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Done(open) => {
                if let Some(region) = open.region {
                    let results = record::finish(region, &open.carried.types());
                    open.carried.rebind(slots, &results);
                }
            }
            State::Idle => {}
            State::Condition(open) | State::Body(open) => {
                record::abandoned("`while`", open.depth, self.loc);
                open.carried.restore(slots);
            }
        }
    }
}

impl<K: Kind> Drop for WhileLoop<K> {
    fn drop(&mut self) {
        if let State::Condition(open) | State::Body(open) = &self.state
            && !std::thread::panicking()
        {
            record::abandoned("`while`", open.depth, self.loc);
        }
    }
}
