//! `leankv compile`: one kernel, its targets and forms, to the terminal, to files, or into a bundle.

use std::path::{Path, PathBuf};

use leankv_runtime::cache::{BundleWriter, Origin};
use leankv_runtime::tools::Nvdisasm;
use leankv_runtime::{CompileOptions, Compiled, Compiler, Target};
use serde_json::{Map, Value, json};

use crate::args;
use crate::emit::Emit;
use crate::failure::{Failure, at_path};
use crate::registry;
use crate::select;

/// Runs the command.
pub(crate) fn run(args: &args::Compile, compiler: Compiler) -> Result<(), Failure> {
    let targets = select::targets(&args.target)?;
    let forms = Emit::parse_all(&args.emit, &targets)?;
    // A bundle is a result of its own; texts come beside it only when they are asked for.
    let wanted = |target| match (&forms[..], &args.bundle) {
        ([], None) => vec![Emit::default_of(target)],
        (forms, _) => forms.to_vec(),
    };
    let llvm_ir = targets.iter().any(|&target| wanted(target).contains(&Emit::Llvm));
    let compiler = compiler.with_options(CompileOptions { llvm_ir });
    let kernel = registry::find(&args.which.kernel)?;
    let funcs = if args.every_spec {
        registry::every_spec(kernel)?
    } else {
        vec![registry::build(kernel, &select::settings(&args.which.set)?)?]
    };

    let mut results = Vec::new();
    let mut bundle = BundleWriter::new();
    for func in &funcs {
        for &target in &targets {
            let compiled = compiler.compile(func, target).map_err(Failure::kernel)?;
            if args.bundle.is_some() {
                let (key, bytes) = compiled.for_launch();
                bundle.add(&key, bytes);
            }
            for form in wanted(target) {
                results.push(Piece::of(&compiled, form)?);
            }
        }
    }
    if let Some(path) = &args.bundle {
        bundle.write(path).map_err(Failure::machine)?;
        eprintln!("wrote {} kernels to {}", bundle.len(), path.display());
    }
    match &args.output {
        _ if args.json => print_json(&results),
        Some(path) => write(path, &results)?,
        None => print(&results),
    }
    Ok(())
}

/// One form of one compiled kernel.
struct Piece {
    kernel: String,
    spec: String,
    target: Target,
    form: Emit,
    text: String,
    origin: Origin,
}

impl Piece {
    fn of(compiled: &Compiled, form: Emit) -> Result<Piece, Failure> {
        let kernel = &compiled.kernel;
        let text = match form {
            Emit::Tile => kernel.tile_ir.clone(),
            Emit::Llvm => kernel.llvm_ir.clone(),
            Emit::Ptx => kernel.ptx().unwrap_or_default().to_owned(),
            Emit::Sass => {
                let assembled = kernel.assemble().map_err(Failure::machine)?;
                let cubin = assembled.map(|a| a.cubin).unwrap_or_default();
                Nvdisasm::find().and_then(|tool| tool.disassemble(&cubin)).map_err(Failure::machine)?
            }
            Emit::Resources => {
                let resources = kernel.resources().map_err(Failure::machine)?;
                serde_json::to_string_pretty(&resources).expect("resources are plain data")
            }
        };
        Ok(Piece {
            kernel: kernel.info.signature.kernel.clone(),
            spec: kernel.info.spec.clone(),
            target: kernel.info.target,
            form,
            text,
            origin: compiled.origin,
        })
    }

    /// `softmax.rows-4.cols-512.sm_90.ptx`.
    fn file_name(&self) -> String {
        let spec: String = self.spec.replace('=', "-").replace([',', ' '], ".");
        let spec: String =
            spec.chars().map(|c| if c.is_alphanumeric() || "-._".contains(c) { c } else { '_' }).collect();
        let dot = if spec.is_empty() { "" } else { "." };
        format!("{}{dot}{spec}.{}.{}", self.kernel, self.target, self.form.extension())
    }
}

fn print(pieces: &[Piece]) {
    for piece in pieces {
        if pieces.len() > 1 {
            let spec = if piece.spec.is_empty() { String::new() } else { format!(" ({})", piece.spec) };
            println!("// ==== {}{spec} {} {}", piece.kernel, piece.target, piece.form);
        }
        println!("{}", piece.text.trim_end());
    }
}

fn print_json(pieces: &[Piece]) {
    // One object a kernel, specialisation and target, in order.
    let mut out: Vec<Value> = Vec::new();
    for piece in pieces {
        let head = json!({
            "kernel": piece.kernel, "spec": piece.spec, "target": piece.target.to_string(),
            "cached": piece.origin != Origin::Built,
        });
        let same = |v: &Value| ["kernel", "spec", "target"].iter().all(|k| v[k] == head[k]);
        if !out.last().is_some_and(same) {
            out.push(head);
        }
        let text = match piece.form {
            Emit::Resources => serde_json::from_str(&piece.text).unwrap_or(Value::Null),
            _ => Value::from(piece.text.clone()),
        };
        let last: Option<&mut Map<String, Value>> = out.last_mut().and_then(Value::as_object_mut);
        if let Some(object) = last {
            object.insert(piece.form.to_string(), text);
        }
    }
    println!("{:#}", Value::from(out));
}

fn write(path: &Path, pieces: &[Piece]) -> Result<(), Failure> {
    let single = pieces.len() == 1 && !path.is_dir() && !path.as_os_str().to_string_lossy().ends_with('/');
    let files: Vec<(PathBuf, &str)> = if single {
        vec![(path.to_owned(), &pieces[0].text)]
    } else {
        pieces.iter().map(|p| (path.join(p.file_name()), &p.text[..])).collect()
    };
    for (file, text) in files {
        if let Some(dir) = file.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).map_err(at_path(dir))?;
        }
        std::fs::write(&file, format!("{}\n", text.trim_end())).map_err(at_path(&file))?;
        eprintln!("wrote {}", file.display());
    }
    Ok(())
}
