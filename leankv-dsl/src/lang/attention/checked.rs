//! A user's codecs and hooks, kept within their buffers.

use half::f16;

use super::codec::{Codec, Codecs, Encoded, Tokens};
use super::hooks::{AttentionHooks, Site};
use super::rows::Rows;
use crate::format::{CodecShape, CodecSpec};
use crate::lang::arg::{ArgOptions, ArgScope, KernelArg};
use crate::lang::tile::Tile;

/// Codecs or hooks that nobody vouches for, as parameters of a kernel: whatever they do, they read and write nothing outside of the buffers that a
/// launch checked. Parameters have the names that `T`'s have by itself.
///
/// * Parameters are numbers and [`View`](crate::lang::View)s; a raw pointer or memory to write is an error of the specialisation, and so is
///   [`ptr`](crate::lang::View::ptr) of a view, and inline PTX.
/// * Every access through a view is compared with its extents in 64 bits: `tile` and `get` give zero outside, and the part that `at` gives
///   there is empty. A launch compares extents with buffers.
/// * Codecs have the shape of the format that is named, whatever their `shape` says at a time.
///
/// Kernels of this workspace that are specialised for the stock codecs and plain attention do not use it.
#[derive(Clone, Copy, Debug)]
pub struct Checked<T>(T);

impl<T: KernelArg> KernelArg for Checked<T> {
    #[track_caller]
    fn declare(_: &mut ArgScope, name: &str, options: ArgOptions) -> Self {
        Checked(T::declare(&mut ArgScope::checked(), name, options))
    }
}

impl<C: Codecs> Codecs for Checked<C> {
    fn keys(&self, named: &CodecSpec) -> Box<dyn Codec> {
        Box::new(Shaped { inner: self.0.keys(named), shape: named.shape() })
    }

    fn values(&self, named: &CodecSpec) -> Box<dyn Codec> {
        Box::new(Shaped { inner: self.0.values(named), shape: named.shape() })
    }
}

/// A codec of a shape that does not change.
struct Shaped {
    inner: Box<dyn Codec>,
    shape: CodecShape,
}

impl Codec for Shaped {
    fn shape(&self) -> CodecShape {
        self.shape
    }

    #[track_caller]
    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded {
        self.inner.encode(x, tokens)
    }

    #[track_caller]
    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        self.inner.decode(rows)
    }

    #[track_caller]
    fn logits(&self, q: Tile<f16, 2>, rows: &Rows) -> Tile<f32, 2> {
        self.inner.logits(q, rows)
    }

    #[track_caller]
    fn accumulate(&self, p: Tile<f32, 2>, rows: &Rows, acc: Tile<f32, 2>) -> Tile<f32, 2> {
        self.inner.accumulate(p, rows, acc)
    }
}

impl<H: AttentionHooks> AttentionHooks for Checked<H> {
    #[track_caller]
    fn query(&self, q: Tile<f16, 2>) -> Tile<f16, 2> {
        self.0.query(q)
    }

    #[track_caller]
    fn key_logits(&self, logits: Tile<f32, 2>, q: Tile<f16, 2>, site: &Site) -> Tile<f32, 2> {
        self.0.key_logits(logits, q, site)
    }

    #[track_caller]
    fn logits(&self, logits: Tile<f32, 2>, site: &Site) -> Tile<f32, 2> {
        self.0.logits(logits, site)
    }

    #[track_caller]
    fn mask(&self, site: &Site) -> Option<Tile<bool, 2>> {
        self.0.mask(site)
    }

    #[track_caller]
    fn running_max(&self, max: Tile<f32, 1>, logits: Tile<f32, 2>) -> (Tile<f32, 1>, Tile<f32, 1>) {
        self.0.running_max(max, logits)
    }

    #[track_caller]
    fn output(&self, out: Tile<f32, 2>) -> Tile<f32, 2> {
        self.0.output(out)
    }
}
