//! What `compile` can give out.

use std::fmt;

use leankv_runtime::Target;
use leankv_runtime::text::{join, suggestion};

use crate::failure::Failure;

/// A form of a compiled kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emit {
    /// Tile IR, after passes.
    Tile,
    /// LLVM IR, after LLVM's passes.
    Llvm,
    /// PTX text.
    Ptx,
    /// SASS text, from the assembler and disassembler.
    Sass,
    /// Registers, memory, counts, as JSON.
    Resources,
}

impl Emit {
    const ALL: [Emit; 5] = [Emit::Tile, Emit::Llvm, Emit::Ptx, Emit::Sass, Emit::Resources];

    /// The forms named on the command line.
    pub(crate) fn parse_all(names: &[String], targets: &[Target]) -> Result<Vec<Emit>, Failure> {
        let known = Emit::ALL.map(|e| e.to_string());
        let mut forms = Vec::new();
        for name in names {
            let form = Emit::ALL.into_iter().find(|e| e.to_string() == *name).ok_or_else(|| {
                Failure::usage(format_args!("`{name}` is not a form to emit{}", suggestion(name, &known)))
                    .help(format_args!("the forms are {}", join(&known)))
            })?;
            if form.gpu_only() && targets.contains(&Target::Host) {
                return Err(Failure::usage(format_args!("the host target has no {form}"))
                    .help("leave out `host`, or emit tile, llvm or resources"));
            }
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        Ok(forms)
    }

    /// The form of a target when none was named.
    pub(crate) fn default_of(target: Target) -> Emit {
        match target {
            Target::Host => Emit::Llvm,
            Target::Gpu(_) => Emit::Ptx,
        }
    }

    /// The ending of its files.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Emit::Tile => "tile",
            Emit::Llvm => "ll",
            Emit::Ptx => "ptx",
            Emit::Sass => "sass",
            Emit::Resources => "json",
        }
    }

    fn gpu_only(self) -> bool {
        matches!(self, Emit::Ptx | Emit::Sass)
    }
}

impl fmt::Display for Emit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Emit::Tile => "tile",
            Emit::Llvm => "llvm",
            Emit::Ptx => "ptx",
            Emit::Sass => "sass",
            Emit::Resources => "resources",
        })
    }
}
