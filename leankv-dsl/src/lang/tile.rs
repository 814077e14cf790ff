//! Tiles and scalars: `Copy` handles to values of the kernel that is being recorded.

use std::fmt;
use std::marker::PhantomData;

use super::element::{Element, Index, Plain};
use super::record::{self, BAD_ARGUMENT, Handle};
use crate::diag::Diagnostic;
use crate::ir::{Axis, Const, Dtype, Loc, Op, Shape, Type};

/// A tile of `R` dimensions with elements of type `E`. Extents are known at specialisation time and are no part of the
/// Rust type.
///
/// Operators and methods record ops at the caller's line. Element types never convert implicitly; tiles of one rank
/// combine when each extent is equal or 1 on one side; scalars and literals combine with any tile of their element type.
pub struct Tile<E, const R: usize> {
    pub(crate) handle: Handle,
    element: PhantomData<fn() -> E>,
}

/// A run-time number: a tile of rank 0.
pub type Scalar<E> = Tile<E, 0>;

impl<E, const R: usize> Clone for Tile<E, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E, const R: usize> Copy for Tile<E, R> {}

impl<E: Element, const R: usize> fmt::Debug for Tile<E, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(shown) = record::shown(self.handle, f) {
            return shown;
        }
        match record::ty(self.handle, Loc::unknown()) {
            Some(ty) => write!(f, "{ty}"),
            None => f.write_str("tile"),
        }
    }
}

/// The other side of an op: a tile, a scalar or a literal.
#[derive(Clone, Copy)]
pub struct Arg(pub(crate) Side);

/// What an [`Arg`] is.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// A recorded value.
    Value(Handle),
    /// A literal.
    Literal(Const, Dtype),
}

/// What combines with a tile of element type `E` and rank `R`: such a tile, a scalar, a literal.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not combine with a tile of `{E}` elements and rank {R}",
    label = "expected a tile, scalar or literal of `{E}`",
    note = "nothing converts implicitly: write `.cast::<{E}>()`; a `usize` is written `n as i32`",
    note = "tiles of different rank do not combine: use `.expand_dims(axis)`"
)]
pub trait Operand<E: Element, const R: usize>: Copy {
    /// The argument.
    #[doc(hidden)]
    fn arg(self) -> Arg;
}

impl<E: Element, const R: usize> Operand<E, R> for Tile<E, R> {
    fn arg(self) -> Arg {
        Arg(Side::Value(self.handle))
    }
}

macro_rules! scalar_operand {
    ($($rank:literal)*) => {$(
        impl<E: Element> Operand<E, $rank> for Tile<E, 0> {
            fn arg(self) -> Arg {
                Arg(Side::Value(self.handle))
            }
        }
    )*};
}
scalar_operand!(1 2 3 4 5);

macro_rules! literal_operand {
    ($($ty:ty)*) => {$(
        impl<const R: usize> Operand<$ty, R> for $ty {
            fn arg(self) -> Arg {
                Arg(Side::Literal(self.constant(), <$ty as Plain>::TYPE))
            }
        }
    )*};
}
literal_operand!(bool i8 i16 i32 i64 u8 u16 u32 u64 half::f16 half::bf16 f32 f64);

/// Literals of the 16-bit floats are written as `f32` and rounded to nearest even when the kernel is specialised.
impl<const R: usize> Operand<half::f16, R> for f32 {
    fn arg(self) -> Arg {
        Arg(Side::Literal(Const::float(self.into()), Dtype::F16))
    }
}

/// As for `f16`.
impl<const R: usize> Operand<half::bf16, R> for f32 {
    fn arg(self) -> Arg {
        Arg(Side::Literal(Const::float(self.into()), Dtype::BF16))
    }
}

/// Extents as the IR wants them; `None` (reported) when one is 0 or too large.
pub(crate) fn extents(op: &str, extents: &[usize], loc: Loc) -> Option<Vec<u32>> {
    let out: Option<Vec<u32>> = extents.iter().map(|&e| u32::try_from(e).ok().filter(|&e| e > 0)).collect();
    if out.is_none() {
        record::report(
            Diagnostic::error(BAD_ARGUMENT, loc, format!("`{op}` with extents {extents:?}"))
                .help("every extent is at least 1 and a tile has at most 2^24 elements"),
        );
    }
    out
}

impl<E: Element, const R: usize> Tile<E, R> {
    pub(crate) fn new(handle: Handle) -> Self {
        Tile { handle, element: PhantomData }
    }

    pub(crate) fn poison() -> Self {
        Tile::new(Handle::poison())
    }

    /// The extents, outermost first: plain numbers, known while the kernel is recorded. All 1 after an error.
    #[track_caller]
    pub fn extents(self) -> [usize; R] {
        let shape = record::shape(self.handle, Loc::caller());
        let mut out = [1; R];
        if let Some(shape) = shape {
            out.iter_mut().zip(shape.extents()).for_each(|(o, &e)| *o = e as usize);
        }
        out
    }

    /// The element type in the IR; `None` after an error.
    #[track_caller]
    pub fn dtype(self) -> Option<Dtype> {
        record::ty(self.handle, Loc::caller()).map(|ty| ty.dtype())
    }
}

/// What fills a tile: a literal or a scalar.
pub trait Fill<E: Element>: Operand<E, 0> {}
impl<E: Element, T: Operand<E, 0>> Fill<E> for T {}

impl<E: Plain, const R: usize> Tile<E, R> {
    /// A tile with one value in every element.
    #[track_caller]
    pub fn full(extents: [usize; R], value: impl Fill<E>) -> Self {
        let loc = Loc::caller();
        let Some(extents) = self::extents("full", &extents, loc) else { return Tile::poison() };
        let ty = Type::tile(E::TYPE, &extents);
        Tile::new(match value.arg().0 {
            Side::Literal(value, _) => record::constant(value, &ty, loc),
            Side::Value(scalar) if R == 0 => scalar,
            Side::Value(scalar) => record::value(Op::Splat, &[scalar], Some(&ty), loc),
        })
    }

    /// A tile of zeros.
    #[track_caller]
    pub fn zeros(extents: [usize; R]) -> Self {
        let loc = Loc::caller();
        let Some(extents) = self::extents("zeros", &extents, loc) else { return Tile::poison() };
        Tile::new(record::constant(Const::Int(0), &Type::tile(E::TYPE, &extents), loc))
    }
}

impl<E: Plain> Tile<E, 0> {
    /// A scalar constant.
    #[track_caller]
    pub fn lit(value: E) -> Self {
        Tile::new(record::constant(value.constant(), &Type::scalar(E::TYPE), Loc::caller()))
    }

    /// This scalar in every element of a tile.
    #[track_caller]
    pub fn splat<const R: usize>(self, extents: [usize; R]) -> Tile<E, R> {
        Tile::full(extents, self)
    }
}

/// A run-time scalar with a value known at specialisation time.
#[track_caller]
pub fn lit<E: Plain>(value: E) -> Scalar<E> {
    Scalar::lit(value)
}

/// `0, 1, .. n - 1`.
#[track_caller]
pub fn iota(n: usize) -> Tile<i32, 1> {
    iota_of(n)
}

/// `0, 1, .. n - 1` in an index type.
#[track_caller]
pub fn iota_of<E: Index>(n: usize) -> Tile<E, 1> {
    let loc = Loc::caller();
    let Some(extents) = extents("iota", &[n], loc) else { return Tile::poison() };
    Tile::new(record::value(Op::Iota, &[], Some(&Type::tile(E::TYPE, &extents)), loc))
}

fn axis(op: &str, axis: usize, loc: Loc) -> Option<Axis> {
    match axis {
        0 => Some(Axis::X),
        1 => Some(Axis::Y),
        2 => Some(Axis::Z),
        _ => {
            record::report(
                Diagnostic::error(BAD_ARGUMENT, loc, format!("`{op}` along axis {axis}"))
                    .help("a grid has the axes 0, 1 and 2"),
            );
            None
        }
    }
}

/// This program's index along a grid axis (0, 1 or 2).
#[track_caller]
pub fn program_id(along: usize) -> Scalar<i32> {
    let loc = Loc::caller();
    match axis("program_id", along, loc) {
        Some(axis) => Tile::new(record::value(Op::ProgramId(axis), &[], None, loc)),
        None => Tile::poison(),
    }
}

/// The grid's extent along an axis (0, 1 or 2).
#[track_caller]
pub fn num_programs(along: usize) -> Scalar<i32> {
    let loc = Loc::caller();
    match axis("num_programs", along, loc) {
        Some(axis) => Tile::new(record::value(Op::NumPrograms(axis), &[], None, loc)),
        None => Tile::poison(),
    }
}

/// A handle brought to `shape`: splat from a scalar, repeated along extents of 1.
fn fit(handle: Handle, have: &Shape, shape: &Shape, dtype: Dtype, loc: Loc) -> Handle {
    if have == shape {
        return handle;
    }
    let ty = Type::Tile { dtype, shape: shape.clone() };
    let op = if have.rank() == 0 { Op::Splat } else { Op::Broadcast };
    record::value(op, &[handle], Some(&ty), loc)
}

/// Brings arguments to one shape and gives their handles; `None` (reported) when they do not fit.
pub(crate) fn unify(op: &str, args: &[Arg], loc: Loc) -> Option<Vec<Handle>> {
    let mut types = Vec::with_capacity(args.len());
    let mut shape: Option<Shape> = None;
    for arg in args {
        let Side::Value(handle) = arg.0 else {
            types.push(None);
            continue;
        };
        let ty = record::ty(handle, loc)?;
        let (dtype, have) = ty.as_tile()?;
        shape = match shape {
            None => Some(have.clone()),
            Some(so_far) => match common(&so_far, have) {
                Some(both) => Some(both),
                None => {
                    record::report(
                        Diagnostic::error(
                            crate::ir::infer::EXTENT_MISMATCH,
                            loc,
                            format!("`{op}`: extents {so_far} and {have} differ"),
                        )
                        .help("only scalars and extents of 1 are repeated"),
                    );
                    return None;
                }
            },
        };
        types.push(Some((handle, dtype, have.clone())));
    }
    let shape = shape.unwrap_or_default();
    let fitted = args.iter().zip(types).map(|(arg, ty)| match (arg.0, ty) {
        (_, Some((handle, dtype, have))) => fit(handle, &have, &shape, dtype, loc),
        (Side::Literal(value, dtype), None) => {
            record::constant(value, &Type::Tile { dtype, shape: shape.clone() }, loc)
        }
        (Side::Value(handle), None) => handle,
    });
    Some(fitted.collect())
}

/// The shape that two shapes combine to: scalars and extents of 1 repeat.
fn common(a: &Shape, b: &Shape) -> Option<Shape> {
    if a.rank() == 0 {
        return Some(b.clone());
    }
    if b.rank() == 0 {
        return Some(a.clone());
    }
    if a.rank() != b.rank() {
        return None;
    }
    let extents: Option<Vec<u32>> = a
        .extents()
        .iter()
        .zip(b.extents())
        .map(|(&x, &y)| match (x, y) {
            _ if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect();
    extents.map(|e| Shape::new(&e))
}

/// Records an element-wise op on arguments of one shape.
pub(crate) fn elementwise<E: Element, const R: usize>(op: Op, args: &[Arg], loc: Loc) -> Tile<E, R> {
    match unify(op.name(), args, loc) {
        Some(handles) => Tile::new(record::value(op, &handles, None, loc)),
        None => Tile::poison(),
    }
}
