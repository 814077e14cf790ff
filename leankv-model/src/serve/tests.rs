//! What serving promises, on a tiny model.

use std::sync::OnceLock;

use leankv_runtime::Device;
use leankv_runtime::kv::PageManager;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Failed, Request, Scheduler, ServeError, ServeOptions};
use crate::cache::{KvChoice, Room, open, thresholds};
use crate::generate::{GenerateOptions, generate};
use crate::sample::Sampling;
use crate::testing::{DIM, compiler, tiny_model, tiny_model_with};
use crate::{Model, ModelError, Place, WeightForm};

const CHUNK: usize = 32;
const MOST: usize = 160;
const CHOICES: [&str; 4] = ["fp16", "K8V4", "K8V4/K4V2@1,0.1", "K8V4/K4V2@1/3"];

fn model(form: WeightForm) -> &'static Model {
    static MODELS: [OnceLock<Model>; 2] = [OnceLock::new(), OnceLock::new()];
    MODELS[usize::from(form == WeightForm::Dense)].get_or_init(|| tiny_model(1, form))
}

/// A scheduler over so many pages; without a number, over enough for all.
fn scheduler(choice: &str, slots: usize, pages: Option<usize>, options: ServeOptions) -> Scheduler<'static> {
    scheduler_of(model(WeightForm::Quantised), choice, slots, pages, options)
}

fn scheduler_of<'m>(
    model: &'m Model,
    choice: &str,
    slots: usize,
    pages: Option<usize>,
    options: ServeOptions,
) -> Scheduler<'m> {
    let choice: KvChoice = choice.parse().unwrap();
    let page_bytes = crate::cache::page_bytes(&choice.formats, model.config().head_dim).unwrap();
    let room = Room {
        requests: slots,
        tokens: MOST,
        prompt: MOST,
        chunk: CHUNK,
        bytes: pages.map(|pages| pages * page_bytes),
    };
    let device = Device::host();
    let cache = open(compiler(), &device, model, &choice, &room).unwrap();
    Scheduler::new(model, &device, cache, &choice, options)
}

/// Pages that surely hold one request of so many tokens, whatever its thresholds leave.
fn enough(scheduler: &Scheduler<'_>, tokens: usize) -> usize {
    let config = scheduler.cache().config();
    // Another page for each low list: both tiers may end within one.
    let more = if config.formats.has_low() { config.lists() } else { 0 };
    config.pages_of(&config.formats, [tokens; 2]).unwrap() + more
}

fn request(seed: u64, prompt: usize, output: usize) -> Request {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Request { prompt: (0..prompt).map(|_| rng.random_range(0..256)).collect(), output }
}

/// What each request gets when it is the only one: in a cache with a single slot they come one after another.
fn alone(choice: &str, requests: &[Request], options: &ServeOptions) -> Vec<Vec<u32>> {
    serve(&mut scheduler(choice, 1, None, options.clone()), requests)
}

/// Serves requests; gives what each got.
fn serve(scheduler: &mut Scheduler<'_>, requests: &[Request]) -> Vec<Vec<u32>> {
    for request in requests {
        scheduler.submit(request.clone()).unwrap();
    }
    scheduler.run().unwrap();
    let mut out = vec![Vec::new(); requests.len()];
    for done in scheduler.completions() {
        assert_eq!(done.failed, None, "request {}", done.number);
        out[done.number] = done.tokens.clone();
    }
    assert_eq!(scheduler.completions().len(), requests.len());
    assert_eq!(scheduler.cache().audit().unwrap(), []);
    assert_eq!(
        scheduler.cache().manager().free_pages().unwrap(),
        scheduler.cache().manager().shape().pages,
        "all came back"
    );
    out
}

#[test]
fn prompts_are_read_twice_where_a_cache_reconstructs() {
    let plain = "K8V4@1/3:keep=0:window=4:peaks=1000";
    let twice = format!("{plain}:reconstruct");
    let requests: Vec<Request> = (0..4).map(|seed| request(seed, 100, 40)).collect();
    let options = ServeOptions::default();
    let expected = alone(&twice, &requests, &options);
    assert_eq!(serve(&mut scheduler(&twice, 4, None, options.clone()), &requests), expected);
    assert_ne!(alone(plain, &requests, &options), expected);
    // As `generate` has it.
    let model = model(WeightForm::Quantised);
    let Request { prompt, output } = &requests[0];
    let choice: KvChoice = twice.parse().unwrap();
    let room = Room { requests: 1, tokens: MOST, prompt: MOST, chunk: CHUNK, bytes: None };
    let mut cache = open(compiler(), &Device::host(), model, &choice, &room).unwrap();
    let sampling = Sampling::GREEDY;
    let options = GenerateOptions { max_tokens: *output, sampling, stop: Vec::new(), reconstruct: true };
    let limits = thresholds(&choice);
    let told = &mut |_| true;
    let one = generate(model, &Device::host(), &mut cache, &limits, prompt, &options, told).unwrap();
    assert_eq!(one.tokens, expected[0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn requests_get_what_they_get_alone_whatever_the_memory_is(
        choice in prop::sample::select(&CHOICES[..]),
        lengths in prop::collection::vec((1usize..80, 1usize..60), 2..6),
        slots in 1usize..6,
        more in 0.0f64..2.0,
        form in prop::sample::select(&[WeightForm::Quantised, WeightForm::Dense][..]),
        temperature in prop::sample::select(&[0.0f32, 1.0][..]),
        seed in 0u64..1000,
    ) {
        let requests: Vec<Request> =
            lengths.iter().enumerate().map(|(i, &(p, o))| request(seed * 10 + i as u64, p, o)).collect();
        let sampling = Sampling { temperature, top_p: 1.0, seed };
        let options = ServeOptions { sampling, ..ServeOptions::default() };
        let longest = requests.iter().map(Request::tokens).max().unwrap();
        let mut single = scheduler_of(model(form), choice, 1, None, options.clone());
        let expected = serve(&mut single, &requests);
        let least = enough(&single, longest);
        let pages = least + (least as f64 * more) as usize;
        let mut scheduler = scheduler_of(model(form), choice, slots, Some(pages), options.clone());
        prop_assert_eq!(serve(&mut scheduler, &requests), expected);
    }
}

/// Requests that begin small and grow; what each gets alone; and a scheduler in memory for little more than one of them.
fn tight(choice: &str, options: ServeOptions) -> (Scheduler<'static>, Vec<Request>, Vec<Vec<u32>>) {
    let requests: Vec<Request> = (0..5).map(|i| request(i, 10 + i as usize, 90)).collect();
    let mut single = scheduler(choice, 1, None, options.clone());
    let expected = serve(&mut single, &requests);
    let pages = enough(&single, 104);
    // Without headroom, so that as many as can begin do.
    (scheduler(choice, 5, Some(pages), ServeOptions { headroom: 0, ..options }), requests, expected)
}

#[test]
fn the_newest_is_given_up_when_pages_run_out_and_gets_the_same_tokens_all_the_same() {
    for choice in CHOICES {
        let (mut scheduler, requests, expected) = tight(choice, ServeOptions::default());
        assert_eq!(serve(&mut scheduler, &requests), expected, "{choice}");
        let report = scheduler.report();
        assert!(report.preemptions > 0, "{choice}: {report:?}");
        assert!(report.recomputed_tokens > 0 && report.peak_batch > 1, "{choice}: {report:?}");
        let of = |done: &super::Completion| done.preemptions;
        assert_eq!(scheduler.completions().iter().map(of).sum::<usize>(), report.preemptions);
        let oldest = scheduler.completions().iter().find(|done| done.number == 0).unwrap();
        assert_eq!(oldest.preemptions, 0, "the oldest is never given up");
        assert_eq!(report.completed, 5);
        assert_eq!(report.generated_tokens, 450);
    }
}

#[test]
fn what_is_said_depends_on_the_prompt_and_on_the_cache() {
    // Otherwise equal tokens would prove nothing.
    let requests: Vec<Request> = (0..4).map(|i| request(i, 70, 40)).collect();
    let mut all: Vec<Vec<u32>> =
        ["fp16", "K4V2"].into_iter().flat_map(|c| alone(c, &requests, &ServeOptions::default())).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 8);
    assert!(all.iter().all(|tokens| tokens.iter().collect::<std::collections::HashSet<_>>().len() > 5));
}

#[test]
fn drawn_tokens_depend_on_the_seed_alone() {
    let sampled = |seed| ServeOptions {
        sampling: Sampling { temperature: 1.0, top_p: 0.9, seed },
        ..ServeOptions::default()
    };
    let (mut scheduler, requests, alone) = tight("fp16", sampled(3));
    assert_eq!(serve(&mut scheduler, &requests), alone);
    assert!(scheduler.report().preemptions > 0);
    let other = &mut super::tests::scheduler("fp16", 3, None, sampled(4));
    assert_ne!(serve(other, &requests), alone);
}

#[test]
fn requests_run_side_by_side_when_they_fit() {
    let mut scheduler = scheduler("fp16", 4, None, ServeOptions::default());
    let requests: Vec<Request> = (0..6).map(|i| request(i, 40, 30)).collect();
    serve(&mut scheduler, &requests);
    let report = scheduler.report();
    assert_eq!((report.peak_batch, report.preemptions, report.recomputed_tokens), (4, 0, 0));
    assert!(report.mean_batch > 2.0, "{report:?}");
    // The first token comes from the prompt.
    assert_eq!((report.mean_batch * report.steps as f64).round() as usize, 6 * 29);
    let shares = report.model_share + report.attention_share + report.pages_share + report.other_share;
    assert!((shares - 1.0).abs() < 1e-6, "{report:?}");
    assert!(report.peak_bytes > 0 && report.peak_bytes <= report.arena_bytes);
    assert!(report.first_token.p50 <= report.latency.p50 && report.latency.p50 <= report.latency.p99);
}

#[test]
fn an_end_token_ends_a_request_early() {
    let request = request(5, 20, 30);
    let all = alone("fp16", std::slice::from_ref(&request), &ServeOptions::default()).remove(0);
    let stop = all[10];
    let first = all.iter().position(|&token| token == stop).unwrap();
    let options = ServeOptions { stop: vec![stop], ..ServeOptions::default() };
    let mut scheduler = scheduler("fp16", 1, None, options);
    assert_eq!(serve(&mut scheduler, &[request]), [all[..first].to_vec()]);
}

#[test]
fn a_request_that_can_never_fit_is_refused_with_the_bytes_it_needs() {
    let mut scheduler = scheduler("fp16", 2, Some(24), ServeOptions::default());
    let shape = *scheduler.cache().manager().shape();
    // 96 tokens are 12 pages of each of 2 lists, and one more begins the thirteenth. The last token is never cached.
    assert_eq!(shape.tokens[0], 8);
    assert_eq!(scheduler.submit(request(1, 57, 40)).unwrap(), 0);
    let Err(ServeError::TooLarge(error)) = scheduler.submit(request(2, 58, 40)) else {
        panic!("it does not fit");
    };
    assert_eq!((error.tokens, error.need, error.have), (98, 26 * shape.page_bytes, 24 * shape.page_bytes));
    assert!(error.to_string().contains(&error.need.to_string()), "{error}");
    assert_eq!(scheduler.submit(request(3, 10, 5)).unwrap(), 1, "a refused one has no number");
    scheduler.run().unwrap();
    assert_eq!(scheduler.report().completed, 2);
}

#[test]
fn a_request_that_outgrows_the_cache_ends_alone_and_the_others_go_on() {
    // Thresholds keep everything high, which is known only when it runs.
    let choice = "K8V4/K4V2@0,0";
    let mut scheduler = scheduler(choice, 3, Some(4), ServeOptions::default());
    let shape = *scheduler.cache().manager().shape();
    let room = 2 * shape.tokens[0];
    assert!(room + 20 < MOST, "{shape:?}");
    let small = request(1, 10, 20);
    scheduler.submit(small.clone()).unwrap();
    scheduler.submit(request(2, 20, room)).unwrap();
    scheduler.submit(small.clone()).unwrap();
    scheduler.run().unwrap();
    assert_eq!(scheduler.cache().audit().unwrap(), []);
    let expected = alone(choice, &[small], &ServeOptions::default()).remove(0);
    for done in scheduler.completions() {
        match done.number {
            1 => {
                let Some(Failed::TooLarge(failed)) = done.failed else { panic!("it does not fit: {done:?}") };
                assert_eq!((failed.tokens, failed.have), (20 + room, 4 * shape.page_bytes));
                assert!(failed.need > failed.have, "{failed}");
            }
            _ => assert_eq!((done.failed, &done.tokens), (None, &expected)),
        }
    }
    let report = scheduler.report();
    assert_eq!((report.completed, report.failed), (2, 1));
}

#[test]
fn what_no_request_can_be_is_said_at_once() {
    let mut scheduler = scheduler("fp16", 2, None, ServeOptions::default());
    for (prompt, output) in [(0, 5), (5, 0)] {
        let error = scheduler.submit(request(1, prompt, output)).unwrap_err();
        assert!(matches!(error, ServeError::Empty { .. }), "{error}");
    }
    let error = scheduler.submit(request(1, MOST, 1)).unwrap_err();
    assert!(matches!(error, ServeError::TooLong { tokens: 161, most: MOST }), "{error}");
    let error = scheduler.submit(Request { prompt: vec![100_000], output: 1 }).unwrap_err();
    assert!(error.to_string().contains("100000"), "{error}");
    assert!(!scheduler.tick().unwrap(), "nothing was queued");
}

#[test]
fn a_request_whose_numbers_are_not_finite_ends_alone_and_the_others_go_on() {
    for choice in ["fp16", "K8V4/K4V2@1,0.1"] {
        let requests: Vec<Request> = (0..5).map(|i| request(i, 40 + i as usize, 30)).collect();
        let healthy = alone(choice, &requests, &ServeOptions::default());
        // A token that one request is given, and one that another one generates: whoever meets one of them is lost from there on.
        let bad = [requests[0].prompt[35], healthy[1][10]];
        let model = tiny_model_with(1, &mut |name, numbers| {
            if name == "token_embd.weight" {
                bad.iter().for_each(|&token| numbers[token as usize * DIM] = f32::INFINITY);
            }
        });
        let mut scheduler = scheduler_of(&model, choice, 3, None, ServeOptions::default());
        for request in &requests {
            scheduler.submit(request.clone()).unwrap();
        }
        scheduler.run().unwrap();
        assert_eq!(scheduler.cache().audit().unwrap(), []);
        assert_eq!(scheduler.completions().len(), requests.len());
        let (mut lost, mut whole) = (0, 0);
        for done in scheduler.completions() {
            let (prompt, output) = (&requests[done.number].prompt, &healthy[done.number]);
            // The last token is never given to the model.
            let fed = prompt.iter().chain(&output[..output.len() - 1]);
            let met = fed.enumerate().find(|(_, token)| bad.contains(token)).map(|(at, _)| at);
            match (met, done.failed) {
                (None, None) => {
                    assert_eq!(&done.tokens, output);
                    whole += 1;
                }
                (Some(at), Some(Failed::NonFinite(error))) => {
                    assert_eq!((error.place, error.position), (Place::Embedding, Some(at as u32)));
                    let there = (at + 1).saturating_sub(prompt.len());
                    assert_eq!(done.tokens, output[..there]);
                    lost += 1;
                }
                (met, failed) => panic!("{choice}, {}: {met:?} {failed:?}", done.number),
            }
        }
        assert!(lost >= 2 && whole >= 1, "{choice}: {lost} lost, {whole} whole");
        assert_eq!(scheduler.report().failed, lost);
    }
}

#[test]
fn logits_that_are_not_finite_end_every_request_with_an_error() {
    let model = tiny_model_with(1, &mut |name, numbers| {
        if name == "output.weight" {
            numbers[9] = f32::INFINITY;
        }
    });
    for temperature in [0.0, 1.0] {
        let sampling = Sampling { temperature, ..Sampling::GREEDY };
        let options = ServeOptions { sampling, ..ServeOptions::default() };
        let mut scheduler = scheduler_of(&model, "fp16", 2, None, options);
        for i in 0..3 {
            scheduler.submit(request(i, 20, 5)).unwrap();
        }
        scheduler.run().unwrap();
        for done in scheduler.completions() {
            let Some(Failed::NonFinite(error)) = done.failed else { panic!("{done:?}") };
            assert_eq!((error.place, error.position), (Place::Logits, Some(19)));
            assert!(done.tokens.is_empty());
        }
        assert_eq!(scheduler.report().failed, 3);
    }
    let sampling = Sampling { temperature: f32::NAN, ..Sampling::GREEDY };
    let mut scheduler = scheduler("fp16", 1, None, ServeOptions { sampling, ..ServeOptions::default() });
    let error = scheduler.submit(request(1, 5, 5)).unwrap_err();
    assert!(matches!(error, ServeError::Model(ModelError::Sampling(_))), "{error}");
}
