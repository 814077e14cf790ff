//! `leankv tune kernel`.

mod common;

use common::{fails, json, leankv, stdout};

#[test]
fn tune_kernel_keeps_what_it_measured_and_leaves_other_files_alone() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("tuned.json");
    let table = table.to_str().unwrap();
    let plan = stdout(&leankv(&["tune", "kernel", "vector_add", "--dry-run"]));
    assert!(plan.contains("block: 64, 256, 1024, 4096, 16384") && plan.contains("5 candidates"), "{plan}");

    let tune = ["tune", "kernel", "vector_add", "--shapes", "n=3000", "--table", table];
    let found = json(&leankv(&[&tune[..], &["--json"]].concat()));
    let trials = found["trials"].as_array().unwrap();
    // The walk may turn round before its end.
    assert!((3..=5).contains(&trials.len()) && trials[0]["set"]["block"] == "256", "{found}");
    assert!(trials.iter().all(|trial| trial["outcome"]["kind"] == "timed"), "{found}");
    let kept: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(table).unwrap()).unwrap();
    let entry = &kept["tuned"][0];
    assert_eq!(
        (&entry["kernel"], &entry["set"], &entry["sizes"]["n"]),
        (&found["kernel"], &found["set"], &3000.into())
    );

    let shown = stdout(&leankv(&["tune", "kernel", "vector_add", "--device", "h200", "--shapes", "n=3000"]));
    assert!(
        shown.contains("us, modelled")
            && shown.contains("kept in no table")
            && shown.contains("--set block="),
        "{shown}"
    );

    std::fs::write(table, "not a table").unwrap();
    fails(&tune, 2, &["no table of tuned kernels", "remove it"]);
    assert_eq!(std::fs::read_to_string(table).unwrap(), "not a table");
    for (wrong, parts) in [
        (&["quantize"][..], &["declares nothing to tune", "leankv list"][..]),
        (&["vector_add", "--device", "h20"], &["did you mean `h200`", "modelled"]),
        (&["vector_add", "--device", "cuda:x"], &["`x` is no number of a GPU"]),
        (&["vector_add", "--shapes", "m=3"], &["there is no shape `m`"]),
        (&["vector_add", "--set", "blok=3"], &["blok"]),
        (&["vector_add", "--time", "5"], &["90s"]),
    ] {
        fails(&[&["tune", "kernel"], wrong].concat(), 2, parts);
    }
}
