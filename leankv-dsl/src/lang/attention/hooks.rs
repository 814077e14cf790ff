//! What an attention variant can change, as default methods of one trait (FlashInfer's six hooks).

use half::f16;

use crate::lang::KernelArg;
use crate::lang::tile::{Scalar, Tile};

/// Where logits come from.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// The request.
    pub request: Scalar<i32>,
    /// The KV head.
    pub head: Scalar<i32>,
    /// The queries' positions in their sequence, `[queries]`. In decode attention they are one token's, or with significance that token's and
    /// those of the token before it.
    pub queries: Tile<i32, 1>,
    /// Which query head of the KV head's group each query is, `[queries]`.
    pub members: Tile<i32, 1>,
    /// The keys' positions, `[rows]`; 0 where there is none.
    pub keys: Tile<i32, 1>,
}

/// An attention variant. Every method has the meaning of plain attention by default.
///
/// Run-time numbers of a variant (a cap, slopes) are fields: the type is then a kernel parameter through
/// `#[derive(KernelArg)]`. Numbers known at specialisation time are constants of the type.
///
/// ```
/// use leankv_dsl::lang::*;
/// use leankv_dsl::lang::attention::{AttentionHooks, Site};
///
/// /// Logits are squeezed into `-cap .. cap`.
/// #[derive(Clone, Copy, KernelArg)]
/// struct SoftCap {
///     cap: Scalar<f32>,
/// }
///
/// impl AttentionHooks for SoftCap {
///     fn logits(&self, logits: Tile<f32, 2>, _: &Site) -> Tile<f32, 2> {
///         (logits / self.cap).tanh() * self.cap
///     }
/// }
/// ```
pub trait AttentionHooks {
    /// The query `[queries, head_dim]` before it meets keys.
    #[track_caller]
    fn query(&self, q: Tile<f16, 2>) -> Tile<f16, 2> {
        q
    }

    /// Key logits `q . k` before the scale, `[queries, rows]`; `q` is the query as [`query`](AttentionHooks::query) left it.
    #[track_caller]
    fn key_logits(&self, logits: Tile<f32, 2>, q: Tile<f16, 2>, site: &Site) -> Tile<f32, 2> {
        let _ = (q, site);
        logits
    }

    /// Whether [`key_logits`](AttentionHooks::key_logits) changes anything; where it does not, logits need not exist before the scale. It does by default.
    fn has_key_logits(&self) -> bool {
        true
    }

    /// Scaled logits, `[queries, rows]`.
    #[track_caller]
    fn logits(&self, logits: Tile<f32, 2>, site: &Site) -> Tile<f32, 2> {
        let _ = site;
        logits
    }

    /// Which keys each query may attend to besides what the head pattern says, `[queries, rows]`, or `[1, rows]` where the queries agree;
    /// `None` for all.
    #[track_caller]
    fn mask(&self, site: &Site) -> Option<Tile<bool, 2>> {
        let _ = site;
        None
    }

    /// The finite number `[queries]` that exponents are taken relative to from now on. It is asked for when a logit is further above `base`, the one so
    /// far, than weights may grow; that of plain attention is the running maximum.
    #[track_caller]
    fn running_max(&self, base: Tile<f32, 1>, logits: Tile<f32, 2>) -> Tile<f32, 1> {
        base.max(logits.reduce_max(1))
    }

    /// The normalised output, `[queries, head_dim]`.
    #[track_caller]
    fn output(&self, out: Tile<f32, 2>) -> Tile<f32, 2> {
        out
    }
}

/// Plain attention.
#[derive(Clone, Copy, Debug, Default, KernelArg)]
pub struct Plain;

impl AttentionHooks for Plain {
    fn has_key_logits(&self) -> bool {
        false
    }
}
