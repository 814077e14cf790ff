//! Rows of a batch and the caches they belong to.

use std::ops::Range;

use half::f16;
use leankv_runtime::Device;
use leankv_runtime::device::Kind;
use leankv_runtime::kv::{DecodeStep, PromptChunk};
use rayon::prelude::*;

use super::replay::{Recorded, RecordedLayer};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::model::{Attend, LayerRows};
use crate::statistics::Priors;

/// Elements of a row of queries, and of keys or values.
#[derive(Clone, Copy, Debug)]
struct RowShape {
    q: usize,
    kv: usize,
}

impl RowShape {
    fn of(config: &ModelConfig) -> RowShape {
        RowShape { q: config.heads * config.head_dim, kv: config.kv_heads * config.head_dim }
    }

    /// Some rows on a device.
    fn upload(
        self,
        device: &Device,
        rows: LayerRows<'_>,
        of: Range<usize>,
    ) -> Result<RecordedLayer, ModelError> {
        let part = |x: &[f16], row: usize| device.upload(&x[of.start * row..of.end * row]);
        let heads = |priors: &[f32]| priors.len() / (rows.k.len() / self.kv);
        let priors = rows.priors.map(|x| device.upload(&x[of.start * heads(x)..of.end * heads(x)]));
        Ok(RecordedLayer {
            q: part(rows.q, self.q)?,
            k: part(rows.k, self.kv)?,
            v: part(rows.v, self.kv)?,
            priors: priors.transpose()?,
        })
    }
}

/// A chunk of one request's prompt.
#[derive(Debug)]
pub struct PromptAttend<'a> {
    device: Device,
    shape: RowShape,
    chunk: PromptChunk<'a>,
    record: Option<&'a mut Recorded>,
    priors: Option<&'a Priors>,
}

impl<'a> PromptAttend<'a> {
    /// The rows of `chunk`, on its cache's device.
    pub fn new(device: &Device, config: &ModelConfig, chunk: PromptChunk<'a>) -> PromptAttend<'a> {
        PromptAttend {
            device: device.clone(),
            shape: RowShape::of(config),
            chunk,
            record: None,
            priors: None,
        }
    }

    /// Keeps what the layers are given, to give it to other requests.
    #[must_use]
    pub fn recording(mut self, record: &'a mut Recorded) -> PromptAttend<'a> {
        self.record = Some(record);
        self
    }

    /// With the priors of the whole prompt, instead of what the model predicts.
    #[must_use]
    pub fn with_priors(self, priors: Option<&'a Priors>) -> PromptAttend<'a> {
        PromptAttend { priors, ..self }
    }

    /// Ends the chunk, after all layers.
    ///
    /// # Errors
    /// What the cache says.
    pub fn finish(self) -> Result<(), ModelError> {
        Ok(self.chunk.finish()?)
    }
}

impl Attend for PromptAttend<'_> {
    fn layer(&mut self, layer: usize, rows: LayerRows<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        let n = rows.q.len() / self.shape.q;
        let own = self.priors.map(|priors| priors.of(layer, self.chunk.positions()));
        let rows = LayerRows { priors: own.or(rows.priors), ..rows };
        let layer = self.shape.upload(&self.device, rows, 0..n)?;
        layer.give(&mut self.chunk, None)?.read_into(out)?;
        if let Some(record) = &mut self.record {
            record.push(layer);
        }
        Ok(())
    }
}

/// A decode step of requests of several caches: each cache's requests have the next rows of the batch.
#[derive(Debug)]
pub struct StepAttend<'a> {
    device: Device,
    shape: RowShape,
    steps: Vec<(DecodeStep<'a>, Range<usize>)>,
}

impl<'a> StepAttend<'a> {
    /// The rows of `steps`, one cache's after another's.
    pub fn new(
        device: &Device,
        config: &ModelConfig,
        steps: impl IntoIterator<Item = DecodeStep<'a>>,
    ) -> StepAttend<'a> {
        let mut at = 0;
        let place = |step: DecodeStep<'a>| {
            let rows = at..at + step.requests().len();
            at = rows.end;
            (step, rows)
        };
        let steps = steps.into_iter().map(place).collect();
        StepAttend { device: device.clone(), shape: RowShape::of(config), steps }
    }

    /// Ends the step, after all layers.
    ///
    /// # Errors
    /// What the caches say.
    pub fn finish(self) -> Result<(), ModelError> {
        for (step, _) in self.steps {
            step.finish()?;
        }
        Ok(())
    }
}

impl Attend for StepAttend<'_> {
    fn layer(&mut self, _: usize, rows: LayerRows<'_>, mut out: &mut [f32]) -> Result<(), ModelError> {
        let (device, shape) = (&self.device, self.shape);
        let one = |(step, of): &mut (DecodeStep<'_>, Range<usize>), part: &mut [f32]| {
            let layer = shape.upload(device, rows, of.clone())?;
            let priors = layer.priors_for(step.cache());
            step.layer_with_priors(&layer.q, &layer.k, &layer.v, priors)?.read_into(part)?;
            Ok::<(), ModelError>(())
        };
        let mut parts = Vec::with_capacity(self.steps.len());
        for step in &mut self.steps {
            let (part, rest) = std::mem::take(&mut out).split_at_mut(step.1.len() * shape.q);
            parts.push((step, part));
            out = rest;
        }
        // A launch on the host keeps its caller waiting, so that many small ones are better done side by side.
        match device.kind() {
            Kind::Host => parts.into_par_iter().try_for_each(|(step, part)| one(step, part)),
            _ => parts.into_iter().try_for_each(|(step, part)| one(step, part)),
        }
    }
}
