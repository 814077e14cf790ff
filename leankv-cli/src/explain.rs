//! `leankv explain`: the page of an error code.

use leankv_dsl::diag::{CODES, explain};
use leankv_runtime::text::suggestion;

use crate::args;
use crate::failure::Failure;

/// Runs the command.
pub(crate) fn run(args: &args::Explain) -> Result<(), Failure> {
    let Some(code) = &args.code else {
        for code in CODES {
            println!("{}  {}", code.code, code.title());
        }
        return Ok(());
    };
    let page = explain(code).ok_or_else(|| {
        let known: Vec<&str> = CODES.iter().map(|c| c.code).collect();
        Failure::usage(format_args!("there is no error code `{code}`{}", suggestion(code, &known)))
            .help("`leankv explain` lists the codes")
    })?;
    println!("{}", page.trim_end());
    Ok(())
}
