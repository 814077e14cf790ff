//! Structs under `#[derive(Carry)]` and `#[derive(KernelArg)]`.

use proc_macro2::Ident;
use quote::ToTokens;
use syn::{Attribute, Data, DeriveInput, Expr, Fields, Generics, Meta, Token, Type, Visibility};

use super::list;
use crate::error::Errors;

/// A field: its name or index, its type, its attributes.
pub(crate) struct Field {
    pub(crate) member: syn::Member,
    pub(crate) ty: Type,
    pub(crate) attrs: Vec<Attribute>,
}

/// A struct.
pub(crate) struct Struct {
    pub(crate) vis: Visibility,
    pub(crate) name: Ident,
    pub(crate) generics: Generics,
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) fields: Vec<Field>,
    pub(crate) named: bool,
}

/// Reads a struct for the derive called `derive`.
pub(crate) fn parse(input: DeriveInput, derive: &str, errors: &mut Errors) -> Option<Struct> {
    let data = match input.data {
        Data::Struct(data) => data,
        Data::Enum(_) | Data::Union(_) => {
            let help = match derive {
                "Carry" => "carry an `Option` or a tuple, or choose the variant before the loop",
                _ => "make it a struct",
            };
            errors.on(&input.ident, format!("`#[derive({derive})]` stands on a struct\nhelp: {help}"));
            return None;
        }
    };
    let named = !matches!(data.fields, Fields::Unnamed(_));
    let fields = data
        .fields
        .into_iter()
        .enumerate()
        .map(|(i, field)| Field {
            member: match field.ident {
                Some(name) => syn::Member::Named(name),
                None => syn::Member::Unnamed(i.into()),
            },
            ty: field.ty,
            attrs: field.attrs,
        })
        .collect();
    Some(Struct {
        vis: input.vis,
        name: input.ident,
        generics: input.generics,
        attrs: input.attrs,
        fields,
        named,
    })
}

/// Whether a field has `#[carry(fixed)]`; other keys are errors.
pub(crate) fn is_fixed(field: &Field, errors: &mut Errors) -> bool {
    let mut fixed = false;
    for attr in field.attrs.iter().filter(|a| a.path().is_ident("carry")) {
        let parsed = attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("fixed") {
                fixed = true;
                return Ok(());
            }
            Err(unknown_key(&meta.path, &["fixed"]))
        });
        // A field with a mistaken key is left alone, so that one mistake gives one message.
        fixed |= errors.take(parsed).is_none();
    }
    fixed
}

/// What `#[arg(..)]` says about a parameter.
#[derive(Default)]
pub(crate) struct ArgOptions {
    /// Every stride is a run-time number, the last one too.
    pub(crate) strided: bool,
    /// Alignment in bytes of the pointer and of every row.
    pub(crate) align: Option<Expr>,
    /// A scalar's divisor.
    pub(crate) multiple_of: Option<Expr>,
    /// The element type of a view of floats.
    pub(crate) element: Option<Expr>,
}

const ARG_KEYS: &[&str] = &["strided", "align", "multiple_of", "element"];

/// Takes the `#[arg(..)]` attributes out of `attrs`.
pub(crate) fn take_arg_options(attrs: &mut Vec<Attribute>, errors: &mut Errors) -> ArgOptions {
    let mut options = ArgOptions::default();
    attrs.retain(|attr| {
        if !attr.path().is_ident("arg") {
            return true;
        }
        let parsed = attr.parse_args_with(|input: syn::parse::ParseStream<'_>| {
            while !input.is_empty() {
                let key: syn::Path = input.parse()?;
                let value = |input: syn::parse::ParseStream<'_>| -> syn::Result<Expr> {
                    input.parse::<Token![=]>()?;
                    input.parse()
                };
                match key.get_ident().map(Ident::to_string).as_deref() {
                    Some("strided") => options.strided = true,
                    Some("align") => options.align = Some(value(input)?),
                    Some("multiple_of") => options.multiple_of = Some(value(input)?),
                    Some("element") => options.element = Some(value(input)?),
                    _ => return Err(unknown_key(&key, ARG_KEYS)),
                }
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        });
        errors.take(parsed);
        false
    });
    options
}

/// "unknown key" with the allowed ones.
pub(crate) fn unknown_key(key: &impl ToTokens, allowed: &[&str]) -> syn::Error {
    let text = key.to_token_stream().to_string();
    let close = allowed.iter().find(|a| near(a, &text));
    let hint = close.map(|c| format!("; did you mean `{c}`?")).unwrap_or_default();
    syn::Error::new_spanned(key, format!("unknown key `{text}`{hint}\nhelp: the keys are {}", list(allowed)))
}

/// Whether two words differ by at most two edits at the same place.
fn near(a: &str, b: &str) -> bool {
    let common = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).count();
    let back = a.chars().rev().zip(b.chars().rev()).take_while(|(x, y)| x == y).count();
    let longest = a.chars().count().max(b.chars().count());
    longest.saturating_sub(common + back) <= 2 && common + back > 0
}

/// The text of doc comments.
pub(crate) fn doc_text(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter_map(|attr| match &attr.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> = lines.map(|l| l.strip_prefix(' ').unwrap_or(&l).to_owned()).collect();
    lines.join("\n")
}
