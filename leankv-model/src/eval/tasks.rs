//! Questions with one right answer, put to every cache.

use leankv_runtime::kv::RequestId;
use leankv_runtime::{Compiler, Device};
use serde::{Deserialize, Serialize};

use super::fleet::{Fleet, Prompted, Row};
use super::memory::Memory;
use crate::Model;
use crate::cache::{KvChoice, Room};
use crate::error::ModelError;
use crate::math::argmax;

/// A question as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// The right answer.
    pub answer: String,
}

/// A kind of question.
pub struct Questions<'a> {
    /// Its name.
    pub name: &'a str,
    /// The questions.
    pub questions: &'a [Question],
    /// Tokens of a chunk of a prompt; the whole of it where it has no more.
    pub prompt_chunk: usize,
    /// Most tokens of an answer.
    pub answer_tokens: usize,
    /// Tokens that end an answer.
    pub ends: &'a [u32],
    /// Text of tokens.
    pub decode: &'a dyn Fn(&[u32]) -> String,
    /// Whether nothing that could follow changes the verdict.
    pub complete: &'a dyn Fn(&str) -> bool,
    /// Whether a text answers rightly.
    pub right: &'a dyn Fn(&str, &str) -> bool,
}

/// How one cache did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    /// The kind of question.
    pub task: String,
    /// Questions.
    pub asked: usize,
    /// Right answers.
    pub right: usize,
    /// Bytes at the end of the answers.
    pub memory: Memory,
}

/// Asks every question of every cache, with the likeliest token at each step, `together` questions at a time. Gives a score for each choice.
///
/// # Errors
/// What model and caches say.
pub fn run_tasks(
    compiler: &Compiler,
    device: &Device,
    model: &Model,
    choices: &[KvChoice],
    task: &Questions<'_>,
    together: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<TaskScore>, ModelError> {
    let longest = task.questions.iter().map(|q| q.prompt.len()).max().unwrap_or(0);
    let tokens = longest + task.answer_tokens;
    if tokens > model.config().context {
        return Err(ModelError::Context { position: tokens - 1, context: model.config().context });
    }
    let together = together.clamp(1, task.questions.len().max(1));
    let room = Room {
        requests: together,
        tokens,
        prompt: longest,
        chunk: longest.clamp(1, task.prompt_chunk),
        bytes: None,
    };
    let mut fleet = Fleet::open(compiler, device, model, choices, &room)?;
    let score = || TaskScore { task: task.name.to_owned(), asked: 0, right: 0, memory: Memory::default() };
    let mut scores: Vec<TaskScore> = choices.iter().map(|_| score()).collect();
    for (at, group) in task.questions.chunks(together).enumerate() {
        progress(at * together, task.questions.len());
        ask(model, &mut fleet, task, group, &mut scores)?;
    }
    progress(task.questions.len(), task.questions.len());
    Ok(scores)
}

/// One answer in the making.
struct Answer {
    member: usize,
    question: usize,
    request: RequestId,
    tokens: Vec<u32>,
}

fn ask(
    model: &Model,
    fleet: &mut Fleet<'_>,
    task: &Questions<'_>,
    group: &[Question],
    scores: &mut [TaskScore],
) -> Result<(), ModelError> {
    let mut open = Vec::new();
    for (question, asked) in group.iter().enumerate() {
        for (member, Prompted { request, last, .. }) in fleet.prompt(&asked.prompt)?.into_iter().enumerate() {
            let first = argmax(&model.logits(&last)?) as u32;
            open.push(Answer { member, question, request, tokens: vec![first] });
        }
    }
    open.sort_by_key(|answer| (answer.member, answer.question));
    let vocab = model.config().vocab;
    while !open.is_empty() {
        let mut going = Vec::with_capacity(open.len());
        for answer in open {
            if !is_done(task, &answer.tokens) {
                going.push(answer);
                continue;
            }
            let score = &mut scores[answer.member];
            let stats = fleet.stats(answer.member, answer.request)?;
            score.memory.add(&Memory::of(&stats, fleet.cache(answer.member).config()));
            score.asked += 1;
            score.right +=
                usize::from((task.right)(&text(task, &answer.tokens), &group[answer.question].answer));
            fleet.free(answer.member, &[answer.request])?;
        }
        open = going;
        if open.is_empty() {
            break;
        }
        let row =
            |a: &Answer| Row { member: a.member, request: a.request, token: a.tokens[a.tokens.len() - 1] };
        let rows: Vec<Row> = open.iter().map(row).collect();
        let (logits, _) = fleet.step(&rows)?;
        for (answer, logits) in open.iter_mut().zip(logits.chunks_exact(vocab)) {
            answer.tokens.push(argmax(logits) as u32);
        }
    }
    Ok(())
}

/// The answer's text, without the token that ended it.
fn text(task: &Questions<'_>, tokens: &[u32]) -> String {
    let end = tokens.iter().position(|t| task.ends.contains(t)).unwrap_or(tokens.len());
    (task.decode)(&tokens[..end])
}

fn is_done(task: &Questions<'_>, tokens: &[u32]) -> bool {
    let last = tokens.last().is_some_and(|t| task.ends.contains(t));
    last || tokens.len() >= task.answer_tokens || (task.complete)(&text(task, tokens))
}
