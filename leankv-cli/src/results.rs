//! `leankv results`: a document whose tables are run.
//!
//! The template is Markdown. A fenced block that starts with ```` ```run ```` holds one `leankv eval`, `leankv calibrate` or `leankv serve-bench` command; it is
//! run, and stands in the document with its table below. Runs keep journals, so that a document that was cut off goes on, and one whose
//! runs are all there is only written. A block ```` ```peer ```` names a file of llama.cpp's figures (`scripts/peers/llama_cpp_quality.py`).

use std::path::{Path, PathBuf};

use clap::Parser;
use leankv_runtime::Compiler;
use sha2::{Digest, Sha256};

use crate::args::{self, Cli, Command};
use crate::failure::{Failure, at_path};
use crate::{eval, plot, serve_bench};

/// Runs the command.
pub(crate) fn run(args: &args::Results, compiler: &Compiler) -> Result<(), Failure> {
    let template = std::fs::read_to_string(&args.template).map_err(at_path(&args.template))?;
    let blocks = blocks(&template)
        .map_err(|why| Failure::usage(format_args!("{}: {why}", args.template.display())))?;
    std::fs::create_dir_all(&args.folder).map_err(at_path(&args.folder))?;
    let mut out = String::new();
    for block in &blocks {
        match block {
            Block::Text(text) => out.push_str(text),
            Block::Run(line) => {
                eprintln!("{line}");
                let table = one(line, &args.folder, compiler)?;
                out.push_str(&format!("```\n{line}\n```\n\n{table}\n"));
            }
            Block::Peer(path) => out.push_str(&peer(Path::new(path))?),
        }
    }
    std::fs::write(&args.output, out).map_err(at_path(&args.output))?;
    println!("{}", args.output.display());
    Ok(())
}

/// A part of the template.
#[derive(Debug, PartialEq, Eq)]
enum Block {
    Text(String),
    Run(String),
    Peer(String),
}

fn blocks(template: &str) -> Result<Vec<Block>, String> {
    let (mut blocks, mut text) = (Vec::new(), String::new());
    let mut lines = template.lines();
    while let Some(line) = lines.next() {
        let kind = line.trim_end();
        if kind != "```run" && kind != "```peer" {
            text.push_str(line);
            text.push('\n');
            continue;
        }
        let command: Vec<&str> = lines.by_ref().take_while(|line| line.trim_end() != "```").collect();
        let command =
            command.iter().map(|line| line.trim_end_matches('\\').trim()).collect::<Vec<_>>().join(" ");
        let block = match kind {
            "```peer" => Block::Peer(command),
            _ if command.starts_with("leankv ") => Block::Run(command),
            _ => return Err(format!("a run block holds `{command}` instead of a leankv command")),
        };
        blocks.push(Block::Text(std::mem::take(&mut text)));
        blocks.push(block);
    }
    blocks.push(Block::Text(text));
    Ok(blocks)
}

fn one(line: &str, folder: &Path, compiler: &Compiler) -> Result<String, Failure> {
    let cli = Cli::try_parse_from(line.split_whitespace())
        .map_err(|error| Failure::usage(format_args!("`{line}`: {error}")))?;
    // A command's journal is found by the command.
    let hash: String = Sha256::digest(line).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let file = |name: &str| -> PathBuf { folder.join(format!("{hash}.{name}")) };
    match cli.command {
        Command::Eval(mut eval) => {
            eval.on.journal.get_or_insert_with(|| file("jsonl"));
            let out = eval.out.get_or_insert_with(|| file("json")).clone();
            // A report is written when all of it is measured, tasks included.
            let whole = std::fs::read_to_string(&out).ok().and_then(|text| serde_json::from_str(&text).ok());
            if let Some(report) = whole {
                if let Some(folder) = &eval.plots {
                    plot::draw(&report, folder)?;
                }
                return Ok(markdown(&report));
            }
            Ok(markdown(&eval::measure(&eval, compiler)?))
        }
        Command::Calibrate(mut calibrate) => {
            calibrate.on.journal.get_or_insert_with(|| file("jsonl"));
            let found = eval::find_thresholds(&calibrate, compiler)?;
            let [first, second] = &found.rounds;
            let c = &found.calibration;
            let taken = format!("Taken: {} and {}", c.high, c.low);
            Ok(format!("{}\n{}\n{taken}.\n", markdown(first), markdown(second)))
        }
        Command::ServeBench(serve) => {
            let path = file("serve.md");
            if let Ok(table) = std::fs::read_to_string(&path) {
                return Ok(table);
            }
            let served = serve_bench::measure(&serve, compiler)?;
            served.check()?;
            let head = serve_bench::BRIEF.map(str::to_owned);
            let rows = serve_bench::brief(&served);
            let text = format!("{}\n\n{}", serve_bench::heading(&serve, &served), table(&head, &rows));
            std::fs::write(&path, &text).map_err(at_path(&path))?;
            Ok(text)
        }
        _ => Err(Failure::usage(format_args!("`{line}`: a document runs eval, calibrate and serve-bench"))),
    }
}

/// Figures of llama.cpp, as its script writes them.
#[derive(serde::Deserialize)]
struct Peer {
    peer: String,
    text: String,
    ctx: usize,
    scored: usize,
    rows: Vec<PeerRow>,
}

#[derive(serde::Deserialize)]
struct PeerRow {
    keys: String,
    values: String,
    perplexity: f64,
    kl: f64,
    top1: f64,
}

/// Them as a table.
fn peer(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(at_path(path))?;
    let peer: Peer =
        serde_json::from_str(&text).map_err(|e| Failure::usage(format_args!("{}: {e}", path.display())))?;
    let fp16 = peer.rows.first().map_or(1.0, |row| row.perplexity);
    let mut out = format!(
        "{}: {} scored tokens of {}, chunks of {}\n\n| keys/values | perplexity | over f16 | KL | top-1 |\n|---|--:|--:|--:|--:|\n",
        peer.peer, peer.scored, peer.text, peer.ctx
    );
    for row in &peer.rows {
        let over = 100.0 * (row.perplexity / fp16 - 1.0);
        let top1 = 100.0 * row.top1;
        let PeerRow { keys, values, perplexity, kl, .. } = row;
        out.push_str(&format!(
            "| {keys}/{values} | {perplexity:.3} | {over:+.2} % | {kl:.4} | {top1:.1} % |\n"
        ));
    }
    Ok(out)
}

/// A report as a table.
fn markdown(report: &leankv_model::eval::Report) -> String {
    let head = eval::head(report);
    let rows: Vec<Vec<String>> = report.configs.iter().map(eval::row).collect();
    format!("{}\n\n{}", eval::heading(report), table(&head, &rows))
}

/// Numbers to the right.
fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule = format!("|---|{}\n", "--:|".repeat(head.len().saturating_sub(1)));
    let rows: String = rows.iter().map(|cells| row(cells)).collect();
    row(head) + &rule + &rows
}

#[cfg(test)]
mod tests {
    use super::{Block, blocks};

    #[test]
    fn commands_may_take_several_lines() {
        let template =
            "# Title\n\n```run\nleankv eval --model m \\\n  --kv fp16\n```\nafter\n```\nas it is\n```\n";
        let run = "leankv eval --model m --kv fp16";
        let text = |text: &str| Block::Text(text.to_owned());
        assert_eq!(
            blocks(template).unwrap(),
            [text("# Title\n\n"), Block::Run(run.to_owned()), text("after\n```\nas it is\n```\n")]
        );
    }

    #[test]
    fn other_commands_are_refused() {
        assert!(blocks("```run\nrm -r folder\n```\n").unwrap_err().contains("instead of a leankv command"));
    }
}
