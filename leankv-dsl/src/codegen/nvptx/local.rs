//! Tiles in shared memory that outlive one op: asynchronous copies into them, and fragments read from them.

use inkwell::values::PointerValue;

use crate::ir::{Inst, Op, Value};
use crate::layout::{LinearLayout, SharedLayout, Vectors};
use crate::pass::layout_assign::{mask_operand, stored_bytes};

use super::emit::{Emitted, Emitter, Repr};
use super::ir::Val;
use super::memory::vectors;
use super::place::Cond;

impl<'c> Emitter<'c, '_> {
    /// Byte offset of a stage of a block of shared memory, added to a constant start.
    fn stage(&self, shared: Value, stage: Value) -> (u32, Val<'c>) {
        let Repr::Shared(start, stride) = *self.get(shared) else {
            panic!("internal error: {shared} is no shared memory")
        };
        (start, self.ir.mul(self.scalar(stage), self.ir.c32(stride)))
    }

    /// The address of an element: what changes from turn to turn first, then what threads differ by, so that one sum serves many elements.
    fn element_at(&self, stage: Val<'c>, thread: Val<'c>, bytes: u32) -> PointerValue<'c> {
        let start = self.ir.gep(self.ir.i8().into(), self.smem, stage);
        self.ir.gep(self.ir.i8().into(), start, self.ir.mul(thread, self.ir.c32(bytes)))
    }

    pub(super) fn async_copy(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let shared = &self.plan.shared[&data.operands[0]];
        let (start, stage) = self.stage(data.operands[0], data.operands[1]);
        let (pointer, _) = self.pointer(data.operands[2]);
        let dtype = self.dtype(data.operands[2]);
        let bytes = stored_bytes(dtype);
        let source = self.address_parts(pointer, dtype, data.operands[3]);
        let mask_value = mask_operand(&data.op, &data.operands);
        let mask = mask_value.map(|v| self.registers(v));
        let layout = &self.plan.operand_layouts[&inst];
        let access = self.axis.access_of_prefixes(self.func, data.operands[2], data.operands[3], mask_value);
        let groups = vectors(layout, &access);
        let owner = self.owner(layout.free_lanes(), layout.free_warps());
        let shape = self.func.ty(data.operands[3]).shape().cloned().unwrap_or_default();
        let inside = self.in_tile(layout, &shape);
        let to = self.sums_by(layout, |flat| shared.offset(flat));
        for group in &groups.groups {
            let first = group[0] as usize;
            let size = bytes * group.len() as u32;
            let (from, ahead) = source(first);
            let ahead = ahead * i64::from(bytes);
            let (thread, beyond) = to[first];
            let (at, beyond) = (self.element_at(stage, thread, bytes), start + beyond * bytes);
            // Masked-off elements become zero: the copy reads fewer bytes and fills. Masks only fall within a vector.
            let mut read: Option<Val<'c>> = None;
            let uniform = mask.as_ref().is_none_or(|m| group.iter().all(|&r| m[r as usize] == m[first]));
            if let (Some(mask), false) = (&mask, uniform) {
                let count = group.iter().fold(self.ir.c32(0), |sum, &r| {
                    self.ir.add(sum, self.ir.resize(mask[r as usize], self.ir.i32(), false))
                });
                read = Some(self.ir.mul(count, self.ir.c32(bytes)));
            } else if let Some(mask) = &mask {
                read = match self.known(mask[first]) {
                    Cond::Always => None,
                    cond => Some(self.choose(cond, self.ir.c32(size), self.ir.c32(0))),
                };
            }
            match inside[first] {
                Cond::Always => {}
                cond => {
                    let full = read.unwrap_or(self.ir.c32(size));
                    read = Some(self.choose(cond, full, self.ir.c32(0)));
                }
            }
            let through = if size == 16 { "cg" } else { "ca" };
            let mut text = format!("cp.async.{through}.shared.global [$0+{beyond}], [$1+{ahead}], {size}");
            let mut args: Vec<Val<'c>> = vec![at.into(), from.into()];
            let mut constraints = "l,l".to_owned();
            if let Some(read) = read {
                text.push_str(", $2");
                args.push(read);
                constraints.push_str(",r");
            }
            let mut guard = String::new();
            match owner {
                Cond::Always => {}
                Cond::Never => continue,
                Cond::If(c) => {
                    guard = format!("@${} ", args.len());
                    args.push(c);
                    constraints.push_str(",b");
                }
            }
            // A pointer into shared memory is 64 bits wide in this address model.
            let address = self.ir.b.build_ptr_to_int(at, self.ir.i64(), "")?;
            args[0] = address.into();
            self.ir.asm(&format!("{guard}{text};"), &format!("{constraints},~{{memory}}"), &[], &args, true);
        }
        Ok(())
    }

    pub(super) fn local_store(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let shared = self.plan.shared[&data.operands[0]].clone();
        let (start, stage) = self.stage(data.operands[0], data.operands[1]);
        let dtype = self.dtype(data.operands[2]);
        let layout = self.layout(data.operands[2]);
        let bytes = stored_bytes(dtype);
        let values = self.registers(data.operands[2]);
        let owner = self.owner(layout.free_lanes(), layout.free_warps());
        let at = self.index_by(layout, |flat| shared.offset(flat));
        let stage = self.ir.lshr(stage, bytes.trailing_zeros());
        for group in &shared.vectors(layout, bytes.trailing_zeros()).groups {
            let at = self.ir.add(at[group[0] as usize], stage);
            let group: Vec<Val<'c>> = group.iter().map(|&r| values[r as usize]).collect();
            self.write_shared_vector(start, dtype, at, &group, owner);
        }
        Ok(())
    }

    pub(super) fn local_load(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let result = data.results[0];
        let shared = self.plan.shared[&data.operands[0]].clone();
        let layout = self.layout(result);
        let dtype = self.dtype(result);
        let bytes = stored_bytes(dtype);
        let (start, stage) = self.stage(data.operands[0], data.operands[1]);
        if bytes == 2
            && self.gpu.matrix_loads
            && let Some(regs) = self.load_matrices(&shared, layout, start, stage, inst)?
        {
            self.set(result, Repr::Tile(regs));
            return Ok(());
        }
        let groups: Vectors = shared.vectors(layout, bytes.trailing_zeros());
        let at = self.sums_by(layout, |flat| shared.offset(flat));
        let mut regs = vec![self.ir.c32(0); layout.register_count()];
        for group in &groups.groups {
            let (thread, beyond) = at[group[0] as usize];
            let constant = self.ir.c32(start + beyond * bytes);
            let at = self.ir.gep(self.ir.i8().into(), self.element_at(stage, thread, bytes), constant);
            for (&r, value) in group.iter().zip(self.read_vector(at, dtype, group.len())) {
                regs[r as usize] = value;
            }
        }
        self.set(result, Repr::Tile(regs));
        Ok(())
    }

    /// `ldmatrix` where the layout is that of 8 x 8 matrices of 16-bit elements whose rows lie together in shared memory.
    ///
    /// Plain form: lane bits 0, 1 stand for elements 2, 4 of a row and bits 2..5 for the row; register bit 0 for the element's
    /// lowest bit. Transposed form: register bit 0 and lane bits 0, 1 for the row, lane bits 2..5 for the element.
    fn load_matrices(
        &mut self,
        shared: &SharedLayout,
        layout: &LinearLayout,
        start: u32,
        stage: Val<'c>,
        inst: Inst,
    ) -> Emitted<Option<Vec<Val<'c>>>> {
        let registers = layout.registers();
        let lanes = layout.lanes();
        let Some(&pair) = registers.first() else { return Ok(None) };
        let offset = |v: u32| shared.offset(v);
        let plain = offset(pair) == 1 && offset(lanes[0]) == 2 && offset(lanes[1]) == 4;
        let transposed = (0..3).all(|i| offset(lanes[2 + i]) == 1 << i);
        if !plain && !transposed {
            return Ok(None);
        }
        // Index bits of a matrix's row number, lowest first.
        let row: [u32; 3] = if plain { [lanes[2], lanes[3], lanes[4]] } else { [pair, lanes[0], lanes[1]] };
        let whole_rows = row.iter().all(|&v| offset(v) & 7 == 0 && v != 0)
            && registers[1..].iter().chain(layout.warps()).all(|&v| offset(v) & 7 == 0);
        if !whole_rows {
            return Ok(None);
        }
        let count = (registers.len() - 1).min(2);
        // Lane l gives the address of row l % 8 of matrix l / 8; lanes beyond repeat.
        let mut address_lanes = [0u32; 5];
        address_lanes[..3].copy_from_slice(&row);
        address_lanes[3..3 + count].copy_from_slice(&registers[1..1 + count]);
        let image: Vec<u32> = address_lanes.iter().map(|&v| offset(v)).collect();
        let warps: Vec<u32> = layout.warps().iter().map(|&v| offset(v)).collect();
        let thread = self.thread_part(&image, &warps);
        let number = 1usize << count;
        let form = if plain { "" } else { ".trans" };
        let name = format!("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x{number}{form}.b16");
        let dtype = self.dtype(self.func.inst(inst).results[0]);
        let mut out = vec![self.ir.c32(0); layout.register_count()];
        let outer = registers.len() - 1 - count;
        for i in 0..1usize << outer {
            let base_register = i << (1 + count);
            let constant = offset(layout.at(base_register as u32, 0, 0));
            let at = self.element_at(stage, self.join_part(thread, constant & thread.1), 2);
            let beyond = self.ir.c32(start + 2 * (constant & !thread.1));
            let pointer = self.ir.gep(self.ir.i8().into(), at, beyond);
            let loaded = self.ir.call(&name, &[pointer.get_type().into()], &[pointer.into()])?;
            for j in 0..number {
                let word = if number == 1 { loaded } else { self.ir.field(loaded, j as u32) };
                let pair = self.split_words(&[word], dtype, 2);
                out[base_register | j << 1] = pair[0];
                out[base_register | j << 1 | 1] = pair[1];
            }
        }
        debug_assert!(matches!(self.func.inst(inst).op, Op::LocalLoad));
        Ok(Some(out))
    }
}
