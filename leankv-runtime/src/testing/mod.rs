//! Tests of generated PTX, in your own crate and without a GPU.
//!
//! [`assert_ptx_snapshot!`](crate::assert_ptx_snapshot) compares a kernel's PTX with a reviewed file beside your test;
//! [`assert_ptx_budget!`](crate::assert_ptx_budget) holds registers, spills, shared memory and instruction counts to
//! limits. Both compile for a GPU that need not be there. Add the `testing` feature to the dev-dependency:
//!
//! ```toml
//! [dev-dependencies]
//! leankv-runtime = { version = "0.1", features = ["testing"] }
//! ```
//!
//! ```
//! use leankv_runtime::{assert_ptx_budget, testing::normalise_ptx};
//!
//! let ptx = "
//! .version 8.0
//! .target sm_80
//! .address_size 64
//! .visible .entry nothing()
//! {
//!     ret;
//! }";
//! assert_ptx_budget!(ptx, sm_80, regs <= 8, spills == 0, instructions == 1);
//! assert!(normalise_ptx(ptx).contains("ret;"));
//! ```
//!
//! Snapshots are blessed by insta (`INSTA_UPDATE=always cargo test`, or `cargo insta review`).

mod loops;
mod metrics;
mod normalise;

use crate::cache::KernelCache;
pub use crate::ptx_stats::opcode_histogram;
use crate::{Compiler, Target};
pub use insta;
pub use metrics::{PtxMetrics, UnknownMetric};
pub use normalise::normalise_ptx;

/// Something that PTX can be had from: a recorded kernel, or PTX text itself.
pub trait PtxSource {
    /// The PTX for `sm` (`"sm_90"`).
    ///
    /// # Errors
    /// The rendered message of whatever went wrong.
    fn ptx(&self, sm: &str) -> Result<String, String>;
}

impl PtxSource for str {
    fn ptx(&self, _sm: &str) -> Result<String, String> {
        Ok(self.to_owned())
    }
}

impl PtxSource for String {
    fn ptx(&self, _sm: &str) -> Result<String, String> {
        Ok(self.clone())
    }
}

impl<S: PtxSource + ?Sized> PtxSource for &S {
    fn ptx(&self, sm: &str) -> Result<String, String> {
        (**self).ptx(sm)
    }
}

/// A recorded kernel: compiled in memory, without the cache.
impl PtxSource for leankv_dsl::ir::Func {
    fn ptx(&self, sm: &str) -> Result<String, String> {
        let target: Target = sm.parse().map_err(|e: crate::UnknownTarget| e.to_string())?;
        let compiled =
            Compiler::new(KernelCache::without_folder()).compile(self, target).map_err(|e| e.to_string())?;
        let ptx = compiled.kernel.ptx().map(str::to_owned);
        ptx.ok_or_else(|| format!("`{sm}` is no GPU, so there is no PTX for it"))
    }
}

/// One line of a budget, as [`assert_ptx_budget!`](crate::assert_ptx_budget) writes it.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// A name of [`PtxMetrics::NAMES`].
    pub metric: &'static str,
    /// `<=`, `<`, `==`, `>=` or `>`.
    pub relation: &'static str,
    /// The bound.
    pub bound: u32,
}

/// Checks a kernel against limits; the macro's body.
///
/// # Errors
/// A message that names every limit that does not hold, with the value found, or why there is no value.
pub fn check_budget(source: &dyn PtxSource, sm: &str, limits: &[Limit]) -> Result<(), String> {
    let ptx = source.ptx(sm)?;
    let metrics = PtxMetrics::of(&ptx, sm).map_err(|e| e.to_string())?;
    let mut broken = Vec::new();
    for &Limit { metric, relation, bound } in limits {
        let value = metrics.get(metric).map_err(|e| e.to_string())?;
        let holds = match relation {
            "<=" => value <= bound,
            "<" => value < bound,
            "==" => value == bound,
            ">=" => value >= bound,
            ">" => value > bound,
            other => return Err(format!("`{other}` is no relation; use <=, <, ==, >= or >")),
        };
        if !holds {
            broken.push(format!("  {metric} {relation} {bound}, but it is {value}"));
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    Err(format!("the PTX for {sm} is over its budget:\n{}", broken.join("\n")))
}

/// Compares a kernel's normalised PTX for one SM with the snapshot of that name: `assert_ptx_snapshot!("name", kernel, sm_80)`.
///
/// The kernel is anything that implements [`PtxSource`](crate::testing::PtxSource). Register numbers, label names, comments and debug
/// lines do not count (see [`normalise_ptx`](crate::testing::normalise_ptx)).
///
/// # Panics
/// When the PTX differs from the snapshot, or the kernel does not compile.
#[macro_export]
macro_rules! assert_ptx_snapshot {
    ($name:expr, $kernel:expr, $sm:ident) => {
        match $crate::testing::PtxSource::ptx(&$kernel, stringify!($sm)) {
            Ok(ptx) => $crate::testing::insta::with_settings!(
                { prepend_module_to_snapshot => false, omit_expression => true },
                { $crate::testing::insta::assert_snapshot!(
                    format!("{}.{}", $name, stringify!($sm)),
                    $crate::testing::normalise_ptx(&ptx)
                ) }
            ),
            Err(message) => panic!("no PTX for {}: {message}", stringify!($sm)),
        }
    };
}

/// Holds a kernel's PTX to limits: `assert_ptx_budget!(kernel, sm_90, regs <= 96, spills == 0)`.
///
/// Metrics: `regs` (per thread), `spills`, `stack` and `shared` (bytes) come from `ptxas`. The others count instructions in the text:
///
/// * `instructions`, `mma`, `barriers`, `shuffles`, `local` (loads and stores), `calls`, `divisions`;
/// * `wide_loads`, `wide_stores`: of global memory, 16 bytes or more a thread; `conversions`: from or to floats;
/// * `loop_instructions`, `loop_loads` (of global memory), `loop_conversions`, `loop_barriers`: those in loops; `async_copies`, and `copies_in_flight`: the most groups of
///   them that a wait in a loop leaves on their way.
///
/// All broken limits are reported at once.
///
/// # Panics
/// When a limit does not hold, when the kernel does not compile, or when `ptxas` is not installed: a budget that was
/// not checked does not pass.
#[macro_export]
macro_rules! assert_ptx_budget {
    ($kernel:expr, $sm:ident $(, $metric:ident $relation:tt $bound:expr)+ $(,)?) => {
        if let Err(message) = $crate::testing::check_budget(
            &$kernel,
            stringify!($sm),
            &[$($crate::testing::Limit {
                metric: stringify!($metric),
                relation: stringify!($relation),
                bound: $bound,
            }),+],
        ) {
            panic!("{message}");
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str =
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\nbar.sync 0;\nret;\n}";

    #[test]
    fn every_broken_limit_is_named_with_its_value() {
        let limit = |metric, relation, bound| Limit { metric, relation, bound };
        let limits = [limit("barriers", "==", 0), limit("instructions", "<", 2), limit("spills", "==", 0)];
        let message = check_budget(&PTX, "sm_80", &limits).unwrap_err();
        assert!(message.contains("barriers == 0, but it is 1"), "{message}");
        assert!(message.contains("instructions < 2, but it is 2"), "{message}");
        assert!(!message.contains("spills"), "{message}");
    }

    #[test]
    fn ptx_that_does_not_assemble_is_no_pass() {
        let limits = [Limit { metric: "regs", relation: "<=", bound: 255 }];
        let message = check_budget(&PTX.replace("bar.sync", "bar.stink"), "sm_80", &limits).unwrap_err();
        assert!(message.contains("ptxas refused"), "{message}");
    }
}
