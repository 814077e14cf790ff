//! Kernels as values, for tables, the command line and the tuner.

use super::arg::{ArgScope, Choices};
use super::launch::Arguments;
use super::record::record;
use super::spec::{Settings, Spec, SpecField};
use crate::diag::{Diagnostic, Diagnostics};
use crate::ir::{Func, Loc};

/// Settings are no valid specialisation of the kernel.
pub const BAD_SPEC: &str = "K0006";

/// A kernel with its spec's type. `#[kernel]` implements it.
pub trait TypedKernel {
    /// What it is specialised by.
    type Spec: Spec;

    /// The kernel's name.
    fn kernel_name(&self) -> &'static str;
    /// The function's documentation.
    fn kernel_doc(&self) -> &'static str;
    /// Where it is written.
    fn location(&self) -> Loc;
    /// Warps that run one program; `None` for the default.
    fn warps(&self, spec: &Self::Spec) -> Option<u32>;
    /// Programs that a multiprocessor should have room for at once; 0 for no wish.
    fn resident(&self, spec: &Self::Spec) -> u32 {
        let _ = spec;
        0
    }
    /// Records parameters and body.
    #[doc(hidden)]
    fn record(&self, spec: &Self::Spec, scope: &mut ArgScope);
    /// What a launch gives for its parameters.
    type Args<'a>;
    /// Lists what a launch gives, in the order of the parameters.
    fn give<'a>(args: Self::Args<'a>, to: &mut Arguments<'a>);

    /// Records the kernel for one specialisation.
    ///
    /// # Errors
    /// Everything that is wrong with it, each at its line.
    fn build_spec(&self, spec: &Self::Spec) -> Result<Func, Diagnostics> {
        self.build_with(spec, &Choices::new())
    }

    /// As [`build_spec`](TypedKernel::build_spec), with values that parameters find in their [`ArgScope`].
    ///
    /// # Errors
    /// As [`build_spec`](TypedKernel::build_spec).
    fn build_with(&self, spec: &Self::Spec, choices: &Choices) -> Result<Func, Diagnostics> {
        let (name, loc) = (self.kernel_name(), self.location());
        if let Err(condition) = spec.check() {
            let message = format!("`{name}` cannot be specialised for {spec}");
            return Err(Diagnostic::error(BAD_SPEC, loc, message)
                .note(format!("it declares: valid = {condition}"))
                .into());
        }
        record(name, spec.to_string(), (self.warps(spec), self.resident(spec)), loc, || {
            self.record(spec, &mut ArgScope::new(choices));
        })
    }
}

/// A kernel as an entry of a table.
pub trait KernelDef: Sync {
    /// The kernel's name.
    fn name(&self) -> &'static str;
    /// The function's documentation.
    fn doc(&self) -> &'static str;
    /// Where it is written.
    fn source(&self) -> Loc;
    /// The fields of its spec.
    fn fields(&self) -> Vec<SpecField>;
    /// Every declared specialisation.
    fn space(&self) -> Vec<Settings>;
    /// The specialisation with these values, completed with defaults, as `name=value,name=value`.
    ///
    /// # Errors
    /// When the settings are no specialisation of this kernel.
    fn specialisation(&self, settings: &Settings) -> Result<String, Diagnostics>;
    /// Records the kernel for one specialisation; defaults stand for what is not set.
    ///
    /// # Errors
    /// When the settings are no specialisation of this kernel, or with everything that is wrong with it there.
    fn build(&self, settings: &Settings) -> Result<Func, Diagnostics>;
}

fn read<K: TypedKernel>(kernel: &K, settings: &Settings) -> Result<K::Spec, Diagnostics> {
    K::Spec::from_settings(settings).map_err(|error| {
        let message = format!("`{}`: {error}", kernel.kernel_name());
        let diagnostic = Diagnostic::error(BAD_SPEC, kernel.location(), message);
        error.help.into_iter().fold(diagnostic, Diagnostic::help).into()
    })
}

impl<K: TypedKernel + Sync> KernelDef for K {
    fn name(&self) -> &'static str {
        self.kernel_name()
    }

    fn doc(&self) -> &'static str {
        self.kernel_doc()
    }

    fn source(&self) -> Loc {
        self.location()
    }

    fn fields(&self) -> Vec<SpecField> {
        K::Spec::fields()
    }

    fn space(&self) -> Vec<Settings> {
        K::Spec::space().iter().map(Spec::settings).collect()
    }

    fn specialisation(&self, settings: &Settings) -> Result<String, Diagnostics> {
        Ok(read(self, settings)?.to_string())
    }

    fn build(&self, settings: &Settings) -> Result<Func, Diagnostics> {
        self.build_spec(&read(self, settings)?)
    }
}
