//! The tokens that a decode step may change, and how decode attention finds those of the next step on its way.
//!
//! Planning a step wants the least significant token of either tier and the one that leaves the window. Looking for them reads every token's
//! significance and position; attention reads both anyway, to add significance. So each of its splits leaves what it found in [`Finds`], the merge
//! keeps the best of all splits in a [`Shortlist`], and a step's plan reads that. It holds as long as the lists are as they were: the shortlist says for which
//! position and which lengths it was made. For all others (a prompt that has just ended, a fork, tiers that were classified again) the plan
//! looks for itself.

use leankv_dsl::lang::attention::{KvOperand, Lengths, Work};
use leankv_dsl::lang::*;

use crate::policy::{Candidate, Judged, Progress, Rule, last_behind};

/// Kinds of candidates: the least of the high tier, the one that leaves the window, the least of the low tier.
const KINDS: usize = 3;

row! {
    /// What a shortlist holds for.
    pub struct ShortlistState {
        /// The position of the step's new token, -1 for none.
        position,
        /// Tokens of the head's lists, as [`Lengths`] has them: of the high one,
        high,
        /// of the low one,
        low,
        /// frozen ones of the high one,
        frozen_high,
        /// and of the low one.
        frozen_low,
    }
}

impl<T> ShortlistState<T> {
    /// For the step whose new token stands at `position`, in lists of these lengths.
    pub fn new(position: T, lengths: Lengths<T>) -> ShortlistState<T> {
        let Lengths { high, low, frozen_high, frozen_low } = lengths;
        ShortlistState { position, high, low, frozen_high, frozen_low }
    }
}

impl ShortlistState<Scalar<i32>> {
    /// For the step whose new token stands at `position`, in a head's lists as they are.
    #[track_caller]
    pub(crate) fn of(kv: &impl KvOperand, at: Work, position: Scalar<i32>) -> Self {
        let (high, low) = (kv.length(at, false), kv.length(at, true));
        let (frozen_high, frozen_low) = (kv.frozen(at, false), kv.frozen(at, true));
        ShortlistState { position, high, low, frozen_high, frozen_low }
    }
}

/// Columns of a shortlist: of significance, and of positions and numbers.
pub const SHORTLIST_COLUMNS: [usize; 2] = [KINDS, 2 * KINDS];

/// A candidate and its number in its list; -1 where there is none.
#[derive(Clone, Copy, Debug, Carry)]
pub(crate) struct Found {
    pub(crate) candidate: Candidate,
    pub(crate) index: Scalar<i32>,
}

impl Found {
    #[track_caller]
    fn new(sig: Scalar<f32>, position: Scalar<i32>, index: Scalar<i32>) -> Found {
        Found { candidate: Candidate { sig, position, exists: index.ge(0) }, index }
    }

    #[track_caller]
    pub(crate) fn none() -> Found {
        Found::new(lit(0.0), lit(0), lit(-1))
    }
}

/// The best candidate of every lane.
#[derive(Clone, Copy, Debug, Carry)]
pub(crate) struct Best {
    sig: Tile<f32, 1>,
    position: Tile<i32, 1>,
    index: Tile<i32, 1>,
}

impl Best {
    /// None in any lane.
    #[track_caller]
    pub(crate) fn none(lanes: usize) -> Best {
        Best {
            sig: Tile::full([lanes], f32::INFINITY),
            position: Tile::full([lanes], i32::MAX),
            index: Tile::full([lanes], -1),
        }
    }

    /// The least significant of all lanes, as significance, position and number; of equals, the one at the lowest position.
    #[track_caller]
    fn least(self) -> (Scalar<f32>, Scalar<i32>, Scalar<i32>) {
        let sig = self.sig.reduce_min(0);
        let position = self.sig.eq(sig).select(self.position, i32::MAX).reduce_min(0);
        let here = self.sig.eq(sig) & self.position.eq(position);
        (sig, position, here.select(self.index, -1).reduce_max(0))
    }

    /// The least significant of all lanes of them all.
    #[track_caller]
    fn least_of(all: impl Iterator<Item = Best>) -> (Scalar<f32>, Scalar<i32>, Scalar<i32>) {
        let better = |a: (Scalar<f32>, Scalar<i32>, Scalar<i32>),
                      b: (Scalar<f32>, Scalar<i32>, Scalar<i32>)| {
            let less = b.0.lt(a.0) | (b.0.eq(a.0) & b.1.lt(a.1));
            (less.select(b.0, a.0), less.select(b.1, a.1), less.select(b.2, a.2))
        };
        all.map(Best::least).reduce(better).unwrap_or_else(|| Best::none(1).least())
    }

    /// The least significant of all lanes.
    #[track_caller]
    pub(crate) fn found(self) -> Found {
        let (sig, position, index) = self.least();
        Found::new(sig, position, index)
    }

    /// The less significant of both, lane by lane; of equals, the one at the lower position.
    #[track_caller]
    fn or_less(self, seen: &Seen) -> Best {
        let less = seen.sig.lt(self.sig) | (seen.sig.eq(self.sig) & seen.positions.lt(self.position));
        self.replaced(seen.may & less, seen)
    }

    /// These tokens where `better`.
    #[track_caller]
    fn replaced(self, better: Tile<bool, 1>, tokens: &Seen) -> Best {
        Best {
            sig: better.select(tokens.sig, self.sig),
            position: better.select(tokens.positions, self.position),
            index: better.select(tokens.index, self.index),
        }
    }
}

/// The best candidates in one of a page's tiles, of all pages: the least significant, and the one that leaves the window.
#[derive(Clone, Copy, Debug, Carry)]
pub(crate) struct BestOfTile {
    pub(crate) least: Best,
    pub(crate) leaving: Best,
}

/// The best candidates of a tier, in each of a page's tiles.
#[derive(Clone, Debug, Carry)]
pub(crate) struct Bests(Vec<BestOfTile>);

impl Bests {
    /// None, in tiles of so many slots.
    #[track_caller]
    pub(crate) fn none(tiles: &[usize]) -> Bests {
        let none = |&slots| BestOfTile { least: Best::none(slots), leaving: Best::none(slots) };
        Bests(tiles.iter().map(none).collect())
    }

    /// Those of a tile.
    pub(crate) fn of(&mut self, tile: usize) -> &mut BestOfTile {
        &mut self.0[tile]
    }
}

/// Tokens of one block, judged: all `[block]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    sig: Tile<f32, 1>,
    positions: Tile<i32, 1>,
    index: Tile<i32, 1>,
    /// Whether the step may change them.
    may: Tile<bool, 1>,
}

/// What is looked for: the least significant token of a tier, and the one that leaves the window, among those that a step may change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    rule: Rule,
    now: Progress,
    /// The position that the step moves out of the window.
    last: Scalar<i32>,
}

impl Search {
    /// For the step whose new token stands at `position`.
    #[track_caller]
    pub(crate) fn new(rule: Rule, prompt: Scalar<i32>, position: Scalar<i32>) -> Search {
        Search {
            rule,
            now: Progress::new(prompt, position).one_more(),
            last: last_behind(position, rule.window()),
        }
    }

    /// Tokens of the sequence, the step's included.
    pub(crate) fn tokens(&self) -> Scalar<i32> {
        self.now.tokens
    }

    /// Looks at tokens of these words of significance, at these positions and numbers; a step may change none but those of `own`.
    #[track_caller]
    pub(crate) fn look(
        &self,
        words: Tile<f32, 1>,
        positions: Tile<i32, 1>,
        index: Tile<i32, 1>,
        own: Tile<bool, 1>,
    ) -> Seen {
        let Judged { sig, open, .. } = self.rule.judge(self.now, words, positions);
        Seen { sig, positions, index, may: own & open }
    }

    /// The least significant so far.
    #[track_caller]
    pub(crate) fn least(&self, best: Best, seen: &Seen) -> Best {
        best.or_less(seen)
    }

    /// The one that leaves the window, if it was there.
    #[track_caller]
    pub(crate) fn leaving(&self, best: Best, seen: &Seen) -> Best {
        best.replaced(seen.may & seen.positions.eq(self.last), seen)
    }
}

/// What the last decode step's attention found for the next: what [`plan_step`](fn@crate::step::plan_step) reads.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct Shortlist {
    /// Significance, `[slots, layers, kv_heads, 3]`: of the least of the high tier, the one that leaves the window, the least of the low tier.
    /// What stands for a tier that is not there means nothing.
    sig: View<f32, 4>,
    /// Positions of the same, then their numbers in their lists, -1 for none: `[slots, layers, kv_heads, 6]`.
    at: View<i32, 4>,
    /// What it holds for, `[slots, layers, kv_heads, ShortlistState::COLUMNS]`: a row of [`ShortlistState`] for each head.
    state: View<i32, 4>,
}

/// The candidates of one layer's shortlist, to be overwritten: what [`merge_splits`](fn@crate::decode::merge_splits) writes.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct ShortlistMut {
    /// As [`Shortlist`] has it, `[slots, kv_heads, 3]`.
    sig: ViewMut<f32, 3>,
    /// As [`Shortlist`] has it, `[slots, kv_heads, 6]`.
    at: ViewMut<i32, 3>,
}

/// What each split of decode attention found, of one layer: what it leaves for the merge.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct Finds {
    /// Significance as [`Shortlist`] has it, `[slots, kv_heads, 3, splits]`.
    sig: ViewMut<f32, 4>,
    /// Positions and numbers as [`Shortlist`] has them, `[slots, kv_heads, 6, splits]`.
    at: ViewMut<i32, 4>,
}

/// What [`decode_attention`](fn@crate::decode::decode_attention) looks for candidates with, and where it leaves them.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct Looking {
    /// Lengths of the prompts, `[requests]`.
    prompts: View<i32, 1>,
    finds: Finds,
    /// What the layer's shortlist holds for, as [`Shortlist`] has it, `[slots, kv_heads, ShortlistState::COLUMNS]`.
    state: ViewMut<i32, 3>,
}

impl Shortlist {
    /// Whether it holds for a step.
    #[track_caller]
    pub(crate) fn holds(
        &self,
        [slot, layer, head]: [Scalar<i32>; 3],
        now: ShortlistState<Scalar<i32>>,
    ) -> Scalar<bool> {
        let holds = |(column, now)| self.state.get([slot.max(0), layer, head, lit(column)]).eq(now);
        let all = (0..).zip(now.to_row()).map(holds).reduce(|all, one| all & one);
        all.expect("a state has columns")
    }

    /// The candidate of a kind.
    #[track_caller]
    pub(crate) fn found(&self, [slot, layer, head]: [Scalar<i32>; 3], kind: Kind) -> Found {
        let place = |column: usize| [slot.max(0), layer, head, lit(column as i32)];
        let [sig, number] = [kind as usize, KINDS + kind as usize];
        Found::new(self.sig.get(place(sig)), self.at.get(place(sig)), self.at.get(place(number)))
    }
}

/// A kind of candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    LeastHigh,
    Leaving,
    LeastLow,
}

impl Kind {
    /// The least of a tier.
    pub(crate) fn least_of(low: bool) -> Kind {
        if low { Kind::LeastLow } else { Kind::LeastHigh }
    }
}

impl Looking {
    /// The length of a request's prompt.
    #[track_caller]
    pub(crate) fn prompt(&self, request: Scalar<i32>) -> Scalar<i32> {
        self.prompts.get([request])
    }

    /// Leaves what a split found; nothing of a request with a negative slot.
    #[device]
    fn store(&self, at: Work, kind: Kind, (sig, position, index): (Scalar<f32>, Scalar<i32>, Scalar<i32>)) {
        let place = |column: usize| [at.slot, at.head, lit(column as i32), at.split];
        if at.slot.ge(0) {
            self.finds.sig.set(place(kind as usize), sig);
            self.finds.at.set(place(kind as usize), position);
            self.finds.at.set(place(KINDS + kind as usize), index);
        }
    }

    /// Leaves what a split found in a tier.
    #[track_caller]
    pub(crate) fn keep(&self, at: Work, low: bool, best: &Bests) {
        let of = |kind: fn(&BestOfTile) -> Best| Best::least_of(best.0.iter().map(kind));
        self.store(at, Kind::least_of(low), of(|tile| tile.least));
        if !low {
            self.store(at, Kind::Leaving, of(|tile| tile.leaving));
        }
    }

    /// Says what the shortlist holds for, once the splits are merged.
    #[device]
    pub(crate) fn mark(&self, at: Work, next: ShortlistState<Scalar<i32>>) {
        if at.slot.ge(0) & at.split.eq(0) {
            next.store(|column, number| self.state.set([at.slot, at.head, lit(column)], number));
        }
    }
}

impl Finds {
    /// The best of a kind that the first `splits` splits found, of which so many are looked at together.
    #[device]
    fn best(&self, [slot, head]: [Scalar<i32>; 2], kind: Kind, splits: Scalar<i32>, together: usize) -> Best {
        let mut best = Best::none(together);
        for turn in range(0, splits.cdiv(together as i32)) {
            let place = |column: usize| (slot, head, column as i32, turn);
            let numbers =
                |column: usize| self.at.tile(place(column), [1, 1, 1, together]).load().reshape([together]);
            let sig = self.sig.tile(place(kind as usize), [1, 1, 1, together]).load().reshape([together]);
            let may = (turn * together as i32 + iota(together)).lt(splits);
            let (positions, index) = (numbers(kind as usize), numbers(KINDS + kind as usize));
            best = best.or_less(&Seen { sig, positions, index, may });
        }
        best
    }
}

impl ShortlistMut {
    /// Keeps the best of what a head's first `splits` splits found, of which so many are looked at together; nothing of a request with a negative
    /// slot.
    #[device]
    pub(crate) fn keep(
        &self,
        finds: &Finds,
        slot: Scalar<i32>,
        head: Scalar<i32>,
        splits: Scalar<i32>,
        together: usize,
    ) {
        if slot.ge(0) {
            for kind in [Kind::LeastHigh, Kind::Leaving, Kind::LeastLow] {
                let (sig, position, index) = finds.best([slot, head], kind, splits, together).least();
                let place = |column: usize| [slot, head, lit(column as i32)];
                self.sig.set(place(kind as usize), sig);
                self.at.set(place(kind as usize), position);
                self.at.set(place(KINDS + kind as usize), index);
            }
        }
    }
}
