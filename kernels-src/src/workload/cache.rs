//! A filled paged cache: what attention over pages reads.

use leankv_dsl::format::{SegmentKind, Tiering};
use leankv_dsl::workload::{Generator, Workload};

use super::{RecipeError, Shapes};
use crate::reference::{PagedFormat, PagedKv, write_token};

/// Pages of several requests.
pub(super) struct Cache {
    pub(super) requests: usize,
    pub(super) kv_heads: usize,
    pub(super) high: PagedFormat,
    pub(super) low: Option<PagedFormat>,
    pub(super) arena: Vec<u8>,
    pub(super) table: Vec<i32>,
    pub(super) lengths: Vec<i32>,
    pub(super) slots: Vec<i32>,
    pub(super) table_len: usize,
    /// Tokens of the longest list, both tiers.
    pub(super) longest: usize,
}

impl Cache {
    /// A cache of random keys and values, whose lists have the lengths that the shapes ask for, in pages in random order. What no token
    /// was written to holds NaN patterns: nobody may read it.
    pub(super) fn new(
        tiering: &Tiering,
        head_dim: usize,
        page_bytes: usize,
        shapes: &Shapes,
        random: &mut Generator,
    ) -> Result<Cache, RecipeError> {
        Cache::with(tiering, head_dim, page_bytes, shapes, shapes.get("kv_heads"), 0, random)
    }

    /// A cache with `kv_heads` lists of each request, each with so many pages more than its tokens need.
    pub(super) fn with(
        tiering: &Tiering,
        head_dim: usize,
        page_bytes: usize,
        shapes: &Shapes,
        kv_heads: usize,
        spare: usize,
        random: &mut Generator,
    ) -> Result<Cache, RecipeError> {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let paged = |format| PagedFormat::new(format, narrow(head_dim), narrow(page_bytes));
        let high = paged(tiering.high)?;
        let low = tiering.low.map(paged).transpose()?;
        let requests = shapes.get("requests");
        let lists = requests * kv_heads;
        let longest = [shapes.get("tokens"), if low.is_some() { shapes.get("low_tokens") } else { 0 }];
        let tokens: Vec<[usize; 2]> = (0..lists)
            .map(|list| match list % 4 {
                _ if shapes.get("ragged") == 0 => longest,
                0 => longest,
                1 => [1, 0].map(|n: usize| n.min(longest[0])),
                2 => [0, 0],
                _ => [longest[0].saturating_sub(1), longest[1] / 2],
            })
            .collect();
        let pages = |paged: Option<&PagedFormat>, n: usize| {
            paged.map_or(0, |p| n.div_ceil(p.tokens_per_page()) + spare)
        };
        let pages_of = |&[h, l]: &[usize; 2]| pages(Some(&high), h) + pages(low.as_ref(), l);
        let table_len = tokens.iter().map(pages_of).max().unwrap_or(0) + 1;
        let total: usize = tokens.iter().map(pages_of).sum();
        let mut ids = random.permutation(total).into_iter();
        // An arena is never empty.
        let mut arena = vec![0xFF; total.max(1) * page_bytes];
        let slots = random.permutation(requests);
        let mut table = vec![-1; lists * table_len];
        let mut lengths = vec![0; lists * 4];
        for (list, tokens) in tokens.iter().enumerate() {
            // Lists lie where their request's slot is.
            let place = slots[list / kv_heads] * kv_heads + list % kv_heads;
            let mut position = 0;
            for (tier, &n) in tokens.iter().enumerate() {
                lengths[place * 4 + tier] = n as i32;
                // Some leading tokens belong to another request too.
                lengths[place * 4 + 2 + tier] = if shapes.get("ragged") == 0 { 0 } else { n as i32 / 4 };
                let Some(paged) = (if tier == 0 { Some(&high) } else { low.as_ref() }) else { continue };
                let mut here = Vec::new();
                for index in 0..pages(Some(paged), n) {
                    let page = ids.next().unwrap_or(0);
                    let entry = if tier == 0 { index } else { table_len - 1 - index };
                    table[place * table_len + entry] = page as i32;
                    here.push(page);
                }
                for t in 0..n {
                    let (index, slot) = (t / paged.tokens_per_page(), t % paged.tokens_per_page());
                    let (key, value) = (random.f32s(head_dim, -1.5, 2.5), random.f32s(head_dim, -1.0, 1.0));
                    let significance = random.f32s(1, 0.0, 2.0)[0];
                    let bytes = &mut arena[here[index] * page_bytes..][..page_bytes];
                    write_token(paged, bytes, slot as u32, &key, &value, significance, position)?;
                    position += 1;
                }
            }
        }
        let slots = slots.into_iter().map(|slot| slot as i32).collect();
        let longest = tokens.iter().map(|[h, l]| h + l).max().unwrap_or(0);
        Ok(Cache { requests, kv_heads, high, low, arena, table, lengths, slots, table_len, longest })
    }

    /// For the reference.
    pub(super) fn paged(&self) -> PagedKv<'_> {
        PagedKv {
            high: &self.high,
            low: self.low.as_ref(),
            arena: &self.arena,
            slots: &self.slots,
            page_table: &self.table,
            lengths: &self.lengths,
            table_len: self.table_len,
        }
    }

    /// For a kernel: the parameters of its `kv`.
    pub(super) fn arguments(&self, workload: Workload) -> Workload {
        let lists = [self.requests, self.kv_heads];
        workload
            .view("kv.slots", &self.slots, &[self.requests])
            .buffer("kv.arena", &self.arena)
            .view("kv.table", &self.table, &[lists[0], lists[1], self.table_len])
            .view("kv.lengths", &self.lengths, &[lists[0], lists[1], 4])
    }

    /// Bytes of the 32-byte sectors in which the listed tokens' codes and metadata lie, and their positions where they are needed: of
    /// each page, the sectors of the leading rows of these segments, a sector that two of them share counted once. Nothing less lets
    /// attention over all tokens be computed; significance, padding and rows after the last token are not in it.
    pub(super) fn least_read_bytes(&self, positions: bool) -> u64 {
        let tiers = [Some(&self.high), self.low.as_ref()];
        let mut sectors = 0u64;
        for lengths in self.lengths.chunks(4) {
            for (paged, &tokens) in tiers.iter().zip(lengths) {
                let Some(layout) = paged.map(PagedFormat::layout) else { continue };
                let mut left = tokens as u32;
                while left > 0 {
                    let rows = left.min(layout.tokens_per_page());
                    left -= rows;
                    let mut touched = vec![false; layout.page_bytes().div_ceil(32) as usize];
                    for segment in layout.segments() {
                        let read = match segment.kind {
                            SegmentKind::Significance => false,
                            SegmentKind::Positions => positions,
                            _ => true,
                        };
                        if read && segment.row_bytes > 0 {
                            let last = segment.row(rows).div_ceil(32);
                            touched[(segment.offset / 32) as usize..last as usize].fill(true);
                        }
                    }
                    sectors += touched.iter().filter(|t| **t).count() as u64;
                }
            }
        }
        32 * sectors
    }
}
