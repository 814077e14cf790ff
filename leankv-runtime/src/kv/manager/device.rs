//! All lists of all requests at once, by kernels on the device.

use leankv_dsl::lang::attention::{Lengths, PerTier};
use leankv_kernels::manager::{
    CommitPagesArgs, CopyTailsArgs, FitPagesArgs, ForkPagesArgs, PlanForkArgs, PreparePagesArgs,
    ScanPagesArgs,
};
use leankv_kernels::reference::PageState;

use super::{
    ManagerKernels, PageManager, answer, check_forks, check_len, check_lengths, check_page_tokens,
    check_slots, check_targets,
};
use crate::compiler::Compiler;
use crate::device::{BufferView, Device, DeviceBuffer};
use crate::kv::size::check_bytes;
use crate::kv::state::of_slot;
use crate::kv::{CacheShape, KvError, Refused, State};
use crate::launch::Launch;

/// A manager whose lists, ring and counts never leave the device.
///
/// [`queue`](DeviceManager::queue) rebalances by targets that lie on the device, without waiting for anything: what a decode step
/// needs. The methods of [`PageManager`] take targets from the host and read the answers back.
#[derive(Debug)]
pub struct DeviceManager {
    state: State,
    kernels: ManagerKernels,
    scratch: Scratch,
    poisoned: Option<String>,
    /// Launches that still succeed, in tests of failure.
    #[cfg(test)]
    pub(crate) launches_left: Option<usize>,
}

/// What the launches tell one another, for as many requests as there are slots.
#[derive(Debug)]
struct Scratch {
    slots: DeviceBuffer<i32>,
    parents: DeviceBuffer<i32>,
    targets: DeviceBuffer<i32>,
    offsets: DeviceBuffer<i32>,
    sums: DeviceBuffer<i32>,
    bases: DeviceBuffer<i64>,
    granted: DeviceBuffer<i32>,
    needs: DeviceBuffer<i32>,
}

/// Tokens for which [`DeviceManager::queue_fit`] makes room in each pair of lists, beside those that they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct More {
    /// In the high list.
    pub high: usize,
    /// In the low list.
    pub low: usize,
    /// Whether the low list has room for all tokens of the high one, too.
    pub demotes: bool,
}

impl DeviceManager {
    /// Empty lists on `device`; all pages free.
    ///
    /// # Errors
    /// [`KvError::Shape`], [`KvError::Compile`], and what the device says when it has no room.
    pub fn new(compiler: &Compiler, device: &Device, shape: CacheShape) -> Result<DeviceManager, KvError> {
        shape.check()?;
        check_bytes(shape.bytes(), &shape, Some(device))?;
        let kernels = ManagerKernels::new(compiler, device, &shape)?;
        DeviceManager::with_kernels(device, shape, kernels)
    }

    /// As [`DeviceManager::new`], with kernels that are compiled already.
    ///
    /// # Errors
    /// [`KvError::Shape`], [`KvError::OtherKernels`] for kernels of another device, and what the device says when it has no room.
    pub fn with_kernels(
        device: &Device,
        shape: CacheShape,
        kernels: ManagerKernels,
    ) -> Result<DeviceManager, KvError> {
        DeviceManager::over(kernels, State::new(device, shape)?)
    }

    /// As [`DeviceManager::with_kernels`], with the buffers of a cache that holds nothing.
    ///
    /// # Errors
    /// As [`DeviceManager::with_kernels`].
    pub fn over(kernels: ManagerKernels, state: State) -> Result<DeviceManager, KvError> {
        let (device, built, shape) = (state.device().clone(), kernels.scan.device(), *state.shape());
        if !built.same_as(&device) {
            return Err(KvError::other_device(built, &device));
        }
        let (slots, lists) = (shape.slots, shape.lists());
        let tiles = lists.div_ceil(kernels.block);
        let scratch = Scratch {
            slots: device.zeros(slots)?,
            parents: device.zeros(slots)?,
            targets: device.zeros(slots * lists * 2)?,
            offsets: device.zeros(slots * lists * 2)?,
            sums: device.zeros(slots * tiles * 2)?,
            bases: device.zeros(slots * tiles * 2)?,
            granted: device.zeros(slots)?,
            needs: device.zeros(slots)?,
        };
        Ok(DeviceManager {
            state,
            kernels,
            scratch,
            poisoned: None,
            #[cfg(test)]
            launches_left: None,
        })
    }

    /// The cache's buffers.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The cache's buffers, for kernels that write them. Lists, counts, references and ring are the manager's alone.
    ///
    /// # Safety
    /// Kernels follow page numbers and counts that they find in these buffers, without a comparison. What is written keeps to what
    /// [`audit`](PageManager::audit) counts: page numbers below the number of pages, counts that are those of the table, lengths that the held pages
    /// have room for. No buffer is replaced by another one.
    pub unsafe fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// As [`state_mut`](DeviceManager::state_mut), for the engine, whose kernels keep its promise.
    pub(in crate::kv) fn state_for_kernels(&mut self) -> &mut State {
        &mut self.state
    }

    /// Why nothing works any more, after a launch that failed.
    pub fn poisoned(&self) -> Option<&str> {
        self.poisoned.as_deref()
    }

    /// Queues a rebalance by slots and targets that lie on the device, and waits for nothing. Who was granted is known to kernels that
    /// are queued later ([`granted`](DeviceManager::granted)), and to the host when it asks for [`answers`](DeviceManager::answers).
    ///
    /// * `slots` is `[requests]`;
    /// * `targets` is `[requests, layers, kv_heads, 2]`, pages wanted; any number is possible, and one that cannot be is refused by the kernels.
    ///
    /// # Errors
    /// [`KvError::Length`] when they do not belong together, [`KvError::Poisoned`], and what the launches say; after that the manager
    /// is poisoned.
    ///
    /// # Safety
    /// Every number in `slots` is that of an existing slot, and none is there twice. Kernels use them as they are, since they lie on the
    /// device; [`rebalance`](PageManager::rebalance) takes them from the host and checks them.
    pub unsafe fn queue(
        &mut self,
        slots: BufferView<'_, i32>,
        targets: BufferView<'_, i32>,
    ) -> Result<(), KvError> {
        check_len("slots", slots.len().clamp(1, self.state.shape().slots), slots.len())?;
        check_len(
            "targets [slots, layers, kv_heads, 2]",
            slots.len() * self.state.shape().lists() * PerTier::COLUMNS,
            targets.len(),
        )?;
        self.alive()?;
        let result = self.launch_rebalance(Source::Given(slots, targets), slots.len());
        self.remember(result)
    }

    /// As [`queue`](DeviceManager::queue), to the pages that hold the tokens there are and `more`. A negative slot leaves a
    /// request out.
    ///
    /// # Errors
    /// As [`queue`](DeviceManager::queue).
    ///
    /// # Safety
    /// As [`queue`](DeviceManager::queue), except that slots may be negative.
    pub unsafe fn queue_fit(&mut self, slots: BufferView<'_, i32>, more: More) -> Result<(), KvError> {
        let requests = slots.len();
        check_len("slots", requests.clamp(1, self.state.shape().slots), requests)?;
        self.alive()?;
        let result = self.launch_fit(slots, more).and_then(|()| {
            let targets = Source::Fitted(slots);
            self.launch_rebalance(targets, requests)
        });
        self.remember(result)
    }

    /// After a rebalance: 1 for each request that was granted, `[requests]`.
    pub fn granted(&self) -> &DeviceBuffer<i32> {
        &self.scratch.granted
    }

    /// Waits for the last rebalance and gives its answers, for its first `requests` requests.
    ///
    /// # Errors
    /// What the device says.
    pub fn answers(&self, requests: usize) -> Result<Vec<Result<(), Refused>>, KvError> {
        let (mut granted, mut needs) = (vec![0; requests], vec![0; requests]);
        self.scratch.granted.slice(..requests)?.read_into(&mut granted)?;
        self.scratch.needs.slice(..requests)?.read_into(&mut needs)?;
        let free = self.free_pages()?;
        let shape = self.state.shape();
        Ok(granted.into_iter().zip(needs).map(|(granted, need)| answer(shape, granted, need, free)).collect())
    }

    /// Overwrites what the launches tell one another.
    #[cfg(test)]
    pub(crate) fn scribble(&mut self, word: i32) -> Result<(), KvError> {
        let Scratch { slots, parents, targets, offsets, sums, bases, granted, needs } = &mut self.scratch;
        for buffer in [slots, parents, targets, offsets, sums, granted, needs] {
            buffer.write(&vec![word; buffer.len()])?;
        }
        Ok(bases.write(&vec![i64::from(word); bases.len()])?)
    }

    /// As [`PageManager::set_page_tokens`], of a slot that is known to hold no page, without asking the device.
    pub(in crate::kv) fn set_page_tokens_of_empty(
        &mut self,
        slot: usize,
        tokens: &[[usize; 2]],
    ) -> Result<(), KvError> {
        let tokens = check_page_tokens(self.state.shape(), slot, tokens)?;
        Ok(self.state.page_tokens.write_at(slot * tokens.len(), &tokens)?)
    }

    /// Whether the pages that a slot holds have room for lengths `[lists, 4]`.
    fn check_room(&self, slot: usize, lengths: &[i32]) -> Result<(), KvError> {
        let lists = self.state.shape().lists() * PerTier::COLUMNS;
        let tokens = of_slot(&self.state.page_tokens, slot, lists)?;
        check_lengths(&of_slot(&self.state.held, slot, lists)?, &tokens, lengths)
    }

    /// Whether a slot that exists holds no page.
    fn check_empty(&self, slot: usize) -> Result<(), KvError> {
        let lists = self.state.shape().lists() * PerTier::COLUMNS;
        match of_slot(&self.state.held, slot, lists)?.iter().all(|&held| held == 0) {
            true => Ok(()),
            false => Err(KvError::SlotInUse { slot }),
        }
    }

    fn alive(&self) -> Result<(), KvError> {
        match &self.poisoned {
            Some(why) => Err(KvError::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// After a failure the lists may be half changed, so nothing is done any more.
    fn remember<T>(&mut self, result: Result<T, KvError>) -> Result<T, KvError> {
        if let Err(error) = &result {
            self.poisoned = Some(error.to_string());
        }
        result
    }

    fn upload_slots(&mut self, slots: &[usize]) -> Result<(), KvError> {
        let slots: Vec<i32> = slots.iter().map(|&slot| slot as i32).collect();
        Ok(self.scratch.slots.write(&slots)?)
    }

    /// Pages for the tokens there are, as targets.
    fn launch_fit(&mut self, slots: BufferView<'_, i32>, more: More) -> Result<(), KvError> {
        let shape = *self.state.shape();
        let (lists, requests) = (shape.lists(), slots.len());
        #[cfg(test)]
        let left = &mut self.launches_left;
        #[cfg(not(test))]
        let left = &mut None;
        // More tokens than a row has places for are refused as any target is that is too large.
        let [more_high, more_low] = [more.high, more.low].map(|tokens| tokens.min(1 << 30) as i32);
        let targets = self.scratch.targets.slice_mut(..requests * lists * 2)?;
        let args = FitPagesArgs {
            slots: slots.tensor([requests]),
            more_high,
            more_low,
            demotes: i32::from(more.demotes),
            page_tokens: self.state.page_tokens.tensor([shape.slots, lists, 2]),
            lengths: self.state.lengths.tensor([shape.slots, lists, Lengths::COLUMNS]),
            targets: targets.tensor([requests, lists, 2]),
        };
        run(left, self.kernels.fit.launch((lists.div_ceil(self.kernels.block) as u32, requests as u32), args))
    }

    /// The three launches.
    fn launch_rebalance(&mut self, source: Source<'_>, requests: usize) -> Result<(), KvError> {
        let shape = *self.state.shape();
        let (lists, block) = (shape.lists(), self.kernels.block);
        let tiles = lists.div_ceil(block);
        let both = requests * lists * 2;
        let scratch = &mut self.scratch;
        let (slots, targets) = match source {
            Source::Given(slots, targets) => (slots, targets),
            Source::Fitted(slots) => (slots, scratch.targets.slice(..both)?),
            Source::Scratch => (scratch.slots.slice(..requests)?, scratch.targets.slice(..both)?),
        };
        #[cfg(test)]
        let left = &mut self.launches_left;
        #[cfg(not(test))]
        let left = &mut None;
        let state = &mut self.state;
        let (table, of_lists) = ([shape.slots, lists, shape.table_len], [shape.slots, lists, 2]);
        let (of_requests, of_tiles) = ([requests, lists, 2], [requests, tiles, 2]);
        let grid = (tiles as u32, requests as u32);

        let args = PreparePagesArgs {
            slots: slots.tensor([requests]),
            targets: targets.tensor(of_requests),
            held: state.held.tensor(of_lists),
            table: state.table.tensor_mut(table),
            refs: state.refs.tensor_mut([shape.pages]),
            offsets: scratch.offsets.slice_mut(..both)?.tensor(of_requests),
            sums: scratch.sums.slice_mut(..requests * tiles * 2)?.tensor(of_tiles),
        };
        run(left, self.kernels.prepare.launch(grid, args))?;

        let args = ScanPagesArgs {
            sums: scratch.sums.slice(..requests * tiles * 2)?.tensor(of_tiles),
            cursors: state.cursors.tensor_mut([2]),
            bases: scratch.bases.slice_mut(..requests * tiles * 2)?.tensor(of_tiles),
            granted: scratch.granted.slice_mut(..requests)?.tensor([requests]),
            needs: scratch.needs.slice_mut(..requests)?.tensor([requests]),
        };
        run(left, self.kernels.scan.launch(1, args))?;

        let args = CommitPagesArgs {
            slots: slots.tensor([requests]),
            targets: targets.tensor(of_requests),
            offsets: scratch.offsets.slice(..both)?.tensor(of_requests),
            bases: scratch.bases.slice(..requests * tiles * 2)?.tensor(of_tiles),
            granted: scratch.granted.slice(..requests)?.tensor([requests]),
            held: state.held.tensor_mut(of_lists),
            lengths: state.lengths.tensor_mut([shape.slots, lists, Lengths::COLUMNS]),
            table: state.table.tensor_mut(table),
            refs: state.refs.tensor_mut([shape.pages]),
            generation: state.generation.tensor_mut([shape.pages]),
            ring: state.ring.tensor_mut([shape.pages]),
        };
        run(left, self.kernels.commit.launch(grid, args))
    }

    /// Plan, rebalance, share, copy.
    fn launch_fork(&mut self, forks: usize) -> Result<(), KvError> {
        let shape = *self.state.shape();
        let lists = shape.lists();
        let (lengths, of_slots) = ([shape.slots, lists, Lengths::COLUMNS], [shape.slots, lists, 2]);
        {
            let scratch = &mut self.scratch;
            #[cfg(test)]
            let left = &mut self.launches_left;
            #[cfg(not(test))]
            let left = &mut None;
            let targets = scratch.targets.slice_mut(..forks * lists * 2)?;
            let args = PlanForkArgs {
                parents: scratch.parents.slice(..forks)?.tensor([forks]),
                lengths: self.state.lengths.tensor(lengths),
                page_tokens: self.state.page_tokens.tensor(of_slots),
                targets: targets.tensor([forks, lists, 2]),
            };
            run(
                left,
                self.kernels
                    .plan_fork
                    .launch((lists.div_ceil(self.kernels.block) as u32, forks as u32), args),
            )?;
        }
        self.launch_rebalance(Source::Scratch, forks)?;

        #[cfg(test)]
        let left = &mut self.launches_left;
        #[cfg(not(test))]
        let left = &mut None;
        let (state, scratch) = (&mut self.state, &self.scratch);
        let table = [shape.slots, lists, shape.table_len];
        let args = ForkPagesArgs {
            parents: scratch.parents.slice(..forks)?.tensor([forks]),
            children: scratch.slots.slice(..forks)?.tensor([forks]),
            granted: scratch.granted.slice(..forks)?.tensor([forks]),
            page_tokens: state.page_tokens.tensor_mut(of_slots),
            table: state.table.tensor_mut(table),
            lengths: state.lengths.tensor_mut(lengths),
            held: state.held.tensor_mut([shape.slots, lists, 2]),
            refs: state.refs.tensor_mut([shape.pages]),
            thresholds: state.thresholds.tensor_mut([shape.slots, lists, 2]),
        };
        run(left, self.kernels.fork.launch((lists as u32, forks as u32), args))?;

        let arena = state.arena.as_view_mut().cast::<i64>()?;
        let args = CopyTailsArgs {
            parents: scratch.parents.slice(..forks)?.tensor([forks]),
            children: scratch.slots.slice(..forks)?.tensor([forks]),
            granted: scratch.granted.slice(..forks)?.tensor([forks]),
            page_tokens: state.page_tokens.tensor(of_slots),
            table: state.table.tensor(table),
            lengths: state.lengths.tensor(lengths),
            arena: arena.tensor([shape.pages, shape.page_bytes / 8]),
        };
        run(left, self.kernels.copy.launch((lists as u32, forks as u32), args))
    }
}

/// Where slots and targets lie.
enum Source<'a> {
    Given(BufferView<'a, i32>, BufferView<'a, i32>),
    /// Slots that are given, targets in the manager's own buffer.
    Fitted(BufferView<'a, i32>),
    /// In the manager's own buffers.
    Scratch,
}

/// Runs a launch, or fails it when a test said so.
fn run(left: &mut Option<usize>, launch: Launch<'_>) -> Result<(), KvError> {
    match left {
        Some(0) => {
            return Err(crate::launch::LaunchError::Execution {
                kernel: "injected".to_owned(),
                message: "a test lets this launch fail".to_owned(),
            }
            .into());
        }
        Some(left) => *left -= 1,
        None => {}
    }
    // SAFETY: the kernels reach tables and lists through views, whose extents are those of the buffers; slots were checked or promised; page
    // numbers in tables and ring are below the number of pages, which is what the views of `refs`, `generation` and the arena hold, and
    // lengths are of pages that are held: only these kernels, and who promised to keep to that, write them.
    Ok(unsafe { launch.run() }?)
}

impl PageManager for DeviceManager {
    fn shape(&self) -> &CacheShape {
        self.state.shape()
    }

    fn rebalance(&mut self, slots: &[usize], targets: &[i32]) -> Result<Vec<Result<(), Refused>>, KvError> {
        check_targets(self.state.shape(), slots, targets)?;
        self.alive()?;
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        self.upload_slots(slots)?;
        self.scratch.targets.write(targets)?;
        let result = self.launch_rebalance(Source::Scratch, slots.len());
        self.remember(result)?;
        // Without the answer it is not known who holds what.
        let answers = self.answers(slots.len());
        self.remember(answers)
    }

    fn fork(&mut self, pairs: &[(usize, usize)]) -> Result<Vec<Result<(), Refused>>, KvError> {
        check_forks(self.state.shape(), pairs)?;
        self.alive()?;
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let lists = self.state.shape().lists() * Lengths::COLUMNS;
        for &(parent, child) in pairs {
            self.check_empty(child)?;
            // A rebalance may have taken the pages of tokens that a list still counts.
            self.check_room(parent, &of_slot(&self.state.lengths, parent, lists)?)?;
        }
        let (parents, children): (Vec<i32>, Vec<usize>) = pairs.iter().map(|p| (p.0 as i32, p.1)).unzip();
        self.scratch.parents.write(&parents)?;
        self.upload_slots(&children)?;
        let result = self.launch_fork(pairs.len());
        self.remember(result)?;
        let answers = self.answers(pairs.len());
        self.remember(answers)
    }

    fn set_lengths(&mut self, slot: usize, lengths: &[i32]) -> Result<(), KvError> {
        check_slots(self.state.shape(), &[slot])?;
        let lists = self.state.shape().lists() * Lengths::COLUMNS;
        check_len("lengths [layers, kv_heads, 4]", lists, lengths.len())?;
        self.check_room(slot, lengths)?;
        Ok(self.state.lengths.write_at(slot * lists, lengths)?)
    }

    fn set_page_tokens(&mut self, slot: usize, tokens: &[[usize; 2]]) -> Result<(), KvError> {
        check_page_tokens(self.state.shape(), slot, tokens)?;
        self.check_empty(slot)?;
        self.set_page_tokens_of_empty(slot, tokens)
    }

    fn free_pages(&self) -> Result<usize, KvError> {
        let mut cursors = [0; 2];
        self.state.cursors.as_view().read_into(&mut cursors)?;
        Ok((cursors[1] - cursors[0]).max(0) as usize)
    }

    fn snapshot(&self) -> Result<PageState, KvError> {
        Ok(self.state.snapshot()?)
    }
}
