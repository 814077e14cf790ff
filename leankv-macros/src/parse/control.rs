//! Which `if`, `for`, `while` and `match` are rewritten. The scan and the rewriter both ask here, so that they
//! agree on every construct.

use syn::{Expr, ExprForLoop, ExprIf, ExprMatch, ExprWhile, Pat};

/// The kinds of rewritten construct.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    If,
    For,
    While,
}

/// `if` is rewritten unless its condition is a pattern match or `comptime(..)`.
pub(crate) fn rewrites_if(expr: &ExprIf) -> bool {
    !has_let(&expr.cond) && !is_comptime(&expr.cond)
}

/// `for` is rewritten unless it runs over `comptime(..)`.
pub(crate) fn rewrites_for(expr: &ExprForLoop) -> bool {
    !is_comptime(&expr.expr)
}

/// `while` is rewritten unless its condition is a pattern match (refused elsewhere) or `comptime(..)`.
pub(crate) fn rewrites_while(expr: &ExprWhile) -> bool {
    !has_let(&expr.cond) && !is_comptime(&expr.cond)
}

/// Whether a condition contains `let` outside of parentheses.
pub(crate) fn has_let(cond: &Expr) -> bool {
    match cond {
        Expr::Let(_) => true,
        Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        Expr::Group(group) => has_let(&group.expr),
        _ => false,
    }
}

/// Whether an expression is a call of `comptime`, by whatever path.
pub(crate) fn is_comptime(expr: &Expr) -> bool {
    match expr {
        Expr::Call(call) => match &*call.func {
            Expr::Path(path) => path.path.segments.last().is_some_and(|last| last.ident == "comptime"),
            _ => false,
        },
        Expr::Paren(paren) => is_comptime(&paren.expr),
        Expr::Group(group) => is_comptime(&group.expr),
        _ => false,
    }
}

/// Whether a loop is over a call of `range`, with a step or stages.
pub(crate) fn over_range(expr: &Expr) -> bool {
    match expr {
        Expr::Call(call) => matches!(&*call.func, Expr::Path(path) if path.path.is_ident("range")),
        Expr::MethodCall(call) if call.method == "step" || call.method == "stages" => {
            over_range(&call.receiver)
        }
        _ => false,
    }
}

/// Whether a `match` compares with literals: then its value must be known at specialisation time, and the
/// expansion asks for that in so many words.
pub(crate) fn matches_literals(expr: &ExprMatch) -> bool {
    fn literal(pat: &Pat) -> bool {
        match pat {
            Pat::Lit(_) | Pat::Range(_) => true,
            Pat::Or(or) => or.cases.iter().any(literal),
            Pat::Paren(paren) => literal(&paren.pat),
            Pat::Guard(guard) => literal(&guard.pat),
            _ => false,
        }
    }
    expr.arms.iter().any(|arm| literal(&arm.pat))
}
