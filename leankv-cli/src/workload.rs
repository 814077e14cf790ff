//! From `--set`, `--shapes` and `--seed` to a kernel with arguments.

use leankv_dsl::ir::Func;
use leankv_dsl::lang::Settings;
use leankv_dsl::workload::Workload;
use leankv_kernels::workload::{Recipe, RecipeError, Shapes, Size, recipe};
use leankv_runtime::text::{join, suggestion};
use leankv_runtime::verify::VerifyError;
use leankv_runtime::{Sm, Target};

use crate::failure::Failure;
use crate::registry::{self, Kernel};
use crate::select;

/// A kernel, how its arguments are made, and their sizes.
pub(crate) struct Subject {
    /// The kernel.
    pub(crate) kernel: Kernel,
    /// The sizes.
    pub(crate) shapes: Shapes,
    recipe: &'static Recipe,
    seed: u64,
}

impl Subject {
    /// The kernel of this name with sizes from the command line.
    pub(crate) fn new(name: &str, size: Size, shapes: &[String], seed: u64) -> Result<Subject, Failure> {
        let kernel = registry::find(name)?;
        let recipe = recipe(kernel.name()).map_err(Failure::usage)?;
        let mut asked = Vec::new();
        for (name, value) in select::pairs("--shapes", shapes)? {
            let number = value.parse().map_err(|_| {
                Failure::usage(format_args!("`--shapes {name}={value}`: `{value}` is not a whole number"))
            })?;
            asked.push((name, number));
        }
        let shapes = recipe.sizes(size, &asked).map_err(refused)?;
        Ok(Subject { kernel, shapes, recipe, seed })
    }

    /// The same with one size doubled.
    pub(crate) fn doubled(&self, size: &str) -> Result<Subject, Failure> {
        let sizes: Vec<(String, usize)> = self
            .sizes()
            .map(|(name, value)| (name.to_owned(), if name == size { 2 * value } else { value }))
            .collect();
        let shapes = self.recipe.sizes(Size::Typical, &sizes).map_err(refused)?;
        Ok(Subject { shapes, ..*self })
    }

    /// The product of these sizes.
    pub(crate) fn units(&self, sizes: &[String]) -> Result<usize, Failure> {
        let known: Vec<&str> = self.recipe.shapes.iter().map(|shape| shape.name).collect();
        let mut units = 1;
        for size in sizes {
            if !known.contains(&size.as_str()) {
                let unknown =
                    format_args!("there is no size `{size}`{}", suggestion(size, &known)).to_string();
                return Err(Failure::usage(unknown).help(format_args!(
                    "the sizes of `{}` are {}",
                    self.recipe.kernel,
                    join(&known)
                )));
            }
            units *= self.shapes.get(size);
        }
        if units > 0 {
            Ok(units)
        } else {
            Err(Failure::usage(format_args!("`--per {}` is 0", sizes.join(","))))
        }
    }

    /// The sizes by name.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.recipe.shapes.iter().map(|shape| (shape.name, self.shapes.get(shape.name)))
    }

    /// The arguments for these settings.
    pub(crate) fn workload(&self, settings: &Settings) -> Result<Workload, RecipeError> {
        self.recipe.make(settings, &self.shapes, self.seed)
    }

    /// The kernel and its arguments for these settings.
    pub(crate) fn at(&self, settings: &[(String, String)]) -> Result<(Func, Workload), Failure> {
        let func = registry::build(self.kernel, settings)?;
        let settings: Settings = settings.iter().cloned().collect();
        let workload = self.workload(&settings).map_err(refused)?;
        Ok((func, workload))
    }
}

fn refused(error: RecipeError) -> Failure {
    Failure::usage(error)
}

/// What kept a kernel from being run, by whose fault it is.
pub(crate) fn failed(error: VerifyError) -> Failure {
    match error {
        VerifyError::TargetsOfPtx(_) => Failure::usage(error).help("name one target with `--target`"),
        VerifyError::Workload(_)
        | VerifyError::Compile(_)
        | VerifyError::Ptx { .. }
        | VerifyError::Fault(_) => Failure::kernel(error),
        VerifyError::Launch { .. } => Failure::machine(error),
    }
}

/// GPU targets by name.
pub(crate) fn gpus(names: &[String]) -> Result<Vec<Sm>, Failure> {
    let gpu = |target| match target {
        Target::Gpu(sm) => Ok(sm),
        Target::Host => Err(Failure::usage("PTX is for GPUs: `host` is no target here")
            .help("name GPUs, such as `--target sm_80,sm_90`; `verify` runs the host in any case")),
    };
    select::targets(names)?.into_iter().map(gpu).collect()
}
