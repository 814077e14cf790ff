//! One layer through the kernels: prompt into pages, decode attention, merge of the splits.

use std::time::Instant;

use half::f16;
use leankv_dsl::format::{KvFormat, PageLayout, Tiering};
use leankv_dsl::ir::Func;
use leankv_dsl::lang::Settings;
use leankv_kernels::candidates::SHORTLIST_STATE;
use leankv_runtime::{Compiler, Device, DeviceBuffer, Kernel};

use super::data::{Layer, Recorded};
use crate::failure::Failure;
use crate::registry;

/// Tokens that one program of the chunk writer packs, and one turn of the attention loop reads.
const BLOCK: usize = 32;

/// The timed launches; the fastest counts, since noise only adds.
const REPEATS: usize = 7;

/// The kernels of one format, loaded on a device.
pub(super) struct Kernels {
    layout: PageLayout,
    write: Kernel,
    decode: Kernel,
    merge: Kernel,
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

/// Settings of the decode kernel for a format.
pub(super) fn decode_settings(recorded: &Recorded, format: KvFormat, page_bytes: u32) -> Settings {
    let pairs = [
        ("tiering", Tiering::single(format).to_string()),
        ("head_dim", recorded.head_dim.to_string()),
        ("group", recorded.group().to_string()),
        ("page_bytes", page_bytes.to_string()),
        ("block", BLOCK.to_string()),
        // The recorded queries are of different positions, and each sees the tokens up to its own.
        ("pattern", "causal".to_owned()),
    ];
    pairs.map(|(k, v)| (k.to_owned(), v)).into()
}

/// Records a kernel of the table.
pub(super) fn record(name: &str, settings: &Settings) -> Result<Func, Failure> {
    registry::find(name)?.build(settings).map_err(Failure::kernel)
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
        let writer: Settings = [
            ("tiering", Tiering::single(format).to_string()),
            ("head_dim", recorded.head_dim.to_string()),
            ("page_bytes", page_bytes.to_string()),
            ("block", BLOCK.to_string()),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into();
        let attention = decode_settings(recorded, format, page_bytes);
        let load = |name: &str, settings: &Settings| {
            compiler.kernel(device, &record(name, settings)?).map_err(Failure::kernel)
        };
        Ok(Kernels {
            layout,
            write: load("write_chunk", &writer)?,
            decode: load("decode_attention", &attention)?,
            merge: load("merge_splits", &attention)?,
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
        let launch = self
            .write
            .launch((tokens.div_ceil(BLOCK) as u32, kv_heads as u32))
            .view("keys", &keys, &[tokens, kv_heads, head_dim])
            .view("values", &values, &[tokens, kv_heads, head_dim])
            .view("mass", &mass, &[kv_heads, tokens])
            .view("dest", &dest, &[kv_heads, tokens])
            .scalar("before", 0)
            .buffer_mut("kv.arena", &mut arena)
            .view("kv.slots", &slot, &[1])
            .view("kv.table", &page_list, &[1, kv_heads, pages])
            .view("kv.lengths", &empty, &[1, kv_heads, 4]);
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
            max: device.zeros(queries * query_heads).map_err(Failure::machine)?,
            sum: device.zeros(queries * query_heads).map_err(Failure::machine)?,
            acc: device.zeros(queries * query_heads * head_dim).map_err(Failure::machine)?,
            no_queries: device.zeros(0).map_err(Failure::machine)?,
            no_lse: device.zeros(0).map_err(Failure::machine)?,
            no_tokens: device.zeros(0).map_err(Failure::machine)?,
            no_sig: device.zeros(0).map_err(Failure::machine)?,
            no_places: device.zeros(0).map_err(Failure::machine)?,
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
        let partial = [queries, query_heads, 1];
        let scale = 1.0 / (head_dim as f32).sqrt();
        let launch = self
            .decode
            .launch((kv_heads as u32, queries as u32))
            .view("q", &step.q, &[queries, query_heads, head_dim])
            .view("query_positions", &step.query_positions, &[queries])
            .scalar("scale", scale)
            .buffer_mut("kv.arena", &mut step.arena)
            .view("kv.slots", &step.slots, &[queries])
            .view("kv.table", &step.table, &[queries, kv_heads, pages])
            .view("kv.lengths", &step.lengths, &[queries, kv_heads, 4])
            .view_mut("out.max", &mut step.max, &partial)
            .view_mut("out.sum", &mut step.sum, &partial)
            .view_mut("out.acc", &mut step.acc, &[queries, query_heads, 1, head_dim])
            // Without significance no queries are pending, and nobody looks for candidates.
            .view("pending.q", &step.no_queries, &[0, query_heads, head_dim])
            .view("pending.lse", &step.no_lse, &[0, query_heads])
            .view("pending.newest", &step.no_tokens, &[0, kv_heads, 1])
            .view("shortlist.prompts", &step.no_tokens, &[0])
            .view_mut("shortlist.sig", &mut step.no_sig, &[0, kv_heads, 0])
            .view_mut("shortlist.at", &mut step.no_places, &[0, kv_heads, 0])
            .view_mut("shortlist.state", &mut step.no_state, &[0, kv_heads, SHORTLIST_STATE]);
        // SAFETY: lengths and page numbers are those the pages were written with.
        unsafe { launch.run() }.map_err(Failure::kernel)?;
        let launch = self
            .merge
            .launch((kv_heads as u32, queries as u32))
            .view_mut("parts.max", &mut step.max, &partial)
            .view_mut("parts.sum", &mut step.sum, &partial)
            .view_mut("parts.acc", &mut step.acc, &[queries, query_heads, 1, head_dim])
            .view("q", &step.q, &[queries, query_heads, head_dim])
            .view("slots", &step.slots, &[queries])
            .view_mut("pending.q", &mut step.no_queries, &[0, query_heads, head_dim])
            .view_mut("pending.lse", &mut step.no_lse, &[0, query_heads])
            .view_mut("out", &mut step.out, &[queries, query_heads, head_dim])
            .view_mut("lse", &mut step.lse, &[queries, query_heads]);
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
    max: DeviceBuffer<f32>,
    sum: DeviceBuffer<f32>,
    acc: DeviceBuffer<f32>,
    no_queries: DeviceBuffer<f16>,
    no_lse: DeviceBuffer<f32>,
    no_tokens: DeviceBuffer<i32>,
    no_sig: DeviceBuffer<f32>,
    no_places: DeviceBuffer<i32>,
    no_state: DeviceBuffer<i32>,
    out: DeviceBuffer<f32>,
    lse: DeviceBuffer<f32>,
}
