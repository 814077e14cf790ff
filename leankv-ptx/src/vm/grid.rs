//! Blocks: creation, scheduling of their warps, and the grid over worker threads.

use super::access::Exec;
use super::barrier::BarState;
use super::clock::Clocks;
use super::context::{At, Ctx, Launch, Traffic, Worker};
use super::race::BlockClock;
use super::race_block::BlockShadow;
use super::regs::{FULL, Regs};
use super::shared::Shared;
use super::step::Stop;
use super::warp::{Frame, Group, NONE, State, Warp};
use super::window;
use crate::config::{Divergence, Rng};
use crate::counters::InstrCounters;
use crate::decode::op::{Initial, Special};
use crate::decode::{Code, Program};
use crate::error::{Fault, FaultKind};
use crate::finding::Findings;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Warp instructions a warp runs before the next one gets a turn.
const SLICE: u32 = 16_384;
/// Warp instructions a block runs before another block gets a turn, so that blocks may wait for each other.
const BLOCK_TURN: u64 = 1 << 20;
/// Blocks that one worker keeps alive at once.
const RESIDENT: usize = 64;

/// A block in progress.
pub(crate) struct Block<'a> {
    ctx: Ctx<'a>,
    warps: Vec<Warp>,
    order: Vec<usize>,
}

/// Largest grid whose blocks run in seeded order.
const MAX_SHUFFLED: u32 = 1 << 24;

/// Registers of a function at the start of a frame, without per-warp values.
pub(crate) fn template(
    code: &Code,
    _program: &Program,
    globals: &[u64],
    shared: &[u32],
    approx_seed: u64,
) -> Regs {
    let mut r = Regs {
        r32: vec![[0; 32]; code.n32 as usize],
        r64: vec![[0; 32]; code.n64 as usize],
        p: vec![0; code.np as usize],
        approx_seed,
    };
    for (wide, slot, initial, offset) in &code.initials {
        let base = match initial {
            Initial::Const(v) => *v,
            Initial::Global(i) => globals[*i as usize],
            Initial::Shared(i) => u64::from(shared[*i as usize]),
            Initial::Local(o) => u64::from(*o),
            Initial::Func(i) => window::CODE + u64::from(*i) * 16,
            Initial::Special(_) => 0,
        };
        let v = base.wrapping_add(*offset as u64);
        if *wide {
            r.r64[*slot as usize] = [v; 32];
        } else {
            r.r32[*slot as usize] = [v as u32; 32];
        }
    }
    for (slot, v) in &code.pred_consts {
        r.p[*slot as usize] = if *v { FULL } else { 0 };
    }
    r
}

impl Ctx<'_> {
    /// Sets the special registers of a frame.
    pub(crate) fn fill_specials(&self, regs: &mut Regs, func: u32, warp: u32) {
        let code = &self.launch.program.funcs[func as usize];
        let b = self.launch.block;
        let threads = self.launch.threads();
        for (wide, slot, initial, _) in &code.initials {
            let Initial::Special(s) = initial else { continue };
            let lane = |l: usize| -> u32 {
                let t = warp * 32 + l as u32;
                match s {
                    Special::Tid(0) => t % b[0],
                    Special::Tid(1) => t / b[0] % b[1],
                    Special::Tid(2) => t / (b[0] * b[1]),
                    Special::Ntid(i @ 0..=2) => b[*i as usize],
                    Special::Ctaid(i @ 0..=2) => self.block[*i as usize],
                    Special::Nctaid(i @ 0..=2) => self.launch.grid[*i as usize],
                    Special::LaneId => l as u32,
                    Special::WarpId => warp,
                    Special::NWarpId => threads.div_ceil(32),
                    Special::SmId => self.linear % 108,
                    Special::NSmId => 108,
                    Special::GridId => self.launch.number,
                    Special::LaneMaskEq => 1 << l,
                    Special::LaneMaskLt => (1 << l) - 1,
                    Special::LaneMaskLe => (1u64 << (l + 1)).wrapping_sub(1) as u32,
                    Special::LaneMaskGt => !((1u64 << (l + 1)).wrapping_sub(1) as u32),
                    Special::LaneMaskGe => !((1 << l) - 1),
                    Special::DynamicSmem => self.launch.dynamic_bytes,
                    Special::TotalSmem => self.launch.shared_bytes,
                    Special::One => 1,
                    Special::Tid(_)
                    | Special::Ntid(_)
                    | Special::Ctaid(_)
                    | Special::Nctaid(_)
                    | Special::Zero => 0,
                }
            };
            if *wide {
                regs.r64[*slot as usize] = std::array::from_fn(|l| u64::from(lane(l)));
            } else {
                regs.r32[*slot as usize] = std::array::from_fn(lane);
            }
        }
    }
}

impl<'a> Block<'a> {
    fn new(launch: &'a Launch<'a>) -> Block<'a> {
        let warps = launch.threads().div_ceil(32) as usize;
        let checks = &launch.config.checks;
        let shared = Shared::new(
            launch.shared_bytes as usize,
            warps,
            checks.shared_races,
            checks.uninit_shared,
            checks.async_copies,
            launch.exact_clocks,
        );
        Block {
            ctx: Ctx {
                launch,
                block: [0; 3],
                linear: 0,
                shared,
                clocks: Clocks::default(),
                bars: vec![BarState::default(); 16],
                mbars: Default::default(),
                race: BlockClock::default(),
                block_shadow: BlockShadow::default(),
                live_threads: 0,
                ticks: 0,
                hint: 0,
            },
            warps: (0..warps).map(|i| Warp { index: i as u32, ..Warp::default() }).collect(),
            order: (0..warps).collect(),
        }
    }

    /// Prepares the block with linear index `linear`.
    fn start(&mut self, linear: u32) {
        let launch = self.ctx.launch;
        let [gx, gy, _] = launch.grid;
        self.ctx.block = [linear % gx, linear / gx % gy, linear / (gx * gy)];
        self.ctx.linear = linear;
        self.ctx.shared.reset();
        self.ctx.clocks.reset(self.warps.len(), launch.config.assume_lockstep);
        self.ctx.bars.fill(BarState::default());
        self.ctx.mbars.clear();
        self.ctx.race.reset();
        self.ctx.block_shadow.reset();
        let threads = launch.threads();
        self.ctx.live_threads = threads;
        self.ctx.ticks = 0;
        let code = launch.kernel();
        for warp in &mut self.warps {
            let first = warp.index * 32;
            let n = (threads - first).min(32);
            warp.lanes = if n == 32 { FULL } else { (1 << n) - 1 };
            warp.live = warp.lanes;
            warp.groups.clear();
            warp.meets.clear();
            warp.free_meets.clear();
            warp.copies.clear();
            warp.commits = [0; 32];
            warp.executed = 0;
            let template = &launch.templates[launch.entry as usize];
            // The register storage of the previous block is reused.
            let mut regs = match warp.frames.drain(..).next().flatten() {
                Some(f) => f.regs,
                None => Regs::default(),
            };
            regs.r32.clone_from(&template.r32);
            regs.r64.clone_from(&template.r64);
            regs.p.clone_from(&template.p);
            regs.approx_seed = template.approx_seed;
            self.ctx.fill_specials(&mut regs, launch.entry, warp.index);
            warp.frames.push(Some(Frame {
                func: launch.entry,
                regs,
                written: vec![0; code.watch.names.len()],
                local_base: 0,
                caller: None,
                lanes: warp.lanes,
                depth: 0,
            }));
            warp.local.resize_with(32, Vec::new);
            let local = if launch.has_local { code.local_bytes as usize } else { 0 };
            for l in &mut warp.local {
                l.clear();
                l.resize(local, 0xcd);
            }
            warp.groups.push(Group { pc: 0, mask: warp.lanes, frame: 0, meet: NONE, state: State::Ready });
            warp.rng = (launch.config.divergence == Divergence::Independent).then(|| {
                Rng(launch.config.seed
                    ^ (u64::from(linear) << 20)
                    ^ u64::from(warp.index).wrapping_mul(0x5851_f42d))
            });
        }
        self.order.sort_unstable();
        if launch.config.seed != 0 {
            let mut rng = Rng(launch.config.seed ^ u64::from(linear));
            for i in (1..self.order.len()).rev() {
                self.order.swap(i, rng.below(i + 1));
            }
        }
    }

    /// Runs until the block ends (true) or its turn is over (false).
    fn run(&mut self, w: &mut Worker) -> Exec<bool> {
        let mut used = 0u64;
        loop {
            let mut progress = false;
            let mut done = 0;
            for k in 0..self.order.len() {
                let i = self.order[k];
                if self.warps[i].live == 0 {
                    done += 1;
                    continue;
                }
                let warp = &mut self.warps[i];
                let before = warp.executed;
                let stop = self.ctx.run(w, warp, SLICE)?;
                let n = warp.executed - before;
                used += n;
                progress |= n > 0;
                self.charge(n, i)?;
                match stop {
                    Stop::Done => {
                        done += 1;
                        let warp = &mut self.warps[i];
                        self.ctx.lost_copies(w, warp);
                    }
                    Stop::Slice | Stop::Blocked => {}
                }
            }
            if done == self.order.len() {
                return Ok(true);
            }
            progress |= self.ctx.release_barriers(&mut self.warps);
            if !progress && !self.force(w)? {
                let stuck = self.warps.iter().find(|w| w.live != 0);
                let at = match stuck {
                    Some(warp) => {
                        let g = warp.groups.first();
                        At {
                            func: g.map_or(self.ctx.launch.entry, |g| warp.frame(g.frame).func),
                            pc: g.map_or(0, |g| g.pc),
                            warp: warp.index,
                        }
                    }
                    None => At { func: self.ctx.launch.entry, pc: 0, warp: 0 },
                };
                let text = self.ctx.describe_stuck(&self.warps);
                return Err(self.ctx.fault(FaultKind::Deadlock(text), at, 0));
            }
            if used > BLOCK_TURN {
                return Ok(false);
            }
        }
    }

    /// Counts instructions against the launch's budget.
    fn charge(&self, n: u64, warp: usize) -> Exec<()> {
        let launch = self.ctx.launch;
        let total = launch.executed.fetch_add(n, Relaxed) + n;
        if total > launch.config.budget {
            let warp = &self.warps[warp];
            let g = warp.groups.first();
            let at = At {
                func: g.map_or(launch.entry, |g| warp.frame(g.frame).func),
                pc: g.map_or(0, |g| g.pc),
                warp: warp.index,
            };
            return Err(self.ctx.fault(FaultKind::Budget(launch.config.budget), at, 0));
        }
        Ok(())
    }

    /// Nothing moves: lets a collective run with the lanes it has, reporting the missing ones.
    fn force(&mut self, w: &mut Worker) -> Exec<bool> {
        for warp in &mut self.warps {
            let waiting = warp.groups.iter().find(|g| g.state == State::Collective && g.pc != NONE).copied();
            if let Some(g) = waiting
                && self.ctx.try_collective(w, warp, g.pc, g.frame, true)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn new_worker(launch: &Launch<'_>) -> Worker {
    Worker {
        counters: vec![InstrCounters::default(); launch.counters],
        traffic: vec![Traffic::default(); launch.global.allocs.len()],
        tracked: vec![Traffic::default(); launch.tracked.len()],
        touched: match launch.config.distinct_sectors {
            true => vec![Default::default(); launch.global.allocs.len() + launch.tracked.len()],
            false => Vec::new(),
        },
        findings: Findings { limit: launch.config.max_findings, ..Findings::default() },
        blocks: 0,
    }
}

/// Runs blocks taken from `next` until none is left.
fn work(
    launch: &Launch<'_>,
    order: Option<&[u32]>,
    next: &AtomicU32,
    total: u32,
) -> (Worker, Option<Box<Fault>>) {
    let mut w = new_worker(launch);
    let mut resident: VecDeque<Block<'_>> = VecDeque::new();
    let mut spare: Vec<Block<'_>> = Vec::new();
    loop {
        if launch.stop.load(Relaxed) {
            return (w, None);
        }
        let fresh = if resident.len() < RESIDENT {
            let i = next.fetch_add(1, Relaxed);
            (i < total).then(|| order.map_or(i, |o| o[i as usize]))
        } else {
            None
        };
        let mut block = match fresh {
            Some(linear) => {
                let mut b = spare.pop().unwrap_or_else(|| Block::new(launch));
                b.start(linear);
                b
            }
            None => match resident.pop_front() {
                Some(b) => b,
                None => return (w, None),
            },
        };
        match block.run(&mut w) {
            Ok(true) => {
                w.blocks += 1;
                spare.push(block);
            }
            Ok(false) => resident.push_back(block),
            Err(f) => {
                launch.stop.store(true, Relaxed);
                return (w, Some(f));
            }
        }
    }
}

/// Runs the whole grid.
pub(crate) fn run(launch: &Launch<'_>) -> (Worker, Option<Box<Fault>>) {
    let total = launch.grid[0] * launch.grid[1] * launch.grid[2];
    // Beyond some millions of blocks the table would be large, and the order of the warps is random still.
    let order: Option<Vec<u32>> = (launch.config.seed != 0 && total <= MAX_SHUFFLED).then(|| {
        let mut o: Vec<u32> = (0..total).collect();
        let mut rng = Rng(launch.config.seed);
        for i in (1..o.len()).rev() {
            o.swap(i, rng.below(i + 1));
        }
        o
    });
    let next = AtomicU32::new(0);
    let threads = match launch.config.threads {
        0 => rayon::current_num_threads(),
        n => n,
    }
    .min(total as usize);
    if threads <= 1 {
        return work(launch, order.as_deref(), &next, total);
    }
    let slots: Vec<std::sync::Mutex<Option<(Worker, Option<Box<Fault>>)>>> =
        (0..threads).map(|_| std::sync::Mutex::new(None)).collect();
    rayon::scope(|s| {
        for slot in &slots {
            let (order, next) = (order.as_deref(), &next);
            s.spawn(move |_| {
                let r = work(launch, order, next, total);
                if let Ok(mut g) = slot.lock() {
                    *g = Some(r);
                }
            });
        }
    });
    let mut all = new_worker(launch);
    let mut fault = None;
    for slot in slots {
        let Ok(Some((w, f))) = slot.into_inner() else { continue };
        for (a, b) in all.counters.iter_mut().zip(&w.counters) {
            a.add(b);
        }
        for (a, b) in all.traffic.iter_mut().zip(&w.traffic).chain(all.tracked.iter_mut().zip(&w.tracked)) {
            a.read += b.read;
            a.written += b.written;
            a.read_sectors += b.read_sectors;
            a.distinct_sectors += b.distinct_sectors;
            a.written_sectors += b.written_sectors;
        }
        all.findings.merge(w.findings);
        all.blocks += w.blocks;
        fault = fault.or(f);
    }
    (all, fault)
}
