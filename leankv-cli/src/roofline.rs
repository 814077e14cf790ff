//! What `profile` prints with `--per` and `--roofline`.

use leankv_dsl::target::Product;
use leankv_runtime::roofline::pipes::{ISSUE, LSU_BYTES, Pipe};
use leankv_runtime::roofline::{Roofline, RooflineError, Runs};
use leankv_runtime::text::{join, suggestion};

use crate::failure::Failure;
use crate::table;
use crate::terminal;

/// The GPU of this name.
pub(crate) fn product(name: &str) -> Result<Product, Failure> {
    let names = Product::ALL.map(|product| product.name);
    Product::named(name).ok_or_else(|| {
        let unknown = format_args!("there is no GPU `{name}`{}", suggestion(name, &names)).to_string();
        Failure::usage(unknown).help(format_args!("the GPUs are {}", join(&names)))
    })
}

/// What kept a kernel from its roofline, by whose fault it is.
pub(crate) fn failed(error: RooflineError) -> Failure {
    match error {
        RooflineError::Target { .. } => Failure::usage(error),
        RooflineError::Tool(_) => Failure::machine(error),
        RooflineError::Unmatched(_) | RooflineError::Unreadable(_) => {
            Failure::kernel(error).help("without `--roofline` the PTX's own counts are printed")
        }
    }
}

/// Tables of what a unit costs, and of what bounds it.
pub(crate) fn print(runs: &Runs<'_>, model: Option<(&Product, &Roofline)>) {
    println!("{}", costs(runs, model.map(|(_, model)| model)));
    let Some((product, model)) = model else { return };
    println!("\n{}\n", pipes(product, model));
    terminal::print(&format!(
        "{} on {}: bound by {}; {} takes {:.2} x the time of DRAM. Modelled, not measured.",
        runs.run.kernel,
        model.gpu,
        model.bound(),
        model.worst.name(),
        model.ratio
    ));
    println!("\n{}\n", flight(model));
    assumptions(product, model);
}

fn costs(runs: &Runs<'_>, model: Option<&Roofline>) -> table::Table {
    let cost = runs.cost();
    let mut table = table::table(["what", if runs.less.is_some() { "a unit" } else { "the launch" }]);
    let mut row = |what: &str, number: f64| {
        table.add_row([what.to_owned(), figure(number)]);
    };
    row("PTX warp instructions", cost.warp_instructions);
    if let Some(model) = model {
        row("machine warp instructions", model.instructions);
    }
    row("barriers", cost.barriers);
    row("bank conflicts", cost.bank_conflicts);
    row("bytes asked", cost.asked);
    row("bytes moved", cost.moved);
    row("asked / moved", if cost.moved > 0.0 { cost.asked / cost.moved } else { 1.0 });
    row("bytes written", cost.written);
    table::numbers_from(&mut table, 1);
    table
}

/// Three digits behind the point for small numbers, none for large and whole ones.
fn figure(number: f64) -> String {
    let digits = match number.abs() {
        n if (n - n.round()).abs() < 1e-6 => 0,
        n if n < 10.0 => 3,
        n if n < 1000.0 => 1,
        _ => 0,
    };
    format!("{number:.digits$}")
}

fn pipes(product: &Product, model: &Roofline) -> table::Table {
    let mut table = table::table(["part of an SM", "cycles", "of DRAM", "full rate"]);
    let mut row = |name: &str, cycles: f64, rate: String| {
        table.add_row([
            name.to_owned(),
            figure(cycles),
            format!("{:.2} x", cycles / model.dram_cycles),
            rate,
        ]);
    };
    for &(pipe, cycles) in &model.cycles {
        let rate = match pipe {
            Pipe::Issue => format!("{ISSUE} warp instructions a cycle"),
            Pipe::Tensor => "the data sheet's dense peak".to_owned(),
            Pipe::Lsu => format!("32 addresses and {LSU_BYTES} bytes a cycle"),
            Pipe::Alu | Pipe::Fma | Pipe::Xu => "CUDA programming guide, by opcode".to_owned(),
        };
        row(pipe.name(), cycles, rate);
    }
    row("DRAM", model.dram_cycles, format!("{:.1} bytes a cycle", product.sm_bytes_a_cycle()));
    table
}

fn flight(model: &Roofline) -> table::Table {
    let (occupancy, turn) = (&model.occupancy, &model.turn);
    let mut table = table::table(["warps and bytes in flight", "", "comes from"]);
    let mut row = |what: &str, number: f64, from: String| {
        table.add_row([what.to_owned(), figure(number), from]);
    };
    let limits = format!(
        "least of {} by registers, {} by shared memory, {} by blocks and warps",
        occupancy.by_registers, occupancy.by_shared, occupancy.by_blocks
    );
    row("warps an SM", occupancy.warps.into(), limits);
    row(
        "registers a thread",
        occupancy.registers.into(),
        format!("ptxas; {} bytes of spills", occupancy.spill_bytes),
    );
    row("shared bytes a program", occupancy.shared_bytes.into(), "ptxas and launch".to_owned());
    let place = match turn.address {
        Some(address) => format!("main loop at 0x{address:04x}, {} turns a warp", figure(turn.turns)),
        None => "there is no loop: a turn is the whole kernel".to_owned(),
    };
    row("machine instructions a turn", turn.instructions as f64, place);
    row("bytes loaded a turn and warp", turn.bytes, "sectors, each once a program".to_owned());
    if let Some(before) = turn.before_product {
        row("of them before the first product", before, "order of the machine code".to_owned());
    }
    row(
        "waits for loads a turn",
        turn.waits as f64,
        "first uses of loaded registers, one after another".to_owned(),
    );
    if turn.copied > 0.0 {
        row(
            "bytes copied a turn and warp",
            turn.copied,
            format!("asynchronous, {} groups in flight", turn.groups),
        );
    }
    row("most bytes in flight an SM", model.most_in_flight, "the fullest wait of every warp".to_owned());
    row("mean bytes in flight an SM", model.mean_in_flight, "over the waits of every warp".to_owned());
    let law = format!("Little's law: bandwidth of an SM x {} ns", model.latency_ns);
    row("bytes in flight that fill DRAM", model.needed_in_flight, law);
    table
}

fn assumptions(product: &Product, model: &Roofline) {
    terminal::print(&format!(
        "{}: {} SMs, {} GB/s (data sheet), {} GHz (held under load), {}; latency is an assumption (`--latency`). Parts of an SM work beside \
         each other at full rate; bytes are those moved and written, and none comes from the second-level cache.",
        model.gpu, product.sms, product.gbytes, product.ghz, model.target
    ));
    let matches: Vec<String> =
        model.matches.iter().map(|m| format!("{} {:.0} of {:.0}", m.kind.name(), m.machine, m.ptx)).collect();
    terminal::print(&format!(
        "Machine code is that of ptxas. Its blocks ran as often as the PTX lines that they come from, as the assembler's line table has them; checked \
         by what both have one for one: {}. Slow paths of divisions and of diverged shuffles are taken never to run.",
        matches.join(", ")
    ));
    if !model.unknown.is_empty() {
        let opcodes: Vec<String> =
            model.unknown.iter().map(|(name, ran)| format!("{name} ({})", figure(*ran))).collect();
        terminal::print(&format!(
            "Opcodes that are in no table, taken for ALU instructions: {}.",
            opcodes.join(", ")
        ));
    }
}
