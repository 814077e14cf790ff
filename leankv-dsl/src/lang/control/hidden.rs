//! What variables that a construct only mentions hold behind shared references: a `Cell`, a `RefCell`, a `Mutex`, an atomic.
//!
//! No assignment shows a change there, so the macros look before and after. A look is the value's `Debug` text, in which tiles and scalars
//! stand by number. Types that cannot change behind a shared reference, which is most, are told by an auto trait and cost nothing; a type that
//! has no `Debug` text, and a type parameter, cannot be looked into.

use std::fmt::Debug;
use std::panic::RefUnwindSafe;
use std::rc::Rc;
use std::sync::atomic::{
    AtomicBool, AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32,
    AtomicU64, AtomicUsize,
};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use super::slot::{Kind, KindOf};
use crate::diag::Diagnostic;
use crate::ir::Loc;
use crate::lang::record::{self, PLAIN_CHANGED, Shown};

/// A variable in question.
#[doc(hidden)]
pub struct Held<'a, T> {
    name: &'static str,
    loc: Loc,
    value: &'a T,
}

impl<'a, T> Held<'a, T> {
    /// Asks about a variable.
    #[track_caller]
    pub fn new(name: &'static str, value: &'a T) -> Self {
        Held { name, loc: Loc::caller(), value }
    }

    fn with(&self, value: Option<&'a dyn Debug>) -> Look<'a> {
        Look { name: self.name, loc: self.loc, value }
    }
}

/// What can be seen of a variable.
#[doc(hidden)]
pub struct Look<'a> {
    name: &'static str,
    loc: Loc,
    value: Option<&'a dyn Debug>,
}

impl Debug for Look<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Types of the standard library that change behind a reference although they count as safe to see after a panic.
#[doc(hidden)]
pub trait Inner: Debug {}

macro_rules! inner {
    ($($ty:ty)*) => {$(impl Inner for $ty {})*};
}
inner! {
    AtomicBool AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize
}
impl<T: Debug> Inner for Mutex<T> {}
impl<T: Debug> Inner for RwLock<T> {}
impl<T: Debug> Inner for OnceLock<T> {}
impl<T: Debug> Inner for &mut T {}
impl<T: Inner + ?Sized> Inner for &T {}
impl<T: Inner + ?Sized> Inner for Rc<T> {}
impl<T: Inner + ?Sized> Inner for Arc<T> {}
impl<T: Inner + ?Sized> Inner for Box<T> {}

/// First choice: it is one of the types above.
#[doc(hidden)]
pub trait LookInside<'a> {
    /// The look.
    fn look(&self) -> Look<'a>;
}

impl<'a, T: Inner> LookInside<'a> for &&&Held<'a, T> {
    fn look(&self) -> Look<'a> {
        self.with(Some(self.value))
    }
}

/// Second choice: nothing changes behind a reference to it.
#[doc(hidden)]
pub trait LookPast<'a> {
    /// The look.
    fn look(&self) -> Look<'a>;
}

impl<'a, T: RefUnwindSafe> LookPast<'a> for &&Held<'a, T> {
    fn look(&self) -> Look<'a> {
        self.with(None)
    }
}

/// Third choice: something may, and its text shows it.
#[doc(hidden)]
pub trait LookAtText<'a> {
    /// The look.
    fn look(&self) -> Look<'a>;
}

impl<'a, T: Debug> LookAtText<'a> for &Held<'a, T> {
    fn look(&self) -> Look<'a> {
        self.with(Some(self.value))
    }
}

/// Otherwise nothing can be seen.
#[doc(hidden)]
pub trait LookAway<'a> {
    /// The look.
    fn look(&self) -> Look<'a>;
}

impl<'a, T> LookAway<'a> for Held<'a, T> {
    fn look(&self) -> Look<'a> {
        self.with(None)
    }
}

/// What was seen before a construct.
#[doc(hidden)]
#[derive(Debug)]
pub struct Seen {
    shown: Vec<Option<Shown>>,
    /// Mistakes that were known.
    mistakes: usize,
}

impl Seen {
    /// Looks, if the construct is recorded.
    pub fn of<K: Kind>(_: KindOf<K>, looks: &[Look<'_>]) -> Seen {
        let text = |look: &Look<'_>| look.value.map(record::show);
        let shown = if K::RECORDED { looks.iter().map(text).collect() } else { Vec::new() };
        Seen { shown, mistakes: record::mistakes() }
    }

    /// Reports what differs now. A value that was made in the construct is no difference: its use outside is reported. After
    /// another mistake in the construct, a difference is most often the same one.
    pub fn check(self, what: &str, looks: &[Look<'_>]) {
        if record::mistakes() > self.mistakes {
            return;
        }
        for (look, before) in looks.iter().zip(self.shown) {
            let (Some(value), Some(before)) = (look.value, before) else { continue };
            let now = record::show(value);
            if now.text == before.text || now.out_of_sight {
                continue;
            }
            let message = format!(
                "`{}` holds a Rust value that changes inside this {what}, which is recorded once",
                look.name
            );
            record::report(
                Diagnostic::error(PLAIN_CHANGED, look.loc, message)
                    .help("assign to a `let mut` variable by its name, and make it a `Scalar` or a tile")
                    .help("if the loop or branch is known at specialisation time, write `comptime(..)` around its range or condition"),
            );
        }
    }
}
