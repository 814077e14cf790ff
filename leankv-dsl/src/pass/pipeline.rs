//! Software pipelining of loops that ask for it: what a turn loads is copied into shared memory some turns ahead.
//!
//! For a loop of depth `s`, each such load becomes a block of `s` stages. Before the loop the first `s - 1` turns' copies are started.
//! A turn waits until its own stage has arrived, lets everybody finish with the stage of the turn before, starts the copy of turn
//! `+ s - 1` into that stage, and reads its own.
//!
//! A load is taken when it feeds a dot unchanged in a loop that writes nothing, or reads what nobody writes; when its rows run through memory in words of at
//! least 4 bytes; and when its address follows from the loop's index, from what nobody writes and from what is known before the loop.
//!
//! Blocks take the shared memory that the kernel's programs leave each other ([`Func::resident`]). Loops that follow each other use the same memory.

use std::collections::{BTreeMap, BTreeSet};

use crate::ir::{
    BinaryOp, Block, CacheHint, CmpOp, Const, Def, Dtype, Effect, Entity, Func, Inst, Loc, Op, Type, Value,
};
use crate::pass::axis::AxisAnalysis;
use crate::pass::layout_assign::{find, mask_operand, needs_layout, padded_elements};
use crate::target::Gpu;

/// The least bytes of a dot's operand, and of a turn, that are worth a trip through shared memory.
const LEAST_BYTES: (u32, u32) = (1024, 512);
/// Shared memory left for conversions and reductions: by a program, and by each warp of a program beside which others should be resident, of whom there would
/// be fewer if it takes more.
const RESERVED_BYTES: (u32, u32) = (16 << 10, 2 << 10);
/// Shared memory that the system takes of each program.
const SYSTEM_BYTES: u32 = 1 << 10;

/// Pipelines every loop with a depth above 1, as far as the GPU's shared memory goes, and gives notes on what was done.
pub fn pipeline(func: &mut Func, gpu: &Gpu) -> Vec<String> {
    let mut notes = Vec::new();
    let blocks = func.walk().into_iter().filter(|&inst| matches!(func.inst(inst).op, Op::LocalAlloc));
    let taken: u32 = blocks.map(|inst| tile_bytes(func.ty(func.result(inst)))).sum();
    let program = gpu.sm_shared_bytes / func.resident.max(1);
    let reserved = match func.resident {
        0 => RESERVED_BYTES.0,
        _ => (RESERVED_BYTES.1 * func.num_warps).min(RESERVED_BYTES.0),
    };
    let left = program.saturating_sub(SYSTEM_BYTES).min(gpu.shared_bytes).saturating_sub(reserved + taken);
    pipeline_block(func, func.entry(), gpu, left, &mut notes);
    notes
}

/// Pipelines the loops of a block, each of which has `left` bytes of shared memory.
fn pipeline_block(func: &mut Func, block: Block, gpu: &Gpu, left: u32, notes: &mut Vec<String>) {
    for inst in func.block(block).insts.clone() {
        let mut left = left;
        match func.inst(inst).op {
            Op::For { stages } if stages > 1 && !gpu.async_copies => {
                let loc = func.inst(inst).loc;
                notes.push(format!("{loc}: not pipelined, since {} copies nothing on its own", gpu.target));
            }
            Op::For { stages } if stages > 1 => {
                left -= pipeline_loop(func, inst, u32::from(stages), left, notes);
            }
            _ => {}
        }
        for region in func.inst(inst).regions.clone() {
            pipeline_block(func, region, gpu, left, notes);
        }
    }
}

/// The bytes that a tile, or a block for all its stages, takes of shared memory.
pub(super) fn tile_bytes(ty: &Type) -> u32 {
    let stages = if let Type::Shared { stages, .. } = ty { *stages } else { 1 };
    ty.shape().map_or(0, padded_elements) * ty.dtype().bytes().unwrap_or(1) * stages
}

/// A load to be pipelined.
struct Staged {
    load: Inst,
    /// The ops of the body that its address and mask follow from, in order.
    slice: Vec<Inst>,
    bytes: u32,
}

/// Pipelines a loop and gives the bytes of shared memory that it takes.
fn pipeline_loop(func: &mut Func, inst: Inst, stages: u32, left: u32, notes: &mut Vec<String>) -> u32 {
    let loc = func.inst(inst).loc;
    let body = func.inst(inst).regions[0];
    let staged = candidates(func, body);
    let turn: u32 = staged.iter().map(|s| s.bytes).sum();
    if turn < LEAST_BYTES.1 {
        let why = match writes(func, body) {
            true => "the loop writes memory, and loads little of what nobody writes",
            false => "operands of dots are loaded straight into registers",
        };
        notes.push(format!("{loc}: not pipelined: {why}"));
        return 0;
    }
    let depth = stages.min(left / turn);
    if depth < 2 {
        notes.push(format!(
            "{loc}: not pipelined, since two stages of {turn} bytes do not fit {left} bytes of shared memory"
        ));
        return 0;
    }
    notes.push(format!("{loc}: {} loads pipelined over {depth} stages of {turn} bytes", staged.len()));
    transform(func, inst, body, &staged, depth, loc);
    turn * depth
}

fn writes(func: &Func, block: Block) -> bool {
    func.block(block).insts.iter().any(|&inst| {
        let data = func.inst(inst);
        matches!(data.op, Op::Store { .. } | Op::AtomicRmw { .. } | Op::AtomicCas { .. })
            || data.regions.iter().any(|&region| writes(func, region))
    })
}

fn candidates(func: &Func, body: Block) -> Vec<Staged> {
    let axis = AxisAnalysis::run(func);
    let (users, writes) = (users(func), writes(func, body));
    let staged = |&inst: &Inst| {
        let data = func.inst(inst);
        let Op::Load { other: false, cache, .. } = data.op else { return None };
        let result = data.results[0];
        let (dtype, shape) = func.ty(result).as_tile().filter(|(_, shape)| shape.rank() > 0)?;
        let bytes = tile_bytes(func.ty(result));
        let large = shape.rank() >= 2 && dtype.bits() == 16 && bytes >= LEAST_BYTES.0;
        let operand = large && !writes && feeds_dots(func, &users, result);
        if !(operand || func.loads_unwritten(inst) || cache == CacheHint::Exclusive)
            || !users.contains_key(&result)
        {
            return None;
        }
        let mask = mask_operand(&data.op, &data.operands);
        let access = axis.access_of_prefixes(func, data.operands[0], data.operands[1], mask);
        let fastest = access.order[0];
        if fastest != shape.rank() - 1 || dtype.bits() << access.vector[fastest] < 32 {
            return None;
        }
        let slice = address_slice(func, body, &data.operands)?;
        Some(Staged { load: inst, slice, bytes })
    };
    func.block(body).insts.iter().filter_map(staged).collect()
}

/// The ops that take each value.
pub(super) fn users(func: &Func) -> BTreeMap<Value, Vec<Inst>> {
    let mut users: BTreeMap<Value, Vec<Inst>> = BTreeMap::new();
    for inst in func.walk() {
        for &operand in &func.inst(inst).operands {
            users.entry(operand).or_default().push(inst);
        }
    }
    users
}

/// Whether an op only moves elements.
pub(super) fn moves_elements(op: &Op) -> bool {
    matches!(op, Op::Transpose { .. } | Op::Reshape | Op::ExpandDims { .. })
}

/// Whether every use of a value is a dot, possibly of the value transposed or without its unit dimensions.
pub(super) fn feeds_dots(func: &Func, users: &BTreeMap<Value, Vec<Inst>>, value: Value) -> bool {
    let mut work = vec![value];
    while let Some(value) = work.pop() {
        let Some(users_here) = users.get(&value) else { return false };
        for &user in users_here {
            let data = func.inst(user);
            match &data.op {
                Op::Dot if data.operands[2] != value => {}
                op if moves_elements(op) => work.push(data.results[0]),
                _ => return false,
            }
        }
    }
    true
}

/// The ops of the body that values follow from; `None` when they need a carried value, a dot or an op with effects.
pub(super) fn address_slice(func: &Func, body: Block, values: &[Value]) -> Option<Vec<Inst>> {
    let here: BTreeSet<Inst> = func.block(body).insts.iter().copied().collect();
    let mut wanted: BTreeSet<Inst> = BTreeSet::new();
    let mut stack: Vec<Value> = values.to_vec();
    while let Some(value) = stack.pop() {
        match func.value(value).def {
            Def::Param(block, index) if block == body && index > 0 => return None,
            Def::Param(..) => {}
            Def::Result(inst, _) if !here.contains(&inst) => {}
            Def::Result(inst, _) => {
                let data = func.inst(inst);
                let pure = data.op.effect() == Effect::None && data.regions.is_empty();
                if (!pure || matches!(data.op, Op::Dot)) && !func.loads_unwritten(inst) {
                    return None;
                }
                if wanted.insert(inst) {
                    stack.extend(&data.operands);
                }
            }
        }
    }
    Some(func.block(body).insts.iter().copied().filter(|inst| wanted.contains(inst)).collect())
}

/// Appends ops to a list.
pub(super) struct At<'f> {
    pub(super) func: &'f mut Func,
    pub(super) out: Vec<Inst>,
    pub(super) loc: Loc,
}

impl At<'_> {
    pub(super) fn value(&mut self, op: Op, operands: &[Value], ty: &Type) -> Value {
        let inst = self.func.make_inst(op, operands, std::slice::from_ref(ty), &[], self.loc);
        self.out.push(inst);
        self.func.result(inst)
    }

    pub(super) fn effect(&mut self, op: Op, operands: &[Value]) {
        let inst = self.func.make_inst(op, operands, &[], &[], self.loc);
        self.out.push(inst);
    }

    fn constant(&mut self, value: i128, ty: &Type) -> Value {
        self.value(Op::Constant(Const::Int(value)), &[], ty)
    }

    fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Value {
        let ty = self.func.ty(a).clone();
        self.value(Op::Binary(op), &[a, b], &ty)
    }

    fn compare(&mut self, op: CmpOp, a: Value, b: Value) -> Value {
        self.value(Op::Cmp(op), &[a, b], &Type::scalar(Dtype::I1))
    }

    /// For each number of turns below `depth`, the bound that the index of a turn is below which has so many turns after it, for a
    /// positive step: `upper`, `upper - step`, .. and never below the least of the type.
    fn bounds(&mut self, upper: Value, step: Value, depth: u32) -> Vec<Value> {
        let ty = self.func.ty(upper).clone();
        let least = self.constant(-1 << (ty.dtype().bits() - 1), &ty);
        let lowest = self.binary(BinaryOp::Add, least, step);
        let mut bounds = vec![upper];
        for _ in 1..depth {
            let bound = bounds[bounds.len() - 1];
            let beyond = self.compare(CmpOp::Lt, bound, lowest);
            let moved = self.binary(BinaryOp::Sub, bound, step);
            bounds.push(self.value(Op::Select, &[beyond, least, moved], &ty));
        }
        bounds
    }

    /// `if runs { start copying the tiles of the turn at index into slot }`, and the end of their group in any case.
    fn copy_turn(
        &mut self,
        staged: &[Staged],
        blocks: &[Value],
        body: Block,
        index: Value,
        runs: Value,
        slot: Value,
    ) {
        let loop_index = self.func.block(body).params[0];
        let mut map: BTreeMap<Value, Value> = BTreeMap::from([(loop_index, index)]);
        let ops: BTreeSet<Inst> = staged.iter().flat_map(|item| item.slice.iter().copied()).collect();
        let slice: Vec<Inst> =
            self.func.block(body).insts.iter().copied().filter(|inst| ops.contains(inst)).collect();
        // What all threads share first, since it says whether anything is clamped.
        let (mut tiles, mut numbers, mut spread) = (Vec::new(), Vec::new(), BTreeSet::new());
        for inst in slice {
            let data = self.func.inst(inst);
            let tile = data.operands.iter().any(|v| spread.contains(v))
                || data.results.iter().any(|&v| needs_layout(self.func, v));
            if tile {
                spread.extend(data.results.iter().copied());
                tiles.push(inst);
            } else {
                numbers.push(inst);
            }
        }

        let before = std::mem::take(&mut self.out);
        for inst in numbers {
            self.copy_op(inst, &mut map);
        }
        let clamps = Clamp::all(self.func, &tiles);
        let mut reached: Option<Value> = None;
        for clamp in &clamps {
            let bound = *map.get(&clamp.bound).unwrap_or(&clamp.bound);
            let ty = self.func.ty(bound).clone();
            let largest = self.constant(clamp.largest, &ty);
            let inside = self.compare(CmpOp::Le, largest, bound);
            reached = Some(reached.map_or(inside, |all| self.binary(BinaryOp::And, all, inside)));
        }
        let copies = |at: &mut Self, mut map: BTreeMap<Value, Value>, clamps: &[Clamp]| {
            for &inst in &tiles {
                let result = at.func.result(inst);
                match clamps.iter().find(|clamp| clamp.result == result) {
                    Some(Clamp { clamped, .. }) => {
                        map.insert(result, *map.get(clamped).unwrap_or(clamped));
                    }
                    None => at.copy_op(inst, &mut map),
                }
            }
            at.copy_tiles(staged, blocks, slot, &map);
        };
        match reached {
            None => copies(self, map, &[]),
            // Most turns need no clamps, and then one address serves many rows.
            Some(reached) => {
                let all = map.clone();
                self.branch(reached, |at| copies(at, all, &clamps), |at| copies(at, map, &[]));
            }
        }
        let inner = std::mem::replace(&mut self.out, before);
        self.branch(runs, |at| at.out = inner, |_| ());
        self.effect(Op::AsyncCommit, &[]);
    }

    /// `if cond { yes } else { no }`.
    fn branch(&mut self, cond: Value, yes: impl FnOnce(&mut Self), no: impl FnOnce(&mut Self)) {
        let before = std::mem::take(&mut self.out);
        yes(self);
        let yes = self.region();
        no(self);
        let no = self.region();
        self.out = before;
        let branch = self.func.make_inst(Op::If, &[cond], &[], &[yes, no], self.loc);
        self.out.push(branch);
    }

    /// What was appended, as a region.
    fn region(&mut self) -> Block {
        let block = self.func.new_block();
        self.effect(Op::Yield, &[]);
        for inst in std::mem::take(&mut self.out) {
            self.func.append(block, inst);
        }
        block
    }

    /// Appends a copy of an op of the body on the values that `map` has.
    fn copy_op(&mut self, inst: Inst, map: &mut BTreeMap<Value, Value>) {
        let data = self.func.inst(inst).clone();
        let operands: Vec<Value> = data.operands.iter().map(|v| *map.get(v).unwrap_or(v)).collect();
        let types: Vec<Type> = data.results.iter().map(|&r| self.func.ty(r).clone()).collect();
        let copy = self.func.make_inst(data.op.clone(), &operands, &types, &[], data.loc);
        map.extend(data.results.iter().copied().zip(self.func.inst(copy).results.clone()));
        self.out.push(copy);
    }

    fn copy_tiles(&mut self, staged: &[Staged], blocks: &[Value], slot: Value, map: &BTreeMap<Value, Value>) {
        for (item, &block) in staged.iter().zip(blocks) {
            let data = self.func.inst(item.load).clone();
            let Op::Load { masked, cache, .. } = data.op else {
                unreachable!("internal error: a staged load")
            };
            let mut operands = vec![block, slot];
            operands.extend(data.operands.iter().map(|v| *map.get(v).unwrap_or(v)));
            let copy = self.func.make_inst(Op::AsyncCopy { masked, cache }, &operands, &[], &[], data.loc);
            self.out.push(copy);
        }
    }
}

/// The least of the numbers 0, 1, .. of a tile and a bound, as what keeps rows inside of a page.
struct Clamp {
    result: Value,
    clamped: Value,
    bound: Value,
    /// The largest of the numbers: with a bound that is not below it the clamp does nothing.
    largest: i128,
}

impl Clamp {
    fn all(func: &Func, insts: &[Inst]) -> Vec<Clamp> {
        let clamp = |&inst: &Inst| {
            let data = func.inst(inst);
            let [a, b] = *data.operands.as_slice() else { return None };
            let bound = func.def_inst(b).map(|inst| func.inst(inst)).filter(|d| matches!(d.op, Op::Splat))?;
            let numbers = func.def_inst(a).is_some_and(|inst| matches!(func.inst(inst).op, Op::Iota));
            let largest = i128::from(func.ty(a).shape()?.elements()) - 1;
            // The last rows of a page may reach beyond it whatever its tokens are.
            let may = most(func, bound.operands[0]).is_none_or(|most| most >= largest);
            (may && numbers && matches!(data.op, Op::Binary(BinaryOp::Min))).then(|| Clamp {
                result: data.results[0],
                clamped: a,
                bound: bound.operands[0],
                largest,
            })
        };
        insts.iter().filter_map(clamp).collect()
    }
}

/// A number that a value is never above, if one is known.
fn most(func: &Func, value: Value) -> Option<i128> {
    let data = func.inst(func.def_inst(value)?);
    let operand = |i: usize| most(func, data.operands[i]);
    match data.op {
        Op::Constant(Const::Int(number)) => Some(number),
        Op::Binary(BinaryOp::Min) => operand(0).into_iter().chain(operand(1)).min(),
        // A sum that wraps may be above it: its clamp is then kept, which does no harm.
        Op::Binary(BinaryOp::Add) => func.constant(data.operands[1])?.as_int()?.checked_add(operand(0)?),
        _ => None,
    }
}

fn transform(func: &mut Func, inst: Inst, body: Block, staged: &[Staged], depth: u32, loc: Loc) {
    let data = func.inst(inst).clone();
    let (lower, upper, step) = (data.operands[0], data.operands[1], data.operands[2]);
    let index_type = func.ty(lower).clone();
    let slot_type = Type::scalar(Dtype::I32);

    // Before the loop: the blocks, and the copies of the first turns.
    let mut at = At { func, out: Vec::new(), loc };
    let blocks: Vec<Value> = staged
        .iter()
        .map(|item| {
            let result = at.func.result(item.load);
            let (dtype, shape) = at.func.ty(result).as_tile().expect("a staged load gives a tile");
            let ty = Type::Shared { dtype, shape: shape.clone(), stages: depth };
            at.value(Op::LocalAlloc, &[], &ty)
        })
        .collect();
    let bounds = at.bounds(upper, step, depth);
    let known_step = at.func.constant(step).and_then(Const::as_int);
    let mut index = lower;
    for turn in 0..depth - 1 {
        let mut runs = at.compare(CmpOp::Lt, lower, bounds[turn as usize]);
        if known_step.is_none_or(|step| step <= 0) {
            let zero = at.constant(0, &index_type);
            let positive = at.compare(CmpOp::Gt, step, zero);
            runs = at.binary(BinaryOp::And, runs, positive);
        }
        let slot = at.constant(turn.into(), &slot_type);
        at.copy_turn(staged, &blocks, body, index, runs, slot);
        index = at.binary(BinaryOp::Add, index, step);
    }
    let ahead = at.constant((depth - 1).into(), &index_type);
    let ahead = at.binary(BinaryOp::Mul, step, ahead);
    let first_slot = at.constant(0, &slot_type);
    let before = std::mem::take(&mut at.out);

    // In each turn.
    let slot = func.add_block_param(body, slot_type.clone());
    let loop_index = func.block(body).params[0];
    let mut at = At { func, out: Vec::new(), loc };
    at.effect(Op::AsyncWait { pending: (depth - 2) as u8 }, &[]);
    at.effect(Op::Barrier, &[]);
    let zero = at.constant(0, &slot_type);
    let one = at.constant(1, &slot_type);
    let last = at.constant((depth - 1).into(), &slot_type);
    // The stage read in the turn before.
    let is_first = at.compare(CmpOp::Eq, slot, zero);
    let previous = at.binary(BinaryOp::Sub, slot, one);
    let previous = at.value(Op::Select, &[is_first, last, previous], &slot_type);
    let next_index = at.binary(BinaryOp::Add, loop_index, ahead);
    let runs = at.compare(CmpOp::Lt, loop_index, bounds[depth as usize - 1]);
    at.copy_turn(staged, &blocks, body, next_index, runs, previous);
    let is_last = at.compare(CmpOp::Eq, slot, last);
    let next = at.binary(BinaryOp::Add, slot, one);
    let next = at.value(Op::Select, &[is_last, zero, next], &slot_type);
    let mut loads = Vec::new();
    for (item, &block) in staged.iter().zip(&blocks) {
        let old = at.func.result(item.load);
        let ty = at.func.ty(old).clone();
        loads.push((old, at.value(Op::LocalLoad, &[block, slot], &ty)));
    }
    let head = std::mem::take(&mut at.out);

    let gone: BTreeSet<Inst> = staged.iter().map(|item| item.load).collect();
    // Those who compute operands together need not meet once more before they write them.
    let meets = |&inst: &Inst| matches!(func.inst(inst).op, Op::Barrier | Op::LocalLoad | Op::LocalStore);
    let first = func.block(body).insts.iter().copied().find(meets);
    let first = first.filter(|&inst| matches!(func.inst(inst).op, Op::Barrier));
    let insts = func.block_insts_mut(body);
    insts.retain(|inst| !gone.contains(inst) && Some(*inst) != first);
    insts.splice(0..0, head);
    for (old, new) in loads {
        func.replace_uses(old, new);
    }
    let end = func.terminator(body).expect("the verifier checked that blocks end");
    func.inst_mut(end).operands.push(next);
    func.inst_mut(inst).operands.push(first_slot);
    func.add_result(inst, slot_type);

    // After the loop nothing is in flight and nobody reads a stage.
    let (block, place) = find(func, inst);
    let next = func.block(block).insts.get(place + 1);
    let meets = next.is_some_and(|&next| matches!(func.inst(next).op, Op::Barrier));
    let mut at = At { func, out: Vec::new(), loc };
    at.effect(Op::AsyncWait { pending: 0 }, &[]);
    if !meets {
        at.effect(Op::Barrier, &[]);
    }
    let after = std::mem::take(&mut at.out);
    let insts = func.block_insts_mut(block);
    insts.splice(place + 1..place + 1, after);
    insts.splice(place..place, before);
    debug_assert!(block.index() < func.block_count());
}
