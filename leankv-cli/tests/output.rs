//! How output looks where it goes: widths, colours, links; completions and manual pages.

mod common;

use std::process::{Command, Output};

use common::{fails, json, leankv, leankv_in, stdout};

/// Runs `leankv` into pipes, with a terminal that has colours as far as variables say.
fn piped(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let cache = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_leankv"))
        .args(args)
        .env("LEANKV_CACHE_DIR", cache.path())
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .env_remove("COLUMNS")
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn nothing_in_a_pipe_has_colours() {
    let verbose = ["compile", "vector_add", "--target", "sm_80", "-vv"];
    for args in [
        &["--help"][..],
        &["compile", "--help"],
        &["no-such-command"],
        &["compile", "sofmax"],
        &["compile", "softmax", "--set", "block=100"],
        &["list"],
        &["verify", "vector_add"],
        &verbose,
    ] {
        let output = piped(args, &[]);
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{args:?}: {output:?}");
    }
    assert!(!piped(&verbose, &[]).stderr.is_empty(), "the log goes to standard error");
}

/// Runs `leankv` with a terminal of some columns as its standard output and standard error; gives what it shows.
#[cfg(unix)]
fn on_terminal(columns: u16, args: &[&str], variables: &[(&str, &str)]) -> String {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::process::Stdio;

    let (mut ours, mut theirs) = (0, 0);
    let size = libc::winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the numbers and the size outlive the call, and a null name and null settings are allowed.
    let opened = unsafe {
        libc::openpty(
            &mut ours,
            &mut theirs,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::from_ref(&size),
        )
    };
    assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: both were just opened, and nothing else owns them.
    let (mut ours, theirs) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    let cache = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_leankv"));
    command
        .args(args)
        .env("LEANKV_CACHE_DIR", cache.path())
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(theirs.try_clone().unwrap())
        .stderr(theirs);
    let mut child = command.spawn().unwrap();
    // Only the child holds the other end now, so its end is the end of what can be read: an error, on Linux.
    drop(command);
    let (mut shown, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = ours.read(&mut part) {
        shown.extend_from_slice(&part[..read]);
    }
    assert!(child.wait().unwrap().success());
    String::from_utf8(shown).unwrap()
}

#[cfg(unix)]
#[test]
fn a_terminal_has_colours_unless_they_are_refused() {
    let verbose = ["compile", "vector_add", "--target", "sm_80", "-vv", "-o", "/dev/null"];
    assert!(on_terminal(100, &verbose, &[]).contains('\u{1b}'));
    for refusal in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let shown = on_terminal(100, &verbose, &[refusal]);
        assert!(shown.contains("DEBUG") && !shown.contains('\u{1b}'), "{shown}");
    }
}

/// The widest line from a table's head on, in characters.
fn widest(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let rule = lines
        .iter()
        .position(|line| line.contains('─'))
        .unwrap_or_else(|| panic!("there is no table: {text}"));
    lines[rule.saturating_sub(1)..].iter().map(|line| line.trim_end().chars().count()).max().unwrap()
}

const TABLES: [&[&str]; 6] = [
    &["list"],
    &["list", "decode_attention"],
    &["inspect", "vector_add"],
    &["verify", "vector_add"],
    &["profile", "vector_add"],
    &["fetch-model"],
];

#[test]
fn tables_have_as_many_columns_as_the_variable_says_or_100() {
    for args in TABLES {
        for columns in ["60", "80"] {
            let text = stdout(&piped(args, &[("COLUMNS", columns)]));
            assert!(widest(&text) <= columns.parse().unwrap(), "{args:?} in {columns} columns:\n{text}");
        }
        for variables in [&[][..], &[("COLUMNS", "none")], &[("COLUMNS", "0")]] {
            let text = stdout(&piped(args, variables));
            assert!(widest(&text) <= 100, "{args:?}:\n{text}");
        }
        let wide = stdout(&piped(args, &[("COLUMNS", "240")]));
        assert!(wide.lines().count() <= stdout(&piped(args, &[])).lines().count(), "{wide}");
    }
    let (narrow, wide) = (piped(&["list"], &[]), piped(&["list"], &[("COLUMNS", "240")]));
    assert!(widest(&stdout(&wide)) > 100 && widest(&stdout(&narrow)) > 80, "the room is used");
}

#[cfg(unix)]
#[test]
fn tables_fit_the_terminal() {
    for args in TABLES {
        let shown = on_terminal(72, args, &[("COLUMNS", "200")]);
        assert!(widest(&shown) <= 72, "{args:?}:\n{shown}");
    }
}

#[test]
fn list_shows_no_links_of_rustdoc() {
    let cache = tempfile::tempdir().unwrap();
    let all = json(&leankv(&["list", "--json"]));
    let mut texts = vec![stdout(&leankv(&["list"])), all.to_string()];
    for kernel in all.as_array().unwrap() {
        let name = kernel["kernel"].as_str().unwrap();
        texts.push(stdout(&leankv_in(cache.path(), &["list", name])));
        texts.push(stdout(&leankv_in(cache.path(), &["list", name, "--json"])));
    }
    for text in &texts {
        assert!(!text.contains("](") && !text.contains("[`"), "{text}");
    }
    // The text of a link stays.
    assert!(texts.iter().any(|text| text.contains("Merges the splits of `decode_attention`")));
}

/// The names of all sub-commands.
fn names() -> Vec<String> {
    leankv_cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

#[test]
fn completions_name_every_sub_command_and_bash_uses_them() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&leankv(&["completions", shell]));
        for name in names() {
            assert!(script.contains(&name), "{shell}: {name} is missing");
        }
    }
    fails(&["completions", "tcsh"], 2, &["tcsh", "bash", "fish"]);
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("leankv");
    std::fs::write(&script, stdout(&leankv(&["completions", "bash"]))).unwrap();
    let completed = |words: &str| {
        let ask = format!(
            "set -e; . {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _leankv leankv \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        stdout(&Command::new("bash").args(["-c", &ask]).output().unwrap()).trim().to_owned()
    };
    assert_eq!(completed("leankv ver"), "verify");
    assert_eq!(completed("leankv compile softmax --every"), "--every-spec");
    assert_eq!(completed("leankv completions fi"), "fish");
}

#[test]
fn every_sub_command_has_a_manual_page_that_keeps_its_examples() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("share").join("man1");
    stdout(&leankv(&["man", folder.to_str().unwrap()]));
    let page = |name: &str| {
        let path = folder.join(format!("{name}.1"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    for name in names() {
        let page = page(&format!("leankv-{name}"));
        for part in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"] {
            assert!(page.contains(part), "`{part}` is missing in:\n{page}");
        }
    }
    let main = page("leankv");
    assert_eq!(main, stdout(&leankv(&["man"])));
    for part in ["leankv\\-serve\\-bench(1)", ".SH \"EXIT CODES\"\n.nf\n"] {
        assert!(main.contains(part), "`{part}` is missing in:\n{main}");
    }
    let run = page("leankv-run");
    let examples = run.split_once(".SH EXAMPLES\n.nf\n").map(|(_, rest)| rest.split_once("\n.fi").unwrap().0);
    let lines = examples.unwrap_or_else(|| panic!("{run}")).lines().count();
    assert!(lines > 4, "the lines of examples are kept apart:\n{run}");
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    fails(&["man", file.join("man1").to_str().unwrap()], 3, &["file"]);
}
