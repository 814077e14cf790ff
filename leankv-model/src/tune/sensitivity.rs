//! How much each layer's keys and values lose by fewer bits.

use serde::{Deserialize, Serialize};

use super::TuneError;
use super::space::{Part, Space, Widths};

/// One side of a layer that has codes of another width than the rest of the cache, and what that adds to the divergence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Added {
    /// The layer.
    pub layer: usize,
    /// Keys or values.
    pub part: Part,
    /// Bits of a code.
    pub bits: u32,
    /// What it adds to the KL divergence, in nats a token.
    pub kl: f64,
}

/// The widths, as numbers, that are measured: of `few`, two of them, from which the others follow.
pub(super) fn measured(space: &Space, few: bool) -> Vec<usize> {
    let last = space.widths.len() - 1;
    match few {
        // The narrowest, where much is lost, and one of twice its bits.
        true => {
            let twice = space.widths.iter().position(|&width| width >= 2 * space.widths[0]).unwrap_or(last);
            let mut both = vec![0, twice.min(last.saturating_sub(1))];
            both.dedup();
            both
        }
        false => (0..last).collect(),
    }
}

/// The widths of all layers where one side of one layer has another.
pub(super) fn with(base: &[Widths], layer: usize, part: Part, width: usize) -> Vec<Widths> {
    let mut widths = base.to_vec();
    widths[layer][part as usize] = width;
    widths
}

/// What every width of every side loses, `[layers]`, of keys and of values, from what was measured against the widest codes. Widths between follow from those
/// that were measured: a loss grows with a power of the codes' distortion, of which two measurements say how fast.
pub(super) fn losses(
    space: &Space,
    layers: usize,
    head_dim: usize,
    added: &[Added],
) -> Result<Vec<[Vec<f64>; 2]>, TuneError> {
    let mut distortions = Vec::with_capacity(space.widths.len());
    for width in 0..space.widths.len() {
        distortions.push(space.distortion(width, head_dim)?);
    }
    let of = |layer: usize, part: Part| {
        let known = |&bits: &u32| {
            let found = added.iter().find(|a| (a.layer, a.part, a.bits) == (layer, part, bits));
            // Less than nothing is noise.
            found.map(|added| added.kl.max(0.0))
        };
        let known: Vec<Option<f64>> = space.widths.iter().map(known).collect();
        fill(&known, &distortions)
    };
    Ok((0..layers).map(|layer| Part::BOTH.map(|part| of(layer, part))).collect())
}

/// Losses of all widths, the narrowest first, none of which is above that of a narrower one; the widest loses nothing.
fn fill(known: &[Option<f64>], distortions: &[f64]) -> Vec<f64> {
    let points: Vec<(f64, f64)> =
        known.iter().zip(distortions).filter_map(|(known, &d)| Some((d, (*known)?))).collect();
    // Of noise alone the loss is in proportion to the distortion.
    let power = match points[..] {
        [(d, a), .., (e, b)] if a > 0.0 && b > 0.0 => ((a / b).ln() / (d / e).ln()).clamp(0.5, 2.0),
        _ => 1.0,
    };
    let last = known.len() - 1;
    let one = |(width, known): (usize, &Option<f64>)| {
        let nearest = || {
            let far = |&(d, _): &(f64, f64)| (d / distortions[width]).ln().abs();
            let near = points.iter().min_by(|a, b| far(a).total_cmp(&far(b)));
            near.map_or(0.0, |&(d, loss)| loss * (distortions[width] / d).powf(power))
        };
        if width == last { 0.0 } else { known.unwrap_or_else(nearest) }
    };
    let mut losses: Vec<f64> = known.iter().enumerate().map(one).collect();
    falling(&mut losses);
    losses
}

/// Lowers losses, the narrowest code's first, until none is above that of a narrower one.
pub(super) fn falling(losses: &mut [f64]) {
    let mut least = f64::INFINITY;
    for loss in losses {
        least = least.min(*loss);
        *loss = least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_between_follow_the_power_of_what_was_measured() {
        let distortions = [0.1, 0.03, 0.01, 0.001, 0.0001];
        // In proportion: a tenth of the distortion, a tenth of the loss.
        let found = fill(&[Some(1.0), None, Some(0.1), None, None], &distortions);
        for (found, expected) in found.iter().zip([1.0, 0.3, 0.1, 0.01, 0.0]) {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
        // Noise: the wider one seems to lose more. No width loses more than a narrower one.
        let found = fill(&[Some(0.01), None, Some(0.02), None, None], &distortions);
        assert!(found.windows(2).all(|pair| pair[0] >= pair[1]), "{found:?}");
        assert_eq!(fill(&[Some(0.0), None, Some(0.0), None, None], &distortions), [0.0; 5]);
    }

    #[test]
    fn few_measurements_are_of_the_narrowest_codes_and_of_twice_their_bits() {
        let space = Space::usual();
        assert_eq!(measured(&space, true).iter().map(|&w| space.widths[w]).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(measured(&space, false).len(), space.widths.len() - 1);
        let two = Space { widths: vec![3, 4], ..Space::usual() };
        assert_eq!(measured(&two, true), [0]);
    }
}
