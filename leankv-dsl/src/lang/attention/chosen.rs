//! Codecs and hooks as values: which ones a kernel uses is decided when it is recorded, not when it is compiled by rustc.
//!
//! A kernel that takes [`ChosenCodecs`] and [`ChosenHooks`] finds a [`CodecChoice`] and a [`HookChoice`] among the
//! [`Choices`](crate::lang::Choices) that it is recorded with; without them it has the codecs of this crate and plain attention. A launch of it is
//! given the same choice and a layer.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::codec::{Codec, Codecs, Stock};
use super::hooks::AttentionHooks;
use super::shaped::Shaped;
use super::stacked::Stacked;
use crate::diag::Diagnostics;
use crate::format::{CodecShape, CodecSpec, KvFormat};
use crate::ir::Loc;
use crate::lang::KernelArg;
use crate::lang::arg::{ArgOptions, ArgScope, Choices};
use crate::lang::launch::{Arguments, Name};
use crate::lang::record;

/// Codecs around others, as a value: what is done to keys and values besides what the codecs of a format do.
///
/// What they are made of at run time (tables, numbers) are kernel parameters: `Params` says which, [`given`](CodecVariant::given) what a launch
/// gives for them.
///
/// ```
/// use leankv_dsl::lang::attention::{Codec, CodecVariant};
///
/// /// Leaves everything as it is.
/// #[derive(Debug)]
/// struct Nothing;
///
/// impl CodecVariant for Nothing {
///     type Params = ();
///
///     fn keys(&self, (): (), inner: Box<dyn Codec>) -> Box<dyn Codec> {
///         inner
///     }
///
///     fn given(&self, _layer: usize) {}
/// }
/// ```
pub trait CodecVariant: fmt::Debug + Send + Sync + 'static {
    /// Its kernel parameters.
    type Params: KernelArg + Clone + 'static;

    /// The codec of keys, which may use the one that stands below. By default it is that.
    fn keys(&self, params: Self::Params, inner: Box<dyn Codec>) -> Box<dyn Codec> {
        let _ = params;
        inner
    }

    /// The codec of values, which may use the one that stands below. By default it is that.
    fn values(&self, params: Self::Params, inner: Box<dyn Codec>) -> Box<dyn Codec> {
        let _ = params;
        inner
    }

    /// What a launch that works on `layer` gives for the parameters. It is asked for every launch, and the same for the same layer.
    fn given(&self, layer: usize) -> <Self::Params as KernelArg>::Given<'_>;
}

impl<V: CodecVariant> CodecVariant for Arc<V> {
    type Params = V::Params;

    fn keys(&self, params: Self::Params, inner: Box<dyn Codec>) -> Box<dyn Codec> {
        (**self).keys(params, inner)
    }

    fn values(&self, params: Self::Params, inner: Box<dyn Codec>) -> Box<dyn Codec> {
        (**self).values(params, inner)
    }

    fn given(&self, layer: usize) -> <Self::Params as KernelArg>::Given<'_> {
        (**self).given(layer)
    }
}

/// Attention hooks as a value. Parameters as those of a [`CodecVariant`].
pub trait HookVariant: fmt::Debug + Send + Sync + 'static {
    /// Their kernel parameters.
    type Params: KernelArg;

    /// The hooks.
    fn hooks(&self, params: Self::Params) -> Box<dyn AttentionHooks>;

    /// As [`CodecVariant::given`].
    fn given(&self, layer: usize) -> <Self::Params as KernelArg>::Given<'_>;
}

/// A [`CodecVariant`] of any type of parameters.
trait AnyCodecVariant: fmt::Debug + Send + Sync {
    fn declare(self: Arc<Self>, scope: &mut ArgScope, name: &str, inner: Box<dyn Codecs>) -> Box<dyn Codecs>;
    fn give<'a>(&'a self, layer: usize, name: Name<'_>, to: &mut Arguments<'a>);
}

impl<V: CodecVariant> AnyCodecVariant for V {
    fn declare(self: Arc<Self>, scope: &mut ArgScope, name: &str, inner: Box<dyn Codecs>) -> Box<dyn Codecs> {
        let params = V::Params::declare(scope, name, ArgOptions::new());
        Box::new(Around { variant: self, params, inner })
    }

    fn give<'a>(&'a self, layer: usize, name: Name<'_>, to: &mut Arguments<'a>) {
        V::Params::give(self.given(layer), name, to);
    }
}

/// A variant with its parameters, around other codecs.
struct Around<V: CodecVariant> {
    variant: Arc<V>,
    params: V::Params,
    inner: Box<dyn Codecs>,
}

impl<V: CodecVariant> Codecs for Around<V> {
    fn keys(&self, named: &CodecSpec) -> Box<dyn Codec> {
        self.variant.keys(self.params.clone(), self.inner.keys(named))
    }

    fn values(&self, named: &CodecSpec) -> Box<dyn Codec> {
        self.variant.values(self.params.clone(), self.inner.values(named))
    }
}

/// A [`HookVariant`] of any type of parameters.
trait AnyHookVariant: fmt::Debug + Send + Sync {
    fn declare(&self, scope: &mut ArgScope, name: &str) -> Box<dyn AttentionHooks>;
    fn give<'a>(&'a self, layer: usize, name: Name<'_>, to: &mut Arguments<'a>);
}

impl<V: HookVariant> AnyHookVariant for V {
    fn declare(&self, scope: &mut ArgScope, name: &str) -> Box<dyn AttentionHooks> {
        self.hooks(V::Params::declare(scope, name, ArgOptions::new()))
    }

    fn give<'a>(&'a self, layer: usize, name: Name<'_>, to: &mut Arguments<'a>) {
        V::Params::give(self.given(layer), name, to);
    }
}

/// Values of one kind, each with a name that its kernel parameters begin with.
struct Chain<V: ?Sized>(Vec<(String, Arc<V>)>);

impl<V: ?Sized> Clone for Chain<V> {
    fn clone(&self) -> Self {
        Chain(self.0.clone())
    }
}

impl<V: ?Sized> PartialEq for Chain<V> {
    fn eq(&self, other: &Self) -> bool {
        let same = |((a, x), (b, y)): (&(String, Arc<V>), &(String, Arc<V>))| a == b && Arc::ptr_eq(x, y);
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

impl<V: ?Sized> fmt::Display for Chain<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, _)| write!(f, "+{name}"))
    }
}

impl<V: ?Sized> fmt::Debug for Chain<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which codecs a kernel uses: those that a format names, or others around them. Clones are the same choice.
///
/// Nobody vouches for the others, so whatever they do, they read and write nothing outside of the buffers that a launch checked:
///
/// * their parameters are numbers and [`View`](crate::lang::View)s; a raw pointer or memory to write is an error of the specialisation, and so is
///   [`ptr`](crate::lang::View::ptr) of a view, and inline PTX;
/// * every access through a view is compared with its extents in 64 bits: `tile` and `get` give zero outside, and the part that `at` gives
///   there is empty;
/// * a codec's shape is what it said first, whatever its `shape` says later.
///
/// [`trusted`](CodecChoice::trusted) ones are not held to the first two.
#[derive(Clone, Debug)]
pub struct CodecChoice {
    chain: Chain<dyn AnyCodecVariant>,
    trusted: bool,
    /// What a row of keys (`true`) or of values takes, as codecs said when they were first asked. Pages are laid out by it.
    shapes: Arc<Mutex<HashMap<(bool, CodecSpec), CodecShape>>>,
}

impl Default for CodecChoice {
    fn default() -> Self {
        CodecChoice::stock()
    }
}

impl PartialEq for CodecChoice {
    /// Whether kernels that are recorded with the one do what those do that are recorded with the other.
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.trusted == other.trusted
    }
}

impl fmt::Display for CodecChoice {
    /// `+offset+hadamard`; nothing for [`CodecChoice::stock`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chain.fmt(f)
    }
}

impl CodecChoice {
    /// The codecs that formats name.
    #[must_use]
    pub fn stock() -> CodecChoice {
        CodecChoice { chain: Chain(Vec::new()), trusted: false, shapes: Arc::default() }
    }

    /// With a variant around what there is so far: the one added last meets keys and values first. Its kernel parameters are called `codecs.name`.
    /// The choice is then not a [`trusted`](CodecChoice::trusted) one.
    #[must_use]
    pub fn with(mut self, name: &str, variant: impl CodecVariant) -> CodecChoice {
        self.chain.0.push((name.to_owned(), Arc::new(variant)));
        CodecChoice { trusted: false, shapes: Arc::default(), ..self }
    }

    /// The same without a check: codecs may take raw pointers and memory to write, and single elements of views are read without a comparison.
    ///
    /// # Safety
    /// In every launch with what [`CodecVariant::given`] gives, codecs read and write within the buffers of their parameters, whatever positions, codes
    /// and numbers they meet, and write nothing that another program of the launch reads or writes.
    #[must_use]
    pub unsafe fn trusted(self) -> CodecChoice {
        CodecChoice { trusted: true, ..self }
    }

    /// Whether it is what formats name, and nothing else.
    #[must_use]
    pub fn is_stock(&self) -> bool {
        self.chain.0.is_empty()
    }

    /// What keys and values of a format take, a row each.
    ///
    /// # Errors
    /// What the codecs report when they are asked for.
    #[track_caller]
    pub fn shapes(&self, format: &KvFormat) -> Result<[CodecShape; 2], Diagnostics> {
        if self.is_stock() {
            return Ok([format.key.shape(), format.value.shape()]);
        }
        if let (Some(keys), Some(values)) = (self.known(true, &format.key), self.known(false, &format.value))
        {
            return Ok([keys, values]);
        }
        let mut found = None;
        record::record("codecs", format.to_string(), (None, 0), Loc::caller(), || {
            let mut scope = ArgScope::new(&Choices::new().with(self.clone()));
            let codecs = ChosenCodecs::declare(&mut scope, "codecs", ArgOptions::new());
            found = Some([codecs.keys(&format.key).shape(), codecs.values(&format.value).shape()]);
        })?;
        Ok(found.expect("a body that ends without a mistake has run"))
    }

    /// The shape of a codec that was asked before.
    fn known(&self, keys: bool, named: &CodecSpec) -> Option<CodecShape> {
        self.shapes.lock().unwrap_or_else(PoisonError::into_inner).get(&(keys, *named)).copied()
    }

    /// The shape of a codec: what it said first.
    fn shape(&self, keys: bool, named: &CodecSpec, codec: &dyn Codec) -> CodecShape {
        // Asked before the lock is taken: a codec may ask for shapes itself.
        let said = codec.shape();
        *self.shapes.lock().unwrap_or_else(PoisonError::into_inner).entry((keys, *named)).or_insert(said)
    }
}

/// Which hooks attention has: none, or some. Clones are the same choice.
#[derive(Clone, Debug, PartialEq)]
pub struct HookChoice {
    chain: Chain<dyn AnyHookVariant>,
    trusted: bool,
}

impl Default for HookChoice {
    fn default() -> Self {
        HookChoice::plain()
    }
}

impl fmt::Display for HookChoice {
    /// `+window`; nothing for [`HookChoice::plain`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chain.fmt(f)
    }
}

impl HookChoice {
    /// Plain attention.
    #[must_use]
    pub fn plain() -> HookChoice {
        HookChoice { chain: Chain(Vec::new()), trusted: false }
    }

    /// With hooks after those that there are: they get what the others leave, and a key is attended to where all masks agree. The
    /// running maximum is that of the last ones. Their kernel parameters are called `hooks.name`.
    /// The choice is then not a [`trusted`](HookChoice::trusted) one.
    #[must_use]
    pub fn with(mut self, name: &str, hooks: impl HookVariant) -> HookChoice {
        self.chain.0.push((name.to_owned(), Arc::new(hooks)));
        HookChoice { trusted: false, ..self }
    }

    /// As [`CodecChoice::trusted`].
    ///
    /// # Safety
    /// As [`CodecChoice::trusted`].
    #[must_use]
    pub unsafe fn trusted(self) -> HookChoice {
        HookChoice { trusted: true, ..self }
    }
}

/// A choice, and the layer that a launch works on.
#[derive(Debug)]
pub struct ForLayer<'a, T> {
    /// What the kernel was recorded with.
    pub choice: &'a T,
    /// The layer.
    pub layer: usize,
}

impl<T> Clone for ForLayer<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for ForLayer<'_, T> {}

/// Codecs that a [`CodecChoice`] names, as a parameter of a kernel.
pub struct ChosenCodecs {
    codecs: Box<dyn Codecs>,
    /// Where there is more than formats name: whose shapes count.
    choice: Option<CodecChoice>,
}

impl Codecs for ChosenCodecs {
    fn keys(&self, named: &CodecSpec) -> Box<dyn Codec> {
        self.shaped(true, named, self.codecs.keys(named))
    }

    fn values(&self, named: &CodecSpec) -> Box<dyn Codec> {
        self.shaped(false, named, self.codecs.values(named))
    }
}

impl ChosenCodecs {
    fn shaped(&self, keys: bool, named: &CodecSpec, codec: Box<dyn Codec>) -> Box<dyn Codec> {
        match &self.choice {
            None => codec,
            Some(choice) => {
                let shape = choice.shape(keys, named, &*codec);
                Box::new(Shaped { inner: codec, shape })
            }
        }
    }
}

impl fmt::Debug for ChosenCodecs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChosenCodecs({})", self.choice.as_ref().map(CodecChoice::to_string).unwrap_or_default())
    }
}

impl KernelArg for ChosenCodecs {
    #[track_caller]
    fn declare(scope: &mut ArgScope, name: &str, _: ArgOptions) -> Self {
        let choice = scope.choices().get::<CodecChoice>().filter(|choice| !choice.is_stock()).cloned();
        let mut codecs: Box<dyn Codecs> = Box::new(Stock);
        if let Some(choice) = &choice {
            let mut own = if choice.trusted { scope.again() } else { scope.checked() };
            for (variant_name, variant) in &choice.chain.0 {
                codecs = Arc::clone(variant).declare(&mut own, &format!("{name}.{variant_name}"), codecs);
            }
        }
        ChosenCodecs { codecs, choice }
    }

    type Given<'a> = ForLayer<'a, CodecChoice>;

    fn give<'a>(given: Self::Given<'a>, name: Name<'_>, to: &mut Arguments<'a>) {
        for (variant_name, variant) in &given.choice.chain.0 {
            to.push_all(|own| variant.give(given.layer, name.part(variant_name), own));
        }
    }
}

/// Hooks that a [`HookChoice`] names, as a parameter of a kernel.
pub type ChosenHooks = Stacked;

impl KernelArg for Stacked {
    #[track_caller]
    fn declare(scope: &mut ArgScope, name: &str, _: ArgOptions) -> Self {
        let choice = scope.choices().get::<HookChoice>().filter(|choice| !choice.chain.0.is_empty()).cloned();
        let Some(choice) = choice else { return Stacked::default() };
        let mut own = if choice.trusted { scope.again() } else { scope.checked() };
        let declare = |(hook_name, hooks): &(String, Arc<dyn AnyHookVariant>)| {
            hooks.declare(&mut own, &format!("{name}.{hook_name}"))
        };
        Stacked(choice.chain.0.iter().map(declare).collect())
    }

    type Given<'a> = ForLayer<'a, HookChoice>;

    fn give<'a>(given: Self::Given<'a>, name: Name<'_>, to: &mut Arguments<'a>) {
        for (hook_name, hooks) in &given.choice.chain.0 {
            to.push_all(|own| hooks.give(given.layer, name.part(hook_name), own));
        }
    }
}
