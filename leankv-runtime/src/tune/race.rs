//! Two candidates in turns: which one is faster, and by how much.

use serde::{Deserialize, Serialize};

/// A ratio of two times, from pairs that were measured one right after the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The median of the pairs.
    pub median: f64,
    /// The lower end of an interval that holds the true median with 98 %, by order statistics; the least one, of few pairs. A race ends when its interval looks decided, so
    /// that of a race holds it less often.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Ratio {
    /// Of a thing to itself.
    pub(super) const ONE: Ratio = Ratio { median: 1.0, low: 1.0, high: 1.0 };

    /// Of two modelled numbers, which are level where they differ by a hundredth.
    pub(super) fn modelled(ratio: f64) -> Ratio {
        Ratio { median: ratio, low: ratio / LEVEL, high: ratio * LEVEL }
    }

    /// Of the ratios of pairs, of which there is at least one.
    pub(super) fn of(pairs: &[f64]) -> Ratio {
        let mut sorted = pairs.to_vec();
        sorted.sort_by(f64::total_cmp);
        let outside = outside(sorted.len());
        Ratio { median: median(&sorted), low: sorted[outside], high: sorted[sorted.len() - 1 - outside] }
    }

    /// The ratio the other way round.
    #[must_use]
    pub fn inverse(self) -> Ratio {
        Ratio { median: 1.0 / self.median, low: 1.0 / self.high, high: 1.0 / self.low }
    }
}

/// The middle of sorted numbers, of which there is at least one.
pub(super) fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}

/// How many of `n` sorted numbers lie below an interval that misses their true median with at most 1 % on either side: as many heads as `n` coins show that seldom.
fn outside(n: usize) -> usize {
    let (mut probability, mut below) = (0.5f64.powi(n as i32), 0.0);
    for heads in 0..n {
        below += probability;
        if below > 0.01 {
            return heads.saturating_sub(1);
        }
        probability *= (n - heads) as f64 / (heads + 1) as f64;
    }
    0
}

/// Pairs after which a difference that is plain ends a race.
const FEW: usize = 3;
/// Pairs after which an interval says something.
const ENOUGH: usize = 7;
/// Pairs of a race that stays open.
pub(super) const MOST: usize = 25;
/// A difference that few pairs show.
const PLAIN: f64 = 1.25;
/// Candidates whose times differ by less are level.
const LEVEL: f64 = 1.01;

/// Measures two in turns until one is faster beyond the noise, both are level, or there were enough pairs. Gives the challenger's time over the champion's, of every pair.
pub(super) fn race<E>(
    mut challenger: impl FnMut() -> Result<f64, E>,
    mut champion: impl FnMut() -> Result<f64, E>,
) -> Result<Vec<f64>, E> {
    let mut ratios = Vec::new();
    loop {
        ratios.push(pair(ratios.len(), &mut challenger, &mut champion)?);
        let (ratio, pairs) = (Ratio::of(&ratios), ratios.len());
        let plain = pairs >= FEW && (ratio.low > PLAIN || ratio.high < 1.0 / PLAIN);
        let apart = ratio.low > 1.0 || ratio.high < 1.0;
        let level = ratio.low > 1.0 / LEVEL && ratio.high < LEVEL;
        if plain || (pairs >= ENOUGH && (apart || level)) || pairs >= MOST {
            return Ok(ratios);
        }
    }
}

/// The ratios of as many pairs as a race may have.
pub(super) fn pairs<E>(
    mut challenger: impl FnMut() -> Result<f64, E>,
    mut champion: impl FnMut() -> Result<f64, E>,
) -> Result<Vec<f64>, E> {
    (0..MOST).map(|number| pair(number, &mut challenger, &mut champion)).collect()
}

/// The ratio of one time of each. Each goes first as often as the other, since a machine may get slower and slower.
fn pair<E>(
    number: usize,
    challenger: &mut impl FnMut() -> Result<f64, E>,
    champion: &mut impl FnMut() -> Result<f64, E>,
) -> Result<f64, E> {
    if number.is_multiple_of(2) {
        let own = challenger()?;
        Ok(own / champion()?)
    } else {
        let others = champion()?;
        Ok(challenger()? / others)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// A clock that gives `mean` with noise of this part of it, always the same.
    fn clock(mean: f64, noise: f64, seed: u64) -> impl FnMut() -> Result<f64, Infallible> {
        let mut random = leankv_dsl::workload::Generator::new(seed);
        move || Ok(mean * (1.0 + f64::from(random.f32s(1, -1.0, 1.0)[0]) * noise))
    }

    #[test]
    fn an_interval_holds_the_middle_and_gets_narrower() {
        assert_eq!([3, 7, 11, 15, 25].map(outside), [0, 0, 1, 2, 6]);
        let ratio = Ratio::of(&[5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!(ratio, Ratio { median: 3.0, low: 1.0, high: 5.0 });
        assert_eq!(ratio.inverse(), Ratio { median: 1.0 / 3.0, low: 0.2, high: 1.0 });
    }

    #[test]
    fn a_plain_difference_ends_soon_and_a_small_one_is_seen_through_noise() {
        let pairs = race(clock(2.0, 0.02, 1), clock(1.0, 0.02, 2)).unwrap();
        let ratio = Ratio::of(&pairs);
        assert_eq!(pairs.len(), FEW);
        assert!(ratio.low > 1.9, "{ratio:?}");
        for seed in 0..20 {
            let ratio = Ratio::of(&race(clock(0.95, 0.03, seed), clock(1.0, 0.03, 100 + seed)).unwrap());
            assert!(ratio.high < 1.0, "{seed}: {ratio:?}");
        }
    }

    #[test]
    fn equals_are_level_and_noise_makes_no_winner() {
        let pairs = race(clock(1.0, 0.001, 1), clock(1.0, 0.001, 2)).unwrap();
        let ratio = Ratio::of(&pairs);
        assert!(pairs.len() <= ENOUGH && (ratio.median - 1.0).abs() < 0.01, "{ratio:?}");
        let wins = |seed| {
            let ratio = Ratio::of(&race(clock(1.0, 0.2, seed), clock(1.0, 0.2, 1000 + seed)).unwrap());
            usize::from(ratio.high < 1.0)
        };
        // A race looks at its interval many times, so it errs more often than an interval does.
        assert!((0..200).map(wins).sum::<usize>() <= 16);
    }
}
