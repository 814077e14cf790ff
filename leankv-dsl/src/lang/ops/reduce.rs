//! Reductions over one axis.

use crate::ir::{Combine, CombineKind, Loc, Op, Type};
use crate::lang::element::{Bits, Element, Number};
use crate::lang::record::{self, Handle};
use crate::lang::tile::{Scalar, Tile, iota};

use super::shape::axis;

/// What a combining function gives: one scalar, or a tuple of them.
pub trait Combined {
    /// The handles.
    #[doc(hidden)]
    fn handles(self) -> Vec<Handle>;
}

impl<E: Element> Combined for Scalar<E> {
    fn handles(self) -> Vec<Handle> {
        vec![self.handle]
    }
}

impl<A: Element, B: Element> Combined for (Scalar<A>, Scalar<B>) {
    fn handles(self) -> Vec<Handle> {
        vec![self.0.handle, self.1.handle]
    }
}

impl<A: Element, B: Element, C: Element> Combined for (Scalar<A>, Scalar<B>, Scalar<C>) {
    fn handles(self) -> Vec<Handle> {
        vec![self.0.handle, self.1.handle, self.2.handle]
    }
}

/// Records `reduce` or `scan` with a region filled by `body`, which gets the 2n scalars.
pub(crate) fn by_region(
    op: Op,
    operands: &[Handle],
    scan: bool,
    axis: u8,
    body: impl FnOnce(&[Handle]) -> Vec<Handle>,
    loc: Loc,
) -> Vec<Handle> {
    let poison = vec![Handle::poison(); operands.len()];
    let types: Option<Vec<Type>> = operands.iter().map(|&h| record::ty(h, loc)).collect();
    let Some(types) = types else { return poison };
    let depth = record::depth();
    let Some(region) = record::begin(op, operands, loc) else { return poison };
    let scalars: Vec<Type> = types.iter().map(|ty| record::scalar_type(ty.dtype())).collect();
    let params = record::open(region, &[scalars.clone(), scalars].concat());
    let yields = body(&params);
    if record::depth() != depth + 1 || !record::close(region, &yields, loc) {
        record::abandoned("combining function", depth, loc);
        return poison;
    }
    let results: Vec<Type> = types
        .iter()
        .map(|ty| match ty {
            Type::Tile { dtype, shape } if !scan => {
                Type::Tile { dtype: *dtype, shape: shape.without_axis(axis.into()) }
            }
            other => other.clone(),
        })
        .collect();
    record::finish(region, &results)
}

macro_rules! reductions {
    ($($rank:literal -> $down:literal)*) => {$(
        impl<E: Element> Tile<E, $rank> {
            #[track_caller]
            fn reduce_kind(self, op: &str, axis: usize, kind: CombineKind) -> Tile<E, $down> {
                let loc = Loc::caller();
                match self::axis(op, axis, $rank, loc) {
                    Some(axis) => {
                        let op = Op::Reduce { axis, combine: Combine::Kind(kind) };
                        Tile::new(record::value(op, &[self.handle], None, loc))
                    }
                    None => Tile::poison(),
                }
            }

            /// Combines all elements along `axis` with an associative function of scalars.
            #[track_caller]
            pub fn reduce(
                self,
                axis: usize,
                combine: impl FnOnce(Scalar<E>, Scalar<E>) -> Scalar<E>,
            ) -> Tile<E, $down> {
                let loc = Loc::caller();
                let Some(axis) = self::axis("reduce", axis, $rank, loc) else { return Tile::poison() };
                let op = Op::Reduce { axis, combine: Combine::Region };
                let body = |p: &[Handle]| match p {
                    [a, b] => combine(Tile::new(*a), Tile::new(*b)).handles(),
                    _ => Vec::new(),
                };
                Tile::new(by_region(op, &[self.handle], false, axis, body, loc)[0])
            }

            /// Combines pairs of elements of two tiles of one shape along `axis` with an associative function.
            #[track_caller]
            pub fn reduce_with<F: Element>(
                self,
                other: Tile<F, $rank>,
                axis: usize,
                combine: impl FnOnce((Scalar<E>, Scalar<F>), (Scalar<E>, Scalar<F>)) -> (Scalar<E>, Scalar<F>),
            ) -> (Tile<E, $down>, Tile<F, $down>) {
                let loc = Loc::caller();
                let Some(axis) = self::axis("reduce", axis, $rank, loc) else {
                    return (Tile::poison(), Tile::poison());
                };
                let op = Op::Reduce { axis, combine: Combine::Region };
                let body = |p: &[Handle]| match p {
                    [a0, a1, b0, b1] => {
                        let a = (Tile::new(*a0), Tile::new(*a1));
                        combine(a, (Tile::new(*b0), Tile::new(*b1))).handles()
                    }
                    _ => Vec::new(),
                };
                let out = by_region(op, &[self.handle, other.handle], false, axis, body, loc);
                (Tile::new(out[0]), Tile::new(out[1]))
            }
        }

        impl<E: Number> Tile<E, $rank> {
            /// Sum along `axis`.
            #[track_caller]
            pub fn reduce_sum(self, axis: usize) -> Tile<E, $down> {
                self.reduce_kind("reduce_sum", axis, CombineKind::Add)
            }

            /// Product along `axis`.
            #[track_caller]
            pub fn reduce_prod(self, axis: usize) -> Tile<E, $down> {
                self.reduce_kind("reduce_prod", axis, CombineKind::Mul)
            }

            /// Maximum along `axis`; NaN is skipped unless all are.
            #[track_caller]
            pub fn reduce_max(self, axis: usize) -> Tile<E, $down> {
                self.reduce_kind("reduce_max", axis, CombineKind::Max)
            }

            /// Minimum along `axis`; NaN is skipped unless all are.
            #[track_caller]
            pub fn reduce_min(self, axis: usize) -> Tile<E, $down> {
                self.reduce_kind("reduce_min", axis, CombineKind::Min)
            }

            /// Maximum along `axis` and the lowest index that has it. NaN is skipped unless all are: then it is NaN at index 0.
            /// -0 and +0 are equal here, so the first of them is taken.
            #[track_caller]
            pub fn reduce_argmax(self, axis: usize) -> (Tile<E, $down>, Tile<i32, $down>) {
                self.reduce_first(axis, |a, b| a.ge(b))
            }

            /// Minimum along `axis` and the lowest index that has it; NaN and zeros as for [`reduce_argmax`](Tile::reduce_argmax).
            #[track_caller]
            pub fn reduce_argmin(self, axis: usize) -> (Tile<E, $down>, Tile<i32, $down>) {
                self.reduce_first(axis, |a, b| a.le(b))
            }

            /// The first element along `axis` that is at least as good as every other, and its index; numbers are better than NaN.
            #[track_caller]
            fn reduce_first(
                self,
                axis: usize,
                as_good: impl FnOnce(Scalar<E>, Scalar<E>) -> Scalar<bool>,
            ) -> (Tile<E, $down>, Tile<i32, $down>) {
                let index = self.index_along(axis);
                // `a` is of lower index, so it is kept where both are as good: equal, or both NaN.
                self.reduce_with(index, axis, |(a, i), (b, j)| {
                    let first = as_good(a, b);
                    let first = if E::TYPE.is_float() { first | b.ne(b) } else { first };
                    (first.select(a, b), first.select(i, j))
                })
            }

            #[track_caller]
            fn index_along(self, axis: usize) -> Tile<i32, $rank> {
                let loc = Loc::caller();
                if self::axis("reduce", axis, $rank, loc).is_none() {
                    return Tile::poison();
                }
                let extents = self.extents();
                let mut shape = [1usize; $rank];
                shape[axis] = extents[axis];
                iota(extents[axis]).reshape(shape).broadcast(extents)
            }
        }

        impl<E: Bits> Tile<E, $rank> {
            /// Exclusive or along `axis`.
            #[track_caller]
            pub fn reduce_xor(self, axis: usize) -> Tile<E, $down> {
                self.reduce_kind("reduce_xor", axis, CombineKind::Xor)
            }

            /// Or along `axis`: for truth values, whether any is true.
            #[track_caller]
            pub fn reduce_or(self, axis: usize) -> Tile<E, $down> {
                self.reduce_kind("reduce_or", axis, CombineKind::Or)
            }

            /// And along `axis`: for truth values, whether all are true.
            #[track_caller]
            pub fn reduce_and(self, axis: usize) -> Tile<E, $down> {
                self.reduce_kind("reduce_and", axis, CombineKind::And)
            }
        }
    )*};
}
reductions!(1 -> 0 2 -> 1 3 -> 2 4 -> 3 5 -> 4);

macro_rules! softmax {
    ($($rank:literal)*) => {$(
        impl<E: crate::lang::element::Float> Tile<E, $rank> {
            /// `exp(x - max) / sum(exp(x - max))` along `axis`; zeros where every element is minus infinity (all masked).
            #[track_caller]
            pub fn softmax(self, axis: usize) -> Self {
                let number = |x: f64| Scalar::lit(E::of(x));
                let top = self.reduce_max(axis).expand_dims(axis);
                let base = top.gt(number(f64::NEG_INFINITY)).select(top, number(0.0));
                let powers = (self - base).exp();
                let sum = powers.reduce_sum(axis).expand_dims(axis);
                powers / sum.eq(number(0.0)).select(number(1.0), sum)
            }
        }
    )*};
}
softmax!(1 2 3 4 5);
