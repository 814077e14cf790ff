//! Random lives of requests, with every request's second life alone beside it: admission, prompts, steps, forks, ends, aborts, preemption,
//! shortages, and what must be refused.
//!
//! `LEANKV_SOAK=100000 cargo test --release -p leankv-runtime --test engine random` (`make soak`) runs as many sequences.

mod advance;
mod batch;
mod picture;
mod seen;
mod world;

use leankv_dsl::format::LayerFormats;
use leankv_runtime::Device;
use leankv_runtime::kv::{Budget, CacheConfig, KvError, Thresholds};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use self::seen::{Seen, note};
use self::world::World;
use crate::common;

/// Pages of 6 high or 12 low tokens, so that they come and go often, and requests of another format among them.
fn config() -> CacheConfig {
    CacheConfig {
        page_bytes: 768,
        chunk: 8,
        window_q: 4,
        max_tokens: 40,
        solve_every: 4,
        more_formats: vec![other_formats()],
        ..common::config()
    }
}

/// A layer of one tier, of 9 tokens a page, and one of two tiers.
fn other_formats() -> LayerFormats {
    "K4V4;1=K8V4/K4V2".parse().expect("these are names of formats")
}

/// What is asked of the cache. Whom it concerns is chosen among those that are there when it is done.
#[derive(Clone, Debug)]
enum Act {
    Admit {
        prompt: usize,
        rule: Rule,
        other: bool,
    },
    /// Some chunks of a prompt.
    Chunks {
        of: Index,
        times: usize,
    },
    /// Some steps of those requests, in this order.
    Steps {
        of: Vec<Index>,
        times: usize,
    },
    /// As one step, and as often as pages are short another one is given up, as long as there are names.
    StepOrPreempt {
        of: Vec<Index>,
        victims: Vec<Index>,
    },
    /// Steps of an engine: decodes and pieces of prompts, cut anywhere.
    Batch {
        of: Vec<Index>,
        cuts: Vec<Index>,
        times: usize,
    },
    /// One that is left after some layers.
    LeaveBatch {
        of: Vec<Index>,
        cuts: Vec<Index>,
        layers: usize,
    },
    /// A chunk that is left after some layers.
    LeaveChunk {
        of: Index,
        layers: usize,
    },
    /// A step that is left after some layers.
    LeaveStep {
        of: Vec<Index>,
        layers: usize,
    },
    Fork(Index),
    Free(Vec<Index>),
    /// NaN in every byte that no request owns.
    Poison,
    /// What must be refused.
    Misuse(Misuse, Index),
}

/// How a request's tokens are judged.
#[derive(Clone, Copy, Debug)]
enum Rule {
    KeepAll,
    DemoteAll,
    Mixed,
    Strict,
    /// By a budget of so many pages.
    Within(usize),
    /// By a budget that grows with the sequence.
    Part(f32),
}

impl Rule {
    fn thresholds(self) -> Thresholds {
        match self {
            Rule::KeepAll => Thresholds::new(0.0, 0.0),
            Rule::DemoteAll => Thresholds::new(100.0, 0.0),
            Rule::Mixed => common::thresholds(),
            Rule::Strict => Thresholds::new(2.0, 1.0),
            Rule::Within(pages) => Thresholds::within(pages * config().page_bytes),
            Rule::Part(part) => Thresholds::solved(Budget::Part(part)),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Misuse {
    Ended,
    Twice,
    PromptPending,
    PromptDone,
    Full,
    Torn,
    TooLong,
    NoLayer,
}

/// Sequences of acts; what becomes of them is known to the cache alone, which knows its shortages.
struct Script;

/// Pages of the arena.
#[derive(Clone, Debug)]
struct Arena(usize);

fn some() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 1..5)
}

fn misuse() -> impl Strategy<Value = Misuse> {
    prop::sample::select(vec![
        Misuse::Ended,
        Misuse::Twice,
        Misuse::PromptPending,
        Misuse::PromptDone,
        Misuse::Full,
        Misuse::Torn,
        Misuse::TooLong,
        Misuse::NoLayer,
    ])
}

impl ReferenceStateMachine for Script {
    type State = Arena;
    type Transition = Act;

    fn init_state() -> BoxedStrategy<Arena> {
        prop::sample::select(vec![30, 44, 60]).prop_map(Arena).boxed()
    }

    fn transitions(_: &Arena) -> BoxedStrategy<Act> {
        let (layers, most) = (config().layers, config().max_tokens);
        let rule = prop_oneof![
            2 => Just(Rule::KeepAll),
            1 => Just(Rule::DemoteAll),
            3 => Just(Rule::Mixed),
            1 => Just(Rule::Strict),
            2 => (4..20usize).prop_map(Rule::Within),
            1 => (1..6u8).prop_map(|part| Rule::Part(f32::from(part))),
        ];
        let prompt = prop_oneof![2 => Just(0), 3 => 1..20usize, 2 => 20..most, 2 => most - 3..=most];
        let index = any::<Index>();
        prop_oneof![
            4 => (prompt, rule, prop::bool::weighted(0.3))
                .prop_map(|(prompt, rule, other)| Act::Admit { prompt, rule, other }),
            7 => (index.clone(), 1..6usize).prop_map(|(of, times)| Act::Chunks { of, times }),
            7 => (some(), 1..13usize).prop_map(|(of, times)| Act::Steps { of, times }),
            3 => (some(), prop::collection::vec(any::<Index>(), 0..3))
                .prop_map(|(of, victims)| Act::StepOrPreempt { of, victims }),
            7 => (some(), some(), 1..6usize).prop_map(|(of, cuts, times)| Act::Batch { of, cuts, times }),
            1 => (some(), some(), 0..=layers).prop_map(|(of, cuts, layers)| Act::LeaveBatch { of, cuts, layers }),
            2 => (index.clone(), 0..=layers).prop_map(|(of, layers)| Act::LeaveChunk { of, layers }),
            1 => (some(), 0..=layers).prop_map(|(of, layers)| Act::LeaveStep { of, layers }),
            4 => index.clone().prop_map(Act::Fork),
            2 => prop::collection::vec(any::<Index>(), 1..3).prop_map(Act::Free),
            3 => Just(Act::Poison),
            5 => (misuse(), index).prop_map(|(what, of)| Act::Misuse(what, of)),
        ]
        .boxed()
    }

    fn apply(arena: Arena, _: &Act) -> Arena {
        arena
    }
}

impl World {
    /// Those among whom there is a choice.
    fn who(&self, may: impl Fn(&World, usize) -> bool) -> Vec<usize> {
        (0..self.living.len()).filter(|&who| may(self, who)).collect()
    }

    fn one(&self, of: Index, may: impl Fn(&World, usize) -> bool) -> Option<usize> {
        let who = self.who(may);
        (!who.is_empty()).then(|| *of.get(&who))
    }

    /// Whether it has a next token, of its prompt or another one.
    fn goes_on(&self, who: usize) -> bool {
        self.decodes(who) || self.prefills(who)
    }

    /// The ones that are named, each once.
    fn several(&self, of: &[Index], may: impl Fn(&World, usize) -> bool) -> Vec<usize> {
        let mut left = self.who(may);
        let each = of.iter().map_while(|of| (!left.is_empty()).then(|| left.remove(of.index(left.len()))));
        each.collect()
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Admit { prompt, rule, other } => {
                let formats = if other { other_formats() } else { config().formats };
                self.admit(&formats, prompt, &rule.thresholds());
            }
            Act::Chunks { of, times } => {
                let Some(who) = self.one(of, World::prefills) else { return };
                for _ in 0..times {
                    if self.prefills(who) {
                        self.chunk(who, None);
                    }
                }
            }
            Act::Steps { of, times } => {
                let batch = self.several(&of, World::decodes);
                for _ in 0..times {
                    if !batch.iter().all(|&who| self.decodes(who)) || !self.step(&batch, None, None) {
                        break;
                    }
                }
            }
            Act::StepOrPreempt { of, victims } => {
                let batch = self.several(&of, World::decodes);
                self.step(&batch, None, Some(&victims));
            }
            Act::Batch { of, cuts, times } => {
                for _ in 0..times {
                    let who = self.several(&of, World::goes_on);
                    self.batch(&who, &cuts, None);
                }
            }
            Act::LeaveBatch { of, cuts, layers } => {
                let who = self.several(&of, World::goes_on);
                self.batch(&who, &cuts, Some(layers));
            }
            Act::LeaveChunk { of, layers } => {
                let Some(who) = self.one(of, World::prefills) else { return };
                self.chunk(who, Some(layers));
            }
            Act::LeaveStep { of, layers } => {
                let batch = self.several(&of, World::decodes);
                self.step(&batch, Some(layers), None);
            }
            Act::Fork(of) => {
                let may = |world: &World, who: usize| !world.living[who].torn && !world.living[who].unsure;
                let Some(who) = self.one(of, may) else { return };
                self.fork(who);
            }
            Act::Free(of) => {
                let who = self.several(&of, |_, _| true);
                self.free(&who);
            }
            Act::Poison => self.poison(),
            Act::Misuse(what, of) => self.misuse(what, of),
        }
    }

    /// Does what must be refused, if there is anything to do it with.
    fn misuse(&mut self, what: Misuse, of: Index) {
        let most = config().max_tokens;
        match what {
            Misuse::Ended => {
                if self.ended.is_empty() {
                    return;
                }
                let id = *of.get(&self.ended);
                let gone =
                    |error: &KvError| matches!(error, KvError::NoRequest { id: named } if *named == id);
                let able = self.one(of, World::decodes).map(|who| self.living[who].id);
                let batch: Vec<_> = able.into_iter().chain([id]).collect();
                self.refused(|cache| cache.decode_step(&batch).map(drop), gone);
                self.refused(|cache| cache.free(&batch), gone);
                self.refused(|cache| cache.prefill_chunk(id).map(drop), gone);
                self.refused(|cache| cache.fork(id), gone);
                self.refused(|cache| cache.tokens(id), gone);
                self.refused(|cache| cache.stats(id), gone);
            }
            Misuse::Twice => {
                let Some(who) = self.one(of, World::decodes) else { return };
                let id = self.living[who].id;
                let twice =
                    |error: &KvError| matches!(error, KvError::SlotTwice { slot } if *slot == id.slot());
                self.refused(|cache| cache.decode_step(&[id, id]).map(drop), twice);
                self.refused(|cache| cache.free(&[id, id]), twice);
            }
            Misuse::PromptPending => {
                let Some(who) = self.one(of, World::prefills) else { return };
                let (id, missing) = (self.living[who].id, self.living[who].prompt - self.tokens(who));
                let pending = |error: &KvError| matches!(error, KvError::PromptPending { left, .. } if *left == missing);
                self.refused(|cache| cache.decode_step(&[id]).map(drop), pending);
            }
            Misuse::PromptDone => {
                let done = |world: &World, who: usize| !world.living[who].torn && !world.prefills(who);
                let Some(who) = self.one(of, done) else { return };
                let id = self.living[who].id;
                let done = |error: &KvError| matches!(error, KvError::PromptDone { .. });
                self.refused(|cache| cache.prefill_chunk(id).map(drop), done);
            }
            Misuse::Full => {
                let full = |world: &World, who: usize| !world.living[who].torn && world.tokens(who) == most;
                let Some(who) = self.one(of, full) else { return };
                let id = self.living[who].id;
                let full = |error: &KvError| matches!(error, KvError::Full { tokens, .. } if *tokens == most);
                self.refused(|cache| cache.decode_step(&[id]).map(drop), full);
                note(Seen::Full);
            }
            Misuse::Torn => {
                let Some(who) = self.one(of, |world, who| world.living[who].torn) else { return };
                self.refuse_torn(who);
            }
            Misuse::TooLong => {
                let long =
                    |error: &KvError| matches!(error, KvError::Length { expected, .. } if *expected == most);
                self.refused(|cache| cache.admit(most + 1, &Thresholds::new(0.0, 0.0)), long);
            }
            Misuse::NoLayer => {
                let layers = config().layers;
                let none =
                    |error: &KvError| matches!(error, KvError::NoHead { layer, .. } if *layer == layers);
                let thresholds = Thresholds::new(0.0, 0.0).with(layers, None, 1.0, 1.0);
                self.refused(|cache| cache.admit(0, &thresholds), none);
            }
        }
    }
}

/// The cache under test, on the host or on one of the [`checking_devices`](common::checking_devices).
struct On<const DEVICE: usize>;

const HOST: usize = usize::MAX;

impl<const DEVICE: usize> StateMachineTest for On<DEVICE> {
    type SystemUnderTest = World;
    type Reference = Script;

    fn init_test(arena: &Arena) -> World {
        let device = common::checking_devices().into_iter().nth(DEVICE).unwrap_or_else(Device::host);
        World::new(device, arena.0)
    }

    fn apply(mut world: World, _: &Arena, act: Act) -> World {
        world.act(act);
        world
    }

    fn check_invariants(world: &World, _: &Arena) {
        world.check();
    }

    fn teardown(world: World, _: Arena) {
        world.finish();
    }
}

/// Half of the sequences, which are not those of the other half: two tests that run beside each other.
fn every_request_lives_as_it_does_alone(half: u64) {
    let cases = match std::env::var("LEANKV_SOAK") {
        Ok(cases) => cases.parse().expect("LEANKV_SOAK is a number of sequences"),
        Err(_) => 1024,
    } / 2;
    let regressions = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/engine.txt");
    let usual = Config::default();
    let config = Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(regressions))),
        max_shrink_iters: 5_000,
        rng_seed: match usual.rng_seed {
            RngSeed::Fixed(seed) => RngSeed::Fixed(seed.wrapping_add(half)),
            RngSeed::Random => RngSeed::Random,
        },
        ..usual
    };
    proptest!(config, |((arena, acts, seen) in Script::sequential_strategy(20..80usize))| {
        On::<HOST>::test_sequential(Config::default(), arena, acts, seen);
    });
    let times = Seen::ALL.map(|what| (what, what.times()));
    // Too few sequences may miss something. The other half may have begun.
    let enough = |times: usize| times * 40 >= cases as usize;
    assert!(cases < 128 || times.iter().all(|(_, times)| enough(*times)), "{times:?}");
}

#[test]
fn p1_p2_p3_p5_p6_p7_every_request_lives_as_it_does_alone_in_random_sequences() {
    every_request_lives_as_it_does_alone(0);
}

#[test]
fn p1_p2_p3_p5_p6_p7_every_request_lives_as_it_does_alone_in_other_random_sequences() {
    every_request_lives_as_it_does_alone(1);
}

/// The same with every access of every launch checked, by the interpreter (0) or the PTX machine (1), which are slower.
fn lives_are_sound_on_a_device_that_checks_every_access<const DEVICE: usize>() {
    let config = Config { cases: 12, failure_persistence: None, max_shrink_iters: 50, ..Config::default() };
    proptest!(config, |((arena, acts, seen) in Script::sequential_strategy(20..60usize))| {
        On::<DEVICE>::test_sequential(Config::default(), arena, acts, seen);
    });
}

#[test]
fn p1_p2_p3_p5_p6_p7_random_sequences_on_the_interpreter() {
    lives_are_sound_on_a_device_that_checks_every_access::<0>();
}

#[test]
fn p1_p2_p3_p5_p6_p7_random_sequences_on_the_ptx_machine() {
    lives_are_sound_on_a_device_that_checks_every_access::<1>();
}
