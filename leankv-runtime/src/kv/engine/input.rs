//! What queries, keys and values come as.

use std::fmt;

use half::{bf16, f16};

use crate::element::Element;

/// Element type of queries, keys and values, as they are given to a cache.
///
/// Keys and values are coded from what is given. Products are of f16: queries, and the keys and values of a chunk while it attends to itself, are
/// rounded to it; numbers beyond its 65504 become infinite there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Input {
    /// IEEE half.
    #[default]
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE single.
    F32,
}

/// A Rust type of queries, keys and values.
pub trait InputElement: Element {
    /// Its name in a cache's configuration.
    const INPUT: Input;
}

impl InputElement for f16 {
    const INPUT: Input = Input::F16;
}

impl InputElement for bf16 {
    const INPUT: Input = Input::Bf16;
}

impl InputElement for f32 {
    const INPUT: Input = Input::F32;
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Input::F16 => "f16",
            Input::Bf16 => "bf16",
            Input::F32 => "f32",
        })
    }
}
