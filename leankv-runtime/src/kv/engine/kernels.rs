//! The engine's kernels, compiled for a device.

use half::{bf16, f16};
use leankv_dsl::diag::Diagnostics;
use leankv_dsl::format::CodecShape;
use leankv_dsl::ir::Func;
use leankv_dsl::lang::attention::{AttentionHooks, Codecs, PagedKv, Plain, Stock, shapes};
use leankv_dsl::lang::{Float, KernelArg};
use leankv_kernels::budget::{BudgetSpec, solve_budget, tally_tokens};
use leankv_kernels::chunk::{
    ChunkSpec, ChunkWriterSpec, ClassifySpec, RecompactSpec, cached_significance, chunk_attention,
    chunk_significance, classify_chunk, recompact, write_chunk,
};
use leankv_kernels::decode::{DecodeSpec, decode_attention, merge_splits};
use leankv_kernels::pattern::HeadPattern;
use leankv_kernels::policy::StockPolicies;
use leankv_kernels::step::{
    AdvancePositionsSpec, InsertSpec, PlanSpec, advance_positions, insert_token, plan_step,
};

use super::{Binds, CacheConfig, Input};
use crate::compiler::{CompileError, Compiler};
use crate::device::Device;
use crate::kernel::Kernel;
use crate::kv::{KvError, ManagerKernels};

/// The kernels of a [`KvCache`](super::KvCache). Clones share the loaded code.
#[derive(Clone, Debug)]
pub struct EngineKernels {
    pub(super) manager: ManagerKernels,
    pub(super) plan: Kernel,
    pub(super) insert: Kernel,
    pub(super) attend: Kernel,
    pub(super) merge: Kernel,
    pub(super) chunk_attend: Kernel,
    pub(super) cached_significance: Kernel,
    pub(super) chunk_significance: Kernel,
    pub(super) classify: Kernel,
    pub(super) write: Kernel,
    pub(super) recompact: Kernel,
    pub(super) tally: Kernel,
    pub(super) solve: Kernel,
    pub(super) advance: Kernel,
}

/// Tokens that a turn of a loop works on.
pub(super) const BLOCK: usize = 32;
/// Tokens of a tile in a chunk's kernels.
pub(super) const BLOCK_CHUNK: usize = 16;
/// Chunk tokens whose queries share a tile.
pub(super) const BLOCK_Q: usize = 16;
/// Tokens that a program writes.
pub(super) const BLOCK_WRITE: usize = 8;
/// Requests that a program moves on by a token.
pub(super) const BLOCK_ADVANCE: usize = 128;
/// Parts into which the pages of a KV head are cut when a chunk adds to their significance.
pub(super) const SPLITS: usize = 4;

impl EngineKernels {
    /// Compiles them for caches of this configuration, or finds them in the compiler's cache.
    ///
    /// # Errors
    /// [`KvError::Shape`] and [`KvError::Compile`].
    pub fn new(compiler: &Compiler, device: &Device, config: &CacheConfig) -> Result<EngineKernels, KvError> {
        EngineKernels::of::<Stock, Plain>(compiler, device, config)
    }

    /// As [`EngineKernels::new`], with a user's codecs and attention hooks. Their parameters come with the launches:
    /// see [`KvCache::with_bindings`](super::KvCache::with_bindings).
    ///
    /// Codecs are asked for those of the formats that [`CacheConfig::tiering`] names. Pages are laid out for these, so bits, groups and metadata
    /// of the codecs are theirs. Kernels that only look at significance and positions (plans, budgets) take no parameters of codecs.
    ///
    /// # Errors
    /// As [`EngineKernels::new`], with [`KvError::Shape`] for a codec of another shape than the format's.
    pub fn of<C, H>(
        compiler: &Compiler,
        device: &Device,
        config: &CacheConfig,
    ) -> Result<EngineKernels, KvError>
    where
        C: Codecs + KernelArg + 'static,
        H: AttentionHooks + KernelArg + 'static,
    {
        check_shapes::<C>(config)?;
        match config.input {
            Input::F16 => EngineKernels::of_input::<C, H, f16>(compiler, device, config),
            Input::Bf16 => EngineKernels::of_input::<C, H, bf16>(compiler, device, config),
            Input::F32 => EngineKernels::of_input::<C, H, f32>(compiler, device, config),
        }
    }

    fn of_input<C, H, E>(
        compiler: &Compiler,
        device: &Device,
        config: &CacheConfig,
    ) -> Result<EngineKernels, KvError>
    where
        C: Codecs + KernelArg + 'static,
        H: AttentionHooks + KernelArg + 'static,
        E: Float,
    {
        let shape = config.shape()?;
        let manager = ManagerKernels::new(compiler, device, &shape)?;
        let build = |func: Result<Func, Diagnostics>| {
            let func = func.map_err(CompileError::Refused)?;
            Ok::<Kernel, KvError>(compiler.kernel(device, &func)?)
        };
        let (tiering, head_dim, page_bytes) = (config.tiering, config.head_dim, config.page_bytes);
        let plan = PlanSpec {
            tiering,
            head_dim,
            page_bytes,
            block: BLOCK,
            policy: config.policy,
            // Checked with the shape: positions have 31 bits.
            window: config.window as i32,
            sinks: config.sinks as i32,
            chunk: config.chunk,
            window_q: config.window_q,
        };
        let decode = DecodeSpec {
            tiering,
            head_dim,
            group: config.group,
            page_bytes,
            block: BLOCK,
            splits: config.splits,
            pattern: HeadPattern::Dense,
            significance: true,
            stages: 1,
        };
        let chunk = ChunkSpec {
            tiering,
            head_dim,
            group: config.group,
            page_bytes,
            block: BLOCK_CHUNK,
            block_q: BLOCK_Q,
            splits: SPLITS,
            stages: 1,
        };
        let classify = ClassifySpec {
            two_tiers: tiering.low.is_some(),
            policy: config.policy,
            window: plan.window,
            sinks: plan.sinks,
            chunk: config.chunk,
            window_q: config.window_q,
            block: 128,
        };
        let compact = RecompactSpec {
            tiering,
            head_dim,
            page_bytes,
            block: 16,
            policy: config.policy,
            window: plan.window,
            sinks: plan.sinks,
            chunk: config.chunk,
            window_q: config.window_q,
        };
        let budget = BudgetSpec {
            tiering,
            head_dim,
            page_bytes,
            block: BLOCK,
            window: plan.window,
            sinks: plan.sinks,
            chunk: config.chunk,
            window_q: config.window_q,
            gap: 16,
        };
        let writer = ChunkWriterSpec { tiering, head_dim, page_bytes, block: BLOCK_WRITE };
        Ok(EngineKernels {
            chunk_attend: build(chunk_attention::<C, H, PagedKv, E>::build(&chunk))?,
            cached_significance: build(cached_significance::<C, H, PagedKv, E>::build(&chunk))?,
            chunk_significance: build(chunk_significance::<H, E>::build(&chunk))?,
            classify: build(classify_chunk::<StockPolicies>::build(&classify))?,
            write: build(write_chunk::<C, E>::build(&writer))?,
            recompact: build(recompact::<C, StockPolicies>::build(&compact))?,
            tally: build(tally_tokens::<Stock>::build(&budget))?,
            solve: build(solve_budget::<Stock>::build(&budget))?,
            advance: build(advance_positions::build(&AdvancePositionsSpec { block: BLOCK_ADVANCE }))?,
            manager,
            plan: build(plan_step::<Stock, StockPolicies>::build(&plan))?,
            insert: build(insert_token::<C, E>::build(&InsertSpec { tiering, head_dim, page_bytes }))?,
            attend: build(decode_attention::<C, H, PagedKv, E>::build(&decode))?,
            merge: build(merge_splits::<H, E>::build(&decode))?,
        })
    }

    /// The kernels that take parameters of a user's codecs or hooks, and which.
    pub(super) fn of_users(&self) -> [(&Kernel, Binds); 8] {
        [
            (&self.insert, Binds::CODECS),
            (&self.attend, Binds::BOTH),
            (&self.merge, Binds::HOOKS),
            (&self.chunk_attend, Binds::BOTH),
            (&self.cached_significance, Binds::BOTH),
            (&self.chunk_significance, Binds::HOOKS),
            (&self.write, Binds::CODECS),
            (&self.recompact, Binds::CODECS),
        ]
    }
}

/// Codecs store rows as the named formats do, which pages are laid out for.
fn check_shapes<C: Codecs + KernelArg>(config: &CacheConfig) -> Result<(), KvError> {
    let text = |shape: CodecShape| {
        let CodecShape { code_bits, groups, meta_words } = shape;
        format!("{code_bits} bits an element, {groups} group(s) and {meta_words} word(s) of metadata each")
    };
    for format in config.tiering.formats() {
        let [keys, values] = shapes::<C>(&format).map_err(CompileError::Refused)?;
        for (side, got, named) in [("keys", keys, format.key), ("values", values, format.value)] {
            if got != named.shape() {
                return Err(KvError::Shape {
                    why: format!(
                        "{side} of {format} have {}, and the codec given for them has {}; name a format whose rows are as the codec's",
                        text(named.shape()),
                        text(got)
                    ),
                });
            }
        }
    }
    Ok(())
}
