//! What queries, keys and values come as, and where attention leaves its output.

use std::ops::Range;

use half::{bf16, f16};
use leankv_dsl::lang::launch::{Tensor, TensorMut};
use leankv_dsl::lang::{Float, FloatType};

use super::KvCache;
use crate::device::{BufferView, BufferViewMut, DeviceBuffer, DeviceError};
use crate::element::Element;
use crate::kv::KvError;

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

/// Rows of a layer's tensor: `[rows, heads, head_dim]`, each row dense, in one buffer. Rows may lie apart, as they do in a tensor that has queries, keys and
/// values side by side.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, E> {
    pub(super) view: BufferView<'a, E>,
    stride: Option<usize>,
}

impl<'a, E: Element> From<BufferView<'a, E>> for Rows<'a, E> {
    /// Dense rows.
    fn from(view: BufferView<'a, E>) -> Self {
        Rows { view, stride: None }
    }
}

impl<'a, E: Element> From<&'a DeviceBuffer<E>> for Rows<'a, E> {
    /// Dense rows.
    fn from(buffer: &'a DeviceBuffer<E>) -> Self {
        buffer.as_view().into()
    }
}

impl<'a, E: Element> Rows<'a, E> {
    /// With so many elements from the start of a row to that of the next. Rows start where 16 bytes do.
    #[must_use]
    pub fn strided(self, stride: usize) -> Self {
        Rows { stride: Some(stride), ..self }
    }

    /// Elements from row to row, where a row has so many.
    pub(super) fn stride(&self, row: usize) -> usize {
        self.stride.unwrap_or(row)
    }

    /// Whether there are so many rows of so many elements.
    pub(super) fn check(&self, what: &'static str, rows: usize, row: usize) -> Result<(), KvError> {
        let address = self.view.allocation.memory.address() + self.view.offset as u64;
        check::<E>(what, (address, self.view.len()), self.stride, [rows, row])
    }

    /// Some rows.
    pub(super) fn rows(&self, of: Range<usize>, row: usize) -> Result<BufferView<'a, E>, DeviceError> {
        self.view.slice(span(of, self.stride(row), row))
    }

    /// Some rows as a tensor `[rows, heads, head_dim]`.
    pub(super) fn tensor(
        &self,
        of: Range<usize>,
        [heads, head_dim]: [usize; 2],
    ) -> Result<Tensor<'a, E, 3>, DeviceError> {
        let (n, row) = (of.len(), heads * head_dim);
        let tensor = self.rows(of, row)?.tensor([n, heads, head_dim]);
        Ok(match self.stride {
            Some(stride) => tensor.strided([stride, head_dim, 1]),
            None => tensor,
        })
    }
}

/// As [`Rows`], to write.
#[derive(Debug)]
pub struct RowsMut<'a, E> {
    pub(super) view: BufferViewMut<'a, E>,
    stride: Option<usize>,
}

impl<'a, E: Element> From<BufferViewMut<'a, E>> for RowsMut<'a, E> {
    /// Dense rows.
    fn from(view: BufferViewMut<'a, E>) -> Self {
        RowsMut { view, stride: None }
    }
}

impl<'a, E: Element> From<&'a mut DeviceBuffer<E>> for RowsMut<'a, E> {
    /// Dense rows.
    fn from(buffer: &'a mut DeviceBuffer<E>) -> Self {
        buffer.as_view_mut().into()
    }
}

impl<'a, E: Element> RowsMut<'a, E> {
    /// As [`Rows::strided`].
    #[must_use]
    pub fn strided(self, stride: usize) -> Self {
        RowsMut { stride: Some(stride), ..self }
    }

    /// As [`Rows::check`].
    pub(super) fn check(&self, what: &'static str, rows: usize, row: usize) -> Result<(), KvError> {
        let address = self.view.allocation.memory.address() + self.view.offset as u64;
        check::<E>(what, (address, self.view.len()), self.stride, [rows, row])
    }

    /// Copies the first rows, of so many elements, from dense ones.
    pub(super) fn copy_from(
        self,
        rows: usize,
        row: usize,
        from: BufferView<'_, E>,
    ) -> Result<(), DeviceError> {
        let stride = self.stride.unwrap_or(row);
        self.view.copy_rows(stride, from, row, [rows, row])
    }

    /// The first rows as a tensor `[rows, heads, head_dim]`.
    pub(super) fn tensor(
        self,
        rows: usize,
        [heads, head_dim]: [usize; 2],
    ) -> Result<TensorMut<'a, E, 3>, DeviceError> {
        let row = heads * head_dim;
        let stride = self.stride.unwrap_or(row);
        let part = self.view.slice(span(0..rows, stride, row))?;
        Ok(part.tensor([rows, heads, head_dim]).strided([stride, head_dim, 1]))
    }
}

/// One layer's queries, keys and values of all rows of a step: `q` is `[rows, query_heads, head_dim]`, `k` and `v` are `[rows, kv_heads, head_dim]`, queries
/// and keys after RoPE.
#[derive(Clone, Copy, Debug)]
pub struct LayerInput<'a, E> {
    /// Queries.
    pub q: Rows<'a, E>,
    /// Keys.
    pub k: Rows<'a, E>,
    /// Values.
    pub v: Rows<'a, E>,
    /// What the peaks of the new tokens start from, `[rows, kv_heads]`, dense: shares of attention, from 0 to 1. Without, those of
    /// [`CacheConfig::priors`](super::CacheConfig::priors). A cache that keeps no peaks ([`CacheConfig::peaks`](super::CacheConfig::peaks)) takes none.
    pub priors: Option<&'a DeviceBuffer<f32>>,
}

impl KvCache {
    /// Checks one layer's tensors of `n` rows, before anything is changed: type, lengths, alignment, and that they lie where the cache does.
    pub(super) fn check_input<E: InputElement>(
        &self,
        n: usize,
        input: &LayerInput<'_, E>,
    ) -> Result<(), KvError> {
        if E::INPUT != self.config.input {
            return Err(KvError::Input { expected: self.config.input, got: E::INPUT });
        }
        let device = self.manager.state().device();
        let (d, heads) = (self.config.head_dim, self.config.kv_heads);
        for (what, rows, row) in [
            ("q [rows, query_heads, head_dim]", &input.q, self.config.query_heads() * d),
            ("k [rows, kv_heads, head_dim]", &input.k, heads * d),
            ("v [rows, kv_heads, head_dim]", &input.v, heads * d),
        ] {
            rows.check(what, n, row)?;
            if !rows.view.allocation.device.same_as(device) {
                return Err(DeviceError::WrongDevice { what }.into());
            }
        }
        let Some(priors) = input.priors else { return Ok(()) };
        let expected = if self.config.peaks > 0 { n * heads } else { 0 };
        let what = "priors [rows, kv_heads], none where no peaks are kept";
        if priors.len() != expected {
            return Err(KvError::Length { what, expected, got: priors.len() });
        }
        if !priors.device().same_as(device) {
            return Err(DeviceError::WrongDevice { what }.into());
        }
        Ok(())
    }
}

/// The elements from the first row to the end of the last one.
fn span(of: Range<usize>, stride: usize, row: usize) -> Range<usize> {
    match of.len() {
        // The start of a row that is not there may be behind the end.
        0 => 0..0,
        n => of.start * stride..(of.start + n - 1) * stride + row,
    }
}

fn check<E>(
    what: &'static str,
    (address, len): (u64, usize),
    stride: Option<usize>,
    [rows, row]: [usize; 2],
) -> Result<(), KvError> {
    let expected = span(0..rows, stride.unwrap_or(row), row).end;
    let apart = stride.unwrap_or(0) * size_of::<E>();
    match stride {
        Some(stride) if stride < row => {
            Err(KvError::Length { what: "elements from row to row, at least", expected: row, got: stride })
        }
        Some(_) if len < expected => Err(KvError::Length { what, expected, got: len }),
        None if len != expected => Err(KvError::Length { what, expected, got: len }),
        _ if rows > 0 && !address.is_multiple_of(16) => {
            Err(KvError::Unaligned { what, bytes: address, multiple: 16 })
        }
        _ if rows > 1 && !apart.is_multiple_of(16) => {
            Err(KvError::Unaligned { what, bytes: apart as u64, multiple: 16 })
        }
        _ => Ok(()),
    }
}
