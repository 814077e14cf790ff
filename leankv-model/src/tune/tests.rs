//! What tuning promises, on a tiny model.

use std::path::{Path, PathBuf};
use std::time::Duration;

use leankv_runtime::Device;

use super::{Effort, Found, Measured, Point, Progress, Space, Stage, Tune, TuneError, TuneText, Tuned, tune};
use crate::cache::{KvChoice, Limit};
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
    let [point] = &found.tuned.points[..] else { panic!("{:?}", found.tuned.points) };
    assert_eq!((point.part(), &point.default), (3.0, &KvChoice::default_within(3.0)));
    assert_eq!(point.is_by_layer(), point.is_better(), "{point:?}");
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
fn full_effort_measures_again_around_what_it_found_if_there_is_time() {
    let model = tiny_model(3, WeightForm::Dense);
    let folder = tempfile::tempdir().unwrap();
    let of = |time: Option<Duration>| {
        // What was measured before is not measured again.
        let trials = Some(folder.path().join("trials.jsonl"));
        let space = Space { widths: vec![2, 4, 8], ..Space::usual() };
        let tune = Tune { space, parts: Vec::new(), effort: Effort::Full, time, ..what(trials) };
        let found = run(&model, &tune).0.unwrap();
        let of = |stage: Stage| found.trials.iter().filter(|trial| trial.stage == stage).count();
        (found.added.len(), of(Stage::Around), found.cut_short)
    };
    let sides = 2 * LAYERS;
    let (added, around, cut_short) = of(None);
    assert_eq!((added, cut_short), (2 * sides, false), "all widths but the widest");
    // The point itself, and every side with the next width below, above, or both.
    assert!((1 + sides..=1 + 2 * sides).contains(&around), "{around}");
    assert_eq!(of(Some(Duration::ZERO)), (2 * sides, 0, true));
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

/// What was found for a part: these formats, or with none the default ones.
fn point(part: f32, formats: Option<&str>, kl: f64) -> Point {
    let default = KvChoice::default_within(part);
    let cache = match formats {
        Some(formats) => KvChoice { formats: formats.parse().unwrap(), ..default.clone() },
        None => default.clone(),
    };
    let of = measured(kl, f64::from(part));
    Point { cache, on: of, held: of, default, default_held: measured(2.0 * kl, f64::from(part)) }
}

fn tuned() -> Tuned {
    Tuned {
        texts: vec!["one".to_owned()],
        held: vec!["another".to_owned()],
        effort: Effort::Full,
        max_kl: 0.01,
        points: vec![
            point(3.0, Some("K8mV8m/K6mV4m;0=K8mV8m/K8mV4m"), 0.002),
            point(4.0, Some("K8mV8m/K4mV3m;0=K8mV8m/K6mV4m"), 0.005),
            point(5.0, None, 0.009),
            point(11.0, Some("K8mV8m/K3mV2m;1=K8mV8m/K4mV2m"), 0.03),
        ],
    }
}

#[test]
fn what_was_found_for_a_part_is_taken_and_else_the_default() {
    let tuned = tuned();
    let taken = |part: f32| tuned.choice(Some(part)).unwrap();
    for point in &tuned.points {
        assert_eq!(taken(point.part()), point.cache);
    }
    // Formats by layer were found on either side.
    for (part, of) in [(3.2, 0), (3.8, 1)] {
        assert_eq!(taken(part), KvChoice { limit: Limit::Part(part), ..tuned.points[of].cache.clone() });
    }
    // The default was kept on one side, or nothing was tried beyond.
    for part in [2.0, 4.5, 5.0, 8.0, 16.0] {
        assert_eq!(taken(part), KvChoice::default_within(part));
    }
    // The smallest within the divergence may be the default; with none the nearest is taken.
    assert_eq!(tuned.choice(None).unwrap(), KvChoice::default_within(5.0));
    let strict = Tuned { max_kl: 1e-6, ..tuned.clone() };
    assert_eq!(strict.choice(None).unwrap(), tuned.points[0].cache);
    let nothing = Tuned { points: Vec::new(), ..tuned.clone() };
    assert_eq!([None, Some(8.0)].map(|part| nothing.choice(part)), [None, None]);
}

#[test]
fn what_is_better_by_chance_is_not() {
    let with_error = |se: f64| {
        let point = point(8.0, Some("K4mV4m"), 0.02);
        let kl = Estimate { mean: 0.02, se };
        Point { held: Measured { kl, ..point.held }, default_held: measured(0.025, 8.0), ..point }
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
    assert_eq!(choice("tiny", "tuned").unwrap(), tuned().points[2].cache);
    assert_eq!(choice("tiny", " Tuned@1/11 ").unwrap(), tuned().points[3].cache);
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
