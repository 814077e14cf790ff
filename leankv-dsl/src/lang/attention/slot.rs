//! One slot of a page, to read and write.

use super::codec::Tokens;
use super::paged::{Tier, read};
use super::rows::{Rows, RowsMut};
use crate::lang::element::Plain;
use crate::lang::ops::PtrMut;
use crate::lang::tile::{Scalar, Tile, iota};

/// The slot of a token in a page, to read and write; tiles of it have one row.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'t> {
    tier: &'t Tier,
    page: PtrMut<u8>,
    slot: Scalar<i32>,
    valid: Tile<bool, 1>,
}

impl<'t> Slot<'t> {
    /// Slot number `slot` of page number `page`.
    #[track_caller]
    pub(super) fn new(tier: &'t Tier, arena: PtrMut<u8>, page: Scalar<i32>, slot: Scalar<i32>) -> Self {
        let valid = Tile::full([1], true);
        let page = arena.byte_add(page.cast::<i64>() * i64::from(tier.layout().page().page_bytes()));
        Slot { tier, page, slot, valid }
    }

    #[track_caller]
    fn rows(&self, keys: bool) -> RowsMut {
        let layout = self.tier.layout();
        let (codes, meta) = match keys {
            true => (layout.page().keys(), layout.page().key_meta()),
            false => (layout.page().values(), layout.page().value_meta()),
        };
        RowsMut {
            codes: layout.locate(self.page, self.slot, codes),
            meta: layout.locate(self.page, self.slot, meta),
            form: layout.form(keys, self.valid, 1),
        }
    }

    /// The token's position and KV head, as codecs want them.
    #[track_caller]
    pub fn tokens(&self, head: Scalar<i32>) -> Tokens {
        let layout = self.tier.layout();
        let at = layout.locate(self.page, self.slot, layout.page().positions()).cast::<i32>();
        Tokens { positions: at.load_masked(iota(1), self.valid), head }
    }

    /// The token's significance, `[1]`.
    #[track_caller]
    pub fn significance(&self) -> Tile<f32, 1> {
        let layout = self.tier.layout();
        let at = layout.locate(self.page, self.slot, layout.page().significance()).cast::<f32>();
        at.load_masked(iota(1), self.valid)
    }

    /// Decodes the token's key and value, `[1, head_dim]` each.
    #[track_caller]
    pub fn load(&self, tokens: Tokens) -> (Tile<f32, 2>, Tile<f32, 2>) {
        let rows = |keys: bool| {
            let RowsMut { codes, meta, form } = self.rows(keys);
            Rows { codes: read(codes), meta: read(meta), form, tokens }
        };
        (self.tier.keys.decode(&rows(true)), self.tier.values.decode(&rows(false)))
    }

    /// Takes over what the slot `from` of the same tier holds, byte by byte.
    #[track_caller]
    pub fn copy_from(&self, from: &Slot<'_>) {
        for segment in self.tier.layout().page().segments() {
            let bytes = segment.row_bytes as usize;
            let at = |of: &Slot<'_>| of.tier.layout().locate(of.page, of.slot, segment);
            let (to, from) = (at(self), at(from));
            match (bytes, segment.row_align) {
                (0, _) => {}
                _ if bytes.is_multiple_of(4) && segment.row_align >= 4 => {
                    self.copy_words::<u32>(to.cast(), from.cast(), bytes / 4);
                }
                _ if bytes.is_multiple_of(2) && segment.row_align >= 2 => {
                    self.copy_words::<u16>(to.cast(), from.cast(), bytes / 2);
                }
                _ => self.copy_words::<u8>(to, from, bytes),
            }
        }
    }

    #[track_caller]
    fn copy_words<W: Plain>(&self, to: PtrMut<W>, from: PtrMut<W>, words: usize) {
        let rows = iota(1) * words as i32;
        let offsets = rows.expand_dims(1) + iota(words).expand_dims(0);
        let valid = self.valid.expand_dims(1);
        to.store_masked(offsets, from.load_masked(offsets, valid), valid);
    }

    /// Encodes and writes key and value `[1, head_dim]`, significance `[1]` and position of the token.
    #[track_caller]
    pub fn store(
        &self,
        keys: Tile<f32, 2>,
        values: Tile<f32, 2>,
        significance: Tile<f32, 1>,
        tokens: Tokens,
    ) {
        self.rows(true).store(&self.tier.keys.encode(keys, tokens));
        self.rows(false).store(&self.tier.values.encode(values, tokens));
        let layout = self.tier.layout();
        let at = layout.locate(self.page, self.slot, layout.page().significance()).cast::<f32>();
        at.store_masked(iota(1), significance, self.valid);
        let at = layout.locate(self.page, self.slot, layout.page().positions()).cast::<i32>();
        at.store_masked(iota(1), tokens.positions, self.valid);
    }
}
