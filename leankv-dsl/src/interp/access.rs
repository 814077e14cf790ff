//! Loads, stores and atomics on global memory, with their checks.

use std::collections::HashMap;

use super::data::{Data, Element, each, each_float, each_int, with_type};
use super::fault::{FaultKind, Raised};
use super::memory::{BufferId, Memory};
use super::number::{Integer, Number};
use super::race::{Access as RaceAccess, Conflict, Races};
use super::{Options, Traffic};
use crate::ir::{Access, AtomicOp, Dtype, MemOrder, MemScope};

/// A pointer value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pointer {
    pub(crate) buffer: BufferId,
    /// From the start of the buffer; may be outside until it is used.
    pub(crate) byte: i64,
    /// Index of the parameter that it came from.
    pub(crate) param: u32,
}

/// Global memory during a launch.
pub(crate) struct Global<'a> {
    pub(crate) memory: &'a mut Memory,
    pub(crate) races: Option<Races>,
    pub(crate) options: &'a Options,
    /// Access of each parameter.
    pub(crate) access: Vec<Access>,
    /// Bytes moved through each parameter.
    pub(crate) traffic: Vec<Traffic>,
    pub(crate) grid: [u32; 3],
}

/// Elements with consecutive addresses.
struct Run {
    /// First element of the tile.
    first: usize,
    len: usize,
    /// Its offset, in elements.
    offset: i64,
}

/// The runs of a tile of offsets, masked-off elements left out.
fn runs(offsets: &[i64], mask: Option<&[bool]>) -> Vec<Run> {
    let on = |i: usize| mask.is_none_or(|mask| mask[i]);
    let mut out = Vec::new();
    let mut i = 0;
    while i < offsets.len() {
        if !on(i) {
            i += 1;
            continue;
        }
        let first = i;
        i += 1;
        while i < offsets.len() && on(i) && offsets[i - 1].checked_add(1) == Some(offsets[i]) {
            i += 1;
        }
        out.push(Run { first, len: i - first, offset: offsets[first] });
    }
    out
}

/// What atomics need besides their operands.
pub(crate) struct Atomic {
    pub(crate) order: MemOrder,
    pub(crate) scope: MemScope,
}

/// The linear index of a program, x fastest.
pub(crate) fn program_at(grid: [u32; 3], linear: u32) -> [u32; 3] {
    let [x, y, _] = grid.map(|extent| extent.max(1));
    [linear % x, linear / x % y, linear / x / y]
}

impl Global<'_> {
    pub(crate) fn load(
        &mut self,
        ptr: Pointer,
        dtype: Dtype,
        offsets: &[i64],
        mask: Option<&[bool]>,
        other: Option<&Data>,
    ) -> Result<Data, Raised> {
        let n = offsets.len();
        let mut out = match other {
            Some(other) => other.clone(),
            None => Data::zeros(dtype, n),
        };
        if out.len() != n || mask.is_some_and(|mask| mask.len() != n) {
            return Err(Raised::malformed("`load` of operands with different extents".into()));
        }
        self.each_run(ptr, dtype, offsets, mask, |global, run, start, end| {
            global.check_read(ptr, dtype, run, start, end)?;
            let bytes = &global.memory.get_mut(ptr.buffer).bytes[start..end];
            each!(&mut out, v => read_run(&mut v[run.first..run.first + run.len], bytes));
            global.traffic[ptr.param as usize].loaded += bytes.len() as u64;
            Ok(())
        })?;
        Ok(out)
    }

    pub(crate) fn store(
        &mut self,
        ptr: Pointer,
        offsets: &[i64],
        value: &Data,
        dtype: Dtype,
        mask: Option<&[bool]>,
    ) -> Result<(), Raised> {
        if value.len() != offsets.len() || mask.is_some_and(|mask| mask.len() != offsets.len()) {
            return Err(Raised::malformed("`store` of operands with different extents".into()));
        }
        if self.options.check_duplicate_stores {
            check_duplicates(ptr, offsets, value, mask).map_err(|raised| raised.of(ptr))?;
        }
        let mut bytes = Vec::new();
        self.each_run(ptr, dtype, offsets, mask, |global, run, start, end| {
            bytes.resize(end - start, 0);
            each!(value, v => write_run(&v[run.first..run.first + run.len], &mut bytes));
            global.check_race(ptr, dtype, run, start, end, RaceAccess::Write(&bytes))?;
            let buffer = global.memory.get_mut(ptr.buffer);
            buffer.bytes[start..end].copy_from_slice(&bytes);
            buffer.mark(start, end);
            global.traffic[ptr.param as usize].stored += bytes.len() as u64;
            Ok(())
        })
    }

    pub(crate) fn atomic_rmw(
        &mut self,
        op: AtomicOp,
        ptr: Pointer,
        offsets: &[i64],
        value: &Data,
        dtype: Dtype,
        mask: Option<&[bool]>,
        atomic: &Atomic,
    ) -> Result<Data, Raised> {
        let mut out = Data::zeros(dtype, offsets.len());
        if value.len() != offsets.len() || mask.is_some_and(|mask| mask.len() != offsets.len()) {
            return Err(Raised::malformed("`atomic_rmw` of operands with different extents".into()));
        }
        with_type!(dtype, T => {
            let (Some(values), Some(old)) = (T::of(value), T::of_mut(&mut out)) else {
                return Err(Raised::malformed("`atomic_rmw` of another element type".into()));
            };
            self.atomic::<T>(ptr, dtype, offsets, mask, atomic, old, |i, old| modify(op, old, values[i]))?;
        });
        Ok(out)
    }

    pub(crate) fn atomic_cas(
        &mut self,
        ptr: Pointer,
        offsets: &[i64],
        compare: &Data,
        new: &Data,
        dtype: Dtype,
        atomic: &Atomic,
    ) -> Result<Data, Raised> {
        let mut out = Data::zeros(dtype, offsets.len());
        with_type!(dtype, T => {
            match (T::of(compare), T::of(new), T::of_mut(&mut out)) {
                (Some(compare), Some(new), Some(old)) if compare.len() == new.len() && new.len() == old.len() => {
                    let swap = |i: usize, old: T| Some(if old == compare[i] { new[i] } else { old });
                    self.atomic::<T>(ptr, dtype, offsets, None, atomic, old, swap)?;
                }
                _ => return Err(Raised::malformed("`atomic_cas` of operands of different types".into())),
            }
        });
        Ok(out)
    }

    /// Replaces each element by what `f` makes of it, in order, and keeps what was there.
    fn atomic<T: Element>(
        &mut self,
        ptr: Pointer,
        dtype: Dtype,
        offsets: &[i64],
        mask: Option<&[bool]>,
        atomic: &Atomic,
        out: &mut [T],
        f: impl Fn(usize, T) -> Option<T>,
    ) -> Result<(), Raised> {
        let (acquires, releases) = match atomic.order {
            MemOrder::Relaxed => (false, false),
            MemOrder::Acquire => (true, false),
            MemOrder::Release => (false, true),
            MemOrder::AcqRel => (true, true),
        };
        // Programs do not share a block, so order of block scope orders nothing between them.
        let synchronises = atomic.scope != MemScope::Block;
        for (i, &offset) in offsets.iter().enumerate() {
            if mask.is_some_and(|mask| !mask[i]) {
                continue;
            }
            let run = Run { first: i, len: 1, offset };
            let (start, end) = self.range(ptr, dtype, &run)?;
            self.check_written(ptr, &run, start, end, T::BYTES)?;
            if synchronises
                && acquires
                && let Some(races) = &mut self.races
            {
                races.acquire(ptr.buffer, start as i64);
            }
            self.check_race(ptr, dtype, &run, start, end, RaceAccess::Atomic)?;
            let bytes = &mut self.memory.get_mut(ptr.buffer).bytes[start..end];
            out[i] = T::read(bytes);
            let Some(new) = f(i, out[i]) else {
                return Err(Raised::malformed(format!("this atomic does not exist for `{dtype}`")));
            };
            new.write(bytes);
            if synchronises
                && releases
                && let Some(races) = &mut self.races
            {
                races.release(ptr.buffer, start as i64);
            }
            self.traffic[ptr.param as usize].atomic += T::BYTES as u64;
        }
        Ok(())
    }

    fn each_run(
        &mut self,
        ptr: Pointer,
        dtype: Dtype,
        offsets: &[i64],
        mask: Option<&[bool]>,
        mut f: impl FnMut(&mut Self, &Run, usize, usize) -> Result<(), Raised>,
    ) -> Result<(), Raised> {
        for run in runs(offsets, mask) {
            let (start, end) = self.range(ptr, dtype, &run)?;
            f(self, &run, start, end).map_err(|raised| raised.of(ptr))?;
        }
        Ok(())
    }

    /// The bytes of a run, checked against the buffer's bounds and the element's alignment.
    fn range(&self, ptr: Pointer, dtype: Dtype, run: &Run) -> Result<(usize, usize), Raised> {
        let size = i128::from(dtype.bytes().unwrap_or(1));
        let buffer_bytes = self.memory.get(ptr.buffer).map_or(0, |b| b.bytes.len() as u64);
        let byte = |i: usize| i128::from(ptr.byte) + (i128::from(run.offset) + i as i128) * size;
        let fits = |i: usize| byte(i) >= 0 && byte(i) + size <= i128::from(buffer_bytes);
        if !fits(0) || !fits(run.len - 1) {
            let bad = (0..run.len).find(|&i| !fits(i)).unwrap_or(0);
            let kind = FaultKind::OutOfBounds { byte: byte(bad), dtype, buffer_bytes };
            return Err(kind.at(run.first + bad).of(ptr));
        }
        if self.options.check_alignment && byte(0) % size != 0 {
            return Err(FaultKind::Misaligned { byte: byte(0) as i64, dtype }.at(run.first).of(ptr));
        }
        Ok((byte(0) as usize, byte(run.len) as usize))
    }

    fn check_read(
        &mut self,
        ptr: Pointer,
        dtype: Dtype,
        run: &Run,
        start: usize,
        end: usize,
    ) -> Result<(), Raised> {
        let size = (end - start) / run.len;
        self.check_written(ptr, run, start, end, size)?;
        if dtype == Dtype::I1 {
            let bytes = &self.memory.get_mut(ptr.buffer).bytes[start..end];
            if let Some(at) = bytes.iter().position(|&byte| byte > 1) {
                let kind = FaultKind::NotABool { byte: (start + at) as i64, value: bytes[at] };
                return Err(kind.at(run.first + at));
            }
        }
        if self.access[ptr.param as usize] == Access::Read
            && let Some(byte) = self.races.as_ref().and_then(|races| races.written(ptr.buffer, start, end))
        {
            let kind = FaultKind::ReadOnlyMemoryWritten { byte: byte as i64 };
            return Err(kind.at(run.first + (byte - start) / size));
        }
        self.check_race(ptr, dtype, run, start, end, RaceAccess::Read)
    }

    fn check_written(
        &self,
        ptr: Pointer,
        run: &Run,
        start: usize,
        end: usize,
        size: usize,
    ) -> Result<(), Raised> {
        if !self.options.check_uninitialised {
            return Ok(());
        }
        let written = self.memory.get(ptr.buffer).and_then(|buffer| buffer.written.as_ref());
        match written.and_then(|written| written[start..end].iter().position(|&written| !written)) {
            Some(at) => {
                let kind = FaultKind::Uninitialised { byte: Some((start + at) as i64) };
                Err(kind.at(run.first + at / size).of(ptr))
            }
            None => Ok(()),
        }
    }

    fn check_race(
        &mut self,
        ptr: Pointer,
        dtype: Dtype,
        run: &Run,
        start: usize,
        end: usize,
        access: RaceAccess<'_>,
    ) -> Result<(), Raised> {
        let Some(races) = &mut self.races else { return Ok(()) };
        let bytes = &self.memory.get_mut(ptr.buffer).bytes;
        let Err(Conflict { byte, other, other_wrote }) =
            races.access(ptr.buffer, start, &bytes[start..end], bytes.len(), access)
        else {
            return Ok(());
        };
        let element = run.first + (byte - start) / dtype.bytes().unwrap_or(1) as usize;
        let byte = byte as i64;
        let other = other.map(|program| program_at(self.grid, program));
        let kind = match (access, other_wrote) {
            (RaceAccess::Read, _) => FaultKind::ReadRace { byte, other, on_write: false },
            (_, true) => FaultKind::WriteRace { byte, other },
            (_, false) => FaultKind::ReadRace { byte, other, on_write: true },
        };
        Err(kind.at(element).of(ptr))
    }
}

impl Raised {
    fn of(self, ptr: Pointer) -> Raised {
        Raised { param: Some(ptr.param), ..self }
    }
}

fn read_run<T: Element>(out: &mut [T], bytes: &[u8]) {
    if T::BYTES > 0 {
        for (element, bytes) in out.iter_mut().zip(bytes.chunks_exact(T::BYTES)) {
            *element = T::read(bytes);
        }
    }
}

fn write_run<T: Element>(values: &[T], bytes: &mut [u8]) {
    if T::BYTES > 0 {
        for (value, bytes) in values.iter().zip(bytes.chunks_exact_mut(T::BYTES)) {
            value.write(bytes);
        }
    }
}

/// Elements of one store at one address must have equal bits.
fn check_duplicates(
    ptr: Pointer,
    offsets: &[i64],
    value: &Data,
    mask: Option<&[bool]>,
) -> Result<(), Raised> {
    let on = |i: &usize| mask.is_none_or(|mask| mask[*i]);
    let rising = (0..offsets.len()).filter(on).map(|i| offsets[i]).is_sorted_by(|a, b| a < b);
    if rising {
        return Ok(());
    }
    let mut seen: HashMap<i64, usize> = HashMap::new();
    for i in (0..offsets.len()).filter(on) {
        let first = *seen.entry(offsets[i]).or_insert(i);
        let (size, same) = each!(value, v => same_bits(v, first, i));
        if !same {
            let byte = ptr.byte.wrapping_add(offsets[i].wrapping_mul(size as i64));
            return Err(FaultKind::DuplicateStore { byte, first: first as u64 }.at(i));
        }
    }
    Ok(())
}

/// The element's size, and whether two elements have the same bits.
fn same_bits<T: Element>(v: &[T], a: usize, b: usize) -> (usize, bool) {
    let (mut x, mut y) = ([0; 8], [0; 8]);
    if T::BYTES > 0 {
        v[a].write(&mut x[..T::BYTES]);
        v[b].write(&mut y[..T::BYTES]);
    }
    (T::BYTES, x == y)
}

/// What an atomic op leaves in memory; `None` where it does not exist for the type.
fn modify<T: Element>(op: AtomicOp, old: T, value: T) -> Option<T> {
    let (a, b) = (T::data(vec![old]), T::data(vec![value]));
    let out = match op {
        AtomicOp::Exchange => return Some(value),
        AtomicOp::Add => each_float!(&a, a => numbers(a, &b, Number::add), else
            each_int!(&a, a => numbers(a, &b, Number::add), else None)),
        AtomicOp::Min => each_float!(&a, a => numbers(a, &b, Number::least), else
            each_int!(&a, a => numbers(a, &b, Number::least), else None)),
        AtomicOp::Max => each_float!(&a, a => numbers(a, &b, Number::most), else
            each_int!(&a, a => numbers(a, &b, Number::most), else None)),
        AtomicOp::And => each_int!(&a, a => numbers(a, &b, Integer::and), else None),
        AtomicOp::Or => each_int!(&a, a => numbers(a, &b, Integer::or), else None),
        AtomicOp::Xor => each_int!(&a, a => numbers(a, &b, Integer::xor), else None),
    };
    out.and_then(|out| T::of(&out).map(|v| v[0]))
}

fn numbers<U: Number>(a: &[U], b: &Data, f: impl Fn(U, U) -> U) -> Option<Data> {
    Some(U::data(vec![f(a[0], U::of(b)?[0])]))
}
