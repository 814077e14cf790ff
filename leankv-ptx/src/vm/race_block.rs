//! Races between the threads of one block on global memory.
//!
//! The rules are those of shared memory: [`Shared`] is the shadow here too, one for each page of global memory that the block touches. Besides
//! barriers and collectives, a warp is ordered after what another released, by a fence and an atomic or strong store, to a location
//! that it then reads by an atomic or strong load.

use std::collections::BTreeMap;

use super::context::{At, Ctx, Worker};
use super::shared::{Actor, Shared};
use crate::finding::FindingKind;

/// Bytes of a page: the part of memory that gets a shadow at a time. No access crosses a page, since all are aligned to their size.
const PAGE: u64 = 4096;

/// What the block's threads did to global memory.
#[derive(Default)]
pub(crate) struct BlockShadow {
    /// Shadows by allocation and page.
    pages: Vec<Vec<Option<Box<Shared>>>>,
    /// Those that there are.
    used: Vec<(usize, usize)>,
    /// Shadows of earlier blocks, to be used again.
    spare: Vec<Shared>,
    /// Clocks that warps released to each location.
    released: BTreeMap<u64, Vec<u32>>,
}

impl BlockShadow {
    /// Forgets everything, for the next block.
    pub(crate) fn reset(&mut self) {
        for (alloc, page) in self.used.drain(..) {
            self.spare.extend(self.pages[alloc][page].take().map(|shadow| *shadow));
        }
        self.released.clear();
    }

    #[inline(always)]
    fn page(&mut self, alloc: usize, page: usize, warps: usize, exact: bool) -> &mut Shared {
        if self.pages.len() <= alloc {
            self.pages.resize_with(alloc + 1, Vec::new);
        }
        let pages = &mut self.pages[alloc];
        if pages.len() <= page {
            pages.resize_with(page + 1, || None);
        }
        pages[page].get_or_insert_with(|| {
            self.used.push((alloc, page));
            Box::new(match self.spare.pop() {
                Some(mut shadow) => {
                    shadow.reset();
                    shadow
                }
                None => Shared::new(PAGE as usize, warps, true, false, false, exact),
            })
        })
    }
}

impl Ctx<'_> {
    /// Records an access by a thread of the block, in order of time, and checks it against the block's other threads. A write says
    /// whether it changes what is there.
    #[inline]
    pub(crate) fn within_block(
        &mut self,
        w: &mut Worker,
        alloc: usize,
        offset: u64,
        bytes: u32,
        write: Option<bool>,
        atomic: bool,
        at: At,
        lane: u32,
    ) {
        if bytes == 0 {
            return;
        }
        let launch = self.launch;
        let warps = (launch.threads() as usize).div_ceil(32);
        let who = Actor { warp: at.warp, lane, instr: launch.number(at) };
        let shadow = self.block_shadow.page(alloc, (offset / PAGE) as usize, warps, launch.exact_clocks);
        shadow.epoch = self.shared.epoch;
        let first = (offset % PAGE) as u32;
        // Word by word; a copy's source may end inside of one.
        let end = first + bytes;
        let size = |o: u32| (end - o).min(4);
        let mut found = None;
        match write {
            None if bytes == 16 => found = shadow.on_read16(first, who, &self.clocks),
            None => {
                for o in (first..end).step_by(4) {
                    found = found.or(shadow.on_read(o, size(o), who, &self.clocks).map(|t| (o, t)));
                }
            }
            Some(changes) => {
                for o in (first..end).step_by(4) {
                    let trouble = shadow.on_write(o, size(o), who, &self.clocks, changes, atomic);
                    found = found.or(trouble.map(|t| (o, t)));
                }
            }
        }
        if let Some((o, trouble)) = found {
            let address = launch.global.allocs[alloc].base + offset - u64::from(first) + u64::from(o);
            self.report_conflict(w, FindingKind::GlobalRace, trouble, at, lane, address, write.is_some());
        }
    }

    /// An atomic or strong access of a warp, which may publish what the warp did and learn what another one published.
    pub(crate) fn synchronise_warps(&mut self, warp: u32, address: u64, reads: bool, publishes: bool) {
        let released = &mut self.block_shadow.released;
        if reads && let Some(clock) = released.get(&address) {
            self.clocks.acquire(warp, clock);
        }
        if publishes {
            self.clocks.publish(warp, released.entry(address).or_default());
        }
    }
}
