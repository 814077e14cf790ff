//! Queries whose significance is still to be added: those of each request's last decode step.

use half::f16;
use leankv_dsl::lang::*;

use crate::members::{Members, Read};

/// Queries that were asked in the step before, of one layer: what [`decode_attention`](fn@crate::decode::decode_attention) reads.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct Pending {
    /// As the hooks left them, `[slots, query_heads, head_dim]`.
    q: View<f16, 3>,
    /// Logarithms of their sums of exponentials, `[slots, query_heads]`; infinity for a query that adds nothing to any token.
    lse: View<f32, 2>,
    /// Where the tokens lie that came after these queries, `[requests, kv_heads, 1]`: numbers in the high tier's lists, -1 for none. The
    /// first column of a step's plan.
    newest: View<i32, 3>,
}

/// The same, to be overwritten by the queries of this step: what [`merge_splits`](fn@crate::decode::merge_splits) writes.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct PendingMut {
    /// As [`Pending`] has it.
    q: ViewMut<f16, 3>,
    /// As [`Pending`] has it.
    lse: ViewMut<f32, 2>,
}

/// The pending queries of one query group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// `[group, head_dim]`.
    pub(crate) q: Tile<f16, 2>,
    /// Logarithms of their sums of exponentials, `[group]`.
    lse: Tile<f32, 1>,
    /// The number in the high tier's list of the token that came after them.
    pub(crate) newest: Scalar<i32>,
}

impl Pending {
    /// Those of a (request, KV head) whose slot is `slot`; of no meaning where that is negative.
    #[track_caller]
    pub(crate) fn load<I: ViewIndex>(
        &self,
        slot: Scalar<i32>,
        request: Scalar<i32>,
        head: Scalar<i32>,
        members: &Members<I>,
        head_dim: usize,
        read: Read,
    ) -> Asked {
        let (row, count) = (slot.max(0), members.count);
        let lse = self.lse.tile((row, members.rows), [1, count]).load().squeeze(0);
        let lse = members.inside().map_or(lse, |inside| inside.select(lse, f32::INFINITY));
        let q = members.load(self.q, row, head_dim, read);
        // Where there is none, a request that is gone may have left anything.
        let q = lse.lt(f32::INFINITY).expand_dims(1).broadcast([count, head_dim]).select(q, f16::ZERO);
        Asked { q, lse, newest: self.newest(request, head) }
    }

    /// The number in the high tier's list of the token that came after a KV head's pending queries.
    #[track_caller]
    pub(crate) fn newest(&self, request: Scalar<i32>, head: Scalar<i32>) -> Scalar<i32> {
        self.newest.get([request, head, lit(0)])
    }
}

impl Asked {
    /// What tokens received from these queries, `[tokens]`, by their logits `[group, tokens]`: the probability, maximised over the group.
    #[track_caller]
    pub(crate) fn received(&self, logits: Tile<f32, 2>) -> Tile<f32, 1> {
        (logits - self.lse.expand_dims(1)).exp().reduce_max(0)
    }
}

impl PendingMut {
    /// Makes these queries `[group, head_dim]` with logarithms `lse: [group]` the pending ones of these members of a slot.
    #[track_caller]
    pub(crate) fn store<I: ViewIndex>(
        &self,
        slot: Scalar<i32>,
        members: &Members<I>,
        q: Tile<f16, 2>,
        lse: Tile<f32, 1>,
    ) {
        // A query that attended to nothing, or to what is no number, adds nothing.
        let lse = (lse.gt(f32::NEG_INFINITY) & lse.lt(f32::INFINITY)).select(lse, f32::INFINITY);
        members.store_rows(self.q, slot, q.extents()[1], || q);
        members.store_numbers(self.lse, slot, lse);
    }
}
