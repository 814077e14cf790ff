//! The kernels this command knows, and their specialisations.

use leankv_dsl::ir::Func;
use leankv_dsl::lang::{KernelDef, Settings};
use leankv_kernels::KERNELS;

use crate::failure::Failure;
use crate::select;

/// A kernel of the table.
pub(crate) type Kernel = &'static dyn KernelDef;

/// All kernels, by name.
pub(crate) fn all() -> Vec<Kernel> {
    let mut kernels = KERNELS.to_vec();
    kernels.sort_by_key(|k| k.name());
    kernels
}

/// The kernel called `name`.
pub(crate) fn find(name: &str) -> Result<Kernel, Failure> {
    select::named(name, all().into_iter().map(|k| (k.name(), k)))
}

/// Records a kernel for the specialisation that `--set` asks for.
pub(crate) fn build(kernel: Kernel, settings: &[(String, String)]) -> Result<Func, Failure> {
    let fields = kernel.fields();
    let known: Vec<&str> = fields.iter().map(|f| f.name).collect();
    for (key, _) in settings {
        if !known.contains(&key.as_str()) {
            return Err(select::unknown_setting(kernel.name(), key, &known));
        }
    }
    let settings: Settings = settings.iter().cloned().collect();
    // A value that does not parse is a mistake of the command line, one that does not fit is the kernel's answer.
    kernel.specialisation(&settings).map_err(Failure::usage)?;
    kernel.build(&settings).map_err(Failure::kernel)
}

/// Records a kernel for every specialisation it declares.
pub(crate) fn every_spec(kernel: Kernel) -> Result<Vec<Func>, Failure> {
    kernel.space().iter().map(|settings| kernel.build(settings).map_err(Failure::kernel)).collect()
}
