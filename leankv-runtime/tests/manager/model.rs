//! Random admissions, growth, compaction, forks, frees and shortages.

use leankv_runtime::Device;
use leankv_runtime::kv::{DeviceManager, PageManager, Refused, SequentialManager};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::Config;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use crate::common::{SHAPE, canonical, checking_devices, device_manager, fill, sound};

/// What is asked of the manager. Slots and counts are brought into range by what is held when it is done.
#[derive(Clone, Debug)]
enum Act {
    /// Admission, growth, compaction and shortage alike: pages wanted for each list of some slots.
    Rebalance(Vec<(usize, Vec<i32>)>),
    /// One more page for some lists of every request that holds any: a decode step.
    Step(Vec<bool>),
    /// A child of a request.
    Fork(usize, usize),
    /// Two children of one request.
    ForkTwice(usize, usize, usize),
    /// Many requests end, or are aborted or preempted.
    Free(Vec<usize>),
    /// Another number of tokens in the last pages.
    Fill(usize, usize),
}

/// What the manager said.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Answers(Vec<Result<(), Refused>>),
    Error(String),
    Done,
}

/// The sequential manager and what it said last.
#[derive(Clone, Debug)]
struct Model {
    manager: SequentialManager,
    said: Said,
}

/// Does an act with any manager; all that is chosen follows from what it holds.
fn perform(manager: &mut dyn PageManager, act: &Act) -> Said {
    let lists = SHAPE.lists() * 2;
    let state = manager.snapshot().unwrap();
    let holds = |slot: usize| state.held[slot * lists..][..lists].iter().any(|&held| held > 0);
    // Frozen pages stay, unless everything goes.
    let frozen = |slot: usize, place: usize| {
        let tokens = SHAPE.tokens[place % 2] as i32;
        state.lengths[(slot * lists / 2 + place / 2) * 4 + 2 + place % 2] / tokens
    };
    let mut rebalance = |slots: Vec<usize>, targets: Vec<i32>| {
        let answers = manager.rebalance(&slots, &targets).unwrap();
        for (i, &slot) in slots.iter().enumerate() {
            fill(manager, slot, i);
        }
        Said::Answers(answers)
    };
    match act {
        Act::Rebalance(wanted) => {
            let slots = wanted.iter().map(|(slot, _)| *slot).collect();
            let targets = wanted.iter().flat_map(|(slot, wanted)| {
                let places = wanted.iter().enumerate();
                places.map(|(place, &t)| if t < 0 { t } else { t.max(frozen(*slot, place)) })
            });
            let targets = targets.collect();
            rebalance(slots, targets)
        }
        Act::Step(grows) => {
            let slots: Vec<usize> = (0..SHAPE.slots).filter(|&slot| holds(slot)).collect();
            let targets = slots.iter().flat_map(|&slot| {
                (0..lists).map(move |place| (slot * lists + place, grows[(slot + place) % grows.len()]))
            });
            let targets = targets.map(|(at, grow)| state.held[at] + i32::from(grow)).collect();
            rebalance(slots, targets)
        }
        Act::Fork(parent, child) => match manager.fork(&[(*parent, *child)]) {
            Ok(answers) => Said::Answers(answers),
            Err(error) => Said::Error(error.to_string()),
        },
        Act::ForkTwice(parent, one, two) => match manager.fork(&[(*parent, *one), (*parent, *two)]) {
            Ok(answers) => Said::Answers(answers),
            Err(error) => Said::Error(error.to_string()),
        },
        Act::Free(slots) => {
            manager.free(slots).unwrap();
            Said::Done
        }
        Act::Fill(slot, short) => {
            fill(manager, *slot, *short);
            Said::Done
        }
    }
}

fn slots() -> impl Strategy<Value = Vec<usize>> {
    prop::sample::subsequence((0..SHAPE.slots).collect::<Vec<_>>(), 1..=SHAPE.slots).prop_shuffle()
}

/// Mostly small numbers; some that no row holds, and some that mean nothing.
fn target() -> impl Strategy<Value = i32> {
    prop_oneof![3 => Just(-1), 4 => Just(0), 8 => 1..4, 3 => 4..7, 1 => Just(9)]
}

impl ReferenceStateMachine for Model {
    type State = Model;
    type Transition = Act;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model { manager: SequentialManager::new(SHAPE).unwrap(), said: Said::Done }).boxed()
    }

    fn transitions(_: &Model) -> BoxedStrategy<Act> {
        let lists = SHAPE.lists() * 2;
        let slot = 0..SHAPE.slots;
        let rebalance = slots().prop_flat_map(move |slots| {
            let each = prop::collection::vec(prop::collection::vec(target(), lists), slots.len());
            each.prop_map(move |targets| Act::Rebalance(slots.iter().copied().zip(targets).collect()))
        });
        prop_oneof![
            4 => rebalance,
            3 => prop::collection::vec(any::<bool>(), 7).prop_map(Act::Step),
            3 => (slot.clone(), slot.clone()).prop_map(|(parent, child)| Act::Fork(parent, child)),
            1 => (slot.clone(), slot.clone(), slot.clone()).prop_map(|(a, b, c)| Act::ForkTwice(a, b, c)),
            3 => slots().prop_map(Act::Free),
            2 => (slot, 0..5usize).prop_map(|(slot, short)| Act::Fill(slot, short)),
        ]
        .boxed()
    }

    fn apply(mut model: Model, act: &Act) -> Model {
        model.said = perform(&mut model.manager, act);
        model
    }
}

/// The device manager under test.
struct OnHost;

fn compare(device: &DeviceManager, model: &SequentialManager) {
    sound(device);
    sound(model);
    assert_eq!(canonical(&device.snapshot().unwrap()), canonical(model.state()));
}

impl StateMachineTest for OnHost {
    type SystemUnderTest = DeviceManager;
    type Reference = Model;

    fn init_test(_: &Model) -> DeviceManager {
        device_manager(&Device::host(), SHAPE)
    }

    fn apply(mut manager: DeviceManager, model: &Model, act: Act) -> DeviceManager {
        assert_eq!(perform(&mut manager, &act), model.said, "{act:?}");
        manager
    }

    fn check_invariants(manager: &DeviceManager, model: &Model) {
        compare(manager, &model.manager);
    }

    fn teardown(mut manager: DeviceManager, _: Model) {
        manager.free(&(0..SHAPE.slots).collect::<Vec<_>>()).unwrap();
        assert_eq!(manager.free_pages().unwrap(), SHAPE.pages, "every page comes back");
    }
}

#[test]
fn p1_p2_pages_are_conserved_and_have_one_owner_in_random_sequences() {
    let cases = match std::env::var("LEANKV_SOAK") {
        Ok(cases) => cases.parse().expect("LEANKV_SOAK is a number of sequences"),
        Err(_) => 256,
    };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    proptest!(config, |((state, acts, seen) in Model::sequential_strategy(1..24usize))| {
        OnHost::test_sequential(Config::default(), state, acts, seen);
    });
}

#[test]
fn p1_p2_hold_on_devices_that_check_every_access() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for device in checking_devices() {
        for _ in 0..3 {
            let tree = Model::sequential_strategy(12..13usize).new_tree(&mut runner).unwrap();
            let (mut model, acts, _) = tree.current();
            let mut manager = device_manager(&device, SHAPE);
            for act in acts {
                model = Model::apply(model, &act);
                assert_eq!(perform(&mut manager, &act), model.said, "{act:?} on {}", device.name());
                compare(&manager, &model.manager);
            }
        }
    }
}
