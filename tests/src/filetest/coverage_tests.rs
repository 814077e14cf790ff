//! The file tests cover what there is: every op runs, every rule of the verifier is broken.

use std::collections::BTreeSet;
use std::path::Path;

use leankv_dsl::diag::{CODES, INTERNAL_WORDS};
use leankv_dsl::ir;

use crate::op_coverage;

fn texts(folder: &str) -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests").join(folder);
    let entries = std::fs::read_dir(dir).expect("the folder of file tests can be read");
    entries.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn every_op_and_every_variant_of_it_runs_in_a_file() {
    let wanted = op_coverage::wanted();
    let mut found = BTreeSet::new();
    for text in texts("run") {
        for func in ir::parse_all("run", &text).unwrap() {
            op_coverage::meet(&func, &mut found);
        }
    }
    let missing: Vec<_> = wanted.difference(&found).collect();
    assert!(missing.is_empty(), "no file in filetests/run has {missing:?}");
    let unknown: Vec<_> = found.difference(&wanted).collect();
    assert!(unknown.is_empty(), "ops that the list above does not know: {unknown:?}");
}

#[test]
fn every_rule_of_types_and_of_the_verifier_is_broken_in_a_file() {
    let all = texts("verify").concat();
    // Not to be said in IR text: the builder's refusals, and ops that stand in two places.
    let elsewhere = ["K0108", "K0109", "K0213"];
    for code in CODES.iter().map(|code| code.code) {
        let ours = code.starts_with("K01") || code.starts_with("K02");
        if ours && !elsewhere.contains(&code) {
            assert!(all.contains(&format!("; error: {code}: ")), "no file in filetests/verify breaks {code}");
        }
    }
}

#[test]
fn messages_name_nothing_internal() {
    let mut seen = 0;
    for line in texts("verify").concat().lines().chain(texts("parse").concat().lines()) {
        for message in line.split("; error:").skip(1) {
            seen += 1;
            let word = INTERNAL_WORDS.iter().find(|word| message.contains(**word));
            assert_eq!(word, None, "{message}");
        }
    }
    assert!(seen > 100, "{seen}");
}
