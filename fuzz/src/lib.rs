//! What the fuzz targets run. Any input gives a result or a typed error: no panic, no hang, no stack overflow.

use leankv_dsl::ir;
use leankv_ptx::{Arg, Ast, Config, Divergence, Error, LaunchConfig, Machine, Module};

/// Parses PTX; what parses prints as text that parses to the same tree. Gives whether it parses.
pub fn ptx_parser(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let Ok(ast) = Ast::parse(&text) else { return false };
    let printed = ast.print();
    let again =
        Ast::parse(&printed).unwrap_or_else(|e| panic!("printed text does not parse: {e}\n{printed}"));
    assert!(again.same(&ast), "printing changed the tree:\n{text}\n{printed}");
    true
}

/// Loads PTX and runs every kernel shortly, with arguments that may not fit. Gives the number of launches that executed
/// something: that came to their end or to a fault, not those that were refused.
pub fn ptx_loader(data: &[u8]) -> usize {
    let text = String::from_utf8_lossy(data);
    let Ok(module) = Module::parse(&text) else { return 0 };
    let mut executed = 0;
    let shapes =
        [([2, 1, 1], [64, 1, 1]), ([i32::MAX as u32, 1, 1], [33, 1, 1]), ([1, 70_000, 1], [1, 1, 1])];
    for (i, divergence) in [Divergence::Reconverge, Divergence::Independent].into_iter().enumerate() {
        let config =
            Config { budget: 20_000, divergence, seed: i as u64, memory_bytes: 1 << 24, ..Config::default() };
        let mut machine = Machine::new(config);
        let Ok(at) = machine.alloc(4096, 16) else { return executed };
        for kernel in module.kernels() {
            let argument = |bytes: u32| {
                let mut value = vec![0u8; bytes as usize];
                let n = value.len().min(8);
                value[..n].copy_from_slice(&at.to_le_bytes()[..n]);
                Arg::Bytes(value)
            };
            let parameters = module.kernel_params(kernel).unwrap_or_default();
            let args: Vec<Arg> = parameters.iter().map(|(_, _, bytes)| argument(*bytes)).collect();
            for (grid, block) in shapes {
                // A kernel that names its block shape runs with no other.
                let block = module.required_threads(kernel).unwrap_or(block);
                let shape = LaunchConfig { grid, block, dynamic_shared_bytes: 64 };
                let result = machine.launch(&module, kernel, shape, &args);
                executed += usize::from(matches!(result, Ok(_) | Err(Error::Fault(_))));
            }
        }
    }
    executed
}

/// Parses, verifies and prints tile IR; what is valid prints as text that parses to the same text.
pub fn tile_ir(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(kernels) = ir::parse_all("fuzz.tile", &text) else { return };
    for func in kernels {
        let printed = func.to_string();
        if ir::verify(&func).is_err() {
            continue;
        }
        let again = ir::parse("fuzz.tile", &printed)
            .unwrap_or_else(|e| panic!("printed text does not parse: {e:?}\n{printed}"));
        assert_eq!(again.to_string(), printed, "printing changed the kernel");
    }
}
