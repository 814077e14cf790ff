//! Atomics: element by element, since other programs run at the same time.

use llvm_sys::LLVMAtomicOrdering;

use super::super::build::{Elem, RmwOp, V};
use super::{CodegenError, Emit, Point, Val, memory_elem};
use crate::ir::{AtomicOp, BinaryOp, Dtype, Inst, MemOrder, Op, Shape};

fn ordering(order: MemOrder) -> LLVMAtomicOrdering {
    match order {
        MemOrder::Relaxed => LLVMAtomicOrdering::LLVMAtomicOrderingMonotonic,
        MemOrder::Acquire => LLVMAtomicOrdering::LLVMAtomicOrderingAcquire,
        MemOrder::Release => LLVMAtomicOrdering::LLVMAtomicOrderingRelease,
        MemOrder::AcqRel => LLVMAtomicOrdering::LLVMAtomicOrderingAcquireRelease,
    }
}

impl Emit<'_, '_> {
    pub(super) fn emit_atomic(&mut self, inst: Inst) -> Result<(), CodegenError> {
        let data = self.f.inst(inst);
        let result = data.results[0];
        let (dtype, shape) = self.f.ty(result).as_tile().expect("an atomic gives a tile");
        let shape: Shape = shape.clone();
        let masked = matches!(data.op, Op::AtomicRmw { masked: true, .. });
        let pointer = self.scalar(data.operands[0])?;
        let buf = (shape.rank() > 0).then(|| self.alloc_for(result));
        let mut scalar = None;
        self.nest(shape.extents(), &mut Point::new(), &mut |me, point| {
            let at = me.eval(data.operands[1], point, 1)?;
            let at = me.cast(me.f.ty(data.operands[1]).dtype(), Dtype::I64, at)?.v;
            let to = me.b.offset(pointer, memory_elem(dtype), at);
            let old = if masked {
                let mask = me.eval(data.operands[3], point, 1)?.v;
                me.under(mask, dtype, |me| me.atomic_element(inst, dtype, to, point))?
            } else {
                me.scoped(|me| me.atomic_element(inst, dtype, to, point))?
            };
            match &buf {
                Some(buf) => me.write(buf, point, 1, Val::scalar(old)),
                None => scalar = Some(Val::scalar(old)),
            }
            Ok(())
        })?;
        self.env[result] = scalar;
        self.bufs[result] = buf;
        Ok(())
    }

    /// Runs `body` where `mask` holds; zero elsewhere.
    fn under(
        &mut self,
        mask: V,
        dtype: Dtype,
        body: impl FnOnce(&mut Self) -> Result<V, CodegenError>,
    ) -> Result<V, CodegenError> {
        let zero = self.b.zero(self.b.elem(super::register(dtype), 1));
        let before = self.b.here();
        let (yes, after) = (self.b.block(), self.b.block());
        self.b.branch(mask, yes, after);
        self.b.enter(yes);
        let out = self.scoped(body)?;
        let from = self.b.here();
        self.b.jump(after);
        self.b.enter(after);
        let phi = self.b.phi(self.b.ty(zero));
        self.b.incoming(phi, zero, before);
        self.b.incoming(phi, out, from);
        Ok(phi)
    }

    fn atomic_element(&mut self, inst: Inst, dtype: Dtype, to: V, point: &Point) -> Result<V, CodegenError> {
        let data = self.f.inst(inst);
        let value = self.eval(data.operands[2], point, 1)?;
        match data.op {
            Op::AtomicCas { order, .. } => {
                let new = self.eval(data.operands[3], point, 1)?.v;
                Ok(self.b.cmpxchg(to, value.v, new, ordering(order)).0)
            }
            Op::AtomicRmw { op, order, .. } if dtype.is_float() && op != AtomicOp::Exchange => {
                self.float_rmw(op, dtype, to, value, ordering(order))
            }
            Op::AtomicRmw { op, order, .. } => {
                let raw = self.register_to_memory(dtype, value.v, 1);
                let rmw = match (op, dtype.is_signed_int()) {
                    (AtomicOp::Add, _) => RmwOp::LLVMAtomicRMWBinOpAdd,
                    (AtomicOp::Min, true) => RmwOp::LLVMAtomicRMWBinOpMin,
                    (AtomicOp::Min, false) => RmwOp::LLVMAtomicRMWBinOpUMin,
                    (AtomicOp::Max, true) => RmwOp::LLVMAtomicRMWBinOpMax,
                    (AtomicOp::Max, false) => RmwOp::LLVMAtomicRMWBinOpUMax,
                    (AtomicOp::And, _) => RmwOp::LLVMAtomicRMWBinOpAnd,
                    (AtomicOp::Or, _) => RmwOp::LLVMAtomicRMWBinOpOr,
                    (AtomicOp::Xor, _) => RmwOp::LLVMAtomicRMWBinOpXor,
                    (AtomicOp::Exchange, _) => RmwOp::LLVMAtomicRMWBinOpXchg,
                };
                let old = self.b.atomic_rmw(rmw, to, raw, ordering(order));
                Ok(self.memory_to_register(dtype, old, 1))
            }
            _ => Err(CodegenError::Malformed("not an atomic".to_owned())),
        }
    }

    /// Floats: compare-and-exchange on the bits until nobody came between.
    fn float_rmw(
        &mut self,
        op: AtomicOp,
        dtype: Dtype,
        to: V,
        value: Val,
        order: LLVMAtomicOrdering,
    ) -> Result<V, CodegenError> {
        let bits = match dtype.bits() {
            16 => Elem::I16,
            32 => Elem::I32,
            _ => Elem::I64,
        };
        let int = self.b.elem(bits, 1);
        let memory = self.b.elem(memory_elem(dtype), 1);
        let first = self.b.load(bits, 1, to, false);
        let before = self.b.here();
        let (head, exit) = (self.b.block(), self.b.block());
        self.b.jump(head);
        self.b.enter(head);
        let seen = self.b.phi(int);
        self.b.incoming(seen, first, before);
        let old = self.memory_to_register(dtype, self.b.bitcast(seen, memory), 1);
        let combine = match op {
            AtomicOp::Add => BinaryOp::Add,
            AtomicOp::Min => BinaryOp::Min,
            AtomicOp::Max => BinaryOp::Max,
            other => return Err(CodegenError::Malformed(format!("atomic `{other}` of floats"))),
        };
        let new = self.binary(combine, dtype, Val::scalar(old), value)?.v;
        let new = self.b.bitcast(self.register_to_memory(dtype, new, 1), int);
        let (now, done) = self.b.cmpxchg(to, seen, new, order);
        let latch = self.b.here();
        self.b.branch(done, exit, head);
        self.b.incoming(seen, now, latch);
        self.b.enter(exit);
        Ok(old)
    }
}
