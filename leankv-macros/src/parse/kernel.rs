//! `#[kernel(..)]` and the signature below it.

use proc_macro2::{Ident, TokenStream};
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Expr, FnArg, GenericParam, ItemFn, LitStr, Pat, Token, Type, parenthesized};

use super::derive::{ArgOptions, doc_text, take_arg_options, unknown_key};
use super::spec::check_type;
use crate::error::Errors;

const KEYS: &[&str] = &["space", "default", "tune", "valid", "spec", "name", "warps", "resident", "dump"];

/// The keys of the attribute.
#[derive(Default)]
pub(crate) struct Keys {
    /// `space(bm = [..], ..)`.
    pub(crate) space: Vec<(Ident, Expr)>,
    /// `default(bm = 32, ..)`.
    pub(crate) default: Vec<(Ident, Expr)>,
    /// `tune(bm = [..], ..)`.
    pub(crate) tune: Vec<(Ident, Expr)>,
    /// `valid = |s| ..`.
    pub(crate) valid: Option<Expr>,
    /// `spec = Name`: the name of the generated struct.
    pub(crate) spec: Option<Ident>,
    /// `name = "name"`: the kernel's name, when it is not the function's.
    pub(crate) name: Option<LitStr>,
    /// `warps = expr` over the comptime parameters.
    pub(crate) warps: Option<Expr>,
    /// `resident = expr` over the comptime parameters.
    pub(crate) resident: Option<Expr>,
    /// `dump = "file"`: where to write the expansion.
    pub(crate) dump: Option<LitStr>,
}

impl Parse for Keys {
    fn parse(input: ParseStream<'_>) -> syn::Result<Keys> {
        let mut keys = Keys::default();
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            match key.to_string().as_str() {
                "space" => keys.space = pairs(input)?,
                "default" => keys.default = pairs(input)?,
                "tune" => keys.tune = pairs(input)?,
                "valid" => keys.valid = Some(value(input)?),
                "spec" => keys.spec = Some(value(input)?),
                "name" => keys.name = Some(value(input)?),
                "warps" => keys.warps = Some(value(input)?),
                "resident" => keys.resident = Some(value(input)?),
                "dump" => keys.dump = Some(value(input)?),
                _ => return Err(unknown_key(&key, KEYS)),
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(keys)
    }
}

impl Keys {
    /// What is said of comptime parameters by name.
    fn values(&self) -> impl Iterator<Item = &(Ident, Expr)> {
        self.space.iter().chain(&self.default).chain(&self.tune)
    }
}

fn value<T: Parse>(input: ParseStream<'_>) -> syn::Result<T> {
    input.parse::<Token![=]>()?;
    input.parse()
}

fn pairs(input: ParseStream<'_>) -> syn::Result<Vec<(Ident, Expr)>> {
    let inner;
    parenthesized!(inner in input);
    let mut out = Vec::new();
    while !inner.is_empty() {
        let name: Ident = inner.parse()?;
        out.push((name, value(&inner)?));
        if !inner.is_empty() {
            inner.parse::<Token![,]>()?;
        }
    }
    Ok(out)
}

/// A `#[comptime]` parameter.
pub(crate) struct Comptime {
    pub(crate) name: Ident,
    pub(crate) ty: Type,
    pub(crate) doc: String,
}

/// A parameter of the launch.
pub(crate) struct Param {
    pub(crate) name: Ident,
    pub(crate) ty: Type,
    pub(crate) options: ArgOptions,
}

/// A parameter, in the order of the signature.
pub(crate) enum Input {
    Comptime(Comptime),
    Launch(Box<Param>),
}

/// A kernel function.
pub(crate) struct Kernel {
    pub(crate) keys: Keys,
    pub(crate) item: ItemFn,
    pub(crate) inputs: Vec<Input>,
    pub(crate) doc: String,
}

impl Kernel {
    /// The `#[comptime]` parameters.
    pub(crate) fn comptime(&self) -> impl Iterator<Item = &Comptime> {
        self.inputs.iter().filter_map(|input| match input {
            Input::Comptime(c) => Some(c),
            Input::Launch(_) => None,
        })
    }

    /// The user's own spec struct: exactly one `#[comptime]` parameter, called `spec`.
    pub(crate) fn own_spec(&self) -> Option<&Type> {
        let mut all = self.comptime();
        match (all.next(), all.next()) {
            (Some(only), None) if only.name == "spec" => Some(&only.ty),
            _ => None,
        }
    }

    /// The kernel's name.
    pub(crate) fn kernel_name(&self) -> String {
        self.keys.name.as_ref().map_or_else(|| self.item.sig.ident.unraw().to_string(), LitStr::value)
    }
}

/// Reads a kernel; the item loses its helper attributes.
pub(crate) fn parse(attr: TokenStream, item: TokenStream, errors: &mut Errors) -> Option<Kernel> {
    let keys = errors.take(syn::parse2::<Keys>(attr)).unwrap_or_default();
    let mut item = errors.take(syn::parse2::<ItemFn>(item).map_err(|error| {
        let mut out = syn::Error::new(error.span(), "`#[kernel]` stands on a function with a body");
        out.combine(error);
        out
    }))?;
    check_signature(&item, errors);
    let mut inputs = Vec::new();
    for input in &mut item.sig.inputs {
        if let Some(found) = read_input(input, errors) {
            inputs.push(found);
        }
    }
    let doc = doc_text(&item.attrs);
    let kernel = Kernel { keys, item, inputs, doc };
    check_keys(&kernel, errors);
    Some(kernel)
}

fn check_signature(item: &ItemFn, errors: &mut Errors) {
    let sig = &item.sig;
    if let Some(abi) = &sig.abi {
        errors.on(abi, "a kernel has no ABI: it is recorded, not called");
    }
    if let Some(variadic) = &sig.variadic {
        errors.on(variadic, "a kernel has a fixed list of parameters");
    }
    if let syn::ReturnType::Type(_, ty) = &sig.output {
        let unit = matches!(&**ty, Type::Tuple(t) if t.elems.is_empty());
        if !unit {
            errors.on(
                ty,
                "a kernel returns nothing\nhelp: store the result through a `ViewMut` or `PtrMut` parameter",
            );
        }
    }
    for param in &sig.generics.params {
        match param {
            GenericParam::Type(_) => {}
            GenericParam::Const(param) => errors.on(
                param,
                "extents are values in this language, not const parameters\n\
                 help: write `#[comptime] name: usize` among the parameters: the tuner and `--set` can then choose it",
            ),
            GenericParam::Lifetime(param) => {
                errors.on(param, "a kernel has no lifetimes: tiles, scalars and views are `Copy`");
            }
        }
    }
}

fn read_input(input: &mut FnArg, errors: &mut Errors) -> Option<Input> {
    let typed = match input {
        FnArg::Receiver(receiver) => {
            errors.on(&*receiver, "a kernel is a free function: it has no `self`");
            return None;
        }
        FnArg::Typed(typed) => typed,
    };
    let doc = doc_text(&typed.attrs);
    let comptime = take_attr(&mut typed.attrs, "comptime", errors);
    take_attr(&mut typed.attrs, "doc", errors);
    let options = take_arg_options(&mut typed.attrs, errors);
    let Pat::Ident(name) = &*typed.pat else {
        errors.on(&typed.pat, "a kernel's parameter is a plain name: it is part of the launch's signature");
        return None;
    };
    let (name, ty) = (name.ident.clone(), (*typed.ty).clone());
    match &ty {
        Type::ImplTrait(_) => {
            errors.on(
                &ty,
                "a kernel's parameter has a named type\nhelp: write a generic parameter: `fn kernel<H: Trait>(.., hooks: H)`",
            );
            return None;
        }
        Type::Reference(_) => {
            errors.on(
                &ty,
                "a kernel's parameter is taken by value: views, pointers and scalars are `Copy` handles",
            );
            return None;
        }
        _ => {}
    }
    if comptime {
        if name != "spec" {
            check_type(&ty, errors);
        }
        return Some(Input::Comptime(Comptime { name, ty, doc }));
    }
    if let Some(plain) = plain_number(&ty) {
        errors.on(
            &ty,
            format!(
                "`{plain}` is a plain Rust value, so the kernel cannot tell whether it is known when it is specialised\n\
                 help: write `#[comptime] {name}: {plain}` for a value known at specialisation time, or `{name}: Scalar<{plain}>` for \
                 one that the launch passes"
            ),
        );
    }
    Some(Input::Launch(Box::new(Param { name, ty, options })))
}

fn plain_number(ty: &Type) -> Option<String> {
    const PLAIN: &[&str] = &[
        "bool", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "usize", "isize", "f16", "bf16", "f32",
        "f64",
    ];
    let Type::Path(path) = ty else { return None };
    let name = path.path.get_ident()?.to_string();
    PLAIN.contains(&name.as_str()).then_some(name)
}

/// Removes marker attributes; whether there was one.
fn take_attr(attrs: &mut Vec<Attribute>, name: &str, errors: &mut Errors) -> bool {
    let before = attrs.len();
    attrs.retain(|attr| {
        if !attr.path().is_ident(name) {
            return true;
        }
        if name != "doc" && attr.meta.require_path_only().is_err() {
            errors.on(attr, format!("`#[{name}]` takes no keys"));
        }
        false
    });
    attrs.len() != before
}

fn check_keys(kernel: &Kernel, errors: &mut Errors) {
    let names: Vec<String> = kernel.comptime().map(|c| c.name.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if kernel.own_spec().is_some() {
        for (name, _) in kernel.keys.values() {
            errors.on(
                name,
                "this kernel has its own spec struct\nhelp: declare values on its fields: `#[spec(default = .., values = [..], tune = [..])]`",
            );
        }
        if let Some(spec) = &kernel.keys.spec {
            errors.on(spec, "this kernel has its own spec struct, so there is none to name");
        }
        if let Some(valid) = &kernel.keys.valid {
            errors.on(
                valid,
                "this kernel has its own spec struct\nhelp: write `#[spec(valid = |s| ..)]` on it",
            );
        }
        return;
    }
    for (name, _) in kernel.keys.values() {
        if !names.contains(&name.to_string().as_str()) {
            errors.push(unknown_key(name, &names));
        }
    }
    if let Some(name) = &kernel.keys.name {
        let text = name.value();
        let head = |c: char| c.is_ascii_alphabetic() || c == '_';
        let ok = text.starts_with(head) && text.chars().all(|c| head(c) || c.is_ascii_digit());
        if !ok {
            errors.on(name, "a kernel's name is letters, digits and `_`, not starting with a digit");
        }
    }
}
