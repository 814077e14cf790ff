//! One chunk of one request's prompt in one layer: attention over the cache and the chunk, significance, and the write of both tiers.

use leankv_dsl::lang::attention::{ALL_PAGES, Lengths};

use crate::policy::last_behind;

use super::basic::softmax;
use super::decode::{PagedKv, split_tokens};
use super::error::{ReferenceError, check_len, group_size};
use super::pages::{PagedFormat, page_mut, place, write_token};

/// Arguments of a chunk's attention besides the cache, which holds one request (number 0).
#[derive(Debug, Clone, Copy)]
pub struct ChunkArgs<'a> {
    /// `[n, query_heads, head_dim]`, after RoPE.
    pub q: &'a [f32],
    /// `[n, kv_heads, head_dim]`, after RoPE.
    pub k: &'a [f32],
    /// `[n, kv_heads, head_dim]`.
    pub v: &'a [f32],
    /// Query heads.
    pub query_heads: usize,
    /// KV heads; divides the query heads.
    pub kv_heads: usize,
    /// Factor on the logits, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// How many of the chunk's last queries are counted in the significance.
    pub window: usize,
    /// Position of the chunk's first token.
    pub before: i32,
    /// Tokens of the recent window: a query raises the peaks of tokens behind it.
    pub recent: i32,
}

/// What a chunk's attention gives.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkOutput {
    /// `[n, query_heads, head_dim]`.
    pub out: Vec<f32>,
    /// `[n, query_heads]` natural log of the sum of exponentials of the logits.
    pub lse: Vec<f32>,
    /// `[kv_heads, n]`: what the chunk's own tokens received from the counted queries.
    pub own: Vec<Share>,
    /// The same for the cached tokens, for each KV head: high tier's tokens, then the low tier's.
    pub cached: Vec<Vec<Share>>,
}

/// What a token received from counted queries, of each the probability maximised over the query group.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Share {
    /// The sum over queries.
    pub sum: f32,
    /// The most that one gave of those that have the token behind their window.
    pub most: f32,
}

impl Share {
    /// What one query gave that has the token behind its window.
    #[must_use]
    pub fn once(share: f32) -> Share {
        Share { sum: share, most: share }
    }
}

/// Attention of a chunk to every cached token and causally to itself, with the significance that its last `window` queries give.
///
/// # Errors
/// Slices that do not fit the shapes, lengths beyond the page table, page ids outside the arena.
pub fn attend_chunk(args: &ChunkArgs<'_>, kv: &PagedKv<'_>) -> Result<ChunkOutput, ReferenceError> {
    let &ChunkArgs { q, k, v, query_heads, kv_heads, scale, window, before, recent } = args;
    let d = kv.high.head_dim();
    let group = group_size(query_heads, kv_heads)?;
    let n = q.len() / (query_heads * d).max(1);
    check_len("q [n, query_heads, head_dim]", n * query_heads * d, q.len())?;
    check_len("k [n, kv_heads, head_dim]", n * kv_heads * d, k.len())?;
    check_len("v [n, kv_heads, head_dim]", k.len(), v.len())?;
    check_len("slots of one request", 1, kv.slots.len())?;
    let slots = kv.lengths.len() / (Lengths::COLUMNS * kv_heads);
    check_len("lengths [slots, kv_heads, 4]", slots * kv_heads * Lengths::COLUMNS, kv.lengths.len())?;
    check_len(
        "page_table [slots, kv_heads, table_len]",
        slots * kv_heads * kv.table_len,
        kv.page_table.len(),
    )?;
    let known = usize::try_from(kv.slots[0]).ok().filter(|&slot| slot < slots);
    let slot = known.ok_or(ReferenceError::SlotOutOfRange { slot: kv.slots[0], slots })?;

    let mut result = ChunkOutput {
        out: vec![0.0; q.len()],
        lse: vec![0.0; n * query_heads],
        own: vec![Share::default(); kv_heads * n],
        cached: Vec::new(),
    };
    for head in 0..kv_heads {
        let cached = split_tokens(kv, slot * kv_heads + head, ALL_PAGES)?.remove(0);
        let row = |x: &'_ [f32], t: usize| x[(t * kv_heads + head) * d..][..d].to_vec();
        let keys: Vec<Vec<f32>> =
            cached.iter().map(|t| t.key.clone()).chain((0..n).map(|t| row(k, t))).collect();
        let values: Vec<Vec<f32>> =
            cached.iter().map(|t| t.value.clone()).chain((0..n).map(|t| row(v, t))).collect();
        let mut shares = vec![Share::default(); keys.len()];
        for i in 0..n {
            let seen = cached.len() + i + 1;
            let mut best = vec![0.0f32; seen];
            for member in 0..group {
                let at = i * query_heads + head * group + member;
                let q = &q[at * d..][..d];
                let logits: Vec<f32> = keys[..seen]
                    .iter()
                    .map(|k| scale * q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>())
                    .collect();
                let p = softmax(&logits, seen)?;
                let out = &mut result.out[at * d..][..d];
                for (p, value) in p.iter().zip(&values) {
                    out.iter_mut().zip(value).for_each(|(out, v)| *out += p * v);
                }
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                result.lse[at] = max + logits.iter().map(|l| (l - max).exp()).sum::<f32>().ln();
                best.iter_mut().zip(&p).for_each(|(best, p)| *best = best.max(*p));
            }
            if i + window >= n {
                let positions = cached.iter().map(|token| token.position).chain(before..);
                for ((share, p), position) in shares.iter_mut().zip(&best).zip(positions) {
                    let behind = position <= last_behind(before + i as i32, recent);
                    let most = if behind { share.most.max(*p) } else { share.most };
                    *share = Share { sum: share.sum + p, most };
                }
            }
        }
        result.own[head * n..][..n].copy_from_slice(&shares[cached.len()..]);
        shares.truncate(cached.len());
        result.cached.push(shares);
    }
    Ok(result)
}

/// Writes a chunk's tokens where `dest` says into the pages of both tiers.
///
/// * `keys`, `values`: `[n, kv_heads, head_dim]`, keys after RoPE; `words`: `[kv_heads, n]`, of significance; `before`: position of the first token;
/// * `dest`: `[kv_heads, n]`: negative for a token that is pruned, else twice its number in its tier's list, plus 1 for the low tier;
/// * `page_table`: `[kv_heads, table_len]` of this request.
///
/// # Errors
/// Slices that do not fit the shapes, a number beyond the table, a low destination without a low tier, a page id outside the arena.
pub fn write_chunk(
    high: &PagedFormat,
    low: Option<&PagedFormat>,
    arena: &mut [u8],
    page_table: &[i32],
    keys: &[f32],
    values: &[f32],
    words: &[f32],
    dest: &[i32],
    before: i32,
    kv_heads: usize,
) -> Result<(), ReferenceError> {
    let d = high.head_dim();
    let n = dest.len() / kv_heads.max(1);
    check_len("dest [kv_heads, n]", kv_heads * n, dest.len())?;
    check_len("words [kv_heads, n]", dest.len(), words.len())?;
    check_len("keys [n, kv_heads, head_dim]", n * kv_heads * d, keys.len())?;
    check_len("values [n, kv_heads, head_dim]", keys.len(), values.len())?;
    let table_len = page_table.len() / kv_heads.max(1);
    check_len("page_table [kv_heads, table_len]", kv_heads * table_len, page_table.len())?;
    for head in 0..kv_heads {
        let table = &page_table[head * table_len..][..table_len];
        let reversed: Vec<i32> = table.iter().rev().copied().collect();
        for t in 0..n {
            let Ok(to) = usize::try_from(dest[head * n + t]) else { continue };
            let beyond = ReferenceError::LengthBeyondPages { len: to as i64 / 2 + 1, room: 0 };
            let (paged, ids) =
                if to % 2 == 0 { (high, table) } else { (low.ok_or(beyond)?, reversed.as_slice()) };
            let (page, slot) = place(paged, ids, to / 2)?;
            let page = page_mut(paged, arena, page)?;
            let at = (t * kv_heads + head) * d;
            let position = before + t as i32;
            write_token(
                paged,
                page,
                slot,
                &keys[at..][..d],
                &values[at..][..d],
                words[head * n + t],
                position,
            )?;
        }
    }
    Ok(())
}
