//! Likelihood of held-out text, token by token.

use std::path::PathBuf;

use leankv_runtime::{Compiler, Device};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::fleet::{Fleet, Row};
use super::journal::{Journal, JournalError};
use super::memory::Memory;
use super::report::{ConfigReport, Report};
use super::score::Score;
use crate::Model;
use crate::cache::{KvChoice, Room};
use crate::error::ModelError;
use crate::math::log_softmax;

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
    bos: Option<u32>,
    ctx: usize,
    choices: &'a [KvChoice],
}

/// One chunk's results, a score and a memory for each cache.
#[derive(Serialize, Deserialize)]
struct Piece {
    chunk: usize,
    scores: Vec<Score>,
    memory: Vec<Memory>,
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

    /// The tokens of a chunk.
    fn chunk(&self, at: usize) -> Vec<u32> {
        let own = self.ctx - usize::from(self.bos.is_some());
        self.bos.into_iter().chain(self.tokens[at * own..(at + 1) * own].iter().copied()).collect()
    }

    fn check(&self) -> Result<(), EvalError> {
        if self.ctx < 16 {
            return Err(EvalError::Context(self.ctx));
        }
        let need = self.chunks * (self.ctx - usize::from(self.bos.is_some()));
        if self.tokens.len() < need {
            let (got, chunks, ctx) = (self.tokens.len(), self.chunks, self.ctx);
            return Err(EvalError::Short { got, need, chunks, ctx });
        }
        Ok(())
    }
}

/// Runs it. `progress` is told scored steps and all of them.
///
/// # Errors
/// [`EvalError`]; what was finished before is in the journal.
pub fn evaluate(
    compiler: &Compiler,
    device: &Device,
    model: &Model,
    eval: &TextEval,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report, EvalError> {
    eval.check()?;
    let choices = eval.all();
    let head = Head { model: &eval.model, text: &eval.text, bos: eval.bos, ctx: eval.ctx, choices: &choices };
    let (mut journal, mut pieces) = Journal::open::<_, Piece>(eval.journal.as_deref(), &head)?;
    pieces.retain(|piece| piece.chunk < eval.chunks);
    let left: Vec<usize> =
        (0..eval.chunks).filter(|&chunk| pieces.iter().all(|piece| piece.chunk != chunk)).collect();
    let together = (eval.batch / choices.len()).clamp(1, left.len().max(1));
    let prompt = eval.ctx / 2 - 1;
    let room = Room { requests: together, tokens: eval.ctx, prompt, chunk: prompt, bytes: None };
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
            for (&chunk, (scores, memory)) in group.iter().zip(scored) {
                let piece = Piece { chunk, scores, memory };
                journal.push(&piece)?;
                pieces.push(piece);
            }
        }
    }
    // In one order, in which sums are rounded in one way.
    pieces.sort_by_key(|piece| piece.chunk);
    Ok(report(eval, model, &choices, &pieces))
}

/// Scores some chunks together; gives scores and memory of each.
fn score(
    model: &Model,
    fleet: &mut Fleet<'_>,
    texts: &[Vec<u32>],
    prompt: usize,
    stepped: &mut dyn FnMut(usize),
) -> Result<Vec<(Vec<Score>, Vec<Memory>)>, ModelError> {
    let (members, vocab) = (fleet.len(), model.config().vocab);
    // [chunk][member]
    let mut requests = Vec::with_capacity(texts.len());
    for text in texts {
        requests.push(fleet.prompt(&text[..prompt])?.0);
    }
    let mut results = vec![(vec![Score::default(); members], vec![Memory::default(); members]); texts.len()];
    let ctx = texts.first().map_or(0, Vec::len);
    for at in prompt..ctx - 1 {
        let row = |member: usize, chunk: usize| Row {
            member,
            request: requests[chunk][member],
            token: texts[chunk][at],
        };
        let rows: Vec<Row> =
            (0..members).flat_map(|member| (0..texts.len()).map(move |chunk| row(member, chunk))).collect();
        let mut logits = fleet.step(&rows)?;
        logits.par_chunks_mut(vocab).for_each(log_softmax);
        let place = |member: usize, chunk: usize| (member * texts.len() + chunk) * vocab;
        let scores: Vec<Score> = (0..rows.len())
            .into_par_iter()
            .map(|row| {
                let (member, chunk) = (row / texts.len(), row % texts.len());
                let reference = &logits[place(0, chunk)..][..vocab];
                Score::of(&logits[place(member, chunk)..][..vocab], reference, texts[chunk][at + 1])
            })
            .collect();
        for (row, score) in scores.iter().enumerate() {
            results[row % texts.len()].0[row / texts.len()].add(score);
        }
        if (at - prompt).is_multiple_of(SAMPLE) || at + 2 == ctx {
            for row in 0..rows.len() {
                let (member, chunk) = (row / texts.len(), row % texts.len());
                let stats = fleet.stats(member, requests[chunk][member])?;
                results[chunk].1[member].add(&Memory::of(&stats, fleet.cache(member).config()));
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

fn report(eval: &TextEval, model: &Model, choices: &[KvChoice], pieces: &[Piece]) -> Report {
    let config = |at: usize| {
        let (mut score, mut memory) = (Score::default(), Memory::default());
        for piece in pieces {
            score.add(&piece.scores[at]);
            memory.add(&piece.memory[at]);
        }
        ConfigReport { choice: choices[at].clone(), score, memory, tasks: Vec::new() }
    };
    Report {
        model: eval.model.clone(),
        text: eval.text.clone(),
        ctx: eval.ctx,
        layers: model.config().layers,
        kv_heads: model.config().kv_heads,
        configs: (0..choices.len()).map(config).collect(),
    }
}
