//! Opening a cache for a model.

use std::sync::Arc;

use leankv_dsl::format::{KvFormat, PageLayout, PlanOptions, Tiering, plan_page_bytes};
use leankv_dsl::lang::attention::{Plain, Stock};
use leankv_kernels::policy::PolicySpec;
use leankv_runtime::kv::{Bindings, Budget, CacheConfig, EngineKernels, KvCache, Thresholds};
use leankv_runtime::{Compiler, Device};

use super::choice::{KvChoice, Limit, Variant};
use super::window::{LayerWindow, Windows};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::settings::PAPER;
use crate::variants::{Hadamard, KeyOffset, KeyOffsetTables};
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

/// How much more of a page may be padding than of the best one, for a smaller page: every list leaves half a page empty on average, and there
/// are hundreds of lists.
const TOLERANCE: f64 = 0.03;

/// Bytes of a page that wastes little with these formats.
///
/// # Errors
/// [`ModelError::Refused`] for a head dim or formats that no page fits.
pub fn page_bytes(tiering: &Tiering, head_dim: usize) -> Result<usize, ModelError> {
    let formats: Vec<_> = [Some(tiering.high), tiering.low].into_iter().flatten().collect();
    let head_dim = u32::try_from(head_dim).unwrap_or(u32::MAX);
    let plan =
        plan_page_bytes(&formats, head_dim, &PlanOptions { tolerance: TOLERANCE, ..PlanOptions::default() });
    Ok(plan.map_err(|e| ModelError::Refused(e.to_string()))?.page_bytes as usize)
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

/// The configuration of a cache of this choice.
fn config(model: &ModelConfig, choice: &KvChoice, room: &Room) -> Result<CacheConfig, ModelError> {
    let page_bytes = page_bytes(&choice.tiering, model.head_dim)?;
    let extents = [model.layers, model.kv_heads, model.group(), model.head_dim];
    let mut config = CacheConfig {
        tiering: choice.tiering,
        page_bytes,
        policy: choice.policy,
        chunk: room.chunk,
        sinks: choice.always.sinks,
        window: choice.always.window,
        keep_tokens: choice.always.keep,
        window_q: WINDOW_Q.min(room.chunk),
        ..CacheConfig::new(extents, room.requests, room.tokens, 1)
    };
    if let (PolicySpec::SinkWindow, Limit::Part(part)) = (choice.policy, choice.limit) {
        let head_dim = u32::try_from(model.head_dim).unwrap_or(u32::MAX);
        let layout = PageLayout::derive(&choice.tiering.high, head_dim, page_bytes as u32)
            .map_err(|e| ModelError::Refused(e.to_string()))?;
        // The tokens that a part of the prompt's bytes in FP16 pays for.
        let pays = (room.prompt * 4 * model.head_dim) as f64 / f64::from(part);
        let tokens = (pays / layout.account().true_bytes_per_token()) as usize;
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
    let config = config(model.config(), choice, room)?;
    let (kernels, bindings) = match (variant(model, choice), Windows::of(model.config())) {
        (Variant { offset: false, hadamard: false }, None) => {
            (EngineKernels::new(compiler, device, &config)?, None)
        }
        (Variant { offset: false, hadamard: false }, Some(windows)) => {
            let kernels = EngineKernels::of::<Stock, LayerWindow>(compiler, device, &config)?;
            (kernels, Some(Arc::new(windows) as Arc<dyn Bindings>))
        }
        (_, Some(_)) => {
            let why = "variants of keys and layers with a window are not built together: leave +offset and +hadamard out";
            return Err(ModelError::Refused(why.to_owned()));
        }
        (Variant { offset: false, hadamard: true }, None) => {
            (EngineKernels::of::<Hadamard<Stock>, Plain>(compiler, device, &config)?, None)
        }
        (Variant { offset: true, hadamard }, None) => {
            let tables = offset_tables(device, model, room.tokens)?;
            let kernels = match hadamard {
                true => EngineKernels::of::<KeyOffset<Hadamard<Stock>>, Plain>(compiler, device, &config)?,
                false => EngineKernels::of::<KeyOffset<Stock>, Plain>(compiler, device, &config)?,
            };
            (kernels, Some(Arc::new(tables) as Arc<dyn Bindings>))
        }
    };
    Ok(KvCache::with_bindings(device, config, kernels, bindings)?)
}

/// What is done to keys of a choice: what it says, or what suits the model.
fn variant(model: &Model, choice: &KvChoice) -> Variant {
    let codes = |format: KvFormat| format.key.shape().code_bits < 16;
    let biased = (0..model.config().layers)
        .all(|layer| model.key_bias(layer).is_some() && model.rope(layer).pairs() == RopePairs::Halves);
    let offset = biased && choice.tiering.formats().any(codes) && Windows::of(model.config()).is_none();
    choice.variant.unwrap_or(Variant { offset, hadamard: false })
}

/// The rotated biases of a model's key projections.
fn offset_tables(device: &Device, model: &Model, tokens: usize) -> Result<KeyOffsetTables, ModelError> {
    let config = model.config();
    let biases: Option<Vec<Vec<f32>>> =
        (0..config.layers).map(|layer| model.key_bias(layer).map(<[f32]>::to_vec)).collect();
    let Some(biases) = biases else {
        let why = format!("{} has no bias on its keys to take out: leave +offset out", config.name);
        return Err(ModelError::Refused(why));
    };
    if model.rope(0).pairs() != RopePairs::Halves {
        let why = "+offset is written for rotary positions that pair the halves of a vector";
        return Err(ModelError::Refused(why.to_owned()));
    }
    let extents = [config.kv_heads, config.head_dim];
    Ok(KeyOffsetTables::new(device, biases, extents, model.rope(0), tokens)?)
}
