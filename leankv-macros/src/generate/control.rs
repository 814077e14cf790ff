//! The rewriter: regions for `if`, `for` and `while`.
//!
//! It walks constructs in the order of the scan and asks it for the candidates of each. Whether a construct is
//! recorded or stays plain Rust is decided by the types of the generated calls, never here.

use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::visit_mut::{self, VisitMut};
use syn::{BinOp, Block, Expr, ExprForLoop, ExprIf, ExprRange, ExprWhile, RangeLimits, Signature, Stmt};

use super::own;
use crate::error::Errors;
use crate::parse::control;
use crate::scan::walk::{Candidate, Construct, scan_fn};

/// Rewrites the control flow of a function's body in place.
pub(crate) fn rewrite_fn(sig: &Signature, body: &mut Block, errors: &mut Errors) {
    let scan = scan_fn(sig, body, errors);
    let mut rewriter = Rewriter { constructs: scan.constructs.into_iter() };
    rewriter.visit_block_mut(body);
    // Recursion that the recording would never leave is found here, at the function's name.
    let (name, span) = (sig.ident.to_string(), sig.ident.span());
    let call = own("__call", span);
    let enter = quote_spanned!(span=> let #call = ::leankv_dsl::lang::control::enter_call(#name););
    body.stmts.insert(0, Stmt::Expr(Expr::Verbatim(enter), None));
    debug_assert!(rewriter.constructs.next().is_none(), "the rewriter met every construct of the scan");
}

struct Rewriter {
    constructs: std::vec::IntoIter<Construct>,
}

impl Rewriter {
    fn next(&mut self) -> Construct {
        self.constructs.next().unwrap_or_default()
    }
}

impl VisitMut for Rewriter {
    fn visit_item_mut(&mut self, _: &mut syn::Item) {}

    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        match expr {
            Expr::If(inner) if control::rewrites_if(inner) => {
                let found = self.next();
                visit_mut::visit_expr_if_mut(self, inner);
                *expr = Expr::Verbatim(rewrite_if(inner, &found));
            }
            Expr::ForLoop(inner) if control::rewrites_for(inner) => {
                // The scan meets what stands in the iterated expression before the loop itself.
                self.visit_expr_mut(&mut inner.expr);
                let found = self.next();
                self.visit_block_mut(&mut inner.body);
                *expr = Expr::Verbatim(rewrite_for(inner, &found));
            }
            Expr::While(inner) if control::rewrites_while(inner) => {
                let found = self.next();
                visit_mut::visit_expr_while_mut(self, inner);
                *expr = Expr::Verbatim(rewrite_while(inner, &found));
            }
            Expr::Match(inner) if control::matches_literals(inner) => {
                visit_mut::visit_expr_match_mut(self, inner);
                let value = &inner.expr;
                let span = value.span();
                *inner.expr = Expr::Verbatim(quote_spanned! {span=>
                    ::leankv_dsl::lang::control::known(#value)
                });
            }
            Expr::Binary(inner)
                if is_lazy(&inner.op)
                    && !control::has_let(&inner.left)
                    && !control::has_let(&inner.right) =>
            {
                visit_mut::visit_expr_binary_mut(self, inner);
                ask_truth(&mut inner.left);
                ask_truth(&mut inner.right);
            }
            _ => visit_mut::visit_expr_mut(self, expr),
        }
    }
}

fn is_lazy(op: &BinOp) -> bool {
    matches!(op, BinOp::And(_) | BinOp::Or(_))
}

/// Asks whether an operand of `&&` or `||` is a `bool`, in so many words. What is one by its looks is left alone.
fn ask_truth(operand: &mut Expr) {
    let asks = matches!(
        operand,
        Expr::Path(_)
            | Expr::MethodCall(_)
            | Expr::Call(_)
            | Expr::Field(_)
            | Expr::Unary(_)
            | Expr::Index(_)
    );
    if asks {
        let span = operand.span();
        *operand = Expr::Verbatim(quote_spanned!(span=> ::leankv_dsl::lang::control::hint::truth(#operand)));
    }
}

/// A range of Rust as a call that says what its ends must be.
fn rust_range(expr: &Expr) -> Option<TokenStream> {
    let Expr::Range(ExprRange { attrs, start: Some(start), end: Some(end), limits }) = expr else {
        return None;
    };
    let until = match limits {
        RangeLimits::HalfOpen(_) => quote_spanned!(expr.span()=> until),
        RangeLimits::Closed(_) => quote_spanned!(expr.span()=> through),
    };
    let path = quote_spanned!(expr.span()=> ::leankv_dsl::lang::control::hint::#until);
    attrs.is_empty().then(|| quote_spanned!(expr.span()=> #path(#start, #end)))
}

/// `&mut [slot, ..]`: what the region may change.
fn slots(candidates: &[Candidate]) -> TokenStream {
    let slots = candidates.iter().map(|candidate| {
        let name = &candidate.name;
        let text = name.to_string();
        // Each call is spanned on the variable, so that "cannot be carried" points at it.
        let span = name.span();
        let kind = own("__kind", span);
        let place = if candidate.through_ref {
            quote_spanned!(span=> &mut *#name)
        } else {
            quote_spanned!(span=> &mut #name)
        };
        if candidate.hard {
            quote_spanned!(span=> ::leankv_dsl::lang::control::hard(#kind, #text, #place))
        } else {
            quote_spanned! {span=> {
                use ::leankv_dsl::lang::control::soft::*;
                (&&&Probe::new(#kind, #text, #place)).slot()
            }}
        }
    });
    quote!(&mut [#(#slots),*])
}

/// What stands before and after a region: a look at what the variables that it only mentions hold.
fn looks(found: &Construct, kind: &Ident, what: &str) -> (TokenStream, TokenStream) {
    if found.seen.is_empty() {
        return (TokenStream::new(), TokenStream::new());
    }
    let looks: Vec<TokenStream> = found
        .seen
        .iter()
        .map(|name| {
            let (text, span) = (name.to_string(), name.span());
            quote_spanned!(span=> (&&&&::leankv_dsl::lang::control::hidden::Held::new(#text, &#name)).look())
        })
        .collect();
    let before = own("__seen", kind.span());
    let looks = quote!({
        use ::leankv_dsl::lang::control::hidden::*;
        [#(#looks),*]
    });
    (
        quote!(let #before = ::leankv_dsl::lang::control::hidden::Seen::of(#kind, &#looks);),
        quote!(#before.check(#what, &#looks);),
    )
}

/// The value of a block that is nothing else, so that no braces stand inside of a call.
fn bare(block: &Block) -> Option<&Expr> {
    match &block.stmts[..] {
        [Stmt::Expr(value, None)] => Some(value),
        _ => None,
    }
}

fn rewrite_if(expr: &ExprIf, found: &Construct) -> TokenStream {
    let ExprIf { attrs, if_token, cond, then_branch, else_branch } = expr;
    let slots = slots(&found.changes);
    let span = if_token.span;
    let (region, kind) = (own("__if", span), own("__kind", span));
    let (then, other) = (own("__then", span), own("__else", span));
    let (look, check) = looks(found, &kind, "branch");
    let begin = quote_spanned!(cond.span()=> ::leankv_dsl::lang::control::if_begin(#cond));
    let then_body = bare(then_branch).map_or_else(|| quote!(#then_branch), |value| quote!(#value));
    let arm = |span, body: TokenStream| quote_spanned!(span=> ::core::option::Option::Some(::leankv_dsl::lang::control::arm(#kind, #body)));
    let then_value = arm(then_branch.span(), then_body);
    let else_value = match else_branch {
        Some((_, body)) => {
            let value = match &**body {
                Expr::Block(block) if block.attrs.is_empty() && block.label.is_none() => bare(&block.block),
                _ => None,
            };
            let value = value.unwrap_or(body);
            arm(body.span(), quote!(#value))
        }
        None => arm(span, quote!(())),
    };
    quote_spanned! {span=>
        #(#attrs)*
        {
            let mut #region = #begin;
            let #kind = #region.kind();
            #look
            #region.enter(#slots);
            #[allow(unreachable_code)]
            let #then = if #region.then() { #then_value } else { ::core::option::Option::None };
            #region.swap(#slots);
            #[allow(unreachable_code)]
            let #other = if #region.otherwise() { #else_value } else { ::core::option::Option::None };
            #region.merge(#slots);
            #check
            #region.pick(#then, #other)
        }
    }
}

fn rewrite_for(expr: &ExprForLoop, found: &Construct) -> TokenStream {
    let ExprForLoop { attrs, label, for_token, pat, expr: range, body, .. } = expr;
    let slots = slots(&found.changes);
    let span = for_token.span;
    let (region, kind) = (own("__for", span), own("__kind", span));
    let (look, check) = looks(found, &kind, "loop");
    let source = rust_range(range).unwrap_or_else(|| quote!(#range));
    let begin = quote_spanned!(range.span()=> ::leankv_dsl::lang::control::for_begin(#source));
    let indices = quote_spanned!(range.span()=> ::leankv_dsl::lang::control::indices(&mut #region));
    quote_spanned! {span=>
        #(#attrs)*
        {
            let mut #region = #begin;
            let #kind = #region.kind();
            #look
            while #region.turn(#slots) {
                #label for #pat in #indices {
                    #body
                    #[allow(unreachable_code)]
                    #region.reached_end();
                }
            }
            #region.exit(#slots);
            #check
        }
    }
}

fn rewrite_while(expr: &ExprWhile, found: &Construct) -> TokenStream {
    let ExprWhile { attrs, label, while_token, cond, body } = expr;
    let slots = slots(&found.changes);
    let span = while_token.span;
    let (region, kind) = (own("__while", span), own("__kind", span));
    let (look, check) = looks(found, &kind, "loop");
    let test = quote_spanned!(cond.span()=> #region.test(#cond, #slots));
    quote_spanned! {span=>
        #(#attrs)*
        {
            let mut #region = ::leankv_dsl::lang::control::while_begin();
            let #kind = #region.kind();
            #look
            while #region.turn(#slots) {
                #label while #region.pass() && #test {
                    #body
                    #[allow(unreachable_code)]
                    #region.again(#slots);
                }
            }
            #region.exit(#slots);
            #check
        }
    }
}
