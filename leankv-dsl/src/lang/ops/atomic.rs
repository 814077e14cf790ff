//! Atomics with order and scope.

use super::memory::PtrMut;
use crate::ir::{AtomicOp, Loc, MemOrder, MemScope, Op};
use crate::lang::element::{Index, Plain};
use crate::lang::record;
use crate::lang::tile::{Operand, Tile, unify};

/// Atomic access to the memory behind a pointer: relaxed and device-wide unless told otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Atomics<E> {
    ptr: PtrMut<E>,
    order: MemOrder,
    scope: MemScope,
}

impl<E: Plain> PtrMut<E> {
    /// Atomic access.
    pub fn atomic(self) -> Atomics<E> {
        Atomics { ptr: self, order: MemOrder::Relaxed, scope: MemScope::Device }
    }
}

macro_rules! rmw {
    ($($(#[$doc:meta])* $name:ident $masked:ident $op:ident;)*) => {
        impl<E: Plain> Atomics<E> {
            $(
                $(#[$doc])*
                /// Gives the old values.
                #[track_caller]
                pub fn $name<I: Index, const R: usize>(
                    self,
                    offsets: Tile<I, R>,
                    value: impl Operand<E, R>,
                ) -> Tile<E, R> {
                    self.rmw(AtomicOp::$op, offsets, value, None)
                }

                $(#[$doc])*
                /// Where `mask`; gives the old values, zero elsewhere.
                #[track_caller]
                pub fn $masked<I: Index, const R: usize>(
                    self,
                    offsets: Tile<I, R>,
                    value: impl Operand<E, R>,
                    mask: Tile<bool, R>,
                ) -> Tile<E, R> {
                    self.rmw(AtomicOp::$op, offsets, value, Some(mask))
                }
            )*
        }
    };
}

rmw! {
    /// Adds.
    add add_masked Add;
    /// Stores the smaller.
    min min_masked Min;
    /// Stores the larger.
    max max_masked Max;
    /// Bitwise and.
    and and_masked And;
    /// Bitwise or.
    or or_masked Or;
    /// Bitwise exclusive or.
    xor xor_masked Xor;
    /// Stores the value.
    exchange exchange_masked Exchange;
}

impl<E: Plain> Atomics<E> {
    /// With this memory order.
    pub fn order(mut self, order: MemOrder) -> Self {
        self.order = order;
        self
    }

    /// Ordered as seen by these.
    pub fn scope(mut self, scope: MemScope) -> Self {
        self.scope = scope;
        self
    }

    #[track_caller]
    fn rmw<I: Index, const R: usize>(
        self,
        op: AtomicOp,
        offsets: Tile<I, R>,
        value: impl Operand<E, R>,
        mask: Option<Tile<bool, R>>,
    ) -> Tile<E, R> {
        let loc = Loc::caller();
        let mut args = vec![offsets.arg(), value.arg()];
        args.extend(mask.map(|m| m.arg()));
        let Some(args) = unify("atomic_rmw", &args, loc) else { return Tile::poison() };
        let op = Op::AtomicRmw { op, order: self.order, scope: self.scope, masked: mask.is_some() };
        let operands = [&[self.ptr.raw.handle], &args[..]].concat();
        Tile::new(record::value(op, &operands, None, loc))
    }

    /// Stores `new` where the memory holds `expected`; gives the old values.
    #[track_caller]
    pub fn compare_exchange<I: Index, const R: usize>(
        self,
        offsets: Tile<I, R>,
        expected: impl Operand<E, R>,
        new: impl Operand<E, R>,
    ) -> Tile<E, R> {
        let loc = Loc::caller();
        let args = unify("atomic_cas", &[offsets.arg(), expected.arg(), new.arg()], loc);
        let Some(args) = args else { return Tile::poison() };
        let op = Op::AtomicCas { order: self.order, scope: self.scope };
        let operands = [&[self.ptr.raw.handle], &args[..]].concat();
        Tile::new(record::value(op, &operands, None, loc))
    }
}
