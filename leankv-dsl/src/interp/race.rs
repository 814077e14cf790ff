//! Which program wrote and read each byte, and what is ordered with what.
//!
//! A program's run is cut into *intervals* at its releases. A byte remembers the interval of its last write and read. An
//! access of another program conflicts unless that program has acquired the interval: read a released atomic of it, or of someone
//! who had. That is the vector clock of a program, kept sparse.

use std::collections::{BTreeMap, HashMap};

use super::memory::BufferId;

/// A byte's state: 0, or an interval plus 1, or [`MANY`], with a flag for atomic writes.
type Mark = u32;
const ATOMIC: Mark = 1 << 31;
/// Accessed by several programs.
const MANY: Mark = ATOMIC - 1;

/// Program (linear) to the last of its intervals that is known.
type Clock = BTreeMap<u32, u32>;

/// Two programs touched a byte in no order.
#[derive(Debug)]
pub(crate) struct Conflict {
    /// The byte, from the start of the buffer.
    pub(crate) byte: usize,
    /// The other program; `None` when there were several.
    pub(crate) other: Option<u32>,
    /// Whether the other access was a write.
    pub(crate) other_wrote: bool,
}

/// The access that is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access<'a> {
    Read,
    /// The new bytes: writing what is there already is no conflict with another write.
    Write(&'a [u8]),
    Atomic,
}

#[derive(Default)]
struct Marks {
    writes: Vec<Mark>,
    reads: Vec<Mark>,
}

/// The marks of all buffers in one launch.
pub(crate) struct Races {
    marks: Vec<Marks>,
    /// The program of each interval.
    programs: Vec<u32>,
    current: u32,
    acquired: Clock,
    released: HashMap<(BufferId, i64), Clock>,
}

impl Races {
    pub(crate) fn new(buffers: usize) -> Races {
        Races {
            marks: (0..buffers).map(|_| Marks::default()).collect(),
            programs: Vec::new(),
            current: 0,
            acquired: Clock::new(),
            released: HashMap::new(),
        }
    }

    /// Starts a program.
    pub(crate) fn start(&mut self, program: u32) {
        self.acquired.clear();
        self.next_interval(program);
    }

    /// An atomic with acquire semantics was done on the element at `byte`.
    pub(crate) fn acquire(&mut self, buffer: BufferId, byte: i64) {
        if let Some(clock) = self.released.get(&(buffer, byte)) {
            join(&mut self.acquired, clock);
        }
    }

    /// An atomic with release semantics is done on the element at `byte`: what came before it is released.
    pub(crate) fn release(&mut self, buffer: BufferId, byte: i64) {
        let program = self.program();
        let clock = self.released.entry((buffer, byte)).or_default();
        join(clock, &self.acquired);
        clock.insert(program, self.current);
        self.next_interval(program);
    }

    /// Whether this launch wrote a byte of the range; the first one.
    pub(crate) fn written(&self, buffer: BufferId, start: usize, end: usize) -> Option<usize> {
        let writes = &self.marks[buffer.index()].writes;
        writes.get(start..end)?.iter().position(|&mark| mark != 0).map(|at| start + at)
    }

    /// Checks an access to bytes `start..start + old.len()`, which hold `old`, and records it.
    pub(crate) fn access(
        &mut self,
        buffer: BufferId,
        start: usize,
        old: &[u8],
        buffer_len: usize,
        access: Access<'_>,
    ) -> Result<(), Conflict> {
        let mut marks = std::mem::take(&mut self.marks[buffer.index()]);
        let result = self.check(&mut marks, start, old, buffer_len, access);
        self.marks[buffer.index()] = marks;
        result
    }

    fn check(
        &self,
        marks: &mut Marks,
        start: usize,
        old: &[u8],
        buffer_len: usize,
        access: Access<'_>,
    ) -> Result<(), Conflict> {
        let own = self.current + 1;
        let end = start + old.len();
        if access == Access::Read {
            if !marks.writes.is_empty() {
                for (byte, &write) in (start..).zip(&marks.writes[start..end]) {
                    if self.conflicts(write) {
                        return Err(Conflict { byte, other: self.program_of(write), other_wrote: true });
                    }
                }
            }
            marks.reads.resize(buffer_len, 0);
            for read in &mut marks.reads[start..end] {
                *read = if *read == 0 || self.same_program(*read) { own } else { MANY };
            }
            return Ok(());
        }
        if !marks.reads.is_empty() {
            for (byte, &read) in (start..).zip(&marks.reads[start..end]) {
                if self.conflicts(read) {
                    return Err(Conflict { byte, other: self.program_of(read), other_wrote: false });
                }
            }
        }
        marks.writes.resize(buffer_len, 0);
        for (i, write) in marks.writes[start..end].iter_mut().enumerate() {
            let before = *write;
            let foreign = self.conflicts(before);
            *write = match access {
                Access::Write(new) => {
                    if foreign && new[i] != old[i] {
                        return Err(Conflict {
                            byte: start + i,
                            other: self.program_of(before),
                            other_wrote: true,
                        });
                    }
                    if foreign { MANY } else { own }
                }
                _ => {
                    if foreign && before & ATOMIC == 0 {
                        return Err(Conflict {
                            byte: start + i,
                            other: self.program_of(before),
                            other_wrote: true,
                        });
                    }
                    if foreign { MANY | ATOMIC } else { own | ATOMIC }
                }
            };
        }
        Ok(())
    }

    /// Whether an access marked so is of another program and not ordered before what the current one does now.
    fn conflicts(&self, mark: Mark) -> bool {
        let interval = mark & !ATOMIC;
        if interval == 0 || interval == self.current + 1 {
            return false;
        }
        if interval == MANY {
            // Who they were is not kept; a program that synchronised with anybody gets the benefit of the doubt.
            return self.acquired.is_empty();
        }
        let program = self.programs[interval as usize - 1];
        program != self.program() && self.acquired.get(&program).is_none_or(|&known| known < interval - 1)
    }

    fn same_program(&self, mark: Mark) -> bool {
        mark != MANY && self.programs[mark as usize - 1] == self.program()
    }

    fn program_of(&self, mark: Mark) -> Option<u32> {
        match mark & !ATOMIC {
            MANY => None,
            interval => self.programs.get(interval as usize - 1).copied(),
        }
    }

    fn program(&self) -> u32 {
        self.programs[self.current as usize]
    }

    fn next_interval(&mut self, program: u32) {
        // Beyond 2^31 intervals (which no test reaches) all further ones share the last.
        if self.programs.len() < (MANY - 2) as usize {
            self.programs.push(program);
        }
        self.current = self.programs.len() as u32 - 1;
    }
}

fn join(into: &mut Clock, from: &Clock) {
    for (&program, &interval) in from {
        let known = into.entry(program).or_insert(interval);
        *known = (*known).max(interval);
    }
}
