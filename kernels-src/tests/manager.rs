//! The page manager's kernels against plain Rust: whole rebalances and forks, on every executor, buffer for buffer.

mod common;

use common::{Run, filled};
use leankv_dsl::lang::TypedKernel;
use leankv_dsl::lang::launch::TensorMut;
use leankv_dsl::workload::given;
use leankv_kernels::manager::{
    CommitPagesArgs, CopyTailsArgs, ForkPagesArgs, PlanForkArgs, PreparePagesArgs, ScanPagesArgs,
    commit_pages, copy_tails, fork_pages, plan_fork, prepare_pages, scan_pages,
};
use leankv_kernels::reference::{Answer, PageShape, PageState};

const BLOCK: usize = 32;

fn launch<K: TypedKernel>(kernel: &K, grid: [usize; 3], args: K::Args<'_>) -> Run {
    Run::new(kernel, &format!("block={BLOCK}"), grid, args).launch()
}

/// The manager's buffers after launches, and what the launches answered.
struct Kernels(PageState);

impl Kernels {
    /// A buffer with so many numbers a list.
    fn of_lists(&self, numbers: &[i32], columns: usize) -> TensorMut<'static, i32, 3> {
        given(numbers).tensor_mut([self.0.shape.slots, self.0.shape.lists, columns])
    }

    fn table(&self) -> TensorMut<'static, i32, 3> {
        self.of_lists(&self.0.table, self.0.shape.table_len)
    }

    fn rebalance(&mut self, slots: &[usize], targets: &[i32]) -> Vec<Answer> {
        let (state, requests) = (&self.0, slots.len());
        let PageShape { lists, pages, .. } = state.shape;
        let of_slots = [state.shape.slots, lists, 2];
        let slots: Vec<i32> = slots.iter().map(|&s| s as i32).collect();
        let tiles = lists.div_ceil(BLOCK);
        let grid = [tiles, requests, 1];

        let args = PreparePagesArgs {
            slots: given(&slots).tensor([requests]),
            targets: given(targets).tensor([requests, lists, 2]),
            held: given(&state.held).tensor(of_slots),
            table: self.table(),
            refs: given(&state.refs).tensor_mut([pages]),
            offsets: filled(-9, [requests, lists, 2]),
            sums: filled(-9, [requests, tiles, 2]),
        };
        let prepare = launch(&prepare_pages::KERNEL, grid, args);
        self.0.table = prepare.read("table");
        self.0.refs = prepare.read("refs");

        let args = ScanPagesArgs {
            sums: given(&prepare.read("sums")).tensor([requests, tiles, 2]),
            cursors: given(&self.0.cursors).tensor_mut([2]),
            bases: filled(-9, [requests, tiles, 2]),
            granted: filled(-9, [requests]),
            needs: filled(-9, [requests]),
        };
        let scan = launch(&scan_pages::KERNEL, [1, 1, 1], args);
        self.0.cursors.copy_from_slice(&scan.read("cursors"));
        let (granted, needs): (Vec<i32>, Vec<i32>) = (scan.read("granted"), scan.read("needs"));

        let state = &self.0;
        let args = CommitPagesArgs {
            slots: given(&slots).tensor([requests]),
            targets: given(targets).tensor([requests, lists, 2]),
            offsets: given(&prepare.read("offsets")).tensor([requests, lists, 2]),
            bases: given(&scan.read("bases")).tensor([requests, tiles, 2]),
            granted: given(&granted).tensor([requests]),
            held: self.of_lists(&state.held, 2),
            lengths: self.of_lists(&state.lengths, 4),
            table: self.table(),
            refs: given(&state.refs).tensor_mut([pages]),
            generation: given(&state.generation).tensor_mut([pages]),
            ring: given(&state.ring).tensor_mut([pages]),
        };
        let commit = launch(&commit_pages::KERNEL, grid, args);
        self.0.held = commit.read("held");
        self.0.lengths = commit.read("lengths");
        self.0.table = commit.read("table");
        self.0.refs = commit.read("refs");
        self.0.generation = commit.read("generation");
        self.0.ring = commit.read("ring");
        granted.into_iter().zip(needs).map(|(granted, need)| Answer { granted, need }).collect()
    }

    fn forks(&mut self, parents: &[i32], children: &[i32], arena: &[i64]) -> Vec<i64> {
        let PageShape { slots, lists, table_len, pages, .. } = self.0.shape;
        let forks = parents.len();
        let each = |numbers: &[i32]| given(numbers).tensor([forks]);
        let args = PlanForkArgs {
            parents: each(parents),
            lengths: given(&self.0.lengths).tensor([slots, lists, 4]),
            page_tokens: given(&self.0.page_tokens).tensor([slots, lists, 2]),
            targets: filled(-9, [forks, lists, 2]),
        };
        let plan = launch(&plan_fork::KERNEL, [lists.div_ceil(BLOCK), forks, 1], args);
        let own: Vec<usize> = children.iter().map(|&c| c as usize).collect();
        let answers = self.rebalance(&own, &plan.read::<i32>("targets"));
        let granted: Vec<i32> = answers.iter().map(|a| a.granted).collect();

        let args = ForkPagesArgs {
            parents: each(parents),
            children: each(children),
            granted: each(&granted),
            page_tokens: given(&self.0.page_tokens).tensor_mut([slots, lists, 2]),
            table: self.table(),
            lengths: self.of_lists(&self.0.lengths, 4),
            held: self.of_lists(&self.0.held, 2),
            refs: given(&self.0.refs).tensor_mut([pages]),
            thresholds: given(&self.0.thresholds).tensor_mut([slots, lists, 2]),
        };
        let fork = launch(&fork_pages::KERNEL, [lists, forks, 1], args);
        self.0.table = fork.read("table");
        self.0.held = fork.read("held");
        self.0.lengths = fork.read("lengths");
        self.0.refs = fork.read("refs");
        self.0.thresholds = fork.read("thresholds");
        self.0.page_tokens = fork.read("page_tokens");

        let args = CopyTailsArgs {
            parents: each(parents),
            children: each(children),
            granted: each(&granted),
            page_tokens: given(&self.0.page_tokens).tensor([slots, lists, 2]),
            table: given(&self.0.table).tensor([slots, lists, table_len]),
            lengths: given(&self.0.lengths).tensor([slots, lists, 4]),
            arena: given(arena).tensor_mut([pages, arena.len() / pages]),
        };
        launch(&copy_tails::KERNEL, [lists, forks, 1], args).read("arena")
    }
}

/// Reproducible targets in `-1 ..= most`.
fn targets(seed: u64, len: usize, most: i32) -> Vec<i32> {
    common::random(seed, len).iter().map(|x| ((x + 1.0) / 2.0 * (most + 2) as f32) as i32 - 1).collect()
}

#[test]
fn rebalances_equal_plain_rust_in_every_buffer() {
    // 40 lists: a whole tile and a part of one.
    let shape = PageShape { slots: 3, lists: 40, table_len: 7, pages: 300, page_tokens: [4, 7] };
    let (mut expected, mut got) = (PageState::new(shape), Kernels(PageState::new(shape)));
    let mut answers = Vec::new();
    for (turn, slots) in [&[2, 0][..], &[0, 1, 2], &[1], &[2, 1, 0], &[0, 2]].into_iter().enumerate() {
        let mut wanted = targets(turn as u64 + 1, slots.len() * shape.lists * 2, 3);
        if turn == 3 {
            // A request that asks for more than a row holds, between others.
            wanted[shape.lists * 2 + 70] = 8;
        }
        let want = expected.rebalance(slots, &wanted).unwrap();
        assert_eq!(got.rebalance(slots, &wanted), want, "turn {turn}");
        assert_eq!(got.0, expected, "turn {turn}");
        answers.extend(want.iter().map(|a| a.granted));
    }
    // The pages do not do for all, so that the test has seen every answer.
    assert!([1, 0, -1].iter().all(|answer| answers.contains(answer)), "{answers:?}");
    expected.rebalance(&[0, 1, 2], &[0; 240]).unwrap();
    got.rebalance(&[0, 1, 2], &[0; 240]);
    assert_eq!(got.0, expected);
    assert_eq!(expected.free(), 300);
}

#[test]
fn one_tier_may_grow_into_entries_that_the_other_one_leaves() {
    let shape = PageShape { slots: 1, lists: 2, table_len: 8, pages: 40, page_tokens: [4, 7] };
    let (mut expected, mut got) = (PageState::new(shape), Kernels(PageState::new(shape)));
    for wanted in [[4, 4, 1, 7], [8, 0, 7, 1], [0, 8, 0, 8], [5, 2, 8, 0]] {
        let want = expected.rebalance(&[0], &wanted).unwrap();
        assert_eq!(want, got.rebalance(&[0], &wanted));
        assert_eq!(want[0].granted, 1);
        assert_eq!(got.0, expected, "{wanted:?}");
    }
}

#[test]
fn the_scan_refuses_exactly_what_does_not_fit_across_tiles_of_requests() {
    // More requests than the scan's tile holds; needs of 0 to 3 pages against 60.
    let shape = PageShape { slots: 70, lists: 1, table_len: 4, pages: 60, page_tokens: [4, 7] };
    let (mut expected, mut got) = (PageState::new(shape), Kernels(PageState::new(shape)));
    let slots: Vec<usize> = (0..70).rev().collect();
    let wanted: Vec<i32> = targets(9, 140, 2).iter().map(|&t| t.clamp(0, 2)).collect();
    let want = expected.rebalance(&slots, &wanted).unwrap();
    assert!(want.iter().filter(|a| a.granted == 0).count() > 3);
    assert_eq!(got.rebalance(&slots, &wanted), want);
    assert_eq!(got.0, expected);
}

#[test]
fn forks_share_full_pages_and_copy_partly_filled_ones() {
    let shape = PageShape { slots: 4, lists: 3, table_len: 40, pages: 130, page_tokens: [9, 9] };
    let mut state = PageState::new(shape);
    // The parent's own formats, which its children get.
    state.page_tokens[..6].copy_from_slice(&[2, 3, 4, 5, 2, 9]);
    // High pages beyond one tile, an empty list, lists that end with their page; layers of several formats.
    let lengths = [[71, 5, 0, 0], [0, 0, 0, 0], [6, 9, 4, 0]];
    state.lengths[..12].copy_from_slice(lengths.as_flattened());
    state.thresholds[..6].copy_from_slice(&[3.0, 0.5, 2.0, 0.25, 1.0, 0.125]);
    state.rebalance(&[0], &[36, 2, 0, 0, 4, 1]).unwrap();
    let words = 40;
    let arena: Vec<i64> = (0..(shape.pages * words) as i64).collect();

    let (mut expected, mut copied) = (state.clone(), arena.clone());
    let own = expected.fork_targets(0);
    let both: Vec<i32> = own.iter().chain(&own).copied().collect();
    let answers = expected.rebalance(&[2, 3], &both).unwrap();
    assert!(answers.iter().all(|a| *a == Answer { granted: 1, need: 2 }));
    for child in [2, 3] {
        let copy = |from: i32, to: i32| {
            let from = from as usize * words;
            copied.copy_within(from..from + words, to as usize * words);
        };
        expected.fork(0, child, copy).unwrap();
    }
    let mut got = Kernels(state);
    let got_arena = got.forks(&[0, 0], &[2, 3], &arena);
    assert_eq!(got.0, expected);
    assert_eq!(got_arena, copied);
    assert_eq!(got.0.lengths[24..28], [71, 5, 70, 3]);

    // The parent goes, then one child: the shared pages stay with the other one.
    for slots in [&[0][..], &[2]] {
        expected.rebalance(slots, &[0; 6]).unwrap();
        got.rebalance(slots, &[0; 6]);
        assert_eq!(got.0, expected);
    }
    assert_eq!(expected.free(), 130 - 42);
}

#[test]
fn a_fork_without_room_changes_nothing() {
    let shape = PageShape { slots: 2, lists: 1, table_len: 4, pages: 1, page_tokens: [2, 2] };
    let mut state = PageState::new(shape);
    state.rebalance(&[0], &[1, 0]).unwrap();
    state.lengths[0] = 1;
    let mut got = Kernels(state.clone());
    got.forks(&[0], &[1], &[7; 4]);
    assert_eq!(got.0, state);
}
