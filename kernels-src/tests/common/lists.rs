//! Token lists of several slots, layers and KV heads, to run decode steps on.
#![allow(dead_code, unreachable_pub)]

use leankv_dsl::lang::attention::{LayeredKvArgs, Lengths};
use leankv_dsl::workload::given;
use leankv_kernels::policy::{Counting, HIGH, LOW, PRUNED, Peaks};
use leankv_kernels::reference::{HeadLists, PagedFormat, PagedKv, StepArgs, Token, read_tokens, write_token};

use crate::common::random;

pub const D: usize = 64;
pub const PAGE: usize = 2048;
pub const TABLE: usize = 7;

/// What a cache keeps of decode steps, for `lists` heads of all slots and layers.
pub struct Lists {
    pub high: PagedFormat,
    pub low: Option<PagedFormat>,
    pub arena: Vec<u8>,
    pub table: Vec<i32>,
    pub lengths: Vec<i32>,
    pub thresholds: Vec<f32>,
}

/// What stays the same for all steps.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub window: i32,
    pub sinks: i32,
    pub chunk: usize,
    pub window_q: usize,
}

impl Rules {
    /// A specialisation's settings.
    pub fn settings(&self) -> String {
        let Rules { window, sinks, chunk, window_q } = self;
        format!(
            "head_dim={D},page_bytes={PAGE},window={window},sinks={sinks},chunk={chunk},window_q={window_q}"
        )
    }

    pub fn counting(&self) -> Counting {
        Counting::new(self.chunk, self.window_q)
    }
}

/// A reproducible number in `0..1`.
pub fn unit(seed: u64) -> f32 {
    (random(seed.wrapping_mul(2_654_435_761).wrapping_add(99), 3)[2] + 1.0) / 2.0
}

/// The key of a token: its position in every element, which every format holds exactly.
pub fn key(position: i32) -> Vec<f32> {
    vec![position as f32; D]
}

/// The value of a token.
pub fn value(position: i32) -> Vec<f32> {
    vec![-0.5 * position as f32; D]
}

impl Lists {
    /// Lists after prompts of `prompts[list]` tokens: the window and the sinks high, the others in tiers by chance. Up to a third of
    /// each list is frozen where `freeze`.
    pub fn new(tiering: &str, prompts: &[i32], rules: &Rules, freeze: bool, seed: u64) -> Lists {
        let (high, low) = match tiering.split_once('/') {
            Some((high, low)) => (high, Some(low)),
            None => (tiering, None),
        };
        let format = |name: &str| PagedFormat::new(name.parse().unwrap(), D as u32, PAGE as u32).unwrap();
        let pages = prompts.len() * TABLE;
        let mut lists = Lists {
            high: format(high),
            low: low.map(format),
            arena: vec![0xFF; pages * PAGE],
            // Pages out of order, so that no two of a list are neighbours.
            table: (0..pages).map(|i| ((i * 5 + 3) % pages) as i32).collect(),
            lengths: vec![0; prompts.len() * Lengths::COLUMNS],
            thresholds: vec![0.0; prompts.len() * 2],
        };
        assert!(!pages.is_multiple_of(5), "the order of pages is a permutation");
        for (list, &prompt) in prompts.iter().enumerate() {
            let seed = seed + 1000 * list as u64;
            for position in 0..prompt {
                let chance = unit(seed + position as u64);
                let tier = match prompt - position > rules.window && position >= rules.sinks {
                    true if chance < 0.2 => PRUNED,
                    true if chance < 0.6 && lists.low.is_some() => LOW,
                    _ => HIGH,
                };
                if tier != PRUNED {
                    let mass = lists.likely_mass(position, prompt, rules, seed + 500 + position as u64);
                    lists.push(list, tier == LOW, position, mass);
                }
            }
            if freeze {
                let lengths = Lengths::get(&lists.lengths, list);
                let part = |most: i32, seed: u64| (most as f32 / 3.0 * unit(seed)) as i32;
                let frozen_high = part(lengths.high, seed + 700);
                let frozen_low = part(lengths.low, seed + 701);
                Lengths { frozen_high, frozen_low, ..lengths }.put(&mut lists.lengths, list);
            }
        }
        lists
    }

    /// A mass whose significance is up to four times `1 / tokens`.
    fn likely_mass(&self, position: i32, now: i32, rules: &Rules, seed: u64) -> f32 {
        let counting = rules.counting();
        let counted = counting.before(now, now) - counting.before(position, now);
        4.0 * unit(seed) * counted as f32 / now as f32
    }

    fn format(&self, low: bool) -> &PagedFormat {
        match &self.low {
            Some(paged) if low => paged,
            _ => &self.high,
        }
    }

    fn ids(&self, list: usize, low: bool) -> Vec<i32> {
        let table = &self.table[list * TABLE..][..TABLE];
        match low {
            false => table.to_vec(),
            true => table.iter().rev().copied().collect(),
        }
    }

    fn push(&mut self, list: usize, low: bool, position: i32, mass: f32) {
        let paged = self.format(low).clone();
        let mut lengths = Lengths::get(&self.lengths, list);
        let index = lengths.tokens(low) as usize;
        let page = self.ids(list, low)[index / paged.tokens_per_page()] as usize;
        let slot = (index % paged.tokens_per_page()) as u32;
        let bytes = &mut self.arena[page * PAGE..][..PAGE];
        write_token(&paged, bytes, slot, &key(position), &value(position), mass, position).unwrap();
        *(if low { &mut lengths.low } else { &mut lengths.high }) += 1;
        lengths.put(&mut self.lengths, list);
    }

    /// The tokens of a list.
    pub fn tokens(&self, list: usize, low: bool) -> Vec<Token> {
        let len = Lengths::get(&self.lengths, list).tokens(low) as usize;
        read_tokens(self.format(low), &self.arena, &self.ids(list, low), len).unwrap()
    }

    /// Adds to the mass of every token that is not frozen what attention might.
    pub fn attend(&mut self, list: usize, tokens: i32, seed: u64) {
        for low in [false, true] {
            let paged = self.format(low).clone();
            let lengths = Lengths::get(&self.lengths, list);
            for index in lengths.frozen(low) as usize..lengths.tokens(low) as usize {
                let page = self.ids(list, low)[index / paged.tokens_per_page()] as usize;
                let slot = (index % paged.tokens_per_page()) as u32;
                let at = page * PAGE + paged.layout().significance().row(slot) as usize;
                let bytes = &mut self.arena[at..][..4];
                let mass = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                let share = 3.0 * unit(seed + 31 * index as u64 + u64::from(low)) / tokens as f32;
                bytes.copy_from_slice(&(mass + share).to_le_bytes());
            }
        }
    }

    pub fn view<'a>(&'a self, slots: &'a [i32]) -> PagedKv<'a> {
        PagedKv {
            high: &self.high,
            low: self.low.as_ref(),
            arena: &self.arena,
            slots,
            page_table: &self.table,
            lengths: &self.lengths,
            table_len: TABLE,
        }
    }

    /// For a kernel, with these pages.
    pub fn layered(
        &self,
        arena: &[u8],
        slots: &[i32],
        [layers, heads]: [usize; 2],
    ) -> LayeredKvArgs<'static> {
        let all = self.lengths.len() / (Lengths::COLUMNS * layers * heads);
        LayeredKvArgs {
            arena: given(arena).slice_mut(),
            slots: given(slots).tensor([slots.len()]),
            table: given(&self.table).tensor([all, layers, heads, TABLE]),
            lengths: given(&self.lengths).tensor([all, layers, heads, Lengths::COLUMNS]),
        }
    }

    /// Carries out a plan with the reference.
    pub fn insert(&mut self, list: usize, plan: &leankv_kernels::step::StepPlan, position: i32) {
        let (high_ids, low_ids) = (self.ids(list, false), self.ids(list, true));
        let lists =
            HeadLists { high: &self.high, low: self.low.as_ref(), high_ids: &high_ids, low_ids: &low_ids };
        let (key, value) = (key(position), value(position));
        leankv_kernels::reference::insert_token(&lists, &mut self.arena, plan, &key, &value, 0.0, position)
            .unwrap();
        let before = Lengths::get(&self.lengths, list);
        Lengths { high: plan.len_high, low: plan.len_low, ..before }.put(&mut self.lengths, list);
    }
}

/// Arguments of planning.
pub fn step_args<'a>(
    rules: &Rules,
    positions: &'a [i32],
    prompts: &'a [i32],
    thresholds: &'a [f32],
    heads: usize,
    policy: &'a dyn leankv_kernels::policy::PolicyMath,
) -> StepArgs<'a> {
    StepArgs {
        positions,
        prompts,
        thresholds,
        heads,
        window: rules.window,
        sinks: rules.sinks,
        counting: rules.counting(),
        peaks: Peaks::NONE,
        policy,
    }
}
