//! `if`.

use std::marker::PhantomData;

use super::carry::{Carry, Flat, Fresh};
use super::slot::{Kind, KindOf, Recorded, Saved, Slot, Static, rebind};
use crate::diag::Diagnostic;
use crate::ir::{Const, Dtype, Loc, Op, Type};
use crate::lang::record::{self, ARMS_DIFFER, Handle, Region};
use crate::lang::tile::Tile;

/// What a condition is.
#[doc(hidden)]
pub enum Decision {
    /// Known at specialisation time.
    Known(bool),
    /// Known when the kernel runs.
    Run(Handle),
}

/// A condition: `bool` decides while the kernel is recorded, `Scalar<bool>` when it runs.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a condition",
    label = "expected `bool` or `Scalar<bool>`",
    note = "a number is compared first: `x.gt(0.0)`",
    note = "a tile of truth values has one answer per element: use `.select(a, b)`, or `.reduce_or(axis)` for one answer"
)]
pub trait Cond {
    /// Whether the construct is recorded.
    type Kind: Kind;
    /// What it is.
    #[doc(hidden)]
    fn decide(self) -> Decision;
}

impl Cond for bool {
    type Kind = Static;
    fn decide(self) -> Decision {
        Decision::Known(self)
    }
}

impl Cond for &bool {
    type Kind = Static;
    fn decide(self) -> Decision {
        Decision::Known(*self)
    }
}

impl Cond for Tile<bool, 0> {
    type Kind = Recorded;
    fn decide(self) -> Decision {
        Decision::Run(self.handle)
    }
}

/// What the arms of an `if` of this kind may give.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the value of an `if` that is recorded for the device",
    label = "both arms of this `if` are recorded, so no plain Rust value can be chosen",
    note = "give a `Scalar` (`lit(1)`) or a tile in both arms; a struct of them takes `#[derive(Carry)]`",
    note = "if the condition is known at specialisation time, make it a `bool`"
)]
pub trait PickIn<K>: Sized {
    /// One value of both.
    #[doc(hidden)]
    fn pick(branch: &mut Branch, then: Option<Self>, otherwise: Option<Self>) -> Self;
}

#[diagnostic::do_not_recommend]
impl<T> PickIn<Static> for T {
    fn pick(_: &mut Branch, then: Option<T>, otherwise: Option<T>) -> T {
        then.or(otherwise).expect("exactly one arm of a static `if` ran")
    }
}

#[diagnostic::do_not_recommend]
impl<T: Carry> PickIn<Recorded> for T {
    fn pick(branch: &mut Branch, then: Option<T>, otherwise: Option<T>) -> T {
        let mut value = then.expect("both arms of a recorded `if` ran");
        let other = otherwise.expect("both arms of a recorded `if` ran");
        let (mut a, mut b) = (Flat::default(), Flat::default());
        value.values(&mut a);
        other.values(&mut b);
        if a.first_difference(&b).is_some() {
            record::report(
                Diagnostic::error(
                    ARMS_DIFFER,
                    branch.loc,
                    "the arms of this `if` give values that differ in a plain Rust part",
                )
                .help("only tiles and scalars can differ between the arms of a recorded `if`"),
            );
            return value;
        }
        let merged = branch.merge_values(&a.handles, &b.handles, "the value of this `if`", branch.loc);
        value.rebind(&mut Fresh::new(&merged));
        value
    }
}

/// The value of an arm: asks at the user's tokens whether it may be one. An arm that does not end gives any type.
#[doc(hidden)]
pub fn arm<K: Kind, T: PickIn<K>>(_: KindOf<K>, value: T) -> T {
    value
}

/// An `if` that is being recorded, or runs.
pub struct IfBranch<K: Kind> {
    branch: Branch,
    kind: PhantomData<fn() -> K>,
}

/// The untyped part.
#[doc(hidden)]
pub struct Branch {
    known: Option<bool>,
    cond: Handle,
    loc: Loc,
    depth: usize,
    region: Option<Region>,
    /// Closed regions: 0 to 2. 3 when a mistake made the rest pointless.
    closed: u8,
    open: bool,
    before: Vec<Saved>,
    then: Vec<Saved>,
}

/// Starts an `if`.
#[doc(hidden)]
#[track_caller]
pub fn if_begin<C: Cond>(cond: C) -> IfBranch<C::Kind> {
    let (known, cond) = match cond.decide() {
        Decision::Known(known) => (Some(known), Handle::poison()),
        Decision::Run(handle) => (None, handle),
    };
    let branch = Branch {
        known,
        cond,
        loc: Loc::caller(),
        depth: 0,
        region: None,
        closed: 0,
        open: false,
        before: Vec::new(),
        then: Vec::new(),
    };
    IfBranch { branch, kind: PhantomData }
}

#[doc(hidden)]
impl<K: Kind> IfBranch<K> {
    pub fn kind(&self) -> KindOf<K> {
        KindOf(PhantomData)
    }

    pub fn enter(&mut self, slots: &mut [Slot<'_>]) {
        let this = &mut self.branch;
        if this.known.is_some() {
            return;
        }
        this.before = slots.iter().map(|s| Saved::of(s)).collect();
        this.depth = record::depth();
        if this.cond.is_poison() && record::active() {
            // Both arms are still recorded, for their own messages.
            this.cond = record::constant(Const::Int(0), &Type::scalar(Dtype::I1), this.loc);
        }
        this.region = record::begin(Op::If, &[this.cond], this.loc);
        this.open_region();
    }

    pub fn then(&self) -> bool {
        self.branch.known.unwrap_or(true)
    }

    pub fn swap(&mut self, slots: &mut [Slot<'_>]) {
        let this = &mut self.branch;
        if this.known.is_some() {
            return;
        }
        this.check_plain(slots);
        this.then = slots.iter().map(|s| Saved::of(s)).collect();
        for (slot, before) in slots.iter_mut().zip(&this.before) {
            rebind(slot, before.handles());
        }
        this.close_region();
        this.open_region();
    }

    pub fn otherwise(&self) -> bool {
        !self.branch.known.unwrap_or(false)
    }

    pub fn merge(&mut self, slots: &mut [Slot<'_>]) {
        let this = &mut self.branch;
        if this.known.is_some() {
            return;
        }
        this.check_plain(slots);
        this.close_region();
        let then = std::mem::take(&mut this.then);
        for (slot, then) in slots.iter_mut().zip(&then) {
            let now = Saved::of(slot);
            if then.handles().len() != now.handles().len() {
                continue;
            }
            let what = format!("`{}`", slot.name);
            let merged = this.merge_values(then.handles(), now.handles(), &what, slot.loc);
            rebind(slot, &merged);
        }
    }

    pub fn pick<T: PickIn<K>>(&mut self, then: Option<T>, otherwise: Option<T>) -> T {
        T::pick(&mut self.branch, then, otherwise)
    }
}

impl Branch {
    fn open_region(&mut self) {
        if let Some(region) = self.region {
            record::open(region, &[]);
            self.open = true;
        }
    }

    fn close_region(&mut self) {
        let Some(region) = self.region else { return };
        self.open = false;
        if record::depth() != self.depth + 1 {
            record::abandoned("`if`", self.depth, self.loc);
            self.region = None;
            return;
        }
        record::close(region, &[], self.loc);
        self.closed += 1;
    }

    fn check_plain(&self, slots: &[Slot<'_>]) {
        for (slot, before) in slots.iter().zip(&self.before) {
            before.check_plain(slot, "branch");
        }
    }

    /// One value for each pair: the `if`'s result where the arms differ.
    fn merge_values(&mut self, then: &[Handle], otherwise: &[Handle], what: &str, loc: Loc) -> Vec<Handle> {
        let pairs = then.iter().zip(otherwise);
        pairs.map(|(&a, &b)| if a == b { a } else { self.merge_value(a, b, what, loc) }).collect()
    }

    fn merge_value(&mut self, a: Handle, b: Handle, what: &str, loc: Loc) -> Handle {
        let (Some(region), Some(then), Some(other)) = (self.region, record::ty(a, loc), record::ty(b, loc))
        else {
            return Handle::poison();
        };
        if then != other {
            return record::fail(
                Diagnostic::error(
                    ARMS_DIFFER,
                    loc,
                    format!("{what} is `{then}` after one arm of the `if` and `{other}` after the other"),
                )
                .help("both arms give the same extents; broadcast or pad one of them"),
            );
        }
        record::add_yield(region, 0, a);
        record::add_yield(region, 1, b);
        record::finish(region, &[then])[0]
    }
}

impl<K: Kind> Drop for IfBranch<K> {
    fn drop(&mut self) {
        if self.branch.open && !std::thread::panicking() {
            record::abandoned("`if`", self.branch.depth, self.branch.loc);
        }
    }
}
