//! `#[derive(Carry)]` and `#[derive(KernelArg)]`.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned;
use syn::{DeriveInput, Generics, parse_quote};

use super::args::{Args, Given, is_generic, lifetime, member_text};
use super::own;
use crate::error::Errors;
use crate::parse::derive::{ArgOptions, Field, Struct, doc_text, is_fixed, parse, take_arg_options};

fn read(item: TokenStream, derive: &str, errors: &mut Errors) -> Option<Struct> {
    let input = errors.take(syn::parse2::<DeriveInput>(item))?;
    parse(input, derive, errors)
}

/// The generics of a struct, all of whose fields are parameters of a kernel.
fn bounded(input: &Struct) -> Generics {
    let mut out = input.generics.clone();
    let types = input.fields.iter().map(|field| &field.ty);
    for ty in types.filter(|ty| is_generic(ty, &input.generics)) {
        out.make_where_clause().predicates.push(parse_quote!(#ty: ::leankv_dsl::lang::KernelArg));
    }
    out
}

/// Expands `#[derive(Carry)]`.
pub(crate) fn carry(item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let Some(input) = read(item, "Carry", &mut errors) else { return errors.to_tokens() };
    let mut values = Vec::new();
    let mut rebinds = Vec::new();
    let mut prints = Vec::new();
    let at = input.name.span();
    let (this, out, from) = (own("self", at), own("__out", at), own("__from", at));
    for field in &input.fields {
        let member = &field.member;
        let span = field.ty.span();
        if is_fixed(field, &mut errors) {
            let name = member.to_token_stream().to_string();
            prints.push(quote_spanned!(span=> #out.fixed(#name, &#this.#member);));
        } else {
            values.push(
                quote_spanned!(span=> ::leankv_dsl::lang::control::Carry::values(&#this.#member, #out);),
            );
            rebinds.push(
                quote_spanned!(span=> ::leankv_dsl::lang::control::Carry::rebind(&mut #this.#member, #from);),
            );
        }
    }
    let name = &input.name;
    let generics = input.generics.clone();
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let errors = errors.to_tokens();
    quote! {
        #errors
        #[automatically_derived]
        impl #impl_generics ::leankv_dsl::lang::control::Carry for #name #ty_generics #where_clause {
            fn values(&self, #out: &mut ::leankv_dsl::lang::control::Flat) {
                #(#prints)*
                #(#values)*
                let _ = #out;
            }
            fn rebind(&mut self, #from: &mut ::leankv_dsl::lang::control::Fresh<'_>) {
                #(#rebinds)*
                let _ = #from;
            }
        }
    }
}

/// Expands `#[derive(KernelArg)]`.
pub(crate) fn kernel_arg(item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let Some(mut input) = read(item, "KernelArg", &mut errors) else { return errors.to_tokens() };
    let mut inits = Vec::new();
    let at = input.name.span();
    let (scope, prefix) = (own("__scope", at), own("__name", at));
    for field in &mut input.fields {
        let options = arg_options(&take_arg_options(&mut field.attrs, &mut errors));
        let member = &field.member;
        let text = member_text(member);
        let span = field.ty.span();
        inits.push(quote_spanned! {span=>
            #member: ::leankv_dsl::lang::KernelArg::declare(
                #scope,
                &::std::format!("{}.{}", #prefix, #text),
                #options,
            )
        });
    }
    let name = &input.name;
    let generics = bounded(&input);
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    let (_, ty_generics, _) = input.generics.split_for_impl();
    let args = Args {
        vis: &input.vis,
        name: Ident::new(&format!("{}Args", name.unraw()), at),
        doc: format!("What a launch gives for a parameter [`{name}`]."),
        generics: &input.generics,
        named: input.named,
        fields: input.fields.iter().map(given).collect(),
    };
    let (definition, args_ty, a) = (args.definition(), args.ty(), lifetime());
    let give = args.give(|field| quote!(#prefix.part(#field)));
    let (given, to) = (own("__given", at), own("__to", at));
    let errors = errors.to_tokens();
    quote! {
        #errors
        #definition

        #[automatically_derived]
        impl #impl_generics ::leankv_dsl::lang::KernelArg for #name #ty_generics #where_clause {
            #[track_caller]
            fn declare(
                #scope: &mut ::leankv_dsl::lang::ArgScope,
                #prefix: &str,
                _: ::leankv_dsl::lang::ArgOptions,
            ) -> Self {
                let _ = (&#scope, #prefix);
                #name { #(#inits),* }
            }

            type Given<#a> = #args_ty;

            fn give<#a>(
                #given: Self::Given<#a>,
                #prefix: ::leankv_dsl::lang::launch::Name<'_>,
                #to: &mut ::leankv_dsl::lang::launch::Arguments<#a>,
            ) {
                let _ = #prefix;
                #give
            }
        }
    }
}

fn given(field: &Field) -> Given<'_> {
    let text = doc_text(&field.attrs);
    let doc = if text.is_empty() { format!("`{}`.", field.member.to_token_stream()) } else { text };
    Given { member: field.member.clone(), ty: &field.ty, doc }
}

/// `ArgOptions` as an expression.
pub(crate) fn arg_options(options: &ArgOptions) -> TokenStream {
    let mut out = quote!(::leankv_dsl::lang::ArgOptions::new());
    if options.strided {
        out.extend(quote!(.strided()));
    }
    if let Some(align) = &options.align {
        out.extend(quote!(.align(#align)));
    }
    if let Some(divisor) = &options.multiple_of {
        out.extend(quote!(.multiple_of(#divisor)));
    }
    if let Some(element) = &options.element {
        out.extend(quote!(.element(#element)));
    }
    out
}
