//! Views: memory with a shape, cut into tiles by index.
//!
//! A view is a pointer, `R` extents and `R` strides in elements. Unless the parameter says `#[arg(strided)]`, the last dimension is
//! contiguous: its stride is 1 by contract, the launch checks it, and loads along it can be vectorised.
//! What lies outside of the extents is neither read nor written by tiles: loads give zero there, unless told otherwise. Single elements (`get`,
//! `set`) and parts (`at`) are not compared with the extents, since kernels find them by numbers that they trust; nor is index arithmetic
//! looked at that wraps. The views of a codec or hook of a cache trust nothing: see [`CodecChoice`](crate::lang::attention::CodecChoice).

use std::marker::PhantomData;

use super::memory::{Ptr, PtrMut, index64};
use crate::diag::Diagnostic;
use crate::ir::{BinaryOp, CmpOp, Const, Dtype, Loc, Op, Shape, Type};
use crate::lang::element::{Index, Plain};
use crate::lang::record::{self, BAD_ARGUMENT, Handle};
use crate::lang::tile::{Arg, Operand, Scalar, Side, Tile, extents};

/// Shape of memory: handles of the extents (`i64`) and strides (`i64`, elements; `None` for the contiguous last one).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dims<const R: usize> {
    pub(crate) extents: [Handle; R],
    pub(crate) strides: [Option<Handle>; R],
    /// Whether accesses check that they lie inside, however indices came about: see [`CodecChoice`](crate::lang::attention::CodecChoice).
    pub(crate) checked: bool,
}

/// Memory that a kernel reads, of `R` dimensions.
pub struct View<E, const R: usize> {
    pub(crate) ptr: Ptr<E>,
    pub(crate) dims: Dims<R>,
}

/// Memory that a kernel writes and may read, of `R` dimensions.
pub struct ViewMut<E, const R: usize> {
    pub(crate) ptr: PtrMut<E>,
    pub(crate) dims: Dims<R>,
}

/// One dimension's index: which elements a tile takes along it.
#[derive(Clone, Copy, Debug)]
pub struct At(Place);

#[derive(Clone, Copy, Debug)]
enum Place {
    /// The n-th tile: elements `n * extent ..`.
    Tile(Handle),
    /// From an element on.
    Element(Handle),
    /// These elements, an `i64` tile of rank 1.
    Lanes(Handle),
}

/// An index along one dimension: a tile number (`Scalar<i32>`, `Scalar<i64>`, `i32`, `i64`), [`element`] for a first
/// element, or a rank 1 tile of element numbers to gather.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an index along a dimension of a view",
    label = "not an index",
    note = "write a tile number (Scalar<i32>, i32), `element(first)`, or a rank 1 tile of element numbers"
)]
pub trait ViewIndex: Copy {
    /// The index.
    #[doc(hidden)]
    fn at(self, loc: Loc) -> At;
}

macro_rules! tile_numbers {
    ($($ty:ty)*) => {$(
        impl ViewIndex for $ty {
            fn at(self, loc: Loc) -> At {
                At(Place::Tile(index64::<$ty>(self, loc)))
            }
        }
    )*};
}
tile_numbers!(i32 i64);

impl<I: Index> ViewIndex for Scalar<I> {
    fn at(self, loc: Loc) -> At {
        At(Place::Tile(index64::<I>(self, loc)))
    }
}

impl<I: Index> ViewIndex for Tile<I, 1> {
    fn at(self, loc: Loc) -> At {
        At(Place::Lanes(cast64(self.handle, loc)))
    }
}

impl ViewIndex for At {
    fn at(self, _: Loc) -> At {
        self
    }
}

/// An index that counts elements instead of tiles: the tile starts at `first`.
#[track_caller]
pub fn element<I: Index>(first: impl Operand<I, 0>) -> At {
    At(Place::Element(index64::<I>(first, Loc::caller())))
}

/// Indices along all dimensions: a tuple, or one index for rank 1.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not index a view of rank {R}",
    label = "expected {R} indices",
    note = "write a tuple with one index per dimension: `(row, col)`"
)]
pub trait TileAt<const R: usize> {
    /// The indices.
    #[doc(hidden)]
    fn places(self, loc: Loc) -> [At; R];
}

impl<A: ViewIndex> TileAt<1> for A {
    fn places(self, loc: Loc) -> [At; 1] {
        [self.at(loc)]
    }
}

macro_rules! index_tuples {
    ($($rank:literal ($($name:ident $index:tt),+))*) => {$(
        impl<$($name: ViewIndex),+> TileAt<$rank> for ($($name,)+) {
            fn places(self, loc: Loc) -> [At; $rank] {
                [$(self.$index.at(loc)),+]
            }
        }
    )*};
}
index_tuples! { 2 (A 0, B 1) 3 (A 0, B 1, C 2) 4 (A 0, B 1, C 2, D 3) 5 (A 0, B 1, C 2, D 3, F 4) }

/// A tile's place in a [`View`].
pub struct ViewTile<E, const R: usize> {
    ptr: Ptr<E>,
    place: Window<R>,
}

/// A tile's place in a [`ViewMut`].
pub struct ViewTileMut<E, const R: usize> {
    ptr: PtrMut<E>,
    place: Window<R>,
}

macro_rules! copies {
    ($($name:ident)*) => {$(
        impl<E, const R: usize> Clone for $name<E, R> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<E, const R: usize> Copy for $name<E, R> {}
        impl<E, const R: usize> std::fmt::Debug for $name<E, R> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("view")
            }
        }
    )*};
}
copies!(View ViewMut ViewTile ViewTileMut);

/// Offsets from a moved pointer, and the mask of what lies inside.
#[derive(Clone, Copy, Debug)]
struct Window<const R: usize> {
    /// Elements to move the pointer by; an `i64` scalar.
    base: Handle,
    /// Element offsets, an `i64` tile.
    offsets: Handle,
    mask: Handle,
    marker: PhantomData<[(); R]>,
}

fn i64_type(shape: &Shape) -> Type {
    Type::Tile { dtype: Dtype::I64, shape: shape.clone() }
}

fn cast64(handle: Handle, loc: Loc) -> Handle {
    match record::ty(handle, loc) {
        Some(Type::Tile { dtype: Dtype::I64, .. }) | None => handle,
        Some(ty) => record::value(Op::Cast, &[handle], Some(&ty.with_dtype(Dtype::I64)), loc),
    }
}

fn int64(value: i64, loc: Loc) -> Handle {
    record::constant(Const::Int(value.into()), &Type::scalar(Dtype::I64), loc)
}

fn binary(op: BinaryOp, a: Handle, b: Handle, loc: Loc) -> Handle {
    record::value(Op::Binary(op), &[a, b], None, loc)
}

/// A rank 1 tile along dimension `axis` of `shape`, repeated along the others.
fn along(handle: Handle, dtype: Dtype, axis: usize, shape: &Shape, loc: Loc) -> Handle {
    let mut line = vec![1u32; shape.rank()];
    line[axis] = shape[axis];
    let line = Type::tile(dtype, &line);
    let full = Type::Tile { dtype, shape: shape.clone() };
    let placed = match shape.rank() {
        1 => handle,
        _ => record::value(Op::Reshape, &[handle], Some(&line), loc),
    };
    if line == full { placed } else { record::value(Op::Broadcast, &[placed], Some(&full), loc) }
}

impl<const R: usize> Window<R> {
    /// The window that starts at `places`; `None` after an error.
    fn new(dims: &Dims<R>, places: [At; R], size: [usize; R], loc: Loc) -> Option<Window<R>> {
        let shape = Shape::new(&extents("tile", &size, loc)?);
        let mut base = int64(0, loc);
        let mut offsets: Option<Handle> = None;
        let mut mask: Option<Handle> = None;
        for axis in 0..R {
            let part = Part::new(dims, axis, places[axis], shape[axis], loc);
            if let Some(start) = part.start {
                base = binary(BinaryOp::Add, base, start, loc);
            }
            let spread = along(part.offsets, Dtype::I64, axis, &shape, loc);
            offsets = Some(match offsets {
                Some(so_far) => binary(BinaryOp::Add, so_far, spread, loc),
                None => spread,
            });
            let spread = along(part.mask, Dtype::I1, axis, &shape, loc);
            mask = Some(match mask {
                Some(so_far) => binary(BinaryOp::And, so_far, spread, loc),
                None => spread,
            });
        }
        Some(Window { base, offsets: offsets?, mask: mask?, marker: PhantomData })
    }
}

/// One dimension of a window.
struct Part {
    /// What the pointer moves by.
    start: Option<Handle>,
    /// Offsets along the dimension: rank 1, `i64`.
    offsets: Handle,
    /// Which of them lie inside: rank 1.
    mask: Handle,
}

impl Part {
    fn new<const R: usize>(dims: &Dims<R>, axis: usize, at: At, size: u32, loc: Loc) -> Part {
        let line = Shape::new(&[size]);
        let scaled = |tile: Handle| match dims.strides[axis] {
            None => tile,
            Some(stride) => {
                let stride = record::value(Op::Splat, &[stride], Some(&i64_type(&line)), loc);
                binary(BinaryOp::Mul, tile, stride, loc)
            }
        };
        let first = match at.0 {
            Place::Lanes(lanes) => {
                // Gathered elements: each is compared with the extent in 64 bits, and with 0.
                let end = record::value(Op::Splat, &[dims.extents[axis]], Some(&i64_type(&line)), loc);
                let zero = record::constant(Const::Int(0), &i64_type(&line), loc);
                let below = record::value(Op::Cmp(CmpOp::Lt), &[lanes, end], None, loc);
                let above = record::value(Op::Cmp(CmpOp::Ge), &[lanes, zero], None, loc);
                return Part {
                    start: None,
                    offsets: scaled(lanes),
                    mask: binary(BinaryOp::And, below, above, loc),
                };
            }
            Place::Tile(number) => match record::known_int(number) {
                Some(n) => int64((n * i128::from(size)) as i64, loc),
                None => binary(BinaryOp::Mul, number, int64(size.into(), loc), loc),
            },
            Place::Element(first) => first,
        };
        // What is left of the extent, as a 32-bit number between 0 and the tile's size: lanes compare in 32 bits.
        let left = binary(BinaryOp::Sub, dims.extents[axis], first, loc);
        let least = |number: Handle| binary(BinaryOp::Min, number, int64(size.into(), loc), loc);
        let positive = |number: Handle| binary(BinaryOp::Max, number, int64(0, loc), loc);
        let left = least(left);
        let before = Before::of(at, first, dims.checked, loc);
        let left = match before {
            // A grid that fits its launch does not reach 2^31 elements beyond the extent.
            Before::None => left,
            Before::Lanes(_) => positive(left),
            // A tile with a negative number lies outside as a whole.
            Before::Tile(negative) => {
                record::value(Op::Select, &[negative, int64(0, loc), positive(left)], None, loc)
            }
        };
        let spread = |number: Handle| {
            let number = record::value(Op::Cast, &[number], Some(&Type::scalar(Dtype::I32)), loc);
            record::value(Op::Splat, &[number], Some(&Type::tile(Dtype::I32, &[size])), loc)
        };
        let left = spread(left);
        let lanes = record::value(Op::Iota, &[], Some(&Type::tile(Dtype::I32, &[size])), loc);
        let mut mask = record::value(Op::Cmp(CmpOp::Lt), &[lanes, left], None, loc);
        if let Before::Lanes(missing) = before {
            let missing = spread(positive(least(missing)));
            let inside = record::value(Op::Cmp(CmpOp::Ge), &[lanes, missing], None, loc);
            mask = binary(BinaryOp::And, mask, inside, loc);
        }
        let start = match dims.strides[axis] {
            None => first,
            Some(stride) => binary(BinaryOp::Mul, first, stride, loc),
        };
        let start = match dims.checked {
            true => near(start, first, size, dims.extents[axis], loc),
            false => start,
        };
        let lanes = record::value(Op::Cast, &[lanes], Some(&i64_type(&line)), loc);
        Part { start: Some(start), offsets: scaled(lanes), mask }
    }
}

/// Where a tile starts, if any of it can lie inside; 0 otherwise, so that no address is far from the buffer.
fn near(start: Handle, first: Handle, size: u32, extent: Handle, loc: Loc) -> Handle {
    let compare = |op, a, b| record::value(Op::Cmp(op), &[a, b], None, loc);
    let after = compare(CmpOp::Gt, first, int64(-i64::from(size), loc));
    let some = binary(BinaryOp::And, after, compare(CmpOp::Lt, first, extent), loc);
    record::value(Op::Select, &[some, start, int64(0, loc)], None, loc)
}

/// What of a tile lies before element 0.
#[derive(Clone, Copy)]
enum Before {
    /// Nothing.
    None,
    /// All of it where this `i1` scalar is true.
    Tile(Handle),
    /// This many elements, an `i64` scalar; none when it is not positive.
    Lanes(Handle),
}

impl Before {
    fn of(at: At, first: Handle, checked: bool, loc: Loc) -> Before {
        // Checked views do not rely on sums and products that do not wrap.
        if !checked && record::never_negative(first) {
            return Before::None;
        }
        match at.0 {
            Place::Tile(_) => {
                Before::Tile(record::value(Op::Cmp(CmpOp::Lt), &[first, int64(0, loc)], None, loc))
            }
            _ => Before::Lanes(binary(BinaryOp::Sub, int64(0, loc), first, loc)),
        }
    }
}

macro_rules! view {
    ($view:ident $ptr:ident $tile:ident) => {
        impl<E: Plain, const R: usize> $view<E, R> {
            /// The number of elements along `axis`.
            #[track_caller]
            pub fn extent(self, axis: usize) -> Scalar<i64> {
                let loc = Loc::caller();
                match super::shape::axis("extent", axis, R, loc) {
                    Some(axis) => Tile::new(self.dims.extents[usize::from(axis)]),
                    None => Tile::poison(),
                }
            }

            /// Elements between neighbours along `axis`.
            #[track_caller]
            pub fn stride(self, axis: usize) -> Scalar<i64> {
                let loc = Loc::caller();
                match super::shape::axis("stride", axis, R, loc) {
                    Some(axis) => match self.dims.strides[usize::from(axis)] {
                        Some(stride) => Tile::new(stride),
                        None => Tile::new(int64(1, loc)),
                    },
                    None => Tile::poison(),
                }
            }

            /// The same memory, whose extent along `axis` is `extent`. The compiler then knows which tiles lie inside and reads
            /// them in whole words; a launch with another extent is refused when the kernel runs.
            #[track_caller]
            pub fn with_extent(mut self, axis: usize, extent: usize) -> Self {
                let loc = Loc::caller();
                if let Some(axis) = super::shape::axis("with_extent", axis, R, loc) {
                    let here = &mut self.dims.extents[usize::from(axis)];
                    let known = int64(extent as i64, loc);
                    let same = record::value(Op::Cmp(CmpOp::Eq), &[*here, known], None, loc);
                    let message = format!("the extent along axis {axis} is {extent}");
                    record::effect(Op::Assert { message }, &[same], loc);
                    *here = known;
                }
                self
            }

            /// The address of the first element. A view among a codec's or hook's parameters in a cache has none to give: it is an error of
            /// the specialisation.
            #[track_caller]
            pub fn ptr(self) -> $ptr<E> {
                if self.dims.checked {
                    record::report(
                        Diagnostic::error(
                            BAD_ARGUMENT,
                            Loc::caller(),
                            "the address of a view of a codec or hook of a cache",
                        )
                        .help("read through the view: `tile`, `get`, `at`"),
                    );
                    return $ptr::new(Handle::poison());
                }
                self.ptr
            }

            /// The tile of these extents at an index: tile numbers, [`element`] numbers, or gathered elements.
            #[track_caller]
            pub fn tile(self, at: impl TileAt<R>, extents: [usize; R]) -> $tile<E, R> {
                let loc = Loc::caller();
                let place = Window::new(&self.dims, at.places(loc), extents, loc).unwrap_or(Window {
                    base: Handle::poison(),
                    offsets: Handle::poison(),
                    mask: Handle::poison(),
                    marker: PhantomData,
                });
                $tile { ptr: self.ptr, place }
            }

            /// One element, by element numbers. They must lie inside, which is for the kernel to see to: only a view among a codec's or
            /// hook's parameters in a cache checks them, and gives zero outside.
            #[track_caller]
            pub fn get<I: Index>(self, at: [Scalar<I>; R]) -> Scalar<E> {
                let loc = Loc::caller();
                let offset = Scalar::<i64>::new(self.dims.offset(at, loc));
                match self.dims.checked {
                    true => self.ptr.load_masked(offset, Scalar::<bool>::new(self.dims.holds(at, loc))),
                    false => self.ptr.get(offset),
                }
            }
        }

        impl<E: Plain, const R: usize> $tile<E, R> {
            /// The same place, whose accesses are marked as used once.
            pub fn streaming(mut self) -> Self {
                self.ptr = self.ptr.streaming();
                self
            }

            /// The same place, whose accesses are marked as used again soon.
            pub fn keep(mut self) -> Self {
                self.ptr = self.ptr.keep();
                self
            }

            /// Which elements lie inside of the view.
            pub fn mask(self) -> Tile<bool, R> {
                Tile::new(self.place.mask)
            }

            /// Loads; zero outside.
            #[track_caller]
            pub fn load(self) -> Tile<E, R> {
                let ptr = self.ptr.add(Scalar::<i64>::new(self.place.base));
                ptr.load_masked(
                    Tile::<i64, R>::new(self.place.offsets),
                    Tile::<bool, R>::new(self.place.mask),
                )
            }

            /// Loads; `other` outside.
            #[track_caller]
            pub fn load_or(self, other: impl Operand<E, R>) -> Tile<E, R> {
                let ptr = self.ptr.add(Scalar::<i64>::new(self.place.base));
                let mask = Tile::<bool, R>::new(self.place.mask);
                ptr.load_or(Tile::<i64, R>::new(self.place.offsets), mask, other)
            }
        }
    };
}
view!(View Ptr ViewTile);
view!(ViewMut PtrMut ViewTileMut);

macro_rules! slices {
    ($view:ident $($rank:literal -> $down:literal)*) => {$(
        impl<E: Plain> $view<E, $rank> {
            /// The part at `index` along `axis`: one dimension less. `index` must lie inside, as for `get`; where that is checked, there is
            /// nothing in a part outside.
            #[track_caller]
            pub fn at<I: Index>(self, axis: usize, index: Scalar<I>) -> $view<E, $down> {
                let loc = Loc::caller();
                let along = super::shape::axis("at", axis, $rank, loc).map_or(0, usize::from);
                let index = index64::<I>(index, loc);
                let offset = match self.dims.strides[along] {
                    Some(stride) => binary(BinaryOp::Mul, index, stride, loc),
                    None => index,
                };
                let inside = self.dims.checked.then(|| self.dims.within(along, index, loc));
                let or_none = |number: Handle| match inside {
                    Some(inside) => record::value(Op::Select, &[inside, number, int64(0, loc)], None, loc),
                    None => number,
                };
                let offset = or_none(offset);
                let kept = |i: usize| if i < along { i } else { i + 1 };
                let mut dims = Dims {
                    extents: [Handle::poison(); $down],
                    strides: [None; $down],
                    checked: self.dims.checked,
                };
                for i in 0..$down {
                    dims.extents[i] = or_none(self.dims.extents[kept(i)]);
                    dims.strides[i] = self.dims.strides[kept(i)];
                }
                $view { ptr: self.ptr.add(Scalar::<i64>::new(offset)), dims }
            }
        }
    )*};
}
slices!(View 2 -> 1 3 -> 2 4 -> 3 5 -> 4);
slices!(ViewMut 2 -> 1 3 -> 2 4 -> 3 5 -> 4);

impl<const R: usize> Dims<R> {
    /// Whether an `i64` index lies inside along an axis.
    fn within(&self, axis: usize, index: Handle, loc: Loc) -> Handle {
        let below = record::value(Op::Cmp(CmpOp::Lt), &[index, self.extents[axis]], None, loc);
        let above = record::value(Op::Cmp(CmpOp::Ge), &[index, int64(0, loc)], None, loc);
        binary(BinaryOp::And, below, above, loc)
    }

    /// Whether an element lies inside.
    fn holds<I: Index>(&self, at: [Scalar<I>; R], loc: Loc) -> Handle {
        let each = at.into_iter().enumerate().map(|(axis, at)| self.within(axis, index64::<I>(at, loc), loc));
        each.reduce(|a, b| binary(BinaryOp::And, a, b, loc)).unwrap_or_else(Handle::poison)
    }

    fn offset<I: Index>(&self, at: [Scalar<I>; R], loc: Loc) -> Handle {
        let mut sum = int64(0, loc);
        for (axis, index) in at.into_iter().enumerate() {
            let index = index64::<I>(index, loc);
            let part = match self.strides[axis] {
                Some(stride) => binary(BinaryOp::Mul, index, stride, loc),
                None => index,
            };
            sum = binary(BinaryOp::Add, sum, part, loc);
        }
        sum
    }
}

impl<E: Plain, const R: usize> ViewMut<E, R> {
    /// Stores one element, by element numbers, which must lie inside: that is for the kernel to see to.
    #[track_caller]
    pub fn set<I: Index>(self, at: [Scalar<I>; R], value: impl Operand<E, 0>) {
        let loc = Loc::caller();
        let offset = self.dims.offset(at, loc);
        self.ptr.set(Scalar::<i64>::new(offset), value);
    }
}

impl<E: Plain, const R: usize> ViewTileMut<E, R> {
    /// Stores what lies inside of the view.
    #[track_caller]
    pub fn store(self, value: impl Operand<E, R>) {
        let ptr = self.ptr.add(Scalar::<i64>::new(self.place.base));
        let mask = Tile::<bool, R>::new(self.place.mask);
        ptr.store_masked(Tile::<i64, R>::new(self.place.offsets), value, mask);
    }

    /// Stores what lies inside of the view and where `mask`.
    #[track_caller]
    pub fn store_masked(self, value: impl Operand<E, R>, mask: impl Operand<bool, R>) {
        let ptr = self.ptr.add(Scalar::<i64>::new(self.place.base));
        let mask: Tile<bool, R> = crate::lang::tile::elementwise(
            Op::Binary(BinaryOp::And),
            &[Arg(Side::Value(self.place.mask)), mask.arg()],
            Loc::caller(),
        );
        ptr.store_masked(Tile::<i64, R>::new(self.place.offsets), value, mask);
    }
}
