//! The pass manager.

use std::any::{Any, TypeId, type_name};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Canonicalise, Cse, Dce, ExpandQuant, Licm};
use crate::diag::Diagnostics;
use crate::ir::{Func, verify};

/// A transformation of a function.
pub trait Pass {
    /// Its name in `passes=` lists, dumps and errors.
    fn name(&self) -> &'static str;

    /// Changes the function. Whether it changed anything.
    ///
    /// # Errors
    /// When the kernel cannot be compiled, with the user's lines. A mistake of the pass itself is no error but a bug.
    fn run(&self, func: &mut Func, facts: &mut Facts) -> Result<bool, Diagnostics>;
}

/// What passes know beside the IR, by type: a layout table, the target. One value a type.
#[derive(Default)]
pub struct Facts(BTreeMap<TypeId, Box<dyn Any>>);

impl Facts {
    /// Nothing known.
    pub fn new() -> Facts {
        Facts::default()
    }

    /// Leaves a fact for later passes; it replaces an older one of the type.
    pub fn put<T: 'static>(&mut self, fact: T) {
        self.0.insert(TypeId::of::<T>(), Box::new(fact));
    }

    /// The fact of a type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref()
    }

    /// Takes the fact of a type out.
    pub fn take<T: 'static>(&mut self) -> Option<T> {
        self.0.remove(&TypeId::of::<T>())?.downcast().ok().map(|fact| *fact)
    }

    /// The fact of a type that an earlier pass must have left.
    ///
    /// # Panics
    /// When there is none: the pipeline is put together wrongly.
    pub fn expect<T: 'static>(&self) -> &T {
        self.get().unwrap_or_else(|| panic!("internal error: no pass left a {}", type_name::<T>()))
    }
}

/// Why a pipeline stopped.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The kernel cannot be compiled; the user's lines say why.
    #[error("{0}")]
    Refused(Diagnostics),
    /// The function broke the IR's rules before any pass ran.
    #[error("the kernel is not valid tile IR\n{0}")]
    Invalid(Diagnostics),
    /// A pass broke the IR's rules: a bug of the compiler.
    #[error("internal error: the pass `{pass}` made invalid tile IR of `{kernel}`\n{diagnostics}")]
    Broken {
        /// The pass.
        pass: &'static str,
        /// The kernel.
        kernel: String,
        /// What is broken.
        diagnostics: Diagnostics,
    },
}

/// A name that is no pass.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no pass `{name}`; there are {}", names().join(", "))]
pub struct UnknownPass {
    /// The name.
    pub name: String,
}

/// What one pass did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PassReport {
    /// Its name.
    pub pass: &'static str,
    /// Whether it changed the function.
    pub changed: bool,
    /// How long it took, verification not counted.
    pub time: Duration,
}

/// Sees the function after each pass; the report says whether the pass changed it.
pub type Hook<'a> = Box<dyn FnMut(&PassReport, &Func) + 'a>;

/// Passes in order.
pub struct Pipeline<'a> {
    passes: Vec<Box<dyn Pass>>,
    verify: bool,
    hook: Option<Hook<'a>>,
}

impl Default for Pipeline<'_> {
    fn default() -> Self {
        Pipeline { passes: Vec::new(), verify: cfg!(debug_assertions), hook: None }
    }
}

impl<'a> Pipeline<'a> {
    /// No passes.
    pub fn new() -> Pipeline<'a> {
        Pipeline::default()
    }

    /// Appends a pass.
    pub fn with(mut self, pass: impl Pass + 'static) -> Self {
        self.passes.push(Box::new(pass));
        self
    }

    /// Passes from a list such as `cse,dce`. `standard` stands for the standard pipeline.
    ///
    /// # Errors
    /// When a name is no pass.
    pub fn parse(list: &str) -> Result<Pipeline<'a>, UnknownPass> {
        let mut out = Pipeline::new();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name == "standard" {
                out.passes.extend(standard().passes);
            } else {
                out.passes.push(by_name(name).ok_or_else(|| UnknownPass { name: name.to_owned() })?);
            }
        }
        Ok(out)
    }

    /// Whether to verify the function before the first and after every pass.
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// Calls `hook` after each pass.
    pub fn hook(mut self, hook: impl FnMut(&PassReport, &Func) + 'a) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    /// The passes' names in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.passes.iter().map(|pass| pass.name()).collect()
    }

    /// Runs the passes.
    ///
    /// # Errors
    /// When the function is invalid, a pass refuses it, or (verifying) a pass broke it.
    pub fn run(&mut self, func: &mut Func, facts: &mut Facts) -> Result<Vec<PassReport>, PassError> {
        if self.verify {
            verify(func).map_err(PassError::Invalid)?;
        }
        let mut reports = Vec::with_capacity(self.passes.len());
        for pass in &self.passes {
            let start = Instant::now();
            let changed = pass.run(func, facts).map_err(PassError::Refused)?;
            let report = PassReport { pass: pass.name(), changed, time: start.elapsed() };
            tracing::debug!(pass = report.pass, kernel = %func.name, changed, time = ?report.time, "pass");
            if self.verify && changed {
                verify(func).map_err(|diagnostics| PassError::Broken {
                    pass: pass.name(),
                    kernel: func.name.clone(),
                    diagnostics,
                })?;
            }
            if let Some(hook) = &mut self.hook {
                hook(&report, func);
            }
            reports.push(report);
        }
        Ok(reports)
    }
}

/// The passes that work on any function, by name.
pub fn by_name(name: &str) -> Option<Box<dyn Pass>> {
    let all: [Box<dyn Pass>; 5] =
        [Box::new(Canonicalise), Box::new(Cse), Box::new(Dce), Box::new(ExpandQuant), Box::new(Licm)];
    all.into_iter().find(|pass| pass.name() == name)
}

/// The names that [`by_name`] knows.
pub fn names() -> Vec<&'static str> {
    vec!["canonicalise", "cse", "dce", "expand_quant", "licm"]
}

/// What every code generator wants first: quantisation expanded, constants folded, nothing computed twice, nothing unused, and
/// loops with only what changes in them.
pub fn standard<'a>() -> Pipeline<'a> {
    Pipeline::new()
        .with(ExpandQuant)
        .with(Canonicalise)
        .with(Cse)
        .with(Licm)
        .with(Canonicalise)
        .with(Cse)
        .with(Dce)
}
