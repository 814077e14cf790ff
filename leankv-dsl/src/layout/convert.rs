//! What it takes to go from one layout to another.

use super::f2::{self, Span};
use super::linear::{LANE_BITS, LinearLayout};

/// How a conversion moves data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Route {
    /// Each thread already holds what it needs: registers are renamed (or chosen by lane number).
    Registers,
    /// Within each warp, by shuffles.
    Shuffle,
    /// Across warps, through shared memory.
    Shared,
}

/// Where the data for one input bit of the destination lies in the source layout.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Source {
    /// Source register bits.
    pub register: u32,
    /// Source lane bits.
    pub lane: u32,
}

/// The analysis of one conversion.
///
/// For [`Route::Registers`] and [`Route::Shuffle`], the destination's (register r, lane l, warp w) is found in the source
/// at the sum of the [`Source`]s of the bits set in r, l and w.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conversion {
    /// The cheapest way that works.
    pub route: Route,
    /// By destination register bit.
    pub registers: Vec<Source>,
    /// By destination lane bit.
    pub lanes: [Source; LANE_BITS],
    /// By destination warp bit.
    pub warps: Vec<Source>,
}

impl Conversion {
    /// Analyses the conversion of a tile from `from` to `to`.
    pub fn plan(from: &LinearLayout, to: &LinearLayout) -> Conversion {
        Conversion::try_within_warp(from, to).unwrap_or_else(|| Conversion {
            route: Route::Shared,
            registers: Vec::new(),
            lanes: [Source::default(); LANE_BITS],
            warps: Vec::new(),
        })
    }

    fn try_within_warp(from: &LinearLayout, to: &LinearLayout) -> Option<Conversion> {
        if from.warps().len() != to.warps().len() {
            return None;
        }
        let own = Span::of(from.registers().iter().copied());
        let warp = Span::of(from.registers().iter().chain(from.lanes()).copied());
        let count = from.registers().len();
        // The lane bits in `stay` are already right, so the registers alone should supply the rest.
        let find = |v: u32, held: u32, stay: u32| -> Option<Source> {
            if let Some(mask) = own.solve(v ^ held) {
                return Some(Source { register: mask as u32, lane: stay });
            }
            let from_all = |target: u32, lane: u32| {
                warp.solve(target).map(|mask| Source {
                    register: (mask & ((1 << count) - 1)) as u32,
                    lane: (mask >> count) as u32 ^ lane,
                })
            };
            if stay != 0 { from_all(v, 0) } else { from_all(v ^ held, 0) }
        };
        let registers: Option<Vec<Source>> = to.registers().iter().map(|&v| find(v, 0, 0)).collect();
        let mut lanes = [Source::default(); LANE_BITS];
        for (i, out) in lanes.iter_mut().enumerate() {
            *out = find(to.lanes()[i], from.lanes()[i], 1 << i)?;
        }
        let warps: Option<Vec<Source>> =
            to.warps().iter().zip(from.warps()).map(|(&v, &held)| find(v, held, 0)).collect();
        let (registers, warps) = (registers?, warps?);
        let in_thread = registers.iter().chain(&warps).all(|s| s.lane == 0)
            && lanes.iter().enumerate().all(|(i, s)| s.lane == 1 << i);
        let route = if in_thread { Route::Registers } else { Route::Shuffle };
        Some(Conversion { route, registers, lanes, warps })
    }

    /// The source register for destination register `r` in lane 0 of warp 0.
    pub fn register(&self, r: u32) -> u32 {
        let masks: Vec<u32> = self.registers.iter().map(|s| s.register).collect();
        f2::apply(&masks, r)
    }

    /// The source lane bits that destination register `r` adds.
    pub fn lane_of_register(&self, r: u32) -> u32 {
        let masks: Vec<u32> = self.registers.iter().map(|s| s.lane).collect();
        f2::apply(&masks, r)
    }

    /// A basis of the source registers that differ from lane to lane or warp to warp: with `n` vectors, each
    /// destination register is chosen among `2^n` candidates.
    pub fn choices(&self) -> Vec<u32> {
        f2::independent(self.lanes.iter().chain(&self.warps).map(|s| s.register))
    }

    /// Whether the source and the destination hold the same registers in the same order.
    pub fn is_identity(&self) -> bool {
        self.route == Route::Registers
            && self.choices().is_empty()
            && self.registers.iter().enumerate().all(|(i, s)| s.register == 1 << i)
    }

    /// The number of 32-bit shuffles each lane takes part in, when an element takes `words` of them.
    pub fn shuffles(&self, words: u32) -> u64 {
        match self.route {
            Route::Shuffle => u64::from(words) << (self.registers.len() + self.choices().len()),
            _ => 0,
        }
    }
}

/// A conversion that transposes 8 x 8 matrices of 16-bit elements, as `movmatrix` does: rows lie over lanes by eights, and each lane has two
/// columns, in two registers that are packed into one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transposition {
    /// The source register bit of the two columns that a lane has.
    pub columns: usize,
    /// The destination register bit of the two rows that a lane has afterwards.
    pub rows: usize,
    /// By destination register bit, the source register bits with the same elements; 0 for `rows`.
    pub registers: Vec<u32>,
}

impl Transposition {
    /// The transposition by which one gets from `from` to `to`; `None` if there is none.
    pub fn plan(from: &LinearLayout, to: &LinearLayout) -> Option<Transposition> {
        let (a, b) = (from.lanes(), to.lanes());
        let ([c1, c2, r0, r1, r2], [s1, s2, c0, d1, d2]) = (*a, *b);
        if [r1, r2, c1, c2] != [s1, s2, d1, d2] || from.warps() != to.warps() {
            return None;
        }
        let columns = from.registers().iter().position(|&v| v == c0)?;
        let rows = to.registers().iter().position(|&v| v == r0)?;
        let rest = Span::of(from.registers().iter().copied().filter(|&v| v != c0));
        let spread = |mask: u32| {
            // Numbers among the rest as numbers among all.
            let low = mask & ((1 << columns) - 1);
            low | (mask ^ low) << 1
        };
        let registers = to.registers().iter().map(|&v| match v == r0 {
            true => Some(0),
            false => rest.solve(v).map(|mask| spread(mask as u32)),
        });
        Some(Transposition { columns, rows, registers: registers.collect::<Option<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MmaMapping, MmaShape, blocked};
    use super::*;

    /// Follows the plan for every thread and compares tile indices.
    fn check(from: &LinearLayout, to: &LinearLayout) -> Route {
        let plan = Conversion::plan(from, to);
        if plan.route == Route::Shared {
            return plan.route;
        }
        let warps = 1u32 << to.warps().len();
        for r in 0..to.register_count() as u32 {
            for lane in 0..32u32 {
                for warp in 0..warps {
                    let mut at = Source { register: plan.register(r), lane: plan.lane_of_register(r) };
                    let mut add = |s: &Source| {
                        at.register ^= s.register;
                        at.lane ^= s.lane;
                    };
                    (0..5).filter(|i| lane >> i & 1 == 1).for_each(|i| add(&plan.lanes[i]));
                    (0..plan.warps.len()).filter(|i| warp >> i & 1 == 1).for_each(|i| add(&plan.warps[i]));
                    assert_eq!(from.at(at.register, at.lane, warp), to.at(r, lane, warp));
                }
            }
        }
        plan.route
    }

    #[test]
    fn an_accumulator_becomes_the_left_operand_of_the_next_dot_without_moving() {
        let first = MmaMapping::identity(MmaShape::M16N8K16, [6, 6, 6], [2, 0, 0]);
        let second = MmaMapping::identity(MmaShape::M16N8K16, [6, 7, 6], [2, 0, 0]);
        let route = check(&first.accumulator([6, 6]), &second.left([6, 6]));
        assert_eq!(route, Route::Registers);
    }

    #[test]
    fn warps_that_split_columns_must_share() {
        let first = MmaMapping::identity(MmaShape::M16N8K16, [4, 6, 6], [0, 2, 0]);
        let second = MmaMapping::identity(MmaShape::M16N8K16, [4, 7, 6], [0, 2, 0]);
        let route = check(&first.accumulator([4, 6]), &second.left([4, 6]));
        assert_eq!(route, Route::Shared);
    }

    #[test]
    fn weights_become_the_next_dots_operand_by_transposition() {
        let mut first = MmaMapping::identity(MmaShape::M16N8K16, [5, 3, 7], [0, 0, 0]);
        first.exchanged = true;
        let mut second = MmaMapping::identity(MmaShape::M16N8K16, [7, 3, 5], [0, 0, 0]);
        second.exchanged = true;
        let (from, to) = (first.accumulator([3, 5]), second.left([3, 5]));
        let plan = Transposition::plan(&from, &to).unwrap();
        for r in 0..to.register_count() as u32 {
            let rest = f2::apply(&plan.registers, r);
            for lane in 0..32 {
                // What `movmatrix` puts there: of the matrix of these registers, row 2 (lane % 4) + half and column lane / 4.
                let (row, column) = (lane % 4 * 2 + (r >> plan.rows & 1), lane / 4);
                let source = (rest | (column & 1) << plan.columns, row * 4 + column / 2);
                assert_eq!(to.at(r, lane, 0), from.at(source.0, source.1, 0));
            }
        }
        assert_eq!(Transposition::plan(&to, &to), None);
    }

    #[test]
    fn blocked_layouts_convert_inside_a_warp_by_shuffles() {
        let a = blocked(&[4, 4], &[0, 3], &[4, 1], &[0, 0], &[1, 0], 0);
        let b = blocked(&[4, 4], &[3, 0], &[1, 4], &[0, 0], &[0, 1], 0);
        assert_eq!(check(&a, &b), Route::Shuffle);
        assert_eq!(check(&a, &a), Route::Registers);
        assert!(Conversion::plan(&a, &a).is_identity());
    }

    #[test]
    fn a_copy_in_every_lane_is_chosen_from_without_a_shuffle() {
        let all = LinearLayout::replicated(&[5], 1);
        let one = blocked(&[5], &[0], &[5], &[0], &[0], 1);
        assert_eq!(check(&all, &one), Route::Registers);
        assert_eq!(check(&one, &all), Route::Shuffle);
    }

    /// Sums over the rows of a product lie twice in a thread and eight times in a warp: eight lanes then hold one each.
    #[test]
    fn copies_share_what_lies_next_to_each_other_without_a_shuffle() {
        let plan = MmaMapping::identity(MmaShape::M16N8K16, [4, 5, 6], [0, 2, 0]);
        let sums = plan.accumulator([4, 5]).slice(0);
        assert_eq!((sums.register_count(), sums.copies()), (2, 8));
        let shared = sums.shared_by_copies(0, 0);
        assert_eq!((shared.register_count(), shared.copies()), (1, 4));
        assert!(shared.is_surjective());
        assert_eq!(check(&sums, &shared), Route::Registers);
        // Pairs that one access takes stay pairs, and what no lane has twice stays where it is.
        assert_eq!(sums.shared_by_copies(0, 1), sums);
        let alone = blocked(&[6], &[1], &[5], &[0], &[0], 0);
        assert_eq!(alone.shared_by_copies(0, 0), alone);
    }
}
