//! `for`, `while` and `if`. Scalars and pointers are carried in registers; tiles lie in two buffers each, of which one is read
//! and the other written, so that a yielded tile never overwrites what another one is still computed from.

use super::super::build::{Bb, Elem, IntCmp, V};
use super::{Buf, CodegenError, Emit, Val, register};
use crate::ir::{Block, Def, Dtype, Inst, Op, Value};

/// Where a carried value lives.
enum Carried {
    /// In a register.
    Scalar,
    /// In memory: the extents and type, as a buffer at the first place, and the second place.
    Tile(Buf, V),
}

impl Emit<'_, '_> {
    /// The places for carried values with these initial values; tiles are evaluated into their first buffer.
    fn carry(&mut self, inits: &[Value]) -> Result<Vec<Carried>, CodegenError> {
        let mut out = Vec::new();
        for &init in inits {
            let ty = self.f.ty(init);
            if ty.is_ptr() || ty.is_scalar() {
                out.push(Carried::Scalar);
                continue;
            }
            let (dtype, shape) = ty.as_tile().expect("carried values are tiles, scalars or pointers");
            let (shape, elements) = (shape.clone(), shape.elements());
            let buf = Buf { ptr: self.alloc(dtype, elements), dtype, shape };
            let spare = self.alloc(dtype, elements);
            self.fill(&buf, init)?;
            out.push(Carried::Tile(buf, spare));
        }
        Ok(out)
    }

    /// The register form of a carried value's initial state: the scalar, or the pointer to the tile.
    fn initial(&self, carried: &Carried, init: Value) -> Result<V, CodegenError> {
        match carried {
            Carried::Scalar => self.scalar(init),
            Carried::Tile(buf, _) => Ok(buf.ptr),
        }
    }

    /// Binds a value to its carried state.
    fn bind(&mut self, value: Value, carried: &Carried, state: V) {
        match carried {
            Carried::Scalar => self.env[value] = Some(Val::scalar(state)),
            Carried::Tile(buf, _) => self.bufs[value] = Some(Buf { ptr: state, ..buf.clone() }),
        }
    }

    /// Asks for the tiles that a block yields to be made in place, where an op of that very block makes them.
    fn hint(&mut self, block: Block, places: &[Option<V>]) {
        let Some(end) = self.f.terminator(block) else { return };
        for (&value, &place) in self.f.inst(end).operands.iter().zip(places) {
            let Def::Result(inst, _) = self.f.value(value).def else { continue };
            let here = self.f.block(block).insts.contains(&inst);
            let structured = matches!(self.f.inst(inst).op, Op::For { .. } | Op::While | Op::If);
            if let Some(place) = place
                && here
                && !structured
            {
                self.hints[value] = Some(place);
            }
        }
    }

    /// The state to carry on for a yielded value: the scalar, or the place of the tile, into which it is evaluated unless it
    /// was made there.
    fn yielded(&mut self, carried: &Carried, value: Value, place: Option<V>) -> Result<V, CodegenError> {
        let (Carried::Tile(buf, _), Some(place)) = (carried, place) else { return self.scalar(value) };
        let in_place = self.bufs[value].as_ref().is_some_and(|made| made.ptr == place);
        if !in_place {
            self.fill(&Buf { ptr: place, ..buf.clone() }, value)?;
        }
        Ok(place)
    }

    pub(super) fn emit_for(&mut self, inst: Inst) -> Result<(), CodegenError> {
        let data = self.f.inst(inst);
        let body = data.regions[0];
        let iv_type = self.f.ty(data.operands[0]).dtype();
        let wide = |me: &mut Self, i: usize| -> Result<V, CodegenError> {
            let val = Val::scalar(me.scalar(data.operands[i])?);
            Ok(me.cast(iv_type, Dtype::I64, val)?.v)
        };
        let (lower, upper, step) = (wide(self, 0)?, wide(self, 1)?, wide(self, 2)?);
        let inits = &data.operands[3..];
        let carried = self.carry(inits)?;
        let starts =
            carried.iter().zip(inits).map(|(c, &i)| self.initial(c, i)).collect::<Result<Vec<V>, _>>()?;

        let zero = self.b.index(0);
        // A step that is not positive would never end: such a loop does not run.
        let runs = self
            .b
            .and(self.b.icmp(IntCmp::LLVMIntSLT, lower, upper), self.b.icmp(IntCmp::LLVMIntSGT, step, zero));
        let before = self.b.here();
        let (head, exit) = (self.b.block(), self.b.block());
        self.b.branch(runs, head, exit);
        self.b.enter(head);
        let index = self.b.phi(self.b.elem(Elem::I64, 1));
        self.b.incoming(index, lower, before);
        let phi = |me: &Self, start: V| {
            let phi = me.b.phi(me.b.ty(start));
            me.b.incoming(phi, start, before);
            phi
        };
        let states: Vec<V> = starts.iter().map(|&start| phi(self, start)).collect();
        let spares: Vec<Option<V>> = carried
            .iter()
            .map(|carried| match carried {
                Carried::Tile(_, spare) => Some(phi(self, *spare)),
                Carried::Scalar => None,
            })
            .collect();

        let outs = self.scoped(|me| {
            let params = me.f.block(body).params.clone();
            let iv = me.b.trunc(index, me.b.elem(register(iv_type), 1));
            me.env[params[0]] = Some(Val::scalar(iv));
            let around = me.look_ahead(body, index, step, upper, iv_type);
            for ((&param, carried), &state) in params[1..].iter().zip(&carried).zip(&states) {
                me.bind(param, carried, state);
            }
            me.hint(body, &spares);
            let yields = me.block(body)?;
            me.ahead = around;
            carried
                .iter()
                .zip(yields)
                .zip(&spares)
                .map(|((carried, value), &spare)| me.yielded(carried, value, spare))
                .collect::<Result<Vec<V>, CodegenError>>()
        })?;

        let latch = self.b.here();
        let next = self.b.add(index, step);
        let more = self
            .b
            .and(self.b.icmp(IntCmp::LLVMIntSLT, next, upper), self.b.icmp(IntCmp::LLVMIntSGT, next, index));
        self.b.branch(more, head, exit);
        self.b.incoming(index, next, latch);
        for (i, &out) in outs.iter().enumerate() {
            self.b.incoming(states[i], out, latch);
            if let Some(spare) = spares[i] {
                // What was read becomes what is written next.
                self.b.incoming(spare, states[i], latch);
            }
        }
        self.b.enter(exit);
        for (i, &result) in data.results.iter().enumerate() {
            let last = self.b.phi(self.b.ty(starts[i]));
            self.b.incoming(last, starts[i], before);
            self.b.incoming(last, outs[i], latch);
            self.bind(result, &carried[i], last);
        }
        Ok(())
    }

    pub(super) fn emit_while(&mut self, inst: Inst) -> Result<(), CodegenError> {
        let data = self.f.inst(inst);
        let (test, body) = (data.regions[0], data.regions[1]);
        let inits = &data.operands[..];
        let carried = self.carry(inits)?;
        let starts =
            carried.iter().zip(inits).map(|(c, &i)| self.initial(c, i)).collect::<Result<Vec<V>, _>>()?;
        let before = self.b.here();
        let (head, into, exit) = (self.b.block(), self.b.block(), self.b.block());
        self.b.jump(head);
        self.b.enter(head);
        let states: Vec<V> = starts
            .iter()
            .map(|&start| {
                let phi = self.b.phi(self.b.ty(start));
                self.b.incoming(phi, start, before);
                phi
            })
            .collect();
        for ((&param, carried), &state) in self.f.block(test).params.clone().iter().zip(&carried).zip(&states)
        {
            self.bind(param, carried, state);
        }
        // The test reads the first places and gives its tiles in places of their own, which the body reads.
        let test_yields = self.f.terminator(test).map(|end| self.f.inst(end).operands.to_vec());
        let test_yields = test_yields
            .ok_or_else(|| CodegenError::Malformed("a `while` region without a yield".to_owned()))?;
        let mut middle = Vec::new();
        for &value in &test_yields[1..] {
            let ty = self.f.ty(value);
            middle.push(match ty.as_tile() {
                Some((dtype, shape)) if shape.rank() > 0 => {
                    let (shape, elements) = (shape.clone(), shape.elements());
                    let ptr = self.alloc(dtype, elements);
                    Carried::Tile(Buf { ptr, dtype, shape }, ptr)
                }
                _ => Carried::Scalar,
            });
        }
        let (cond, passed) = self.scoped(|me| {
            let yields = me.block(test)?;
            let cond = me.scalar(yields[0])?;
            let mut passed = Vec::new();
            for (carried, &value) in middle.iter().zip(&yields[1..]) {
                let place = match carried {
                    Carried::Tile(buf, _) => Some(buf.ptr),
                    Carried::Scalar => None,
                };
                passed.push(me.yielded(carried, value, place)?);
            }
            Ok::<_, CodegenError>((cond, passed))
        })?;
        self.b.branch(cond, into, exit);
        self.b.enter(into);
        let outs = self.scoped(|me| {
            let params = me.f.block(body).params.clone();
            for ((&param, carried), &state) in params.iter().zip(&middle).zip(&passed) {
                me.bind(param, carried, state);
            }
            let yields = me.block(body)?;
            carried
                .iter()
                .zip(yields)
                .map(|(carried, value)| {
                    let place = match carried {
                        Carried::Tile(buf, _) => Some(buf.ptr),
                        Carried::Scalar => None,
                    };
                    me.yielded(carried, value, place)
                })
                .collect::<Result<Vec<V>, CodegenError>>()
        })?;
        let latch = self.b.here();
        self.b.jump(head);
        for (&state, &out) in states.iter().zip(&outs) {
            self.b.incoming(state, out, latch);
        }
        self.b.enter(exit);
        for ((&result, carried), &state) in data.results.iter().zip(&middle).zip(&passed) {
            self.bind(result, carried, state);
        }
        Ok(())
    }

    pub(super) fn emit_if(&mut self, inst: Inst) -> Result<(), CodegenError> {
        let data = self.f.inst(inst);
        let cond = self.scalar(data.operands[0])?;
        let (yes, no, exit) = (self.b.block(), self.b.block(), self.b.block());
        let mut places = Vec::new();
        for &result in &data.results {
            let ty = self.f.ty(result);
            places.push(if ty.is_ptr() || ty.is_scalar() {
                (Carried::Scalar, None)
            } else {
                let kept =
                    self.plan.taken_over(result).and_then(|value| Some((value, self.bufs[value].clone()?)));
                let buf = match &kept {
                    Some((_, buf)) => buf.clone(),
                    None => self.alloc_for(result),
                };
                let ptr = buf.ptr;
                (Carried::Tile(buf, ptr), kept.map(|(value, _)| value))
            });
        }
        self.b.branch(cond, yes, no);
        let mut arms: Vec<(Vec<V>, Bb)> = Vec::new();
        for (entry, &region) in [yes, no].into_iter().zip(&data.regions) {
            self.b.enter(entry);
            let outs = self.scoped(|me| me.arm(region, &places))?;
            arms.push((outs, self.b.here()));
            self.b.jump(exit);
        }
        self.b.enter(exit);
        for (i, &result) in data.results.iter().enumerate() {
            let (carried, _) = &places[i];
            let state = match carried {
                Carried::Tile(buf, _) => buf.ptr,
                Carried::Scalar => {
                    let phi = self.b.phi(self.b.ty(arms[0].0[i]));
                    for (outs, from) in &arms {
                        self.b.incoming(phi, outs[i], *from);
                    }
                    phi
                }
            };
            self.bind(result, carried, state);
        }
        Ok(())
    }

    /// One region of an `if` whose results lie in `places`, some of them in the memory of a value from outside: what replaces one of these is
    /// written there last, when nothing is computed from it any more.
    fn arm(&mut self, region: Block, places: &[(Carried, Option<Value>)]) -> Result<Vec<V>, CodegenError> {
        let yields = self.block(region)?;
        let mut outs = Vec::new();
        let mut late = Vec::new();
        for ((carried, kept), value) in places.iter().zip(yields) {
            outs.push(match carried {
                Carried::Scalar => self.scalar(value)?,
                Carried::Tile(buf, place) => {
                    if *kept == Some(value) {
                    } else if kept.is_some() {
                        let made = Buf { ptr: self.alloc(buf.dtype, buf.shape.elements()), ..buf.clone() };
                        self.fill(&made, value)?;
                        late.push((buf, made));
                    } else {
                        self.yielded(carried, value, Some(*place))?;
                    }
                    *place
                }
            });
        }
        for (buf, made) in late {
            let shape = buf.shape.clone();
            self.elements(&shape, &mut |me, point, lanes| {
                let val = me.read(&made, point, lanes)?;
                me.write(buf, point, lanes, val);
                Ok(())
            })?;
        }
        Ok(outs)
    }
}
