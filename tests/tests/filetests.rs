//! Runs `filetests/**/*.tile`, one trial a file. `LEANKV_BLESS=1` rewrites what the files expect.

use std::path::{Path, PathBuf};

use leankv_tests::conformance::executors;
use leankv_tests::filetest::run_file;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let bless = std::env::var("LEANKV_BLESS").is_ok_and(|value| value == "1");
    let mut names = Vec::new();
    collect(&root, &root, &mut names);
    names.sort();
    let trials = names
        .into_iter()
        .map(|name| {
            let root = root.clone();
            Trial::test(name.clone(), move || {
                run_file(&root, &name, &executors::all(), bless).map_err(Failed::from)
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// The names of test files, with `/` between folders on every system.
fn collect(root: &Path, dir: &Path, names: &mut Vec<String>) {
    let entries = std::fs::read_dir(dir).expect("the folder of file tests can be read");
    let paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    for path in paths {
        if path.is_dir() {
            collect(root, &path, names);
        } else if path.extension().is_some_and(|extension| extension == "tile") {
            let below = path.strip_prefix(root).expect("it was found below the root");
            let parts: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            names.push(parts.join("/"));
        }
    }
}
