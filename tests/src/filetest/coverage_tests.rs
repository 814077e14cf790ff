//! The file tests cover what there is: every op runs, every rule of the verifier is broken.

use std::collections::BTreeSet;
use std::path::Path;

use leankv_dsl::diag::{CODES, INTERNAL_WORDS};
use leankv_dsl::ir::{self, AtomicOp, BinaryOp, CmpOp, Combine, CombineKind, Op, UnaryOp};

/// The ops without variants of their own.
const OTHERS: &[&str] = &[
    "program_id",
    "num_programs",
    "constant",
    "iota",
    "splat",
    "fma",
    "cmp",
    "select",
    "cast",
    "bitcast",
    "reshape",
    "transpose",
    "expand_dims",
    "broadcast",
    "join",
    "split",
    "reduce",
    "scan",
    "dot",
    "gather",
    "ptr_cast",
    "ptr_add",
    "load",
    "store",
    "atomic_rmw",
    "atomic_cas",
    "pack",
    "unpack",
    "quantize",
    "dequantize",
    "assert",
    "print",
    "inline_ptx",
    "for",
    "while",
    "if",
    "yield",
    "return",
    "convert_layout",
    "local_alloc",
    "async_copy",
    "async_commit",
    "async_wait",
    "local_load",
    "local_store",
    "barrier",
];

fn texts(folder: &str) -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests").join(folder);
    let entries = std::fs::read_dir(dir).expect("the folder of file tests can be read");
    entries.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn every_op_and_every_variant_of_it_runs_in_a_file() {
    let mut wanted: BTreeSet<String> = OTHERS.iter().map(|&name| name.to_owned()).collect();
    wanted.extend(UnaryOp::ALL.iter().map(|op| op.to_string()));
    wanted.extend(BinaryOp::ALL.iter().map(|op| op.to_string()));
    wanted.extend(CmpOp::ALL.iter().map(|op| format!("cmp {op}")));
    wanted
        .extend(CombineKind::ALL.iter().flat_map(|kind| [format!("reduce {kind}"), format!("scan {kind}")]));
    wanted.extend(AtomicOp::ALL.iter().map(|op| format!("atomic_rmw {op}")));
    wanted.extend(["reduce by region", "scan by region", "scan reverse"].map(str::to_owned));

    let mut found = BTreeSet::new();
    for text in texts("run") {
        for func in ir::parse_all("run", &text).unwrap() {
            for inst in func.walk() {
                let op = &func.inst(inst).op;
                found.insert(op.name().to_owned());
                match op {
                    Op::Cmp(cmp) => {
                        found.insert(format!("cmp {cmp}"));
                    }
                    Op::AtomicRmw { op, .. } => {
                        found.insert(format!("atomic_rmw {op}"));
                    }
                    Op::Reduce { combine, .. } | Op::Scan { combine, .. } => {
                        found.insert(match combine {
                            Combine::Kind(kind) => format!("{} {kind}", op.name()),
                            Combine::Region => format!("{} by region", op.name()),
                        });
                        if let Op::Scan { reverse: true, .. } = op {
                            found.insert("scan reverse".to_owned());
                        }
                    }
                    _ => {}
                }
            }
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
