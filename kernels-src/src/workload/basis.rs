//! Rows that enter and leave the basis of a cache.

use leankv_dsl::workload::{Check, Generator, Workload, given};

use super::floats::{self, Floats};
use super::{RecipeError, Shapes, filled};
use crate::basis::{BasisSpec, EnterBasisArgs, LeaveBasisArgs, enter_basis, leave_basis};
use crate::reference;

/// Means of keys and values, `[2, kv_heads, head_dim]`; none unless they are centred.
fn means(spec: &BasisSpec, kv_heads: usize, random: &mut Generator) -> Vec<f32> {
    random.f32s(if spec.centred { 2 * kv_heads * spec.head_dim } else { 0 }, -0.5, 0.5)
}

pub(super) fn enter(spec: &BasisSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let (n, kv_heads, d) = (shapes.get("rows"), shapes.get("kv_heads"), spec.head_dim);
    let heads = kv_heads * spec.group;
    let mut random = Generator::new(seed);
    let [q, k, v] =
        [heads, kv_heads, kv_heads].map(|heads| Floats::random(spec.input, &mut random, [n, heads, d]));
    let means = means(spec, kv_heads, &mut random);
    let mean = |which: usize| spec.centred.then(|| &means[which * kv_heads * d..][..kv_heads * d]);
    let inside = |rows: &[f32], mean: Option<&[f32]>, heads: usize| -> Result<_, RecipeError> {
        let expected = reference::enter_basis(rows, mean, spec.rotated, [heads, d])?;
        Ok(filled(f32::NAN, &expected, Check::Bits).tensor_mut([n, heads, d]))
    };
    let args = EnterBasisArgs {
        q_out: inside(&q.exact, None, heads)?,
        k_out: inside(&k.exact, mean(0), kv_heads)?,
        v_out: inside(&v.exact, mean(1), kv_heads)?,
        q: q.tensor,
        k: k.tensor,
        v: v.tensor,
        means: given(&means).tensor([if spec.centred { 2 } else { 0 }, kv_heads, d]),
    };
    Ok(Workload::of::<enter_basis>([n.div_ceil(spec.rows.max(1)), heads + 2 * kv_heads, 1], args))
}

pub(super) fn leave(spec: &BasisSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let (n, kv_heads, d) = (shapes.get("rows"), shapes.get("kv_heads"), spec.head_dim);
    let heads = kv_heads * spec.group;
    let mut random = Generator::new(seed);
    let means = means(spec, kv_heads, &mut random);
    let inside = random.f32s(n * heads * d, -2.0, 2.0);
    let mean = spec.centred.then(|| &means[kv_heads * d..]);
    let back = reference::leave_basis(&inside, mean, spec.rotated, [kv_heads, spec.group, d])?;
    let args = LeaveBasisArgs {
        means: given(&means).tensor([if spec.centred { 2 } else { 0 }, kv_heads, d]),
        x: given(&inside).tensor([n, heads, d]),
        out: floats::expected(spec.output, &back, [n, heads, d]),
    };
    Ok(Workload::of::<leave_basis>([n.div_ceil(spec.rows.max(1)), heads, 1], args))
}
