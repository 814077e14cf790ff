//! Caches of random tokens, written page by page with the plain-Rust writer.

use leankv_dsl::lang::attention::PagedKvArgs;
use leankv_dsl::workload::given;
use leankv_kernels::reference::{PagedFormat, PagedKv, write_token};

use super::random;

/// Elements of a vector.
pub const D: usize = 64;
/// Bytes of a page.
pub const PAGE: usize = 2048;

/// A cache of several requests with lists of different lengths.
pub struct Cache {
    pub high: PagedFormat,
    pub low: Option<PagedFormat>,
    pub arena: Vec<u8>,
    pub table: Vec<i32>,
    pub lengths: Vec<i32>,
    pub slots: Vec<i32>,
    pub table_len: usize,
}

impl Cache {
    /// The reference's view.
    pub fn view(&self) -> PagedKv<'_> {
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

    /// For a kernel over the first `requests` requests.
    pub fn kv(&self, requests: usize) -> PagedKvArgs<'static> {
        let (slots, lists) = (self.slots.len() - 1, self.lengths.len() / 4);
        let heads = lists / slots;
        PagedKvArgs {
            arena: given(&self.arena).slice_mut(),
            slots: given(&self.slots[..requests]).tensor([requests]),
            table: given(&self.table).tensor([slots, heads, self.table_len]),
            lengths: given(&self.lengths).tensor([slots, heads, 4]),
        }
    }
}

/// A cache of random tokens; `lengths` are those of the two tiers of each list, request by request.
pub fn cache(tiering: &str, kv_heads: usize, lengths: &[[usize; 2]]) -> Cache {
    growing_cache(tiering, kv_heads, lengths, [1.0, 1.0])
}

/// The same, where keys and values are by these factors larger at each next position.
pub fn growing_cache(tiering: &str, kv_heads: usize, lengths: &[[usize; 2]], growth: [f32; 2]) -> Cache {
    let (high, low) = match tiering.split_once('/') {
        Some((high, low)) => (high, Some(low)),
        None => (tiering, None),
    };
    let format = |name: &str| PagedFormat::new(name.parse().unwrap(), D as u32, PAGE as u32).unwrap();
    let (high, low) = (format(high), low.map(format));
    let table_len = 12;
    let mut cache = Cache {
        arena: Vec::new(),
        table: vec![-1; lengths.len() * table_len],
        // A quarter of each list is frozen.
        lengths: lengths.iter().flat_map(|&[h, l]| [h, l, h / 4, l / 4].map(|n| n as i32)).collect(),
        // The slots are taken in reverse, and one more request is left out.
        slots: (0..(lengths.len() / kv_heads) as i32).rev().chain([-1]).collect(),
        high,
        low,
        table_len,
    };
    assert!(lengths.len().is_multiple_of(kv_heads));
    let (mut page, mut seed) = (0, 100);
    for (list, lengths) in lengths.iter().enumerate() {
        let mut position = 0;
        for (tier, &tokens) in lengths.iter().enumerate() {
            let Some(paged) = (if tier == 0 { Some(&cache.high) } else { cache.low.as_ref() }) else {
                continue;
            };
            for t in 0..tokens {
                let (index, slot) = (t / paged.tokens_per_page(), t % paged.tokens_per_page());
                if slot == 0 {
                    // What no token is written to holds NaN patterns: nobody may read it.
                    cache.arena.extend(std::iter::repeat_n(0xFF, PAGE));
                    let entry = if tier == 0 { index } else { table_len - 1 - index };
                    cache.table[list * table_len + entry] = page;
                    page += 1;
                }
                seed += 2;
                let (key, value) = (random(seed, D), random(seed + 1, D));
                let [of_keys, of_values] = growth.map(|growth| growth.powi(position));
                let key: Vec<f32> = key.iter().map(|x| (2.0 * x + 0.5) * of_keys).collect();
                let value: Vec<f32> = value.iter().map(|x| x * of_values).collect();
                let at = cache.arena.len() - PAGE;
                write_token(paged, &mut cache.arena[at..], slot as u32, &key, &value, 0.25, position)
                    .unwrap();
                position += 1;
            }
        }
    }
    cache
}
