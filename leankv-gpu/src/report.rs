//! What a run found, for people and for programs.

use std::fmt::Write;
use std::path::Path;

use leankv_runtime::Device;
use serde::Serialize;

use crate::Failure;
use crate::checks::Checked;
use crate::engine::Lived;
use crate::sizes::TIMED;
use crate::subnormal::Subnormal;
use crate::timing::{Timed, by_size};
use crate::torch::Torch;

/// All that a run found.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) device: String,
    /// Compute capability.
    pub(crate) capability: String,
    /// Bytes of memory.
    pub(crate) memory: Option<u64>,
    /// Whether the GPU is emulated, so that times mean nothing.
    pub(crate) emulated: bool,
    pub(crate) quick: bool,
    /// Of the GPU, not of what runs on it: where it is not exact nothing is wrong, as nothing rests on it by default.
    pub(crate) subnormal: Option<Subnormal>,
    pub(crate) kernels: Vec<Checked>,
    pub(crate) cache: Lived,
    /// Bandwidth of a copy on the device, GB (10^9 bytes) a second, reads and writes.
    pub(crate) copy_gbytes: f64,
    pub(crate) times: Vec<Timed>,
    pub(crate) torch: Option<Torch>,
    /// What could not be done.
    pub(crate) errors: Vec<String>,
    pub(crate) seconds: f64,
}

const MEANINGLESS: &str = "The GPU is emulated: these times are the emulator's and mean nothing.";

impl Report {
    pub(crate) fn new(device: &Device, quick: bool) -> Report {
        let (major, minor) = device.compute_capability().unwrap_or_default();
        let name = device.name();
        Report {
            emulated: name.contains("softcuda"),
            device: name,
            capability: format!("{major}.{minor}"),
            memory: device.memory(),
            quick,
            subnormal: None,
            kernels: Vec::new(),
            cache: Lived::default(),
            copy_gbytes: 0.0,
            times: Vec::new(),
            torch: None,
            errors: Vec::new(),
            seconds: 0.0,
        }
    }

    pub(crate) fn heading(&self) -> String {
        let memory = self.memory.map_or("?".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1e9));
        format!("{}, compute capability {}, {memory} GB of memory", self.device, self.capability)
    }

    /// What a part of the run gave; nothing of one that failed, which is noted.
    pub(crate) fn part<T: Default>(&mut self, what: &str, result: Result<T, Failure>) -> T {
        result.unwrap_or_else(|error| {
            println!("FAILED {what}: {error}");
            self.errors.push(format!("{what}: {error}"));
            T::default()
        })
    }

    fn wrong_kernels(&self) -> usize {
        self.kernels.iter().filter(|checked| !checked.wrong.is_empty()).count()
    }

    /// Whether all that was checked is right.
    pub(crate) fn passed(&self) -> bool {
        self.wrong_kernels() == 0 && self.cache.wrong.is_empty() && self.errors.is_empty()
    }

    fn kernels_line(&self) -> String {
        let (all, wrong) = (self.kernels.len(), self.wrong_kernels());
        format!("kernels: {all} specialisations beside the interpreter and plain Rust, {wrong} wrong")
    }

    fn subnormal_line(&self) -> String {
        self.subnormal
            .as_ref()
            .map_or("products of subnormal 16-bit floats: not known".to_owned(), Subnormal::line)
    }

    pub(crate) fn print_subnormal(&self) {
        println!("{}", self.subnormal_line());
    }

    pub(crate) fn print_kernels(&self) {
        println!("{}", self.kernels_line());
        for checked in &self.kernels {
            for wrong in &checked.wrong {
                println!("  WRONG {} ({}): {wrong}", checked.kernel, checked.spec);
            }
        }
    }

    fn cache_line(&self) -> String {
        let Lived { checked_steps, batched_steps, requests, chunks, forks, replayed_steps, wrong } =
            &self.cache;
        format!(
            "cache: {checked_steps} steps beside plain Rust, {batched_steps} of batches; {requests} requests, {chunks} chunks of prompts, \
             {forks} forks; {replayed_steps} steps of a graph beside launches; {} wrong",
            wrong.len()
        )
    }

    pub(crate) fn print_cache(&self) {
        println!("{}", self.cache_line());
        self.cache.wrong.iter().for_each(|wrong| println!("  WRONG {wrong}"));
    }

    /// Times and bandwidth, a row for each batch and length.
    pub(crate) fn times_table(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| text.push_str(&(line + "\n"));
        if self.emulated {
            line(format!("{MEANINGLESS}\n"));
        }
        line(format!(
            "Decode attention of one layer, splits and merge. A copy on the device moves {:.0} GB/s, reads and writes; shares are of that. \
             Bytes are those of the tokens; x is the time of fp16 over that of the format.\n",
            self.copy_gbytes
        ));
        let torch = self.torch.as_ref().map(|torch| format!("torch {} SDPA, fp16", torch.version));
        let columns: Vec<String> = TIMED.iter().map(|timed| timed.0.to_owned()).chain(torch).collect();
        line(format!("| batch | tokens | {} |", columns.join(" | ")));
        line(format!("|{}", "---:|".repeat(columns.len() + 2)));
        for ((batch, length), times) in by_size(&self.times) {
            let fp16 = times.first().and_then(|time| time.microseconds);
            let cell = |us: Option<f64>, gbytes: Option<f64>| {
                let (Some(us), Some(gbytes)) = (us, gbytes) else { return "no room".to_owned() };
                let beside = fp16.map_or(String::new(), |fp16| format!(", {:.2}x", fp16 / us));
                format!("{us:.1} us, {gbytes:.0} GB/s, {:.0} %{beside}", 100.0 * gbytes / self.copy_gbytes)
            };
            let mut cells: Vec<String> =
                times.iter().map(|time| cell(time.microseconds, time.gbytes)).collect();
            if let Some(torch) = &self.torch {
                let found = torch.times.iter().find(|time| (time.batch, time.length) == (batch, length));
                let us = found.and_then(|time| time.microseconds);
                let bytes = times.first().map_or(0, |time| time.bytes) as f64;
                cells.push(cell(us, us.map(|us| bytes / us / 1e3)));
            }
            line(format!("| {batch} | {length} | {} |", cells.join(" | ")));
        }
        text
    }

    /// Writes `report.json` and `report.md`.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("report.json"), serde_json::to_string_pretty(self)? + "\n")?;
        let mut text =
            format!("# {}\n\n* {}\n* {}\n", self.heading(), self.subnormal_line(), self.kernels_line());
        write!(
            text,
            "* {}\n* the whole run: {:.0} s\n\n{}",
            self.cache_line(),
            self.seconds,
            self.times_table()
        )?;
        Ok(std::fs::write(folder.join("report.md"), text)?)
    }
}
