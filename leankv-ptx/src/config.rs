//! How a machine runs: checks, divergence, schedule, limits.

/// Which checks run. Out-of-bounds, misaligned and use-after-free accesses are faults and always on: there is nothing that they could
/// do instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Reads of shared memory that nothing wrote in this block.
    pub uninit_shared: bool,
    /// Reads of global memory that neither the host nor a kernel wrote.
    pub uninit_global: bool,
    /// Reads of registers that the lane never wrote.
    pub uninit_registers: bool,
    /// Unordered conflicting accesses to shared memory within a block.
    pub shared_races: bool,
    /// Unordered conflicting accesses to global memory, by different blocks or within one.
    /// Costs the most: seven bytes for each byte of an allocation that several blocks touch, and nine for each that the running block touches.
    pub global_races: bool,
    /// Barriers reached by part of a warp, or with different parameters.
    pub barriers: bool,
    /// Accesses to destinations of asynchronous copies that are still in flight.
    pub async_copies: bool,
    /// Membermask violations and reads of lanes that do not take part.
    pub membermask: bool,
    /// Branches and calls marked `.uni` that split their warp, and `.aligned` instructions that part of a warp executes.
    pub uniform: bool,
    /// Integer divisions by zero.
    pub division_by_zero: bool,
    /// Stores to memory that the same launch reads as read-only (`.nc`).
    pub read_only: bool,
}

impl Checks {
    /// Every check.
    pub const ALL: Checks = Checks {
        uninit_shared: true,
        uninit_global: true,
        uninit_registers: true,
        shared_races: true,
        global_races: true,
        barriers: true,
        async_copies: true,
        membermask: true,
        uniform: true,
        division_by_zero: true,
        read_only: true,
    };
    /// None; hard faults remain.
    pub const NONE: Checks = Checks {
        uninit_shared: false,
        uninit_global: false,
        uninit_registers: false,
        shared_races: false,
        global_races: false,
        barriers: false,
        async_copies: false,
        membermask: false,
        uniform: false,
        division_by_zero: false,
        read_only: false,
    };
}

/// How lanes of a warp that took different branches are scheduled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Divergence {
    /// Diverged lanes meet again at the immediate post-dominator of the branch.
    #[default]
    Reconverge,
    /// Lanes run apart in seeded random order and meet only where an instruction makes them: finds code that
    /// leans on lockstep execution.
    Independent,
}

/// Configuration of a [`Machine`](crate::Machine).
#[derive(Clone, Debug)]
pub struct Config {
    /// Which checks run.
    pub checks: Checks,
    /// Scheduling of diverged lanes.
    pub divergence: Divergence,
    /// Fixes the order of blocks and warps, and of lanes in [`Divergence::Independent`]. 0 is program order. The blocks of
    /// a grid of more than 2^24 run in program order whatever the seed is.
    pub seed: u64,
    /// Worker threads; 1 is deterministic, 0 means one per core.
    pub threads: usize,
    /// Warp instructions after which a launch is stopped as endless.
    pub budget: u64,
    /// Non-zero: approximate functions are moved within the ISA's error bound, differently for each seed.
    pub approx_seed: u64,
    /// Non-zero: the order in which `mma` accumulates its products, different for each seed.
    pub mma_seed: u64,
    /// Lanes of a warp are taken as ordered at each instruction, as before sm_70. Off by default, because
    /// sm_70 and newer do not promise it.
    pub assume_lockstep: bool,
    /// Count, for each allocation and tracked range, how many sectors each block reads, however often it does. Off by default: it
    /// costs a little time and an eighth of the memory that is read.
    pub distinct_sectors: bool,
    /// Largest device memory in bytes.
    pub memory_bytes: u64,
    /// Largest shared memory of a block in bytes; 232448 (227 KiB) on sm_90.
    pub shared_limit: u64,
    /// Findings kept with full detail, errors before benign ones; further ones only count.
    pub max_findings: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            checks: Checks::ALL,
            divergence: Divergence::Reconverge,
            seed: 0,
            threads: 1,
            budget: 20_000_000_000,
            approx_seed: 0,
            mma_seed: 0,
            assume_lockstep: false,
            distinct_sectors: false,
            memory_bytes: 16 << 30,
            shared_limit: 232_448,
            max_findings: 64,
        }
    }
}

/// A small deterministic generator (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is at least 1.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}
