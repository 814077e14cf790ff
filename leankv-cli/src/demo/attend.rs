//! One layer through the kernels: prompt into pages, decode attention, merge of the splits.

use std::time::Instant;

use half::f16;
use leankv_dsl::format::{KvFormat, PageLayout, Tiering};
use leankv_dsl::lang::attention::{ALL_PAGES, PagedKv, PagedKvArgs, Plain, Stock};
use leankv_dsl::lang::{Settings, Spec};
use leankv_kernels::candidates::{
    FindsArgs, LookingArgs, SHORTLIST_COLUMNS, ShortlistMutArgs, ShortlistState,
};
use leankv_kernels::chunk::{ChunkWriterSpec, WriteChunkArgs, write_chunk};
use leankv_kernels::decode::{
    DecodeAttentionArgs, DecodeSpec, MergeSplitsArgs, PartialsArgs, decode_attention, merge_splits,
};
use leankv_kernels::pattern::HeadPattern;
use leankv_kernels::pending::{PendingArgs, PendingMutArgs};
use leankv_runtime::{Compiler, Device, DeviceBuffer, KernelOf};

use super::data::{Layer, Recorded};
use crate::failure::Failure;

/// Tokens that one program of the chunk writer packs, and one turn of the attention loop reads.
const BLOCK: usize = 32;

/// The timed launches; the fastest counts, since noise only adds.
const REPEATS: usize = 7;

/// Decode attention over pages, without anything of a user's.
pub(super) type Decode = decode_attention<Stock, Plain, PagedKv>;

/// The kernels of one format, loaded on a device.
pub(super) struct Kernels {
    layout: PageLayout,
    write: KernelOf<write_chunk<Stock>>,
    decode: KernelOf<Decode>,
    merge: KernelOf<merge_splits<Plain>>,
}

/// What one layer gave.
pub(super) struct Attended {
    /// `[queries, query_heads, head_dim]`.
    pub(super) out: Vec<f32>,
    /// Microseconds of decode attention and merge, for one query of all heads.
    pub(super) us_per_query: f64,
    /// Bytes of the pages that hold the layer.
    pub(super) page_bytes: u64,
}

/// The decode kernel's specialisation for a format.
pub(super) fn decode_spec(recorded: &Recorded, format: KvFormat, page_bytes: u32) -> DecodeSpec {
    DecodeSpec {
        tiering: Tiering::single(format),
        head_dim: recorded.head_dim,
        group: recorded.group(),
        page_bytes: page_bytes as usize,
        block: BLOCK,
        // The recorded queries are of different positions, and each sees the tokens up to its own.
        pattern: HeadPattern::Causal,
        ..usual()
    }
}

/// The specialisation with nothing but defaults.
fn usual<S: Spec>() -> S {
    S::from_settings(&Settings::default()).expect("every field has a default")
}

impl Kernels {
    /// Records, compiles (or finds) and loads the kernels of `format`.
    pub(super) fn load(
        compiler: &Compiler,
        device: &Device,
        recorded: &Recorded,
        format: KvFormat,
        page_bytes: u32,
    ) -> Result<Kernels, Failure> {
        let layout =
            PageLayout::derive(&format, recorded.head_dim as u32, page_bytes).map_err(Failure::usage)?;
        let writer = ChunkWriterSpec {
            tiering: Tiering::single(format),
            head_dim: recorded.head_dim,
            page_bytes: page_bytes as usize,
            block: BLOCK,
            ..usual()
        };
        // There are more programs than this machine has cores without splits.
        let attention = DecodeSpec { split_pages: ALL_PAGES, ..decode_spec(recorded, format, page_bytes) };
        Ok(Kernels {
            layout,
            write: compiler.load(device, &write_chunk::KERNEL, &writer).map_err(Failure::kernel)?,
            decode: compiler.load(device, &Decode::KERNEL, &attention).map_err(Failure::kernel)?,
            merge: compiler.load(device, &merge_splits::KERNEL, &attention).map_err(Failure::kernel)?,
        })
    }

    /// Packs a layer and attends with all recorded queries, as if each were a request over the same pages.
    pub(super) fn attend(&self, recorded: &Recorded, layer: &Layer) -> Result<Attended, Failure> {
        let device = self.write.device();
        let &Recorded { kv_heads, query_heads, head_dim, tokens, queries, .. } = recorded;
        let per_page = self.layout.tokens_per_page() as usize;
        let page_bytes = self.layout.page_bytes() as usize;
        let pages = tokens.div_ceil(per_page);

        let keys = device.upload(&layer.keys).map_err(Failure::machine)?;
        let values = device.upload(&layer.values).map_err(Failure::machine)?;
        let mass = device.zeros::<f32>(kv_heads * tokens).map_err(Failure::machine)?;
        // All tokens are high, in their order.
        let dest: Vec<i32> = (0..kv_heads * tokens).map(|at| 2 * (at % tokens) as i32).collect();
        let dest = device.upload(&dest).map_err(Failure::machine)?;
        let slot = device.zeros::<i32>(1).map_err(Failure::machine)?;
        let empty = device.zeros::<i32>(kv_heads * 4).map_err(Failure::machine)?;
        let table: Vec<i32> = (0..(kv_heads * pages) as i32).collect();
        let page_list = device.upload(&table).map_err(Failure::machine)?;
        let mut arena = device.zeros::<u8>(kv_heads * pages * page_bytes).map_err(Failure::machine)?;
        let args = WriteChunkArgs {
            keys: keys.tensor([tokens, kv_heads, head_dim]).into(),
            values: values.tensor([tokens, kv_heads, head_dim]).into(),
            words: mass.tensor([kv_heads, tokens]),
            dest: dest.tensor([kv_heads, tokens]),
            before: 0,
            kv: PagedKvArgs {
                arena: (&mut arena).into(),
                slots: slot.tensor([1]),
                table: page_list.tensor([1, kv_heads, pages]),
                lengths: empty.tensor([1, kv_heads, 4]),
            },
            codecs: (),
        };
        let launch = self.write.launch((tokens.div_ceil(BLOCK) as u32, kv_heads as u32), args);
        // SAFETY: every page number in `page_list` lies in `arena`, which was made for them, and each token has a place in its pages.
        unsafe { launch.run() }.map_err(Failure::kernel)?;

        let table: Vec<i32> = table.iter().copied().cycle().take(queries * table.len()).collect();
        let lengths: Vec<i32> = [tokens as i32, 0, 0, 0].repeat(queries * kv_heads);
        let slots: Vec<i32> = (0..queries as i32).collect();
        let first = (tokens - queries) as i32;
        let query_positions: Vec<i32> = (first..tokens as i32).collect();
        let mut step = Step {
            q: device.upload(&layer.queries).map_err(Failure::machine)?,
            query_positions: device.upload(&query_positions).map_err(Failure::machine)?,
            table: device.upload(&table).map_err(Failure::machine)?,
            slots: device.upload(&slots).map_err(Failure::machine)?,
            lengths: device.upload(&lengths).map_err(Failure::machine)?,
            arena,
            splits: device.zeros(queries * kv_heads).map_err(Failure::machine)?,
            part_lse: device.zeros(queries * query_heads).map_err(Failure::machine)?,
            part_out: device.zeros(queries * query_heads * head_dim).map_err(Failure::machine)?,
            no_queries: device.zeros(0).map_err(Failure::machine)?,
            no_lse: device.zeros(0).map_err(Failure::machine)?,
            no_tokens: device.zeros(0).map_err(Failure::machine)?,
            no_sig: device.zeros(0).map_err(Failure::machine)?,
            no_places: device.zeros(0).map_err(Failure::machine)?,
            no_listed_sig: device.zeros(0).map_err(Failure::machine)?,
            no_listed_places: device.zeros(0).map_err(Failure::machine)?,
            no_state: device.zeros(0).map_err(Failure::machine)?,
            out: device.zeros(queries * query_heads * head_dim).map_err(Failure::machine)?,
            lse: device.zeros(queries * query_heads).map_err(Failure::machine)?,
        };
        let mut best = f64::INFINITY;
        for _ in 0..REPEATS {
            let start = Instant::now();
            self.step(recorded, pages, &mut step)?;
            device.synchronize().map_err(Failure::machine)?;
            best = best.min(start.elapsed().as_secs_f64() * 1e6 / queries as f64);
        }
        let page_bytes = (kv_heads * pages * page_bytes) as u64;
        Ok(Attended { out: step.out.to_vec().map_err(Failure::machine)?, us_per_query: best, page_bytes })
    }

    fn step(&self, recorded: &Recorded, pages: usize, step: &mut Step) -> Result<(), Failure> {
        let &Recorded { kv_heads, query_heads, head_dim, queries, .. } = recorded;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let [sigs, ats] = SHORTLIST_COLUMNS;
        let q = step.q.tensor([queries, query_heads, head_dim]);
        let args = DecodeAttentionArgs {
            q: q.clone().into(),
            query_positions: step.query_positions.tensor([queries]),
            scale,
            kv: PagedKvArgs {
                arena: (&mut step.arena).into(),
                slots: step.slots.tensor([queries]),
                table: step.table.tensor([queries, kv_heads, pages]),
                lengths: step.lengths.tensor([queries, kv_heads, 4]),
            },
            out: PartialsArgs {
                splits: step.splits.tensor_mut([queries, kv_heads]),
                lse: step.part_lse.tensor_mut([queries, query_heads, 1]),
                out: step.part_out.tensor_mut([queries, query_heads, 1, head_dim]),
            },
            // Without significance no queries are pending, and nobody looks for candidates.
            pending: PendingArgs {
                q: step.no_queries.tensor([0, query_heads, head_dim]),
                lse: step.no_lse.tensor([0, query_heads]),
                newest: step.no_tokens.tensor([0, kv_heads, 1]),
            },
            shortlist: LookingArgs {
                prompts: step.no_tokens.tensor([0]),
                finds: FindsArgs {
                    sig: step.no_sig.tensor_mut([0, kv_heads, sigs, 0]),
                    at: step.no_places.tensor_mut([0, kv_heads, ats, 0]),
                },
                state: step.no_state.tensor_mut([0, kv_heads, ShortlistState::COLUMNS]),
            },
            codecs: (),
            hooks: (),
        };
        let launch = self.decode.launch((kv_heads as u32, queries as u32), args);
        // SAFETY: lengths and page numbers are those the pages were written with.
        unsafe { launch.run() }.map_err(Failure::kernel)?;
        let args = MergeSplitsArgs {
            parts: PartialsArgs {
                splits: step.splits.tensor_mut([queries, kv_heads]),
                lse: step.part_lse.tensor_mut([queries, query_heads, 1]),
                out: step.part_out.tensor_mut([queries, query_heads, 1, head_dim]),
            },
            q: q.into(),
            slots: step.slots.tensor([queries]),
            finds: FindsArgs {
                sig: step.no_sig.tensor_mut([0, kv_heads, sigs, 0]),
                at: step.no_places.tensor_mut([0, kv_heads, ats, 0]),
            },
            shortlist: ShortlistMutArgs {
                sig: step.no_listed_sig.tensor_mut([0, kv_heads, sigs]),
                at: step.no_listed_places.tensor_mut([0, kv_heads, ats]),
            },
            pending: PendingMutArgs {
                q: step.no_queries.tensor_mut([0, query_heads, head_dim]),
                lse: step.no_lse.tensor_mut([0, query_heads]),
            },
            out: step.out.tensor_mut([queries, query_heads, head_dim]),
            lse: step.lse.tensor_mut([queries, query_heads]),
            hooks: (),
        };
        let launch = self.merge.launch((kv_heads as u32, queries as u32), args);
        // SAFETY: as above.
        unsafe { launch.run() }.map_err(Failure::kernel)
    }
}

/// Device memory of one attention step.
struct Step {
    q: DeviceBuffer<f16>,
    query_positions: DeviceBuffer<i32>,
    table: DeviceBuffer<i32>,
    slots: DeviceBuffer<i32>,
    lengths: DeviceBuffer<i32>,
    arena: DeviceBuffer<u8>,
    splits: DeviceBuffer<i32>,
    part_lse: DeviceBuffer<f32>,
    part_out: DeviceBuffer<f32>,
    no_queries: DeviceBuffer<f16>,
    no_lse: DeviceBuffer<f32>,
    no_tokens: DeviceBuffer<i32>,
    no_sig: DeviceBuffer<f32>,
    no_places: DeviceBuffer<i32>,
    no_listed_sig: DeviceBuffer<f32>,
    no_listed_places: DeviceBuffer<i32>,
    no_state: DeviceBuffer<i32>,
    out: DeviceBuffer<f32>,
    lse: DeviceBuffer<f32>,
}
