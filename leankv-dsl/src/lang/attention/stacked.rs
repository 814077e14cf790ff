//! Attention hooks one after another.

use half::f16;

use super::hooks::{AttentionHooks, Plain, Site};
use crate::lang::tile::Tile;

/// Hooks in order: each gets what the one before leaves, and a key is attended to where all masks agree. The running maximum is that of the last ones.
/// Without any it is plain attention.
#[derive(Default)]
pub struct Stacked(pub Vec<Box<dyn AttentionHooks>>);

impl std::fmt::Debug for Stacked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} hooks", self.0.len())
    }
}

impl AttentionHooks for Stacked {
    #[track_caller]
    fn query(&self, q: Tile<f16, 2>) -> Tile<f16, 2> {
        let mut q = q;
        for hooks in &self.0 {
            q = hooks.query(q);
        }
        q
    }

    #[track_caller]
    fn key_logits(&self, logits: Tile<f32, 2>, q: Tile<f16, 2>, site: &Site) -> Tile<f32, 2> {
        let mut logits = logits;
        for hooks in &self.0 {
            logits = hooks.key_logits(logits, q, site);
        }
        logits
    }

    fn has_key_logits(&self) -> bool {
        self.0.iter().any(|hooks| hooks.has_key_logits())
    }

    #[track_caller]
    fn logits(&self, logits: Tile<f32, 2>, site: &Site) -> Tile<f32, 2> {
        let mut logits = logits;
        for hooks in &self.0 {
            logits = hooks.logits(logits, site);
        }
        logits
    }

    #[track_caller]
    fn mask(&self, site: &Site) -> Option<Tile<bool, 2>> {
        let mut all = None;
        for hooks in &self.0 {
            let one = hooks.mask(site);
            all = match (all, one) {
                (Some(a), Some(b)) => Some(a & b),
                (a, b) => a.or(b),
            };
        }
        all
    }

    #[track_caller]
    fn running_max(&self, base: Tile<f32, 1>, logits: Tile<f32, 2>) -> Tile<f32, 1> {
        match self.0.last() {
            Some(hooks) => hooks.running_max(base, logits),
            None => Plain.running_max(base, logits),
        }
    }

    #[track_caller]
    fn output(&self, out: Tile<f32, 2>) -> Tile<f32, 2> {
        let mut out = out;
        for hooks in &self.0 {
            out = hooks.output(out);
        }
        out
    }
}
