//! The table of opcodes: which family decodes which instruction.

use super::Globals;
use super::cx::{Cx, Res};
use super::op::{Class, Op};
use super::{ops_control, ops_memory, ops_warp};
use crate::alu;

pub(super) fn decode(cx: &mut Cx<'_, '_>, globals: &Globals) -> Res<(Op, Class)> {
    let base = cx.instr.base.as_str();
    let op = match base {
        "mov" | "cvta" | "isspacep" | "selp" | "slct" | "mapa" | "getctarank" => {
            (alu::moves::decode(cx)?, Class::Move)
        }
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "abs" | "neg" | "min" | "max"
        | "copysign" | "mul24" | "mad24" | "sad" | "dp4a" | "dp2a" | "addc" | "subc" | "madc" => {
            alu::arith(cx)?
        }
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "lop3" | "prmt" | "bfe" | "bfi"
        | "popc" | "clz" | "brev" | "bfind" | "fns" | "bmsk" | "szext" => {
            (alu::bits::decode(cx)?, Class::Integer)
        }
        "setp" | "set" | "testp" => (alu::compare::decode(cx)?, Class::Compare),
        "cvt" => (alu::cvt::decode(cx)?, Class::Convert),
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => {
            (alu::special::decode(cx)?, Class::Special)
        }
        "ld" | "ldu" | "st" | "prefetch" | "prefetchu" | "discard" | "applypriority" | "atom" | "red"
        | "membar" | "fence" | "ldmatrix" | "stmatrix" | "cp" | "mbarrier" | "createpolicy" => {
            ops_memory::decode(cx)?
        }
        "bar" | "barrier" | "shfl" | "vote" | "match" | "activemask" | "redux" | "elect" | "mma"
        | "movmatrix" | "wmma" | "setmaxnreg" | "griddepcontrol" => ops_warp::decode(cx)?,
        "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep" | "pmevent" => {
            ops_control::decode(cx, globals)?
        }
        "wgmma" => return cx.unsupported("warpgroup matrix instructions are not executed; use mma.sync"),
        "tcgen05" => return cx.unsupported("tensor memory instructions are not executed; use mma.sync"),
        "tensormap" | "multimem" | "clusterlaunchcontrol" => {
            return cx.unsupported("tensor maps, multicast memory and cluster launches are not executed");
        }
        "tex" | "tld4" | "txq" | "suld" | "sust" | "sured" | "suq" | "istypep" => {
            return cx.unsupported("textures and surfaces are not executed");
        }
        "alloca" | "stacksave" | "stackrestore" => {
            return cx.unsupported("dynamic stack allocation is not executed");
        }
        "vadd" | "vsub" | "vabsdiff" | "vmin" | "vmax" | "vshl" | "vshr" | "vmad" | "vset" | "vadd2"
        | "vsub2" | "vavrg2" | "vabsdiff2" | "vmin2" | "vmax2" | "vset2" | "vadd4" | "vsub4" | "vavrg4"
        | "vabsdiff4" | "vmin4" | "vmax4" | "vset4" => {
            return cx.unsupported("scalar video instructions are not executed");
        }
        _ => return cx.err(format!("unknown opcode `{}`", cx.opcode())),
    };
    Ok(op)
}
