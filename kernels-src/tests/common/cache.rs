//! One request's cache in one layer, filled token by token by the plain-Rust writer.

use leankv_dsl::lang::attention::{LayeredKvMutArgs, Lengths, PagedKvArgs};
use leankv_dsl::workload::given;
use leankv_kernels::policy::Peaks;
use leankv_kernels::reference::{PagedFormat, PagedKv, Share, Token, add_shares, read_tokens, write_token};

use super::random;

/// Pages of one request in one layer; its slot is [`SLOT`] of [`SLOTS`].
#[derive(Clone)]
pub struct Cache {
    pub high: PagedFormat,
    pub low: Option<PagedFormat>,
    pub arena: Vec<u8>,
    /// `[slots, kv_heads, table_len]`.
    pub table: Vec<i32>,
    /// `[slots, kv_heads, 4]`.
    pub lengths: Vec<i32>,
    pub table_len: usize,
    pub kv_heads: usize,
    pub page_bytes: usize,
    next_page: i32,
}

/// The slots of the tables; other requests' slots hold numbers that must not be used.
pub const SLOTS: usize = 2;
/// The request's slot.
pub const SLOT: usize = 1;

impl Cache {
    /// An empty cache. What no token is written to holds NaN patterns: nobody may read it.
    pub fn new(tiering: &str, d: usize, page_bytes: usize, kv_heads: usize, table_len: usize) -> Cache {
        let (high, low) = match tiering.split_once('/') {
            Some((high, low)) => (high, Some(low)),
            None => (tiering, None),
        };
        let format =
            |name: &str| PagedFormat::new(name.parse().unwrap(), d as u32, page_bytes as u32).unwrap();
        // Pages are handed out in steps of 7, so that no two neighbours are adjacent.
        let pages = kv_heads * table_len + 1;
        let pages = pages + usize::from(pages.is_multiple_of(7));
        Cache {
            high: format(high),
            low: low.map(format),
            arena: vec![0xFF; pages * page_bytes],
            table: vec![-1; SLOTS * kv_heads * table_len],
            lengths: [vec![1 << 20; SLOT * kv_heads * 4], vec![0; kv_heads * 4]].concat(),
            table_len,
            kv_heads,
            page_bytes,
            next_page: 0,
        }
    }

    pub fn paged(&self, low: bool) -> &PagedFormat {
        if low { self.low.as_ref().expect("there is a low tier") } else { &self.high }
    }

    fn entry(&self, head: usize, low: bool, index: usize) -> usize {
        let row = (SLOT * self.kv_heads + head) * self.table_len;
        row + if low { self.table_len - 1 - index } else { index }
    }

    /// Gives a tier of a head pages for `tokens` tokens. Pages are taken out of order.
    pub fn reserve(&mut self, head: usize, low: bool, tokens: usize) {
        for index in 0..tokens.div_ceil(self.paged(low).tokens_per_page()) {
            let entry = self.entry(head, low, index);
            if self.table[entry] < 0 {
                let pages = (self.arena.len() / self.page_bytes) as i32;
                assert!(self.next_page < pages, "the arena is too small");
                self.table[entry] = (self.next_page * 7 + 3).rem_euclid(pages);
                self.next_page += 1;
            }
        }
    }

    pub fn length(&self, head: usize, low: bool) -> usize {
        Lengths::get(&self.lengths, SLOT * self.kv_heads + head).tokens(low) as usize
    }

    /// The tokens of a list, decoded.
    pub fn tokens(&self, head: usize, low: bool) -> Vec<Token> {
        let mut ids = self.rows()[head * self.table_len..][..self.table_len].to_vec();
        if low {
            ids.reverse();
        }
        read_tokens(self.paged(low), &self.arena, &ids, self.length(head, low)).unwrap()
    }

    /// Appends tokens with random vectors at these positions.
    pub fn append(&mut self, head: usize, low: bool, positions: impl IntoIterator<Item = i32>) {
        let d = self.high.head_dim();
        for position in positions {
            let at = self.length(head, low);
            self.reserve(head, low, at + 1);
            let seed = (head * 100_000) as u64 + 10 * position as u64;
            let key: Vec<f32> = random(seed, d).iter().map(|x| 2.0 * x + 0.5).collect();
            let paged = self.paged(low).clone();
            let page = self.table[self.entry(head, low, at / paged.tokens_per_page())] as usize;
            let bytes = &mut self.arena[page * self.page_bytes..][..self.page_bytes];
            let (slot, mass) = ((at % paged.tokens_per_page()) as u32, 0.01 * position as f32);
            write_token(&paged, bytes, slot, &key, &random(seed + 1, d), mass, position).unwrap();
            let list = SLOT * self.kv_heads + head;
            let mut lengths = Lengths::get(&self.lengths, list);
            *(if low { &mut lengths.low } else { &mut lengths.high }) += 1;
            lengths.put(&mut self.lengths, list);
        }
    }

    /// The reference's view.
    pub fn view(&self) -> PagedKv<'_> {
        PagedKv {
            high: &self.high,
            low: self.low.as_ref(),
            arena: &self.arena,
            slots: &[SLOT as i32],
            page_table: &self.table,
            lengths: &self.lengths,
            table_len: self.table_len,
        }
    }

    /// The request's page table, `[kv_heads, table_len]`.
    pub fn rows(&self) -> &[i32] {
        &self.table[SLOT * self.kv_heads * self.table_len..]
    }

    /// For a kernel.
    pub fn kv<'a>(&self) -> PagedKvArgs<'a> {
        PagedKvArgs {
            arena: given(&self.arena).slice_mut(),
            slots: given(&[SLOT as i32]).tensor([1]),
            table: given(&self.table).tensor([SLOTS, self.kv_heads, self.table_len]),
            lengths: given(&self.lengths).tensor([SLOTS, self.kv_heads, 4]),
        }
    }

    /// For a kernel that takes the heads as those of several layers.
    pub fn layered(&self, layers: usize) -> LayeredKvMutArgs<'static> {
        let of = |columns: usize| [SLOTS, layers, self.kv_heads / layers, columns];
        LayeredKvMutArgs {
            arena: given(&self.arena).slice_mut(),
            slots: given(&[SLOT as i32]).tensor([1]),
            table: given(&self.table).tensor(of(self.table_len)),
            lengths: given(&self.lengths).tensor_mut(of(4)),
        }
    }

    /// Adds to the significance of a head's tokens: high ones, then low ones, frozen ones left out.
    pub fn add(&mut self, head: usize, step: &[f32]) {
        let (list, mut arena) = (SLOT * self.kv_heads + head, self.arena.clone());
        let shares: Vec<Share> = step.iter().copied().map(Share::once).collect();
        add_shares(&self.view(), list, Peaks::NONE, &shares, &mut arena).unwrap();
        self.arena = arena;
    }
}
