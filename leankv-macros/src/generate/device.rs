//! `#[device]`: the item with its control flow rewritten.

use proc_macro2::TokenStream;
use quote::quote;
use syn::spanned::Spanned;

use crate::error::Errors;
use crate::generate::control::rewrite_fn;
use crate::parse::device::Device;

/// Expands `#[device]`.
pub(crate) fn expand(attr: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    if !attr.is_empty() {
        errors.on(&attr, "`#[device]` takes no keys");
    }
    let Some(mut device) = errors.take(syn::parse2::<Device>(item.clone())) else {
        let errors = errors.to_tokens();
        return quote!(#errors #item);
    };
    for (sig, body) in device.bodies() {
        check(sig, &mut errors);
        rewrite_fn(sig, body, &mut errors);
    }
    quiet(&errors, device.attrs());
    // The rewritten item stands beside the errors: it gives fewer follow-up errors than the original would.
    let errors = errors.to_tokens();
    quote!(#errors #device)
}

/// With errors, warnings about the item would only distract.
pub(crate) fn quiet(errors: &Errors, attrs: &mut Vec<syn::Attribute>) {
    if !errors.is_empty() {
        attrs.push(syn::parse_quote!(#[allow(warnings)]));
    }
}

/// What neither a kernel nor a device function can be.
pub(crate) fn check(sig: &syn::Signature, errors: &mut Errors) {
    if let Some(token) = &sig.asyncness {
        errors.at(token.span(), "device code cannot be `async`: it is recorded by one call");
    }
    if let Some(token) = &sig.constness {
        errors.at(token.span(), "device code cannot be `const`: it records ops when it runs");
    }
}
