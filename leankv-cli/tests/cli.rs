//! The command as a user meets it: output, messages and exit codes.

mod common;

use std::path::Path;
use std::process::Command;

use common::{fails, json, leankv, leankv_in, stdout};

#[test]
fn list_shows_every_kernel_and_the_settings_of_one() {
    let text = stdout(&leankv(&["list"]));
    for kernel in ["vector_add", "softmax", "matmul"] {
        assert!(text.contains(kernel), "{text}");
    }
    let all = json(&leankv(&["list", "--json"]));
    let names: Vec<&str> = all.as_array().unwrap().iter().map(|k| k["kernel"].as_str().unwrap()).collect();
    assert!(names.is_sorted(), "{names:?}");
    for kernel in all.as_array().unwrap() {
        assert!(kernel["doc"].as_str().unwrap().len() > 10, "{kernel}");
        assert!(kernel["specialisations"].as_u64().unwrap() > 0, "{kernel}");
    }
    let one = json(&leankv(&["list", "softmax", "--json"]));
    assert_eq!(one["kernel"], "softmax");
    assert!(!one["settings"].as_array().unwrap().is_empty(), "{one}");
    stdout(&leankv(&["list", "softmax"]));
}

#[test]
fn compile_prints_ptx_for_the_target_and_nothing_else() {
    let text = stdout(&leankv(&["compile", "softmax", "--target", "sm_80"]));
    assert!(text.starts_with("//") || text.starts_with(".version"), "{text}");
    assert!(text.contains(".target sm_80") && text.contains(".entry softmax"), "{text}");
}

#[test]
fn compile_writes_each_form_of_each_target_to_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let out_arg = out.to_str().unwrap();
    let emit = "tile,llvm,ptx,sass,resources";
    let output = leankv(&["compile", "vector_add", "--target", "sm_80,sm_90", "--emit", emit, "-o", out_arg]);
    assert_eq!(stdout(&output), "");
    let mut names: Vec<String> =
        std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.len(), 10, "{names:?}");
    for (ending, part) in [
        (".sm_80.tile", "kernel @vector_add"),
        (".sm_80.ll", "define"),
        (".sm_90.ptx", ".target sm_90"),
        (".sm_90.sass", "EXIT"),
        (".sm_90.json", "registers"),
    ] {
        let name =
            names.iter().find(|n| n.ends_with(ending)).unwrap_or_else(|| panic!("{ending}: {names:?}"));
        let text = std::fs::read_to_string(out.join(name)).unwrap();
        assert!(text.contains(part), "{name} lacks {part}");
    }
}

#[test]
fn a_second_compile_comes_from_the_cache_and_clearing_empties_it() {
    let cache = tempfile::tempdir().unwrap();
    let args = ["compile", "vector_add", "--target", "sm_80", "--emit", "ptx,resources", "--json"];
    let first = json(&leankv_in(cache.path(), &args));
    let second = json(&leankv_in(cache.path(), &args));
    assert_eq!((&first[0]["cached"], &second[0]["cached"]), (&false.into(), &true.into()));
    assert_eq!(first[0]["ptx"], second[0]["ptx"]);
    assert_eq!(first[0]["resources"]["assembled"]["spill_store_bytes"], 0);
    let cleared = stdout(&leankv_in(cache.path(), &["cache", "--clear"]));
    assert!(cleared.starts_with("removed 1 "), "{cleared}");
}

#[test]
fn the_same_kernel_gives_the_same_bytes_in_every_process() {
    for kernel in ["matmul", "decode_attention"] {
        let args = ["compile", kernel, "--target", "sm_80,sm_120"];
        assert_eq!(stdout(&leankv(&args)), stdout(&leankv(&args)));
    }
}

#[test]
fn llvm_ir_is_printed_cold_and_from_the_cache_and_costs_the_ptx_its_place_in_neither() {
    let cache = tempfile::tempdir().unwrap();
    let plain = ["compile", "vector_add", "--target", "sm_80", "--json"];
    let llvm = [&plain[..], &["--emit", "llvm"]].concat();
    let first = json(&leankv_in(cache.path(), &plain));
    assert_eq!(first[0]["cached"], false);
    for cached in [false, true] {
        let document = json(&leankv_in(cache.path(), &llvm));
        assert_eq!(document[0]["cached"], cached);
        let text = document[0]["llvm"].as_str().unwrap();
        assert!(text.contains("define") && text.contains("@vector_add"), "{text}");
    }
    let again = json(&leankv_in(cache.path(), &plain));
    assert_eq!((&again[0]["cached"], &again[0]["ptx"]), (&true.into(), &first[0]["ptx"]));
}

#[test]
fn inspect_shows_every_target() {
    let text = stdout(&leankv(&["inspect", "vector_add"]));
    for target in ["host", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"] {
        assert!(text.contains(target), "{text}");
    }
    let document = json(&leankv(&["inspect", "vector_add", "--target", "sm_90", "--json"]));
    assert_eq!(document["resources"][0]["target"], "sm_90");
}

#[test]
fn a_bundle_holds_every_specialisation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.lkvb");
    let output = leankv(&[
        "compile",
        "vector_add",
        "--every-spec",
        "--target",
        "sm_80",
        "--bundle",
        path.to_str().unwrap(),
    ]);
    assert_eq!(stdout(&output), "");
    let all = json(&leankv(&["list", "--json"]));
    let entry = all.as_array().unwrap().iter().find(|k| k["kernel"] == "vector_add").unwrap();
    let bundle = leankv_runtime::cache::Bundle::open(&path).unwrap();
    assert_eq!(bundle.len() as u64, entry["specialisations"].as_u64().unwrap());
}

#[test]
fn a_bundle_for_caches_has_all_kernels_of_any_size_of_cache_on_every_target() {
    use leankv_runtime::cache::{Bundle, KernelCache};
    use leankv_runtime::kv::{Basis, CacheConfig, KvCache, Means};
    use leankv_runtime::{Compiler, Device, Sm};
    use std::sync::Arc;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernels.lkvb");
    let kernels = ["--group", "2", "--head-dim", "64", "--page-bytes", "2048", "--chunk", "16"];
    let bundle = [
        "bundle-cache",
        "--bundle",
        path.to_str().unwrap(),
        "--target",
        "sm_80,sm_90",
        "--kv",
        "k8v4/k4v2:sinks=1",
        "@1/8",
    ];
    let output = leankv_in(&dir.path().join("cache"), &[&bundle[..], &kernels].concat());
    assert!(output.status.success(), "{output:?}");
    let compiler = Compiler::new(KernelCache::without_folder());
    compiler.cache().deny_jit(true);
    compiler.cache().add_bundle(Bundle::open(&path).unwrap());
    for [layers, kv_heads, slots, tokens] in [[1, 1, 1, 50], [4, 20, 3, 1000], [20, 20, 200, 5000]] {
        let config = CacheConfig {
            page_bytes: 2048,
            chunk: 16,
            window_q: 16,
            sinks: 1,
            ..CacheConfig::new([layers, kv_heads, 2, 64], slots, tokens, 100)
        };
        // The default formats, of a model whose means are known and of one whose are not.
        let rotated = CacheConfig {
            page_bytes: 2048,
            chunk: 16,
            window_q: 16,
            ..CacheConfig::rotated([layers, kv_heads, 2, 64], slots, tokens, 100)
        };
        let zeros = vec![0.0; layers * kv_heads * 64];
        let means = Some(Arc::new(Means { keys: zeros.clone(), values: zeros }));
        let centred = CacheConfig { basis: Basis { means, ..rotated.basis }, ..rotated.clone() };
        for config in [config, rotated, centred] {
            for sm in [Sm::Sm80, Sm::Sm90] {
                let device = Device::emulated(sm);
                KvCache::new(&compiler, &device, config.clone()).unwrap_or_else(|e| panic!("{e}"));
            }
        }
    }
    let other = CacheConfig::new([1, 1, 2, 64], 1, 50, 100);
    let error = KvCache::new(&compiler, &Device::emulated(Sm::Sm80), other).unwrap_err().to_string();
    assert!(error.contains("for sm_80") && error.contains("--bundle"), "{error}");
}

#[test]
fn what_a_bundle_holds_is_found_by_launches_that_must_not_compile_whatever_was_printed_beside_it() {
    use leankv_runtime::cache::{Bundle, KernelCache};
    use leankv_runtime::{Compiler, Device, Sm};

    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let kernel = leankv_kernels::find("vector_add").unwrap();
    let funcs: Vec<_> = kernel.space().iter().map(|settings| kernel.build(settings).unwrap()).collect();
    let devices = [Device::host(), Device::emulated(Sm::Sm80)];
    for beside in [&[][..], &["--emit", "llvm"], &["--emit", "tile"]] {
        let path = dir.path().join("k.lkvb");
        let bundle = ["compile", "vector_add", "--every-spec", "--bundle", path.to_str().unwrap()];
        let output = leankv_in(&cache, &[&bundle[..], &["--target", "host,sm_80"], beside].concat());
        assert_eq!(stdout(&output).contains("define"), beside.contains(&"llvm"));

        let production = Compiler::new(KernelCache::without_folder());
        production.cache().deny_jit(true);
        let bundle = Bundle::open(&path).unwrap();
        assert_eq!(bundle.len(), funcs.len() * devices.len(), "{beside:?}");
        production.cache().add_bundle(bundle);
        for func in &funcs {
            for device in &devices {
                production.kernel(device, func).unwrap_or_else(|error| panic!("{beside:?}: {error}"));
            }
        }
        assert_eq!(production.cache().stats().bundle_hits, (funcs.len() * devices.len()) as u64);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn explain_prints_the_page_of_a_code_and_lists_them() {
    let page = stdout(&leankv(&["explain", "K0101"]));
    assert!(page.lines().count() > 3, "{page}");
    assert_eq!(page, stdout(&leankv(&["explain", "k0101"])));
    assert!(stdout(&leankv(&["explain"])).contains("K0101  "));
    fails(&["explain", "K9999"], 2, &["K9999", "leankv explain"]);
}

/// An assembler that ends without reading used to end the command by a signal, without a word.
#[cfg(unix)]
#[test]
fn an_assembler_that_reads_nothing_is_an_error_with_a_message() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("ptxas");
    std::fs::write(&broken, "#!/bin/sh\nexec 0<&-\necho not today >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    let compile = |emit: &str| {
        Command::new(env!("CARGO_BIN_EXE_leankv"))
            .args(["compile", "decode_attention", "--target", "sm_80", "--emit", emit])
            .env("LEANKV_CACHE_DIR", dir.path().join("cache"))
            .env("LEANKV_PTXAS", &broken)
            .output()
            .unwrap()
    };
    // Larger than a pipe holds.
    assert!(stdout(&compile("ptx")).len() > 1 << 16);
    for emit in ["resources", "sass"] {
        let output = compile(emit);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{:?}: {error}", output.status);
        assert!(error.contains("ptxas refused its input") && error.contains("not today"), "{error}");
    }
}

/// A reader that goes away, as `| head` does, used to panic the command.
#[cfg(unix)]
#[test]
fn a_closed_pipe_ends_the_command_quietly() {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    let cache = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_leankv"))
        .args(["compile", "softmax", "--every-spec", "--target", "sm_80,sm_90", "--emit", "tile,llvm,ptx"])
        .env("LEANKV_CACHE_DIR", cache.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(error, "");
    // By SIGPIPE, as other commands do.
    assert!(status.success() || status.signal() == Some(13), "{status}");
}

#[test]
fn unknown_names_are_usage_errors_that_list_the_choices() {
    fails(&["compile", "sofmax"], 2, &["did you mean `softmax`?", "the kernels are", "`matmul`"]);
    fails(&["inspect", "rope"], 2, &["there is no kernel `rope`", "`softmax`"]);
    fails(&["compile", "softmax", "--target", "sm_99"], 2, &["`sm_99` is not a target", "sm_120"]);
    fails(&["compile", "softmax", "--emit", "asm"], 2, &["`asm` is not a form to emit", "`sass`"]);
    fails(&["compile", "softmax", "--target", "host", "--emit", "ptx"], 2, &["the host target has no ptx"]);
    fails(
        &["compile", "softmax", "--set", "nonsense=1"],
        2,
        &["has no setting `nonsense`", "its settings are"],
    );
    fails(&["compile", "softmax", "--set", "novalue"], 2, &["--set key=value"]);
    fails(&["compile", "softmax", "--nonsense"], 2, &["--nonsense"]);
    fails(&["compil"], 2, &["compile"]);
    fails(&["list", "sofmax"], 2, &["did you mean `softmax`?"]);
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_of_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let inside = file.join("x/");
    fails(&["compile", "vector_add", "-o", inside.to_str().unwrap()], 3, &[file.to_str().unwrap()]);
}

#[test]
fn a_cache_that_cannot_be_written_changes_nothing_for_the_user() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let text = stdout(&leankv_in(&file, &["compile", "vector_add", "--target", "sm_80"]));
    assert!(text.contains(".entry vector_add"));
}

/// As on a full disk: the write of an entry fails in its middle. Holds for root too.
#[cfg(unix)]
#[test]
fn a_cache_write_that_fails_half_way_changes_nothing_for_the_user_and_leaves_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let compile = ["compile", "vector_add", "--target", "sm_80"];
    // No file may grow beyond 512 or 1024 bytes, by shell; with the signal ignored a write beyond that is an error.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ && ulimit -f 1 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_leankv")])
        .args(compile)
        .env("LEANKV_CACHE_DIR", cache.path())
        .output()
        .unwrap();
    assert!(stdout(&output).contains(".entry vector_add"));
    let warning = String::from_utf8_lossy(&output.stderr);
    assert!(warning.contains("could not write an entry"), "{warning}");
    let folders: Vec<_> = std::fs::read_dir(cache.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(folders.len(), 1, "the write had begun: {folders:?}");
    assert_eq!(std::fs::read_dir(&folders[0]).unwrap().count(), 0, "nothing is left of it");

    let json = |cached: bool| {
        let document = json(&leankv_in(cache.path(), &[&compile[..], &["--json"]].concat()));
        assert_eq!(document[0]["cached"], cached);
    };
    json(false);
    json(true);
}

#[test]
fn devices_always_names_the_host() {
    assert!(stdout(&leankv(&["devices"])).contains("host"));
    json(&leankv(&["devices", "--json"]));
}

#[test]
fn the_demo_shows_which_of_keys_and_values_needs_the_bits_and_writes_ptx() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/smollm2_135m_kv.safetensors");
    let dir = tempfile::tempdir().unwrap();
    let ptx = dir.path().join("ptx");
    let map = dir.path().join("pictures").join("memory.svg");
    let paths = [&ptx, &map].map(|path| path.to_str().unwrap());
    let args = ["demo", "--json", "--data", data, "--ptx", paths[0], "--heat-map", paths[1]];
    let output = leankv(&args);
    let document = json(&output);
    // There is no package index here, which is said and is no failure.
    assert!(String::from_utf8_lossy(&output.stderr).contains("smollm2-135m is left out"), "{output:?}");
    assert_eq!(document["model"], serde_json::json!([]));
    let row = |format: &str| {
        let rows = document["host"].as_array().unwrap();
        rows.iter().find(|r| r["format"] == format).unwrap_or_else(|| panic!("{format}: {document}")).clone()
    };
    let error = |format: &str| row(format)["output_error"].as_f64().unwrap();
    assert!(error("fp16") < 5e-4, "{document}");
    assert!(error("K8V8") < 0.03, "{document}");
    assert_eq!(row("K8V4")["bytes_per_token"], row("K4V8")["bytes_per_token"]);
    assert!(error("K8V4") * 1.5 < error("K4V8"), "{document}");
    assert!(error("K8V2") < error("K2V4"), "{document}");
    let compression = row("K8V4")["compression"].as_f64().unwrap();
    assert!((2.0..2.67).contains(&compression), "true bytes are more than codes alone: {compression}");
    let gpu = document["gpu"].as_array().unwrap();
    assert_eq!(gpu.len(), 24);
    for kernel in gpu {
        let text = std::fs::read_to_string(kernel["ptx_file"].as_str().unwrap()).unwrap();
        assert!(text.contains(".entry decode_attention"));
        let asm = &kernel["resources"]["assembled"];
        assert_eq!((&asm["spill_store_bytes"], &asm["spill_load_bytes"]), (&0.into(), &0.into()), "{kernel}");
    }
    cache_keeps_what_it_was_told(&document["cache"]);
    let picture = std::fs::read_to_string(&map).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("budget 1/11"));
}

/// Budgets hold but for the pages of the steps after the prompt, what is smaller loses more, and heads differ.
fn cache_keeps_what_it_was_told(cache: &serde_json::Value) {
    let way = |name: &str| {
        let ways = cache["ways"].as_array().unwrap();
        ways.iter().find(|way| way["way"] == name).unwrap_or_else(|| panic!("{name}: {cache}"))
    };
    let number = |name: &str, what: &str| way(name)[what].as_f64().unwrap();
    for part in [5.0, 8.0, 11.0] {
        let name = format!("budget 1/{part}");
        assert!(number(&name, "bytes") < number(&name, "fp16_bytes") / part * 1.05, "{name}: {cache}");
    }
    let errors = ["budget 1/5", "budget 1/8", "budget 1/11"].map(|name| number(name, "output_error"));
    assert!(errors.is_sorted() && errors[2] < 0.25, "{errors:?}");
    assert!(number("a_h 3, a_l 0.05", "compression") > 3.5, "{cache}");
    let heads = way("budget 1/8")["heads"].as_array().unwrap();
    let bytes: Vec<u64> = heads.iter().map(|head| head["page_bytes"].as_u64().unwrap()).collect();
    assert_eq!(bytes.len(), 9);
    assert!(bytes.iter().max() > bytes.iter().min().map(|least| least * 2).as_ref(), "{bytes:?}");
}

#[test]
fn the_demo_without_its_data_says_where_to_run_it() {
    fails(&["demo", "--data", "no/such.safetensors"], 3, &["no/such.safetensors", "--data"]);
    let dir = tempfile::tempdir().unwrap();
    let damaged = dir.path().join("damaged.safetensors");
    std::fs::write(&damaged, b"not safetensors").unwrap();
    fails(&["demo", "--data", damaged.to_str().unwrap()], 3, &[damaged.to_str().unwrap()]);
}

#[test]
fn verify_runs_a_kernel_on_every_executor_and_says_what_it_counted() {
    let text = stdout(&leankv(&["verify", "softmax", "--target", "sm_80,sm_90", "--perturb"]));
    for part in [
        "interpreter",
        "programs shuffled",
        "host",
        "sm_80, lanes in step",
        "sm_90, lanes apart",
        "sm_90, approximations and mma order perturbed",
        "Every executor left the same",
        "modelled",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    let document =
        json(&leankv(&["verify", "vector_add", "--all", "--shapes", "n=300", "--seed", "9", "--json"]));
    assert_eq!((&document["passed"], &document["shapes"]), (&true.into(), &"n=300".into()));
    let reports = document["reports"].as_array().unwrap();
    assert!(reports.len() > 1, "{document}");
    for report in reports {
        assert_eq!(report["seed"], 9);
        let runs = report["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 5);
        assert!(runs[3]["counters"]["warp_instructions"].as_u64().unwrap() > 0, "{report}");
    }
}

/// The PTX of a kernel, changed line by line, in a file.
fn changed_ptx(dir: &Path, kernel: &str, change: impl Fn(&str) -> String) -> std::path::PathBuf {
    let ptx = stdout(&leankv(&["compile", kernel, "--target", "sm_80"]));
    let changed: Vec<String> = ptx.lines().map(change).collect();
    assert_ne!(ptx.trim_end(), changed.join("\n"), "nothing was changed in {ptx}");
    let path = dir.join("changed.ptx");
    std::fs::write(&path, changed.join("\n")).unwrap();
    path
}

#[test]
fn verify_shows_planted_defects_with_everything_that_leads_to_them() {
    let dir = tempfile::tempdir().unwrap();
    let verify = |path: &Path| {
        let output = leankv(&["verify", "softmax", "--ptx", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("runs failed"));
        String::from_utf8(output.stdout).unwrap()
    };
    // Without its barriers, the warps of a program race for shared memory.
    let races = changed_ptx(dir.path(), "softmax", |line| match line.contains("bar.sync") {
        true => String::new(),
        false => line.to_owned(),
    });
    let text = verify(&races);
    for part in [
        "SharedRace",
        "kernel softmax",
        "PTX line",
        "source kernels-src/src/softmax.rs:",
        "block (",
        "warp",
        "lane",
        "0x",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    // A store one page further on is out of bounds, and the launch ends there.
    let beyond = changed_ptx(dir.path(), "softmax", |line| match line.contains("st.global") {
        true => line.replacen(']', "+1048576]", 1),
        false => line.to_owned(),
    });
    let text = verify(&beyond);
    for part in [
        "out-of-bounds store",
        "at 0x",
        "kernel softmax",
        "PTX line",
        "softmax.rs:",
        "block (",
        "warp",
        "lane",
        "`out`",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    // Another sum gives other results.
    let wrong = changed_ptx(dir.path(), "softmax", |line| line.replace("add.rn.f32", "sub.rn.f32"));
    let text = verify(&wrong);
    assert!(text.contains("DIFFERS") && text.contains("`out`: "), "{text}");
}

#[test]
fn profile_prints_modelled_counters_as_tables_text_and_json() {
    let decode = ["profile", "decode_attention", "--set", "tiering=K8V4", "--shapes", "tokens=100"];
    let text = stdout(&leankv(&decode));
    for part in [
        "modelled",
        "global load",
        "matrix",
        "bank conflicts",
        "divergent branches",
        "kv.arena",
        "moved / must",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    let annotated = stdout(&leankv(&[&decode[..], &["--annotate"]].concat()));
    assert!(annotated.contains("modelled") && annotated.contains("// sectors"), "{annotated}");
    let document = json(&leankv(&[&decode[..], &["--json", "--target", "sm_90"]].concat()));
    assert_eq!(document["profile"]["target"], "sm_90");
    let ratio = document["moved_ratios"]["kv.arena"].as_f64().unwrap();
    assert!((0.9..1.2).contains(&ratio), "{ratio}");
}

#[test]
fn profile_says_what_a_unit_costs_and_what_bounds_it() {
    let decode = ["profile", "decode_attention", "--set", "tiering=K8V4", "--per", "tokens,kv_heads"];
    let shapes = ["--shapes", "tokens=128,requests=1,kv_heads=2"];
    let document = json(&leankv(&[&decode[..], &shapes, &["--json"]].concat()));
    assert_eq!((&document["units"], &document["roofline"]), (&256.0.into(), &serde_json::Value::Null));
    let instructions = document["cost"]["warp_instructions"].as_f64().unwrap();
    assert!((5.0..200.0).contains(&instructions), "{instructions}");
    let moved = document["cost"]["moved"].as_f64().unwrap();
    assert!((190.0..215.0).contains(&moved), "K8V4 takes 200 bytes a token and KV head, not {moved}");

    let roofline = [&decode[..], &shapes, &["--roofline", "H200"]].concat();
    let text = stdout(&leankv(&roofline));
    for part in [
        "per tokens x kv_heads: launches with tokens=256 and 128, their difference over 256",
        "machine warp instructions",
        "asked / moved",
        "bound by ",
        "Modelled, not measured",
        "20.7 bytes a cycle",
        "main loop at 0x",
        "Little's law",
        "products ",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    let document = json(&leankv(&[&roofline[..], &["--json"]].concat()));
    assert_eq!(document["profile"]["target"], "sm_90");
    assert_eq!(document["roofline"]["cycles"][0][0], "issue");
    let machine = document["roofline"]["instructions"].as_f64().unwrap();
    assert!((0.7..1.4).contains(&(machine / instructions)), "{machine} for {instructions}");

    let text = stdout(&leankv(&["profile", "vector_add", "--roofline", "a100"]));
    assert!(text.contains("the launch") && text.contains("there is no loop"), "{text}");
    assert!(text.contains("vector_add on a100: bound by DRAM"), "{text}");
}

#[test]
fn profile_refuses_units_and_gpus_that_are_none() {
    let refused = |more: &[&str], parts: &[&str]| fails(&[&["profile", "softmax"], more].concat(), 2, parts);
    refused(&["--per", "row"], &["no size `row` (did you mean `rows`?)", "`rows` and `cols`"]);
    refused(&["--per", "rows", "--shapes", "rows=0"], &["`--per rows` is 0"]);
    refused(&["--roofline", "h20"], &["no GPU `h20`", "`h200`, `h100`, `a100` and `l40s`"]);
    refused(&["--roofline", "h200", "--target", "sm_80"], &["h200 is sm_90", "leave out `--target`"]);
    refused(&["--roofline", "h200", "--target", "host"], &["`host` is no target here"]);
    refused(&["--roofline", "h200", "--annotate"], &["--annotate"]);
    refused(&["--roofline", "h200", "--latency", "0"], &["--latency"]);
}

#[test]
fn verify_and_profile_refuse_what_is_not_there() {
    fails(&["verify", "sofmax"], 2, &["did you mean `softmax`?"]);
    fails(&["profile", "softmax", "--set", "nonsense=1"], 2, &["has no setting `nonsense`"]);
    fails(&["verify", "softmax", "--target", "sm_99"], 2, &["`sm_99` is not a target"]);
    fails(&["verify", "softmax", "--target", "host"], 2, &["PTX is for GPUs", "sm_80"]);
    fails(&["verify", "softmax", "--shapes", "columns=3"], 2, &["no shape `columns`", "rows, cols"]);
    fails(&["verify", "softmax", "--shapes", "cols=many"], 2, &["not a whole number"]);
    fails(&["verify", "softmax", "--shapes", "cols"], 2, &["--shapes key=value"]);
    fails(&["verify", "softmax", "--ptx", "no/such.ptx"], 3, &["no/such.ptx"]);
    fails(&["verify", "softmax", "--all", "--set", "block=128"], 2, &["--all", "--set"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("not.ptx");
    std::fs::write(&path, ".version 8.0\n.target sm_80\nnonsense").unwrap();
    fails(&["verify", "softmax", "--ptx", path.to_str().unwrap()], 1, &["PTX of kernel `softmax`", "3:"]);
    let ptx = ["verify", "softmax", "--ptx", path.to_str().unwrap(), "--target", "sm_80,sm_90"];
    fails(&ptx, 2, &["for one target"]);
    // A row that does not fit is refused by the kernel itself, on every executor.
    fails(&["verify", "softmax", "--shapes", "cols=200"], 1, &["runs failed"]);
}
