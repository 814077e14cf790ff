//! Turns `quantize` and `dequantize` into element-wise ops.

use super::manager::{Facts, Pass};
use crate::diag::Diagnostics;
use crate::ir::{BinaryOp, Block, CmpOp, Const, Dtype, Func, Inst, Loc, Op, Type, UnaryOp, Value, infer};

/// Expands quantisation, exactly as the ops are defined:
///
/// * `quantize x, scale, zero`: `q = (x - zero) / scale` rounded to even, limited to `0 ..= 2^bits - 1` (which turns NaN into 0, since
///   `max` gives the other operand), 0 where `scale` is 0, then cast to the code.
/// * `dequantize code, scale, zero`: `fma(scale, code as f32, zero)`.
pub struct ExpandQuant;

impl Pass for ExpandQuant {
    fn name(&self) -> &'static str {
        "expand_quant"
    }

    fn run(&self, func: &mut Func, _: &mut Facts) -> Result<bool, Diagnostics> {
        let found = func.walk().into_iter().any(|i| is_quant(&func.inst(i).op));
        if found {
            block(func, func.entry());
        }
        Ok(found)
    }
}

fn is_quant(op: &Op) -> bool {
    matches!(op, Op::Quantize | Op::Dequantize)
}

fn block(func: &mut Func, at: Block) {
    let insts = std::mem::take(func.block_insts_mut(at));
    let mut out = Vec::with_capacity(insts.len());
    for inst in insts {
        for region in func.inst(inst).regions.clone() {
            block(func, region);
        }
        match func.inst(inst).op {
            Op::Quantize => quantize(&mut Emit { func, out: &mut out, inst }),
            Op::Dequantize => dequantize(&mut Emit { func, out: &mut out, inst }),
            _ => out.push(inst),
        }
    }
    *func.block_insts_mut(at) = out;
}

/// Emits ops in place of one.
struct Emit<'a> {
    func: &'a mut Func,
    out: &'a mut Vec<Inst>,
    inst: Inst,
}

impl Emit<'_> {
    fn op(&mut self, op: Op, operands: &[Value], wanted: Option<&Type>) -> Value {
        let types: Vec<&Type> = operands.iter().map(|&v| self.func.ty(v)).collect();
        let types = infer::result_types(&op, &types, wanted).expect("the expansion keeps the typing rules");
        let loc: Loc = self.func.inst(self.inst).loc;
        let inst = self.func.make_inst(op, operands, &types, &[], loc);
        self.out.push(inst);
        self.func.result(inst)
    }

    /// The last op, which takes over the results of the replaced one, so that no use changes.
    fn finish(&mut self, op: Op, operands: &[Value]) {
        let data = self.func.inst_mut(self.inst);
        data.op = op;
        data.operands = operands.into();
        self.out.push(self.inst);
    }
}

fn quantize(e: &mut Emit<'_>) {
    let operands = e.func.inst(e.inst).operands.clone();
    let (x, scale, zero) = (operands[0], operands[1], operands[2]);
    let float = e.func.ty(x).clone();
    let Dtype::Code(bits) = e.func.ty(e.func.result(e.inst)).dtype() else {
        unreachable!("`quantize` gives codes: the verifier checked it")
    };
    let nought = e.op(Op::Constant(Const::float(0.0)), &[], Some(&float));
    let top = e.op(Op::Constant(Const::float(f64::from((1u32 << bits) - 1))), &[], Some(&float));
    let above = e.op(Op::Binary(BinaryOp::Sub), &[x, zero], None);
    let quotient = e.op(Op::Binary(BinaryOp::Div), &[above, scale], None);
    let rounded = e.op(Op::Unary(UnaryOp::Round), &[quotient], None);
    let floored = e.op(Op::Binary(BinaryOp::Max), &[rounded, nought], None);
    let limited = e.op(Op::Binary(BinaryOp::Min), &[floored, top], None);
    let flat = e.op(Op::Cmp(CmpOp::Eq), &[scale, nought], None);
    let chosen = e.op(Op::Select, &[flat, nought, limited], None);
    let number = e.op(Op::Cast, &[chosen], Some(&float.with_dtype(Dtype::I32)));
    e.finish(Op::Cast, &[number]);
}

fn dequantize(e: &mut Emit<'_>) {
    let operands = e.func.inst(e.inst).operands.clone();
    let (code, scale, zero) = (operands[0], operands[1], operands[2]);
    let float = e.func.ty(scale).clone();
    let number = e.op(Op::Cast, &[code], Some(&float));
    e.finish(Op::Fma, &[scale, number, zero]);
}
