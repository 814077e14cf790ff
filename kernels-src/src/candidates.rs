//! The tokens that a decode step may change, and how decode attention finds those of the next step on its way.
//!
//! Planning a step wants the least significant token of either tier and the one that leaves the window. Looking for them reads every token's
//! significance and position; attention reads both anyway, to add significance. So each of its splits leaves what it found in a
//! [`Shortlist`], and a step's plan reads that. What it found holds as long as the lists are as they were: the shortlist says for which
//! position and which lengths it was made. For all others (a prompt that has just ended, a fork, tiers that were classified again) the plan
//! looks for itself.

use leankv_dsl::lang::attention::{KvOperand, Lengths, Work};
use leankv_dsl::lang::*;

use crate::policy::{Candidate, Judged, Progress, Rule};

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

/// Columns of a shortlist of so many splits: of significance, and of positions and numbers.
#[must_use]
pub const fn shortlist_columns(splits: usize) -> [usize; 2] {
    [KINDS * splits, 2 * KINDS * splits]
}

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

    /// The least significant of all lanes.
    #[track_caller]
    pub(crate) fn found(self) -> Found {
        let (sig, position, index) = self.least();
        Found::new(sig, position, index)
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
        Search { rule, now: Progress::new(prompt, position).one_more(), last: position - rule.window() }
    }

    /// Tokens of the sequence, the step's included.
    pub(crate) fn tokens(&self) -> Scalar<i32> {
        self.now.tokens
    }

    /// Looks at tokens of this accumulated significance, at these positions and numbers; a step may change none but those of `own`.
    #[track_caller]
    pub(crate) fn look(
        &self,
        mass: Tile<f32, 1>,
        positions: Tile<i32, 1>,
        index: Tile<i32, 1>,
        own: Tile<bool, 1>,
    ) -> Seen {
        let Judged { sig, open, .. } = self.rule.judge(self.now, mass, positions);
        Seen { sig, positions, index, may: own & open }
    }

    /// The least significant so far.
    #[track_caller]
    pub(crate) fn least(&self, best: Best, seen: &Seen) -> Best {
        let less = seen.sig.lt(best.sig) | (seen.sig.eq(best.sig) & seen.positions.lt(best.position));
        best.replaced(seen.may & less, seen)
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
    /// Significance, `[slots, layers, kv_heads, 3 * splits]`: of every split the least of the high tier, then of every split the one that
    /// leaves the window, then of every split the least of the low tier.
    sig: View<f32, 4>,
    /// Positions of the same, then their numbers in their lists, -1 for none: `[slots, layers, kv_heads, 6 * splits]`.
    at: View<i32, 4>,
    /// What it holds for, `[slots, layers, kv_heads, ShortlistState::COLUMNS]`: a row of [`ShortlistState`] for each head.
    state: View<i32, 4>,
}

/// The same of one layer, to be overwritten: what [`decode_attention`](fn@crate::decode::decode_attention) writes.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct ShortlistMut {
    /// Lengths of the prompts, `[requests]`.
    prompts: View<i32, 1>,
    /// As [`Shortlist`] has it, `[slots, kv_heads, 3 * splits]`.
    sig: ViewMut<f32, 3>,
    /// As [`Shortlist`] has it, `[slots, kv_heads, 6 * splits]`.
    at: ViewMut<i32, 3>,
    /// As [`Shortlist`] has it, `[slots, kv_heads, ShortlistState::COLUMNS]`.
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

    /// The candidate of a kind, of `splits` splits.
    #[track_caller]
    pub(crate) fn found(&self, [slot, layer, head]: [Scalar<i32>; 3], kind: Kind, splits: usize) -> Found {
        let part = |of: usize| (slot.max(0), layer, head, of as i32);
        let extents = [1, 1, 1, splits];
        let numbers = |of: usize| self.at.tile(part(of), extents).load().reshape([splits]);
        let sig = self.sig.tile(part(kind as usize), extents).load().reshape([splits]);
        Best { sig, position: numbers(kind as usize), index: numbers(KINDS + kind as usize) }.found()
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

impl ShortlistMut {
    /// The length of a request's prompt.
    #[track_caller]
    pub(crate) fn prompt(&self, request: Scalar<i32>) -> Scalar<i32> {
        self.prompts.get([request])
    }

    /// Leaves what a split found; nothing of a request with a negative slot.
    #[device]
    pub(crate) fn store(&self, at: Work, kind: Kind, best: Best) {
        let (sig, position, index) = best.least();
        let column = |of: usize| at.split + (of * at.splits) as i32;
        if at.slot.ge(0) {
            self.sig.set([at.slot, at.head, column(kind as usize)], sig);
            self.at.set([at.slot, at.head, column(kind as usize)], position);
            self.at.set([at.slot, at.head, column(KINDS + kind as usize)], index);
        }
    }

    /// Leaves what a split found in a tier.
    #[track_caller]
    pub(crate) fn keep(&self, at: Work, low: bool, least: Best, leaving: Best) {
        self.store(at, Kind::least_of(low), least);
        if !low {
            self.store(at, Kind::Leaving, leaving);
        }
    }

    /// Says what it holds for.
    #[device]
    pub(crate) fn mark(&self, at: Work, next: ShortlistState<Scalar<i32>>) {
        if at.slot.ge(0) & at.split.eq(0) {
            next.store(|column, number| self.state.set([at.slot, at.head, lit(column)], number));
        }
    }
}
