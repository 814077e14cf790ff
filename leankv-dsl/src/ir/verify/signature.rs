//! The kernel's name, attributes and parameters.

use super::{KERNEL_NAME, NUM_WARPS, PARAMETER};
use crate::diag::{Diagnostic, Diagnostics};
use crate::ir::{Func, Param, Type};

/// Checks what stands outside the body.
pub(super) fn check(func: &Func, out: &mut Diagnostics) {
    let mut error = |code, message: String| {
        out.push(Diagnostic::error(code, func.loc, message));
    };
    let mut chars = func.name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !first || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        let message = format!(
            "`{}` is no kernel name; use letters, digits and `_`, not starting with a digit",
            func.name.escape_debug()
        );
        error(KERNEL_NAME, message);
    }
    if !func.num_warps.is_power_of_two() || func.num_warps > 32 {
        error(NUM_WARPS, format!("{} warps: a program runs on 1, 2, 4, 8, 16 or 32", func.num_warps));
    }
    let types = func.param_values().iter().map(|&v| func.ty(v));
    if !types.eq(func.params.iter().map(|p| &p.ty)) {
        error(PARAMETER, "the body's parameters are not the kernel's".to_owned());
    }
    for (i, param) in func.params.iter().enumerate() {
        if let Some(message) = param_error(param) {
            error(PARAMETER, message);
        }
        if func.params[..i].iter().any(|other| other.name == param.name) {
            error(PARAMETER, format!("two parameters are named `{}`", param.name));
        }
    }
}

fn param_error(param: &Param) -> Option<String> {
    let name = &param.name;
    if name.is_empty() {
        return Some("a parameter has no name".to_owned());
    }
    let fits = match &param.ty {
        Type::Ptr { pointee } => !pointee.is_code(),
        Type::Tile { dtype, shape } => shape.rank() == 0 && !dtype.is_code(),
        Type::Shared { .. } => false,
    };
    if !fits {
        return Some(format!("parameter `{name}` is a `{}`; kernels take scalars and pointers", param.ty));
    }
    let integer = param.ty.is_ptr() || param.ty.dtype().is_int();
    if param.multiple_of == 0 || (param.multiple_of != 1 && !integer) {
        return Some(format!(
            "parameter `{name}` of type `{}` cannot be a multiple of {}",
            param.ty, param.multiple_of
        ));
    }
    None
}
