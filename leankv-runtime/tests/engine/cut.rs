//! Steps of an engine: prompts in pieces, several at a time, in and out in the caller's types.

use half::{bf16, f16};
use leankv_dsl::lang::FloatType;
use leankv_runtime::kv::{
    Basis, Budget, CacheConfig, InputElement, KvCache, KvError, LayerInput, RequestId, Rows, RowsMut,
    StepPart, Thresholds,
};
use leankv_runtime::{Device, DeviceBuffer};

use crate::common::{cache, checking_devices, chunk, config, held, row, sound, step, upload};

fn thresholds() -> Thresholds {
    Thresholds::new(1.1, 0.85)
}

/// Chunks of 40 tokens.
fn long() -> CacheConfig {
    CacheConfig { chunk: 40, window_q: 8, ..config() }
}

/// A step of so many tokens of these sequences, in the caller's types: outputs `[layers][rows, query_heads, D]`.
fn rows<E: InputElement, O: InputElement + Into<f32>>(
    cache: &mut KvCache,
    parts: &[(RequestId, u64, usize)],
) -> Result<Vec<Vec<f32>>, KvError> {
    let (config, device) = (cache.config().clone(), cache.manager().state().device().clone());
    let mut places = Vec::new();
    for &(id, sequence, rows) in parts {
        let first = cache.tokens(id)?;
        places.extend((first..first + rows).map(|token| (sequence, token)));
    }
    let asked: Vec<StepPart> = parts.iter().map(|&(request, _, rows)| StepPart { request, rows }).collect();
    let step = cache.begin(&asked)?;
    let mut all = Vec::new();
    for layer in 0..config.layers {
        let rows: Vec<_> =
            places.iter().map(|&(sequence, token)| row(&config, sequence, token, layer)).collect();
        let [q, k, v] = upload(&device, &rows).map(|x| {
            let x: Vec<E> = x.to_vec().unwrap().into_iter().map(|x: f16| E::of(x.into())).collect();
            device.upload(&x).unwrap()
        });
        let mut out: DeviceBuffer<O> = device.zeros(q.len())?;
        let input = LayerInput { q: (&q).into(), k: (&k).into(), v: (&v).into(), priors: None };
        cache.layer(step, layer, input, RowsMut::from(&mut out))?;
        all.push(out.to_vec()?.into_iter().map(Into::into).collect());
    }
    cache.finish(step)?;
    Ok(all)
}

fn append(all: &mut Vec<Vec<f32>>, more: Vec<Vec<f32>>) {
    all.resize(more.len(), Vec::new());
    all.iter_mut().zip(more).for_each(|(layer, more)| layer.extend(more));
}

#[test]
fn where_a_chunk_is_cut_changes_nothing() {
    let rotated = Basis { rotated: true, means: None };
    for (config, device) in [
        (long(), Device::host()),
        (CacheConfig { basis: rotated, peaks: 100, ..long() }, Device::host()),
        (CacheConfig { chunk: 12, window_q: 12, ..config() }, checking_devices()[0].clone()),
    ] {
        let (n, prompt) = (config.chunk, config.chunk + 7);
        for cuts in [vec![3, n - 3, 7], vec![1, 1, n - 2, 1, 6]] {
            let [mut whole, mut cut] = [(); 2].map(|()| cache(&device, &config));
            let ids = [&mut whole, &mut cut].map(|cache| cache.admit(prompt, &thresholds()).unwrap());
            let (mut want, mut got) = (Vec::new(), Vec::new());
            for _ in 0..2 {
                append(&mut want, chunk(&mut whole, ids[0], 1).unwrap());
            }
            for &piece in &cuts {
                append(&mut got, rows::<f16, f32>(&mut cut, &[(ids[1], 1, piece)]).unwrap());
                sound(&cut);
            }
            let bits = |all: &[Vec<f32>]| all.iter().flatten().map(|x| x.to_bits()).collect::<Vec<u32>>();
            assert!(bits(&got) == bits(&want), "{cuts:?}");
            for list in 0..config.lists() {
                assert_eq!(held(&cut, ids[1], list), held(&whole, ids[0], list), "{cuts:?}, list {list}");
            }
            assert_eq!(step(&mut cut, &[(ids[1], 1)]).unwrap(), step(&mut whole, &[(ids[0], 1)]).unwrap());
        }
    }
}

#[test]
fn a_piece_may_go_beyond_the_end_of_its_chunk() {
    // Nothing is demoted or dropped, so that what a token sees is the same but for rounding to codes.
    let config = CacheConfig { formats: "fp16".parse().unwrap(), page_bytes: 4096, ..config() };
    let device = Device::host();
    let [mut whole, mut cut] = [(); 2].map(|()| cache(&device, &config));
    let keep = Thresholds::new(0.0, 0.0);
    let [a, b] = [&mut whole, &mut cut].map(|cache| cache.admit(50, &keep).unwrap());
    let (mut want, mut got) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        append(&mut want, chunk(&mut whole, a, 1).unwrap());
    }
    for piece in [5, 40, 5] {
        append(&mut got, rows::<f16, f32>(&mut cut, &[(b, 1, piece)]).unwrap());
        sound(&cut);
    }
    for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
        assert!((got - want).abs() < 2e-3, "{got}, not {want}");
    }
    let positions =
        |cache: &KvCache, id, list| held(cache, id, list)[0].iter().map(|t| t.position).collect::<Vec<_>>();
    for list in 0..config.lists() {
        assert_eq!(positions(&cut, b, list), (0..50).collect::<Vec<i32>>());
    }
}

#[test]
fn output_comes_in_the_type_that_is_asked_for() {
    fn of<E: InputElement, O: InputElement + Into<f32>>() {
        let parts = |ids: [RequestId; 2]| [(ids[0], 1, 9), (ids[1], 2, 4)];
        let device = Device::host();
        let exact = CacheConfig { input: E::INPUT, ..config() };
        let [mut single, mut other] =
            [exact.clone(), CacheConfig { output: O::INPUT, ..exact }].map(|config| cache(&device, &config));
        let ids = |cache: &mut KvCache| [9, 12].map(|prompt| cache.admit(prompt, &thresholds()).unwrap());
        let (a, b) = (ids(&mut single), ids(&mut other));
        let want = rows::<E, f32>(&mut single, &parts(a)).unwrap();
        let got = rows::<E, O>(&mut other, &parts(b)).unwrap();
        for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
            assert_eq!(*got, O::of(f64::from(*want)).into(), "rounded once");
        }
    }
    of::<f16, f16>();
    of::<bf16, bf16>();
    of::<f32, bf16>();
}

#[test]
fn what_cannot_be_a_step_is_refused_and_changes_nothing() {
    let config = config();
    let device = Device::host();
    let mut cache = cache(&device, &config);
    let [a, b] = [20, 0].map(|prompt| cache.admit(prompt, &thresholds()).unwrap());
    let part = |request, rows| StepPart { request, rows };
    let text = |result: Result<leankv_runtime::kv::StepId, KvError>| result.unwrap_err().to_string();
    assert!(text(cache.begin(&[part(a, 21)])).contains("20 numbers are needed, not 21"));
    assert!(text(cache.begin(&[part(a, 0)])).contains("at least"));
    assert!(text(cache.begin(&[part(b, 2)])).contains("the prompt of request 2"));
    assert!(text(cache.begin(&[part(b, 1), part(a, 1), part(b, 1)])).contains("twice"));
    let step = cache.begin(&[part(a, 3), part(b, 1)]).unwrap();

    let n = 4;
    let [q, kv] = [config.query_heads(), config.kv_heads].map(|heads| heads * config.head_dim);
    let [qs, ks] = [q, kv].map(|row| device.zeros::<f16>(n * row + 8).unwrap());
    let mut out = device.zeros::<f32>(n * q).unwrap();
    let layer = |cache: &mut KvCache, number: usize, q: Rows<'_, f16>, out: RowsMut<'_, f32>| {
        let kv = Rows::from(ks.slice(..n * kv).unwrap());
        cache
            .layer(step, number, LayerInput { q, k: kv, v: kv, priors: None }, out)
            .map_err(|e| e.to_string())
    };
    let good = || Rows::from(qs.slice(..n * q).unwrap());
    let error = |result: Result<(), String>, part: &str| {
        let text = result.unwrap_err();
        assert!(text.contains(part), "{text}");
    };
    error(layer(&mut cache, 1, good(), (&mut out).into()), "the next layer");
    error(
        layer(&mut cache, 0, qs.slice(1..n * q + 1).unwrap().into(), (&mut out).into()),
        "multiples of 16 bytes",
    );
    error(layer(&mut cache, 0, good().strided(q + 1), (&mut out).into()), "numbers are needed");
    error(layer(&mut cache, 0, good().strided(q - 8), (&mut out).into()), "from row to row");
    error(layer(&mut cache, 0, good(), RowsMut::from(&mut out).strided(q + 8)), "out [rows");
    let mut wrong = device.zeros::<f16>(n * q).unwrap();
    let kv_rows = Rows::from(ks.slice(..n * kv).unwrap());
    let input = LayerInput { q: good(), k: kv_rows, v: kv_rows, priors: None };
    let other = cache.layer(step, 0, input, RowsMut::from(&mut wrong)).unwrap_err().to_string();
    assert!(other.contains("CacheConfig::output"), "{other}");
    assert!(matches!(cache.finish(step), Err(KvError::Length { .. })), "layers are missing");
    assert_eq!(cache.poisoned(), None);
    assert_eq!([cache.tokens(a).unwrap(), cache.tokens(b).unwrap()], [0, 0]);

    // It goes on as if nothing had been.
    for number in 0..config.layers {
        layer(&mut cache, number, good(), (&mut out).into()).unwrap();
    }
    cache.finish(step).unwrap();
    assert_eq!([cache.tokens(a).unwrap(), cache.tokens(b).unwrap()], [3, 1]);
    assert!(matches!(cache.finish(step), Err(KvError::NoStep)));
    // In the middle of a chunk it cannot be forked, and one that is given up leaves nothing behind.
    assert!(matches!(cache.fork(a), Err(KvError::PromptPending { left: 17, .. })));
    cache.free(&[a, b]).unwrap();
    sound(&cache);
    assert!(cache.begin(&[]).is_ok(), "a step of nobody");
}

#[test]
fn guards_give_f32_alone() {
    let config = CacheConfig { output: FloatType::Bf16, ..config() };
    let mut cache = cache(&Device::host(), &config);
    let id = cache.admit(0, &thresholds()).unwrap();
    let error = step(&mut cache, &[(id, 1)]).unwrap_err();
    assert!(matches!(error, KvError::Output { expected: FloatType::Bf16, .. }), "{error}");
}

/// A prompt of several chunks keeps its budget at the end of each: what is demoted finds room.
#[test]
fn a_budget_holds_at_the_end_of_every_chunk() {
    let config = CacheConfig { max_tokens: 400, pages: 800, keep_tokens: 0, ..config() };
    let mut cache = cache(&Device::host(), &config);
    let thresholds = Thresholds::solved(Budget::Part(4.0));
    let id = cache.admit(320, &thresholds).unwrap();
    let (asked, mut most) = (config.fp16_bytes(320) / 4 / config.page_bytes, 0);
    while cache.tokens(id).unwrap() < 320 {
        chunk(&mut cache, id, 1).unwrap();
        let pages: usize = cache.stats(id).unwrap().heads.iter().map(|head| head.pages).sum();
        let bound = config.pages_at_most(
            &config.formats,
            &thresholds,
            [320, config.chunk],
            cache.tokens(id).unwrap(),
        );
        assert!(pages <= asked && pages <= bound.unwrap(), "{pages} pages of {asked}");
        most = most.max(pages);
    }
    assert!(most * 10 > asked * 8, "what may be used is used: {most} of {asked}");
}
