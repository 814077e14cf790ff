//! Likelihood of held-out text, token by token.

use std::collections::BTreeMap;
use std::path::PathBuf;

use leankv_runtime::{Compiler, Device};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::fleet::{Fleet, Prompted, Row};
use super::journal::{Journal, JournalError};
use super::memory::Memory;
use super::report::{ConfigReport, Report};
use super::score::{Figures, Prediction, Score, ScoreError};
use crate::Model;
use crate::cache::{KvChoice, Room};
use crate::error::ModelError;
use crate::finite::{BeyondF16, NonFinite};
use crate::math::log_softmax;
use crate::statistics::Statistics;

/// A run over a text.
///
/// The text is cut into chunks of `ctx` tokens. The first half of a chunk is a prompt; then the tokens of the second half come one by one,
/// and each prediction is scored. So a chunk gives `ctx / 2` scored tokens, all of them predicted from a compressed cache.
#[derive(Clone, Debug)]
pub struct TextEval {
    /// Of the model, to tell runs apart: its name and its file's length.
    pub model: String,
    /// Of the text, to tell runs apart.
    pub text: String,
    /// What every chunk starts with, if the model wants that.
    pub bos: Option<u32>,
    /// The text.
    pub tokens: Vec<u32>,
    /// Tokens of a chunk.
    pub ctx: usize,
    /// Tokens of a chunk of a prompt, which see each other in FP16 and those before as they are cached; the whole prompt where it has no more.
    pub prompt_chunk: usize,
    /// How many chunks are scored.
    pub chunks: usize,
    /// The caches, besides FP16.
    pub choices: Vec<KvChoice>,
    /// Most sequences in a step, over all caches and chunks.
    pub batch: usize,
    /// Where results are kept as they come.
    pub journal: Option<PathBuf>,
}

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The text is too short.
    #[error(
        "the text has {got} tokens, and {chunks} chunks of {ctx} need {need}: take a longer text, fewer chunks or a smaller context"
    )]
    Short {
        /// Tokens of the text.
        got: usize,
        /// What is asked for.
        need: usize,
        /// Chunks that are asked for.
        chunks: usize,
        /// Tokens of a chunk.
        ctx: usize,
    },
    /// A context that leaves nothing to score.
    #[error("a context of {0} tokens cannot be halved into a prompt and scored tokens: at least 16")]
    Context(usize),
    /// Thresholds to try that no cache can have, or no divergence to judge them by.
    #[error("{0}")]
    Grid(String),
    /// Nothing to take a mean of.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// What a journal is of.
#[derive(Serialize)]
struct Head<'a> {
    model: &'a str,
    text: &'a str,
    /// The SHA-256 of the text's tokens: another text of this name, or another beginning in it, is another run.
    tokens: String,
    bos: Option<u32>,
    ctx: usize,
    /// Not there where a prompt is one chunk, as in journals of before.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_chunk: Option<usize>,
    /// Of what is known of the model's attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<String>,
    choices: &'a [KvChoice],
}

/// One chunk's results.
#[derive(Serialize, Deserialize)]
struct Piece {
    chunk: usize,
    /// One for each cache.
    caches: Vec<Scored>,
}

/// One chunk's results with one cache.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Scored {
    score: Score,
    beyond_f16: BeyondF16,
    memory: Memory,
}

/// How often memory is looked at, in steps.
const SAMPLE: usize = 64;

impl TextEval {
    /// All caches, FP16 first.
    fn all(&self) -> Vec<KvChoice> {
        let mut all = vec![KvChoice::fp16()];
        for choice in &self.choices {
            if !all.contains(choice) {
                all.push(choice.clone());
            }
        }
        all
    }

    /// Tokens of a prompt.
    fn prompt(&self) -> usize {
        (self.ctx / 2).saturating_sub(1)
    }

    /// Tokens of a chunk of a prompt, where that is not all of it.
    fn several_chunks(&self) -> Option<usize> {
        Some(self.prompt_chunk).filter(|&chunk| chunk < self.prompt())
    }

    /// The tokens of a chunk.
    fn chunk(&self, at: usize) -> Vec<u32> {
        let own = self.ctx - usize::from(self.bos.is_some());
        self.bos.into_iter().chain(self.tokens[at * own..(at + 1) * own].iter().copied()).collect()
    }

    /// A report of the same caches with nothing scored, for tasks alone.
    pub fn unscored(&self, model: &Model) -> Report {
        let choices = self.all();
        let none = vec![Scored::default(); choices.len()];
        let configs = choices.into_iter().zip(none).map(|(choice, scored)| scored.report(choice, None));
        self.report(model, configs.collect())
    }

    fn report(&self, model: &Model, configs: Vec<ConfigReport>) -> Report {
        Report {
            model: self.model.clone(),
            text: self.text.clone(),
            ctx: self.ctx,
            prompt_chunk: self.several_chunks(),
            statistics: model.statistics().map(Statistics::fingerprint),
            layers: model.config().layers,
            kv_heads: model.config().kv_heads,
            configs,
        }
    }

    fn check(&self) -> Result<(), EvalError> {
        if self.ctx < 16 {
            return Err(EvalError::Context(self.ctx));
        }
        if self.chunks == 0 {
            return Err(ScoreError::Few(0).into());
        }
        self.choices.iter().try_for_each(KvChoice::check).map_err(ModelError::from)?;
        let need = self.chunks * (self.ctx - usize::from(self.bos.is_some()));
        if self.tokens.len() < need {
            let (got, chunks, ctx) = (self.tokens.len(), self.chunks, self.ctx);
            return Err(EvalError::Short { got, need, chunks, ctx });
        }
        Ok(())
    }
}

impl Scored {
    fn report(self, choice: KvChoice, figures: Option<Figures>) -> ConfigReport {
        let Scored { score, beyond_f16, memory } = self;
        ConfigReport { choice, figures, score, beyond_f16, memory, tasks: Vec::new() }
    }
}

/// Runs it. `progress` is told scored steps and all of them.
///
/// # Errors
/// [`EvalError`]; what was finished before is in the journal. A model, or a cache, with which some number is not finite is one: there is no score of
/// that.
pub fn evaluate(
    compiler: &Compiler,
    device: &Device,
    model: &Model,
    eval: &TextEval,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report, EvalError> {
    eval.check()?;
    let choices = eval.all();
    let mut tokens = Sha256::new();
    eval.tokens.iter().for_each(|token| tokens.update(token.to_le_bytes()));
    let tokens = tokens.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let (model_name, text) = (&eval.model, &eval.text);
    let (prompt, prompt_chunk) = (eval.prompt(), eval.several_chunks());
    let head = Head {
        model: model_name,
        text,
        tokens,
        bos: eval.bos,
        ctx: eval.ctx,
        prompt_chunk,
        statistics: model.statistics().map(Statistics::fingerprint),
        choices: &choices,
    };
    let (mut journal, kept) = Journal::open::<_, Piece>(eval.journal.as_deref(), &head)?;
    let mut pieces: BTreeMap<usize, Vec<Scored>> =
        kept.into_iter().map(|piece| (piece.chunk, piece.caches)).collect();
    pieces.retain(|&chunk, caches| chunk < eval.chunks && caches.len() == choices.len());
    let left: Vec<usize> = (0..eval.chunks).filter(|chunk| !pieces.contains_key(chunk)).collect();
    let together = (eval.batch / choices.len()).clamp(1, left.len().max(1));
    let room = Room {
        requests: together,
        tokens: eval.ctx,
        prompt,
        chunk: prompt.min(eval.prompt_chunk),
        bytes: None,
    };
    let steps = eval.ctx - 1 - prompt;
    let (mut done, all) = (pieces.len() * steps, eval.chunks * steps);
    progress(done, all);
    if !left.is_empty() {
        let mut fleet = Fleet::open(compiler, device, model, &choices, &room)?;
        for group in left.chunks(together) {
            let texts: Vec<Vec<u32>> = group.iter().map(|&chunk| eval.chunk(chunk)).collect();
            let scored = score(model, &mut fleet, &texts, prompt, &mut |chunks| {
                done += chunks;
                progress(done, all);
            })?;
            for (&chunk, caches) in group.iter().zip(scored) {
                let piece = Piece { chunk, caches };
                journal.push(&piece)?;
                pieces.insert(chunk, piece.caches);
            }
        }
    }
    let mut sums = vec![Scored::default(); choices.len()];
    // In the order of the text, whatever order they were measured in.
    for caches in pieces.values() {
        for (sum, scored) in sums.iter_mut().zip(caches) {
            sum.score.add(&scored.score);
            sum.beyond_f16 += scored.beyond_f16;
            sum.memory.add(&scored.memory);
        }
    }
    let fp16 = sums[0].score.clone();
    let config = |(choice, sum): (KvChoice, Scored)| {
        let figures = sum.score.figures(&fp16)?;
        Ok::<_, EvalError>(sum.report(choice, Some(figures)))
    };
    let configs = choices.into_iter().zip(sums).map(config).collect::<Result<_, _>>()?;
    Ok(eval.report(model, configs))
}

/// Scores some chunks together; gives the results of each, a cache after another.
fn score(
    model: &Model,
    fleet: &mut Fleet<'_>,
    texts: &[Vec<u32>],
    prompt: usize,
    stepped: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Scored>>, ModelError> {
    let (members, vocab) = (fleet.len(), model.config().vocab);
    // [chunk][member]
    let mut requests = Vec::with_capacity(texts.len());
    let mut results = Vec::with_capacity(texts.len());
    for text in texts {
        let prompted = fleet.prompt(&text[..prompt])?;
        requests.push(prompted.iter().map(|of| of.request).collect::<Vec<_>>());
        let scored = |of: &Prompted| Scored { beyond_f16: of.beyond_f16, ..Scored::default() };
        results.push(prompted.iter().map(scored).collect::<Vec<_>>());
    }
    let ctx = texts.first().map_or(0, Vec::len);
    for at in prompt..ctx - 1 {
        let row = |member: usize, chunk: usize| Row {
            member,
            request: requests[chunk][member],
            token: texts[chunk][at],
        };
        let rows: Vec<Row> =
            (0..members).flat_map(|member| (0..texts.len()).map(move |chunk| row(member, chunk))).collect();
        let (mut logits, beyond) = fleet.step(&rows)?;
        logits.par_chunks_mut(vocab).for_each(log_softmax);
        let place = |member: usize, chunk: usize| (member * texts.len() + chunk) * vocab;
        let predictions: Vec<Result<Prediction, NonFinite>> = (0..rows.len())
            .into_par_iter()
            .map(|row| {
                let (member, chunk) = (row / texts.len(), row % texts.len());
                let reference = &logits[place(0, chunk)..][..vocab];
                Prediction::of(&logits[place(member, chunk)..][..vocab], reference, texts[chunk][at + 1])
            })
            .collect();
        for (row, prediction) in predictions.into_iter().enumerate() {
            let position = u32::try_from(at).ok();
            let prediction = prediction.map_err(|error| NonFinite { row, position, ..error })?;
            let scored = &mut results[row % texts.len()][row / texts.len()];
            scored.score.push(prediction);
            scored.beyond_f16 += beyond[row];
        }
        if (at - prompt).is_multiple_of(SAMPLE) || at + 2 == ctx {
            for row in 0..rows.len() {
                let (member, chunk) = (row / texts.len(), row % texts.len());
                let stats = fleet.stats(member, requests[chunk][member])?;
                results[chunk][member].memory.add(&Memory::of(&stats, fleet.cache(member).config()));
            }
        }
        stepped(texts.len());
    }
    for member in 0..members {
        let of: Vec<_> = requests.iter().map(|of| of[member]).collect();
        fleet.free(member, &of)?;
    }
    Ok(results)
}
