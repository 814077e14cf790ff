//! The basis in which a cache holds keys and values.

use std::fmt;
use std::sync::Arc;

use leankv_dsl::lang::FloatType;
use leankv_dsl::lang::launch::Tensor;
use leankv_kernels::basis::{BasisSpec, EnterBasisArgs, LeaveBasisArgs, enter_basis, leave_basis};

use super::batch::Run;
use super::launch::run;
use super::{CacheConfig, InputElement, KvCache, RequestId};
use crate::device::{Device, DeviceBuffer};
use crate::kernel::KernelOf;
use crate::kv::KvError;

/// The basis in which a cache holds keys and values. What goes in and what comes out is as without one but for rounding: see [`leankv_kernels::basis`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Basis {
    /// Whether keys and values are rotated by a Hadamard matrix, so that no element of a row is much larger than the others.
    pub rotated: bool,
    /// What is taken from all keys and values of a head before.
    pub means: Option<Arc<Means>>,
}

/// Means of every head's keys, after RoPE, and values: `[layers, kv_heads, head_dim]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct Means {
    /// Of keys.
    pub keys: Vec<f32>,
    /// Of values.
    pub values: Vec<f32>,
}

impl Basis {
    /// Whether it is another one than that of what comes in.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.rotated || self.means.is_some()
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [("rotated", self.rotated), ("centred", self.means.is_some())];
        let names: Vec<&str> = names.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
        f.write_str(&names.join(", "))
    }
}

impl CacheConfig {
    /// Type of queries, keys and values as the kernels of the cache get them.
    pub(super) fn inner_input(&self) -> FloatType {
        if self.basis.changes() { FloatType::F32 } else { self.input }
    }

    /// Whether means are of this cache's extents.
    pub(super) fn check_means(&self) -> Result<(), KvError> {
        let Some(means) = &self.basis.means else { return Ok(()) };
        let expected = self.lists() * self.head_dim;
        for (what, of) in [("means of keys", &means.keys), ("means of values", &means.values)] {
            if of.len() != expected {
                let what = format!("{what} [layers, kv_heads, head_dim]");
                let why = format!("{what}: {} numbers where {expected} are expected", of.len());
                return Err(KvError::Shape { why });
            }
            if !of.iter().all(|x| x.is_finite()) {
                return Err(KvError::Shape { why: format!("{what}: one is no finite number") });
            }
        }
        Ok(())
    }
}

/// Its kernels.
#[derive(Clone, Debug)]
pub(super) struct BasisKernels {
    pub(super) enter: KernelOf<enter_basis>,
    pub(super) leave: KernelOf<leave_basis>,
}

/// Tokens of a program.
const ROWS: usize = 4;

pub(super) fn spec(config: &CacheConfig) -> BasisSpec {
    let CacheConfig { head_dim, group, input, .. } = *config;
    let Basis { rotated, means } = &config.basis;
    BasisSpec { head_dim, group, input, rotated: *rotated, centred: means.is_some(), rows: ROWS }
}

/// Device buffers of a basis.
#[derive(Debug)]
pub(super) struct BasisScratch {
    /// `[layers, 2, kv_heads, head_dim]`, of keys and of values; empty unless they are centred.
    means: DeviceBuffer<f32>,
    /// One layer's queries, keys and values in the basis.
    pub(super) rows: [DeviceBuffer<f32>; 3],
}

/// One layer's queries, keys and values: `[n, query_heads, head_dim]`, and twice `[n, kv_heads, head_dim]`.
pub(super) type Rows<'a, E> = [&'a DeviceBuffer<E>; 3];

/// One layer of a step or a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub(super) layer: usize,
    /// Tokens.
    pub(super) n: usize,
    pub(super) of: Of<'a>,
}

/// What a layer's rows are of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of<'a> {
    /// A decode step.
    Step(&'a [Run]),
    /// A chunk of a request's prompt, with so many tokens before it.
    Chunk(RequestId, usize),
}

impl BasisScratch {
    /// Where a cache has another basis.
    pub(super) fn new(device: &Device, config: &CacheConfig) -> Result<Option<BasisScratch>, KvError> {
        if !config.basis.changes() {
            return Ok(None);
        }
        let of_layer = config.kv_heads * config.head_dim;
        let layers = config.basis.means.iter().flat_map(|means| {
            let layers = means.keys.chunks(of_layer).zip(means.values.chunks(of_layer));
            layers.flat_map(|(keys, values)| keys.iter().chain(values).copied())
        });
        let (n, d) = (config.slots.max(config.chunk), config.head_dim);
        let (q, kv) = (n * config.query_heads() * d, n * config.kv_heads * d);
        let rows = [device.zeros(q)?, device.zeros(kv)?, device.zeros(kv)?];
        Ok(Some(BasisScratch { means: device.upload(&layers.collect::<Vec<f32>>())?, rows }))
    }
}

impl KvCache {
    /// What a layer's means are, as kernels take them.
    fn means<'a>(&self, means: &'a DeviceBuffer<f32>, layer: usize) -> Result<Tensor<'a, f32, 3>, KvError> {
        let (heads, d) = (self.config.kv_heads, self.config.head_dim);
        let two = if self.config.basis.means.is_some() { 2 } else { 0 };
        let of_layer = two * heads * d;
        Ok(means.slice(layer * of_layer..(layer + 1) * of_layer)?.tensor([two, heads, d]))
    }

    /// Does one layer in the basis of the cache.
    pub(super) fn layer<E: InputElement>(
        &mut self,
        part: Part<'_>,
        rows: Rows<'_, E>,
        priors: Option<&DeviceBuffer<f32>>,
    ) -> Result<(), KvError> {
        let Some(mut scratch) = self.basis.take() else { return self.inside(part, rows, priors) };
        let entered = self.enter_basis(part, rows, &mut scratch);
        let done = entered
            .and_then(|()| self.inside(part, scratch.rows.each_ref(), priors))
            .and_then(|()| self.leave_basis(part, &scratch));
        self.basis = Some(scratch);
        done
    }

    fn inside<E: InputElement>(
        &mut self,
        part: Part<'_>,
        rows: Rows<'_, E>,
        priors: Option<&DeviceBuffer<f32>>,
    ) -> Result<(), KvError> {
        let Part { layer, n, of } = part;
        match of {
            Of::Step(runs) => runs.iter().try_for_each(|run| self.step_layer(run, layer, rows, priors)),
            Of::Chunk(id, before) => self.chunk_layer(id, layer, (before, n), rows, priors),
        }
    }

    fn enter_basis<E: InputElement>(
        &self,
        Part { layer, n, .. }: Part<'_>,
        [q, k, v]: Rows<'_, E>,
        scratch: &mut BasisScratch,
    ) -> Result<(), KvError> {
        let Some(kernels) = &self.kernels.basis else { return Ok(()) };
        let (heads, query_heads, d) = (self.config.kv_heads, self.config.query_heads(), self.config.head_dim);
        let BasisScratch { means, rows: [q_out, k_out, v_out] } = scratch;
        let args = EnterBasisArgs {
            q: q.tensor([n, query_heads, d]).into(),
            k: k.tensor([n, heads, d]).into(),
            v: v.tensor([n, heads, d]).into(),
            means: self.means(means, layer)?,
            q_out: q_out.slice_mut(..n * query_heads * d)?.tensor([n, query_heads, d]),
            k_out: k_out.slice_mut(..n * heads * d)?.tensor([n, heads, d]),
            v_out: v_out.slice_mut(..n * heads * d)?.tensor([n, heads, d]),
        };
        run(kernels.enter.launch((n.div_ceil(ROWS) as u32, (query_heads + 2 * heads) as u32), args))
    }

    /// Brings what attention gave out of the basis.
    fn leave_basis(
        &mut self,
        Part { layer, n, of }: Part<'_>,
        scratch: &BasisScratch,
    ) -> Result<(), KvError> {
        let (query_heads, d) = (self.config.query_heads(), self.config.head_dim);
        let means = self.means(&scratch.means, layer)?;
        let Some(kernels) = &self.kernels.basis else { return Ok(()) };
        let out = match of {
            Of::Step(_) => &mut self.scratch.out,
            Of::Chunk(..) => &mut self.chunk.out,
        };
        let out = out.slice_mut(..n * query_heads * d)?.tensor([n, query_heads, d]);
        let args = LeaveBasisArgs { means, out };
        run(kernels.leave.launch((n.div_ceil(ROWS) as u32, query_heads as u32), args))
    }
}
