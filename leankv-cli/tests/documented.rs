//! Every command that users copy is run: those of README.md, of leankv-ptx/README.md and of every `--help`, as they stand there, by a
//! shell, in a folder that looks like a checkout.
//!
//! What is not run as it stands, by rules that hold for every command:
//!
//! * `make X`: the Makefile has the target. `cargo ..`: packages, programs, tests, benches and manifests that it names exist, and what stands
//!   behind `-p leankv-cli --` is a command line of `leankv`. (`examples/tests/programs.rs` runs the examples.)
//! * `leankv demo`, `leankv results` and `leankv tune` take minutes to hours: their arguments are parsed.
//! * Commands with a language model are [shortened](SHORTER): less text, fewer questions. `run` and tasks have SmolLM2-135M, whatever model they
//!   name; `eval`, `calibrate` and `serve-bench` have a tiny one with random weights. Neither has a bias on its keys that could be taken out, so
//!   `+hadamard` stands for `+offset`. Of several tasks the last one is run, without `--kv` over one cache instead of the usual ones.
//! * Mentions in running text, such as `` `leankv compile --bundle` ``, name a sub-command and options that there are.
//!
//! A user's own files are here: `my.gguf` is SmolLM2-135M, and `page.txt` the first page of a novel.

mod common;
mod documents;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::stdout;
use documents::{Shown, commands, comments, document, files, mentions, root};

/// Documents whose blocks for a shell (`sh`) are run.
const DOCUMENTS: [&str; 2] = ["README.md", "leankv-ptx/README.md"];

/// What commands that run a language model get in place of their own numbers.
const SHORTER: [(&str, &[(&str, &str)]); 4] = [
    ("run", &[("--max-tokens", "4")]),
    ("eval", &[("--ctx", "64"), ("--chunks", "1"), ("--questions", "1"), ("--passkey-tokens", "200")]),
    ("calibrate", &[("--ctx", "64"), ("--chunks", "1"), ("--high", "1"), ("--low", "0.02")]),
    ("serve-bench", &[("--requests", "2"), ("--prompt-tokens", "16..24"), ("--output-tokens", "3..5")]),
];

/// Sub-commands that take too long for a test.
const LONG: [&str; 3] = ["demo", "results", "tune"];

const MODEL: &str = "smollm2-135m";

/// The cache folder.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/documented");

/// A folder that looks like a checkout, with a home of its own.
struct Checkout {
    folder: tempfile::TempDir,
}

impl Checkout {
    fn new() -> Checkout {
        let model = leankv_model::fetch::path(MODEL).expect("fetch it: leankv fetch-model smollm2-135m");
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let link = |from: &Path, to: &str| std::os::unix::fs::symlink(from, at(to)).unwrap();
        link(&root().join("data"), "data");
        // The assembler, where it was set up.
        link(&root().join(".tools"), ".tools");
        fs::copy(root().join("leankv.toml"), at("leankv.toml")).unwrap();
        link(&model, "my.gguf");
        leankv_model::testing::write_tiny_gguf(&at("tiny.gguf"), 1);
        // Compiled kernels are kept, for all tests of this file and for the next time.
        let models = Path::new(CACHE).join("models");
        fs::create_dir_all(CACHE).unwrap();
        let _ = std::os::unix::fs::symlink(model.parent().unwrap(), &models);
        assert_eq!(models.canonicalize().unwrap(), model.parent().unwrap().canonicalize().unwrap());
        let novel = fs::read_to_string(root().join("data/emma.txt")).unwrap();
        fs::write(at("page.txt"), &novel[..1000]).unwrap();
        Checkout { folder }
    }

    /// Runs a command by a shell.
    fn shell(&self, command: &str) -> Output {
        let programs = Path::new(env!("CARGO_BIN_EXE_leankv")).parent().unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path =
            std::env::join_paths([programs.to_owned()].into_iter().chain(std::env::split_paths(&path)));
        Command::new("sh")
            .args(["-c", command])
            .current_dir(self.folder.path())
            .env("PATH", path.unwrap())
            .env("HOME", self.folder.path())
            .env("LEANKV_CACHE_DIR", CACHE)
            .env("PIP_NO_INDEX", "1")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn runs(&self, shown: &Shown) {
        let Some(command) = shortened(shown) else { return };
        let output = self.shell(&command);
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{shown}\nrun as: {command}\n{}\n{out}\n{error}", output.status);
    }
}

/// The words of a command, up to a pipe or a redirection; a shell's comments are none.
fn words(text: &str) -> Vec<String> {
    shlex::split(text).unwrap_or_else(|| panic!("quotes do not fit: {text}"))
}

/// The command lines of `leankv` within a command.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let words = words(text);
    let ends = |word: &String| ["|", ">", ">>", "2>", "&&", "<"].contains(&word.as_str());
    let is_command =
        |at: usize| words[at] == "leankv" && (at == 0 || ["|", "&&"].contains(&words[at - 1].as_str()));
    let starts = (0..words.len()).filter(|&at| is_command(at));
    starts.map(|at| words[at..].iter().take_while(|word| !ends(word)).cloned().collect()).collect()
}

/// The sub-command that a command line parses to.
#[track_caller]
fn parsed(shown: &Shown, line: &[String]) -> String {
    match leankv_cli::command().try_get_matches_from(line) {
        Ok(matches) => matches.subcommand_name().unwrap_or_default().to_owned(),
        Err(error) => panic!("{shown}\n{error}"),
    }
}

/// The command as it is run: with SmolLM2-135M, and shortened; none, if it takes too long for that. Its arguments are parsed as they stand.
fn shortened(shown: &Shown) -> Option<String> {
    let mut text = shown.text.clone();
    for line in command_lines(&shown.text) {
        let name = parsed(shown, &line);
        if LONG.contains(&name.as_str()) {
            return None;
        }
        let Some((_, numbers)) = SHORTER.iter().find(|(short, _)| *short == name) else { continue };
        for (option, number) in *numbers {
            text = without(&text, option);
            text = text.replacen(&format!("leankv {name}"), &format!("leankv {name} {option} {number}"), 1);
        }
        let at = line.iter().position(|word| word == "--model").expect("commands of models name one");
        let tasks = line.iter().skip_while(|word| *word != "--task").nth(1);
        if let Some((others, last)) = tasks.and_then(|tasks| tasks.rsplit_once(',')) {
            text = text.replace(&format!("--task {others},{last}"), &format!("--task {last}"));
        }
        // A file is there under the name that is shown.
        if !line[at + 1].ends_with(".gguf") {
            let model = if name == "run" || tasks.is_some() { MODEL } else { "tiny.gguf" };
            text = text.replace(&format!("--model {}", line[at + 1]), &format!("--model {model}"));
        }
        if tasks.is_some() && !line.contains(&"--kv".to_owned()) {
            text = text.replacen(&format!("leankv {name}"), &format!("leankv {name} --kv k8v4"), 1);
        }
        text = text.replace("+offset", "+hadamard");
    }
    Some(text)
}

/// A command without an option and its value.
fn without(text: &str, option: &str) -> String {
    let Some(at) = text.find(&format!("{option} ")) else { return text.to_owned() };
    let rest = text[at + option.len()..].trim_start();
    let value = rest.find(char::is_whitespace).unwrap_or(rest.len());
    format!("{}{}", &text[..at], &rest[value..])
}

/// The names of the targets of the Makefile.
fn make_targets() -> BTreeSet<String> {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let name = |line: &str| {
        Some(line.split_once(':')?.0.to_owned()).filter(|name| !name.contains([' ', '\t', '=', '.']))
    };
    makefile.lines().filter_map(name).collect()
}

/// Packages of the workspace, each with its targets as pairs of a kind and a name.
fn packages() -> Vec<(String, Vec<(String, String)>)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    let metadata: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let targets = |package: &serde_json::Value| {
        let all = package["targets"].as_array().unwrap();
        all.iter().map(|target| (text(&target["kind"][0]), text(&target["name"]))).collect()
    };
    let all = metadata["packages"].as_array().unwrap();
    all.iter().map(|package| (text(&package["name"]), targets(package))).collect()
}

/// What `make` and `cargo` are told to do exists. `words` begin with the program, after variables.
#[track_caller]
fn exists(shown: &Shown, words: &[String]) {
    if words[0] == "make" {
        let known = make_targets();
        for target in words[1..].iter().filter(|word| !word.contains('=')) {
            assert!(known.contains(target), "{shown}\nthe Makefile has no target `{target}`: {known:?}");
        }
        return;
    }
    let packages = packages();
    let (words, program) = match words.iter().position(|word| word == "--") {
        Some(at) => (&words[..at], &words[at + 1..]),
        None => (words, &[][..]),
    };
    let options = |names: &[&str]| -> Vec<&String> {
        let of = |pair: &&[String]| names.contains(&pair[0].as_str());
        words.windows(2).filter(of).map(|pair| &pair[1]).collect()
    };
    let named = options(&["-p", "--package"]);
    for package in &named {
        assert!(
            packages.iter().any(|(name, _)| name == *package),
            "{shown}\nthere is no package `{package}`"
        );
    }
    for kind in ["bin", "test", "bench", "example"] {
        for target in options(&[&format!("--{kind}")]) {
            let of_package = |name: &String| named.is_empty() || named.contains(&name);
            let found = |(of, name): &(String, String)| of == kind && name == target;
            let mut targets =
                packages.iter().filter(|(name, _)| of_package(name)).flat_map(|(_, targets)| targets);
            assert!(targets.any(found), "{shown}\nthere is no {kind} `{target}`");
        }
    }
    for manifest in options(&["--manifest-path"]) {
        assert!(root().join(manifest).is_file(), "{shown}\nthere is no {manifest}");
    }
    let known = ["run", "test", "bench", "build", "doc", "fuzz"];
    assert!(known.contains(&words[1].as_str()), "{shown}\n`cargo {}` is none of {known:?}", words[1]);
    if named.iter().any(|name| *name == "leankv-cli") && !program.is_empty() && words[1] == "run" {
        parsed(shown, &[&["leankv".to_owned()], program].concat());
    }
}

/// Runs a command, or looks for what it names.
#[track_caller]
fn check(checkout: &Checkout, shown: &Shown) {
    let words: Vec<String> = words(&shown.text).into_iter().skip_while(|word| word.contains('=')).collect();
    match words.first().map(String::as_str) {
        Some("make" | "cargo") => exists(shown, &words),
        _ => checkout.runs(shown),
    }
}

/// What a mention names exists: a sub-command and its options, a target, a package.
#[track_caller]
fn check_mention(shown: &Shown) {
    let words = words(&shown.text);
    if words[0] != "leankv" {
        return exists(shown, &words);
    }
    let all = leankv_cli::command();
    // `leankv .. | head` is about any of them.
    if words[1].starts_with('-') || words[1] == ".." {
        return;
    }
    let Some(command) = all.find_subcommand(&words[1]) else {
        panic!("{shown}\nthere is no sub-command `{}`", words[1]);
    };
    for option in words.iter().filter_map(|word| word.strip_prefix("--")).filter(|option| !option.is_empty())
    {
        let known =
            command.get_arguments().chain(all.get_arguments()).any(|arg| arg.get_long() == Some(option));
        assert!(known || option == "help", "{shown}\n`leankv {}` has no option `--{option}`", words[1]);
    }
}

fn in_file(path: &str, first: usize) -> impl Fn(usize) -> String {
    move |at| format!("{path}:{}", first + at)
}

#[test]
fn commands_of_documents_run() {
    let checkout = Checkout::new();
    for path in DOCUMENTS {
        let (blocks, _) = document(path);
        let mut programs = BTreeSet::new();
        for block in blocks {
            let lines = block.lines.iter().map(String::as_str);
            let program = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
            if block.language != "sh" {
                for line in lines {
                    let command = ["leankv", "make", "cargo"].contains(&program(line).as_str());
                    assert!(!command, "{path}: `{line}` is a command in a block that is not marked as `sh`");
                }
                continue;
            }
            for shown in commands(in_file(path, block.line), lines) {
                check(&checkout, &shown);
                programs.insert(program(&shown.text));
            }
        }
        assert!(programs.contains("leankv") && programs.contains("make"), "{path}: {programs:?}");
    }
}

/// `--help` of a sub-command, as a narrow terminal gets it.
fn help(name: &str) -> String {
    let arguments = [name, "--help"].into_iter().filter(|word| !word.is_empty());
    stdout(&Command::new(env!("CARGO_BIN_EXE_leankv")).args(arguments).env("COLUMNS", "80").output().unwrap())
}

/// The lines below a heading of a help text, up to an empty one.
fn section(help: &str, heading: &str) -> String {
    let (_, rest) = help.split_once(&format!("\n{heading}:\n")).unwrap_or_default();
    rest.split("\n\n").next().unwrap_or_default().to_owned()
}

/// The examples of a sub-command's help.
fn examples(name: &str) -> Vec<Shown> {
    let help = help(name);
    let shown = commands(|_| format!("leankv {name} --help"), section(&help, "Examples").lines());
    assert!(!shown.is_empty() || !help.contains("Example"), "{help}");
    shown
}

/// The names of all sub-commands.
fn names() -> Vec<String> {
    leankv_cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

#[test]
fn examples_of_every_help_run() {
    let mut with_examples = Vec::new();
    for name in names() {
        // Nothing is there from other examples.
        let checkout = Checkout::new();
        let shown = examples(&name);
        for shown in &shown {
            check(&checkout, shown);
        }
        if !shown.is_empty() {
            with_examples.push(name);
        }
    }
    for name in ["compile", "verify", "profile", "eval", "run", "serve-bench", "completions", "man"] {
        assert!(with_examples.iter().any(|with| with == name), "{name} has no examples: {with_examples:?}");
    }
}

/// Values that the help of an option shows as code.
fn values(option: &str) -> BTreeSet<String> {
    let all = leankv_cli::command();
    let helps = all
        .get_subcommands()
        .flat_map(|command| command.get_arguments())
        .filter(|arg| arg.get_long() == Some(option));
    let help = |arg: &clap::Arg| arg.get_help().map(ToString::to_string).unwrap_or_default();
    let spans = |text: String| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    helps
        .flat_map(|arg| spans(help(arg)))
        .flat_map(|span| span.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn values_that_help_shows_are_taken() {
    let checkout = Checkout::new();
    let runs = |text: String| checkout.runs(&Shown { place: "values of --help".to_owned(), text });
    let caches = section(&help("run"), "Caches");
    for name in ["eval", "serve-bench"] {
        assert_eq!(section(&help(name), "Caches"), caches);
    }
    // A line begins with a cache; lines that explain it further begin with more spaces.
    let item = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    let names = caches.lines().skip(1).filter(item).filter_map(|line| line.split_whitespace().next());
    let names: Vec<&str> = names.collect();
    assert!(names.len() > 5, "{names:?}");
    runs(format!("leankv eval --model {MODEL} --kv {}", names.join(" ")));
    let shapes = values("shapes");
    assert!(!shapes.is_empty());
    for shapes in shapes {
        runs(format!("leankv verify decode_attention --shapes {shapes}"));
    }
}

#[test]
fn mentions_name_what_there_is() {
    let mut shown = Vec::new();
    for path in DOCUMENTS.iter().chain(&["ARCHITECTURE.md", "data/README.md", "RESULTS.template.md"]) {
        shown.extend(mentions(in_file(path, 1), &document(path).1));
    }
    for file in files(&root().join("leankv-cli/src"), ".rs") {
        let path = file.strip_prefix(root()).unwrap().display().to_string();
        shown.extend(mentions(in_file(&path, 1), &comments(&file)));
    }
    for name in names().into_iter().chain([String::new()]) {
        let lines: Vec<String> = help(&name).lines().map(str::to_owned).collect();
        shown.extend(mentions(|_| format!("leankv {name} --help"), &lines));
    }
    assert!(shown.len() > 40, "{shown:?}");
    shown.iter().for_each(check_mention);
}

/// The measurements of RESULTS.md take an hour: their arguments are parsed.
#[test]
fn commands_of_the_results_parse() {
    let (blocks, _) = document("RESULTS.template.md");
    let runs: Vec<_> = blocks.iter().filter(|block| block.language == "run").collect();
    assert!(!runs.is_empty());
    for block in runs {
        let text =
            block.lines.iter().map(|line| line.trim_end_matches('\\').trim()).collect::<Vec<_>>().join(" ");
        let shown = Shown { place: format!("RESULTS.template.md:{}", block.line), text };
        let name = parsed(&shown, &words(&shown.text));
        assert!(SHORTER.iter().any(|(known, _)| *known == name), "{shown}");
    }
}

/// The lines of a Rust block, without comments, stand in this order in a source file of the project, which is compiled and tested.
#[test]
fn rust_of_the_readme_is_that_of_compiled_files() {
    let sources: Vec<PathBuf> =
        ["examples", "tests", "kernels-src"].iter().flat_map(|f| files(&root().join(f), ".rs")).collect();
    let sources: Vec<String> = sources.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let (blocks, _) = document("README.md");
    let rust: Vec<_> = blocks.iter().filter(|block| block.language == "rust").collect();
    assert!(!rust.is_empty());
    for block in rust {
        let code = |line: &&str| !line.is_empty() && !line.starts_with("//");
        let lines: Vec<&str> = block.lines.iter().map(|line| line.trim()).filter(code).collect();
        let holds = |source: &String| {
            let mut rest = source.lines().map(str::trim);
            lines.iter().all(|line| rest.any(|other| other == *line))
        };
        assert!(
            sources.iter().any(holds),
            "README.md:{}: no source file has these lines:\n{}",
            block.line,
            lines.join("\n")
        );
    }
}
