//! `assert` and `print`, through the callback table.

use super::super::abi::{ASSERT_SLOT, PRINT_SLOT};
use super::super::build::{Elem, V};
use super::super::{Site, SiteOperand};
use super::{Buf, CodegenError, Emit, Point, Val};
use crate::ir::{Inst, Op};

impl Emit<'_, '_> {
    fn callback(&self, slot: u64) -> V {
        let at = self.b.offset(self.callbacks, Elem::Ptr, self.b.index(slot));
        self.b.load(Elem::Ptr, 1, at, true)
    }

    fn site(&mut self, site: Site) -> V {
        self.sites.push(site);
        self.b.int(Elem::I32, 1, self.sites.len() as i64 - 1)
    }

    /// Where an element is false, reports and ends the program.
    pub(super) fn emit_assert(&mut self, inst: Inst) -> Result<(), CodegenError> {
        let data = self.f.inst(inst);
        let Op::Assert { message } = &data.op else {
            return Err(CodegenError::Malformed("not an assertion".to_owned()));
        };
        let site = self.site(Site {
            assert: true,
            text: message.clone(),
            loc: data.loc.to_string(),
            operands: Vec::new(),
        });
        let cond = data.operands[0];
        let shape = self.f.ty(cond).shape().expect("assert takes a tile").clone();
        self.elements(&shape, &mut |me, point: &Point, lanes| {
            let val = me.eval(cond, point, lanes)?;
            let mut holds = val.v;
            if val.lanes > 1 {
                let ty = me.b.ty(val.v);
                holds = me.b.intrinsic("llvm.vector.reduce.and", &[ty], &[val.v])?;
            }
            let (fails, after) = (me.b.block(), me.b.block());
            me.b.branch(holds, after, fails);
            me.b.enter(fails);
            let callback = me.callback(ASSERT_SLOT);
            me.b.call_pointer(callback, None, &[me.callbacks, site]);
            me.b.ret(me.b.int(Elem::I32, 1, 1));
            me.b.enter(after);
            Ok(())
        })
    }

    /// Hands each operand's elements to the runner.
    pub(super) fn emit_print(&mut self, inst: Inst) -> Result<(), CodegenError> {
        let data = self.f.inst(inst);
        let Op::Print { prefix } = &data.op else {
            return Err(CodegenError::Malformed("not a print".to_owned()));
        };
        let operands = data.operands.iter().map(|&value| SiteOperand::of(self.f.ty(value))).collect();
        let site =
            self.site(Site { assert: false, text: prefix.clone(), loc: data.loc.to_string(), operands });
        for (index, &value) in data.operands.iter().enumerate() {
            let (dtype, shape) = self.f.ty(value).as_tile().expect("print takes tiles");
            let (shape, elements) = (shape.clone(), shape.elements());
            let ptr = match self.bufs[value].clone() {
                Some(made) => made.ptr,
                None => {
                    let buf = Buf { ptr: self.alloc(dtype, elements), dtype, shape };
                    if buf.shape.rank() == 0 {
                        let v = self.scalar(value)?;
                        self.write(&buf, &Point::new(), 1, Val::scalar(v));
                    } else {
                        self.fill(&buf, value)?;
                    }
                    buf.ptr
                }
            };
            let callback = self.callback(PRINT_SLOT);
            let index = self.b.int(Elem::I32, 1, index as i64);
            self.b.call_pointer(callback, None, &[self.callbacks, site, index, ptr]);
        }
        Ok(())
    }
}
