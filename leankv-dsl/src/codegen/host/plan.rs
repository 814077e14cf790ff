//! Which tiles are materialised in scratch memory and which are computed on demand.
//!
//! * Results of reductions, scans, `dot`, atomics and control flow always lie in memory: their emitters put them there.
//! * A tile that is read more often than it has elements is materialised when computing it again costs more than
//!   writing and reading it.
//! * A load from memory that may be written is materialised where a write stands between it and its last use, so that it reads
//!   what the program's order says.
//! * A tile below which too many ops would be computed on demand is materialised, so that emitting it takes a bounded stack.
//! * Integers that run along the last dimension in steps of a constant (offsets) are never materialised: consumers see through them
//!   to whole-vector accesses.

use super::emit::{is_read_only, lane_stride};
use crate::ir::{BinaryOp, Block, Def, Dtype, Entity, Func, Inst, Op, SideTable, UnaryOp, Value};

/// How many rows of a `dot` share one evaluation of its second operand; with more rows the operand is packed first.
pub(super) const DOT_FUSED_ROWS: u32 = 8;

/// The most ops that are computed on demand below one another.
const FUSED_DEPTH: u32 = 256;

/// The plan.
pub(super) struct Plan {
    materialised: Vec<bool>,
    /// For results of an `if` the value whose memory they may take over.
    taken_over: SideTable<Value, Option<Value>>,
}

impl Plan {
    /// Whether the op that makes this tile writes it to memory.
    pub(super) fn is_materialised(&self, value: Value) -> bool {
        self.materialised[value.index()]
    }

    /// The tile from outside that an `if` gives as this result where nothing changes, if nothing reads it afterwards: the result may be
    /// made in its memory.
    pub(super) fn taken_over(&self, result: Value) -> Option<Value> {
        self.taken_over[result]
    }
}

/// Where an op stands.
#[derive(Clone, Copy, Default)]
struct At {
    /// Its number in program order.
    position: u32,
    /// The block it stands in.
    block: Option<Block>,
}

/// How a tile is used.
#[derive(Clone, Copy, Default)]
struct Usage {
    /// Evaluations an element.
    evaluations: f64,
    /// The last op that evaluates it.
    last: u32,
}

/// Loops are taken to run this often.
const TRIPS: f64 = 8.0;

struct Planner<'f> {
    func: &'f Func,
    at: SideTable<Inst, At>,
    /// For each block the op that owns it.
    owner: SideTable<Block, Option<Inst>>,
    /// For each op with regions the number of the last op inside.
    end: SideTable<Inst, u32>,
    /// Ops that write memory, in order.
    writers: Vec<u32>,
    cost: SideTable<Value, f64>,
    usage: SideTable<Value, Usage>,
}

/// Decides for all tiles of a function.
pub(super) fn plan(func: &Func) -> Plan {
    let mut planner = Planner {
        func,
        at: SideTable::new(),
        owner: SideTable::new(),
        end: SideTable::new(),
        writers: Vec::new(),
        cost: SideTable::new(),
        usage: SideTable::new(),
    };
    let mut count = 0;
    planner.number(func.entry(), &mut count);
    let order = func.walk();
    for &inst in &order {
        planner.price(inst);
    }
    let mut materialised = vec![false; func.value_count()];
    for &inst in order.iter().rev() {
        planner.decide(inst, &mut materialised);
    }
    planner.cut_chains(&order, &mut materialised);
    let mut taken_over = SideTable::new();
    for &inst in &order {
        planner.take_over(inst, &mut taken_over);
    }
    Plan { materialised, taken_over }
}

/// Ops whose results are put in memory by their own emitters, and ops that evaluate operands where they stand.
fn is_consumer(op: &Op) -> bool {
    matches!(
        op,
        Op::Store { .. }
            | Op::AtomicRmw { .. }
            | Op::AtomicCas { .. }
            | Op::Reduce { .. }
            | Op::Scan { .. }
            | Op::Dot
            | Op::Assert { .. }
            | Op::Print { .. }
            | Op::For { .. }
            | Op::While
            | Op::If
            | Op::Yield
            | Op::Return
    )
}

impl Planner<'_> {
    fn number(&mut self, block: Block, count: &mut u32) {
        for &inst in &self.func.block(block).insts {
            *count += 1;
            self.at[inst] = At { position: *count, block: Some(block) };
            let data = self.func.inst(inst);
            if matches!(data.op, Op::Store { .. } | Op::AtomicRmw { .. } | Op::AtomicCas { .. }) {
                self.writers.push(*count);
            }
            for &region in &data.regions {
                self.owner[region] = Some(inst);
                self.number(region, count);
            }
            self.end[inst] = *count;
        }
    }

    /// What one element costs when everything below is computed on demand.
    fn price(&mut self, inst: Inst) {
        let data = self.func.inst(inst);
        let operands: f64 = data.operands.iter().map(|&v| self.cost[v]).sum();
        let own = match &data.op {
            op if is_consumer(op) => {
                for &result in &data.results {
                    self.cost[result] = 1.0;
                }
                return;
            }
            Op::Constant(_) | Op::Iota | Op::Splat => 0.0,
            Op::Broadcast | Op::ExpandDims { .. } | Op::Transpose { .. } => 0.0,
            Op::Reshape | Op::Join | Op::Split => 0.5,
            Op::Unary(op) => match op {
                UnaryOp::Exp2 | UnaryOp::Log2 => 12.0,
                UnaryOp::Sin | UnaryOp::Cos | UnaryOp::Tanh | UnaryOp::Erf => 30.0,
                UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Rcp => 6.0,
                _ => 1.0,
            },
            Op::Binary(BinaryOp::Div | BinaryOp::Rem) => 6.0,
            Op::Quantize => 10.0,
            Op::Load { .. } | Op::Gather { .. } => 2.0,
            Op::Pack => 8.0,
            Op::InlinePtx { .. } => 8.0,
            _ => 1.0,
        };
        for &result in &data.results {
            self.cost[result] = (operands + own).min(1e6);
        }
    }

    /// Materialises the tiles that [`FUSED_DEPTH`] ops would be fused below.
    fn cut_chains(&self, order: &[Inst], materialised: &mut [bool]) {
        let mut depth: SideTable<Value, u32> = SideTable::new();
        for &inst in order {
            let data = self.func.inst(inst);
            if is_consumer(&data.op) || data.results.iter().any(|v| materialised[v.index()]) {
                continue;
            }
            let fused = data.operands.iter().map(|&v| depth[v]).max().unwrap_or(0) + 1;
            for &result in &data.results {
                let ty = self.func.ty(result);
                if ty.is_ptr() || ty.is_scalar() {
                    continue;
                }
                if fused < FUSED_DEPTH {
                    depth[result] = fused;
                } else {
                    materialised[result.index()] = true;
                }
            }
        }
    }

    /// Finds the tiles that results of an `if` replace: rare changes of a large state then cost nothing where they do not happen.
    fn take_over(&self, inst: Inst, taken_over: &mut SideTable<Value, Option<Value>>) {
        let data = self.func.inst(inst);
        if !matches!(data.op, Op::If) {
            return;
        }
        let mut taken = Vec::new();
        for (i, &result) in data.results.iter().enumerate() {
            let yields = data.regions.iter().filter_map(|&region| self.func.terminator(region));
            let kept = yields.map(|end| self.func.inst(end).operands[i]).find(|&value| {
                let outside = match self.func.value(value).def {
                    Def::Param(..) => true,
                    Def::Result(by, _) => {
                        self.at[by].position < self.at[inst].position || self.at[by].position > self.end[inst]
                    }
                };
                outside && self.usage[value].last <= self.end[inst] && !taken.contains(&value)
            });
            if let Some(value) = kept {
                taken.push(value);
                taken_over[result] = Some(value);
            }
        }
    }

    fn decide(&mut self, inst: Inst, materialised: &mut [bool]) {
        let data = self.func.inst(inst);
        let consumer = is_consumer(&data.op);
        let mut usage = Usage { evaluations: 1.0, last: self.at[inst].position };
        if !consumer {
            // Scalars are computed where they stand.
            let scalar =
                data.results.iter().all(|&v| self.func.ty(v).is_ptr() || self.func.ty(v).is_scalar());
            if !scalar {
                let mut evaluations = 0.0;
                let mut last = 0;
                for &result in &data.results {
                    evaluations += self.usage[result].evaluations;
                    last = last.max(self.usage[result].last);
                }
                usage = Usage { evaluations: evaluations / data.results.len() as f64, last };
                if usage.last == 0 {
                    return;
                }
                if self.must_materialise(inst, usage) || self.should_materialise(inst, usage) {
                    for &result in &data.results {
                        materialised[result.index()] = true;
                    }
                    usage = Usage { evaluations: 1.0, last: self.at[inst].position };
                }
            }
        }
        for (index, &operand) in data.operands.iter().enumerate() {
            if self.func.ty(operand).is_ptr() || self.func.ty(operand).is_scalar() {
                continue;
            }
            let times = usage.evaluations * self.times(inst, index) * self.trips(inst, operand);
            let last = usage.last.max(self.last_in_loops(inst, operand));
            let entry = &mut self.usage[operand];
            entry.evaluations += times;
            entry.last = entry.last.max(last);
        }
    }

    /// How often one evaluation of an op's element evaluates an element of an operand, on average.
    fn times(&self, inst: Inst, index: usize) -> f64 {
        let data = self.func.inst(inst);
        let elements = |v: Value| self.func.ty(v).shape().map_or(1.0, |shape| shape.elements() as f64);
        let operand = data.operands[index];
        match &data.op {
            Op::Broadcast => elements(data.results[0]) / elements(operand),
            Op::Gather { .. } if index == 0 => 2.0 * elements(data.results[0]) / elements(operand),
            // Each half is asked for by itself.
            Op::Split => 1.0,
            _ => 1.0,
        }
    }

    /// How often the loops around an op run that are not around the definition of its operand.
    fn trips(&self, inst: Inst, operand: Value) -> f64 {
        let mut times = 1.0;
        self.loops_between(inst, operand, |_| times *= TRIPS);
        times
    }

    /// The last op of the outermost loop around an op that is not around its operand's definition; 0 without one.
    fn last_in_loops(&self, inst: Inst, operand: Value) -> u32 {
        let mut last = 0;
        self.loops_between(inst, operand, |owner| last = self.end[owner]);
        last
    }

    fn loops_between(&self, inst: Inst, operand: Value, mut each: impl FnMut(Inst)) {
        let defined_in = match self.func.value(operand).def {
            Def::Param(block, _) => Some(block),
            Def::Result(by, _) => self.at[by].block,
        };
        let mut block = self.at[inst].block;
        while block.is_some() && block != defined_in {
            let Some(owner) = block.and_then(|block| self.owner[block]) else { break };
            if !matches!(self.func.inst(owner).op, Op::If) {
                each(owner);
            }
            block = self.at[owner].block;
        }
    }

    /// Loads that a write could overtake.
    fn must_materialise(&self, inst: Inst, usage: Usage) -> bool {
        let data = self.func.inst(inst);
        if !matches!(data.op, Op::Load { .. }) || is_read_only(self.func, data.operands[0]) {
            return false;
        }
        let from = self.at[inst].position;
        self.writers.iter().any(|&writer| writer > from && writer <= usage.last)
    }

    fn should_materialise(&self, inst: Inst, usage: Usage) -> bool {
        let data = self.func.inst(inst);
        if usage.evaluations <= 1.0 {
            return false;
        }
        // Views cost nothing; what is below them is decided by itself.
        let view = matches!(
            data.op,
            Op::Constant(_)
                | Op::Iota
                | Op::Splat
                | Op::Broadcast
                | Op::ExpandDims { .. }
                | Op::Transpose { .. }
                | Op::Reshape
                | Op::Split
        );
        if view || self.is_offset(data.results[0]) {
            return false;
        }
        let cost = data.results.iter().map(|&v| self.cost[v]).fold(0.0, f64::max);
        cost * (usage.evaluations - 1.0) > usage.evaluations + 1.0
    }

    /// Whether a tile runs along its last dimension in constant steps, or is made of integers known from coordinates alone.
    fn is_offset(&self, value: Value) -> bool {
        let ty = self.func.ty(value);
        let Some(shape) = ty.shape() else { return false };
        if ty.dtype() == Dtype::I1 || ty.dtype().is_int() {
            let mut budget = 12;
            if self.known_from_coordinates(value, &mut budget) {
                return true;
            }
        }
        if !ty.dtype().is_int() || shape.rank() == 0 {
            return false;
        }
        let mut pattern: smallvec::SmallVec<[Option<i64>; 5]> = smallvec::smallvec![Some(0); shape.rank()];
        pattern[shape.rank() - 1] = Some(1);
        matches!(lane_stride(self.func, &|_| false, value, &pattern), Some(stride) if stride != 0)
    }

    /// Whether a few cheap integer ops on counts and scalars give the value.
    fn known_from_coordinates(&self, value: Value, budget: &mut i32) -> bool {
        if self.func.ty(value).is_scalar() {
            return true;
        }
        let Some(inst) = self.func.def_inst(value) else { return false };
        let data = self.func.inst(inst);
        *budget -= 1;
        let cheap = match data.op {
            Op::Constant(_) | Op::Iota | Op::Splat => return true,
            Op::Broadcast | Op::ExpandDims { .. } | Op::Transpose { .. } | Op::Reshape => true,
            Op::Cmp(_) | Op::Select => true,
            Op::Cast => !self.func.ty(data.operands[0]).dtype().is_float(),
            Op::Binary(BinaryOp::Div | BinaryOp::Rem) => self.func.constant(data.operands[1]).is_some(),
            Op::Binary(_) => true,
            _ => false,
        };
        cheap
            && *budget > 0
            && data.operands.iter().all(|&operand| {
                !self.func.ty(operand).dtype().is_float() && self.known_from_coordinates(operand, budget)
            })
    }
}
