//! Structs of what a launch gives: `SoftmaxArgs` beside the kernel `softmax`, `PendingArgs` beside the parameter struct `Pending`.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned;
use syn::{GenericParam, Generics, Member, Type, TypeParamBound, Visibility};

use super::own;

/// A parameter, or a field of a parameter struct.
pub(crate) struct Given<'a> {
    pub(crate) member: Member,
    pub(crate) ty: &'a Type,
    pub(crate) doc: String,
}

/// A struct of what is given for all of `fields`, to be written.
pub(crate) struct Args<'a> {
    pub(crate) vis: &'a Visibility,
    pub(crate) name: Ident,
    pub(crate) doc: String,
    pub(crate) generics: &'a Generics,
    /// Whether fields have names.
    pub(crate) named: bool,
    pub(crate) fields: Vec<Given<'a>>,
}

/// How the expansion calls its lifetime.
pub(crate) fn lifetime() -> TokenStream {
    let lifetime = syn::Lifetime::new("'__given", Span::call_site());
    quote!(#lifetime)
}

impl Args<'_> {
    /// The struct; nothing where nothing is given.
    pub(crate) fn definition(&self) -> TokenStream {
        if self.fields.is_empty() {
            return TokenStream::new();
        }
        let (vis, name, doc, a) = (self.vis, &self.name, &self.doc, lifetime());
        let gone = self.gone();
        let stands =
            |bound: &TypeParamBound| !gone.iter().any(|name| mentions(bound.to_token_stream(), name));
        let params = self.kept().map(|param| {
            let mut param = param.clone();
            match &mut param {
                GenericParam::Type(param) => {
                    param.default = None;
                    param.bounds = param.bounds.iter().filter(|bound| stands(bound)).cloned().collect();
                }
                GenericParam::Const(param) => param.default = None,
                GenericParam::Lifetime(_) => {}
            }
            param
        });
        let predicates = self.predicates();
        let of_params = quote!(<#a, #(#params),*>);
        let types = self.fields.iter().map(|field| {
            let (ty, doc) = (field.ty, &field.doc);
            let given = quote_spanned!(ty.span()=> <#ty as ::leankv_dsl::lang::KernelArg>::Given<#a>);
            match &field.member {
                Member::Named(name) => quote!(#[doc = #doc] pub #name: #given),
                Member::Unnamed(_) => quote!(#[doc = #doc] pub #given),
            }
        });
        let body = match self.named {
            true => quote!(where #predicates { #(#types),* }),
            false => quote!((#(#types),*) where #predicates;),
        };
        quote! {
            #[doc = #doc]
            #vis struct #name #of_params #body
        }
    }

    /// Its type, with the lifetime of [`lifetime`].
    pub(crate) fn ty(&self) -> TokenStream {
        if self.fields.is_empty() {
            return quote!(());
        }
        let (name, a) = (&self.name, lifetime());
        let params = self.kept().map(|param| match param {
            GenericParam::Type(param) => param.ident.to_token_stream(),
            GenericParam::Const(param) => param.ident.to_token_stream(),
            GenericParam::Lifetime(param) => param.lifetime.to_token_stream(),
        });
        quote!(#name<#a, #(#params),*>)
    }

    /// Statements that add `given` to the arguments `to`; `name` makes the name of a field's text.
    pub(crate) fn give(&self, name: impl Fn(&str) -> TokenStream) -> TokenStream {
        let at = self.name.span();
        let (given, to) = (own("__given", at), own("__to", at));
        let each = self.fields.iter().map(|field| {
            let (member, ty) = (&field.member, field.ty);
            let name = name(&member_text(member));
            quote_spanned!(ty.span()=> <#ty as ::leankv_dsl::lang::KernelArg>::give(#given.#member, #name, #to);)
        });
        quote!(let _ = (&#given, &#to); #(#each)*)
    }

    /// The generic parameters that types of fields mention: the others would be unused.
    fn kept(&self) -> impl Iterator<Item = &GenericParam> {
        self.generics.params.iter().filter(|param| {
            let name = param_name(param);
            self.fields.iter().any(|field| mentions(field.ty.to_token_stream(), &name))
        })
    }

    /// The others.
    fn gone(&self) -> Vec<Ident> {
        let names = self.generics.params.iter().map(param_name);
        names.filter(|name| !self.kept().any(|kept| param_name(kept) == *name)).collect()
    }

    /// The conditions that stand on the parameters that are kept, and that every field is a parameter of a kernel.
    fn predicates(&self) -> TokenStream {
        let gone = self.gone();
        let stands = |predicate: &&syn::WherePredicate| {
            !gone.iter().any(|name| mentions(predicate.to_token_stream(), name))
        };
        let own = self.generics.where_clause.iter().flat_map(|w| &w.predicates).filter(stands);
        let types = self.fields.iter().map(|field| field.ty).filter(|ty| is_generic(ty, self.generics));
        quote!(#(#own,)* #(#types: ::leankv_dsl::lang::KernelArg,)*)
    }
}

/// Whether a type mentions a generic parameter.
pub(crate) fn is_generic(ty: &Type, generics: &Generics) -> bool {
    generics.params.iter().any(|param| mentions(ty.to_token_stream(), &param_name(param)))
}

/// The name of a field, without `r#`.
pub(crate) fn member_text(member: &Member) -> String {
    match member {
        Member::Named(name) => name.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}

fn param_name(param: &GenericParam) -> Ident {
    match param {
        GenericParam::Type(param) => param.ident.clone(),
        GenericParam::Const(param) => param.ident.clone(),
        GenericParam::Lifetime(param) => param.lifetime.ident.clone(),
    }
}

fn mentions(tokens: TokenStream, name: &Ident) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == *name,
        TokenTree::Group(group) => mentions(group.stream(), name),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}
