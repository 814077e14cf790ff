//! Who moves pages.

mod device;
#[cfg(test)]
mod device_tests;
mod kernels;
mod sequential;

pub use device::{DeviceManager, More};
pub use kernels::ManagerKernels;
pub use sequential::SequentialManager;

use leankv_dsl::lang::attention::{Lengths, PerTier};
use leankv_kernels::reference::PageState;

use super::{CacheShape, Finding, KvError, Refused, audit};

/// Gives every (request, layer, KV head) the pages that it asks for.
///
/// Admission, growth, compaction, preemption and freeing are all [`rebalance`](PageManager::rebalance) with other targets.
pub trait PageManager {
    /// The extents.
    fn shape(&self) -> &CacheShape;

    /// Brings the lists of `slots` to the pages wanted: `targets` is `[slots.len(), layers, kv_heads, 2]`, high and low, -1 for "as it is".
    ///
    /// Each request, in this order, gets all that it lacks or nothing; lists that shrink shrink in any case. Pages given back here are
    /// taken by the next rebalance, not by this one. A list that is left without pages has no tokens any more.
    ///
    /// # Errors
    /// [`KvError`] for slots and targets that cannot be, with nothing changed, and what the device says. That a request was refused is
    /// in the answer, one for each slot.
    fn rebalance(&mut self, slots: &[usize], targets: &[i32]) -> Result<Vec<Result<(), Refused>>, KvError>;

    /// Gives all pages of `slots` back, all at once.
    ///
    /// # Errors
    /// As [`PageManager::rebalance`]; no request is refused.
    fn free(&mut self, slots: &[usize]) -> Result<(), KvError> {
        let targets = vec![0; slots.len() * self.shape().lists() * PerTier::COLUMNS];
        self.rebalance(slots, &targets).map(|_| ())
    }

    /// Lets each child (second) go on from what its parent (first) holds. Full pages are shared and frozen, partly filled ones copied.
    ///
    /// # Errors
    /// [`KvError::SlotInUse`] when a child holds pages, [`KvError::Shape`] when a parent has more tokens than its pages have room for,
    /// [`KvError::SlotTwice`] when it is named as another child or as a parent; the rest as
    /// [`PageManager::rebalance`]. A child that was refused is left empty.
    fn fork(&mut self, pairs: &[(usize, usize)]) -> Result<Vec<Result<(), Refused>>, KvError>;

    /// Sets the lengths of a request, `[layers, kv_heads, 4]`: tokens high, low, frozen high, frozen low. Kernels do this on the device; this is
    /// for tests and for restoring.
    ///
    /// # Errors
    /// [`KvError::NoSlot`], [`KvError::Length`], [`KvError::Shape`] for more tokens than the pages held have room for, and what the device says.
    fn set_lengths(&mut self, slot: usize, lengths: &[i32]) -> Result<(), KvError>;

    /// Sets the tokens of a high and of a low page of a request, which holds none: of each of its pairs of lists, `[layers, kv_heads]`; 0 for a low tier
    /// that there is not. A child of a fork gets its parent's.
    ///
    /// # Errors
    /// [`KvError::NoSlot`], [`KvError::SlotInUse`] when it holds pages, [`KvError::Length`] for another number of pairs, [`KvError::Shape`] for
    /// pages without tokens, and what the device says.
    fn set_page_tokens(&mut self, slot: usize, tokens: &[[usize; 2]]) -> Result<(), KvError>;

    /// Free pages, after the work queued so far.
    ///
    /// # Errors
    /// What the device says.
    fn free_pages(&self) -> Result<usize, KvError>;

    /// A copy of all but the arena, after the work queued so far.
    ///
    /// # Errors
    /// What the device says.
    fn snapshot(&self) -> Result<PageState, KvError>;

    /// Counts everything again; empty when all is well.
    ///
    /// # Errors
    /// What the device says.
    fn audit(&self) -> Result<Vec<Finding>, KvError> {
        Ok(audit(&self.snapshot()?))
    }
}

/// Slots that exist, each once.
fn check_slots(shape: &CacheShape, slots: &[usize]) -> Result<(), KvError> {
    let mut named = vec![false; shape.slots];
    for &slot in slots {
        match named.get_mut(slot) {
            None => return Err(KvError::NoSlot { slot, slots: shape.slots }),
            Some(true) => return Err(KvError::SlotTwice { slot }),
            Some(named) => *named = true,
        }
    }
    Ok(())
}

fn check_targets(shape: &CacheShape, slots: &[usize], targets: &[i32]) -> Result<(), KvError> {
    check_slots(shape, slots)?;
    check_len("targets [slots, layers, kv_heads, 2]", slots.len() * shape.lists() * 2, targets.len())
}

/// Tokens of pages as the device knows them, `[lists, 2]`. A low tier may have none, which then is not there.
fn check_page_tokens(shape: &CacheShape, slot: usize, tokens: &[[usize; 2]]) -> Result<Vec<i32>, KvError> {
    check_slots(shape, &[slot])?;
    check_len("tokens of pages [layers, kv_heads]", shape.lists(), tokens.len())?;
    let number = |tokens: usize, least: i32| {
        let number = i32::try_from(tokens).ok().filter(|&tokens| tokens >= least);
        number.ok_or_else(|| KvError::Shape {
            why: format!("pages of {tokens} tokens; a page holds at least {least}"),
        })
    };
    let both = |&[high, low]: &[usize; 2]| Ok([number(high, 1)?, number(low, 0)?]);
    Ok(tokens.iter().map(both).collect::<Result<Vec<_>, KvError>>()?.concat())
}

/// Lengths `[lists, 4]` that pages held `[lists, 2]` of so many tokens, `[lists, 2]`, have room for.
fn check_lengths(held: &[i32], tokens: &[i32], lengths: &[i32]) -> Result<(), KvError> {
    for list in 0..lengths.len() / Lengths::COLUMNS {
        let (lengths, held) = (Lengths::get(lengths, list), PerTier::get(held, list));
        let tokens = PerTier::get(tokens, list);
        for low in [false, true] {
            let (length, frozen) = (lengths.tokens(low), lengths.frozen(low));
            let room = i64::from(held.of(low)) * i64::from(tokens.of(low));
            if frozen < 0 || frozen > length || i64::from(length) > room {
                let why = format!(
                    "{length} tokens, {frozen} of them frozen, in list {list} of a request whose pages there hold {room}"
                );
                return Err(KvError::Shape { why });
            }
        }
    }
    Ok(())
}

fn check_len(what: &'static str, expected: usize, got: usize) -> Result<(), KvError> {
    if expected == got { Ok(()) } else { Err(KvError::Length { what, expected, got }) }
}

/// Children that exist, each once, none of them a parent. Whether they are empty is the manager's to see.
fn check_forks(shape: &CacheShape, pairs: &[(usize, usize)]) -> Result<(), KvError> {
    let children: Vec<usize> = pairs.iter().map(|pair| pair.1).collect();
    check_slots(shape, &children)?;
    for &(parent, _) in pairs {
        if parent >= shape.slots {
            return Err(KvError::NoSlot { slot: parent, slots: shape.slots });
        }
        if children.contains(&parent) {
            return Err(KvError::SlotTwice { slot: parent });
        }
    }
    Ok(())
}

/// A kernel's answer as a value.
fn answer(shape: &CacheShape, granted: i32, need: i32, free: usize) -> Result<(), Refused> {
    match granted {
        1 => Ok(()),
        0 => Err(super::OutOfPages { need: need.max(0) as usize, free }.into()),
        _ => Err(Refused::TableFull { table_len: shape.table_len }),
    }
}
