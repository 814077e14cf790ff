//! Compares buffers.

use leankv_dsl::ir::Dtype;

use super::case::Check;
use super::number::{Num, read_all};

/// The differences of two buffers, a few of them in words; `None` when they agree.
pub fn differences(name: &str, dtype: Dtype, check: Check, got: &[u8], want: &[u8]) -> Option<String> {
    if got.len() != want.len() {
        return Some(format!("`{name}` has {} bytes, not {}", got.len(), want.len()));
    }
    let (got, want) = (read_all(dtype, got), read_all(dtype, want));
    let wrong: Vec<usize> = (0..got.len()).filter(|&i| !agree(dtype, check, got[i], want[i])).collect();
    let first = *wrong.first()?;
    let show = |i: usize| format!("[{i}] is {}, not {}", text(got[i]), text(want[i]));
    let few: Vec<String> = wrong.iter().take(4).map(|&i| show(i)).collect();
    Some(format!(
        "`{name}` ({dtype}): {} of {} elements differ, from {first} on: {}",
        wrong.len(),
        got.len(),
        few.join("; ")
    ))
}

fn text(x: Num) -> String {
    match x {
        Num::Int(x) => x.to_string(),
        Num::Float(x) => format!("{x:?} ({:#x})", x.to_bits()),
    }
}

fn agree(dtype: Dtype, check: Check, got: Num, want: Num) -> bool {
    let (Num::Float(a), Num::Float(b)) = (got, want) else { return got == want };
    if a.is_nan() || b.is_nan() {
        return a.is_nan() && b.is_nan();
    }
    match check {
        Check::Bits => a.to_bits() == b.to_bits(),
        Check::Value => a == b,
        Check::Close { rel, abs } => {
            if a == b {
                return true;
            }
            // One rounding to a 16-bit type: half a unit in the last place on each side.
            let (ulp, least) = match dtype {
                Dtype::F16 => (2f64.powi(-10), 2f64.powi(-24)),
                Dtype::BF16 => (2f64.powi(-7), 2f64.powi(-133)),
                Dtype::F32 => (0.0, 2f64.powi(-149)),
                _ => (0.0, 0.0),
            };
            let size = a.abs().max(b.abs());
            size.is_finite() && (a - b).abs() <= (rel + ulp) * size + abs + least
        }
    }
}
