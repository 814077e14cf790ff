//! The engine's kernels, compiled for a device.

use leankv_dsl::format::Tiering;
use leankv_dsl::lang::attention::{ChosenCodecs, ChosenHooks, ForLayer, PagedKv};
use leankv_dsl::lang::launch::{Arguments, Name};
use leankv_dsl::lang::{Choices, KernelArg, Settings, Spec, TypedKernel};
use leankv_kernels::basis::{enter_basis, leave_basis};
use leankv_kernels::budget::{
    BudgetSpec, SolveBudgetSpec, make_room, price_tally, solve_budget, tally_tokens,
};
use leankv_kernels::chunk::{
    ChunkSpec, ChunkWriterSpec, ClassifySpec, RecompactSpec, cached_significance, chunk_attention,
    chunk_significance, classify_chunk, recompact, write_chunk,
};
use leankv_kernels::decode::{DecodeSpec, decode_attention, merge_splits};
use leankv_kernels::pattern::HeadPattern;
use leankv_kernels::policy::{ChosenPolicies, Needs};
use leankv_kernels::step::{
    AdvancePositionsSpec, InsertSpec, PlanSpec, advance_positions, insert_token, plan_step,
};

use super::CacheConfig;
use super::basis as basis_of;
use crate::compiler::Compiler;
use crate::device::Device;
use crate::kernel::KernelOf;
use crate::kv::error::different_device;
use crate::kv::{KvError, ManagerKernels};
use crate::launch::{Launch, LaunchError};

/// The kernels of a [`KvCache`](super::KvCache), and what they were built for. Clones share the loaded code.
#[derive(Clone, Debug)]
pub struct EngineKernels {
    device: Device,
    config: CacheConfig,
    pub(super) manager: ManagerKernels,
    pub(super) chunk_significance: KernelOf<chunk_significance<ChosenHooks>>,
    pub(super) solve: KernelOf<solve_budget>,
    pub(super) advance: KernelOf<advance_positions>,
    pub(super) merge: KernelOf<merge_splits<ChosenHooks>>,
    /// Where the cache has another basis than what comes in.
    pub(super) enter: Option<KernelOf<enter_basis>>,
    /// Where attention gives something else than what is wanted.
    pub(super) leave: Option<KernelOf<leave_basis>>,
    /// In the order of [`CacheConfig::tierings`].
    pub(super) tierings: Vec<TieringKernels>,
}

/// The kernels for requests of one tiering.
#[derive(Clone, Debug)]
pub(super) struct TieringKernels {
    pub(super) plan: KernelOf<plan_step<ChosenCodecs, ChosenPolicies>>,
    pub(super) insert: KernelOf<insert_token<ChosenCodecs>>,
    pub(super) attend: KernelOf<decode_attention<ChosenCodecs, ChosenHooks, PagedKv>>,
    pub(super) chunk_attend: KernelOf<chunk_attention<ChosenCodecs, ChosenHooks, PagedKv>>,
    pub(super) cached_significance: KernelOf<cached_significance<ChosenCodecs, ChosenHooks, PagedKv>>,
    pub(super) classify: KernelOf<classify_chunk<ChosenPolicies>>,
    pub(super) write: KernelOf<write_chunk<ChosenCodecs>>,
    pub(super) recompact: KernelOf<recompact<ChosenCodecs, ChosenPolicies>>,
    pub(super) tally: KernelOf<tally_tokens<ChosenCodecs>>,
    pub(super) price: KernelOf<price_tally<ChosenCodecs>>,
    pub(super) room: KernelOf<make_room<ChosenCodecs>>,
}

// Blocks where the compiler has no tuned ones.
/// Tokens that a turn of a loop works on.
const BLOCK: usize = 32;
/// Tokens of a tile in a chunk's kernels.
const BLOCK_CHUNK: usize = 16;
/// Tokens that a program writes.
const BLOCK_WRITE: usize = 8;
/// Requests that a program moves on by a token.
const BLOCK_ADVANCE: usize = 128;
/// Parts into which the pages of a KV head are cut when a chunk adds to their significance.
const SPLITS: usize = 4;

impl EngineKernels {
    /// Compiles them for caches of this configuration, or finds them in the compiler's cache.
    ///
    /// # Errors
    /// [`KvError::Shape`] and [`KvError::Compile`].
    pub fn new(compiler: &Compiler, device: &Device, config: &CacheConfig) -> Result<EngineKernels, KvError> {
        // Before anything is compiled.
        config.check_room(device)?;
        let shape = config.shape()?;
        let choices =
            Choices::new().with(config.codecs.clone()).with(config.hooks.clone()).with(config.policy.clone());
        let build = Build { compiler, device, config, choices };
        let advance = AdvancePositionsSpec { block: BLOCK_ADVANCE };
        let solve = SolveBudgetSpec { page_bytes: config.page_bytes };
        Ok(EngineKernels {
            device: device.clone(),
            config: config.clone(),
            manager: ManagerKernels::new(compiler, device, &shape)?,
            // These two read no page, so that one is for all tierings.
            chunk_significance: build
                .load(&chunk_significance::KERNEL, &build.chunk(*config.formats.usual()))?,
            merge: build.load(&merge_splits::KERNEL, &build.decode(*config.formats.usual()))?,
            solve: build.load(&solve_budget::KERNEL, &solve)?,
            advance: build.load(&advance_positions::KERNEL, &advance)?,
            enter: match config.basis.changes() {
                true => Some(build.load(&enter_basis::KERNEL, &basis_of::spec(config))?),
                false => None,
            },
            leave: match config.output_changes() {
                true => Some(build.load(&leave_basis::KERNEL, &basis_of::spec(config))?),
                false => None,
            },
            tierings: config
                .tierings()
                .into_iter()
                .map(|tiering| build.tiering(tiering))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The kernels whose blocks can be tuned each by itself, by name, with what they are specialised for: for a [`Tuner`](crate::tune::Tuner).
    pub fn specialisations(&self) -> Vec<(String, Settings)> {
        fn of<K: TypedKernel>(kernel: &KernelOf<K>) -> (String, Settings) {
            (kernel.untyped().signature().kernel.clone(), kernel.spec().settings())
        }
        let mut all = self.manager.specialisations();
        all.extend([of(&self.chunk_significance), of(&self.advance)]);
        for kernels in &self.tierings {
            all.extend([
                of(&kernels.plan),
                of(&kernels.attend),
                of(&kernels.chunk_attend),
                of(&kernels.cached_significance),
                of(&kernels.classify),
                of(&kernels.write),
                of(&kernels.recompact),
                of(&kernels.tally),
            ]);
        }
        // Kernels that know no formats are the same for all tierings.
        all.sort();
        all.dedup();
        all
    }

    /// Whether they are for caches of this configuration on this device, and what codecs, hooks and policy give for every layer fits them. How much a cache holds (layers, KV heads, pages, slots, tokens) is
    /// nothing that they depend on.
    pub(super) fn check(&self, device: &Device, config: &CacheConfig) -> Result<(), KvError> {
        let mut differ = differences(&self.config, config);
        if !self.device.same_as(device) {
            differ.insert(0, different_device(&self.device, device));
        }
        if !differ.is_empty() {
            return Err(KvError::OtherKernels { differ });
        }
        for kernels in &self.tierings {
            for layer in 0..config.layers {
                let mut given = Arguments::with_names();
                let (codecs, hooks) = (&config.codecs, &config.hooks);
                ChosenCodecs::give(ForLayer { choice: codecs, layer }, Name::new("codecs"), &mut given);
                ChosenHooks::give(ForLayer { choice: hooks, layer }, Name::new("hooks"), &mut given);
                Launch::check_some(kernels.attend.untyped(), given).map_err(LaunchError::Argument)?;
            }
            let mut given = Arguments::with_names();
            ChosenPolicies::give(&config.policy, Name::new("policies"), &mut given);
            Launch::check_some(kernels.classify.untyped(), given).map_err(LaunchError::Argument)?;
        }
        Ok(())
    }
}

/// What kernels are built with and for.
struct Build<'a> {
    compiler: &'a Compiler,
    device: &'a Device,
    config: &'a CacheConfig,
    choices: Choices,
}

impl Build<'_> {
    fn load<K: TypedKernel>(&self, kernel: &K, spec: &K::Spec) -> Result<KernelOf<K>, KvError> {
        // Neither slots nor tokens: what a request gets does not depend on how much a cache holds, to the bit, and other blocks add in another order.
        let sizes = [("layers", self.config.layers), ("kv_heads", self.config.kv_heads)];
        Ok(self.compiler.load_tuned(self.device, kernel, spec, &self.choices, &sizes)?)
    }

    fn chunk(&self, tiering: Tiering) -> ChunkSpec {
        let CacheConfig { head_dim, group, page_bytes, peaks, window, .. } = *self.config;
        let input = self.config.inner_input();
        ChunkSpec {
            tiering,
            head_dim,
            group,
            input,
            page_bytes,
            block: BLOCK_CHUNK,
            block_q: ChunkSpec::block_q_of(group),
            splits: SPLITS,
            peaks,
            window: window as i32,
            stages: 1,
        }
    }

    fn decode(&self, tiering: Tiering) -> DecodeSpec {
        let CacheConfig { head_dim, group, page_bytes, chunk, window_q, peaks, .. } = *self.config;
        let input = self.config.inner_input();
        DecodeSpec {
            tiering,
            head_dim,
            group,
            input,
            page_bytes,
            block: BLOCK,
            split_pages: self.config.split_pages_on(self.device),
            pattern: HeadPattern::Dense,
            significance: true,
            candidates: self.plans_look(),
            // Checked with the shape: positions have 31 bits.
            window: self.config.window as i32,
            sinks: self.config.sinks as i32,
            chunk,
            window_q,
            peaks,
            stages: 0,
            warps: 0,
            resident: 0,
            subnormal: false,
        }
    }

    /// Whether the policy's plans look at tokens.
    fn plans_look(&self) -> bool {
        self.config.policy.needs() != Needs::NONE
    }

    fn tiering(&self, tiering: Tiering) -> Result<TieringKernels, KvError> {
        let CacheConfig { head_dim, page_bytes, chunk, window_q, peaks, .. } = *self.config;
        let input = self.config.inner_input();
        // A user's policy takes the place of the one that a specialisation names.
        let policy = self.config.policy.stock().unwrap_or_default();
        // Checked with the shape: positions have 31 bits.
        let (window, sinks) = (self.config.window as i32, self.config.sinks as i32);
        let (block, shortlist) = (BLOCK, self.plans_look());
        let plan = PlanSpec {
            tiering,
            head_dim,
            page_bytes,
            block,
            policy,
            window,
            sinks,
            chunk,
            window_q,
            peaks,
            shortlist,
        };
        let two_tiers = tiering.low.is_some();
        let classify = ClassifySpec {
            two_tiers,
            head_dim,
            input,
            policy,
            window,
            sinks,
            chunk,
            window_q,
            peaks,
            block: 128,
        };
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
            peaks,
        };
        let budget =
            BudgetSpec { tiering, head_dim, page_bytes, block: BLOCK, window, sinks, chunk, window_q, peaks };
        let prompt = self.chunk(tiering);
        let writer = ChunkWriterSpec { tiering, head_dim, input, page_bytes, block: BLOCK_WRITE };
        let insert = InsertSpec { tiering, head_dim, input, page_bytes, peaks };
        Ok(TieringKernels {
            plan: self.load(&plan_step::KERNEL, &plan)?,
            insert: self.load(&insert_token::KERNEL, &insert)?,
            attend: self.load(&decode_attention::KERNEL, &self.decode(tiering))?,
            chunk_attend: self.load(&chunk_attention::KERNEL, &prompt)?,
            cached_significance: self.load(&cached_significance::KERNEL, &prompt)?,
            classify: self.load(&classify_chunk::KERNEL, &classify)?,
            write: self.load(&write_chunk::KERNEL, &writer)?,
            recompact: self.load(&recompact::KERNEL, &compact)?,
            tally: self.load(&tally_tokens::KERNEL, &budget)?,
            price: self.load(&price_tally::KERNEL, &budget)?,
            room: self.load(&make_room::KERNEL, &budget)?,
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
        output,
        formats: _,
        more_formats: _,
        page_bytes,
        pages: _,
        slots: _,
        max_tokens: _,
        chunk,
        window_q,
        window,
        sinks,
        peaks,
        priors: _,
        basis,
        policy,
        codecs,
        hooks,
        split_pages: _,
        gap: _,
        solve_every: _,
        defer_demotion: _,
        shared_budget: _,
        keep_tokens: _,
    } = built;
    let tierings = |config: &CacheConfig| {
        config.tierings().iter().map(Tiering::to_string).collect::<Vec<_>>().join(", ")
    };
    let pages = |config: &CacheConfig| {
        config.split_pages.map_or("the device's".to_owned(), |pages| pages.to_string())
    };
    fn field<T: PartialEq + std::fmt::Display>(name: &str, built: &T, asked: &T) -> Option<String> {
        let text = |value: &T| Some(value.to_string()).filter(|text| !text.is_empty());
        let [built_text, asked_text] = [built, asked].map(|value| text(value).unwrap_or("none".to_owned()));
        // Two values of a user's may have one name.
        let other = if built_text == asked_text { "another one of that name".to_owned() } else { asked_text };
        (built != asked).then(|| format!("{name} ({built_text}, not {other})"))
    }
    let fields = [
        field("group", group, &asked.group),
        field("head_dim", head_dim, &asked.head_dim),
        field("input", input, &asked.input),
        field("output", output, &asked.output),
        field("tierings", &tierings(built), &tierings(asked)),
        field("page_bytes", page_bytes, &asked.page_bytes),
        field("chunk", chunk, &asked.chunk),
        field("window_q", window_q, &asked.window_q),
        field("window", window, &asked.window),
        field("sinks", sinks, &asked.sinks),
        field("peaks", peaks, &asked.peaks),
        // Kernels do not depend on what the means are.
        field("basis", &basis.to_string(), &asked.basis.to_string()),
        field("policy", policy, &asked.policy),
        field("codecs", codecs, &asked.codecs),
        field("hooks", hooks, &asked.hooks),
        field("split_pages", &pages(built), &pages(asked)),
    ];
    fields.into_iter().flatten().collect()
}
