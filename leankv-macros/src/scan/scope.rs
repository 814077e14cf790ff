//! Names in lexical scope.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Expr, Pat, Type};

/// How a name can change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// Not declared `mut`.
    Fixed,
    /// Declared `mut`.
    Mut,
    /// Holds a `&mut` for all the scan can tell: what it points to can change.
    Ref,
}

/// A name.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) name: Ident,
    pub(crate) change: Change,
    /// Declared by a `let` without a value.
    pub(crate) unset: bool,
    /// Tells bindings apart, those of one name included.
    pub(crate) id: usize,
    /// Its first value or its type says that nothing hides behind it: a number, a tile, a view.
    pub(crate) plain: bool,
    /// Its first value or its type says that it is a tile or a scalar of the kernel.
    pub(crate) recorded: bool,
    /// A macro that is defined inside the function.
    pub(crate) is_macro: bool,
    /// What a mention of it mentions too: the variables that a local macro or closure names.
    pub(crate) brings: Vec<(Ident, Place)>,
}

/// Where a name was found: frame and index in it. Ordered by declaration.
pub(crate) type Place = (usize, usize);

/// Frames of names, innermost last.
#[derive(Default)]
pub(crate) struct Scopes {
    frames: Vec<Vec<Binding>>,
    bound: usize,
}

impl Scopes {
    /// The number of frames.
    pub(crate) fn depth(&self) -> usize {
        self.frames.len()
    }

    pub(crate) fn push(&mut self) {
        self.frames.push(Vec::new());
    }

    pub(crate) fn pop(&mut self) {
        self.frames.pop();
    }

    /// The innermost binding of a variable's name.
    pub(crate) fn find(&self, name: &Ident) -> Option<Place> {
        self.innermost(|binding| !binding.is_macro && binding.name == *name)
    }

    /// The macro of this name, if the function defines one.
    pub(crate) fn find_macro(&self, name: &Ident) -> Option<Place> {
        self.innermost(|binding| binding.is_macro && binding.name == *name)
    }

    fn innermost(&self, is: impl Fn(&Binding) -> bool) -> Option<Place> {
        self.frames
            .iter()
            .enumerate()
            .rev()
            .find_map(|(depth, frame)| frame.iter().rposition(&is).map(|index| (depth, index)))
    }

    /// The variables in scope that tokens name, by themselves or through a local macro or closure, each once.
    pub(crate) fn named_in(&self, tokens: TokenStream) -> Vec<(Ident, Place)> {
        let mut out: Vec<(Ident, Place)> = Vec::new();
        for token in tokens {
            let found = match token {
                TokenTree::Ident(name) => {
                    let place = self.find(&name);
                    let through = place.into_iter().chain(self.find_macro(&name));
                    let brings: Vec<_> = through.flat_map(|place| self.get(place).brings.clone()).collect();
                    place.map(|place| (name, place)).into_iter().chain(brings).collect()
                }
                TokenTree::Group(group) => self.named_in(group.stream()),
                _ => Vec::new(),
            };
            for (name, place) in found {
                if out.iter().all(|(_, known)| *known != place) {
                    out.push((name, place));
                }
            }
        }
        out
    }

    /// Adds a macro that names these variables.
    pub(crate) fn bind_macro(&mut self, name: Ident, brings: Vec<(Ident, Place)>) {
        self.bind(name, Change::Fixed, false);
        if let Some(binding) = self.frames.last_mut().and_then(|frame| frame.last_mut()) {
            binding.is_macro = true;
            binding.brings = brings;
        }
    }

    pub(crate) fn get(&self, place: Place) -> &Binding {
        &self.frames[place.0][place.1]
    }

    /// Adds a name to the innermost frame.
    pub(crate) fn bind(&mut self, name: Ident, change: Change, unset: bool) {
        let id = self.bound;
        self.bound += 1;
        if let Some(frame) = self.frames.last_mut() {
            frame.push(Binding {
                name,
                change,
                unset,
                id,
                plain: false,
                recorded: false,
                is_macro: false,
                brings: Vec::new(),
            });
        }
    }

    /// Adds the names of a pattern. `ty` and `init` tell whether a plain name holds a `&mut`.
    pub(crate) fn bind_pat(&mut self, pat: &Pat, ty: Option<&Type>, init: Option<&Expr>, unset: bool) {
        match pat {
            Pat::Ident(ident) => {
                let reference = matches!(ty, Some(Type::Reference(r)) if r.mutability.is_some())
                    || init.is_some_and(is_mut_borrow);
                let change = match (&ident.mutability, reference || mut_by_ref(ident)) {
                    (Some(_), _) if ident.by_ref.is_none() => Change::Mut,
                    (_, true) => Change::Ref,
                    _ => Change::Fixed,
                };
                let closure = init.and_then(closure);
                let brings = closure.map(|closure| self.named_in(closure.body.to_token_stream()));
                let recorded = ty.is_some_and(is_recorded_type) || init.is_some_and(|v| self.is_recorded(v));
                self.bind(ident.ident.clone(), change, unset);
                if let Some(binding) = self.frames.last_mut().and_then(|frame| frame.last_mut()) {
                    // What a closure captured is looked at by itself: rustc knows the closure's type too late.
                    binding.plain = closure.is_some()
                        || ty.is_some_and(is_plain_type)
                        || init.is_some_and(is_plain_value);
                    binding.brings = brings.unwrap_or_default();
                    binding.recorded = recorded;
                }
                if let Some((_, sub)) = &ident.subpat {
                    self.bind_pat(sub, None, None, unset);
                }
            }
            Pat::Type(typed) => self.bind_pat(&typed.pat, Some(&typed.ty), init, unset),
            Pat::Guard(guard) => self.bind_pat(&guard.pat, ty, init, unset),
            Pat::Paren(paren) => self.bind_pat(&paren.pat, ty, init, unset),
            Pat::Reference(reference) => self.bind_pat(&reference.pat, None, None, unset),
            Pat::Or(or) => {
                if let Some(first) = or.cases.first() {
                    self.bind_pat(first, ty, init, unset);
                }
            }
            Pat::Tuple(tuple) => {
                for (i, elem) in tuple.elems.iter().enumerate() {
                    let part_ty = match ty {
                        Some(Type::Tuple(types)) => types.elems.iter().nth(i),
                        _ => None,
                    };
                    let part_init = match init {
                        Some(Expr::Tuple(values)) => values.elems.iter().nth(i),
                        _ => None,
                    };
                    self.bind_pat(elem, part_ty, part_init, unset);
                }
            }
            Pat::Slice(slice) => slice.elems.iter().for_each(|p| self.bind_pat(p, None, None, unset)),
            Pat::TupleStruct(tuple) => tuple.elems.iter().for_each(|p| self.bind_pat(p, None, None, unset)),
            Pat::Struct(pat) => pat.fields.iter().for_each(|f| self.bind_pat(&f.pat, None, None, unset)),
            _ => {}
        }
    }
}

impl Scopes {
    /// Whether an expression is a tile or scalar of the kernel, as far as its words tell.
    pub(crate) fn is_recorded(&self, value: &Expr) -> bool {
        const MAKES: &[&str] = &["iota", "iota_of", "lit", "num_programs", "program_id"];
        const KEEPS: &[&str] = &["abs", "cast", "clone", "max", "min"];
        match value {
            Expr::Path(path) => {
                let place = path.path.get_ident().and_then(|name| self.find(name));
                place.is_some_and(|place| self.get(place).recorded)
            }
            Expr::Paren(paren) => self.is_recorded(&paren.expr),
            Expr::Group(group) => self.is_recorded(&group.expr),
            Expr::Unary(unary) => !matches!(unary.op, syn::UnOp::Deref(_)) && self.is_recorded(&unary.expr),
            Expr::Binary(binary) => self.is_recorded(&binary.left) || self.is_recorded(&binary.right),
            Expr::MethodCall(call) => {
                KEEPS.contains(&&*call.method.to_string()) && self.is_recorded(&call.receiver)
            }
            Expr::Call(call) => match &*call.func {
                Expr::Path(path) => path.path.get_ident().is_some_and(|f| MAKES.contains(&&*f.to_string())),
                _ => false,
            },
            _ => false,
        }
    }
}

fn closure(value: &Expr) -> Option<&syn::ExprClosure> {
    match value {
        Expr::Closure(found) => Some(found),
        Expr::Reference(reference) => closure(&reference.expr),
        Expr::Paren(paren) => closure(&paren.expr),
        _ => None,
    }
}

fn is_recorded_type(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    path.path.segments.last().is_some_and(|last| last.ident == "Scalar" || last.ident == "Tile")
}

fn mut_by_ref(ident: &syn::PatIdent) -> bool {
    ident.by_ref.is_some() && ident.mutability.is_some()
}

fn is_mut_borrow(expr: &Expr) -> bool {
    match expr {
        Expr::Reference(reference) => reference.mutability.is_some(),
        Expr::Paren(paren) => is_mut_borrow(&paren.expr),
        Expr::Group(group) => is_mut_borrow(&group.expr),
        _ => false,
    }
}

/// Whether a type, by its name, holds nothing that changes behind a shared reference: a check of it would find nothing.
fn is_plain_type(ty: &Type) -> bool {
    const PLAIN: &[&str] = &[
        "bool", "char", "f32", "f64", "i16", "i32", "i64", "i8", "isize", "str", "u16", "u32", "u64", "u8",
        "usize", "Ptr", "PtrMut", "Scalar", "String", "Tile", "View", "ViewMut",
    ];
    match ty {
        Type::Reference(reference) => reference.mutability.is_none() && is_plain_type(&reference.elem),
        Type::Path(path) => path.path.segments.last().is_some_and(|s| PLAIN.contains(&&*s.ident.to_string())),
        _ => false,
    }
}

/// As [`is_plain_type`], for a first value.
fn is_plain_value(value: &Expr) -> bool {
    const PLAIN: &[&str] = &["iota", "iota_of", "lit", "num_programs", "program_id"];
    match value {
        Expr::Lit(_) | Expr::Binary(_) | Expr::Cast(_) | Expr::Range(_) => true,
        Expr::Unary(unary) => !matches!(unary.op, syn::UnOp::Deref(_)),
        Expr::Paren(paren) => is_plain_value(&paren.expr),
        Expr::Call(call) => match &*call.func {
            Expr::Path(path) => path.path.get_ident().is_some_and(|f| PLAIN.contains(&&*f.to_string())),
            _ => false,
        },
        Expr::MethodCall(call) => call.method == "load" || call.method == "cast",
        _ => false,
    }
}
