//! Multiply-adds over operands in shared memory: what every GPU has, for all types.

use std::collections::HashMap;

use inkwell::IntPredicate;

use crate::codegen::nvptx::emit::{Emitted, Emitter};
use crate::codegen::nvptx::exchange::element_bytes;
use crate::codegen::nvptx::ir::Val;
use crate::codegen::nvptx::shape::register_index;
use crate::ir::{Dtype, Inst};
use crate::pass::layout_assign::DotSite;

use super::{DotCode, DotPlan, DotStrategy};

/// The strategy.
pub(in crate::codegen::nvptx) struct MultiplyAdds;

/// One dot: the type of its operands.
struct Loop(Dtype);

impl DotStrategy for MultiplyAdds {
    fn plan(&self, site: &DotSite<'_>) -> Option<DotPlan> {
        Some(DotPlan { layouts: None, code: Box::new(Loop(site.types()[0])) })
    }
}

impl DotCode for Loop {
    fn note(&self) -> String {
        format!("multiply-adds, since no tensor-core instruction of this target takes {}", self.0)
    }

    fn emit(&self, emitter: &mut Emitter<'_, '_>, inst: Inst) -> Emitted {
        emitter.multiply_adds(inst)
    }
}

impl<'c> Emitter<'c, '_> {
    /// Both operands in shared memory; a loop over k in which each thread reads its rows and columns.
    fn multiply_adds(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let (a, b, acc) = (data.operands[0], data.operands[1], data.operands[2]);
        let (types, sum_type) = ([self.dtype(a), self.dtype(b)], self.dtype(acc));
        let bytes = element_bytes(types[0]);
        let shape = |v| self.func.ty(v).shape().cloned().unwrap_or_default();
        let (a_shape, b_shape) = (shape(a), shape(b));
        let (k, n) = (a_shape[1], b_shape[1]);
        let a_bytes = a_shape.elements() as u32 * bytes;
        let base = self.scratch(a_bytes + b_shape.elements() as u32 * bytes)?;
        for (value, shape, start) in [(a, &a_shape, base), (b, &b_shape, base + a_bytes)] {
            let layout = self.layout(value);
            let at = self.row_major(layout, shape);
            let regs = self.registers(value);
            self.scatter_shared(start, layout, shape, self.dtype(value), &regs, &at);
        }
        self.barrier()?;

        let layout = self.layout(data.results[0]);
        let (rows, columns) = (self.coordinates(layout, 0), self.coordinates(layout, 1));
        // Registers share rows and columns: each is read once a step.
        let number = |axis: usize| {
            let mut seen: HashMap<u32, usize> = HashMap::new();
            let mut of = Vec::new();
            let mut first = Vec::new();
            for r in 0..layout.register_count() {
                let at = layout.coordinate(layout.at(r as u32, 0, 0), axis);
                let next = seen.len();
                let slot = *seen.entry(at).or_insert(next);
                if slot == next {
                    first.push(r);
                }
                of.push(slot);
            }
            (of, first)
        };
        let ((row_of, row_first), (column_of, column_first)) = (number(0), number(1));
        // Padding would read outside.
        let clamp = |at: Val<'c>, extent: u32| {
            let inside = self.ir.icmp(IntPredicate::ULT, at, self.ir.c32(extent));
            self.ir.select(inside, at, self.ir.c32(0))
        };
        let row_starts: Vec<Val<'c>> =
            row_first.iter().map(|&r| self.ir.mul(clamp(rows[r], a_shape[0]), self.ir.c32(k))).collect();
        let column_starts: Vec<Val<'c>> = column_first.iter().map(|&r| clamp(columns[r], n)).collect();

        let entry = self.ir.block();
        let [head, end] = ["dot", "dot.end"].map(|name| self.ir.cx.append_basic_block(self.function, name));
        self.ir.br(head);
        self.ir.b.position_at_end(head);
        let step = self.ir.phi(self.ir.i32().into());
        step.add_incoming(&[(&self.ir.c32(0), entry)]);
        let phis: Vec<_> = self
            .registers(acc)
            .iter()
            .map(|v| {
                let phi = self.ir.phi(v.get_type());
                phi.add_incoming(&[(v, entry)]);
                phi
            })
            .collect();
        let at = step.as_basic_value();
        let read = |start: u32, dtype: Dtype, at: Val<'c>| {
            self.cast_one(dtype, sum_type, self.read_shared(start, dtype, at))
        };
        let row_values: Vec<Val<'c>> =
            row_starts.iter().map(|&s| read(base, types[0], self.ir.add(s, at))).collect::<Emitted<_>>()?;
        let line = self.ir.mul(at, self.ir.c32(n));
        let column_values: Vec<Val<'c>> = column_starts
            .iter()
            .map(|&s| read(base + a_bytes, types[1], self.ir.add(line, s)))
            .collect::<Emitted<_>>()?;
        let mut sums = Vec::with_capacity(phis.len());
        for (r, phi) in phis.iter().enumerate() {
            let (x, y) = (row_values[row_of[r]], column_values[column_of[r]]);
            let before = phi.as_basic_value();
            sums.push(match sum_type.is_float() {
                true => self.fma(sum_type, x, y, before)?,
                false => self.ir.add(self.ir.mul(x, y), before),
            });
        }
        let next = self.ir.add(at, self.ir.c32(1));
        let more = self.ir.icmp(IntPredicate::ULT, next, self.ir.c32(k));
        let here = self.ir.block();
        step.add_incoming(&[(&next, here)]);
        for (phi, sum) in phis.iter().zip(&sums) {
            phi.add_incoming(&[(sum, here)]);
        }
        self.ir.cond_br(more, head, end);
        self.ir.b.position_at_end(end);
        debug_assert_eq!(register_index(layout).len(), sums.len());
        self.set_registers(data.results[0], sums);
        Ok(())
    }
}
