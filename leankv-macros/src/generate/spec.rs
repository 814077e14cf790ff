//! `#[derive(Spec)]`: text form, map form and the declared space of a spec struct.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned;
use syn::{DeriveInput, Expr};

use super::own;
use crate::error::Errors;
use crate::parse::spec::{SpecStruct, parse};

/// Expands `#[derive(Spec)]`.
pub(crate) fn derive(item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let spec = errors.take(syn::parse2::<DeriveInput>(item)).and_then(|input| parse(input, &mut errors));
    let body = spec.map(|spec| implement(&spec)).unwrap_or_default();
    let errors = errors.to_tokens();
    quote!(#errors #body)
}

fn implement(spec: &SpecStruct) -> TokenStream {
    let name = &spec.name;
    let names: Vec<_> = spec.fields.iter().map(|f| &f.name).collect();
    let texts: Vec<String> = names.iter().map(|n| n.unraw().to_string()).collect();
    let fields = spec.fields.iter().map(|field| {
        let (text, ty, doc) = (field.name.unraw().to_string(), &field.ty, &field.doc);
        let default = default_text(field);
        let [values, tune] = [&field.values, &field.tune].map(|values| values_texts(values.as_ref(), ty));
        let span = ty.span();
        quote_spanned! {span=>
            ::leankv_dsl::lang::SpecField {
                name: #text,
                ty: ::leankv_dsl::lang::spec::type_name::<#ty>(),
                doc: #doc,
                default: #default,
                values: #values,
                tune: #tune,
            }
        }
    });
    let reader = own("__reader", name.span());
    let reads = spec.fields.iter().map(|field| {
        let (ident, text, ty) = (&field.name, field.name.unraw().to_string(), &field.ty);
        let fallback = match first_value(field) {
            Some(value) => quote!(::core::option::Option::Some({ let __v: #ty = #value; __v })),
            None => quote!(::core::option::Option::None),
        };
        let span = ty.span();
        quote_spanned!(span=> let #ident = #reader.field::<#ty>(#text, #fallback);)
    });
    let unwraps = names.iter().map(|n| quote!(#n: #n?));
    let space = space(spec);
    let valid = spec.valid.as_ref().map(|closure| {
        let text = quote!(#closure).to_string();
        quote! {
            fn check(&self) -> ::core::result::Result<(), &'static str> {
                let __valid: fn(&Self) -> bool = #closure;
                if __valid(self) { ::core::result::Result::Ok(()) } else { ::core::result::Result::Err(#text) }
            }
        }
    });
    let shown = texts.iter().enumerate().map(|(i, text)| {
        let sep = if i == 0 { "" } else { "," };
        format!("{sep}{text}={{}}")
    });
    let shown: String = shown.collect();
    let show = if names.is_empty() {
        quote!(::core::result::Result::Ok(()))
    } else {
        quote!(::core::write!(__f, #shown, #(self.#names),*))
    };
    quote! {
        #[automatically_derived]
        impl ::core::fmt::Display for #name {
            fn fmt(&self, __f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                let _ = &__f;
                #show
            }
        }

        #[automatically_derived]
        impl ::leankv_dsl::lang::Spec for #name {
            fn fields() -> ::std::vec::Vec<::leankv_dsl::lang::SpecField> {
                ::std::vec![#(#fields),*]
            }
            fn settings(&self) -> ::leankv_dsl::lang::Settings {
                let __pairs: ::std::vec::Vec<(::std::string::String, ::std::string::String)> = ::std::vec![
                    #((::std::string::String::from(#texts), ::std::string::ToString::to_string(&self.#names))),*
                ];
                __pairs.into_iter().collect()
            }
            fn from_settings(
                __settings: &::leankv_dsl::lang::Settings,
            ) -> ::core::result::Result<Self, ::leankv_dsl::lang::SpecError> {
                #[allow(unused_mut)]
                let mut #reader = ::leankv_dsl::lang::spec::Reader::new(__settings, &[#(#texts),*]);
                #(#reads)*
                #reader.finish(move || ::core::option::Option::Some(#name { #(#unwraps),* }))
            }
            fn space() -> ::std::vec::Vec<Self> {
                #space
            }
            #valid
        }
    }
}

/// The default, or the first of the declared values.
fn first_value(field: &crate::parse::spec::SpecField) -> Option<TokenStream> {
    if let Some(default) = &field.default {
        return Some(quote!(#default));
    }
    let values = field.values.as_ref()?;
    Some(match values {
        Expr::Array(array) => match array.elems.first() {
            Some(first) => quote!(#first),
            None => return None,
        },
        other => quote! {
            ::core::iter::IntoIterator::into_iter(#other).next().expect("a declared space of values is not empty")
        },
    })
}

fn default_text(field: &crate::parse::spec::SpecField) -> TokenStream {
    let ty = &field.ty;
    match first_value(field) {
        Some(value) => quote! {
            ::core::option::Option::Some({ let __v: #ty = #value; ::std::string::ToString::to_string(&__v) })
        },
        None => quote!(::core::option::Option::None),
    }
}

fn values_texts(values: Option<&Expr>, ty: &syn::Type) -> TokenStream {
    match values {
        Some(values) => {
            let values = typed_values(values, ty);
            quote!(#values.iter().map(::std::string::ToString::to_string).collect())
        }
        None => quote!(::std::vec::Vec::new()),
    }
}

/// The declared values as a `Vec` of the field's type.
fn typed_values(values: &Expr, ty: &syn::Type) -> TokenStream {
    quote!({ let __v: ::std::vec::Vec<#ty> = ::core::iter::Iterator::collect(::core::iter::IntoIterator::into_iter(#values)); __v })
}

/// The product of all declared values, defaults standing for fields without; what is not valid is left out.
fn space(spec: &SpecStruct) -> TokenStream {
    let name = &spec.name;
    let names: Vec<_> = spec.fields.iter().map(|f| &f.name).collect();
    let mut choices = Vec::new();
    for field in &spec.fields {
        let ty = &field.ty;
        match (&field.values, first_value(field)) {
            (Some(values), _) => choices.push(typed_values(values, ty)),
            (None, Some(value)) => choices.push(quote!({ let __v: #ty = #value; ::std::vec![__v] })),
            // Without a default there is nothing to enumerate.
            (None, None) => return quote!(::std::vec::Vec::new()),
        }
    }
    let mut body = quote! {
        let __spec = #name { #(#names: ::core::clone::Clone::clone(&#names)),* };
        if ::leankv_dsl::lang::Spec::check(&__spec).is_ok() {
            __all.push(__spec);
        }
    };
    for (name, choice) in names.iter().zip(&choices).rev() {
        body = quote!(for #name in #choice { #body });
    }
    quote! {
        let mut __all = ::std::vec::Vec::new();
        #body
        __all
    }
}
