use super::*;
use proptest::prelude::*;

fn all_quantised() -> Vec<CodecSpec> {
    let mut out = Vec::new();
    for bits in 1..=8 {
        for groups in [1, 2, 4] {
            for meta in [HalfType::F16, HalfType::Bf16] {
                out.push(CodecSpec::affine(bits, groups).unwrap().with_meta(meta));
                out.push(CodecSpec::symmetric(bits, groups).unwrap().with_meta(meta));
                out.push(CodecSpec::mid_rise(bits, groups).unwrap().with_meta(meta));
            }
        }
    }
    out
}

fn round_trip(codec: &dyn CodecMath, row: &[f32]) -> (Vec<u8>, Vec<u16>, Vec<f32>) {
    let shape = codec.shape();
    let mut packed = vec![0; row_bytes(row.len(), shape.code_bits)];
    let mut meta = vec![0; (shape.groups * shape.meta_words) as usize];
    encode_row(codec, row, &mut packed, &mut meta).unwrap();
    let mut back = vec![f32::NAN; row.len()];
    decode_row(codec, &packed, &meta, &mut back).unwrap();
    (packed, meta, back)
}

/// Half a step of the stored scale, plus roundings of `f32` at the group's largest magnitude; or what lies beyond the outermost mid-rise level.
fn bound(codec: CodecSpec, group: usize, meta: &[u16], row: &[f32]) -> f32 {
    let shape = codec.shape();
    let len = row.len() / shape.groups as usize;
    let largest = row[group * len..][..len].iter().fold(0f32, |m, x| m.max(x.abs()));
    let scale = codec.meta().decode(meta[group * shape.meta_words as usize]);
    let beyond = match codec {
        CodecSpec::Symmetric { bits, levels: Levels::MidRise, .. } => {
            largest - scale * symmetric_centre(bits, Levels::MidRise)
        }
        _ => 0.0,
    };
    (scale * 0.5005).max(beyond) + largest * 4.0 * f32::EPSILON
}

proptest! {
    #[test]
    fn error_is_at_most_half_a_step(
        seed in prop::collection::vec(-1.0f32..1.0, 64),
        magnitude in -12i32..14,
        offset in -1000.0f32..1000.0,
    ) {
        for offset in [0.0, offset] {
            let row: Vec<f32> = seed.iter().map(|x| x * 2f32.powi(magnitude) + offset).collect();
            for codec in all_quantised() {
                let (_, meta, back) = round_trip(&codec, &row);
                let len = row.len() / codec.shape().groups as usize;
                for (i, (x, y)) in row.iter().zip(&back).enumerate() {
                    let bound = bound(codec, i / len, &meta, &row);
                    prop_assert!((x - y).abs() <= bound, "{codec}: element {i}: {x} became {y}, bound {bound}");
                }
            }
        }
    }

    #[test]
    fn any_input_decodes_to_finite_16_bit_values(bits in prop::collection::vec(any::<u32>(), 64), near in 0usize..32) {
        // Arbitrary patterns, with two values near the f16 limit so that the scale's rounding matters.
        let mut row: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        row[near] = 65_000.0 + near as f32 * 20.0;
        row[near + 32] = -66_000.0;
        for codec in all_quantised().into_iter().chain([CodecSpec::F16, CodecSpec::BF16]) {
            let (_, _, back) = round_trip(&codec, &row);
            for (i, y) in back.iter().enumerate() {
                prop_assert!(y.abs() <= codec.meta().max_finite(), "{codec}: element {i}: {} became {y}", row[i]);
            }
        }
    }

    /// A number that is not alone in its group must not be lost because a NaN or an infinity sits beside it.
    #[test]
    fn nan_does_not_disturb_its_neighbours(seed in prop::collection::vec(-10.0f32..10.0, 64), at in 0usize..64) {
        for codec in all_quantised() {
            // Replacing by a copy of a neighbour leaves the range unchanged.
            let mut clean = seed.clone();
            clean[at] = clean[at ^ 1];
            let mut dirty = clean.clone();
            dirty[at] = f32::NAN;
            let (_, meta_clean, clean) = round_trip(&codec, &clean);
            let (_, meta_dirty, dirty) = round_trip(&codec, &dirty);
            prop_assert_eq!(meta_clean, meta_dirty);
            for i in (0..64).filter(|&i| i != at) {
                prop_assert_eq!(clean[i], dirty[i]);
            }
        }
    }

    #[test]
    fn a_step_grid_of_16_bit_numbers_is_exact(bits in 1u32..=8, zero in -8i32..8, shift in -6i32..2) {
        let codec = CodecSpec::affine(bits, 1).unwrap();
        let step = 2f32.powi(shift);
        let levels = (1usize << bits) - 1;
        let row: Vec<f32> = (0..256).map(|i| zero as f32 + step * (i % (levels + 1)) as f32).collect();
        prop_assert_eq!(&round_trip(&codec, &row).2, &row);
    }
}

#[test]
fn published_formula_on_a_worked_example() {
    // min -1, max 2, 2 bits: scale 1, codes 0 1 2 3.
    let codec = CodecSpec::affine(2, 1).unwrap();
    let (packed, meta, back) = round_trip(&codec, &[-1.0, 0.1, 0.9, 2.0, -0.6, 0.5, 1.5, 1.4]);
    assert_eq!(meta, [HalfType::F16.encode(1.0), HalfType::F16.encode(-1.0)]);
    // 0.5 and 1.5 are ties: (0.5 + 1) = 1.5 -> 2, (1.5 + 1) = 2.5 -> 2.
    assert_eq!(packed, [0b11_10_01_00, 0b10_10_10_00]);
    assert_eq!(back, [-1.0, 0.0, 1.0, 2.0, -1.0, 1.0, 1.0, 1.0]);
}

#[test]
fn constant_groups_have_scale_zero_and_are_exact() {
    for codec in all_quantised().into_iter().filter(|c| matches!(c, CodecSpec::Affine { .. })) {
        for value in [0.0, -0.0, 1.5, -2.0] {
            let (packed, meta, back) = round_trip(&codec, &[value; 64]);
            assert!(packed.iter().all(|&b| b == 0), "{codec}");
            assert!(meta.iter().step_by(2).all(|&scale| scale == 0), "{codec}");
            assert_eq!(back, [value; 64], "{codec}");
        }
    }
}

#[test]
fn a_minimum_of_minus_zero_is_stored_as_plus_zero() {
    let codec = CodecSpec::affine(8, 1).unwrap();
    assert_eq!(round_trip(&codec, &[-0.0, 0.0, 1.0, 1.0, 0.0, -0.0, 0.5, 0.5]).1[1], 0);
}

#[test]
fn not_a_number_and_infinity_have_defined_codes() {
    let affine = CodecSpec::affine(8, 1).unwrap();
    let (packed, _, back) = round_trip(&affine, &[f32::NAN, -2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!((packed[0], back[0]), (0, -2.0));
    let (_, _, back) = round_trip(&affine, &[f32::INFINITY, f32::NEG_INFINITY, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!((back[0], back[1]), (65280.0, -65280.0));
    let (packed, meta, back) = round_trip(&affine, &[f32::NAN; 8]);
    assert_eq!((packed, meta, back), (vec![0; 8], vec![0; 2], vec![0.0; 8]));

    let symmetric = CodecSpec::symmetric(8, 1).unwrap();
    let (packed, _, back) = round_trip(&symmetric, &[f32::NAN, -2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!((packed[0], back[0], back[3]), (128, 0.0, 0.0));
    assert_eq!(round_trip(&symmetric, &[f32::NAN; 8]).2, [0.0; 8]);

    let (_, _, back) = round_trip(&CodecSpec::F16, &[f32::NAN, f32::INFINITY, 1e6, -1e6, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(back[..5], [0.0, 65504.0, 65504.0, -65504.0, 1.0]);
}

#[test]
fn one_bit_symmetric_codes_are_signs() {
    let codec = CodecSpec::symmetric(1, 1).unwrap();
    let (packed, _, back) = round_trip(&codec, &[3.0, -3.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0]);
    assert_eq!(packed, [0b0101_0101]);
    assert_eq!(back, [3.0, -3.0, 3.0, -3.0, 3.0, -3.0, 3.0, -3.0]);
}

#[test]
fn tiny_ranges_keep_a_normal_scale() {
    let row = [1e-40, 2e-40, 0.0, 0.0, 0.0, 0.0, 0.0, 3e-40];
    for codec in all_quantised() {
        let (_, _, back) = round_trip(&codec, &row[..8]);
        assert!(back.iter().all(|y| y.abs() <= 1e-7), "{codec}: {back:?}");
    }
}

#[test]
fn buffers_of_the_wrong_length_are_errors() {
    let codec = CodecSpec::affine(4, 2).unwrap();
    let row = [0.0; 64];
    let (mut packed, mut meta) = ([0; 32], [0; 4]);
    assert!(encode_row(&codec, &row, &mut packed[..31], &mut meta).is_err());
    assert!(encode_row(&codec, &row, &mut packed, &mut meta[..3]).is_err());
    assert!(encode_row(&codec, &row[..60], &mut packed, &mut meta).is_err());
    assert!(encode_row(&codec, &[], &mut packed[..0], &mut meta).is_err());
}

/// A codebook codec: four quantiles of a normal distribution times the group's root mean square.
struct NormalBook;

const BOOK: [f32; 4] = [-1.510, -0.4528, 0.4528, 1.510];

impl CodecMath for NormalBook {
    fn shape(&self) -> CodecShape {
        CodecShape { code_bits: 2, groups: 1, meta_words: 1 }
    }
    fn encode_group(&self, x: &[f32], codes: &mut [u16], meta: &mut [u16]) {
        let rms = (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
        meta[0] = HalfType::F16.encode(rms);
        let rms = HalfType::F16.decode(meta[0]);
        for (code, x) in codes.iter_mut().zip(x) {
            let distance = |i: &usize| (BOOK[*i] * rms - x).abs();
            *code = (0..4).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap() as u16;
        }
    }
    fn decode_group(&self, codes: &[u16], meta: &[u16], x: &mut [f32]) {
        for (x, &code) in x.iter_mut().zip(codes) {
            *x = BOOK[code as usize] * HalfType::F16.decode(meta[0]);
        }
    }
}

/// Any codec behind an orthonormal Walsh-Hadamard rotation.
struct Rotated<C>(C);

impl<C: CodecMath> CodecMath for Rotated<C> {
    fn shape(&self) -> CodecShape {
        self.0.shape()
    }
    fn encode_group(&self, x: &[f32], codes: &mut [u16], meta: &mut [u16]) {
        self.0.encode_group(x, codes, meta);
    }
    fn decode_group(&self, codes: &[u16], meta: &[u16], x: &mut [f32]) {
        self.0.decode_group(codes, meta, x);
    }
    fn rotate(&self, row: &mut [f32]) {
        let n = row.len();
        let mut half = 1;
        while half < n {
            for i in (0..n).filter(|i| i & half == 0) {
                (row[i], row[i + half]) = (row[i] + row[i + half], row[i] - row[i + half]);
            }
            half *= 2;
        }
        row.iter_mut().for_each(|x| *x /= (n as f32).sqrt());
    }
    fn unrotate(&self, row: &mut [f32]) {
        self.rotate(row);
    }
}

fn squared_error(codec: &dyn CodecMath, row: &[f32]) -> f32 {
    round_trip(codec, row).2.iter().zip(row).map(|(a, b)| (a - b).powi(2)).sum()
}

#[test]
fn codebooks_and_rotations_fit_the_trait() {
    // One outlier ruins a 4-bit range; the rotation spreads it.
    let row: Vec<f32> =
        (0..64).map(|i| if i == 7 { 40.0 } else { ((i * 37) % 64) as f32 / 64.0 - 0.5 }).collect();
    let plain = squared_error(&CodecSpec::affine(4, 1).unwrap(), &row);
    let rotated = squared_error(&Rotated(CodecSpec::affine(4, 1).unwrap()), &row);
    assert!(rotated < plain, "{rotated} < {plain}");

    let energy: f32 = row.iter().map(|x| x * x).sum();
    assert!(squared_error(&Rotated(NormalBook), &row) < energy);
}

/// The mean square error of a codec on rows of this many normally distributed numbers, in units of their variance.
fn loss_on_normal_rows(codec: CodecSpec, len: usize) -> f64 {
    // Sums of twelve uniform numbers would have no tails, so each is made of two by Box and Muller.
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64 + 1e-12
    };
    let mut sum = (0.0, 0.0);
    for _ in 0..400 {
        let row: Vec<f32> = (0..len)
            .map(|_| ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32)
            .collect();
        let (_, _, back) = round_trip(&codec, &row);
        for (x, y) in row.iter().zip(&back) {
            sum = (sum.0 + f64::from(x - y).powi(2), sum.1 + f64::from(*x).powi(2));
        }
    }
    sum.0 / sum.1
}

#[test]
fn mid_rise_levels_suit_normal_rows() {
    for (len, bits, most) in
        [(64, 4, 0.0097), (128, 4, 0.0108), (64, 3, 0.037), (128, 3, 0.039), (128, 2, 0.126)]
    {
        let loss = loss_on_normal_rows(CodecSpec::mid_rise(bits, 1).unwrap(), len);
        assert!(loss < most, "{bits} bits, {len} numbers: {loss}");
        // As many bytes, and two more for a zero point.
        let of = |other: Result<CodecSpec, FormatError>| loss_on_normal_rows(other.unwrap(), len);
        let [symmetric, affine] = [of(CodecSpec::symmetric(bits, 1)), of(CodecSpec::affine(bits, 1))];
        assert!(
            loss < symmetric && loss < 1.25 * affine,
            "{bits} bits, {len} numbers: {symmetric}, {affine}"
        );
    }
}
