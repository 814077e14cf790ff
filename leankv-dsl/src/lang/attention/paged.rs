//! The paged KV operand: page tables, tiers, splits and partly filled pages stay in here.
//!
//! One page table belongs to one (request, KV head): high page `k` at entry `k`, low page `k` at entry `table_len - 1 - k`. A work
//! item's pages are its high pages followed by its low pages, which [`Work`] cuts into splits.

use half::f16;

use super::codec::{Codec, Codecs, Tokens};
use super::list::TokenList;
use super::online::WeightedSum;
use super::rows::{Form, InPage, Place, Rows};
use super::splits::Work;
use crate::diag::Diagnostic;
use crate::format::{KvFormat, PageLayout, Segment, Tiering, page_tiles};
use crate::ir::Loc;
use crate::lang::KernelArg;
use crate::lang::control::{Iterable, Recorded, comptime, range};
use crate::lang::ops::{PtrMut, View};
use crate::lang::record::{self, BAD_ARGUMENT};
use crate::lang::row;
use crate::lang::tile::{Scalar, Tile, iota, lit};

/// One tier of a cache: its codecs and where they lie in a page. Known at specialisation time.
pub struct Tier {
    /// Codec of keys.
    pub keys: Box<dyn Codec>,
    /// Codec of values.
    pub values: Box<dyn Codec>,
    layout: TierLayout,
    low: bool,
    /// Tokens of a page of the other tier.
    other_tokens: Option<usize>,
}

/// The tiers of a cache: a high one, and a low one if there is any. Known at specialisation time.
#[derive(Debug)]
pub struct Tiers {
    high: Tier,
    low: Option<Tier>,
}

impl Tiers {
    /// Tiers of these formats in pages of `page_bytes`, worked on in blocks of `block` tokens; `None`, reported at the caller's line,
    /// when they do not fit.
    #[track_caller]
    pub fn new(
        codecs: &dyn Codecs,
        tiering: &Tiering,
        head_dim: usize,
        page_bytes: usize,
        block: usize,
    ) -> Option<Tiers> {
        let mut high = Tier::new(codecs, &tiering.high, head_dim, page_bytes, block)?;
        let mut low = match &tiering.low {
            Some(format) => Some(Tier::new(codecs, format, head_dim, page_bytes, block)?),
            None => None,
        };
        if let Some(low) = &mut low {
            low.low = true;
            low.other_tokens = Some(high.layout.tokens());
            high.other_tokens = Some(low.layout.tokens());
        }
        Some(Tiers { high, low })
    }

    /// The same tiers, whose attention multiplies codes as subnormal 16-bit floats where codecs can ([`Codec::subnormal`]).
    #[must_use]
    pub fn subnormal(self) -> Tiers {
        Tiers { high: self.high.subnormal(), low: self.low.map(Tier::subnormal) }
    }

    /// The high tier.
    pub fn high(&self) -> &Tier {
        &self.high
    }

    /// The low tier, if there is one.
    pub fn low(&self) -> Option<&Tier> {
        self.low.as_ref()
    }

    /// The high tier, then the low one.
    pub fn iter(&self) -> impl Iterator<Item = &Tier> {
        std::iter::once(&self.high).chain(&self.low)
    }
}

/// A tier's page layout and how it is cut into blocks.
#[derive(Clone, Debug)]
pub struct TierLayout {
    page: PageLayout,
    block: usize,
}

impl TierLayout {
    /// The page layout.
    pub fn page(&self) -> &PageLayout {
        &self.page
    }

    /// Tokens of a block: what one turn of a loop works on. Blocks do not cross pages; the last one of a page may be short.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Blocks of a page.
    pub fn blocks_per_page(&self) -> usize {
        self.tokens().div_ceil(self.block)
    }

    /// The tiles in which a page is worked on as a whole, as their first slots and numbers of slots. They have at most [`block`](TierLayout::block) slots each, and as
    /// few slots without a place in the page as powers of two allow.
    pub fn tiles(&self) -> Vec<(usize, usize)> {
        page_tiles(self.tokens(), self.block)
    }

    /// Tokens of a page.
    pub fn tokens(&self) -> usize {
        self.page.tokens_per_page() as usize
    }

    /// Codes and metadata of consecutive slots of a page.
    #[track_caller]
    pub(super) fn locate(&self, page: PtrMut<u8>, slot: Scalar<i32>, segment: &Segment) -> PtrMut<u8> {
        page.byte_add(slot * segment.row_bytes as i32 + segment.offset as i32)
    }

    pub(crate) fn form(&self, keys: bool, valid: Tile<bool, 1>, count: usize) -> Form {
        let (shape, segment) = match keys {
            true => (self.page.key_shape(), self.page.keys()),
            false => (self.page.value_shape(), self.page.values()),
        };
        Form {
            shape,
            head_dim: self.page.head_dim() as usize,
            count,
            align: segment.row_align as usize,
            valid,
            place: Place::Consecutive,
        }
    }
}

impl Tier {
    /// The tier of this format in pages of `page_bytes`; `None`, reported at the caller's line, when they do not fit.
    #[track_caller]
    pub fn new(
        codecs: &dyn Codecs,
        format: &KvFormat,
        head_dim: usize,
        page_bytes: usize,
        block: usize,
    ) -> Option<Tier> {
        let (keys, values) = (codecs.keys(&format.key), codecs.values(&format.value));
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let layout =
            PageLayout::from_shapes(keys.shape(), values.shape(), number(head_dim), number(page_bytes));
        let loc = Loc::caller();
        let page = match layout {
            Ok(page) => page,
            Err(error) => {
                record::report(Diagnostic::error(BAD_ARGUMENT, loc, error.to_string()));
                return None;
            }
        };
        if block == 0 {
            record::report(
                Diagnostic::error(BAD_ARGUMENT, loc, "a block of 0 tokens").help("use at least 1"),
            );
            return None;
        }
        Some(Tier { keys, values, layout: TierLayout { page, block }, low: false, other_tokens: None })
    }

    fn subnormal(self) -> Tier {
        let of = |codec: Box<dyn Codec>| codec.subnormal().unwrap_or(codec);
        Tier { keys: of(self.keys), values: of(self.values), ..self }
    }

    /// Whether this is the low tier.
    pub fn is_low(&self) -> bool {
        self.low
    }

    /// The layout.
    pub fn layout(&self) -> &TierLayout {
        &self.layout
    }

    /// Page `index` of this tier's list, from `table: [slots, kv_heads, table_len]`.
    #[track_caller]
    pub fn page_of(
        &self,
        table: View<i32, 3>,
        slot: Scalar<i32>,
        head: Scalar<i32>,
        index: Scalar<i32>,
    ) -> Scalar<i32> {
        let entry = match self.low {
            false => index,
            true => table.extent(2).cast::<i32>() - 1 - index,
        };
        table.get([slot, head, entry])
    }
}

impl std::fmt::Debug for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.layout.fmt(f)
    }
}

row! {
    /// How many tokens a head's lists have: a row of `lengths`.
    pub struct Lengths {
        /// Tokens of the high list.
        high,
        /// Tokens of the low list.
        low,
        /// Frozen ones of the high list: the leading ones, in pages shared with another request, which are read and never written.
        frozen_high,
        /// Frozen ones of the low list.
        frozen_low,
    }
}

impl<T> Lengths<T> {
    /// Tokens of a tier's list.
    #[must_use]
    pub fn tokens(self, low: bool) -> T {
        if low { self.low } else { self.high }
    }

    /// Frozen tokens of a tier's list.
    #[must_use]
    pub fn frozen(self, low: bool) -> T {
        if low { self.frozen_low } else { self.frozen_high }
    }
}

row! {
    /// A number for each tier of a head: pages, thresholds, targets.
    pub struct PerTier {
        /// Of the high tier.
        high,
        /// Of the low tier.
        low,
    }
}

impl<T> PerTier<T> {
    /// That of a tier.
    #[must_use]
    pub fn of(self, low: bool) -> T {
        if low { self.low } else { self.high }
    }
}

/// The paged cache as kernel parameters.
///
/// * `arena`: `[pages, page_bytes]` bytes, aligned to 128;
/// * `slots`: `[requests]` where in `table` and `lengths` a request of this launch is found;
/// * `table`: `[slots, kv_heads, table_len]` page numbers;
/// * `lengths`: `[slots, kv_heads, Lengths::COLUMNS]`, a row of [`Lengths`] for each head.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct PagedKv {
    #[arg(align = PageLayout::ARENA_ALIGN as usize)]
    pub(super) arena: PtrMut<u8>,
    pub(super) slots: View<i32, 1>,
    pub(super) table: View<i32, 3>,
    pub(super) lengths: View<i32, 3>,
}

/// Some tokens of one page. Keys, values and positions are read as what nobody writes: a kernel that goes through blocks may change their significance
/// and nothing else.
#[derive(Clone, Debug)]
pub struct Block<'t> {
    tier: &'t Tier,
    page: PtrMut<u8>,
    slot: Scalar<i32>,
    /// Number of the first token in its tier's list.
    first: Scalar<i32>,
    /// How many of the block's slots have a token, or a number that is not positive for none.
    end: Scalar<i32>,
    valid: Tile<bool, 1>,
    tokens: Tokens,
}

impl PagedKv {
    /// The slot of request number `request` of this launch; negative for a request that is left out, which then has no tokens.
    #[track_caller]
    pub fn slot(&self, request: Scalar<i32>) -> Scalar<i32> {
        self.slots.get([request])
    }

    /// The number of tokens of a tier.
    #[track_caller]
    pub fn length(&self, at: Work, low: bool) -> Scalar<i32> {
        self.count(at, Lengths::AT.tokens(low))
    }

    /// The number of a tier's frozen tokens: the first of its list, which belong to other requests too.
    #[track_caller]
    pub fn frozen(&self, at: Work, low: bool) -> Scalar<i32> {
        self.count(at, Lengths::AT.frozen(low))
    }

    #[track_caller]
    fn count(&self, at: Work, column: i32) -> Scalar<i32> {
        let count = self.lengths.get([at.slot.max(0), at.head, lit(column)]);
        at.slot.ge(0).select(count, 0)
    }

    /// The pages of all tiers.
    #[track_caller]
    pub fn pages(&self, at: Work, tiers: &Tiers) -> Scalar<i32> {
        let of = |tier: &Tier| self.length(at, tier.low).cdiv(tier.layout.tokens() as i32);
        tiers.iter().map(of).reduce(|all, more| all + more).unwrap_or_else(|| lit(0))
    }

    /// The tier's tokens by number.
    #[track_caller]
    pub fn list<'t>(&self, at: Work, tier: &'t Tier) -> TokenList<'t> {
        TokenList::of(tier, self.arena, self.table, at.slot.max(0), at.head)
    }

    /// The tier's blocks in this split: a recorded loop, `stages` deep.
    #[track_caller]
    pub fn blocks<'t>(
        &self,
        at: Work,
        tier: &'t Tier,
        stages: usize,
    ) -> impl Iterable<Item = Block<'t>, Kind = Recorded> + use<'t> {
        let kv = *self;
        let (length, (from, to)) = kv.part(at, tier);
        let per_page = tier.layout.blocks_per_page() as i32;
        range(from * per_page, to * per_page)
            .stages(stages)
            .map(move |number| kv.block(at, tier, length, number))
    }

    /// The tier's pages in this split: a recorded loop, `stages` deep, over the tiles of each.
    #[track_caller]
    pub fn turns<'t>(
        &self,
        at: Work,
        tier: &'t Tier,
        stages: usize,
    ) -> impl Iterable<Item = Vec<Block<'t>>, Kind = Recorded> + use<'t> {
        let kv = *self;
        let (length, (from, to)) = kv.part(at, tier);
        range(from, to).stages(stages).map(move |index| {
            let page = kv.page(at, tier, index);
            let tiles = tier.layout.tiles().into_iter();
            tiles
                .map(|(first, count)| Block::new(tier, page, at, length, index, (lit(first as i32), count)))
                .collect()
        })
    }

    /// Page `index` of a tier's list.
    #[track_caller]
    fn page(&self, at: Work, tier: &Tier, index: Scalar<i32>) -> PtrMut<u8> {
        let page = tier.page_of(self.table, at.slot, at.head, index).cast::<i64>();
        self.arena.byte_add(page * i64::from(tier.layout.page.page_bytes()))
    }

    /// The tokens of a tier, and which of its pages are this split's.
    #[track_caller]
    fn part(&self, at: Work, tier: &Tier) -> (Scalar<i32>, (Scalar<i32>, Scalar<i32>)) {
        let length = self.length(at, tier.low);
        let mine = length.cdiv(tier.layout.tokens() as i32);
        // The split is a part of all pages, high ones first: those of the other tier shift where it lies in this one.
        let others = match tier.other_tokens {
            Some(tokens) => self.length(at, !tier.low).cdiv(tokens as i32),
            None => lit(0),
        };
        let before = if comptime(tier.low) { others } else { lit(0) };
        (length, at.pages(mine, before, mine + others))
    }

    /// Block `number` of a tier's list.
    #[track_caller]
    fn block<'t>(&self, at: Work, tier: &'t Tier, length: Scalar<i32>, number: Scalar<i32>) -> Block<'t> {
        let layout = &tier.layout;
        let per_page = layout.blocks_per_page() as i32;
        let (index, part) = match per_page {
            1 => (number, lit(0)),
            _ => (number / per_page, number % per_page),
        };
        let page = self.page(at, tier, index);
        let slot = part * layout.block as i32;
        Block::new(tier, page, at, length, index, (slot, layout.block))
    }
}

impl<'t> Block<'t> {
    /// So many slots, from one on, of page number `index` of a list of `length` tokens.
    #[track_caller]
    fn new(
        tier: &'t Tier,
        page: PtrMut<u8>,
        at: Work,
        length: Scalar<i32>,
        index: Scalar<i32>,
        (slot, count): (Scalar<i32>, usize),
    ) -> Block<'t> {
        let layout = &tier.layout;
        let first = index * layout.tokens() as i32 + slot;
        let slots = iota(count);
        let end = (length - first).min(layout.tokens() as i32 - slot);
        let valid = slots.lt(end);
        let positions = read(layout.locate(page, slot, layout.page.positions())).cast::<i32>().constant();
        let positions = positions.load_masked(slots, valid);
        Block { tier, page, slot, first, end, valid, tokens: Tokens { positions, head: at.head } }
    }

    /// The number of slots.
    pub fn count(&self) -> usize {
        self.valid.extents()[0]
    }

    /// Which tokens exist, `[block]`.
    pub fn valid(&self) -> Tile<bool, 1> {
        self.valid
    }

    /// Number of the block's first token in its tier's list.
    pub fn first_token(&self) -> Scalar<i32> {
        self.first
    }

    #[track_caller]
    fn rows(&self, keys: bool) -> Rows {
        let layout = &self.tier.layout;
        let (codes, meta) = match keys {
            true => (layout.page.keys(), layout.page.key_meta()),
            false => (layout.page.values(), layout.page.value_meta()),
        };
        let mut form = layout.form(keys, self.valid, self.count());
        form.place = Place::InPage(InPage { slot: self.slot, tokens: self.end, in_pairs: !keys });
        Rows {
            codes: read(layout.locate(self.page, self.slot, codes)).constant(),
            meta: read(layout.locate(self.page, self.slot, meta)).constant(),
            form,
            tokens: self.tokens,
        }
    }

    /// The keys as stored.
    #[track_caller]
    pub fn keys(&self) -> Rows {
        self.rows(true)
    }

    /// The values as stored.
    #[track_caller]
    pub fn values(&self) -> Rows {
        self.rows(false)
    }

    /// `q k^T`, `[queries, block]`.
    #[track_caller]
    pub fn logits(&self, q: Tile<f16, 2>) -> Tile<f32, 2> {
        self.tier.keys.logits(q, &self.keys())
    }

    /// [`logits`](Block::logits) times `scale`.
    #[track_caller]
    pub fn scaled_logits(&self, q: Tile<f16, 2>, scale: Scalar<f32>) -> Tile<f32, 2> {
        self.tier.keys.scaled_logits(q, &self.keys(), scale)
    }

    /// Adds `p v` to `sum`.
    #[track_caller]
    pub fn accumulate(&self, p: Tile<f32, 2>, sum: &mut WeightedSum) {
        self.tier.values.accumulate(p, &self.values(), sum);
    }

    #[track_caller]
    fn words(&self, segment: &Segment) -> PtrMut<u8> {
        self.tier.layout.locate(self.page, self.slot, segment)
    }

    /// Positions of the tokens in their sequence, `[block]`; zero where there is none.
    pub fn positions(&self) -> Tile<i32, 1> {
        self.tokens.positions
    }

    /// The tokens' accumulated significance, `[block]`; zero where there is none.
    #[track_caller]
    pub fn significance(&self) -> Tile<f32, 1> {
        let at = self.words(self.tier.layout.page.significance()).cast::<f32>();
        at.load_masked(iota(self.count()), self.valid)
    }

    /// Replaces the tokens' words of significance by what `next` makes of them, and gives the new ones. Programs of one (request, KV head) must not do it
    /// at the same time for one page.
    ///
    /// The first `frozen` tokens of the list are left as they are, since their pages are shared with other requests; their words mean nothing.
    #[track_caller]
    pub fn update_significance(
        &self,
        frozen: Scalar<i32>,
        next: &dyn Fn(Tile<f32, 1>) -> Tile<f32, 1>,
    ) -> Tile<f32, 1> {
        let at = self.words(self.tier.layout.page.significance()).cast::<f32>().exclusive();
        let slots = iota(self.count());
        let own = self.valid & slots.ge(frozen - self.first);
        let word = next(at.load_masked(slots, own));
        at.store_masked(slots, word, own);
        word
    }
}

/// The same address for reading.
pub(crate) fn read(ptr: PtrMut<u8>) -> crate::lang::ops::Ptr<u8> {
    crate::lang::ops::Ptr::new(ptr.raw.handle)
}
