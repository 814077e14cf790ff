//! The engine's kernels, compiled for a device.

use half::{bf16, f16};
use leankv_dsl::diag::Diagnostics;
use leankv_dsl::format::{CodecShape, Tiering};
use leankv_dsl::ir::Func;
use leankv_dsl::lang::attention::{AttentionHooks, Checked, Codecs, PagedKv, Plain, Stock, shapes};
use leankv_dsl::lang::{Float, KernelArg};
use leankv_kernels::budget::{
    BudgetSpec, SolveBudgetSpec, make_room, price_tally, solve_budget, tally_tokens,
};
use leankv_kernels::chunk::{
    ChunkSpec, ChunkWriterSpec, ClassifySpec, RecompactSpec, cached_significance, chunk_attention,
    chunk_significance, classify_chunk, recompact, write_chunk,
};
use leankv_kernels::decode::{DecodeSpec, decode_attention, merge_splits};
use leankv_kernels::pattern::HeadPattern;
use leankv_kernels::policy::{Needs, StockPolicies};
use leankv_kernels::step::{
    AdvancePositionsSpec, InsertSpec, PlanSpec, advance_positions, insert_token, plan_step,
};

use super::{Binds, CacheConfig, Input};
use crate::compiler::{CompileError, Compiler};
use crate::device::Device;
use crate::kernel::Kernel;
use crate::kv::error::different_device;
use crate::kv::{KvError, ManagerKernels};

/// The kernels of a [`KvCache`](super::KvCache), and what they were built for. Clones share the loaded code.
#[derive(Clone, Debug)]
pub struct EngineKernels {
    device: Device,
    config: CacheConfig,
    pub(super) manager: ManagerKernels,
    pub(super) chunk_significance: Kernel,
    pub(super) solve: Kernel,
    pub(super) advance: Kernel,
    pub(super) merge: Kernel,
    /// In the order of [`CacheConfig::tierings`].
    pub(super) tierings: Vec<TieringKernels>,
}

/// The kernels for requests of one tiering.
#[derive(Clone, Debug)]
pub(super) struct TieringKernels {
    pub(super) plan: Kernel,
    pub(super) insert: Kernel,
    pub(super) attend: Kernel,
    pub(super) chunk_attend: Kernel,
    pub(super) cached_significance: Kernel,
    pub(super) classify: Kernel,
    pub(super) write: Kernel,
    pub(super) recompact: Kernel,
    pub(super) tally: Kernel,
    pub(super) price: Kernel,
    pub(super) room: Kernel,
}

/// Tokens that a turn of a loop works on.
pub(super) const BLOCK: usize = 32;
/// Tokens of a tile in a chunk's kernels.
pub(super) const BLOCK_CHUNK: usize = 16;
/// Tokens that a program writes.
pub(super) const BLOCK_WRITE: usize = 8;
/// Requests that a program moves on by a token.
pub(super) const BLOCK_ADVANCE: usize = 128;
/// Parts into which the pages of a KV head are cut when a chunk adds to their significance.
pub(super) const SPLITS: usize = 4;
/// Edges between the thresholds that a budget chooses: a factor of 16.
pub(super) const GAP: i32 = 16;

impl EngineKernels {
    /// Compiles them for caches of this configuration, or finds them in the compiler's cache.
    ///
    /// # Errors
    /// [`KvError::Shape`] and [`KvError::Compile`].
    pub fn new(compiler: &Compiler, device: &Device, config: &CacheConfig) -> Result<EngineKernels, KvError> {
        EngineKernels::build::<Stock, Plain>(compiler, device, config)
    }

    /// As [`EngineKernels::new`], with a user's codecs and attention hooks. Their parameters come with the launches:
    /// see [`KvCache::with_bindings`](super::KvCache::with_bindings).
    ///
    /// Whatever codecs and hooks do, they stay within the buffers that their views were given: see [`Checked`]. For that they take
    /// views and numbers; kernels that need raw pointers are built with [`EngineKernels::of_trusted`].
    ///
    /// Codecs are asked for those of the formats that [`CacheConfig::tierings`] name. Pages are laid out for these, so bits, groups and metadata
    /// of the codecs are theirs. Kernels that only look at significance and positions (plans, budgets) take no parameters of codecs.
    ///
    /// # Errors
    /// As [`EngineKernels::new`], with [`KvError::Shape`] for a codec of another shape than the format's, and [`KvError::Compile`], at the line, for
    /// a parameter that is a raw pointer or memory to write.
    pub fn of<C, H>(
        compiler: &Compiler,
        device: &Device,
        config: &CacheConfig,
    ) -> Result<EngineKernels, KvError>
    where
        C: Codecs + KernelArg + 'static,
        H: AttentionHooks + KernelArg + 'static,
    {
        // Checked codecs have the format's shape whatever they say.
        config.check_room(device)?;
        check_shapes::<C>(config)?;
        EngineKernels::build::<Checked<C>, Checked<H>>(compiler, device, config)
    }

    /// As [`EngineKernels::of`], without its checks: codecs and hooks may take raw pointers and memory to write, and single elements of views are
    /// read without a comparison.
    ///
    /// # Errors
    /// As [`EngineKernels::of`].
    ///
    /// # Safety
    /// In every launch that the cache makes, with the [`Bindings`](super::Bindings) that it is given, codecs and hooks
    ///
    /// * read and write within the buffers given for their parameters: through pointers, by `get`, `set` and `at` of views, whatever
    ///   positions, codes and numbers they meet;
    /// * write nothing that another program of the launch reads or writes;
    /// * and a codec's `shape` is always the same.
    pub unsafe fn of_trusted<C, H>(
        compiler: &Compiler,
        device: &Device,
        config: &CacheConfig,
    ) -> Result<EngineKernels, KvError>
    where
        C: Codecs + KernelArg + 'static,
        H: AttentionHooks + KernelArg + 'static,
    {
        EngineKernels::build::<C, H>(compiler, device, config)
    }

    fn build<C, H>(
        compiler: &Compiler,
        device: &Device,
        config: &CacheConfig,
    ) -> Result<EngineKernels, KvError>
    where
        C: Codecs + KernelArg + 'static,
        H: AttentionHooks + KernelArg + 'static,
    {
        // Before anything is compiled.
        config.check_room(device)?;
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
        let build = Build { compiler, device, config };
        let advance = AdvancePositionsSpec { block: BLOCK_ADVANCE };
        let solve = SolveBudgetSpec { page_bytes: config.page_bytes };
        Ok(EngineKernels {
            device: device.clone(),
            config: config.clone(),
            manager: ManagerKernels::new(compiler, device, &shape)?,
            // These two read no page, so that one is for all tierings.
            chunk_significance: build
                .kernel(chunk_significance::<H, E>::build(&build.chunk(config.tiering)))?,
            merge: build.kernel(merge_splits::<H, E>::build(&build.decode(config.tiering)))?,
            solve: build.kernel(solve_budget::build(&solve))?,
            advance: build.kernel(advance_positions::build(&advance))?,
            tierings: config
                .tierings()
                .map(|&tiering| build.tiering::<C, H, E>(tiering))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether they are for caches of this configuration on this device. How much a cache holds (layers, KV heads, pages, slots, tokens) is
    /// nothing that they depend on.
    pub(super) fn check(&self, device: &Device, config: &CacheConfig) -> Result<(), KvError> {
        let mut differ = differences(&self.config, config);
        if !self.device.same_as(device) {
            differ.insert(0, different_device(&self.device, device));
        }
        if differ.is_empty() { Ok(()) } else { Err(KvError::OtherKernels { differ }) }
    }

    /// The kernels that take parameters of a user's codecs or hooks, and which.
    pub(super) fn of_users(&self) -> Vec<(&Kernel, Binds)> {
        let mut all = vec![(&self.chunk_significance, Binds::HOOKS), (&self.merge, Binds::HOOKS)];
        for kernels in &self.tierings {
            all.extend([
                (&kernels.insert, Binds::CODECS),
                (&kernels.attend, Binds::BOTH),
                (&kernels.chunk_attend, Binds::BOTH),
                (&kernels.cached_significance, Binds::BOTH),
                (&kernels.write, Binds::CODECS),
                (&kernels.recompact, Binds::CODECS),
            ]);
        }
        all
    }
}

/// What kernels are built with and for.
struct Build<'a> {
    compiler: &'a Compiler,
    device: &'a Device,
    config: &'a CacheConfig,
}

impl Build<'_> {
    fn kernel(&self, func: Result<Func, Diagnostics>) -> Result<Kernel, KvError> {
        let func = func.map_err(CompileError::Refused)?;
        Ok(self.compiler.kernel(self.device, &func)?)
    }

    fn chunk(&self, tiering: Tiering) -> ChunkSpec {
        let CacheConfig { head_dim, group, page_bytes, .. } = *self.config;
        ChunkSpec {
            tiering,
            head_dim,
            group,
            page_bytes,
            block: BLOCK_CHUNK,
            block_q: ChunkSpec::block_q_of(group),
            splits: SPLITS,
            stages: 1,
        }
    }

    fn decode(&self, tiering: Tiering) -> DecodeSpec {
        let CacheConfig { head_dim, group, page_bytes, splits, chunk, window_q, .. } = *self.config;
        DecodeSpec {
            tiering,
            head_dim,
            group,
            page_bytes,
            block: BLOCK,
            splits,
            pattern: HeadPattern::Dense,
            significance: true,
            candidates: self.plans_look(),
            // Checked with the shape: positions have 31 bits.
            window: self.config.window as i32,
            sinks: self.config.sinks as i32,
            chunk,
            window_q,
            stages: 1,
        }
    }

    /// Whether the policy's plans look at tokens.
    fn plans_look(&self) -> bool {
        self.config.policy.math().needs() != Needs::NONE
    }

    fn tiering<C, H, E>(&self, tiering: Tiering) -> Result<TieringKernels, KvError>
    where
        C: Codecs + KernelArg + 'static,
        H: AttentionHooks + KernelArg + 'static,
        E: Float,
    {
        let CacheConfig { head_dim, page_bytes, policy, chunk, window_q, .. } = *self.config;
        // Checked with the shape: positions have 31 bits.
        let (window, sinks) = (self.config.window as i32, self.config.sinks as i32);
        let splits = if self.plans_look() { self.config.splits } else { 0 };
        let block = BLOCK;
        let plan =
            PlanSpec { tiering, head_dim, page_bytes, block, policy, window, sinks, chunk, window_q, splits };
        let two_tiers = tiering.low.is_some();
        let classify = ClassifySpec { two_tiers, policy, window, sinks, chunk, window_q, block: 128 };
        let compact = RecompactSpec {
            tiering,
            head_dim,
            page_bytes,
            block: 16,
            policy,
            window,
            sinks,
            chunk,
            window_q,
        };
        let budget =
            BudgetSpec { tiering, head_dim, page_bytes, block: BLOCK, window, sinks, chunk, window_q };
        let prompt = self.chunk(tiering);
        let writer = ChunkWriterSpec { tiering, head_dim, page_bytes, block: BLOCK_WRITE };
        Ok(TieringKernels {
            plan: self.kernel(plan_step::<Stock, StockPolicies>::build(&plan))?,
            insert: self.kernel(insert_token::<C, E>::build(&InsertSpec {
                tiering,
                head_dim,
                page_bytes,
            }))?,
            attend: self.kernel(decode_attention::<C, H, PagedKv, E>::build(&self.decode(tiering)))?,
            chunk_attend: self.kernel(chunk_attention::<C, H, PagedKv, E>::build(&prompt))?,
            cached_significance: self.kernel(cached_significance::<C, H, PagedKv, E>::build(&prompt))?,
            classify: self.kernel(classify_chunk::<StockPolicies>::build(&classify))?,
            write: self.kernel(write_chunk::<C, E>::build(&writer))?,
            recompact: self.kernel(recompact::<C, StockPolicies>::build(&compact))?,
            tally: self.kernel(tally_tokens::<Stock>::build(&budget))?,
            price: self.kernel(price_tally::<Stock>::build(&budget))?,
            room: self.kernel(make_room::<Stock>::build(&budget))?,
        })
    }
}

/// What kernels depend on and the two do not agree about: each field with what the kernels were built for, and what is asked for. A field of
/// [`CacheConfig`] is named here as one or the other.
fn differences(built: &CacheConfig, asked: &CacheConfig) -> Vec<String> {
    let CacheConfig {
        layers: _,
        kv_heads: _,
        group,
        head_dim,
        input,
        tiering: _,
        more_tierings: _,
        page_bytes,
        pages: _,
        slots: _,
        max_tokens: _,
        chunk,
        window_q,
        window,
        sinks,
        policy,
        splits,
        solve_every: _,
        shared_budget: _,
        keep_tokens: _,
    } = built;
    let tierings =
        |config: &CacheConfig| config.tierings().map(Tiering::to_string).collect::<Vec<_>>().join(", ");
    let fields: [(&str, String, String); 11] = [
        ("group", group.to_string(), asked.group.to_string()),
        ("head_dim", head_dim.to_string(), asked.head_dim.to_string()),
        ("input", input.to_string(), asked.input.to_string()),
        ("tierings", tierings(built), tierings(asked)),
        ("page_bytes", page_bytes.to_string(), asked.page_bytes.to_string()),
        ("chunk", chunk.to_string(), asked.chunk.to_string()),
        ("window_q", window_q.to_string(), asked.window_q.to_string()),
        ("window", window.to_string(), asked.window.to_string()),
        ("sinks", sinks.to_string(), asked.sinks.to_string()),
        ("policy", format!("{policy:?}"), format!("{:?}", asked.policy)),
        ("splits", splits.to_string(), asked.splits.to_string()),
    ];
    let differ = fields.into_iter().filter(|(_, built, asked)| built != asked);
    differ.map(|(field, built, asked)| format!("{field} ({built}, not {asked})")).collect()
}

/// Codecs store rows as the named formats do, which pages are laid out for.
fn check_shapes<C: Codecs + KernelArg>(config: &CacheConfig) -> Result<(), KvError> {
    let text = |shape: CodecShape| {
        let CodecShape { code_bits, groups, meta_words } = shape;
        format!("{code_bits} bits an element, {groups} group(s) and {meta_words} word(s) of metadata each")
    };
    for format in config.tierings().flat_map(Tiering::formats) {
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
