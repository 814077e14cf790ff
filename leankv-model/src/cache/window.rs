//! Layers that see a window of recent tokens only.

use leankv_dsl::lang::attention::{AttentionHooks, HookVariant, Site};
use leankv_dsl::lang::*;

use crate::config::ModelConfig;

/// Attention to the last tokens, the query's own included; how many is each layer's own number.
#[derive(Clone, Copy, Debug, KernelArg)]
pub(super) struct LayerWindow {
    window: Scalar<i32>,
}

impl AttentionHooks for LayerWindow {
    fn mask(&self, site: &Site) -> Option<Tile<bool, 2>> {
        let distance = site.queries.expand_dims(1) - site.keys.expand_dims(0);
        Some(distance.lt(self.window))
    }
}

/// The windows of a model's layers.
#[derive(Clone, Debug)]
pub(super) struct Windows(Vec<i32>);

impl Windows {
    /// None for a model whose layers all see everything.
    pub(super) fn of(model: &ModelConfig) -> Option<Windows> {
        model.window?;
        // Positions have 31 bits, so this is everything.
        let window = |layer| model.window_of(layer).and_then(|w| i32::try_from(w).ok()).unwrap_or(i32::MAX);
        Some(Windows((0..model.layers).map(window).collect()))
    }
}

impl HookVariant for Windows {
    type Params = LayerWindow;

    fn hooks(&self, params: LayerWindow) -> Box<dyn AttentionHooks> {
        Box::new(params)
    }

    fn given(&self, layer: usize) -> LayerWindowArgs<'_> {
        LayerWindowArgs { window: self.0[layer] }
    }
}
