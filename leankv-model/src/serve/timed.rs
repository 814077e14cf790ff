//! How long attention takes.

use std::time::{Duration, Instant};

use crate::error::ModelError;
use crate::model::{Attend, LayerRows};

/// Measures what another one does.
pub(super) struct Timed<A> {
    pub(super) inner: A,
    pub(super) spent: Duration,
}

impl<A> Timed<A> {
    pub(super) fn new(inner: A) -> Timed<A> {
        Timed { inner, spent: Duration::ZERO }
    }
}

impl<A: Attend> Attend for Timed<A> {
    fn layer(&mut self, layer: usize, rows: LayerRows<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        let start = Instant::now();
        let result = self.inner.layer(layer, rows, out);
        self.spent += start.elapsed();
        result
    }
}
