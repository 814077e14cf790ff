//! Names in lexical scope.

use proc_macro2::Ident;
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
}

/// Where a name was found: frame and index in it. Ordered by declaration.
pub(crate) type Place = (usize, usize);

/// Frames of names, innermost last.
#[derive(Default)]
pub(crate) struct Scopes {
    frames: Vec<Vec<Binding>>,
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

    /// The innermost binding of a name.
    pub(crate) fn find(&self, name: &Ident) -> Option<Place> {
        self.frames.iter().enumerate().rev().find_map(|(depth, frame)| {
            frame.iter().rposition(|binding| binding.name == *name).map(|index| (depth, index))
        })
    }

    pub(crate) fn get(&self, place: Place) -> &Binding {
        &self.frames[place.0][place.1]
    }

    /// Adds a name to the innermost frame.
    pub(crate) fn bind(&mut self, name: Ident, change: Change, unset: bool) {
        if let Some(frame) = self.frames.last_mut() {
            frame.push(Binding { name, change, unset });
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
                self.bind(ident.ident.clone(), change, unset);
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
