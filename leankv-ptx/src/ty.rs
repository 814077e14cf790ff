//! Scalar types of PTX as they appear in modifiers and declarations.

/// A fundamental PTX type, without its leading dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // Each variant is the PTX type of the same name.
pub enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F32x2,
    F64,
    E4m3,
    E5m2,
    E4m3x2,
    E5m2x2,
    U4,
    S4,
    B1,
    U16x2,
    S16x2,
}

const NAMES: &[(&str, Ty)] = &[
    ("pred", Ty::Pred),
    ("b8", Ty::B8),
    ("b16", Ty::B16),
    ("b32", Ty::B32),
    ("b64", Ty::B64),
    ("b128", Ty::B128),
    ("u8", Ty::U8),
    ("u16", Ty::U16),
    ("u32", Ty::U32),
    ("u64", Ty::U64),
    ("s8", Ty::S8),
    ("s16", Ty::S16),
    ("s32", Ty::S32),
    ("s64", Ty::S64),
    ("f16", Ty::F16),
    ("f16x2", Ty::F16x2),
    ("bf16", Ty::Bf16),
    ("bf16x2", Ty::Bf16x2),
    ("tf32", Ty::Tf32),
    ("f32", Ty::F32),
    ("f32x2", Ty::F32x2),
    ("f64", Ty::F64),
    ("e4m3", Ty::E4m3),
    ("e5m2", Ty::E5m2),
    ("e4m3x2", Ty::E4m3x2),
    ("e5m2x2", Ty::E5m2x2),
    ("u4", Ty::U4),
    ("s4", Ty::S4),
    ("b1", Ty::B1),
    ("u16x2", Ty::U16x2),
    ("s16x2", Ty::S16x2),
];

impl Ty {
    /// The type spelled `name` (no leading dot), if PTX has one.
    pub fn from_name(name: &str) -> Option<Ty> {
        NAMES.iter().find(|(n, _)| *n == name).map(|(_, t)| *t)
    }

    /// The spelling without its leading dot.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, t)| *t == self).map_or("pred", |(n, _)| n)
    }

    /// Width in bits; a predicate counts as one bit.
    pub fn bits(self) -> u32 {
        match self {
            Ty::Pred | Ty::B1 => 1,
            Ty::U4 | Ty::S4 => 4,
            Ty::B8 | Ty::U8 | Ty::S8 | Ty::E4m3 | Ty::E5m2 => 8,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::Bf16 | Ty::E4m3x2 | Ty::E5m2x2 => 16,
            Ty::B32
            | Ty::U32
            | Ty::S32
            | Ty::F16x2
            | Ty::Bf16x2
            | Ty::Tf32
            | Ty::F32
            | Ty::U16x2
            | Ty::S16x2 => 32,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 | Ty::F32x2 => 64,
            Ty::B128 => 128,
        }
    }

    /// Size in memory in bytes; sub-byte types count as one byte.
    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    /// Whether a load sign-extends into a wider register.
    pub fn is_signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64 | Ty::S4)
    }

    /// Whether the type is an integer type (signed or unsigned, not untyped bits).
    pub fn is_int(self) -> bool {
        matches!(self, Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64 | Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    /// Whether the type is a scalar floating-point type with its own arithmetic.
    pub fn is_float(self) -> bool {
        matches!(self, Ty::F16 | Ty::Bf16 | Ty::Tf32 | Ty::F32 | Ty::F64)
    }
}
