//! Occupancy by the architecture's limits on threads, blocks and shared memory.
//!
//! Registers are not counted: PTX does not tell how many `ptxas` will use. The figures are therefore upper bounds.

use super::Driver;
use crate::arch::{SHARED_RESERVED, THREADS_PER_BLOCK};
use crate::code::{Res, invalid};
use crate::engine::Kernel;
use crate::handles::Id;

/// Granularity of shared memory in bytes.
const SHARED_UNIT: u32 = 128;

/// The block size that fills a multiprocessor best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockSizeChoice {
    /// Blocks that fill the device.
    pub(crate) grid: u32,
    /// Threads of a block.
    pub(crate) block: u32,
}

impl Driver {
    /// Blocks that fit on a multiprocessor together.
    pub(super) fn resident_blocks(&self, kernel: &Kernel, threads: u32, dynamic_shared: usize) -> u32 {
        let limits = self.settings.arch.limits();
        if threads == 0 || threads > kernel.block_limit() {
            return 0;
        }
        let static_shared = kernel.shared_bytes as usize;
        let shared = static_shared.saturating_add(dynamic_shared);
        if shared > limits.shared_per_block_opt_in as usize {
            return 0;
        }
        let shared = (shared as u32 + SHARED_RESERVED).next_multiple_of(SHARED_UNIT);
        let by_threads = limits.threads_per_processor / threads.next_multiple_of(32);
        by_threads.min(limits.blocks_per_processor).min(limits.shared_per_processor / shared)
    }

    /// `cuOccupancyMaxActiveBlocksPerMultiprocessor`.
    pub(crate) fn occupancy_blocks(&self, id: Id, threads: i32, dynamic_shared: usize) -> Res<u32> {
        let kernel = self.function_kernel(id)?;
        Ok(self.resident_blocks(&kernel, positive(threads, "block size")?, dynamic_shared))
    }

    /// `cuOccupancyMaxPotentialBlockSize`; `limit` 0 is none, `shared` gives dynamic shared memory by block size.
    pub(crate) fn occupancy_block_size(
        &self,
        id: Id,
        shared: impl Fn(u32) -> usize,
        limit: i32,
    ) -> Res<BlockSizeChoice> {
        // `shared` is the program's: the state is not locked while it runs.
        let kernel = self.function_kernel(id)?;
        let most = kernel.block_limit();
        let most = match limit {
            0 => most,
            limit => most.min(positive(limit, "block size limit")?),
        };
        let sizes = (1..=most / 32).rev().map(|warps| warps * 32).chain((most < 32).then_some(most));
        let mut best = (0, 0, 0);
        for threads in sizes {
            let blocks = self.resident_blocks(&kernel, threads, shared(threads));
            if blocks * threads > best.0 {
                best = (blocks * threads, threads, blocks);
            }
        }
        let (filled, block, blocks) = best;
        if filled == 0 {
            return Err(invalid("no block size fits: the kernel asks for too much shared memory"));
        }
        Ok(BlockSizeChoice { grid: blocks * self.settings.arch.limits().processors, block })
    }

    /// `cuOccupancyAvailableDynamicSMemPerBlock`: bytes that each of `blocks` resident blocks can have.
    pub(crate) fn occupancy_shared(&self, id: Id, blocks: i32, threads: i32) -> Res<usize> {
        let kernel = self.function_kernel(id)?;
        let limits = self.settings.arch.limits();
        let (blocks, threads) = (positive(blocks, "number of blocks")?, positive(threads, "block size")?);
        if threads > THREADS_PER_BLOCK || self.resident_blocks(&kernel, threads, 0) < blocks {
            return Err(invalid(format!(
                "{blocks} blocks of {threads} threads do not fit on a multiprocessor"
            )));
        }
        let each = limits.shared_per_processor / blocks / SHARED_UNIT * SHARED_UNIT;
        let each = each.saturating_sub(SHARED_RESERVED).min(limits.shared_per_block_opt_in);
        Ok(each.saturating_sub(kernel.shared_bytes) as usize)
    }
}

fn positive(value: i32, what: &str) -> Res<u32> {
    u32::try_from(value).ok().filter(|n| *n > 0).ok_or_else(|| invalid(format!("a {what} of {value}")))
}
