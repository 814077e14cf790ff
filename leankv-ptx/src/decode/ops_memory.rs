//! Loads, stores, atomics, fences, asynchronous copies and matrix moves.

use super::builder::Sym;
use super::cx::{Cx, Res};
use super::op::{Atom, AtomOp, Class, Collective, CpAsync, LdMatrix, Mbar, MbarOp, Mem, Op, Reg};
use crate::syntax::ast::{Operand, Space};
use crate::ty::Ty;
use crate::vm::regs::SINK;

pub(super) fn decode(cx: &mut Cx<'_, '_>) -> Res<(Op, Class)> {
    match cx.instr.base.as_str() {
        "ld" | "ldu" => load(cx),
        "st" => store(cx),
        "atom" | "red" => Ok((atom(cx)?, Class::Atomic)),
        "membar" | "fence" => Ok((fence(cx)?, Class::Fence)),
        "ldmatrix" => Ok((matrix(cx, true)?, Class::MatrixMove)),
        "stmatrix" => Ok((matrix(cx, false)?, Class::MatrixMove)),
        "cp" => cp(cx),
        "mbarrier" => Ok((mbarrier(cx)?, Class::Barrier)),
        "createpolicy" => {
            // A cache policy has no value effect: its register is set to zero.
            cx.at = cx.instr.mods.len();
            let d = cx.dst(0, Ty::B64)?;
            let zero = cx.fb.constant(true, 0);
            let f = crate::alu::macros::lanes!(r64 <- a: r64; a);
            let args = crate::vm::regs::Args { d, s: [zero, 0, 0, 0], ..Default::default() };
            Ok((Op::Alu(f, args), Class::Other))
        }
        _ => hint(cx),
    }
}

const SCOPES: &[&str] = &["cta", "cluster", "gpu", "sys"];

/// What the semantics, scope, space and cache modifiers of a load or store say.
#[derive(Default)]
struct Access {
    space: Option<Space>,
    acquire: bool,
    release: bool,
    strong: bool,
    nc: bool,
    vector: u32,
}

/// Consumes everything before the type.
fn access(cx: &mut Cx<'_, '_>) -> Res<Access> {
    let mut a = Access { vector: 1, ..Access::default() };
    while let Some(m) = cx.peek() {
        match m {
            "weak" => {}
            "volatile" | "relaxed" | "mmio" => a.strong = true,
            "acquire" => (a.acquire, a.strong) = (true, true),
            "release" => (a.release, a.strong) = (true, true),
            "global" => a.space = Some(Space::Global),
            "const" => a.space = Some(Space::Const),
            "shared" | "shared::cta" | "shared::cluster" => a.space = Some(Space::Shared),
            "local" => a.space = Some(Space::Local),
            "param" | "param::entry" | "param::func" => a.space = Some(Space::Param),
            "nc" => a.nc = true,
            "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "unified" => {}
            "v2" => a.vector = 2,
            "v4" => a.vector = 4,
            "v8" => a.vector = 8,
            m if SCOPES.contains(&m) => {}
            m if is_cache_hint(m) => {}
            _ => break,
        }
        cx.at += 1;
    }
    Ok(a)
}

fn is_cache_hint(m: &str) -> bool {
    matches!(
        m,
        "L1::evict_normal"
            | "L1::evict_unchanged"
            | "L1::evict_first"
            | "L1::evict_last"
            | "L1::no_allocate"
            | "L2::evict_last"
            | "L2::evict_normal"
            | "L2::evict_first"
            | "L2::cache_hint"
            | "L2::64B"
            | "L2::128B"
            | "L2::256B"
    )
}

/// The optional space of an instruction that otherwise takes generic addresses.
pub(super) fn generic_space(cx: &mut Cx<'_, '_>) -> Space {
    match cx.one_of(&["global", "shared", "shared::cta"]) {
        Some("global") => Space::Global,
        Some(_) => Space::Shared,
        None => Space::Generic,
    }
}

fn class_of(space: Space, load: bool) -> Class {
    match (space, load) {
        (Space::Shared, true) => Class::SharedLoad,
        (Space::Shared, false) => Class::SharedStore,
        (Space::Local, _) => Class::LocalAccess,
        (Space::Param | Space::Const, _) => Class::ParamLoad,
        (_, true) => Class::GlobalLoad,
        (_, false) => Class::GlobalStore,
    }
}

/// `.param` means parameter memory in a kernel and frame memory for everything declared in a function.
fn param_space(cx: &mut Cx<'_, '_>, operand: usize) -> Res<Space> {
    if let Operand::Address(a) = cx.operand(operand)?
        && let Some(name) = &a.base
    {
        match cx.fb.lookup(name) {
            Some(Sym::FrameParam(..) | Sym::Local(..)) => return Ok(Space::Local),
            Some(Sym::KernelParam(..)) => return Ok(Space::Param),
            _ => {}
        }
    }
    Ok(if cx.fb.is_entry { Space::Param } else { Space::Local })
}

/// The space of an access without one: that of the variable it names, generic for an address in a register.
fn implied_space(cx: &mut Cx<'_, '_>, operand: usize) -> Res<Space> {
    if let Operand::Address(a) = cx.operand(operand)?
        && let Some(name) = &a.base
    {
        return Ok(match cx.fb.lookup(name) {
            Some(Sym::Shared(_)) => Space::Shared,
            Some(Sym::Local(..) | Sym::FrameParam(..)) => Space::Local,
            Some(Sym::KernelParam(_)) => Space::Param,
            Some(Sym::Global(_)) => Space::Global,
            _ => Space::Generic,
        });
    }
    Ok(Space::Generic)
}

fn check_vector(cx: &Cx<'_, '_>, vector: u32, ty: Ty) -> Res<()> {
    if vector * ty.bits() > 256 || matches!(ty, Ty::Pred) || ty.bits() < 8 {
        return cx.err(format!(
            "`{}` moves {} bits per lane; at most 256 are possible",
            cx.opcode(),
            vector * ty.bits()
        ));
    }
    Ok(())
}

fn registers(cx: &mut Cx<'_, '_>, operand: usize, vector: u32, ty: Ty, load: bool) -> Res<([Reg; 8], u8)> {
    let mut regs = [Reg::Sink; 8];
    if ty == Ty::B128 {
        // One 128-bit register is two 64-bit ones.
        let Operand::Name(n) = cx.operand(operand)? else {
            return cx.err(format!("`{}` needs a .b128 register", cx.opcode()));
        };
        let Some(Sym::Reg(super::Width::W128, slot)) = cx.fb.lookup(n) else {
            return cx.err(format!("`{n}` is not a .b128 register"));
        };
        regs[0] = Reg::R64(slot);
        regs[1] = Reg::R64(slot + 1);
        return Ok((regs, 2));
    }
    let list = cx.elements(operand)?;
    if list.len() != vector as usize {
        return cx.err(format!("`{}` needs {vector} registers, found {}", cx.opcode(), list.len()));
    }
    for (r, o) in regs.iter_mut().zip(list) {
        *r = if load { cx.dst_wide_of(&o, ty)? } else { cx.src_wide_of(&o, ty)? };
    }
    Ok((regs, vector as u8))
}

fn load(cx: &mut Cx<'_, '_>) -> Res<(Op, Class)> {
    let a = access(cx)?;
    let ty = cx.ty()?;
    cx.done(2, 3)?;
    check_vector(cx, a.vector, ty)?;
    let space = match a.space {
        Some(Space::Param) => param_space(cx, 1)?,
        Some(s) => s,
        None => implied_space(cx, 1)?,
    };
    let (regs, count) = registers(cx, 0, a.vector, ty, true)?;
    let addr = cx.addr(1)?;
    let ty = if ty == Ty::B128 { Ty::B64 } else { ty };
    let read_only = a.nc || space == Space::Const;
    let mem =
        Mem { space, ty, regs, count, addr, read_only, acquire: a.acquire, release: false, strong: a.strong };
    Ok((Op::Ld(Box::new(mem)), class_of(space, true)))
}

fn store(cx: &mut Cx<'_, '_>) -> Res<(Op, Class)> {
    if matches!(cx.peek(), Some("async" | "bulk")) {
        return cx.unsupported("asynchronous stores to cluster memory are not executed");
    }
    let a = access(cx)?;
    let ty = cx.ty()?;
    cx.done(2, 3)?;
    check_vector(cx, a.vector, ty)?;
    let space = match a.space {
        Some(Space::Param) => param_space(cx, 0)?,
        Some(Space::Const) => return cx.err("constant memory cannot be stored to"),
        Some(s) => s,
        None => implied_space(cx, 0)?,
    };
    if space == Space::Param {
        return cx.err("kernel parameters cannot be stored to");
    }
    let (regs, count) = registers(cx, 1, a.vector, ty, false)?;
    let addr = cx.addr(0)?;
    let ty = if ty == Ty::B128 { Ty::B64 } else { ty };
    let mem = Mem {
        space,
        ty,
        regs,
        count,
        addr,
        read_only: false,
        acquire: false,
        release: a.release,
        strong: a.strong,
    };
    Ok((Op::St(Box::new(mem)), class_of(space, false)))
}

fn atom(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let red = cx.instr.base == "red";
    if cx.flag("async") {
        return cx.unsupported("asynchronous reductions to cluster memory are not executed");
    }
    let (mut space, mut acquire, mut release) = (Space::Generic, false, false);
    let (mut op, mut ty) = (None, None);
    let mut vector = 1;
    // Scope and semantics come in either order in real files; ptxas lets the type of a vector stand before the operation too.
    while let Some(m) = cx.peek() {
        match m {
            "global" => space = Space::Global,
            "shared" | "shared::cta" | "shared::cluster" => space = Space::Shared,
            "relaxed" => {}
            "acquire" => acquire = true,
            "release" => release = true,
            "acq_rel" => (acquire, release) = (true, true),
            "noftz" => {}
            "v2" => vector = 2,
            "v4" => vector = 4,
            "v8" => vector = 8,
            m if SCOPES.contains(&m) => {}
            m if is_cache_hint(m) => {}
            "add" => op = Some(AtomOp::Add),
            "min" => op = Some(AtomOp::Min),
            "max" => op = Some(AtomOp::Max),
            "and" => op = Some(AtomOp::And),
            "or" => op = Some(AtomOp::Or),
            "xor" => op = Some(AtomOp::Xor),
            "exch" => op = Some(AtomOp::Exch),
            "cas" => op = Some(AtomOp::Cas),
            "inc" => op = Some(AtomOp::Inc),
            "dec" => op = Some(AtomOp::Dec),
            m if vector > 1 && op.is_none() && ty.is_none() => match Ty::from_name(m) {
                Some(found) => ty = Some(found),
                None => break,
            },
            _ => break,
        }
        cx.at += 1;
    }
    let ty = match ty {
        Some(ty) => ty,
        None => cx.ty()?,
    };
    let Some(op) = op else { return cx.err(format!("`{}` lacks an operation such as `.add`", cx.opcode())) };
    let legal = match op {
        AtomOp::Add => matches!(
            ty,
            Ty::U32
                | Ty::S32
                | Ty::U64
                | Ty::S64
                | Ty::F32
                | Ty::F64
                | Ty::F16
                | Ty::F16x2
                | Ty::Bf16
                | Ty::Bf16x2
        ),
        AtomOp::Min | AtomOp::Max => {
            matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64)
                || (vector > 1 && matches!(ty, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2))
        }
        AtomOp::And | AtomOp::Or | AtomOp::Xor => matches!(ty, Ty::B32 | Ty::B64),
        AtomOp::Exch => matches!(ty, Ty::B32 | Ty::B64 | Ty::B128 | Ty::U32 | Ty::S32 | Ty::U64 | Ty::F32),
        AtomOp::Cas => matches!(ty, Ty::B16 | Ty::B32 | Ty::B64 | Ty::B128 | Ty::U32 | Ty::S32 | Ty::U64),
        AtomOp::Inc | AtomOp::Dec => ty == Ty::U32,
    };
    if !legal || (red && matches!(op, AtomOp::Exch | AtomOp::Cas)) {
        return cx.no_form();
    }
    if ty == Ty::B128 {
        return cx.unsupported("128-bit atomics are not executed");
    }
    let base = usize::from(!red);
    let sources = if op == AtomOp::Cas { 2 } else { 1 };
    cx.done(base + 1 + sources, base + 2 + sources)?;
    let mut src = [Reg::Sink; 8];
    let mut dsts = [Reg::Sink; 8];
    if vector > 1 {
        let list = cx.elements(base + 1)?;
        if list.len() != vector {
            return cx.err(format!("`{}` needs {vector} source registers", cx.opcode()));
        }
        for (r, o) in src.iter_mut().zip(list) {
            *r = cx.src_wide_of(&o, ty)?;
        }
        if !red {
            let list = cx.elements(0)?;
            for (r, o) in dsts.iter_mut().zip(list) {
                *r = cx.dst_wide_of(&o, ty)?;
            }
        }
    } else {
        for i in 0..sources {
            src[i] = cx.src_wide(base + 1 + i, ty)?;
        }
        if !red {
            dsts[0] = cx.dst_wide(0, ty)?;
        }
    }
    let addr = cx.addr(base)?;
    if space == Space::Generic {
        space = implied_space(cx, base)?;
    }
    Ok(Op::Atom(Box::new(Atom { space, op, ty, addr, src, count: vector as u8, dsts, acquire, release })))
}

fn fence(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let (mut acquire, mut release, mut block_only) = (true, true, false);
    if cx.instr.base == "membar" {
        if cx.flag("proxy") {
            cx.need(&["alias", "async", "async.global", "async.shared"])?;
        } else {
            block_only = cx.need(&["cta", "gl", "sys"])? == "cta";
        }
    } else if cx.flag("proxy") {
        cx.need(&["alias", "async", "tensormap::generic"])?;
        // Orders the proxies of memory, which are one here.
        cx.one_of(&["global", "shared::cta", "shared::cluster", "acquire", "release"]);
        cx.one_of(&["gpu", "sys", "cta", "cluster"]);
        cx.at = cx.instr.mods.len();
        (acquire, release) = (false, false);
    } else if cx.flag("mbarrier_init") {
        cx.need(&["release"])?;
        cx.need(&["cluster"])?;
        block_only = true;
    } else {
        match cx.one_of(&["sc", "acq_rel", "acquire", "release"]) {
            Some("acquire") => release = false,
            Some("release") => acquire = false,
            _ => {}
        }
        if cx.flag("sync_restrict::shared::cluster") || cx.flag("sync_restrict::shared::cta") {
            block_only = true;
        }
        block_only |= matches!(cx.need(SCOPES)?, "cta" | "cluster");
    }
    cx.done(0, 2)?;
    Ok(Op::Fence { acquire, release, block_only })
}

fn matrix(cx: &mut Cx<'_, '_>, load: bool) -> Res<Op> {
    cx.need(&["sync"])?;
    cx.need(&["aligned"])?;
    // Shape, count and `.trans` come in any order in real files.
    let (mut shape, mut count, mut trans) = (false, None, false);
    while let Some(m) = cx.peek() {
        match m {
            "m8n16" | "m16n16" | "m16n8" => {
                return cx.unsupported("only 8 x 8 matrices of 16-bit elements are executed");
            }
            "m8n8" if !shape => shape = true,
            "trans" if !trans => trans = true,
            "x1" | "x2" | "x4" if count.is_none() => count = Some(usize::from(m.as_bytes()[1] - b'0')),
            _ => break,
        }
        cx.at += 1;
    }
    if !shape {
        cx.need(&["m8n8"])?;
    }
    let Some(count) = count else {
        return cx.err(format!("`{}` lacks the number of matrices: `.x1`, `.x2` or `.x4`", cx.opcode()));
    };
    let generic = cx.one_of(&["shared", "shared::cta"]).is_none();
    if cx.need(&["b16", "b8"])? == "b8" {
        return cx.unsupported("only 16-bit elements are executed");
    }
    cx.done(2, 2)?;
    let (regs_at, addr_at) = if load { (0, 1) } else { (1, 0) };
    let list = cx.elements(regs_at)?;
    if list.len() != count {
        return cx.err(format!("`{}` needs {count} registers, found {}", cx.opcode(), list.len()));
    }
    let mut regs = [SINK; 4];
    for (r, o) in regs.iter_mut().zip(list) {
        *r = if load { cx.dst_of(&o, Ty::B32)? } else { cx.src_of(&o, Ty::B32)? };
    }
    let addr = cx.addr(addr_at)?;
    let m = Box::new(LdMatrix { count: count as u8, trans, regs, addr, generic });
    Ok(Op::Collective {
        what: if load { Collective::LdMatrix(m) } else { Collective::StMatrix(m) },
        mask: None,
    })
}

fn cp(cx: &mut Cx<'_, '_>) -> Res<(Op, Class)> {
    let class = Class::AsyncCopy;
    if cx.flag("reduce") {
        return cx.unsupported("bulk (TMA) reductions are not executed");
    }
    cx.need(&["async"])?;
    if cx.flag("bulk") {
        return cx.unsupported("bulk (TMA) copies are not executed; use cp.async");
    }
    if cx.flag("commit_group") {
        cx.done(0, 0)?;
        return Ok((Op::CpCommit, class));
    }
    if cx.flag("wait_group") {
        cx.done(1, 1)?;
        let leave = cx.const_int(0)?;
        return Ok((Op::CpWait { leave: leave.min(u64::from(u32::MAX - 1)) as u32 }, class));
    }
    if cx.flag("wait_all") {
        cx.done(0, 0)?;
        return Ok((Op::CpWait { leave: u32::MAX }, class));
    }
    if cx.flag("mbarrier") {
        cx.need(&["arrive"])?;
        let noinc = cx.flag("noinc");
        let generic = cx.one_of(&["shared", "shared::cta"]).is_none();
        cx.need(&["b64"])?;
        cx.done(1, 1)?;
        let addr = cx.addr(0)?;
        let op = if noinc { MbarOp::CpAsyncArriveNoInc } else { MbarOp::CpAsyncArrive };
        return Ok((Op::Mbar(Box::new(Mbar { op, addr, generic, d: SINK, src: None })), class));
    }
    let kind = cx.need(&["ca", "cg"])?;
    cx.need(&["shared", "shared::cta"])?;
    cx.need(&["global"])?;
    while cx.peek().is_some_and(is_cache_hint) {
        cx.at += 1;
    }
    cx.done(3, 5)?;
    let bytes = cx.const_int(2)? as u32;
    let ok = if kind == "cg" { bytes == 16 } else { matches!(bytes, 4 | 8 | 16) };
    if !ok {
        return cx.err(format!(
            "cp.async.{kind} copies {} bytes, found {bytes}",
            if kind == "cg" { "16" } else { "4, 8 or 16" }
        ));
    }
    let (dst, src) = (cx.addr(0)?, cx.addr(1)?);
    let (mut src_size, mut ignore_src) = (None, None);
    // The fourth operand is a size or a predicate; a 64-bit one is a cache policy.
    for i in 3..5 {
        if !cx.has(i) {
            continue;
        }
        let o = cx.operand(i)?;
        let kind = match o {
            Operand::Name(n) => cx.fb.lookup(n),
            Operand::Not(_) => Some(Sym::Reg(super::Width::Pred, 0)),
            _ => None,
        };
        match kind {
            Some(Sym::Reg(super::Width::Pred, _)) => ignore_src = Some(cx.pred(i)?),
            Some(Sym::Reg(super::Width::W64, _)) => {}
            _ => src_size = Some(cx.src(i, Ty::U32)?),
        }
    }
    Ok((Op::CpAsync(Box::new(CpAsync { bytes, dst, src, src_size, ignore_src })), class))
}

fn mbarrier(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let what = cx.need(&[
        "init",
        "inval",
        "arrive",
        "arrive_drop",
        "expect_tx",
        "complete_tx",
        "test_wait",
        "try_wait",
        "pending_count",
    ])?;
    let expect = matches!(what, "arrive" | "arrive_drop") && cx.flag("expect_tx");
    let no_complete = matches!(what, "arrive" | "arrive_drop") && cx.flag("noComplete");
    let parity = matches!(what, "test_wait" | "try_wait") && cx.flag("parity");
    while cx.one_of(&["relaxed", "acquire", "release", "cta", "cluster"]).is_some() {}
    let generic = cx.one_of(&["shared", "shared::cta", "shared::cluster"]).is_none();
    cx.need(&["b64"])?;
    if what == "pending_count" {
        cx.done(2, 2)?;
        let d = cx.dst(0, Ty::U32)?;
        let src = Some(cx.src(1, Ty::B64)?);
        let zero = cx.fb.constant(true, 0);
        let addr = super::op::Addr { base: Reg::R64(zero), offset: 0 };
        return Ok(Op::Mbar(Box::new(Mbar { op: MbarOp::PendingCount, addr, generic, d, src })));
    }
    if what == "complete_tx" {
        return cx.unsupported("transaction counts complete by bulk copies, which are not executed");
    }
    if no_complete && expect {
        return cx.no_form();
    }
    let mut mbar = Mbar {
        op: MbarOp::Init,
        addr: super::op::Addr { base: Reg::Sink, offset: 0 },
        generic,
        d: SINK,
        src: None,
    };
    match what {
        "init" => {
            cx.done(2, 2)?;
            mbar.addr = cx.addr(0)?;
            mbar.src = Some(cx.src(1, Ty::U32)?);
        }
        "inval" => {
            cx.done(1, 1)?;
            mbar.op = MbarOp::Inval;
            mbar.addr = cx.addr(0)?;
        }
        "expect_tx" => {
            cx.done(2, 2)?;
            mbar.op = MbarOp::ExpectTx;
            mbar.addr = cx.addr(0)?;
            mbar.src = Some(cx.src(1, Ty::U32)?);
        }
        "arrive" | "arrive_drop" => {
            cx.done(1, 3)?;
            // The state result is optional on newer targets.
            let has_state = !matches!(cx.operand(0)?, Operand::Address(_));
            let at = usize::from(has_state);
            if has_state {
                mbar.d = cx.dst(0, Ty::B64)?;
            }
            mbar.op = match (what, expect) {
                (_, true) => MbarOp::ArriveExpectTx,
                ("arrive", _) => MbarOp::Arrive,
                _ => MbarOp::ArriveDrop,
            };
            mbar.addr = cx.addr(at)?;
            if cx.has(at + 1) {
                mbar.src = Some(cx.src(at + 1, Ty::U32)?);
            }
        }
        _ => {
            cx.done(3, 4)?;
            let o = cx.operand(0)?;
            mbar.d = cx.pred_dst_of(o)?;
            mbar.addr = cx.addr(1)?;
            mbar.src = Some(if parity { cx.src(2, Ty::U32)? } else { cx.src(2, Ty::B64)? });
            mbar.op = match (what, parity) {
                ("test_wait", false) => MbarOp::TestWait,
                ("test_wait", true) => MbarOp::TestWaitParity,
                (_, false) => MbarOp::TryWait,
                (_, true) => MbarOp::TryWaitParity,
            };
        }
    }
    Ok(Op::Mbar(Box::new(mbar)))
}

/// `prefetch`, `discard` and friends: no value effect. `discard` destroys data, which nothing may rely on.
fn hint(cx: &mut Cx<'_, '_>) -> Res<(Op, Class)> {
    while cx.one_of(&["global", "local", "const", "param", "L1", "L2", "tensormap"]).is_some()
        || cx.peek().is_some_and(is_cache_hint)
    {
        if cx.peek().is_some_and(is_cache_hint) {
            cx.at += 1;
        }
    }
    cx.done(1, 2)?;
    cx.addr(0)?;
    Ok((Op::Nop, Class::Other))
}
