//! On-chip shared memory and asynchronous copies, as the GPU passes use them.
//!
//! A copy takes its data when it starts, but the stage counts as pending until a wait covers the copy's group, and as
//! unsynchronised until a barrier; touching it before is a fault.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::data::Data;
use super::fault::{FaultKind, Raised};
use crate::ir::Inst;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// A copy of this group is under way.
    Pending(u64),
    /// Written; a barrier must come before it is read.
    Written,
    /// May be read.
    Visible,
}

struct Stage {
    data: Rc<Data>,
    state: State,
    /// Read since the last barrier: it must not be overwritten yet.
    read: bool,
}

/// The shared memory of one program, by the op that allocated it.
#[derive(Default)]
pub(crate) struct Shared {
    stages: BTreeMap<(Inst, u32), Stage>,
    /// The group that copies belong to until the next commit.
    open: u64,
}

impl Shared {
    /// Starts copying `data` to a stage.
    pub(crate) fn start_copy(
        &mut self,
        block: Inst,
        stages: u32,
        stage: i64,
        data: Data,
    ) -> Result<(), Raised> {
        let state = State::Pending(self.open);
        self.put(block, stages, stage, Rc::new(data), state)
    }

    /// Writes a stage.
    pub(crate) fn store(
        &mut self,
        block: Inst,
        stages: u32,
        stage: i64,
        data: Rc<Data>,
    ) -> Result<(), Raised> {
        self.put(block, stages, stage, data, State::Written)
    }

    /// Reads a stage.
    pub(crate) fn load(&mut self, block: Inst, stages: u32, stage: i64) -> Result<Rc<Data>, Raised> {
        let stage = check_index(stage, stages)?;
        let Some(entry) = self.stages.get_mut(&(block, stage)) else {
            return Err(FaultKind::Uninitialised { byte: None }.raised());
        };
        match entry.state {
            State::Pending(_) => Err(FaultKind::StagePending { stage }.raised()),
            State::Written => Err(FaultKind::MissingBarrier { stage }.raised()),
            State::Visible => {
                entry.read = true;
                Ok(entry.data.clone())
            }
        }
    }

    /// Closes the group of copies.
    pub(crate) fn commit(&mut self) {
        self.open += 1;
    }

    /// Waits for all but the newest `pending` closed groups.
    pub(crate) fn wait(&mut self, pending: u8) {
        let done = self.open.saturating_sub(pending.into());
        for stage in self.stages.values_mut() {
            if matches!(stage.state, State::Pending(group) if group < done) {
                stage.state = State::Written;
            }
        }
    }

    /// All threads meet.
    pub(crate) fn barrier(&mut self) {
        for stage in self.stages.values_mut() {
            stage.read = false;
            if stage.state == State::Written {
                stage.state = State::Visible;
            }
        }
    }

    fn put(
        &mut self,
        block: Inst,
        stages: u32,
        stage: i64,
        data: Rc<Data>,
        state: State,
    ) -> Result<(), Raised> {
        let stage = check_index(stage, stages)?;
        match self.stages.get(&(block, stage)) {
            Some(Stage { state: State::Pending(_), .. }) => {
                return Err(FaultKind::StagePending { stage }.raised());
            }
            Some(Stage { read: true, .. } | Stage { state: State::Written, .. }) => {
                return Err(FaultKind::MissingBarrier { stage }.raised());
            }
            _ => {}
        }
        self.stages.insert((block, stage), Stage { data, state, read: false });
        Ok(())
    }
}

fn check_index(stage: i64, stages: u32) -> Result<u32, Raised> {
    match u32::try_from(stage) {
        Ok(index) if index < stages => Ok(index),
        _ => Err(FaultKind::StageIndex { stage, stages }.raised()),
    }
}
