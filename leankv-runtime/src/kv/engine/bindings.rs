//! What a user's codecs and attention hooks bring to a launch.

use std::fmt;
use std::sync::Arc;

use super::EngineKernels;
use crate::kv::KvError;
use crate::launch::{Launch, LaunchError};

/// Whose parameters a kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Binds {
    /// Those of codecs: all that begin with `codecs`.
    pub codecs: bool,
    /// Those of attention hooks: all that begin with `hooks`.
    pub hooks: bool,
}

impl Binds {
    pub(super) const CODECS: Binds = Binds { codecs: true, hooks: false };
    pub(super) const HOOKS: Binds = Binds { codecs: false, hooks: true };
    pub(super) const BOTH: Binds = Binds { codecs: true, hooks: true };

    /// The names under which the parameters stand.
    pub(super) fn names(self) -> Vec<&'static str> {
        [("codecs", self.codecs), ("hooks", self.hooks)]
            .into_iter()
            .filter_map(|(name, takes)| takes.then_some(name))
            .collect()
    }
}

/// What a user's codecs and hooks bring to a launch: their kernel parameters (`codecs.keys.table`, `hooks.window`), for one layer.
///
/// It is asked for every layer when a cache is made, and for every launch afterwards; it gives back the launch that it was given, and
/// always the same for the same layer. Views are checked against their buffers at every launch. For kernels of
/// [`EngineKernels::of_trusted`] it is a part of what was promised there.
///
/// ```
/// use leankv_runtime::Launch;
/// use leankv_runtime::kv::{Bindings, Binds};
///
/// /// `hooks.window` for each layer.
/// #[derive(Debug)]
/// struct Windows(Vec<i32>);
///
/// impl Bindings for Windows {
///     fn bind<'a>(&'a self, launch: Launch<'a>, layer: usize, binds: Binds) -> Launch<'a> {
///         match binds.hooks {
///             true => launch.scalar("hooks.window", self.0[layer]),
///             false => launch,
///         }
///     }
/// }
/// ```
pub trait Bindings: fmt::Debug + Send + Sync {
    /// Adds to `launch` the parameters of `layer` that `binds` names.
    fn bind<'a>(&'a self, launch: Launch<'a>, layer: usize, binds: Binds) -> Launch<'a>;
}

/// A cache's bindings, if it has any.
#[derive(Debug)]
pub(super) struct Bound(pub(super) Option<Arc<dyn Bindings>>);

impl Bound {
    pub(super) fn to<'a>(&'a self, launch: Launch<'a>, layer: usize, binds: Binds) -> Launch<'a> {
        match &self.0 {
            Some(bindings) => {
                let before = launch.identity();
                bindings.bind(launch, layer, binds).expecting(before)
            }
            None => launch,
        }
    }

    /// How many layers a launch can work on that takes a codec's parameters: all, or one where each has its own.
    pub(super) fn layers_at_once(&self, layers: usize) -> usize {
        if self.0.is_some() { 1 } else { layers }
    }

    /// Whether every kernel gets the parameters it takes, in every layer.
    pub(super) fn check(&self, kernels: &EngineKernels, layers: usize) -> Result<(), KvError> {
        for layer in (0..layers).step_by(self.layers_at_once(layers).max(1)) {
            for (kernel, binds) in kernels.of_users() {
                let launch = self.to(kernel.launch(1), layer, binds);
                launch.check_under(&binds.names()).map_err(LaunchError::Argument)?;
            }
        }
        Ok(())
    }
}
