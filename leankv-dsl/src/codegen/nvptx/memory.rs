//! Loads and stores of global memory: vectors as wide as alignment, masks and the layout allow.

use std::collections::{BTreeMap, BTreeSet};

use inkwell::basic_block::BasicBlock;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{BasicValue, PointerValue};
use inkwell::{FloatPredicate, IntPredicate};

use crate::ir::{CacheHint, Dtype, Inst, Op, Value};
use crate::layout::{LinearLayout, Vectors};
use crate::pass::axis::{AccessShape, AlignGuard};
use crate::pass::layout_assign::mask_operand;

use super::address::{Offset, Unknown};
use super::emit::{Emitted, Emitter, Repr};
use super::ir::Val;
use super::place::Cond;

/// Groups of registers that one access moves.
pub(super) fn vectors(layout: &LinearLayout, access: &AccessShape) -> Vectors {
    let fastest = access.order[0];
    let mut dims: Vec<u32> = layout.dims().to_vec();
    let fast_bits = dims.remove(fastest);
    // The index with the fastest dimension moved to the lowest bits.
    let image = |flat: u32| {
        let rest = crate::layout::drop_bits(flat, layout.shift(fastest), fast_bits);
        rest << fast_bits | layout.coordinate(flat, fastest)
    };
    let registers: Vec<u32> = layout.registers().iter().map(|&v| image(v)).collect();
    let others: Vec<u32> = layout.lanes().iter().chain(layout.warps()).map(|&v| image(v)).collect();
    Vectors::find(&registers, &others, access.vector[fastest].into())
}

impl<'c> Emitter<'c, '_> {
    /// The address of one element.
    pub(super) fn address(
        &self,
        pointer: PointerValue<'c>,
        dtype: Dtype,
        offset: Val<'c>,
    ) -> PointerValue<'c> {
        let ty = self.ir.int_type(self.memory_bits(dtype)).into();
        self.ir.gep(ty, pointer, self.ir.resize(offset, self.ir.i64(), true))
    }

    /// The addresses of the elements of a tile by register.
    fn addresses(
        &self,
        pointer: PointerValue<'c>,
        dtype: Dtype,
        offsets: Value,
    ) -> impl Fn(usize) -> PointerValue<'c> {
        let parts = self.address_parts(pointer, dtype, offsets);
        move |register| match parts(register) {
            (base, 0) => base,
            (base, beyond) => self.address(base, dtype, self.ir.c64(beyond)),
        }
    }

    /// The addresses of the elements of a tile by register: as those of few registers, and the elements from there on.
    pub(super) fn address_parts(
        &self,
        pointer: PointerValue<'c>,
        dtype: Dtype,
        offsets: Value,
    ) -> impl Fn(usize) -> (PointerValue<'c>, i64) {
        let values = self.registers(offsets);
        // Only where no sum wraps is the offset of one register that of another and a constant.
        let places = match self.addresses.contains(&offsets) && self.is_tile(offsets) {
            true => self.strides.borrow_mut().of(offsets),
            false => (0..values.len()).map(|base| Offset { base, beyond: 0, own: (None, 0) }).collect(),
        };
        let bases: BTreeSet<usize> = places.iter().map(|place| place.base).collect();
        let own: BTreeMap<usize, (Val<'c>, i64)> =
            bases.iter().filter_map(|&base| Some((base, self.scaled(places[base].own.0?, dtype)?))).collect();
        // What registers share, if several differ by more than constants: each then takes one multiply-add.
        let shared = own.first_key_value().filter(|_| own.len() > 1).map(|(&base, _)| {
            let (unknown, constant) = places[base].own;
            let unknown = unknown.expect("it was scaled");
            let ty = values[base].get_type().into_int_type();
            let own = self.ir.resize(self.registers(unknown.value)[unknown.register], ty, true);
            let own =
                self.ir.add(self.ir.mul(own, self.ir.int(ty, unknown.factor)), self.ir.int(ty, constant));
            self.address(pointer, dtype, self.ir.sub(values[base], own))
        });
        let first: BTreeMap<usize, PointerValue<'c>> = bases
            .into_iter()
            .map(|base| match (shared, own.get(&base)) {
                (Some(shared), Some(&(number, bytes))) => {
                    let at = self.multiply_add(number, bytes, shared);
                    (base, self.address(at, dtype, self.ir.c64(places[base].own.1)))
                }
                _ => (base, self.address(pointer, dtype, values[base])),
            })
            .collect();
        move |register| {
            let Offset { base, beyond, .. } = places[register];
            (first[&base], beyond)
        }
    }

    /// The number that a register's own part of an offset is a multiple of, and of how many bytes; `None` where 32 bits do not hold either.
    fn scaled(&self, unknown: Unknown, dtype: Dtype) -> Option<(Val<'c>, i64)> {
        let bytes = unknown.factor.checked_mul(i64::from(self.memory_bits(dtype) / 8))?;
        i32::try_from(bytes).ok()?;
        let number = self.registers(unknown.value)[unknown.register];
        (self.dtype(unknown.value) == Dtype::I32).then_some((number, bytes))
    }

    /// The address `number * bytes` behind `at`, in one instruction.
    fn multiply_add(&self, number: Val<'c>, bytes: i64, at: PointerValue<'c>) -> PointerValue<'c> {
        let text = format!("mad.wide.s32 $0, $1, {bytes}, $2;");
        let sum = self.ir.asm(&text, "=l,r,l", &[self.ir.i64().into()], &[number, at.into()], false)[0];
        self.ir.b.build_int_to_ptr(sum.into_int_value(), at.get_type(), "").expect("an address is a pointer")
    }

    /// Bits of one element in memory.
    pub(super) fn memory_bits(&self, dtype: Dtype) -> u32 {
        dtype.bits().max(8)
    }

    pub(super) fn load(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let Op::Load { masked, other, cache } = data.op else {
            unreachable!("internal error: this is a load")
        };
        let result = data.results[0];
        let dtype = self.dtype(result);
        let (pointer, read_only) = self.pointer(data.operands[0]);
        let (read_only, cache) = match cache {
            CacheHint::Constant => (true, CacheHint::Default),
            CacheHint::Exclusive => (false, CacheHint::Default),
            cache => (read_only, cache),
        };
        let offsets = self.registers(data.operands[1]);
        let mask = masked.then(|| self.registers(data.operands[2]));
        let other_value = other.then(|| data.operands[3]);
        let other = other_value.map(|v| self.registers(v));
        if !self.is_tile(result) {
            let cond = mask.map_or(Cond::Always, |m| Cond::If(m[0]));
            let at = self.address(pointer, dtype, offsets[0]);
            let rest = other.as_ref().map(|o| &o[..1]);
            let value = self.load_vector(at, dtype, 1, cond, rest, read_only, cache)[0];
            self.set(result, Repr::Scalar(value));
            return Ok(());
        }
        let layout = self.layout(result);
        let inside = self.in_tile(layout, self.func.ty(result).shape().expect("a tile has a shape"));
        let at = self.addresses(pointer, dtype, data.operands[1]);
        let read = |groups: &Vectors| -> Vec<Val<'c>> {
            let mut regs = vec![self.ir.c32(0); layout.register_count()];
            for group in &groups.groups {
                let first = group[0] as usize;
                let mut cond = inside[first];
                if let Some(mask) = &mask {
                    cond = self.both(cond, self.known(mask[first]));
                }
                let at = at(first);
                let rest: Option<Vec<Val<'c>>> =
                    other.as_ref().map(|o| group.iter().map(|&r| o[r as usize]).collect());
                let values =
                    self.load_vector(at, dtype, group.len(), cond, rest.as_deref(), read_only, cache);
                for (&r, value) in group.iter().zip(values) {
                    regs[r as usize] = value;
                }
            }
            regs
        };
        let regs = match self.widths(inst, layout) {
            (groups, None) => read(&groups),
            (narrow, Some((wide, whole))) => {
                let [(yes, at_yes), (no, at_no)] =
                    self.arms(whole, |which| read(if which { &wide } else { &narrow }));
                let join = |(a, b): (Val<'c>, Val<'c>)| -> Val<'c> {
                    let phi = self.ir.phi(a.get_type());
                    phi.add_incoming(&[(&a, at_yes), (&b, at_no)]);
                    phi.as_basic_value()
                };
                yes.into_iter().zip(no).map(join).collect()
            }
        };
        drop(at);
        self.set(result, Repr::Tile(regs));
        Ok(())
    }

    /// The vectors of a load or store whose tile has `layout`; and, where wider ones are possible if alignment and mask turn out well,
    /// those and whether they did: then every wide vector is aligned, and all of it is accessed or none.
    ///
    /// One question is asked for all vectors of a thread, so that the common case is one branch and no more.
    fn widths(&self, inst: Inst, layout: &LinearLayout) -> (Vectors, Option<(Vectors, Val<'c>)>) {
        let (func, ir) = (self.func, &self.ir);
        let data = func.inst(inst);
        let (ptr, offset_value) = (data.operands[0], data.operands[1]);
        let mask_value = mask_operand(&data.op, &data.operands);
        let narrow = vectors(layout, &self.axis.access(func, ptr, offset_value, mask_value));
        let checked = self.axis.access_checked(func, ptr, offset_value, mask_value);
        let wide = vectors(layout, &checked);
        // A tile of no more elements than threads is a request or two of each warp either way.
        let shape = func.ty(offset_value).shape().expect("a tile has a shape");
        if wide.bits <= narrow.bits || shape.elements() <= u64::from(32 * func.num_warps) {
            return (narrow, None);
        }
        let guard = self.axis.guard(func, ptr, offset_value, mask_value, checked.order[0], wide.bits as u8);
        let dtype = self.dtype(ptr);
        let (pointer, _) = self.pointer(ptr);
        let bytes = i64::from(self.memory_bits(dtype) / 8) << wide.bits;
        let address = |at: PointerValue<'c>| -> Val<'c> {
            let whole = ir.b.build_ptr_to_int(at, ir.i64(), "").expect("a pointer has an address");
            ir.resize(whole.into(), ir.i32(), false)
        };
        let rest = match guard.align {
            AlignGuard::Known => None,
            AlignGuard::Pointer => Some(address(pointer)),
            AlignGuard::Address => {
                let offsets = self.registers(offset_value);
                let at = |group: &Vec<u32>| address(self.address(pointer, dtype, offsets[group[0] as usize]));
                wide.groups.iter().map(at).reduce(|a, b| ir.or(a, b))
            }
        };
        let mut whole = ir.bool(true);
        if let Some(rest) = rest {
            let low = ir.and(rest, ir.c32(bytes as u32 - 1));
            whole = ir.icmp(IntPredicate::EQ, low, ir.c32(0));
        }
        if let Some(mask) = mask_value.filter(|_| guard.mask).map(|v| self.registers(v)) {
            // A mask falls once at most within a vector, so its first and last element tell.
            for group in &wide.groups {
                let (first, last) = (mask[group[0] as usize], mask[group[group.len() - 1] as usize]);
                whole = ir.and(whole, ir.icmp(IntPredicate::EQ, first, last));
            }
        }
        match self.known(whole) {
            Cond::Always => (wide, None),
            Cond::Never => (narrow, None),
            Cond::If(whole) => (narrow, Some((wide, whole))),
        }
    }

    /// Emits `arm` twice, for when `cond` holds and for when it does not; the results and the blocks they come from.
    fn arms<T>(&self, cond: Val<'c>, arm: impl Fn(bool) -> T) -> [(T, BasicBlock<'c>); 2] {
        let ir = &self.ir;
        let [yes, no, end] =
            ["whole", "pieces", "accessed"].map(|name| ir.cx.append_basic_block(self.function, name));
        ir.cond_br(cond, yes, no);
        let out = [(yes, true), (no, false)].map(|(block, which)| {
            ir.b.position_at_end(block);
            let value = arm(which);
            let from = ir.block();
            ir.br(end);
            (value, from)
        });
        ir.b.position_at_end(end);
        out
    }

    /// A truth value as a condition.
    pub(super) fn known(&self, value: Val<'c>) -> Cond<'c> {
        match value.into_int_value().get_zero_extended_constant() {
            Some(0) => Cond::Never,
            Some(_) => Cond::Always,
            None => Cond::If(value),
        }
    }

    /// `count` consecutive elements; where the condition fails, `other` or zero.
    fn load_vector(
        &self,
        at: PointerValue<'c>,
        dtype: Dtype,
        count: usize,
        cond: Cond<'c>,
        other: Option<&[Val<'c>]>,
        read_only: bool,
        cache: CacheHint,
    ) -> Vec<Val<'c>> {
        let ir = &self.ir;
        let bits = self.memory_bits(dtype);
        let bytes = bits / 8 * count as u32;
        let word_bits = (bytes * 8).min(32);
        let words = (bytes * 8 / word_bits) as usize;
        let word: BasicTypeEnum<'c> = ir.int_type(word_bits).into();
        let fallback = || -> Vec<Val<'c>> {
            match other {
                Some(values) => self.join_words(values, dtype, word_bits),
                None => vec![ir.zero(word); words],
            }
        };
        let loaded = match cond {
            Cond::Never => fallback(),
            Cond::Always if cache == CacheHint::Default => {
                let ty = if words == 1 { word } else { super::ir::vector_type(word, words as u32) };
                let value = ir.load(ty, at, bytes);
                if let Some(inst) = value.as_instruction_value().filter(|_| read_only) {
                    let node = ir.cx.metadata_node(&[]);
                    inst.set_metadata(node, ir.cx.get_kind_id("invariant.load"))
                        .expect("a load takes metadata");
                }
                if words == 1 {
                    vec![value]
                } else {
                    (0..words as u32).map(|i| ir.extract(value, i)).collect()
                }
            }
            _ => self.load_asm(at, word_bits, words, cond, fallback(), read_only, cache),
        };
        self.split_words(&loaded, dtype, count)
    }

    fn load_asm(
        &self,
        at: PointerValue<'c>,
        word_bits: u32,
        words: usize,
        cond: Cond<'c>,
        fallback: Vec<Val<'c>>,
        read_only: bool,
        cache: CacheHint,
    ) -> Vec<Val<'c>> {
        // Bytes are loaded into 16-bit registers.
        let register = self.ir.int_type(word_bits.max(16));
        let class = if word_bits == 32 { 'r' } else { 'h' };
        let nc = if read_only { ".nc" } else { "" };
        let hint = match cache {
            CacheHint::Default | CacheHint::Constant | CacheHint::Exclusive => "",
            CacheHint::Streaming => ".L1::no_allocate",
            CacheHint::Keep => ".L1::evict_last",
        };
        let list = |from: usize| -> String {
            let names: Vec<String> = (from..from + words).map(|i| format!("${i}")).collect();
            names.join(", ")
        };
        let (vector, target) = if words == 1 {
            (String::new(), list(0))
        } else {
            (format!(".v{words}"), format!("{{{}}}", list(0)))
        };
        let ty = if word_bits == 8 { "u8".to_owned() } else { format!("b{word_bits}") };
        let mut args: Vec<Val<'c>> = vec![at.into()];
        let mut constraints: Vec<String> = (0..words).map(|_| format!("={class}")).collect();
        constraints.push("l".to_owned());
        let mut guard = String::new();
        if let Cond::If(c) = cond {
            guard = format!("@${} ", words + 1);
            args.push(c);
            constraints.push("b".to_owned());
            for (i, value) in fallback.iter().enumerate() {
                args.push(self.ir.resize(*value, register, false));
                constraints.push(i.to_string());
            }
        }
        let text = format!("{guard}ld.global{nc}{hint}{vector}.{ty} {target}, [${words}];");
        let results: Vec<BasicTypeEnum<'c>> = vec![register.into(); words];
        if !read_only {
            constraints.push("~{memory}".to_owned());
        }
        let loaded = self.ir.asm(&text, &constraints.join(","), &results, &args, !read_only);
        let narrow = self.ir.int_type(word_bits);
        loaded.into_iter().map(|v| self.ir.resize(v, narrow, false)).collect()
    }

    /// Cuts words into elements.
    pub(super) fn split_words(&self, words: &[Val<'c>], dtype: Dtype, count: usize) -> Vec<Val<'c>> {
        let ir = &self.ir;
        let bits = self.memory_bits(dtype);
        let word_bits = words[0].into_int_value().get_type().get_bit_width();
        let ty = self.llvm_type(dtype);
        let finish = |value: Val<'c>| -> Val<'c> {
            match dtype {
                Dtype::I1 => ir.icmp(IntPredicate::NE, value, ir.zero(value.get_type())),
                Dtype::Code(_) => ir.zext(value, ir.i32()),
                _ => ir.bitcast(value, ty),
            }
        };
        if bits > word_bits {
            return words
                .chunks(2)
                .map(|pair| finish(ir.bitcast(ir.vector(pair), ir.i64().into())))
                .collect();
        }
        let per_word = (word_bits / bits) as usize;
        let narrow = ir.int_type(bits);
        (0..count)
            .map(|i| {
                let word = words[i / per_word];
                if per_word == 2 && bits == 16 && dtype.is_float() {
                    let pair = ty.into_float_type().vec_type(2);
                    return ir.extract(ir.bitcast(word, pair.into()), (i % 2) as u32);
                }
                finish(ir.resize(ir.lshr(word, (i % per_word) as u32 * bits), narrow, false))
            })
            .collect()
    }

    /// Joins elements into words of `word_bits`.
    pub(super) fn join_words(&self, values: &[Val<'c>], dtype: Dtype, word_bits: u32) -> Vec<Val<'c>> {
        let ir = &self.ir;
        let bits = self.memory_bits(dtype);
        let as_int = |value: Val<'c>| -> Val<'c> {
            match dtype {
                Dtype::I1 => ir.zext(value, ir.i8()),
                Dtype::Code(_) => ir.resize(value, ir.i8(), false),
                _ => ir.bitcast(value, ir.int_type(bits).into()),
            }
        };
        if bits > word_bits {
            let pair = ir.i32().vec_type(2);
            return values
                .iter()
                .flat_map(|&v| {
                    let halves = ir.bitcast(v, pair.into());
                    [ir.extract(halves, 0), ir.extract(halves, 1)]
                })
                .collect();
        }
        let per_word = (word_bits / bits) as usize;
        values
            .chunks(per_word)
            .map(|chunk| {
                if chunk.len() == 2 && bits == 16 && dtype.is_float() {
                    return ir.bitcast(ir.vector(chunk), ir.i32().into());
                }
                let word = ir.int_type(word_bits);
                chunk.iter().enumerate().fold(ir.int(word, 0), |sum, (i, &v)| {
                    let part = ir.zext(as_int(v), word);
                    let shifted =
                        if i == 0 { part } else { ir.shl(part, ir.int(word, i as i64 * bits as i64)) };
                    if i == 0 { shifted } else { ir.or(sum, shifted) }
                })
            })
            .collect()
    }

    pub(super) fn store(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let Op::Store { masked, cache } = data.op else { unreachable!("internal error: this is a store") };
        let cache = match cache {
            CacheHint::Constant | CacheHint::Exclusive => CacheHint::Default,
            cache => cache,
        };
        let (pointer, _) = self.pointer(data.operands[0]);
        let offsets = self.registers(data.operands[1]);
        let values = self.registers(data.operands[2]);
        let dtype = self.dtype(data.operands[2]);
        let mask = masked.then(|| self.registers(data.operands[3]));
        if !self.is_tile(data.operands[1]) {
            // One thread stores a scalar.
            let mut cond = self.owner(31, self.func.num_warps - 1);
            if let Some(mask) = mask {
                cond = self.both(cond, self.known(mask[0]));
            }
            let at = self.address(pointer, dtype, offsets[0]);
            self.store_vector(at, dtype, &values[..1], cond, cache);
            return Ok(());
        }
        let layout = &self.plan.operand_layouts[&inst];
        let inside =
            self.in_tile(layout, self.func.ty(data.operands[1]).shape().expect("a tile has a shape"));
        let owner = self.owner(layout.free_lanes(), layout.free_warps());
        let at = self.addresses(pointer, dtype, data.operands[1]);
        let write = |groups: &Vectors| {
            for group in &groups.groups {
                let first = group[0] as usize;
                let mut cond = self.both(inside[first], owner);
                if let Some(mask) = &mask {
                    cond = self.both(cond, self.known(mask[first]));
                }
                let at = at(first);
                let group: Vec<Val<'c>> = group.iter().map(|&r| values[r as usize]).collect();
                self.store_vector(at, dtype, &group, cond, cache);
            }
        };
        match self.widths(inst, layout) {
            (groups, None) => write(&groups),
            (narrow, Some((wide, whole))) => {
                self.arms(whole, |which| write(if which { &wide } else { &narrow }));
            }
        }
        Ok(())
    }

    fn store_vector(
        &self,
        at: PointerValue<'c>,
        dtype: Dtype,
        values: &[Val<'c>],
        cond: Cond<'c>,
        cache: CacheHint,
    ) {
        let bytes = self.memory_bits(dtype) / 8 * values.len() as u32;
        let word_bits = (bytes * 8).min(32);
        let words = self.join_words(values, dtype, word_bits);
        let ir = &self.ir;
        match cond {
            Cond::Never => {}
            Cond::Always if cache == CacheHint::Default => {
                let value = if words.len() == 1 { words[0] } else { ir.vector(&words) };
                ir.store(at, value, bytes);
            }
            _ => {
                let register = ir.int_type(word_bits.max(16));
                let class = if word_bits == 32 { 'r' } else { 'h' };
                let hint = if cache == CacheHint::Streaming { ".L1::no_allocate" } else { "" };
                let n = words.len();
                let names: Vec<String> = (1..=n).map(|i| format!("${i}")).collect();
                let (vector, source) = if n == 1 {
                    (String::new(), names[0].clone())
                } else {
                    (format!(".v{n}"), format!("{{{}}}", names.join(", ")))
                };
                let mut args: Vec<Val<'c>> = vec![at.into()];
                args.extend(words.iter().map(|&w| ir.resize(w, register, false)));
                let mut constraints = vec!["l".to_owned()];
                constraints.extend((0..n).map(|_| class.to_string()));
                let mut guard = String::new();
                if let Cond::If(c) = cond {
                    guard = format!("@${} ", n + 1);
                    args.push(c);
                    constraints.push("b".to_owned());
                }
                constraints.push("~{memory}".to_owned());
                let ty = if word_bits == 8 { "u8".to_owned() } else { format!("b{word_bits}") };
                let text = format!("{guard}st.global{hint}{vector}.{ty} [$0], {source};");
                ir.asm(&text, &constraints.join(","), &[], &args, true);
            }
        }
    }

    /// Traps where an element is false.
    pub(super) fn assert(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let value: Value = data.operands[0];
        let regs = self.registers(value);
        let inside = match self.func.ty(value).shape() {
            Some(shape) if self.is_tile(value) => self.in_tile(&self.plan.operand_layouts[&inst], shape),
            _ => vec![Cond::Always],
        };
        let mut all = self.ir.bool(true);
        for (&holds, cond) in regs.iter().zip(inside) {
            let ok = self.choose(cond, holds, self.ir.bool(true));
            all = self.ir.and(all, ok);
        }
        let [fail, next] =
            ["assert.fail", "assert.ok"].map(|name| self.ir.cx.append_basic_block(self.function, name));
        self.ir.cond_br(all, next, fail);
        self.ir.b.position_at_end(fail);
        self.ir.asm("trap;", "~{memory}", &[], &[], true);
        self.ir.br(next);
        self.ir.b.position_at_end(next);
        Ok(())
    }

    /// Whether a float compares equal to itself.
    pub(super) fn is_number(&self, value: Val<'c>) -> Val<'c> {
        self.ir.fcmp(FloatPredicate::ORD, value, value)
    }
}
