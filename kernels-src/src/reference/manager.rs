//! The page manager, one page at a time.

use leankv_dsl::lang::attention::{Lengths, PerTier};

use super::error::{ReferenceError, check_len};

/// Extents of a manager's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageShape {
    /// Places for requests.
    pub slots: usize,
    /// Lists pairs (high and low) of a request: layers times KV heads.
    pub lists: usize,
    /// Entries of a row of the page table.
    pub table_len: usize,
    /// Pages of the arena.
    pub pages: usize,
    /// Tokens of a high and of a low page, until a request says otherwise.
    pub page_tokens: [usize; 2],
}

/// The manager's buffers, as the [kernels](crate::manager) describe them.
#[derive(Debug, Clone, PartialEq)]
pub struct PageState {
    /// Extents.
    pub shape: PageShape,
    /// `[slots, lists, table_len]`.
    pub table: Vec<i32>,
    /// `[slots, lists, 2]`.
    pub held: Vec<i32>,
    /// `[slots, lists, 4]`.
    pub lengths: Vec<i32>,
    /// `[slots, lists, 2]`.
    pub page_tokens: Vec<i32>,
    /// `[slots, lists, 2]`.
    pub thresholds: Vec<f32>,
    /// `[pages]`.
    pub refs: Vec<i32>,
    /// `[pages]`.
    pub generation: Vec<i32>,
    /// `[pages]`.
    pub ring: Vec<i32>,
    /// Taken, given.
    pub cursors: [i64; 2],
}

/// How a rebalance ended for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// 1 granted, 0 out of pages, -1 targets that no row of the table can hold.
    pub granted: i32,
    /// Pages that the request lacked; 0 with -1.
    pub need: i32,
}

impl PageState {
    /// Empty lists; all pages free, page 0 first.
    #[must_use]
    pub fn new(shape: PageShape) -> PageState {
        let PageShape { slots, lists, table_len, pages, page_tokens } = shape;
        PageState {
            shape,
            table: vec![-1; slots * lists * table_len],
            held: vec![0; slots * lists * PerTier::COLUMNS],
            lengths: vec![0; slots * lists * Lengths::COLUMNS],
            page_tokens: page_tokens.map(|tokens| tokens as i32).repeat(slots * lists),
            thresholds: vec![0.0; slots * lists * PerTier::COLUMNS],
            refs: vec![0; pages],
            generation: vec![0; pages],
            ring: (0..pages).map(|page| page as i32).collect(),
            cursors: [0, pages as i64],
        }
    }

    /// Free pages.
    #[must_use]
    pub fn free(&self) -> i64 {
        self.cursors[1] - self.cursors[0]
    }

    /// Where page `k` of a list stands in the table.
    #[must_use]
    pub fn entry(&self, slot: usize, list: usize, low: bool, k: usize) -> usize {
        let PageShape { lists, table_len, .. } = self.shape;
        (slot * lists + list) * table_len + if low { table_len - 1 - k } else { k }
    }

    /// Brings the lists of `slots` to the pages wanted: `targets` is `[slots.len(), lists, 2]`, -1 for "as it is".
    ///
    /// Pages are released and taken in the order of requests, lists, tiers, entries. A request gets all that it lacks or nothing;
    /// what is released here counts as free from the next rebalance on.
    ///
    /// # Errors
    /// [`ReferenceError::Shape`] for targets of another length or a slot that does not exist.
    pub fn rebalance(&mut self, slots: &[usize], targets: &[i32]) -> Result<Vec<Answer>, ReferenceError> {
        let PageShape { lists, table_len, pages, .. } = self.shape;
        check_len("targets [requests, lists, 2]", slots.len() * lists * 2, targets.len())?;
        self.check_slots(slots)?;
        let mut free = self.free();
        for (request, &slot) in slots.iter().enumerate() {
            for place in 0..lists * 2 {
                let has = self.held[slot * lists * 2 + place];
                let wanted = targets[request * lists * 2 + place];
                if wanted < 0 {
                    continue;
                }
                for k in wanted..has {
                    self.drop_entry(slot, place, k);
                }
                self.held[slot * lists * 2 + place] = has.min(wanted);
            }
        }
        let mut answers = Vec::with_capacity(slots.len());
        for (request, &slot) in slots.iter().enumerate() {
            let wanted = &targets[request * lists * 2..][..lists * 2];
            let held = &self.held[slot * lists * 2..][..lists * 2];
            let lacks = |(&wanted, &has): (&i32, &i32)| (wanted - has).max(0);
            let need: i64 = wanted.iter().zip(held).map(|pair| i64::from(lacks(pair))).sum();
            let fits = |(wanted, held): (&[i32], &[i32])| {
                let goal = |tier: usize| if wanted[tier] < 0 { held[tier] } else { wanted[tier] };
                wanted.iter().all(|&w| w >= -1) && i64::from(goal(0)) + i64::from(goal(1)) <= table_len as i64
            };
            if !wanted.chunks_exact(2).zip(held.chunks_exact(2)).all(fits) {
                answers.push(Answer { granted: -1, need: 0 });
                continue;
            }
            if need > free {
                answers.push(Answer { granted: 0, need: need as i32 });
                continue;
            }
            free -= need;
            answers.push(Answer { granted: 1, need: need as i32 });
            for place in 0..lists * 2 {
                let has = self.held[slot * lists * 2 + place];
                let wanted = targets[request * lists * 2 + place];
                for k in has..wanted {
                    let page = self.ring[(self.cursors[0] % pages as i64) as usize];
                    self.cursors[0] += 1;
                    self.refs[page as usize] = 1;
                    self.generation[page as usize] += 1;
                    let entry = self.entry(slot, place / 2, place % 2 == 1, k as usize);
                    self.table[entry] = page;
                }
                self.held[slot * lists * 2 + place] = has.max(wanted);
            }
        }
        for &slot in slots {
            for place in (0..lists * 2).filter(|place| self.held[slot * lists * 2 + place] == 0) {
                // A list without pages has no tokens.
                let low = place % 2 == 1;
                for column in [Lengths::AT.tokens(low), Lengths::AT.frozen(low)] {
                    let at = self.length_at(slot, place / 2, column);
                    self.lengths[at] = 0;
                }
            }
        }
        Ok(answers)
    }

    /// Where a number of a list's [`Lengths`] stands.
    #[must_use]
    pub fn length_at(&self, slot: usize, list: usize, column: i32) -> usize {
        (slot * self.shape.lists + list) * Lengths::COLUMNS + column as usize
    }

    /// Drops one entry; the last reference gives the page to the ring.
    fn drop_entry(&mut self, slot: usize, place: usize, k: i32) {
        let entry = self.entry(slot, place / 2, place % 2 == 1, k as usize);
        let page = std::mem::replace(&mut self.table[entry], -1);
        self.refs[page as usize] -= 1;
        if self.refs[page as usize] == 0 {
            let at = (self.cursors[1] % self.shape.pages as i64) as usize;
            self.ring[at] = page;
            self.cursors[1] += 1;
        }
    }

    /// Tokens of a high and of a low page of a list pair of a request; 1 for a tier that the layer does not have, which has no token.
    #[must_use]
    pub fn page_tokens(&self, slot: usize, list: usize) -> [usize; 2] {
        let row = (slot * self.shape.lists + list) * PerTier::COLUMNS;
        [0, 1].map(|tier| self.page_tokens[row + tier].max(1) as usize)
    }

    /// Pages that a child of `parent` takes for itself, `[lists, 2]`.
    #[must_use]
    pub fn fork_targets(&self, parent: usize) -> Vec<i32> {
        let of_list = |list: usize| {
            let tokens = self.page_tokens(parent, list);
            let lengths = Lengths::get(&self.lengths, parent * self.shape.lists + list);
            let partly = |length: i32, tier: usize| i32::from(length % tokens[tier] as i32 != 0);
            [partly(lengths.high, 0), partly(lengths.low, 1)]
        };
        (0..self.shape.lists).flat_map(of_list).collect()
    }

    /// Lets `child`, which took its own pages, read the parent's full pages. `copy` is told the pages whose bytes are to be copied:
    /// from, to.
    ///
    /// # Errors
    /// [`ReferenceError::Shape`] for a slot that does not exist.
    pub fn fork(
        &mut self,
        parent: usize,
        child: usize,
        mut copy: impl FnMut(i32, i32),
    ) -> Result<(), ReferenceError> {
        self.check_slots(&[parent, child])?;
        let of_slot = self.shape.lists * PerTier::COLUMNS;
        self.page_tokens.copy_within(parent * of_slot..(parent + 1) * of_slot, child * of_slot);
        for list in 0..self.shape.lists {
            let tokens = self.page_tokens(parent, list);
            for (tier, &per_page) in tokens.iter().enumerate() {
                let low = tier == 1;
                let tokens_at = |slot: usize| self.length_at(slot, list, Lengths::AT.tokens(low));
                let frozen_at = |slot: usize| self.length_at(slot, list, Lengths::AT.frozen(low));
                let (from, to) = (tokens_at(parent), tokens_at(child));
                let (frozen_from, frozen_to) = (frozen_at(parent), frozen_at(child));
                let length = self.lengths[from];
                let full = length as usize / per_page;
                let partly = !(length as usize).is_multiple_of(per_page);
                if partly {
                    let own = self.table[self.entry(child, list, low, 0)];
                    let place = self.entry(child, list, low, full);
                    self.table[place] = own;
                    copy(self.table[self.entry(parent, list, low, full)], own);
                }
                for k in 0..full {
                    let page = self.table[self.entry(parent, list, low, k)];
                    self.refs[page as usize] += 1;
                    let place = self.entry(child, list, low, k);
                    self.table[place] = page;
                }
                self.held[(child * self.shape.lists + list) * 2 + tier] = full as i32 + i32::from(partly);
                self.lengths[to] = length;
                let frozen = (full * per_page) as i32;
                self.lengths[frozen_to] = frozen;
                self.lengths[frozen_from] = self.lengths[frozen_from].max(frozen);
                self.thresholds[(child * self.shape.lists + list) * 2 + tier] =
                    self.thresholds[(parent * self.shape.lists + list) * 2 + tier];
            }
        }
        Ok(())
    }

    fn check_slots(&self, slots: &[usize]) -> Result<(), ReferenceError> {
        match slots.iter().find(|&&slot| slot >= self.shape.slots) {
            Some(&slot) => {
                Err(ReferenceError::Shape { what: "slots", expected: self.shape.slots, got: slot + 1 })
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: PageShape = PageShape { slots: 3, lists: 2, table_len: 5, pages: 12, page_tokens: [4, 3] };

    #[test]
    fn pages_are_taken_in_ring_order_from_both_ends_of_the_rows() {
        let mut state = PageState::new(SHAPE);
        let answers = state.rebalance(&[1, 0], &[2, 1, 0, 1, 1, -1, 0, 0]).unwrap();
        assert_eq!(answers, [Answer { granted: 1, need: 4 }, Answer { granted: 1, need: 1 }]);
        assert_eq!(state.table[10..20], [0, 1, -1, -1, 2, -1, -1, -1, -1, 3]);
        assert_eq!(state.table[..5], [4, -1, -1, -1, -1]);
        assert_eq!(state.free(), 7);
        // Growing one tier while the other shrinks: what is released comes after what is taken.
        let answers = state.rebalance(&[1], &[0, 2, -1, -1]).unwrap();
        assert_eq!(answers, [Answer { granted: 1, need: 1 }]);
        assert_eq!(state.table[10..15], [-1, -1, -1, 5, 2]);
        assert_eq!(state.ring[..2], [0, 1]);
        assert_eq!((state.free(), state.refs[0], state.refs[1]), (8, 0, 0));
    }

    #[test]
    fn a_request_gets_all_or_nothing_and_smaller_ones_still_fit() {
        let mut state = PageState::new(PageShape { pages: 5, ..SHAPE });
        let targets = [2, 2, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0];
        let answers = state.rebalance(&[0, 1, 2], &targets).unwrap();
        assert_eq!(answers.iter().map(|a| a.granted).collect::<Vec<_>>(), [1, 0, 1]);
        assert_eq!((state.free(), &state.held[4..8]), (0, &[0; 4][..]));
        // Six pages do not fit a row of five entries, and -2 means nothing.
        let answers = state.rebalance(&[1, 2], &[3, 3, 0, 0, -2, 0, 0, 0]).unwrap();
        assert_eq!(answers.iter().map(|a| a.granted).collect::<Vec<_>>(), [-1, -1]);
        assert_eq!((state.free(), state.held[10]), (1, 0));
    }

    #[test]
    fn a_shared_page_is_released_by_the_last_who_holds_it() {
        let mut state = PageState::new(SHAPE);
        state.rebalance(&[0], &[2, 1, 0, 0]).unwrap();
        state.lengths[..4].copy_from_slice(&[5, 3, 0, 0]);
        assert_eq!(state.fork_targets(0), [1, 0, 0, 0]);
        state.rebalance(&[2], &state.fork_targets(0)).unwrap();
        let mut copies = Vec::new();
        state.fork(0, 2, |from, to| copies.push((from, to))).unwrap();
        assert_eq!(copies, [(1, 3)]);
        assert_eq!(state.table[20..25], [0, 3, -1, -1, 2]);
        assert_eq!(state.lengths[16..20], [5, 3, 4, 3]);
        assert_eq!(state.lengths[..4], [5, 3, 4, 3]);
        assert_eq!(state.refs[..4], [2, 1, 2, 1]);
        state.rebalance(&[0], &[0; 4]).unwrap();
        assert_eq!(state.refs[..4], [1, 0, 1, 1]);
        state.rebalance(&[2], &[0; 4]).unwrap();
        assert_eq!((state.free(), state.refs.iter().sum::<i32>()), (12, 0));
    }

    #[test]
    fn wrong_lengths_and_slots_are_errors() {
        let mut state = PageState::new(SHAPE);
        assert!(state.rebalance(&[0], &[0; 3]).is_err());
        assert!(state.rebalance(&[3], &[0; 4]).is_err());
        assert!(state.fork(0, 3, |_, _| ()).is_err());
    }
}
