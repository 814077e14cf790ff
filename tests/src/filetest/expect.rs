//! Expectations that a test can rewrite: marked mistakes and the text block.

use leankv_dsl::diag::Diagnostic;
use similar::TextDiff;

use super::{Outcome, check};

const MARK: &str = "; error:";
const BLOCK: &str = ";>";

/// What a mark says.
pub(super) fn error_text(error: &Diagnostic) -> String {
    format!("{}: {}", error.code, error.message.replace('\n', " "))
}

/// The text with exactly these mistakes marked, by line.
pub(super) fn mark(text: &str, errors: &[(u32, String)]) -> String {
    let mut out = String::new();
    let count = text.lines().count();
    for (i, line) in text.lines().enumerate() {
        let bare = line.split(MARK).next().unwrap_or(line);
        let marks: Vec<&str> = errors
            .iter()
            .filter(|(at, _)| (*at as usize).clamp(1, count) == i + 1)
            .map(|(_, text)| text.as_str())
            .collect();
        if marks.is_empty() && bare.len() == line.len() {
            out.push_str(line);
        } else {
            out.push_str(bare.trim_end());
        }
        for mark in marks {
            out.push_str(&format!(" {MARK} {mark}"));
        }
        out.push('\n');
    }
    out
}

/// Compares a test's output with the `CHECK` lines and the block. A block is asked for where there are no such lines.
pub(super) fn output(output: &str, out: &mut Outcome) -> Result<(), String> {
    let checks = check::parse(&out.text)?;
    if let Err(message) = check::run(&checks, output) {
        out.wrong.push(message);
    }
    let kept: Vec<&str> = out.text.lines().filter(|line| !line.starts_with(BLOCK)).collect();
    let has_block = kept.len() != out.text.lines().count();
    if checks.is_empty() || has_block {
        let block: Vec<String> =
            output.lines().map(|line| format!("{BLOCK} {line}").trim_end().to_owned()).collect();
        out.text = format!("{}\n\n{}\n", kept.join("\n").trim_end(), block.join("\n"));
    }
    Ok(())
}

/// A unified difference and how to accept it.
pub(super) fn difference(name: &str, old: &str, new: &str) -> String {
    let diff = TextDiff::from_lines(old, new);
    let shown = diff.unified_diff().context_radius(3).header("the file says", "what holds").to_string();
    format!(
        "{shown}\nto accept this, run\n  LEANKV_BLESS=1 cargo test -p leankv-tests --test filetests -- --exact {name}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_replaced_and_other_lines_kept() {
        let text = "a  \nb ; error: K1: old\nc ; remark\n";
        let marked = mark(text, &[(3, "K2: new".into()), (3, "K3: too".into())]);
        assert_eq!(marked, "a  \nb\nc ; remark ; error: K2: new ; error: K3: too\n");
        assert_eq!(mark(&marked, &[]), "a  \nb\nc ; remark\n");
    }

    #[test]
    fn a_block_is_written_unless_checks_stand_for_it() {
        let mut out = Outcome { text: "; test opt\nk\n\n;> old\n".into(), wrong: vec![] };
        output("x\n\ny\n", &mut out).unwrap();
        assert_eq!(out.text, "; test opt\nk\n\n;> x\n;>\n;> y\n");
        let mut out = Outcome { text: "; test opt\n; CHECK: y\nk\n".into(), wrong: vec![] };
        output("x\ny\n", &mut out).unwrap();
        assert_eq!(out, Outcome { text: "; test opt\n; CHECK: y\nk\n".into(), wrong: vec![] });
    }

    #[test]
    fn a_difference_names_the_command_that_accepts_it() {
        let shown = difference("opt/cse.tile", "a\nb\n", "a\nc\n");
        assert!(shown.contains("-b\n+c\n"), "{shown}");
        assert!(
            shown.ends_with(
                "LEANKV_BLESS=1 cargo test -p leankv-tests --test filetests -- --exact opt/cse.tile"
            )
        );
    }
}
