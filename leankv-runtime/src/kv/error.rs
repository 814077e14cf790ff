//! What can go wrong with a cache.

use super::RequestId;
use crate::compiler::CompileError;
use crate::device::{Device, DeviceError};
use crate::launch::LaunchError;
use leankv_dsl::lang::FloatType;

/// There are too few free pages. The request that lacked them took none, and no token was touched; requests of the same batch that were
/// granted keep what they took. It can be tried again when others gave pages back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of pages: {need} are needed and {free} are free; free or preempt a request and try again")]
pub struct OutOfPages {
    /// Pages that the request lacked, or in all the requests of a batch that lacked some.
    pub need: usize,
    /// Pages that are free now.
    pub free: usize,
}

/// Why a request was not given pages. It took none; what it gave back it gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too few are free.
    #[error(transparent)]
    OutOfPages(#[from] OutOfPages),
    /// A target is below -1, or more pages are wanted than a row of the page table has entries.
    #[error("more pages are wanted for one KV head than a row of the page table holds, which is {table_len}")]
    TableFull {
        /// Entries of a row.
        table_len: usize,
    },
}

/// A cache's refusal.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KvError {
    /// Extents that cannot be.
    #[error("a cache of this shape cannot be: {why}")]
    Shape {
        /// Which, and what is possible.
        why: String,
    },
    /// Kernels that were built for caches of another configuration, or on another device.
    #[error(
        "these kernels were built for another cache: {}; build kernels with the configuration and device of the cache",
        differ.join(", ")
    )]
    OtherKernels {
        /// The fields that differ, each with what the kernels were built for and what was asked for.
        differ: Vec<String>,
    },
    /// A slot that does not exist.
    #[error("slot {slot} does not exist; there are {slots}, numbered from 0")]
    NoSlot {
        /// The slot asked for.
        slot: usize,
        /// How many there are.
        slots: usize,
    },
    /// A slot named twice in one call.
    #[error("slot {slot} is named twice in one call")]
    SlotTwice {
        /// The slot.
        slot: usize,
    },
    /// A slot for a new request holds pages.
    #[error("slot {slot} holds pages of another request; free it first")]
    SlotInUse {
        /// The slot.
        slot: usize,
    },
    /// All slots hold requests.
    #[error("all {slots} slots hold requests; free one first")]
    NoSlotFree {
        /// How many there are.
        slots: usize,
    },
    /// A handle of a request that ended, or of another cache.
    #[error("{id} is not here any more")]
    NoRequest {
        /// The handle.
        id: RequestId,
    },
    /// Formats that the cache was not made for.
    #[error(
        "no kernels for requests in {asked}; the cache was made for {known}: add it to `CacheConfig::more_formats`"
    )]
    NoFormats {
        /// What was asked for.
        asked: String,
        /// What the cache knows.
        known: String,
    },
    /// A request whose last step was left in its middle.
    #[error("{id} was left in the middle of a step and can only be freed")]
    Torn {
        /// The request.
        id: RequestId,
    },
    /// A prompt that is not there yet.
    #[error("{left} tokens of the prompt of {id} are missing; give them in chunks first")]
    PromptPending {
        /// The request.
        id: RequestId,
        /// Tokens that are missing.
        left: usize,
    },
    /// A prompt that is there already.
    #[error("the prompt of {id} is there; what follows are decode steps")]
    PromptDone {
        /// The request.
        id: RequestId,
    },
    /// A sequence that is as long as it can be.
    #[error("{id} has {tokens} tokens, which is all that the cache was made for")]
    Full {
        /// The request.
        id: RequestId,
        /// Its tokens.
        tokens: usize,
    },
    /// Queries, keys and values of another element type.
    #[error("the cache takes queries, keys and values of {expected}, not {got}; set `CacheConfig::input`")]
    Input {
        /// What the cache was made for.
        expected: FloatType,
        /// What was given.
        got: FloatType,
    },
    /// Attention gives another element type than is wanted.
    #[error(
        "attention gives {expected} here, not {got}; set `CacheConfig::output`, and take other types than f32 by `KvCache::layer`"
    )]
    Output {
        /// What the cache was made for.
        expected: FloatType,
        /// What was wanted.
        got: FloatType,
    },
    /// A step that was ended, or given up when another one was begun.
    #[error("this step is not under way any more: it was ended, or another one was begun; begin a new one")]
    NoStep,
    /// Memory that does not start where kernels can read it.
    #[error(
        "{what} must start at multiples of {multiple} bytes, and {bytes} is none; take memory that is aligned"
    )]
    Unaligned {
        /// Rows of which tensor, or the arena.
        what: &'static str,
        /// Address of the first byte, or distance between rows.
        bytes: u64,
        /// What it must be a multiple of.
        multiple: u64,
    },
    /// A step to be replayed is not that of the last batch.
    #[error(
        "only a step of the same requests as the last one can be replayed; take this one with `decode_step`"
    )]
    NotReplayable,
    /// A budget of bytes that cannot be kept, of a request or of all that share one: no threshold takes window and sinks away.
    #[error(
        "what is always kept, window and sinks, takes {need} bytes, and the budget has {bytes}: raise it, make the window smaller, or free a \
         request that shares it"
    )]
    OverBudget {
        /// Bytes of pages that are needed.
        need: usize,
        /// Bytes that may be taken.
        bytes: usize,
    },
    /// A list of numbers of the wrong length.
    #[error("{what}: {expected} numbers are needed, not {got}")]
    Length {
        /// What they are, with their shape.
        what: &'static str,
        /// Numbers needed.
        expected: usize,
        /// Numbers given.
        got: usize,
    },
    /// Thresholds that mean nothing.
    #[error(
        "thresholds {high} (high) and {low} (low): {why}; they are multiples of 1 / tokens, such as 1 and 0.02"
    )]
    Threshold {
        /// The high one.
        high: f32,
        /// The low one.
        low: f32,
        /// What is wrong with them.
        why: &'static str,
    },
    /// An override of thresholds for a layer or a KV head that does not exist.
    #[error(
        "thresholds are given for {}, and there are {layers} layers of {kv_heads} KV heads, both numbered from 0",
        match kv_head {
            Some(head) => format!("KV head {head} of layer {layer}"),
            None => format!("layer {layer}"),
        }
    )]
    NoHead {
        /// The layer of the override.
        layer: usize,
        /// Its KV head; none for all of the layer's.
        kv_head: Option<usize>,
        /// Layers of the cache.
        layers: usize,
        /// KV heads of a layer.
        kv_heads: usize,
    },
    /// Formats of a layer that does not exist.
    #[error("formats are given for layer {layer}, and there are {layers} layers, numbered from 0")]
    NoLayer {
        /// The layer that is named.
        layer: usize,
        /// Layers of the cache.
        layers: usize,
    },
    /// A budget that means nothing.
    #[error("a budget of {why}: give bytes of at least 1, a part of FP16 such as 5.0 for a fifth, or none")]
    Budget {
        /// What was asked for.
        why: String,
    },
    /// A request was refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A kernel does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A launch failed.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// An earlier launch failed half-way, so what the device holds is not known.
    #[error("the cache stopped after a failed launch ({why}); make a new one and admit its requests again")]
    Poisoned {
        /// The first failure.
        why: String,
    },
}

impl KvError {
    pub(super) fn other_device(built: &Device, asked: &Device) -> KvError {
        KvError::OtherKernels { differ: vec![different_device(built, asked)] }
    }
}

/// That kernels are on one device and the cache on another. Two devices may have one name.
pub(in crate::kv) fn different_device(built: &Device, asked: &Device) -> String {
    match (built.name(), asked.name()) {
        (built, asked) if built == asked => format!("device (another {built})"),
        (built, asked) => format!("device ({built}, not {asked})"),
    }
}
