//! A warp: groups of lanes with a common program counter, the points where they meet again, and call frames.

use super::regs::Regs;
use crate::config::Rng;

pub(crate) const NONE: u32 = u32::MAX;

/// Why a group does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// At a collective whose lanes are not all there.
    Collective,
    /// At barrier number `.0`.
    Barrier(u32),
}

/// Lanes that run together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    pub(crate) frame: u32,
    pub(crate) meet: u32,
    pub(crate) state: State,
}

/// Where diverged lanes meet again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meet {
    /// Instruction, or [`NONE`] for the return of its frame.
    pub(crate) pc: u32,
    pub(crate) frame: u32,
    pub(crate) expected: u32,
    pub(crate) waiting: u32,
    pub(crate) parent: u32,
}

/// One function activation, shared by the lanes that called together.
pub(crate) struct Frame {
    pub(crate) func: u32,
    pub(crate) regs: Regs,
    /// Per watched register, the lanes that have written it.
    pub(crate) written: Vec<u32>,
    /// Start of the frame in each lane's local memory.
    pub(crate) local_base: u32,
    /// Calling frame and the call instruction; none for the kernel.
    pub(crate) caller: Option<(u32, u32)>,
    /// Lanes still inside.
    pub(crate) lanes: u32,
    pub(crate) depth: u32,
}

/// An asynchronous copy of one instruction that has not landed for all lanes.
pub(crate) struct PendingCopy {
    pub(crate) mask: u32,
    /// Commit group of each lane.
    pub(crate) group: [u32; 32],
    pub(crate) dst: [u32; 32],
    pub(crate) src: [u64; 32],
    pub(crate) src_bytes: [u8; 32],
    pub(crate) bytes: u32,
    pub(crate) pc: u32,
    pub(crate) func: u32,
}

#[derive(Default)]
pub(crate) struct Warp {
    pub(crate) index: u32,
    /// Lanes the block has in this warp.
    pub(crate) lanes: u32,
    /// Lanes that have not exited.
    pub(crate) live: u32,
    pub(crate) groups: Vec<Group>,
    pub(crate) meets: Vec<Meet>,
    pub(crate) free_meets: Vec<u32>,
    pub(crate) frames: Vec<Option<Frame>>,
    pub(crate) local: Vec<Vec<u8>>,
    pub(crate) copies: Vec<PendingCopy>,
    /// Commit groups closed by each lane.
    pub(crate) commits: [u32; 32],
    pub(crate) rng: Option<Rng>,
    pub(crate) executed: u64,
}

impl Warp {
    pub(crate) fn new_meet(&mut self, m: Meet) -> u32 {
        match self.free_meets.pop() {
            Some(i) => {
                self.meets[i as usize] = m;
                i
            }
            None => {
                self.meets.push(m);
                self.meets.len() as u32 - 1
            }
        }
    }

    pub(crate) fn new_frame(&mut self, f: Frame) -> u32 {
        match self.frames.iter().position(Option::is_none) {
            Some(i) => {
                self.frames[i] = Some(f);
                i as u32
            }
            None => {
                self.frames.push(Some(f));
                self.frames.len() as u32 - 1
            }
        }
    }

    pub(crate) fn frame(&self, i: u32) -> &Frame {
        self.frames[i as usize].as_ref().expect("groups only name live frames")
    }

    pub(crate) fn frame_mut(&mut self, i: u32) -> &mut Frame {
        self.frames[i as usize].as_mut().expect("groups only name live frames")
    }

    /// Lanes of `mask` reached a meeting point: they wait there, and go on together once all have come.
    pub(crate) fn arrive(&mut self, mut meet: u32, mut mask: u32) {
        while meet != NONE {
            let m = &mut self.meets[meet as usize];
            m.waiting |= mask;
            if m.waiting != m.expected {
                return;
            }
            let m = *m;
            self.free_meets.push(meet);
            if m.expected == 0 {
                return;
            }
            // The point may be the parent's as well.
            if m.parent != NONE
                && self.meets[m.parent as usize].pc == m.pc
                && self.meets[m.parent as usize].frame == m.frame
            {
                (meet, mask) = (m.parent, m.waiting);
                continue;
            }
            self.groups.push(Group {
                pc: m.pc,
                mask: m.waiting,
                frame: m.frame,
                meet: m.parent,
                state: State::Ready,
            });
            return;
        }
    }

    /// Lanes exit: no meeting point up the chain expects them any more.
    pub(crate) fn leave(&mut self, meet: u32, mask: u32) {
        let mut at = meet;
        while at != NONE {
            let m = &mut self.meets[at as usize];
            m.expected &= !mask;
            at = m.parent;
        }
        // The innermost point that is now complete releases its lanes; an empty one hands on to its parent.
        let mut at = meet;
        while at != NONE {
            let m = self.meets[at as usize];
            if m.expected == 0 {
                self.free_meets.push(at);
                at = m.parent;
                continue;
            }
            if m.waiting == m.expected {
                self.arrive(at, 0);
            }
            return;
        }
    }
}
