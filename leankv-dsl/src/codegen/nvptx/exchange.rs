//! Moving elements between threads: shuffles, and scratch in shared memory.

use inkwell::values::PointerValue;

use crate::ir::{Dtype, Inst, Op, Shape};
use crate::layout::{Conversion, LinearLayout, Route, Transposition, conversion_scratch};

use super::emit::{Emitted, Emitter, Repr};
use super::ir::{Val, vector_type};
use super::place::Cond;

/// Bytes of one element in shared memory.
pub(super) fn element_bytes(dtype: Dtype) -> u32 {
    crate::pass::layout_assign::stored_bytes(dtype).next_power_of_two()
}

/// More candidates a register than this, and shared memory is cheaper than shuffles.
const MAX_CHOICES: usize = 2;

impl<'c> Emitter<'c, '_> {
    pub(super) fn convert_layout(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let (operand, result) = (data.operands[0], data.results[0]);
        let (from, to) = (self.layout(operand), self.layout(result));
        let plan = Conversion::plan(from, to);
        let source = self.registers(operand).to_vec();
        let dtype = self.dtype(operand);
        if let Some(plan) = Transposition::plan(from, to).filter(|_| dtype.bits() == 16) {
            self.notes.push(format!("{}: layout conversion by transposing matrices", data.loc));
            let regs = self.transpose_matrices(&plan, to.register_count(), dtype, &source);
            self.set(result, Repr::Tile(regs));
            return Ok(());
        }
        let regs = match plan.route {
            Route::Registers => self.choose_registers(&plan, to, &source),
            Route::Shuffle if plan.choices().len() <= MAX_CHOICES => {
                self.notes.push(format!("{}: layout conversion by shuffles", data.loc));
                self.shuffle_registers(&plan, to, dtype, &source)?
            }
            _ => {
                self.notes.push(format!("{}: layout conversion through shared memory", data.loc));
                self.through_shared(from, to, dtype, &source)?
            }
        };
        self.set(result, Repr::Tile(regs));
        Ok(())
    }

    fn transpose_matrices(
        &self,
        plan: &Transposition,
        count: usize,
        dtype: Dtype,
        source: &[Val<'c>],
    ) -> Vec<Val<'c>> {
        let mut out = vec![self.ir.c32(0); count];
        for r in (0..count).filter(|r| r >> plan.rows & 1 == 0) {
            let from = crate::layout::f2::apply(&plan.registers, r as u32) as usize;
            let pair = [source[from], source[from | 1 << plan.columns]];
            let word = self.join_words(&pair, dtype, 32)[0];
            let text = "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;";
            // It has effects, so that it stays where all lanes are.
            let moved = self.ir.asm(text, "=r,r", &[self.ir.i32().into()], &[word], true);
            let halves = self.split_words(&moved, dtype, 2);
            (out[r], out[r | 1 << plan.rows]) = (halves[0], halves[1]);
        }
        out
    }

    /// The number, among the plan's choices, of the candidate that this thread takes: one truth value a choice.
    fn choice_bits(&self, plan: &Conversion) -> (Vec<u32>, Vec<Val<'c>>) {
        let choices = plan.choices();
        let span = crate::layout::f2::Span::of(choices.iter().copied());
        let coordinate = |register: u32| span.solve(register).expect("choices span all offsets") as u32;
        let lanes: Vec<u32> = plan.lanes.iter().map(|s| coordinate(s.register)).collect();
        let warps: Vec<u32> = plan.warps.iter().map(|s| coordinate(s.register)).collect();
        let (part, _) = self.thread_part(&lanes, &warps);
        let bits = (0..choices.len() as u32)
            .map(|i| match part {
                Some(part) => self.ir.resize(self.ir.lshr(part, i), self.ir.i1(), false),
                None => self.ir.bool(false),
            })
            .collect();
        (choices, bits)
    }

    /// `candidate(offset)` for the offset, in the span of the choices, that this thread has.
    fn by_choice(
        &self,
        choices: &[u32],
        bits: &[Val<'c>],
        candidate: &mut dyn FnMut(u32) -> Emitted<Val<'c>>,
    ) -> Emitted<Val<'c>> {
        let mut level: Vec<Val<'c>> = Vec::new();
        for i in 0..1u32 << choices.len() {
            level.push(candidate(crate::layout::f2::apply(choices, i))?);
        }
        for bit in bits {
            level = level.chunks(2).map(|pair| self.ir.select(*bit, pair[1], pair[0])).collect();
        }
        Ok(level[0])
    }

    fn choose_registers(&self, plan: &Conversion, to: &LinearLayout, source: &[Val<'c>]) -> Vec<Val<'c>> {
        let (choices, bits) = self.choice_bits(plan);
        (0..to.register_count() as u32)
            .map(|r| {
                let base = plan.register(r);
                self.by_choice(&choices, &bits, &mut |offset| Ok(source[(base ^ offset) as usize]))
                    .expect("choosing registers emits nothing that can fail")
            })
            .collect()
    }

    fn shuffle_registers(
        &mut self,
        plan: &Conversion,
        to: &LinearLayout,
        dtype: Dtype,
        source: &[Val<'c>],
    ) -> Emitted<Vec<Val<'c>>> {
        let (choices, bits) = self.choice_bits(plan);
        let lanes: Vec<u32> = plan.lanes.iter().map(|s| s.lane).collect();
        let warps: Vec<u32> = plan.warps.iter().map(|s| s.lane).collect();
        let thread = self.thread_part(&lanes, &warps);
        (0..to.register_count() as u32)
            .map(|r| {
                let lane = self.join_part(thread, plan.lane_of_register(r));
                let base = plan.register(r);
                self.by_choice(&choices, &bits, &mut |offset| {
                    self.shuffle(dtype, source[(base ^ offset) as usize], "idx", lane)
                })
            })
            .collect()
    }

    /// One element from another lane: `idx`, `bfly`, `up` or `down`.
    pub(super) fn shuffle(
        &self,
        dtype: Dtype,
        value: Val<'c>,
        mode: &str,
        lane: Val<'c>,
    ) -> Emitted<Val<'c>> {
        let ir = &self.ir;
        let bits = self.register_bits(dtype);
        let clamp = ir.c32(if mode == "up" { 0 } else { 31 });
        let shuffle = |word: Val<'c>| {
            ir.call(&format!("llvm.nvvm.shfl.sync.{mode}.i32"), &[], &[ir.c32(u32::MAX), word, lane, clamp])
        };
        if bits == 64 {
            let pair = ir.bitcast(value, ir.i32().vec_type(2).into());
            let (low, high) = (shuffle(ir.extract(pair, 0))?, shuffle(ir.extract(pair, 1))?);
            return Ok(ir.bitcast(ir.vector(&[low, high]), value.get_type()));
        }
        let raw = ir.bitcast(value, ir.int_type(bits).into());
        let moved = shuffle(ir.zext(raw, ir.i32()))?;
        Ok(ir.bitcast(ir.resize(moved, ir.int_type(bits), false), value.get_type()))
    }

    fn through_shared(
        &mut self,
        from: &LinearLayout,
        to: &LinearLayout,
        dtype: Dtype,
        source: &[Val<'c>],
    ) -> Emitted<Vec<Val<'c>>> {
        let bytes = element_bytes(dtype);
        let shared = conversion_scratch(from, to, bytes.trailing_zeros());
        let base = self.scratch(bytes << from.bits())?;
        let owner = self.owner(from.free_lanes(), from.free_warps());
        let groups = shared.vectors(from, bytes.trailing_zeros());
        let at = self.index_by(from, |flat| shared.offset(flat));
        for group in &groups.groups {
            let values: Vec<Val<'c>> = group.iter().map(|&r| source[r as usize]).collect();
            self.write_shared_vector(base, dtype, at[group[0] as usize], &values, owner);
        }
        self.barrier()?;
        let groups = shared.vectors(to, bytes.trailing_zeros());
        let at = self.index_by(to, |flat| shared.offset(flat));
        let mut out = vec![self.ir.c32(0); to.register_count()];
        for group in &groups.groups {
            let values = self.read_shared_vector(base, dtype, at[group[0] as usize], group.len());
            for (&r, value) in group.iter().zip(values) {
                out[r as usize] = value;
            }
        }
        Ok(out)
    }

    /// Reads consecutive elements; `at` counts elements.
    pub(super) fn read_shared_vector(
        &self,
        base: u32,
        dtype: Dtype,
        at: Val<'c>,
        count: usize,
    ) -> Vec<Val<'c>> {
        let offset = self.ir.mul(at, self.ir.c32(element_bytes(dtype)));
        self.read_vector(self.shared_at(base, offset), dtype, count)
    }

    /// Reads consecutive elements of shared memory.
    pub(super) fn read_vector(&self, pointer: PointerValue<'c>, dtype: Dtype, count: usize) -> Vec<Val<'c>> {
        let total = element_bytes(dtype) * count as u32;
        let word_bits = (total * 8).min(32);
        let words = total * 8 / word_bits;
        let word = self.ir.int_type(word_bits).into();
        if words == 1 {
            let value = self.ir.load(word, pointer, total);
            return self.split_words(&[value], dtype, count);
        }
        let value = self.ir.load(vector_type(word, words), pointer, total);
        let words: Vec<Val<'c>> = (0..words).map(|i| self.ir.extract(value, i)).collect();
        self.split_words(&words, dtype, count)
    }

    /// Writes consecutive elements; `at` counts elements.
    pub(super) fn write_shared_vector(
        &self,
        base: u32,
        dtype: Dtype,
        at: Val<'c>,
        values: &[Val<'c>],
        cond: Cond<'c>,
    ) {
        let bytes = element_bytes(dtype);
        let total = bytes * values.len() as u32;
        let word_bits = (total * 8).min(32);
        let words = self.join_words(values, dtype, word_bits);
        let offset = self.ir.mul(at, self.ir.c32(bytes));
        let pointer = self.shared_at(base, offset);
        let store = || {
            let value = if words.len() == 1 { words[0] } else { self.ir.vector(&words) };
            self.ir.store(pointer, value, total);
        };
        match cond {
            Cond::Never => {}
            Cond::Always => store(),
            Cond::If(c) => {
                let [yes, next] =
                    ["own", "own.end"].map(|name| self.ir.cx.append_basic_block(self.function, name));
                self.ir.cond_br(c, yes, next);
                self.ir.b.position_at_end(yes);
                store();
                self.ir.br(next);
                self.ir.b.position_at_end(next);
            }
        }
    }

    pub(super) fn read_shared(&self, base: u32, dtype: Dtype, at: Val<'c>) -> Val<'c> {
        self.read_shared_vector(base, dtype, at, 1)[0]
    }

    pub(super) fn write_shared(&self, base: u32, dtype: Dtype, at: Val<'c>, value: Val<'c>, cond: Cond<'c>) {
        self.write_shared_vector(base, dtype, at, &[value], cond);
    }

    /// Writes a tile's elements, without padding, each once, to the given places.
    pub(super) fn scatter_shared(
        &self,
        base: u32,
        layout: &LinearLayout,
        shape: &Shape,
        dtype: Dtype,
        values: &[Val<'c>],
        at: &[Val<'c>],
    ) {
        let inside = self.in_tile(layout, shape);
        let owner = self.owner(layout.free_lanes(), layout.free_warps());
        for ((&value, &at), cond) in values.iter().zip(at).zip(inside) {
            self.write_shared(base, dtype, at, value, self.both(cond, owner));
        }
    }

    pub(super) fn gather(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let Op::Gather { axis } = data.op else { unreachable!("internal error: this is a gather") };
        let axis = usize::from(axis);
        let (source, index, result) = (data.operands[0], data.operands[1], data.results[0]);
        let dtype = self.dtype(source);
        let shape = self.func.ty(source).shape().cloned().unwrap_or_default();
        let from = &self.plan.operand_layouts[&inst];
        let values = self.registers(source);
        let base = self.scratch(shape.elements() as u32 * element_bytes(dtype))?;
        let at = self.row_major(from, &shape);
        self.scatter_shared(base, from, &shape, dtype, &values, &at);
        self.barrier()?;
        let to = self.layout(result);
        let out_shape = self.func.ty(result).shape().cloned().unwrap_or_default();
        let inside = self.in_tile(to, &out_shape);
        let picks = self.registers(index);
        let coordinates: Vec<Vec<Val<'c>>> = (0..shape.rank()).map(|a| self.coordinates(to, a)).collect();
        let regs = (0..to.register_count())
            .map(|r| {
                let at = (0..shape.rank()).fold(self.ir.c32(0), |sum, a| {
                    let here = if a == axis {
                        self.ir.resize(picks[r], self.ir.i32(), false)
                    } else {
                        coordinates[a][r]
                    };
                    self.ir.add(self.ir.mul(sum, self.ir.c32(shape[a])), here)
                });
                let at = self.choose(inside[r], at, self.ir.c32(0));
                self.read_shared(base, dtype, at)
            })
            .collect();
        self.set(result, Repr::Tile(regs));
        Ok(())
    }
}
