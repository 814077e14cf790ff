//! Opening a cache for a model.

use leankv_dsl::format::{KvFormat, LayerFormats, cache_page_bytes};
use leankv_dsl::lang::attention::HookChoice;
use leankv_kernels::policy::{PolicyChoice, PolicySpec};
use leankv_runtime::kv::{Budget, CacheConfig, KvCache, Thresholds};
use leankv_runtime::{Compiler, Device};

use super::choice::{KvChoice, Limit};
use super::registry::{self, Context, Variants};
use super::window::Windows;
use crate::error::ModelError;
use crate::settings::PAPER;
use crate::{Model, RopePairs};

/// How much a cache holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// Requests at once.
    pub requests: usize,
    /// Longest sequence.
    pub tokens: usize,
    /// Longest prompt, for policies that keep a number of tokens: a part of FP16 is a part of this.
    pub prompt: usize,
    /// Tokens of a chunk of a prompt.
    pub chunk: usize,
    /// Bytes of the arena; without it, enough for all requests in full length.
    pub bytes: Option<usize>,
}

/// How many of a chunk's last queries count towards significance (LeanKV).
const WINDOW_Q: usize = 64;

/// Bytes of a page that wastes little with these formats.
///
/// # Errors
/// [`ModelError::Refused`] for a head dim or formats that no page fits.
pub fn page_bytes(formats: &LayerFormats, head_dim: usize) -> Result<usize, ModelError> {
    let head_dim = u32::try_from(head_dim).unwrap_or(u32::MAX);
    let bytes = cache_page_bytes(formats, head_dim).map_err(|e| ModelError::Refused(e.to_string()))?;
    Ok(bytes as usize)
}

/// The thresholds that a choice means. One whose limit is still [`Limit::Calibrated`] has the paper's.
pub fn thresholds(choice: &KvChoice) -> Thresholds {
    match choice.limit {
        _ if choice.is_uniform() => Thresholds::new(0.0, 0.0),
        Limit::Calibrated => Thresholds::new(PAPER[0], PAPER[1]),
        Limit::Thresholds([high, low]) => Thresholds::new(high, low),
        Limit::Part(_) if choice.policy == PolicySpec::SinkWindow => Thresholds::new(0.0, 0.0),
        Limit::Part(part) => Thresholds::solved(Budget::Part(part)),
    }
}

/// The configuration of a cache of this choice, for a model of which only extents are known: `[layers, kv_heads, group, head_dim]`. Variants that are made from a model's
/// weights, and policies of a user's, cannot be had.
///
/// # Errors
/// [`ModelError::Choice`] for a choice that means nothing, [`ModelError::Refused`] for one that needs a model, and for extents, formats or room that cannot be.
pub fn config_without_model(
    extents: [usize; 4],
    choice: &KvChoice,
    room: &Room,
) -> Result<CacheConfig, ModelError> {
    choice.check()?;
    let mut variants = Variants::default();
    variants.basis.rotated = match &choice.variants {
        None => choice.formats.formats().any(|format| format.is_mid_rise()),
        Some(named) => {
            let names: Vec<&str> = named.iter().map(|variant| variant.name()).collect();
            if let Some(other) = names.iter().find(|name| **name != "rotated") {
                let why = format!(
                    "`+{other}` is made from a model's weights, of which only extents are known here; there are `+rotated` and `+plain`"
                );
                return Err(ModelError::Refused(why));
            }
            !names.is_empty()
        }
    };
    let Some(policy) = choice.policy.stock() else {
        return Err(ModelError::Refused(format!(
            "the policy `{}` is not one of this project's",
            choice.policy
        )));
    };
    config(extents, choice, room, variants, policy.into())
}

/// The configuration of a cache of this choice.
fn config(
    extents: [usize; 4],
    choice: &KvChoice,
    room: &Room,
    Variants { codecs, hooks, basis }: Variants,
    policy: PolicyChoice,
) -> Result<CacheConfig, ModelError> {
    let [_, _, _, head_dim] = extents;
    let page_bytes = page_bytes(&choice.formats, head_dim)?;
    let usual = CacheConfig::new(extents, room.requests, room.tokens, 1);
    let mut config = CacheConfig {
        formats: choice.formats.clone(),
        page_bytes,
        policy,
        codecs,
        hooks,
        chunk: room.chunk,
        sinks: choice.always.sinks,
        window: choice.always.window,
        keep_tokens: choice.always.keep,
        peaks: choice.always.peaks as u32,
        gap: usual.gap.filter(|_| choice.always.peaks == 0),
        basis,
        window_q: WINDOW_Q.min(room.chunk),
        ..usual
    };
    // Extents that cannot be are refused before anything counts with them.
    config.shape()?;
    if let (Some(PolicySpec::SinkWindow), Limit::Part(part)) = (choice.policy.stock(), choice.limit) {
        let mut of_token = 0.0;
        for layer in 0..config.layers {
            let (layout, _) = config.layouts_of(config.formats.of(layer))?;
            of_token += layout.account().true_bytes_per_token();
        }
        // The tokens that a part of the prompt's bytes in FP16 pays for.
        let fp16 = [room.prompt, 4 * head_dim, config.layers].map(|n| n as f64).iter().product::<f64>();
        let pays = fp16 / f64::from(part);
        let tokens = (pays / of_token) as usize;
        config.window = tokens.max(choice.always.keep).saturating_sub(config.sinks).max(1);
    }
    let shape = config.shape()?;
    config.pages = match room.bytes {
        Some(bytes) => bytes / page_bytes,
        None => room.requests * shape.lists() * shape.table_len,
    };
    Ok(config)
}

/// An empty cache of this choice.
///
/// # Errors
/// [`ModelError::Choice`] for one that means nothing, [`ModelError::Refused`] for a variant that the model has no use for, and what the cache says.
pub fn open(
    compiler: &Compiler,
    device: &Device,
    model: &Model,
    choice: &KvChoice,
    room: &Room,
) -> Result<KvCache, ModelError> {
    choice.check()?;
    let context = Context { device, model, tokens: room.tokens, rotated: false };
    let of_model = model.config();
    let extents = [of_model.layers, of_model.kv_heads, of_model.group(), of_model.head_dim];
    let config = config(extents, choice, room, variants(&context, choice)?, choice.policy.make(&context)?)?;
    Ok(KvCache::new(compiler, device, config)?)
}

/// The codecs and hooks of a choice: what it says, or what suits the model, and the windows of the model's layers.
fn variants(context: &Context<'_>, choice: &KvChoice) -> Result<Variants, ModelError> {
    let model = context.model;
    let own = match Windows::of(model.config()) {
        Some(windows) => {
            // No name that a registry takes, so it is not one of a user's.
            Variants { hooks: HookChoice::plain().with("layer_window", windows), ..Variants::default() }
        }
        None => Variants::default(),
    };
    if let Some(named) = &choice.variants {
        return registry::make(named, context, own);
    }
    let suits = names_that_suit(model, &choice.formats);
    match suits.is_empty() {
        true => Ok(own),
        false => {
            let text = format!("fp16+{}", suits.join("+"));
            registry::make(
                registry::builtin().parse(&text)?.variants.as_deref().unwrap_or_default(),
                context,
                own,
            )
        }
    }
}

/// The variants that suit a model and formats, where a choice names none: a bias is taken out of keys, since no format of few bits holds keys with one; and
/// mid-rise codes are of rotated rows, without their means where these are known.
fn names_that_suit(model: &Model, formats: &LayerFormats) -> Vec<&'static str> {
    let codes = |format: KvFormat| format.key.shape().code_bits < 16;
    let biased = (0..model.config().layers)
        .all(|layer| model.key_bias(layer).is_some() && model.rope(layer).pairs() == RopePairs::Halves);
    let rotated = formats.formats().any(|format| format.is_mid_rise());
    [
        ("offset", biased && formats.formats().any(codes)),
        ("rotated", rotated),
        ("centred", rotated && model.statistics().is_some()),
    ]
    .into_iter()
    .filter_map(|(name, suits)| suits.then_some(name))
    .collect()
}
