//! Reductions and scans: registers, then lanes by shuffles, then warps through shared memory, in a fixed order.

use inkwell::IntPredicate;

use crate::ir::{Block, Combine, CombineKind, Dtype, Inst, Op};
use crate::layout::LinearLayout;

use super::emit::{Emitted, Emitter, Repr};
use super::ir::Val;
use super::place::Cond;
use super::shape::register_index;

/// One element of each operand, and whether it counts; padding does not.
#[derive(Clone)]
struct Item<'c> {
    values: Vec<Val<'c>>,
    valid: Cond<'c>,
}

/// What a reduction combines with.
struct Combiner {
    combine: Combine,
    region: Option<Block>,
    dtypes: Vec<Dtype>,
}

impl<'c> Emitter<'c, '_> {
    fn combiner(&self, inst: Inst, combine: Combine) -> Combiner {
        let data = self.func.inst(inst);
        Combiner {
            combine,
            region: data.regions.first().copied(),
            dtypes: data.operands.iter().map(|&v| self.dtype(v)).collect(),
        }
    }

    /// `a` (of lower index) combined with `b`, where both count; else the one that does.
    fn merge(&mut self, with: &Combiner, a: &Item<'c>, b: &Item<'c>) -> Emitted<Item<'c>> {
        match (a.valid, b.valid) {
            (Cond::Never, _) => return Ok(b.clone()),
            (_, Cond::Never) => return Ok(a.clone()),
            _ => {}
        }
        let both = match with.combine {
            Combine::Kind(kind) => vec![self.combine(kind, with.dtypes[0], a.values[0], b.values[0])?],
            Combine::Region => {
                let region = with.region.expect("a reduction by region has one");
                let params = self.func.block(region).params.clone();
                for (&param, &value) in params.iter().zip(a.values.iter().chain(&b.values)) {
                    self.set(param, Repr::Scalar(value));
                }
                self.block(region)?;
                let end = self.func.terminator(region).expect("the verifier checked that blocks end");
                let yields = self.func.inst(end).operands.clone();
                yields.iter().map(|&v| self.scalar(v)).collect()
            }
        };
        let mut values = both;
        if let Cond::If(valid) = b.valid {
            values = values.iter().zip(&a.values).map(|(&v, &a)| self.ir.select(valid, v, a)).collect();
        }
        if let Cond::If(valid) = a.valid {
            values = values.iter().zip(&b.values).map(|(&v, &b)| self.ir.select(valid, v, b)).collect();
        }
        let valid = match (a.valid, b.valid) {
            (Cond::If(x), Cond::If(y)) => Cond::If(self.ir.or(x, y)),
            _ => Cond::Always,
        };
        Ok(Item { values, valid })
    }

    /// The operands' elements by register; padding along `axis` holds the identity where there is one.
    fn items(&self, inst: Inst, with: &Combiner, layout: &LinearLayout, axis: usize) -> Vec<Item<'c>> {
        let data = self.func.inst(inst);
        let operands: Vec<_> = data.operands.iter().map(|&v| self.registers(v)).collect();
        let extent = self.func.ty(data.operands[0]).shape().expect("a reduction takes tiles")[axis];
        let inside = if extent.is_power_of_two() {
            vec![Cond::Always; layout.register_count()]
        } else {
            self.below(layout, axis, extent)
        };
        (0..layout.register_count())
            .map(|r| {
                let mut values: Vec<Val<'c>> = operands.iter().map(|regs| regs[r]).collect();
                let mut valid = inside[r];
                if let (Combine::Kind(kind), Cond::If(_)) = (with.combine, valid) {
                    let identity = self.constant(kind.identity(with.dtypes[0]), with.dtypes[0]);
                    values[0] = self.choose(valid, values[0], identity);
                    valid = Cond::Always;
                }
                Item { values, valid }
            })
            .collect()
    }

    /// The same element of another lane.
    fn exchange(&self, with: &Combiner, item: &Item<'c>, mode: &str, by: Val<'c>) -> Emitted<Item<'c>> {
        let values: Emitted<Vec<Val<'c>>> = item
            .values
            .iter()
            .zip(&with.dtypes)
            .map(|(&v, &dtype)| self.shuffle(dtype, v, mode, by))
            .collect();
        let valid = match item.valid {
            Cond::If(c) => Cond::If(self.shuffle(Dtype::I1, c, mode, by)?),
            other => other,
        };
        Ok(Item { values: values?, valid })
    }

    pub(super) fn reduce(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let Op::Reduce { axis, combine } = data.op else {
            unreachable!("internal error: this is a reduction")
        };
        let axis = usize::from(axis);
        let layout = self.plan.operand_layouts[&inst].clone();
        let with = self.combiner(inst, combine);
        let items = self.items(inst, &with, &layout, axis);
        let result_layout = layout.slice(axis);
        let index = register_index(&result_layout);
        let (low, width) = (layout.shift(axis), layout.dims()[axis]);

        // Registers: elements of one result in order of their coordinate, as a balanced tree.
        let mut groups: Vec<Vec<(u32, Item<'c>)>> = vec![Vec::new(); result_layout.register_count()];
        for (r, item) in items.into_iter().enumerate() {
            let flat = layout.at(r as u32, 0, 0);
            let slot = index[&crate::layout::drop_bits(flat, low, width)];
            groups[slot].push((layout.coordinate(flat, axis), item));
        }
        let mut partial = Vec::with_capacity(groups.len());
        for mut group in groups {
            group.sort_by_key(|(at, _)| *at);
            let mut level: Vec<Item<'c>> = group.into_iter().map(|(_, item)| item).collect();
            while level.len() > 1 {
                let mut next = Vec::with_capacity(level.len().div_ceil(2));
                for pair in level.chunks(2) {
                    next.push(match pair {
                        [a, b] => self.merge(&with, a, b)?,
                        other => other[0].clone(),
                    });
                }
                level = next;
            }
            partial.push(level.swap_remove(0));
        }

        let along = |v: u32| layout.coordinate(v, axis);
        let mut warps: Vec<(u32, u32)> = (0..layout.warps().len() as u32)
            .map(|i| (along(layout.warps()[i as usize]), i))
            .filter(|(c, _)| *c != 0)
            .collect();
        warps.sort_unstable();

        // A truth value of the whole warp is one vote, of the whole block one barrier.
        let mut voted = false;
        if let (Combine::Kind(kind @ (CombineKind::Or | CombineKind::And)), Dtype::I1, 0, [one]) =
            (combine, with.dtypes[0], result_layout.bits(), &partial[..])
        {
            let (lanes, block) = if kind == CombineKind::Or { ("any", "or") } else { ("all", "and") };
            let identity = self.ir.bool(kind == CombineKind::And);
            let own = self.choose(one.valid, one.values[0], identity);
            let vote =
                |name: String, with: u32, own: Val<'c>| self.ir.call(&name, &[], &[self.ir.c32(with), own]);
            let mut all = own;
            if !std::mem::take(&mut warps).is_empty() {
                all = vote(format!("llvm.nvvm.barrier.cta.red.{block}.aligned.all"), 0, all)?;
            }
            // Also of what the block found, so that the assembler knows that a warp's lanes agree.
            let vote = vote(format!("llvm.nvvm.vote.{lanes}.sync"), u32::MAX, all)?;
            partial = vec![Item { values: vec![vote], valid: Cond::Always }];
            voted = true;
        }

        // Lanes, the lowest bit of the coordinate first.
        let mut lanes: Vec<(u32, u32)> =
            (0..5u32).map(|i| (along(layout.lanes()[i as usize]), i)).filter(|(c, _)| *c != 0).collect();
        lanes.sort_unstable();
        lanes.truncate(if voted { 0 } else { lanes.len() });
        for (_, lane) in lanes {
            let by = self.ir.c32(1 << lane);
            for item in &mut partial {
                let other = self.exchange(&with, item, "bfly", by)?;
                *item = match combine {
                    // Both lanes get the same bits, since these commute.
                    Combine::Kind(_) => self.merge(&with, item, &other)?,
                    Combine::Region => {
                        let bit = self.ir.and(self.lane, by);
                        let upper = self.ir.icmp(IntPredicate::NE, bit, self.ir.c32(0));
                        let (a, b) = (self.pick(upper, &other, item), self.pick(upper, item, &other));
                        self.merge(&with, &a, &b)?
                    }
                };
            }
        }

        // Warps.
        if !warps.is_empty() {
            partial = self.reduce_warps(&with, &layout, &result_layout, axis, &warps, partial)?;
        }
        for (i, &result) in data.results.iter().enumerate() {
            let regs: Vec<Val<'c>> = partial.iter().map(|item| item.values[i]).collect();
            self.set_registers(result, regs);
        }
        Ok(())
    }

    fn pick(&self, cond: Val<'c>, a: &Item<'c>, b: &Item<'c>) -> Item<'c> {
        let values = a.values.iter().zip(&b.values).map(|(&x, &y)| self.ir.select(cond, x, y)).collect();
        let valid = match (a.valid, b.valid) {
            (Cond::Always, Cond::Always) => Cond::Always,
            _ => {
                let as_value = |c: Cond<'c>| self.choose(c, self.ir.bool(true), self.ir.bool(false));
                Cond::If(self.ir.select(cond, as_value(a.valid), as_value(b.valid)))
            }
        };
        Item { values, valid }
    }

    /// Each warp leaves its part in shared memory; then every thread combines the parts in order.
    fn reduce_warps(
        &mut self,
        with: &Combiner,
        layout: &LinearLayout,
        result: &LinearLayout,
        axis: usize,
        warps: &[(u32, u32)],
        partial: Vec<Item<'c>>,
    ) -> Emitted<Vec<Item<'c>>> {
        let parts = 1u32 << warps.len();
        let elements = 1u32 << result.bits();
        // Values, and a byte for whether they count.
        let counted = partial.iter().any(|item| !matches!(item.valid, Cond::Always));
        let mut dtypes = with.dtypes.clone();
        if counted {
            dtypes.push(Dtype::I1);
        }
        let mut starts = Vec::new();
        let mut bytes = 0;
        for &dtype in &dtypes {
            let size = super::exchange::element_bytes(dtype);
            bytes = u32::next_multiple_of(bytes, size);
            starts.push(bytes);
            bytes += size * elements * parts;
        }
        let base = self.scratch(bytes)?;

        // Which part this warp has: its bits along the axis, the lowest coordinate first.
        let mut part_bits = vec![0u32; layout.warps().len()];
        for (i, &(_, warp)) in warps.iter().enumerate() {
            part_bits[warp as usize] = 1 << i;
        }
        let (part, _) = self.thread_part(&[0; 5], &part_bits);
        let part = part.unwrap_or(self.ir.c32(0));
        let along_warps = warps.iter().fold(0, |mask, (_, warp)| mask | 1 << warp);
        let owner = self.owner(result.free_lanes(), result.free_warps() & !along_warps);
        let at = self.index_by(result, |flat| flat);
        debug_assert!(axis < layout.rank());
        for (item, &at) in partial.iter().zip(&at) {
            let slot = self.ir.add(self.ir.mul(part, self.ir.c32(elements)), at);
            let valid = self.choose(item.valid, self.ir.bool(true), self.ir.bool(false));
            let values = item.values.iter().copied().chain(counted.then_some(valid));
            for ((value, &dtype), &start) in values.zip(&dtypes).zip(&starts) {
                self.write_shared(base + start, dtype, slot, value, owner);
            }
        }
        self.barrier()?;
        let mut out = Vec::with_capacity(partial.len());
        for &at in &at {
            let mut total: Option<Item<'c>> = None;
            for p in 0..parts {
                let slot = self.ir.add(at, self.ir.c32(p * elements));
                let mut values: Vec<Val<'c>> = dtypes
                    .iter()
                    .zip(&starts)
                    .map(|(&dtype, &start)| self.read_shared(base + start, dtype, slot))
                    .collect();
                let valid =
                    if counted { Cond::If(values.pop().expect("it was written")) } else { Cond::Always };
                let item = Item { values, valid };
                total = Some(match total {
                    None => item,
                    Some(sum) => self.merge(with, &sum, &item)?,
                });
            }
            out.push(total.expect("there is at least one part"));
        }
        Ok(out)
    }

    /// Each thread owns a run of elements next to each other along the axis and each warp all runs of a row (see
    /// `scan_layout`): runs are scanned in registers, their totals over lanes, and the sum before each run is put in front.
    pub(super) fn scan(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let Op::Scan { axis, reverse, combine } = data.op else {
            unreachable!("internal error: this is a scan")
        };
        let axis = usize::from(axis);
        let layout = self.plan.operand_layouts[&inst].clone();
        let with = self.combiner(inst, combine);
        let items = self.items(inst, &with, &layout, axis);
        let (low, width) = (layout.shift(axis), layout.dims()[axis]);

        // Runs by what the element's other coordinates are.
        let mut rows: std::collections::BTreeMap<u32, Vec<(u32, usize)>> = std::collections::BTreeMap::new();
        for r in 0..layout.register_count() {
            let flat = layout.at(r as u32, 0, 0);
            let row = crate::layout::drop_bits(flat, low, width);
            rows.entry(row).or_default().push((layout.coordinate(flat, axis), r));
        }
        let mut lanes: Vec<(u32, u32)> = (0..5u32)
            .map(|i| (layout.coordinate(layout.lanes()[i as usize], axis), i))
            .filter(|(c, _)| *c != 0)
            .collect();
        lanes.sort_unstable();
        let mut out: Vec<Option<Item<'c>>> = vec![None; layout.register_count()];
        for (_, mut run) in rows {
            run.sort_unstable();
            if reverse {
                run.reverse();
            }
            let mut total: Option<Item<'c>> = None;
            let mut scanned = Vec::new();
            for &(_, r) in &run {
                let next = match &total {
                    None => items[r].clone(),
                    Some(sum) => self.in_order(&with, reverse, sum, &items[r])?,
                };
                scanned.push(next.clone());
                total = Some(next);
            }
            let mut total = total.expect("a row has elements");
            // Sums over ever longer stretches of lanes; `before` is what lies before this lane's own run.
            let mut before = Item { values: total.values.clone(), valid: Cond::Never };
            for &(_, lane) in &lanes {
                let by = self.ir.c32(1 << lane);
                let other = self.exchange(&with, &total, "bfly", by)?;
                let set = self.ir.icmp(IntPredicate::NE, self.ir.and(self.lane, by), self.ir.c32(0));
                let later = if reverse { self.ir.not(set) } else { set };
                // A later lane has the other's whole stretch before it.
                let with_other = self.in_order(&with, reverse, &other, &before)?;
                before = self.pick(later, &with_other, &before);
                let (first, second) = (self.pick(later, &other, &total), self.pick(later, &total, &other));
                total = self.in_order(&with, reverse, &first, &second)?;
            }
            for (&(_, r), item) in run.iter().zip(scanned) {
                out[r] = Some(self.in_order(&with, reverse, &before, &item)?);
            }
        }
        for (i, &result) in data.results.iter().enumerate() {
            let regs = out.iter().flatten().map(|item| item.values[i]).collect();
            self.set_registers(result, regs);
        }
        Ok(())
    }

    /// Combines in scan order: for a reverse scan the first seen has the higher index.
    fn in_order(
        &mut self,
        with: &Combiner,
        reverse: bool,
        first: &Item<'c>,
        second: &Item<'c>,
    ) -> Emitted<Item<'c>> {
        if reverse { self.merge(with, second, first) } else { self.merge(with, first, second) }
    }
}
