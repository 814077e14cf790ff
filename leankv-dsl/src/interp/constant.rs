//! Constant folding: the interpreter on one element.

use super::data::{Data, Element};
use super::elementwise;
use crate::ir::{Const, Dtype, Op};

/// The value of an element-wise op (`quantize` and `dequantize` among them) on constants, each with its element type; `out` is the
/// element type of the result.
///
/// `None` where the op does not exist for the types, where the interpreter reports an error (integer division by zero), and
/// where a constant cannot keep the bits: `bitcast` from or to NaN. Other NaNs come out as the positive quiet one.
pub fn fold_constant(op: &Op, args: &[(Const, Dtype)], out: Dtype) -> Option<Const> {
    let is_nan = |value: Const| matches!(value, Const::Float(_)) && value.as_f64().is_nan();
    let reads_bits = matches!(op, Op::Bitcast);
    if reads_bits && args.iter().any(|&(value, _)| is_nan(value)) {
        return None;
    }
    let tiles: Vec<Data> = args.iter().map(|&(value, dtype)| Data::filled(dtype, value, 1)).collect();
    let tiles: Vec<&Data> = tiles.iter().collect();
    let result = elementwise::eval(op, &tiles, out, true).ok()?;
    let value = first(&result)?;
    if !is_nan(value) {
        return Some(value);
    }
    (!reads_bits).then(|| Const::float(f64::NAN))
}

/// The first element as a constant.
fn first(data: &Data) -> Option<Const> {
    fn get<T: Element>(data: &Data) -> Option<T> {
        T::of(data)?.first().copied()
    }
    Some(match data {
        Data::I1(_) => Const::Int(get::<bool>(data)?.into()),
        Data::U64(_) => Const::Int(get::<u64>(data)?.into()),
        Data::Code(v) => Const::Int(v.first()?.0.into()),
        Data::F16(v) => Const::float(v.first()?.to_f64()),
        Data::BF16(v) => Const::float(v.first()?.to_f64()),
        Data::F32(v) => Const::float(f64::from(*v.first()?)),
        Data::F64(v) => Const::float(*v.first()?),
        ints => Const::Int(ints.as_int()?.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{BinaryOp, CmpOp, UnaryOp};

    fn binary(op: BinaryOp, dtype: Dtype, a: Const, b: Const) -> Option<Const> {
        fold_constant(&Op::Binary(op), &[(a, dtype), (b, dtype)], dtype)
    }

    #[test]
    fn integers_wrap_and_division_by_zero_is_left_alone() {
        let int = Const::Int;
        assert_eq!(binary(BinaryOp::Add, Dtype::I8, int(127), int(1)), Some(int(-128)));
        assert_eq!(
            binary(BinaryOp::Mul, Dtype::U64, int(u64::MAX.into()), int(2)),
            Some(int(u64::MAX as i128 - 1))
        );
        assert_eq!(
            binary(BinaryOp::Div, Dtype::I32, int(i32::MIN.into()), int(-1)),
            Some(int(i32::MIN.into()))
        );
        assert_eq!(binary(BinaryOp::Div, Dtype::I32, int(1), int(0)), None);
        assert_eq!(binary(BinaryOp::Shr, Dtype::I16, int(-5), int(99)), Some(int(-1)));
    }

    #[test]
    fn floats_round_in_their_type_and_nan_is_one_constant() {
        let f = Const::float;
        let tenth = f(0.1).rounded(Dtype::F16);
        let sum = binary(BinaryOp::Add, Dtype::F16, tenth, f(1.0)).unwrap();
        assert_eq!(sum, f(0.1 + 1.0).rounded(Dtype::F16));
        assert_eq!(binary(BinaryOp::Div, Dtype::F32, f(0.0), f(-0.0)), Some(f(f64::NAN)));
        assert_eq!(
            fold_constant(&Op::Cmp(CmpOp::Ne), &[(f(f64::NAN), Dtype::F32); 2], Dtype::I1),
            Some(Const::Int(1))
        );
        assert_eq!(
            fold_constant(&Op::Unary(UnaryOp::Round), &[(f(2.5), Dtype::F32)], Dtype::F32),
            Some(f(2.0))
        );
    }

    #[test]
    fn bits_that_a_constant_cannot_keep_are_left_alone() {
        let quiet = Const::Int(0x7fc0_0001);
        assert_eq!(fold_constant(&Op::Bitcast, &[(quiet, Dtype::I32)], Dtype::F32), None);
        let one = Const::Int(0x3f80_0000);
        assert_eq!(fold_constant(&Op::Bitcast, &[(one, Dtype::I32)], Dtype::F32), Some(Const::float(1.0)));
        assert_eq!(fold_constant(&Op::Bitcast, &[(Const::float(1.0), Dtype::F32)], Dtype::U32), Some(one));
    }

    #[test]
    fn quantisation_folds() {
        let f = |x| (Const::float(x), Dtype::F32);
        assert_eq!(
            fold_constant(&Op::Quantize, &[f(9.0), f(2.0), f(1.0)], Dtype::Code(2)),
            Some(Const::Int(3))
        );
        assert_eq!(
            fold_constant(&Op::Quantize, &[f(9.0), f(0.0), f(1.0)], Dtype::Code(2)),
            Some(Const::Int(0))
        );
    }
}
