//! The prompt side of the cache: one chunk of one request's prompt in one layer.
//!
//! | step | kernel |
//! |---|---|
//! | the chunk attends to what is cached and, causally, to itself | [`chunk_attention`](fn@chunk_attention) |
//! | its counted queries add to the significance of cached tokens | [`cached_significance`](fn@cached_significance) |
//! | and are the significance that its own tokens start with | [`chunk_significance`](fn@chunk_significance) |
//! | each of its tokens gets a tier and a place | [`classify_chunk`](fn@classify_chunk) |
//! | keys and values are encoded into pages of both tiers | [`write_chunk`](fn@write_chunk) |
//! | what was cached before is demoted or dropped, in all layers | [`recompact`](fn@recompact) |
//!
//! A chunk sees exactly what a decode step would see: cached tokens as they are stored, so prompts of any length take bounded memory.

mod attention;
mod classify;
mod compact;
mod significance;
mod write;

use half::f16;
use leankv_dsl::format::Tiering;
use leankv_dsl::lang::attention::{AttentionHooks, Codecs, Site, Tiers};
use leankv_dsl::lang::*;

use crate::members::possible;

pub use attention::{ChunkAttentionArgs, chunk_attention};
pub use classify::{ClassifyChunkArgs, ClassifySpec, classify_chunk};
pub use compact::{RecompactArgs, RecompactSpec, recompact};
pub use significance::{
    CachedSignificanceArgs, ChunkSignificanceArgs, cached_significance, chunk_significance,
};
pub use write::{ChunkWriterSpec, WriteChunkArgs, write_chunk};

/// Tierings of the declared specialisations: two tiers, and none compressed.
fn few_tierings() -> [Tiering; 2] {
    ["K8V4/K4V2", "fp16"].map(|name| name.parse().expect("these are names of tierings"))
}

/// Specialisation of [`chunk_attention`](fn@chunk_attention), [`cached_significance`](fn@cached_significance) and
/// [`chunk_significance`](fn@chunk_significance).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
#[spec(valid = |s| s.group >= 1 && s.block_q >= 1 && s.splits >= 1 && s.window >= 0)]
pub struct ChunkSpec {
    /// Formats of the tiers, such as `K8V4/K4V2`.
    #[spec(default = few_tierings()[0], values = few_tierings())]
    pub tiering: Tiering,
    /// Elements of a vector.
    #[spec(default = 128)]
    pub head_dim: usize,
    /// Type of queries, keys and values.
    #[spec(default = FloatType::F16)]
    pub input: FloatType,
    /// Query heads that share a KV head.
    #[spec(default = 4, values = [1, 4])]
    pub group: usize,
    /// Bytes of a page.
    #[spec(default = 6784)]
    pub page_bytes: usize,
    /// Tokens of a tile, cached or of the chunk.
    #[spec(default = 16, tune = [8, 16, 32, 64])]
    pub block: usize,
    /// Chunk tokens whose queries share a tile: `block_q * group` rows.
    #[spec(default = 16, tune = [4, 8, 16, 32, 64])]
    pub block_q: usize,
    /// Parts into which [`cached_significance`](fn@cached_significance) cuts the pages of a KV head.
    #[spec(default = 4, tune = [1, 2, 4, 8, 16])]
    pub splits: usize,
    /// Weight of tokens' peaks in their scores, in thousandths; 0 keeps none ([`Peaks`](crate::policy::Peaks)).
    #[spec(default = 0)]
    pub peaks: u32,
    /// Tokens of the recent window: a query raises the peaks of tokens behind it.
    #[spec(default = 64)]
    pub window: i32,
    /// Depth of the software pipeline.
    #[spec(default = 2, tune = [1, 2, 3])]
    pub stages: usize,
}

impl ChunkSpec {
    /// Most rows of a tile of queries: more would not fit a program's registers.
    pub const MAX_ROWS: usize = 256;

    /// How many chunk tokens share a tile, for groups of this size: few where each has many query heads.
    #[must_use]
    pub const fn block_q_of(group: usize) -> usize {
        match group {
            0..=16 => 16,
            17..=128 => 128 / group,
            _ => 1,
        }
    }

    /// Whether the kernels are built for this; reported at the caller's line when they are not.
    #[track_caller]
    fn possible(&self) -> bool {
        let (block_q, group, most) = (self.block_q, self.group, ChunkSpec::MAX_ROWS);
        let rows = block_q.saturating_mul(group);
        let what = format!(
            "{block_q} tokens of {group} query heads are {rows} rows of queries; at most {most} are possible: take fewer tokens (block_q)"
        );
        possible(self.head_dim, group) && static_assert(rows <= most, what)
    }

    #[track_caller]
    fn tiers(&self, codecs: &dyn Codecs) -> Option<Tiers> {
        if !self.possible() {
            return None;
        }
        Tiers::new(codecs, &self.tiering, self.head_dim, self.page_bytes, self.block)
    }

    /// Rows of a tile of queries.
    fn rows(&self) -> usize {
        self.block_q * self.group
    }
}

/// Whether a tile of queries is read once more. Products with each kind of keys want queries spread over threads in a way of their own;
/// a program that holds all of these at a time runs out of registers, and reads that differ are not made one.
#[derive(Clone, Copy, Debug)]
enum Read {
    First,
    Again,
    Last,
}

/// A tile of the chunk's queries: those of a KV head's group next to each other.
#[derive(Clone, Copy, Debug)]
struct Queries {
    /// As the hooks left them, `[rows, head_dim]`.
    q: Tile<f16, 2>,
    /// Their numbers among the queries, `[rows]`.
    numbers: Tile<i32, 1>,
    /// Position of the first query that there is.
    before: Scalar<i32>,
    /// Which query head of the group each is, `[rows]`.
    members: Tile<i32, 1>,
    /// The KV head.
    head: Scalar<i32>,
}

impl Queries {
    /// The queries from number `first` on; the first that there is has position `before`.
    #[track_caller]
    fn load(
        spec: &ChunkSpec,
        q: FloatView<3>,
        read: Read,
        before: Scalar<i32>,
        first: Scalar<i32>,
        head: Scalar<i32>,
        hooks: &dyn AttentionHooks,
    ) -> Queries {
        let extents = [spec.block_q, spec.group, spec.head_dim];
        let q = q.with_extent(2, spec.head_dim).tile((element(first), head, 0), extents);
        let q = match read {
            Read::First => q.keep().load(),
            Read::Again => q.load(),
            Read::Last => q.streaming().load(),
        };
        let rows = iota(spec.rows());
        let group = spec.group as i32;
        Queries {
            q: hooks.query(q.reshape([spec.rows(), spec.head_dim])),
            numbers: first + rows / group,
            before,
            members: rows % group,
            head,
        }
    }

    /// Scaled logits `[rows, keys]` from products with keys at `positions`, minus infinity where not `seen`.
    #[track_caller]
    fn logits(
        &self,
        products: Tile<f32, 2>,
        positions: Tile<i32, 1>,
        seen: Tile<bool, 2>,
        scale: Scalar<f32>,
        hooks: &dyn AttentionHooks,
    ) -> Tile<f32, 2> {
        let queries = self.before + self.numbers;
        let site = Site { request: lit(0), head: self.head, queries, members: self.members, keys: positions };
        let logits = hooks.key_logits(products, self.q, &site) * scale;
        let logits = hooks.logits(logits, &site);
        let seen = hooks.mask(&site).map_or(seen, |mask| mask & seen);
        seen.broadcast(logits.extents()).select(logits, f32::NEG_INFINITY)
    }
}
