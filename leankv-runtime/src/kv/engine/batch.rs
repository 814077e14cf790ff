//! Which requests take a step, and steps that a graph takes.

use std::ops::Range;

use leankv_kernels::step::AdvancePositionsArgs;

use super::{KvCache, RequestId};
use crate::kv::{KvError, OutOfPages, Refused};

/// What the device knows of a step's requests, as rows of `[requests]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Batch {
    pub(super) slots: Vec<i32>,
    pub(super) positions: Vec<i32>,
    pub(super) prompts: Vec<i32>,
    pub(super) runs: Vec<Run>,
}

/// Requests of the same formats that stand side by side in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) formats: usize,
    pub(super) rows: Range<usize>,
    /// Where the first of them lies in a step's tensors, which may have rows of prompts before it.
    pub(super) at: usize,
}

impl Run {
    /// The runs of rows with these formats, which lie in a step's tensors where `at` says.
    pub(super) fn of(rows: impl IntoIterator<Item = (usize, usize)>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (row, (formats, at)) in rows.into_iter().enumerate() {
            match runs.last_mut() {
                Some(run) if run.formats == formats && run.at + run.rows.len() == at => {
                    run.rows.end = row + 1
                }
                _ => runs.push(Run { formats, rows: row..row + 1, at }),
            }
        }
        runs
    }

    /// Their rows in a step's tensors.
    pub(super) fn places(&self) -> Range<usize> {
        self.at..self.at + self.rows.len()
    }
}

impl KvCache {
    /// Accounts for a step that the caller takes by replaying the last one, and is called before each replay.
    ///
    /// The launches of a [`DecodeStep`](super::DecodeStep), from [`KvCache::decode_step`] to [`DecodeStep::finish`](super::DecodeStep::finish), can be captured from a
    /// stream as a graph when the step before was of the same batch and pages do not run low: they read positions, tables, plans and free pages from
    /// the device, and the host neither copies nor waits. Every replay then is the next step of that batch. It reads queries, keys and values
    /// from the buffers that were captured. Where a [`Budget`](super::Budget) is due, thresholds are solved for here, before the replay.
    ///
    /// # Errors
    /// [`KvError::NotReplayable`] when the last step was of another batch; [`Refused::OutOfPages`] when pages might run short: the step can be taken by
    /// [`KvCache::decode_step`]; the rest as there. With nothing changed.
    pub fn replay_step(&mut self, requests: &[RequestId]) -> Result<(), KvError> {
        let batch = self.batch(requests, None)?;
        if self.scratch.batch.as_ref() != Some(&batch) {
            return Err(KvError::NotReplayable);
        }
        // A step takes at most one page for each list.
        let need = requests.len() * self.config.lists();
        if self.free_floor < need {
            self.ask_free();
        }
        if self.free_floor < need {
            return Err(Refused::OutOfPages(OutOfPages { need, free: self.free_floor }).into());
        }
        self.solve_due(requests)?;
        self.free_floor -= need;
        self.advanced(requests);
        Ok(())
    }

    /// What the device must know of these requests, all of which can take a step. `places` says where each lies in the step's tensors, if
    /// there is anything else in them.
    pub(super) fn batch(&self, requests: &[RequestId], places: Option<&[usize]>) -> Result<Batch, KvError> {
        self.alive()?;
        let (mut slots, mut positions, mut prompts) = (Vec::new(), Vec::new(), Vec::new());
        for &id in requests {
            let request = self.whole(id)?;
            if request.tokens < request.prompt {
                return Err(KvError::PromptPending { id, left: request.prompt - request.seen() });
            }
            if request.tokens >= self.config.max_tokens {
                return Err(KvError::Full { id, tokens: request.tokens });
            }
            if slots.contains(&(request.slot as i32)) {
                return Err(KvError::SlotTwice { slot: request.slot });
            }
            slots.push(request.slot as i32);
            positions.push(request.tokens as i32);
            prompts.push(request.prompt as i32);
        }
        let place = |row: usize| places.map_or(row, |places| places[row]);
        let rows = requests.iter().enumerate();
        let formats = rows.filter_map(|(row, id)| Some((self.slots[id.slot].as_ref()?.formats, place(row))));
        Ok(Batch { slots, positions, prompts, runs: Run::of(formats) })
    }

    /// Moves the positions on, on the device.
    pub(super) fn advance(&mut self, requests: usize) -> Result<(), KvError> {
        if requests == 0 {
            return Ok(());
        }
        let programs = requests.div_ceil(self.kernels.advance.spec().block) as u32;
        let positions = self.scratch.positions.slice_mut(..requests)?.tensor([requests]);
        let advance = self.kernels.advance.launch(programs, AdvancePositionsArgs { positions });
        // SAFETY: the kernel reaches memory through a view alone.
        let result = unsafe { advance.run() }.map_err(KvError::Launch);
        self.remember(result)
    }

    /// The sequences are one token longer, on the device too.
    pub(super) fn advanced(&mut self, requests: &[RequestId]) {
        if let Some(batch) = &mut self.scratch.batch {
            batch.positions.iter_mut().for_each(|position| *position += 1);
        }
        for id in requests {
            if let Some(request) = &mut self.slots[id.slot] {
                request.tokens += 1;
            }
        }
    }
}
