//! `leankv results`: a document whose tables are run.
//!
//! The template is Markdown. A fenced block that starts with ```` ```run ```` holds one `leankv eval`, `leankv calibrate` or `leankv
//! serve-bench` command; it is run, and stands in the document with its table below. Evaluations keep a journal beside the document's
//! name, so that a run that was cut off goes on.

use std::path::{Path, PathBuf};

use clap::Parser;
use leankv_runtime::Compiler;

use crate::args::{self, Cli, Command};
use crate::eval;
use crate::failure::{Failure, at_path};

/// Runs the command.
pub(crate) fn run(args: &args::Results, compiler: &Compiler) -> Result<(), Failure> {
    let template = std::fs::read_to_string(&args.template).map_err(at_path(&args.template))?;
    let blocks = blocks(&template)
        .map_err(|why| Failure::usage(format_args!("{}: {why}", args.template.display())))?;
    std::fs::create_dir_all(&args.folder).map_err(at_path(&args.folder))?;
    let mut out = String::new();
    for (at, block) in blocks.iter().enumerate() {
        match block {
            Block::Text(text) => out.push_str(text),
            Block::Run(line) => {
                eprintln!("{line}");
                let table = one(line, &args.folder, at, compiler)?;
                out.push_str(&format!("```\n{line}\n```\n\n{table}\n"));
            }
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
}

fn blocks(template: &str) -> Result<Vec<Block>, String> {
    let (mut blocks, mut text) = (Vec::new(), String::new());
    let mut lines = template.lines();
    while let Some(line) = lines.next() {
        if line.trim_end() != "```run" {
            text.push_str(line);
            text.push('\n');
            continue;
        }
        let command: Vec<&str> = lines.by_ref().take_while(|line| line.trim_end() != "```").collect();
        let command =
            command.iter().map(|line| line.trim_end_matches('\\').trim()).collect::<Vec<_>>().join(" ");
        if !command.starts_with("leankv ") {
            return Err(format!("a run block holds `{command}` instead of a leankv command"));
        }
        blocks.push(Block::Text(std::mem::take(&mut text)));
        blocks.push(Block::Run(command));
    }
    blocks.push(Block::Text(text));
    Ok(blocks)
}

fn one(line: &str, folder: &Path, at: usize, compiler: &Compiler) -> Result<String, Failure> {
    let cli = Cli::try_parse_from(line.split_whitespace())
        .map_err(|error| Failure::usage(format_args!("`{line}`: {error}")))?;
    let file = |name: &str| -> PathBuf { folder.join(format!("{at:02}.{name}")) };
    match cli.command {
        Command::Eval(mut eval) => {
            eval.on.journal.get_or_insert_with(|| file("jsonl"));
            eval.out.get_or_insert_with(|| file("json"));
            Ok(markdown(&eval::measure(&eval, compiler)?))
        }
        _ => Err(Failure::usage(format_args!("`{line}`: a document runs eval only"))),
    }
}

/// A report as a table.
fn markdown(report: &leankv_model::eval::Report) -> String {
    let head = eval::head(report);
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let names: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let mut out = format!("{}\n\n{}", eval::heading(report), row(&names));
    out.push_str(&format!("|---|{}\n", "--:|".repeat(head.len() - 1)));
    for config in &report.configs {
        out.push_str(&row(&eval::row(report, config)));
    }
    out
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
