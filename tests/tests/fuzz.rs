//! The functions of the fuzz targets, on the stable toolchain: arbitrary bytes, damaged kernels, hostile texts.
//!
//! `LEANKV_SOAK=100000 cargo test --release -p leankv-tests --test fuzz` (`make soak`) draws as many of each.

#![allow(unreachable_pub, missing_docs)] // A test crate.

#[path = "../../fuzz/src/lib.rs"]
mod entries;

use std::cell::Cell;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;

/// The targets for PTX.
fn ptx(text: &[u8]) {
    entries::ptx_parser(text);
    entries::ptx_loader(text);
}

/// All targets.
fn all(text: &[u8]) {
    ptx(text);
    entries::tile_ir(text);
}

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// PTX by hand, of Triton and of NVRTC.
const PTX: [&str; 4] = [
    include_str!("../../leankv-ptx/tests/robust_kernel.ptx"),
    include_str!("../../leankv-ptx/tests/foreign/triton_histogram.ptx"),
    include_str!("../../leankv-ptx/tests/foreign/triton_softmax.ptx"),
    include_str!("../../leankv-ptx/tests/foreign/nvrtc_kernels.ptx"),
];

/// What PTX is made of.
const TOKENS: [&str; 40] = [
    "add", ".u32", "%r1", ",", ";", "{", "}", "[", "]", "(", ")", "@", "%p1", "!", "mov", ".b32", "0x7f",
    "-", "+", "L:", "bra", "L", "ret", ".reg", ".shared", ".align", "4", ".b8", "s", "[8]", "ld", ".global",
    "st", "call", "|", "_", "<", ">", "1.5", "\"x\"",
];

/// What operands are made of.
const OPERAND: [&str; 26] = [
    "%r1",
    "%p1",
    "s",
    "_",
    "5",
    "0x7f",
    "3U",
    "0f3F800000",
    "2.5",
    "+",
    "-",
    "*",
    "%",
    "!",
    "~",
    "|",
    "&",
    "<<",
    "?",
    ":",
    "(",
    ")",
    "{",
    "}",
    ",",
    "generic",
];

const TILE: [&str; 3] = [
    include_str!("../filetests/run/atomic_float.tile"),
    include_str!("../filetests/run/atomic_cas.tile"),
    include_str!("../filetests/run/binary_int.tile"),
];

/// Changes lines and bytes: what to do, where, with what.
fn damage(text: &str, edits: &[(u8, Index, Index, u8)]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = text.lines().map(|l| l.as_bytes().to_vec()).collect();
    for (kind, at, from, byte) in edits {
        let (i, j) = (at.index(lines.len()), from.index(lines.len()));
        match kind % 6 {
            0 => lines[i].clear(),
            1 => {
                let line = lines[j].clone();
                lines.insert(i, line);
            }
            2 => lines.swap(i, j),
            // A word of another line in the place of one.
            3 => {
                let words = |line: &[u8]| -> Vec<Vec<u8>> {
                    line.split(|b| *b == b' ').map(<[u8]>::to_vec).collect()
                };
                let (mut to, source) = (words(&lines[i]), words(&lines[j]));
                let k = from.index(to.len());
                to[k].clone_from(&source[at.index(source.len())]);
                lines[i] = to.join(&b' ');
            }
            4 if !lines[i].is_empty() => {
                let k = from.index(lines[i].len());
                lines[i][k] = *byte;
            }
            // Digits become large numbers.
            _ => {
                if let Some(k) = lines[i].iter().position(u8::is_ascii_digit) {
                    lines[i].splice(k..k, b"99999999".iter().copied().take(usize::from(*byte) % 9));
                }
            }
        }
    }
    lines.join(&b'\n')
}

fn config() -> ProptestConfig {
    let cases = match std::env::var("LEANKV_SOAK") {
        Ok(cases) => cases.parse().expect("LEANKV_SOAK is a number of texts"),
        Err(_) => 256,
    };
    ProptestConfig { failure_persistence: None, cases, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        all(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_a_valid_start(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        ptx(&[format!("{HEAD}.entry k() {{\n.reg .b32 %r<9>;\n").as_bytes(), &bytes].concat());
    }

    #[test]
    fn arbitrary_token_soup(tokens in prop::collection::vec(prop::sample::select(&TOKENS), 0..60)) {
        let body = tokens.join(" ");
        ptx(format!("{HEAD}.entry k() {{\n.reg .b32 %r<9>;\n.reg .pred %p<3>;\n{body}\n}}").as_bytes());
    }

    #[test]
    fn damaged_ptx(which in 0usize..4, edits in prop::collection::vec(any::<(u8, Index, Index, u8)>(), 1..6)) {
        ptx(&damage(PTX[which], &edits));
    }

    #[test]
    fn damaged_tile_ir(which in 0usize..3, edits in prop::collection::vec(any::<(u8, Index, Index, u8)>(), 1..5)) {
        entries::tile_ir(&damage(TILE[which], &edits));
    }
}

/// Thirty instructions each, since most are refused.
#[test]
fn arbitrary_operands() {
    let soup = || prop::collection::vec(prop::sample::select(&OPERAND), 1..7);
    let opcodes = &["mov.b32 %r1,", "ld.shared.b32 %r1, [s", "call", "setp.eq.b32", "mov.b32 {"];
    let (taken, all) = (Cell::new(0), Cell::new(0));
    let parse = |text: String| {
        all.set(all.get() + 1);
        taken.set(taken.get() + usize::from(entries::ptx_parser(text.as_bytes())));
    };
    let strategy = (prop::collection::vec(soup(), 30), prop::sample::select(opcodes), soup());
    let mut runner = proptest::test_runner::TestRunner::new(config());
    let result = runner.run(&strategy, |(soups, opcode, init)| {
        for operands in soups {
            let close = match opcode {
                "mov.b32 {" => "}",
                o if o.contains('[') => "]",
                _ => "",
            };
            let instruction = format!("{opcode} {}{close};", operands.join(" "));
            parse(format!("{HEAD}.entry k() {{\n{instruction}\n}}"));
        }
        parse(format!("{HEAD}.global .b32 g[4] = {{{}}};", init.join(" ")));
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
    let (taken, all) = (taken.get(), all.get());
    assert!(taken * 20 > all, "{taken} of {all} texts are PTX");
}

#[test]
fn the_undamaged_texts_load() {
    for text in PTX {
        let module = leankv_ptx::Module::parse(text);
        let kernels = module.unwrap_or_else(|e| panic!("{e}")).kernels().len();
        entries::ptx_parser(text.as_bytes());
        // Each kernel, with lanes in step and apart.
        let executed = entries::ptx_loader(text.as_bytes());
        assert!(kernels > 0 && executed >= 2 * kernels, "{executed} launches of {kernels} kernels executed");
    }
    for text in TILE {
        assert!(leankv_dsl::ir::parse_all("t", text).is_ok_and(|k| !k.is_empty()), "{text}");
        entries::tile_ir(text.as_bytes());
    }
}

/// Deep nesting, large numbers, large variables, endless lists: answered at once.
#[test]
fn hostile_texts() {
    let kernel = |body: &str| {
        format!(
            "{HEAD}.entry k() {{\n.reg .b32 %r<9>;\n.reg .b64 %rd<9>;\n.reg .pred %p<3>;\n{body}\nret;\n}}"
        )
    };
    let deep = |open: &str, n: usize| open.repeat(n);
    let texts = [
        kernel(&deep("{ ", 100_000)),
        kernel(&format!("mov.u32 %r1, {}1;", deep("(", 100_000))),
        kernel(&format!("mov.u32 %r1, {}1;", deep("- ", 100_000))),
        kernel(&format!("mov.u32 %r1, 1{};", deep(" + 1", 100_000))),
        kernel(&format!("mov.u32 %r1, {}1;", deep("1 ? 1 : ", 100_000))),
        kernel(&format!("mov.u64 %rd1, {}1;", deep("(.s64)", 100_000))),
        kernel(&format!("mov.u32 %r1, {}1{};", deep("-(", 40), deep(")", 40))),
        kernel(&format!("mov.u32 %r1, {}1{};", deep("1 + (1 | ", 20), deep(")", 20))),
        kernel(&format!("@{}%p1 ret;", deep("!", 100_000))),
        kernel(&format!("mov.b32 %r1, {};", deep("{", 100_000))),
        format!("{HEAD}.global .b32 a[2] = {};", deep("{", 100_000)),
        format!("{HEAD}.section .x {}", deep("{", 100_000)),
        format!("{HEAD}{}", deep("/*", 100_000)),
        kernel("mov.u32 %r1, 99999999999999999999999999999999;"),
        kernel("mov.u32 %r1, 0xffffffffffffffffffffffffffff;"),
        kernel("ld.shared.u32 %r1, [%r2+9223372036854775807];"),
        kernel("ld.shared.u32 %r1, [9223372036854775807];"),
        kernel("mov.u32 %r1, 1 / 0; mov.u32 %r1, 1 % 0; mov.u32 %r1, 1 << 99;"),
        kernel("mov.u32 %r1, -9223372036854775808 / -1;"),
        kernel(".reg .b32 %x<4294967295>;\nmov.u32 %x4294967294, 1;"),
        kernel(".reg .v4 .b32 %x<4294967295>;"),
        kernel(".reg .b32 %x<99999999999999>;"),
        kernel(".shared .align 4 .b8 s[18446744073709551615];\nst.shared.u32 [s], 1;"),
        kernel(".shared .align 4 .b8 s[1099511627776];\nst.shared.u32 [s], 1;"),
        kernel(
            ".shared .align 4 .b8 s[4294967295];\n.shared .b8 t[4294967295];\nst.shared.u32 [s], 1;\nst.shared.u32 [t], 1;",
        ),
        kernel(".shared .align 2147483648 .b8 s[4];\nst.shared.u32 [s], 1;"),
        kernel(".shared .align 0 .b8 s[4];\nst.shared.u8 [s], %r1;"),
        kernel(".local .align 4 .b8 s[1099511627776];"),
        format!("{HEAD}.global .b8 g[1099511627776];\n.entry k() {{ ret; }}"),
        format!("{HEAD}.global .b8 g[4294967295][4294967295];\n.entry k() {{ ret; }}"),
        format!("{HEAD}.global .b8 g[2][4294967295] = {{{{1}}, {{1}}}};\n.entry k() {{ ret; }}"),
        format!(
            "{HEAD}.global .b8 g[0][4294967295][4294967295][4294967295] = {{{{{{1}}}}}};\n.entry k() {{ ret; }}"
        ),
        format!("{HEAD}.entry k(.param .b8 x[18446744073709551615]) {{ ret; }}"),
        format!("{HEAD}.entry k(.param .align 4294967295 .b8 x[4]) {{ ret; }}"),
        format!("{HEAD}.entry k() .maxntid 4294967295, 4294967295, 4294967295 {{ ret; }}"),
        format!("{HEAD}.entry k() .reqntid 0, 0, 0 {{ ret; }}"),
        format!("{HEAD}.func f() {{ call f, (); ret; }}\n.entry k() {{ call f, (); ret; }}"),
        format!(
            "{HEAD}.func f() {{ .local .b8 x[500000]; call f, (); ret; }}\n.entry k() {{ call f, (); ret; }}"
        ),
        kernel("L:\nbra L;"),
        kernel("bar.sync 4294967295, 4294967295;"),
        kernel("setp.eq.u32 %p1, %r1, 0;\nbrx.idx %r1, T;\nT: .branchtargets T;"),
        kernel(
            &(0..3000)
                .map(|i| format!("L{i}:\nsetp.eq.u32 %p1, %r1, {i};\n@%p1 bra L{};\n", (i * 7) % 3000))
                .collect::<String>(),
        ),
        kernel(&deep("add.u32 %r1, %r1, 1;\n", 50_000)),
    ];
    let tile = [
        deep("kernel @k() num_warps 1 {\n", 10_000),
        format!("kernel @k(%c c: i1) num_warps 1 {{\n{}", deep("if %c {\n", 100_000)),
        "kernel @k() num_warps 99999999999999999999 {\n return\n}".to_owned(),
        "kernel @k() num_warps 4294967295 {\n return\n}".to_owned(),
        "kernel @k() num_warps 1 {\n %a = iota : tile<4294967295xi32>\n return\n}".to_owned(),
        "kernel @k() num_warps 1 {\n %a = iota : tile<65536x65536x65536x65536x65536xi32>\n return\n}"
            .to_owned(),
        format!("kernel @k() num_warps 1 {{\n %a = iota : tile<{}i32>\n return\n}}", deep("1x", 100_000)),
        "kernel @k() num_warps 1 {\n %a = constant 99999999999999999999999999 : i32\n return\n}".to_owned(),
        "kernel @k() num_warps 1 {\n %a = constant 1e999999999 : f32\n return\n}".to_owned(),
        format!("kernel @k({}", deep("%a a: i32, ", 10_000)),
        format!("kernel @k() num_warps 1 spec \"{}\" {{\n return\n}}", deep("\\", 10_001)),
    ];
    for text in texts.iter().chain(&tile) {
        let start = Instant::now();
        all(text.as_bytes());
        let took = start.elapsed();
        let name = text.get(..120.min(text.len())).unwrap_or("a text");
        assert!(took < Duration::from_secs(30), "{took:?} for {name}");
    }
}
