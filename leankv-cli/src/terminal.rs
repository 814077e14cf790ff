//! How output fits where it goes: its width, whether it takes colours, and running text in lines of that width.

use std::fmt::Arguments;
use std::io::{IsTerminal, Write};

/// Columns where there is no terminal.
const COLUMNS: usize = 100;

/// Columns of standard output: those of its terminal, else of the variable `COLUMNS`, else 100. As clap has it for `--help`.
pub(crate) fn width() -> usize {
    let terminal = comfy_table::Table::new().width().map(usize::from);
    let variable = || std::env::var("COLUMNS").ok()?.trim().parse().ok();
    let wide = |columns: &usize| *columns > 0;
    terminal.filter(wide).or_else(|| variable().filter(wide)).unwrap_or(COLUMNS)
}

/// Whether messages on standard error have colours: it is a terminal, and `NO_COLOR` (<https://no-color.org>) is not set.
pub(crate) fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    std::io::stderr().is_terminal() && !refused && !dumb
}

/// A line to standard output. Where it cannot be written (a full disk) the process ends with a word and the machine's exit code: what the command
/// was asked for is that output.
pub(crate) fn line(text: Arguments<'_>) {
    if let Err(error) = writeln!(std::io::stdout(), "{text}") {
        eprintln!("error: standard output: {error}");
        std::process::exit(3);
    }
}

/// Prints running text, such as the note below a table, in lines that fit.
pub(crate) fn print(text: &str) {
    println!("{}", wrapped(text, width()));
}

/// Paragraphs and list items (`* ..`) in lines of at most `width` characters; a longer word has a line of its own. Blocks between fences
/// (```` ``` ````) stay as they are.
pub(crate) fn wrapped(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    // Whether the last line may be continued, and how a line below it begins.
    let (mut open, mut indent) = (false, "");
    let mut fenced = false;
    for line in text.lines() {
        let words = line.trim();
        if words.starts_with("```") || fenced {
            fenced ^= words.starts_with("```");
            lines.push(line.to_owned());
            open = false;
            continue;
        }
        if words.is_empty() {
            lines.push(String::new());
            open = false;
            continue;
        }
        let item = words.starts_with("* ");
        if item || !open {
            indent = if item { "  " } else { "" };
            lines.push(String::new());
        }
        open = true;
        for word in words.split_whitespace() {
            let last = lines.last_mut().expect("internal error: a line was begun");
            let used = last.chars().count();
            if used == 0 {
                last.push_str(word);
            } else if used + 1 + word.chars().count() <= width {
                last.push(' ');
                last.push_str(word);
            } else {
                lines.push(format!("{indent}{word}"));
            }
        }
    }
    lines.join("\n")
}

/// A doc comment without its links: of `` [`x`](fn@y) ``, `` [`x`][y] `` and `` [`x`] `` remains `` `x` ``. Brackets within code stay.
pub(crate) fn without_links(doc: &str) -> String {
    let mut out = String::new();
    let mut rest = doc;
    while let Some(at) = rest.find(['`', '[']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match link(rest) {
            Some((text, taken)) => {
                out.push_str(text);
                taken
            }
            None => {
                let taken = code(rest).unwrap_or(1);
                out.push_str(&rest[..taken]);
                taken
            }
        };
        rest = &rest[taken..];
    }
    out + rest
}

/// Bytes of the code span that a text begins with.
fn code(text: &str) -> Option<usize> {
    let ticks = text.len() - text.trim_start_matches('`').len();
    let end = (ticks > 0).then(|| text[ticks..].find(&text[..ticks]))??;
    Some(2 * ticks + end)
}

/// The text of the link that a text begins with, and the bytes of the link.
fn link(text: &str) -> Option<(&str, usize)> {
    let inner = text.strip_prefix('[')?;
    let mut end = 0;
    while !inner[end..].starts_with(']') {
        end += code(&inner[end..]).or_else(|| Some(inner[end..].chars().next()?.len_utf8()))?;
    }
    let (shown, after) = (&inner[..end], &inner[end + 1..]);
    let target = |open, close| after.strip_prefix(open)?.find(close).map(|at: usize| at + 2);
    match target('(', ')').or_else(|| target('[', ']')) {
        Some(target) => Some((shown, end + 2 + target)),
        // A shortcut link is one piece of code.
        None => (code(shown) == Some(shown.len()) && !shown.is_empty()).then_some((shown, end + 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::{without_links, wrapped};

    #[test]
    fn links_give_their_text_and_code_keeps_its_brackets() {
        for (doc, plain) in [
            ("Merges [`decode`](fn@crate::decode), in order.", "Merges `decode`, in order."),
            ("As [`LeanKv`] and [the policy][Policy] say.", "As `LeanKv` and the policy say."),
            ("`x` is `[rows, cols]`, [0, 1) and [a b].", "`x` is `[rows, cols]`, [0, 1) and [a b]."),
            ("`q[i](j)` ``a ` [`b`](c)`` [x `]` y](z)", "`q[i](j)` ``a ` [`b`](c)`` x `]` y"),
            ("open [ and ` and [`x`", "open [ and ` and [`x`"),
            ("", ""),
        ] {
            assert_eq!(without_links(doc), plain);
        }
    }

    #[test]
    fn paragraphs_and_items_fill_lines_up_to_the_width() {
        let text = "One two\nthree four five.\n\n* six seven\n  eight nine\n* ten\n```\nas   it is, however long\n```\n";
        let lines = "One two three\nfour five.\n\n* six seven\n  eight nine\n* ten\n```\nas   it is, however long\n```";
        assert_eq!(wrapped(text, 13), lines);
        assert_eq!(wrapped("a longerthanall b", 5), "a\nlongerthanall\nb");
    }
}
