//! Decode attention against the bytes of what it attends to, over formats: one launch of one layer on one host thread, once with the pages in
//! memory alone and once with as much of them as fits in the processor's caches.

use std::hint::black_box;

use leankv_kernels::find;
use leankv_kernels::workload::{Size, recipe};
use leankv_runtime::Compiler;

use crate::common::{HostRun, Outcome, Row, median, settings};

const KV_HEADS: usize = 8;
const TOKENS: usize = 4096;
const TURNS: usize = 25;
/// Tiering, and tokens in its low tier.
const TIERINGS: [(&str, usize); 11] = [
    ("fp16", 0),
    ("K8V8", 0),
    ("K8V4", 0),
    ("K8V2", 0),
    ("K4V4", 0),
    ("K4V2", 0),
    ("K4V1", 0),
    ("K8V8/K8V4", TOKENS / 2),
    ("K8V4/K4V2", TOKENS / 4),
    ("K8V4/K4V2", TOKENS / 2),
    ("K8V4/K4V1", TOKENS * 3 / 4),
];

struct Subject {
    name: String,
    run: HostRun,
    /// Bytes of the pages, over tokens and KV heads.
    bytes: f64,
    /// Nanoseconds of a launch over the same.
    cold: Vec<f64>,
    warm: Vec<f64>,
}

impl Subject {
    fn new(tiering: &str, low: usize) -> Outcome<Subject> {
        let pairs = [("tiering", tiering), ("group", "4"), ("head_dim", "128"), ("split_pages", "0")];
        let kernel = find("decode_attention").ok_or("decode_attention is not shipped")?;
        let func = kernel.build(&settings(&pairs)).map_err(|found| found.to_string())?;
        let recipe = recipe("decode_attention")?;
        let mut asked =
            vec![("requests", 1), ("kv_heads", KV_HEADS), ("tokens", TOKENS - low), ("ragged", 0)];
        asked.push(("low_tokens", low));
        let asked: Vec<_> = asked.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        let workload = recipe.make(&settings(&pairs), &recipe.sizes(Size::Typical, &asked)?, 1)?;
        let arena = workload.arguments(&func)?.into_iter().find_map(|(name, argument)| match argument {
            leankv_dsl::workload::Argument::Buffer(buffer) if name == "kv.arena" => Some(buffer.bytes.len()),
            _ => None,
        });
        let name = match low {
            0 => tiering.to_owned(),
            _ => format!("{tiering} {}:{}", TOKENS - low, low),
        };
        let bytes = arena.ok_or("the arena is an argument")? as f64 / (TOKENS * KV_HEADS) as f64;
        Ok(Subject { name, run: HostRun::new(&func, &workload)?, bytes, cold: Vec::new(), warm: Vec::new() })
    }

    fn turn(&mut self, evict: &mut [u64]) -> Outcome<()> {
        for line in evict.iter_mut().step_by(8) {
            *line = line.wrapping_add(1);
        }
        black_box(&evict);
        let ns = 1e6 / (TOKENS * KV_HEADS) as f64;
        self.cold.push(self.run.launch()? * ns);
        self.warm.push(self.run.launch()? * ns);
        Ok(())
    }
}

/// A least-squares line.
struct Line {
    slope: f64,
    intercept: f64,
    /// Share of the variance that it explains.
    r2: f64,
}

impl Line {
    fn through(points: &[(f64, f64)]) -> Line {
        let n = points.len() as f64;
        let (mx, my) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
        let sum = |of: fn(f64, f64) -> f64| points.iter().map(|p| of(p.0 - mx, p.1 - my)).sum::<f64>();
        let slope = sum(|x, y| x * y) / sum(|x, _| x * x);
        let intercept = my - slope * mx;
        let rest: f64 = points.iter().map(|p| (p.1 - intercept - slope * p.0).powi(2)).sum();
        Line { slope, intercept, r2: 1.0 - rest / sum(|_, y| y * y) }
    }

    fn at(&self, x: f64) -> f64 {
        self.intercept + self.slope * x
    }
}

pub(crate) fn section(_: &Compiler, _: &mut Vec<Row>) -> Outcome<()> {
    let mut subjects =
        TIERINGS.iter().map(|&(tiering, low)| Subject::new(tiering, low)).collect::<Outcome<Vec<_>>>()?;
    // More than the caches of the processors that this runs on.
    let mut evict = vec![0u64; 16 << 20];
    for _ in 0..TURNS {
        for subject in &mut subjects {
            subject.turn(&mut evict)?;
        }
    }
    println!(
        "one thread, {KV_HEADS} KV heads of 128, group 4, {TOKENS} tokens; nanoseconds a token and KV head, medians"
    );
    let medians: Vec<(f64, [f64; 2])> = subjects
        .iter()
        .map(|subject| (subject.bytes, [median(subject.cold.clone()), median(subject.warm.clone())]))
        .collect();
    let lines = [0, 1].map(|which| {
        let points: Vec<_> = medians.iter().map(|(bytes, times)| (*bytes, times[which])).collect();
        Line::through(&points)
    });
    println!(
        "{:<24}{:>12}{:>10}{:>12}{:>10}{:>12}",
        "tiering, high:low tokens", "bytes/token", "cold", "off line", "warm", "off line"
    );
    let mut worst = [0f64; 2];
    for (subject, (bytes, times)) in subjects.iter().zip(&medians) {
        let off = [0, 1].map(|which| 100.0 * (times[which] / lines[which].at(*bytes) - 1.0));
        worst =
            [0, 1].map(|which| if off[which].abs() > worst[which].abs() { off[which] } else { worst[which] });
        println!(
            "{:<24}{bytes:>12.1}{:>10.2}{:>11.1}%{:>10.2}{:>11.1}%",
            subject.name, times[0], off[0], times[1], off[1]
        );
    }
    for (name, line, worst) in [("cold", &lines[0], worst[0]), ("warm", &lines[1], worst[1])] {
        println!(
            "{name}: {:.2} ns + bytes at {:.1} GB/s, R^2 {:.3}, largest deviation {worst:+.1} %",
            line.intercept,
            1.0 / line.slope,
            line.r2
        );
    }
    Ok(())
}
