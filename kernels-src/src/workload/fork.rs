//! Prefix sharing: children that read their parents' pages.

use leankv_dsl::lang::attention::{Lengths, PerTier};
use leankv_dsl::lang::launch::Tensor;
use leankv_dsl::workload::{Check, Generator, Workload, given};

use super::{RecipeError, Shapes, changed, filled};
use crate::manager::{
    CopyTailsArgs, CopyTailsSpec, ForkPagesArgs, ForkPagesSpec, PlanForkArgs, PlanForkSpec, copy_tails,
    fork_pages, plan_fork,
};
use crate::reference::{PageShape, PageState};

/// Tokens of a high and of a low page of a list. Of every three lists, the third has no low tier.
fn tokens_of(list: usize) -> [usize; 2] {
    [[5, 9], [4, 7], [6, 0]][list % 3]
}

/// The most pages of a list that is not among the longest.
const FEW: usize = 3;

/// Parents with lists of every kind, and their children, which took the pages that they need for themselves.
struct Forks {
    lists: usize,
    /// Slots.
    parents: Vec<i32>,
    children: Vec<i32>,
    granted: Vec<i32>,
    /// `[forks, lists, 2]`.
    targets: Vec<i32>,
    before: PageState,
    after: PageState,
    /// Pages whose bytes are copied: from, to.
    copies: Vec<(i32, i32)>,
}

impl Forks {
    fn new(shapes: &Shapes, seed: u64) -> Result<Forks, RecipeError> {
        let (forks, lists, longest) = (shapes.get("forks"), shapes.get("lists"), shapes.get("pages"));
        let few = longest.min(FEW);
        let mut random = Generator::new(seed);
        let families = forks.div_ceil(2);
        let slots = random.permutation(families + forks);
        let (heads, children) = slots.split_at(families);
        // The first list is long in its high tier, the second one in its low tier.
        let held: Vec<i32> = (0..families * lists * 2)
            .map(|place| match place % (lists * 2) {
                0 | 3 => longest as i32,
                place if tokens_of(place / 2)[place % 2] == 0 => 0,
                _ => random.below(few + 1) as i32,
            })
            .collect();
        let pages = held.iter().map(|&n| n as usize).sum::<usize>() + forks * lists * 2 + 1;
        let shape =
            PageShape { slots: slots.len(), lists, table_len: longest + few + 1, pages, page_tokens: [1, 1] };
        let mut before = PageState::new(shape);
        // Children get theirs from their parents.
        for &parent in heads {
            for list in 0..lists {
                let tokens = tokens_of(list).map(|tokens| tokens as i32);
                PerTier::from_row(tokens).put(&mut before.page_tokens, parent * lists + list);
            }
        }
        before.rebalance(heads, &held)?;
        for (family, &parent) in heads.iter().enumerate() {
            for place in 0..lists * 2 {
                let (n, per_page) =
                    (held[family * lists * 2 + place] as usize, tokens_of(place / 2)[place % 2].max(1));
                // Half of the lists end with their last page.
                let last = if random.below(2) == 0 { per_page } else { 1 + random.below(per_page) };
                let length = n.saturating_sub(1) * per_page + if n == 0 { 0 } else { last };
                let (list, low) = (place / 2, place % 2 == 1);
                let tokens = before.length_at(parent, list, Lengths::AT.tokens(low));
                let frozen = before.length_at(parent, list, Lengths::AT.frozen(low));
                before.lengths[tokens] = length as i32;
                before.lengths[frozen] = (random.below(length / per_page + 1) * per_page) as i32;
            }
        }
        before.thresholds = random.f32s(slots.len() * lists * 2, 0.0, 4.0);

        let parents: Vec<usize> = (0..forks).map(|fork| heads[fork / 2]).collect();
        let targets: Vec<Vec<i32>> = parents.iter().map(|&parent| before.fork_targets(parent)).collect();
        let granted: Vec<i32> = (0..forks)
            .map(|fork| match fork % 5 {
                2 => 0,
                4 => -1,
                _ => 1,
            })
            .collect();
        let going: Vec<usize> = (0..forks).filter(|&fork| granted[fork] == 1).collect();
        for &fork in &going {
            before.rebalance(&[children[fork]], &targets[fork])?;
        }
        let (mut after, mut copies) = (before.clone(), Vec::new());
        for &fork in &going {
            after.fork(parents[fork], children[fork], |from, to| copies.push((from, to)))?;
        }
        let slots = |slots: &[usize]| slots.iter().map(|&slot| slot as i32).collect();
        let (parents, children, targets) = (slots(&parents), slots(children), targets.concat());
        Ok(Forks { lists, parents, children, granted, targets, before, after, copies })
    }

    /// A number for each fork.
    fn each(&self, numbers: &[i32]) -> Tensor<'static, i32, 1> {
        given(numbers).tensor([self.parents.len()])
    }

    fn grid(&self, programs: usize) -> [usize; 3] {
        [programs, self.parents.len(), 1]
    }
}

pub(super) fn plan(spec: &PlanForkSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let f = Forks::new(shapes, seed)?;
    let slots = f.before.shape.slots;
    let args = PlanForkArgs {
        parents: f.each(&f.parents),
        lengths: given(&f.before.lengths).tensor([slots, f.lists, 4]),
        page_tokens: given(&f.before.page_tokens).tensor([slots, f.lists, 2]),
        targets: filled(-9, &f.targets, Check::Bits).tensor_mut([f.parents.len(), f.lists, 2]),
    };
    Ok(Workload::of::<plan_fork>(f.grid(f.lists.div_ceil(spec.block.max(1))), args))
}

pub(super) fn share(_: &ForkPagesSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let f = Forks::new(shapes, seed)?;
    let PageShape { slots, lists, table_len, pages, .. } = f.before.shape;
    let (before, after) = (&f.before, &f.after);
    let args = ForkPagesArgs {
        parents: f.each(&f.parents),
        children: f.each(&f.children),
        granted: f.each(&f.granted),
        page_tokens: changed(&before.page_tokens, &after.page_tokens).tensor_mut([slots, lists, 2]),
        table: changed(&before.table, &after.table).tensor_mut([slots, lists, table_len]),
        lengths: changed(&before.lengths, &after.lengths).tensor_mut([slots, lists, 4]),
        held: changed(&before.held, &after.held).tensor_mut([slots, lists, 2]),
        refs: changed(&before.refs, &after.refs).tensor_mut([pages]),
        thresholds: changed(&before.thresholds, &after.thresholds).tensor_mut([slots, lists, 2]),
    };
    Ok(Workload::of::<fork_pages>(f.grid(lists), args))
}

pub(super) fn tails(_: &CopyTailsSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let f = Forks::new(shapes, seed)?;
    let PageShape { slots, lists, table_len, pages, .. } = f.after.shape;
    // Pages start at multiples of 16 bytes.
    let words = shapes.get("words").next_multiple_of(2);
    let mut random = Generator::new(seed ^ 1);
    let arena: Vec<i64> = (0..pages * words).map(|_| random.bits() as i64).collect();
    let mut copied = arena.clone();
    for &(from, to) in &f.copies {
        let from = from as usize * words;
        copied.copy_within(from..from + words, to as usize * words);
    }
    let args = CopyTailsArgs {
        parents: f.each(&f.parents),
        children: f.each(&f.children),
        granted: f.each(&f.granted),
        page_tokens: given(&f.before.page_tokens).tensor([slots, f.lists, 2]),
        table: given(&f.after.table).tensor([slots, lists, table_len]),
        lengths: given(&f.after.lengths).tensor([slots, lists, 4]),
        arena: changed(&arena, &copied).tensor_mut([pages, words]),
    };
    Ok(Workload::of::<copy_tails>(f.grid(lists), args))
}
