//! Slots: variables that a construct may change, as the macros hand them over.

use std::any::Any;
use std::marker::PhantomData;

use super::carry::{Carry, Flat, Fresh};
use crate::diag::Diagnostic;
use crate::ir::Loc;
use crate::lang::record::{self, Handle, PLAIN_CHANGED};

/// Whether a construct is recorded.
pub trait Kind: Copy + 'static {
    /// Whether it is.
    const RECORDED: bool;
}

/// Runs as plain Rust while the kernel is recorded.
#[derive(Clone, Copy, Debug)]
pub struct Static;

/// Becomes a region of the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Recorded;

impl Kind for Static {
    const RECORDED: bool = false;
}

impl Kind for Recorded {
    const RECORDED: bool = true;
}

/// A [`Kind`] as a value, for inference.
#[derive(Debug)]
pub struct KindOf<K>(pub(crate) PhantomData<fn() -> K>);

impl<K> Clone for KindOf<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for KindOf<K> {}

/// Variables that may change in a construct of this kind: all in a static one, those that can be carried in a
/// recorded one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot change inside a loop or branch that is recorded for the device",
    label = "a plain Rust value changes here once, while the kernel is recorded, and not when it runs",
    note = "make it a `Scalar` (`lit(0)`) or a tile; a struct of them takes `#[derive(Carry)]`",
    note = "if it is only read here, rebind it before the loop: `let x = x;`",
    note = "if the loop or branch is known at specialisation time, write `comptime(..)` around its range or condition"
)]
pub trait CarryIn<K> {
    /// What to do with the variable.
    #[doc(hidden)]
    fn what(&mut self) -> What<'_>;
}

#[diagnostic::do_not_recommend]
impl<T> CarryIn<Static> for T {
    fn what(&mut self) -> What<'_> {
        What::Ignore
    }
}

#[diagnostic::do_not_recommend]
impl<T: Carry> CarryIn<Recorded> for T {
    fn what(&mut self) -> What<'_> {
        What::Carry(self)
    }
}

/// A plain value that can be compared with its former self.
pub(crate) trait Watch {
    fn snapshot(&self) -> Box<dyn Any>;
    fn same(&self, before: &dyn Any) -> bool;
}

impl<T: Clone + PartialEq + 'static> Watch for T {
    fn snapshot(&self) -> Box<dyn Any> {
        Box::new(self.clone())
    }

    fn same(&self, before: &dyn Any) -> bool {
        before.downcast_ref::<T>().is_none_or(|b| b == self)
    }
}

/// What a construct does with a variable.
#[doc(hidden)]
pub enum What<'a> {
    /// Carries it.
    Carry(&'a mut dyn Carry),
    /// Reports when it changed.
    Watch(Box<dyn WatchDyn + 'a>),
    /// Nothing.
    Ignore,
}

/// [`Watch`] behind a pointer.
#[doc(hidden)]
pub trait WatchDyn {
    /// A copy.
    fn snapshot_dyn(&self) -> Box<dyn Any>;
    /// Whether it still equals the copy.
    fn same_dyn(&self, before: &dyn Any) -> bool;
}

impl<T: Clone + PartialEq + 'static> WatchDyn for &mut T {
    fn snapshot_dyn(&self) -> Box<dyn Any> {
        (**self).snapshot()
    }

    fn same_dyn(&self, before: &dyn Any) -> bool {
        (**self).same(before)
    }
}

/// A variable of a construct.
pub struct Slot<'a> {
    pub(crate) name: &'static str,
    pub(crate) loc: Loc,
    pub(crate) what: What<'a>,
}

impl std::fmt::Debug for Slot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A variable that the construct assigns, borrows `&mut` or calls.
#[doc(hidden)]
#[track_caller]
pub fn hard<'a, K: Kind, T: CarryIn<K>>(_: KindOf<K>, name: &'static str, variable: &'a mut T) -> Slot<'a> {
    Slot { name, loc: Loc::caller(), what: variable.what() }
}

/// A variable's state at one moment.
#[derive(Default)]
pub(crate) struct Saved {
    pub(crate) flat: Option<Flat>,
    watched: Option<Box<dyn Any>>,
}

impl Saved {
    /// The state now.
    pub(crate) fn of(slot: &Slot<'_>) -> Saved {
        match &slot.what {
            What::Carry(carry) => {
                let mut flat = Flat::default();
                carry.values(&mut flat);
                Saved { flat: Some(flat), watched: None }
            }
            What::Watch(watch) => Saved { flat: None, watched: Some(watch.snapshot_dyn()) },
            What::Ignore => Saved::default(),
        }
    }

    /// Its handles; none for plain values.
    pub(crate) fn handles(&self) -> &[Handle] {
        self.flat.as_ref().map_or(&[], |flat| &flat.handles)
    }

    /// Reports when the plain part of a variable differs from this state.
    pub(crate) fn check_plain(&self, slot: &Slot<'_>, what: &str) {
        let changed = match (&slot.what, &self.flat, &self.watched) {
            (What::Carry(carry), Some(before), _) => {
                let mut now = Flat::default();
                carry.values(&mut now);
                before.first_difference(&now)
            }
            (What::Watch(watch), _, Some(before)) if !watch.same_dyn(&**before) => Some(String::new()),
            _ => None,
        };
        let Some(field) = changed else { return };
        let name = if field.is_empty() { slot.name.to_owned() } else { format!("{}.{field}", slot.name) };
        record::report(
            Diagnostic::error(
                PLAIN_CHANGED,
                slot.loc,
                format!("`{name}` is a plain Rust value and changes inside this {what}, which is recorded once"),
            )
            .help("make it a `Scalar` or a tile if it changes when the kernel runs")
            .help("if the loop or branch is known at specialisation time, write `comptime(..)` around its range or condition"),
        );
    }
}

/// Writes handles back into a variable.
pub(crate) fn rebind(slot: &mut Slot<'_>, handles: &[Handle]) {
    if let What::Carry(carry) = &mut slot.what {
        carry.rebind(&mut Fresh::new(handles));
    }
}
