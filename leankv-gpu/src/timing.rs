//! How long decode attention takes, over pages that are made for it.

use std::collections::BTreeMap;

use half::f16;
use leankv_dsl::format::{PageLayout, SegmentKind};
use leankv_dsl::lang::attention::{Lengths, PagedKv, PagedKvArgs, Plain, Stock};
use leankv_dsl::workload::Generator;
use leankv_kernels::candidates::{
    FindsArgs, LookingArgs, SHORTLIST_COLUMNS, ShortlistMutArgs, ShortlistState,
};
use leankv_kernels::decode::{
    DecodeAttentionArgs, DecodeSpec, MergeSplitsArgs, PartialsArgs, decode_attention, merge_splits,
};
use leankv_kernels::pending::{PendingArgs, PendingMutArgs};
use leankv_kernels::reference::{PagedFormat, write_token};
use leankv_runtime::{Compiler, Device, DeviceBuffer, DeviceError, KernelOf};
use serde::Serialize;

use crate::Failure;
use crate::sizes::{Sizes, TIMED};

/// Attention over one batch.
#[derive(Clone, Serialize)]
pub(crate) struct Timed {
    pub(crate) format: &'static str,
    pub(crate) batch: usize,
    pub(crate) length: usize,
    /// Of one layer: the splits and their merge. `None` where the GPU has no room.
    pub(crate) microseconds: Option<f64>,
    /// Bytes of codes, metadata and significance that the tokens have.
    pub(crate) bytes: usize,
    /// As many in a second, in units of 10^9.
    pub(crate) gbytes: Option<f64>,
}

/// The kernels of one format.
struct Kernels {
    attend: KernelOf<decode_attention<Stock, Plain, PagedKv>>,
    merge: KernelOf<merge_splits<Plain>>,
}

impl Kernels {
    fn new(device: &Device, compiler: &Compiler, spec: &DecodeSpec) -> Result<Kernels, Failure> {
        Ok(Kernels {
            attend: compiler.load(device, &decode_attention::KERNEL, spec)?,
            merge: compiler.load(device, &merge_splits::KERNEL, spec)?,
        })
    }
}

/// Compiles what [`run`] runs.
pub(crate) fn load(device: &Device, compiler: &Compiler, sizes: &Sizes) -> Result<(), Failure> {
    for (_, tiering, significance, subnormal) in TIMED {
        Kernels::new(device, compiler, &sizes.spec(tiering.parse()?, significance, subnormal))?;
    }
    Ok(())
}

/// The median of several measurements of `work`, in microseconds for each of `launches` that it queues. What it queues becomes a graph, so that the host's time is not in it.
fn time(
    device: &Device,
    sizes: &Sizes,
    launches: usize,
    mut work: impl FnMut(usize) -> Result<(), Failure>,
) -> Result<f64, Failure> {
    // Once outside a graph, where errors have names.
    work(0)?;
    let stream = device.default_stream();
    stream.synchronize()?;
    stream.begin_capture()?;
    let queued = (0..launches).try_for_each(&mut work);
    let graph = stream.end_capture();
    queued?;
    let graph = graph?;
    let mut all = Vec::new();
    for number in 0..=sizes.measurements {
        let before = stream.record()?;
        // SAFETY: the buffers that `work` borrows outlive this function, and nobody else uses them.
        unsafe { graph.launch() }?;
        let after = stream.record()?;
        after.synchronize()?;
        // The first one warms up.
        if number > 0 {
            all.push(before.elapsed_ms(&after)? * 1e3 / launches as f64);
        }
    }
    all.sort_by(f64::total_cmp);
    Ok(all[all.len() / 2])
}

/// Bandwidth of a copy on the device, reads and writes together, in GB (10^9 bytes) a second.
pub(crate) fn copy_gbytes(device: &Device, sizes: &Sizes) -> Result<f64, Failure> {
    let half = sizes.copy_bytes / 2;
    let mut buffer = device.zeros::<u8>(2 * half)?;
    let us = time(device, sizes, sizes.launches, |_| Ok(buffer.copy_within(..half, half)?))?;
    Ok(2.0 * half as f64 / us / 1e3)
}

/// Times every format, batch and length.
pub(crate) fn run(device: &Device, compiler: &Compiler, sizes: &Sizes) -> Result<Vec<Timed>, Failure> {
    let mut all = Vec::new();
    for (format, tiering, significance, subnormal) in TIMED {
        let spec = sizes.spec(tiering.parse()?, significance, subnormal);
        let kernels = Kernels::new(device, compiler, &spec)?;
        for &batch in &sizes.batches {
            for &length in &sizes.lengths {
                let pages = Pages::new(&spec, [batch, sizes.kv_heads, length], sizes)?;
                let bytes = pages.read_bytes();
                let microseconds = match attention(device, &kernels, &spec, &pages, sizes) {
                    Ok(us) => Some(us),
                    Err(error) if is_out_of_memory(&error) => None,
                    Err(error) => return Err(error),
                };
                let gbytes = microseconds.map(|us| bytes as f64 / us / 1e3);
                all.push(Timed { format, batch, length, microseconds, bytes, gbytes });
            }
        }
    }
    Ok(all)
}

fn is_out_of_memory(error: &Failure) -> bool {
    matches!(error.downcast_ref(), Some(DeviceError::OutOfMemory { .. }))
}

/// What lies in the pages of a batch: of every list the same numbers of tokens, in pages anywhere in the arena.
struct Pages {
    batch: usize,
    kv_heads: usize,
    /// Formats of the tiers, tokens of a list in each, and pages for them.
    tiers: Vec<(PagedFormat, usize, usize)>,
    page_bytes: usize,
    significance: bool,
    /// Sets of pages that are read in turn.
    copies: usize,
}

impl Pages {
    fn new(
        spec: &DecodeSpec,
        [batch, kv_heads, length]: [usize; 3],
        sizes: &Sizes,
    ) -> Result<Pages, Failure> {
        // Of two tiers the high one holds a quarter.
        let high = if spec.tiering.low.is_some() { length / 4 } else { length };
        let formats = [Some((spec.tiering.high, high)), spec.tiering.low.map(|low| (low, length - high))];
        let mut tiers = Vec::new();
        for (format, tokens) in formats.into_iter().flatten() {
            let format = PagedFormat::new(format, spec.head_dim as u32, spec.page_bytes as u32)?;
            let pages = tokens.div_ceil(format.tokens_per_page());
            tiers.push((format, tokens, pages));
        }
        let (page_bytes, significance) = (spec.page_bytes, spec.significance);
        let mut pages = Pages { batch, kv_heads, tiers, page_bytes, significance, copies: 1 };
        pages.copies = sizes.cold_bytes.div_ceil(pages.arena_bytes()).max(1);
        Ok(pages)
    }

    fn lists(&self) -> usize {
        self.batch * self.kv_heads
    }

    /// Pages of a list.
    fn of_list(&self) -> usize {
        self.tiers.iter().map(|(_, _, pages)| pages).sum()
    }

    fn arena_bytes(&self) -> usize {
        self.copies * self.lists() * self.of_list() * self.page_bytes
    }

    /// Bytes of the rows that attention cannot do without: codes and their metadata; with significance, that, read and written, and positions.
    fn read_bytes(&self) -> usize {
        let row = |layout: &PageLayout| -> usize {
            let of = |kind: SegmentKind| match kind {
                SegmentKind::Significance if self.significance => 2,
                SegmentKind::Positions if self.significance => 1,
                SegmentKind::Significance | SegmentKind::Positions => 0,
                _ => 1,
            };
            layout.segments().iter().map(|segment| of(segment.kind) * segment.row_bytes as usize).sum()
        };
        self.lists()
            * self.tiers.iter().map(|(format, tokens, _)| tokens * row(format.layout())).sum::<usize>()
    }

    /// Pages of each tier, full of tokens, one tier's after another's: one page, copied.
    fn arena(&self, device: &Device) -> Result<DeviceBuffer<u8>, Failure> {
        let mut arena = device.zeros::<u8>(self.arena_bytes())?;
        let mut random = Generator::new(3);
        let mut start = 0;
        for (format, _, pages) in &self.tiers {
            let mut page = vec![0; self.page_bytes];
            for slot in 0..format.tokens_per_page() as u32 {
                let mut vector = || random.f32s(format.head_dim(), -1.0, 1.0);
                let (key, value) = (vector(), vector());
                write_token(format, &mut page, slot, &key, &value, 0.5, slot as i32)?;
            }
            let len = self.copies * self.lists() * pages * self.page_bytes;
            if len == 0 {
                continue;
            }
            arena.write_at(start, &page)?;
            let mut done = self.page_bytes;
            while done < len {
                let more = done.min(len - done);
                arena.copy_within(start..start + more, start + done)?;
                done += more;
            }
            start += len;
        }
        Ok(arena)
    }

    /// Page numbers of each set, `[lists, pages]`: high ones from the left, low ones from the right.
    fn tables(&self) -> Vec<Vec<i32>> {
        let (lists, all) = (self.lists(), self.of_list());
        let mut tables = vec![vec![-1; lists * all]; self.copies];
        let mut random = Generator::new(5);
        let (mut first, mut column) = (0, 0);
        for (number, (_, _, pages)) in self.tiers.iter().enumerate() {
            let mut ids = random.permutation(self.copies * lists * pages).into_iter();
            for table in &mut tables {
                for list in 0..lists {
                    for page in 0..*pages {
                        let at = if number == 0 { page } else { all - 1 - page };
                        table[list * all + at] = (first + ids.next().unwrap_or(0)) as i32;
                    }
                }
            }
            first += self.copies * lists * pages;
            column += pages;
        }
        debug_assert_eq!(column, all);
        tables
    }

    fn lengths(&self) -> Vec<i32> {
        let tokens = |tier: usize| self.tiers.get(tier).map_or(0, |(_, tokens, _)| *tokens as i32);
        let row = Lengths { high: tokens(0), low: tokens(1), frozen_high: 0, frozen_low: 0 };
        let mut lengths = vec![0; self.lists() * Lengths::COLUMNS];
        (0..self.lists()).for_each(|list| row.put(&mut lengths, list));
        lengths
    }
}

/// Microseconds of attention and merge over these pages.
fn attention(
    device: &Device,
    kernels: &Kernels,
    spec: &DecodeSpec,
    pages: &Pages,
    sizes: &Sizes,
) -> Result<f64, Failure> {
    let (n, kv_heads, d) = (pages.batch, pages.kv_heads, spec.head_dim);
    let heads = kv_heads * spec.group;
    let splits = spec.splits_of(pages.of_list());
    let tokens: usize = pages.tiers.iter().map(|(_, tokens, _)| tokens).sum();
    let [sigs, ats] = SHORTLIST_COLUMNS;
    // Significance reads and writes what else is not looked at.
    let kept = if pages.significance { n } else { 0 };
    let random = |seed: u64, len: usize| Generator::new(seed).f16s(len, -1.0, 1.0).0;

    let mut arena = pages.arena(device)?;
    let tables = pages.tables().iter().map(|table| device.upload(table)).collect::<Result<Vec<_>, _>>()?;
    let lengths = device.upload(&pages.lengths())?;
    let slots = device.upload(&(0..n as i32).collect::<Vec<_>>())?;
    let q = device.upload(&random(1, n * heads * d))?;
    let positions = device.upload(&vec![tokens as i32; n])?;
    let prompts = device.upload(&vec![0i32; kept])?;
    let mut counts = device.zeros::<i32>(n * kv_heads)?;
    let mut lse = device.zeros::<f32>(n * heads * splits)?;
    let mut out = device.zeros::<f32>(n * heads * splits * d)?;
    let mut pending_q: DeviceBuffer<f16> = device.upload(&random(2, kept * heads * d))?;
    let mut pending_lse = device.upload(&vec![10.0f32; kept * heads])?;
    let newest = device.upload(&vec![-1i32; kept * kv_heads])?;
    let mut found_sig = device.zeros::<f32>(kept * kv_heads * sigs * splits)?;
    let mut found_at = device.zeros::<i32>(kept * kv_heads * ats * splits)?;
    let mut state = device.zeros::<i32>(kept * kv_heads * ShortlistState::COLUMNS)?;
    let mut short_sig = device.zeros::<f32>(kept * kv_heads * sigs)?;
    let mut short_at = device.zeros::<i32>(kept * kv_heads * ats)?;
    let mut merged = device.zeros::<f32>(n * heads * d)?;
    let mut merged_lse = device.zeros::<f32>(n * heads)?;

    // Every set of pages is read at least once.
    let launches = sizes.launches.max(pages.copies);
    time(device, sizes, launches, |number| {
        let args = DecodeAttentionArgs {
            q: q.tensor([n, heads, d]).into(),
            query_positions: positions.tensor([n]),
            scale: 1.0 / (d as f32).sqrt(),
            kv: PagedKvArgs {
                arena: (&mut arena).into(),
                slots: slots.tensor([n]),
                table: tables[number % tables.len()].tensor([n, kv_heads, pages.of_list()]),
                lengths: lengths.tensor([n, kv_heads, Lengths::COLUMNS]),
            },
            out: PartialsArgs {
                splits: counts.tensor_mut([n, kv_heads]),
                lse: lse.tensor_mut([n, heads, splits]),
                out: out.tensor_mut([n, heads, splits, d]),
            },
            pending: PendingArgs {
                q: pending_q.tensor([kept, heads, d]),
                lse: pending_lse.tensor([kept, heads]),
                newest: newest.tensor([kept, kv_heads, 1]),
            },
            shortlist: LookingArgs {
                prompts: prompts.tensor([kept]),
                finds: FindsArgs {
                    sig: found_sig.tensor_mut([kept, kv_heads, sigs, splits]),
                    at: found_at.tensor_mut([kept, kv_heads, ats, splits]),
                },
                state: state.tensor_mut([kept, kv_heads, ShortlistState::COLUMNS]),
            },
            codecs: (),
            hooks: (),
        };
        let grid = (kv_heads as u32, n as u32, splits as u32);
        // SAFETY: tables name pages of the arena, as many as lengths say.
        unsafe { kernels.attend.launch(grid, args).run() }?;
        let args = MergeSplitsArgs {
            parts: PartialsArgs {
                splits: counts.tensor_mut([n, kv_heads]),
                lse: lse.tensor_mut([n, heads, splits]),
                out: out.tensor_mut([n, heads, splits, d]),
            },
            q: q.tensor([n, heads, d]).into(),
            slots: slots.tensor([n]),
            finds: FindsArgs {
                sig: found_sig.tensor_mut([kept, kv_heads, sigs, splits]),
                at: found_at.tensor_mut([kept, kv_heads, ats, splits]),
            },
            pending: PendingMutArgs {
                q: pending_q.tensor_mut([kept, heads, d]),
                lse: pending_lse.tensor_mut([kept, heads]),
            },
            shortlist: ShortlistMutArgs {
                sig: short_sig.tensor_mut([kept, kv_heads, sigs]),
                at: short_at.tensor_mut([kept, kv_heads, ats]),
            },
            out: merged.tensor_mut([n, heads, d]),
            lse: merged_lse.tensor_mut([n, heads]),
            hooks: (),
        };
        // SAFETY: as above.
        Ok(unsafe { kernels.merge.launch((kv_heads as u32, n as u32), args).run() }?)
    })
}

/// Times by batch and length.
pub(crate) fn by_size(times: &[Timed]) -> BTreeMap<(usize, usize), Vec<&Timed>> {
    let mut all: BTreeMap<_, Vec<&Timed>> = BTreeMap::new();
    times.iter().for_each(|time| all.entry((time.batch, time.length)).or_default().push(time));
    all
}
