//! The scan: for every rewritten construct, in source order, the variables that it may change.
//!
//! It runs on the user's tokens, before any child is rewritten, since a rewritten child is opaque.
//! A variable is a candidate when it is declared outside of the construct and
//! * is assigned, compound-assigned, borrowed `&mut`, called, or is the receiver of a method that could change it:
//!   *hard*, it must be carried, and a plain Rust value there is a compile error in a recorded region;
//! * is mentioned in a macro's input that is not a list of expressions, is named by a macro that the function defines and the
//!   construct calls, or is the receiver of a method known to only read: *soft*, carried if its type can be, else compared before
//!   and after where its type allows.
//!
//! Every other variable that a construct mentions, by itself or through a local macro or closure, is *seen*: what it holds behind
//! shared references (`Cell`, `RefCell`, ..) is compared before and after. In an `if` that is so only for variables that are
//! mentioned again later, or in a further turn of a loop around it: others may have been moved away in an arm.

use std::collections::BTreeMap;

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Expr, FnArg, Signature, Token, UnOp};

use super::flow::{Flow, Target};
use super::mention::{Mentions, Seen};
use super::scope::{Change, Place, Scopes};
use crate::error::Errors;
use crate::parse::control::{self, Kind};

/// A variable that a construct may change.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Its name, with the span of the use that made it a candidate.
    pub(crate) name: Ident,
    /// Whether it must be carried.
    pub(crate) hard: bool,
    /// Whether the variable itself is a `&mut`, so that what it points to is carried.
    pub(crate) through_ref: bool,
}

/// What the scan found out about a rewritten construct.
#[derive(Default)]
pub(crate) struct Construct {
    /// What it may change.
    pub(crate) changes: Vec<Candidate>,
    /// What it only mentions.
    pub(crate) seen: Vec<Ident>,
}

/// What the scan found out about a function.
#[derive(Default)]
pub(crate) struct Scan {
    /// Its rewritten constructs, in the order in which a walk meets them.
    pub(crate) constructs: Vec<Construct>,
}

/// Methods of std that only read; on a plain Rust value they are no reason to refuse it.
const READERS: &[&str] = &[
    "abs",
    "as_ref",
    "as_slice",
    "as_str",
    "ceil",
    "chunks",
    "clone",
    "contains",
    "contains_key",
    "copied",
    "div_ceil",
    "eq",
    "first",
    "floor",
    "get",
    "ilog2",
    "is_empty",
    "is_multiple_of",
    "is_none",
    "is_power_of_two",
    "is_some",
    "iter",
    "last",
    "len",
    "max",
    "min",
    "ne",
    "next_power_of_two",
    "pow",
    "sqrt",
    "sum",
    "to_owned",
    "to_string",
    "to_vec",
    "trailing_zeros",
    "unwrap",
    "unwrap_or",
];

/// Scans a function's body.
pub(crate) fn scan_fn(sig: &Signature, body: &syn::Block, errors: &mut Errors) -> Scan {
    let mut walker = Walker::new(errors);
    walker.scopes.push();
    for input in &sig.inputs {
        match input {
            FnArg::Receiver(receiver) => {
                let change = match &receiver.kind {
                    syn::ReceiverKind::Reference(_, _, Some(_)) => Change::Ref,
                    _ if receiver.mutability.is_some() => Change::Mut,
                    _ => Change::Fixed,
                };
                walker.scopes.bind(Ident::new("self", receiver.self_token.span), change, false);
            }
            FnArg::Typed(typed) => walker.scopes.bind_pat(&typed.pat, Some(&typed.ty), None, false),
        }
    }
    walker.visit_block(body);
    walker.finish()
}

pub(super) struct Open {
    index: usize,
    pub(super) depth: usize,
    found: BTreeMap<Place, Candidate>,
    pub(super) seen: BTreeMap<Place, Seen>,
}

pub(super) struct Walker<'e> {
    pub(super) scopes: Scopes,
    flow: Flow,
    pub(super) open: Vec<Open>,
    pub(super) scan: Scan,
    pub(super) errors: &'e mut Errors,
    /// Variables without a first value that were reported.
    refused: Vec<Place>,
    /// Inside a macro's input, whose constructs are not rewritten.
    in_macro: bool,
    /// The depth of scopes at the start of each loop around the cursor.
    pub(super) loops: Vec<usize>,
    pub(super) mentions: Mentions,
}

impl<'e> Walker<'e> {
    fn new(errors: &'e mut Errors) -> Self {
        Walker {
            scopes: Scopes::default(),
            flow: Flow::default(),
            open: Vec::new(),
            scan: Scan::default(),
            errors,
            refused: Vec::new(),
            in_macro: false,
            loops: Vec::new(),
            mentions: Mentions::default(),
        }
    }

    /// The number of the next construct, in the order in which the rewriter meets them.
    fn reserve(&mut self) -> usize {
        self.scan.constructs.push(Construct::default());
        self.scan.constructs.len() - 1
    }

    /// Runs `inside` with a construct open.
    fn construct(
        &mut self,
        index: usize,
        kind: Kind,
        label: Option<&syn::Label>,
        inside: impl FnOnce(&mut Self),
    ) {
        let depth = self.scopes.depth();
        self.open.push(Open { index, depth, found: BTreeMap::new(), seen: BTreeMap::new() });
        self.flow.push(Target::Region { kind, label: label.map(|l| l.name.clone()) });
        let outer = self.loops.len();
        self.loops.extend((kind != Kind::If).then_some(depth));
        inside(self);
        self.loops.truncate(outer);
        self.flow.pop();
        if let Some(mut open) = self.open.pop() {
            open.seen.retain(|place, _| !open.found.contains_key(place));
            self.mentions.close(open.index, open.seen.into_values().collect());
            self.scan.constructs[open.index].changes = open.found.into_values().collect();
        }
    }

    /// Runs `inside` with a plain loop or labelled block open.
    fn plain(&mut self, label: Option<&syn::Label>, is_loop: bool, inside: impl FnOnce(&mut Self)) {
        self.flow.push(Target::Plain { label: label.map(|l| l.name.clone()), is_loop });
        let outer = self.loops.len();
        self.loops.extend(is_loop.then_some(self.scopes.depth()));
        inside(self);
        self.loops.truncate(outer);
        self.flow.pop();
    }

    fn scoped(&mut self, inside: impl FnOnce(&mut Self)) {
        self.scopes.push();
        inside(self);
        self.scopes.pop();
    }

    /// Notes that a name may change, in every open construct outside of which it is declared.
    pub(super) fn changes(&mut self, name: &Ident, hard: bool, deref: bool) {
        let Some(place) = self.scopes.find(name) else { return };
        let binding = self.scopes.get(place);
        let through_ref = match binding.change {
            Change::Mut => false,
            Change::Ref => true,
            // `*r = ..` and `let x; if c { x = .. }`.
            Change::Fixed if deref => true,
            Change::Fixed if binding.unset => false,
            Change::Fixed => return,
        };
        let unset = binding.unset;
        let mut refused = false;
        for open in &mut self.open {
            if place.0 >= open.depth {
                continue;
            }
            if unset && hard {
                refused = true;
                continue;
            }
            let candidate = open.found.entry(place).or_insert_with(|| Candidate {
                name: name.clone(),
                hard,
                through_ref,
            });
            if hard && !candidate.hard {
                candidate.hard = true;
                candidate.name = name.clone();
            }
        }
        if refused && !self.refused.contains(&place) {
            self.refused.push(place);
            self.errors.on(
                name,
                format!(
                    "`{name}` has no value before this `if` or loop assigns it\n\
                     help: write `let {name} = if cond {{ a }} else {{ b }};`, or give it a first value"
                ),
            );
        }
    }

    /// Notes what an assignment to `place`, a `&mut` of it or a call on it may change.
    fn changes_place(&mut self, place: &Expr, hard: bool) {
        match place {
            Expr::Tuple(tuple) => tuple.elems.iter().for_each(|e| self.changes_place(e, hard)),
            Expr::Array(array) => array.elems.iter().for_each(|e| self.changes_place(e, hard)),
            Expr::Struct(fields) => fields.fields.iter().for_each(|f| self.changes_place(&f.expr, hard)),
            _ => {
                if let Some((name, deref)) = root(place) {
                    let name = name.clone();
                    self.changes(&name, hard, deref);
                }
            }
        }
    }

    /// A macro's input: expressions when it parses as a list of them; in any case each mention is soft.
    fn macro_input(&mut self, tokens: &TokenStream) {
        self.mentions_in(tokens.clone());
        let parser = Punctuated::<Expr, Token![,]>::parse_terminated;
        if let Ok(exprs) = parser.parse2(tokens.clone()) {
            let before = std::mem::replace(&mut self.in_macro, true);
            for expr in &exprs {
                self.visit_expr(expr);
            }
            self.in_macro = before;
        } else if self.flow.in_region() {
            self.jumps_in(tokens.clone());
        }
    }

    fn mentions_in(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    self.changes(&name, false, false);
                    self.mentioned(&name, false);
                    self.local_macro(&name);
                }
                TokenTree::Group(group) => self.mentions_in(group.stream()),
                _ => {}
            }
        }
    }

    /// Refuses jump keywords in macro input that is not a list of expressions.
    fn jumps_in(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Ident(name) if name == "return" => {
                    self.flow.check_return("return", name.span(), self.errors);
                }
                TokenTree::Ident(name) if name == "break" || name == "continue" => {
                    self.flow.check_jump(&name.to_string(), name.span(), None, self.errors);
                }
                TokenTree::Group(group) => self.jumps_in(group.stream()),
                _ => {}
            }
        }
    }
}

/// The variable that a place expression starts from, and whether the way leads through a `*`.
fn root(place: &Expr) -> Option<(&Ident, bool)> {
    match place {
        Expr::Path(path) => path.path.get_ident().map(|ident| (ident, false)),
        Expr::Field(field) => root(&field.base),
        Expr::Index(index) => root(&index.expr),
        Expr::Paren(paren) => root(&paren.expr),
        Expr::Group(group) => root(&group.expr),
        Expr::Unary(unary) if matches!(unary.op, UnOp::Deref(_)) => {
            root(&unary.expr).map(|(ident, _)| (ident, true))
        }
        _ => None,
    }
}

fn assigns(op: &syn::BinOp) -> bool {
    use syn::BinOp::*;
    matches!(
        op,
        AddAssign(_)
            | SubAssign(_)
            | MulAssign(_)
            | DivAssign(_)
            | RemAssign(_)
            | BitXorAssign(_)
            | BitAndAssign(_)
            | BitOrAssign(_)
            | ShlAssign(_)
            | ShrAssign(_)
    )
}

impl<'ast> Visit<'ast> for Walker<'_> {
    fn visit_block(&mut self, block: &'ast syn::Block) {
        self.scoped(|w| visit::visit_block(w, block));
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if let Some(init) = &local.init {
            self.visit_expr(&init.expr);
            if let Some((_, diverge)) = &init.diverge {
                self.visit_expr(diverge);
            }
        }
        let init = local.init.as_ref().map(|init| &*init.expr);
        self.scopes.bind_pat(&local.pat, None, init, init.is_none());
        if let Some(value) = init {
            self.changes_by_pattern(&local.pat, value);
        }
    }

    fn visit_item(&mut self, item: &'ast syn::Item) {
        // Nested items see none of our names and are not rewritten; macros see what is in scope where they stand.
        if let syn::Item::Macro(mac) = item
            && let Some(name) = &mac.ident
        {
            let brings = self.scopes.named_in(mac.mac.tokens.clone());
            self.scopes.bind_macro(name.clone(), brings);
        }
    }

    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        if let Some(name) = path.path.get_ident() {
            self.mentioned(name, false);
        }
    }

    fn visit_expr_assign(&mut self, assign: &'ast syn::ExprAssign) {
        // An assignment to the whole of a variable mentions none of what it held.
        if !matches!(&*assign.left, Expr::Path(_)) {
            self.visit_expr(&assign.left);
        }
        self.visit_expr(&assign.right);
        self.changes_place(&assign.left, true);
    }

    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        visit::visit_expr_binary(self, binary);
        self.compares(binary);
        if assigns(&binary.op) {
            self.changes_place(&binary.left, true);
        }
    }

    fn visit_expr_cast(&mut self, cast: &'ast syn::ExprCast) {
        visit::visit_expr_cast(self, cast);
        self.casts(cast);
    }

    fn visit_expr_reference(&mut self, reference: &'ast syn::ExprReference) {
        visit::visit_expr_reference(self, reference);
        if reference.mutability.is_some() {
            self.changes_place(&reference.expr, true);
        } else if let Some((name, _)) = root(&reference.expr) {
            self.mentioned(&name.clone(), true);
        }
    }

    fn visit_expr_raw_addr(&mut self, raw: &'ast syn::ExprRawAddr) {
        visit::visit_expr_raw_addr(self, raw);
        self.changes_place(&raw.expr, true);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        visit::visit_expr_method_call(self, call);
        self.passes(&call.args);
        let reads = READERS.contains(&call.method.to_string().as_str());
        self.changes_place(&call.receiver, !reads);
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        visit::visit_expr_call(self, call);
        self.passes(&call.args);
        // A call of a variable declared `mut` is a call of a closure that changes what it captured.
        self.changes_place(&call.func, true);
    }

    fn visit_expr_closure(&mut self, closure: &'ast syn::ExprClosure) {
        self.flow.push(Target::Function);
        self.scoped(|w| {
            for input in &closure.inputs {
                w.scopes.bind_pat(input, None, None, false);
            }
            w.visit_expr(&closure.body);
        });
        self.flow.pop();
    }

    fn visit_expr_async(&mut self, block: &'ast syn::ExprAsync) {
        self.flow.push(Target::Function);
        visit::visit_expr_async(self, block);
        self.flow.pop();
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        self.scoped(|w| {
            w.scopes.bind_pat(&arm.pat, None, None, false);
            visit::visit_arm(w, arm);
        });
    }

    fn visit_expr_match(&mut self, expr: &'ast syn::ExprMatch) {
        visit::visit_expr_match(self, expr);
        for arm in &expr.arms {
            self.changes_by_pattern(&arm.pat, &expr.expr);
        }
    }

    fn visit_expr_let(&mut self, expr: &'ast syn::ExprLet) {
        visit::visit_expr_let(self, expr);
        self.scopes.bind_pat(&expr.pat, None, Some(&expr.expr), false);
        self.changes_by_pattern(&expr.pat, &expr.expr);
    }

    fn visit_expr_if(&mut self, expr: &'ast syn::ExprIf) {
        if control::rewrites_if(expr) && !self.in_macro {
            let index = self.reserve();
            // The condition is evaluated once, before the region.
            self.visit_expr(&expr.cond);
            self.construct(index, Kind::If, None, |w| {
                w.visit_block(&expr.then_branch);
                if let Some((_, other)) = &expr.else_branch {
                    w.visit_expr(other);
                }
            });
        } else {
            self.scoped(|w| {
                w.visit_expr(&expr.cond);
                w.visit_block(&expr.then_branch);
            });
            if let Some((_, other)) = &expr.else_branch {
                self.visit_expr(other);
            }
        }
    }

    fn visit_expr_for_loop(&mut self, expr: &'ast syn::ExprForLoop) {
        self.visit_expr(&expr.expr);
        let body = |w: &mut Self| {
            w.scoped(|w| {
                // The index of `range(..)` is a scalar; what stands for its first value is the whole range.
                let index: Option<Expr> = control::over_range(&expr.expr).then(|| syn::parse_quote!(lit(0)));
                w.scopes.bind_pat(&expr.pat, None, index.as_ref(), false);
                w.visit_block(&expr.body);
            });
        };
        if control::rewrites_for(expr) && !self.in_macro {
            let index = self.reserve();
            self.construct(index, Kind::For, expr.label.as_ref(), body);
        } else {
            self.plain(expr.label.as_ref(), true, body);
        }
    }

    fn visit_expr_while(&mut self, expr: &'ast syn::ExprWhile) {
        let inside = |w: &mut Self| {
            w.scoped(|w| {
                w.visit_expr(&expr.cond);
                w.visit_block(&expr.body);
            });
        };
        if control::rewrites_while(expr) && !self.in_macro {
            let index = self.reserve();
            self.construct(index, Kind::While, expr.label.as_ref(), inside);
        } else {
            if control::has_let(&expr.cond) && !self.in_macro {
                self.errors.on(
                    &expr.cond,
                    "`while let` is not part of the kernel language: a run-time value has no pattern to match\n\
                     help: for values known at specialisation time write `for x in comptime(..)` or \
                     `loop { let Some(x) = .. else { break }; .. }`",
                );
            }
            self.plain(expr.label.as_ref(), true, inside);
        }
    }

    fn visit_expr_loop(&mut self, expr: &'ast syn::ExprLoop) {
        self.plain(expr.label.as_ref(), true, |w| visit::visit_expr_loop(w, expr));
    }

    fn visit_expr_block(&mut self, expr: &'ast syn::ExprBlock) {
        self.plain(expr.label.as_ref(), false, |w| visit::visit_expr_block(w, expr));
    }

    fn visit_expr_break(&mut self, expr: &'ast syn::ExprBreak) {
        visit::visit_expr_break(self, expr);
        self.flow.check_jump("break", expr.break_token.span, expr.label.as_ref(), self.errors);
    }

    fn visit_expr_continue(&mut self, expr: &'ast syn::ExprContinue) {
        self.flow.check_jump("continue", expr.continue_token.span, expr.label.as_ref(), self.errors);
    }

    fn visit_expr_return(&mut self, expr: &'ast syn::ExprReturn) {
        visit::visit_expr_return(self, expr);
        self.flow.check_return("return", expr.return_token.span, self.errors);
    }

    fn visit_expr_try(&mut self, expr: &'ast syn::ExprTry) {
        visit::visit_expr_try(self, expr);
        self.flow.check_return("?", expr.question_token.span(), self.errors);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        if let Some(name) = mac.path.get_ident() {
            self.local_macro(name);
        }
        self.prints(mac);
        self.macro_input(&mac.tokens);
    }
}

impl Walker<'_> {
    /// `let ref mut r = x`, `match x { Some(ref mut r) => .. }`: a mutable borrow without `&mut`.
    fn changes_by_pattern(&mut self, pat: &syn::Pat, value: &Expr) {
        struct RefMut(bool);
        impl<'ast> Visit<'ast> for RefMut {
            fn visit_pat_ident(&mut self, ident: &'ast syn::PatIdent) {
                self.0 |= ident.by_ref.is_some() && ident.mutability.is_some();
                visit::visit_pat_ident(self, ident);
            }
        }
        let mut found = RefMut(false);
        found.visit_pat(pat);
        if found.0 {
            self.changes_place(value, true);
        }
    }
}
