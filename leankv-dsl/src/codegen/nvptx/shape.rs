//! Ops that make or move elements without computing: in registers wherever layouts allow.

use std::collections::HashMap;

use smallvec::SmallVec;

use crate::ir::{Inst, Op, Shape, Value};
use crate::layout::LinearLayout;
use crate::pass::layout_assign::{codes_a_word, reshape_keeps_bits};

use super::emit::{Emitted, Emitter, Repr};
use super::ir::Val;

/// Numbers of registers by what they hold in lane 0 of warp 0.
pub(super) fn register_index(layout: &LinearLayout) -> HashMap<u32, usize> {
    (0..layout.register_count()).map(|r| (layout.at(r as u32, 0, 0), r)).collect()
}

impl<'c> Emitter<'c, '_> {
    pub(super) fn shape_op(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let result = data.results[0];
        if !self.is_tile(result) && !matches!(data.op, Op::Split) {
            return self.to_scalar(inst);
        }
        match &data.op {
            Op::Constant(value) => {
                let value = self.constant(*value, self.dtype(result));
                let count = self.layout(result).register_count();
                self.set(result, Repr::Tile(vec![value; count]));
            }
            Op::Splat => {
                let value = self.scalar(data.operands[0]);
                let count = self.layout(result).register_count();
                self.set(result, Repr::Tile(vec![value; count]));
            }
            Op::Iota => {
                let ty = self.llvm_type(self.dtype(result)).into_int_type();
                let at = self.coordinates(self.layout(result), 0);
                let regs = at.into_iter().map(|v| self.ir.resize(v, ty, false)).collect();
                self.set(result, Repr::Tile(regs));
            }
            Op::Reshape => self.reshape(inst)?,
            Op::Transpose { perm } => {
                let perm: SmallVec<[usize; 5]> = perm.iter().map(|&p| p.into()).collect();
                let out = self.layout(result);
                let from = self.layout(data.operands[0]);
                self.rename(result, data.operands[0], |flat| {
                    let at = out.coordinates(flat);
                    let mut old: SmallVec<[u32; 5]> = SmallVec::from_elem(0, at.len());
                    for (i, &p) in perm.iter().enumerate() {
                        old[p] = at[i];
                    }
                    from.flat(&old)
                });
            }
            Op::ExpandDims { .. } => self.rename(result, data.operands[0], |flat| flat),
            Op::Broadcast => {
                let (out, from) = (self.layout(result), self.layout(data.operands[0]));
                let shape = self.func.ty(data.operands[0]).shape().cloned().unwrap_or_default();
                let to = self.func.ty(result).shape().cloned().unwrap_or_default();
                self.rename(result, data.operands[0], |flat| {
                    let mut at = out.coordinates(flat);
                    for axis in (0..at.len()).filter(|&axis| shape[axis] != to[axis]) {
                        at[axis] = 0;
                    }
                    from.flat(&at)
                });
            }
            Op::Join => self.join(inst),
            Op::Split => self.split(inst),
            Op::Pack => self.pack(inst),
            Op::Unpack => self.unpack(inst),
            other => unreachable!("internal error: `{}` moves no elements", other.name()),
        }
        Ok(())
    }

    /// Ops whose result is a scalar.
    fn to_scalar(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let result = data.results[0];
        let value = match &data.op {
            Op::Constant(value) => self.constant(*value, self.dtype(result)),
            // From a tile of one element to none dimensions: every thread that holds copies has it in register 0,
            // others fetch it.
            Op::Reshape if self.is_tile(data.operands[0]) => {
                let layout = self.layout(data.operands[0]).clone();
                debug_assert_eq!(layout.bits(), 0);
                self.registers(data.operands[0])[0]
            }
            _ => self.scalar(data.operands[0]),
        };
        self.set(result, Repr::Scalar(value));
        Ok(())
    }

    /// The result's register holds what the operand has at the image of its index.
    fn rename(&mut self, result: Value, operand: Value, image: impl Fn(u32) -> u32) {
        let source = self.registers(operand);
        if !self.is_tile(operand) {
            let count = self.layout(result).register_count();
            self.set(result, Repr::Tile(vec![source[0]; count]));
            return;
        }
        let index = register_index(self.layout(operand));
        let out = self.layout(result);
        let regs = (0..out.register_count() as u32).map(|r| source[index[&image(out.at(r, 0, 0))]]).collect();
        self.set(result, Repr::Tile(regs));
    }

    fn reshape(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let (operand, result) = (data.operands[0], data.results[0]);
        let from = self.func.ty(operand).shape().cloned().unwrap_or_default();
        let to = self.func.ty(result).shape().cloned().unwrap_or_default();
        if !self.is_tile(operand) || reshape_keeps_bits(&from, &to) {
            self.rename(result, operand, |flat| flat);
            return Ok(());
        }
        // Padded indices differ: through shared memory in row-major order.
        self.notes.push(format!("{}: reshape {from} -> {to} goes through shared memory", data.loc));
        let dtype = self.dtype(operand);
        let bytes = super::exchange::element_bytes(dtype);
        let base = self.scratch(from.elements() as u32 * bytes)?;
        let source = self.registers(operand);
        let from_layout = self.layout(operand);
        let at = self.row_major(from_layout, &from);
        self.scatter_shared(base, from_layout, &from, dtype, &source, &at);
        self.barrier()?;
        let out = self.layout(result);
        let at = self.row_major(out, &to);
        let inside = self.in_tile(out, &to);
        let regs = at
            .iter()
            .zip(inside)
            .map(|(&at, cond)| {
                let at = self.choose(cond, at, self.ir.c32(0));
                self.read_shared(base, dtype, at)
            })
            .collect();
        self.set(result, Repr::Tile(regs));
        Ok(())
    }

    /// Row-major element number of every register.
    pub(super) fn row_major(&self, layout: &LinearLayout, shape: &Shape) -> Vec<Val<'c>> {
        let mut out = vec![self.ir.c32(0); layout.register_count()];
        for axis in 0..shape.rank() {
            let extent = self.ir.c32(shape[axis]);
            for (sum, at) in out.iter_mut().zip(self.coordinates(layout, axis)) {
                *sum = self.ir.add(self.ir.mul(*sum, extent), at);
            }
        }
        out
    }

    fn join(&mut self, inst: Inst) {
        let data = self.func.inst(inst);
        let result = data.results[0];
        let out = self.layout(result);
        let (a, b) = (self.registers(data.operands[0]), self.registers(data.operands[1]));
        let index = if self.is_tile(data.operands[0]) {
            register_index(self.layout(data.operands[0]))
        } else {
            HashMap::from([(0, 0)])
        };
        // The half may depend on the lane as well.
        let lane = self.thread_bit(out, |flat| flat & 1 == 1);
        let regs = (0..out.register_count() as u32)
            .map(|r| {
                let flat = out.at(r, 0, 0);
                let at = index[&(flat >> 1)];
                let (here, other) = if flat & 1 == 0 { (a[at], b[at]) } else { (b[at], a[at]) };
                match lane {
                    None => here,
                    Some(bit) => self.ir.select(bit, other, here),
                }
            })
            .collect();
        self.set(result, Repr::Tile(regs));
    }

    fn split(&mut self, inst: Inst) {
        let data = self.func.inst(inst);
        let source = self.registers(data.operands[0]);
        let index = register_index(self.layout(data.operands[0]));
        for (half, &result) in data.results.iter().enumerate() {
            let regs: Vec<Val<'c>> = if self.is_tile(result) {
                let out = self.layout(result);
                (0..out.register_count() as u32)
                    .map(|r| source[index[&(out.at(r, 0, 0) << 1 | half as u32)]])
                    .collect()
            } else {
                vec![source[index[&(half as u32)]]]
            };
            self.set_registers(result, regs);
        }
    }

    fn pack(&mut self, inst: Inst) {
        let data = self.func.inst(inst);
        let (operand, result) = (data.operands[0], data.results[0]);
        let low = codes_a_word(self.func.ty(operand), self.func.ty(result));
        let bits = self.dtype(operand).bits();
        let ty = self.llvm_type(self.dtype(result)).into_int_type();
        let source = self.registers(operand);
        let index = register_index(self.layout(operand));
        let out = self.layout(result);
        let regs = (0..out.register_count() as u32)
            .map(|r| {
                let flat = out.at(r, 0, 0) << low;
                let word = (0..1u32 << low).fold(self.ir.c32(0), |word, j| {
                    let code = source[index[&(flat | j)]];
                    self.ir.or(word, self.ir.shl(code, self.ir.c32(j * bits)))
                });
                self.ir.resize(word, ty, false)
            })
            .collect();
        self.set(result, Repr::Tile(regs));
    }

    fn unpack(&mut self, inst: Inst) {
        let data = self.func.inst(inst);
        let (operand, result) = (data.operands[0], data.results[0]);
        let low = codes_a_word(self.func.ty(result), self.func.ty(operand));
        let bits = self.dtype(result).bits();
        let source = self.registers(operand);
        let index = register_index(self.layout(operand));
        let out = self.layout(result);
        let mask = (1u32 << low) - 1;
        // Which code of its word a thread holds may depend on the lane.
        let lanes: Vec<u32> = out.lanes().iter().map(|v| v & mask).collect();
        let warps: Vec<u32> = out.warps().iter().map(|v| v & mask).collect();
        let thread = self.thread_part(&lanes, &warps);
        let code_mask = self.ir.c32(((1u64 << bits) - 1) as u32);
        let regs = (0..out.register_count() as u32)
            .map(|r| {
                let flat = out.at(r, 0, 0);
                let word = self.ir.zext(source[index[&(flat >> low)]], self.ir.i32());
                let shifted = match thread.0 {
                    None => self.ir.lshr(word, (flat & mask) * bits),
                    Some(_) => {
                        let code = self.join_part(thread, flat & mask);
                        self.ir.shr(word, self.ir.mul(code, self.ir.c32(bits)), false)
                    }
                };
                self.ir.and(shifted, code_mask)
            })
            .collect();
        self.set(result, Repr::Tile(regs));
    }
}
