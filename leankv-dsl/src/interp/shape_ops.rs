//! Ops that move elements: transposes, broadcasts, joins, gathers, packing.

use super::data::{Code, Data, Element, each, each_int};
use super::elementwise::low_bits;
use super::fault::{FaultKind, Raised};
use super::fold::Around;
use crate::ir::{Dtype, Shape};

/// Row-major strides.
fn strides(shape: &Shape) -> Vec<usize> {
    let mut out = vec![1; shape.rank()];
    for axis in (1..shape.rank()).rev() {
        out[axis - 1] = out[axis] * shape[axis] as usize;
    }
    out
}

/// For each element of `shape` in row-major order, the sum of its indices times `steps`.
fn places(shape: &Shape, steps: &[usize]) -> Vec<usize> {
    let mut out = vec![0];
    for (&extent, &step) in shape.extents().iter().zip(steps) {
        out = out.iter().flat_map(|&at| (0..extent as usize).map(move |i| at + i * step)).collect();
    }
    out
}

pub(crate) fn transpose(a: &Data, from: &Shape, to: &Shape, perm: &[u8]) -> Data {
    let strides = strides(from);
    let steps: Vec<usize> = perm.iter().map(|&p| strides[usize::from(p)]).collect();
    a.picked(places(to, &steps).into_iter())
}

pub(crate) fn broadcast(a: &Data, from: &Shape, to: &Shape) -> Data {
    let steps: Vec<usize> = strides(from)
        .iter()
        .zip(from.extents())
        .map(|(&s, &extent)| if extent == 1 { 0 } else { s })
        .collect();
    a.picked(places(to, &steps).into_iter())
}

pub(crate) fn join(a: &Data, b: &Data) -> Option<Data> {
    fn weave<T: Element>(a: &[T], b: &Data) -> Option<Data> {
        Some(T::data(a.iter().zip(T::of(b)?).flat_map(|(&a, &b)| [a, b]).collect()))
    }
    each!(a, a => weave(a, b))
}

/// Every second element, from `first` on.
pub(crate) fn split(a: &Data, first: usize) -> Data {
    a.picked((first..a.len()).step_by(2))
}

/// `0, 1, .. n - 1`.
pub(crate) fn iota(dtype: Dtype, n: usize) -> Data {
    super::elementwise::cast(&Data::I64((0..n as i64).collect()), dtype)
}

/// Splits a shape at an axis.
pub(crate) fn around(shape: &Shape, axis: usize) -> Around {
    let product = |extents: &[u32]| extents.iter().map(|&e| e as usize).product();
    let extents = shape.extents();
    Around {
        outer: product(&extents[..axis]),
        extent: extents[axis] as usize,
        inner: product(&extents[axis + 1..]),
    }
}

pub(crate) fn gather(a: &Data, from: &Shape, index: &Data, to: &Shape, axis: usize) -> Result<Data, Raised> {
    let Around { extent, inner, .. } = around(from, axis);
    let Around { outer, extent: count, .. } = around(to, axis);
    let index: Vec<i128> = each_int!(index, v => v.iter().map(|&i| i as i128).collect(), else Vec::new());
    let mut places = Vec::with_capacity(index.len());
    for o in 0..outer {
        for i in 0..count {
            for j in 0..inner {
                let element = (o * count + i) * inner + j;
                let at = index[element];
                if at < 0 || at >= extent as i128 {
                    return Err(FaultKind::GatherIndex { index: at, extent: extent as u32 }.at(element));
                }
                places.push((o * extent + at as usize) * inner + j);
            }
        }
    }
    Ok(a.picked(places.into_iter()))
}

pub(crate) fn pack(codes: &Data, bits: u8, words: Dtype) -> Option<Data> {
    let codes = Code::of(codes)?;
    let per_word = (words.bits() / u32::from(bits)) as usize;
    let word = |chunk: &[Code]| {
        chunk
            .iter()
            .rev()
            .fold(0u32, |word, code| word.checked_shl(bits.into()).unwrap_or(0) | u32::from(code.0))
    };
    let packed = codes.chunks(per_word).map(word);
    Some(match words {
        Dtype::U8 => Data::U8(packed.map(|w| w as u8).collect()),
        Dtype::U16 => Data::U16(packed.map(|w| w as u16).collect()),
        Dtype::U32 => Data::U32(packed.collect()),
        _ => return None,
    })
}

pub(crate) fn unpack(words: &Data, bits: u8) -> Option<Data> {
    fn codes<T: Element + Into<u32>>(words: &[T], bits: u8) -> Data {
        let per_word = T::BYTES * 8 / usize::from(bits);
        let code = |word: u32, i: usize| Code((word >> (i * usize::from(bits))) as u8 & low_bits(bits));
        Code::data(words.iter().flat_map(|&word| (0..per_word).map(move |i| code(word.into(), i))).collect())
    }
    Some(match words {
        Data::U8(v) => codes(v, bits),
        Data::U16(v) => codes(v, bits),
        Data::U32(v) => codes(v, bits),
        _ => return None,
    })
}

/// `acc + a b`, with `k` counted up, products and sums in the accumulator's type.
pub(crate) fn dot(a: &Data, b: &Data, acc: &Data, m: usize, k: usize, n: usize) -> Option<Data> {
    /// The accumulator's arithmetic: `acc + a * b`.
    fn multiply<T: Element>(
        a: &[T],
        b: &[T],
        acc: &[T],
        m: usize,
        k: usize,
        n: usize,
        f: impl Fn(T, T, T) -> T,
    ) -> Data {
        let mut out = acc.to_vec();
        for row in 0..m {
            let out = &mut out[row * n..(row + 1) * n];
            for i in 0..k {
                let x = a[row * k + i];
                for (out, &y) in out.iter_mut().zip(&b[i * n..(i + 1) * n]) {
                    *out = f(*out, x, y);
                }
            }
        }
        T::data(out)
    }
    let floats = |data: &Data| match data {
        Data::F16(v) => Some(v.iter().map(|x| x.to_f32()).collect::<Vec<f32>>()),
        Data::BF16(v) => Some(v.iter().map(|x| x.to_f32()).collect()),
        Data::F32(v) => Some(v.clone()),
        _ => None,
    };
    let ints = |data: &Data| match data {
        Data::I8(v) => Some(v.iter().map(|&x| i32::from(x)).collect::<Vec<i32>>()),
        Data::U8(v) => Some(v.iter().map(|&x| i32::from(x)).collect()),
        _ => None,
    };
    Some(match acc {
        Data::F32(acc) => multiply(&floats(a)?, &floats(b)?, acc, m, k, n, |acc, x, y| acc + x * y),
        Data::F64(acc) => multiply(f64::of(a)?, f64::of(b)?, acc, m, k, n, |acc, x, y| acc + x * y),
        Data::I32(acc) => {
            multiply(&ints(a)?, &ints(b)?, acc, m, k, n, |acc, x, y| acc.wrapping_add(x.wrapping_mul(y)))
        }
        _ => return None,
    })
}
