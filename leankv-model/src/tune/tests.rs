//! What tuning promises, on a tiny model.

use std::path::{Path, PathBuf};

use leankv_runtime::Device;

use super::{Effort, Found, Measured, Point, Progress, Space, Tune, TuneError, TuneText, Tuned, tune};
use crate::cache::KvChoice;
use crate::eval::Estimate;
use crate::settings::{Settings, tuned_part};
use crate::testing::{LAYERS, compiler, tiny_model};
use crate::{Model, WeightForm};

fn text(name: &str, step: u32) -> TuneText {
    TuneText { name: name.to_owned(), tokens: (0..400u32).map(|i| i * i % 251 * step % 256).collect() }
}

fn what(trials: Option<PathBuf>) -> Tune {
    Tune {
        model: "tiny".to_owned(),
        bos: None,
        on: vec![text("squares", 1), text("fives", 5)],
        held: vec![text("others", 3)],
        most_ctx: 64,
        space: Space { widths: vec![2, 8], ..Space::usual() },
        parts: vec![3.0],
        effort: Effort::Quick,
        max_kl: 0.01,
        time: None,
        trials,
    }
}

/// A run, with how many scored tokens were measured.
fn run(model: &Model, tune_what: &Tune) -> (Result<Found, TuneError>, usize) {
    let mut measured = 0;
    let mut last = None;
    let found =
        tune(compiler(), &Device::host(), model, tune_what, &mut |Progress { stage, done, .. }| {
            let before = last.filter(|&(of, _)| of == stage).map_or(0, |(_, before)| before);
            measured += done - before;
            last = Some((stage, done));
        });
    (found, measured)
}

#[test]
fn a_run_that_was_cut_off_goes_on_and_finds_the_same() {
    let model = tiny_model(3, WeightForm::Dense);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trials.jsonl");
    let tune = what(Some(path.clone()));
    let (found, all) = run(&model, &tune);
    let found = found.unwrap();
    assert_eq!(found.added.len(), 2 * LAYERS, "the narrow width of every side");
    for point in &found.tuned.points {
        assert!(point.is_better(), "{point:?}");
        assert!(point.uniform_held.compression > 0.9 * point.held.compression, "{point:?}");
    }
    let whole = std::fs::read_to_string(&path).unwrap();
    assert_eq!(whole.lines().count(), 1 + found.trials.len(), "a line a trial, after the first one");

    let again = |lines: usize| {
        let kept: String = whole.split_inclusive('\n').take(lines).collect();
        std::fs::write(&path, kept).unwrap();
        let (again, measured) = run(&model, &tune);
        let again = again.unwrap();
        assert_eq!((&again.tuned, &again.trials), (&found.tuned, &found.trials));
        measured
    };
    assert_eq!(again(usize::MAX), 0, "nothing is measured twice");
    let half = again(whole.lines().count() / 2);
    assert!(half > 0 && half < all, "{half} of {all}");
}

#[test]
fn what_cannot_be_tuned_is_refused_before_anything_is_measured() {
    let model = tiny_model(3, WeightForm::Dense);
    let refused = |change: &dyn Fn(&mut Tune), why: &str| {
        let mut tune = what(None);
        change(&mut tune);
        let (found, measured) = run(&model, &tune);
        let error = found.unwrap_err().to_string();
        assert!(error.contains(why) && measured == 0, "{error}");
    };
    refused(&|tune| tune.on[1].tokens.truncate(100), "fives has 100 tokens");
    refused(&|tune| tune.held[0].tokens.clear(), "take a longer text");
    refused(&|tune| tune.held.clear(), "no text");
    for widths in [vec![], vec![4], vec![4, 2], vec![2, 2], vec![0, 4], vec![4, 9]] {
        refused(&|tune| tune.space.widths = widths.clone(), "at least two from 1 to 8");
    }
    for part in [1.0, 0.0, -3.0, f32::NAN, f32::INFINITY] {
        refused(&|tune| tune.parts = vec![8.0, part], "above 1");
    }
}

#[test]
fn another_run_s_trials_are_not_taken() {
    let model = tiny_model(3, WeightForm::Dense);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trials.jsonl");
    let short = |widths: &[u32]| {
        let tune = what(Some(path.clone()));
        Tune { space: Space { widths: widths.to_vec(), ..tune.space.clone() }, parts: Vec::new(), ..tune }
    };
    run(&model, &short(&[4, 8])).0.unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = run(&model, &short(&[3, 8])).0.unwrap_err();
    assert!(matches!(error, TuneError::Journal(_)), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

fn measured(kl: f64, compression: f64) -> Measured {
    let estimate = |mean| Estimate { mean, se: 0.0 };
    Measured { tokens: 100, kl: estimate(kl), over_fp16: estimate(1.0), compression }
}

fn point(cache: &str, kl: f64, compression: f64) -> Point {
    Point {
        cache: cache.parse().unwrap(),
        on: measured(kl, compression),
        held: measured(kl, compression),
        uniform: KvChoice::fp16(),
        uniform_held: measured(2.0 * kl, compression),
    }
}

fn tuned() -> Tuned {
    Tuned {
        texts: vec!["one".to_owned()],
        held: vec!["another".to_owned()],
        effort: Effort::Full,
        max_kl: 0.01,
        parts: vec![3.0, 4.0, 8.0, 11.0],
        points: vec![
            point("K8mV8m/K6mV4m;0=K8mV8m/K8mV4m@1/3", 0.002, 3.1),
            point("K8mV8m/K4mV3m;0=K8mV8m/K6mV4m@1/4", 0.008, 4.1),
            point("K8mV8m/K3mV2m;1=K8mV8m/K4mV2m@1/11", 0.03, 11.2),
        ],
    }
}

#[test]
fn what_was_found_for_a_part_is_taken_and_else_the_default() {
    let tuned = tuned();
    let taken = |part: Option<f32>| tuned.choice(part).unwrap().to_string();
    let text = |at: usize| tuned.points[at].cache.to_string();
    let default = |part: &str| format!("K8mV8m/K4mV4m@1/{part}:window=32:keep=120:peaks=100");
    assert_eq!(taken(None), text(1), "the smallest within the divergence");
    assert_eq!([3.0, 4.0, 11.0].map(|part| taken(Some(part))), [text(0), text(1), text(2)]);
    // Something was found on either side.
    assert_eq!(taken(Some(3.2)), "K8mV8m/K6mV4m;0=K8mV8m/K8mV4m@1/3.2");
    assert_eq!(taken(Some(3.8)), "K8mV8m/K4mV3m;0=K8mV8m/K6mV4m@1/3.8");
    // Nothing was found for 1/8, and nothing was tried beyond.
    for (part, name) in [(2.0, "2"), (5.0, "5"), (8.0, "8"), (10.0, "10"), (16.0, "16")] {
        assert_eq!(taken(Some(part)), default(name));
    }
    let strict = Tuned { max_kl: 1e-6, ..tuned.clone() };
    assert_eq!(strict.choice(None).unwrap(), tuned.points[0].cache, "the nearest");
    let nothing = Tuned { points: Vec::new(), ..tuned.clone() };
    assert_eq!([None, Some(8.0)].map(|part| nothing.choice(part)), [None, None]);
}

#[test]
fn what_is_better_by_chance_is_not() {
    let with_error = |se: f64| {
        let point = point("@1/8", 0.02, 8.0);
        let kl = Estimate { mean: 0.02, se };
        Point { held: Measured { kl, ..point.held }, uniform_held: measured(0.025, 8.0), ..point }
    };
    assert!(with_error(0.002).is_better() && !with_error(0.003).is_better());
}

#[test]
fn settings_keep_what_was_tuned_and_know_it_by_its_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leankv.toml");
    let mut settings = Settings::default();
    settings.tuned.insert("tiny".to_owned(), tuned());
    settings.write(&path).unwrap();
    let read = Settings::read(&path).unwrap();
    assert_eq!(read, settings);
    let registry = crate::cache::Registry::builtin();
    let choice = |model: &str, text: &str| read.choice(&registry, model, text);
    assert_eq!(choice("tiny", "tuned").unwrap(), tuned().points[1].cache);
    assert_eq!(choice("tiny", " Tuned@1/11 ").unwrap(), tuned().points[2].cache);
    assert_eq!(choice("tiny", "k4v4").unwrap(), "K4V4".parse().unwrap());
    let error = choice("other", "tuned").unwrap_err().to_string();
    assert!(error.contains("leankv tune bits --model other"), "{error}");
    // One of before is read, and says nothing of it.
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("../leankv.toml");
    assert!(Settings::read(&old).is_ok());
}

#[test]
fn texts_of_tuned_caches_take_a_part_and_nothing_else() {
    assert_eq!(tuned_part("tuned"), Ok(Some(None)));
    assert_eq!(tuned_part("tuned@1/7.5"), Ok(Some(Some(7.5))));
    assert_eq!(tuned_part("K8V4"), Ok(None));
    for (text, why) in [
        ("tuned@1/0.5", "more than FP16"),
        ("tuned@1,0", "nothing else"),
        ("tuned:window=3", "nothing else"),
        ("tuned@1/8:window=3", "nothing else"),
        ("tuned+offset", "nothing else"),
        ("tunedx", "nothing else"),
        ("tuned@", "neither"),
    ] {
        let error = tuned_part(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
}
