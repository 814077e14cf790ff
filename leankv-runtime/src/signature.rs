//! What a kernel takes, and whether given arguments are that.

use std::fmt;

use leankv_dsl::ir::{Access, Dtype, Func, Type};
use serde::{Deserialize, Serialize};

use crate::text::{join, suggestion};

/// A kernel's parameters, in order. Kept with the compiled code, so that a kernel from a cache or a bundle is checked as
/// strictly as a fresh one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The kernel's name.
    pub kernel: String,
    /// Its parameters.
    pub params: Vec<ParamSpec>,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamSpec {
    /// Its name; parts of a view are named `x.shape0`, `x.stride0`, ...
    pub name: String,
    /// What it takes.
    pub kind: ParamKind,
    /// Element type: of the scalar, or of what the pointer points to.
    #[serde(with = "dtype_text")]
    pub dtype: Dtype,
    /// The value (for pointers: the address in bytes) is a multiple of this.
    pub multiple_of: u64,
}

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParamKind {
    /// A number.
    Scalar,
    /// A buffer that the kernel reads.
    Read,
    /// A buffer that the kernel writes, or reads and writes.
    Write,
}

/// Why arguments are not what a kernel takes. Every message names the kernel's parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// No parameter has that name.
    #[error(
        "kernel `{kernel}` has no parameter `{name}`{}; it takes {}",
        suggestion(name, known),
        join(known)
    )]
    Unknown {
        /// The kernel.
        kernel: String,
        /// The name that was given.
        name: String,
        /// The names it has.
        known: Vec<String>,
    },
    /// A parameter was given twice.
    #[error("kernel `{kernel}`: `{name}` was given twice")]
    Twice {
        /// The kernel.
        kernel: String,
        /// The parameter.
        name: String,
    },
    /// Parameters were not given.
    #[error("kernel `{kernel}`: {} not given{}", join(names), view_help(names))]
    Missing {
        /// The kernel.
        kernel: String,
        /// The parameters.
        names: Vec<String>,
    },
    /// A buffer where a number belongs, or the other way round, or a buffer given for reading that is written.
    #[error("kernel `{kernel}`: `{name}` takes {wanted}, not {got}")]
    Kind {
        /// The kernel.
        kernel: String,
        /// The parameter.
        name: String,
        /// What it takes.
        wanted: &'static str,
        /// What was given.
        got: &'static str,
    },
    /// Another element type.
    #[error("kernel `{kernel}`: `{name}` takes {wanted}, not {got}")]
    Dtype {
        /// The kernel.
        kernel: String,
        /// The parameter.
        name: String,
        /// Its element type.
        wanted: Dtype,
        /// The argument's.
        got: Dtype,
    },
    /// A view of another rank.
    #[error("kernel `{kernel}`: `{name}` is a view of rank {wanted}, not {got}")]
    Rank {
        /// The kernel.
        kernel: String,
        /// The parameter.
        name: String,
        /// Its rank.
        wanted: usize,
        /// The given rank.
        got: usize,
    },
    /// An extent or stride of a view, given as a number.
    #[error(
        "kernel `{kernel}`: `{name}` belongs to the view `{view}`; give the extents with its buffer, by `view` or `view_mut`"
    )]
    PartOfView {
        /// The kernel.
        kernel: String,
        /// The parameter.
        name: String,
        /// The view.
        view: String,
    },
    /// A buffer too short for the view's extents.
    #[error(
        "kernel `{kernel}`: `{name}` as {} needs {needed} elements of {dtype}, and the buffer has {len}",
        Extents(extents)
    )]
    Short {
        /// The kernel.
        kernel: String,
        /// The parameter.
        name: String,
        /// The view's extents.
        extents: Vec<usize>,
        /// The element type.
        dtype: Dtype,
        /// Elements that the extents need.
        needed: u128,
        /// Elements in the buffer.
        len: usize,
    },
    /// A stride that the kernel has no parameter for.
    #[error(
        "kernel `{kernel}`: `{name}` takes elements that lie one after another along axis {axis}, not {stride} apart; \
         mark the parameter `#[arg(strided)]` in the kernel, or copy the data"
    )]
    Dense {
        /// The kernel.
        kernel: String,
        /// The parameter.
        name: String,
        /// The axis.
        axis: usize,
        /// The given stride.
        stride: usize,
    },
    /// An extent that the kernel's index type cannot hold.
    #[error("kernel `{kernel}`: {value} does not fit `{name}`, which is {dtype}")]
    Range {
        /// The kernel.
        kernel: String,
        /// The parameter.
        name: String,
        /// The value.
        value: i128,
        /// The parameter's type.
        dtype: Dtype,
    },
    /// An address or number that is not the multiple the kernel was compiled for.
    #[error(
        "kernel `{kernel}`: `{name}` must be {what} multiple of {multiple_of}, and it is {value:#x}{help}"
    )]
    Multiple {
        /// The kernel.
        kernel: String,
        /// The parameter.
        name: String,
        /// `an address that is a` or `a`.
        what: &'static str,
        /// What it must be a multiple of.
        multiple_of: u64,
        /// What it is.
        value: u64,
        /// What to do.
        help: &'static str,
    },
    /// A buffer that the kernel writes overlaps another of its buffers.
    #[error("kernel `{kernel}` writes `{written}`, which overlaps `{other}`; give it a buffer of its own")]
    Overlap {
        /// The kernel.
        kernel: String,
        /// The buffer that is written.
        written: String,
        /// The other one.
        other: String,
    },
    /// A buffer of another device.
    #[error(
        "kernel `{kernel}`: the buffer of `{name}` lies on another device ({other}) than the kernel ({device})"
    )]
    Device {
        /// The kernel.
        kernel: String,
        /// The parameter.
        name: String,
        /// The kernel's device.
        device: String,
        /// The buffer's device.
        other: String,
    },
    /// Another number of arguments than the kernel has parameters.
    #[error("kernel `{kernel}` takes {wanted} arguments, not {got}")]
    Count {
        /// The kernel.
        kernel: String,
        /// Parameters; a view is one.
        wanted: usize,
        /// What was given.
        got: usize,
    },
    /// A grid that no device takes.
    #[error("kernel `{kernel}`: a grid of {}x{}x{} programs is not possible; each extent is 1 or more, at most {}",
        grid[0], grid[1], grid[2], "2147483647 x 65535 x 65535")]
    Grid {
        /// The kernel.
        kernel: String,
        /// The grid.
        grid: [u32; 3],
    },
}

struct Extents<'a>(&'a [usize]);

impl fmt::Display for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.0.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
    }
}

fn view_help(names: &[String]) -> &'static str {
    if names.iter().any(|n| n.contains(".shape")) {
        "; give the extents of a view with `view` or `view_mut`"
    } else {
        ""
    }
}

impl Signature {
    /// The signature of a kernel in tile IR.
    ///
    /// # Errors
    /// The name of the first parameter that is neither a number nor a pointer; the verifier reports it too.
    pub fn of(func: &Func) -> Result<Signature, String> {
        let params = func.params.iter().map(|param| {
            let kind = match (&param.ty, param.access) {
                (Type::Ptr { .. }, Access::Read) => ParamKind::Read,
                (Type::Ptr { .. }, Access::Write | Access::ReadWrite) => ParamKind::Write,
                (ty, _) if ty.is_scalar() => ParamKind::Scalar,
                _ => return Err(param.name.clone()),
            };
            Ok(ParamSpec {
                name: param.name.clone(),
                kind,
                dtype: param.ty.dtype(),
                multiple_of: param.multiple_of.max(1),
            })
        });
        Ok(Signature { kernel: func.name.clone(), params: params.collect::<Result<_, _>>()? })
    }

    /// The place of a parameter.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.params.iter().position(|p| p.name == name)
    }

    /// What a launch gives, one after another: numbers, buffers, and views, which take a parameter for each extent and stride too.
    pub(crate) fn arguments(&self) -> Vec<ArgumentSpec> {
        let own = |(_, param): &(usize, &ParamSpec)| self.view_of(&param.name).is_none();
        let part = |name: &str, what: &str, axis: usize| {
            let place = self.position(&format!("{name}.{what}{axis}"))?;
            (self.params[place].kind == ParamKind::Scalar).then_some(place)
        };
        let argument = |(place, param): (usize, &ParamSpec)| {
            let extents: Vec<usize> = (0..).map_while(|axis| part(&param.name, "shape", axis)).collect();
            let strides = (0..extents.len()).map(|axis| part(&param.name, "stride", axis)).collect();
            ArgumentSpec { place, extents, strides }
        };
        self.params.iter().enumerate().filter(own).map(argument).collect()
    }
}

/// One argument of a launch: where its parameters stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArgumentSpec {
    /// The number, or the pointer.
    pub(crate) place: usize,
    /// The extents of a view; none for all others.
    pub(crate) extents: Vec<usize>,
    /// The strides of a view along each axis; `None` where neighbours lie one element apart.
    pub(crate) strides: Vec<Option<usize>>,
}

impl Signature {
    /// The view whose extent or stride the parameter `name` is.
    pub(crate) fn view_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        let view = split_part(name)?;
        let place = self.position(view)?;
        (self.params[place].kind != ParamKind::Scalar).then_some(view)
    }
}

/// The view's name in that of an extent or a stride: `x` of `x.shape0`, `kv.pages` of `kv.pages.stride1`.
pub(crate) fn split_part(name: &str) -> Option<&str> {
    let (view, part) = name.rsplit_once('.')?;
    let number = part.strip_prefix("shape").or_else(|| part.strip_prefix("stride"))?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(view)
}

impl fmt::Display for Signature {
    /// `softmax(x: &f32, out: &mut f32, n: i32)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.kernel)?;
        for (i, param) in self.params.iter().enumerate() {
            let sep = if i > 0 { ", " } else { "" };
            let borrow = match param.kind {
                ParamKind::Scalar => "",
                ParamKind::Read => "&",
                ParamKind::Write => "&mut ",
            };
            write!(f, "{sep}{}: {borrow}{}", param.name, param.dtype)?;
        }
        f.write_str(")")
    }
}

mod dtype_text {
    use leankv_dsl::ir::Dtype;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(dtype: &Dtype, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(dtype)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Dtype, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}
