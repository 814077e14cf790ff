//! What a cache holds at one moment.

use leankv_kernels::budget::Ladder;
use leankv_kernels::reference::PagedFormat;
use leankv_runtime::kv::{KvCache, PageState, RequestId};

use crate::common::{formats, pages};

/// All bytes of a cache and all that it says of its requests.
#[derive(PartialEq)]
pub(super) struct Picture {
    state: PageState,
    arena: Vec<u8>,
    requests: Vec<(RequestId, usize)>,
}

impl Picture {
    pub(super) fn of(cache: &KvCache) -> Picture {
        let requests = cache.requests().into_iter().map(|id| (id, cache.tokens(id).unwrap())).collect();
        let arena = cache.manager().state().arena.to_vec().unwrap();
        Picture { state: cache.dump().unwrap(), arena, requests }
    }

    /// Tokens of a request's sequence.
    pub(super) fn tokens(&self, id: RequestId) -> usize {
        self.requests.iter().find(|request| request.0 == id).expect("it was here").1
    }

    /// Pages that are free.
    pub(super) fn free(&self) -> usize {
        (self.state.cursors[1] - self.state.cursors[0]) as usize
    }

    /// Pages that lists hold, each counted once.
    pub(super) fn taken(&self) -> usize {
        self.state.refs.iter().filter(|&&refs| refs > 0).count()
    }

    /// Whether no list has a token or a page.
    pub(super) fn is_empty(&self) -> bool {
        [&self.state.lengths, &self.state.held, &self.state.refs]
            .iter()
            .all(|all| all.iter().all(|&n| n == 0))
    }

    /// Whether the requests, all tokens and all lengths are those of `other`; pages may have been given and taken.
    pub(super) fn same_tokens(&self, other: &Picture) -> bool {
        (&self.arena, &self.requests, &self.state.lengths)
            == (&other.arena, &other.requests, &other.state.lengths)
    }

    /// High and low tokens, and high and low pages, of one list of a request.
    pub(super) fn counts(&self, slot: usize, list: usize) -> ([usize; 2], [usize; 2]) {
        let at = slot * self.state.shape.lists + list;
        let pair = |all: &[i32], columns: usize| [0, 1].map(|tier| all[at * columns + tier] as usize);
        (pair(&self.state.lengths, 4), pair(&self.state.held, 2))
    }

    /// High and low threshold of every list of a request.
    pub(super) fn thresholds(&self, slot: usize) -> &[f32] {
        let pairs = self.state.shape.lists * 2;
        &self.state.thresholds[slot * pairs..][..pairs]
    }

    /// Whether a request's thresholds are the highest that a budget can lead to.
    pub(super) fn is_strictest(&self, slot: usize) -> bool {
        let high = Ladder::edge(Ladder::RUNGS as i32 - 1);
        self.thresholds(slot).iter().step_by(2).all(|&threshold| threshold == high)
    }

    /// Positions of a tier's tokens, in the order in which they lie.
    pub(super) fn positions(&self, format: &PagedFormat, slot: usize, list: usize, tier: usize) -> Vec<i32> {
        let segment = format.layout().positions();
        let rows = self.places(format, slot, list, tier).map(|(page, token)| {
            let bytes = &self.arena[page + segment.row(token) as usize..][..4];
            i32::from_le_bytes(bytes.try_into().expect("these are four bytes"))
        });
        rows.collect()
    }

    /// Every byte of a request's tokens, list by list, tier by tier, in the order in which they lie: codes, scales, zero points, significance,
    /// positions.
    pub(super) fn bytes(&self, formats: &[[PagedFormat; 2]], slot: usize) -> Vec<[Vec<u8>; 2]> {
        let tier = |list: usize, tier: usize| {
            let mut bytes = Vec::new();
            let format = &formats[list][tier];
            for (page, token) in self.places(format, slot, list, tier) {
                for segment in format.layout().segments() {
                    let row = page + segment.row(token) as usize;
                    bytes.extend_from_slice(&self.arena[row..row + segment.row_bytes as usize]);
                }
            }
            bytes
        };
        (0..self.state.shape.lists).map(|list| [tier(list, 0), tier(list, 1)]).collect()
    }

    /// First byte of a token's page and its number there, for every token of a list.
    fn places(
        &self,
        format: &PagedFormat,
        slot: usize,
        list: usize,
        tier: usize,
    ) -> impl Iterator<Item = (usize, u32)> {
        let layout = format.layout();
        let (each, bytes) = (layout.tokens_per_page() as usize, layout.page_bytes() as usize);
        let (pages, len) = (pages(&self.state, slot, list, tier), self.counts(slot, list).0[tier]);
        (0..len).map(move |token| (pages[token / each] as usize * bytes, (token % each) as u32))
    }
}

/// Every byte of a request's tokens, as [`Picture::bytes`].
pub(super) fn bytes(cache: &KvCache, id: RequestId) -> Vec<[Vec<u8>; 2]> {
    Picture::of(cache).bytes(&formats(cache, id), id.slot())
}
