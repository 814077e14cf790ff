//! What requests hold.

use leankv_runtime::kv::RequestStats;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Bytes of pages, the same tokens in FP16, pages, and (token, layer, KV head) triples by tier.
#[derive(Default)]
pub(crate) struct Totals {
    bytes: usize,
    fp16_bytes: usize,
    pages: usize,
    high: usize,
    low: usize,
    pruned: usize,
}

impl Totals {
    pub(crate) fn of(stats: &RequestStats, page_bytes: usize) -> Totals {
        let mut totals = Totals { fp16_bytes: stats.fp16_bytes, ..Totals::default() };
        for head in &stats.heads {
            totals.pages += head.pages;
            totals.high += head.high;
            totals.low += head.low;
            totals.pruned += head.pruned;
        }
        totals.bytes = totals.pages * page_bytes;
        totals
    }

    pub(crate) fn add(&mut self, other: &Totals) {
        self.bytes += other.bytes;
        self.fp16_bytes += other.fp16_bytes;
        self.pages += other.pages;
        self.high += other.high;
        self.low += other.low;
        self.pruned += other.pruned;
    }

    pub(crate) fn into_dict<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        let Totals { bytes, fp16_bytes, pages, high, low, pruned } = self;
        for (name, n) in [
            ("bytes", bytes),
            ("fp16_bytes", fp16_bytes),
            ("pages", pages),
            ("high", high),
            ("low", low),
            ("pruned", pruned),
        ] {
            all.set_item(name, n)?;
        }
        Ok(all)
    }
}
