//! Races between blocks on global memory.
//!
//! A block counts as one actor; its own threads are the business of [`race_block`](super::race_block). Its accesses carry its release count; another block is ordered after them once
//! it has acquired from a location that the first block released to later than that. Two plain stores of the same
//! bits are no error: whichever comes last, memory holds those bits.

use super::context::{At, Ctx, OtherSide, Worker};
use super::global::Alloc;
use crate::finding::{FindingKind, Severity};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// What a block knows about others.
#[derive(Debug, Default)]
pub(crate) struct BlockClock {
    /// Releases so far.
    epoch: u32,
    /// A fence ran since the last release: the next atomic or strong store publishes.
    fenced: bool,
    /// Per block, the number of releases seen.
    known: BTreeMap<u32, u32>,
    /// Seen by relaxed reads, becomes known at the next fence.
    observed: BTreeMap<u32, u32>,
}

/// Release history of each synchronisation location.
#[derive(Debug, Default)]
pub(crate) struct GlobalSync {
    locations: BTreeMap<u64, BTreeMap<u32, u32>>,
}

impl BlockClock {
    pub(crate) fn reset(&mut self) {
        *self = BlockClock::default();
    }
}

const MANY: u64 = 0xffff_ffff;

/// Those of a launch's number that marks hold.
pub(super) const LAUNCH_BITS: u32 = 0xfff;

/// launch (12 bits), release count (12), bytes (4), atomic (1), block + 1 (32).
fn stamp(launch: u32, epoch: u32, bytes: u64, atomic: bool, block: u64) -> u64 {
    u64::from(launch & LAUNCH_BITS) << 52
        | u64::from(epoch.min(0xfff)) << 40
        | bytes << 36
        | u64::from(atomic) << 35
        | (block & 0xffff_ffff)
}

/// Four mask bits as the bits of their bytes.
fn byte_bits(bytes: u64) -> u32 {
    (0..4).filter(|i| bytes >> i & 1 == 1).fold(0, |m, i| m | 0xff << (8 * i))
}

impl Ctx<'_> {
    pub(crate) fn fence(&mut self, acquire: bool, release: bool) {
        if !self.launch.config.checks.global_races {
            return;
        }
        if release {
            self.race.fenced = true;
        }
        if acquire {
            for (b, e) in std::mem::take(&mut self.race.observed) {
                let k = self.race.known.entry(b).or_default();
                *k = (*k).max(e);
            }
        }
    }

    /// An atomic or strong access to `address`, which may publish and learn.
    pub(crate) fn synchronise(
        &mut self,
        warp: u32,
        address: u64,
        reads: bool,
        writes: bool,
        acquire: bool,
        release: bool,
    ) {
        let publishes = writes && (release || self.race.fenced);
        self.synchronise_warps(warp, address, reads, publishes);
        // Locations that nobody ever released to teach nothing; the lock is for the others.
        let Ok(mut sync) = self.launch.sync.lock() else { return };
        if reads && let Some(loc) = sync.locations.get(&address) {
            let into = if acquire { &mut self.race.known } else { &mut self.race.observed };
            for (b, e) in loc {
                let k = into.entry(*b).or_default();
                *k = (*k).max(*e);
            }
        }
        if publishes {
            self.race.epoch += 1;
            let loc = sync.locations.entry(address).or_default();
            loc.insert(self.linear, self.race.epoch);
            for (b, e) in &self.race.known {
                let k = loc.entry(*b).or_default();
                *k = (*k).max(*e);
            }
        }
    }

    /// Whether an earlier stamp is unordered with this block's present.
    #[inline(always)]
    fn unordered(&self, s: u64) -> bool {
        if s >> 52 != u64::from(self.launch.number & LAUNCH_BITS) || s == 0 {
            return false;
        }
        let block = s & 0xffff_ffff;
        if block == MANY {
            return true;
        }
        let other = (block - 1) as u32;
        if other == self.linear {
            return false;
        }
        let epoch = (s >> 40 & 0xfff) as u32;
        self.race.known.get(&other).is_none_or(|k| *k <= epoch)
    }

    /// Records an access to `size` bytes within one word and checks it against other blocks.
    #[inline(always)]
    pub(crate) fn global_access(
        &self,
        worker: &mut Worker,
        a: &Alloc,
        offset: u64,
        size: u32,
        write: bool,
        atomic: bool,
        at: At,
        lane: u32,
    ) {
        let shadow = a.shadow();
        let w = (offset / 4) as usize;
        let bytes = (((1u64 << size.min(4)) - 1) << (offset & 3)) & 15;
        let me = stamp(self.launch.number, self.race.epoch, bytes, atomic, u64::from(self.linear) + 1);
        let instr = self.launch.number(at);
        let seen = shadow.write[w].load(Acquire);
        let both_atomic = atomic && seen >> 35 & 1 == 1;
        let mut trouble = None;
        let mut same_bits = false;
        if seen >> 36 & 15 & bytes != 0 && !both_atomic && self.unordered(seen) {
            if write && !atomic {
                let both = byte_bits(seen >> 36 & bytes);
                same_bits = (shadow.value[w].load(Relaxed) ^ a.word(offset)) & both == 0;
            }
            trouble = Some((true, seen, shadow.write_instr[w].load(Relaxed)));
        }
        if write {
            let r = shadow.read[w].load(Relaxed);
            let both_atomic = atomic && r >> 35 & 1 == 1;
            if (trouble.is_none() || same_bits)
                && r >> 36 & 15 & bytes != 0
                && !both_atomic
                && self.unordered(r)
            {
                same_bits = false;
                trouble = Some((false, r, shadow.read_instr[w].load(Relaxed)));
            }
            let value = a.word(offset);
            if seen != me || shadow.value[w].load(Relaxed) != value {
                shadow.value[w].store(value, Relaxed);
                shadow.write_instr[w].store(instr, Relaxed);
                // Whoever sees the mark sees the value.
                shadow.write[w].store(me, Release);
            }
        } else {
            let r = shadow.read[w].load(Relaxed);
            if r != me {
                let same_launch = r >> 52 == me >> 52 && r != 0;
                let new = if same_launch && r & 0xffff_ffff != me & 0xffff_ffff {
                    // Readers of several blocks; bytes add up.
                    stamp(self.launch.number, 0, bytes | (r >> 36 & 15), atomic && r >> 35 & 1 == 1, MANY)
                } else {
                    me
                };
                if new != r {
                    shadow.read[w].store(new, Relaxed);
                    shadow.read_instr[w].store(instr, Relaxed);
                }
            }
        }
        if let Some((other_write, s, other)) = trouble {
            let block = s & 0xffff_ffff;
            let other = OtherSide {
                write: other_write,
                instr: other,
                block: (block != MANY).then(|| (block - 1) as u32),
                warp: None,
                lane: None,
            };
            let severity = if same_bits { Severity::Benign } else { Severity::Error };
            let message = match (write, other_write) {
                (true, true) if same_bits => "two blocks write the same bits to the same global memory",
                (true, true) => "two blocks write the same global memory without ordering",
                (true, false) => "a block writes global memory that another block read without ordering",
                _ => "a block reads global memory that another block wrote without ordering",
            };
            self.report_race(
                worker,
                FindingKind::GlobalRace,
                severity,
                at,
                lane,
                a.base + offset,
                message,
                other,
            );
        }
    }
}
