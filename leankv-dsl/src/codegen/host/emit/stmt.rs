//! Blocks: each op in order, either as scalars, as a materialised tile, or not at all until it is asked for.

use super::{Buf, CodegenError, Emit, Point, Val};
use crate::ir::{Block, Inst, Op, Value};

impl Emit<'_, '_> {
    /// Emits a block's ops and gives what it yields.
    pub(super) fn block(&mut self, block: Block) -> Result<Vec<Value>, CodegenError> {
        for &inst in &self.f.block(block).insts {
            match &self.f.inst(inst).op {
                Op::Yield => return Ok(self.f.inst(inst).operands.to_vec()),
                Op::Return => return Ok(Vec::new()),
                Op::For { .. } => self.emit_for(inst)?,
                Op::While => self.emit_while(inst)?,
                Op::If => self.emit_if(inst)?,
                Op::Store { .. } => self.emit_store(inst)?,
                Op::AtomicRmw { .. } | Op::AtomicCas { .. } => self.emit_atomic(inst)?,
                Op::Reduce { .. } => self.emit_reduce(inst)?,
                Op::Scan { .. } => self.emit_scan(inst)?,
                Op::Dot => self.emit_dot(inst)?,
                Op::Assert { .. } => self.emit_assert(inst)?,
                Op::Print { .. } => self.emit_print(inst)?,
                _ => self.pure_op(block, inst)?,
            }
        }
        Ok(Vec::new())
    }

    /// An op without effects: scalars now, tiles where the plan says so.
    fn pure_op(&mut self, block: Block, inst: Inst) -> Result<(), CodegenError> {
        self.prefetch(block, inst)?;
        for (index, &result) in self.f.inst(inst).results.iter().enumerate() {
            let ty = self.f.ty(result);
            if ty.is_ptr() || ty.is_scalar() {
                let val = self.compute(inst, index as u32, &Point::new(), 1)?;
                self.env[result] = Some(val);
                self.scalar_ahead(block, inst)?;
            } else if self.plan.is_materialised(result) {
                let buf = self.alloc_for(result);
                let shape = buf.shape.clone();
                self.elements(&shape, &mut |me, point, lanes| {
                    let val = me.compute(inst, index as u32, point, lanes)?;
                    me.write(&buf, point, lanes, val);
                    Ok(())
                })?;
                self.bufs[result] = Some(buf);
            }
        }
        Ok(())
    }

    /// Evaluates a tile into memory.
    pub(super) fn fill(&mut self, buf: &Buf, value: Value) -> Result<(), CodegenError> {
        let shape = buf.shape.clone();
        self.elements(&shape, &mut |me, point, lanes| {
            let val = me.eval(value, point, lanes)?;
            me.write(buf, point, lanes, val);
            Ok(())
        })
    }

    /// Runs a region on scalars (or vectors, for regions of element-wise ops) and gives what it yields.
    pub(super) fn region(&mut self, region: Block, args: &[Val]) -> Result<Vec<Val>, CodegenError> {
        for (&param, &arg) in self.f.block(region).params.iter().zip(args) {
            self.env[param] = Some(arg);
        }
        // What was computed from these arguments must not be found by the next run.
        self.scoped(|me| {
            let yields = me.block(region)?;
            yields.iter().map(|&value| me.scalar_val(value)).collect()
        })
    }

    /// The value of a scalar, which inside a region may hold a vector.
    pub(super) fn scalar_val(&self, value: Value) -> Result<Val, CodegenError> {
        self.env[value]
            .ok_or_else(|| CodegenError::Malformed(format!("{value} is used before it is defined")))
    }
}
