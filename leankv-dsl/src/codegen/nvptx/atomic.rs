//! Atomics, as inline PTX: LLVM drops order and scope of `atomicrmw`.

use inkwell::IntPredicate;

use crate::ir::{AtomicOp, Dtype, Inst, MemOrder, MemScope, Op};

use super::emit::{Emitted, Emitter, Repr};
use super::ir::Val;
use super::place::Cond;

fn order_name(order: MemOrder) -> &'static str {
    match order {
        MemOrder::Relaxed => "relaxed",
        MemOrder::Acquire => "acquire",
        MemOrder::Release => "release",
        MemOrder::AcqRel => "acq_rel",
    }
}

fn scope_name(scope: MemScope) -> &'static str {
    match scope {
        MemScope::Block => "cta",
        MemScope::Device => "gpu",
        MemScope::System => "sys",
    }
}

impl<'c> Emitter<'c, '_> {
    pub(super) fn atomic(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let result = data.results[0];
        let dtype = self.dtype(result);
        let (pointer, _) = self.pointer(data.operands[0]);
        let offsets = self.registers(data.operands[1]);
        let values = self.registers(data.operands[2]);
        let (mask, swap, order) = match data.op {
            Op::AtomicRmw { masked, order, .. } => {
                (masked.then(|| self.registers(data.operands[3])), None, order)
            }
            Op::AtomicCas { order, .. } => (None, Some(self.registers(data.operands[3])), order),
            _ => unreachable!("internal error: this is an atomic"),
        };
        let used = self.func.walk().iter().any(|&i| self.func.inst(i).operands.contains(&result));
        let tile = self.is_tile(result);
        let layout = tile.then(|| self.layout(result));
        let inside = match (layout, self.func.ty(result).shape()) {
            (Some(layout), Some(shape)) => self.in_tile(layout, shape),
            _ => vec![Cond::Always],
        };
        let (lanes, warps) = match layout {
            Some(layout) => (layout.free_lanes(), layout.free_warps()),
            None => (31, self.func.num_warps - 1),
        };
        let owner = self.owner(lanes, warps);
        if matches!(order, MemOrder::Release | MemOrder::AcqRel) {
            // What the other threads of the program wrote before is released with it.
            self.barrier()?;
        }
        let mut out = Vec::with_capacity(offsets.len());
        for r in 0..offsets.len() {
            let mut cond = self.both(inside[r], owner);
            if let Some(mask) = &mask {
                cond = self.both(cond, self.known(mask[r]));
            }
            let at = self.address(pointer, dtype, offsets[r]);
            let swap = swap.as_ref().map(|s| s[r]);
            out.push(self.atomic_one(&data.op, dtype, at.into(), values[r], swap, cond));
        }
        if used && (lanes != 0 || warps != 0) {
            // The thread that acted tells those that hold copies.
            let bytes = super::exchange::element_bytes(dtype);
            match layout {
                Some(layout) => {
                    let base = self.scratch(bytes << layout.bits())?;
                    let at = self.index_by(layout, |flat| flat);
                    let shape = self.func.ty(result).shape().cloned().unwrap_or_default();
                    self.scatter_shared(base, layout, &shape, dtype, &out, &at);
                    self.barrier()?;
                    out = at
                        .iter()
                        .zip(&inside)
                        .map(|(&at, &cond)| {
                            let at = self.choose(cond, at, self.ir.c32(0));
                            self.read_shared(base, dtype, at)
                        })
                        .collect();
                }
                None => {
                    let base = self.scratch(bytes)?;
                    self.write_shared(base, dtype, self.ir.c32(0), out[0], owner);
                    self.barrier()?;
                    out[0] = self.read_shared(base, dtype, self.ir.c32(0));
                }
            }
        } else if matches!(order, MemOrder::Acquire | MemOrder::AcqRel) {
            self.barrier()?;
        }
        let repr = if tile { Repr::Tile(out) } else { Repr::Scalar(out[0]) };
        self.set(result, repr);
        Ok(())
    }

    fn atomic_one(
        &self,
        op: &Op,
        dtype: Dtype,
        at: Val<'c>,
        value: Val<'c>,
        swap: Option<Val<'c>>,
        cond: Cond<'c>,
    ) -> Val<'c> {
        let ir = &self.ir;
        let bits = dtype.bits();
        let raw = ir.int_type(bits);
        let as_bits = |v: Val<'c>| ir.bitcast(v, raw.into());
        let (class, zero) = match bits {
            16 => ('h', ir.int(ir.i16(), 0)),
            32 => ('r', ir.c32(0)),
            _ => ('l', ir.c64(0)),
        };
        let emit =
            |name: &str, order: MemOrder, scope: MemScope, ty: String, args: &[Val<'c>], cond: Cond<'c>| {
                let mut all: Vec<Val<'c>> = vec![at];
                all.extend(args);
                let mut constraints = format!("={class},l");
                let mut list = String::new();
                for i in 0..args.len() {
                    constraints.push_str(&format!(",{class}"));
                    list.push_str(&format!(", ${}", i + 2));
                }
                let mut guard = String::new();
                match cond {
                    Cond::Never => return zero,
                    Cond::Always => {}
                    Cond::If(c) => {
                        guard = format!("@${} ", all.len() + 1);
                        all.push(c);
                        constraints.push_str(",b");
                        all.push(zero);
                        constraints.push_str(",0");
                    }
                }
                constraints.push_str(",~{memory}");
                let text = format!(
                    "{guard}atom.{}.{}.global.{name}.{ty} $0, [$1]{list};",
                    order_name(order),
                    scope_name(scope)
                );
                ir.asm(&text, &constraints, &[raw.into()], &all, true)[0]
            };
        let old = match *op {
            Op::AtomicCas { order, scope } => {
                let new = swap.expect("compare-and-exchange has a new value");
                emit("cas", order, scope, format!("b{bits}"), &[as_bits(value), as_bits(new)], cond)
            }
            Op::AtomicRmw { op, order, scope, .. } => {
                let float_minmax = dtype.is_float() && matches!(op, AtomicOp::Min | AtomicOp::Max);
                if float_minmax {
                    // Floats compare as integers, backwards when negative. A NaN changes nothing.
                    let number = self.is_number(value);
                    let v = as_bits(value);
                    let negative = ir.icmp(IntPredicate::SLT, v, ir.c32(0));
                    let (up, down) = if op == AtomicOp::Max { ("max", "min") } else { ("min", "max") };
                    let when = |sign: Val<'c>| self.both(cond, Cond::If(ir.and(number, sign)));
                    let a = emit(up, order, scope, "s32".to_owned(), &[v], when(ir.not(negative)));
                    let b = emit(down, order, scope, "u32".to_owned(), &[v], when(negative));
                    ir.select(negative, b, a)
                } else {
                    let (name, ty) = match op {
                        AtomicOp::Add if dtype.is_float() && bits == 16 => (
                            "add.noftz",
                            if dtype == Dtype::F16 { "f16".to_owned() } else { "bf16".to_owned() },
                        ),
                        AtomicOp::Add if dtype.is_float() => ("add", format!("f{bits}")),
                        AtomicOp::Add => ("add", format!("u{bits}")),
                        AtomicOp::Min | AtomicOp::Max => {
                            let sign = if dtype.is_signed_int() { 's' } else { 'u' };
                            (op.name(), format!("{sign}{bits}"))
                        }
                        AtomicOp::Exchange => ("exch", format!("b{bits}")),
                        AtomicOp::And | AtomicOp::Or | AtomicOp::Xor => (op.name(), format!("b{bits}")),
                    };
                    self.emit_typed_atomic(dtype, &name_with_type(name, &ty), order, scope, at, value, cond)
                }
            }
            _ => unreachable!("internal error: this is an atomic"),
        };
        ir.bitcast(old, self.llvm_type(dtype))
    }

    /// As the integer form, but `.f32` and `.f64` operands must be in float registers.
    fn emit_typed_atomic(
        &self,
        dtype: Dtype,
        name: &str,
        order: MemOrder,
        scope: MemScope,
        at: Val<'c>,
        value: Val<'c>,
        cond: Cond<'c>,
    ) -> Val<'c> {
        let ir = &self.ir;
        let float = name.ends_with(".f32") || name.ends_with(".f64");
        let (class, ty) = match dtype.bits() {
            16 => ("h", ir.i16().into()),
            32 if float => ("f", ir.f32().into()),
            32 => ("r", ir.i32().into()),
            _ if float => ("d", ir.cx.f64_type().into()),
            _ => ("l", ir.i64().into()),
        };
        let value = ir.bitcast(value, ty);
        let mut args = vec![at, value];
        let mut constraints = format!("={class},l,{class}");
        let mut guard = "";
        match cond {
            Cond::Never => return ir.zero(ir.int_type(dtype.bits()).into()),
            Cond::Always => {}
            Cond::If(c) => {
                guard = "@$3 ";
                args.extend([c, ir.zero(ty)]);
                constraints.push_str(",b,0");
            }
        }
        constraints.push_str(",~{memory}");
        let text =
            format!("{guard}atom.{}.{}.global.{name} $0, [$1], $2;", order_name(order), scope_name(scope));
        let old = ir.asm(&text, &constraints, &[ty], &args, true)[0];
        ir.bitcast(old, ir.int_type(dtype.bits()).into())
    }
}

fn name_with_type(name: &str, ty: &str) -> String {
    format!("{name}.{ty}")
}
