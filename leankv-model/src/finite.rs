//! Numbers that are not finite: where a model's first one appears, and what does not fit f16.
//!
//! [`Model::forward_rows`](crate::Model::forward_rows) looks at every row after each part of a layer. That is a pass over a few thousand numbers beside products over
//! millions of weights, so it is always done, and no second run is needed to name the layer.

use std::fmt;
use std::ops::{AddAssign, Deref, Range};

use half::f16;
use serde::{Deserialize, Serialize};

use crate::error::ModelError;

/// A part of a model that numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The embedding of the token.
    Embedding,
    /// The queries, keys and values of a layer, before they are rounded to f16.
    Projections(usize),
    /// A layer's attention and its output projection, added to the hidden state.
    Attention(usize),
    /// A layer's feed-forward part, added to the hidden state.
    FeedForward(usize),
    /// The norm after the last layer.
    Norm,
    /// The logits.
    Logits,
    /// The likelihood of the token that follows, or the divergence from FP16's predictions.
    Score,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Embedding => f.write_str("the token's embedding"),
            Place::Projections(layer) => write!(f, "the queries, keys or values of layer {layer}"),
            Place::Attention(layer) => write!(f, "the attention of layer {layer}"),
            Place::FeedForward(layer) => write!(f, "the feed-forward part of layer {layer}"),
            Place::Norm => f.write_str("the norm after the last layer"),
            Place::Logits => f.write_str("the logits"),
            Place::Score => f.write_str("the score of a prediction"),
        }
    }
}

/// Queries, keys and values that are finite and too large for f16, in which they meet the cache: above 65504, and infinite there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeyondF16 {
    /// Elements of queries.
    pub queries: u64,
    /// Elements of keys.
    pub keys: u64,
    /// Elements of values.
    pub values: u64,
}

impl BeyondF16 {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        *self != BeyondF16::default()
    }

    /// What it means and what to do, for people; none where every number fitted.
    pub fn warning(&self) -> Option<String> {
        let what = "attention took them as infinite, so what the model says is not what it should be";
        let todo = "use a file of the model whose queries, keys and values stay below 65504";
        self.any().then(|| format!("{self} were beyond f16: {what}; {todo}"))
    }
}

impl AddAssign for BeyondF16 {
    fn add_assign(&mut self, other: BeyondF16) {
        self.queries += other.queries;
        self.keys += other.keys;
        self.values += other.values;
    }
}

impl fmt::Display for BeyondF16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BeyondF16 { queries, keys, values } = self;
        write!(f, "{queries} elements of queries, {keys} of keys and {values} of values")
    }
}

/// Where numbers stop being finite, in the order in which a model computes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not finite: {place}{} is the first place with NaN or infinity{}; {}",
    position.map_or_else(String::new, |at| format!(" at position {at}")),
    if beyond.any() { format!("; {beyond} are beyond f16's 65504") } else { String::new() },
    match beyond.any() {
        true => "use a file of the model whose queries, keys and values stay below that",
        false => "the model's weights are damaged or out of range: fetch or convert its file again",
    }
)]
pub struct NonFinite {
    /// The first place.
    pub place: Place,
    /// The row of the batch.
    pub row: usize,
    /// The position of its token, where that is known.
    pub position: Option<u32>,
    /// What did not fit f16, in the rows that were looked at together.
    pub beyond: BeyondF16,
}

/// Hidden states `[rows, dim]`, which it is as a slice, and what was seen on the way to each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hidden {
    states: Vec<f32>,
    rows: Vec<Seen>,
}

/// What was seen of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    position: u32,
    broken: Option<Place>,
    beyond: BeyondF16,
}

impl Hidden {
    /// Hidden states, as they are.
    pub fn into_states(self) -> Vec<f32> {
        self.states
    }

    /// Whether these rows are finite all through the model.
    ///
    /// # Errors
    /// [`NonFinite`], with the first place of all these rows.
    pub fn check(&self, rows: Range<usize>) -> Result<(), NonFinite> {
        let broken = |row: usize| self.rows[row].broken.map(|place| (place, row));
        let Some((place, row)) = rows.clone().filter_map(broken).min() else { return Ok(()) };
        let position = Some(self.rows[row].position);
        Err(NonFinite { place, row, position, beyond: self.beyond(rows) })
    }

    /// Itself, if all rows are finite.
    ///
    /// # Errors
    /// As [`Hidden::check`].
    pub fn finite(self) -> Result<Hidden, ModelError> {
        self.check(0..self.rows.len())?;
        Ok(self)
    }

    /// What did not fit f16 in these rows.
    pub fn beyond(&self, rows: Range<usize>) -> BeyondF16 {
        let mut sum = BeyondF16::default();
        self.rows[rows].iter().for_each(|row| sum += row.beyond);
        sum
    }

    /// What did not fit f16 in any row.
    pub fn beyond_all(&self) -> BeyondF16 {
        self.beyond(0..self.rows.len())
    }

    /// The last row alone.
    pub(crate) fn last(mut self) -> Hidden {
        let dim = self.states.len() / self.rows.len().max(1);
        let last = self.rows.len().saturating_sub(1);
        Hidden { states: self.states.split_off(last * dim), rows: self.rows.split_off(last) }
    }
}

impl Deref for Hidden {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.states
    }
}

/// Looks at the rows of a batch as they go through a model.
pub(crate) struct Watch {
    rows: Vec<Seen>,
}

impl Watch {
    pub(crate) fn new(positions: &[u32]) -> Watch {
        let seen = |&position: &u32| Seen { position, broken: None, beyond: BeyondF16::default() };
        Watch { rows: positions.iter().map(seen).collect() }
    }

    /// Looks at `[rows, any]`, which come from `place`.
    pub(crate) fn look(&mut self, place: Place, x: &[f32]) {
        for (row, x) in self.each(x) {
            if row.broken.is_none() && !all_finite(x) {
                row.broken = Some(place);
            }
        }
    }

    /// Counts what did not fit: `[rows, any]` of queries, keys and values before and after rounding.
    pub(crate) fn rounded(&mut self, [q, k, v]: [(&[f32], &[f16]); 3]) {
        let count = |x: &[f32], h: &[f16]| {
            x.iter().zip(h).filter(|(x, h)| h.is_infinite() && x.is_finite()).count() as u64
        };
        let n = self.rows.len().max(1);
        for (row, seen) in self.rows.iter_mut().enumerate() {
            let part = |(x, h): (&[f32], &[f16])| {
                let of = row * (x.len() / n)..(row + 1) * (x.len() / n);
                count(&x[of.clone()], &h[of])
            };
            seen.beyond += BeyondF16 { queries: part(q), keys: part(k), values: part(v) };
        }
    }

    pub(crate) fn done(self, states: Vec<f32>) -> Hidden {
        Hidden { states, rows: self.rows }
    }

    fn each<'a>(&'a mut self, x: &'a [f32]) -> impl Iterator<Item = (&'a mut Seen, &'a [f32])> {
        let width = (x.len() / self.rows.len().max(1)).max(1);
        self.rows.iter_mut().zip(x.chunks_exact(width))
    }
}

/// Whether logits `[rows, vocab]` are finite.
pub(crate) fn check_logits(logits: &[f32], vocab: usize) -> Result<(), NonFinite> {
    match logits.chunks_exact(vocab).position(|row| !all_finite(row)) {
        Some(row) => {
            Err(NonFinite { place: Place::Logits, row, position: None, beyond: BeyondF16::default() })
        }
        None => Ok(()),
    }
}

/// By exponents, which integers compare many at a time.
fn all_finite(x: &[f32]) -> bool {
    let magnitude = |x: &f32| x.to_bits() & 0x7fff_ffff;
    x.iter().map(magnitude).fold(0, u32::max) < f32::INFINITY.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_of_the_first_row_is_named() {
        let mut watch = Watch::new(&[7, 8, 9]);
        watch.look(Place::Embedding, &[0.0, f32::MAX, -1.0, f32::MIN, 1.0, 2.0]);
        watch.look(Place::Attention(0), &[0.0, 0.0, 0.0, 0.0, f32::NEG_INFINITY, 0.0]);
        watch.look(Place::FeedForward(0), &[f32::NAN; 6]);
        let hidden = watch.done(vec![0.0; 6]);
        let of = |rows| hidden.check(rows).unwrap_err();
        let all = of(0..3);
        assert_eq!((all.place, all.row, all.position), (Place::Attention(0), 2, Some(9)));
        let first = of(0..2);
        assert_eq!((first.place, first.row, first.position), (Place::FeedForward(0), 0, Some(7)));
        assert!(hidden.check(0..0).is_ok());
        assert!(all.to_string().contains("the attention of layer 0 at position 9"), "{all}");
    }

    #[test]
    fn what_rounds_to_infinity_is_counted_and_what_is_infinite_is_not() {
        let x = [65504.0f32, 65519.0, 65520.0, -1e6, f32::INFINITY, f32::NAN];
        let h = x.map(f16::from_f32);
        let mut watch = Watch::new(&[0, 1]);
        watch.rounded([(&x, &h), (&x[..2], &h[..2]), (&x[2..4], &h[2..4])]);
        let hidden = watch.done(vec![0.0; 2]);
        assert_eq!(hidden.beyond(0..1), BeyondF16 { queries: 1, keys: 0, values: 1 });
        assert_eq!(hidden.beyond_all(), BeyondF16 { queries: 2, keys: 0, values: 2 });
        assert!(hidden.beyond_all().warning().unwrap().contains("below 65504"));
        assert_eq!(BeyondF16::default().warning(), None);
    }
}
