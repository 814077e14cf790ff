//! `leankv man`: manual pages of the command and of its sub-commands.

use std::fs;
use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::args;
use crate::failure::{Failure, at_path};

/// Runs the command.
pub(crate) fn run(args: &args::Man) -> Result<(), Failure> {
    // Sub-commands have `--help`, and pages of their own.
    let mut command = crate::command().disable_help_subcommand(true);
    command.build();
    let Some(folder) = &args.folder else {
        let written = page(&command).and_then(|text| io::stdout().write_all(&text));
        return written.map_err(at_path("standard output".as_ref()));
    };
    fs::create_dir_all(folder).map_err(at_path(folder))?;
    for command in std::iter::once(&command).chain(command.get_subcommands()) {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        let path = folder.join(format!("{name}.1"));
        page(command).and_then(|text| fs::write(&path, text)).map_err(at_path(&path))?;
    }
    println!("{}", folder.display());
    Ok(())
}

/// The page of a command, as roff.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let man =
        Man::new(command.clone()).source(concat!("leankv ", env!("CARGO_PKG_VERSION"))).manual("LeanKV");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    if let Some(text) = command.get_after_help() {
        sections(&text.to_string()).to_writer(&mut out)?;
    }
    Ok(out)
}

/// What stands below the options: a line that ends with a colon is a heading, and lines below it are kept as they are.
fn sections(text: &str) -> Roff {
    let mut roff = Roff::new();
    let mut open = false;
    for line in text.lines() {
        let heading = line.strip_suffix(':').filter(|line| !line.starts_with(' '));
        if let Some(heading) = heading {
            if std::mem::replace(&mut open, true) {
                roff.control("fi", []);
            }
            roff.control("SH", [heading.to_uppercase().as_str()]);
            roff.control("nf", []);
        } else {
            roff.text([roman(line)]);
        }
    }
    if open {
        roff.control("fi", []);
    }
    roff
}
