//! Tiers of a prompt's tokens: classifying a chunk, writing it into pages, and moving what is cached.

use leankv_dsl::lang::attention::{Lengths, PerTier, Stock};
use leankv_dsl::workload::{Check, Generator, Workload, given};

use super::cache::{Cache, all_layers};
use super::floats::Floats;
use super::{RecipeError, Shapes, changed, filled};
use crate::chunk::{
    ChunkWriterSpec, ClassifyChunkArgs, ClassifySpec, RecompactArgs, RecompactSpec, WriteChunkArgs,
    classify_chunk, recompact as recompact_kernel, write_chunk,
};
use crate::policy::{Counting, Peaks, StockPolicies};
use crate::reference::{self, TierRule};

/// Slots of a classification, whose request is in one of them.
const SLOTS: usize = 3;

/// High and low thresholds of so many lists.
fn thresholds(lists: usize, high: [f32; 2], low: [f32; 2], random: &mut Generator) -> Vec<f32> {
    (0..lists).flat_map(|_| [high, low].map(|[from, to]| random.f32s(1, from, to)[0])).collect()
}

pub(super) fn classify(spec: &ClassifySpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let (kv_heads, n) = (shapes.get("kv_heads"), shapes.get("chunk_tokens"));
    let before = shapes.get("before") as i32;
    let tokens = before + n as i32;
    let prompt = tokens + shapes.get("after") as i32;
    let left_out = shapes.get("left_out") != 0;
    let mut random = Generator::new(seed);
    // Around one part in `tokens` for each counted query, so that every tier occurs.
    let mean = spec.window_q.min(n) as f32 / tokens.max(1) as f32;
    let words = random.f32s(kv_heads * n, 0.0, 2.0 * mean);
    let thresholds = thresholds(SLOTS * kv_heads, [0.8, 1.6], [0.2, 0.8], &mut random);
    let lengths: Vec<i32> = (0..SLOTS * kv_heads * 4).map(|_| random.below(50) as i32).collect();
    let slot = random.below(SLOTS);

    let policy = spec.policy.math();
    let rule = TierRule {
        policy: &*policy,
        window: spec.window,
        sinks: spec.sinks,
        counting: Counting::new(spec.chunk, spec.window_q),
        peaks: Peaks::new(spec.peaks),
        prompt,
        tokens,
        has_low: spec.two_tiers,
    };
    let mut after = lengths.clone();
    let dest = if left_out {
        vec![-1; kv_heads * n]
    } else {
        let thresholds = &thresholds[slot * kv_heads * 2..][..kv_heads * 2];
        let lengths = &mut after[slot * kv_heads * Lengths::COLUMNS..][..kv_heads * Lengths::COLUMNS];
        reference::classify_chunk(&rule, thresholds, &words, before, lengths)?
    };
    // No policy of this crate asks for norms.
    let [keys, values] =
        [0, 1].map(|_| Floats::random(spec.input, &mut random, [0, kv_heads, spec.head_dim]));
    let args = ClassifyChunkArgs {
        words: given(&words).tensor([kv_heads, n]),
        before,
        prompt,
        layer: 0,
        keys: keys.tensor,
        values: values.tensor,
        slots: given(&[if left_out { -1 } else { slot as i32 }]).tensor([1]),
        thresholds: given(&thresholds).tensor([SLOTS, kv_heads, 2]),
        lengths: changed(&lengths, &after).tensor_mut([SLOTS, kv_heads, 4]),
        dest: filled(-7, &dest, Check::Bits).tensor_mut([kv_heads, n]),
        policies: (),
    };
    Ok(Workload::of::<classify_chunk<StockPolicies>>([kv_heads, 1, 1], args))
}

pub(super) fn write(spec: &ChunkWriterSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let (kv_heads, n, d) = (shapes.get("kv_heads"), shapes.get("chunk_tokens"), spec.head_dim);
    let mut random = Generator::new(seed);
    let cache = Cache::with(&spec.tiering, d, spec.page_bytes, shapes, kv_heads, n, &mut random)?;
    let (cache, slot) = cache.of_first()?;
    let [keys, values] = [0, 1].map(|_| Floats::random(spec.input, &mut random, [n, kv_heads, d]));
    let words = random.f32s(kv_heads * n, 0.0, 1.0);
    // Behind what is cached: a third of the tokens in either tier, and a third pruned.
    let mut dest = Vec::new();
    for list in slot * kv_heads..(slot + 1) * kv_heads {
        let lengths = Lengths::get(&cache.lengths, list);
        let mut next = [lengths.high, lengths.low];
        for _ in 0..n {
            let low = match random.below(3) {
                0 => {
                    dest.push(-1);
                    continue;
                }
                choice => usize::from(choice == 2 && cache.low.is_some()),
            };
            dest.push(2 * next[low] + low as i32);
            next[low] += 1;
        }
    }
    let before = cache.longest as i32;
    let mut arena = cache.arena.clone();
    reference::write_chunk(
        &cache.high,
        cache.low.as_ref(),
        &mut arena,
        &cache.table[slot * kv_heads * cache.table_len..][..kv_heads * cache.table_len],
        &keys.exact,
        &values.exact,
        &words,
        &dest,
        before,
        kv_heads,
    )?;
    let args = WriteChunkArgs {
        keys: keys.tensor,
        values: values.tensor,
        words: given(&words).tensor([kv_heads, n]),
        dest: given(&dest).tensor([kv_heads, n]),
        before,
        kv: cache.kv(changed(&cache.arena, &arena)),
        codecs: (),
    };
    Ok(Workload::of::<write_chunk<Stock>>([n.div_ceil(spec.block.max(1)), kv_heads, 1], args))
}

pub(super) fn recompact(spec: &RecompactSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let (layers, kv_heads) = (shapes.get("layers"), shapes.get("kv_heads"));
    let lists = layers * kv_heads;
    let mut random = Generator::new(seed);
    let cache = Cache::with(&spec.tiering, spec.head_dim, spec.page_bytes, shapes, lists, 0, &mut random)?;
    let (mut cache, slot) = cache.of_first()?;
    // A quarter of the window has been written.
    let tokens = (cache.longest as i32).saturating_add(spec.window / 4 * 3);
    let thresholds = thresholds(cache.requests * lists, [1.0, 4.0], [0.2, 1.0], &mut random);
    let policy = spec.policy.math();
    let rule = TierRule {
        policy: &*policy,
        window: spec.window,
        sinks: spec.sinks,
        counting: Counting::new(spec.chunk, spec.window_q),
        peaks: Peaks::new(spec.peaks),
        prompt: tokens,
        tokens,
        has_low: cache.low.is_some(),
    };
    let (mut arena, mut lengths) = (cache.arena.clone(), cache.lengths.clone());
    if shapes.get("left_out") != 0 {
        cache.slots = vec![-1];
    } else {
        for list in slot * lists..(slot + 1) * lists {
            let ids = cache.ids(list);
            let pair = PerTier::get(&thresholds, list);
            let (held, before) = (PerTier::get(&cache.held, list).low, Lengths::get(&cache.lengths, list));
            let now =
                reference::recompact(&rule, pair, &cache.lists(&ids), &mut arena, before, held as usize)?;
            now.put(&mut lengths, list);
        }
    }
    let args = RecompactArgs {
        tokens,
        prompt: tokens,
        layers: all_layers(layers),
        thresholds: given(&thresholds).tensor(cache.of_layers(layers, 2)),
        held: given(&cache.held).tensor(cache.of_layers(layers, 2)),
        kv: cache.layered_mut(layers, changed(&cache.arena, &arena), changed(&cache.lengths, &lengths)),
        codecs: (),
        policies: (),
    };
    Ok(Workload::of::<recompact_kernel<Stock, StockPolicies>>([kv_heads, layers, 1], args))
}
