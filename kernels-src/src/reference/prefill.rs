//! Prefill attention: causal, GQA, over unquantised keys and values, with the significance of prompt tokens.

use super::basic::softmax;
use super::error::{ReferenceError, check_len, group_size};

/// Arguments of prefill attention.
#[derive(Debug, Clone, Copy)]
pub struct PrefillArgs<'a> {
    /// `[queries, query_heads, head_dim]`: the last queries of the prompt, after RoPE. Query `i` sits at
    /// position `tokens - queries + i` and attends to every token up to it.
    pub q: &'a [f32],
    /// `[tokens, kv_heads, head_dim]`, after RoPE.
    pub k: &'a [f32],
    /// `[tokens, kv_heads, head_dim]`.
    pub v: &'a [f32],
    /// Query heads.
    pub query_heads: usize,
    /// KV heads; divides the query heads.
    pub kv_heads: usize,
    /// Elements per vector.
    pub head_dim: usize,
    /// Factor on the logits, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// How many of the last queries are counted in the column sums (LeanKV: 64).
    pub window: usize,
}

/// Result of prefill attention.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefillOutput {
    /// `[queries, query_heads, head_dim]`.
    pub out: Vec<f32>,
    /// `[queries, query_heads]` natural log of the sum of exponentials of the logits.
    pub lse: Vec<f32>,
    /// `[query_heads, tokens]` probability each token received, summed over the counted queries.
    pub column_sums: Vec<f32>,
    /// `[kv_heads, tokens]` the same sum of the probability maximised over the query group: comparable with
    /// the significance that decode steps accumulate.
    pub group_max_sums: Vec<f32>,
}

/// Causal attention of the last queries of a prompt.
///
/// # Errors
/// Slices that do not fit the shapes, more queries than tokens, or uneven head counts.
pub fn prefill_attention(args: &PrefillArgs<'_>) -> Result<PrefillOutput, ReferenceError> {
    let &PrefillArgs { q, k, v, query_heads, kv_heads, head_dim: d, scale, window } = args;
    let group = group_size(query_heads, kv_heads)?;
    let (queries, tokens) = (q.len() / (query_heads * d).max(1), k.len() / (kv_heads * d).max(1));
    check_len("q [queries, query_heads, head_dim]", queries * query_heads * d, q.len())?;
    check_len("k [tokens, kv_heads, head_dim]", tokens * kv_heads * d, k.len())?;
    check_len("v [tokens, kv_heads, head_dim]", k.len(), v.len())?;
    if queries > tokens {
        return Err(ReferenceError::MoreQueriesThanTokens { queries, tokens });
    }
    let mut result = PrefillOutput {
        out: vec![0.0; q.len()],
        lse: vec![0.0; queries * query_heads],
        column_sums: vec![0.0; query_heads * tokens],
        group_max_sums: vec![0.0; kv_heads * tokens],
    };
    for i in 0..queries {
        let seen = tokens - queries + i + 1;
        let counted = i + window >= queries;
        for kv_head in 0..kv_heads {
            let row = |t: usize| {
                let at = (t * kv_heads + kv_head) * d;
                at..at + d
            };
            let mut best = vec![0.0f32; seen];
            for member in 0..group {
                let head = kv_head * group + member;
                let q = &q[(i * query_heads + head) * d..][..d];
                let logits: Vec<f32> = (0..seen)
                    .map(|t| scale * q.iter().zip(&k[row(t)]).map(|(q, k)| q * k).sum::<f32>())
                    .collect();
                let p = softmax(&logits, seen)?;
                let out = &mut result.out[(i * query_heads + head) * d..][..d];
                for (t, p) in p.iter().enumerate() {
                    out.iter_mut().zip(&v[row(t)]).for_each(|(out, v)| *out += p * v);
                }
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = logits.iter().map(|l| (l - max).exp()).sum();
                result.lse[i * query_heads + head] = max + sum.ln();
                best.iter_mut().zip(&p).for_each(|(best, p)| *best = best.max(*p));
                if counted {
                    let sums = &mut result.column_sums[head * tokens..][..seen];
                    sums.iter_mut().zip(&p).for_each(|(sum, p)| *sum += p);
                }
            }
            if counted {
                let sums = &mut result.group_max_sums[kv_head * tokens..][..seen];
                sums.iter_mut().zip(&best).for_each(|(sum, p)| *sum += p);
            }
        }
    }
    Ok(result)
}

/// Prompt significance as published: `[kv_heads, tokens]`, the mean probability a token received from the
/// counted queries that can see it (`min(tokens - i, counted)` of them), maximised over the query group.
///
/// `counted` is `min(window, queries)` of the prefill. (LeanKV, significance in the prompt phase: the maximum
/// of means; [`PrefillOutput::group_max_sums`] divided by the same count is the mean of maxima.)
///
/// # Errors
/// [`ReferenceError::Shape`] or [`ReferenceError::HeadGroups`].
pub fn prompt_significance(
    column_sums: &[f32],
    query_heads: usize,
    kv_heads: usize,
    counted: usize,
) -> Result<Vec<f32>, ReferenceError> {
    let group = group_size(query_heads, kv_heads)?;
    let tokens = column_sums.len() / query_heads;
    check_len("column_sums [query_heads, tokens]", query_heads * tokens, column_sums.len())?;
    let mut out = vec![0.0f32; kv_heads * tokens];
    for (head, sums) in column_sums.chunks_exact(tokens.max(1)).enumerate() {
        for (t, sum) in sums.iter().enumerate() {
            let mean = sum / (tokens - t).min(counted).max(1) as f32;
            let best = &mut out[head / group * tokens + t];
            *best = best.max(mean);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::testing::{attend_f64, close, random};

    const D: usize = 16;

    fn args<'a>(
        q: &'a [f32],
        k: &'a [f32],
        v: &'a [f32],
        heads: (usize, usize),
        window: usize,
    ) -> PrefillArgs<'a> {
        PrefillArgs { q, k, v, query_heads: heads.0, kv_heads: heads.1, head_dim: D, scale: 0.5, window }
    }

    #[test]
    fn matches_direct_f64_attention_and_column_sums() {
        let (queries, tokens, heads) = (9, 23, (6, 2));
        let q = random(1, queries * heads.0 * D);
        let (k, v) = (random(2, tokens * heads.1 * D), random(3, tokens * heads.1 * D));
        for window in [0, 4, 9, 64] {
            let got = prefill_attention(&args(&q, &k, &v, heads, window)).unwrap();
            let mut sums = vec![0.0f64; heads.0 * tokens];
            let mut maxima = vec![0.0f64; heads.1 * tokens];
            for i in 0..queries {
                let seen = tokens - queries + i + 1;
                let mut best = vec![0.0f64; heads.1 * tokens];
                for head in 0..heads.0 {
                    let kv_head = head / 3;
                    let rows = |x: &'_ [f32]| -> Vec<Vec<f32>> {
                        (0..seen).map(|t| x[(t * heads.1 + kv_head) * D..][..D].to_vec()).collect()
                    };
                    let (keys, values) = (rows(&k), rows(&v));
                    let keys: Vec<&[f32]> = keys.iter().map(Vec::as_slice).collect();
                    let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
                    let at = (i * heads.0 + head) * D;
                    let (out, p) = attend_f64(&q[at..][..D], &keys, &values, 0.5);
                    out.iter().enumerate().for_each(|(j, e)| close(*e, got.out[at + j], 1e-5));
                    for (t, p) in p.iter().enumerate() {
                        let b = &mut best[kv_head * tokens + t];
                        *b = b.max(*p);
                        if i + window >= queries {
                            sums[head * tokens + t] += p;
                        }
                    }
                }
                if i + window >= queries {
                    maxima.iter_mut().zip(best).for_each(|(m, b)| *m += b);
                }
            }
            sums.iter().zip(&got.column_sums).for_each(|(e, g)| close(*e, *g, 1e-5));
            maxima.iter().zip(&got.group_max_sums).for_each(|(e, g)| close(*e, *g, 1e-5));
        }
    }

    #[test]
    fn each_counted_query_gives_out_a_probability_of_one() {
        let (q, k, v) = (random(4, 8 * D), random(5, 8 * D), random(6, 8 * D));
        let got = prefill_attention(&args(&q, &k, &v, (1, 1), 3)).unwrap();
        close(3.0, got.column_sums.iter().sum(), 1e-5);
        assert_eq!(got.column_sums, got.group_max_sums);
    }

    #[test]
    fn significance_is_a_mean_over_the_queries_that_see_the_token() {
        // Two query heads share one KV head; 3 tokens, 2 counted queries.
        let sums = [0.6, 0.8, 0.6, 1.2, 0.4, 0.4];
        assert_eq!(prompt_significance(&sums, 2, 1, 2).unwrap(), [0.6, 0.4, 0.6]);
        assert!(prompt_significance(&[], 2, 1, 2).unwrap().is_empty());
    }

    #[test]
    fn bad_shapes_are_errors() {
        let x = random(7, 8 * D);
        assert!(prefill_attention(&args(&x, &x[D..], &x[D..], (1, 1), 3)).is_err());
        assert!(prefill_attention(&args(&x, &x, &x[D..], (1, 1), 3)).is_err());
        assert!(prefill_attention(&args(&x, &x, &x, (3, 2), 3)).is_err());
        assert!(prefill_attention(&args(&[], &x, &x, (1, 1), 3)).unwrap().out.is_empty());
        assert!(prefill_attention(&args(&[], &[], &[], (1, 1), 3)).unwrap().out.is_empty());
    }
}
