//! The basis in which a cache holds queries, keys and values.
//!
//! Attention is the same in any basis: where queries and keys are rotated alike their products stay, and where values are rotated the output comes out rotated.
//! A constant that is taken from every key of a head moves all logits of a query alike, which a softmax does not see, and one that is taken from every value is missing
//! in the output, since weights sum to 1. So a cache can hold rows that lose less when they are coded, rotated by a Hadamard matrix (QuaRot, arXiv
//! 2404.00456) and without their mean, and nothing else knows: rows enter the basis before they meet the cache ([`enter_basis`](fn@enter_basis)), and what attention gives leaves
//! it ([`leave_basis`](fn@leave_basis)).

use leankv_dsl::lang::*;

/// Specialisation of [`enter_basis`](fn@enter_basis) and [`leave_basis`](fn@leave_basis).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
#[spec(valid = |s| s.group >= 1 && s.rows >= 1)]
pub struct BasisSpec {
    /// Elements of a vector.
    #[spec(default = 128, values = [64, 80, 128])]
    pub head_dim: usize,
    /// Query heads that share a KV head.
    #[spec(default = 4)]
    pub group: usize,
    /// Type of queries, keys and values as they come.
    #[spec(default = FloatType::F16, values = FloatType::ALL)]
    pub input: FloatType,
    /// Type of what attention gives, as it is wanted.
    #[spec(default = FloatType::F32, values = FloatType::ALL)]
    pub output: FloatType,
    /// Whether rows are rotated.
    #[spec(default = true)]
    pub rotated: bool,
    /// Whether means are taken from keys and values.
    #[spec(default = true, values = [true, false])]
    pub centred: bool,
    /// Tokens of a program.
    #[spec(default = 4)]
    pub rows: usize,
}

impl BasisSpec {
    #[track_caller]
    fn rotate(&self, x: Tile<f32, 2>) -> Tile<f32, 2> {
        if self.rotated { rotate(x) } else { x }
    }

    /// The mean of a head's keys (0) or values (1), `[1, head_dim]`.
    #[track_caller]
    fn mean(&self, means: View<f32, 3>, which: i32, head: Scalar<i32>) -> Tile<f32, 2> {
        let means = means.with_extent(2, self.head_dim);
        means.tile((which, head, 0), [1, 1, self.head_dim]).load().squeeze(0)
    }

    #[track_caller]
    fn enter(
        &self,
        (from, to): (FloatView<3>, ViewMut<f32, 3>),
        (turn, head): (Scalar<i32>, Scalar<i32>),
        mean: Option<Tile<f32, 2>>,
    ) {
        let extents = [self.rows, 1, self.head_dim];
        let x = from.with_extent(2, self.head_dim).tile((turn, head, 0), extents).load::<f32>().squeeze(1);
        let x = mean.map_or(x, |mean| x - mean);
        to.with_extent(2, self.head_dim).tile((turn, head, 0), extents).store(self.rotate(x).expand_dims(1));
    }
}

/// Every row times the orthonormal Hadamard matrix, in blocks of the largest power of two that divides it; its own inverse.
#[track_caller]
pub fn rotate(x: Tile<f32, 2>) -> Tile<f32, 2> {
    let [rows, dim] = x.extents();
    let (steps, all) = (dim.trailing_zeros(), rows * dim);
    let mut turned = x;
    for step in 0..steps {
        let apart = 1 << step;
        let extents = [all / (2 * apart), 2, apart];
        let pairs = turned.reshape(extents);
        // Sum and difference of each pair, where its elements were: no element moves to another thread, but sums do.
        let sums = pairs.reduce_sum(1).expand_dims(1).broadcast(extents);
        let second = iota(2).eq(1).reshape([1, 2, 1]).broadcast(extents);
        turned = second.select(pairs.fma(-2.0, sums), sums).reshape([rows, dim]);
    }
    turned * (2f32.powi(steps as i32)).sqrt().recip()
}

/// Brings queries, keys and values into the basis of the cache.
///
/// * Shapes: `q` is `[n, query_heads, head_dim]`, `k` and `v` are `[n, kv_heads, head_dim]`, after RoPE; `means` is `[2, kv_heads, head_dim]`, of keys and of
///   values, and is not looked at unless they are centred; `q_out`, `k_out`, `v_out` are as their inputs, in f32.
/// * Grid: `[ceil(n / rows), query_heads + 2 kv_heads]`.
/// * Values: keys and values without their head's mean, then all times the orthonormal Hadamard matrix; f32 throughout.
#[kernel(warps = 1)]
pub fn enter_basis(
    #[comptime] spec: BasisSpec,
    #[arg(align = 16, element = spec.input)] q: FloatView<3>,
    #[arg(align = 16, element = spec.input)] k: FloatView<3>,
    #[arg(align = 16, element = spec.input)] v: FloatView<3>,
    means: View<f32, 3>,
    #[arg(align = 16)] q_out: ViewMut<f32, 3>,
    #[arg(align = 16)] k_out: ViewMut<f32, 3>,
    #[arg(align = 16)] v_out: ViewMut<f32, 3>,
) {
    let (turn, part) = (program_id(0), program_id(1));
    let of_keys = part - q.extent(1).cast::<i32>();
    let of_values = of_keys - k.extent(1).cast::<i32>();
    let mean = |which: i32, head: Scalar<i32>| spec.centred.then(|| spec.mean(means, which, head));
    if of_keys.lt(0) {
        spec.enter((q, q_out), (turn, part), None);
    } else if of_values.lt(0) {
        spec.enter((k, k_out), (turn, of_keys), mean(0, of_keys));
    } else {
        spec.enter((v, v_out), (turn, of_values), mean(1, of_values));
    }
}

/// Brings what attention gives out of the basis of the cache, to where and as what it is wanted.
///
/// * Shapes: `x` and `out` are `[n, query_heads, head_dim]`; `means` as in [`enter_basis`](fn@enter_basis).
/// * Grid: `[ceil(n / rows), query_heads]`.
/// * Values: the inverse of what values went through, in f32; then rounded once to the type of `out`. Without rotation and means it is the rounding alone.
#[kernel(warps = 1)]
pub fn leave_basis(
    #[comptime] spec: BasisSpec,
    means: View<f32, 3>,
    #[arg(align = 16)] x: View<f32, 3>,
    #[arg(align = 16, element = spec.output)] out: FloatViewMut<3>,
) {
    let (turn, head) = (program_id(0), program_id(1));
    let extents = [spec.rows, 1, spec.head_dim];
    let x = x.with_extent(2, spec.head_dim).tile((turn, head, 0), extents).load().squeeze(1);
    let x = spec.rotate(x);
    let mean = spec.centred.then(|| spec.mean(means, 1, head / spec.group as i32));
    let x = mean.map_or(x, |mean| x + mean).expand_dims(1);
    out.with_extent(2, spec.head_dim).tile((turn, head, 0), extents).store(x);
}
