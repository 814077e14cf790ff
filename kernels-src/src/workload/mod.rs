//! How to try every shipped kernel: sensible arguments of any size, the grid, which buffers are outputs, how close they must come,
//! and what plain Rust says they are.
//!
//! `leankv verify`, `leankv profile`, tests and benches take a kernel's [`Recipe`] from [`RECIPES`] and run the
//! [`Workload`] it makes. **A new kernel** gets all of them by one recipe:
//!
//! 1. write `fn name(spec: &Spec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError>` in the file of this folder that its kind
//!    of data belongs to: fill the kernel's struct of arguments with buffers that are [`given`], from
//!    [`Generator::new(seed)`](leankv_dsl::workload::Generator), say of those it writes that they are an [`output`](Given::output) and
//!    what [`reference`](crate::reference) [`expects`](Given::expect) of them, and end with [`Workload::of`];
//! 2. add a line to [`RECIPES`]: its name, the sizes that can be asked for, and that function.
//!
//! Sizes that come from the specialisation (head dim, group, blocks) are the spec's; a recipe's own [`Shape`]s are what is left:
//! requests, heads, tokens.

mod attention;
mod basic;
mod basis;
mod budget;
mod cache;
mod chunk;
mod floats;
mod fork;
mod manager;
mod rows;
mod step;
mod tiers;

use std::collections::BTreeMap;

use leankv_dsl::format::FormatError;
use leankv_dsl::lang::{Plain, Settings, Spec, SpecError};
use leankv_dsl::workload::{Check, Given, Item, Workload, given};

use crate::basis::BasisSpec;
use crate::budget::{BudgetSpec, SolveBudgetSpec};
use crate::chunk::{ChunkSpec, ChunkWriterSpec, ClassifySpec, RecompactSpec};
use crate::decode::DecodeSpec;
use crate::manager::{
    CommitPagesSpec, CopyTailsSpec, FitPagesSpec, ForkPagesSpec, PlanForkSpec, PreparePagesSpec,
    ScanPagesSpec,
};
use crate::matmul::MatmulSpec;
use crate::quantize::CodecRows;
use crate::reference::ReferenceError;
use crate::softmax::SoftmaxSpec;
use crate::step::{AdvancePositionsSpec, InsertSpec, PlanSpec};
use crate::vector_add::VectorAddSpec;

/// One size of a workload that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its name, for `--shapes name=value`.
    pub name: &'static str,
    /// What it counts.
    pub doc: &'static str,
    /// Its value for verification: small, and no multiple of a block.
    pub small: usize,
    /// Its value for a profile: as in use.
    pub typical: usize,
}

/// Which values sizes have when nothing is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Size {
    /// For verification: ends in the middle of blocks, pages and lists; runs in a fraction of a second.
    #[default]
    Small,
    /// For a profile: as in use, so that ratios mean something.
    Typical,
}

/// The sizes of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shapes(BTreeMap<&'static str, usize>);

/// How to make workloads for a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The kernel's name.
    pub kernel: &'static str,
    /// The sizes that can be asked for.
    pub shapes: &'static [Shape],
    make: fn(&Settings, &Shapes, u64) -> Result<Workload, RecipeError>,
}

/// Why there is no workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// The kernel has no recipe.
    #[error(
        "there is no workload for kernel `{0}`: add a recipe for it to RECIPES in kernels-src/src/workload/mod.rs, whose documentation \
         says how"
    )]
    None(String),
    /// The settings are no specialisation.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A format does not fit the head dim or the page.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The sizes do not belong together.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A size that the recipe does not have.
    #[error("there is no shape `{name}`; the shapes of `{kernel}` are {}", known.join(", "))]
    Shape {
        /// The kernel.
        kernel: String,
        /// The name given.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A size out of range.
    #[error("shape `{name}` of `{kernel}` is 0 to {most}, not {value}")]
    Value {
        /// The kernel.
        kernel: String,
        /// The shape.
        name: String,
        /// The value given.
        value: usize,
        /// The largest there is.
        most: usize,
    },
}

/// No size is larger: the executors are for proof, not for production.
const MOST: usize = 1 << 20;

const fn shape(name: &'static str, doc: &'static str, small: usize, typical: usize) -> Shape {
    Shape { name, doc, small, typical }
}

const REQUESTS: Shape = shape("requests", "requests of the launch", 2, 2);
const KV_HEADS: Shape = shape("kv_heads", "KV heads of a request", 2, 2);
const TOKENS: Shape = shape("tokens", "tokens of the longest list in the high tier", 37, 300);
const LOW_TOKENS: Shape =
    shape("low_tokens", "tokens of the longest list in the low tier, if there is one", 41, 200);
const RAGGED: Shape = shape(
    "ragged",
    "1: lists of different lengths, empty ones among them; 0: all as long as the longest",
    1,
    0,
);
const LAYERS: Shape = shape("layers", "layers", 2, 4);
const LISTS: Shape = shape("lists", "lists of a request: layers times KV heads", 40, 256);
const ROWS: Shape = shape("rows", "rows", 13, 512);

const ONE_REQUEST: Shape = shape("requests", "requests of the launch: one", 1, 1);
const QUERIES: Shape = shape("queries", "tokens of the chunk", 21, 256);
const FIRST_QUERY: Shape = shape(
    "first_query",
    "tokens of the chunk before the first query, at most those whose queries do not count",
    3,
    0,
);
const WINDOW: Shape = shape("window", "queries of the chunk that count", 10, 64);
const ONE_OF: Shape = shape("requests", "requests in the cache; the launch is over the first one", 2, 2);
const LEFT_OUT: Shape = shape("left_out", "1: the request is left out, with a negative slot", 0, 0);
const CHUNK: Shape = shape("chunk_tokens", "tokens of the chunk", 90, 256);
const BUDGETS: Shape =
    shape("requests", "requests of the launch; some are left out, some have no budget", 5, 8);
const FORKS: Shape = shape("forks", "forks, two of each parent; some are not granted", 5, 8);
const FORK_LISTS: Shape = shape("lists", "lists of a request: layers times KV heads", 9, 64);

/// A buffer that is overwritten: where it held `fill`, `expected` must stand, as close as `check` says.
fn filled<T: Item + Plain>(fill: T, expected: &[T], check: Check) -> Given<T> {
    given(&vec![fill; expected.len()]).output(check).expect(expected, check)
}

/// A buffer that holds `before` and must hold `after`, bit by bit.
fn changed<T: Item + Plain>(before: &[T], after: &[T]) -> Given<T> {
    given(before).output(Check::Bits).expect(after, Check::Bits)
}

/// A recipe from the function that makes its workloads, and the spec it reads.
macro_rules! recipe {
    ($kernel:literal, $make:path as $spec:ty, [$($shape:expr),*]) => {
        Recipe {
            kernel: $kernel,
            shapes: &[$($shape),*],
            make: |settings, shapes, seed| $make(&<$spec>::from_settings(settings)?, shapes, seed),
        }
    };
}

/// The recipes, in alphabetical order.
pub static RECIPES: &[Recipe] = &[
    recipe!(
        "advance_positions",
        step::advance as AdvancePositionsSpec,
        [shape("requests", "requests of the launch", 200, 1024)]
    ),
    recipe!(
        "cached_significance",
        chunk::cached as ChunkSpec,
        [ONE_REQUEST, KV_HEADS, TOKENS, LOW_TOKENS, RAGGED, QUERIES, FIRST_QUERY, WINDOW]
    ),
    recipe!(
        "chunk_attention",
        chunk::attention as ChunkSpec,
        [ONE_REQUEST, KV_HEADS, TOKENS, LOW_TOKENS, RAGGED, QUERIES, FIRST_QUERY, WINDOW]
    ),
    recipe!(
        "chunk_significance",
        chunk::own as ChunkSpec,
        [ONE_REQUEST, KV_HEADS, TOKENS, LOW_TOKENS, RAGGED, QUERIES, FIRST_QUERY, WINDOW]
    ),
    recipe!(
        "classify_chunk",
        tiers::classify as ClassifySpec,
        [
            KV_HEADS,
            shape("chunk_tokens", "tokens of the chunk", 220, 512),
            shape("before", "tokens of the prompt before the chunk", 512, 512),
            shape("after", "tokens of the prompt after the chunk", 0, 0),
            LEFT_OUT
        ]
    ),
    recipe!("commit_pages", manager::commit as CommitPagesSpec, [REQUESTS, LISTS]),
    recipe!(
        "copy_tails",
        fork::tails as CopyTailsSpec,
        [
            FORKS,
            FORK_LISTS,
            shape("pages", "pages of the longest list", 4, 16),
            shape("words", "words of 8 bytes of a page, made even", 300, 848)
        ]
    ),
    recipe!(
        "decode_attention",
        attention::decode as DecodeSpec,
        [REQUESTS, KV_HEADS, TOKENS, LOW_TOKENS, RAGGED]
    ),
    recipe!("dequantize", rows::dequantize as CodecRows, [ROWS]),
    recipe!("enter_basis", basis::enter as BasisSpec, [ROWS, KV_HEADS]),
    recipe!("fit_pages", manager::fit as FitPagesSpec, [REQUESTS, LISTS]),
    recipe!(
        "fork_pages",
        fork::share as ForkPagesSpec,
        [FORKS, FORK_LISTS, shape("pages", "pages of the longest list", 150, 40)]
    ),
    recipe!("insert_token", step::insert as InsertSpec, [REQUESTS, KV_HEADS, TOKENS, LOW_TOKENS, RAGGED]),
    recipe!("leave_basis", basis::leave as BasisSpec, [ROWS, KV_HEADS]),
    recipe!("make_room", budget::room as BudgetSpec, [BUDGETS, LAYERS, KV_HEADS, TOKENS, LOW_TOKENS, RAGGED]),
    recipe!(
        "matmul",
        basic::matmul as MatmulSpec,
        [shape("m", "rows", 70, 256), shape("n", "columns", 40, 256), shape("k", "contraction", 48, 256)]
    ),
    recipe!(
        "merge_splits",
        attention::merge as DecodeSpec,
        [REQUESTS, KV_HEADS, shape("splits", "splits of the longest list", 11, 32)]
    ),
    recipe!(
        "plan_fork",
        fork::plan as PlanForkSpec,
        [FORKS, LISTS, shape("pages", "pages of the longest list", 4, 16)]
    ),
    recipe!("plan_step", step::plan as PlanSpec, [REQUESTS, LAYERS, KV_HEADS, TOKENS, LOW_TOKENS, RAGGED]),
    recipe!("prepare_pages", manager::prepare as PreparePagesSpec, [REQUESTS, LISTS]),
    recipe!(
        "price_tally",
        budget::price as BudgetSpec,
        [BUDGETS, LAYERS, KV_HEADS, TOKENS, LOW_TOKENS, RAGGED]
    ),
    recipe!("quantize", rows::quantize as CodecRows, [ROWS]),
    recipe!(
        "recompact",
        tiers::recompact as RecompactSpec,
        [
            ONE_OF,
            LAYERS,
            KV_HEADS,
            TOKENS,
            shape("low_tokens", "tokens of the longest list in the low tier, if there is one", 54, 200),
            RAGGED,
            LEFT_OUT
        ]
    ),
    recipe!("scan_pages", manager::scan as ScanPagesSpec, [REQUESTS, LISTS]),
    recipe!(
        "softmax",
        basic::softmax as SoftmaxSpec,
        [shape("rows", "rows", 5, 64), shape("cols", "elements of a row; at most the block", 100, 128)]
    ),
    recipe!("solve_budget", budget::solve as SolveBudgetSpec, [BUDGETS, LAYERS, KV_HEADS]),
    recipe!(
        "tally_tokens",
        budget::tally as BudgetSpec,
        [BUDGETS, LAYERS, KV_HEADS, TOKENS, LOW_TOKENS, RAGGED]
    ),
    recipe!("vector_add", basic::vector_add as VectorAddSpec, [shape("n", "elements", 700, 1 << 16)]),
    recipe!(
        "write_chunk",
        tiers::write as ChunkWriterSpec,
        [ONE_OF, KV_HEADS, TOKENS, LOW_TOKENS, RAGGED, CHUNK]
    ),
];

/// The recipe of a kernel.
///
/// # Errors
/// [`RecipeError::None`], which says what to add.
pub fn recipe(kernel: &str) -> Result<&'static Recipe, RecipeError> {
    let found = RECIPES.iter().find(|recipe| recipe.kernel == kernel);
    found.ok_or_else(|| RecipeError::None(kernel.to_owned()))
}

impl Recipe {
    /// The sizes of a workload: defaults, and what is asked for.
    ///
    /// # Errors
    /// A name that is no shape of this recipe, or a size beyond all reason.
    pub fn sizes(&self, size: Size, asked: &[(String, usize)]) -> Result<Shapes, RecipeError> {
        let default = |shape: &Shape| match size {
            Size::Small => shape.small,
            Size::Typical => shape.typical,
        };
        let mut shapes = Shapes(self.shapes.iter().map(|shape| (shape.name, default(shape))).collect());
        for (name, value) in asked {
            let known = || self.shapes.iter().map(|shape| shape.name.to_owned()).collect();
            let slot = shapes.0.get_mut(name.as_str()).ok_or_else(|| RecipeError::Shape {
                kernel: self.kernel.to_owned(),
                name: name.clone(),
                known: known(),
            })?;
            if *value > MOST {
                return Err(RecipeError::Value {
                    kernel: self.kernel.to_owned(),
                    name: name.clone(),
                    value: *value,
                    most: MOST,
                });
            }
            *slot = *value;
        }
        Ok(shapes)
    }

    /// A workload for the kernel's specialisation with these settings, defaults for the rest.
    ///
    /// # Errors
    /// Settings that are no specialisation, formats that do not fit, sizes that do not belong together.
    pub fn make(&self, settings: &Settings, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
        (self.make)(settings, shapes, seed)
    }
}

impl Shapes {
    /// A size; 0 for a name that the recipe does not list.
    #[must_use]
    pub fn get(&self, name: &str) -> usize {
        self.0.get(name).copied().unwrap_or(0)
    }
}

impl std::fmt::Display for Shapes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.write_str(&pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_one_recipe_in_alphabetical_order() {
        let names: Vec<&str> = RECIPES.iter().map(|r| r.kernel).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        let kernels: Vec<&str> = crate::KERNELS.iter().map(|kernel| kernel.name()).collect();
        assert_eq!(names, kernels);
    }

    #[test]
    fn every_recipe_fits_its_kernel_at_both_sizes() {
        for recipe in RECIPES {
            let settings = Settings::new();
            let func = crate::find(recipe.kernel).unwrap().build(&settings).unwrap_or_else(|e| panic!("{e}"));
            for size in [Size::Small, Size::Typical] {
                let shapes = recipe.sizes(size, &[]).unwrap();
                let workload = recipe.make(&settings, &shapes, 3).unwrap();
                workload.arguments(&func).unwrap_or_else(|e| panic!("{e}"));
                assert_eq!(workload, recipe.make(&settings, &shapes, 3).unwrap(), "{}", recipe.kernel);
            }
        }
    }

    #[test]
    fn sizes_that_are_none_are_refused() {
        let recipe = recipe("softmax").unwrap();
        let error = recipe.sizes(Size::Small, &[("col".to_owned(), 3)]).unwrap_err().to_string();
        assert!(error.contains("`col`") && error.contains("rows, cols"), "{error}");
        assert!(recipe.sizes(Size::Small, &[("cols".to_owned(), usize::MAX)]).is_err());
        assert!(super::recipe("rope").unwrap_err().to_string().contains("RECIPES"));
    }
}
