//! The fastest specialisation of a kernel, found by running it.
//!
//! A kernel says which of its comptime parameters change its speed alone: `#[kernel(tune(block = [64, 128, 256]))]`, or `#[spec(tune = [..])]` on a field of its spec. A [`Tuner`]
//! tries values of these on a [`Workload`]. Each candidate first has to do what is right ([`verify_on`](crate::verify::verify_on): the interpreter with its checks, then the
//! device), and is then timed in turns with the best one so far until one of the two is ahead beyond the noise. What cannot be built or does something wrong is listed with the reason.
//!
//! ```
//! use leankv_dsl::lang::*;
//! use leankv_dsl::workload::{Check, Workload, given};
//! use leankv_runtime::cache::KernelCache;
//! use leankv_runtime::tune::Tuner;
//! use leankv_runtime::{Compiler, Device};
//!
//! /// `out = 2 x`. Grid: `[ceil(n / block)]`.
//! #[kernel(tune(block = [16, 64, 256]))]
//! fn twice(#[comptime] block: usize, x: View<f32, 1>, out: ViewMut<f32, 1>) {
//!     let x = x.tile(program_id(0), [block]).load();
//!     out.tile(program_id(0), [block]).store(x + x);
//! }
//!
//! let compiler = Compiler::new(KernelCache::without_folder());
//! let found = Tuner::new(&compiler, &Device::host()).tune(&twice::KERNEL, &TwiceSpec { block: 16 }, |spec| {
//!     let x = vec![1.0f32; 5000];
//!     let out = given(&[0.0f32; 5000]).output(Check::Bits).expect(&[2.0; 5000], Check::Bits);
//!     let args = TwiceArgs { x: given(&x).tensor([5000]), out: out.tensor_mut([5000]) };
//!     Workload::of::<twice>([5000usize.div_ceil(spec.block), 1, 1], args)
//! })?;
//! assert!(found.best.block == 16 || found.gain.low > 1.0, "{found}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What was found can be kept in a [`TunedTable`], in which [`Compiler::load_tuned`] looks.

mod found;
mod measure;
mod model;
mod race;
mod run;
mod search;
mod table;
#[cfg(all(test, feature = "llvm"))]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use leankv_dsl::lang::{Choices, KernelDef, Settings, Spec, SpecField, TypedKernel};
use leankv_dsl::target::Product;
use leankv_dsl::workload::Workload;

use crate::compiler::Compiler;
use crate::device::{Device, Kind};
pub use found::{Found, Outcome, Trial, written};
pub use race::Ratio;
use race::pairs;
use run::{Candidate, Run, Subject, start};
use search::walk;
pub(crate) use table::{Question, device_key, fingerprint};
pub use table::{TABLE_VARIABLE, TableError, TunedTable};

/// How much is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// A walk along one axis after the other, which measures at most a quarter of the candidates (or 8).
    #[default]
    Quick,
    /// Every candidate.
    Full,
}

/// Looks for the fastest specialisation of kernels on one device. See the [module](self).
pub struct Tuner<'a> {
    compiler: &'a Compiler,
    on: On<'a>,
    choices: Choices,
    effort: Effort,
    time: Option<Duration>,
    sizes: BTreeMap<String, usize>,
    watch: Option<Watch<'a>>,
}

type Watch<'a> = Box<dyn Fn(&Trial) + 'a>;

/// Where candidates run.
enum On<'a> {
    Device(&'a Device),
    Model(Product),
}

/// Why nothing was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TuneError {
    /// The kernel has no fields to tune.
    #[error(
        "kernel `{0}` declares nothing to tune: say which values a comptime parameter may have, `#[kernel(tune(block = [64, 128]))]` or \
         `#[spec(tune = [64, 128])]` on a field of its spec"
    )]
    Nothing(String),
    /// The device only imitates another one.
    #[error("{0} has no speed of its own to measure; take the host, a CUDA device, or `Tuner::modelled`")]
    NoClock(String),
    /// The specialisation that was given is not right, so there is nothing to compare with.
    #[error("kernel `{kernel}` at the specialisation that was given: {why}")]
    Given {
        /// The kernel.
        kernel: String,
        /// Why.
        why: String,
    },
}

impl<'a> Tuner<'a> {
    /// For kernels on the host or a CUDA device, by their times.
    pub fn new(compiler: &'a Compiler, device: &'a Device) -> Tuner<'a> {
        Tuner::on(compiler, On::Device(device))
    }

    /// For kernels on a GPU that need not be here, by what its roofline says of each candidate ([`roofline`](crate::roofline)): a model. Candidates are checked on the PTX machine.
    pub fn modelled(compiler: &'a Compiler, product: Product) -> Tuner<'a> {
        Tuner::on(compiler, On::Model(product))
    }

    fn on(compiler: &'a Compiler, on: On<'a>) -> Tuner<'a> {
        let (choices, sizes) = (Choices::new(), BTreeMap::new());
        Tuner { compiler, on, choices, effort: Effort::default(), time: None, sizes, watch: None }
    }

    /// Records kernels with these values, for [`Tuner::tune`]: codecs, hooks, policies.
    #[must_use]
    pub fn choices(self, choices: Choices) -> Self {
        Tuner { choices, ..self }
    }

    /// How much is measured.
    #[must_use]
    pub fn effort(self, effort: Effort) -> Self {
        Tuner { effort, ..self }
    }

    /// Begins no further candidate after this time. The given one is measured in any case, one that has begun to its end, and the last race follows.
    #[must_use]
    pub fn time(self, time: Duration) -> Self {
        Tuner { time: Some(time), ..self }
    }

    /// The sizes of the workload by name, for tables: what is found for some sizes is taken for those that are near.
    #[must_use]
    pub fn sizes<'s>(self, sizes: impl IntoIterator<Item = (&'s str, usize)>) -> Self {
        Tuner { sizes: sizes.into_iter().map(|(name, size)| (name.to_owned(), size)).collect(), ..self }
    }

    /// Calls this with every trial as it comes.
    #[must_use]
    pub fn watch(self, watch: impl Fn(&Trial) + 'a) -> Self {
        Tuner { watch: Some(Box::new(watch)), ..self }
    }

    /// Looks for the fastest specialisation among those that differ from `spec` in fields with values to tune. `workload` gives the launch for each. It is timed, and it is what
    /// candidates are checked on: the interpreter runs it once for each, so it should have no more than some thousands of rows.
    ///
    /// # Errors
    /// [`TuneError`]. A candidate that fails is no error, but the given one is.
    pub fn tune<K: TypedKernel>(
        &self,
        kernel: &K,
        spec: &K::Spec,
        workload: impl Fn(&K::Spec) -> Workload,
    ) -> Result<Found<K::Spec>, TuneError> {
        let read = |settings: &Settings| K::Spec::from_settings(settings).map_err(|e| e.to_string());
        let subject = Subject {
            name: kernel.kernel_name(),
            fields: K::Spec::fields(),
            build: &|settings| kernel.build_with(&read(settings)?, &self.choices).map_err(|e| e.to_string()),
            timed: &|settings| Ok(workload(&read(settings)?)),
            checked: None,
        };
        self.find(&subject, spec.settings(), |settings| read(&settings))
    }

    /// As [`Tuner::tune`], of a kernel of a table; `settings` have defaults for what they lack. Candidates are checked on `checked` and timed on `timed`, which may be larger.
    ///
    /// # Errors
    /// As [`Tuner::tune`].
    ///
    /// # Safety
    /// A candidate that keeps within its buffers and has no races on `checked`, which the interpreter sees to, does so on `timed`.
    pub unsafe fn tune_settings(
        &self,
        kernel: &dyn KernelDef,
        settings: &Settings,
        checked: &WorkloadOf<'_>,
        timed: &WorkloadOf<'_>,
    ) -> Result<Found<Settings>, TuneError> {
        let given = |why| TuneError::Given { kernel: kernel.name().to_owned(), why };
        let subject = Subject {
            name: kernel.name(),
            fields: kernel.fields(),
            build: &|settings| kernel.build(settings).map_err(|e| e.to_string()),
            timed,
            checked: Some(checked),
        };
        kernel.specialisation(settings).map_err(|e| given(e.to_string()))?;
        self.find(&subject, with_defaults(&subject.fields, settings), Ok)
    }

    /// The fields of a kernel that are tuned, with their values in order, the given one (or the default) among them.
    pub fn space(fields: &[SpecField], given: &Settings) -> Vec<(String, Vec<String>)> {
        let given = with_defaults(fields, given);
        let tuned = fields.iter().filter(|field| !field.tune.is_empty());
        tuned
            .map(|field| {
                let mut values = field.tune.clone();
                if let Some(own) = given.get(field.name).filter(|own| !values.contains(own)) {
                    values.push(own.clone());
                }
                if values.iter().all(|value| value.parse::<i64>().is_ok()) {
                    values.sort_by_key(|value| value.parse::<i64>().unwrap_or_default());
                }
                (field.name.to_owned(), values)
            })
            .collect()
    }

    /// As many candidates as a quick search measures, of so many.
    #[must_use]
    pub fn most_of_quick(candidates: usize) -> usize {
        (candidates / 4).max(8)
    }

    /// The search; `read` makes a specialisation of the settings that were found.
    fn find<S>(
        &self,
        subject: &Subject<'_>,
        given: Settings,
        read: impl Fn(Settings) -> Result<S, String>,
    ) -> Result<Found<S>, TuneError> {
        let axes = Tuner::space(&subject.fields, &given);
        if axes.is_empty() {
            return Err(TuneError::Nothing(subject.name.to_owned()));
        }
        let device = match &self.on {
            On::Device(device) if !matches!(device.kind(), Kind::Host | Kind::Cuda) => {
                return Err(TuneError::NoClock(device.name()));
            }
            On::Device(device) => device_key(device).unwrap_or_else(|| device.name()),
            On::Model(product) => product.name.to_owned(),
        };
        let sizes: Vec<usize> = axes.iter().map(|(_, values)| values.len()).collect();
        let place = |(name, values): &(String, Vec<String>)| {
            values.iter().position(|value| given.get(name) == Some(value)).unwrap_or(0)
        };
        let start: Vec<usize> = axes.iter().map(place).collect();
        let candidates: usize = sizes.iter().product();
        let limit = match self.effort {
            Effort::Quick => (Tuner::most_of_quick(candidates), false),
            Effort::Full => (usize::MAX, true),
        };
        let at = |point: &[usize]| -> Settings {
            axes.iter()
                .zip(point)
                .map(|((name, values), &place)| (name.clone(), values[place].clone()))
                .collect()
        };

        let wrong = |why| TuneError::Given { kernel: subject.name.to_owned(), why };
        let mut run = Run {
            tuner: self,
            subject,
            given: &given,
            trials: Vec::new(),
            codes: Vec::new(),
            champion: None,
        };
        run.judge(at(&start));
        let Some(first) = run.champion.take() else {
            return Err(wrong(run.why_not()));
        };
        run.champion = Some(first.clone());
        let started = Instant::now();
        let walked = walk(&sizes, &start, limit, |point| match self.time {
            Some(time) if started.elapsed() >= time => Err(()),
            _ => Ok(run.judge(at(point))),
        });
        let best = run.champion.take().unwrap_or_else(|| first.clone());
        let (set, gain) = self.last_race(&first, best).map_err(wrong)?;
        let trials = run.trials;
        let names: Vec<&String> = axes.iter().map(|(name, _)| name).collect();
        let mut fixed = given.clone();
        fixed.retain(|name, _| !names.contains(&name));
        let best: Settings = fixed.clone().into_iter().chain(set.clone()).collect();
        // It was built before.
        let fingerprint = fingerprint(&(subject.build)(&best).map_err(wrong)?);
        Ok(Found {
            kernel: subject.name.to_owned(),
            device,
            modelled: matches!(self.on, On::Model(_)),
            best: read(best).map_err(wrong)?,
            set,
            given: fixed,
            gain,
            trials,
            candidates,
            cut_short: walked.is_err(),
            sizes: self.sizes.clone(),
            fingerprint,
        })
    }

    /// The given specialisation against the best one, which only stays where it is ahead.
    fn last_race(&self, given: &Candidate, best: Candidate) -> Result<(Settings, Ratio), String> {
        if best.set == given.set {
            return Ok((best.set, Ratio::ONE));
        }
        let ratio = match &self.on {
            On::Model(_) => Ratio::modelled(best.seconds / given.seconds),
            On::Device(_) => {
                let (mut own, mut others) = (start(&best)?, start(given)?);
                // As many pairs as there may be: a race that ends when it thinks that it knows is right a little less often.
                Ratio::of(&pairs(|| own.measure(), || others.measure()).map_err(|e| e.to_string())?)
            }
        };
        Ok(match ratio.high < 1.0 {
            true => (best.set, ratio.inverse()),
            false => (given.set.clone(), Ratio::ONE),
        })
    }
}

/// The settings, and defaults for what they lack.
fn with_defaults(fields: &[SpecField], settings: &Settings) -> Settings {
    let default = |field: &SpecField| Some((field.name.to_owned(), field.default.clone()?));
    let mut all: Settings = fields.iter().filter_map(default).collect();
    all.extend(settings.clone());
    all
}

/// What a candidate is launched with, or why there is no such launch.
pub type WorkloadOf<'a> = dyn Fn(&Settings) -> Result<Workload, String> + 'a;
