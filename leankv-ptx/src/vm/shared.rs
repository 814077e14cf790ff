//! Shared memory of one block and its shadow: what was written, by whom, and ordered how.
//!
//! Time is per warp. It advances at barriers and at warp collectives. An earlier access by another warp is
//! ordered before a later one if the later warp's clock has seen that time (through a barrier both took part
//! in); an earlier access by another lane of the same warp is ordered if a collective with both lanes lies
//! between.

use super::clock::Clocks;

/// "No access yet".
const NOBODY: u16 = u16::MAX;
/// Several lanes of the warp read the word.
const MANY: u8 = 0xff;

/// Shadow of one 4-byte word.
#[derive(Clone, Copy)]
struct Cell {
    write_time: u32,
    read_time: u32,
    /// Barrier generation in which `readers` was collected.
    read_epoch: u32,
    /// Warps that read the word in that generation.
    readers: u32,
    write_instr: u32,
    read_instr: u32,
    /// Warp and lane of the last write.
    write_tid: u16,
    /// Warp of the last read.
    read_warp: u8,
    /// Lane of the last read, or `MANY`.
    read_lane: u8,
    /// Bytes ever written.
    init: u8,
    /// Bytes of the last write.
    write_mask: u8,
    /// Bytes that an asynchronous copy in flight will write.
    pending: u8,
    /// The last access was an atomic.
    atomic: bool,
}

const EMPTY: Cell = Cell {
    write_time: 0,
    read_time: 0,
    read_epoch: u32::MAX,
    readers: 0,
    write_instr: 0,
    read_instr: 0,
    write_tid: NOBODY,
    read_warp: 0,
    read_lane: 0,
    init: 0,
    write_mask: 0,
    pending: 0,
    atomic: false,
};

impl Cell {
    /// Records a read; readers are collected per barrier generation.
    #[inline(always)]
    fn note_read(&mut self, who: Actor, epoch: u32, time: u32) {
        let bit = 1u32 << who.warp;
        let (warp, lane) = (who.warp as u8, who.lane as u8);
        let fresh = self.read_epoch != epoch;
        let again = !fresh && self.read_warp == warp && self.readers & bit != 0 && self.read_time == time;
        self.read_lane = if again && self.read_lane != lane { MANY } else { lane };
        self.readers = if fresh { bit } else { self.readers | bit };
        self.read_epoch = epoch;
        self.read_warp = warp;
        self.read_time = time;
        self.read_instr = who.instr;
    }
}

/// What the shadow found wrong with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Uninit,
    Pending {
        instr: u32,
    },
    /// Race with an earlier access: was it a write, its instruction, warp and lane.
    Race {
        write: bool,
        instr: u32,
        warp: u32,
        lane: Option<u32>,
        same_value: bool,
    },
}

/// Who accesses: warp, lane and number of the instruction in the program.
#[derive(Clone, Copy)]
pub(crate) struct Actor {
    pub(crate) warp: u32,
    pub(crate) lane: u32,
    pub(crate) instr: u32,
}

pub(crate) struct Shared {
    pub(crate) bytes: Vec<u8>,
    cells: Vec<Cell>,
    /// Per word and warp, the time of that warp's last read; only where partial barriers are used.
    read_times: Vec<u32>,
    warps: usize,
    /// Generation of whole-block barriers.
    pub(crate) epoch: u32,
    pub(crate) races: bool,
    pub(crate) uninit: bool,
    pub(crate) shadowed: bool,
}

fn byte_mask(address: u32, size: u32) -> u8 {
    (((1u32 << size.min(4)) - 1) << (address & 3)) as u8 & 15
}

impl Shared {
    pub(crate) fn new(
        bytes: usize,
        warps: usize,
        races: bool,
        uninit: bool,
        pending: bool,
        exact: bool,
    ) -> Self {
        let shadowed = races || uninit || pending;
        let words = bytes.div_ceil(4);
        Shared {
            bytes: vec![0; words * 4],
            cells: if shadowed { vec![EMPTY; words] } else { Vec::new() },
            read_times: if races && exact { vec![0; words * warps] } else { Vec::new() },
            warps,
            epoch: 0,
            races,
            uninit,
            shadowed,
        }
    }

    /// Forgets everything, for the next block.
    pub(crate) fn reset(&mut self) {
        // A recognisable pattern, so that a read of stale data is not silently zero.
        self.bytes.fill(0xcd);
        self.cells.fill(EMPTY);
        self.read_times.fill(0);
        self.epoch = 0;
    }

    /// Checks and records a read of `size` bytes that lie in one word.
    #[inline(always)]
    pub(crate) fn on_read(
        &mut self,
        address: u32,
        size: u32,
        who: Actor,
        clocks: &Clocks,
    ) -> Option<Trouble> {
        let mask = byte_mask(address, size);
        let word = (address / 4) as usize;
        let cell = &mut self.cells[word];
        let mut trouble = None;
        if cell.pending & mask != 0 {
            return Some(Trouble::Pending { instr: cell.write_instr });
        }
        if self.uninit && cell.init & mask != mask {
            trouble = Some(Trouble::Uninit);
        }
        if !self.races {
            return trouble;
        }
        let me = (who.warp << 5 | who.lane) as u16;
        if cell.write_tid != me && cell.write_tid != NOBODY && cell.write_mask & mask != 0 {
            let (warp, lane) = (u32::from(cell.write_tid) >> 5, u32::from(cell.write_tid) & 31);
            if !clocks.ordered(who.warp, who.lane, warp, lane, cell.write_time) {
                trouble = Some(Trouble::Race {
                    write: true,
                    instr: cell.write_instr,
                    warp,
                    lane: Some(lane),
                    same_value: false,
                });
            }
        }
        let time = clocks.now(who.warp);
        cell.note_read(who, self.epoch, time);
        if !self.read_times.is_empty() {
            self.read_times[word * self.warps + who.warp as usize] = time + 1;
        }
        trouble
    }

    /// Checks and records a read of sixteen aligned bytes; the common case of one writer and no trouble is
    /// decided once for the four words.
    #[inline(always)]
    pub(crate) fn on_read16(&mut self, address: u32, who: Actor, clocks: &Clocks) -> Option<(u32, Trouble)> {
        let word = (address / 4) as usize;
        if self.read_times.is_empty()
            && let Some(row) = self.cells[word..].first_chunk_mut::<4>()
        {
            let (tid, at) = (row[0].write_tid, row[0].write_time);
            let same = row.iter().all(|c| c.write_tid == tid && c.write_time == at);
            let sound = row.iter().all(|c| c.pending == 0 && (c.init == 15 || !self.uninit));
            let ordered = !self.races
                || tid == NOBODY
                || tid == (who.warp << 5 | who.lane) as u16
                || clocks.ordered(who.warp, who.lane, u32::from(tid) >> 5, u32::from(tid) & 31, at);
            if same && sound && ordered {
                if self.races {
                    let time = clocks.now(who.warp);
                    for c in row {
                        c.note_read(who, self.epoch, time);
                    }
                }
                return None;
            }
        }
        let mut first = None;
        for o in [address, address + 4, address + 8, address + 12] {
            let t = self.on_read(o, 4, who, clocks);
            first = first.or(t.map(|t| (o, t)));
        }
        first
    }

    /// Checks and records a write of `size` bytes that lie in one word. `changes` says whether the value differs
    /// from what is there.
    #[inline(always)]
    pub(crate) fn on_write(
        &mut self,
        address: u32,
        size: u32,
        who: Actor,
        clocks: &Clocks,
        changes: bool,
        atomic: bool,
    ) -> Option<Trouble> {
        let trouble = self.check_write(address, size, who, clocks, changes, atomic);
        self.record_write(address, size, who, clocks, atomic);
        trouble
    }

    /// The check alone: for asynchronous copies, whose write may happen from now on.
    #[inline(always)]
    pub(crate) fn check_write(
        &mut self,
        address: u32,
        size: u32,
        who: Actor,
        clocks: &Clocks,
        changes: bool,
        atomic: bool,
    ) -> Option<Trouble> {
        let mask = byte_mask(address, size);
        let word = (address / 4) as usize;
        let cell = &self.cells[word];
        if cell.pending & mask != 0 {
            return Some(Trouble::Pending { instr: cell.write_instr });
        }
        if !self.races {
            return None;
        }
        let me = (who.warp << 5 | who.lane) as u16;
        if cell.write_tid != me
            && cell.write_tid != NOBODY
            && cell.write_mask & mask != 0
            && !(atomic && cell.atomic)
        {
            let (warp, lane) = (u32::from(cell.write_tid) >> 5, u32::from(cell.write_tid) & 31);
            if !clocks.ordered(who.warp, who.lane, warp, lane, cell.write_time) {
                return Some(Trouble::Race {
                    write: true,
                    instr: cell.write_instr,
                    warp,
                    lane: Some(lane),
                    same_value: !changes,
                });
            }
        }
        if cell.read_epoch != self.epoch || cell.readers == 0 {
            return None;
        }
        let others = cell.readers & !(1 << who.warp);
        if others != 0 {
            if self.read_times.is_empty() {
                let warp = if u32::from(cell.read_warp) == who.warp {
                    others.trailing_zeros()
                } else {
                    u32::from(cell.read_warp)
                };
                return Some(Trouble::Race {
                    write: false,
                    instr: cell.read_instr,
                    warp,
                    lane: None,
                    same_value: false,
                });
            }
            for warp in 0..self.warps as u32 {
                if others >> warp & 1 == 0 {
                    continue;
                }
                let time = self.read_times[word * self.warps + warp as usize];
                if time > 0 && !clocks.ordered(who.warp, who.lane, warp, 32, time - 1) {
                    return Some(Trouble::Race {
                        write: false,
                        instr: cell.read_instr,
                        warp,
                        lane: None,
                        same_value: false,
                    });
                }
            }
        }
        if u32::from(cell.read_warp) == who.warp && u32::from(cell.read_lane) != who.lane {
            let lane = u32::from(cell.read_lane);
            let other = if cell.read_lane == MANY { who.lane ^ 1 } else { lane };
            if !clocks.ordered(who.warp, who.lane, who.warp, other, cell.read_time) {
                return Some(Trouble::Race {
                    write: false,
                    instr: cell.read_instr,
                    warp: who.warp,
                    lane: (cell.read_lane != MANY).then_some(lane),
                    same_value: false,
                });
            }
        }
        None
    }

    /// Records a write.
    #[inline(always)]
    pub(crate) fn record_write(
        &mut self,
        address: u32,
        size: u32,
        who: Actor,
        clocks: &Clocks,
        atomic: bool,
    ) {
        let mask = byte_mask(address, size);
        let cell = &mut self.cells[(address / 4) as usize];
        let time = clocks.now(who.warp);
        let me = (who.warp << 5 | who.lane) as u16;
        // Two lanes that fill one word at the same time keep both halves on record.
        let joins = cell.write_time == time && cell.write_tid >> 5 == me >> 5 && cell.write_tid != NOBODY;
        cell.write_mask = if joins { cell.write_mask | mask } else { mask };
        cell.write_time = time;
        cell.write_tid = me;
        cell.write_instr = who.instr;
        cell.init |= mask;
        cell.atomic = atomic;
    }

    /// Marks bytes as the destination of a copy in flight, or as landed.
    pub(crate) fn set_pending(&mut self, address: u32, bytes: u32, instr: u32, pending: bool) {
        if !self.shadowed {
            return;
        }
        for word in address / 4..(address + bytes).div_ceil(4) {
            let cell = &mut self.cells[word as usize];
            if pending {
                cell.pending = 15;
                cell.write_instr = instr;
            } else {
                cell.pending = 0;
            }
        }
    }

    #[inline(always)]
    pub(crate) fn load(&self, address: u32, size: u32) -> u64 {
        let a = address as usize;
        match size {
            1 => u64::from(self.bytes[a]),
            2 => u64::from(u16::from_le_bytes([self.bytes[a], self.bytes[a + 1]])),
            4 => u64::from(self.load32(address)),
            _ => u64::from(self.load32(address)) | u64::from(self.load32(address + 4)) << 32,
        }
    }

    #[inline(always)]
    pub(crate) fn load32(&self, address: u32) -> u32 {
        let a = address as usize;
        let b: &[u8; 4] = self.bytes[a..a + 4].first_chunk().expect("a slice of four");
        u32::from_le_bytes(*b)
    }

    #[inline(always)]
    pub(crate) fn store(&mut self, address: u32, size: u32, v: u64) {
        let a = address as usize;
        let n = size as usize;
        self.bytes[a..a + n].copy_from_slice(&v.to_le_bytes()[..n]);
    }
}
