//! A user's policy as a value in the whole engine: which tokens stay is what it says, by all that it sees.

use leankv_dsl::lang::*;
use leankv_kernels::policy::{
    HIGH, HeadFacts, LOW, PRUNED, Policy, PolicyChoice, PolicySpec, PolicyVariant, StepAction, StepFacts,
    TokenFacts,
};
use leankv_runtime::kv::{CacheConfig, KvCache, RequestId, Thresholds};
use leankv_runtime::{Device, DeviceBuffer};

use crate::common::{PLAIN, cache, checking_devices, config, held};
use crate::model::checked_step_of;
use crate::prompt::checked_chunk_of;

/// The rule of every (layer, KV head), `[layers, kv_heads]`, and how many tokens the last one keeps low.
#[derive(Clone, Copy, KernelArg)]
struct Rules {
    table: View<i32, 2>,
    most: Scalar<i32>,
}

/// Nothing but what the default policy does.
const STOCK: i32 = 0;
/// Positions that are multiples of 3 are dropped, other even ones are low.
const BY_POSITION: i32 = 1;
/// High tokens become low, and low ones at odd positions are dropped; a step drops the least significant low one when there are too many.
const BY_TIER: i32 = 2;

impl Rules {
    fn of(&self, head: &HeadFacts) -> Scalar<i32> {
        self.table.get([head.layer, head.head])
    }
}

impl Policy for Rules {
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, head: &HeadFacts) -> Tile<i32, 1> {
        let p = tokens.positions;
        let rule = self.of(head).splat(p.extents());
        let even: Tile<i32, 1> = (p % 2).eq(0).select(LOW, HIGH);
        let by_position = (p % 3).eq(0).select(PRUNED, even);
        let stays = tokens.tier.eq(HIGH).splat(p.extents()) | (p % 2).eq(0);
        let by_tier: Tile<i32, 1> = stays.select(LOW, PRUNED);
        let own = rule.eq(BY_POSITION).select(by_position, by_tier);
        let stock = PolicySpec::default().policy().prompt_tier(tokens, head);
        rule.eq(STOCK).select(stock, own.min(stock))
    }

    fn step(&self, facts: &StepFacts) -> StepAction {
        let rule = self.of(&facts.head);
        let stock = PolicySpec::default().policy().step(facts);
        let (leaving, p) = (facts.leaving, facts.leaving.position);
        let by_position = rule.eq(BY_POSITION) & leaving.exists & ((p % 3).eq(0) | (p % 2).eq(0));
        let by_tier = rule.eq(BY_TIER) & leaving.exists;
        let too_many = rule.eq(BY_TIER) & facts.least_low.exists & facts.len_low.ge(self.most);
        StepAction {
            victim: (by_position | by_tier).select(2, stock.victim),
            demote: (by_position & (p % 3).ne(0)) | by_tier | (stock.demote & !by_position & !by_tier),
            evict_low: stock.evict_low | too_many,
        }
    }
}

#[derive(Debug)]
struct UserRules {
    table: DeviceBuffer<i32>,
    extents: [usize; 2],
}

impl PolicyVariant for UserRules {
    type Params = Rules;

    fn policy(&self, rules: Rules) -> Box<dyn Policy> {
        Box::new(rules)
    }

    fn given(&self) -> RulesArgs<'_> {
        RulesArgs { table: self.table.tensor(self.extents), most: MOST as i32 }
    }
}

const MOST: usize = 4;

/// The configuration with these rules, one for each (layer, KV head).
fn ruled(device: &Device, config: CacheConfig, rules: &[i32]) -> CacheConfig {
    let (table, extents) = (device.upload(rules).unwrap(), [config.layers, config.kv_heads]);
    CacheConfig { policy: PolicyChoice::user("rules", UserRules { table, extents }), ..config }
}

/// Positions of high and of low tokens, in order.
fn positions(cache: &KvCache, id: RequestId, list: usize) -> [Vec<usize>; 2] {
    held(cache, id, list).map(|tokens| {
        let mut positions: Vec<usize> = tokens.iter().map(|token| token.position as usize).collect();
        positions.sort_unstable();
        positions
    })
}

/// What [`BY_POSITION`] leaves of a sequence.
fn by_position(config: &CacheConfig, tokens: usize) -> [Vec<usize>; 2] {
    let always = |p: &usize| *p < config.sinks || p + config.window >= tokens;
    let high = (0..tokens).filter(|p| always(p) || (p % 3 != 0 && p % 2 != 0)).collect();
    let low = (0..tokens).filter(|p| !always(p) && p % 3 != 0 && p % 2 == 0).collect();
    [high, low]
}

/// What [`BY_TIER`] leaves of a prompt whose last chunk came after `before` tokens. Tokens of a chunk are judged as they are written, and again with all
/// others when it ends; what was in the window before is judged once.
fn by_tier(config: &CacheConfig, before: usize, tokens: usize) -> [Vec<usize>; 2] {
    let end = tokens - config.window;
    let once = before.saturating_sub(config.window)..before;
    [
        (0..config.sinks).chain(end..tokens).collect(),
        (config.sinks..end).filter(|p| p % 2 == 0 || once.contains(p)).collect(),
    ]
}

/// A prompt and some steps, each checked against f64, and what is kept against the rules.
fn checked(device: &Device, config: &CacheConfig, rules: &[i32], prompt: usize, steps: usize) {
    let stock = CacheConfig { policy: PolicyChoice::default(), ..config.clone() };
    let mut mine = cache(device, &ruled(device, config.clone(), rules));
    let mut other = cache(device, &stock);
    // Thresholds where the default policy rules, and none where it does not.
    let loose = |i: usize| rules[i] != STOCK;
    let (layers, heads) = (config.layers, config.kv_heads);
    let all = Thresholds::new(1.1, 0.85);
    let thresholds = (0..layers * heads)
        .filter(|&i| loose(i))
        .fold(all, |all, i| all.with(i / heads, Some(i % heads), 0.0, 0.0));
    let [id, its] = [&mut mine, &mut other].map(|cache| cache.admit(prompt, &thresholds).unwrap());
    let same = |mine: &KvCache, other: &KvCache| {
        for list in (0..config.lists()).filter(|&list| rules[list] == STOCK) {
            assert_eq!(held(mine, id, list), held(other, its, list), "list {list}");
        }
    };
    let mut before = 0;
    while mine.tokens(id).unwrap() < prompt {
        before = mine.tokens(id).unwrap();
        checked_chunk_of(&mut mine, config, id, 3, &PLAIN);
        checked_chunk_of(&mut other, config, its, 3, &PLAIN);
        same(&mine, &other);
        let tokens = mine.tokens(id).unwrap();
        for (list, rule) in rules.iter().enumerate() {
            let got = positions(&mine, id, list);
            match *rule {
                BY_POSITION => assert_eq!(got, by_position(config, tokens), "{tokens} tokens, list {list}"),
                BY_TIER => assert_eq!(got, by_tier(config, before, tokens), "{tokens} tokens, list {list}"),
                _ => {}
            }
        }
    }
    assert!(before > 0, "a prompt of several chunks");
    for _ in 0..steps {
        let low: Vec<Vec<(f32, i32)>> = (0..config.lists())
            .map(|list| held(&mine, id, list)[1].iter().map(|t| (t.significance, t.position)).collect())
            .collect();
        checked_step_of(&mut mine, config, id, prompt, 3, &PLAIN);
        checked_step_of(&mut other, config, its, prompt, 3, &PLAIN);
        same(&mine, &other);
        let tokens = mine.tokens(id).unwrap();
        for (list, rule) in rules.iter().enumerate() {
            let got = positions(&mine, id, list);
            match *rule {
                BY_POSITION => assert_eq!(got, by_position(config, tokens), "{tokens} tokens, list {list}"),
                BY_TIER => {
                    // The one that left the window is low, and one of the others went where there were too many.
                    let gone = usize::from(low[list].len() >= MOST);
                    assert!(got[1].contains(&(tokens - 1 - config.window)), "{tokens} tokens: {got:?}");
                    assert_eq!(got[1].len(), low[list].len() + 1 - gone, "{tokens} tokens");
                    assert_eq!(got[0].len(), config.window + config.sinks);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_policy_by_layer_head_position_tier_and_significance_drives_prompts_and_steps() {
    checked(&Device::host(), &config(), &[STOCK, BY_TIER, BY_POSITION, STOCK], 40, 12);
}

#[test]
fn a_policy_holds_on_devices_that_check_every_access() {
    let small = CacheConfig { layers: 2, kv_heads: 1, window: 3, sinks: 0, slots: 1, pages: 16, ..config() };
    for device in checking_devices() {
        checked(&device, &small, &[BY_POSITION, BY_TIER], 20, 3);
    }
}

/// A request whose thresholds are solved for its budget, step by step.
fn budget(device: &Device, config: &CacheConfig, rules: &[i32], [prompt, tokens]: [usize; 2], pages: usize) {
    let config = ruled(device, config.clone(), rules);
    let mut cache = cache(device, &config);
    let id = cache.admit(prompt, &Thresholds::within(pages * config.page_bytes)).unwrap();
    while cache.tokens(id).unwrap() < prompt {
        crate::common::chunk(&mut cache, id, 3).unwrap();
    }
    while cache.tokens(id).unwrap() < tokens {
        crate::common::step(&mut cache, &[(id, 3)]).unwrap();
        let stats = cache.stats(id).unwrap();
        let taken: usize = stats.heads.iter().map(|head| head.pages).sum();
        assert!(taken <= pages, "{taken} pages of {pages}: {stats:?}");
        let [high, low] = by_position(&config, cache.tokens(id).unwrap());
        for list in (0..config.lists()).filter(|&list| rules[list] == BY_POSITION) {
            // Under a budget a token may be lower than the rule says, and never higher.
            let [got_high, got_low] = positions(&cache, id, list);
            assert!(got_high.iter().all(|p| high.contains(p)), "{got_high:?}, of {high:?}");
            assert!(got_low.iter().all(|p| low.contains(p) || high.contains(p)), "{got_low:?}");
        }
    }
    crate::common::sound(&cache);
    let thresholds = cache.dump().unwrap().thresholds;
    assert!(thresholds[..config.lists() * 2].iter().any(|t| *t > 0.0), "a threshold was needed");
}

#[test]
fn a_policy_works_under_a_budget_of_bytes() {
    let long = CacheConfig { max_tokens: 200, pages: 400, solve_every: 8, keep_tokens: 0, ..config() };
    budget(&Device::host(), &long, &[STOCK, STOCK, BY_POSITION, STOCK], [48, 200], 12);
    let small = CacheConfig {
        layers: 2,
        kv_heads: 1,
        window: 3,
        sinks: 0,
        slots: 1,
        pages: 16,
        page_bytes: 768,
        solve_every: 4,
        keep_tokens: 0,
        ..config()
    };
    for device in checking_devices() {
        budget(&device, &small, &[BY_POSITION, STOCK], [20, 30], 5);
    }
}

/// Names tiers and candidates that there are and that there are not.
#[derive(Clone, Copy, Debug)]
struct Wild;

impl Policy for Wild {
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, _: &HeadFacts) -> Tile<i32, 1> {
        (tokens.positions % 7) - 2
    }

    fn step(&self, facts: &StepFacts) -> StepAction {
        let tokens = facts.head.tokens;
        StepAction { victim: tokens % 7 - 2, demote: (tokens % 2).eq(0), evict_low: (tokens % 3).ne(0) }
    }
}

impl PolicyVariant for Wild {
    type Params = ();

    fn policy(&self, (): ()) -> Box<dyn Policy> {
        Box::new(*self)
    }

    fn given(&self) {}
}

#[test]
fn a_policy_that_names_what_there_is_not_keeps_the_cache_sound() {
    let small = CacheConfig { layers: 1, kv_heads: 1, window: 3, sinks: 0, slots: 1, pages: 16, ..config() };
    for tiering in ["K8V4/K4V2", "K4V4"] {
        for device in checking_devices() {
            let (formats, policy) = (tiering.parse().unwrap(), PolicyChoice::user("wild", Wild));
            let config = CacheConfig { formats, policy, ..small.clone() };
            let mut cache = cache(&device, &config);
            let id = cache.admit(20, &Thresholds::new(1.0, 0.5)).unwrap();
            for _ in 0..2 {
                checked_chunk_of(&mut cache, &config, id, 3, &PLAIN);
            }
            for _ in 0..9 {
                checked_step_of(&mut cache, &config, id, 20, 3, &PLAIN);
            }
            let stats = cache.stats(id).unwrap();
            assert!(stats.heads[0].high > 0 && stats.heads[0].pruned > 0, "{stats:?}");
        }
    }
}
