//! Prefix sharing: children that read their parents' pages.

use leankv_dsl::workload::{Check, Generator, Workload};

use super::{RecipeError, Shapes};
use crate::manager::{CopyTailsSpec, ForkPagesSpec, PlanForkSpec};
use crate::reference::{PageShape, PageState};

/// Tokens of a high and of a low page.
const TOKENS: [usize; 2] = [5, 9];

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
                _ => random.below(few + 1) as i32,
            })
            .collect();
        let pages = held.iter().map(|&n| n as usize).sum::<usize>() + forks * lists * 2 + 1;
        let shape =
            PageShape { slots: slots.len(), lists, table_len: longest + few + 1, pages, page_tokens: [1, 1] };
        let mut before = PageState::new(shape);
        // Children get theirs from their parents.
        for &parent in heads {
            before.page_tokens[parent * 2..][..2].copy_from_slice(&TOKENS.map(|tokens| tokens as i32));
        }
        before.rebalance(heads, &held)?;
        for (family, &parent) in heads.iter().enumerate() {
            for place in 0..lists * 2 {
                let (n, per_page) = (held[family * lists * 2 + place] as usize, TOKENS[place % 2]);
                // Half of the lists end with their last page.
                let last = if random.below(2) == 0 { per_page } else { 1 + random.below(per_page) };
                let length = n.saturating_sub(1) * per_page + if n == 0 { 0 } else { last };
                let at = (parent * lists + place / 2) * 4 + place % 2;
                before.lengths[at] = length as i32;
                before.lengths[at + 2] = (random.below(length / per_page + 1) * per_page) as i32;
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

    /// The arguments that all kernels of a fork share.
    fn workload(&self, programs: usize) -> Workload {
        let forks = self.parents.len();
        Workload::new([programs, forks, 1]).view("parents", &self.parents, &[forks]).view(
            "page_tokens",
            &self.before.page_tokens,
            &[self.before.shape.slots, 2],
        )
    }

    fn with_children(&self, workload: Workload) -> Workload {
        let forks = self.parents.len();
        workload.view("children", &self.children, &[forks]).view("granted", &self.granted, &[forks])
    }
}

pub(super) fn plan(spec: &PlanForkSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let f = Forks::new(shapes, seed)?;
    Ok(f.workload(f.lists.div_ceil(spec.block.max(1)))
        .view("lengths", &f.before.lengths, &[f.before.shape.slots, f.lists, 4])
        .view("targets", &vec![-9i32; f.targets.len()], &[f.parents.len(), f.lists, 2])
        .output("targets", Check::Bits)
        .expect("targets", &f.targets, Check::Bits))
}

pub(super) fn share(_: &ForkPagesSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let f = Forks::new(shapes, seed)?;
    let PageShape { slots, lists, table_len, pages, .. } = f.before.shape;
    Ok(f.with_children(f.workload(lists))
        .view("table", &f.before.table, &[slots, lists, table_len])
        .view("lengths", &f.before.lengths, &[slots, lists, 4])
        .view("held", &f.before.held, &[slots, lists, 2])
        .view("refs", &f.before.refs, &[pages])
        .view("thresholds", &f.before.thresholds, &[slots, lists, 2])
        .output("table", Check::Bits)
        .output("lengths", Check::Bits)
        .output("held", Check::Bits)
        .output("refs", Check::Bits)
        .output("thresholds", Check::Bits)
        .output("page_tokens", Check::Bits)
        .expect("table", &f.after.table, Check::Bits)
        .expect("lengths", &f.after.lengths, Check::Bits)
        .expect("held", &f.after.held, Check::Bits)
        .expect("refs", &f.after.refs, Check::Bits)
        .expect("thresholds", &f.after.thresholds, Check::Bits)
        .expect("page_tokens", &f.after.page_tokens, Check::Bits))
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
    Ok(f.with_children(f.workload(lists))
        .view("table", &f.after.table, &[slots, lists, table_len])
        .view("lengths", &f.after.lengths, &[slots, lists, 4])
        .view("arena", &arena, &[pages, words])
        .output("arena", Check::Bits)
        .expect("arena", &copied, Check::Bits))
}
