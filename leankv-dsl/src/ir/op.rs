//! The ops, with their meaning.
//!
//! **This file is the definition that all executors agree on**; `interp` is its executable form.
//! An op holds attributes only; operands, results, regions and the location stand in [`InstData`].
//!
//! Conventions that hold for all ops:
//! * A scalar is a tile of rank 0. Element-wise ops take operands of one shape; nothing broadcasts or
//!   promotes implicitly.
//! * Integers wrap. Division and remainder truncate toward zero; by zero they are a checked error in
//!   the interpreter and give 0 in generated code. `i_min / -1` wraps. Shifts by the width or more give 0
//!   (or the sign fill for `shr` of a signed type).
//! * Float arithmetic rounds to nearest even in the element type, subnormals kept. `f16` and `bf16`
//!   arithmetic computes in `f32` and rounds the result once. `mul` followed by `add` is never contracted;
//!   write `fma`. `min`/`max` give the other operand when one is NaN, and NaN when both are; -0 is below +0. Comparisons take
//!   -0 and +0 for equal. Which NaN an op gives is not said.
//! * `exp2`, `log2`, `rsqrt`, `rcp`, `sin`, `cos`, `tanh`, `erf` are approximate: relative error at most 2^-20 in `f32`
//!   (absolute 2^-20 for `sin`/`cos` within `[-pi, pi]` and for `log2` near 1), one rounding more for 16-bit types. `sqrt` and `div` are correctly rounded.
//! * Sums in `reduce`, `scan` and `dot` have an unspecified but fixed association per executor, so a
//!   result is reproducible on one executor and equal across executors within rounding.
//! * `reduce` and `scan` of floats mean what their element-wise op means, whatever the association: NaN among the addends or factors
//!   gives NaN, and so do infinities of both signs in a sum, and a zero beside an infinity in a product; a sum is -0 only when all
//!   addends are; `min`/`max` skip NaN, and give NaN where there is no number: in a scan, up to the first one.
//! * Padding that a backend adds to a tile is never observable.

use std::fmt;

use super::entity::{Block, Value};
use super::loc::Loc;
use super::types::Dtype;
use smallvec::SmallVec;

/// A grid axis.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Axis {
    /// Fastest varying.
    X,
    /// Second.
    Y,
    /// Third.
    Z,
}

/// The value of a constant; a tile constant holds it in every element.
///
/// Floats are kept as bits so that constants compare, hash and print exactly.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Const {
    /// For `i1`, integers and codes: two's complement, sign-extended from the element type.
    Int(i128),
    /// For float types: the bits of the value as `f64`; it must be exact in the element type.
    Float(u64),
}

impl Const {
    /// A float constant, not yet rounded to an element type (see [`Const::rounded`]).
    pub fn float(value: f64) -> Const {
        Const::Float(value.to_bits())
    }

    /// The value as `f64`; integers are converted.
    pub fn as_f64(self) -> f64 {
        match self {
            Const::Int(value) => value as f64,
            Const::Float(bits) => f64::from_bits(bits),
        }
    }

    /// The integer, when it is one.
    pub fn as_int(self) -> Option<i128> {
        match self {
            Const::Int(value) => Some(value),
            Const::Float(_) => None,
        }
    }

    /// The constant rounded (floats, to nearest even) or wrapped (integers) to `dtype`.
    pub fn rounded(self, dtype: Dtype) -> Const {
        match (self, dtype) {
            (Const::Float(bits), _) if dtype.is_float() => {
                let x = f64::from_bits(bits);
                Const::float(match dtype {
                    Dtype::F16 => super::round::f16_from_f64(x).to_f64(),
                    Dtype::BF16 => super::round::bf16_from_f64(x).to_f64(),
                    Dtype::F32 => f64::from(x as f32),
                    _ => x,
                })
            }
            (Const::Int(value), _) if !dtype.is_float() => {
                let bits = dtype.bits();
                let mask = (1i128 << bits) - 1;
                let low = value & mask;
                let negative = dtype.is_signed_int() && (low >> (bits - 1)) & 1 == 1;
                Const::Int(if negative { low - (1i128 << bits) } else { low })
            }
            (Const::Int(value), _) => Const::float(value as f64).rounded(dtype),
            (Const::Float(bits), _) => Const::Int(f64::from_bits(bits) as i128).rounded(dtype),
        }
    }
}

macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in declaration order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The name in IR text, in the language, in errors.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The one with this name.
            pub fn from_name(name: &str) -> Option<$name> {
                match name { $($text => Some($name::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named_enum! {
    /// Element-wise ops of one operand; the result has the operand's type.
    UnaryOp {
        /// Negation; integers wrap.
        Neg = "neg",
        /// Bitwise complement; logical for `i1`.
        Not = "not",
        /// Absolute value; the least integer wraps to itself.
        Abs = "abs",
        /// 2 to the power x. Floats only, as the rest of this list but the last two.
        Exp2 = "exp2",
        /// Logarithm to base 2; negative gives NaN, 0 gives minus infinity.
        Log2 = "log2",
        /// Square root, correctly rounded.
        Sqrt = "sqrt",
        /// 1 / sqrt(x), approximate.
        Rsqrt = "rsqrt",
        /// 1 / x, approximate.
        Rcp = "rcp",
        /// Sine of radians.
        Sin = "sin",
        /// Cosine of radians.
        Cos = "cos",
        /// Hyperbolic tangent.
        Tanh = "tanh",
        /// Error function.
        Erf = "erf",
        /// Largest integral value not above x.
        Floor = "floor",
        /// Smallest integral value not below x.
        Ceil = "ceil",
        /// Nearest integral value, ties to even.
        Round = "round",
        /// Integral part, toward zero.
        Trunc = "trunc",
        /// Number of one bits; integers only.
        Popcount = "popcount",
        /// Number of leading zero bits; integers only.
        Clz = "clz",
    }
}

named_enum! {
    /// Element-wise ops of two operands of one type; the result has that type.
    BinaryOp {
        /// Sum. Not for `i1`.
        Add = "add",
        /// Difference.
        Sub = "sub",
        /// Product; integers give the low half.
        Mul = "mul",
        /// Quotient: floats correctly rounded, integers toward zero.
        Div = "div",
        /// Remainder with the sign of the dividend; integers and floats (`fmod`; floats on host and interpreter only).
        Rem = "rem",
        /// The smaller; see the module's note on NaN.
        Min = "min",
        /// The larger.
        Max = "max",
        /// Bitwise and; integers and `i1`.
        And = "and",
        /// Bitwise or.
        Or = "or",
        /// Bitwise exclusive or.
        Xor = "xor",
        /// Shift left; integers.
        Shl = "shl",
        /// Shift right: arithmetic for signed types, logical for unsigned.
        Shr = "shr",
        /// High half of the full product; 32- and 64-bit integers.
        MulHi = "mulhi",
    }
}

named_enum! {
    /// Comparisons of two operands of one type; the result is `i1`. With NaN all but `ne` are false.
    CmpOp {
        /// Equal.
        Eq = "eq",
        /// Not equal; true when either is NaN.
        Ne = "ne",
        /// Less.
        Lt = "lt",
        /// Less or equal.
        Le = "le",
        /// Greater.
        Gt = "gt",
        /// Greater or equal.
        Ge = "ge",
    }
}

named_enum! {
    /// Built-in ways to combine elements in `reduce` and `scan`.
    CombineKind {
        /// Sum.
        Add = "add",
        /// Product.
        Mul = "mul",
        /// Minimum.
        Min = "min",
        /// Maximum.
        Max = "max",
        /// Bitwise and.
        And = "and",
        /// Bitwise or.
        Or = "or",
        /// Bitwise exclusive or.
        Xor = "xor",
    }
}

impl CombineKind {
    /// The element-wise op that combines two elements.
    pub fn binary(self) -> BinaryOp {
        match self {
            CombineKind::Add => BinaryOp::Add,
            CombineKind::Mul => BinaryOp::Mul,
            CombineKind::Min => BinaryOp::Min,
            CombineKind::Max => BinaryOp::Max,
            CombineKind::And => BinaryOp::And,
            CombineKind::Or => BinaryOp::Or,
            CombineKind::Xor => BinaryOp::Xor,
        }
    }

    /// The element that changes nothing: what padding and empty reductions hold.
    pub fn identity(self, dtype: Dtype) -> Const {
        let int_min = || if dtype.is_signed_int() { -(1i128 << (dtype.bits() - 1)) } else { 0 };
        let int_max = || {
            if dtype.is_signed_int() {
                (1i128 << (dtype.bits() - 1)) - 1
            } else {
                (1i128 << dtype.bits()) - 1
            }
        };
        match self {
            // A sum of -0 alone is -0.
            CombineKind::Add | CombineKind::Or | CombineKind::Xor if dtype.is_float() => Const::float(-0.0),
            CombineKind::Add | CombineKind::Or | CombineKind::Xor => Const::Int(0),
            CombineKind::Mul if dtype.is_float() => Const::float(1.0),
            CombineKind::Mul => Const::Int(1),
            // It gives way to every number, infinities too, and is what NaN alone gives.
            CombineKind::Min | CombineKind::Max if dtype.is_float() => Const::float(f64::NAN),
            CombineKind::Min => Const::Int(int_max()),
            CombineKind::Max => Const::Int(int_min()),
            CombineKind::And => Const::Int(-1).rounded(dtype),
        }
    }
}

/// How `reduce` and `scan` combine elements.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Combine {
    /// A built-in, for exactly one operand.
    Kind(CombineKind),
    /// The op's region: for n operand tiles it has 2n scalar parameters (a0.., b0..) and yields n scalars;
    /// it must be associative. `a` always stands for the elements of lower index.
    Region,
}

named_enum! {
    /// Atomic read-modify-write operations.
    AtomicOp {
        /// Add; integers of 32 and 64 bits, f16, bf16, f32, f64.
        Add = "add",
        /// Minimum; integers and f32.
        Min = "min",
        /// Maximum; integers and f32.
        Max = "max",
        /// And; integers.
        And = "and",
        /// Or; integers.
        Or = "or",
        /// Exclusive or; integers.
        Xor = "xor",
        /// Exchange; any type of 32 or 64 bits.
        Exchange = "xchg",
    }
}

named_enum! {
    /// Memory order of an atomic.
    MemOrder {
        /// Atomicity alone.
        Relaxed = "relaxed",
        /// Later accesses stay after it.
        Acquire = "acquire",
        /// Earlier accesses stay before it.
        Release = "release",
        /// Both.
        AcqRel = "acq_rel",
    }
}

named_enum! {
    /// Who sees an atomic's order.
    MemScope {
        /// The programs' own block.
        Block = "block",
        /// All programs on the device.
        Device = "device",
        /// Device, host and peers.
        System = "system",
    }
}

named_enum! {
    /// A hint on how loaded or stored data should be cached. It never changes a value.
    CacheHint {
        /// No wish.
        Default = "default",
        /// Read once: evict first.
        Streaming = "streaming",
        /// Read again soon: keep.
        Keep = "keep",
        /// Of a load: no program of the launch writes these bytes, so that it may be done at any time and through any cache. A kernel that writes them all the
        /// same gets old or new ones. Of a store: no wish.
        Constant = "constant",
        /// Nothing in the launch meets these bytes but one load, and one store by the same program of what follows from it. So the load may be done early,
        /// and neither waits for anything else that the program reads or writes.
        Exclusive = "exclusive",
    }
}

/// What an op does. Operands in order, then results, stand in each variant's text.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// `-> i32`: this program's index along the axis.
    ProgramId(Axis),
    /// `-> i32`: the grid's extent along the axis.
    NumPrograms(Axis),
    /// `-> T`: a scalar or a tile with one value in all elements, already rounded to the element type.
    Constant(Const),
    /// `-> tile<n x i32>`: 0, 1, .. n-1; n is the result's extent. Also other integer types that hold n - 1.
    Iota,
    /// `scalar -> tile`: the scalar in every element.
    Splat,
    /// Element-wise, one operand.
    Unary(UnaryOp),
    /// Element-wise, two operands.
    Binary(BinaryOp),
    /// `a, b, c -> a * b + c`, one rounding; floats. For 16-bit types it is the `fma` of `f32`, rounded to the type.
    Fma,
    /// `a, b -> i1`.
    Cmp(CmpOp),
    /// `c: i1 tile, a, b -> T`: element of a where c, else of b.
    Select,
    /// Conversion to the result's element type. int -> int wraps (or extends by the source's sign); int -> float
    /// and float -> float round to nearest even; float -> int truncates toward zero, saturates, NaN -> 0; anything -> `i1`
    /// is `x != 0`; `i1` -> number is 0 or 1; a code converts like an unsigned integer, and number -> code keeps the low bits
    /// (float -> code is not allowed: use `quantize`).
    Cast,
    /// Same bits as another type of the same width. Not for `i1` and codes.
    Bitcast,
    /// Same elements in row-major order under another shape of the same count.
    Reshape,
    /// Result dimension i is operand dimension `perm[i]`.
    Transpose {
        /// The permutation.
        perm: SmallVec<[u8; 4]>,
    },
    /// Puts in a dimension of extent 1 at `axis`.
    ExpandDims {
        /// Index of the new dimension in the result.
        axis: u8,
    },
    /// Repeats dimensions of extent 1 to the result's extents; the rank stays.
    Broadcast,
    /// `a, b -> [.., 2]`: a new last dimension, a at 0 and b at 1.
    Join,
    /// `[.., 2] -> a, b`: the inverse of `Join`.
    Split,
    /// `n tiles -> n tiles` without dimension `axis` (scalars from rank 1).
    Reduce {
        /// The dimension that goes.
        axis: u8,
        /// How elements combine.
        combine: Combine,
    },
    /// `n tiles -> n tiles` of the same shape: inclusive prefix combination along `axis`.
    Scan {
        /// The dimension.
        axis: u8,
        /// Whether it runs from the last element to the first.
        reverse: bool,
        /// How elements combine.
        combine: Combine,
    },
    /// `a: [m, k], b: [k, n], acc: [m, n] -> [m, n]`: acc + a b. Products and sums in the accumulator type.
    /// (f16, f16, f32), (bf16, bf16, f32), (f32, f32, f32), (f64, f64, f64), (i8|u8, i8|u8, i32).
    Dot,
    /// `src, index: int tile -> tile`: along `axis`, `out[..i..] = src[..index[..i..]..]`; the other extents are equal.
    /// An index out of range is a checked error in the interpreter; elsewhere it gives a number that means nothing, and on the host reads no
    /// memory but the tile's.
    Gather {
        /// The dimension that is indexed.
        axis: u8,
    },
    /// `ptr<A> -> ptr<B>`: the same address; the program promises alignment for B.
    PtrCast,
    /// `ptr<T>, i64 scalar -> ptr<T>`: the address moved by that many *elements* of T.
    PtrAdd,
    /// `ptr<T>, offsets: i32|i64 tile or scalar [, mask: i1 of that shape [, other: T of that shape]] -> T of that shape`.
    /// Offsets count elements. Elements with a false mask are not accessed and give `other`, or zero without it.
    Load {
        /// Whether operand 2 is a mask.
        masked: bool,
        /// Whether the last operand is `other` (only with a mask).
        other: bool,
        /// Cache hint.
        cache: CacheHint,
    },
    /// `ptr<T>, offsets, value [, mask]`. Two elements of one store to one address is an error (checked by the interpreter)
    /// unless they store equal bits. The same holds between programs: of two stores to one byte that nothing orders, either
    /// may come last, so they must store the same bits, and then are no race. A load that nothing orders after a store of
    /// another program is a race whatever the bits, and so is an atomic beside a plain store.
    Store {
        /// Whether the last operand is a mask.
        masked: bool,
        /// Cache hint.
        cache: CacheHint,
    },
    /// `ptr<T>, offsets, value [, mask] -> old values` (zero where masked off).
    AtomicRmw {
        /// The operation.
        op: AtomicOp,
        /// Order.
        order: MemOrder,
        /// Scope.
        scope: MemScope,
        /// Whether the last operand is a mask.
        masked: bool,
    },
    /// `ptr<T>, offsets, compare, new -> old values`: compare-and-exchange of 32- or 64-bit integers.
    AtomicCas {
        /// Order.
        order: MemOrder,
        /// Scope.
        scope: MemScope,
    },
    /// `code tile [.., n] -> u8|u16|u32 tile [.., n * bits / word bits]`: dense, code 0 of a word in its lowest bits.
    /// Bits are 1, 2, 4 or 8; other widths are split into planes of such widths by the codec.
    Pack,
    /// The inverse of `Pack`; the result type holds the code width.
    Unpack,
    /// `x: f32 tile, scale: f32 tile, zero: f32 tile` of one shape `-> code tile`:
    /// `clamp(round_ties_even((x - zero) / scale), 0, 2^bits - 1)`, 0 where scale is 0 or the quotient is NaN.
    Quantize,
    /// `code tile, scale: f32 tile, zero: f32 tile -> f32 tile`: `fma(scale, code, zero)`.
    Dequantize,
    /// `cond: i1 tile or scalar`: reports when an element is false. The interpreter and the host device turn it into an
    /// error of the launch; on NVPTX it traps.
    Assert {
        /// What to say.
        message: String,
    },
    /// `values..`: prints them with the prefix, on the interpreter and the host; refused on NVPTX.
    Print {
        /// What stands before the values.
        prefix: String,
    },
    /// Element-wise inline PTX over n operands of one shape, with one result. `$0` is the result, `$1`.. the operands.
    /// The region is the meaning: n scalar parameters, yields one scalar; host and interpreter run it.
    InlinePtx {
        /// The instructions.
        asm: String,
        /// Result constraint and operand constraints, LLVM style: `=r,r,r`.
        constraints: String,
    },
    /// `lower, upper, step: i32|i64 scalars, inits.. -> finals..`; region: `(i, carried..)`, yields carried.
    /// Runs for i = lower, lower + step, .. while i < upper, as integers without end: i never wraps, so a loop also ends where
    /// the next i is beyond its type. A constant step is positive. Any other that is 0 or below is a checked error in the interpreter
    /// where lower < upper, and in generated code the loop does not run.
    For {
        /// Software pipeline depth asked for; 1 for none.
        stages: u8,
    },
    /// `inits.. -> finals..`; region 0: `(carried..)` yields `(i1 scalar, carried..)`; region 1: `(carried..)` yields
    /// carried. Runs region 0; while its first value is true, region 1 on the rest; then the rest are the results.
    While,
    /// `cond: i1 scalar -> results..`; region 0 when true, region 1 when false; both yield the results.
    If,
    /// Ends a region: the operands are what it yields.
    Yield,
    /// Ends the function's body.
    Return,

    // Ops that only the GPU passes make, after layouts are assigned.
    /// `tile -> the same tile` in another layout (see the function's layout table).
    ConvertLayout,
    /// `-> shared<stages, tile>`: a block of shared memory for the whole kernel.
    LocalAlloc,
    /// `shared, stage: i32, ptr<T>, offsets [, mask]`: starts copying a tile to a stage; masked-off elements become zero.
    AsyncCopy {
        /// Whether the last operand is a mask.
        masked: bool,
        /// Cache hint of the load that it stands for.
        cache: CacheHint,
    },
    /// Closes the group of copies started so far.
    AsyncCommit,
    /// Waits until at most `pending` newest groups are unfinished; the data is visible to the block after a `Barrier`.
    AsyncWait {
        /// Groups that may stay unfinished.
        pending: u8,
    },
    /// `shared, stage: i32 -> tile`.
    LocalLoad,
    /// `shared, stage: i32, tile`.
    LocalStore,
    /// All threads of the block meet; shared memory written before is visible after.
    Barrier,
}

impl Op {
    /// The op's name in IR text, the language, errors and documentation.
    pub fn name(&self) -> &'static str {
        match self {
            Op::ProgramId(_) => "program_id",
            Op::NumPrograms(_) => "num_programs",
            Op::Constant(_) => "constant",
            Op::Iota => "iota",
            Op::Splat => "splat",
            Op::Unary(op) => op.name(),
            Op::Binary(op) => op.name(),
            Op::Fma => "fma",
            Op::Cmp(_) => "cmp",
            Op::Select => "select",
            Op::Cast => "cast",
            Op::Bitcast => "bitcast",
            Op::Reshape => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::ExpandDims { .. } => "expand_dims",
            Op::Broadcast => "broadcast",
            Op::Join => "join",
            Op::Split => "split",
            Op::Reduce { .. } => "reduce",
            Op::Scan { .. } => "scan",
            Op::Dot => "dot",
            Op::Gather { .. } => "gather",
            Op::PtrCast => "ptr_cast",
            Op::PtrAdd => "ptr_add",
            Op::Load { .. } => "load",
            Op::Store { .. } => "store",
            Op::AtomicRmw { .. } => "atomic_rmw",
            Op::AtomicCas { .. } => "atomic_cas",
            Op::Pack => "pack",
            Op::Unpack => "unpack",
            Op::Quantize => "quantize",
            Op::Dequantize => "dequantize",
            Op::Assert { .. } => "assert",
            Op::Print { .. } => "print",
            Op::InlinePtx { .. } => "inline_ptx",
            Op::For { .. } => "for",
            Op::While => "while",
            Op::If => "if",
            Op::Yield => "yield",
            Op::Return => "return",
            Op::ConvertLayout => "convert_layout",
            Op::LocalAlloc => "local_alloc",
            Op::AsyncCopy { .. } => "async_copy",
            Op::AsyncCommit => "async_commit",
            Op::AsyncWait { .. } => "async_wait",
            Op::LocalLoad => "local_load",
            Op::LocalStore => "local_store",
            Op::Barrier => "barrier",
        }
    }

    /// Whether the op ends a block.
    pub fn is_terminator(&self) -> bool {
        matches!(self, Op::Yield | Op::Return)
    }

    /// The number of regions; `reduce`, `scan` have one when they combine by region.
    pub fn regions(&self) -> usize {
        match self {
            Op::For { .. } | Op::InlinePtx { .. } => 1,
            Op::Reduce { combine: Combine::Region, .. } | Op::Scan { combine: Combine::Region, .. } => 1,
            Op::While | Op::If => 2,
            _ => 0,
        }
    }

    /// What the op does besides giving results. Ops with regions say what they do themselves; their
    /// regions' effects come on top.
    pub fn effect(&self) -> Effect {
        match self {
            Op::Load { .. } | Op::LocalLoad => Effect::Read,
            Op::Store { .. }
            | Op::AtomicRmw { .. }
            | Op::AtomicCas { .. }
            | Op::Assert { .. }
            | Op::Print { .. }
            | Op::AsyncCopy { .. }
            | Op::AsyncCommit
            | Op::AsyncWait { .. }
            | Op::LocalStore
            | Op::LocalAlloc
            | Op::Barrier
            | Op::Yield
            | Op::Return => Effect::Write,
            _ => Effect::None,
        }
    }
}

/// What an op does to the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing: it may be dropped, merged and moved.
    None,
    /// It reads memory: it may be dropped, but not moved over a write.
    Read,
    /// It writes, synchronises, reports or ends a block.
    Write,
}

/// An op in place.
#[derive(Clone, Debug)]
pub struct InstData {
    /// What it does.
    pub op: Op,
    /// Its operands.
    pub operands: SmallVec<[Value; 4]>,
    /// Its results.
    pub results: SmallVec<[Value; 2]>,
    /// Its regions, one block each.
    pub regions: SmallVec<[Block; 2]>,
    /// Where the user wrote it.
    pub loc: Loc,
}
