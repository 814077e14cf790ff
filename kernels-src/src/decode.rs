//! Decode attention over a paged, two-tier cache.
//!
//! One program serves the whole query group of one KV head and one split of its pages, so each key and value is read and decoded
//! once. A second kernel merges the splits in order. With FP16 as the only format this is the paged baseline.
//!
//! A split is so many pages ([`DecodeSpec::split_pages`]), so a head has as many splits as its own list is long, and its results do not depend on
//! what else is in the launch. A launch has programs for the longest list; those behind the end of their list do nothing.
//!
//! A step's significance is added by the step after it: a probability is known only when all logits are, and reading the keys once
//! more, or keeping the logits, would move more bytes than the significance itself has. So the queries wait, and meet the keys
//! that the next step reads anyway ([`Pending`]).

use half::f16;
use leankv_dsl::format::{KvFormat, Tiering};
use leankv_dsl::lang::attention::{
    ALL_PAGES, AttentionHooks, Codecs, KvBlock, KvOperand, OnlineSoftmax, Partial, Site, Tier, Tiers, Work,
    splits_of,
};
use leankv_dsl::lang::*;

use crate::candidates::{BestOfTile, Bests, Finds, Looking, Search, ShortlistMut, ShortlistState};
use crate::members::{Members, Read, parts_of, possible};
use crate::pattern::HeadPattern;
use crate::pending::{Asked, Pending, PendingMut};
use crate::policy::{Peaks, Received, Rule, SINKS, last_behind};

/// Tierings whose kernels are tested at every declared specialisation.
fn tierings() -> Vec<Tiering> {
    let single = |format: KvFormat| Tiering { high: format, low: None };
    let mut all: Vec<Tiering> = KvFormat::standard().into_iter().map(single).collect();
    let two = |high: &str, low: &str| {
        let parse = |name: &str| name.parse().expect("these are names of formats");
        Tiering { high: parse(high), low: Some(parse(low)) }
    };
    all.extend([two("K8V4", "K4V2"), two("K8V4g1.2", "K4V2g2.4")]);
    all
}

/// Specialisation of [`decode_attention`](fn@decode_attention).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
#[spec(valid = DecodeSpec::makes_sense)]
pub struct DecodeSpec {
    /// Formats of the tiers, such as `K8V4/K4V2`.
    #[spec(default = tierings()[8], values = tierings())]
    pub tiering: Tiering,
    /// Elements of a vector.
    #[spec(default = 128, values = [128])]
    pub head_dim: usize,
    /// Query heads that share a KV head.
    #[spec(default = 4, values = [1, 4, 8])]
    pub group: usize,
    /// Type of queries.
    #[spec(default = FloatType::F16)]
    pub input: FloatType,
    /// Bytes of a page.
    #[spec(default = 6784)]
    pub page_bytes: usize,
    /// Most tokens of a tile, which is worked on at once. One turn of the loop is a page, in tiles.
    #[spec(default = 32, tune = [8, 16, 32, 64, 128])]
    pub block: usize,
    /// Pages of a split, which one program works on; 0 for all of them. Few make many programs, which fill a GPU; each costs a partial result.
    #[spec(default = DecodeSpec::SPLIT_PAGES, values = [1, DecodeSpec::SPLIT_PAGES])]
    pub split_pages: usize,
    /// Which tokens are attended to.
    #[spec(default = HeadPattern::Dense)]
    pub pattern: HeadPattern,
    /// Whether the significance of the pending queries is added to the tokens, and this step's queries become the pending ones.
    #[spec(default = false)]
    pub significance: bool,
    /// Whether the tokens that the next step may change are looked for on the way, as [`PlanSpec`](crate::step::PlanSpec) has them.
    #[spec(default = false)]
    pub candidates: bool,
    /// Of candidates: tokens of the recent window.
    #[spec(default = 64)]
    pub window: i32,
    /// Of candidates: attention sinks.
    #[spec(default = SINKS)]
    pub sinks: i32,
    /// Of candidates: tokens of a chunk of a prompt.
    #[spec(default = 512)]
    pub chunk: usize,
    /// Of candidates: how many of a chunk's last queries count towards significance.
    #[spec(default = 64)]
    pub window_q: usize,
    /// Weight of tokens' peaks in their scores, in thousandths; 0 keeps none ([`Peaks`]).
    #[spec(default = 0)]
    pub peaks: u32,
    /// Pages that are worked on or on their way at once, in shared memory; 1 for pages that are loaded straight into registers, 0 for what suits the kernel. It is
    /// 1 as well where a GPU has no room for two.
    #[spec(default = 0, tune = [0, 1, 2, 3])]
    pub stages: usize,
    /// Warps of a program, which work on one tile together; 0 for as many as suit the formats. One warp exchanges nothing with others: it has no barriers and the
    /// fewest instructions a token, and many splits of few pages fill a GPU.
    #[spec(default = 0, tune = [0, 2, 4])]
    pub warps: u32,
    /// Programs that a multiprocessor of a GPU should have room for at once; 0 for as many as suit the kernel.
    #[spec(default = 0, tune = [0, 8, 16])]
    pub resident: u32,
    /// Whether codes of affine and symmetric codecs are multiplied as subnormal 16-bit floats
    /// ([`CodeFloats`](leankv_dsl::lang::attention::CodeFloats)), which takes fewer instructions; not yet measured on a GPU. Other codecs ignore it.
    #[spec(default = false)]
    pub subnormal: bool,
}

impl DecodeSpec {
    /// The usual [`split_pages`](DecodeSpec::split_pages) on a GPU.
    pub const SPLIT_PAGES: usize = 8;

    /// Warps of a program: one, or four where values have several groups, whose products one warp has no registers for.
    fn warps_used(&self) -> u32 {
        let tiers = std::iter::once(&self.tiering.high).chain(&self.tiering.low);
        let several = tiers.map(|format| format.value.shape().groups).any(|groups| groups > 1);
        match self.warps {
            0 if several => 4,
            0 => 1,
            asked => asked,
        }
    }

    /// Programs that a multiprocessor should have room for at once: 12 of one warp leave 168 registers to a thread, which is enough but for large groups with two
    /// tiers and significance, whose 8 have 255. Programs of more warps have no wish.
    fn programs(&self) -> u32 {
        let large = self.group > 4 && self.tiering.low.is_some() && self.significance;
        match (self.resident, self.warps_used()) {
            (0, 1) if large => 8,
            (0, 1) => 12,
            (asked, _) => asked,
        }
    }

    /// Pages that are worked on or on their way at once, for pages of so many tiles. Where significance or several tiles take the registers of one warp, a page is
    /// not held as a whole.
    fn depth(&self, tiles: usize) -> usize {
        match self.stages {
            0 if self.significance || (tiles > 2 && self.warps_used() == 1) => 2,
            0 => 1,
            asked => asked,
        }
    }

    /// Splits of a list of so many pages, those of both tiers.
    #[must_use]
    pub const fn splits_of(&self, pages: usize) -> usize {
        splits_of(pages, self.split_pages)
    }

    /// Splits that a merge reads at a time, for which it then waits once: `most`, or one where there are no more.
    fn together(&self, most: usize) -> usize {
        if self.split_pages == ALL_PAGES { 1 } else { most }
    }

    fn makes_sense(&self) -> bool {
        self.group >= 1
            && i32::try_from(self.split_pages).is_ok()
            && (self.significance || !self.candidates)
            && self.chunk >= 1
            && self.window >= 1
            && self.sinks >= 0
    }

    #[track_caller]
    fn tiers(&self, codecs: &dyn Codecs) -> Option<Tiers> {
        if !possible(self.head_dim, self.group) {
            return None;
        }
        let tiers = Tiers::new(codecs, &self.tiering, self.head_dim, self.page_bytes, self.block)?;
        Some(if self.subnormal { tiers.subnormal() } else { tiers })
    }

    /// What is looked for on the way, for the step after that of the token at `position`.
    #[track_caller]
    fn search(&self, shortlist: &Looking, request: Scalar<i32>, position: Scalar<i32>) -> Option<Search> {
        let rule = Rule::new(self.window, self.sinks, self.chunk, self.window_q, self.peaks);
        self.candidates.then(|| Search::new(rule, shortlist.prompt(request), position + 1))
    }
}

/// Which tokens a pattern attends to.
#[track_caller]
fn attends(pattern: HeadPattern, position: Scalar<i32>, keys: Tile<i32, 1>) -> Option<Tile<bool, 1>> {
    match pattern {
        HeadPattern::Dense => None,
        HeadPattern::Causal => Some(keys.le(position)),
        HeadPattern::SinkWindow { sinks, window } => {
            // Positions are not negative, so the difference does not wrap.
            let recent = (position - keys).lt(window);
            Some(keys.le(position) & (keys.lt(sinks) | recent))
        }
    }
}

/// What decode attention leaves for the merge: one part per split. Its views have at least the splits of the longest list, and behind a list's own ones
/// nothing is written or read.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct Partials {
    /// Splits of each list, `[requests, kv_heads]`.
    splits: ViewMut<i32, 2>,
    /// Natural logarithms of the sums of exponentials of the logits, `[requests, query_heads, splits]`; minus infinity for an empty split.
    lse: ViewMut<f32, 3>,
    /// Output of attention to the split's tokens alone, `[requests, query_heads, splits, head_dim]`.
    #[arg(align = 16)]
    out: ViewMut<f32, 4>,
}

impl Partials {
    /// What all of a list's `splits` found for some query heads, in split order.
    #[device]
    fn merged<I: ViewIndex>(
        &self,
        spec: &DecodeSpec,
        request: Scalar<i32>,
        members: &Members<I>,
        splits: Scalar<i32>,
    ) -> Partial {
        let count = members.count;
        let mut merged = Partial::none(count, spec.head_dim);
        // As many as 32 registers of each thread hold.
        let together = spec.together((4096 / (count * spec.head_dim)).clamp(1, 8));
        for turn in range(0, splits.cdiv(together as i32)) {
            let split = |number: usize| turn * together as i32 + number as i32;
            let parts: Vec<Partial> = (0..together)
                .map(|number| self.load(spec, request, split(number), members, splits))
                .collect();
            for part in parts {
                merged = merged.merge(part);
            }
        }
        merged
    }

    /// What a split found for some query heads; nothing behind a list's `splits`.
    #[track_caller]
    fn load<I: ViewIndex>(
        &self,
        spec: &DecodeSpec,
        request: Scalar<i32>,
        split: Scalar<i32>,
        members: &Members<I>,
        splits: Scalar<i32>,
    ) -> Partial {
        let (rows, count, d) = (members.rows, members.count, spec.head_dim);
        let lse = self.lse.tile((request, rows, split), [1, count, 1]).load().reshape([count]);
        let out = self.out.tile((request, rows, split, 0), [1, count, 1, d]).load().reshape([count, d]);
        let there = split.lt(splits);
        Partial::of(
            there.splat([count]).select(lse, f32::NEG_INFINITY),
            there.splat([count, d]).select(out, 0.0),
        )
    }

    /// Leaves what a split found for some query heads.
    #[track_caller]
    fn store<I: ViewIndex>(
        &self,
        spec: &DecodeSpec,
        request: Scalar<i32>,
        split: Scalar<i32>,
        members: &Members<I>,
        found: &Partial,
    ) {
        let (rows, one) = (members.rows, [1, members.count, 1]);
        let spread = |inside: Tile<bool, 1>| inside.reshape(one);
        members.store(self.lse.tile((request, rows, split), one), found.lse().reshape(one), spread);
        let all = [1, members.count, 1, spec.head_dim];
        members.store(self.out.tile((request, rows, split, 0), all), found.output().reshape(all), |inside| {
            inside.reshape([1, members.count, 1, 1]).broadcast(all)
        });
    }
}

/// How a step adds to the words of a tier.
#[derive(Clone, Copy)]
struct Adding {
    low: bool,
    peaks: Peaks,
    /// The last position that the window of the pending queries does not reach. Tokens of the window are in the high tier.
    behind: Scalar<i32>,
}

/// Adds to a block's tokens what they received from the pending queries of one token, except to frozen tokens and to the newest one of the high tier; and looks for
/// candidates among them, if any are looked for. Peaks rise behind the window alone.
#[track_caller]
fn add(
    block: &impl KvBlock,
    Adding { low, peaks, behind }: Adding,
    step: Tile<f32, 1>,
    (frozen, newest): (Scalar<i32>, Scalar<i32>),
    search: Option<Search>,
    best: &mut BestOfTile,
) {
    let numbers = block.first_token() + iota(step.extents()[0]);
    let step = if low { step } else { numbers.eq(newest).select(0.0, step) };
    let all = !peaks.kept() || low;
    let most = if all { step } else { block.positions().le(behind).select(step, 0.0) };
    let received = Received { sum: step, most };
    let words = block.update_significance(frozen, &|word| peaks.add_tile(word, received));
    if let Some(search) = search {
        let own = block.valid() & numbers.ge(frozen);
        let seen = search.look(words, block.positions(), numbers, own);
        best.least = search.least(best.least, &seen);
        if !low {
            best.leaving = search.leaving(best.leaving, &seen);
        }
    }
}

/// The queries of a query group as the hooks left them, with those of the group that are pending, if any.
#[derive(Clone, Copy, Debug)]
struct Queries {
    /// `[rows, head_dim]`: the step's, then the pending ones. One product serves both, so keys are decoded once.
    q: Tile<f16, 2>,
    /// Of the step's query; the pending ones stand one before it.
    position: Scalar<i32>,
    asked: Option<Asked>,
    /// Numbers of the rows in the group, where they are not all of it.
    members: Option<Tile<i32, 1>>,
    request: Scalar<i32>,
    head: Scalar<i32>,
}

impl Queries {
    /// Scaled logits `[group, block]` of the step's queries, minus infinity where a query does not attend, and those of the pending ones.
    #[track_caller]
    fn logits(
        &self,
        spec: &DecodeSpec,
        block: &impl KvBlock,
        scale: Scalar<f32>,
        hooks: &dyn AttentionHooks,
    ) -> (Tile<f32, 2>, Option<Tile<f32, 2>>) {
        let [rows, _] = self.q.extents();
        let (mut queries, mut members) =
            (self.position.splat([rows]), self.members.unwrap_or_else(|| iota(rows)));
        if self.asked.is_some() {
            let group = spec.group as i32;
            (queries, members) = (queries - members / group, members % group);
        }
        let keys = block.positions();
        let site = Site { request: self.request, head: self.head, queries, members, keys };
        let valid = block.valid();
        let seen = |position: Scalar<i32>| {
            let seen = attends(spec.pattern, position, keys).map_or(valid, |seen| seen & valid);
            seen.expand_dims(0)
        };
        let now = seen(self.position);
        let mask = hooks.mask(&site);
        let logits = match hooks.has_key_logits() {
            true => hooks.key_logits(block.logits(self.q), self.q, &site) * scale,
            false => block.scaled_logits(self.q, scale),
        };
        let logits = hooks.logits(logits, &site);
        let masked = |logits: Tile<f32, 2>, seen: Tile<bool, 2>, mask: Option<Tile<bool, 2>>| {
            let seen = mask.map_or(seen, |mask| mask & seen);
            seen.broadcast(logits.extents()).select(logits, f32::NEG_INFINITY)
        };
        if self.asked.is_none() {
            return (masked(logits, now, mask), None);
        }
        let (logits, before) = halves(logits);
        let (mask, mask_before) = match mask {
            Some(mask) if mask.extents()[0] > 1 => {
                let (mask, before) = halves(mask);
                (Some(mask), Some(before))
            }
            agreed => (agreed, agreed),
        };
        let then = seen(self.position - 1);
        (masked(logits, now, mask), Some(masked(before, then, mask_before)))
    }
}

/// The rows of both, those of `a` first.
#[track_caller]
fn stacked(a: Tile<f16, 2>, b: Tile<f16, 2>) -> Tile<f16, 2> {
    let [rows, columns] = a.extents();
    let twice = |x: Tile<f16, 2>| x.expand_dims(0).broadcast([2, rows, columns]).reshape([2 * rows, columns]);
    let first = iota(2 * rows).lt(rows as i32).expand_dims(1).broadcast([2 * rows, columns]);
    first.select(twice(a), twice(b))
}

/// The first and the second half of the rows.
#[track_caller]
fn halves<E: Element>(x: Tile<E, 2>) -> (Tile<E, 2>, Tile<E, 2>) {
    let [rows, columns] = x.extents();
    x.reshape([2, rows / 2, columns]).permute([1, 2, 0]).split()
}

/// Attention of one query token of each request over the cache, one split of it.
///
/// * Shapes: `q` is `[requests, query_heads, head_dim]` after RoPE, query heads of a KV head next to each other; `query_positions` is
///   `[requests]`; `scale` multiplies the logits; `kv` and `out` as their types say.
/// * Grid: `[kv_heads, requests, splits]`, with at least the splits of the longest list ([`DecodeSpec::splits_of`]), as `out` has them.
/// * Values: a request without any token gives minus infinity and zeros. Logits and sums are f32; weights are rounded to f16 before they meet
///   values, and queries of another type before they meet keys.
/// * Significance of a token is its probability, maximised over the query group (LeanKV, significance in the decode phase). With
///   `significance`, that of the queries in `pending` is added here, by every split to its own pages, as the tokens are stored now; not to
///   frozen tokens, nor to the one that this step inserted. Without it `pending` is not looked at.
/// * With `candidates` each split leaves in `shortlist` what the step after this one may change in its pages, with the significance as
///   added here, for [`merge_splits`](fn@merge_splits). Without it `shortlist` is not looked at.
/// * A group of more than 16 query heads is worked on in equal parts of at most 16: the keys are read once for each, and once more for the
///   significance of all.
/// * Errors: formats that do not fit the page, and groups and head dims that are not built, are refused at specialisation.
/// * Source: LeanKV, attention over differentiated pages; online softmax of flash attention; split-KV of flash decoding.
#[kernel(warps = spec.warps_used(), resident = spec.programs())]
pub fn decode_attention<C: Codecs, H: AttentionHooks, K: KvOperand>(
    #[comptime] spec: DecodeSpec,
    #[arg(align = 16, element = spec.input)] q: FloatView<3>,
    query_positions: View<i32, 1>,
    scale: Scalar<f32>,
    kv: K,
    out: Partials,
    pending: Pending,
    shortlist: Looking,
    codecs: C,
    hooks: H,
) {
    let Some(tiers) = spec.tiers(&codecs) else { return };
    let (head, request, split) = (program_id(0), program_id(1), program_id(2));
    let all = Work::all(kv.slot(request), head);
    let splits = Work::splits_of(kv.pages(all, &tiers), spec.split_pages);
    if split.lt(splits) {
        let at = all.split(split, spec.split_pages);
        attend(spec.clone(), &tiers, at, (q, query_positions, scale), kv, (out, pending, shortlist), hooks);
        // Stores come last, so that no load has to wait for them.
        if split.eq(0) {
            out.splits.set([request, head], splits);
        }
    }
}

/// The part of [`decode_attention`](fn@decode_attention) of one split that has pages, or is the first one.
#[device]
fn attend<H: AttentionHooks, K: KvOperand>(
    spec: DecodeSpec,
    tiers: &Tiers,
    at: Work,
    (q, query_positions, scale): (FloatView<3>, View<i32, 1>, Scalar<f32>),
    kv: K,
    (out, pending, shortlist): (Partials, Pending, Looking),
    hooks: H,
) {
    let (head, request) = (at.head, program_id(1));
    let position = query_positions.get([request]);
    let ((parts, _), peaks) = (parts_of(spec.group), Peaks::new(spec.peaks));
    let adding = |tier: &Tier| {
        let (low, behind) = (tier.is_low(), last_behind(position - 1, spec.window));
        Adding { low, peaks, behind }
    };
    if parts == 1 {
        let members = Members::all(head, spec.group);
        let load = |read: Read| {
            let q = hooks.query(members.load_floats(q, request, spec.head_dim, read));
            let load = || pending.load(at.slot, request, head, &members, spec.head_dim, read);
            let asked = spec.significance.then(load);
            let both = asked.map_or(q, |asked| stacked(q, asked.q));
            Queries { q: both, position, asked, members: None, request, head }
        };
        let search = spec.search(&shortlist, request, position);

        let first = tiers.high().values.code_floats();
        let mut online = OnlineSoftmax::of(spec.group, spec.head_dim, first);
        for tier in tiers.iter() {
            online.values.enter(tier.values.code_floats());
            let queries = load(if tier.is_low() { Read::Again } else { Read::First });
            let asked = queries.asked;
            let frozen = asked.map(|_| kv.frozen(at, tier.is_low()));
            let mut best = Bests::none(&kv.tiles(tier));
            for turn in kv.turns(at, tier, spec.depth(kv.tiles(tier).len())) {
                for (tile, block) in turn.iter().enumerate() {
                    let (logits, before) = queries.logits(&spec, block, scale, &hooks);
                    if let (Some(asked), Some(before), Some(frozen)) = (asked, before, frozen) {
                        let (step, tokens) = (asked.received(before), (frozen, asked.newest));
                        add(block, adding(tier), step, tokens, search, best.of(tile));
                    }
                    let weights = online.step(logits, &hooks);
                    block.accumulate(weights, &mut online.values);
                }
            }
            if spec.candidates {
                shortlist.keep(at, tier.is_low(), &best);
            }
        }
        if spec.candidates {
            shortlist.mark(at, ShortlistState::of(&kv, at, position + 1));
        }
        out.store(&spec, request, at.split, &members, &online.finish());
    } else {
        // A large group's significance first, over all its parts; then each part attends on its own, which reads the keys again.
        if spec.significance {
            let search = spec.search(&shortlist, request, position);
            let newest = pending.newest(request, head);
            for tier in tiers.iter() {
                let frozen = kv.frozen(at, tier.is_low());
                let mut best = Bests::none(&kv.tiles(tier));
                for turn in kv.turns(at, tier, 1) {
                    for (tile, block) in turn.iter().enumerate() {
                        let mut step = Tile::<f32, 1>::zeros([block.count()]);
                        for part in range(0, parts as i32) {
                            let members = Members::part(head, spec.group, part);
                            let asked =
                                pending.load(at.slot, request, head, &members, spec.head_dim, Read::First);
                            let numbers = Some(members.numbers());
                            let (q, position) = (asked.q, position - 1);
                            let queries =
                                Queries { q, position, asked: None, members: numbers, request, head };
                            let (logits, _) = queries.logits(&spec, block, scale, &hooks);
                            step = step.max(asked.received(logits));
                        }
                        add(block, adding(tier), step, (frozen, newest), search, best.of(tile));
                    }
                }
                if spec.candidates {
                    shortlist.keep(at, tier.is_low(), &best);
                }
            }
            if spec.candidates {
                shortlist.mark(at, ShortlistState::of(&kv, at, position + 1));
            }
        }
        for part in range(0, parts as i32) {
            let members = Members::part(head, spec.group, part);
            let q = hooks.query(members.load_floats(q, request, spec.head_dim, Read::First));
            let numbers = Some(members.numbers());
            let queries = Queries { q, position, asked: None, members: numbers, request, head };
            let first = tiers.high().values.code_floats();
            let mut online = OnlineSoftmax::of(members.count, spec.head_dim, first);
            for tier in tiers.iter() {
                online.values.enter(tier.values.code_floats());
                for turn in kv.turns(at, tier, spec.depth(kv.tiles(tier).len())) {
                    for block in &turn {
                        let (logits, _) = queries.logits(&spec, block, scale, &hooks);
                        let weights = online.step(logits, &hooks);
                        block.accumulate(weights, &mut online.values);
                    }
                }
            }
            out.store(&spec, request, at.split, &members, &online.finish());
        }
    }
}

/// Merges the splits of [`decode_attention`](fn@decode_attention) in split order, and with `significance` makes this step's queries the
/// pending ones. With `candidates`, the best of what the splits found goes to the shortlist, which the next plan reads.
///
/// * Shapes: `parts` and `finds` as decode attention left them, `q` as it took it, `out` is `[requests, query_heads, head_dim]`, `lse` is
///   `[requests, query_heads]`, `slots` is `[requests]`.
/// * Grid: `[kv_heads, requests]`.
/// * Values: zeros and minus infinity where no token was attended to. The result does not depend on the order in which programs run, and on
///   the number of splits only by rounding.
/// * Significance: it is a launch of its own that overwrites `pending`, since every split of decode attention reads it. A request with a
///   negative slot leaves nothing there. Without `significance`, `q`, `slots` and `pending` are not looked at; without `candidates`, `finds` and
///   `shortlist` are not.
#[kernel]
pub fn merge_splits<H: AttentionHooks>(
    #[comptime] spec: DecodeSpec,
    parts: Partials,
    #[arg(align = 16, element = spec.input)] q: FloatView<3>,
    slots: View<i32, 1>,
    finds: Finds,
    pending: PendingMut,
    shortlist: ShortlistMut,
    #[arg(align = 16)] out: ViewMut<f32, 3>,
    lse: ViewMut<f32, 2>,
    hooks: H,
) {
    if comptime(!possible(spec.head_dim, spec.group)) {
        return;
    }
    let (head, request) = (program_id(0), program_id(1));
    let splits = parts.splits.get([request, head]);
    if spec.candidates {
        shortlist.keep(&finds, slots.get([request]), head, splits, spec.together(128));
    }
    let (count, _) = parts_of(spec.group);
    if count == 1 {
        let members = Members::all(head, spec.group);
        let merged = parts.merged(&spec, request, &members, splits);
        let total = merged.lse();
        members.store_rows(out, request, spec.head_dim, || hooks.output(merged.output()));
        members.store_numbers(lse, request, total);

        if spec.significance {
            let slot = slots.get([request]);
            if slot.ge(0) {
                let q = members.load_floats(q, request, spec.head_dim, Read::First);
                pending.store(slot, &members, hooks.query(q), total);
            }
        }
    } else {
        for part in range(0, count as i32) {
            let members = Members::part(head, spec.group, part);
            let merged = parts.merged(&spec, request, &members, splits);
            let total = merged.lse();
            members.store_rows(out, request, spec.head_dim, || hooks.output(merged.output()));
            members.store_numbers(lse, request, total);

            if spec.significance {
                let slot = slots.get([request]);
                if slot.ge(0) {
                    let q = members.load_floats(q, request, spec.head_dim, Read::First);
                    pending.store(slot, &members, hooks.query(q), total);
                }
            }
        }
    }
}
