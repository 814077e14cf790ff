//! Inclusive prefix combinations along an axis.

use super::reduce::{Combined, by_region};
use super::shape::axis;
use crate::ir::{Combine, CombineKind, Loc, Op};
use crate::lang::element::{Element, Number};
use crate::lang::record::{self, Handle};
use crate::lang::tile::{Scalar, Tile};

impl<E: Number, const R: usize> Tile<E, R> {
    #[track_caller]
    fn scan_kind(self, op: &str, axis: usize, reverse: bool, kind: CombineKind) -> Self {
        let loc = Loc::caller();
        match self::axis(op, axis, R, loc) {
            Some(axis) => {
                let op = Op::Scan { axis, reverse, combine: Combine::Kind(kind) };
                Tile::new(record::value(op, &[self.handle], None, loc))
            }
            None => Tile::poison(),
        }
    }

    /// Running sum along `axis`.
    #[track_caller]
    pub fn cumsum(self, axis: usize) -> Self {
        self.scan_kind("cumsum", axis, false, CombineKind::Add)
    }

    /// Running sum from the end along `axis`.
    #[track_caller]
    pub fn cumsum_reverse(self, axis: usize) -> Self {
        self.scan_kind("cumsum_reverse", axis, true, CombineKind::Add)
    }

    /// Running product along `axis`.
    #[track_caller]
    pub fn cumprod(self, axis: usize) -> Self {
        self.scan_kind("cumprod", axis, false, CombineKind::Mul)
    }

    /// Running maximum along `axis`.
    #[track_caller]
    pub fn cummax(self, axis: usize) -> Self {
        self.scan_kind("cummax", axis, false, CombineKind::Max)
    }

    /// Running minimum along `axis`.
    #[track_caller]
    pub fn cummin(self, axis: usize) -> Self {
        self.scan_kind("cummin", axis, false, CombineKind::Min)
    }
}

impl<E: Element, const R: usize> Tile<E, R> {
    /// Running combination along `axis` by an associative function; from the end when `reverse`.
    #[track_caller]
    pub fn scan(
        self,
        axis: usize,
        reverse: bool,
        combine: impl FnOnce(Scalar<E>, Scalar<E>) -> Scalar<E>,
    ) -> Self {
        let loc = Loc::caller();
        let Some(axis) = self::axis("scan", axis, R, loc) else { return Tile::poison() };
        let op = Op::Scan { axis, reverse, combine: Combine::Region };
        let body = |p: &[Handle]| match p {
            [a, b] => combine(Tile::new(*a), Tile::new(*b)).handles(),
            _ => Vec::new(),
        };
        Tile::new(by_region(op, &[self.handle], true, axis, body, loc)[0])
    }

    /// As [`scan`](Tile::scan) over pairs of elements of two tiles of one shape.
    #[track_caller]
    pub fn scan_with<F: Element>(
        self,
        other: Tile<F, R>,
        axis: usize,
        reverse: bool,
        combine: impl FnOnce((Scalar<E>, Scalar<F>), (Scalar<E>, Scalar<F>)) -> (Scalar<E>, Scalar<F>),
    ) -> (Self, Tile<F, R>) {
        let loc = Loc::caller();
        let Some(axis) = self::axis("scan", axis, R, loc) else { return (Tile::poison(), Tile::poison()) };
        let op = Op::Scan { axis, reverse, combine: Combine::Region };
        let body = |p: &[Handle]| match p {
            [a0, a1, b0, b1] => {
                let a = (Tile::new(*a0), Tile::new(*a1));
                combine(a, (Tile::new(*b0), Tile::new(*b1))).handles()
            }
            _ => Vec::new(),
        };
        let out = by_region(op, &[self.handle, other.handle], true, axis, body, loc);
        (Tile::new(out[0]), Tile::new(out[1]))
    }
}
