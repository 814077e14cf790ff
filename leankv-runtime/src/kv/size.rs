//! What a cache takes, counted before anything is compiled or allocated.

use leankv_kernels::budget::Ladder;
use leankv_kernels::candidates::{SHORTLIST_COLUMNS, ShortlistState};
use leankv_kernels::step::StepPlan;

use super::{CacheConfig, CacheShape, KvError};
use crate::device::Device;

/// The product; extents come from users, so it is counted in more bits than an address has.
fn product(extents: &[usize]) -> u128 {
    extents.iter().fold(1, |product: u128, &extent| product.saturating_mul(extent as u128))
}

impl CacheShape {
    /// Bytes of lists, counts and arena.
    pub(super) fn bytes(&self) -> u128 {
        let lists = product(&[self.slots, self.layers, self.kv_heads]);
        // Table; lengths, held, tokens of pages, thresholds, and what the manager's launches tell one another.
        let of_lists = lists.saturating_mul(self.table_len as u128 * 4 + 16 + 8 + 8 + 8 + 40);
        // References, generation, ring.
        let of_pages = product(&[self.pages, self.page_bytes]).saturating_add(product(&[self.pages, 12]));
        of_lists.saturating_add(of_pages).saturating_add(product(&[self.slots, 32]))
    }
}

impl CacheConfig {
    /// Bytes of all buffers of a cache of this shape, whose longest list has so many splits.
    pub(super) fn bytes(&self, shape: &CacheShape, splits: usize) -> u128 {
        let d = self.head_dim;
        let lists = product(&[self.slots, self.layers, self.kv_heads]);
        let found = SHORTLIST_COLUMNS.iter().sum::<usize>();
        let columns = found + ShortlistState::COLUMNS;
        let of_lists =
            lists.saturating_mul((StepPlan::COLUMNS + 4 + columns + 2 * Ladder::RUNGS) as u128 * 4);
        // What every split finds, and how many there are.
        let of_splits = product(&[self.slots, self.kv_heads, splits, found])
            .saturating_add(product(&[self.slots, self.kv_heads]))
            .saturating_mul(4);
        // Partial results of every split, and the pending queries of every layer.
        let row = product(&[splits, d + 1]) * 4 + 4 + product(&[self.layers, 2 * d + 4]);
        let of_queries = product(&[self.slots, self.kv_heads, self.group]).saturating_mul(row);
        // The output of a step, twice where it is wanted in another form.
        let outputs = if self.output_changes() { 2 } else { 1 };
        let of_output =
            product(&[self.slots.max(self.chunk), self.kv_heads, self.group, d, outputs]).saturating_mul(4);
        let of_chunk = product(&[self.chunk, self.kv_heads, self.group, 4]);
        let of_tokens = product(&[self.chunk, self.kv_heads, 8]);
        // Where the thresholds of every layer stand, and the numbers of the layers of every tiering.
        let of_slots = product(&[self.slots, 68 + 8 * Ladder::RUNGS + 8 * self.layers])
            .saturating_add(product(&[1 + self.more_formats.len(), self.layers, 4]));
        // Rows in another basis, and the means of all layers.
        let of_basis = match self.basis.changes() {
            true => product(&[self.slots.max(self.chunk), self.kv_heads, self.group + 2, d])
                .saturating_add(product(&[self.layers, self.kv_heads, 2, d]))
                .saturating_mul(4),
            false => 0,
        };
        let of_priors = if self.peaks > 0 { product(&[self.layers, self.kv_heads, 4]) } else { 0 };
        [of_lists, of_splits, of_queries, of_output, of_chunk, of_tokens, of_slots, of_basis, of_priors]
            .into_iter()
            .fold(shape.bytes(), u128::saturating_add)
    }
}

/// Whether so many bytes are possible: in an address space, and on the device if one is given.
pub(super) fn check_bytes(bytes: u128, shape: &CacheShape, device: Option<&Device>) -> Result<(), KvError> {
    let (there, whose) = match device.and_then(|device| Some((device.memory()?, device.name()))) {
        Some((memory, name)) => (u128::from(memory), name),
        None => (i64::MAX as u128, "an address space".to_owned()),
    };
    if bytes <= there {
        return Ok(());
    }
    let pages = product(&[shape.pages, shape.page_bytes]);
    let why = format!(
        "its buffers take {bytes} bytes, {pages} of them for pages, and {whose} has {there}; take fewer pages, slots or tokens, or more pages a split"
    );
    Err(KvError::Shape { why })
}
