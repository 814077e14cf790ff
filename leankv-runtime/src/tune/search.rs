//! In which order the points of a space are measured.

use std::collections::HashSet;

/// A point: the place of a value on each axis.
pub(super) type Point = Vec<usize>;

/// How a point did beside the best one so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the best one now.
    Better,
    /// No difference that could be told.
    Level,
    /// Worse.
    Worse,
    /// It is no specialisation, or not a right one. It counts as no measurement.
    Impossible,
}

/// Walks over a space whose axes have so many values, from `start`: along one axis after the other, in both directions, on as long as it does not get worse, and again
/// until a round finds nothing better. A walk that went anywhere began at a poor place, and may have ended on a ridge: it tries steps along two axes at once too. With
/// `every`, what the walk left out follows. `judge` is asked about each point once, and may end the walk with an error.
pub(super) fn walk<E>(
    sizes: &[usize],
    start: &[usize],
    (most, every): (usize, bool),
    judge: impl FnMut(&[usize]) -> Result<Verdict, E>,
) -> Result<Point, E> {
    let seen = HashSet::from([start.to_vec()]);
    let mut walk = Walk { sizes, best: start.to_vec(), seen, left: most.saturating_sub(1), judge };
    while walk.along_axes()? || (walk.best != start && walk.across()?) {}
    if every {
        for number in 0..sizes.iter().product() {
            walk.look(point(sizes, number))?;
        }
    }
    Ok(walk.best)
}

struct Walk<'a, F> {
    sizes: &'a [usize],
    best: Point,
    seen: HashSet<Point>,
    /// Measurements that may follow.
    left: usize,
    judge: F,
}

impl<E, F: FnMut(&[usize]) -> Result<Verdict, E>> Walk<'_, F> {
    /// How a point does that was not seen before, if there may be another measurement.
    fn look(&mut self, point: Point) -> Result<Option<Verdict>, E> {
        if self.left == 0 || !self.seen.insert(point.clone()) {
            return Ok(None);
        }
        let verdict = (self.judge)(&point)?;
        if verdict != Verdict::Impossible {
            self.left -= 1;
        }
        if verdict == Verdict::Better {
            self.best = point;
        }
        Ok(Some(verdict))
    }

    /// The neighbour of a point along an axis.
    fn step(&self, from: &[usize], axis: usize, forward: bool) -> Option<Point> {
        let mut to = from.to_vec();
        to[axis] = if forward { from[axis] + 1 } else { from[axis].checked_sub(1)? };
        (to[axis] < self.sizes[axis]).then_some(to)
    }

    /// One round; whether it found anything better.
    fn along_axes(&mut self) -> Result<bool, E> {
        let before = self.best.clone();
        for axis in 0..self.sizes.len() {
            for forward in [true, false] {
                let (mut at, from) = (self.best.clone(), self.best[axis]);
                while let Some(next) = self.step(&at, axis, forward) {
                    if self.look(next.clone())? == Some(Verdict::Worse) {
                        break;
                    }
                    at = next;
                }
                // What lies behind is where it came from.
                if self.best[axis] != from {
                    break;
                }
            }
        }
        Ok(self.best != before)
    }

    /// Steps along two axes at once, until one is better; whether one was.
    fn across(&mut self) -> Result<bool, E> {
        let from = self.best.clone();
        for (first, second) in (0..self.sizes.len()).flat_map(|a| (0..a).map(move |b| (b, a))) {
            for directions in [[true, true], [true, false], [false, true], [false, false]] {
                let half = self.step(&from, first, directions[0]);
                let Some(to) = half.and_then(|half| self.step(&half, second, directions[1])) else {
                    continue;
                };
                if self.look(to)? == Some(Verdict::Better) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// The point of this number, the last axis fastest.
fn point(sizes: &[usize], mut number: usize) -> Point {
    let mut point = vec![0; sizes.len()];
    for (place, &size) in point.iter_mut().zip(sizes).rev() {
        *place = number % size;
        number /= size;
    }
    point
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Walks with the cost of each point, infinite for one that is impossible; the best point, and how often it asked.
    fn walked(
        sizes: &[usize],
        start: &[usize],
        rule: (usize, bool),
        cost: impl Fn(&[usize]) -> f64,
    ) -> (Point, usize) {
        let (mut least, mut asked) = (cost(start), 0);
        let best = walk(sizes, start, rule, |point| {
            asked += 1;
            let cost = cost(point);
            Ok::<_, Infallible>(match () {
                () if cost.is_infinite() => Verdict::Impossible,
                () if cost < least => {
                    least = cost;
                    Verdict::Better
                }
                () if cost == least => Verdict::Level,
                () => Verdict::Worse,
            })
        });
        (best.unwrap(), asked)
    }

    #[test]
    fn a_valley_is_found_with_a_fraction_of_its_points() {
        let cost =
            |p: &[usize]| (p[0] as f64 - 4.0).powi(2) + (p[1] as f64 - 1.0).powi(2) + 0.1 * p[2] as f64;
        let (best, asked) = walked(&[6, 5, 4], &[1, 3, 2], (usize::MAX, false), cost);
        assert_eq!(best, [4, 1, 0]);
        assert!(asked < 6 * 5 * 4 / 4, "{asked}");
    }

    #[test]
    fn a_ridge_that_lies_across_the_axes_is_followed() {
        // Along either axis it gets worse at once, but for the first step.
        let cost = |p: &[usize]| 10.0 * p[0].abs_diff(p[1]) as f64 - (p[0] + p[1]) as f64;
        assert_eq!(walked(&[8, 8], &[0, 1], (usize::MAX, false), cost).0, [7, 7]);
    }

    #[test]
    fn it_passes_over_what_is_level_or_impossible_and_is_asked_once_a_point() {
        // Level, impossible, and then better.
        let cost = |p: &[usize]| [2.0, 2.0, f64::INFINITY, 1.0, 3.0][p[0]];
        let (best, asked) = walked(&[5], &[0], (usize::MAX, false), cost);
        assert_eq!((best, asked), (vec![3], 4));
    }

    #[test]
    fn measurements_are_counted_and_impossible_points_are_none() {
        let (best, asked) = walked(&[9], &[0], (3, false), |p| 9.0 - p[0] as f64);
        assert_eq!((best, asked), (vec![2], 2));
        let (best, asked) =
            walked(&[9], &[0], (3, false), |p| if p[0] == 1 { f64::INFINITY } else { 9.0 - p[0] as f64 });
        assert_eq!((best, asked), (vec![3], 3));
    }

    #[test]
    fn every_point_is_asked_about_where_that_is_wanted() {
        // A second valley, which a walk does not see.
        let cost = |p: &[usize]| if p == [3, 3] { 0.0 } else { 1.0 + (p[0] + p[1]) as f64 };
        assert_eq!(walked(&[4, 4], &[0, 0], (usize::MAX, false), cost).0, [0, 0]);
        assert_eq!(walked(&[4, 4], &[0, 0], (usize::MAX, true), cost), (vec![3, 3], 15));
    }
}
