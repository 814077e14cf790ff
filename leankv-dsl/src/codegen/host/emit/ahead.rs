//! What the next turn of a loop reads, asked for a turn ahead.
//!
//! A processor foresees addresses that follow each other. Those that are looked up, as a page's in a table, it learns of when they are needed, and
//! then waits. So wherever a loop's body computes a pointer from its counter and from something that it looks up, the same is computed for the
//! next turn, and where the body has loads through such a pointer the memory behind the next one is prefetched.

use super::super::build::{Elem, IntCmp, V};
use super::{CodegenError, Emit, Point, Val, memory_elem, register};
use crate::ir::{Block, Def, Dtype, Inst, Op, SideTable, Value};

/// Bytes of a cache line.
const LINE: u64 = 64;

/// The most lines that are asked for at once, about half of what the innermost cache holds.
const MOST_LINES: u64 = 256;

/// What a loop's values are in its next turn.
#[derive(Default)]
pub(super) struct Ahead {
    /// The loop's body.
    body: Option<Block>,
    /// Values that depend on the counter, and whether anything was looked up for them.
    values: SideTable<Value, Option<(V, bool)>>,
}

impl Emit<'_, '_> {
    /// Starts to look ahead in a loop's body; gives what to come back to at its end. The turn after the last one is the last one.
    pub(super) fn look_ahead(&mut self, body: Block, index: V, step: V, upper: V, dtype: Dtype) -> Ahead {
        let next = self.b.add(index, step);
        let more = self.b.icmp(IntCmp::LLVMIntSLT, next, upper);
        let next = self.b.select(more, next, index);
        let next = self.b.trunc(next, self.b.elem(register(dtype), 1));
        let mut ahead = Ahead { body: Some(body), ..Ahead::default() };
        ahead.values[self.f.block(body).params[0]] = Some((next, false));
        std::mem::replace(&mut self.ahead, ahead)
    }

    /// Computes a scalar for the next turn, if it is another one there.
    pub(super) fn scalar_ahead(&mut self, block: Block, inst: Inst) -> Result<(), CodegenError> {
        let data = self.f.inst(inst);
        let moves = data.operands.iter().any(|&v| self.ahead.values[v].is_some());
        let known = data.operands.iter().all(|&v| self.ahead.values[v].is_some() || self.stays(block, v));
        let mut looked_up = matches!(data.op, Op::Load { .. });
        // What is written this turn is another thing in the next one, and no address before.
        let readable = !looked_up || self.f.loads_unwritten(inst);
        let plain = data.regions.is_empty() && data.results.len() == 1;
        if self.ahead.body != Some(block) || !moves || !known || !readable || !plain {
            return Ok(());
        }
        let now: Vec<Option<Val>> = data.operands.iter().map(|&v| self.env[v]).collect();
        for &operand in &data.operands {
            if let Some((v, found)) = self.ahead.values[operand] {
                looked_up |= found;
                self.env[operand] = Some(Val::scalar(v));
            }
        }
        let then = self.scoped(|me| me.compute(inst, 0, &Point::new(), 1));
        for (&operand, now) in data.operands.iter().zip(now) {
            self.env[operand] = now;
        }
        self.ahead.values[data.results[0]] = Some((then?.v, looked_up));
        Ok(())
    }

    /// Whether a value is the same in all turns of the loop whose body this is.
    fn stays(&self, body: Block, value: Value) -> bool {
        match self.f.value(value).def {
            Def::Param(block, _) => block != body,
            Def::Result(inst, _) => {
                matches!(self.f.inst(inst).op, Op::Constant(_)) || !self.f.block(body).insts.contains(&inst)
            }
        }
    }

    /// Asks for what a load of the next turn reads.
    pub(super) fn prefetch(&mut self, block: Block, inst: Inst) -> Result<(), CodegenError> {
        let data = self.f.inst(inst);
        if !matches!(data.op, Op::Load { .. }) {
            return Ok(());
        }
        let Some((from, true)) = self.ahead.values[data.operands[0]] else { return Ok(()) };
        let ty = self.f.ty(data.results[0]);
        let elements = ty.shape().map_or(1, |shape| shape.elements());
        let lines = (elements * memory_elem(ty.dtype()).bytes()).div_ceil(LINE);
        if self.ahead.body != Some(block) || lines > MOST_LINES {
            return Ok(());
        }
        let function = self.b.declared("llvm.prefetch", &[self.b.elem(Elem::Ptr, 1)])?;
        let number = |me: &Self, value| me.b.int(Elem::I32, 1, value);
        // To be read, by data accesses, and more than once.
        let how = [number(self, 0), number(self, 3), number(self, 1)];
        let at_once = 8;
        let ask = |me: &mut Self, line: V| {
            let at = me.b.offset(from, Elem::I8, me.b.mul(line, me.b.index(LINE)));
            me.b.call(function, &[at, how[0], how[1], how[2]]);
        };
        let whole = lines / at_once * at_once;
        if whole > 0 {
            self.repeat(0, whole, at_once, &[], |me, line, _| {
                for more in 0..at_once {
                    ask(me, me.b.add(line, me.b.index(more)));
                }
                Ok(Vec::new())
            })?;
        }
        for line in whole..lines {
            ask(self, self.b.index(line));
        }
        Ok(())
    }
}
