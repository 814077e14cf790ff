//! Functions: arenas of values, ops and blocks, and the kernel's signature.

use super::entity::{Arena, Block, Entity, Inst, Value};
use super::loc::Loc;
use super::op::{Effect, InstData, Op};
use super::types::Type;
use smallvec::SmallVec;

/// What a kernel may do with the memory behind a pointer parameter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Reads alone; nobody writes it while the kernel runs.
    Read,
    /// Writes alone.
    Write,
    /// Both.
    ReadWrite,
}

/// A parameter of a kernel.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Param {
    /// Its name, as the user wrote it (`x`, or `x.shape0` for a part of a view).
    pub name: String,
    /// A scalar or a pointer.
    pub ty: Type,
    /// For pointers.
    pub access: Access,
    /// The value (for pointers: the address in bytes) is a multiple of this; 1 when nothing is promised.
    /// The launch checks it.
    pub multiple_of: u64,
}

impl Param {
    /// A parameter without promises.
    pub fn new(name: impl Into<String>, ty: Type, access: Access) -> Param {
        Param { name: name.into(), ty, access, multiple_of: 1 }
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Def {
    /// Result `index` of an op.
    Result(Inst, u32),
    /// Parameter `index` of a block.
    Param(Block, u32),
}

/// A value's type and origin.
#[derive(Clone, Debug)]
pub struct ValueData {
    /// Its type.
    pub ty: Type,
    /// Its origin.
    pub def: Def,
}

/// A block: parameters and ops.
#[derive(Clone, Debug, Default)]
pub struct BlockData {
    /// Its parameters.
    pub params: Vec<Value>,
    /// Its ops in order; the last is a terminator once the block is complete.
    pub insts: Vec<Inst>,
}

/// A kernel in tile IR.
///
/// Arenas only grow; ops that a pass removed stay in the arena but in no block. [`Func::compact`] drops them and
/// renumbers in order of appearance.
#[derive(Clone, Debug)]
pub struct Func {
    /// The kernel's name: letters, digits and `_`, not starting with a digit.
    pub name: String,
    /// The specialisation, for messages: `bm=64,bn=32`; empty when there is none.
    pub spec: String,
    /// Its parameters; the entry block has one block parameter for each.
    pub params: Vec<Param>,
    /// Warps that run one program on a GPU.
    pub num_warps: u32,
    /// Programs that a GPU's multiprocessor should have room for at once, which bounds their registers; 0 for no wish.
    pub resident: u32,
    /// Where the kernel is written.
    pub loc: Loc,
    entry: Block,
    values: Arena<Value, ValueData>,
    insts: Arena<Inst, InstData>,
    blocks: Arena<Block, BlockData>,
}

impl Func {
    /// A function with parameters and an empty body.
    pub fn new(name: impl Into<String>, params: Vec<Param>, loc: Loc) -> Func {
        let mut func = Func {
            name: name.into(),
            spec: String::new(),
            params: Vec::new(),
            num_warps: 4,
            resident: 0,
            loc,
            entry: Block::from_index(0),
            values: Arena::new(),
            insts: Arena::new(),
            blocks: Arena::new(),
        };
        func.entry = func.new_block();
        for param in &params {
            func.add_block_param(func.entry, param.ty.clone());
        }
        func.params = params;
        func
    }

    /// The body.
    pub fn entry(&self) -> Block {
        self.entry
    }

    /// The values of the kernel's parameters.
    pub fn param_values(&self) -> &[Value] {
        &self.blocks[self.entry].params
    }

    /// A new block in no region.
    pub fn new_block(&mut self) -> Block {
        self.blocks.push(BlockData::default())
    }

    /// Adds a parameter to a block.
    pub fn add_block_param(&mut self, block: Block, ty: Type) -> Value {
        let index = self.blocks[block].params.len() as u32;
        let value = self.values.push(ValueData { ty, def: Def::Param(block, index) });
        self.blocks[block].params.push(value);
        value
    }

    /// Removes parameter `index` of a block. The caller has replaced its uses and its incoming values.
    pub fn remove_block_param(&mut self, block: Block, index: usize) {
        self.blocks[block].params.remove(index);
        for i in index..self.blocks[block].params.len() {
            let value = self.blocks[block].params[i];
            self.values[value].def = Def::Param(block, i as u32);
        }
    }

    /// Makes an op that stands in no block yet.
    pub fn make_inst(
        &mut self,
        op: Op,
        operands: &[Value],
        result_types: &[Type],
        regions: &[Block],
        loc: Loc,
    ) -> Inst {
        let inst = self.insts.push(InstData {
            op,
            operands: SmallVec::from_slice(operands),
            results: SmallVec::new(),
            regions: SmallVec::from_slice(regions),
            loc,
        });
        for ty in result_types {
            self.add_result(inst, ty.clone());
        }
        inst
    }

    /// Adds a result to an op.
    pub fn add_result(&mut self, inst: Inst, ty: Type) -> Value {
        let index = self.insts[inst].results.len() as u32;
        let value = self.values.push(ValueData { ty, def: Def::Result(inst, index) });
        self.insts[inst].results.push(value);
        value
    }

    /// Removes result `index` of an op; the caller has replaced its uses.
    pub fn remove_result(&mut self, inst: Inst, index: usize) {
        self.insts[inst].results.remove(index);
        for i in index..self.insts[inst].results.len() {
            let value = self.insts[inst].results[i];
            self.values[value].def = Def::Result(inst, i as u32);
        }
    }

    /// Appends an op to a block.
    pub fn append(&mut self, block: Block, inst: Inst) {
        self.blocks[block].insts.push(inst);
    }

    /// The op.
    pub fn inst(&self, inst: Inst) -> &InstData {
        &self.insts[inst]
    }

    /// The op, to change.
    pub fn inst_mut(&mut self, inst: Inst) -> &mut InstData {
        &mut self.insts[inst]
    }

    /// The block.
    pub fn block(&self, block: Block) -> &BlockData {
        &self.blocks[block]
    }

    /// The ops of a block, to reorder, insert or remove.
    pub fn block_insts_mut(&mut self, block: Block) -> &mut Vec<Inst> {
        &mut self.blocks[block].insts
    }

    /// The value.
    pub fn value(&self, value: Value) -> &ValueData {
        &self.values[value]
    }

    /// The value's type.
    pub fn ty(&self, value: Value) -> &Type {
        &self.values[value].ty
    }

    /// Changes a value's type; the caller keeps the op that makes it consistent.
    pub fn set_ty(&mut self, value: Value, ty: Type) {
        self.values[value].ty = ty;
    }

    /// The number of values ever made: the size for a dense side table.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// The number of ops ever made.
    pub fn inst_count(&self) -> usize {
        self.insts.len()
    }

    /// The number of blocks ever made.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// The op that makes a value; `None` for block parameters.
    pub fn def_inst(&self, value: Value) -> Option<Inst> {
        match self.values[value].def {
            Def::Result(inst, _) => Some(inst),
            Def::Param(..) => None,
        }
    }

    /// The first result of an op.
    ///
    /// # Panics
    /// When the op has no result: asking is a bug of the caller.
    pub fn result(&self, inst: Inst) -> Value {
        self.insts[inst].results[0]
    }

    /// The constant a value is known to be, scalar or in all elements of a tile; looks through `splat`, `broadcast`,
    /// `expand_dims` and `reshape`.
    pub fn constant(&self, mut value: Value) -> Option<super::Const> {
        loop {
            let inst = self.inst(self.def_inst(value)?);
            match inst.op {
                Op::Constant(c) => return Some(c),
                Op::Splat | Op::Broadcast | Op::ExpandDims { .. } | Op::Reshape => value = inst.operands[0],
                _ => return None,
            }
        }
    }

    /// What a pointer is derived from through `ptr_add` and `ptr_cast`: a parameter, or a result of control flow.
    pub fn pointer_base(&self, mut pointer: Value) -> Value {
        while let Some(inst) = self.def_inst(pointer).map(|inst| self.inst(inst)) {
            match inst.op {
                Op::PtrCast | Op::PtrAdd => pointer = inst.operands[0],
                _ => break,
            }
        }
        pointer
    }

    /// The number of the kernel parameter that a pointer is derived from, where no control flow stands between.
    pub fn pointer_param(&self, pointer: Value) -> Option<usize> {
        match self.value(self.pointer_base(pointer)).def {
            Def::Param(block, index) if block == self.entry() => Some(index as usize),
            _ => None,
        }
    }

    /// Whether an op loads what no program of the launch writes: through a pointer that is only read, or as the load says
    /// ([`CacheHint::Constant`](super::CacheHint::Constant)).
    pub fn loads_unwritten(&self, inst: Inst) -> bool {
        let data = self.inst(inst);
        let Op::Load { cache, .. } = data.op else { return false };
        let read = |param: usize| self.params[param].access == super::Access::Read;
        cache == super::CacheHint::Constant || self.pointer_param(data.operands[0]).is_some_and(read)
    }

    /// The last op of a block, when it is a terminator.
    pub fn terminator(&self, block: Block) -> Option<Inst> {
        self.blocks[block].insts.last().copied().filter(|&inst| self.insts[inst].op.is_terminator())
    }

    /// All ops in the function's blocks, an op before those of its regions.
    pub fn walk(&self) -> Vec<Inst> {
        let mut out = Vec::new();
        self.walk_block(self.entry, &mut out);
        out
    }

    /// The ops of a block and, in place, of the regions inside it.
    pub fn walk_block(&self, block: Block, out: &mut Vec<Inst>) {
        for &inst in &self.blocks[block].insts {
            out.push(inst);
            for &region in &self.insts[inst].regions {
                self.walk_block(region, out);
            }
        }
    }

    /// The strongest effect of an op, its regions included.
    pub fn effect(&self, inst: Inst) -> Effect {
        let data = &self.insts[inst];
        let mut effect = data.op.effect();
        for &region in &data.regions {
            for &inner in &self.blocks[region].insts {
                if !self.insts[inner].op.is_terminator() {
                    effect = effect.max(self.effect(inner));
                }
            }
        }
        // A `while` may not end, so it cannot be dropped even when it computes nothing visible.
        if matches!(data.op, Op::While) { Effect::Write } else { effect }
    }

    /// Replaces every use of `from` by `to`, in all blocks.
    pub fn replace_uses(&mut self, from: Value, to: Value) {
        for inst in self.walk() {
            for operand in &mut self.insts[inst].operands {
                if *operand == from {
                    *operand = to;
                }
            }
        }
    }

    /// How often each value is used as an operand, as a dense table.
    pub fn use_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.values.len()];
        for inst in self.walk() {
            for operand in &self.insts[inst].operands {
                counts[operand.index()] += 1;
            }
        }
        counts
    }

    /// A copy with only what is reachable, numbered in order of appearance. Printing a compacted function is stable
    /// under dead code. Uses of values that stand in no block get numbers beyond the copy's values, for the verifier to report.
    pub fn compact(&self) -> Func {
        let mut out = Func::new(self.name.clone(), self.params.clone(), self.loc);
        out.spec = self.spec.clone();
        out.num_warps = self.num_warps;
        out.resident = self.resident;
        let mut map = vec![None; self.values.len()];
        for (old, new) in self.param_values().iter().zip(out.param_values().to_vec()) {
            out.values[new].ty = self.ty(*old).clone();
            map[old.index()] = Some(new);
        }
        let entry = out.entry;
        let mut copied = Vec::new();
        self.copy_insts(self.entry, &mut out, entry, &mut map, &mut copied);
        let count = out.values.len();
        for (old, new) in copied {
            out.insts[new].operands = self.insts[old]
                .operands
                .iter()
                .map(|v| {
                    let known = map.get(v.index()).copied().flatten();
                    known.unwrap_or_else(|| Value::from_index(count + v.index()))
                })
                .collect();
        }
        out
    }

    /// Copies ops without operands, which may be defined later in a function that is wrong.
    fn copy_insts(
        &self,
        from: Block,
        out: &mut Func,
        to: Block,
        map: &mut [Option<Value>],
        copied: &mut Vec<(Inst, Inst)>,
    ) {
        for &inst in &self.blocks[from].insts {
            let data = &self.insts[inst];
            let regions: Vec<Block> = data.regions.iter().map(|_| out.new_block()).collect();
            let types: Vec<Type> = data.results.iter().map(|&r| self.ty(r).clone()).collect();
            let new = out.make_inst(data.op.clone(), &[], &types, &regions, data.loc);
            copied.push((inst, new));
            for (old, new) in data.results.iter().zip(&out.insts[new].results) {
                map[old.index()] = Some(*new);
            }
            for (&old_region, &new_region) in data.regions.iter().zip(&regions) {
                for &param in &self.blocks[old_region].params {
                    let new_param = out.add_block_param(new_region, self.ty(param).clone());
                    map[param.index()] = Some(new_param);
                }
                self.copy_insts(old_region, out, new_region, map, copied);
            }
            out.append(to, new);
        }
    }
}
