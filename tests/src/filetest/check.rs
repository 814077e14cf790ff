//! `CHECK` lines, in FileCheck's manner but smaller.

use std::collections::BTreeMap;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Check {
    /// The next line of the output with this.
    Find(Pattern),
    /// No line with this before the next `Find`.
    Not(Pattern),
    /// So many lines with this in the whole output.
    Count(usize, Pattern),
}

/// Text with holes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(String),
    /// `{{*}}`
    Anything,
    /// `[[R]]`
    Word(String),
}

/// The checks of a file.
pub(super) fn parse(text: &str) -> Result<Vec<Check>, String> {
    let mut out = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(rest) = line.strip_prefix("; CHECK:") {
            out.push(Check::Find(pattern(rest)?));
        } else if let Some(rest) = line.strip_prefix("; CHECK-NOT:") {
            out.push(Check::Not(pattern(rest)?));
        } else if let Some(rest) = line.strip_prefix("; COUNT ") {
            let parsed = rest.split_once(':').and_then(|(n, rest)| Some((n.trim().parse().ok()?, rest)));
            let (n, rest) = parsed.ok_or_else(|| format!("`{line}` is not `; COUNT n: text`"))?;
            out.push(Check::Count(n, pattern(rest)?));
        } else if line.starts_with("; CHECK") || line.starts_with("; COUNT") {
            return Err(format!("`{line}` is not `; CHECK: text`, `; CHECK-NOT: text` or `; COUNT n: text`"));
        }
    }
    Ok(out)
}

fn pattern(text: &str) -> Result<Pattern, String> {
    let source = squeeze(text);
    let mut parts = Vec::new();
    let mut rest = source.as_str();
    if rest.is_empty() {
        return Err("a check without text".to_owned());
    }
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("{{*}}") {
            parts.push(Part::Anything);
            rest = after;
        } else if let Some((name, after)) = word(rest) {
            parts.push(Part::Word(name.to_owned()));
            rest = after;
        } else {
            let end = [rest[1..].find("{{*}}"), rest[1..].find("[[")].into_iter().flatten().min();
            let (text, after) = rest.split_at(end.map_or(rest.len(), |at| at + 1));
            parts.push(Part::Text(text.to_owned()));
            rest = after;
        }
    }
    Ok(Pattern { source, parts })
}

/// The name in `[[R]]` at the start, and what follows. Of three brackets the first is plain text.
fn word(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix("[[").filter(|inner| !inner.starts_with('['))?;
    inner.split_once("]]")
}

/// Blanks count once.
fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

type Words = BTreeMap<String, String>;

impl Pattern {
    /// The words with which a line holds the pattern.
    fn find(&self, line: &str, words: &Words) -> Option<Words> {
        line.char_indices().map(|(at, _)| at).find_map(|at| matches(&self.parts, &line[at..], words))
    }
}

fn matches(parts: &[Part], text: &str, words: &Words) -> Option<Words> {
    let Some((first, rest)) = parts.split_first() else { return Some(words.clone()) };
    match first {
        Part::Text(want) => matches(rest, text.strip_prefix(want.as_str())?, words),
        Part::Anything => {
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.into_iter().find_map(|at| matches(rest, &text[at..], words))
        }
        Part::Word(name) => {
            let len = text.find(|c: char| !(c.is_alphanumeric() || "_%$.".contains(c))).unwrap_or(text.len());
            let word = &text[..len];
            if word.is_empty() || words.get(name).is_some_and(|known| known != word) {
                return None;
            }
            let mut words = words.clone();
            words.insert(name.clone(), word.to_owned());
            matches(rest, &text[len..], &words)
        }
    }
}

/// Holds an output to the checks.
pub(super) fn run(checks: &[Check], output: &str) -> Result<(), String> {
    let lines: Vec<String> = output.lines().map(squeeze).collect();
    let mut words = Words::new();
    let mut at = 0;
    let mut forbidden: Vec<&Pattern> = Vec::new();
    let fail = |message: String| Err(format!("{message}\nin this output:\n{output}"));
    for check in checks {
        match check {
            Check::Not(pattern) => forbidden.push(pattern),
            Check::Count(want, pattern) => {
                let found = lines.iter().filter(|line| pattern.find(line, &Words::new()).is_some()).count();
                if found != *want {
                    return fail(format!("COUNT {want}: {}: found {found} times", pattern.source));
                }
            }
            Check::Find(pattern) => {
                let hit = (at..lines.len()).find_map(|i| Some((i, pattern.find(&lines[i], &words)?)));
                let Some((i, found)) = hit else {
                    return fail(format!("CHECK: {}: not found after line {at}", pattern.source));
                };
                clear(&forbidden, &lines[at..i], &words).or_else(fail)?;
                forbidden.clear();
                (at, words) = (i + 1, found);
            }
        }
    }
    clear(&forbidden, &lines[at..], &words).or_else(fail)
}

fn clear(forbidden: &[&Pattern], lines: &[String], words: &Words) -> Result<(), String> {
    for pattern in forbidden {
        if let Some(line) = lines.iter().find(|line| pattern.find(line, words).is_some()) {
            return Err(format!("CHECK-NOT: {}: found in `{line}`", pattern.source));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, output: &str) -> Result<(), String> {
        run(&parse(file)?, output)
    }

    const OUTPUT: &str = "ld.global  %r1, [%rd1];\nadd %r2, %r1, %r1;\nst.global [%rd1], %r2;\n";

    #[test]
    fn text_is_found_in_order() {
        assert_eq!(check("; CHECK: ld.global\n; CHECK: st.global", OUTPUT), Ok(()));
        assert!(
            check("; CHECK: st.global\n; CHECK: ld.global", OUTPUT)
                .unwrap_err()
                .contains("not found after line 3")
        );
    }

    #[test]
    fn words_are_the_same_each_time() {
        assert_eq!(check("; CHECK: ld.global [[A]], \n; CHECK: add [[B]], [[A]], [[A]]", OUTPUT), Ok(()));
        assert!(check("; CHECK: ld.global [[A]],\n; CHECK: add [[A]],", OUTPUT).is_err());
        assert_eq!(check("; CHECK: ld{{*}}[%rd1]", OUTPUT), Ok(()));
        assert_eq!(check("; CHECK: ld{{*}}[[[P]]]\n; CHECK: st.global [[[P]]], ", OUTPUT), Ok(()));
    }

    #[test]
    fn forbidden_text_and_counts() {
        assert_eq!(check("; CHECK: ld\n; CHECK-NOT: mul\n; CHECK: st", OUTPUT), Ok(()));
        assert!(
            check("; CHECK: ld\n; CHECK-NOT: add\n; CHECK: st", OUTPUT)
                .unwrap_err()
                .starts_with("CHECK-NOT: add")
        );
        assert!(check("; CHECK: ld\n; CHECK-NOT: st", OUTPUT).is_err());
        assert_eq!(check("; COUNT 2: global", OUTPUT), Ok(()));
        assert!(check("; COUNT 1: global", OUTPUT).unwrap_err().contains("found 2 times"));
    }

    #[test]
    fn a_mistyped_check_is_no_silent_success() {
        assert!(parse("; CHECKNOT: x").is_err());
        assert!(parse("; COUNT x").is_err());
        assert!(parse("; CHECK:").is_err());
    }
}
