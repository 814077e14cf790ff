//! Where a thread stands in a tile: coordinates, padding, copies.

use crate::ir::Shape;
use crate::layout::LinearLayout;

use super::emit::Emitter;
use super::ir::Val;
use inkwell::IntPredicate;

/// A condition that may be known at compile time.
#[derive(Clone, Copy)]
pub(super) enum Cond<'c> {
    Always,
    Never,
    If(Val<'c>),
}

impl<'c> Emitter<'c, '_> {
    /// The image of `input` under the linear map `bases` (one per input bit), and the bits it may set.
    fn linear(&self, input: Val<'c>, bases: &[u32]) -> (Option<Val<'c>>, u32) {
        let ir = &self.ir;
        let (mut sum, mut seen): (Option<Val<'c>>, u32) = (None, 0);
        let mut i = 0;
        while i < bases.len() {
            let base = bases[i];
            if base == 0 {
                i += 1;
                continue;
            }
            let mut run = 1;
            while base.is_power_of_two() && i + run < bases.len() && bases[i + run] == base << run {
                run += 1;
            }
            let mask = (1u32 << run) - 1;
            let bits = ir.and(ir.lshr(input, i as u32), ir.c32(mask));
            let part = if base.is_power_of_two() {
                ir.shl(bits, ir.c32(base.trailing_zeros()))
            } else {
                ir.mul(bits, ir.c32(base))
            };
            let sets = if base.is_power_of_two() { mask << base.trailing_zeros() } else { base };
            sum = Some(match sum {
                None => part,
                Some(old) if seen & sets == 0 => ir.add_nuw(old, part),
                Some(old) => ir.xor(old, part),
            });
            seen |= sets;
            i += run;
        }
        (sum, seen)
    }

    /// The part of an index that depends on lane and warp, for a map given by the images of the layout's lane and warp bits; and the
    /// bits it may set.
    pub(super) fn thread_part(&self, lanes: &[u32], warps: &[u32]) -> (Option<Val<'c>>, u32) {
        let (lane, lane_bits) = self.linear(self.lane, lanes);
        let (warp, warp_bits) = self.linear(self.warp, warps);
        let sum = match (lane, warp) {
            (Some(a), Some(b)) if lane_bits & warp_bits == 0 => Some(self.ir.add_nuw(a, b)),
            (Some(a), Some(b)) => Some(self.ir.xor(a, b)),
            (a, b) => a.or(b),
        };
        (sum, lane_bits | warp_bits)
    }

    /// The sum over F2 of a thread's part and a constant.
    pub(super) fn join_part(&self, thread: (Option<Val<'c>>, u32), constant: u32) -> Val<'c> {
        match thread {
            (None, _) => self.ir.c32(constant),
            (Some(part), _) if constant == 0 => part,
            (Some(part), bits) if bits & constant == 0 => self.ir.add_nuw(part, self.ir.c32(constant)),
            (Some(part), _) => self.ir.xor(part, self.ir.c32(constant)),
        }
    }

    /// Values of an index in every register, for any linear function of the tile's flat index.
    pub(super) fn index_by(&self, layout: &LinearLayout, image: impl Fn(u32) -> u32) -> Vec<Val<'c>> {
        let lanes: Vec<u32> = layout.lanes().iter().map(|&v| image(v)).collect();
        let warps: Vec<u32> = layout.warps().iter().map(|&v| image(v)).collect();
        let thread = self.thread_part(&lanes, &warps);
        (0..layout.register_count() as u32)
            .map(|r| self.join_part(thread, image(layout.at(r, 0, 0))))
            .collect()
    }

    /// As [`index_by`](Emitter::index_by), as sums of a number that few registers differ in and a constant.
    pub(super) fn sums_by(&self, layout: &LinearLayout, image: impl Fn(u32) -> u32) -> Vec<(Val<'c>, u32)> {
        let lanes: Vec<u32> = layout.lanes().iter().map(|&v| image(v)).collect();
        let warps: Vec<u32> = layout.warps().iter().map(|&v| image(v)).collect();
        let thread = self.thread_part(&lanes, &warps);
        let sum = |constant: u32| (self.join_part(thread, constant & thread.1), constant & !thread.1);
        (0..layout.register_count() as u32).map(|r| sum(image(layout.at(r, 0, 0)))).collect()
    }

    /// The coordinate along `axis` of every register, as `i32`.
    pub(super) fn coordinates(&self, layout: &LinearLayout, axis: usize) -> Vec<Val<'c>> {
        self.index_by(layout, |flat| layout.coordinate(flat, axis))
    }

    /// Per register, whether its coordinate along `axis` is below `extent`.
    pub(super) fn below(&self, layout: &LinearLayout, axis: usize, extent: u32) -> Vec<Cond<'c>> {
        let image = |flat: u32| layout.coordinate(flat, axis);
        let lanes: Vec<u32> = layout.lanes().iter().map(|&v| image(v)).collect();
        let warps: Vec<u32> = layout.warps().iter().map(|&v| image(v)).collect();
        let thread = self.thread_part(&lanes, &warps);
        (0..layout.register_count() as u32)
            .map(|r| {
                let constant = image(layout.at(r, 0, 0));
                let (least, most) = (constant & !thread.1, constant | thread.1);
                if most < extent {
                    Cond::Always
                } else if least >= extent {
                    Cond::Never
                } else {
                    let at = self.join_part(thread, constant);
                    Cond::If(self.ir.icmp(IntPredicate::ULT, at, self.ir.c32(extent)))
                }
            })
            .collect()
    }

    /// Per register, whether it holds an element and not padding.
    pub(super) fn in_tile(&self, layout: &LinearLayout, shape: &Shape) -> Vec<Cond<'c>> {
        let mut out = vec![Cond::Always; layout.register_count()];
        for axis in (0..shape.rank()).filter(|&axis| !shape[axis].is_power_of_two()) {
            for (cond, more) in out.iter_mut().zip(self.below(layout, axis, shape[axis])) {
                *cond = self.both(*cond, more);
            }
        }
        out
    }

    /// Whether this thread is the one among those with copies that acts.
    pub(super) fn owner(&self, free_lanes: u32, free_warps: u32) -> Cond<'c> {
        let none_set = |value: Val<'c>, mask: u32, all: u32| {
            if mask == 0 {
                Cond::Always
            } else if mask == all {
                Cond::If(self.ir.icmp(IntPredicate::EQ, value, self.ir.c32(0)))
            } else {
                let set = self.ir.and(value, self.ir.c32(mask));
                Cond::If(self.ir.icmp(IntPredicate::EQ, set, self.ir.c32(0)))
            }
        };
        self.both(
            none_set(self.lane, free_lanes, 31),
            none_set(self.warp, free_warps, self.func.num_warps - 1),
        )
    }

    /// Both conditions.
    pub(super) fn both(&self, a: Cond<'c>, b: Cond<'c>) -> Cond<'c> {
        match (a, b) {
            (Cond::Never, _) | (_, Cond::Never) => Cond::Never,
            (Cond::Always, other) | (other, Cond::Always) => other,
            (Cond::If(x), Cond::If(y)) => Cond::If(self.ir.and(x, y)),
        }
    }

    /// `value` where the condition holds, else `other`.
    pub(super) fn choose(&self, cond: Cond<'c>, value: Val<'c>, other: Val<'c>) -> Val<'c> {
        match cond {
            Cond::Always => value,
            Cond::Never => other,
            Cond::If(c) => self.ir.select(c, value, other),
        }
    }

    /// The bit that lane and warp add to bit `bit` of an image, if any: for choosing between registers.
    pub(super) fn thread_bit(&self, layout: &LinearLayout, bit: impl Fn(u32) -> bool) -> Option<Val<'c>> {
        let image = |v: &u32| u32::from(bit(*v));
        let lanes: Vec<u32> = layout.lanes().iter().map(image).collect();
        let warps: Vec<u32> = layout.warps().iter().map(image).collect();
        let (part, _) = self.thread_part(&lanes, &warps);
        part.map(|p| self.ir.icmp(IntPredicate::NE, p, self.ir.c32(0)))
    }
}
