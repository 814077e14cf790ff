//! What products promise: each row gets what it gets alone, in every format, and it is the product.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::matrix::Matrix;
use super::tiles::Tiles;
use super::{Linear, WeightForm};

/// Every format that the loader takes.
const FORMATS: [GgmlDType; 15] = {
    use GgmlDType::*;
    [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, Q2K, Q3K, Q4K, Q5K, Q6K, Q8K]
};

fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Runs `of` where parallel loops have so many threads.
fn on<T: Send>(threads: usize, of: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(of)
}

fn linear(format: GgmlDType, form: WeightForm, outputs: usize, inputs: usize) -> Linear {
    let weights = Tensor::from_vec(numbers(1, outputs * inputs), (outputs, inputs), &Device::Cpu).unwrap();
    let weights = Arc::new(QTensor::quantize(&weights, format).unwrap());
    Linear::new(weights, Some(numbers(2, outputs)), form).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    /// Outputs that fill candle's tiles of 16 and ours, and that do not; more inputs than are summed up at once.
    #[test]
    fn a_row_gets_what_it_gets_alone_in_every_format(
        rows in 2usize..80,
        outputs in prop::sample::select(&[16, 37, 64][..]),
        inputs in prop::sample::select(&[256, 768][..]),
        threads in 1usize..5,
        seed in 0u64..1000,
    ) {
        let x = numbers(seed, rows * inputs);
        for format in FORMATS {
            for form in [WeightForm::Quantised, WeightForm::Dense] {
                let linear = linear(format, form, outputs, inputs);
                let together = on(threads, || linear.forward(&x)).unwrap();
                prop_assert_eq!(together.len(), rows * outputs);
                for (row, (x, y)) in x.chunks(inputs).zip(together.chunks(outputs)).enumerate() {
                    let alone = linear.forward(x).unwrap();
                    prop_assert_eq!(bits(&alone), bits(y), "{:?}, {:?}, row {} of {}", format, form, row, rows);
                }
            }
        }
    }

    #[test]
    fn every_kind_of_loop_gives_the_product_and_to_each_row_what_it_gets_alone(
        rows in 1usize..140,
        outputs in 1usize..50,
        inputs in 1usize..1100,
        threads in 1usize..5,
        seed in 0u64..1000,
    ) {
        let (weights, x) = (numbers(seed, outputs * inputs), numbers(seed + 1, rows * inputs));
        for tiles in Tiles::all() {
            let matrix = Matrix::with(tiles, &weights, inputs);
            let y = on(threads, || matrix.times(&x));
            prop_assert_eq!(y.len(), rows * outputs);
            for (x, y) in x.chunks(inputs).zip(y.chunks(outputs)) {
                prop_assert_eq!(bits(&matrix.times(x)), bits(y), "{:?}", tiles);
                for (weights, &y) in weights.chunks(inputs).zip(y) {
                    let terms = || x.iter().zip(weights).map(|(&x, &w)| f64::from(x) * f64::from(w));
                    let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                    let bound = size * inputs as f64 * f64::from(f32::EPSILON);
                    prop_assert!((f64::from(y) - exact).abs() <= bound, "{:?}: {} is not {}", tiles, y, exact);
                }
            }
        }
    }
}
