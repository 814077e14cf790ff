//! Hostile input: arbitrary and damaged PTX gives an error or runs, and never panics or hangs.

#![allow(unreachable_pub)] // A test crate.

use leankv_ptx::{Arg, Ast, Config, Divergence, LaunchConfig, Machine, Module};
use proptest::prelude::*;

const KERNEL: &str = include_str!("robust_kernel.ptx");

/// Loads and, if it loads, runs with arguments that may not fit.
fn survive(text: &str) {
    let Ok(module) = Module::parse(text) else { return };
    let printed = module.ast().print();
    let again =
        Ast::parse(&printed).unwrap_or_else(|e| panic!("printed text does not parse: {e}\n{printed}"));
    assert!(again.same(module.ast()), "printing changed the tree");
    for divergence in [Divergence::Reconverge, Divergence::Independent] {
        let mut m = Machine::new(Config { budget: 20_000, divergence, seed: 1, ..Config::default() });
        for kernel in module.kernels() {
            let Ok(a) = m.alloc(4096, 16) else { return };
            let args: Vec<Arg> = module
                .kernel_params(kernel)
                .unwrap_or_default()
                .iter()
                .map(|(_, _, n)| {
                    let mut b = vec![0u8; *n as usize];
                    let n = b.len().min(8);
                    b[..n].copy_from_slice(&a.to_le_bytes()[..n]);
                    Arg::Bytes(b)
                })
                .collect();
            let shape = LaunchConfig { grid: [2, 1, 1], block: [64, 1, 1], dynamic_shared_bytes: 64 };
            let _ = m.launch(&module, kernel, shape, &args);
        }
    }
}

#[test]
fn the_undamaged_kernel_runs() {
    let module = Module::parse(KERNEL).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(module.kernels(), ["k"]);
    survive(KERNEL);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        survive(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn arbitrary_bytes_behind_a_valid_start(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        survive(&format!(".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {{\n.reg .b32 %r<9>;\n{}", String::from_utf8_lossy(&bytes)));
    }

    #[test]
    fn arbitrary_token_soup(tokens in proptest::collection::vec(0usize..40, 0..60)) {
        const TOKENS: [&str; 40] = [
            "add", ".u32", "%r1", ",", ";", "{", "}", "[", "]", "(", ")", "@", "%p1", "!", "mov", ".b32", "0x7f", "-", "+", "L:",
            "bra", "L", "ret", ".reg", ".shared", ".align", "4", ".b8", "s", "[8]", "ld", ".global", "st", "call", "|", "_",
            "<", ">", "1.5", "\"x\"",
        ];
        let text: Vec<&str> = tokens.iter().map(|t| TOKENS[*t]).collect();
        survive(&format!(".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {{\n.reg .b32 %r<9>;\n.reg .pred %p<3>;\n{}\n}}", text.join(" ")));
    }

    #[test]
    fn damaged_kernels(edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..4), 1..4)) {
        let mut lines: Vec<String> = KERNEL.lines().map(str::to_string).collect();
        for (a, b, kind) in edits {
            let i = a.index(lines.len());
            let j = b.index(lines.len());
            match kind {
                // Delete, repeat, exchange, or take an operand of another line.
                0 => { lines.remove(i); }
                1 => { let l = lines[j].clone(); lines.insert(i, l); }
                2 => lines.swap(i, j),
                _ => {
                    let from: Vec<String> = lines[j].split([',', ' ']).map(str::to_string).collect();
                    let to: Vec<String> = lines[i].split(',').map(str::to_string).collect();
                    if to.len() > 1 && !from.is_empty() {
                        let mut to = to;
                        let k = b.index(to.len());
                        to[k] = format!(" {}", from[a.index(from.len())].trim_end_matches(';'));
                        lines[i] = format!("{};", to.join(",").trim_end_matches(';'));
                    }
                }
            }
            if lines.is_empty() { lines.push(String::new()); }
        }
        survive(&lines.join("\n"));
    }

    #[test]
    fn flipped_bytes(edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut b = KERNEL.as_bytes().to_vec();
        for (i, v) in edits {
            let i = i.index(b.len());
            b[i] = v;
        }
        survive(&String::from_utf8_lossy(&b));
    }
}
