//! What attention costs a cached token and KV head: the difference of launches over 2048 and 4096 tokens, on the PTX machine and in machine code.

use leankv_dsl::ir::Func;
use leankv_dsl::target::Product;
use leankv_dsl::workload::Workload;
use leankv_ptx::Checks;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::roofline::{LATENCY_NS, Roofline, RooflineError, Runs};
use leankv_runtime::tools::{Ptxas, ToolError};
use leankv_runtime::verify::{Cost, profile_with};
use leankv_runtime::{Compiler, Target};

use crate::common::{Outcome, Row};

/// GPUs of the two architectures that bars are held on.
pub(crate) const GPUS: [&str; 2] = ["h200", "a100"];

/// What a token costs on a GPU.
pub(crate) struct Token {
    cost: Cost,
    /// `None` where there is no assembler.
    pub(crate) roofline: Option<Roofline>,
    gpu: Product,
    spill_bytes: Option<u32>,
    /// How often a sector of the cache was asked for.
    cache_repeats: f64,
}

/// A token's cost; `workload` makes the launch over so many tokens of one KV head.
pub(crate) fn token(func: &Func, gpu: &str, workload: impl Fn(usize) -> Outcome<Workload>) -> Outcome<Token> {
    let gpu = Product::named(gpu).ok_or("no such GPU")?;
    let compiler = Compiler::new(KernelCache::without_folder());
    let profile = |tokens| -> Outcome<_> {
        Ok(profile_with(&compiler, func, &workload(tokens)?, gpu.target, Checks::NONE)?)
    };
    let (less, run) = (profile(2048)?, profile(4096)?);
    let runs = Runs { run: &run, less: Some(&less), units: 2048.0 };
    let compiled = compiler.compile(func, Target::Gpu(gpu.target))?.kernel;
    let (roofline, spill_bytes) = match Roofline::of(&gpu, LATENCY_NS, &compiled, &runs) {
        Ok(roofline) => {
            let bytes = roofline.occupancy.spill_bytes;
            (Some(roofline), Some(bytes))
        }
        Err(RooflineError::Tool(ToolError::NotFound { .. })) => (None, None),
        Err(RooflineError::Unmatched(_)) => {
            let ptx = compiled.ptx().unwrap_or_default();
            let assembled = Ptxas::find()?.assemble(ptx, &gpu.target.to_string())?;
            (None, Some(assembled.entries.iter().map(|e| e.spill_store_bytes + e.spill_load_bytes).sum()))
        }
        Err(other) => return Err(other.into()),
    };
    let cache = run.buffers.iter().find(|buffer| buffer.name == "kv.arena");
    let cache_repeats = cache.and_then(|cache| cache.repeat_ratio()).ok_or("the cache was not read")?;
    Ok(Token { cost: runs.cost(), roofline, gpu, spill_bytes, cache_repeats })
}

/// A row for each GPU with the token's instructions, of which PTX has at most `most`; and one for both with what should not be there.
pub(crate) fn rows(what: &str, most: f64, tokens: &[Token]) -> Vec<Row> {
    let mut rows: Vec<Row> = tokens.iter().map(|token| token.instructions(what, most)).collect();
    let of = |number: fn(&Cost) -> f64| tokens.iter().map(|token| number(&token.cost)).fold(0.0, f64::max);
    let (barriers, conflicts) = (of(|cost| cost.barriers), of(|cost| cost.bank_conflicts));
    let repeats = of(|cost| cost.asked / cost.moved);
    let spills = tokens.iter().map(|token| token.spill_bytes).collect::<Option<Vec<u32>>>();
    let spills = spills.and_then(|bytes| bytes.into_iter().max());
    let shown = spills.map_or_else(|| "?".to_owned(), |bytes| bytes.to_string());
    rows.push(Row {
        what: format!("  {what}: barriers, conflicts a token; spilled bytes; asked / moved"),
        bar: "0, 0, 0, <= 1.05".to_owned(),
        measured: format!("{barriers:.2}, {conflicts:.2}, {shown}, {repeats:.3}"),
        met: spills.map(|bytes| barriers == 0.0 && conflicts == 0.0 && bytes == 0 && repeats <= 1.05),
    });
    rows
}

/// Rows for a kernel that works on `rows` query rows and has 16 of them in a warp: machine instructions that a warp takes for 16 tokens, and what should not be there.
pub(crate) fn tile_rows(what: &str, most: f64, rows: usize, tokens: &[Token]) -> Vec<Row> {
    let warps = rows as f64 / 16.0;
    let each = |token: &Token| {
        let machine = token.roofline.as_ref().map(|found| found.instructions * 16.0 / warps);
        let (conflicts, repeats) = (token.cost.bank_conflicts, token.cache_repeats);
        let spills = token.spill_bytes.map_or_else(|| "?".to_owned(), |bytes| bytes.to_string());
        let shown = machine.map_or_else(|| "?".to_owned(), |machine| format!("{machine:.0}"));
        Row {
            what: format!(
                "{what}, {}: SASS a warp, 16 rows x 16 tokens; conflicts; spills; asked / moved",
                token.gpu.target
            ),
            bar: format!("<= {most}, 0, 0, <= 1.05"),
            measured: format!("{shown}, {conflicts:.2}, {spills}, {repeats:.3}"),
            met: machine.map(|machine| {
                machine <= most && conflicts == 0.0 && token.spill_bytes == Some(0) && repeats <= 1.05
            }),
        }
    };
    tokens.iter().map(each).collect()
}

/// The busiest pipe's time over that of the token's bytes.
pub(crate) fn pipe_row(what: &str, most: f64, token: &Token) -> Row {
    let found = token.roofline.as_ref();
    Row {
        what: format!("  {what}, {}: the busiest pipe over DRAM (modelled)", token.gpu.name),
        bar: format!("<= {most} x"),
        measured: found.map_or_else(absent, |found| format!("{:.2} x ({})", found.ratio, found.worst.name())),
        met: found.map(|found| found.ratio <= most),
    }
}

fn absent() -> String {
    "no machine code, or none that fits".to_owned()
}

impl Token {
    /// Machine code may have two more than PTX.
    fn instructions(&self, what: &str, most: f64) -> Row {
        let (ptx, machine) =
            (self.cost.warp_instructions, self.roofline.as_ref().map(|found| found.instructions));
        let shown = machine.map_or_else(|| "?".to_owned(), |machine| format!("{machine:.1}"));
        Row {
            what: format!("{what}, {}: warp instructions a token, PTX and SASS", self.gpu.target),
            bar: format!("<= {most}, {}", most + 2.0),
            measured: format!("{ptx:.1}, {shown}"),
            met: machine.map(|machine| ptx <= most && machine <= most + 2.0),
        }
    }
}
