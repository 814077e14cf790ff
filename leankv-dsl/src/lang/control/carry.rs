//! What can be carried through recorded loops and branches.

use std::fmt::Debug;

use crate::lang::element::{Element, Plain};
use crate::lang::ops::{Ptr, PtrMut};
use crate::lang::record::Handle;
use crate::lang::tile::Tile;

/// A variable as a flat list of values, and what must not change beside them.
#[derive(Default)]
pub struct Flat {
    pub(crate) handles: Vec<Handle>,
    fixed: Vec<(String, String)>,
}

impl Flat {
    /// Adds a value.
    pub(crate) fn push(&mut self, handle: Handle) {
        self.handles.push(handle);
    }

    /// Adds a plain part that must stay as it is.
    pub fn fixed(&mut self, name: &str, value: &dyn Debug) {
        self.fixed.push((name.to_owned(), format!("{value:?}")));
    }

    /// The first plain part that differs.
    pub(crate) fn first_difference(&self, other: &Flat) -> Option<String> {
        let pairs = self.fixed.iter().zip(&other.fixed);
        let differing = pairs.filter(|(a, b)| a != b).map(|(a, _)| a.0.clone()).next();
        let lengths = self.fixed.len() != other.fixed.len() || self.handles.len() != other.handles.len();
        differing.or_else(|| lengths.then(String::new))
    }
}

/// New values for a variable, in the order of [`Flat`].
pub struct Fresh<'a> {
    handles: std::slice::Iter<'a, Handle>,
}

impl<'a> Fresh<'a> {
    pub(crate) fn new(handles: &'a [Handle]) -> Self {
        Fresh { handles: handles.iter() }
    }

    /// The next value; poison when there are no more, which was reported.
    pub(crate) fn next(&mut self) -> Handle {
        self.handles.next().copied().unwrap_or_else(Handle::poison)
    }
}

/// A variable that may change inside a recorded loop or branch: tiles, scalars, pointers, and tuples, arrays, vectors,
/// options and structs of them (`#[derive(Carry)]`).
///
/// A plain Rust value would change once, while the kernel is recorded, and not once per turn: it is refused.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot change inside a loop or branch that is recorded for the device",
    label = "a plain Rust value changes here once, while the kernel is recorded, and not when it runs",
    note = "make it a `Scalar` (`lit(0)`) or a tile; a struct of them takes `#[derive(Carry)]`",
    note = "a plain field of such a struct that stays as it is takes `#[carry(fixed)]`",
    note = "if it is only read here, rebind it before the loop: `let x = x;`",
    note = "if the loop or branch is known at specialisation time, write `comptime(..)` around its range or condition"
)]
pub trait Carry {
    /// Adds the values.
    fn values(&self, out: &mut Flat);
    /// Takes new values, in the same order.
    fn rebind(&mut self, from: &mut Fresh<'_>);
}

impl<E: Element, const R: usize> Carry for Tile<E, R> {
    fn values(&self, out: &mut Flat) {
        out.push(self.handle);
    }

    fn rebind(&mut self, from: &mut Fresh<'_>) {
        *self = Tile::new(from.next());
    }
}

macro_rules! pointers {
    ($($name:ident)*) => {$(
        impl<E: Plain> Carry for $name<E> {
            fn values(&self, out: &mut Flat) {
                out.push(self.raw.handle);
                out.fixed("cache hint", &self.raw.cache);
            }

            fn rebind(&mut self, from: &mut Fresh<'_>) {
                *self = self.with_handle(from.next());
            }
        }
    )*};
}
pointers!(Ptr PtrMut);

impl<T: Carry + ?Sized> Carry for &mut T {
    fn values(&self, out: &mut Flat) {
        (**self).values(out);
    }

    fn rebind(&mut self, from: &mut Fresh<'_>) {
        (**self).rebind(from);
    }
}

impl<T: Carry + ?Sized> Carry for Box<T> {
    fn values(&self, out: &mut Flat) {
        (**self).values(out);
    }

    fn rebind(&mut self, from: &mut Fresh<'_>) {
        (**self).rebind(from);
    }
}

impl<T: Carry, const N: usize> Carry for [T; N] {
    fn values(&self, out: &mut Flat) {
        self.iter().for_each(|item| item.values(out));
    }

    fn rebind(&mut self, from: &mut Fresh<'_>) {
        self.iter_mut().for_each(|item| item.rebind(from));
    }
}

impl<T: Carry> Carry for Vec<T> {
    fn values(&self, out: &mut Flat) {
        out.fixed("len()", &self.len());
        self.iter().for_each(|item| item.values(out));
    }

    fn rebind(&mut self, from: &mut Fresh<'_>) {
        self.iter_mut().for_each(|item| item.rebind(from));
    }
}

impl<T: Carry> Carry for Option<T> {
    fn values(&self, out: &mut Flat) {
        out.fixed("is_some()", &self.is_some());
        if let Some(item) = self {
            item.values(out);
        }
    }

    fn rebind(&mut self, from: &mut Fresh<'_>) {
        if let Some(item) = self {
            item.rebind(from);
        }
    }
}

impl<T> Carry for std::marker::PhantomData<T> {
    fn values(&self, _: &mut Flat) {}

    fn rebind(&mut self, _: &mut Fresh<'_>) {}
}

macro_rules! tuples {
    ($(($($name:ident $index:tt),*))*) => {$(
        impl<$($name: Carry),*> Carry for ($($name,)*) {
            fn values(&self, _out: &mut Flat) {
                $(self.$index.values(_out);)*
            }

            fn rebind(&mut self, _from: &mut Fresh<'_>) {
                $(self.$index.rebind(_from);)*
            }
        }
    )*};
}
tuples! {
    ()
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, F 4)
    (A 0, B 1, C 2, D 3, F 4, G 5)
    (A 0, B 1, C 2, D 3, F 4, G 5, H 6)
    (A 0, B 1, C 2, D 3, F 4, G 5, H 6, J 7)
}
