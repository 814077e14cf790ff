//! Thresholds for a model, as the paper finds them: first the high one with nothing dropped, then the low one.
//!
//! Source: LeanKV, calibration: `a_h` from 1 to 5, then `a_l` in five steps from 0 to 0.1, on text that is not scored later. Here `a_h = 0`,
//! which keeps every token high, is a candidate too. What is good enough is said as KL divergence from FP16's predictions: perplexity moves by a
//! per cent either way by chance over a thousand tokens, divergence hardly does.

use leankv_runtime::{Compiler, Device};

use crate::Model;
use crate::cache::{KvChoice, Limit};
use crate::eval::{ConfigReport, EvalError, Report, ScoreError, TextEval, evaluate};
use crate::settings::Calibration;

/// What is tried, and what is good enough.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// High thresholds.
    pub high: Vec<f32>,
    /// Low thresholds.
    pub low: Vec<f32>,
    /// Most that predictions may diverge from FP16's, in nats a token.
    pub max_kl: f64,
}

impl Default for Grid {
    fn default() -> Grid {
        Grid {
            high: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            low: vec![0.0, 0.025, 0.05, 0.075, 0.1],
            max_kl: 0.03,
        }
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// To keep.
    pub calibration: Calibration,
    /// Both rounds, for the reader.
    pub rounds: [Report; 2],
    /// Whether the divergence was kept to; if not, the nearest to FP16 of what was tried was taken.
    pub within: bool,
}

impl Grid {
    /// Whether there is something to try, and all of it can be.
    ///
    /// # Errors
    /// [`EvalError::Grid`].
    pub fn check(&self) -> Result<(), EvalError> {
        let wrong = |why: String| Err(EvalError::Grid(why));
        for (name, of) in [("high", &self.high), ("low", &self.low)] {
            if let Some(bad) = of.iter().find(|x| !(x.is_finite() && **x >= 0.0)) {
                return wrong(format!(
                    "a {name} threshold of {bad} to try: a threshold is a finite number of at least 0"
                ));
            }
            if of.is_empty() {
                return wrong(format!("no {name} threshold to try"));
            }
        }
        match self.max_kl.is_finite() && self.max_kl >= 0.0 {
            true => Ok(()),
            false => {
                wrong(format!("a divergence of at most {}: give a finite number of at least 0", self.max_kl))
            }
        }
    }
}

/// Finds thresholds of a cache, whose own limit is not looked at. `eval` says on what; its list of caches is not looked at either.
///
/// # Errors
/// As [`Grid::check`] and [`evaluate`].
pub fn calibrate(
    compiler: &Compiler,
    device: &Device,
    model: &Model,
    eval: &TextEval,
    cache: &KvChoice,
    grid: &Grid,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Found, EvalError> {
    grid.check()?;
    let choice = |pair: [f32; 2]| KvChoice { limit: Limit::Thresholds(pair), ..cache.clone() };
    let mut round = |pairs: Vec<[f32; 2]>, at: usize| {
        let choices = pairs.iter().map(|&pair| choice(pair)).collect();
        let journal = eval.journal.as_ref().map(|path| path.with_extension(format!("{at}.jsonl")));
        let eval = TextEval { choices, journal, ..eval.clone() };
        evaluate(compiler, device, model, &eval, &mut |done, all| progress(at * all + done, 2 * all))
    };
    let first = round(grid.high.iter().map(|&high| [high, 0.0]).collect(), 0)?;
    let (best, _) = pick(&first, grid.max_kl);
    let [high, _] = pair(best);
    let lows = grid.low.iter().filter(|&&low| low <= high);
    let mut pairs: Vec<[f32; 2]> = lows.map(|&low| [high, low]).collect();
    if pairs.is_empty() {
        pairs.push([high, 0.0]);
    }
    let second = round(pairs, 1)?;
    let (best, within) = pick(&second, grid.max_kl);
    let [high, low] = pair(best);
    let figures = best.figures.ok_or(ScoreError::Few(0))?;
    let calibration = Calibration {
        cache: cache.unlimited(),
        high,
        low,
        text: eval.text.clone(),
        tokens: figures.tokens,
        kl: figures.kl.mean,
        perplexity_ratio: figures.over_fp16.mean,
        compression: best.memory.compression(),
    };
    Ok(Found { calibration, rounds: [first, second], within })
}

fn pair(config: &ConfigReport) -> [f32; 2] {
    match config.choice.limit {
        Limit::Thresholds(pair) => pair,
        Limit::Calibrated | Limit::Part(_) => [0.0, 0.0],
    }
}

/// Mean divergence; what was not measured diverges by anything.
fn kl(config: &ConfigReport) -> f64 {
    config.figures.map_or(f64::INFINITY, |figures| figures.kl.mean)
}

/// The smallest of those that diverge little enough, or the one that diverges least; FP16 itself is no candidate.
fn pick(report: &Report, max_kl: f64) -> (&ConfigReport, bool) {
    let tried = &report.configs[1..];
    let within = tried.iter().filter(|config| kl(config) <= max_kl);
    let smallest = within.max_by(|a, b| a.memory.compression().total_cmp(&b.memory.compression()));
    let nearest = || {
        let best = tried.iter().min_by(|a, b| kl(a).total_cmp(&kl(b)));
        best.unwrap_or(&report.configs[0])
    };
    match smallest {
        Some(config) => (config, true),
        None => (nearest(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Memory, Score};
    use crate::finite::BeyondF16;

    fn report(tried: &[(f32, f32, f64)]) -> Report {
        let config = |choice: KvChoice, kl: f32, bytes: f64| {
            let score = Score { nll: vec![3.0; 2], kl: vec![kl; 2], agreed: 2 };
            ConfigReport {
                choice,
                figures: Some(score.figures(&score).unwrap()),
                score,
                beyond_f16: BeyondF16::default(),
                memory: Memory { bytes, fp16_bytes: 100.0, ..Memory::default() },
                tasks: Vec::new(),
            }
        };
        let mut configs = vec![config(KvChoice::fp16(), 0.0, 100.0)];
        for &(high, kl, bytes) in tried {
            configs.push(config(format!("K8V4/K4V2@{high},0").parse().unwrap(), kl, bytes));
        }
        Report {
            model: String::new(),
            text: String::new(),
            ctx: 16,
            prompt_chunk: None,
            statistics: None,
            layers: 1,
            kv_heads: 1,
            configs,
        }
    }

    #[test]
    fn the_smallest_that_diverges_little_enough_is_taken() {
        let report = report(&[(0.0, 0.01, 42.0), (1.0, 0.015, 30.0), (2.0, 0.029, 25.0), (3.0, 0.2, 20.0)]);
        let (best, within) = pick(&report, 0.03);
        assert!(within);
        assert_eq!(pair(best), [2.0, 0.0]);
    }

    #[test]
    fn without_any_the_nearest_is_taken_and_said_so() {
        let report = report(&[(1.0, 0.5, 30.0), (2.0, 0.3, 25.0)]);
        let (best, within) = pick(&report, 0.03);
        assert!(!within);
        assert_eq!(pair(best), [2.0, 0.0]);
    }

    #[test]
    fn what_was_not_measured_is_never_good_enough() {
        let mut report = report(&[(1.0, 0.5, 30.0), (2.0, 0.3, 5.0)]);
        report.configs[2].figures = None;
        let (best, within) = pick(&report, 0.9);
        assert!(within);
        assert_eq!(pair(best), [1.0, 0.0]);
    }

    #[test]
    fn thresholds_that_no_cache_can_have_are_not_tried() {
        let bad = |grid: Grid, why: &str| {
            let error = grid.check().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        for x in [f32::NAN, f32::INFINITY, -1.0] {
            bad(Grid { high: vec![1.0, x], ..Grid::default() }, "a high threshold");
            bad(Grid { low: vec![x], ..Grid::default() }, "a low threshold");
            bad(Grid { max_kl: f64::from(x), ..Grid::default() }, "a divergence");
        }
        bad(Grid { high: Vec::new(), ..Grid::default() }, "no high threshold");
        assert!(Grid::default().check().is_ok());
    }
}
