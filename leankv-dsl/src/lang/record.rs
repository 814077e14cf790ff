//! Recording: the builder that the running kernel function fills.
//!
//! The session lives in a thread local, so kernels can be recorded on many threads at once. A session ends on every way
//! out, panics included. Mistakes are collected with the line of the op; the op's result is then a *poison* handle, and ops
//! on poison record nothing, so that one mistake gives one message.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::diag::{Diagnostic, Diagnostics};
use crate::ir::{
    BinaryOp, BuildError, Builder, Const, Def, Dtype, Entity, Func, Inst, Loc, Op, Param, Shape, Type, Value,
    verify,
};

mod calls;
mod watch;

pub(crate) use calls::{enter_call, leave_call};
pub(crate) use watch::{Shown, detach, difference, mistakes, rehearse, repeat, show, shown};

/// A value of another kernel, or one made while no kernel was being recorded.
pub(crate) const FOREIGN_VALUE: &str = "K0001";
/// Control flow left a recorded region.
pub(crate) const LEFT_REGION: &str = "K0002";
/// A carried variable changes its type.
pub(crate) const CARRY_TYPE: &str = "K0003";
/// A plain Rust value changed inside a recorded region.
pub(crate) const PLAIN_CHANGED: &str = "K0004";
/// The arms of an `if` give values of different types.
pub(crate) const ARMS_DIFFER: &str = "K0005";
/// The kernel's Rust code panicked while it was recorded.
pub(crate) const PANICKED: &str = "K0007";
/// A static assertion does not hold for this specialisation.
pub(crate) const STATIC_ASSERT: &str = "K0008";
/// An argument of an op that is a plain number is out of range.
pub(crate) const BAD_ARGUMENT: &str = "K0009";
/// A function calls itself without end while the kernel is recorded.
pub(crate) const RECURSION: &str = "K0010";

/// A handle to an IR value, or poison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle {
    value: Value,
    /// The session that made it; 0 is poison.
    session: u32,
}

impl Handle {
    /// What a failed op gives.
    pub(crate) fn poison() -> Handle {
        Handle { value: Value::from_index(0), session: 0 }
    }

    /// Whether it came from a failed op.
    pub(crate) fn is_poison(self) -> bool {
        self.session == 0
    }
}

struct Session {
    id: u32,
    builder: Builder,
    found: Diagnostics,
    /// Whether what is recorded now is taken out again.
    rehearsing: bool,
    /// Loops that are being recorded a second time.
    repeated: usize,
    /// Whether regions were taken out.
    detached: bool,
    calls: calls::Calls,
    /// Whether code takes part that must stay within its buffers, whatever it does.
    checked: bool,
}

impl Session {
    /// The value behind a handle; `None` for poison and for handles of other sessions, which are reported.
    fn own(&mut self, handle: Handle, loc: Loc) -> Option<Value> {
        if handle.session == self.id {
            return Some(handle.value);
        }
        if !handle.is_poison() {
            self.push(
                Diagnostic::error(FOREIGN_VALUE, loc, "a value of another kernel is used here")
                    .note("a tile or scalar belongs to the recording that made it")
                    .help("make the value inside this kernel, or pass it as a parameter of the launch"),
            );
        }
        None
    }

    fn own_all(&mut self, handles: &[Handle], loc: Loc) -> Option<Vec<Value>> {
        let values: Vec<Option<Value>> = handles.iter().map(|&h| self.own(h, loc)).collect();
        values.into_iter().collect()
    }

    /// Keeps a mistake, unless it is known: a loop that runs while the kernel is recorded repeats itself, and nested regions
    /// see the same plain value change.
    fn push(&mut self, new: Diagnostic) {
        let known = self.found.iter().any(|old| {
            let same_place = old.code == new.code && old.loc() == new.loc();
            same_place && (old.code == PLAIN_CHANGED || old.message == new.message)
        });
        if !known {
            self.found.push(new);
        }
    }

    /// Keeps what the builder refused.
    fn refuse(&mut self, error: &BuildError, loc: Loc) {
        let found = Diagnostic::building(error, loc);
        // A body that was recorded once without this mistake makes it only with what the first recording left behind.
        let kept = *error == BuildError::OutOfRegion && self.repeated > 0;
        self.push(match kept {
            true => found.note(
                "the value is one of the loop's last turn: a `Cell`, a `RefCell`, a `static` or a reference kept it, and none \
                 of them is carried",
            ),
            false => found,
        });
    }

    fn handle(&self, value: Value) -> Handle {
        Handle { value, session: self.id }
    }
}

thread_local! {
    static SESSIONS: RefCell<Vec<Session>> = const { RefCell::new(Vec::new()) };
}

fn with<T>(f: impl FnOnce(&mut Session) -> T) -> Option<T> {
    SESSIONS.with_borrow_mut(|sessions| sessions.last_mut().map(f))
}

/// Records a kernel: runs `body` with a fresh session.
///
/// # Errors
/// Everything that was reported while it ran.
pub(crate) fn record(
    name: &str,
    spec: String,
    (warps, resident): (Option<u32>, u32),
    loc: Loc,
    body: impl FnOnce(),
) -> Result<Func, Diagnostics> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let mut id = NEXT.fetch_add(1, Ordering::Relaxed);
    if id == 0 {
        // The counter wrapped onto poison.
        id = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    let mut builder = Builder::new(name, Vec::new(), loc);
    builder.func_mut().spec = spec;
    builder.func_mut().resident = resident;
    if let Some(warps) = warps {
        builder.func_mut().num_warps = warps;
    }
    SESSIONS.with_borrow_mut(|s| {
        s.push(Session {
            id,
            builder,
            found: Diagnostics::new(),
            rehearsing: false,
            repeated: 0,
            detached: false,
            calls: calls::Calls::default(),
            checked: false,
        });
    });
    let outcome = catch_unwind(AssertUnwindSafe(body));
    let session = SESSIONS
        .with_borrow_mut(Vec::pop)
        .expect("a session is popped by the call that pushed it, and nested calls pop their own");
    let mut found = session.found;
    let outcome = outcome.or_else(|payload| payload.downcast::<Diagnostic>().map(|ended| found.push(*ended)));
    if let Err(payload) = outcome {
        let text = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        found.push(
            Diagnostic::error(PANICKED, loc, format!("the kernel panicked while it was recorded: {text}"))
                .help("plain Rust code of a kernel runs when it is specialised; check it for this specialisation"),
        );
    }
    let spec = session.builder.func().spec.clone();
    let with_spec = |found: Diagnostics| -> Diagnostics {
        if spec.is_empty() {
            return found;
        }
        found.into_iter().map(|d| d.note(format!("while specialising `{name}` for {spec}"))).collect()
    };
    if found.has_errors() {
        return Err(with_spec(found));
    }
    let func =
        session.builder.build(loc).map_err(|error| with_spec(Diagnostic::building(&error, loc).into()))?;
    // Regions that were taken out are still in the arenas.
    let func = if session.detached { func.compact() } else { func };
    verify(&func).map_err(with_spec)?;
    Ok(func)
}

/// Whether a kernel is being recorded on this thread.
pub(crate) fn active() -> bool {
    SESSIONS.with_borrow(|sessions| !sessions.is_empty())
}

/// Which recording this is; 0 where nothing is recorded.
pub(crate) fn session() -> u32 {
    with(|s| s.id).unwrap_or(0)
}

/// From now on the kernel has parts that must stay within their buffers, whatever they do.
pub(crate) fn mark_checked() {
    with(|s| s.checked = true);
}

/// Whether it has such parts.
pub(crate) fn checked() -> bool {
    with(|s| s.checked).unwrap_or(false)
}

/// Reports a mistake.
pub(crate) fn report(diagnostic: Diagnostic) {
    with(|s| s.push(diagnostic));
}

/// Reports a mistake and gives poison.
pub(crate) fn fail(diagnostic: Diagnostic) -> Handle {
    report(diagnostic);
    Handle::poison()
}

/// The type of a value; `None` for poison.
pub(crate) fn ty(handle: Handle, loc: Loc) -> Option<Type> {
    with(|s| s.own(handle, loc).map(|v| s.builder.ty(v).clone())).flatten()
}

/// The shape of a tile; `None` for poison.
pub(crate) fn shape(handle: Handle, loc: Loc) -> Option<Shape> {
    ty(handle, loc)?.shape().cloned()
}

/// Records an op with any number of results; poison when it does not fit, with a message at `loc`.
pub(crate) fn ops(
    op: Op,
    operands: &[Handle],
    wanted: Option<&Type>,
    results: usize,
    loc: Loc,
) -> Vec<Handle> {
    let done = with(|s| {
        let values = s.own_all(operands, loc)?;
        match s.builder.op(op, &values, wanted, loc) {
            Ok(out) => Some(out.into_iter().map(|v| s.handle(v)).collect::<Vec<_>>()),
            Err(error) => {
                s.refuse(&error, loc);
                None
            }
        }
    });
    done.flatten().unwrap_or_else(|| vec![Handle::poison(); results])
}

/// Records an op with one result.
pub(crate) fn value(op: Op, operands: &[Handle], wanted: Option<&Type>, loc: Loc) -> Handle {
    ops(op, operands, wanted, 1, loc)[0]
}

/// Records an op without results.
pub(crate) fn effect(op: Op, operands: &[Handle], loc: Loc) {
    ops(op, operands, None, 0, loc);
}

/// A constant, rounded to its element type.
pub(crate) fn constant(value: Const, ty: &Type, loc: Loc) -> Handle {
    self::value(Op::Constant(value.rounded(ty.dtype())), &[], Some(ty), loc)
}

/// The integer of a constant scalar; `None` when it is not constant.
pub(crate) fn known_int(handle: Handle) -> Option<i128> {
    with(|s| {
        if handle.session != s.id {
            return None;
        }
        s.builder.func().constant(handle.value).and_then(Const::as_int)
    })
    .flatten()
}

/// Whether an index is known to be at least 0: program ids, indices of loops that start at 0 or above, and sums, products,
/// quotients of such, as long as they do not wrap. "No" when it cannot be told.
pub(crate) fn never_negative(handle: Handle) -> bool {
    fn known(builder: &Builder, value: Value, depth: u32) -> bool {
        let (func, known) = (builder.func(), |v: Value| depth > 0 && known(builder, v, depth - 1));
        let inst = match func.value(value).def {
            Def::Result(inst, _) => inst,
            Def::Param(block, 0) => {
                let owner = builder.owner_of(block).map(|owner| func.inst(owner));
                return owner.is_some_and(|o| matches!(o.op, Op::For { .. }) && known(o.operands[0]));
            }
            Def::Param(..) => return false,
        };
        let operands = &func.inst(inst).operands;
        match &func.inst(inst).op {
            Op::ProgramId(_) | Op::NumPrograms(_) => true,
            Op::Constant(c) => c.as_int().is_some_and(|c| c >= 0),
            // From a type that is no wider, or unsigned.
            Op::Cast => {
                func.ty(operands[0]).dtype().bits() <= func.ty(value).dtype().bits() && known(operands[0])
            }
            Op::Binary(BinaryOp::Add | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Rem | BinaryOp::Min) => {
                operands.iter().all(|&v| known(v))
            }
            Op::Binary(BinaryOp::Max) => operands.iter().any(|&v| known(v)),
            _ => false,
        }
    }
    with(|s| handle.session == s.id && known(&s.builder, handle.value, 12)).unwrap_or(false)
}

/// Adds a parameter to the kernel.
pub(crate) fn param(param: Param) -> Handle {
    with(|s| {
        let ty = param.ty.clone();
        let func = s.builder.func_mut();
        let entry = func.entry();
        func.params.push(param);
        let value = func.add_block_param(entry, ty);
        s.handle(value)
    })
    .unwrap_or_else(Handle::poison)
}

/// An op with regions that is being recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region(Inst);

/// Starts an op with regions; `None` when nothing is recorded or the operands do not fit (reported).
pub(crate) fn begin(op: Op, operands: &[Handle], loc: Loc) -> Option<Region> {
    with(|s| {
        let values = s.own_all(operands, loc)?;
        match s.builder.begin(op, &values, loc) {
            Ok(inst) => Some(Region(inst)),
            Err(error) => {
                s.refuse(&error, loc);
                None
            }
        }
    })
    .flatten()
}

/// Opens the op's next region.
pub(crate) fn open(region: Region, params: &[Type]) -> Vec<Handle> {
    with(|s| {
        let values = s.builder.open_region(region.0, params);
        values.into_iter().map(|v| s.handle(v)).collect()
    })
    .unwrap_or_default()
}

/// Closes the innermost region, which must be the op's. Poison among the yields is reported nowhere: it was before.
/// Gives whether the region was closed in order.
pub(crate) fn close(region: Region, yields: &[Handle], loc: Loc) -> bool {
    with(|s| {
        let values = s.own_all(yields, loc).unwrap_or_default();
        match s.builder.close_region(region.0, &values, loc) {
            Ok(()) => true,
            Err(error) => {
                s.refuse(&error, loc);
                false
            }
        }
    })
    .unwrap_or(false)
}

/// Adds yields to a closed region of the op.
pub(crate) fn add_yield(region: Region, index: usize, handle: Handle) {
    with(|s| {
        let func = s.builder.func_mut();
        let block = func.inst(region.0).regions[index];
        if let Some(end) = func.terminator(block) {
            func.inst_mut(end).operands.push(handle.value);
        }
    });
}

/// Gives the op results.
pub(crate) fn finish(region: Region, types: &[Type]) -> Vec<Handle> {
    with(|s| {
        s.builder.finish(region.0, types);
        let results = s.builder.inst(region.0).results.clone();
        let first = results.len() - types.len();
        results[first..].iter().map(|&v| s.handle(v)).collect()
    })
    .unwrap_or_else(|| vec![Handle::poison(); types.len()])
}

/// Replaces all uses of a value so far, yields included.
pub(crate) fn replace_uses(from: Handle, to: Handle) {
    with(|s| s.builder.func_mut().replace_uses(from.value, to.value));
}

/// Takes carried variable number `index` out of a loop whose body never changes it: operand `first_operand + index`,
/// block parameter `first_param + index` of region 0, and the region's yield.
pub(crate) fn drop_carried(region: Region, first_operand: usize, first_param: usize, index: usize) {
    with(|s| {
        let func = s.builder.func_mut();
        let block = func.inst(region.0).regions[0];
        func.inst_mut(region.0).operands.remove(first_operand + index);
        func.remove_block_param(block, first_param + index);
        if let Some(end) = func.terminator(block) {
            func.inst_mut(end).operands.remove(index);
        }
    });
}

/// The number of open regions.
pub(crate) fn depth() -> usize {
    with(|s| s.builder.depth()).unwrap_or(0)
}

/// Reports that control flow left a region without ending it. Regions above `depth` are closed, so that recording can go on.
pub(crate) fn abandoned(what: &str, depth: usize, loc: Loc) {
    with(|s| {
        s.push(
            Diagnostic::error(LEFT_REGION, loc, format!("control flow leaves this {what} while it is recorded"))
                .help("`break`, `continue`, `return` and `?` cannot leave a recorded loop or branch, not even inside a macro"),
        );
        while s.builder.depth() > depth {
            let Some(owner) = s.builder.innermost() else { break };
            if s.builder.close_region(owner, &[], loc).is_err() {
                break;
            }
        }
    });
}

/// Checks that `dtype` is what the Rust type says; only codes leave it open.
pub(crate) fn scalar_type(dtype: Dtype) -> Type {
    Type::scalar(dtype)
}
