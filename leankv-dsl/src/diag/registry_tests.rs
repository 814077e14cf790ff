//! Holds codes, their pages and their tests together.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{CODES, INTERNAL_WORDS, explain};
use crate::ir;

/// What a code points to, in the manner of `explain`.
fn fences(page: &str) -> Vec<(&str, &str)> {
    let mut out = Vec::new();
    let mut parts = page.split("```");
    parts.next();
    while let Some(block) = parts.next() {
        let (lang, text) = block.split_once('\n').unwrap_or((block, ""));
        out.push((lang, text));
        parts.next();
    }
    out
}

#[test]
fn every_page_has_a_title_a_wrong_and_a_right_example() {
    for code in CODES {
        assert!(code.page.starts_with(&format!("# {}: ", code.code)), "{}: title", code.code);
        assert!(!code.title().ends_with('.') && !code.title().is_empty(), "{}: {}", code.code, code.title());
        let wrong = code.page.find("\nWrong:\n").unwrap_or_else(|| panic!("{}: no wrong example", code.code));
        let right = code.page.find("\nRight:\n").unwrap_or_else(|| panic!("{}: no right example", code.code));
        assert!(wrong < right, "{}", code.code);
        let examples = fences(code.page).len();
        assert!(
            examples >= 2 && examples.is_multiple_of(2),
            "{}: a right example for each wrong one",
            code.code
        );
    }
    assert!(CODES.is_sorted_by_key(|code| code.code));
}

/// The codes that a piece of IR text gives.
fn codes_of(text: &str) -> Vec<&'static str> {
    match ir::parse("example.tile", text) {
        Err(error) => vec![error.code],
        Ok(func) => match ir::verify(&func) {
            Err(errors) => errors.iter().map(|e| e.code).collect(),
            Ok(()) => Vec::new(),
        },
    }
}

#[test]
fn the_examples_of_a_page_give_its_code_and_nothing() {
    let mut checked = 0;
    for code in CODES {
        let examples = fences(code.page);
        if examples[0].0 == "tile" {
            assert_eq!(codes_of(examples[0].1), [code.code], "{}: the wrong example", code.code);
            assert_eq!(codes_of(examples[1].1), [""; 0], "{}: the right example", code.code);
            checked += 1;
        }
    }
    assert!(checked >= 20, "only {checked} pages have examples in IR text");
}

#[test]
fn explain_knows_codes_in_either_case_and_nothing_else() {
    assert!(explain("k0101").is_some_and(|page| page.starts_with("# K0101: ")));
    assert_eq!(explain("K9999"), None);
    assert_eq!(explain(""), None);
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, out);
        } else if ["rs", "tile", "stderr"].iter().any(|ext| path.extension().is_some_and(|e| e == *ext)) {
            out.push(path);
        }
    }
}

/// Codes in a text: `K` and four digits.
fn mentioned(text: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for (at, _) in text.match_indices('K') {
        let code: String = text[at..].chars().take(5).collect();
        if code.len() == 5 && code[1..].bytes().all(|b| b.is_ascii_digit()) {
            out.insert(code);
        }
    }
    out
}

#[test]
fn every_code_in_the_sources_is_registered_and_every_registered_code_is_used_and_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let mut files = Vec::new();
    for dir in ["leankv-dsl/src", "leankv-dsl/tests", "leankv-macros", "tests", "kernels-src"] {
        sources(&root.join(dir), &mut files);
    }
    let mut used = BTreeSet::new();
    let mut tested = BTreeSet::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        if name.contains("/diag/") {
            continue;
        }
        let extension = path.extension().unwrap_or_default();
        let is_test = extension != "rs" || name.starts_with("tests/") || name.contains("tests");
        let (code, tests) = match text.split_once("#[cfg(test)]\nmod tests {") {
            Some((code, tests)) => (code, tests),
            None if is_test => ("", &*text),
            None => (&*text, ""),
        };
        used.extend(mentioned(code));
        tested.extend(mentioned(tests));
    }
    // The examples of the pages run in a test above, those of faults in one of the interpreter.
    for code in CODES.iter().filter(|code| fences(code.page)[0].0.starts_with("tile")) {
        tested.insert(code.code.to_owned());
    }
    // Made in the module of diagnostics itself.
    used.extend(["K0108", "K0109"].map(str::to_owned));
    let known: BTreeSet<String> = CODES.iter().map(|code| code.code.to_owned()).collect();
    let missing: Vec<_> = used.difference(&known).collect();
    assert!(missing.is_empty(), "codes without a page in leankv-dsl/src/diag/explain: {missing:?}");
    let stale: Vec<_> = known.difference(&used).collect();
    assert!(stale.is_empty(), "pages of codes that nothing gives: {stale:?}");
    let untested: Vec<_> = known.difference(&tested).collect();
    assert!(untested.is_empty(), "codes that no test produces: {untested:?}");
}

#[test]
fn messages_name_nothing_internal() {
    for code in CODES {
        let (lang, wrong) = fences(code.page)[0];
        for word in INTERNAL_WORDS.iter().filter(|_| lang == "tile") {
            assert!(!code.page.contains(word), "{}: the page says `{word}`", code.code);
            let shown = match ir::parse("example.tile", wrong) {
                Err(error) => error.to_string(),
                Ok(func) => ir::verify(&func).map_or_else(|errors| errors.to_string(), |()| String::new()),
            };
            assert!(!shown.contains(word), "the message says `{word}`:\n{shown}");
        }
    }
}
