//! The recorded keys, values and queries.

use std::path::Path;

use half::f16;
use safetensors::{Dtype, SafeTensors};

use crate::failure::{Failure, at_path};

/// What a model's attention saw, layer by layer.
pub(super) struct Recorded {
    /// The layers, by their number in the model.
    pub(super) layers: Vec<Layer>,
    /// KV heads.
    pub(super) kv_heads: usize,
    /// Query heads; those of one KV head lie next to each other.
    pub(super) query_heads: usize,
    /// Elements of a vector.
    pub(super) head_dim: usize,
    /// Tokens of the prompt.
    pub(super) tokens: usize,
    /// Recorded queries: those of the last tokens.
    pub(super) queries: usize,
}

/// One layer; keys and queries after RoPE.
pub(super) struct Layer {
    /// Its number in the model.
    pub(super) number: usize,
    /// `[tokens, kv_heads, head_dim]`.
    pub(super) keys: Vec<f16>,
    /// `[tokens, kv_heads, head_dim]`.
    pub(super) values: Vec<f16>,
    /// `[queries, query_heads, head_dim]`.
    pub(super) queries: Vec<f16>,
}

impl Recorded {
    /// Reads tensors `layerN.k`, `layerN.v` and `layerN.q_last*`, heads outermost, as data/README.md describes them.
    pub(super) fn read(path: &Path) -> Result<Recorded, Failure> {
        let bytes = std::fs::read(path)
            .map_err(at_path(path))
            .map_err(|f| f.help("run the demo in the project's folder, or name the file with `--data`"))?;
        let bad = |why: String| Failure::machine(format_args!("{}: {why}", path.display()));
        let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
        let mut numbers: Vec<usize> = file
            .names()
            .iter()
            .filter_map(|name| name.strip_prefix("layer")?.strip_suffix(".k")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let mut shapes = None;
        let mut layers = Vec::new();
        for number in numbers {
            let query_name = file
                .names()
                .into_iter()
                .find(|name| name.starts_with(&format!("layer{number}.q_last")))
                .ok_or_else(|| bad(format!("layer {number} has no queries")))?;
            let tensor = |name: &str| tokens_first(&file, name).map_err(&bad);
            let (keys, k_shape) = tensor(&format!("layer{number}.k"))?;
            let (values, v_shape) = tensor(&format!("layer{number}.v"))?;
            let (queries, q_shape) = tensor(query_name)?;
            if k_shape != v_shape || k_shape[2] != q_shape[2] || !q_shape[1].is_multiple_of(k_shape[1].max(1))
            {
                return Err(bad(format!("layer {number}: shapes of keys, values and queries do not fit")));
            }
            if *shapes.get_or_insert((k_shape, q_shape)) != (k_shape, q_shape) {
                return Err(bad("layers of different shapes".to_owned()));
            }
            layers.push(Layer { number, keys, values, queries });
        }
        let ([tokens, kv_heads, head_dim], [queries, query_heads, _]) =
            shapes.ok_or_else(|| bad("there is no tensor `layerN.k`".to_owned()))?;
        if queries > tokens || tokens == 0 {
            return Err(bad(format!("{queries} queries for {tokens} tokens")));
        }
        Ok(Recorded { layers, kv_heads, query_heads, head_dim, tokens, queries })
    }

    /// Query heads that share a KV head.
    pub(super) fn group(&self) -> usize {
        self.query_heads / self.kv_heads.max(1)
    }
}

/// An f16 tensor `[heads, tokens, head_dim]` as `[tokens, heads, head_dim]`, with its new shape.
fn tokens_first(file: &SafeTensors<'_>, name: &str) -> Result<(Vec<f16>, [usize; 3]), String> {
    let tensor = file.tensor(name).map_err(|e| format!("tensor `{name}`: {e}"))?;
    let (&[heads, tokens, dim], Dtype::F16) = (tensor.shape(), tensor.dtype()) else {
        return Err(format!("tensor `{name}` is not f16 of three dimensions"));
    };
    let element = |i: usize| f16::from_le_bytes([tensor.data()[2 * i], tensor.data()[2 * i + 1]]);
    let mut out = Vec::with_capacity(heads * tokens * dim);
    for token in 0..tokens {
        for head in 0..heads {
            let row = (head * tokens + token) * dim;
            out.extend((row..row + dim).map(element));
        }
    }
    Ok((out, [tokens, heads, dim]))
}
