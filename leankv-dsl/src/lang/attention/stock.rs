//! The codecs of this crate. Codes and metadata equal [`CodecMath`](crate::format::CodecMath) bit for bit.

use half::{bf16, f16};

use super::code_floats::CodeFloats;
use super::codec::{Codec, Encoded, EncodedCodes, Tokens};
use super::half16::{decode16, encode16, floor16, positive_scale16};
use super::online::WeightedSum;
use super::rows::Rows;
use crate::format::quant::{input_limit, symmetric_centre, symmetric_reach};
use crate::format::{Bits, CodecShape, CodecSpec, Groups, HalfType, Levels};
use crate::lang::element::{Code, Element};
use crate::lang::tile::{Scalar, Tile, lit};

/// The device form of a named codec.
pub fn stock(named: &CodecSpec) -> Box<dyn Codec> {
    match *named {
        CodecSpec::None { dtype } => Box::new(Raw { dtype }),
        CodecSpec::Affine { bits, groups, meta } => Box::new(Affine { bits, groups, meta }),
        CodecSpec::Symmetric { bits, levels, groups, meta } => {
            Box::new(Symmetric { bits, levels, groups, meta })
        }
    }
}

/// `x ~ scale * code + zero` per group (LeanKV, quantisation).
#[derive(Clone, Copy, Debug)]
pub struct Affine {
    /// Code width.
    pub bits: Bits,
    /// Groups along the head dim.
    pub groups: Groups,
    /// Type of scale and zero.
    pub meta: HalfType,
}

/// `x ~ scale * (code - centre)` per group.
#[derive(Clone, Copy, Debug)]
pub struct Symmetric {
    /// Code width.
    pub bits: Bits,
    /// Where the levels lie.
    pub levels: Levels,
    /// Groups along the head dim.
    pub groups: Groups,
    /// Type of the scale.
    pub meta: HalfType,
}

/// Unquantised 16-bit floats.
#[derive(Clone, Copy, Debug)]
pub struct Raw {
    /// The stored type.
    pub dtype: HalfType,
}

/// `[rows, head_dim]` as `[rows, groups, len]`.
#[track_caller]
fn grouped(x: Tile<f32, 2>, groups: Groups) -> Tile<f32, 3> {
    let [rows, dim] = x.extents();
    let groups = groups.get() as usize;
    x.reshape([rows, groups, dim / groups])
}

/// Codes of `[rows, groups, len]` under scale and zero of each group, as `[rows, head_dim]`.
#[track_caller]
fn codes(x: Tile<f32, 3>, scale: Tile<f32, 2>, zero: Tile<f32, 2>, bits: Bits) -> Tile<Code, 2> {
    let [rows, groups, len] = x.extents();
    let codes = x.quantize(scale.expand_dims(2), zero.expand_dims(2), bits.get() as usize);
    codes.reshape([rows, groups * len])
}

/// The values of codes under scale and zero of each group.
#[track_caller]
fn values(rows: &Rows, scale: Tile<f32, 2>, zero: Tile<f32, 2>) -> Tile<f32, 2> {
    let [_, groups] = scale.extents();
    let (count, dim) = (rows.count(), rows.head_dim());
    let codes = rows.codes().reshape([count, groups, dim / groups]);
    codes.dequantize(scale.expand_dims(2), zero.expand_dims(2)).reshape([count, dim])
}

/// The two halves of every row.
#[track_caller]
fn halves<E: Element>(x: Tile<E, 2>) -> (Tile<E, 2>, Tile<E, 2>) {
    let [rows, dim] = x.extents();
    x.reshape([rows, 2, dim / 2]).permute([0, 2, 1]).split()
}

/// The part of every row that each group covers.
#[track_caller]
fn parts<E: Element>(x: Tile<E, 2>, groups: Groups) -> Vec<Tile<E, 2>> {
    match groups {
        Groups::One => vec![x],
        Groups::Two => {
            let (a, b) = halves(x);
            vec![a, b]
        }
        Groups::Four => {
            let (a, b) = halves(x);
            [halves(a), halves(b)].into_iter().flat_map(|(a, b)| [a, b]).collect()
        }
    }
}

/// The parts of every row put together again.
#[track_caller]
fn whole<E: Element>(parts: Vec<Tile<E, 2>>) -> Tile<E, 2> {
    let mut parts = parts;
    while parts.len() > 1 {
        parts = parts
            .chunks(2)
            .map(|pair| {
                let [rows, dim] = pair[0].extents();
                pair[0].join(pair[1]).permute([0, 2, 1]).reshape([rows, 2 * dim])
            })
            .collect();
    }
    parts[0]
}

/// Codecs whose values are `scale * code + zero`.
trait Linear: Codec + Copy + 'static {
    fn bits(&self) -> Bits;
    fn groups(&self) -> Groups;
    /// Scales and zeros of a group, `[rows]` each.
    fn constants(&self, rows: &Rows, group: usize) -> (Tile<f32, 1>, Tile<f32, 1>);
}

/// `sum over groups of scale_g (q_g . code_g) + zero_g sum(q_g)`, times `by` if there is one, as there is for codes that are not exact: multiplies codes, which
/// f16 holds exactly, and applies scale and zero to the sums.
#[track_caller]
fn code_logits(
    codec: &impl Linear,
    floats: CodeFloats,
    q: Tile<f16, 2>,
    rows: &Rows,
    by: Option<Scalar<f32>>,
) -> Tile<f32, 2> {
    let groups = codec.groups();
    let zeros = Tile::zeros([q.extents()[0], rows.count()]);
    let mut sum: Option<Tile<f32, 2>> = None;
    let split = (!rows.groups_are_bytes()).then(|| parts(floats.of(rows.codes()), groups));
    let factors = parts(floats.queries(q), groups);
    for (group, q) in parts(q, groups).into_iter().enumerate() {
        let codes = match &split {
            Some(parts) => parts[group],
            None => floats.of(rows.group_codes(group)),
        };
        let (scale, zero) = codec.constants(rows, group);
        let q_sum = q.cast::<f32>().reduce_sum(1);
        let (scale, q_sum) = match by {
            Some(by) => (scale * (by * floats.unit()), q_sum * by),
            None => (scale, q_sum),
        };
        let product = factors[group].dot(codes.t(), zeros) * scale.expand_dims(0);
        let part = q_sum.expand_dims(1).fma(zero.expand_dims(0), product);
        sum = Some(sum.map_or(part, |sum| sum + part));
    }
    sum.unwrap_or(zeros)
}

/// Adds `p v` to `sum`: scales go into `p`, in units in which f16 holds them. The zero point of a row is one number per query; those of several groups are
/// one for each.
#[track_caller]
fn code_accumulate(
    codec: &impl Linear,
    floats: CodeFloats,
    p: Tile<f32, 2>,
    rows: &Rows,
    sum: &mut WeightedSum,
) {
    let groups = codec.groups();
    let meta: Vec<_> = (0..groups.get() as usize).map(|group| codec.constants(rows, group)).collect();
    sum.enter(floats);
    for (scale, _) in &meta {
        sum.cover(*scale);
    }
    let per_unit = sum.per_unit();
    let weights = |scale: Tile<f32, 1>| (p * (scale * per_unit).expand_dims(0)).cast::<f16>();
    if let [(scale, zero)] = meta[..] {
        sum.acc = weights(scale).dot(floats.of(rows.codes()), sum.acc);
        sum.add_to_all(p, zero);
        return;
    }
    let codes = parts(floats.of(rows.codes()), groups);
    let columns = floats.columns(rows.head_dim()).map(|columns| parts(columns, groups));
    let sums = meta.iter().zip(parts(sum.acc, groups)).zip(codes).enumerate();
    let sums = sums.map(|(group, ((&(scale, zero), acc), codes))| {
        let shift = (p * (zero * per_unit).expand_dims(0)).reduce_sum(1).expand_dims(1);
        let product = weights(scale).dot(codes, acc);
        match &columns {
            Some(columns) => columns[group].fma(shift, product),
            None => product + shift,
        }
    });
    sum.acc = whole(sums.collect());
}

/// A codec whose codes are multiplied as subnormal numbers.
struct Subnormal<C>(C);

impl<C: Linear> Codec for Subnormal<C> {
    fn shape(&self) -> CodecShape {
        self.0.shape()
    }

    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded {
        self.0.encode(x, tokens)
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        self.0.decode(rows)
    }

    fn logits(&self, q: Tile<f16, 2>, rows: &Rows) -> Tile<f32, 2> {
        self.scaled_logits(q, rows, lit(1.0))
    }

    fn scaled_logits(&self, q: Tile<f16, 2>, rows: &Rows, scale: Scalar<f32>) -> Tile<f32, 2> {
        code_logits(&self.0, self.code_floats(), q, rows, Some(scale))
    }

    fn accumulate(&self, p: Tile<f32, 2>, rows: &Rows, sum: &mut WeightedSum) {
        code_accumulate(&self.0, self.code_floats(), p, rows, sum);
    }

    fn code_floats(&self) -> CodeFloats {
        CodeFloats::Subnormal { bits: self.0.bits().get() }
    }
}

impl Linear for Affine {
    fn bits(&self) -> Bits {
        self.bits
    }

    fn groups(&self) -> Groups {
        self.groups
    }

    #[track_caller]
    fn constants(&self, rows: &Rows, group: usize) -> (Tile<f32, 1>, Tile<f32, 1>) {
        (rows.group_meta(group, 0, self.meta), rows.group_meta(group, 1, self.meta))
    }
}

impl Codec for Affine {
    fn shape(&self) -> CodecShape {
        CodecSpec::Affine { bits: self.bits, groups: self.groups, meta: self.meta }.shape()
    }

    fn encode(&self, x: Tile<f32, 2>, _: Tokens) -> Encoded {
        let limit = input_limit(self.bits, self.meta);
        let x = grouped(x, self.groups);
        let (number, clamped) = (x.eq(x), x.clamp(-limit, limit));
        let min = number.select(clamped, f32::INFINITY).reduce_min(2);
        let max = number.select(clamped, f32::NEG_INFINITY).reduce_max(2);
        // A group without any number has scale and zero 0.
        let any = min.le(max);
        let zero = floor16(any.select(min + 0.0, 0.0), self.meta);
        let zero_value = decode16(zero, self.meta);
        let step = (max - zero_value) / f32::from(self.bits.max_code());
        let scale = positive_scale16(any.select(step, 0.0), self.meta);
        let codes = codes(clamped, decode16(scale, self.meta), zero_value, self.bits);
        Encoded { codes: EncodedCodes::Codes(codes), meta: vec![scale, zero] }
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        values(rows, rows.meta(0, self.meta), rows.meta(1, self.meta))
    }

    fn logits(&self, q: Tile<f16, 2>, rows: &Rows) -> Tile<f32, 2> {
        code_logits(self, CodeFloats::Exact, q, rows, None)
    }

    fn accumulate(&self, p: Tile<f32, 2>, rows: &Rows, sum: &mut WeightedSum) {
        code_accumulate(self, CodeFloats::Exact, p, rows, sum);
    }

    fn subnormal(&self) -> Option<Box<dyn Codec>> {
        Some(Box::new(Subnormal(*self)))
    }
}

impl Symmetric {
    /// The zero point of a scale.
    #[track_caller]
    fn zero<const R: usize>(&self, scale: Tile<f32, R>) -> Tile<f32, R> {
        -scale * symmetric_centre(self.bits, self.levels)
    }
}

impl Linear for Symmetric {
    fn bits(&self) -> Bits {
        self.bits
    }

    fn groups(&self) -> Groups {
        self.groups
    }

    #[track_caller]
    fn constants(&self, rows: &Rows, group: usize) -> (Tile<f32, 1>, Tile<f32, 1>) {
        let scale = rows.group_meta(group, 0, self.meta);
        (scale, self.zero(scale))
    }
}

impl Codec for Symmetric {
    fn shape(&self) -> CodecShape {
        let &Symmetric { bits, levels, groups, meta } = self;
        CodecSpec::Symmetric { bits, levels, groups, meta }.shape()
    }

    fn encode(&self, x: Tile<f32, 2>, _: Tokens) -> Encoded {
        let limit = input_limit(self.bits, self.meta);
        let x = grouped(x, self.groups);
        let clamped = x.eq(x).select(x, 0.0).clamp(-limit, limit);
        let largest = clamped.abs().reduce_max(2);
        let scale = positive_scale16(largest / symmetric_reach(self.bits, self.levels), self.meta);
        let step = decode16(scale, self.meta);
        let codes = codes(clamped, step, self.zero(step), self.bits);
        Encoded { codes: EncodedCodes::Codes(codes), meta: vec![scale] }
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        let scale = rows.meta(0, self.meta);
        values(rows, scale, self.zero(scale))
    }

    fn logits(&self, q: Tile<f16, 2>, rows: &Rows) -> Tile<f32, 2> {
        code_logits(self, CodeFloats::Exact, q, rows, None)
    }

    fn accumulate(&self, p: Tile<f32, 2>, rows: &Rows, sum: &mut WeightedSum) {
        code_accumulate(self, CodeFloats::Exact, p, rows, sum);
    }

    fn subnormal(&self) -> Option<Box<dyn Codec>> {
        Some(Box::new(Subnormal(*self)))
    }
}

impl Codec for Raw {
    fn shape(&self) -> CodecShape {
        CodecSpec::None { dtype: self.dtype }.shape()
    }

    fn encode(&self, x: Tile<f32, 2>, _: Tokens) -> Encoded {
        Encoded { codes: EncodedCodes::Words(encode16(x, self.dtype)), meta: Vec::new() }
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        match self.dtype {
            HalfType::F16 => rows.raw::<f16>().cast(),
            HalfType::Bf16 => rows.raw::<bf16>().cast(),
        }
    }

    fn logits(&self, q: Tile<f16, 2>, rows: &Rows) -> Tile<f32, 2> {
        let zeros = Tile::zeros([q.extents()[0], rows.count()]);
        match self.dtype {
            HalfType::F16 => q.dot(rows.raw::<f16>().t(), zeros),
            // bf16 holds numbers that f16 does not.
            HalfType::Bf16 => q.cast::<f32>().dot(self.decode(rows).t(), zeros),
        }
    }

    fn accumulate(&self, p: Tile<f32, 2>, rows: &Rows, sum: &mut WeightedSum) {
        let p = sum.weights(p);
        sum.acc = match self.dtype {
            HalfType::F16 => p.cast::<f16>().dot(rows.raw::<f16>(), sum.acc),
            HalfType::Bf16 => p.cast::<bf16>().dot(rows.raw::<bf16>(), sum.acc),
        };
    }
}
