//! Variants and policies by name: those of this crate, and a user's.

use std::fmt;
use std::sync::{Arc, LazyLock};

use leankv_dsl::lang::attention::{CodecChoice, CodecVariant, HookChoice, HookVariant};
use leankv_kernels::policy::{PolicyChoice, PolicySpec, PolicyVariant};
use leankv_runtime::Device;
use leankv_runtime::kv::Basis;

use super::choice::{BadChoice, KvChoice};
use crate::error::ModelError;
use crate::{Model, variants};

/// What a variant or a policy is made for.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Where its tables go.
    pub device: &'a Device,
    /// The model.
    pub model: &'a Model,
    /// Longest sequence.
    pub tokens: usize,
    /// Whether queries, keys and values come rotated ([`Basis`]).
    pub rotated: bool,
}

/// In which order codec variants meet keys and values, whatever the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// First: a shift, such as a bias that is taken out.
    Shift,
    /// Then: another basis, such as a rotation.
    Basis,
    /// Last: codes, in place of those of the format. There is one at most.
    Codes,
}

/// What makes a variant.
pub struct VariantMaker {
    /// `None` for attention hooks and for the basis.
    pub(super) stage: Option<Stage>,
    /// Whether it changes the basis, which others depend on.
    basis: bool,
    #[expect(clippy::type_complexity, reason = "it is named nowhere else")]
    add: Box<dyn Fn(&str, &Context<'_>, Variants) -> Result<Variants, ModelError> + Send + Sync>,
}

/// What makes a policy.
pub struct PolicyMaker(Box<dyn Fn(&str, &Context<'_>) -> Result<PolicyChoice, ModelError> + Send + Sync>);

/// The codecs, hooks and basis of a cache.
#[derive(Clone, Debug, Default)]
pub(super) struct Variants {
    pub(super) codecs: CodecChoice,
    pub(super) hooks: HookChoice,
    pub(super) basis: Basis,
}

/// Something that is chosen by name, with what makes it if that is known. Two are equal when their names are.
pub struct Named<M> {
    name: String,
    maker: Option<Arc<M>>,
}

impl<M> Named<M> {
    pub(super) fn unknown(name: &str) -> Self {
        Named { name: name.to_owned(), maker: None }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn maker(&self) -> Option<&M> {
        self.maker.as_deref()
    }
}

impl<M> Clone for Named<M> {
    fn clone(&self) -> Self {
        Named { name: self.name.clone(), maker: self.maker.clone() }
    }
}

impl<M> PartialEq for Named<M> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl<M> fmt::Debug for Named<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A variant in a [`KvChoice`].
pub type NamedVariant = Named<VariantMaker>;

/// A policy in a [`KvChoice`]: one of this project's, or a user's.
#[derive(Clone, Debug, PartialEq)]
pub enum NamedPolicy {
    /// One of this project's.
    Stock(PolicySpec),
    /// A user's.
    User(Named<PolicyMaker>),
}

impl NamedPolicy {
    /// The policy of this project, if it is one.
    #[must_use]
    pub fn stock(&self) -> Option<PolicySpec> {
        match self {
            NamedPolicy::Stock(spec) => Some(*spec),
            NamedPolicy::User(_) => None,
        }
    }

    pub(super) fn make(&self, context: &Context<'_>) -> Result<PolicyChoice, ModelError> {
        match self {
            NamedPolicy::Stock(spec) => Ok((*spec).into()),
            NamedPolicy::User(named) => match named.maker() {
                Some(maker) => (maker.0)(named.name(), context),
                None => Err(ModelError::Refused(format!("there is no policy `{}`", named.name()))),
            },
        }
    }
}

impl From<PolicySpec> for NamedPolicy {
    fn from(spec: PolicySpec) -> Self {
        NamedPolicy::Stock(spec)
    }
}

impl PartialEq<PolicySpec> for NamedPolicy {
    fn eq(&self, other: &PolicySpec) -> bool {
        self.stock() == Some(*other)
    }
}

impl fmt::Display for NamedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamedPolicy::Stock(spec) => spec.fmt(f),
            NamedPolicy::User(named) => f.write_str(named.name()),
        }
    }
}

/// What something of a registry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name: `+name` of a variant, `:name` of a policy.
    pub name: String,
    /// What it does, in a line.
    pub doc: String,
}

struct Known<M> {
    entry: Entry,
    maker: Arc<M>,
}

/// The variants and policies that caches can be asked for by name.
///
/// A user's crate adds its own, and everything that takes the text of a cache then takes them too:
///
/// ```
/// use leankv_dsl::lang::attention::{Codec, CodecVariant};
/// use leankv_model::cache::{Registry, Stage};
///
/// #[derive(Debug)]
/// struct Nothing;
///
/// impl CodecVariant for Nothing {
///     type Params = ();
///
///     fn given(&self, _layer: usize) {}
/// }
///
/// let registry = Registry::builtin().codecs("nothing", "leaves keys and values alone", Stage::Basis, |_| Ok(Nothing))?;
/// assert_eq!(registry.parse("k8v4/k4v2+nothing@1/5")?.to_string(), "K8V4/K4V2+nothing@1/5");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Registry {
    variants: Vec<Known<VariantMaker>>,
    policies: Vec<Known<PolicyMaker>>,
}

/// Why something was not added to a registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Not a name.
    #[error("`{0}` is no name: it is small letters, digits and `-`, beginning with a letter")]
    NoName(String),
    /// The name means something already.
    #[error("`{0}` is taken")]
    Taken(String),
}

impl Registry {
    /// What this crate has: `offset`, `hadamard`, `rotated` and `centred`, and the policies of [`PolicySpec`].
    #[must_use]
    pub fn builtin() -> Registry {
        let empty = Registry { variants: Vec::new(), policies: Vec::new() };
        variants::add(empty).expect("these are names, and there are no others yet")
    }

    /// With a codec variant, `+name` in the text of a cache.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn codecs<V: CodecVariant>(
        self,
        name: &str,
        doc: &str,
        stage: Stage,
        make: impl Fn(&Context<'_>) -> Result<V, ModelError> + Send + Sync + 'static,
    ) -> Result<Registry, RegistryError> {
        let add = move |name: &str, context: &Context<'_>, variants: Variants| {
            Ok(Variants { codecs: variants.codecs.with(name, make(context)?), ..variants })
        };
        self.variant(name, doc, VariantMaker { stage: Some(stage), basis: false, add: Box::new(add) })
    }

    /// With attention hooks, `+name` in the text of a cache.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn hooks<V: HookVariant>(
        self,
        name: &str,
        doc: &str,
        make: impl Fn(&Context<'_>) -> Result<V, ModelError> + Send + Sync + 'static,
    ) -> Result<Registry, RegistryError> {
        let add = move |name: &str, context: &Context<'_>, variants: Variants| {
            Ok(Variants { hooks: variants.hooks.with(name, make(context)?), ..variants })
        };
        self.variant(name, doc, VariantMaker { stage: None, basis: false, add: Box::new(add) })
    }

    /// With a change of the basis in which the cache holds keys and values, `+name` in the text of a cache.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn basis(
        self,
        name: &str,
        doc: &str,
        change: impl Fn(&Context<'_>, Basis) -> Result<Basis, ModelError> + Send + Sync + 'static,
    ) -> Result<Registry, RegistryError> {
        let add = move |_: &str, context: &Context<'_>, variants: Variants| {
            Ok(Variants { basis: change(context, variants.basis)?, ..variants })
        };
        self.variant(name, doc, VariantMaker { stage: None, basis: true, add: Box::new(add) })
    }

    /// With a policy, `:name` in the text of a cache.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn policy<V: PolicyVariant>(
        mut self,
        name: &str,
        doc: &str,
        make: impl Fn(&Context<'_>) -> Result<V, ModelError> + Send + Sync + 'static,
    ) -> Result<Registry, RegistryError> {
        self.check_name(name)?;
        let maker = move |name: &str, context: &Context<'_>| Ok(PolicyChoice::user(name, make(context)?));
        let entry = Entry { name: name.to_owned(), doc: doc.to_owned() };
        self.policies.push(Known { entry, maker: Arc::new(PolicyMaker(Box::new(maker))) });
        Ok(self)
    }

    /// A cache by its text; see [`KvChoice`].
    ///
    /// # Errors
    /// [`BadChoice`], also for a name that is not here.
    pub fn parse(&self, text: &str) -> Result<KvChoice, BadChoice> {
        let mut choice = KvChoice::read(text)?;
        let bad = |why: String| BadChoice { text: text.to_owned(), why };
        for variant in choice.variants.iter_mut().flatten() {
            let known = self.variants.iter().find(|known| known.entry.name == variant.name);
            let Some(known) = known else {
                let names = self.variants.iter().map(|known| known.entry.name.as_str());
                let names = names.chain(["plain"]).collect::<Vec<_>>().join(", ");
                return Err(bad(format!("`{}` is no variant; there are {names}", variant.name)));
            };
            variant.maker = Some(Arc::clone(&known.maker));
        }
        if let Some(variants) = &mut choice.variants {
            // Hooks behind all codecs.
            variants.sort_by_key(|v| v.maker().and_then(|maker| maker.stage).map_or(3, |stage| stage as u8));
            let coders = variants.iter().filter(|v| v.maker().is_some_and(|m| m.stage == Some(Stage::Codes)));
            if let [a, b, ..] = coders.collect::<Vec<_>>()[..] {
                return Err(bad(format!("`{}` and `{}` both say what the codes are", a.name, b.name)));
            }
        }
        if let NamedPolicy::User(policy) = &mut choice.policy {
            let known = self.policies.iter().find(|known| known.entry.name == policy.name);
            let Some(known) = known else {
                let own = self.policies.iter().map(|known| format!(", {}", known.entry.name));
                let error = leankv_kernels::policy::UnknownPolicy(policy.name.clone());
                return Err(bad(format!("{error}{}", own.collect::<String>())));
            };
            policy.maker = Some(Arc::clone(&known.maker));
        }
        Ok(choice)
    }

    /// The variants, in the order in which they were added.
    pub fn variants(&self) -> impl Iterator<Item = &Entry> {
        self.variants.iter().map(|known| &known.entry)
    }

    /// The policies that were added.
    pub fn policies(&self) -> impl Iterator<Item = &Entry> {
        self.policies.iter().map(|known| &known.entry)
    }

    fn variant(mut self, name: &str, doc: &str, maker: VariantMaker) -> Result<Registry, RegistryError> {
        self.check_name(name)?;
        let entry = Entry { name: name.to_owned(), doc: doc.to_owned() };
        self.variants.push(Known { entry, maker: Arc::new(maker) });
        Ok(self)
    }

    fn check_name(&self, name: &str) -> Result<(), RegistryError> {
        if !is_name(name) {
            return Err(RegistryError::NoName(name.to_owned()));
        }
        let entries = self.variants().chain(self.policies());
        let taken = name == "plain" || name.parse::<PolicySpec>().is_ok();
        match taken || entries.into_iter().any(|entry| entry.name == name) {
            true => Err(RegistryError::Taken(name.to_owned())),
            false => Ok(()),
        }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Registry::builtin()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            |entries: &mut dyn Iterator<Item = &Entry>| entries.map(|e| e.name.clone()).collect::<Vec<_>>();
        write!(f, "Registry({:?}, {:?})", names(&mut self.variants()), names(&mut self.policies()))
    }
}

/// The registry for texts of which nobody says which: [`Registry::builtin`].
pub(super) fn builtin() -> &'static Registry {
    static BUILTIN: LazyLock<Registry> = LazyLock::new(Registry::builtin);
    &BUILTIN
}

/// Whether it can be the name of a variant or a policy.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// What these variants make together, in their order: the first meets keys and values first.
pub(super) fn make(
    variants: &[NamedVariant],
    context: &Context<'_>,
    to: Variants,
) -> Result<Variants, ModelError> {
    let add = |context: &Context<'_>, to: Variants, basis: bool| {
        // The one added last meets keys first.
        variants.iter().rev().try_fold(to, |to, variant| match variant.maker() {
            Some(maker) if maker.basis == basis => (maker.add)(variant.name(), context, to),
            Some(_) => Ok(to),
            None => Err(ModelError::Refused(format!("there is no variant `{}`", variant.name()))),
        })
    };
    let to = add(context, to, true)?;
    let context = Context { rotated: to.basis.rotated, ..*context };
    add(&context, to, false)
}
