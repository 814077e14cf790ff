//! What regions take and yield, and what may stand in them.

use super::{CONSTRAINTS, LOOP, REGION, REGION_EFFECT, type_list};
use crate::diag::{Diagnostic, Diagnostics};
use crate::ir::entity::Entity;
use crate::ir::{Block, Combine, Const, Dtype, Effect, Func, Inst, Op, Type, Value};

/// Checks the regions of an op that has as many as it should and whose operands exist.
pub(super) fn check(func: &Func, inst: Inst, out: &mut Diagnostics) {
    let data = func.inst(inst);
    let mut checker = Checker { func, inst, out };
    let types = |values: &[Value]| -> Vec<Type> { values.iter().map(|&v| func.ty(v).clone()).collect() };
    let scalars = |values: &[Value]| -> Vec<Type> {
        values.iter().map(|&v| Type::scalar(func.ty(v).dtype())).collect()
    };
    match &data.op {
        Op::For { stages } => {
            if data.operands.len() < 3 {
                return;
            }
            checker.bounds(*stages);
            let carried = types(&data.operands[3..]);
            let mut params = vec![func.ty(data.operands[0]).clone()];
            params.extend(carried.iter().cloned());
            checker.region(0, "the body", &params, &carried);
            checker.results(&carried);
        }
        Op::While => {
            let carried = types(&data.operands);
            let mut condition = vec![Type::scalar(Dtype::I1)];
            condition.extend(carried.iter().cloned());
            checker.region(0, "the condition", &carried, &condition);
            checker.region(1, "the body", &carried, &carried);
            checker.results(&carried);
        }
        Op::If => {
            if let Some(&condition) = data.operands.first()
                && *func.ty(condition) != Type::scalar(Dtype::I1)
            {
                checker.error(REGION, format!("`if` needs a scalar `i1`, not `{}`", func.ty(condition)));
            }
            let results = types(&data.results);
            checker.region(0, "the branch for true", &[], &results);
            checker.region(1, "the branch for false", &[], &results);
        }
        Op::Reduce { combine: Combine::Region, .. } | Op::Scan { combine: Combine::Region, .. } => {
            let elements = scalars(&data.operands);
            let both = [elements.clone(), elements.clone()].concat();
            checker.region(0, "the combination", &both, &elements);
            checker.pure();
        }
        Op::InlinePtx { constraints, asm } => {
            checker.region(0, "the meaning", &scalars(&data.operands), &scalars(&data.results));
            checker.pure();
            checker.constraints(constraints, asm);
        }
        _ => {}
    }
}

struct Checker<'a> {
    func: &'a Func,
    inst: Inst,
    out: &'a mut Diagnostics,
}

impl Checker<'_> {
    fn error(&mut self, code: &'static str, message: String) {
        self.out.push(Diagnostic::error(code, self.func.inst(self.inst).loc, message));
    }

    fn name(&self) -> &'static str {
        self.func.inst(self.inst).op.name()
    }

    /// Parameters and yielded values of a region.
    fn region(&mut self, index: usize, what: &str, params: &[Type], yields: &[Type]) {
        let func = self.func;
        let name = self.name();
        let block: Block = func.inst(self.inst).regions[index];
        if block.index() >= func.block_count() {
            return;
        }
        let found: Vec<&Type> = func.block(block).params.iter().map(|&v| func.ty(v)).collect();
        if !found.iter().copied().eq(params) {
            let message = format!("{what} of `{name}` takes {}, not {}", type_list(params), type_list(found));
            self.error(REGION, message);
        }
        let Some(end) = func.terminator(block) else { return };
        let operands = &func.inst(end).operands;
        // A value that does not exist was reported where it is used.
        if operands.iter().any(|v| v.index() >= func.value_count()) {
            return;
        }
        let found: Vec<&Type> = operands.iter().map(|&v| func.ty(v)).collect();
        if !found.iter().copied().eq(yields) {
            let message =
                format!("{what} of `{name}` yields {}, not {}", type_list(yields), type_list(found));
            self.out.push(Diagnostic::error(REGION, func.inst(end).loc, message));
        }
    }

    fn results(&mut self, want: &[Type]) {
        let func = self.func;
        let found: Vec<&Type> = func.inst(self.inst).results.iter().map(|&v| func.ty(v)).collect();
        if !found.iter().copied().eq(want) {
            let message = format!("`{}` gives {}, not {}", self.name(), type_list(want), type_list(found));
            self.error(super::RESULT, message);
        }
    }

    fn bounds(&mut self, stages: u8) {
        let operands = &self.func.inst(self.inst).operands;
        let bounds: Vec<&Type> = operands[..3].iter().map(|&v| self.func.ty(v)).collect();
        let counts = |ty: &Type| ty.is_scalar() && matches!(ty.dtype(), Dtype::I32 | Dtype::I64);
        let same = bounds[0] == bounds[1] && bounds[0] == bounds[2];
        if !same || !counts(bounds[0]) {
            let message = format!(
                "bounds and step of `for` are three scalars, all `i32` or all `i64`, not {}",
                type_list(bounds)
            );
            self.error(LOOP, message);
        }
        if let Some(Const::Int(step)) = self.func.constant(operands[2])
            && step <= 0
        {
            self.error(LOOP, format!("the step of `for` is {step}; it must be positive"));
        }
        if stages == 0 {
            self.error(LOOP, "`for` with 0 stages; 1 means no pipelining".to_owned());
        }
    }

    /// A region that runs once an element, in an unspecified order, must only compute.
    fn pure(&mut self) {
        let func = self.func;
        let name = self.name();
        for inner in &func.block(func.inst(self.inst).regions[0]).insts {
            let data = func.inst(*inner);
            // Effects of loops and branches inside are found through what stands in them; `while` counts as one.
            if !data.op.is_terminator() && shallow_effect(func, *inner) != Effect::None {
                let message =
                    format!("`{}` in the region of `{name}`, which may only compute", data.op.name());
                self.out.push(Diagnostic::error(REGION_EFFECT, data.loc, message));
            }
        }
    }

    /// `=r,r,f`: one result and one entry an operand; `$0`, `$1`.. in the instructions refer to them.
    fn constraints(&mut self, constraints: &str, asm: &str) {
        let count = self.func.inst(self.inst).operands.len();
        let entries: Vec<&str> = constraints.split(',').map(str::trim).collect();
        let result = entries[0].strip_prefix('=');
        let letter = |text: &str| matches!(text, "h" | "r" | "l" | "f" | "d" | "c" | "b" | "n");
        if !result.is_some_and(letter)
            || !entries[1..].iter().all(|e| letter(e))
            || entries.len() != count + 1
        {
            let message = format!(
                "the constraints \"{}\" do not name one result and {count} operands; write one of h, r, l, f, d for each, \
                 the result's first with `=`, as in \"=f,f\"",
                constraints.escape_debug()
            );
            self.error(CONSTRAINTS, message);
        }
        if let Some(bad) = references(asm).into_iter().find(|&n| n > count as u64) {
            self.error(
                CONSTRAINTS,
                format!("`${bad}` in the instructions, which have {count} operands ($1 to ${count})"),
            );
        }
    }
}

/// The effect of an op with its regions, to a depth that is bounded.
fn shallow_effect(func: &Func, inst: Inst) -> Effect {
    let data = func.inst(inst);
    if data.regions.is_empty() { data.op.effect() } else { func.effect(inst) }
}

/// The numbers after `$` in instructions; `$$` is a plain dollar.
fn references(asm: &str) -> Vec<u64> {
    let mut out = Vec::new();
    let mut chars = asm.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '$' || chars.next_if_eq(&'$').is_some() {
            continue;
        }
        chars.next_if_eq(&'{');
        let mut number = None;
        while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
            number = Some(number.unwrap_or(0u64).saturating_mul(10).saturating_add(digit.into()));
            chars.next();
        }
        out.extend(number);
    }
    out
}
