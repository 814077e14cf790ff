//! What is measured, in which order, and what is taken of it.

use std::time::Instant;

use leankv_runtime::{Compiler, Device};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::sensitivity::{falling, losses, measured, with};
use super::space::Widths;
use super::{
    Added, Effort, Found, FrontPoint, Measured, Part, Point, Space, Stage, Trial, Tune, TuneError, TuneText,
    Tuned,
};
use crate::Model;
use crate::cache::KvChoice;
use crate::eval::{Estimate, EvalError, Journal, ScoreError, TextEval, evaluate};

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being measured.
    pub stage: Stage,
    /// Scored tokens of this stage that are done, over all caches.
    pub done: usize,
    /// All of this stage.
    pub all: usize,
}

/// What a journal is of.
#[derive(Serialize)]
struct Head<'a> {
    model: &'a str,
    on: Vec<String>,
    held: Vec<String>,
    /// SHA-256 of all texts' tokens.
    tokens: String,
    statistics: Option<String>,
    space: &'a Space,
    effort: Effort,
}

/// Most caches that take a step together.
const TOGETHER: usize = 40;

/// Tokens of a chunk, and chunks of each text.
type Extent = (usize, usize);

impl Effort {
    /// How much text a stage gets.
    fn extent(self, stage: Stage) -> Extent {
        match (self, stage) {
            (Effort::Quick, Stage::Sensitivity) => (256, 1),
            (Effort::Full, Stage::Sensitivity | Stage::Around) => (512, 1),
            (Effort::Quick, Stage::Around) => (512, 1),
            (_, Stage::Parts) | (Effort::Quick, Stage::Held) => (1024, 1),
            (Effort::Full, Stage::Held) => (1024, 2),
        }
    }
}

impl Tune {
    /// How much text a stage gets with a model.
    fn extent(&self, model: &Model, stage: Stage) -> Extent {
        let (ctx, chunks) = self.effort.extent(stage);
        (ctx.min(model.config().context).min(self.most_ctx), chunks)
    }

    /// The texts of a stage.
    fn texts(&self, stage: Stage) -> &[TuneText] {
        if stage == Stage::Held { &self.held } else { &self.on }
    }

    /// Tokens that are taken of each text that choices are made on, and of each other one.
    #[must_use]
    pub fn tokens(&self, model: &Model) -> [usize; 2] {
        let of = |stage| {
            let (ctx, chunks) = self.extent(model, stage);
            ctx * chunks
        };
        [of(Stage::Sensitivity) + of(Stage::Parts), of(Stage::Held)]
    }

    /// Stages with the number of their caches and of scored tokens: what a run will measure.
    #[must_use]
    pub fn plan(&self, model: &Model) -> Vec<(Stage, usize, usize)> {
        let sides = 2 * model.config().layers;
        let singles = 1 + sides * measured(&self.space, self.effort == Effort::Quick).len();
        let around = if self.effort == Effort::Full { 1 + 2 * sides } else { 0 };
        let parts = self.parts.len() * (LOWS + 1);
        let counts = [
            (Stage::Sensitivity, singles),
            (Stage::Around, around),
            (Stage::Parts, parts),
            (Stage::Held, 2 * self.parts.len()),
        ];
        let tokens = |(stage, caches): (Stage, usize)| {
            let (ctx, chunks) = self.extent(model, stage);
            (stage, caches, caches * ctx / 2 * chunks * self.texts(stage).len())
        };
        counts.into_iter().filter(|&(_, caches)| caches > 0).map(tokens).collect()
    }

    /// The same chunks of every text, from token `first` on, for these caches.
    fn eval(&self, texts: &[TuneText], first: usize, (ctx, chunks): Extent, caches: &[KvChoice]) -> TextEval {
        let each = chunks * (ctx - usize::from(self.bos.is_some()));
        TextEval {
            model: self.model.clone(),
            text: String::new(),
            bos: self.bos,
            tokens: texts.iter().flat_map(|text| &text.tokens[first..first + each]).copied().collect(),
            ctx,
            prompt_chunk: usize::MAX,
            chunks: chunks * texts.len(),
            choices: caches.to_vec(),
            batch: caches.len() + 1,
            journal: None,
        }
    }

    /// Whether there is something to choose, and text enough.
    ///
    /// # Errors
    /// [`TuneError::Space`].
    pub fn check(&self, model: &Model) -> Result<(), TuneError> {
        self.space.check()?;
        if let Some(part) = self.parts.iter().find(|part| !(part.is_finite() && **part > 1.0)) {
            return Err(TuneError::Space(format!("a part of 1/{part}: it is of a finite number above 1")));
        }
        for (texts, need) in [&self.on, &self.held].into_iter().zip(self.tokens(model)) {
            if texts.is_empty() {
                return Err(TuneError::Space("no text to measure on".to_owned()));
            }
            if let Some(short) = texts.iter().find(|text| text.tokens.len() < need) {
                let (name, got) = (&short.name, short.tokens.len());
                let why = format!(
                    "{name} has {got} tokens, and {need} are needed: take a longer text, or skip less of it"
                );
                return Err(TuneError::Space(why));
            }
        }
        Ok(())
    }
}

/// Scored tokens a second of a short trial: what a run takes follows from that and [`Tune::plan`].
///
/// # Errors
/// As [`tune`].
pub fn speed(compiler: &Compiler, device: &Device, model: &Model, tune: &Tune) -> Result<f64, TuneError> {
    tune.check(model)?;
    let space = &tune.space;
    let layers = model.config().layers;
    let base = vec![space.widest(); layers];
    let mut choices = vec![space.whole(space.formats(&base)?)];
    for layer in 0..layers.min(TOGETHER - 1) {
        choices.push(space.whole(space.formats(&with(&base, layer, Part::Keys, 0))?));
    }
    let ctx = 64.min(tune.most_ctx).min(model.config().context);
    let eval = tune.eval(&tune.on[..1], 0, (ctx, 1), &choices);
    let began = Instant::now();
    evaluate(compiler, device, model, &eval, &mut |_, _| {})?;
    Ok((choices.len() * ctx / 2) as f64 / began.elapsed().as_secs_f64())
}

/// Low tiers that are tried for each part.
const LOWS: usize = 5;

/// A run.
struct Run<'a> {
    compiler: &'a Compiler,
    device: &'a Device,
    model: &'a Model,
    tune: &'a Tune,
    progress: &'a mut dyn FnMut(Progress),
    journal: Journal,
    /// Of an earlier run.
    kept: Vec<Trial>,
    trials: Vec<Trial>,
    began: Instant,
    cut_short: bool,
}

/// Finds formats for every layer.
///
/// # Errors
/// [`TuneError`]; what was measured before is in the journal.
pub fn tune(
    compiler: &Compiler,
    device: &Device,
    model: &Model,
    tune: &Tune,
    progress: &mut dyn FnMut(Progress),
) -> Result<Found, TuneError> {
    tune.check(model)?;
    let mut tokens = Sha256::new();
    for text in tune.on.iter().chain(&tune.held) {
        text.tokens.iter().for_each(|token| tokens.update(token.to_le_bytes()));
    }
    let tokens = tokens.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let statistics = model.statistics().map(crate::statistics::Statistics::fingerprint);
    let names = |texts: &[TuneText]| texts.iter().map(|text| text.name.clone()).collect::<Vec<_>>();
    let head = Head {
        model: &tune.model,
        on: names(&tune.on),
        held: names(&tune.held),
        tokens,
        statistics,
        space: &tune.space,
        effort: tune.effort,
    };
    let (journal, kept) = Journal::open(tune.trials.as_deref(), &head)?;
    let began = Instant::now();
    let mut run = Run {
        compiler,
        device,
        model,
        tune,
        progress,
        journal,
        kept,
        trials: Vec::new(),
        began,
        cut_short: false,
    };
    run.run()
}

impl Run<'_> {
    fn run(&mut self) -> Result<Found, TuneError> {
        let (space, layers, d) = (&self.tune.space, self.model.config().layers, self.model.config().head_dim);
        let added = self.sensitivities()?;
        let mut losses = losses(space, layers, d, &added)?;
        let mut front = space.front(&losses, d)?;
        if self.tune.effort == Effort::Full && !self.late() {
            // Losses do not quite add up, so they are measured again around the middle of the front.
            let points = spread(&front, 3);
            if let Some((_, middle)) = points.get(points.len() / 2) {
                self.around(middle, &mut losses)?;
                front = space.front(&losses, d)?;
            }
        }
        let candidates = self.parts(&front)?;
        let points = self.held(candidates)?;
        let Tune { on, held, effort, max_kl, .. } = self.tune;
        let names = |texts: &[TuneText]| texts.iter().map(|text| text.name.clone()).collect();
        let (texts, held) = (names(on), names(held));
        let tuned = Tuned { texts, held, effort: *effort, max_kl: *max_kl, points };
        Ok(Found { tuned, added, trials: std::mem::take(&mut self.trials), cut_short: self.cut_short })
    }

    /// Whether no further round begins.
    fn late(&mut self) -> bool {
        let late = self.tune.time.is_some_and(|time| self.began.elapsed() >= time);
        self.cut_short |= late;
        late
    }

    /// What single sides in codes of another width add, where the rest has the widths of `base`.
    fn added(&mut self, stage: Stage, base: &[Widths], sides: &[Side]) -> Result<Vec<f64>, TuneError> {
        let space = &self.tune.space;
        let mut caches = vec![space.whole(space.formats(base)?)];
        for &(layer, part, width) in sides {
            caches.push(space.whole(space.formats(&with(base, layer, part, width))?));
        }
        let found = self.measure(stage, &caches)?;
        Ok(found[1..].iter().map(|measured| measured.kl.mean - found[0].kl.mean).collect())
    }

    /// What every side adds by itself, against the widest codes.
    fn sensitivities(&mut self) -> Result<Vec<Added>, TuneError> {
        let (space, layers) = (&self.tune.space, self.model.config().layers);
        let widths = measured(space, self.tune.effort == Effort::Quick);
        let sides = sides_of(layers, |_, _| widths.clone());
        let base = vec![space.widest(); layers];
        let kls = self.added(Stage::Sensitivity, &base, &sides)?;
        let one =
            |((layer, part, width), kl): (Side, f64)| Added { layer, part, bits: space.widths[width], kl };
        Ok(sides.into_iter().zip(kls).map(one).collect())
    }

    /// Corrects losses by what the next widths on either side add around a point.
    fn around(&mut self, base: &[Widths], losses: &mut [[Vec<f64>; 2]]) -> Result<(), TuneError> {
        let last = self.tune.space.widths.len() - 1;
        let next = |layer: usize, part: Part| {
            let width = base[layer][part as usize];
            [width.checked_sub(1), Some(width + 1).filter(|&wider| wider <= last)]
                .into_iter()
                .flatten()
                .collect()
        };
        let sides = sides_of(base.len(), next);
        let kls = self.added(Stage::Around, base, &sides)?;
        for ((layer, part, width), kl) in sides.into_iter().zip(kls) {
            let of_side = &mut losses[layer][part as usize];
            of_side[width] = (of_side[base[layer][part as usize]] + kl).max(0.0);
        }
        losses.iter_mut().flatten().for_each(|of_side| falling(of_side));
        Ok(())
    }

    /// For every part the best low tier of the front, or the default formats where these are better.
    fn parts(&mut self, front: &[(FrontPoint, Vec<Widths>)]) -> Result<Vec<Candidate>, TuneError> {
        let space = &self.tune.space;
        let (d, layers) = (self.model.config().head_dim, self.model.config().layers);
        let costs = space.low_costs(d, layers)?;
        let near: Vec<_> = front.iter().filter(|(point, _)| costs.contains(&point.cost)).cloned().collect();
        let lows = spread(if near.is_empty() { front } else { &near }, LOWS);
        let mut caches = Vec::new();
        for &part in &self.tune.parts {
            caches.push(KvChoice::default_within(part));
            for (_, widths) in &lows {
                caches.push(space.within(space.formats(widths)?, part));
            }
        }
        let found = self.measure(Stage::Parts, &caches)?;
        let each = lows.len() + 1;
        let best = |(caches, found): (&[KvChoice], &[Measured])| {
            let all = caches.iter().zip(found);
            // Of equals the first, the default.
            let best = all.min_by(|a, b| a.1.kl.mean.total_cmp(&b.1.kl.mean));
            let (cache, on) = best.unwrap_or((&caches[0], &found[0]));
            Candidate { cache: cache.clone(), on: *on, default: caches[0].clone(), default_on: found[0] }
        };
        Ok(caches.chunks(each).zip(found.chunks(each)).map(best).collect())
    }

    /// What was found and the default formats on the texts that no choice was made on. What does not [beat](Point::is_better) these there too gives way to them.
    fn held(&mut self, candidates: Vec<Candidate>) -> Result<Vec<Point>, TuneError> {
        let both = |candidate: &Candidate| [candidate.cache.clone(), candidate.default.clone()];
        let caches: Vec<KvChoice> = candidates.iter().flat_map(both).collect();
        let found = self.measure(Stage::Held, &caches)?;
        let point = |(candidate, found): (Candidate, &[Measured])| {
            let Candidate { cache, on, default, default_on } = candidate;
            let point = Point { cache, on, held: found[0], default, default_held: found[1] };
            match point.is_better() {
                true => point,
                false => Point { cache: point.default.clone(), on: default_on, held: found[1], ..point },
            }
        };
        let mut points: Vec<Point> = candidates.into_iter().zip(found.chunks(2)).map(point).collect();
        points.sort_by(|a, b| a.part().total_cmp(&b.part()));
        Ok(points)
    }

    /// Measures caches, or finds them among what was kept.
    fn measure(&mut self, stage: Stage, caches: &[KvChoice]) -> Result<Vec<Measured>, TuneError> {
        let (ctx, chunks) = self.tune.extent(self.model, stage);
        let texts = self.tune.texts(stage);
        let scored = ctx / 2 * chunks * texts.len();
        let known = |trials: &[Trial], cache: &KvChoice| {
            trials.iter().find(|trial| trial.stage == stage && trial.cache == *cache).cloned()
        };
        let mut missing: Vec<KvChoice> = Vec::new();
        for cache in caches {
            if known(&self.trials, cache).is_some() || missing.contains(cache) {
                continue;
            }
            match known(&self.kept, cache) {
                Some(trial) => self.trials.push(trial),
                None => missing.push(cache.clone()),
            }
        }
        let all = missing.len() * scored;
        let mut done = 0;
        for group in missing.chunks(TOGETHER) {
            // Sensitivities have a piece of each text of their own.
            let first = match stage {
                Stage::Parts => {
                    let (ctx, chunks) = self.tune.extent(self.model, Stage::Sensitivity);
                    ctx * chunks
                }
                Stage::Sensitivity | Stage::Around | Stage::Held => 0,
            };
            let eval = self.tune.eval(texts, first, (ctx, chunks), group);
            let progress = &mut *self.progress;
            let report = evaluate(self.compiler, self.device, self.model, &eval, &mut |part, of| {
                let here = group.len() * scored * part / of.max(1);
                progress(Progress { stage, done: done + here, all });
            })?;
            done += group.len() * scored;
            for cache in group {
                let config = report.configs.iter().find(|config| config.choice == *cache);
                let (config, figures) = config
                    .and_then(|config| Some((config, config.figures?)))
                    .ok_or(EvalError::from(ScoreError::Few(0)))?;
                let estimate = |Estimate { mean, se }| Estimate { mean: digits(mean), se: digits(se) };
                let measured = Measured {
                    tokens: figures.tokens,
                    kl: estimate(figures.kl),
                    over_fp16: estimate(figures.over_fp16),
                    compression: digits(config.memory.compression()),
                };
                let trial = Trial { stage, cache: cache.clone(), measured };
                self.journal.push(&trial)?;
                self.trials.push(trial);
            }
        }
        let found = |cache| known(&self.trials, cache).map(|trial| trial.measured);
        let found: Option<Vec<Measured>> = caches.iter().map(found).collect();
        Ok(found.ok_or(EvalError::from(ScoreError::Few(0)))?)
    }
}

/// A number as files have it: nobody reads more than five digits.
fn digits(number: f64) -> f64 {
    format!("{number:.4e}").parse().unwrap_or(number)
}

/// The best cache of a part, and the default formats.
struct Candidate {
    cache: KvChoice,
    on: Measured,
    default: KvChoice,
    default_on: Measured,
}

/// A layer, keys or values of it, and the number of a width.
type Side = (usize, Part, usize);

/// Every side of so many layers with each of its `widths`.
fn sides_of(layers: usize, widths: impl Fn(usize, Part) -> Vec<usize>) -> Vec<Side> {
    let of_side = |(layer, part)| widths(layer, part).into_iter().map(move |width| (layer, part, width));
    (0..layers).flat_map(|layer| Part::BOTH.map(|part| (layer, part))).flat_map(of_side).collect()
}

/// So many points of a front, apart from each other by equal factors of their cost, the cheapest first. Of a short front, all.
fn spread<T: Clone>(front: &[(FrontPoint, T)], count: usize) -> Vec<(FrontPoint, T)> {
    let (Some(first), Some(last)) = (front.first(), front.last()) else { return Vec::new() };
    if front.len() <= count || count < 2 {
        return front.to_vec();
    }
    let ratio = last.0.cost.max(1) as f64 / first.0.cost.max(1) as f64;
    let mut chosen: Vec<(FrontPoint, T)> = Vec::with_capacity(count);
    for at in 0..count {
        let cost = first.0.cost as f64 * ratio.powf(at as f64 / (count - 1) as f64);
        let far = |point: &&(FrontPoint, T)| (point.0.cost as f64 - cost).abs();
        let near = front.iter().min_by(|a, b| far(a).total_cmp(&far(b)));
        let near = near.unwrap_or(last);
        if chosen.last().is_none_or(|before| before.0.cost != near.0.cost) {
            chosen.push(near.clone());
        }
    }
    chosen
}
