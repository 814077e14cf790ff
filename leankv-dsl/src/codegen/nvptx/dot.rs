//! Matrix products: `mma.sync` on fragments in registers, and multiply-adds where there is no tensor-core form.

use std::collections::HashMap;

use inkwell::IntPredicate;
use inkwell::types::BasicTypeEnum;

use crate::ir::{Dtype, Inst};
use crate::layout::{LinearLayout, Operand};
use crate::pass::layout_assign::DotPath;

use super::emit::{Emitted, Emitter};
use super::ir::Val;
use super::place::Cond;
use super::shape::register_index;

/// Position bits of one operand or the accumulator, in the order of the fragment's registers.
struct Fragment {
    /// Register bit for each position bit; `None` where the tile is smaller than the fragment.
    bits: HashMap<u32, usize>,
}

impl Fragment {
    fn new(layout: &LinearLayout) -> Fragment {
        let bits = layout.registers().iter().enumerate().map(|(i, &v)| (v, i)).collect();
        Fragment { bits }
    }

    /// The register at these positions: pairs of (set, basis vector). `None` beyond the tile.
    fn register(&self, positions: &[(bool, u32)]) -> Option<usize> {
        let mut register = 0;
        for &(set, basis) in positions {
            if set {
                register |= 1 << self.bits.get(&basis)?;
            }
        }
        Some(register)
    }
}

/// Bit `i` of `number`.
fn bit(number: usize, i: usize) -> bool {
    number >> i & 1 == 1
}

impl<'c> Emitter<'c, '_> {
    pub(super) fn dot(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let (a, b) = (self.dtype(data.operands[0]), self.dtype(data.operands[1]));
        let shape = |i: usize| self.func.ty(data.operands[i]).shape().cloned().unwrap_or_default();
        let (m, k, n) = (shape(0)[0], shape(0)[1], shape(1)[1]);
        match &self.plan.dots[&inst] {
            DotPath::Mma(plan) => {
                let plan = plan.clone();
                let name = if a.bits() == 8 { "m16n8k32" } else { "m16n8k16" };
                self.notes.push(format!("{}: dot {m}x{n}x{k} of {a}, {b}: mma.sync {name}", data.loc));
                self.mma(inst, &plan)
            }
            DotPath::Fma => {
                self.notes.push(format!(
                    "{}: dot {m}x{n}x{k} of {a}: multiply-adds, since tensor cores take no {a}",
                    data.loc
                ));
                self.multiply_adds(inst)
            }
        }
    }

    /// Elements of an operand with everything beyond the contraction's extent zeroed; `None` where a register holds nothing
    /// else.
    fn contracted(&self, inst: Inst, which: usize, plan: &Operand) -> Vec<Option<Val<'c>>> {
        let data = self.func.inst(inst);
        let value = data.operands[which];
        let layout = self.layout(value);
        let axis = 1 - which;
        let extent = self.func.ty(value).shape().expect("an operand is a tile")[axis];
        let zero = self.ir.zero(self.llvm_type(self.dtype(value)));
        let pack = plan.shape.pack_bits as usize;
        let mut lane_cond = Cond::Always;
        for (i, position) in [pack, pack + 1].into_iter().enumerate() {
            if plan.k.get(position).copied().unwrap_or(0) == 0 {
                // These lanes stand for k positions beyond the tile.
                let set = self.ir.and(self.lane, self.ir.c32(1 << i));
                let inside = Cond::If(self.ir.icmp(IntPredicate::EQ, set, self.ir.c32(0)));
                lane_cond = self.both(lane_cond, inside);
            }
        }
        let inside = if extent.is_power_of_two() {
            vec![Cond::Always; layout.register_count()]
        } else {
            self.below(layout, axis, extent)
        };
        self.registers(value)
            .iter()
            .zip(inside)
            .map(|(&v, cond)| match self.both(cond, lane_cond) {
                Cond::Never => None,
                cond => Some(self.choose(cond, v, zero)),
            })
            .collect()
    }

    /// One 32-bit fragment register; `None` when all of it is zero.
    fn fragment_register(&self, dtype: Dtype, elements: &[Option<Val<'c>>]) -> Option<Val<'c>> {
        if elements.iter().all(Option::is_none) {
            return None;
        }
        let zero = self.ir.zero(self.llvm_type(dtype));
        let values: Vec<Val<'c>> = elements.iter().map(|e| e.unwrap_or(zero)).collect();
        let word = self.join_words(&values, dtype, 32)[0];
        Some(if dtype == Dtype::F16 { self.ir.bitcast(word, self.ir.f16().vec_type(2).into()) } else { word })
    }

    fn mma(&mut self, inst: Inst, plan: &Operand) -> Emitted {
        let data = self.func.inst(inst);
        let (a, b, acc) = (data.operands[0], data.operands[1], data.operands[2]);
        let (a_type, b_type) = (self.dtype(a), self.dtype(b));
        let pack = plan.shape.pack_bits as usize;
        let dims = |v| {
            let d = self.layout(v).dims();
            (d[0], d[1])
        };
        let (a_dims, b_dims) = (dims(a), dims(b));
        let acc_columns = dims(acc).1;
        let (fa, fb) = (Fragment::new(self.layout(a)), Fragment::new(self.layout(b)));
        let fc = Fragment::new(self.layout(acc));
        let (av, bv) = (self.contracted(inst, 0, plan), self.contracted(inst, 1, plan));
        let cv = self.registers(acc);

        let k_steps = plan.k.len() - (pack + 3);
        let m_tiles = plan.m.len() - (4 + plan.warps_m as usize);
        let n_tiles = plan.n.len() - (3 + plan.warps_n as usize);
        let k_at = |i: usize| plan.k[i];
        let (m_first, n_first) = (4 + plan.warps_m as usize, 3 + plan.warps_n as usize);

        // Register of A: element e of the pack, row half, k half, step, row tile.
        let a_register = |tile: usize, step: usize, half: usize, k_half: usize, e: usize| {
            let mut at: Vec<(bool, u32)> = (0..pack).map(|i| (bit(e, i), k_at(i))).collect();
            at.push((half == 1, plan.m[3] << a_dims.1));
            at.push((k_half == 1, k_at(pack + 2)));
            at.extend((0..k_steps).map(|i| (bit(step, i), k_at(pack + 3 + i))));
            at.extend((0..m_tiles).map(|i| (bit(tile, i), plan.m[m_first + i] << a_dims.1)));
            fa.register(&at)
        };
        let b_register = |tile: usize, step: usize, k_half: usize, e: usize| {
            let mut at: Vec<(bool, u32)> = (0..pack).map(|i| (bit(e, i), k_at(i) << b_dims.1)).collect();
            at.push((k_half == 1, k_at(pack + 2) << b_dims.1));
            at.extend((0..k_steps).map(|i| (bit(step, i), k_at(pack + 3 + i) << b_dims.1)));
            at.extend((0..n_tiles).map(|i| (bit(tile, i), plan.n[n_first + i])));
            fb.register(&at)
        };
        let c_register = |m_tile: usize, n_tile: usize, half: usize, column: usize| {
            let mut at = vec![(column == 1, plan.n[0]), (half == 1, plan.m[3] << acc_columns)];
            at.extend((0..n_tiles).map(|i| (bit(n_tile, i), plan.n[n_first + i])));
            at.extend((0..m_tiles).map(|i| (bit(m_tile, i), plan.m[m_first + i] << acc_columns)));
            fc.register(&at)
        };

        let mut sums: Vec<Val<'c>> = cv.to_vec();
        let acc_zero = self.ir.zero(self.llvm_type(self.dtype(acc)));
        let (name, a_zero) = self.instruction(a_type, b_type);
        for step in 0..1 << k_steps {
            for n_tile in 0..1usize << n_tiles {
                let b_regs: Vec<Option<Val<'c>>> = (0..2)
                    .map(|k_half| {
                        let elements: Vec<Option<Val<'c>>> = (0..1 << pack)
                            .map(|e| b_register(n_tile, step, k_half, e).and_then(|r| bv[r]))
                            .collect();
                        self.fragment_register(b_type, &elements)
                    })
                    .collect();
                if b_regs.iter().all(Option::is_none) {
                    continue;
                }
                for m_tile in 0..1usize << m_tiles {
                    // Order of the hardware's registers: the row half runs fastest, then the k half.
                    let a_regs: Vec<Option<Val<'c>>> = (0..4)
                        .map(|i| {
                            let elements: Vec<Option<Val<'c>>> = (0..1 << pack)
                                .map(|e| a_register(m_tile, step, i & 1, i >> 1, e).and_then(|r| av[r]))
                                .collect();
                            self.fragment_register(a_type, &elements)
                        })
                        .collect();
                    if a_regs.iter().all(Option::is_none) {
                        continue;
                    }
                    let slots: Vec<Option<usize>> =
                        (0..4).map(|i| c_register(m_tile, n_tile, i >> 1, i & 1)).collect();
                    let mut args: Vec<Val<'c>> = a_regs.iter().map(|r| r.unwrap_or(a_zero)).collect();
                    args.extend(b_regs.iter().map(|r| r.unwrap_or(a_zero)));
                    args.extend(slots.iter().map(|slot| slot.map_or(acc_zero, |s| sums[s])));
                    let out = self.ir.call(name, &[], &args)?;
                    for (i, slot) in slots.iter().enumerate() {
                        if let Some(slot) = slot {
                            sums[*slot] = self.ir.field(out, i as u32);
                        }
                    }
                }
            }
        }
        self.set_registers(data.results[0], sums);
        Ok(())
    }

    /// The intrinsic for these operand types, and a zero register.
    fn instruction(&self, a: Dtype, b: Dtype) -> (&'static str, Val<'c>) {
        let word = self.ir.c32(0);
        match (a, b) {
            (Dtype::F16, _) => {
                let pair: BasicTypeEnum<'c> = self.ir.f16().vec_type(2).into();
                ("llvm.nvvm.mma.m16n8k16.row.col.f32.f32", self.ir.zero(pair))
            }
            (Dtype::BF16, _) => ("llvm.nvvm.mma.m16n8k16.row.col.bf16", word),
            (Dtype::I8, Dtype::I8) => ("llvm.nvvm.mma.m16n8k32.row.col.s8", word),
            (Dtype::I8, _) => ("llvm.nvvm.mma.m16n8k32.row.col.s8.u8", word),
            (_, Dtype::I8) => ("llvm.nvvm.mma.m16n8k32.row.col.u8.s8", word),
            _ => ("llvm.nvvm.mma.m16n8k32.row.col.u8", word),
        }
    }

    /// Both operands in shared memory; a loop over k in which each thread reads its rows and columns.
    fn multiply_adds(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let (a, b, acc) = (data.operands[0], data.operands[1], data.operands[2]);
        let dtype = self.dtype(a);
        let bytes = super::exchange::element_bytes(dtype);
        let shape = |v| self.func.ty(v).shape().cloned().unwrap_or_default();
        let (a_shape, b_shape) = (shape(a), shape(b));
        let (k, n) = (a_shape[1], b_shape[1]);
        let a_bytes = a_shape.elements() as u32 * bytes;
        let base = self.scratch(a_bytes + b_shape.elements() as u32 * bytes)?;
        for (value, shape, start) in [(a, &a_shape, base), (b, &b_shape, base + a_bytes)] {
            let layout = self.layout(value);
            let at = self.row_major(layout, shape);
            let regs = self.registers(value);
            self.scatter_shared(start, layout, shape, dtype, &regs, &at);
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
        let row_values: Vec<Val<'c>> =
            row_starts.iter().map(|&s| self.read_shared(base, dtype, self.ir.add(s, at))).collect();
        let line = self.ir.mul(at, self.ir.c32(n));
        let column_values: Vec<Val<'c>> = column_starts
            .iter()
            .map(|&s| self.read_shared(base + a_bytes, dtype, self.ir.add(line, s)))
            .collect();
        let mut sums = Vec::with_capacity(phis.len());
        for (r, phi) in phis.iter().enumerate() {
            let sum =
                self.fma(dtype, row_values[row_of[r]], column_values[column_of[r]], phi.as_basic_value())?;
            sums.push(sum);
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
