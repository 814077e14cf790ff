//! Online softmax: running maximum, sum and output, as in flash attention.
//!
//! Nothing that a block of tokens does not need is done for it. Sums over tokens stay in [`PLACES`] parts and are added up at the end; the state is rescaled
//! only when a logit has outgrown what exponents are taken relative to by [`LAG`]; what codecs add to all elements of a row alike, and what
//! they multiply all of them by, stays apart ([`WeightedSum`]).

use std::f32::consts::LOG2_E;

use super::code_floats::{CodeFloats, power};
use super::hooks::AttentionHooks;
use crate::lang::tile::{Scalar, Tile, lit};
use crate::lang::{Carry, device, iota};

/// Parts in which sums and maxima over tokens are kept: token `t` of a block belongs to part `t % PLACES`.
pub(super) const PLACES: usize = 8;

/// What exponents are taken relative to before any token; logits below it count as masked.
const LEAST: f32 = -1e38;

/// How far a logit may be above what exponents are taken relative to. Weights are then at most e^5 = 148, which 16-bit floats hold.
const LAG: f32 = 5.0;

/// The running state of attention for `queries` query heads, which loops carry.
#[derive(Clone, Copy, Debug, Carry)]
pub struct OnlineSoftmax {
    /// What exponents are taken relative to, `[queries]`: the largest logit so far, or up to [`LAG`] less.
    base: Tile<f32, 1>,
    /// Sums of `exp(logit - base)`, `[queries, PLACES]`.
    sum: Tile<f32, 2>,
    /// Sums of `exp(logit - base) * value`.
    pub values: WeightedSum,
}

impl OnlineSoftmax {
    /// The state before any token.
    #[track_caller]
    pub fn new(queries: usize, head_dim: usize) -> OnlineSoftmax {
        OnlineSoftmax::of(queries, head_dim, CodeFloats::Exact)
    }

    /// The same, where the first values are such codes.
    #[track_caller]
    pub fn of(queries: usize, head_dim: usize, codes: CodeFloats) -> OnlineSoftmax {
        OnlineSoftmax {
            base: Tile::full([queries], LEAST),
            sum: Tile::zeros([queries, PLACES]),
            values: WeightedSum { codes, ..WeightedSum::new(queries, head_dim) },
        }
    }

    /// Takes in the logits `[queries, rows]` of a block, minus infinity where masked, and gives the weights `exp(logit - base)`, by which the
    /// caller adds the block's values to [`values`](OnlineSoftmax::values).
    #[track_caller]
    pub fn step(&mut self, logits: Tile<f32, 2>, hooks: &dyn AttentionHooks) -> Tile<f32, 2> {
        self.raise(logits, hooks);
        let below = (self.base * -LOG2_E).expand_dims(1);
        let weights = logits.fma(LOG2_E, below.broadcast(logits.extents())).exp2();
        self.sum += folded(weights, Fold::Sum);
        weights
    }

    /// Takes the exponents of a query relative to a larger number, if one of its logits asks for it: what a query gets does not depend on those beside it.
    #[device]
    fn raise(&mut self, logits: Tile<f32, 2>, hooks: &dyn AttentionHooks) {
        let most = (self.base + LAG).expand_dims(1);
        if any(folded(logits, Fold::Max).gt(most)) {
            let largest = hooks.running_max(self.base, logits);
            let base = largest.gt(self.base + LAG).select(largest, self.base);
            let old = (self.base - base).exp().expand_dims(1);
            self.base = base;
            self.sum *= old;
            self.values.scale(old);
        }
    }

    /// What was found.
    #[track_caller]
    pub fn finish(&self) -> Partial {
        Partial { max: self.base, sum: self.sum.reduce_sum(1), acc: self.values.total() }
    }
}

/// What attention found among some tokens, for `queries` query heads.
#[derive(Clone, Copy, Debug, Carry)]
pub struct Partial {
    /// What exponents are taken relative to, `[queries]`.
    max: Tile<f32, 1>,
    /// Sum of `exp(logit - max)`, `[queries]`.
    sum: Tile<f32, 1>,
    /// Sum of `exp(logit - max) * value`, `[queries, head_dim]`.
    acc: Tile<f32, 2>,
}

impl Partial {
    /// No token.
    #[track_caller]
    pub fn none(queries: usize, head_dim: usize) -> Partial {
        Partial {
            max: Tile::full([queries], f32::NEG_INFINITY),
            sum: Tile::zeros([queries]),
            acc: Tile::zeros([queries, head_dim]),
        }
    }

    /// What attention found that gave this output `[queries, head_dim]` and these logarithms `[queries]`.
    #[track_caller]
    pub fn of(lse: Tile<f32, 1>, output: Tile<f32, 2>) -> Partial {
        Partial { max: lse, sum: lse.gt(f32::NEG_INFINITY).select(1.0, 0.0), acc: output }
    }

    /// This and what was found among other tokens as one.
    #[track_caller]
    pub fn merge(&self, other: Partial) -> Partial {
        let max = self.max.max(other.max);
        let base = max.gt(f32::NEG_INFINITY).select(max, 0.0);
        let (mine, theirs) = ((self.max - base).exp(), (other.max - base).exp());
        Partial {
            max,
            sum: self.sum.fma(mine, other.sum * theirs),
            acc: self.acc.fma(mine.expand_dims(1), other.acc * theirs.expand_dims(1)),
        }
    }

    /// `acc / sum`: zeros where no token was attended to.
    #[track_caller]
    pub fn output(&self) -> Tile<f32, 2> {
        let each = Tile::full(self.sum.extents(), 1.0) / self.sum.gt(0.0).select(self.sum, 1.0);
        self.acc * each.expand_dims(1)
    }

    /// Natural logarithm of the sum of exponentials of the logits; minus infinity where no token was attended to.
    #[track_caller]
    pub fn lse(&self) -> Tile<f32, 1> {
        self.sum.gt(0.0).select(self.max + self.sum.log(), f32::NEG_INFINITY)
    }
}

/// Sums of weighted values while a list is gone through: `acc * unit` (for exact codes: see [`enter`](WeightedSum::enter)), and the sum of `shift` added to all elements of a row.
///
/// Codecs add to it ([`Codec::accumulate`](super::Codec::accumulate)). One that multiplies codes by weights and scales brings the scales below
/// `unit` first, so that 16-bit floats hold the products ([`cover`](WeightedSum::cover)), and keeps zero points in `shift`.
#[derive(Clone, Copy, Debug, Carry)]
pub struct WeightedSum {
    /// `[queries, head_dim]`, in units of `unit`.
    pub acc: Tile<f32, 2>,
    /// `[queries, PLACES]`, to be added up.
    shift: Tile<f32, 2>,
    /// A power of two.
    unit: Scalar<f32>,
    /// What the codes are that are added.
    #[carry(fixed)]
    codes: CodeFloats,
}

impl WeightedSum {
    /// Nothing yet; the unit is the least there is.
    #[track_caller]
    pub fn new(queries: usize, head_dim: usize) -> WeightedSum {
        WeightedSum {
            acc: Tile::zeros([queries, head_dim]),
            shift: Tile::zeros([queries, PLACES]),
            unit: lit(f32::MIN_POSITIVE),
            codes: CodeFloats::Exact,
        }
    }

    /// Makes the sums ready for values that are such codes: the columns of `acc` are then in units of `unit` times theirs. Not in a loop that is recorded.
    #[track_caller]
    pub fn enter(&mut self, codes: CodeFloats) {
        if codes != self.codes {
            let [_, dim] = self.acc.extents();
            self.acc *= power(codes.units(dim) - self.codes.units(dim)).expand_dims(0);
            self.codes = codes;
        }
    }

    /// Makes the unit at least as large as every one of `scales`, `[rows]`.
    #[device]
    pub fn cover(&mut self, scales: Tile<f32, 1>) {
        if any(folded(scales.expand_dims(0), Fold::Max).gt(self.unit)) {
            self.raise(scales.reduce_max(0));
        }
    }

    /// Makes the unit the least power of two that is not below `least`, which is above it.
    #[track_caller]
    fn raise(&mut self, least: Scalar<f32>) {
        // The exponent, and one more where there is a fraction.
        let bits = (least.bitcast::<i32>() + 0x007F_FFFF) & 0x7F80_0000;
        let unit = bits.min(0x7E80_0000).bitcast::<f32>();
        self.acc *= self.unit * reciprocal(unit);
        self.unit = unit;
    }

    /// The weights `p` for values that are taken as they are.
    #[device]
    pub fn weights(&mut self, p: Tile<f32, 2>) -> Tile<f32, 2> {
        if self.unit.lt(1.0) {
            self.raise(lit(1.0));
        }
        p * self.per_unit()
    }

    /// `1 / unit`, which is exact.
    #[track_caller]
    pub fn per_unit(&self) -> Scalar<f32> {
        reciprocal(self.unit)
    }

    /// Adds `sum over rows of p * zero` to all elements of a row: `p` is `[queries, rows]`, `zero` is `[rows]`.
    #[track_caller]
    pub fn add_to_all(&mut self, p: Tile<f32, 2>, zero: Tile<f32, 1>) {
        self.shift = multiplied(self.shift, p, zero);
    }

    /// Multiplies each row by `factor`, `[queries, 1]`.
    #[track_caller]
    fn scale(&mut self, factor: Tile<f32, 2>) {
        self.acc *= factor;
        self.shift *= factor;
    }

    /// The sums, `[queries, head_dim]`.
    #[track_caller]
    pub fn total(&self) -> Tile<f32, 2> {
        let mut exact = *self;
        exact.enter(CodeFloats::Exact);
        exact.acc.fma(self.unit, self.shift.reduce_sum(1).expand_dims(1))
    }
}

/// 1 over a power of two between 2^-126 and 2^126, which is exact.
#[track_caller]
fn reciprocal(x: Scalar<f32>) -> Scalar<f32> {
    (0x7F00_0000 - x.bitcast::<i32>()).bitcast()
}

/// Whether any of these is true.
#[track_caller]
fn any(x: Tile<bool, 2>) -> Scalar<bool> {
    let [rows, columns] = x.extents();
    x.reshape([rows * columns]).reduce_or(0)
}

/// How rows of a block are brought together.
#[derive(Clone, Copy)]
enum Fold {
    Sum,
    Max,
}

/// `[queries, rows]` as `[queries, PLACES]`: rows that belong to one place combined.
#[track_caller]
fn folded(x: Tile<f32, 2>, how: Fold) -> Tile<f32, 2> {
    let [queries, rows] = x.extents();
    if rows.is_multiple_of(PLACES) {
        let places = x.reshape([queries, rows / PLACES, PLACES]);
        return match how {
            Fold::Sum => places.reduce_sum(1),
            Fold::Max => places.reduce_max(1),
        };
    }
    let first = iota(PLACES).eq(0).expand_dims(0);
    let (all, nothing) = match how {
        Fold::Sum => (x.reduce_sum(1), 0.0),
        Fold::Max => (x.reduce_max(1), f32::NEG_INFINITY),
    };
    let whole = [queries, PLACES];
    first.broadcast(whole).select(all.expand_dims(1).broadcast(whole), Tile::full(whole, nothing))
}

/// `sum + p * by` at the place of each row.
#[track_caller]
fn multiplied(sum: Tile<f32, 2>, p: Tile<f32, 2>, by: Tile<f32, 1>) -> Tile<f32, 2> {
    let [queries, rows] = p.extents();
    if rows == PLACES {
        return p.fma(by.expand_dims(0), sum);
    }
    if !rows.is_multiple_of(2 * PLACES) {
        return sum + folded(p * by.expand_dims(0), Fold::Sum);
    }
    let (p0, p1) = p.reshape([queries, 2, rows / 2]).permute([0, 2, 1]).split();
    let (by0, by1) = by.reshape([2, rows / 2]).permute([1, 0]).split();
    multiplied(multiplied(sum, p0, by0), p1, by1)
}
