//! The paged cache of all layers, and that of one layer to write.

use super::list::TokenList;
use super::paged::{Lengths, PagedKv, Tier};
use super::slot::Slot;
use crate::format::PageLayout;
use crate::lang::KernelArg;
use crate::lang::ops::{PtrMut, View, ViewMut};
use crate::lang::tile::{Scalar, lit};

/// The paged cache of all layers as kernel parameters: as [`PagedKv`], where `table` is `[slots, layers, kv_heads, table_len]` and
/// `lengths` is `[slots, layers, kv_heads, Lengths::COLUMNS]`.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct LayeredKv {
    #[arg(align = PageLayout::ARENA_ALIGN as usize)]
    arena: PtrMut<u8>,
    slots: View<i32, 1>,
    table: View<i32, 4>,
    lengths: View<i32, 4>,
}

/// The paged cache of one layer as kernel parameters, to write: as [`PagedKv`], and the lengths can be set.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct PagedKvMut {
    #[arg(align = PageLayout::ARENA_ALIGN as usize)]
    arena: PtrMut<u8>,
    slots: View<i32, 1>,
    table: View<i32, 3>,
    lengths: ViewMut<i32, 3>,
}

/// The paged cache of all layers as kernel parameters, to write: as [`LayeredKv`], and the lengths can be set.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct LayeredKvMut {
    #[arg(align = PageLayout::ARENA_ALIGN as usize)]
    arena: PtrMut<u8>,
    slots: View<i32, 1>,
    table: View<i32, 4>,
    lengths: ViewMut<i32, 4>,
}

impl LayeredKv {
    /// The cache of one layer.
    #[track_caller]
    pub fn layer(&self, layer: Scalar<i32>) -> PagedKv {
        let (table, lengths) = (self.table.at(1, layer), self.lengths.at(1, layer));
        PagedKv { arena: self.arena, slots: self.slots, table, lengths }
    }
}

impl LayeredKvMut {
    /// The cache of one layer.
    #[track_caller]
    pub fn layer(&self, layer: Scalar<i32>) -> PagedKvMut {
        let (table, lengths) = (self.table.at(1, layer), self.lengths.at(1, layer));
        PagedKvMut { arena: self.arena, slots: self.slots, table, lengths }
    }
}

impl PagedKvMut {
    /// The number of tokens of a tier; the slot is not negative.
    #[track_caller]
    pub fn length(&self, slot: Scalar<i32>, head: Scalar<i32>, low: bool) -> Scalar<i32> {
        self.lengths.get([slot, head, lit(Lengths::AT.tokens(low))])
    }

    /// The number of a tier's frozen tokens; the slot is not negative.
    #[track_caller]
    pub fn frozen(&self, slot: Scalar<i32>, head: Scalar<i32>, low: bool) -> Scalar<i32> {
        self.lengths.get([slot, head, lit(Lengths::AT.frozen(low))])
    }

    /// The tier's tokens by number; the slot is not negative.
    #[track_caller]
    pub fn list<'t>(&self, slot: Scalar<i32>, head: Scalar<i32>, tier: &'t Tier) -> TokenList<'t> {
        TokenList::of(tier, self.arena, self.table, slot, head)
    }

    /// The slot of request number `request` of this launch; negative for a request that is left out.
    #[track_caller]
    pub fn slot(&self, request: Scalar<i32>) -> Scalar<i32> {
        self.slots.get([request])
    }

    /// The place of token number `index` of a tier's list, whose page is there.
    #[track_caller]
    pub fn place<'t>(
        &self,
        slot: Scalar<i32>,
        head: Scalar<i32>,
        tier: &'t Tier,
        index: Scalar<i32>,
    ) -> Slot<'t> {
        let tokens = tier.layout().tokens() as i32;
        let page = tier.page_of(self.table, slot, head, index / tokens);
        Slot::new(tier, self.arena, page, index % tokens)
    }

    /// Sets the lengths of both lists.
    #[track_caller]
    pub fn set_lengths(&self, slot: Scalar<i32>, head: Scalar<i32>, high: Scalar<i32>, low: Scalar<i32>) {
        self.lengths.set([slot, head, lit(Lengths::AT.high)], high);
        self.lengths.set([slot, head, lit(Lengths::AT.low)], low);
    }
}
