//! How many bytes the loads of a loop have in flight, from the order of its machine instructions.
//!
//! A warp issues in order: it stops at the first instruction that names a register which a load has yet to write. All loads
//! that were issued by then are on their way together; those behind it wait. So a turn of the loop waits for memory once or several times,
//! and each time it has some bytes in flight. Asynchronous copies do not stop a warp: as many groups of them are on their way as
//! the loop's `DEPBAR` leaves, and one.

use serde::Serialize;

use super::executions::Lines;
use super::sass::{Instr, Listing, Loop};

/// A turn of the main loop, by one warp. Bytes are those of the sectors that loads ask for, without those that another request of its program asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Turn {
    /// Address of its first instruction; `None` where the kernel has no loop, and a turn is the whole kernel.
    pub address: Option<u32>,
    /// Machine instructions of a turn.
    pub instructions: usize,
    /// Turns of a warp, on average over warps.
    pub turns: f64,
    /// Bytes that loads ask for in a turn.
    pub bytes: f64,
    /// Of these, bytes that are asked for before the first tensor-core product; `None` where there is none.
    pub before_product: Option<f64>,
    /// How often the warp waits for loads, one after another.
    pub waits: usize,
    /// The most bytes that one of these waits has in flight.
    pub largest_wait: f64,
    /// Bytes that asynchronous copies ask for in a turn.
    pub copied: f64,
    /// Groups of asynchronous copies that are on their way at once.
    pub groups: u32,
}

impl Turn {
    /// Bytes of a warp in flight at the fullest moment.
    #[must_use]
    pub fn most_in_flight(&self) -> f64 {
        self.largest_wait + self.copied * f64::from(self.groups)
    }

    /// Bytes of a warp in flight on average over the waits, if it did nothing but wait.
    #[must_use]
    pub fn mean_in_flight(&self) -> f64 {
        self.bytes / self.waits.max(1) as f64 + self.copied * f64::from(self.groups)
    }
}

/// The innermost loop that most of the executed instructions are in.
pub(super) fn main_loop(listing: &Listing, counts: &[f64]) -> Option<Loop> {
    let weight = |l: &Loop| counts[l.body.clone()].iter().sum::<f64>();
    let loops = listing.loops();
    let mut best = loops.iter().filter(|l| weight(l) > 0.0).max_by(|a, b| weight(a).total_cmp(&weight(b)))?;
    loop {
        let inner = |l: &&Loop| {
            *l != best
                && best.body.start <= l.body.start
                && l.body.end <= best.body.end
                && weight(l) > weight(best) / 2.0
        };
        match loops.iter().filter(inner).max_by(|a, b| weight(a).total_cmp(&weight(b))) {
            Some(l) => best = l,
            None => return Some(best.clone()),
        }
    }
}

/// Registers that a load will write.
struct Pending {
    first: u32,
    count: u32,
    bytes: f64,
}

/// A turn of a loop; `once` is how often a warp that runs once through all of the kernel counts, and `scale` what is left of sectors asked
/// for without repeats.
pub(super) fn turn(
    listing: &Listing,
    main: Option<&Loop>,
    counts: &[f64],
    lines: &Lines,
    warps: f64,
    scale: f64,
) -> Turn {
    let body = main.map_or(0..listing.instrs.len(), |l| l.body.clone());
    // What is skipped on most turns is no part of one.
    let often = counts[body.clone()].iter().copied().fold(0.0, f64::max) / 2.0;
    let run: Vec<&Instr> =
        body.clone().filter(|&at| counts[at] > often).map(|at| &listing.instrs[at]).collect();
    let head = body.clone().find(|&at| counts[at] > often).map_or(0.0, |at| counts[at]);
    let mut turn = Turn {
        address: main.map(|l| listing.instrs[l.body.start].address),
        instructions: run.len(),
        turns: head / warps.max(1.0),
        ..Turn::default()
    };
    let mut pending: Vec<Pending> = Vec::new();
    let mut product = false;
    // The second time, what the turn before has left pending is known.
    let times = if main.is_some() { 2 } else { 1 };
    for time in 1..=times {
        let last = time == times;
        for instr in &run {
            let span = instr.span();
            let names = |p: &Pending| instr.registers().any(|r| r < p.first + p.count && p.first < r + span);
            if pending.iter().any(names) {
                let bytes: f64 = pending.drain(..).map(|p| p.bytes).sum();
                if last {
                    turn.waits += 1;
                    turn.largest_wait = turn.largest_wait.max(bytes);
                }
            }
            product |= last && instr.base().ends_with("MMA");
            if product && turn.before_product.is_none() {
                turn.before_product = Some(turn.bytes);
            }
            let counters = lines.counters(instr);
            let bytes = counters.sectors as f64 * 32.0 / counters.warp.max(1) as f64 * scale;
            match instr.base() {
                "LDG" | "LD" => {
                    let count = instr.access_bytes() / 4;
                    pending.extend(instr.registers().next().map(|first| Pending { first, count, bytes }));
                    turn.bytes += if last { bytes } else { 0.0 };
                }
                "LDGSTS" | "UBLKCP" if last => turn.copied += bytes,
                "DEPBAR" if last => turn.groups = turn.groups.max(left(instr) + 1),
                _ => {}
            }
        }
    }
    if turn.copied > 0.0 {
        turn.groups = turn.groups.max(1);
    }
    turn
}

/// How many groups `DEPBAR.LE SB0, 0x1` leaves on their way.
fn left(instr: &Instr) -> u32 {
    let number = instr.operands.split(',').nth(1).map(str::trim);
    number.and_then(|n| u32::from_str_radix(n.trim_start_matches("0x"), 16).ok()).unwrap_or(0)
}
