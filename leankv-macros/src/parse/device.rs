//! `#[device]` on a function, an `impl` block or a trait.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::{ImplItem, ItemFn, ItemImpl, ItemTrait, Token, TraitItem};

/// What `#[device]` stands on.
pub(crate) enum Device {
    Fn(ItemFn),
    Impl(ItemImpl),
    Trait(ItemTrait),
}

impl Parse for Device {
    fn parse(input: ParseStream<'_>) -> syn::Result<Device> {
        use syn::parse::discouraged::Speculative;
        let ahead = input.fork();
        if let Ok(item) = ahead.parse::<ItemFn>() {
            input.advance_to(&ahead);
            return Ok(Device::Fn(item));
        }
        let ahead = input.fork();
        if let Ok(item) = ahead.parse::<ItemImpl>() {
            input.advance_to(&ahead);
            return Ok(Device::Impl(item));
        }
        let ahead = input.fork();
        if let Ok(item) = ahead.parse::<ItemTrait>() {
            input.advance_to(&ahead);
            return Ok(Device::Trait(item));
        }
        // Report the syntax error of what it most looks like.
        if is_fn(input) { input.parse().map(Device::Fn) } else { Err(wrong_item(input)) }
    }
}

fn is_fn(input: ParseStream<'_>) -> bool {
    let tokens: TokenStream = input.fork().parse().unwrap_or_default();
    tokens.into_iter().any(|t| t.to_string() == "fn") && !input.peek(Token![struct])
}

fn wrong_item(input: ParseStream<'_>) -> syn::Error {
    input.error(
        "`#[device]` stands on a function, an `impl` block or a trait\n\
         help: for a struct of tiles use `#[derive(Carry)]`, for a struct of kernel parameters `#[derive(KernelArg)]`",
    )
}

impl ToTokens for Device {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match self {
            Device::Fn(item) => item.to_tokens(tokens),
            Device::Impl(item) => item.to_tokens(tokens),
            Device::Trait(item) => item.to_tokens(tokens),
        }
    }
}

impl Device {
    /// The item's attributes.
    pub(crate) fn attrs(&mut self) -> &mut Vec<syn::Attribute> {
        match self {
            Device::Fn(item) => &mut item.attrs,
            Device::Impl(item) => &mut item.attrs,
            Device::Trait(item) => &mut item.attrs,
        }
    }

    /// Every function with a body.
    pub(crate) fn bodies(&mut self) -> Vec<(&syn::Signature, &mut syn::Block)> {
        match self {
            Device::Fn(item) => vec![(&item.sig, &mut item.block)],
            Device::Impl(item) => item
                .items
                .iter_mut()
                .filter_map(|member| match member {
                    ImplItem::Fn(f) => Some((&f.sig, &mut f.block)),
                    _ => None,
                })
                .collect(),
            Device::Trait(item) => item
                .items
                .iter_mut()
                .filter_map(|member| match member {
                    TraitItem::Fn(f) => f.default.as_mut().map(|body| (&f.sig, body)),
                    _ => None,
                })
                .collect(),
        }
    }
}
