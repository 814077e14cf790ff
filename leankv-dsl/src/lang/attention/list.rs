//! A tier's tokens by their number in its list, in any order: what writers of many places and compaction work on.

use super::codec::Tokens;
use super::paged::{Tier, read};
use super::rows::{Place, Rows, RowsMut, Scattered, Stored};
use crate::format::Segment;
use crate::lang::element::Plain;
use crate::lang::ops::{Ptr, PtrMut, View};
use crate::lang::tile::{Scalar, Tile};

/// The pages of one tier of one (request, KV head): token `i` lies in slot `i % tokens` of page `i / tokens`.
#[derive(Clone, Copy, Debug)]
pub struct TokenList<'t> {
    tier: &'t Tier,
    arena: PtrMut<u8>,
    table: Ptr<i32>,
    table_len: Scalar<i32>,
}

impl<'t> TokenList<'t> {
    /// The list of a tier in a table `[slots, kv_heads, table_len]`.
    #[track_caller]
    pub(crate) fn of(
        tier: &'t Tier,
        arena: PtrMut<u8>,
        table: View<i32, 3>,
        slot: Scalar<i32>,
        head: Scalar<i32>,
    ) -> Self {
        let row = slot.cast::<i64>() * table.stride(0) + head.cast::<i64>() * table.stride(1);
        TokenList::new(tier, arena, table.ptr().add(row), table.extent(2).cast())
    }

    /// The list of a tier whose pages are named by the `table_len` entries from `table` on: high ones from the first entry on, low ones
    /// from the last entry back.
    pub fn new(tier: &'t Tier, arena: PtrMut<u8>, table: Ptr<i32>, table_len: Scalar<i32>) -> Self {
        TokenList { tier, arena, table, table_len }
    }

    /// The tokens with these numbers, `[rows]`, of which `valid` exist. The pages of the others are not looked up.
    #[track_caller]
    pub fn at(&self, numbers: Tile<i32, 1>, valid: Tile<bool, 1>) -> Spread<'t> {
        let tokens = self.tier.layout().tokens() as i32;
        let numbers = valid.select(numbers, 0);
        let (index, slots) = (numbers / tokens, numbers % tokens);
        let entries = match self.tier.is_low() {
            false => index,
            true => self.table_len - 1 - index,
        };
        let pages = self.table.load_masked(entries, valid).cast::<i64>();
        Spread { tier: self.tier, arena: self.arena, pages, slots: slots.cast(), valid }
    }
}

/// Tokens of one tier, each in its own slot of its own page.
#[derive(Clone, Copy, Debug)]
pub struct Spread<'t> {
    tier: &'t Tier,
    arena: PtrMut<u8>,
    pages: Tile<i64, 1>,
    slots: Tile<i64, 1>,
    valid: Tile<bool, 1>,
}

impl Spread<'_> {
    /// Which tokens exist, `[rows]`.
    pub fn valid(&self) -> Tile<bool, 1> {
        self.valid
    }

    /// The same places, of which only those are read or written where `mask` holds as well.
    #[track_caller]
    pub fn only(self, mask: Tile<bool, 1>) -> Self {
        Spread { valid: self.valid & mask, ..self }
    }

    fn scattered(&self, codes: &Segment, meta: &Segment) -> Scattered {
        Scattered {
            pages: self.pages,
            slots: self.slots,
            page_bytes: self.tier.layout().page().page_bytes() as usize,
            codes: codes.offset as usize,
            meta: meta.offset as usize,
        }
    }

    #[track_caller]
    fn rows(&self, keys: bool, tokens: Tokens) -> Rows {
        let RowsMut { codes, meta, form } = self.rows_mut(keys);
        Rows { codes: read(codes), meta: read(meta), form, tokens }
    }

    #[track_caller]
    fn rows_mut(&self, keys: bool) -> RowsMut {
        let layout = self.tier.layout();
        let (codes, meta) = match keys {
            true => (layout.page().keys(), layout.page().key_meta()),
            false => (layout.page().values(), layout.page().value_meta()),
        };
        let count = self.valid.extents()[0];
        let mut form = layout.form(keys, self.valid, count);
        form.place = Place::Scattered(self.scattered(codes, meta));
        RowsMut { codes: self.arena, meta: self.arena, form }
    }

    /// The keys as stored.
    #[track_caller]
    pub fn keys(&self, tokens: Tokens) -> Rows {
        self.rows(true, tokens)
    }

    /// The values as stored.
    #[track_caller]
    pub fn values(&self, tokens: Tokens) -> Rows {
        self.rows(false, tokens)
    }

    /// Offsets of the tokens' numbers in a segment of 4 bytes a token.
    #[track_caller]
    fn words(&self, segment: &Segment) -> Tile<i64, 1> {
        self.scattered(segment, segment).rows(segment.offset as usize, 4, 4, 0)
    }

    #[track_caller]
    fn load<T: Plain>(&self, segment: &Segment) -> Tile<T, 1> {
        read(self.arena).cast::<T>().load_masked(self.words(segment), self.valid)
    }

    #[track_caller]
    fn put<T: Plain>(&self, segment: &Segment, value: Tile<T, 1>) {
        self.arena.cast::<T>().store_masked(self.words(segment), value, self.valid);
    }

    /// Significance, `[rows]`; zero where there is no token.
    #[track_caller]
    pub fn significance(&self) -> Tile<f32, 1> {
        self.load(self.tier.layout().page().significance())
    }

    /// Positions in the sequence, `[rows]`; zero where there is no token.
    #[track_caller]
    pub fn positions(&self) -> Tile<i32, 1> {
        self.load(self.tier.layout().page().positions())
    }

    /// Encodes and writes keys and values `[rows, head_dim]` of these tokens, their significance `[rows]` and positions.
    #[track_caller]
    pub fn store(
        &self,
        keys: Tile<f32, 2>,
        values: Tile<f32, 2>,
        significance: Tile<f32, 1>,
        tokens: Tokens,
    ) {
        self.rows_mut(true).store(&self.tier.keys.encode(keys, tokens));
        self.rows_mut(false).store(&self.tier.values.encode(values, tokens));
        self.store_facts(significance, tokens.positions);
    }

    /// Writes keys and values as they were stored elsewhere in this tier, with their significance and positions.
    #[track_caller]
    pub fn store_as_is(
        &self,
        keys: &Stored,
        values: &Stored,
        significance: Tile<f32, 1>,
        positions: Tile<i32, 1>,
    ) {
        self.rows_mut(true).store_as_is(keys);
        self.rows_mut(false).store_as_is(values);
        self.store_facts(significance, positions);
    }

    #[track_caller]
    fn store_facts(&self, significance: Tile<f32, 1>, positions: Tile<i32, 1>) {
        let page = self.tier.layout().page();
        self.put(page.significance(), significance);
        self.put(page.positions(), positions);
    }
}
