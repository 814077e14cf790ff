//! `reduce` and `scan` with a built-in way to combine: sequential by index.

use super::data::{Data, Element, each_float, each_int};
use super::number::{Integer, Number};
use crate::ir::CombineKind;

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fold {
    Reduce,
    Scan { reverse: bool },
}

/// Extents before the axis, of it, and behind it.
#[derive(Clone, Copy)]
pub(crate) struct Around {
    pub(crate) outer: usize,
    pub(crate) extent: usize,
    pub(crate) inner: usize,
}

/// Combines along the axis; `None` where the kind does not exist for the type.
pub(crate) fn fold(kind: CombineKind, a: &Data, around: Around, fold: Fold) -> Option<Data> {
    match a {
        Data::I1(v) => match kind {
            CombineKind::And => Some(along(v, around, fold, |x, y| x & y)),
            CombineKind::Or => Some(along(v, around, fold, |x, y| x | y)),
            CombineKind::Xor => Some(along(v, around, fold, |x, y| x ^ y)),
            _ => None,
        },
        _ => each_float!(a, v => numbers(kind, v, around, fold), else
            each_int!(a, v => numbers(kind, v, around, fold).or_else(|| bits(kind, v, around, fold)), else None)),
    }
}

fn numbers<T: Number>(kind: CombineKind, v: &[T], around: Around, fold: Fold) -> Option<Data> {
    Some(match kind {
        CombineKind::Add => along(v, around, fold, T::add),
        CombineKind::Mul => along(v, around, fold, T::mul),
        CombineKind::Min => along(v, around, fold, T::least),
        CombineKind::Max => along(v, around, fold, T::most),
        _ => return None,
    })
}

fn bits<T: Integer>(kind: CombineKind, v: &[T], around: Around, fold: Fold) -> Option<Data> {
    Some(match kind {
        CombineKind::And => along(v, around, fold, T::and),
        CombineKind::Or => along(v, around, fold, T::or),
        CombineKind::Xor => along(v, around, fold, T::xor),
        _ => return None,
    })
}

fn along<T: Element>(v: &[T], around: Around, fold: Fold, f: impl Fn(T, T) -> T) -> Data {
    let Around { outer, extent, inner } = around;
    let keep_all = fold != Fold::Reduce;
    let reverse = matches!(fold, Fold::Scan { reverse: true });
    let mut out = if keep_all { v.to_vec() } else { Vec::with_capacity(outer * inner) };
    for o in 0..outer {
        let row = |at: usize| (o * extent + at) * inner..(o * extent + at + 1) * inner;
        let mut acc = v[row(if reverse { extent - 1 } else { 0 })].to_vec();
        for step in 1..extent {
            let at = if reverse { extent - 1 - step } else { step };
            for (acc, &x) in acc.iter_mut().zip(&v[row(at)]) {
                // The element of lower index stands first.
                *acc = if reverse { f(x, *acc) } else { f(*acc, x) };
            }
            if keep_all {
                out[row(at)].copy_from_slice(&acc);
            }
        }
        if !keep_all {
            out.extend(acc);
        }
    }
    T::data(out)
}
