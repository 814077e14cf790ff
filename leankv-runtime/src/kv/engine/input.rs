//! What queries, keys and values come as.

use half::{bf16, f16};
use leankv_dsl::lang::{Float, FloatType};

use crate::element::Element;

/// A Rust type of queries, keys and values.
///
/// Keys and values are coded from what is given. Products are of f16: queries, and the keys and values of a chunk while it attends to itself, are
/// rounded to it; numbers beyond its 65504 become infinite there.
pub trait InputElement: Element + Float {
    /// Its name in [`CacheConfig::input`](super::CacheConfig::input).
    const INPUT: FloatType;
}

impl InputElement for f16 {
    const INPUT: FloatType = FloatType::F16;
}

impl InputElement for bf16 {
    const INPUT: FloatType = FloatType::Bf16;
}

impl InputElement for f32 {
    const INPUT: FloatType = FloatType::F32;
}
