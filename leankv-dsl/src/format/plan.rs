//! Choosing a page size for a set of formats that share one arena.

use super::page::Rows;
use super::{FormatError, KvFormat, LayerFormats, PageLayout};

/// Most tokens that kernels work on at once.
pub const TILE_TOKENS: usize = 32;

/// Slots of the least tile: rows of one matrix of a tensor core.
const LEAST_TILE: usize = 8;

/// The tiles in which kernels work on a page of so many tokens, as their first slots and numbers of slots. They have at most `most` slots each, and as few slots
/// without a place in the page as powers of two allow.
#[must_use]
pub fn page_tiles(tokens: usize, most: usize) -> Vec<(usize, usize)> {
    let (mut tiles, mut first) = (Vec::new(), 0);
    while first < tokens {
        let (left, least) = (tokens - first, LEAST_TILE.min(most));
        let below = (left + 1).next_power_of_two() / 2;
        // Half of the next power of two, where the rest takes at most half of that.
        let fits = if left - below > below / 2 { 2 * below } else { below };
        let slots = if most.is_power_of_two() { fits.clamp(least, most) } else { most };
        tiles.push((first, slots));
        first += slots;
    }
    tiles
}

/// Bytes of a page of a cache of these formats: the smallest of those that waste little of bytes (padding, and the half of a page that a list leaves
/// empty) and of kernels' work, in the tier of the layer that wastes most.
///
/// # Errors
/// A head dim that is not supported, or [`FormatError::NoPageSize`] for formats that no page fits.
pub fn cache_page_bytes(formats: &LayerFormats, head_dim: u32) -> Result<u32, FormatError> {
    let formats: Vec<KvFormat> = formats.formats().collect();
    // Smaller pages would make long tables, and turns of loops that have little to do.
    let options = PlanOptions {
        min_bytes: 2048,
        tolerance: 0.03,
        idle: 0.25,
        list_tokens: 512,
        ..PlanOptions::default()
    };
    Ok(plan_page_bytes(&formats, head_dim, &options)?.page_bytes)
}

/// How page sizes are scanned and compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlanOptions {
    /// Smallest page considered, in bytes.
    pub min_bytes: u32,
    /// Largest page considered, in bytes.
    pub max_bytes: u32,
    /// Step of the scan, in bytes.
    pub step_bytes: u32,
    /// Tokens per page of every format must be a multiple of this (1: no wish). Tensor-core tiles like 8 or 16.
    pub token_multiple: u32,
    /// The smallest page whose worst waste is within this of the best one is taken (0: the best itself).
    pub tolerance: f64,
    /// How much the part of the slots of a page's [tiles](page_tiles) that lie behind its end counts as waste (0: not at all): kernels work on
    /// them, and they take no bytes.
    pub idle: f64,
    /// Tokens of a list, which leaves half of a page empty: that counts as waste too (0: it does not).
    pub list_tokens: u32,
}

impl Default for PlanOptions {
    /// Pages of up to 8 KiB in steps of 128 bytes, so that every page is aligned for vector loads.
    fn default() -> Self {
        Self {
            min_bytes: 896,
            max_bytes: 8192,
            step_bytes: 128,
            token_multiple: 1,
            tolerance: 0.0,
            idle: 0.0,
            list_tokens: 0,
        }
    }
}

impl PlanOptions {
    /// The scan of the released system: 800 to 8000 bytes in steps of 32.
    #[must_use]
    pub const fn published() -> Self {
        Self {
            min_bytes: 800,
            max_bytes: 8000,
            step_bytes: 32,
            token_multiple: 1,
            tolerance: 0.0,
            idle: 0.0,
            list_tokens: 0,
        }
    }
}

/// A chosen page size.
#[derive(Debug, Clone, PartialEq)]
pub struct PagePlan {
    /// Bytes of every page.
    pub page_bytes: u32,
    /// Tokens per page of each format, in the order given.
    pub tokens: Vec<u32>,
    /// Largest padding fraction over the formats.
    pub worst_waste: f64,
}

/// The smallest page size that minimises the worst waste over `formats` (within the tolerance): padding, and what else the options count.
///
/// # Errors
/// A head dim or page size that is not supported, or [`FormatError::NoPageSize`] where no scanned size works
/// (also for an empty set of formats, a zero step or a zero multiple).
///
/// ```
/// use leankv_dsl::format::{PlanOptions, plan_page_bytes};
///
/// let tiers = ["K8V4", "K8V4g1.2", "K4V2", "K4V2g2.4"].map(|name| name.parse().unwrap());
/// let plan = plan_page_bytes(&tiers, 128, &PlanOptions::published())?;
/// assert_eq!((plan.page_bytes, plan.tokens), (6784, vec![32, 32, 60, 52]));
/// # Ok::<(), leankv_dsl::format::FormatError>(())
/// ```
pub fn plan_page_bytes(
    formats: &[KvFormat],
    head_dim: u32,
    options: &PlanOptions,
) -> Result<PagePlan, FormatError> {
    let &PlanOptions { min_bytes, max_bytes, step_bytes, token_multiple, tolerance, idle, list_tokens } =
        options;
    let none = FormatError::NoPageSize { min: min_bytes, max: max_bytes, step: step_bytes };
    let bad_size = [min_bytes, step_bytes].into_iter().find(|b| b % 4 != 0);
    if let Some(page_bytes) = bad_size.or((max_bytes > PageLayout::MAX_PAGE_BYTES).then_some(max_bytes)) {
        return Err(FormatError::PageBytes { page_bytes, max: PageLayout::MAX_PAGE_BYTES });
    }
    if formats.is_empty() || step_bytes == 0 || token_multiple == 0 {
        return Err(none);
    }
    let mut rows = Vec::with_capacity(formats.len());
    for format in formats {
        let (key, value) = (format.key.shape(), format.value.shape());
        key.check(head_dim)?;
        value.check(head_dim)?;
        rows.push(Rows { key, value, head_dim });
    }
    let candidates: Vec<(f64, PagePlan)> = (min_bytes..=max_bytes)
        .step_by(step_bytes as usize)
        .filter_map(|page_bytes| {
            let tokens: Vec<u32> = rows.iter().map(|r| r.tokens(page_bytes)).collect();
            let fits = tokens.iter().all(|&n| n > 0 && n % token_multiple == 0);
            let padding = |(r, &n): (&Rows, &u32)| {
                1.0 - f64::from(n) * f64::from(r.bytes_per_token()) / f64::from(page_bytes)
            };
            let loss = |row: (&Rows, &u32)| {
                let (tokens, tiles) = (f64::from(*row.1), page_tiles(*row.1 as usize, TILE_TOKENS));
                let slots: usize = tiles.iter().map(|(_, slots)| slots).sum();
                let empty = if list_tokens == 0 { 0.0 } else { tokens / 2.0 / f64::from(list_tokens) };
                padding(row) + idle * (1.0 - tokens / slots.max(1) as f64) + empty
            };
            let worst =
                |of: &dyn Fn((&Rows, &u32)) -> f64| rows.iter().zip(&tokens).map(of).fold(0.0, f64::max);
            let (worst_waste, loss) = (worst(&padding), worst(&loss));
            fits.then_some((loss, PagePlan { page_bytes, tokens, worst_waste }))
        })
        .collect();
    let best = candidates.iter().map(|&(loss, _)| loss).fold(f64::INFINITY, f64::min);
    candidates.into_iter().find(|&(loss, _)| loss <= best + tolerance).map(|(_, plan)| plan).ok_or(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiers() -> [KvFormat; 4] {
        ["K8V4", "K8V4g1.2", "K4V2", "K4V2g2.4"].map(|name| name.parse().unwrap())
    }

    #[test]
    fn the_published_scan_gives_the_published_sizes() {
        for (head_dim, page_bytes, percent) in [(64, 6144, 1.823), (128, 6784, 1.887), (256, 5760, 2.778)] {
            let plan = plan_page_bytes(&tiers(), head_dim, &PlanOptions::published()).unwrap();
            assert_eq!(plan.page_bytes, page_bytes);
            assert!((100.0 * plan.worst_waste - percent).abs() < 5e-4, "{head_dim}: {}", plan.worst_waste);
        }
    }

    #[test]
    fn every_head_dim_gets_a_page_aligned_for_vector_loads() {
        for head_dim in [64, 80, 96, 128, 256] {
            let plan = plan_page_bytes(&tiers(), head_dim, &PlanOptions::default()).unwrap();
            assert_eq!(plan.page_bytes % 128, 0);
            assert!(plan.worst_waste < 0.05, "{head_dim}: {plan:?}");
        }
    }

    #[test]
    fn a_tolerance_buys_round_token_counts() {
        let formats = ["K8V4", "K4V2"].map(|name| name.parse().unwrap());
        let options = PlanOptions { token_multiple: 8, max_bytes: 16384, ..PlanOptions::default() };
        let plan = plan_page_bytes(&formats, 128, &options).unwrap();
        assert!(plan.tokens.iter().all(|n| n % 8 == 0), "{plan:?}");
        let loose = plan_page_bytes(&formats, 128, &PlanOptions { tolerance: 0.2, ..options }).unwrap();
        assert!(loose.page_bytes <= plan.page_bytes);
    }

    #[test]
    fn pages_of_caches_fill_their_tiles() {
        let page = |tiering: &str, head_dim| {
            let tiering: LayerFormats = tiering.parse().unwrap();
            let bytes = cache_page_bytes(&tiering, head_dim).unwrap();
            let tokens =
                |format: KvFormat| PageLayout::derive(&format, head_dim, bytes).unwrap().tokens_per_page();
            (bytes, tiering.formats().map(tokens).collect::<Vec<u32>>())
        };
        assert_eq!(page("K8V4", 128), (3456, vec![16]));
        assert_eq!(page("K8V4/K4V2", 128), (3456, vec![16, 30]));
        assert_eq!(page("K8V4/K4V2", 64), (2304, vec![20, 35]));
        for head_dim in [64, 80, 96, 128, 256] {
            for format in KvFormat::standard() {
                let (_, tokens) = page(&format.to_string(), head_dim);
                let slots: usize =
                    page_tiles(tokens[0] as usize, TILE_TOKENS).iter().map(|(_, slots)| slots).sum();
                assert!(8 * tokens[0] as usize >= 7 * slots, "{format}, {head_dim}: {tokens:?}");
            }
        }
    }

    #[test]
    fn impossible_plans_are_errors() {
        let options = PlanOptions { max_bytes: 1024, ..PlanOptions::default() };
        assert!(matches!(
            plan_page_bytes(&[KvFormat::FP16], 512, &options),
            Err(FormatError::NoPageSize { .. })
        ));
        let zero = PlanOptions { step_bytes: 0, ..options };
        assert!(matches!(plan_page_bytes(&tiers(), 128, &zero), Err(FormatError::NoPageSize { .. })));
        assert!(matches!(plan_page_bytes(&[], 128, &options), Err(FormatError::NoPageSize { .. })));
        let huge = PlanOptions { max_bytes: u32::MAX, ..options };
        assert!(matches!(plan_page_bytes(&tiers(), 128, &huge), Err(FormatError::PageBytes { .. })));
        assert!(matches!(plan_page_bytes(&tiers(), 100, &options), Err(FormatError::HeadDim { .. })));
    }
}
