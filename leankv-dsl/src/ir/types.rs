//! Element types, shapes and value types.

use std::fmt;
use std::str::FromStr;

use smallvec::SmallVec;

/// The largest number of dimensions of a tile.
pub const MAX_RANK: usize = 5;

/// The largest number of elements of one tile (2^24): a bound on what a kernel may ask of one value.
pub const MAX_TILE_ELEMENTS: u64 = 1 << 24;

/// An element type. Signedness is part of it, so one `div` op serves both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Dtype {
    /// One bit: a truth value. In memory it takes one byte, 0 or 1.
    I1,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 8-bit integer.
    U8,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
    /// An unsigned quantisation code of 1 to 8 bits, `0 ..= 2^bits - 1`.
    ///
    /// A tile of codes has the *logical* shape; how codes lie in words is the business of `pack` and
    /// `unpack`. Codes never lie in memory as such.
    Code(u8),
}

impl Dtype {
    /// Every type that is not a code.
    pub const PLAIN: [Dtype; 13] = [
        Dtype::I1,
        Dtype::I8,
        Dtype::I16,
        Dtype::I32,
        Dtype::I64,
        Dtype::U8,
        Dtype::U16,
        Dtype::U32,
        Dtype::U64,
        Dtype::F16,
        Dtype::BF16,
        Dtype::F32,
        Dtype::F64,
    ];

    /// The width in bits (1 for `I1`).
    pub fn bits(self) -> u32 {
        match self {
            Dtype::I1 => 1,
            Dtype::I8 | Dtype::U8 => 8,
            Dtype::I16 | Dtype::U16 | Dtype::F16 | Dtype::BF16 => 16,
            Dtype::I32 | Dtype::U32 | Dtype::F32 => 32,
            Dtype::I64 | Dtype::U64 | Dtype::F64 => 64,
            Dtype::Code(bits) => bits.into(),
        }
    }

    /// Bytes of one element in memory; `None` for codes, which never lie in memory as such.
    pub fn bytes(self) -> Option<u32> {
        match self {
            Dtype::Code(_) => None,
            Dtype::I1 => Some(1),
            other => Some(other.bits() / 8),
        }
    }

    /// Whether this is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
    }

    /// Whether this is an integer type, signed or not; not `I1`, not a code.
    pub fn is_int(self) -> bool {
        self.is_signed_int() || self.is_unsigned_int()
    }

    /// Whether this is a signed integer type.
    pub fn is_signed_int(self) -> bool {
        matches!(self, Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64)
    }

    /// Whether this is an unsigned integer type (codes are not counted).
    pub fn is_unsigned_int(self) -> bool {
        matches!(self, Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64)
    }

    /// Whether this is a quantisation code.
    pub fn is_code(self) -> bool {
        matches!(self, Dtype::Code(_))
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Dtype::I1 => "i1",
            Dtype::I8 => "i8",
            Dtype::I16 => "i16",
            Dtype::I32 => "i32",
            Dtype::I64 => "i64",
            Dtype::U8 => "u8",
            Dtype::U16 => "u16",
            Dtype::U32 => "u32",
            Dtype::U64 => "u64",
            Dtype::F16 => "f16",
            Dtype::BF16 => "bf16",
            Dtype::F32 => "f32",
            Dtype::F64 => "f64",
            Dtype::Code(bits) => return write!(f, "code{bits}"),
        };
        f.write_str(name)
    }
}

/// A name that is no element type.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not an element type; write one of i1, i8..i64, u8..u64, f16, bf16, f32, f64, code1..code8")]
pub struct UnknownDtype(pub String);

impl FromStr for Dtype {
    type Err = UnknownDtype;

    fn from_str(text: &str) -> Result<Dtype, UnknownDtype> {
        if let Some(plain) = Dtype::PLAIN.into_iter().find(|d| d.to_string() == text) {
            return Ok(plain);
        }
        match text.strip_prefix("code").and_then(|bits| bits.parse::<u8>().ok()) {
            Some(bits @ 1..=8) => Ok(Dtype::Code(bits)),
            _ => Err(UnknownDtype(text.to_owned())),
        }
    }
}

/// Extents of a tile, outermost first. Rank 0 is a scalar. Extents need not be powers of two.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Shape(SmallVec<[u32; 4]>);

impl Shape {
    /// The shape with these extents.
    pub fn new(extents: &[u32]) -> Shape {
        Shape(SmallVec::from_slice(extents))
    }

    /// The scalar shape.
    pub fn scalar() -> Shape {
        Shape::default()
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The extents, outermost first.
    pub fn extents(&self) -> &[u32] {
        &self.0
    }

    /// The number of elements (1 for a scalar); `u64::MAX` for extents whose product is larger.
    pub fn elements(&self) -> u64 {
        self.0.iter().fold(1, |n: u64, &e| n.saturating_mul(e.into()))
    }

    /// This shape with a dimension of extent `extent` put in at `axis`.
    pub fn with_axis(&self, axis: usize, extent: u32) -> Shape {
        let mut out = self.clone();
        out.0.insert(axis, extent);
        out
    }

    /// This shape without dimension `axis`.
    pub fn without_axis(&self, axis: usize) -> Shape {
        let mut out = self.clone();
        out.0.remove(axis);
        out
    }

    /// This shape with the extent of `axis` replaced.
    pub fn with_extent(&self, axis: usize, extent: u32) -> Shape {
        let mut out = self.clone();
        out.0[axis] = extent;
        out
    }
}

impl std::ops::Index<usize> for Shape {
    type Output = u32;

    fn index(&self, axis: usize) -> &u32 {
        &self.0[axis]
    }
}

impl From<&[u32]> for Shape {
    fn from(extents: &[u32]) -> Shape {
        Shape::new(extents)
    }
}

impl fmt::Display for Shape {
    /// `16x128`; nothing for a scalar.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, extent) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("x")?;
            }
            write!(f, "{extent}")?;
        }
        Ok(())
    }
}

/// The type of a value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Type {
    /// A tile of elements; a scalar when the shape has rank 0.
    Tile {
        /// Element type.
        dtype: Dtype,
        /// Extents.
        shape: Shape,
    },
    /// A pointer into global memory. Always a scalar; tiles of addresses are a pointer and a tile of
    /// element offsets.
    Ptr {
        /// What it points to.
        pointee: Dtype,
    },
    /// A block of on-chip shared memory that holds `stages` tiles; made by the pipelining pass.
    Shared {
        /// Element type.
        dtype: Dtype,
        /// Extents of one stage.
        shape: Shape,
        /// The number of tiles it holds.
        stages: u32,
    },
}

impl Type {
    /// A tile type.
    pub fn tile(dtype: Dtype, extents: &[u32]) -> Type {
        Type::Tile { dtype, shape: Shape::new(extents) }
    }

    /// A scalar type.
    pub fn scalar(dtype: Dtype) -> Type {
        Type::Tile { dtype, shape: Shape::scalar() }
    }

    /// A pointer type.
    pub fn ptr(pointee: Dtype) -> Type {
        Type::Ptr { pointee }
    }

    /// The element type: the pointee of a pointer.
    pub fn dtype(&self) -> Dtype {
        match self {
            Type::Tile { dtype, .. } | Type::Shared { dtype, .. } | Type::Ptr { pointee: dtype } => *dtype,
        }
    }

    /// The shape of a tile or of one stage of shared memory; `None` for a pointer.
    pub fn shape(&self) -> Option<&Shape> {
        match self {
            Type::Tile { shape, .. } | Type::Shared { shape, .. } => Some(shape),
            Type::Ptr { .. } => None,
        }
    }

    /// Element type and shape of a tile or scalar.
    pub fn as_tile(&self) -> Option<(Dtype, &Shape)> {
        match self {
            Type::Tile { dtype, shape } => Some((*dtype, shape)),
            _ => None,
        }
    }

    /// Whether this is a tile of rank 0.
    pub fn is_scalar(&self) -> bool {
        matches!(self, Type::Tile { shape, .. } if shape.rank() == 0)
    }

    /// Whether this is a pointer.
    pub fn is_ptr(&self) -> bool {
        matches!(self, Type::Ptr { .. })
    }

    /// This tile type with another element type.
    pub fn with_dtype(&self, dtype: Dtype) -> Type {
        match self {
            Type::Tile { shape, .. } => Type::Tile { dtype, shape: shape.clone() },
            Type::Ptr { .. } => Type::Ptr { pointee: dtype },
            Type::Shared { shape, stages, .. } => {
                Type::Shared { dtype, shape: shape.clone(), stages: *stages }
            }
        }
    }
}

impl fmt::Display for Type {
    /// `f32`, `tile<16x128xf32>`, `ptr<u8>`, `shared<2, 64x64xf16>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tile { dtype, shape } if shape.rank() == 0 => write!(f, "{dtype}"),
            Type::Tile { dtype, shape } => write!(f, "tile<{shape}x{dtype}>"),
            Type::Ptr { pointee } => write!(f, "ptr<{pointee}>"),
            Type::Shared { dtype, shape, stages } => write!(f, "shared<{stages}, {shape}x{dtype}>"),
        }
    }
}
