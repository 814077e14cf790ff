//! Registers that may be read before anything wrote them.
//!
//! A register that every path to each of its reads writes needs no check. The few others are *watched*: the
//! machine keeps for each of them the lanes that have written it, at the instructions that touch it alone.

use super::builder::{FuncBuilder, RegKey, Use, Width};
use super::cfg::Blocks;
use super::op::Guard;

/// Largest table of the analysis in 64-bit words; a function beyond it is watched as a whole.
const TABLE: usize = 1 << 22;

/// The watched registers of a function.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    /// Names, by number.
    pub(crate) names: Vec<String>,
    /// Per instruction, whether it touches a watched register.
    pub(crate) touches: Vec<bool>,
    /// Uses: instruction, number of the register, what is done with it. Sorted by instruction, reads first.
    pub(crate) uses: Vec<(u32, u32, Use)>,
}

impl Watch {
    /// Uses of one instruction.
    pub(crate) fn at(&self, pc: u32) -> &[(u32, u32, Use)] {
        let start = self.uses.partition_point(|u| u.0 < pc);
        let len = self.uses[start..].partition_point(|u| u.0 == pc);
        &self.uses[start..start + len]
    }
}

pub(super) fn analyse(
    blocks: &Blocks,
    guards: &[Guard],
    uses: &[Vec<(RegKey, Use)>],
    formals: impl Iterator<Item = RegKey>,
    fb: &FuncBuilder,
) -> Watch {
    let index = |(width, slot): RegKey| match width {
        Width::W16 | Width::W32 => slot as usize,
        Width::W64 | Width::W128 => (fb.n32 + slot) as usize,
        Width::Pred => (fb.n32 + fb.n64 + slot) as usize,
    };
    let registers = (fb.n32 + fb.n64 + fb.np) as usize;
    let words = registers.div_ceil(64);
    let mut entry = vec![0u64; words];
    for f in formals {
        entry[index(f) / 64] |= 1 << (index(f) % 64);
    }
    let range = |b: usize| blocks.starts[b]..blocks.starts.get(b + 1).copied().unwrap_or(uses.len());
    // A guarded write is none for the lanes that it leaves out.
    let written = |i: usize| {
        let all = guards[i] == Guard::NONE;
        uses[i].iter().filter(move |u| all && u.1 == Use::Write).map(|u| u.0)
    };
    let count = blocks.exit();
    // Per block, the registers that every path to its start has written.
    let mut at_start = if count * words <= TABLE {
        vec![vec![u64::MAX; words]; count.max(1)]
    } else {
        vec![entry.clone(); count.max(1)]
    };
    at_start[0].clone_from(&entry);
    if count * words <= TABLE {
        let mut work: Vec<usize> = (0..count).rev().collect();
        let mut queued = vec![true; count];
        while let Some(b) = work.pop() {
            queued[b] = false;
            let mut now = at_start[b].clone();
            for i in range(b) {
                written(i).for_each(|r| now[index(r) / 64] |= 1 << (index(r) % 64));
            }
            for s in blocks.succs[b].iter().copied().filter(|s| *s < count) {
                let mut changed = false;
                for (to, from) in at_start[s].iter_mut().zip(&now) {
                    changed |= *to & !from != 0;
                    *to &= from;
                }
                if changed && !std::mem::replace(&mut queued[s], true) {
                    work.push(s);
                }
            }
        }
    }
    let mut open: Vec<(usize, RegKey)> = Vec::new();
    for b in 0..count {
        let now = &mut at_start[b];
        for i in range(b) {
            for (r, how) in &uses[i] {
                if *how != Use::Write && now[index(*r) / 64] >> (index(*r) % 64) & 1 == 0 {
                    open.push((index(*r), *r));
                }
            }
            written(i).for_each(|r| now[index(r) / 64] |= 1 << (index(r) % 64));
        }
    }
    open.sort_unstable_by_key(|o| o.0);
    open.dedup_by_key(|o| o.0);
    let mut watch = Watch { touches: vec![false; uses.len()], ..Watch::default() };
    if open.is_empty() {
        return watch;
    }
    for (_, r) in &open {
        watch.names.push(fb.reg_names.get(r).cloned().unwrap_or_default());
    }
    for (i, list) in uses.iter().enumerate() {
        let start = watch.uses.len();
        for (r, how) in list {
            if let Ok(n) = open.binary_search_by_key(&index(*r), |o| o.0) {
                watch.touches[i] = true;
                watch.uses.push((i as u32, n as u32, *how));
            }
        }
        watch.uses[start..].sort_by_key(|u| u.2 == Use::Write);
    }
    watch
}
