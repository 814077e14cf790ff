//! The KV operand: what attention kernels ask of the memory in which keys and values lie.

use half::f16;

use super::online::WeightedSum;
use super::paged::{Block, PagedKv, Tier, Tiers};
use super::splits::Work;
use crate::diag::Diagnostic;
use crate::ir::Loc;
use crate::lang::control::{Bounds, Iterable, Recorded};
use crate::lang::record::{self, BAD_ARGUMENT};
use crate::lang::tile::{Scalar, Tile, lit};

/// Where the keys and values lie that queries attend to.
///
/// Attention kernels ask nothing else about them, so a cache of another kind (without pages, in a ring, fetched from elsewhere) is an
/// `impl` and works with every codec and every hook. It is a parameter of the kernel through
/// [`KernelArg`](crate::lang::KernelArg). [`PagedKv`] is the one of this crate; [`Rows::flat`](super::Rows::flat) reads rows of codes that
/// lie in plain arrays.
pub trait KvOperand {
    /// What one turn of a loop over the tokens works on.
    type Block<'t>: KvBlock;

    /// Where request number `request` of this launch is found; negative for a request that is left out, which then has no tokens. The
    /// number itself by default.
    #[track_caller]
    fn slot(&self, request: Scalar<i32>) -> Scalar<i32> {
        request
    }

    /// The number of tokens of a tier.
    #[track_caller]
    fn length(&self, at: Work, low: bool) -> Scalar<i32>;

    /// The number of a tier's frozen tokens: the first of its list, which are read and never written. None by default.
    #[track_caller]
    fn frozen(&self, at: Work, low: bool) -> Scalar<i32> {
        let _ = (at, low);
        lit(0)
    }

    /// The pages of all tiers: what splits are cut from. An operand without pages says what it cuts instead.
    #[track_caller]
    fn pages(&self, at: Work, tiers: &Tiers) -> Scalar<i32>;

    /// The tier's tokens that belong to this split, in blocks of [`TierLayout::block`](super::TierLayout::block): a recorded loop,
    /// `stages` deep. The splits of a work item together have every token once.
    #[track_caller]
    fn blocks<'t>(
        &self,
        at: Work,
        tier: &'t Tier,
        stages: usize,
    ) -> impl Iterable<Item = Self::Block<'t>, Kind = Recorded>;

    /// The same tokens in turns of as many blocks as suit the memory, of sizes that differ, such as the tiles of a page. All turns of a tier are alike. One
    /// block a turn by default.
    #[track_caller]
    fn turns<'t>(
        &self,
        at: Work,
        tier: &'t Tier,
        stages: usize,
    ) -> impl Iterable<Item = Vec<Self::Block<'t>>, Kind = Recorded> {
        OneByOne(self.blocks(at, tier, stages))
    }

    /// How many slots each block of a turn has.
    fn tiles(&self, tier: &Tier) -> Vec<usize> {
        vec![tier.layout().block()]
    }
}

/// A loop over blocks as one over turns of one block each.
struct OneByOne<I>(I);

impl<T, I: Iterable<Item = T, Kind = Recorded>> Iterable for OneByOne<I> {
    type Kind = Recorded;
    type Item = Vec<T>;
    type Iter = std::iter::Map<I::Iter, fn(T) -> Vec<T>>;

    fn bounds(&self) -> Option<Bounds> {
        self.0.bounds()
    }

    fn items(source: &mut Option<Self>, index: Scalar<i64>) -> Option<Self::Iter> {
        let mut inner = source.take().map(|all| all.0);
        let items = I::items(&mut inner, index);
        *source = inner.map(OneByOne);
        items.map(|items| items.map(one as fn(T) -> Vec<T>))
    }
}

fn one<T>(block: T) -> Vec<T> {
    vec![block]
}

/// Some tokens of one tier, one after another in its list.
pub trait KvBlock {
    /// The number of tokens that the block has room for.
    fn count(&self) -> usize {
        self.valid().extents()[0]
    }

    /// Which tokens exist, `[block]`.
    fn valid(&self) -> Tile<bool, 1>;

    /// Number of the block's first token in its tier's list.
    fn first_token(&self) -> Scalar<i32>;

    /// Positions of the tokens in their sequence, `[block]`; zero where there is none.
    fn positions(&self) -> Tile<i32, 1>;

    /// `q k^T`, `[queries, block]`.
    #[track_caller]
    fn logits(&self, q: Tile<f16, 2>) -> Tile<f32, 2>;

    /// [`logits`](KvBlock::logits) times `scale`.
    #[track_caller]
    fn scaled_logits(&self, q: Tile<f16, 2>, scale: Scalar<f32>) -> Tile<f32, 2> {
        self.logits(q) * scale
    }

    /// Adds `p v` to `sum`.
    #[track_caller]
    fn accumulate(&self, p: Tile<f32, 2>, sum: &mut WeightedSum);

    /// Replaces the tokens' words of significance by what `next` makes of them, except those of the first `frozen` tokens of the list; gives the new
    /// words, which mean nothing for those.
    ///
    /// An operand that keeps none need not say so: by default this is an error of the specialisation that asks for it.
    #[track_caller]
    fn update_significance(
        &self,
        frozen: Scalar<i32>,
        next: &dyn Fn(Tile<f32, 1>) -> Tile<f32, 1>,
    ) -> Tile<f32, 1> {
        let _ = (frozen, next);
        let message = "significance is asked for, and this cache keeps none";
        record::report(
            Diagnostic::error(BAD_ARGUMENT, Loc::caller(), message)
                .help("specialise the kernel without significance, or write `KvBlock::update_significance`"),
        );
        Tile::zeros([self.count()])
    }
}

impl KvOperand for PagedKv {
    type Block<'t> = Block<'t>;

    fn slot(&self, request: Scalar<i32>) -> Scalar<i32> {
        PagedKv::slot(self, request)
    }

    fn length(&self, at: Work, low: bool) -> Scalar<i32> {
        PagedKv::length(self, at, low)
    }

    fn frozen(&self, at: Work, low: bool) -> Scalar<i32> {
        PagedKv::frozen(self, at, low)
    }

    fn pages(&self, at: Work, tiers: &Tiers) -> Scalar<i32> {
        PagedKv::pages(self, at, tiers)
    }

    fn blocks<'t>(
        &self,
        at: Work,
        tier: &'t Tier,
        stages: usize,
    ) -> impl Iterable<Item = Block<'t>, Kind = Recorded> {
        PagedKv::blocks(self, at, tier, stages)
    }

    fn turns<'t>(
        &self,
        at: Work,
        tier: &'t Tier,
        stages: usize,
    ) -> impl Iterable<Item = Vec<Block<'t>>, Kind = Recorded> {
        PagedKv::turns(self, at, tier, stages)
    }

    fn tiles(&self, tier: &Tier) -> Vec<usize> {
        tier.layout().tiles().into_iter().map(|(_, slots)| slots).collect()
    }
}

impl KvBlock for Block<'_> {
    fn valid(&self) -> Tile<bool, 1> {
        Block::valid(self)
    }

    fn first_token(&self) -> Scalar<i32> {
        Block::first_token(self)
    }

    fn positions(&self) -> Tile<i32, 1> {
        Block::positions(self)
    }

    fn logits(&self, q: Tile<f16, 2>) -> Tile<f32, 2> {
        Block::logits(self, q)
    }

    fn scaled_logits(&self, q: Tile<f16, 2>, scale: Scalar<f32>) -> Tile<f32, 2> {
        Block::scaled_logits(self, q, scale)
    }

    fn accumulate(&self, p: Tile<f32, 2>, sum: &mut WeightedSum) {
        Block::accumulate(self, p, sum);
    }

    fn update_significance(
        &self,
        frozen: Scalar<i32>,
        next: &dyn Fn(Tile<f32, 1>) -> Tile<f32, 1>,
    ) -> Tile<f32, 1> {
        Block::update_significance(self, frozen, next)
    }
}
