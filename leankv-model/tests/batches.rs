//! What a request gets is what it gets alone, on a real model, SmolLM2-135M: `make test` fetches it.

use std::path::Path;
use std::sync::OnceLock;

use leankv_model::cache::{KvChoice, Room, open, page_bytes};
use leankv_model::eval::{TextEval, evaluate};
use leankv_model::sample::Sampling;
use leankv_model::serve::{Request, Scheduler, ServeOptions};
use leankv_model::{Model, WeightForm, fetch};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::{Compiler, Device};
use proptest::prelude::*;

fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let file = fetch::path("smollm2-135m").expect("fetch it: leankv fetch-model smollm2-135m");
        Model::load(&file, WeightForm::Quantised).unwrap()
    })
}

/// Serves requests, so many at once, at temperature 1; gives what each got.
fn serve(choice: &KvChoice, requests: &[Request], at_once: usize, bytes: Option<usize>) -> Vec<Vec<u32>> {
    let tokens = requests.iter().map(Request::tokens).max().unwrap();
    let prompt = requests.iter().map(|request| request.prompt.len()).max().unwrap();
    let room = Room { requests: at_once, tokens, prompt, chunk: 16, bytes };
    let (device, compiler) = (Device::host(), Compiler::new(KernelCache::user()));
    let cache = open(&compiler, &device, model(), choice, &room).unwrap();
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, seed: 7 };
    let options = ServeOptions { sampling, headroom: 0, ..ServeOptions::default() };
    let mut scheduler = Scheduler::new(model(), &device, cache, choice, options);
    for request in requests {
        scheduler.submit(request.clone()).unwrap();
    }
    scheduler.run().unwrap();
    let mut out = vec![Vec::new(); requests.len()];
    for done in scheduler.completions() {
        assert_eq!(done.failed, None, "request {}", done.number);
        out[done.number].clone_from(&done.tokens);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, ..ProptestConfig::default() })]

    #[test]
    fn sampled_requests_get_what_they_get_alone(
        choice in prop::sample::select(&["fp16", "K8V4/K4V2@1,0.1"][..]),
        prompts in prop::collection::vec(prop::collection::vec(0u32..49152, 1..40), 4..6),
        at_once in 3usize..6,
        tight in any::<bool>(),
    ) {
        let choice: KvChoice = choice.parse().unwrap();
        let requests: Vec<Request> =
            prompts.into_iter().map(|prompt| Request { output: 12 - prompt.len() / 8, prompt }).collect();
        // Room for all at their largest, or for a few of them: then some are given up and computed again.
        let config = model().config();
        let page = page_bytes(&choice.formats, config.head_dim).unwrap();
        let few = 12 * page * config.layers * config.kv_heads;
        let batch = serve(&choice, &requests, at_once, tight.then_some(few));
        prop_assert_eq!(batch, serve(&choice, &requests, 1, None));
    }
}

/// A small run with so many chunks in a step; gives its report as text, which tells any two numbers apart.
fn report(choices: &[KvChoice], chunks: usize, journal: Option<&Path>) -> String {
    let eval = TextEval {
        model: "smollm2-135m".to_owned(),
        text: "every 700th token".to_owned(),
        bos: None,
        tokens: (0..72).map(|at| at * 700 % 49152).collect(),
        ctx: 24,
        prompt_chunk: usize::MAX,
        chunks: 3,
        batch: chunks * (choices.len() + 1),
        choices: choices.to_vec(),
        journal: journal.map(Path::to_owned),
    };
    let compiler = Compiler::new(KernelCache::user());
    let report = evaluate(&compiler, &Device::host(), model(), &eval, &mut |_, _| ()).unwrap();
    serde_json::to_string(&report).unwrap()
}

#[test]
fn an_evaluation_gives_the_same_bits_in_batches_of_any_size_and_when_it_is_resumed() {
    for choices in [vec![], vec!["K8V4/K4V2@1,0.1".parse().unwrap()]] {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("run.jsonl");
        let expected = report(&choices, 1, None);
        assert_eq!(report(&choices, 2, Some(&journal)), expected);
        assert_eq!(report(&choices, 3, None), expected);

        // Two of three chunks are lost; one of them was computed alone, and now both are computed together.
        let text = std::fs::read_to_string(&journal).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "what it is and three chunks");
        std::fs::write(&journal, lines[..2].join("\n") + "\n").unwrap();
        assert_eq!(report(&choices, 2, Some(&journal)), expected);
    }
}
