//! List by list, in plain Rust: the model in tests and the baseline of the bench.

use leankv_dsl::lang::attention::{Lengths, PerTier};
use leankv_kernels::reference::{Answer, PageState};

use super::{
    PageManager, answer, check_forks, check_len, check_lengths, check_page_tokens, check_slots, check_targets,
};
use crate::kv::{CacheShape, KvError, Refused};

/// A manager on the host that goes through the lists one after another.
#[derive(Clone, Debug)]
pub struct SequentialManager {
    shape: CacheShape,
    state: PageState,
    arena: Vec<u8>,
}

impl SequentialManager {
    /// Empty lists; all pages free.
    ///
    /// # Errors
    /// [`KvError::Shape`].
    pub fn new(shape: CacheShape) -> Result<SequentialManager, KvError> {
        shape.check()?;
        let arena = vec![0; shape.arena_bytes()];
        Ok(SequentialManager { shape, state: PageState::new(shape.page_shape()), arena })
    }

    /// Pages: `[pages, page_bytes]`.
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }

    /// Pages, to write.
    pub fn arena_mut(&mut self) -> &mut [u8] {
        &mut self.arena
    }

    /// All but the arena.
    pub fn state(&self) -> &PageState {
        &self.state
    }

    /// Whether the pages that a slot holds have room for lengths `[lists, 4]`.
    fn check_room(&self, slot: usize, lengths: &[i32]) -> Result<(), KvError> {
        let lists = self.shape.lists() * PerTier::COLUMNS;
        let tokens = &self.state.page_tokens[slot * lists..][..lists];
        check_lengths(&self.state.held[slot * lists..][..lists], tokens, lengths)
    }

    fn check_empty(&self, slot: usize) -> Result<(), KvError> {
        let lists = self.shape.lists() * PerTier::COLUMNS;
        match self.state.held[slot * lists..][..lists].iter().all(|&held| held == 0) {
            true => Ok(()),
            false => Err(KvError::SlotInUse { slot }),
        }
    }

    fn answers(&self, answers: Vec<Answer>) -> Vec<Result<(), Refused>> {
        let free = self.state.free() as usize;
        answers.into_iter().map(|a| answer(&self.shape, a.granted, a.need, free)).collect()
    }
}

/// Slots and lengths are checked before.
const CHECKED: &str = "slots and lengths were checked";

impl PageManager for SequentialManager {
    fn shape(&self) -> &CacheShape {
        &self.shape
    }

    fn rebalance(&mut self, slots: &[usize], targets: &[i32]) -> Result<Vec<Result<(), Refused>>, KvError> {
        check_targets(&self.shape, slots, targets)?;
        let answers = self.state.rebalance(slots, targets).expect(CHECKED);
        Ok(self.answers(answers))
    }

    fn fork(&mut self, pairs: &[(usize, usize)]) -> Result<Vec<Result<(), Refused>>, KvError> {
        check_forks(&self.shape, pairs)?;
        let lists = self.shape.lists() * Lengths::COLUMNS;
        for &(parent, child) in pairs {
            self.check_empty(child)?;
            self.check_room(parent, &self.state.lengths[parent * lists..][..lists])?;
        }
        let children: Vec<usize> = pairs.iter().map(|pair| pair.1).collect();
        let own: Vec<i32> = pairs.iter().flat_map(|&(parent, _)| self.state.fork_targets(parent)).collect();
        let answers = self.state.rebalance(&children, &own).expect(CHECKED);
        let bytes = self.shape.page_bytes;
        for (&(parent, child), answer) in pairs.iter().zip(&answers) {
            if answer.granted == 1 {
                let copy = |from: i32, to: i32| {
                    let from = from as usize * bytes;
                    self.arena.copy_within(from..from + bytes, to as usize * bytes);
                };
                self.state.fork(parent, child, copy).expect(CHECKED);
            }
        }
        Ok(self.answers(answers))
    }

    fn set_lengths(&mut self, slot: usize, lengths: &[i32]) -> Result<(), KvError> {
        check_slots(&self.shape, &[slot])?;
        let lists = self.shape.lists() * Lengths::COLUMNS;
        check_len("lengths [layers, kv_heads, 4]", lists, lengths.len())?;
        self.check_room(slot, lengths)?;
        self.state.lengths[slot * lists..][..lists].copy_from_slice(lengths);
        Ok(())
    }

    fn set_page_tokens(&mut self, slot: usize, tokens: &[[usize; 2]]) -> Result<(), KvError> {
        let tokens = check_page_tokens(&self.shape, slot, tokens)?;
        self.check_empty(slot)?;
        self.state.page_tokens[slot * tokens.len()..][..tokens.len()].copy_from_slice(&tokens);
        Ok(())
    }

    fn free_pages(&self) -> Result<usize, KvError> {
        Ok(self.state.free() as usize)
    }

    fn snapshot(&self) -> Result<PageState, KvError> {
        Ok(self.state.clone())
    }
}
