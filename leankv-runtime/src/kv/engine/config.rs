//! What a cache is for.

use leankv_dsl::format::{KvFormat, LayerFormats, PageLayout, Tiering, cache_page_bytes, normal_loss};
use leankv_dsl::lang::FloatType;
use leankv_dsl::lang::attention::{ALL_PAGES, CodecChoice, HookChoice, splits_of};
use leankv_kernels::MAX_GROUP;
use leankv_kernels::budget::pages_for;
use leankv_kernels::decode::DecodeSpec;
use leankv_kernels::policy::{PolicyChoice, SINKS};

use super::{Basis, Budget};
use crate::compiler::CompileError;
use crate::device::Device;
use crate::kv::size::check_bytes;
use crate::kv::{CacheShape, KvError};

/// What a cache is for: a model's extents, formats, rules, and how much there is of everything.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheConfig {
    /// Layers of the model.
    pub layers: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Query heads that share a KV head.
    pub group: usize,
    /// Elements of a vector.
    pub head_dim: usize,
    /// Element type of queries, keys and values as they come.
    pub input: FloatType,
    /// Element type of what [`KvCache::layer`](super::KvCache::layer) gives. [`DecodeStep`](super::DecodeStep) and [`PromptChunk`](super::PromptChunk) give f32.
    pub output: FloatType,
    /// Formats of every layer's tiers, of requests that ask for nothing else.
    pub formats: LayerFormats,
    /// What else requests may ask for: see [`KvCache::admit_as`](super::KvCache::admit_as). All share the arena.
    pub more_formats: Vec<LayerFormats>,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Pages of the arena.
    pub pages: usize,
    /// Requests that it holds at once.
    pub slots: usize,
    /// Longest sequence.
    pub max_tokens: usize,
    /// Tokens of a chunk of a prompt.
    pub chunk: usize,
    /// How many of a chunk's last queries count towards significance.
    pub window_q: usize,
    /// Tokens of the recent window: always high.
    pub window: usize,
    /// Attention sinks: the first tokens of a sequence, always high, under every policy.
    pub sinks: usize,
    /// Weight of tokens' peaks in their scores, in thousandths; 0 keeps none. A token's peak is the largest share of attention that one query gave it that has it
    /// behind its window, or its prior where that is more: see [`Peaks`](leankv_kernels::policy::Peaks) and [`DecodeStep::layer_with_priors`](super::DecodeStep::layer_with_priors).
    pub peaks: u32,
    /// What peaks start from where a layer is given nothing else, `[layers, kv_heads]`: shares of attention, from 0 to 1. Empty for 0.
    pub priors: Vec<f32>,
    /// The basis in which keys and values are held.
    pub basis: Basis,
    /// Which tokens stay, in which tier: a policy of this project's, or a user's.
    pub policy: PolicyChoice,
    /// What is done to keys and values besides what the codecs of a format do.
    pub codecs: CodecChoice,
    /// What attention does besides plain attention.
    pub hooks: HookChoice,
    /// Pages of a KV head that one program of a decode step works on. Where none is given the device says: see [`CacheConfig::split_pages_on`].
    pub split_pages: Option<usize>,
    /// Edges of the [`Ladder`](leankv_kernels::budget::Ladder) between the two thresholds that a budget solves for, four an octave; without, what
    /// rate and distortion of the formats say: see [`CacheConfig::gap_of`].
    pub gap: Option<u32>,
    /// Decode steps of a request after which thresholds are solved for its budget again, at most: see [`CacheConfig::steps_between`].
    pub solve_every: usize,
    /// Tokens of a sequence up to which [`Budget::Part`] drops none, only demotes; longer ones get at least the bytes of so many, so that the part
    /// is reached a little later. A short sequence has no tokens to spare: without this the perplexity of SmolLM2-135M rises by 44 % at an eighth
    /// of FP16's bytes in sequences of 256 to 512 tokens, and by 15 % up to 1024.
    pub keep_tokens: usize,
    /// What is done where a budget is due in a decode step and pages for all that is to be demoted are short: without it the step is refused; with it
    /// only so much is demoted as there is room for, and the rest with a later step. What a request gets then depends on the others, and for a while it may hold more than its budget.
    pub defer_demotion: bool,
    /// Bytes that the pages of all requests with [`Budget::Shared`] may take together; all of the arena without it.
    pub shared_budget: Option<usize>,
}

impl CacheConfig {
    /// The usual [`window`](CacheConfig::window) (LeanKV).
    pub const WINDOW: usize = 64;
    /// The usual number of [`sinks`](CacheConfig::sinks).
    pub const SINKS: usize = SINKS as usize;
    /// The usual [`keep_tokens`](CacheConfig::keep_tokens).
    pub const KEEP_TOKENS: usize = 512;

    /// The paper's rules for a model of these extents: K8V4 over K4V2 in the published page, a window of 64 tokens and 4 attention sinks;
    /// room for `slots` requests of `max_tokens` tokens in `pages` pages.
    pub fn new(
        [layers, kv_heads, group, head_dim]: [usize; 4],
        slots: usize,
        max_tokens: usize,
        pages: usize,
    ) -> CacheConfig {
        CacheConfig {
            layers,
            kv_heads,
            group,
            head_dim,
            input: FloatType::F16,
            output: FloatType::F32,
            formats: "K8V4/K4V2".parse().expect("this is a tiering's name"),
            more_formats: Vec::new(),
            page_bytes: 6784,
            pages,
            slots,
            max_tokens,
            chunk: 512,
            window_q: 64,
            window: CacheConfig::WINDOW,
            sinks: CacheConfig::SINKS,
            peaks: 0,
            priors: Vec::new(),
            basis: Basis::default(),
            policy: PolicyChoice::default(),
            codecs: CodecChoice::stock(),
            hooks: HookChoice::plain(),
            split_pages: None,
            gap: Some(16),
            solve_every: 16,
            keep_tokens: CacheConfig::KEEP_TOKENS,
            defer_demotion: false,
            shared_budget: None,
        }
    }

    /// The formats that keep most at few bytes: mid-rise codes of [rotated](Basis) rows, 8 bits over 4.
    pub const ROTATED: &str = "K8mV8m/K4mV4m";
    /// The [`window`](CacheConfig::window) that suits them.
    pub const ROTATED_WINDOW: usize = 32;
    /// The [`keep_tokens`](CacheConfig::keep_tokens) that suit them.
    pub const ROTATED_KEEP_TOKENS: usize = 120;
    /// The weight of [`peaks`](CacheConfig::peaks) that suits them.
    pub const ROTATED_PEAKS: u32 = 100;

    /// As [`CacheConfig::new`], in the [formats](CacheConfig::ROTATED) and by the rules that keep most at few bytes, for requests with a budget ([`Thresholds::solved`](super::Thresholds::solved)). Formats and numbers were
    /// chosen by what a language model (SmolLM2-135M) says of held-out texts. They come to little without priors: give each layer those of its tokens (`layer_with_priors`), and take the means of
    /// the model's keys and values out ([`Basis::means`]).
    ///
    /// ```
    /// use leankv_runtime::kv::{Budget, CacheConfig, KvCache, Thresholds};
    /// use leankv_runtime::{Compiler, Device, cache::KernelCache};
    ///
    /// let config = CacheConfig::rotated([2, 2, 2, 64], 4, 1000, 200);
    /// let mut cache = KvCache::new(&Compiler::new(KernelCache::without_folder()), &Device::host(), config)?;
    /// // An eighth of the bytes of FP16.
    /// cache.admit(300, &Thresholds::solved(Budget::Part(8.0)))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rotated(extents: [usize; 4], slots: usize, max_tokens: usize, pages: usize) -> CacheConfig {
        let formats: LayerFormats = CacheConfig::ROTATED.parse().expect("this is a tiering's name");
        let usual = CacheConfig::new(extents, slots, max_tokens, pages);
        let page_bytes = u32::try_from(usual.head_dim).ok().and_then(|d| cache_page_bytes(&formats, d).ok());
        CacheConfig {
            formats,
            // A head dim that no page fits is refused with the cache.
            page_bytes: page_bytes.map_or(usual.page_bytes, |bytes| bytes as usize),
            window: CacheConfig::ROTATED_WINDOW,
            keep_tokens: CacheConfig::ROTATED_KEEP_TOKENS,
            peaks: CacheConfig::ROTATED_PEAKS,
            gap: None,
            basis: Basis { rotated: true, means: None },
            ..usual
        }
    }

    /// Whether priors are of this cache's extents.
    fn check_priors(&self) -> Result<(), KvError> {
        let (n, expected) = (self.priors.len(), self.lists());
        let why = match self.priors.iter().find(|prior| !(0.0..=1.0).contains(*prior)) {
            _ if self.peaks > 1000 => format!("peaks weigh {} thousandths; at most 1000", self.peaks),
            Some(bad) => format!("a prior of {bad}; priors are shares of attention, from 0 to 1"),
            None if n != 0 && self.peaks == 0 => {
                "priors where no peaks are kept: give them a weight (peaks)".to_owned()
            }
            None if n != 0 && n != expected => {
                format!("{n} priors where {expected} are expected, [layers, kv_heads]")
            }
            None => return Ok(()),
        };
        Err(KvError::Shape { why })
    }

    /// (layer, KV head) pairs.
    pub fn lists(&self) -> usize {
        self.layers * self.kv_heads
    }

    /// Query heads of a layer.
    pub fn query_heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// What logits are multiplied by: `1 / sqrt(head_dim)`.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Bytes of `tokens` tokens in FP16, without any bookkeeping.
    pub fn fp16_bytes(&self, tokens: usize) -> usize {
        // Two vectors of two bytes an element.
        tokens * self.lists() * self.head_dim * 4
    }

    /// Bytes of `tokens` tokens in FP16 over `part`.
    pub(super) fn part_bytes(&self, tokens: usize, part: f32) -> usize {
        (self.fp16_bytes(tokens) as f64 / f64::from(part)) as usize
    }

    /// What requests may ask for, the one for those that ask for nothing first.
    pub fn all_formats(&self) -> impl Iterator<Item = &LayerFormats> {
        std::iter::once(&self.formats).chain(&self.more_formats)
    }

    /// Every tiering that layers of requests may have, once.
    pub fn tierings(&self) -> Vec<Tiering> {
        let mut all: Vec<Tiering> = Vec::new();
        for tiering in self.all_formats().flat_map(LayerFormats::tierings) {
            if !all.contains(&tiering) {
                all.push(tiering);
            }
        }
        all
    }

    /// The page layouts of the high and the low tier, of most layers of requests that ask for nothing else.
    ///
    /// # Errors
    /// [`KvError::Shape`] for formats that do not fit the page.
    pub fn layouts(&self) -> Result<(PageLayout, Option<PageLayout>), KvError> {
        self.layouts_of(self.formats.usual())
    }

    /// The page layouts of the high and the low tier of a tiering, by the shapes of the codecs that are used.
    ///
    /// # Errors
    /// [`KvError::Shape`] for formats that do not fit the page, [`KvError::Compile`] for what a user's codecs report.
    pub fn layouts_of(&self, tiering: &Tiering) -> Result<(PageLayout, Option<PageLayout>), KvError> {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let layout = |format| {
            let (d, bytes) = (number(self.head_dim), number(self.page_bytes));
            let [keys, values] = self.codecs.shapes(format).map_err(CompileError::Refused)?;
            PageLayout::from_shapes(keys, values, d, bytes)
                .map_err(|error| KvError::Shape { why: error.to_string() })
        };
        Ok((layout(&tiering.high)?, tiering.low.as_ref().map(layout).transpose()?))
    }

    /// Tokens of a high and of a low page of a tiering; without a low tier the two are the same.
    ///
    /// # Errors
    /// [`KvError::Shape`] for formats that do not fit the page.
    pub fn page_tokens(&self, tiering: &Tiering) -> Result<[usize; 2], KvError> {
        let (high, low) = self.layouts_of(tiering)?;
        let high = high.tokens_per_page() as usize;
        Ok([high, low.map_or(high, |low| low.tokens_per_page() as usize)])
    }

    /// Pages of a request in these formats each of whose high and low lists has so many tokens; a layer of one tier has no low list.
    ///
    /// # Errors
    /// [`KvError::Shape`] for formats that do not fit the page.
    pub fn pages_of(&self, formats: &LayerFormats, [high, low]: [usize; 2]) -> Result<usize, KvError> {
        let mut pages = 0;
        for layer in 0..self.layers {
            let tiering = formats.of(layer);
            let [in_high, in_low] = self.page_tokens(tiering)?;
            let low_pages = if tiering.low.is_some() { low.div_ceil(in_low) } else { 0 };
            pages += (high.div_ceil(in_high) + low_pages) * self.kv_heads;
        }
        Ok(pages)
    }

    /// Edges between the low and the high threshold of a tiering, where a budget solves for them; 0 without a low tier.
    ///
    /// A token whose score is `s` loses the square of `s` times the distortion of its format: the losses of key and value ([`normal_loss`]), and 2 where it is
    /// dropped. It goes to a smaller one where that adds less than a price for the bytes that are saved. So for any price the squares of the thresholds are in proportion
    /// to `(b_high - b_low) / (d_low - d_high)` and `b_low / (2 - d_low)`, with `b` bytes and `d` distortions; without a low tier both to `b / (2 - d)`.
    ///
    /// # Errors
    /// [`KvError::Shape`] for formats that do not fit the page.
    pub fn gap_of(&self, tiering: &Tiering) -> Result<u32, KvError> {
        if let (Some(_), Some(gap)) = (tiering.low, self.gap) {
            return Ok(gap);
        }
        let [high, low] = self.squares_of(tiering)?;
        Ok(edges(high / low).clamp(0, 64) as u32)
    }

    /// Edges by which the high threshold of layers of a tiering stands above that of layers of `usual`, where a budget solves for both: for the same price as in
    /// [`gap_of`](CacheConfig::gap_of).
    ///
    /// # Errors
    /// [`KvError::Shape`] for formats that do not fit the page.
    pub fn lift_of(&self, tiering: &Tiering, usual: &Tiering) -> Result<i32, KvError> {
        let ([high, _], [of_usual, _]) = (self.squares_of(tiering)?, self.squares_of(usual)?);
        Ok(edges(high / of_usual).clamp(-64, 64))
    }

    /// The squares of the high and the low threshold of a tiering for a price of 1.
    fn squares_of(&self, tiering: &Tiering) -> Result<[f64; 2], KvError> {
        let (high, low) = self.layouts_of(tiering)?;
        let bytes = |layout: &PageLayout| layout.account().true_bytes_per_token();
        let (b_high, d_high) = (bytes(&high), self.lost(tiering.high)?);
        let alone = b_high / (2.0 - d_high);
        let (Some(format), Some(low)) = (tiering.low, low) else { return Ok([alone; 2]) };
        let (b_low, d_low) = (bytes(&low), self.lost(format)?);
        // A low format that saves nothing is of no use, one that loses nothing takes all tokens.
        Ok(match b_high > b_low {
            true => [(b_high - b_low) / (d_low - d_high).max(1e-12), b_low / (2.0 - d_low)],
            false => [alone; 2],
        })
    }

    /// The losses of key and value of a token in a format.
    fn lost(&self, format: KvFormat) -> Result<f64, KvError> {
        let loss =
            |codec| normal_loss(&codec, self.head_dim).map_err(|e| KvError::Shape { why: e.to_string() });
        Ok(loss(format.key)? + loss(format.value)?)
    }

    /// Most parts into which a decode step cuts the pages of a KV head: a launch has no more programs along an axis.
    pub const MAX_SPLITS: usize = 65_535;

    /// Pages of a KV head that one program of a decode step works on: those that are given; on a GPU the usual
    /// [`DecodeSpec::SPLIT_PAGES`], elsewhere all ([`ALL_PAGES`]), since a processor is busy with one program for each head.
    pub fn split_pages_on(&self, device: &Device) -> usize {
        let usual = device.compute_capability().map_or(ALL_PAGES, |_| DecodeSpec::SPLIT_PAGES);
        self.split_pages.unwrap_or(usual)
    }

    /// Splits of so many pages that a list of a request of `tokens` tokens has at most, in formats whose pages have these numbers of tokens.
    pub(super) fn splits_of(&self, split_pages: usize, [high, low]: [usize; 2], tokens: usize) -> usize {
        // The list of each tier may end within a page.
        let pages = tokens.div_ceil(high.min(low)).saturating_add(1);
        splits_of(pages.min(self.pages), split_pages)
    }

    /// Splits of so many pages that the longest list has which there can be.
    fn most_splits(&self, split_pages: usize) -> Result<usize, KvError> {
        let mut most = 1;
        for tiering in self.tierings() {
            most = most.max(self.splits_of(split_pages, self.page_tokens(&tiering)?, self.max_tokens));
        }
        if most <= Self::MAX_SPLITS {
            return Ok(most);
        }
        let why = format!(
            "{most} splits of {split_pages} pages; at most {} are possible: take more pages a split (split_pages)",
            Self::MAX_SPLITS
        );
        Err(KvError::Shape { why })
    }

    /// Decode steps of a request of `tokens` tokens in these formats until thresholds are solved for its budget again. Room for so many tokens more
    /// is set aside in every list, which weighs more in a short sequence: so it is a 32nd of it, at least 4 and at most
    /// [`CacheConfig::solve_every`]; and no more than a budget of bytes has room for beside what is always high, but 1.
    ///
    /// # Errors
    /// [`KvError::Shape`] for formats that do not fit the page.
    pub fn steps_between(
        &self,
        formats: &LayerFormats,
        budget: Budget,
        tokens: usize,
    ) -> Result<usize, KvError> {
        let mut steps = (tokens / 32).max(4).min(self.solve_every);
        if let Budget::Bytes(bytes) = budget {
            while steps > 1 && self.always_bytes(formats, steps)? > bytes {
                steps -= 1;
            }
        }
        Ok(steps)
    }

    /// Bytes of the pages of a request of `tokens` tokens that keeps them all, and as many as it can in the low tier: as few as it takes without
    /// dropping one, with room for `ahead` more.
    ///
    /// # Errors
    /// [`KvError::Shape`] for formats that do not fit the page.
    pub fn demoted_bytes(
        &self,
        formats: &LayerFormats,
        tokens: usize,
        ahead: usize,
    ) -> Result<usize, KvError> {
        let mut pages = 0;
        for tiering in formats.tierings() {
            let [in_high, in_low] = self.page_tokens(&tiering)?;
            let high = match tiering.low {
                Some(_) => tokens.min(self.window + self.sinks),
                None => tokens,
            };
            let per_page = (in_high, tiering.low.map(|_| in_low));
            let layers = (0..self.layers).filter(|&layer| *formats.of(layer) == tiering).count();
            pages += pages_for([high, tokens - high], per_page, ahead) * layers * self.kv_heads;
        }
        Ok(pages * self.page_bytes)
    }

    /// Bytes of the pages that no threshold can take from a request in these formats: window and sinks, with room for a step. No budget of bytes can
    /// be less.
    ///
    /// # Errors
    /// [`KvError::Shape`] for formats that do not fit the page.
    pub fn least_bytes(&self, formats: &LayerFormats) -> Result<usize, KvError> {
        self.always_bytes(formats, 1)
    }

    /// Window and sinks, with room for `ahead` tokens.
    pub(super) fn always_bytes(&self, formats: &LayerFormats, ahead: usize) -> Result<usize, KvError> {
        self.demoted_bytes(formats, (self.window + self.sinks).min(self.max_tokens), ahead)
    }

    /// As [`CacheConfig::shape`], of a cache that the device has memory for, with the splits of the longest list that there can be.
    pub(super) fn check_room(&self, device: &Device) -> Result<(CacheShape, usize), KvError> {
        let shape = self.shape()?;
        let splits = self.most_splits(self.split_pages_on(device))?;
        check_bytes(self.bytes(&shape, splits), &shape, Some(device))?;
        Ok((shape, splits))
    }

    /// The extents of the cache's buffers. A row of the page table holds a whole sequence and one chunk more in both tiers.
    ///
    /// # Errors
    /// [`KvError::Shape`], with what to change.
    pub fn shape(&self) -> Result<CacheShape, KvError> {
        let split_pages = self.split_pages.unwrap_or(1);
        let counts = [self.max_tokens, self.chunk, self.group, split_pages, self.window, self.solve_every];
        if counts.contains(&0) {
            return Err(KvError::Shape {
                why: "tokens, chunk, group, split_pages, window and solve_every are at least 1".to_owned(),
            });
        }
        let longest = [self.max_tokens, self.window, self.sinks, self.chunk, self.solve_every];
        if longest.iter().any(|&n| i32::try_from(n).is_err()) {
            return Err(KvError::Shape { why: "positions have 31 bits".to_owned() });
        }
        if i32::try_from(split_pages).is_err() {
            let why = format!("split_pages is {split_pages}; numbers of pages have 31 bits");
            return Err(KvError::Shape { why });
        }
        if self.group > MAX_GROUP {
            let why = format!("{} query heads a KV head; at most {MAX_GROUP} are possible", self.group);
            return Err(KvError::Shape { why });
        }
        let named = self.all_formats().filter_map(LayerFormats::last_named).max();
        if let Some(layer) = named.filter(|&layer| layer >= self.layers) {
            return Err(KvError::NoLayer { layer, layers: self.layers });
        }
        // Requests of other formats are rows in the middle of a tensor, which kernels read in vectors.
        if !self.more_formats.is_empty() && !self.head_dim.is_multiple_of(8) {
            let why = format!(
                "requests of several formats and vectors of {} elements; take a multiple of 8",
                self.head_dim
            );
            return Err(KvError::Shape { why });
        }
        let mut table_len = 0;
        for tiering in self.tierings() {
            let [high, low] = self.page_tokens(&tiering)?;
            // At the end of a chunk the pages of all tokens are taken in both tiers, where there are two.
            let both = self.max_tokens.div_ceil(high)
                + if tiering.low.is_some() { self.max_tokens.div_ceil(low) } else { 0 };
            table_len = table_len.max(both + self.chunk.div_ceil(high) + self.chunk.div_ceil(low) + 4);
        }
        self.check_means()?;
        self.check_priors()?;
        let shape = CacheShape {
            slots: self.slots,
            layers: self.layers,
            kv_heads: self.kv_heads,
            table_len,
            pages: self.pages,
            page_bytes: self.page_bytes,
            tokens: self.page_tokens(self.formats.usual())?,
        };
        shape.check()?;
        // Without a device nobody knows in how many splits, but where they are given.
        let splits = self.most_splits(self.split_pages.unwrap_or(ALL_PAGES))?;
        check_bytes(self.bytes(&shape, splits), &shape, None)?;
        Ok(shape)
    }
}

/// Edges of the ladder between two thresholds with this ratio of squares: four an octave.
fn edges(squares: f64) -> i32 {
    (4.0 * squares.sqrt().log2()).round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiering(text: &str) -> Tiering {
        text.parse().unwrap()
    }

    #[test]
    fn thresholds_of_a_tiering_stand_where_rate_and_distortion_say() {
        let config = CacheConfig { gap: None, ..CacheConfig::new([1, 1, 1, 64], 1, 64, 1) };
        let gap = |text: &str| config.gap_of(&tiering(text)).unwrap();
        let lift = |text: &str, usual: &str| config.lift_of(&tiering(text), &tiering(usual)).unwrap();
        // By hand, with losses of a Gaussian's levels of 0.0095 (4 bits) and 0.0345 (3 bits) for key and value, and 8 bits losing next to nothing.
        let bytes =
            |text: &str| config.layouts_of(&tiering(text)).unwrap().0.account().true_bytes_per_token();
        let [b8, b4] = ["K8mV8m", "K4mV4m"].map(bytes);
        let by_hand = 2.0 * ((b8 - b4) / 0.019 / (b4 / 1.981)).log2();
        assert!((f64::from(gap("K8mV8m/K4mV4m")) - by_hand).abs() < 2.0, "{by_hand}");
        // A wider gap where the low tier loses less; none without one, or where it saves nothing; all where it loses nothing.
        assert!(gap("K8mV8m/K4mV4m") > gap("K8mV8m/K3mV3m"));
        assert_eq!(["K8mV8m", "K8mV8m/K8mV8m", "K4mV4m/K8mV8m"].map(gap), [0; 3]);
        // The paper's rule has one gap for all formats with a low tier.
        let fixed = CacheConfig { gap: Some(16), ..config.clone() };
        assert_eq!(
            ["K8V4/K4V2", "K8mV8m/K3mV3m", "K8V4"].map(|text| fixed.gap_of(&tiering(text)).unwrap()),
            [16, 16, 0]
        );

        assert_eq!(lift("K8mV8m/K4mV4m", "K8mV8m/K4mV4m"), 0);
        // Twice the bytes at about the same loss are worth a threshold that is the root of two higher.
        let twice = lift("K8mV8m", "K4mV4m");
        assert!((f64::from(twice) - 2.0 * (b8 / b4).log2()).abs() <= 1.0, "{twice}");
        assert_eq!(lift("K4mV4m", "K8mV8m"), -twice);
        // A low tier that saves nothing is as none.
        assert_eq!(lift("K8mV8m/K8mV8m", "K8mV8m"), 0);
        assert_eq!(lift("K8mV8m/K8mV8m", "K8mV8m/K4mV4m"), lift("K8mV8m", "K8mV8m/K4mV4m"));
        assert!(lift("K8mV8m", "K8mV8m/K4mV4m") < 0, "dropping costs more than demoting");
    }
}
