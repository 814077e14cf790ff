//! Raw memory: a pointer and tiles of element offsets.
//!
//! Offsets are `i32` or `i64` tiles and count elements. Masked-off elements are not touched; loads give zero
//! there unless told otherwise. [`View`](super::View)s are the better tool where memory has a shape; pointers serve page
//! tables, arenas and other indirections.

use std::marker::PhantomData;

use crate::ir::{CacheHint, Const, Dtype, Loc, Op, Type};
use crate::lang::element::{Index, Plain};
use crate::lang::record::{self, Handle};
use crate::lang::tile::{Operand, Scalar, Side, Tile, unify};

/// A pointer to memory that the kernel reads.
pub struct Ptr<E> {
    pub(crate) raw: Raw,
    element: PhantomData<fn() -> E>,
}

/// A pointer to memory that the kernel writes, and may read.
pub struct PtrMut<E> {
    pub(crate) raw: Raw,
    element: PhantomData<fn() -> E>,
}

/// The untyped part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    pub(crate) handle: Handle,
    pub(crate) cache: CacheHint,
}

/// A scalar argument's handle.
pub(crate) fn scalar<E: Plain>(value: impl Operand<E, 0>, loc: Loc) -> Handle {
    match value.arg().0 {
        Side::Value(handle) => handle,
        Side::Literal(value, dtype) => record::constant(value, &Type::scalar(dtype), loc),
    }
}

/// An index argument as an `i64` scalar.
pub(crate) fn index64<I: Index>(value: impl Operand<I, 0>, loc: Loc) -> Handle {
    match value.arg().0 {
        Side::Value(handle) if I::TYPE == Dtype::I64 => handle,
        Side::Value(handle) => record::value(Op::Cast, &[handle], Some(&Type::scalar(Dtype::I64)), loc),
        Side::Literal(value, _) => {
            record::constant(Const::Int(value.as_int().unwrap_or(0)), &Type::scalar(Dtype::I64), loc)
        }
    }
}

macro_rules! pointer {
    ($name:ident) => {
        impl<E> Clone for $name<E> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<E> Copy for $name<E> {}

        impl<E> std::fmt::Debug for $name<E> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                record::shown(self.raw.handle, f).unwrap_or_else(|| f.write_str("pointer"))
            }
        }

        impl<E: Plain> $name<E> {
            pub(crate) fn new(handle: Handle) -> Self {
                $name { raw: Raw { handle, cache: CacheHint::Default }, element: PhantomData }
            }

            pub(crate) fn with_handle<F: Plain>(self, handle: Handle) -> $name<F> {
                $name { raw: Raw { handle, cache: self.raw.cache }, element: PhantomData }
            }

            fn with_cache(mut self, cache: CacheHint) -> Self {
                self.raw.cache = cache;
                self
            }

            /// The same address as a pointer to `F`; the kernel promises that it is aligned for `F`.
            #[track_caller]
            pub fn cast<F: Plain>(self) -> $name<F> {
                let ty = Type::ptr(F::TYPE);
                let loc = Loc::caller();
                let handle = match E::TYPE == F::TYPE {
                    true => self.raw.handle,
                    false => record::value(Op::PtrCast, &[self.raw.handle], Some(&ty), loc),
                };
                self.with_handle(handle)
            }

            /// The address moved by `count` elements. Addresses are 64 bits wide: an `i32` count is widened first.
            #[track_caller]
            pub fn add<I: Index>(self, count: impl Operand<I, 0>) -> Self {
                let loc = Loc::caller();
                let count = index64::<I>(count, loc);
                self.with_handle(record::value(Op::PtrAdd, &[self.raw.handle, count], None, loc))
            }

            /// The address moved by `count` bytes.
            #[track_caller]
            pub fn byte_add<I: Index>(self, count: impl Operand<I, 0>) -> Self {
                let loc = Loc::caller();
                let count = index64::<I>(count, loc);
                let bytes = record::value(Op::PtrCast, &[self.raw.handle], Some(&Type::ptr(Dtype::U8)), loc);
                let moved = record::value(Op::PtrAdd, &[bytes, count], None, loc);
                let ty = Type::ptr(E::TYPE);
                let back = match E::TYPE == Dtype::U8 {
                    true => moved,
                    false => record::value(Op::PtrCast, &[moved], Some(&ty), loc),
                };
                self.with_handle(back)
            }

            /// The same pointer, whose accesses are marked as read or written once.
            pub fn streaming(self) -> Self {
                self.with_cache(CacheHint::Streaming)
            }

            /// The same pointer, whose loads are marked as of bytes that no program of the launch writes: they may then be done early, and through any
            /// cache.
            pub fn constant(self) -> Self {
                self.with_cache(CacheHint::Constant)
            }

            /// The same pointer, of whose elements each is loaded and then stored at most once in the launch, by one program, and met by nothing else. Loads may
            /// then be done early, and neither waits for the program's other accesses.
            pub fn exclusive(self) -> Self {
                self.with_cache(CacheHint::Exclusive)
            }

            /// The same pointer, whose accesses are marked as used again soon.
            pub fn keep(self) -> Self {
                self.with_cache(CacheHint::Keep)
            }

            /// The elements at `offsets`.
            #[track_caller]
            pub fn load<I: Index, const R: usize>(self, offsets: Tile<I, R>) -> Tile<E, R> {
                let op = Op::Load { masked: false, other: false, cache: self.raw.cache };
                Tile::new(record::value(op, &[self.raw.handle, offsets.handle], None, Loc::caller()))
            }

            /// The elements at `offsets` where `mask`, zero elsewhere.
            #[track_caller]
            pub fn load_masked<I: Index, const R: usize>(
                self,
                offsets: Tile<I, R>,
                mask: impl Operand<bool, R>,
            ) -> Tile<E, R> {
                let loc = Loc::caller();
                let Some(args) = unify("load", &[offsets.arg(), mask.arg()], loc) else {
                    return Tile::poison();
                };
                let op = Op::Load { masked: true, other: false, cache: self.raw.cache };
                Tile::new(record::value(op, &[self.raw.handle, args[0], args[1]], None, loc))
            }

            /// The elements at `offsets` where `mask`, `other` elsewhere.
            #[track_caller]
            pub fn load_or<I: Index, const R: usize>(
                self,
                offsets: Tile<I, R>,
                mask: impl Operand<bool, R>,
                other: impl Operand<E, R>,
            ) -> Tile<E, R> {
                let loc = Loc::caller();
                let args = unify("load", &[offsets.arg(), mask.arg(), other.arg()], loc);
                let Some(args) = args else { return Tile::poison() };
                let op = Op::Load { masked: true, other: true, cache: self.raw.cache };
                Tile::new(record::value(op, &[self.raw.handle, args[0], args[1], args[2]], None, loc))
            }

            /// The element at a run-time index, as a scalar.
            #[track_caller]
            pub fn get<I: Index>(self, index: impl Operand<I, 0>) -> Scalar<E> {
                let loc = Loc::caller();
                let index = scalar::<I>(index, loc);
                let op = Op::Load { masked: false, other: false, cache: self.raw.cache };
                Tile::new(record::value(op, &[self.raw.handle, index], None, loc))
            }
        }
    };
}
pointer!(Ptr);
pointer!(PtrMut);

impl<E: Plain> PtrMut<E> {
    /// Stores `value` at `offsets`.
    #[track_caller]
    pub fn store<I: Index, const R: usize>(self, offsets: Tile<I, R>, value: impl Operand<E, R>) {
        let loc = Loc::caller();
        if let Some(args) = unify("store", &[offsets.arg(), value.arg()], loc) {
            let op = Op::Store { masked: false, cache: self.raw.cache };
            record::effect(op, &[self.raw.handle, args[0], args[1]], loc);
        }
    }

    /// Stores `value` at `offsets` where `mask`.
    #[track_caller]
    pub fn store_masked<I: Index, const R: usize>(
        self,
        offsets: Tile<I, R>,
        value: impl Operand<E, R>,
        mask: impl Operand<bool, R>,
    ) {
        let loc = Loc::caller();
        if let Some(args) = unify("store", &[offsets.arg(), value.arg(), mask.arg()], loc) {
            let op = Op::Store { masked: true, cache: self.raw.cache };
            record::effect(op, &[self.raw.handle, args[0], args[1], args[2]], loc);
        }
    }

    /// Stores a scalar at a run-time index.
    #[track_caller]
    pub fn set<I: Index>(self, index: impl Operand<I, 0>, value: impl Operand<E, 0>) {
        let loc = Loc::caller();
        let (index, value) = (scalar::<I>(index, loc), scalar::<E>(value, loc));
        let op = Op::Store { masked: false, cache: self.raw.cache };
        record::effect(op, &[self.raw.handle, index, value], loc);
    }
}
