//! Barriers, warp collectives and matrix multiply-accumulate.

use super::cx::{Cx, Res};
use super::op::{AccTy, Bar, BarKind, Class, Collective, Mma, MmaTy, Op, ReduxOp, Reg, ShflMode, VoteMode};
use crate::ty::Ty;
use crate::vm::regs::SINK;

pub(super) fn decode(cx: &mut Cx<'_, '_>) -> Res<(Op, Class)> {
    Ok(match cx.instr.base.as_str() {
        "bar" | "barrier" => return barrier(cx),
        "shfl" => (shfl(cx)?, Class::Warp),
        "vote" => (vote(cx)?, Class::Warp),
        "match" => (matching(cx)?, Class::Warp),
        "redux" => (redux(cx)?, Class::Warp),
        "elect" => {
            cx.need(&["sync"])?;
            cx.done(2, 2)?;
            let (d, p) = cx.dst_pair(0, Ty::B32)?;
            let mask = Some(cx.control(1, Ty::B32)?);
            (Op::Collective { what: Collective::Elect { d, p }, mask }, Class::Warp)
        }
        "activemask" => {
            cx.need(&["b32"])?;
            cx.done(1, 1)?;
            (Op::ActiveMask { d: cx.dst(0, Ty::B32)? }, Class::Warp)
        }
        "mma" => (mma(cx)?, Class::Matrix),
        "movmatrix" => {
            for m in ["sync", "aligned", "m8n8", "trans", "b16"] {
                if !cx.flag(m) {
                    return cx.no_form();
                }
            }
            cx.done(2, 2)?;
            let d = cx.dst(0, Ty::B32)?;
            let a = cx.src(1, Ty::B32)?;
            (Op::Collective { what: Collective::MovMatrix { d, a }, mask: None }, Class::MatrixMove)
        }
        "wmma" => (super::ops_wmma::decode(cx)?, Class::Matrix),
        "setmaxnreg" => {
            cx.need(&["inc", "dec"])?;
            cx.need(&["sync"])?;
            cx.need(&["aligned"])?;
            cx.need(&["u32"])?;
            cx.done(1, 1)?;
            cx.const_int(0)?;
            (Op::Collective { what: Collective::Nothing, mask: None }, Class::Other)
        }
        _ => {
            cx.need(&["launch_dependents", "wait"])?;
            cx.done(0, 0)?;
            (Op::Nop, Class::Other)
        }
    })
}

/// A barrier's number, of which a block has 16.
fn barrier_number(cx: &mut Cx<'_, '_>, i: usize) -> Res<u32> {
    match cx.known(i)? {
        Some(number) if number > 15 => {
            cx.err(format!("there is no barrier {number}; a block has barriers 0 to 15"))
        }
        _ => cx.control(i, Ty::U32),
    }
}

/// How many threads of the block take part: whole warps.
fn barrier_threads(cx: &mut Cx<'_, '_>, i: usize) -> Res<Option<u32>> {
    match cx.known(i)? {
        Some(threads) if threads % 32 != 0 => {
            cx.err(format!("{threads} threads cannot meet at a barrier: they must be a multiple of 32"))
        }
        _ => cx.control(i, Ty::U32).map(Some),
    }
}

fn barrier(cx: &mut Cx<'_, '_>) -> Res<(Op, Class)> {
    let class = Class::Barrier;
    let bar = cx.instr.base == "bar";
    if bar && cx.flag("warp") {
        cx.need(&["sync"])?;
        cx.done(1, 1)?;
        let mask = Some(cx.control(0, Ty::B32)?);
        return Ok((Op::Collective { what: Collective::WarpSync, mask }, class));
    }
    cx.one_of(&["cta"]);
    if cx.peek() == Some("cluster") {
        cx.at += 1;
        // A cluster of one block: arrival and wait together are a block barrier.
        match cx.need(&["arrive", "wait"])? {
            "arrive" => {
                cx.one_of(&["release", "relaxed"]);
                cx.flag("aligned");
                cx.done(0, 0)?;
                return Ok((Op::Nop, class));
            }
            _ => {
                cx.one_of(&["acquire"]);
                let aligned = cx.flag("aligned");
                cx.done(0, 0)?;
                let id = cx.fb.constant(false, 0);
                let b = Bar { kind: BarKind::Sync, aligned, id, count: None, d: SINK, src: 0 };
                return Ok((Op::Bar(Box::new(b)), class));
            }
        }
    }
    let what = cx.need(&["sync", "arrive", "red"])?;
    let mut kind = match what {
        "arrive" => BarKind::Arrive,
        _ => BarKind::Sync,
    };
    let mut aligned = bar;
    if what == "red" {
        // `bar.red.popc.u32`, `barrier.red.popc.aligned.u32`.
        kind = match cx.need(&["popc", "and", "or"])? {
            "popc" => BarKind::RedPopc,
            "and" => BarKind::RedAnd,
            _ => BarKind::RedOr,
        };
        aligned |= cx.flag("aligned");
        let ty = cx.ty()?;
        if (kind == BarKind::RedPopc) != (ty == Ty::U32) || (kind != BarKind::RedPopc && ty != Ty::Pred) {
            return cx.no_form();
        }
        cx.done(3, 4)?;
        let d = cx.dst(0, ty)?;
        let id = barrier_number(cx, 1)?;
        let count = if cx.has(3) { barrier_threads(cx, 2)? } else { None };
        let src = cx.pred(if cx.has(3) { 3 } else { 2 })?;
        return Ok((Op::Bar(Box::new(Bar { kind, aligned, id, count, d, src })), class));
    }
    aligned |= cx.flag("aligned");
    cx.done(if what == "arrive" { 2 } else { 1 }, 2)?;
    let id = barrier_number(cx, 0)?;
    let count = if cx.has(1) { barrier_threads(cx, 1)? } else { None };
    Ok((Op::Bar(Box::new(Bar { kind, aligned, id, count, d: SINK, src: 0 })), class))
}

fn shfl(cx: &mut Cx<'_, '_>) -> Res<Op> {
    if !cx.flag("sync") {
        return cx.unsupported("shfl without .sync does not exist on sm_70 and newer");
    }
    let mode = match cx.need(&["up", "down", "bfly", "idx"])? {
        "up" => ShflMode::Up,
        "down" => ShflMode::Down,
        "bfly" => ShflMode::Bfly,
        _ => ShflMode::Idx,
    };
    cx.need(&["b32"])?;
    cx.done(5, 5)?;
    let (d, p) = cx.dst_pair(0, Ty::B32)?;
    let d = if d == SINK { Reg::Sink } else { Reg::R32(d) };
    let what = Collective::Shfl {
        mode,
        d,
        p,
        a: cx.src(1, Ty::B32)?,
        b: cx.src(2, Ty::B32)?,
        c: cx.src(3, Ty::B32)?,
    };
    Ok(Op::Collective { what, mask: Some(cx.control(4, Ty::B32)?) })
}

fn vote(cx: &mut Cx<'_, '_>) -> Res<Op> {
    if !cx.flag("sync") {
        return cx.unsupported("vote without .sync does not exist on sm_70 and newer");
    }
    let mode = match cx.need(&["all", "any", "uni", "ballot"])? {
        "all" => VoteMode::All,
        "any" => VoteMode::Any,
        "uni" => VoteMode::Uni,
        _ => VoteMode::Ballot,
    };
    let ty = cx.ty()?;
    if ty != if mode == VoteMode::Ballot { Ty::B32 } else { Ty::Pred } {
        return cx.no_form();
    }
    cx.done(3, 3)?;
    let d = cx.dst(0, ty)?;
    let src = cx.pred(1)?;
    Ok(Op::Collective { what: Collective::Vote { mode, d, src }, mask: Some(cx.control(2, Ty::B32)?) })
}

fn matching(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let all = cx.need(&["any", "all"])? == "all";
    cx.need(&["sync"])?;
    let ty = cx.ty()?;
    if !matches!(ty, Ty::B32 | Ty::B64) {
        return cx.no_form();
    }
    cx.done(3, 3)?;
    let (d, p) = cx.dst_pair(0, Ty::B32)?;
    if !all && p != SINK {
        return cx.no_form();
    }
    let s = cx.src(1, ty)?;
    let src = if ty == Ty::B64 { Reg::R64(s) } else { Reg::R32(s) };
    Ok(Op::Collective { what: Collective::Match { all, d, p, src }, mask: Some(cx.control(2, Ty::B32)?) })
}

fn redux(cx: &mut Cx<'_, '_>) -> Res<Op> {
    cx.need(&["sync"])?;
    let op = match cx.need(&["add", "min", "max", "and", "or", "xor"])? {
        "add" => ReduxOp::Add,
        "min" => ReduxOp::Min,
        "max" => ReduxOp::Max,
        "and" => ReduxOp::And,
        "or" => ReduxOp::Or,
        _ => ReduxOp::Xor,
    };
    let abs = cx.flag("abs");
    let nan = cx.flag("NaN");
    let ty = cx.ty()?;
    let legal = match op {
        ReduxOp::Add => matches!(ty, Ty::U32 | Ty::S32),
        ReduxOp::Min | ReduxOp::Max => matches!(ty, Ty::U32 | Ty::S32 | Ty::F32),
        _ => ty == Ty::B32,
    };
    if !legal || ((abs || nan) && ty != Ty::F32) {
        return cx.no_form();
    }
    cx.done(3, 3)?;
    let d = cx.dst(0, ty)?;
    let a = cx.src(1, ty)?;
    Ok(Op::Collective {
        what: Collective::Redux { op, ty, nan, abs, d, a },
        mask: Some(cx.control(2, Ty::B32)?),
    })
}

fn mma_ty(ty: Ty) -> Option<MmaTy> {
    Some(match ty {
        Ty::F16 => MmaTy::F16,
        Ty::Bf16 => MmaTy::Bf16,
        Ty::Tf32 => MmaTy::Tf32,
        Ty::E4m3 => MmaTy::E4m3,
        Ty::E5m2 => MmaTy::E5m2,
        Ty::S8 => MmaTy::S8,
        Ty::U8 => MmaTy::U8,
        Ty::S4 => MmaTy::S4,
        Ty::U4 => MmaTy::U4,
        Ty::F64 => MmaTy::F64,
        Ty::B1 => MmaTy::B1,
        _ => return None,
    })
}

fn acc_ty(ty: Ty) -> Option<AccTy> {
    Some(match ty {
        Ty::F16 => AccTy::F16,
        Ty::F32 => AccTy::F32,
        Ty::S32 => AccTy::S32,
        Ty::F64 => AccTy::F64,
        _ => return None,
    })
}

/// Bits of one element of an operand.
pub(crate) fn element_bits(ty: MmaTy) -> u32 {
    match ty {
        MmaTy::F16 | MmaTy::Bf16 => 16,
        MmaTy::Tf32 => 32,
        MmaTy::E4m3 | MmaTy::E5m2 | MmaTy::S8 | MmaTy::U8 => 8,
        MmaTy::S4 | MmaTy::U4 => 4,
        MmaTy::F64 => 64,
        MmaTy::B1 => 1,
    }
}

fn mma(cx: &mut Cx<'_, '_>) -> Res<Op> {
    if matches!(cx.peek(), Some("sp" | "sp::ordered_metadata")) {
        return cx.unsupported("sparse matrix multiplication is not executed");
    }
    cx.need(&["sync"])?;
    cx.need(&["aligned"])?;
    let shape = cx.need(&[
        "m8n8k4",
        "m8n8k16",
        "m8n8k32",
        "m8n8k128",
        "m16n8k4",
        "m16n8k8",
        "m16n8k16",
        "m16n8k32",
        "m16n8k64",
        "m16n8k128",
        "m16n8k256",
    ])?;
    let row = cx.need(&["row", "col"])?;
    let col = cx.need(&["row", "col"])?;
    if (row, col) != ("row", "col") {
        return cx.unsupported("only row-major A and column-major B are executed");
    }
    if cx.peek().is_some_and(|m| m.starts_with("kind::") || m == "block_scale") {
        return cx.unsupported("block-scaled matrix multiplication is not executed");
    }
    let satfinite = cx.flag("satfinite");
    let tys = [cx.ty()?, cx.ty()?, cx.ty()?, cx.ty()?];
    let mut xor = false;
    if tys[1] == Ty::B1 {
        xor = cx.need(&["xor", "and"])? == "xor";
        cx.need(&["popc"])?;
    }
    cx.done(4, 4)?;
    let (Some(d_acc), Some(a_ty), Some(b_ty), Some(acc)) =
        (acc_ty(tys[0]), mma_ty(tys[1]), mma_ty(tys[2]), acc_ty(tys[3]))
    else {
        return cx.no_form();
    };
    let (m, n, k) = dims(shape);
    if !legal(m, k, a_ty, b_ty, acc, d_acc) || (satfinite && acc != AccTy::S32) {
        return cx.no_form();
    }
    let bits = element_bits(a_ty);
    // Registers per lane, each of 32 bits (64 for doubles).
    let per = |rows: u32, bits: u32| (rows * k * bits / 32 / 32).max(1) as usize;
    let (na, nb) = if bits == 64 {
        ((m * k / 32) as usize, (8 * k / 32) as usize)
    } else {
        (per(m, bits), per(n, bits))
    };
    let acc_regs = |t: AccTy| match t {
        AccTy::F16 => (m * n / 64) as usize,
        _ => (m * n / 32) as usize,
    };
    let out = Mma {
        m,
        k,
        a_ty,
        b_ty,
        acc,
        d_acc,
        satfinite,
        xor,
        a: fragment(cx, 1, na, if bits == 64 { Ty::F64 } else { Ty::B32 }, false)?,
        b: fragment(cx, 2, nb, if bits == 64 { Ty::F64 } else { Ty::B32 }, false)?,
        c: fragment(cx, 3, acc_regs(acc), if acc == AccTy::F64 { Ty::F64 } else { Ty::B32 }, false)?,
        d: fragment(cx, 0, acc_regs(d_acc), if d_acc == AccTy::F64 { Ty::F64 } else { Ty::B32 }, true)?,
    };
    Ok(Op::Collective { what: Collective::Mma(Box::new(out)), mask: None })
}

fn dims(shape: &str) -> (u32, u32, u32) {
    let m = if shape.starts_with("m8") { 8 } else { 16 };
    let k = shape.rsplit('k').next().and_then(|k| k.parse().ok()).unwrap_or(0);
    (m, 8, k)
}

/// The shapes of the ISA's table for dense `mma` (without the sm_70 `m8n8k4` f16 form).
fn legal(m: u32, k: u32, a: MmaTy, b: MmaTy, acc: AccTy, d: AccTy) -> bool {
    use MmaTy::{B1, Bf16, E4m3, E5m2, F16, F64, S4, S8, Tf32, U4, U8};
    let shape_ok = match a {
        F16 | Bf16 => m == 16 && matches!(k, 8 | 16),
        Tf32 => m == 16 && matches!(k, 4 | 8),
        E4m3 | E5m2 => m == 16 && matches!(k, 16 | 32),
        S8 | U8 => (m == 16 && matches!(k, 16 | 32)) || (m == 8 && k == 16),
        S4 | U4 => (m == 16 && matches!(k, 32 | 64)) || (m == 8 && k == 32),
        F64 => (m == 8 && k == 4) || (m == 16 && matches!(k, 4 | 8 | 16)),
        B1 => (m == 16 && matches!(k, 128 | 256)) || (m == 8 && k == 128),
    };
    let types_ok = match a {
        F16 => b == F16 && acc == d && matches!(acc, AccTy::F16 | AccTy::F32),
        Bf16 | Tf32 => b == a && acc == AccTy::F32 && d == AccTy::F32,
        E4m3 | E5m2 => matches!(b, E4m3 | E5m2) && acc == d && matches!(acc, AccTy::F16 | AccTy::F32),
        S8 | U8 => matches!(b, S8 | U8) && acc == AccTy::S32 && d == AccTy::S32,
        S4 | U4 => matches!(b, S4 | U4) && acc == AccTy::S32 && d == AccTy::S32,
        F64 => b == F64 && acc == AccTy::F64 && d == AccTy::F64,
        B1 => b == B1 && acc == AccTy::S32 && d == AccTy::S32,
    };
    shape_ok && types_ok
}

fn fragment(cx: &mut Cx<'_, '_>, i: usize, n: usize, ty: Ty, dst: bool) -> Res<Vec<u32>> {
    let list = cx.elements(i)?;
    if list.len() != n {
        let which = ["D", "A", "B", "C"][i.min(3)];
        return cx.err(format!("`{}` needs {n} registers for {which}, found {}", cx.opcode(), list.len()));
    }
    list.into_iter().map(|o| if dst { cx.dst_of(&o, ty) } else { cx.src_of(&o, ty) }).collect()
}
