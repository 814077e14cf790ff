//! What codes are as 16-bit floats.

use half::f16;

use crate::lang::element::Code;
use crate::lang::tile::{Tile, iota};

/// What the codes of a row are as factors of a product of 16-bit floats.
///
/// The bits of a code at the bottom of an `f16` are the subnormal number `code * 2^-24`, so that a code becomes a float without arithmetic. Codes of 1, 2 and 4
/// bits stay where they lie in their bytes, which multiplies element `d` by `2^(bits * d % 8)`: queries, and sums of weighted values, make up for it.
/// Both are exact, as far as products of subnormal numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeFloats {
    /// The codes themselves.
    Exact,
    /// Codes of so many bits as subnormal numbers.
    Subnormal {
        /// The width of codes.
        bits: u32,
    },
}

impl CodeFloats {
    /// By how many bits the code of each element of a row of `dim` is shifted, if any is.
    #[track_caller]
    fn shifts(self, dim: usize) -> Option<Tile<i32, 1>> {
        match self {
            CodeFloats::Subnormal { bits } if bits < 8 && 8 % bits == 0 => {
                Some((iota(dim) * bits as i32) & 7)
            }
            _ => None,
        }
    }

    /// The factors that stand for codes of a row, or of a part of it that begins with a byte.
    #[track_caller]
    pub(super) fn of(self, codes: Tile<Code, 2>) -> Tile<f16, 2> {
        if self == CodeFloats::Exact {
            return codes.cast();
        }
        let words = codes.cast::<u16>();
        let placed = match self.shifts(words.extents()[1]) {
            Some(by) => words << by.cast::<u16>().expand_dims(0),
            None => words,
        };
        placed.bitcast()
    }

    /// What queries are multiplied by codes in the place of `q: [queries, dim]`. Elements below 2^-7 lose their last bits.
    #[track_caller]
    pub(super) fn queries(self, q: Tile<f16, 2>) -> Tile<f16, 2> {
        match self.shifts(q.extents()[1]) {
            Some(by) => q * power(-by).cast::<f16>().expand_dims(0),
            None => q,
        }
    }

    /// What a product of [`queries`](CodeFloats::queries) with codes is to be multiplied by.
    pub(super) fn unit(self) -> f32 {
        match self {
            CodeFloats::Exact => 1.0,
            CodeFloats::Subnormal { .. } => 2f32.powi(UNIT),
        }
    }

    /// What stands for 1 in each column of sums of weighted values, as a power of two, `[dim]`.
    #[track_caller]
    pub(super) fn units(self, dim: usize) -> Tile<i32, 1> {
        match (self, self.shifts(dim)) {
            (CodeFloats::Exact, _) => Tile::full([dim], 0),
            (_, Some(by)) => by - UNIT,
            (_, None) => Tile::full([dim], -UNIT),
        }
    }

    /// The same as numbers, `[1, dim]`; `None` where all are 1.
    #[track_caller]
    pub(super) fn columns(self, dim: usize) -> Option<Tile<f32, 2>> {
        (self != CodeFloats::Exact).then(|| power(self.units(dim)).expand_dims(0))
    }
}

/// The unit of subnormal `f16` is 2 to the power of minus this.
const UNIT: i32 = 24;

/// 2 to the power of each, between -126 and 127.
#[track_caller]
pub(super) fn power<const R: usize>(exponents: Tile<i32, R>) -> Tile<f32, R> {
    ((exponents + 127) << 23).bitcast()
}
