//! `leankv run`: a model continues a prompt over a compressed cache.

use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use leankv_kernels::policy::PolicySpec;
use leankv_model::WeightForm;
use leankv_model::cache::{KvChoice, Limit, Room, open, thresholds};
use leankv_model::eval::Memory;
use leankv_model::generate::{GenerateOptions, Generation, generate};
use leankv_model::sample::Sampling;
use leankv_model::tokenizer::TokenizerError;
use leankv_runtime::kv::CacheConfig;
use leankv_runtime::{Compiler, Device};
use serde_json::json;

use crate::args;
use crate::failure::{Failure, at_path};
use crate::interrupt;
use crate::language::{self, Loaded, failure, load, warn_beyond_f16};

/// Runs the command.
pub(crate) fn run(args: &args::Run, compiler: &Compiler) -> Result<(), Failure> {
    let [choice] = &args.kv[..] else {
        return Err(Failure::usage("`leankv run` takes one cache").help(
            "`leankv eval --kv` compares several; `leankv serve-bench --kv` serves requests over each of several",
        ));
    };
    language::check_choice(choice)?;
    let settings = language::settings(&args.settings)?;
    let text = prompt(args)?;
    let loaded = load(&args.model, WeightForm::Quantised, &args.settings)?;
    let tokens = encode(&loaded, &text, args.raw)?;
    let context = loaded.model.config().context;
    if tokens.len() >= context {
        let tokens = tokens.len();
        return Err(Failure::usage(format_args!(
            "the prompt has {tokens} tokens, and the model's context is {context}"
        )));
    }
    let choice = language::choice_for(choice, &settings, &loaded.name)?;
    language::note_statistics(&loaded, [&choice]);
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampling: Sampling { temperature: args.temperature, top_p: args.top_p, seed: args.seed },
        stop: loaded.tokenizer.eos().to_vec(),
        reconstruct: choice.reconstruct,
    };
    interrupt::watch();
    let mut stream = loaded.tokenizer.stream();
    let mut shown = String::new();
    let mut out = std::io::stdout();
    let mut put = |text: &str| {
        shown.push_str(text);
        // A closed pipe ends the process; nothing else is wrong with standard output.
        if !args.json && (out.write_all(text.as_bytes()).is_err() || out.flush().is_err()) {
            return false;
        }
        true
    };
    let (generation, config) =
        continued(&loaded, compiler, &choice, &tokens, args.chunk, &options, &mut |token| {
            let put = stream.push(token).is_none_or(|text| put(&text));
            put && !interrupt::interrupted()
        })?;
    put(&stream.finish());
    let took = Took::new(&choice, &generation, &config, tokens.len());
    if args.json {
        println!("{:#}", took.to_json(&choice, &shown, &generation));
    } else {
        println!();
        eprint!("\n{}", took.text(&choice, &generation));
    }
    Ok(())
}

/// Continues a prompt over a cache that has just the room for it. Gives the cache's numbers too.
pub(crate) fn continued(
    loaded: &Loaded,
    compiler: &Compiler,
    choice: &KvChoice,
    prompt: &[u32],
    chunk: usize,
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(u32) -> bool,
) -> Result<(Generation, CacheConfig), Failure> {
    let (model, device) = (&loaded.model, Device::host());
    let room = Room {
        requests: 1,
        tokens: prompt.len().saturating_add(options.max_tokens).min(model.config().context),
        prompt: prompt.len(),
        chunk: chunk.min(prompt.len()),
        bytes: None,
    };
    let mut cache = open(compiler, &device, model, choice, &room).map_err(Failure::usage)?;
    let thresholds = thresholds(choice);
    let generation =
        generate(model, &device, &mut cache, &thresholds, prompt, options, on_token).map_err(failure)?;
    warn_beyond_f16(choice, &generation.beyond_f16);
    Ok((generation, cache.config().clone()))
}

/// The prompt of the command line, a file or standard input.
fn prompt(args: &args::Run) -> Result<String, Failure> {
    let text = match (&args.prompt, &args.file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => std::fs::read_to_string(path).map_err(at_path(path))?,
        (None, None) => {
            if std::io::stdin().is_terminal() {
                return Err(Failure::usage("there is no prompt")
                    .help("give one with --prompt, as a file with -f, or on standard input"));
            }
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(at_path(Path::new("standard input")))?;
            text
        }
    };
    match text.trim().is_empty() {
        true => Err(Failure::usage("the prompt is empty")),
        false => Ok(text),
    }
}

/// The tokens of a prompt: a message in the model's chat format, or text to continue.
fn encode(loaded: &Loaded, text: &str, raw: bool) -> Result<Vec<u32>, Failure> {
    let tokenizer = &loaded.tokenizer;
    let tokens = if raw { tokenizer.encode(text, true) } else { tokenizer.encode_chat(text.trim()) };
    let tokens = tokens.map_err(|error| match error {
        TokenizerError::NoChatTemplate | TokenizerError::UnknownChatTemplate => {
            Failure::usage(error).help("`--raw` continues the text as it is")
        }
        _ => Failure::machine(error),
    })?;
    match tokens.is_empty() {
        true => Err(Failure::usage("the prompt has no tokens")),
        false => Ok(tokens),
    }
}

/// What a text took.
pub(crate) struct Took {
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Tokens of the prompt a second.
    pub(crate) prompt_rate: f64,
    /// Decode steps a second.
    pub(crate) decode_rate: f64,
    /// Tokens in the cache at the end, kept or not.
    pub(crate) cached: usize,
    /// True bytes: whole pages and rows of the page table.
    pub(crate) bytes: usize,
    /// What FP16 takes without any bookkeeping.
    pub(crate) fp16_bytes: usize,
    /// Bytes of pages, and those that a budget asks for.
    pub(crate) page_bytes: usize,
    pub(crate) asked_bytes: Option<usize>,
    /// Shares of the tokens that are high, low and pruned.
    pub(crate) kept: [f64; 3],
}

impl Took {
    pub(crate) fn new(
        choice: &KvChoice,
        generation: &Generation,
        config: &CacheConfig,
        prompt: usize,
    ) -> Took {
        let stats = &generation.stats;
        let memory = Memory::of(stats, config);
        let share = |of: fn(&leankv_model::eval::HeadMemory) -> f64| {
            memory.heads.iter().map(of).sum::<f64>() / memory.tokens.max(1.0)
        };
        let rate = |n: usize, time: std::time::Duration| n as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE);
        Took {
            prompt,
            prompt_rate: rate(prompt, generation.prompt_time),
            decode_rate: rate(generation.steps, generation.decode_time),
            cached: stats.tokens,
            bytes: stats.bytes,
            fp16_bytes: stats.fp16_bytes,
            page_bytes: stats.page_bytes,
            asked_bytes: stats.asked_bytes.or(match (choice.limit, choice.policy.stock()) {
                // Its window is what the part pays for, and the cache knows no budget.
                (Limit::Part(part), Some(PolicySpec::SinkWindow)) => {
                    Some((stats.fp16_bytes as f64 / f64::from(part)) as usize)
                }
                _ => None,
            }),
            kept: [share(|h| h.high), share(|h| h.low), share(|h| h.pruned)],
        }
    }

    /// How many times fewer bytes than FP16.
    pub(crate) fn compression(&self) -> f64 {
        self.fp16_bytes as f64 / self.bytes.max(1) as f64
    }

    fn text(&self, choice: &KvChoice, generation: &Generation) -> String {
        let [high, low, pruned] = self.kept.map(|share| share * 100.0);
        format!(
            "prompt: {} tokens in {:.2} s, {:.1} tokens/s\n\
             decode: {} steps in {:.2} s, {:.1} tokens/s; ended: {}\n\
             cache {choice}: {} bytes for {} tokens, whole pages and page table; FP16: {} bytes, {:.2} times as many\n\
             tokens: {high:.1} % high, {low:.1} % low, {pruned:.1} % pruned\n{}",
            self.prompt,
            generation.prompt_time.as_secs_f64(),
            self.prompt_rate,
            generation.steps,
            generation.decode_time.as_secs_f64(),
            self.decode_rate,
            generation.end.name(),
            self.bytes,
            self.cached,
            self.fp16_bytes,
            self.compression(),
            self.budget(choice),
        )
    }

    /// A line about a budget that was not kept to, and why.
    fn budget(&self, choice: &KvChoice) -> String {
        match self.asked_bytes {
            Some(asked) if self.page_bytes > asked => format!(
                "note: the pages take {} bytes, and the budget asks for {asked}: {}\n",
                self.page_bytes,
                choice.floor()
            ),
            _ => String::new(),
        }
    }

    pub(crate) fn to_json(
        &self,
        choice: &KvChoice,
        text: &str,
        generation: &Generation,
    ) -> serde_json::Value {
        json!({
            "kv": choice.to_string(),
            "text": text,
            "tokens": generation.tokens,
            "end": generation.end.name(),
            "prompt_tokens": self.prompt,
            "prompt_seconds": generation.prompt_time.as_secs_f64(),
            "prompt_tokens_per_second": self.prompt_rate,
            "decode_steps": generation.steps,
            "decode_seconds": generation.decode_time.as_secs_f64(),
            "decode_tokens_per_second": self.decode_rate,
            "cached_tokens": self.cached,
            "bytes": self.bytes,
            "fp16_bytes": self.fp16_bytes,
            "page_bytes": self.page_bytes,
            "asked_bytes": self.asked_bytes,
            "compression": self.compression(),
            "high": self.kept[0],
            "low": self.kept[1],
            "pruned": self.kept[2],
            "beyond_f16": generation.beyond_f16,
        })
    }
}
