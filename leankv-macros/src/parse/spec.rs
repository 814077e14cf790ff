//! `#[derive(Spec)]`.

use proc_macro2::Ident;
use syn::parse::ParseStream;
use syn::{Attribute, DeriveInput, Expr, Token, Type};

use super::derive::{doc_text, parse as parse_struct, unknown_key};
use crate::error::Errors;

/// A field of a spec.
pub(crate) struct SpecField {
    pub(crate) name: Ident,
    pub(crate) ty: Type,
    pub(crate) doc: String,
    /// `default = value`.
    pub(crate) default: Option<Expr>,
    /// `values = [..]`: an array expression, or any expression that can be iterated.
    pub(crate) values: Option<Expr>,
    /// `tune = [..]`: values that a tuner may try, as `values`.
    pub(crate) tune: Option<Expr>,
}

/// A spec struct.
pub(crate) struct SpecStruct {
    pub(crate) name: Ident,
    pub(crate) fields: Vec<SpecField>,
    /// `valid = |s| ..`.
    pub(crate) valid: Option<Expr>,
}

/// Reads a struct under `#[derive(Spec)]`.
pub(crate) fn parse(input: DeriveInput, errors: &mut Errors) -> Option<SpecStruct> {
    if !input.generics.params.is_empty() {
        errors.on(&input.generics, "a spec has no generic parameters: every field is a value");
    }
    let item = parse_struct(input, "Spec", errors)?;
    if !item.named {
        errors.on(&item.name, "a spec has named fields, since they are what `--set name=value` sets");
        return None;
    }
    let mut valid = None;
    for attr in item.attrs.iter().filter(|a| a.path().is_ident("spec")) {
        let parsed = keys(attr, &["valid"], |key, value| {
            if key == "valid" {
                valid = Some(value);
            }
        });
        errors.take(parsed);
    }
    let mut fields = Vec::new();
    for field in item.fields {
        let syn::Member::Named(name) = field.member else { continue };
        let mut out = SpecField {
            name,
            doc: doc_text(&field.attrs),
            ty: field.ty,
            default: None,
            values: None,
            tune: None,
        };
        check_type(&out.ty, errors);
        for attr in field.attrs.iter().filter(|a| a.path().is_ident("spec")) {
            let parsed = keys(attr, &["default", "values", "tune"], |key, value| match key {
                "default" => out.default = Some(value),
                "tune" => out.tune = Some(value),
                _ => out.values = Some(value),
            });
            errors.take(parsed);
        }
        fields.push(out);
    }
    Some(SpecStruct { name: item.name, fields, valid })
}

/// Refuses types that cannot be part of a cache key.
pub(crate) fn check_type(ty: &Type, errors: &mut Errors) {
    let Type::Path(path) = ty else { return };
    if path.path.is_ident("f32") || path.path.is_ident("f64") {
        errors.on(
            ty,
            "a spec field cannot be a float: specs are compared and hashed\n\
             help: use an integer (a per mille, say), or pass the number as a `Scalar` of the launch",
        );
    }
}

fn keys(attr: &Attribute, allowed: &[&str], mut found: impl FnMut(&str, Expr)) -> syn::Result<()> {
    attr.parse_args_with(|input: ParseStream<'_>| {
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            let text = key.to_string();
            if !allowed.contains(&text.as_str()) {
                return Err(unknown_key(&key, allowed));
            }
            input.parse::<Token![=]>()?;
            found(&text, input.parse()?);
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(())
    })
}
