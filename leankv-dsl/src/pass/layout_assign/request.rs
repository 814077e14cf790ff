//! Backwards: what layouts consumers would like their operands to have.

use crate::ir::{Block, Func, Inst, Op, Value};
use crate::layout::LinearLayout;

use super::memory;
use super::pull::pull;
use super::{Pass, needs_layout};

/// Priority of a dot's wish.
const DOT: u8 = 2;
/// Priority of an address's wish.
const ADDRESS: u8 = 1;

impl Pass {
    pub(super) fn request_block(&mut self, func: &Func, block: Block) {
        for &inst in func.block(block).insts.iter().rev() {
            self.request_inst(func, inst);
        }
    }

    fn request(&mut self, func: &Func, value: Value, priority: u8, layout: LinearLayout) {
        if needs_layout(func, value) && self.requests[value].as_ref().is_none_or(|(old, _)| *old < priority) {
            self.requests[value] = Some((priority, layout));
        }
    }

    fn forward(&mut self, func: &Func, from: Value, to: Value) {
        if let Some((priority, layout)) = self.requests[from].clone() {
            self.request(func, to, priority, layout);
        }
    }

    fn request_inst(&mut self, func: &Func, inst: Inst) {
        let data = func.inst(inst);
        match &data.op {
            Op::Dot => {
                if let Some(layouts) = self.out.dots.get(&inst).cloned() {
                    for (&value, layout) in data.operands.iter().zip(layouts) {
                        self.request(func, value, DOT, layout);
                    }
                }
            }
            Op::Load { .. } if needs_layout(func, data.results[0]) => {
                if !self.is_small(func.ty(data.results[0])) {
                    let layout = self.choose_load(func, inst);
                    for &operand in &data.operands[1..] {
                        self.request(func, operand, ADDRESS, layout.clone());
                    }
                    self.loads.insert(inst, layout);
                }
            }
            Op::For { .. } => {
                let body = data.regions[0];
                let yields = func.terminator(body).map(|t| func.inst(t).operands.clone()).unwrap_or_default();
                let params = &func.block(body).params[1..];
                for (&result, &last) in data.results.iter().zip(&yields) {
                    self.forward(func, result, last);
                }
                // Twice, since a wish inside the body reaches carried values and from there the end of the body.
                for _ in 0..2 {
                    self.request_block(func, body);
                    for (&param, &last) in params.iter().zip(&yields) {
                        self.forward(func, param, last);
                        self.forward(func, last, param);
                    }
                }
                for (&param, &init) in params.iter().zip(&data.operands[3..]) {
                    self.forward(func, param, init);
                }
            }
            Op::If => {
                for &region in &data.regions {
                    let yields =
                        func.terminator(region).map(|t| func.inst(t).operands.clone()).unwrap_or_default();
                    for (&result, &last) in data.results.iter().zip(&yields) {
                        self.forward(func, result, last);
                    }
                    self.request_block(func, region);
                }
            }
            Op::While => {
                for &region in data.regions.iter().rev() {
                    self.request_block(func, region);
                }
                for (&param, &init) in func.block(data.regions[0]).params.iter().zip(&data.operands) {
                    self.forward(func, param, init);
                }
            }
            _ => {
                let Some(&result) = data.results.first() else { return };
                let Some((priority, layout)) = self.requests[result].clone() else { return };
                for (i, &operand) in data.operands.iter().enumerate() {
                    if let Some(wanted) = pull(func, data, i, &layout) {
                        self.request(func, operand, priority, wanted);
                    }
                }
            }
        }
    }

    /// The fragment's layout when that still loads whole words, else the coalesced one.
    fn choose_load(&self, func: &Func, inst: Inst) -> LinearLayout {
        let data = func.inst(inst);
        let best = self.coalesced(func, inst);
        let Some((DOT, wanted)) = self.requests[data.results[0]].clone() else { return best };
        let access = self.access(func, inst);
        let bytes = func.ty(data.results[0]).dtype().bytes().unwrap_or(1);
        let width = bytes << memory::vector_bits(&wanted, &access);
        let widest = bytes << memory::vector_bits(&best, &access);
        // Each copy is a load more; a few of a word or more each still beat a trip through shared memory.
        if width >= widest.min(4) && wanted.copies() <= 4 { wanted } else { best }
    }
}
