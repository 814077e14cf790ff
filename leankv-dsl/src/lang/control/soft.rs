//! Variables that a construct only might change: mentioned in a macro's input, or receivers of methods known to read.
//!
//! They are carried if their type can be, compared before and after if it can be compared, and ignored otherwise. Which of
//! the three holds is found by method lookup on the number of references: the type stands in the receiver, since the probe does not
//! look at arguments.

use std::cell::Cell;
use std::marker::PhantomData;

use super::carry::Carry;
use super::slot::{Kind, KindOf, Slot, What};
use crate::ir::Loc;

/// A variable in question.
#[doc(hidden)]
pub struct Probe<'a, K, T> {
    name: &'static str,
    loc: Loc,
    variable: Cell<Option<&'a mut T>>,
    kind: PhantomData<fn() -> K>,
}

impl<'a, K, T> Probe<'a, K, T> {
    /// Asks about a variable.
    #[track_caller]
    pub fn new(_: KindOf<K>, name: &'static str, variable: &'a mut T) -> Self {
        Probe { name, loc: Loc::caller(), variable: Cell::new(Some(variable)), kind: PhantomData }
    }

    fn make(&self, what: impl FnOnce(&'a mut T) -> What<'a>) -> Slot<'a>
    where
        K: Kind,
    {
        let what = match self.variable.take() {
            Some(variable) if K::RECORDED => what(variable),
            _ => What::Ignore,
        };
        Slot { name: self.name, loc: self.loc, what }
    }
}

/// First choice: it can be carried.
#[doc(hidden)]
pub trait SlotCarried<'a> {
    /// The slot.
    fn slot(&self) -> Slot<'a>;
}

impl<'a, K: Kind, T: Carry> SlotCarried<'a> for &&Probe<'a, K, T> {
    fn slot(&self) -> Slot<'a> {
        self.make(|variable| What::Carry(variable))
    }
}

/// Second choice: it can be compared.
#[doc(hidden)]
pub trait SlotWatched<'a> {
    /// The slot.
    fn slot(&self) -> Slot<'a>;
}

impl<'a, K: Kind, T: Clone + PartialEq + 'static> SlotWatched<'a> for &Probe<'a, K, T> {
    fn slot(&self) -> Slot<'a> {
        self.make(|variable| What::Watch(Box::new(variable)))
    }
}

/// Otherwise it is left alone.
#[doc(hidden)]
pub trait SlotIgnored<'a> {
    /// The slot.
    fn slot(&self) -> Slot<'a>;
}

impl<'a, K: Kind, T> SlotIgnored<'a> for Probe<'a, K, T> {
    fn slot(&self) -> Slot<'a> {
        self.make(|_| What::Ignore)
    }
}
