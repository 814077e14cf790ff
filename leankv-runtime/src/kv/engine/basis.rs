//! The basis in which a cache holds keys and values.

use std::fmt;
use std::sync::Arc;

use leankv_dsl::lang::FloatType;
use leankv_dsl::lang::launch::Tensor;
use leankv_kernels::basis::{BasisSpec, EnterBasisArgs, LeaveBasisArgs};

use super::launch::run;
use super::mixed::Step;
use super::output::Outputs;
use super::{CacheConfig, InputElement, KvCache, LayerInput, RowsMut};
use crate::device::{Device, DeviceBuffer};
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
    /// Whether what attention gives, which is f32 in the cache's basis, needs a pass to become what is wanted.
    pub(in crate::kv) fn output_changes(&self) -> bool {
        self.basis.changes() || self.output != FloatType::F32
    }

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

/// Tokens of a program.
const ROWS: usize = 4;

pub(super) fn spec(config: &CacheConfig) -> BasisSpec {
    let CacheConfig { head_dim, group, input, output, .. } = *config;
    let Basis { rotated, means } = &config.basis;
    BasisSpec { head_dim, group, input, output, rotated: *rotated, centred: means.is_some(), rows: ROWS }
}

/// Device buffers of a basis.
#[derive(Debug)]
pub(super) struct BasisScratch {
    /// `[layers, 2, kv_heads, head_dim]`, of keys and of values; empty unless they are centred.
    means: DeviceBuffer<f32>,
    /// One layer's queries, keys and values in the basis; none where it is that of what comes in.
    inside: Option<[DeviceBuffer<f32>; 3]>,
}

impl BasisScratch {
    /// For steps of `rows` rows.
    pub(super) fn new(device: &Device, config: &CacheConfig, rows: usize) -> Result<BasisScratch, KvError> {
        let of_layer = config.kv_heads * config.head_dim;
        let layers = config.basis.means.iter().flat_map(|means| {
            let layers = means.keys.chunks(of_layer).zip(means.values.chunks(of_layer));
            layers.flat_map(|(keys, values)| keys.iter().chain(values).copied())
        });
        let means = device.upload(&layers.collect::<Vec<f32>>())?;
        let mut scratch = BasisScratch { means, inside: None };
        if config.basis.changes() {
            scratch.inside = Some(inside(device, config, rows)?);
        }
        Ok(scratch)
    }

    /// Makes room for steps of `rows` rows.
    pub(super) fn grow(&mut self, device: &Device, config: &CacheConfig, rows: usize) -> Result<(), KvError> {
        if self.inside.is_some() {
            self.inside = Some(inside(device, config, rows)?);
        }
        Ok(())
    }
}

fn inside(device: &Device, config: &CacheConfig, rows: usize) -> Result<[DeviceBuffer<f32>; 3], KvError> {
    let row = rows * config.head_dim;
    let (q, kv) = (row * config.query_heads(), row * config.kv_heads);
    Ok([device.zeros(q)?, device.zeros(kv)?, device.zeros(kv)?])
}

impl KvCache {
    /// What a layer's means are, as kernels take them.
    fn means<'a>(&self, means: &'a DeviceBuffer<f32>, layer: usize) -> Result<Tensor<'a, f32, 3>, KvError> {
        let (heads, d) = (self.config.kv_heads, self.config.head_dim);
        let two = if self.config.basis.means.is_some() { 2 } else { 0 };
        let of_layer = two * heads * d;
        Ok(means.slice(layer * of_layer..(layer + 1) * of_layer)?.tensor([two, heads, d]))
    }

    /// Does a layer of a step with its rows as they are in the basis of the cache.
    pub(super) fn in_basis<E: InputElement>(
        &mut self,
        step: &Step,
        layer: usize,
        input: &LayerInput<'_, E>,
    ) -> Result<(), KvError> {
        let rows = step.rows;
        let Some(mut inside) = self.basis.inside.take() else { return self.attend(step, layer, input) };
        let done = self.enter_basis(layer, rows, input, &mut inside).and_then(|()| {
            let (d, heads) = (self.config.head_dim, self.config.kv_heads);
            let [q, k, v] = &inside;
            let kv = ..rows * heads * d;
            let entered = LayerInput {
                q: q.slice(..rows * self.config.query_heads() * d)?.into(),
                k: k.slice(kv)?.into(),
                v: v.slice(kv)?.into(),
                priors: input.priors,
            };
            self.attend(step, layer, &entered)
        });
        self.basis.inside = Some(inside);
        done
    }

    fn enter_basis<E: InputElement>(
        &self,
        layer: usize,
        n: usize,
        input: &LayerInput<'_, E>,
        [q_out, k_out, v_out]: &mut [DeviceBuffer<f32>; 3],
    ) -> Result<(), KvError> {
        let Some(enter) = &self.kernels.enter else { return Ok(()) };
        let (heads, query_heads, d) = (self.config.kv_heads, self.config.query_heads(), self.config.head_dim);
        let args = EnterBasisArgs {
            q: input.q.tensor(0..n, [query_heads, d])?.into(),
            k: input.k.tensor(0..n, [heads, d])?.into(),
            v: input.v.tensor(0..n, [heads, d])?.into(),
            means: self.means(&self.basis.means, layer)?,
            q_out: q_out.slice_mut(..n * query_heads * d)?.tensor([n, query_heads, d]),
            k_out: k_out.slice_mut(..n * heads * d)?.tensor([n, heads, d]),
            v_out: v_out.slice_mut(..n * heads * d)?.tensor([n, heads, d]),
        };
        run(enter.launch((n.div_ceil(ROWS) as u32, (query_heads + 2 * heads) as u32), args))
    }

    /// Brings what attention gave for the rows of a layer out of the basis, to `out` and its type.
    pub(super) fn leave_basis<O: InputElement>(
        &self,
        layer: usize,
        n: usize,
        outputs: &Outputs,
        out: RowsMut<'_, O>,
    ) -> Result<(), KvError> {
        let Some(leave) = self.kernels.leave.as_ref().filter(|_| n > 0) else { return Ok(()) };
        let (query_heads, d) = (self.config.query_heads(), self.config.head_dim);
        let args = LeaveBasisArgs {
            means: self.means(&self.basis.means, layer)?,
            x: outputs.attended.slice(..n * query_heads * d)?.tensor([n, query_heads, d]),
            out: out.tensor(n, [query_heads, d])?.into(),
        };
        run(leave.launch((n.div_ceil(ROWS) as u32, query_heads as u32), args))
    }
}
