//! The LeanKV cache: one arena of pages for all requests, layers, KV heads and formats.
//!
//! * [`KvCache`] is the cache as an engine uses it: requests come, take decode steps, fork, and go.
//! * [`CacheShape`] says how large everything is; [`State`] is its buffers on a device.
//! * [`PageManager`] moves pages: [`DeviceManager`] with kernels on the device, for all lists of all requests at once;
//!   [`SequentialManager`] list by list in plain Rust, as the model and the baseline.
//! * [`audit`](fn@audit) counts everything again and says what does not add up.
//!
//! What the manager promises, each with tests of that name:
//!
//! | promise | meaning |
//! |---|---|
//! | P1 conservation | every page is free, or in as many lists as it has references; nothing is lost |
//! | P2 one owner | a page with one reference is in one list; a free page is in none |
//! | P5 out of pages is a value | [`OutOfPages`], all or nothing for a request, and it can be tried again |
//! | P6 bounded | a list that does not grow needs no page, however full the arena is |
//! | P7 recovery | after a launch that failed the manager says so and touches nothing any more |
//! | P8 order | a page given back in a rebalance is taken by a later one, after its last reader |
//! | P9 index safety | places in an arena beyond 2^31 bytes are reached |
//! | P10 observability | [`PageManager::snapshot`], [`PageManager::audit`] |
//! | P11 a bound: no request holds more pages than counts say | [`CacheConfig::pages_at_most`] |

mod audit;
mod bundle;
mod engine;
mod error;
mod manager;
mod shape;
mod size;
mod state;

pub use audit::{Finding, audit};
pub use bundle::bundle;
pub use engine::{
    Basis, Budget, CacheConfig, DecodeStep, EngineKernels, HeadStats, InputElement, KvCache, LayerInput,
    Means, Preempt, PromptChunk, RequestId, RequestStats, Rows, RowsMut, StepId, StepPart, Thresholds,
};
pub use error::{KvError, OutOfPages, Refused};
pub use leankv_kernels::reference::PageState;
pub use manager::{DeviceManager, ManagerKernels, More, PageManager, SequentialManager};
pub use shape::CacheShape;
pub use state::State;

/// The tier of a list of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// From the left end of a row of the page table.
    High,
    /// From the right end.
    Low,
}

impl Side {
    /// Both, high first.
    pub const BOTH: [Side; 2] = [Side::High, Side::Low];
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::High => "high",
            Side::Low => "low",
        })
    }
}
