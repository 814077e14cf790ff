//! Whether tensor cores multiply subnormal 16-bit floats exactly: what `DecodeSpec::subnormal` rests on.

use half::f16;
use leankv_dsl::lang::*;
use leankv_runtime::{Compiler, Device, KernelOf};
use serde::Serialize;

use crate::Failure;

/// Rows of either factor, and elements of a row.
const ROWS: usize = 16;
const DEPTH: usize = 128;

/// Products of rows of codes, which are 16-bit floats by their bits, with rows of factors: codes as the left factor, and as the right one.
#[kernel]
fn subnormal_products(
    #[arg(align = 16)] codes: View<u16, 2>,
    #[arg(align = 16)] factors: View<f16, 2>,
    left: ViewMut<f32, 2>,
    right: ViewMut<f32, 2>,
) {
    let codes = codes.tile((0, 0), [ROWS, DEPTH]).load().bitcast::<f16>();
    let factors = factors.tile((0, 0), [ROWS, DEPTH]).load();
    let zeros = Tile::zeros([ROWS, ROWS]);
    left.tile((0, 0), [ROWS, ROWS]).store(codes.dot(factors.t(), zeros));
    right.tile((0, 0), [ROWS, ROWS]).store(factors.dot(codes.t(), zeros));
}

/// What came of it.
#[derive(Serialize)]
pub(crate) struct Subnormal {
    /// Whether all products are the integers that they should be, in units of 2^-24.
    pub(crate) exact: bool,
    pub(crate) products: usize,
    pub(crate) wrong: usize,
    /// The largest error over the sum of the addends' magnitudes.
    pub(crate) largest_error: f64,
}

impl Subnormal {
    pub(crate) fn line(&self) -> String {
        let verdict = match self.exact {
            true => "exact: codes may be multiplied as they are (DecodeSpec::subnormal)".to_owned(),
            false => format!(
                "NOT exact, {} of {} differ, by up to {:.1e} of their addends: leave DecodeSpec::subnormal off",
                self.wrong, self.products, self.largest_error
            ),
        };
        format!("products of subnormal 16-bit floats: {verdict}")
    }
}

fn kernel(device: &Device, compiler: &Compiler) -> Result<KernelOf<subnormal_products>, Failure> {
    Ok(compiler.load(device, &subnormal_products::KERNEL, &SubnormalProductsSpec {})?)
}

/// Compiles what [`run`] runs.
pub(crate) fn load(device: &Device, compiler: &Compiler) -> Result<(), Failure> {
    kernel(device, compiler).map(|_| ())
}

/// Multiplies integers of up to 10 bits by factors of up to 128: no sum reaches 2^24, so that exact additions in `f32` give the same in any order.
pub(crate) fn run(device: &Device, compiler: &Compiler) -> Result<Subnormal, Failure> {
    // Wide and narrow codes, small and large factors, of both signs.
    let code = |row: usize, i: usize| -> i64 { (((row * 37 + i * 101) % 1024) >> (row % 4 * 3)) as i64 };
    let factor = |row: usize, i: usize| -> i64 {
        let size = ((row * 29 + i * 53) % 128 + 1) as i64;
        if (row + i).is_multiple_of(3) { -size } else { size }
    };
    let table = |of: &dyn Fn(usize, usize) -> i64| -> Vec<i64> {
        (0..ROWS * DEPTH).map(|at| of(at / DEPTH, at % DEPTH)).collect()
    };
    let (codes, factors) = (table(&code), table(&factor));
    let codes_on = device.upload(&codes.iter().map(|&code| code as u16).collect::<Vec<_>>())?;
    let factors_on = device.upload(&factors.iter().map(|&x| f16::from_f64(x as f64)).collect::<Vec<_>>())?;
    let mut found = [device.zeros::<f32>(ROWS * ROWS)?, device.zeros::<f32>(ROWS * ROWS)?];
    let [left, right] = &mut found;
    let args = SubnormalProductsArgs {
        codes: codes_on.tensor([ROWS, DEPTH]),
        factors: factors_on.tensor([ROWS, DEPTH]),
        left: left.tensor_mut([ROWS, ROWS]),
        right: right.tensor_mut([ROWS, ROWS]),
    };
    // SAFETY: every access goes through a view, whose extents are those of its buffer.
    unsafe { kernel(device, compiler)?.launch(1, args).run() }?;

    let mut out = Subnormal { exact: true, products: 2 * ROWS * ROWS, wrong: 0, largest_error: 0.0 };
    for (side, buffer) in found.iter().enumerate() {
        for (at, &got) in buffer.to_vec()?.iter().enumerate() {
            let (row, column) = (at / ROWS, at % ROWS);
            let (of_codes, of_factors) = if side == 0 { (row, column) } else { (column, row) };
            let addends = (0..DEPTH).map(|i| codes[of_codes * DEPTH + i] * factors[of_factors * DEPTH + i]);
            let (sum, size) = addends.fold((0, 0), |(sum, size), x| (sum + x, size + x.abs()));
            let got = f64::from(got) * 2f64.powi(24);
            if got != sum as f64 {
                out.wrong += 1;
                out.largest_error = out.largest_error.max((got - sum as f64).abs() / size as f64);
            }
        }
    }
    out.exact = out.wrong == 0;
    Ok(out)
}
