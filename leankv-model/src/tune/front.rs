//! The exact Pareto front of a sum: one option for every layer, costs and losses that add up.

use std::collections::BTreeMap;

/// What a layer can have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerOption {
    /// What it costs, in whole units.
    pub cost: u64,
    /// What it loses; at least 0.
    pub loss: f64,
}

/// A choice for all layers that none beats in both cost and loss.
#[derive(Clone, Debug, PartialEq)]
pub struct FrontPoint {
    /// The sum of the costs.
    pub cost: u64,
    /// The sum of the losses.
    pub loss: f64,
    /// For each layer, the number of its option.
    pub picks: Vec<usize>,
}

/// One layer's step from a sum of the layers before: which sum, and which option.
#[derive(Clone, Copy)]
struct Step {
    loss: f64,
    before: u64,
    pick: usize,
}

/// The front, the cheapest point first: a dynamic program over layers, which keeps of all sums those that none beats. Of points of the same cost and loss
/// there is one.
///
/// Without a layer, or with one that has no option, it is empty.
#[must_use]
pub fn front(layers: &[Vec<LayerOption>]) -> Vec<FrontPoint> {
    let mut stages: Vec<BTreeMap<u64, Step>> = Vec::with_capacity(layers.len());
    for options in layers {
        let before: Vec<(u64, f64)> = match stages.last() {
            None => vec![(0, 0.0)],
            Some(stage) => stage.iter().map(|(&cost, step)| (cost, step.loss)).collect(),
        };
        let mut sums: BTreeMap<u64, Step> = BTreeMap::new();
        for (from, lost) in before {
            for (pick, option) in options.iter().enumerate() {
                let step = Step { loss: lost + option.loss, before: from, pick };
                let known = sums.entry(from + option.cost).or_insert(step);
                if step.loss < known.loss {
                    *known = step;
                }
            }
        }
        let mut least = f64::INFINITY;
        sums.retain(|_, step| {
            let better = step.loss < least;
            least = least.min(step.loss);
            better
        });
        stages.push(sums);
    }
    let Some(last) = stages.last() else { return Vec::new() };
    let trace = |(&cost, step): (&u64, &Step)| {
        let mut picks = vec![0; stages.len()];
        let mut at = cost;
        for (layer, stage) in stages.iter().enumerate().rev() {
            let Step { before, pick, .. } = stage[&at];
            picks[layer] = pick;
            at = before;
        }
        FrontPoint { cost, loss: step.loss, picks }
    };
    last.iter().map(trace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(layers: &[Vec<LayerOption>], picks: &[usize]) -> (u64, f64) {
        let chosen = layers.iter().zip(picks).map(|(options, &pick)| options[pick]);
        chosen.fold((0, 0.0), |(cost, loss), option| (cost + option.cost, loss + option.loss))
    }

    /// Every way to choose.
    fn all(layers: &[Vec<LayerOption>]) -> Vec<Vec<usize>> {
        layers.iter().fold(vec![Vec::new()], |ways, options| {
            let with = |way: &Vec<usize>| {
                let way = way.clone();
                (0..options.len()).map(move |pick| [&way[..], &[pick]].concat())
            };
            ways.iter().flat_map(with).collect()
        })
    }

    proptest! {
        /// Four layers of four options, as many as can all be tried.
        #[test]
        fn it_is_the_true_front(numbers in prop::collection::vec((0u64..12, 0u32..50), 16)) {
            let option = |&(cost, loss): &(u64, u32)| LayerOption { cost, loss: f64::from(loss) };
            let layers: Vec<Vec<LayerOption>> =
                numbers.chunks(4).map(|four| four.iter().map(option).collect()).collect();
            let sums: Vec<(u64, f64)> = all(&layers).iter().map(|picks| sum(&layers, picks)).collect();
            let mut best: Vec<(u64, f64)> = sums
                .iter()
                .copied()
                .filter(|&(cost, loss)| !sums.iter().any(|&(c, l)| (c <= cost && l < loss) || (c < cost && l <= loss)))
                .collect();
            best.sort_by_key(|&(cost, _)| cost);
            best.dedup();
            let found = front(&layers);
            let points: Vec<(u64, f64)> = found.iter().map(|point| (point.cost, point.loss)).collect();
            prop_assert_eq!(&points, &best);
            for point in &found {
                prop_assert_eq!(sum(&layers, &point.picks), (point.cost, point.loss));
            }
        }
    }

    #[test]
    fn nothing_to_choose_gives_nothing() {
        assert_eq!(front(&[]), []);
        assert_eq!(front(&[vec![LayerOption { cost: 1, loss: 0.0 }], Vec::new()]), []);
    }
}
