//! Typing rules: the types of an op's results, or why its operands do not fit.
//!
//! The builder asks here for the types of new results and the verifier asks again and compares, so each rule
//! is written once.

use smallvec::{SmallVec, smallvec};

use super::op::{AtomicOp, BinaryOp, Combine, CombineKind, Const, Op, UnaryOp};
use super::types::{Dtype, MAX_RANK, MAX_TILE_ELEMENTS, Shape, Type};

/// Why an op's operands do not fit.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct TypeError {
    /// The diagnostic's code.
    pub code: &'static str,
    /// A sentence in the user's words: the op and the types as they are.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Element types do not fit.
pub const ELEMENT_MISMATCH: &str = "K0101";
/// Extents do not fit.
pub const EXTENT_MISMATCH: &str = "K0102";
/// The op does not exist for this element type.
pub const UNSUPPORTED_ELEMENT: &str = "K0103";
/// An axis, permutation or rank is out of range.
pub const BAD_AXIS: &str = "K0104";
/// A tile is larger than allowed or has an extent of 0.
pub const BAD_EXTENT: &str = "K0105";
/// Wrong number of operands, results or regions: a bug of whoever built the IR.
pub const MALFORMED: &str = "K0106";
/// A constant does not fit its element type.
pub const BAD_CONSTANT: &str = "K0107";

type Types = SmallVec<[Type; 2]>;

fn err<T>(code: &'static str, message: String) -> Result<T, TypeError> {
    Err(TypeError { code, message, help: None })
}

fn err_help<T>(code: &'static str, message: String, help: &str) -> Result<T, TypeError> {
    Err(TypeError { code, message, help: Some(help.to_owned()) })
}

/// The types of the op's results for these operand types.
///
/// `wanted` is the result type where the op does not imply it: constants, `iota`, `splat`, casts, `reshape`,
/// `broadcast`, `pack`, `unpack`, `quantize`, `local_alloc`. It is ignored elsewhere. Structured control flow
/// takes its result types from its regions and is not asked about here (it gives no types).
///
/// # Errors
/// When operands or the wanted type break the op's rule.
pub fn result_types(op: &Op, operands: &[&Type], wanted: Option<&Type>) -> Result<Types, TypeError> {
    let name = op.name();
    check_count(op, operands)?;
    let need = || match wanted {
        Some(ty) => Ok(ty.clone()),
        None => err(MALFORMED, format!("`{name}` needs its result type")),
    };
    Ok(match op {
        Op::ProgramId(_) | Op::NumPrograms(_) => smallvec![Type::scalar(Dtype::I32)],
        Op::Constant(value) => {
            let ty = need()?;
            let (dtype, shape) = tile(name, &ty)?;
            check_shape(name, shape)?;
            if value.rounded(dtype) != *value && !is_nan(*value) {
                let shown = value.as_int().map_or_else(|| value.as_f64().to_string(), |int| int.to_string());
                return err(BAD_CONSTANT, format!("the constant {shown} does not fit `{dtype}`"));
            }
            smallvec![ty]
        }
        Op::Iota => {
            let ty = need()?;
            let (dtype, shape) = tile(name, &ty)?;
            check_shape(name, shape)?;
            if shape.rank() != 1 || !dtype.is_int() {
                return err(
                    UNSUPPORTED_ELEMENT,
                    format!("`iota` makes a rank 1 tile of integers, not `{ty}`"),
                );
            }
            let last = Const::Int(i128::from(shape[0]) - 1);
            if last.rounded(dtype) != last {
                return err(
                    BAD_CONSTANT,
                    format!("`iota` counts to {}, which does not fit `{dtype}`", shape[0] - 1),
                );
            }
            smallvec![ty]
        }
        Op::Splat => {
            let ty = need()?;
            let (dtype, shape) = tile(name, &ty)?;
            check_shape(name, shape)?;
            same_dtype(name, dtype, scalar(name, operands[0])?)?;
            smallvec![ty]
        }
        Op::Unary(op) => {
            let (dtype, _) = tile(name, operands[0])?;
            let ok = match op {
                UnaryOp::Neg | UnaryOp::Abs => dtype.is_float() || dtype.is_int(),
                UnaryOp::Not => dtype.is_int() || dtype == Dtype::I1,
                UnaryOp::Popcount | UnaryOp::Clz => dtype.is_int(),
                _ => dtype.is_float(),
            };
            supported(name, dtype, ok)?;
            smallvec![operands[0].clone()]
        }
        Op::Binary(op) => {
            let dtype = same_tiles(name, operands)?;
            let ok = match op {
                BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => dtype.is_int() || dtype == Dtype::I1,
                BinaryOp::Shl | BinaryOp::Shr => dtype.is_int(),
                BinaryOp::MulHi => dtype.is_int() && dtype.bits() >= 32,
                _ => dtype.is_int() || dtype.is_float(),
            };
            supported(name, dtype, ok)?;
            smallvec![operands[0].clone()]
        }
        Op::Fma => {
            let dtype = same_tiles(name, operands)?;
            supported(name, dtype, dtype.is_float())?;
            smallvec![operands[0].clone()]
        }
        Op::Cmp(_) => {
            same_tiles(name, operands)?;
            smallvec![operands[0].with_dtype(Dtype::I1)]
        }
        Op::Select => {
            same_tiles(name, &operands[1..])?;
            mask_like(name, operands[0], operands[1])?;
            smallvec![operands[1].clone()]
        }
        Op::Cast => {
            let ty = need()?;
            let (from, shape) = tile(name, operands[0])?;
            let (to, to_shape) = tile(name, &ty)?;
            same_shape(name, shape, to_shape)?;
            if to.is_code() && from.is_float() {
                return err_help(
                    UNSUPPORTED_ELEMENT,
                    format!("`cast` does not turn `{from}` into `{to}`"),
                    "use `quantize` with a scale and a zero point, or cast to an integer first",
                );
            }
            smallvec![ty]
        }
        Op::Bitcast => {
            let ty = need()?;
            let (from, shape) = tile(name, operands[0])?;
            let (to, to_shape) = tile(name, &ty)?;
            same_shape(name, shape, to_shape)?;
            let plain = |d: Dtype| !d.is_code() && d != Dtype::I1;
            if let Some(odd) = [from, to].into_iter().find(|&d| !plain(d)) {
                return err(UNSUPPORTED_ELEMENT, format!("`bitcast` does not exist for `{odd}`"));
            }
            if from.bits() != to.bits() {
                return err(
                    ELEMENT_MISMATCH,
                    format!("`bitcast` from `{from}` to `{to}`: the widths differ"),
                );
            }
            smallvec![ty]
        }
        Op::Reshape => {
            let ty = need()?;
            let (from, shape) = tile(name, operands[0])?;
            let (to, to_shape) = tile(name, &ty)?;
            check_shape(name, to_shape)?;
            same_dtype(name, to, from)?;
            if shape.elements() != to_shape.elements() {
                return err(
                    EXTENT_MISMATCH,
                    format!(
                        "`reshape` from `{}` to `{ty}` changes the number of elements from {} to {}",
                        operands[0],
                        shape.elements(),
                        to_shape.elements()
                    ),
                );
            }
            smallvec![ty]
        }
        Op::Transpose { perm } => {
            let (dtype, shape) = tile(name, operands[0])?;
            let mut seen = vec![false; shape.rank()];
            for &p in perm {
                match seen.get_mut(usize::from(p)) {
                    Some(slot) if !*slot => *slot = true,
                    _ => {
                        return err(
                            BAD_AXIS,
                            format!("{perm:?} is not a permutation of the {} dimensions", shape.rank()),
                        );
                    }
                }
            }
            if perm.len() != shape.rank() {
                return err(BAD_AXIS, format!("{perm:?} does not name all {} dimensions", shape.rank()));
            }
            let extents: SmallVec<[u32; 4]> = perm.iter().map(|&p| shape[usize::from(p)]).collect();
            smallvec![Type::tile(dtype, &extents)]
        }
        Op::ExpandDims { axis } => {
            let (dtype, shape) = tile(name, operands[0])?;
            if usize::from(*axis) > shape.rank() || shape.rank() == MAX_RANK {
                return err(BAD_AXIS, format!("`expand_dims` at {axis} of `{}`", operands[0]));
            }
            smallvec![Type::Tile { dtype, shape: shape.with_axis((*axis).into(), 1) }]
        }
        Op::Broadcast => {
            let ty = need()?;
            let (from, shape) = tile(name, operands[0])?;
            let (to, to_shape) = tile(name, &ty)?;
            check_shape(name, to_shape)?;
            same_dtype(name, to, from)?;
            let fits = shape.rank() == to_shape.rank()
                && shape.extents().iter().zip(to_shape.extents()).all(|(&a, &b)| a == b || a == 1);
            if !fits {
                return err_help(
                    EXTENT_MISMATCH,
                    format!("`broadcast` from `{}` to `{ty}`", operands[0]),
                    "only extents of 1 can be repeated, and the ranks must agree (see `expand_dims`)",
                );
            }
            smallvec![ty]
        }
        Op::Join => {
            let dtype = same_tiles(name, operands)?;
            let shape = tile(name, operands[0])?.1;
            let out = shape.with_axis(shape.rank(), 2);
            check_shape(name, &out)?;
            smallvec![Type::Tile { dtype, shape: out }]
        }
        Op::Split => {
            let (dtype, shape) = tile(name, operands[0])?;
            if shape.extents().last() != Some(&2) {
                return err(
                    EXTENT_MISMATCH,
                    format!("`split` needs a last extent of 2, not `{}`", operands[0]),
                );
            }
            let half = Type::Tile { dtype, shape: shape.without_axis(shape.rank() - 1) };
            smallvec![half.clone(), half]
        }
        Op::Reduce { axis, combine } | Op::Scan { axis, combine, .. } => {
            let mut out = Types::new();
            let first = tile(name, operands[0])?.1;
            for operand in operands {
                let (dtype, shape) = tile(name, operand)?;
                same_shape(name, first, shape)?;
                if usize::from(*axis) >= shape.rank() {
                    return err(BAD_AXIS, format!("`{name}` over axis {axis} of `{operand}`"));
                }
                if let Combine::Kind(kind) = combine {
                    let bitwise = matches!(kind, CombineKind::And | CombineKind::Or | CombineKind::Xor);
                    let ok = if bitwise {
                        dtype.is_int() || dtype == Dtype::I1
                    } else {
                        dtype.is_int() || dtype.is_float()
                    };
                    supported(&format!("{name} {kind}"), dtype, ok)?;
                }
                let shape = if matches!(op, Op::Scan { .. }) {
                    shape.clone()
                } else {
                    shape.without_axis((*axis).into())
                };
                out.push(Type::Tile { dtype, shape });
            }
            if matches!(combine, Combine::Kind(_)) && operands.len() != 1 {
                return err(MALFORMED, format!("`{name}` with a built-in takes one operand"));
            }
            out
        }
        Op::Dot => dot(operands)?,
        Op::Gather { axis } => {
            let (dtype, shape) = tile(name, operands[0])?;
            let (index_dtype, index) = tile(name, operands[1])?;
            let axis = usize::from(*axis);
            supported("gather index", index_dtype, index_dtype.is_int())?;
            if axis >= shape.rank() {
                return err(BAD_AXIS, format!("`gather` along axis {axis} of `{}`", operands[0]));
            }
            let same_rest =
                shape.rank() == index.rank() && (0..shape.rank()).all(|i| i == axis || shape[i] == index[i]);
            if !same_rest {
                return err(
                    EXTENT_MISMATCH,
                    format!(
                        "`gather` from `{}` by `{}`: extents differ off axis {axis}",
                        operands[0], operands[1]
                    ),
                );
            }
            smallvec![Type::Tile { dtype, shape: index.clone() }]
        }
        Op::PtrCast => {
            let ty = need()?;
            if !ty.is_ptr() || ty.dtype().is_code() {
                return err(
                    ELEMENT_MISMATCH,
                    format!("`ptr_cast` gives a pointer to plain elements, not `{ty}`"),
                );
            }
            pointee(name, operands[0])?;
            smallvec![ty]
        }
        Op::PtrAdd => {
            pointee(name, operands[0])?;
            same_dtype(name, Dtype::I64, scalar(name, operands[1])?)?;
            smallvec![operands[0].clone()]
        }
        Op::Load { masked, other, .. } => {
            let (elem, shape) = address(name, operands)?;
            let out = Type::Tile { dtype: elem, shape: shape.clone() };
            if *masked {
                mask_like(name, operands[2], &out)?;
            }
            if *other {
                same(name, &out, operands[operands.len() - 1])?;
            }
            smallvec![out]
        }
        Op::Store { masked, .. } => {
            let (elem, shape) = address(name, operands)?;
            let value = Type::Tile { dtype: elem, shape: shape.clone() };
            same(name, &value, operands[2])?;
            if *masked {
                mask_like(name, operands[3], &value)?;
            }
            smallvec![]
        }
        Op::AtomicRmw { op: rmw, masked, .. } => {
            let (elem, shape) = address(name, operands)?;
            let value = Type::Tile { dtype: elem, shape: shape.clone() };
            same(name, &value, operands[2])?;
            if *masked {
                mask_like(name, operands[3], &value)?;
            }
            let wide_int = elem.is_int() && elem.bits() >= 32;
            let ok = match rmw {
                AtomicOp::Add => wide_int || elem.is_float(),
                AtomicOp::Min | AtomicOp::Max => wide_int || elem == Dtype::F32,
                AtomicOp::Exchange => elem.bits() >= 32,
                _ => wide_int,
            };
            supported(&format!("atomic {rmw}"), elem, ok)?;
            smallvec![value]
        }
        Op::AtomicCas { .. } => {
            let (elem, shape) = address(name, operands)?;
            let value = Type::Tile { dtype: elem, shape: shape.clone() };
            same(name, &value, operands[2])?;
            same(name, &value, operands[3])?;
            supported(name, elem, elem.is_int() && elem.bits() >= 32)?;
            smallvec![value]
        }
        Op::Pack | Op::Unpack => {
            let ty = need()?;
            let (codes, words) = if matches!(op, Op::Pack) { (operands[0], &ty) } else { (&ty, operands[0]) };
            packed(name, codes, words)?;
            smallvec![ty]
        }
        Op::Quantize => {
            let ty = need()?;
            let dtype = same_tiles(name, operands)?;
            supported(name, dtype, dtype == Dtype::F32)?;
            same(name, &operands[0].with_dtype(ty.dtype()), &ty)?;
            supported(name, ty.dtype(), ty.dtype().is_code())?;
            smallvec![ty]
        }
        Op::Dequantize => {
            let (code, _) = tile(name, operands[0])?;
            supported(name, code, code.is_code())?;
            let out = operands[0].with_dtype(Dtype::F32);
            same(name, &out, operands[1])?;
            same(name, &out, operands[2])?;
            smallvec![out]
        }
        Op::Assert { .. } => {
            let (dtype, _) = tile(name, operands[0])?;
            same_dtype(name, Dtype::I1, dtype)?;
            smallvec![]
        }
        Op::Print { .. } => {
            for operand in operands {
                tile(name, operand)?;
            }
            smallvec![]
        }
        Op::InlinePtx { .. } => {
            let ty = need()?;
            let (_, shape) = tile(name, &ty)?;
            for operand in operands {
                same_shape(name, shape, tile(name, operand)?.1)?;
            }
            smallvec![ty]
        }
        Op::For { .. } | Op::While | Op::If | Op::Yield | Op::Return => smallvec![],
        Op::ConvertLayout => {
            tile(name, operands[0])?;
            smallvec![operands[0].clone()]
        }
        Op::LocalAlloc => {
            let ty = need()?;
            if !matches!(ty, Type::Shared { .. }) {
                return err(MALFORMED, format!("`local_alloc` makes shared memory, not `{ty}`"));
            }
            smallvec![ty]
        }
        Op::AsyncCopy { masked, .. } => {
            let stage = shared(name, operands)?;
            let (elem, shape) = address(name, &operands[2..])?;
            let copied = Type::Tile { dtype: elem, shape: shape.clone() };
            same(name, &stage, &copied)?;
            if *masked {
                mask_like(name, operands[4], &copied)?;
            }
            smallvec![]
        }
        Op::LocalLoad => smallvec![shared(name, operands)?],
        Op::LocalStore => {
            same(name, &shared(name, operands)?, operands[2])?;
            smallvec![]
        }
        Op::AsyncCommit | Op::AsyncWait { .. } | Op::Barrier => smallvec![],
    })
}

fn check_count(op: &Op, operands: &[&Type]) -> Result<(), TypeError> {
    let flag = usize::from;
    let want = match op {
        Op::ProgramId(_) | Op::NumPrograms(_) | Op::Constant(_) | Op::Iota => 0,
        Op::LocalAlloc | Op::AsyncCommit | Op::AsyncWait { .. } | Op::Barrier => 0,
        Op::Splat | Op::Unary(_) | Op::Cast | Op::Bitcast | Op::Reshape | Op::Transpose { .. } => 1,
        Op::ExpandDims { .. } | Op::Broadcast | Op::Split | Op::PtrCast | Op::Pack | Op::Unpack => 1,
        Op::Assert { .. } | Op::ConvertLayout | Op::If => 1,
        Op::Binary(_) | Op::Cmp(_) | Op::Join | Op::Gather { .. } | Op::PtrAdd | Op::LocalLoad => 2,
        Op::Fma | Op::Select | Op::Dot | Op::Quantize | Op::Dequantize | Op::LocalStore => 3,
        Op::Load { masked, other, .. } => 2 + flag(*masked) + flag(*other),
        Op::Store { masked, .. } | Op::AtomicRmw { masked, .. } => 3 + flag(*masked),
        Op::AsyncCopy { masked, .. } => 4 + flag(*masked),
        Op::AtomicCas { .. } => 4,
        Op::Reduce { .. } | Op::Scan { .. } | Op::InlinePtx { .. } if !operands.is_empty() => return Ok(()),
        Op::Reduce { .. } | Op::Scan { .. } | Op::InlinePtx { .. } => 1,
        Op::For { .. } if operands.len() >= 3 => return Ok(()),
        Op::For { .. } => 3,
        Op::Print { .. } | Op::While | Op::Yield | Op::Return => return Ok(()),
    };
    if operands.len() == want {
        return Ok(());
    }
    let plural = if want == 1 { "" } else { "s" };
    err(MALFORMED, format!("`{}` takes {want} operand{plural}, not {}", op.name(), operands.len()))
}

fn is_nan(value: Const) -> bool {
    matches!(value, Const::Float(_)) && value.as_f64().is_nan()
}

fn check_shape(name: &str, shape: &Shape) -> Result<(), TypeError> {
    if shape.rank() > MAX_RANK {
        return err(
            BAD_AXIS,
            format!("`{name}`: {} dimensions; a tile has at most {MAX_RANK}", shape.rank()),
        );
    }
    if shape.extents().contains(&0) {
        return err_help(
            BAD_EXTENT,
            format!("`{name}`: a tile of extents {shape} has no elements"),
            "extents start at 1; skip the op where there is nothing to do",
        );
    }
    if shape.elements() > MAX_TILE_ELEMENTS {
        return err_help(
            BAD_EXTENT,
            format!("`{name}`: a tile of extents {shape} has {} elements", shape.elements()),
            "a tile has at most 2^24 elements; loop over smaller tiles",
        );
    }
    Ok(())
}

fn tile<'t>(name: &str, ty: &'t Type) -> Result<(Dtype, &'t Shape), TypeError> {
    match ty.as_tile() {
        Some(found) => Ok(found),
        None => err(ELEMENT_MISMATCH, format!("`{name}` works on tiles and scalars, not on `{ty}`")),
    }
}

fn scalar(name: &str, ty: &Type) -> Result<Dtype, TypeError> {
    match ty.as_tile() {
        Some((dtype, shape)) if shape.rank() == 0 => Ok(dtype),
        _ => err(ELEMENT_MISMATCH, format!("`{name}` needs a scalar here, not `{ty}`")),
    }
}

fn pointee(name: &str, ty: &Type) -> Result<Dtype, TypeError> {
    match ty {
        Type::Ptr { pointee } => Ok(*pointee),
        _ => err(ELEMENT_MISMATCH, format!("`{name}` needs a pointer, not `{ty}`")),
    }
}

fn supported(name: &str, dtype: Dtype, ok: bool) -> Result<(), TypeError> {
    if ok { Ok(()) } else { err(UNSUPPORTED_ELEMENT, format!("`{name}` does not exist for `{dtype}`")) }
}

fn same_dtype(name: &str, a: Dtype, b: Dtype) -> Result<(), TypeError> {
    if a == b {
        return Ok(());
    }
    err_help(
        ELEMENT_MISMATCH,
        format!("`{name}`: element types `{a}` and `{b}` differ"),
        "nothing is converted implicitly; write a `cast`",
    )
}

fn same_shape(name: &str, a: &Shape, b: &Shape) -> Result<(), TypeError> {
    if a == b {
        return Ok(());
    }
    let show = |s: &Shape| if s.rank() == 0 { "a scalar".to_owned() } else { format!("`{s}`") };
    err_help(
        EXTENT_MISMATCH,
        format!("`{name}`: extents {} and {} differ", show(a), show(b)),
        "nothing is broadcast implicitly; use `expand_dims` and `broadcast`",
    )
}

fn same(name: &str, a: &Type, b: &Type) -> Result<(), TypeError> {
    let (a_dtype, a_shape) = tile(name, a)?;
    let (b_dtype, b_shape) = tile(name, b)?;
    same_dtype(name, a_dtype, b_dtype)?;
    same_shape(name, a_shape, b_shape)
}

fn same_tiles(name: &str, operands: &[&Type]) -> Result<Dtype, TypeError> {
    for pair in operands.windows(2) {
        same(name, pair[0], pair[1])?;
    }
    Ok(tile(name, operands[0])?.0)
}

fn mask_like(name: &str, mask: &Type, value: &Type) -> Result<(), TypeError> {
    let (dtype, shape) = tile(name, mask)?;
    if dtype != Dtype::I1 {
        return err(ELEMENT_MISMATCH, format!("`{name}`: the mask's elements are `{dtype}`, not `i1`"));
    }
    same_shape(&format!("{name} mask"), shape, tile(name, value)?.1)
}

/// Pointee and shape of `ptr, offsets, ..`.
fn address<'t>(name: &str, operands: &[&'t Type]) -> Result<(Dtype, &'t Shape), TypeError> {
    let elem = pointee(name, operands[0])?;
    let (offset, shape) = tile(name, operands[1])?;
    supported(&format!("{name} offset"), offset, matches!(offset, Dtype::I32 | Dtype::I64))?;
    Ok((elem, shape))
}

/// The tile type of one stage of `shared, stage, ..`.
fn shared(name: &str, operands: &[&Type]) -> Result<Type, TypeError> {
    let Type::Shared { dtype, shape, .. } = operands[0] else {
        return err(ELEMENT_MISMATCH, format!("`{name}` needs shared memory, not `{}`", operands[0]));
    };
    same_dtype(name, Dtype::I32, scalar(name, operands[1])?)?;
    Ok(Type::Tile { dtype: *dtype, shape: shape.clone() })
}

fn packed(name: &str, codes: &Type, words: &Type) -> Result<(), TypeError> {
    let (code, code_shape) = tile(name, codes)?;
    let (word, word_shape) = tile(name, words)?;
    supported(name, word, matches!(word, Dtype::U8 | Dtype::U16 | Dtype::U32))?;
    if !matches!(code, Dtype::Code(1 | 2 | 4 | 8)) {
        return err_help(
            UNSUPPORTED_ELEMENT,
            format!("`{name}` does not exist for `{code}`"),
            "codes of 3, 5, 6 and 7 bits are stored as planes of 4, 2 and 1 bits",
        );
    }
    check_shape(name, code_shape)?;
    check_shape(name, word_shape)?;
    let rank = code_shape.rank();
    let fits = rank > 0
        && rank == word_shape.rank()
        && code_shape.extents()[..rank - 1] == word_shape.extents()[..rank - 1]
        && u64::from(code_shape[rank - 1]) * u64::from(code.bits())
            == u64::from(word_shape[rank - 1]) * u64::from(word.bits());
    if fits {
        return Ok(());
    }
    err(EXTENT_MISMATCH, format!("`{name}`: `{codes}` does not fill `{words}` exactly"))
}

fn dot(operands: &[&Type]) -> Result<Types, TypeError> {
    let (a, a_shape) = tile("dot", operands[0])?;
    let (b, b_shape) = tile("dot", operands[1])?;
    let (acc, acc_shape) = tile("dot", operands[2])?;
    let byte = |d| matches!(d, Dtype::I8 | Dtype::U8);
    let ok = match acc {
        Dtype::F32 => a == b && matches!(a, Dtype::F16 | Dtype::BF16 | Dtype::F32),
        Dtype::F64 => a == b && a == Dtype::F64,
        Dtype::I32 => byte(a) && byte(b),
        _ => false,
    };
    if !ok {
        return err_help(
            UNSUPPORTED_ELEMENT,
            format!("`dot` of `{a}` and `{b}` into `{acc}` does not exist"),
            "there are f16, bf16 and f32 into f32, f64 into f64, and i8 or u8 into i32",
        );
    }
    let fits = a_shape.rank() == 2
        && b_shape.rank() == 2
        && acc_shape.rank() == 2
        && a_shape[1] == b_shape[0]
        && acc_shape[0] == a_shape[0]
        && acc_shape[1] == b_shape[1];
    if !fits {
        return err_help(
            EXTENT_MISMATCH,
            format!("`dot` of `{}` and `{}` into `{}`", operands[0], operands[1], operands[2]),
            "the operands are [m, k], [k, n] and [m, n]; transpose an operand if it lies the other way",
        );
    }
    Ok(smallvec![operands[2].clone()])
}
