//! Accesses whose lanes lie apart. Masks of such accesses often hold for few lanes or none (the lists that grow in a step, the pages that are dropped), so
//! a vector without any lane on is passed over, and a store does for each lane that is on what it takes.

use super::super::build::{Elem, IntCmp, V};
use super::{CodegenError, Emit};

impl Emit<'_, '_> {
    /// Whether any lane of a mask is on.
    fn any(&self, mask: V, lanes: u32) -> V {
        let bits = self.b.bitcast(mask, self.b.int_type(lanes, 1));
        self.b.icmp(IntCmp::LLVMIntNE, bits, self.b.zero(self.b.ty(bits)))
    }

    /// Elements at a vector of offsets, lane by lane: masked-off lanes read memory that is always zero.
    pub(super) fn gather(
        &mut self,
        elem: Elem,
        pointer: V,
        at: V,
        mask: Option<V>,
        lanes: u32,
        invariant: bool,
    ) -> Result<V, CodegenError> {
        let from = self.b.offset(pointer, elem, at);
        let read = |me: &Self, from: V| {
            let loaded: Vec<V> =
                (0..lanes).map(|lane| me.b.load(elem, 1, me.b.lane(from, lane), invariant)).collect();
            me.b.gather_lanes(&loaded)
        };
        let Some(mask) = mask else { return Ok(read(self, from)) };
        let some = self.any(mask, lanes);
        self.either(
            some,
            |me| Ok(read(me, me.b.select(mask, from, me.b.splat(me.scratch, lanes)))),
            |me| Ok(me.b.zero(me.b.elem(elem, lanes))),
        )
    }

    /// Stores lanes at a vector of offsets: all of them one after another, or those of a mask, by its bits.
    pub(super) fn scatter(
        &mut self,
        elem: Elem,
        pointer: V,
        at: V,
        raw: V,
        mask: Option<V>,
        lanes: u32,
    ) -> Result<(), CodegenError> {
        let mask = mask.unwrap_or_else(|| self.b.int(Elem::I1, lanes, 1));
        let offsets = self.alloc_bytes(u64::from(lanes) * 8);
        let values = self.alloc_bytes(u64::from(lanes) * elem.bytes());
        let put = |me: &Self, lane: V| {
            let to = me.b.load(Elem::I64, 1, me.b.offset(offsets, Elem::I64, lane), false);
            let value = me.b.load(elem, 1, me.b.offset(values, elem, lane), false);
            me.b.store(elem, value, me.b.offset(pointer, elem, to));
        };
        let bits = self.b.bitcast(mask, self.b.int_type(lanes, 1));
        let all = self.b.icmp(
            IntCmp::LLVMIntEQ,
            bits,
            self.b.bitcast(self.b.int(Elem::I1, lanes, 1), self.b.ty(bits)),
        );
        let bits = self.b.zext(bits, self.b.elem(Elem::I64, 1));
        let zero = self.b.index(0);
        let block = || self.b.block();
        let (some, every, few, head, exit) = (block(), block(), block(), block(), block());
        self.b.branch(self.b.icmp(IntCmp::LLVMIntNE, bits, zero), some, exit);
        self.b.enter(some);
        self.b.store(Elem::I64, at, offsets);
        self.b.store(elem, raw, values);
        self.b.branch(all, every, few);
        self.b.enter(every);
        for lane in 0..lanes {
            put(self, self.b.index(lane.into()));
        }
        self.b.jump(exit);
        self.b.enter(few);
        self.b.jump(head);
        self.b.enter(head);
        let left = self.b.phi(self.b.ty(bits));
        self.b.incoming(left, bits, few);
        let never_zero = self.b.int(Elem::I1, 1, 1);
        let lane = self.b.intrinsic("llvm.cttz", &[self.b.ty(left)], &[left, never_zero])?;
        put(self, lane);
        let next = self.b.and(left, self.b.sub(left, self.b.index(1)));
        self.b.incoming(left, next, head);
        self.b.branch(self.b.icmp(IntCmp::LLVMIntNE, next, zero), head, exit);
        self.b.enter(exit);
        Ok(())
    }
}
