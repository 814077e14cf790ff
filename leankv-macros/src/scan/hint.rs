//! What Rust's operators cannot do with run-time values, said where the words of the kernel show that there is one. Elsewhere rustc
//! refuses it, and the names of the traits that it misses are the hint.

use syn::punctuated::Punctuated;
use syn::{BinOp, Expr, ExprBinary, ExprCast, ExprLit, Lit, Macro, Token};

use super::walk::Walker;

impl Walker<'_> {
    /// `n > 3`.
    pub(super) fn compares(&mut self, binary: &ExprBinary) {
        let method = match binary.op {
            BinOp::Eq(_) => "eq",
            BinOp::Ne(_) => "ne",
            BinOp::Lt(_) => "lt",
            BinOp::Le(_) => "le",
            BinOp::Gt(_) => "gt",
            BinOp::Ge(_) => "ge",
            _ => return,
        };
        let left = self.scopes.is_recorded(&binary.left);
        if left || self.scopes.is_recorded(&binary.right) {
            let hint = if left { format!("`a.{method}(b)`") } else { format!("`lit(a).{method}(b)`") };
            self.errors.on(
                binary,
                format!(
                    "an operator of Rust does not compare run-time values: its answer would be needed while the kernel is recorded\n\
                     help: write {hint}, which is answered when the kernel runs"
                ),
            );
        }
    }

    /// `n as f32`.
    pub(super) fn casts(&mut self, cast: &ExprCast) {
        if self.scopes.is_recorded(&cast.expr) {
            self.errors.on(
                cast,
                "`as` does not convert run-time values\nhelp: write `n.cast::<f32>()`, with the element type wanted",
            );
        }
    }

    /// `println!("{}", n)`.
    pub(super) fn prints(&mut self, mac: &Macro) {
        const PRINTS: &[&str] = &["eprint", "eprintln", "format", "print", "println"];
        if !mac.path.get_ident().is_some_and(|name| PRINTS.contains(&&*name.to_string())) {
            return;
        }
        let Ok(args) = mac.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated) else { return };
        let Some(Expr::Lit(ExprLit { lit: Lit::Str(format), .. })) = args.first() else { return };
        let text = format.value();
        let named = text.split('{').skip(1).any(|rest| {
            let name = rest.split(['}', ':']).next().unwrap_or_default();
            let name = syn::parse_str::<Expr>(name);
            name.is_ok_and(|name| matches!(name, Expr::Path(_)) && self.scopes.is_recorded(&name))
        });
        // With `{:?}` the type is written, which is known.
        let shows = named || args.iter().skip(1).any(|arg| self.scopes.is_recorded(arg));
        if shows && !text.contains('?') {
            self.errors.on(
                mac,
                "a run-time value has no text while the kernel is recorded\n\
                 help: `device_print(\"n =\", n)` prints it when the kernel runs",
            );
        }
    }
}
