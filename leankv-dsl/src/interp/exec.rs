//! Runs one program: blocks, control flow, and each op on whole tiles.

use std::rc::Rc;

use super::access::{Atomic, Global, Pointer};
use super::data::{Data, Element};
use super::elementwise;
use super::fault::{Fault, FaultKind, Raised};
use super::fold::{self, Around, Fold};
use super::shape_ops;
use super::shared::Shared;
use super::{Options, Printed};
use crate::ir::{Axis, Block, Combine, Dtype, Entity, Func, Inst, InstData, Op, Shape, Type, Value};

/// What a value holds.
#[derive(Clone, Debug)]
pub(crate) enum Val {
    Tile(Rc<Data>),
    Ptr(Pointer),
    /// The op that allocated it.
    Shared(Inst),
}

/// What one launch shares between its programs.
pub(crate) struct Machine<'a> {
    pub(crate) func: &'a Func,
    pub(crate) options: &'a Options,
    pub(crate) global: Global<'a>,
    pub(crate) args: Vec<Val>,
    /// How often each op ran.
    pub(crate) counts: Vec<u64>,
    pub(crate) steps: u64,
    pub(crate) printed: Vec<Printed>,
    env: Vec<Option<Val>>,
    /// Results of ops that are the same in each program.
    constants: Vec<Option<Val>>,
    shared: Shared,
    program: [u32; 3],
    budget: u64,
    /// Loops that run, innermost last, with the steps at their start.
    loops: Vec<(Inst, u64)>,
}

type Step<T> = Result<T, Box<Fault>>;

impl<'a> Machine<'a> {
    pub(crate) fn new(
        func: &'a Func,
        options: &'a Options,
        global: Global<'a>,
        args: Vec<Val>,
    ) -> Machine<'a> {
        Machine {
            func,
            options,
            global,
            args,
            counts: vec![0; func.inst_count()],
            steps: 0,
            printed: Vec::new(),
            env: vec![None; func.value_count()],
            constants: vec![None; func.inst_count()],
            shared: Shared::default(),
            program: [0; 3],
            budget: 0,
            loops: Vec::new(),
        }
    }

    /// Runs a program from its start.
    pub(crate) fn run_program(&mut self, program: [u32; 3], linear: u32) -> Step<()> {
        self.program = program;
        self.shared = Shared::default();
        self.budget = self.options.max_steps;
        self.loops.clear();
        self.env.fill(None);
        if let Some(races) = &mut self.global.races {
            races.start(linear);
        }
        for (&param, arg) in self.func.param_values().iter().zip(self.args.clone()) {
            self.set(param, arg);
        }
        self.run_block(self.func.entry()).map(|_| ())
    }

    /// Runs a block whose parameters are set, and gives what it yields.
    fn run_block(&mut self, block: Block) -> Step<Vec<Val>> {
        let func = self.func;
        for &inst in &func.block(block).insts {
            let data = func.inst(inst);
            self.count(inst)?;
            match data.op {
                Op::Yield | Op::Return => return self.operands(data),
                Op::For { .. } | Op::While => {
                    self.loops.push((inst, self.steps));
                    match data.op {
                        Op::While => self.run_while(inst)?,
                        _ => self.run_for(inst)?,
                    }
                    self.loops.pop();
                }
                Op::If => {
                    let taken = match self.tile(data, 0)?.as_ref() {
                        Data::I1(v) => v[0],
                        _ => return Err(self.malformed(data, "the condition of `if` is no `i1`")),
                    };
                    let results = self.run_block(data.regions[usize::from(!taken)])?;
                    self.set_all(&data.results, results);
                }
                _ => self.run_op(inst)?,
            }
        }
        Ok(Vec::new())
    }

    fn run_for(&mut self, inst: Inst) -> Step<()> {
        let func = self.func;
        let data = func.inst(inst);
        let bound = |machine: &mut Self, i| {
            let value = machine.tile(data, i)?.as_int();
            value.ok_or_else(|| machine.malformed(data, "the bounds of `for` are no integers"))
        };
        let (lower, upper, step) = (bound(self, 0)?, bound(self, 1)?, bound(self, 2)?);
        if lower < upper && step <= 0 && self.options.check_steps {
            return Err(self.fault(data, FaultKind::NonPositiveStep { step }.raised()));
        }
        let dtype = func.ty(data.operands[0]).dtype();
        let mut carried = self.operands(data)?.split_off(3);
        let mut i = i128::from(lower);
        while i < i128::from(upper) && step > 0 {
            let index = match dtype {
                Dtype::I32 => Data::I32(vec![i as i32]),
                _ => Data::I64(vec![i as i64]),
            };
            let params = &func.block(data.regions[0]).params;
            self.set(params[0], Val::Tile(Rc::new(index)));
            self.set_all(&params[1..], carried);
            carried = self.run_block(data.regions[0])?;
            self.spend(data)?;
            i += i128::from(step);
        }
        self.set_all(&data.results, carried);
        Ok(())
    }

    fn run_while(&mut self, inst: Inst) -> Step<()> {
        let func = self.func;
        let data = func.inst(inst);
        let mut carried = self.operands(data)?;
        loop {
            self.set_all(&func.block(data.regions[0]).params, carried);
            let mut tested = self.run_block(data.regions[0])?;
            let rest = tested.split_off(1.min(tested.len()));
            let go_on = match tested.first() {
                Some(Val::Tile(tile)) => bool::of(tile).map(|v| v[0]),
                _ => None,
            };
            match go_on {
                Some(true) => {
                    self.set_all(&func.block(data.regions[1]).params, rest);
                    carried = self.run_block(data.regions[1])?;
                    self.spend(data)?;
                }
                Some(false) => {
                    self.set_all(&data.results, rest);
                    return Ok(());
                }
                None => return Err(self.malformed(data, "the condition of `while` is no `i1`")),
            }
        }
    }

    /// Runs an op without control flow.
    fn run_op(&mut self, inst: Inst) -> Step<()> {
        let func = self.func;
        let data = func.inst(inst);
        if let Some(known) = &self.constants[inst.index()] {
            let known = known.clone();
            self.set_all(&data.results, vec![known]);
            return Ok(());
        }
        let results = self.eval(inst, data)?;
        if matches!(data.op, Op::Constant(_) | Op::Iota) {
            self.constants[inst.index()] = results.first().cloned();
        }
        self.set_all(&data.results, results);
        Ok(())
    }

    fn eval(&mut self, inst: Inst, data: &InstData) -> Step<Vec<Val>> {
        let func = self.func;
        let out = data.results.first().map(|&v| func.ty(v));
        let (out_dtype, out_shape) = match out {
            Some(Type::Tile { dtype, shape }) => (*dtype, shape.clone()),
            _ => (Dtype::I1, Shape::scalar()),
        };
        let n = out_shape.elements() as usize;
        let shape_of = |i: usize| func.ty(data.operands[i]).shape().cloned().unwrap_or_default();
        let one = |data: Data| Ok(vec![Val::Tile(Rc::new(data))]);
        let wrong = || Raised::malformed(format!("`{}` on operands it does not take", data.op.name()));
        let result = match &data.op {
            Op::ProgramId(axis) => Ok(self.grid_index(self.program, *axis)),
            Op::NumPrograms(axis) => Ok(self.grid_index(self.global.grid, *axis)),
            Op::Constant(value) => Ok(Data::filled(out_dtype, *value, n)),
            Op::Iota => Ok(shape_ops::iota(out_dtype, n)),
            Op::Splat => Ok(self.tile(data, 0)?.repeated(0, n)),
            op if elementwise::is_elementwise(op) => {
                let args = self.tiles(data)?;
                let args: Vec<&Data> = args.iter().map(Rc::as_ref).collect();
                elementwise::eval(op, &args, out_dtype, self.options.check_division)
            }
            Op::Reshape | Op::ExpandDims { .. } | Op::ConvertLayout => {
                return Ok(vec![Val::Tile(self.tile(data, 0)?)]);
            }
            Op::Transpose { perm } => {
                Ok(shape_ops::transpose(&*self.tile(data, 0)?, &shape_of(0), &out_shape, perm))
            }
            Op::Broadcast => Ok(shape_ops::broadcast(&*self.tile(data, 0)?, &shape_of(0), &out_shape)),
            Op::Join => shape_ops::join(&*self.tile(data, 0)?, &*self.tile(data, 1)?).ok_or_else(wrong),
            Op::Split => {
                let tile = self.tile(data, 0)?;
                let half = |first| Val::Tile(Rc::new(shape_ops::split(&tile, first)));
                return Ok(vec![half(0), half(1)]);
            }
            Op::Reduce { axis, combine } => {
                return self.fold(data, usize::from(*axis), *combine, Fold::Reduce);
            }
            Op::Scan { axis, combine, reverse } => {
                return self.fold(data, usize::from(*axis), *combine, Fold::Scan { reverse: *reverse });
            }
            Op::Dot => {
                let (a, b) = (shape_of(0), shape_of(1));
                let (m, k, n) = (a[0] as usize, a[1] as usize, b[1] as usize);
                let (a, b, acc) = (self.tile(data, 0)?, self.tile(data, 1)?, self.tile(data, 2)?);
                shape_ops::dot(&a, &b, &acc, m, k, n).ok_or_else(wrong)
            }
            Op::Gather { axis } => {
                let (a, index) = (self.tile(data, 0)?, self.tile(data, 1)?);
                shape_ops::gather(&a, &shape_of(0), &index, &out_shape, usize::from(*axis))
            }
            Op::Pack => match func.ty(data.operands[0]).dtype() {
                Dtype::Code(bits) => {
                    shape_ops::pack(&*self.tile(data, 0)?, bits, out_dtype).ok_or_else(wrong)
                }
                _ => Err(wrong()),
            },
            Op::Unpack => match out_dtype {
                Dtype::Code(bits) => shape_ops::unpack(&*self.tile(data, 0)?, bits).ok_or_else(wrong),
                _ => Err(wrong()),
            },
            Op::InlinePtx { .. } => {
                let lanes = self.tiles(data)?;
                return self.run_lanes(data.regions[0], lanes, n);
            }
            Op::PtrCast => return Ok(vec![Val::Ptr(self.pointer(data, 0)?)]),
            Op::PtrAdd => {
                let ptr = self.pointer(data, 0)?;
                let elements = self.tile(data, 1)?.as_int().unwrap_or(0);
                let size = i64::from(func.ty(data.operands[0]).dtype().bytes().unwrap_or(1));
                let byte = elements.checked_mul(size).and_then(|bytes| ptr.byte.checked_add(bytes));
                return match byte {
                    Some(byte) => Ok(vec![Val::Ptr(Pointer { byte, ..ptr })]),
                    None => Err(self.fault(
                        data,
                        Raised { param: Some(ptr.param), ..FaultKind::AddressOverflow.raised() },
                    )),
                };
            }
            _ => return self.effect(inst, data),
        };
        match result {
            Ok(data) => one(data),
            Err(raised) => Err(self.fault(data, raised)),
        }
    }

    /// Ops that touch memory, report or synchronise.
    fn effect(&mut self, inst: Inst, data: &InstData) -> Step<Vec<Val>> {
        let func = self.func;
        let done = |result: Result<(), Raised>| result.map(|()| Vec::new());
        let value = |result: Result<Data, Raised>| result.map(|data| vec![Val::Tile(Rc::new(data))]);
        let result = match &data.op {
            Op::Load { masked, other, .. } => {
                let (ptr, dtype, offsets, mask) = self.address(data, 0, masked.then_some(2))?;
                let other = if *other { Some(self.tile(data, data.operands.len() - 1)?) } else { None };
                let mask = mask.as_deref().and_then(bool::of);
                value(self.global.load(ptr, dtype, &offsets, mask, other.as_deref()))
            }
            Op::Store { masked, .. } => {
                let (ptr, dtype, offsets, mask) = self.address(data, 0, masked.then_some(3))?;
                let stored = self.tile(data, 2)?;
                let mask = mask.as_deref().and_then(bool::of);
                done(self.global.store(ptr, &offsets, &stored, dtype, mask))
            }
            Op::AtomicRmw { op, order, scope, masked } => {
                let (ptr, dtype, offsets, mask) = self.address(data, 0, masked.then_some(3))?;
                let operand = self.tile(data, 2)?;
                let mask = mask.as_deref().and_then(bool::of);
                let atomic = Atomic { order: *order, scope: *scope };
                value(self.global.atomic_rmw(*op, ptr, &offsets, &operand, dtype, mask, &atomic))
            }
            Op::AtomicCas { order, scope } => {
                let (ptr, dtype, offsets, _) = self.address(data, 0, None)?;
                let (compare, new) = (self.tile(data, 2)?, self.tile(data, 3)?);
                let atomic = Atomic { order: *order, scope: *scope };
                value(self.global.atomic_cas(ptr, &offsets, &compare, &new, dtype, &atomic))
            }
            Op::Assert { message } => {
                let cond = self.tile(data, 0)?;
                match bool::of(&cond).and_then(|cond| cond.iter().position(|ok| !ok)) {
                    Some(element) => Err(FaultKind::AssertFailed { message: message.clone() }.at(element)),
                    None => Ok(Vec::new()),
                }
            }
            Op::Print { prefix } => {
                if self.printed.len() >= self.options.max_prints {
                    return Ok(Vec::new());
                }
                let mut text = prefix.clone();
                for (i, &operand) in data.operands.iter().enumerate() {
                    let tile = self.tile(data, i)?;
                    let shape = func.ty(operand).shape().cloned().unwrap_or_default();
                    text.push(' ');
                    show(&tile, shape.extents(), 0, tile.len(), &mut text);
                }
                self.printed.push(Printed { program: self.program, text });
                Ok(Vec::new())
            }
            Op::LocalAlloc => Ok(vec![Val::Shared(inst)]),
            Op::AsyncCopy { masked, .. } => {
                let (block, stages, stage) = self.stage(data)?;
                let (ptr, dtype, offsets, mask) = self.address(data, 2, masked.then_some(4))?;
                let mask = mask.as_deref().and_then(bool::of);
                let copied = self.global.load(ptr, dtype, &offsets, mask, None);
                done(copied.and_then(|copied| self.shared.start_copy(block, stages, stage, copied)))
            }
            Op::AsyncCommit => {
                self.shared.commit();
                Ok(Vec::new())
            }
            Op::AsyncWait { pending } => {
                self.shared.wait(*pending);
                Ok(Vec::new())
            }
            Op::Barrier => {
                self.shared.barrier();
                Ok(Vec::new())
            }
            Op::LocalLoad => {
                let (block, stages, stage) = self.stage(data)?;
                self.shared.load(block, stages, stage).map(|tile| vec![Val::Tile(tile)])
            }
            Op::LocalStore => {
                let (block, stages, stage) = self.stage(data)?;
                let stored = self.tile(data, 2)?;
                done(self.shared.store(block, stages, stage, stored))
            }
            other => Err(Raised::malformed(format!("`{}` stands where it cannot run", other.name()))),
        };
        result.map_err(|raised| self.fault(data, raised))
    }

    /// `reduce` and `scan`, with the elements along the axis taken one after another.
    fn fold(&mut self, data: &InstData, axis: usize, combine: Combine, fold: Fold) -> Step<Vec<Val>> {
        let shape = self.func.ty(data.operands[0]).shape().cloned().unwrap_or_default();
        let around = shape_ops::around(&shape, axis);
        match combine {
            Combine::Kind(kind) => match fold::fold(kind, &*self.tile(data, 0)?, around, fold) {
                Some(out) => Ok(vec![Val::Tile(Rc::new(out))]),
                None => Err(self.malformed(data, "elements that do not combine so")),
            },
            Combine::Region => self.fold_region(data, around, fold),
        }
    }

    fn fold_region(&mut self, data: &InstData, around: Around, fold: Fold) -> Step<Vec<Val>> {
        let Around { outer, extent, inner } = around;
        let tiles = self.tiles(data)?;
        // All elements with one index along the axis.
        let slice = |tile: &Data, at: usize| {
            let places = (0..outer).flat_map(move |o| (0..inner).map(move |i| (o * extent + at) * inner + i));
            Rc::new(tile.picked(places))
        };
        let slices = |at: usize| -> Vec<Rc<Data>> { tiles.iter().map(|tile| slice(tile, at)).collect() };
        let reverse = matches!(fold, Fold::Scan { reverse: true });
        let index = |step: usize| if reverse { extent - 1 - step } else { step };
        let mut acc = slices(index(0));
        let mut kept = vec![acc.clone()];
        for step in 1..extent {
            let next = slices(index(step));
            // The elements of lower index stand first.
            let (a, b) = if reverse { (&next, &acc) } else { (&acc, &next) };
            let args = a.iter().chain(b).cloned().collect();
            let combined = self.run_lanes(data.regions[0], args, outer * inner)?;
            acc = combined
                .into_iter()
                .filter_map(|v| if let Val::Tile(tile) = v { Some(tile) } else { None })
                .collect();
            if acc.len() != tiles.len() {
                return Err(self.malformed(data, "a region that yields another number of values"));
            }
            self.spend(data)?;
            if fold != Fold::Reduce {
                kept.push(acc.clone());
            }
        }
        if fold == Fold::Reduce {
            return Ok(acc.into_iter().map(Val::Tile).collect());
        }
        let woven = (0..tiles.len()).map(|operand| {
            let parts: Vec<&Data> = (0..extent).map(|at| kept[index(at)][operand].as_ref()).collect();
            weave(&parts, outer, inner).map(|tile| Val::Tile(Rc::new(tile)))
        });
        let woven: Option<Vec<Val>> = woven.collect();
        woven.ok_or_else(|| self.malformed(data, "a region that yields another type"))
    }

    /// Runs a region of scalars once for each of `n` lanes; argument and result tiles have an element a lane.
    fn run_lanes(&mut self, region: Block, args: Vec<Rc<Data>>, n: usize) -> Step<Vec<Val>> {
        let func = self.func;
        let block = func.block(region);
        if block.insts.iter().all(|&inst| runs_in_lanes(&func.inst(inst).op)) {
            self.set_all(&block.params, args.into_iter().map(Val::Tile).collect());
            for &inst in &block.insts {
                let data = func.inst(inst);
                self.count(inst)?;
                let mut operands = Vec::new();
                for i in 0..data.operands.len() {
                    let tile = self.tile(data, i)?;
                    // A scalar from outside the region.
                    operands.push(if tile.len() == n { tile } else { Rc::new(tile.repeated(0, n)) });
                }
                if data.op.is_terminator() {
                    return Ok(operands.into_iter().map(Val::Tile).collect());
                }
                let dtype = func.ty(data.results[0]).dtype();
                let result = match &data.op {
                    Op::Constant(value) => Ok(Data::filled(dtype, *value, n)),
                    op => {
                        let operands: Vec<&Data> = operands.iter().map(Rc::as_ref).collect();
                        elementwise::eval(op, &operands, dtype, self.options.check_division)
                    }
                };
                // The lane is not an index of this op's own tile, which is a scalar.
                let result = result.map_err(|raised| self.fault(data, Raised { element: None, ..raised }))?;
                self.set(data.results[0], Val::Tile(Rc::new(result)));
            }
            return Ok(Vec::new());
        }
        let mut lanes: Vec<Vec<Rc<Data>>> = Vec::new();
        for lane in 0..n {
            let scalars = args.iter().map(|tile| Val::Tile(Rc::new(tile.repeated(lane, 1)))).collect();
            self.set_all(&block.params, scalars);
            let yielded = self.run_block(region)?;
            lanes.resize(yielded.len(), Vec::new());
            for (lane, value) in lanes.iter_mut().zip(yielded) {
                if let Val::Tile(tile) = value {
                    lane.push(tile);
                }
            }
        }
        let joined = lanes.iter().filter_map(|parts| {
            let parts: Vec<&Data> = parts.iter().map(Rc::as_ref).collect();
            weave(&parts, 1, 1)
        });
        Ok(joined.map(|tile| Val::Tile(Rc::new(tile))).collect())
    }

    fn grid_index(&self, grid: [u32; 3], axis: Axis) -> Data {
        let axis = match axis {
            Axis::X => 0,
            Axis::Y => 1,
            Axis::Z => 2,
        };
        Data::I32(vec![grid[axis] as i32])
    }

    /// Pointer, element type, offsets and mask of an access whose pointer is operand `at`.
    fn address(
        &self,
        data: &InstData,
        at: usize,
        mask: Option<usize>,
    ) -> Step<(Pointer, Dtype, Vec<i64>, Option<Rc<Data>>)> {
        let ptr = self.pointer(data, at)?;
        let dtype = self.func.ty(data.operands[at]).dtype();
        let offsets = match self.tile(data, at + 1)?.as_ref() {
            Data::I32(v) => v.iter().map(|&x| i64::from(x)).collect(),
            Data::I64(v) => v.clone(),
            _ => return Err(self.malformed(data, "offsets that are neither `i32` nor `i64`")),
        };
        let mask = match mask {
            Some(i) => Some(self.tile(data, i)?),
            None => None,
        };
        Ok((ptr, dtype, offsets, mask))
    }

    /// The block of shared memory, its number of stages, and the stage asked for.
    fn stage(&self, data: &InstData) -> Step<(Inst, u32, i64)> {
        let stages = match self.func.ty(data.operands[0]) {
            Type::Shared { stages, .. } => *stages,
            _ => 0,
        };
        match (self.get(data, 0)?, self.tile(data, 1)?.as_int()) {
            (Val::Shared(block), Some(stage)) => Ok((block, stages, stage)),
            _ => Err(self.malformed(data, "an operand that is no shared memory")),
        }
    }

    fn get(&self, data: &InstData, i: usize) -> Step<Val> {
        match data.operands.get(i).and_then(|v| self.env.get(v.index())) {
            Some(Some(value)) => Ok(value.clone()),
            _ => Err(self.malformed(data, "a use of a value that is not defined yet")),
        }
    }

    fn tile(&self, data: &InstData, i: usize) -> Step<Rc<Data>> {
        match self.get(data, i)? {
            Val::Tile(tile) => Ok(tile),
            _ => Err(self.malformed(data, "an operand that is no tile")),
        }
    }

    fn pointer(&self, data: &InstData, i: usize) -> Step<Pointer> {
        match self.get(data, i)? {
            Val::Ptr(ptr) => Ok(ptr),
            _ => Err(self.malformed(data, "an operand that is no pointer")),
        }
    }

    fn tiles(&self, data: &InstData) -> Step<Vec<Rc<Data>>> {
        (0..data.operands.len()).map(|i| self.tile(data, i)).collect()
    }

    fn operands(&self, data: &InstData) -> Step<Vec<Val>> {
        (0..data.operands.len()).map(|i| self.get(data, i)).collect()
    }

    fn set(&mut self, value: Value, to: Val) {
        self.env[value.index()] = Some(to);
    }

    fn set_all(&mut self, values: &[Value], to: Vec<Val>) {
        for (&value, to) in values.iter().zip(to) {
            self.set(value, to);
        }
    }

    fn count(&mut self, inst: Inst) -> Step<()> {
        self.counts[inst.index()] += 1;
        self.spend(self.func.inst(inst))
    }

    fn spend(&mut self, data: &InstData) -> Step<()> {
        if self.budget == 0 {
            let limit = self.options.max_steps;
            // The innermost loop that took most of them is the one that does not end.
            let endless = self.loops.iter().rev().find(|(_, start)| self.steps - start >= limit / 2);
            let data = endless.map_or(data, |&(inst, _)| self.func.inst(inst));
            return Err(self.fault(data, FaultKind::StepBudget { limit }.raised()));
        }
        self.budget -= 1;
        self.steps += 1;
        Ok(())
    }

    fn fault(&self, data: &InstData, raised: Raised) -> Box<Fault> {
        // The tile that elements are counted in: the offsets' for an access, else the first operand's, else the result's.
        let counted = match data.op {
            Op::Load { .. } | Op::Store { .. } | Op::AtomicRmw { .. } | Op::AtomicCas { .. } => {
                data.operands.get(1)
            }
            Op::AsyncCopy { .. } => data.operands.get(3),
            Op::Gather { .. } => data.results.first(),
            _ => data.operands.first().or(data.results.first()),
        };
        let shape = counted.and_then(|&v| self.func.ty(v).shape());
        let extents = shape.map_or(&[][..], |shape| shape.extents());
        Box::new(raised.placed(self.func, data.op.name(), data.loc, self.program, extents))
    }

    fn malformed(&self, data: &InstData, what: &str) -> Box<Fault> {
        self.fault(data, Raised::malformed(format!("`{}`: {what}", data.op.name())))
    }
}

/// Whether an op of a scalar region can run on all lanes at once.
fn runs_in_lanes(op: &Op) -> bool {
    matches!(op, Op::Constant(_) | Op::Yield) || elementwise::is_elementwise(op)
}

/// Puts the slices along an axis together: part k holds the elements of index k.
fn weave(parts: &[&Data], outer: usize, inner: usize) -> Option<Data> {
    fn woven<T: Element>(parts: &[&Data], outer: usize, inner: usize) -> Option<Data> {
        let parts: Option<Vec<&[T]>> = parts.iter().map(|part| T::of(part)).collect();
        let parts = parts?;
        let mut out = Vec::with_capacity(parts.len() * outer * inner);
        for o in 0..outer {
            for part in &parts {
                out.extend_from_slice(part.get(o * inner..(o + 1) * inner)?);
            }
        }
        Some(T::data(out))
    }
    let like = parts.first()?;
    super::data::with_type!(like.dtype(), T => woven::<T>(parts, outer, inner))
}

/// `[[a, b], [c, d]]`.
fn show(tile: &Data, extents: &[u32], first: usize, n: usize, out: &mut String) {
    let Some((&extent, rest)) = extents.split_first() else {
        out.push_str(&tile.show(first));
        return;
    };
    let inner = n / (extent as usize).max(1);
    out.push('[');
    for i in 0..extent as usize {
        if i > 0 {
            out.push_str(", ");
        }
        show(tile, rest, first + i * inner, inner, out);
    }
    out.push(']');
}
