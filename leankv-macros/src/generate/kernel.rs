//! `#[kernel]`: the function with its control flow rewritten, its spec struct, and the type that stands for it in
//! tables of kernels.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned;
use syn::{GenericParam, Member};

use super::args::{Args, Given, lifetime};
use super::control::rewrite_fn;
use super::derive::arg_options;
use super::device::{check, quiet};
use super::own;
use crate::error::Errors;
use crate::parse::kernel::{Input, Kernel, parse};

/// Expands `#[kernel]`.
pub(crate) fn expand(attr: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let Some(mut kernel) = parse(attr, item.clone(), &mut errors) else {
        let errors = errors.to_tokens();
        return quote!(#errors #item);
    };
    check(&kernel.item.sig, &mut errors);
    rewrite_fn(&kernel.item.sig, &mut kernel.item.block, &mut errors);
    quiet(&errors, &mut kernel.item.attrs);
    use_of_options(&mut kernel);
    let function = &kernel.item;
    // With errors in the signature the rest would only repeat them.
    let rest = if errors.is_empty() { definition(&kernel) } else { TokenStream::new() };
    let error_tokens = errors.to_tokens();
    let out = quote!(#error_tokens #function #rest);
    if let Some(file) = &kernel.keys.dump
        && let Err(error) = std::fs::write(file.value(), out.to_string())
    {
        let mut errors = Errors::default();
        errors.on(file, format!("the expansion could not be written: {error}"));
        let error = errors.to_tokens();
        return quote!(#error #out);
    }
    out
}

/// What only `#[arg(element = ..)]` names is used all the same, for rustc's lint.
fn use_of_options(kernel: &mut Kernel) {
    let launch = kernel.inputs.iter().filter_map(|input| match input {
        Input::Launch(param) => param.options.element.clone(),
        Input::Comptime(_) => None,
    });
    let elements: Vec<syn::Expr> = launch.collect();
    if !elements.is_empty() {
        kernel.item.block.stmts.insert(0, syn::parse_quote!(let _ = (#(&#elements,)*);));
    }
}

/// `softmax` -> `SoftmaxSpec`.
fn spec_name(kernel: &Kernel) -> Ident {
    kernel.keys.spec.clone().unwrap_or_else(|| derived_name(kernel, "Spec"))
}

/// `softmax` -> `Softmax` with this ending.
fn derived_name(kernel: &Kernel, ending: &str) -> Ident {
    let words = kernel.item.sig.ident.unraw().to_string();
    let camel: String = words
        .split('_')
        .filter(|word| !word.is_empty())
        .map(|word| {
            let mut chars = word.chars();
            let head = chars.next().map(|c| c.to_ascii_uppercase().to_string()).unwrap_or_default();
            head + chars.as_str()
        })
        .collect();
    Ident::new(&format!("{camel}{ending}"), kernel.item.sig.ident.span())
}

fn spec_struct(kernel: &Kernel, name: &Ident) -> TokenStream {
    let vis = &kernel.item.vis;
    let fields = kernel.comptime().map(|comptime| {
        let (field, ty) = (&comptime.name, &comptime.ty);
        let find = |pairs: &[(Ident, syn::Expr)]| {
            pairs.iter().find(|(name, _)| name == field).map(|(_, value)| value.to_token_stream())
        };
        let default = find(&kernel.keys.default).map(|v| quote!(default = #v,));
        let values = find(&kernel.keys.space).map(|v| quote!(values = #v,));
        let tune = find(&kernel.keys.tune).map(|v| quote!(tune = #v,));
        let doc = if comptime.doc.is_empty() {
            format!("`{field}`, known at specialisation time.")
        } else {
            comptime.doc.clone()
        };
        let span = field.span();
        quote_spanned!(span=> #[doc = #doc] #[spec(#default #values #tune)] pub #field: #ty)
    });
    let valid = kernel.keys.valid.as_ref().map(|closure| quote!(#[spec(valid = #closure)]));
    let doc = format!(
        "Specialisation of the kernel [`{0}`](fn@{0}): cache key, `--set` values, the tuner's point.",
        kernel.item.sig.ident
    );
    quote! {
        #[doc = #doc]
        #[derive(
            ::core::clone::Clone,
            ::core::fmt::Debug,
            ::core::cmp::PartialEq,
            ::core::cmp::Eq,
            ::core::hash::Hash,
            ::leankv_dsl::lang::__private::serde::Serialize,
            ::leankv_dsl::lang::__private::serde::Deserialize,
            ::leankv_dsl::lang::Spec,
        )]
        #[serde(crate = "::leankv_dsl::lang::__private::serde", deny_unknown_fields)]
        #valid
        #vis struct #name {
            #(#fields),*
        }
    }
}

/// Everything beside the function itself.
fn definition(kernel: &Kernel) -> TokenStream {
    let ident = &kernel.item.sig.ident;
    let vis = &kernel.item.vis;
    let name = kernel.kernel_name();
    let doc = &kernel.doc;
    let (struct_tokens, spec_ty) = match kernel.own_spec() {
        Some(ty) => (TokenStream::new(), ty.to_token_stream()),
        None => {
            let name = spec_name(kernel);
            (spec_struct(kernel, &name), name.to_token_stream())
        }
    };

    let generics = &kernel.item.sig.generics;
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let type_params: Vec<&Ident> = generics
        .params
        .iter()
        .filter_map(|param| match param {
            GenericParam::Type(param) => Some(&param.ident),
            _ => None,
        })
        .collect();

    let launch_params = kernel.inputs.iter().filter_map(|input| match input {
        Input::Launch(param) => Some(param),
        Input::Comptime(_) => None,
    });
    let args = Args {
        vis,
        name: derived_name(kernel, "Args"),
        doc: format!("What a launch of the kernel [`{ident}`](fn@{ident}) gives for its parameters."),
        generics,
        named: true,
        fields: launch_params
            .map(|param| Given {
                member: Member::Named(param.name.clone()),
                ty: &param.ty,
                doc: format!("`{}`.", param.name),
            })
            .collect(),
    };
    let (args_struct, args_ty, a) = (args.definition(), args.ty(), lifetime());
    let give = args.give(|name| quote!(::leankv_dsl::lang::launch::Name::new(#name)));
    let (given, to) = (own("__given", ident.span()), own("__to", ident.span()));

    let launch_bounds: Vec<TokenStream> = kernel
        .inputs
        .iter()
        .filter_map(|input| match input {
            Input::Launch(param) => {
                let ty = &param.ty;
                Some(quote_spanned!(ty.span()=> #ty: ::leankv_dsl::lang::KernelArg))
            }
            Input::Comptime(_) => None,
        })
        .collect();
    let generic_bounds = if type_params.is_empty() { Vec::new() } else { launch_bounds };
    let where_predicates = where_clause.map(|w| w.predicates.iter().collect::<Vec<_>>()).unwrap_or_default();
    let full_where = quote!(where #(#type_params: 'static,)* #(#where_predicates,)* #(#generic_bounds,)*);

    let own_spec = kernel.own_spec().is_some();
    let scope = own("__scope", ident.span());
    let mut declares = Vec::new();
    let mut values = Vec::new();
    for input in &kernel.inputs {
        match input {
            Input::Comptime(_) if own_spec => values.push(quote!(::core::clone::Clone::clone(__spec))),
            Input::Comptime(c) => {
                let field = &c.name;
                values.push(quote!(::core::clone::Clone::clone(&__spec.#field)));
            }
            Input::Launch(param) => {
                let (field, ty, text) = (&param.name, &param.ty, param.name.unraw().to_string());
                let options = arg_options(&param.options);
                let declare = quote_spanned! {param.name.span()=>
                    let #field = <#ty as ::leankv_dsl::lang::KernelArg>::declare(#scope, #text, #options);
                };
                declares.push(declare);
                values.push(quote!(#field));
            }
        }
    }
    let unpack = if own_spec {
        quote! {
            #[allow(unused_variables)]
            let spec = __spec;
        }
    } else {
        let fields: Vec<&Ident> = kernel.comptime().map(|c| &c.name).collect();
        quote! {
            #[allow(unused_variables)]
            let #spec_ty { #(#fields),* } = ::core::clone::Clone::clone(__spec);
        }
    };
    let warps = match &kernel.keys.warps {
        Some(expr) => quote!({ #unpack ::core::option::Option::Some((#expr) as u32) }),
        None => quote!(::core::option::Option::None),
    };
    let resident = kernel.keys.resident.as_ref().map(|expr| {
        quote! {
            fn resident(&self, __spec: &#spec_ty) -> u32 {
                let _ = __spec;
                #unpack
                (#expr) as u32
            }
        }
    });
    let turbofish = ty_generics.as_turbofish();
    let span = Span::call_site().located_at(ident.span());
    let loc = quote_spanned!(ident.span()=> ::leankv_dsl::ir::Loc::new(::core::file!(), ::core::line!(), ::core::column!()));
    let type_doc =
        format!("The kernel `{name}` as a value: see the function [`{ident}`](fn@{ident}).\n\n{doc}");
    let marker = quote!(::core::marker::PhantomData<fn() -> (#(#type_params,)*)>);
    quote_spanned! {span=>
        #struct_tokens

        #args_struct

        #[doc = #type_doc]
        #[allow(non_camel_case_types)]
        #vis struct #ident #impl_generics #where_clause {
            __name: &'static str,
            __marker: #marker,
        }

        impl #impl_generics #ident #ty_generics #full_where {
            /// The kernel under its own name.
            pub const KERNEL: Self = Self::named(#name);

            /// The kernel under another name: instances of a generic kernel need one each.
            pub const fn named(name: &'static str) -> Self {
                Self { __name: name, __marker: ::core::marker::PhantomData }
            }

            /// Records the kernel for one specialisation.
            ///
            /// # Errors
            /// Everything that is wrong with the kernel at this specialisation, each at its line.
            pub fn build(
                __spec: &#spec_ty,
            ) -> ::core::result::Result<::leankv_dsl::ir::Func, ::leankv_dsl::diag::Diagnostics> {
                ::leankv_dsl::lang::TypedKernel::build_spec(&Self::KERNEL, __spec)
            }
        }

        impl #impl_generics ::leankv_dsl::lang::TypedKernel for #ident #ty_generics #full_where {
            type Spec = #spec_ty;

            fn kernel_name(&self) -> &'static str {
                self.__name
            }

            fn kernel_doc(&self) -> &'static str {
                #doc
            }

            fn location(&self) -> ::leankv_dsl::ir::Loc {
                #loc
            }

            fn warps(&self, __spec: &#spec_ty) -> ::core::option::Option<u32> {
                let _ = __spec;
                #warps
            }

            #resident

            fn record(&self, __spec: &#spec_ty, #scope: &mut ::leankv_dsl::lang::ArgScope) {
                let _ = (__spec, &#scope);
                #unpack
                #(#declares)*
                #ident #turbofish (#(#values),*);
            }

            type Args<#a> = #args_ty;

            fn give<#a>(#given: Self::Args<#a>, #to: &mut ::leankv_dsl::lang::launch::Arguments<#a>) {
                #give
            }
        }
    }
}
