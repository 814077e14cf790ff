//! Views of floats whose type is known when a kernel is specialised, not when it is written.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use super::{TileAt, View, ViewMut, ViewTile, ViewTileMut};
use crate::diag::Diagnostic;
use crate::ir::Loc;
use crate::lang::arg::{ArgOptions, ArgScope, KernelArg};
use crate::lang::element::Float;
use crate::lang::launch::{Arguments, FloatTensor, FloatTensorMut, Name};
use crate::lang::record::{self, BAD_ARGUMENT};
use crate::lang::tile::{Scalar, Tile};

/// A type of floats, as a field of a specialisation: `f16`, `bf16` or `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloatType {
    /// IEEE half.
    #[default]
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE single.
    F32,
}

impl FloatType {
    /// All of them.
    pub const ALL: [FloatType; 3] = [FloatType::F16, FloatType::Bf16, FloatType::F32];
}

impl fmt::Display for FloatType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FloatType::F16 => "f16",
            FloatType::Bf16 => "bf16",
            FloatType::F32 => "f32",
        })
    }
}

/// A name that is no [`FloatType`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a type of input: write f16, bf16 or f32")]
pub struct UnknownFloatType(String);

impl FromStr for FloatType {
    type Err = UnknownFloatType;

    fn from_str(text: &str) -> Result<FloatType, UnknownFloatType> {
        let found = FloatType::ALL.into_iter().find(|known| known.to_string() == text);
        found.ok_or_else(|| UnknownFloatType(text.to_owned()))
    }
}

/// A [`View`] whose element type is a [`FloatType`]: the parameter says which by `#[arg(element = spec.input)]`. What is loaded is cast to the
/// type that the kernel works in.
#[derive(Clone, Copy, Debug)]
pub enum FloatView<const R: usize> {
    /// Of IEEE halves.
    F16(View<f16, R>),
    /// Of bfloat16.
    Bf16(View<bf16, R>),
    /// Of IEEE singles.
    F32(View<f32, R>),
}

/// A tile's place in a [`FloatView`].
#[derive(Clone, Copy, Debug)]
pub enum FloatViewTile<const R: usize> {
    /// Of IEEE halves.
    F16(ViewTile<f16, R>),
    /// Of bfloat16.
    Bf16(ViewTile<bf16, R>),
    /// Of IEEE singles.
    F32(ViewTile<f32, R>),
}

/// A [`ViewMut`] whose element type is a [`FloatType`], as that of a [`FloatView`]. What is stored is cast to it.
#[derive(Clone, Copy, Debug)]
pub enum FloatViewMut<const R: usize> {
    /// Of IEEE halves.
    F16(ViewMut<f16, R>),
    /// Of bfloat16.
    Bf16(ViewMut<bf16, R>),
    /// Of IEEE singles.
    F32(ViewMut<f32, R>),
}

/// A tile's place in a [`FloatViewMut`].
#[derive(Clone, Copy, Debug)]
pub enum FloatViewTileMut<const R: usize> {
    /// Of IEEE halves.
    F16(ViewTileMut<f16, R>),
    /// Of bfloat16.
    Bf16(ViewTileMut<bf16, R>),
    /// Of IEEE singles.
    F32(ViewTileMut<f32, R>),
}

/// `view`'s inside by `do`, in the variants of `to` if there is one.
macro_rules! each {
    ($of:ident, $view:expr, $inside:ident => $to:ident($do:expr)) => {
        match $view {
            $of::F16($inside) => $to::F16($do),
            $of::Bf16($inside) => $to::Bf16($do),
            $of::F32($inside) => $to::F32($do),
        }
    };
    ($of:ident, $view:expr, $inside:ident => $do:expr) => {
        match $view {
            $of::F16($inside) => $do,
            $of::Bf16($inside) => $do,
            $of::F32($inside) => $do,
        }
    };
}

impl<const R: usize> FloatView<R> {
    /// As [`View::extent`].
    #[track_caller]
    pub fn extent(self, axis: usize) -> Scalar<i64> {
        each!(FloatView, self, view => view.extent(axis))
    }

    /// As [`View::with_extent`].
    #[track_caller]
    pub fn with_extent(self, axis: usize, extent: usize) -> Self {
        each!(FloatView, self, view => FloatView(view.with_extent(axis, extent)))
    }

    /// As [`View::tile`].
    #[track_caller]
    pub fn tile(self, at: impl TileAt<R>, extents: [usize; R]) -> FloatViewTile<R> {
        each!(FloatView, self, view => FloatViewTile(view.tile(at, extents)))
    }
}

impl<const R: usize> FloatViewTile<R> {
    /// As [`ViewTile::streaming`].
    pub fn streaming(self) -> Self {
        each!(FloatViewTile, self, tile => FloatViewTile(tile.streaming()))
    }

    /// As [`ViewTile::keep`].
    pub fn keep(self) -> Self {
        each!(FloatViewTile, self, tile => FloatViewTile(tile.keep()))
    }

    /// Loads and casts; zero outside.
    #[track_caller]
    pub fn load<T: Float>(self) -> Tile<T, R> {
        each!(FloatViewTile, self, tile => tile.load().cast())
    }
}

impl<const R: usize> FloatViewMut<R> {
    /// As [`ViewMut::with_extent`].
    #[track_caller]
    pub fn with_extent(self, axis: usize, extent: usize) -> Self {
        each!(FloatViewMut, self, view => FloatViewMut(view.with_extent(axis, extent)))
    }

    /// As [`ViewMut::tile`].
    #[track_caller]
    pub fn tile(self, at: impl TileAt<R>, extents: [usize; R]) -> FloatViewTileMut<R> {
        each!(FloatViewMut, self, view => FloatViewTileMut(view.tile(at, extents)))
    }
}

impl<const R: usize> FloatViewTileMut<R> {
    /// Casts, to the nearest, and stores; drops what is outside.
    #[track_caller]
    pub fn store<T: Float>(self, value: Tile<T, R>) {
        each!(FloatViewTileMut, self, tile => tile.store(value.cast()));
    }
}

/// The type that a parameter says; reported where it says none.
#[track_caller]
fn element_of(name: &str, options: &ArgOptions) -> FloatType {
    options.element.unwrap_or_else(|| {
        let message = format!("`{name}` is a view of floats, and its parameter does not say of which");
        record::report(
            Diagnostic::error(BAD_ARGUMENT, Loc::caller(), message)
                .help("write `#[arg(element = spec.field)]` with a `FloatType`"),
        );
        FloatType::default()
    })
}

impl<const R: usize> KernelArg for FloatView<R> {
    #[track_caller]
    fn declare(scope: &mut ArgScope, name: &str, options: ArgOptions) -> Self {
        match element_of(name, &options) {
            FloatType::F16 => FloatView::F16(View::declare(scope, name, options)),
            FloatType::Bf16 => FloatView::Bf16(View::declare(scope, name, options)),
            FloatType::F32 => FloatView::F32(View::declare(scope, name, options)),
        }
    }

    type Given<'a> = FloatTensor<'a, R>;

    fn give<'a>(given: FloatTensor<'a, R>, name: Name<'_>, to: &mut Arguments<'a>) {
        to.push(name, given.into_value());
    }
}

impl<const R: usize> KernelArg for FloatViewMut<R> {
    #[track_caller]
    fn declare(scope: &mut ArgScope, name: &str, options: ArgOptions) -> Self {
        match element_of(name, &options) {
            FloatType::F16 => FloatViewMut::F16(ViewMut::declare(scope, name, options)),
            FloatType::Bf16 => FloatViewMut::Bf16(ViewMut::declare(scope, name, options)),
            FloatType::F32 => FloatViewMut::F32(ViewMut::declare(scope, name, options)),
        }
    }

    type Given<'a> = FloatTensorMut<'a, R>;

    fn give<'a>(given: FloatTensorMut<'a, R>, name: Name<'_>, to: &mut Arguments<'a>) {
        to.push(name, given.into_value());
    }
}
