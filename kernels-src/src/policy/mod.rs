//! Policies: which tokens stay, in which tier.
//!
//! A [`Policy`] is staged: it runs while a kernel is recorded and gives that kernel its decisions. [`PolicyMath`] is the same policy
//! in plain Rust and `f32`; tests hold the two equal. Which policy a kernel uses is named by a [`PolicySpec`] in its
//! specialisation; [`StockPolicies`] takes the ones of this crate, [`Only`] brings a user's own: one type, one file. A cache is given a
//! [`PolicyChoice`]: a name of this crate's, or a user's policy as a value.
//!
//! Significance of a token is its mean share of attention, over the queries that count ([`Counting`]) and maximised over the query
//! group. It is judged against `1 / tokens`: with every key equally important each has just that.
//!
//! What a policy is not asked about: tokens in the recent window and attention sinks are always high, frozen tokens are never
//! touched, and a token that no query has counted for yet is never demoted.

#[macro_use]
mod spec;
mod choice;
mod counted;
mod leankv;
mod peak;
mod rule;

pub use choice::{ChosenPolicies, PolicyChoice, PolicyVariant};
pub use counted::Counting;
pub use leankv::LeanKv;
pub use peak::{Peaks, Received};
pub use rule::last_behind;
pub(crate) use rule::{Judged, Progress, Rule};
pub use spec::UnknownPolicy;

// A new policy of this project is a file of this folder and a line here.
stock_policies! {
    paper::Paper = "leankv-paper",
    released::Released = "leankv-released",
    uniform::Uniform = "uniform",
    sink_window::SinkWindow = "sink-window",
    heavy_hitter::HeavyHitter = "heavy-hitter",
}

use leankv_dsl::lang::*;

/// Attention sinks where nothing else is asked for: so many of a sequence's first tokens are high under every policy. Nearly every head puts
/// much of its attention on them, so a model without them predicts nothing sensible (StreamingLLM, arXiv 2309.17453).
pub const SINKS: i32 = 4;

/// Tier of a token that is dropped.
pub const PRUNED: i32 = 0;
/// Tier of a token that is kept in the low format.
pub const LOW: i32 = 1;
/// Tier of a token that is kept in the high format.
pub const HIGH: i32 = 2;

/// What a policy knows about one (request, layer, KV head).
#[derive(Clone, Copy, Debug)]
pub struct HeadFacts {
    /// The high threshold, a multiple of `1 / tokens`; for some policies another number (they say which).
    pub a_high: Scalar<f32>,
    /// The low threshold, a multiple of `1 / tokens`.
    pub a_low: Scalar<f32>,
    /// Tokens of the sequence so far, that of the query included; kept or not.
    pub tokens: Scalar<i32>,
    /// Whether there is a low tier. Known at specialisation time.
    pub has_low: bool,
    /// The layer.
    pub layer: Scalar<i32>,
    /// The KV head.
    pub head: Scalar<i32>,
}

/// Tokens of one (request, layer, KV head) that a policy sorts into tiers, all `[tokens]`.
#[derive(Clone, Copy)]
pub struct TokenFacts<'t> {
    /// Their significance.
    pub sig: Tile<f32, 1>,
    /// Their positions in the sequence.
    pub positions: Tile<i32, 1>,
    /// The tier that they are in now; [`HIGH`] for tokens that are not cached yet. A chunk's tokens are judged twice: when they are written, and with all
    /// others when the chunk ends.
    pub tier: Scalar<i32>,
    /// Reads their keys, after RoPE, and their values, `[tokens, head_dim]`: as they come in the prompt, as they are stored later. A kernel whose
    /// policy does not ask for them reads none.
    pub vectors: &'t dyn Fn() -> [Tile<f32, 2>; 2],
}

impl<'t> TokenFacts<'t> {
    /// Tokens whose keys and values, `[tokens, head_dim]`, are what `vectors` reads.
    pub(crate) fn new(
        judged: &Judged,
        tier: Scalar<i32>,
        vectors: &'t dyn Fn() -> [Tile<f32, 2>; 2],
    ) -> Self {
        Self { sig: judged.sig, positions: judged.positions, tier, vectors }
    }

    /// The same tokens with another significance.
    #[must_use]
    pub fn with_sig(self, sig: Tile<f32, 1>) -> Self {
        Self { sig, ..self }
    }

    /// Euclidean norms of their keys and of their values.
    #[track_caller]
    pub fn norms(&self) -> [Tile<f32, 1>; 2] {
        (self.vectors)().map(|vectors| (vectors * vectors).reduce_sum(1).sqrt())
    }
}

impl std::fmt::Debug for TokenFacts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sig, positions, tier, .. } = self;
        f.debug_struct("TokenFacts")
            .field("sig", sig)
            .field("positions", positions)
            .field("tier", tier)
            .finish()
    }
}

impl HeadFacts {
    /// `1 / tokens`.
    #[track_caller]
    pub fn base(&self) -> Scalar<f32> {
        1.0 / self.tokens.max(1).cast::<f32>()
    }

    /// The significances below which a token is dropped, and below which it is not high. Without a low tier the two are the same:
    /// what would be low stays high.
    #[track_caller]
    pub fn cuts(&self, base: Scalar<f32>) -> (Scalar<f32>, Scalar<f32>) {
        let low = self.a_low * base;
        (low, if self.has_low { self.a_high * base } else { low })
    }
}

/// A token that a decode step may change.
#[derive(Clone, Copy, Debug, Carry)]
pub struct Candidate {
    /// Its significance; anything where it does not exist.
    pub sig: Scalar<f32>,
    /// Its position in the sequence; anything where it does not exist.
    pub position: Scalar<i32>,
    /// Whether there is one.
    pub exists: Scalar<bool>,
}

/// What one (request, layer, KV head) looks like before a decode step.
#[derive(Clone, Copy, Debug)]
pub struct StepFacts {
    /// The head; `tokens` includes the token that the step adds.
    pub head: HeadFacts,
    /// Tokens in the high tier.
    pub len_high: Scalar<i32>,
    /// Tokens in the low tier.
    pub len_low: Scalar<i32>,
    /// The least significant token of the high tier outside of the window.
    pub least_high: Candidate,
    /// The token that this step moves out of the window, if it is there.
    pub leaving: Candidate,
    /// The least significant token of the low tier.
    pub least_low: Candidate,
}

/// What a decode step does besides adding the new token.
#[derive(Clone, Copy, Debug, Carry)]
pub struct StepAction {
    /// Which high token gives its place to the new one: 0 none, 1 the least significant, 2 the one that leaves the window.
    pub victim: Scalar<i32>,
    /// Whether the victim goes to the low tier instead of away.
    pub demote: Scalar<bool>,
    /// Whether the least significant token of the low tier goes away.
    pub evict_low: Scalar<bool>,
}

/// Which candidates a policy looks at. Lists that no candidate is wanted of are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// [`StepFacts::least_high`].
    pub least_high: bool,
    /// [`StepFacts::leaving`].
    pub leaving: bool,
    /// [`StepFacts::least_low`].
    pub least_low: bool,
}

impl Needs {
    /// All of them.
    pub const ALL: Needs = Needs { least_high: true, leaving: true, least_low: true };
    /// None of them.
    pub const NONE: Needs = Needs { least_high: false, leaving: false, least_low: false };
}

/// A policy, as kernels record it.
pub trait Policy {
    /// Tier of tokens while a prompt is cached, and where a budget is solved for again: [`PRUNED`], [`LOW`] or [`HIGH`].
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, head: &HeadFacts) -> Tile<i32, 1>;

    /// What a decode step does.
    fn step(&self, facts: &StepFacts) -> StepAction;

    /// Which candidates [`step`](Policy::step) looks at; those not named here never exist.
    fn needs(&self) -> Needs {
        Needs::ALL
    }
}

/// [`HeadFacts`] in plain numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadNumbers {
    /// As [`HeadFacts::a_high`].
    pub a_high: f32,
    /// As [`HeadFacts::a_low`].
    pub a_low: f32,
    /// As [`HeadFacts::tokens`].
    pub tokens: i32,
    /// As [`HeadFacts::has_low`].
    pub has_low: bool,
}

impl HeadNumbers {
    /// As [`HeadFacts::base`].
    #[must_use]
    pub fn base(&self) -> f32 {
        1.0 / self.tokens.max(1) as f32
    }

    /// As [`HeadFacts::cuts`].
    #[must_use]
    pub fn cuts(&self, base: f32) -> (f32, f32) {
        let low = self.a_low * base;
        (low, if self.has_low { self.a_high * base } else { low })
    }
}

/// [`StepFacts`] in plain numbers: the significance of candidates that exist.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepNumbers {
    /// As [`StepFacts::head`].
    pub head: HeadNumbers,
    /// As [`StepFacts::len_high`].
    pub len_high: i32,
    /// As [`StepFacts::len_low`].
    pub len_low: i32,
    /// As [`StepFacts::least_high`].
    pub least_high: Option<f32>,
    /// As [`StepFacts::leaving`].
    pub leaving: Option<f32>,
    /// As [`StepFacts::least_low`].
    pub least_low: Option<f32>,
}

/// [`StepAction`] in plain numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepChoice {
    /// As [`StepAction::victim`].
    pub victim: i32,
    /// As [`StepAction::demote`].
    pub demote: bool,
    /// As [`StepAction::evict_low`].
    pub evict_low: bool,
}

/// A policy in plain Rust, with the decisions of its [`Policy`].
pub trait PolicyMath {
    /// As [`Policy::prompt_tier`], for one token.
    fn prompt_tier(&self, sig: f32, head: &HeadNumbers) -> i32;

    /// As [`Policy::step`].
    fn step(&self, facts: &StepNumbers) -> StepChoice;

    /// As [`Policy::needs`].
    fn needs(&self) -> Needs {
        Needs::ALL
    }
}

/// Which policies a kernel uses, given what its specialisation names.
pub trait Policies {
    /// The policy.
    fn policy(&self, named: &PolicySpec) -> Box<dyn Policy>;
}

/// The policies of this crate.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct StockPolicies;

impl Policies for StockPolicies {
    fn policy(&self, named: &PolicySpec) -> Box<dyn Policy> {
        named.policy()
    }
}

/// One policy, whatever the specialisation names. What it is made of are kernel parameters: `policies.policy.decay`.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct Only<P> {
    /// The policy.
    pub policy: P,
}

impl<P: Policy + KernelArg + Clone + 'static> Policies for Only<P> {
    fn policy(&self, _: &PolicySpec) -> Box<dyn Policy> {
        Box::new(self.policy.clone())
    }
}

/// The three tiers by two cuts; at a cut the better tier, and a significance that is no number is high.
#[track_caller]
fn tier_by_cuts(sig: Tile<f32, 1>, low: Scalar<f32>, high: Scalar<f32>) -> Tile<i32, 1> {
    let kept: Tile<i32, 1> = sig.lt(high).select(LOW, HIGH);
    sig.lt(low).select(PRUNED, kept)
}

/// As [`tier_by_cuts`], for one token.
fn tier_of_number(sig: f32, (low, high): (f32, f32)) -> i32 {
    match sig {
        _ if sig < low => PRUNED,
        _ if sig < high => LOW,
        _ => HIGH,
    }
}
