//! Counting everything again.

use leankv_dsl::lang::attention::{Lengths, PerTier};
use leankv_kernels::reference::PageState;

use super::Side;

/// Something that does not add up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// The cursors of the ring are impossible.
    #[error("the ring's cursors are {taken} taken and {given} given, for {pages} pages")]
    Cursors {
        /// Pages taken.
        taken: i64,
        /// Pages given.
        given: i64,
        /// Pages of the arena.
        pages: usize,
    },
    /// The ring or a table names a page that does not exist.
    #[error("page {page} does not exist; it is named by {place}")]
    NoSuchPage {
        /// The number.
        page: i32,
        /// Where it stands.
        place: String,
    },
    /// A page is free twice (P2).
    #[error("page {page} is in the ring twice")]
    FreeTwice {
        /// The page.
        page: usize,
    },
    /// A page is free and in a list (P2).
    #[error("page {page} is free, and {holders} lists hold it")]
    FreeAndHeld {
        /// The page.
        page: usize,
        /// Lists that hold it.
        holders: usize,
    },
    /// A page is neither free nor in a list (P1).
    #[error("page {page} is lost: it is neither free nor in a list")]
    Lost {
        /// The page.
        page: usize,
    },
    /// A page's references are not the lists that hold it (P2).
    #[error("page {page} has {refs} references, and {holders} lists hold it")]
    References {
        /// The page.
        page: usize,
        /// Its references.
        refs: i32,
        /// Lists that hold it.
        holders: usize,
    },
    /// One request holds a page more than once (P2).
    #[error("slot {slot} holds page {page} twice, the second time in the {side} list of pair {list}")]
    HeldTwice {
        /// The request.
        slot: usize,
        /// The page.
        page: usize,
        /// The (layer, KV head) pair.
        list: usize,
        /// The tier.
        side: Side,
    },
    /// A page of several lists is not frozen in one of them, so it could be written (P2).
    #[error(
        "page {page} has {holders} holders and is not frozen in the {side} list of slot {slot}, pair {list}"
    )]
    SharedNotFrozen {
        /// The page.
        page: usize,
        /// Lists that hold it.
        holders: usize,
        /// The request.
        slot: usize,
        /// The (layer, KV head) pair.
        list: usize,
        /// The tier.
        side: Side,
    },
    /// The high and the low list of a pair overlap, or a count is negative.
    #[error("slot {slot}, pair {list}: {high} high and {low} low pages do not fit a row of {table_len}")]
    Overlap {
        /// The request.
        slot: usize,
        /// The (layer, KV head) pair.
        list: usize,
        /// High pages.
        high: i32,
        /// Low pages.
        low: i32,
        /// Entries of a row.
        table_len: usize,
    },
    /// An entry between the lists is not empty.
    #[error("slot {slot}, pair {list}: entry {entry} lies between the lists and holds page {page}")]
    Stray {
        /// The request.
        slot: usize,
        /// The (layer, KV head) pair.
        list: usize,
        /// The entry.
        entry: usize,
        /// What it holds.
        page: i32,
    },
    /// A slot without a request holds pages.
    #[error("slot {slot}, pair {list}: {pages} {side} pages are held, and the slot has no request")]
    NoOwner {
        /// The slot.
        slot: usize,
        /// The (layer, KV head) pair.
        list: usize,
        /// The tier.
        side: Side,
        /// Pages held.
        pages: i32,
    },
    /// More tokens than the pages hold, more frozen tokens than tokens, or frozen tokens that are no whole pages.
    #[error(
        "slot {slot}, pair {list}, {side}: {tokens} tokens, {frozen} of them frozen, in {pages} pages of {per_page}"
    )]
    Tokens {
        /// The request.
        slot: usize,
        /// The (layer, KV head) pair.
        list: usize,
        /// The tier.
        side: Side,
        /// Tokens.
        tokens: i32,
        /// Frozen tokens.
        frozen: i32,
        /// Pages.
        pages: i32,
        /// Tokens of a page.
        per_page: usize,
    },
}

/// An entry of a list.
struct Holder {
    slot: usize,
    list: usize,
    side: Side,
    frozen: bool,
}

/// Counts everything again: conservation (P1), one owner (P2), counts, lists that do not overlap, tokens that fit, what the ring holds.
/// Empty when all is well.
pub fn audit(state: &PageState) -> Vec<Finding> {
    let pages = state.shape.pages;
    let mut findings = Vec::new();
    let mut holders: Vec<Vec<Holder>> = (0..pages).map(|_| Vec::new()).collect();
    for slot in 0..state.shape.slots {
        for list in 0..state.shape.lists {
            visit(state, slot, list, &mut holders, &mut findings);
        }
    }
    let free = free_pages(state, &mut findings);
    for (page, holders) in holders.iter().enumerate() {
        let count = holders.len();
        match (free.get(page).copied().unwrap_or(0), count) {
            (0, 0) => findings.push(Finding::Lost { page }),
            (1.., 1..) => findings.push(Finding::FreeAndHeld { page, holders: count }),
            (2.., _) => findings.push(Finding::FreeTwice { page }),
            _ => {}
        }
        let refs = state.refs[page];
        if i64::from(refs) != count as i64 {
            findings.push(Finding::References { page, refs, holders: count });
        }
        for (i, &Holder { slot, list, side, frozen }) in holders.iter().enumerate() {
            if holders[..i].iter().any(|other| other.slot == slot) {
                findings.push(Finding::HeldTwice { slot, page, list, side });
            }
            if count > 1 && !frozen {
                findings.push(Finding::SharedNotFrozen { page, holders: count, slot, list, side });
            }
        }
    }
    findings
}

/// What slots hold that have no request, as `owned` says of each.
pub(super) fn audit_owners(state: &PageState, owned: impl Fn(usize) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for slot in (0..state.shape.slots).filter(|&slot| !owned(slot)) {
        for list in 0..state.shape.lists {
            let held = PerTier::get(&state.held, slot * state.shape.lists + list).to_row();
            let held = Side::BOTH.into_iter().zip(held).filter(|&(_, pages)| pages != 0);
            findings.extend(held.map(|(side, pages)| Finding::NoOwner { slot, list, side, pages }));
        }
    }
    findings
}

/// One pair of lists: its counts, its entries, its tokens.
fn visit(
    state: &PageState,
    slot: usize,
    list: usize,
    holders: &mut [Vec<Holder>],
    findings: &mut Vec<Finding>,
) {
    let (table_len, tokens) = (state.shape.table_len, state.page_tokens(slot, list));
    let pair = slot * state.shape.lists + list;
    let held @ PerTier { high, low } = PerTier::get(&state.held, pair);
    let lengths = Lengths::get(&state.lengths, pair);
    if high < 0 || low < 0 || i64::from(high) + i64::from(low) > table_len as i64 {
        findings.push(Finding::Overlap { slot, list, high, low, table_len });
        return;
    }
    for (per_page, side) in tokens.into_iter().zip(Side::BOTH) {
        let is_low = side == Side::Low;
        let (length, frozen, pages) = (lengths.tokens(is_low), lengths.frozen(is_low), held.of(is_low));
        let fits = 0 <= frozen
            && frozen <= length
            && (frozen as usize).is_multiple_of(per_page)
            && i64::from(length) <= i64::from(pages) * per_page as i64;
        if !fits {
            findings.push(Finding::Tokens { slot, list, side, tokens: length, frozen, pages, per_page });
        }
        for k in 0..pages as usize {
            let page = state.table[state.entry(slot, list, is_low, k)];
            match usize::try_from(page).ok().and_then(|page| holders.get_mut(page)) {
                Some(holders) => {
                    let frozen = k < frozen.max(0) as usize / per_page;
                    holders.push(Holder { slot, list, side, frozen });
                }
                None => {
                    let place = format!("entry {k} of the {side} list of slot {slot}, pair {list}");
                    findings.push(Finding::NoSuchPage { page, place });
                }
            }
        }
    }
    for entry in high as usize..table_len - low as usize {
        let page = state.table[pair * table_len + entry];
        if page != -1 {
            findings.push(Finding::Stray { slot, list, entry, page });
        }
    }
}

/// How often each page is free.
fn free_pages(state: &PageState, findings: &mut Vec<Finding>) -> Vec<usize> {
    let pages = state.shape.pages;
    let mut free = vec![0; pages];
    let [taken, given] = state.cursors;
    if taken < 0 || !(0..=pages as i64).contains(&(given - taken)) {
        findings.push(Finding::Cursors { taken, given, pages });
        return free;
    }
    for cursor in taken..given {
        let page = state.ring[(cursor % pages as i64) as usize];
        match usize::try_from(page).ok().and_then(|page| free.get_mut(page)) {
            Some(count) => *count += 1,
            None => findings.push(Finding::NoSuchPage { page, place: format!("place {cursor} of the ring") }),
        }
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;
    use leankv_kernels::reference::PageShape;

    /// Two requests that share a page, one of them with both lists.
    fn state() -> PageState {
        let mut state =
            PageState::new(PageShape { slots: 2, lists: 2, table_len: 4, pages: 8, page_tokens: [2, 4] });
        state.rebalance(&[0], &[2, 1, 0, 1]).unwrap();
        state.lengths[..8].copy_from_slice(&[3, 1, 0, 0, 0, 4, 0, 0]);
        let own = state.fork_targets(0);
        state.rebalance(&[1], &own).unwrap();
        state.fork(0, 1, |_, _| ()).unwrap();
        state
    }

    #[test]
    fn a_sound_state_has_no_findings_and_each_damage_has_its_own() {
        assert_eq!(audit(&state()), []);
        let damaged = |damage: &dyn Fn(&mut PageState)| {
            let mut state = state();
            damage(&mut state);
            audit(&state)
        };
        let found = damaged(&|s| s.cursors[0] += 1);
        assert_eq!(found, [Finding::Lost { page: 6 }]);
        let found = damaged(&|s| s.cursors[0] = 9);
        assert_eq!(found[0], Finding::Cursors { taken: 9, given: 8, pages: 8 });
        let found = damaged(&|s| s.ring[7] = 6);
        assert_eq!(found, [Finding::FreeTwice { page: 6 }, Finding::Lost { page: 7 }]);
        let found = damaged(&|s| s.ring[7] = 8);
        assert!(matches!(found[0], Finding::NoSuchPage { page: 8, .. }), "{found:?}");
        let found = damaged(&|s| s.cursors[0] -= 1);
        assert_eq!(found, [Finding::FreeAndHeld { page: 5, holders: 1 }]);
        let found = damaged(&|s| s.refs[0] = 1);
        assert_eq!(found, [Finding::References { page: 0, refs: 1, holders: 2 }]);
        let found = damaged(&|s| s.held[0] = 4);
        assert_eq!(found[0], Finding::Overlap { slot: 0, list: 0, high: 4, low: 1, table_len: 4 });
        let found = damaged(&|s| s.table[2] = 7);
        assert_eq!(found, [Finding::Stray { slot: 0, list: 0, entry: 2, page: 7 }]);
        let found = damaged(&|s| s.table[1] = -1);
        assert!(matches!(found[0], Finding::NoSuchPage { page: -1, .. }), "{found:?}");
        let found = damaged(&|s| s.table[1] = 0);
        assert!(found.iter().any(|f| matches!(f, Finding::HeldTwice { slot: 0, page: 0, .. })), "{found:?}");
        assert!(found.contains(&Finding::Lost { page: 1 }), "{found:?}");
        let found = damaged(&|s| s.lengths[2] = 0);
        assert!(matches!(found[..], [Finding::SharedNotFrozen { page: 0, slot: 0, .. }]), "{found:?}");
        for (place, length) in [(0, 5), (2, 1), (0, 1), (0, -1)] {
            let found = damaged(&|s| s.lengths[place] = length);
            let tokens =
                |f: &Finding| matches!(f, Finding::Tokens { slot: 0, list: 0, side: Side::High, .. });
            assert!(found.iter().any(tokens), "lengths[{place}] = {length}: {found:?}");
        }
    }
}
