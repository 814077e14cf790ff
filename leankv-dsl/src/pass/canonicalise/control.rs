//! Loops and branches.

use super::*;
use crate::pass::dce::remove_carried;

impl Walk<'_> {
    pub(super) fn for_loop(&mut self, inst: Inst) -> Rewrite {
        let data = self.func.inst(inst);
        let region = data.regions[0];
        let Some(end) = self.func.terminator(region) else { return Rewrite::Keep };
        for index in (0..data.results.len()).rev() {
            let init = self.func.inst(inst).operands[3 + index];
            let param = self.func.block(region).params[1 + index];
            let next = self.resolve(self.func.inst(end).operands[index]);
            if next == param || next == init {
                self.carry_no_more(inst, index, init, &[param]);
                remove_carried(self.func, inst, index, 3, &[1], &[0]);
            }
        }
        let data = self.func.inst(inst).clone();
        let bounds = [0, 1, 2].map(|i| self.int(data.operands[i]));
        let [Some(lower), Some(upper), Some(step)] = bounds else { return Rewrite::Keep };
        if lower >= upper {
            return Rewrite::To(data.operands[3..].into());
        }
        if step <= 0 || lower + step < upper {
            return Rewrite::Keep;
        }
        let mut entering = vec![data.operands[0]];
        entering.extend(&data.operands[3..]);
        Rewrite::To(self.dissolve(region, &entering))
    }

    pub(super) fn while_loop(&mut self, inst: Inst) -> Rewrite {
        let data = self.func.inst(inst);
        let (test, body) = (data.regions[0], data.regions[1]);
        let ends = (self.func.terminator(test), self.func.terminator(body));
        let (Some(test_end), Some(body_end)) = ends else { return Rewrite::Keep };
        for index in (0..data.results.len()).rev() {
            let init = self.func.inst(inst).operands[index];
            let params = [test, body].map(|region| self.func.block(region).params[index]);
            let tested = self.resolve(self.func.inst(test_end).operands[1 + index]);
            let next = self.resolve(self.func.inst(body_end).operands[index]);
            let unchanged = |v: Value| v == init || params.contains(&v);
            if unchanged(tested) && unchanged(next) {
                self.carry_no_more(inst, index, init, &params);
                remove_carried(self.func, inst, index, 0, &[0, 0], &[1, 0]);
            }
        }
        let condition = self.resolve(self.func.inst(test_end).operands[0]);
        if self.int(condition) != Some(0) {
            return Rewrite::Keep;
        }
        // The condition runs once and says no.
        let entering = self.func.inst(inst).operands.clone();
        let yielded = self.dissolve(test, &entering);
        Rewrite::To(yielded[1..].into())
    }

    pub(super) fn branch(&mut self, inst: Inst) -> Rewrite {
        let data = self.func.inst(inst).clone();
        if let Some(condition) = self.int(data.operands[0]) {
            let taken = data.regions[usize::from(condition != 1)];
            return Rewrite::To(self.dissolve(taken, &[]));
        }
        let ends = (self.func.terminator(data.regions[0]), self.func.terminator(data.regions[1]));
        let (Some(yes), Some(no)) = ends else { return Rewrite::Keep };
        for index in (0..data.results.len()).rev() {
            let [a, b] = [yes, no].map(|end| self.resolve(self.func.inst(end).operands[index]));
            let same = if a == b {
                Some(a)
            } else {
                match (self.func.constant(a), self.func.constant(b)) {
                    (Some(x), Some(y)) if x == y => {
                        let ty = self.func.ty(a).clone();
                        Some(self.constant(x, &ty, data.loc))
                    }
                    _ => None,
                }
            };
            if let Some(value) = same {
                self.carry_no_more(inst, index, value, &[]);
                remove_carried(self.func, inst, index, 1, &[], &[0, 0]);
            }
        }
        Rewrite::Keep
    }

    /// Lets `value` stand for a carried value inside and after the loop or branch.
    fn carry_no_more(&mut self, inst: Inst, index: usize, value: Value, params: &[Value]) {
        let result = self.func.inst(inst).results[index];
        for &from in params.iter().chain([&result]) {
            self.replace(from, value);
        }
        self.changed = true;
    }

    /// Puts a region's ops in place of the current op. What the region yields.
    fn dissolve(&mut self, region: Block, entering: &[Value]) -> SmallVec<[Value; 2]> {
        for (i, &value) in entering.iter().enumerate() {
            let param = self.func.block(region).params[i];
            self.replace(param, value);
        }
        let mut insts = std::mem::take(self.func.block_insts_mut(region));
        let end = insts.pop().expect("a region ends with a yield: the verifier checked it");
        for inst in insts {
            self.inst(inst);
        }
        let yielded = self.func.inst(end).operands.clone();
        yielded.into_iter().map(|v| self.resolve(v)).collect()
    }
}
