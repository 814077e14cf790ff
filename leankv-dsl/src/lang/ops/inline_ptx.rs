//! Element-wise inline PTX, with the meaning that other executors run.

use crate::diag::Diagnostic;
use crate::ir::{Loc, Op, Type};
use crate::lang::element::Plain;
use crate::lang::record::{self, BAD_ARGUMENT, Handle};
use crate::lang::tile::{Scalar, Tile};

/// One or more PTX instructions that compute one element from one element of each operand.
///
/// The function given with the operands says what they mean, as ordinary ops on scalars: interpreter and host run
/// it, and the conformance suite compares it with the instructions.
///
/// ```
/// # use leankv_dsl::lang::*;
/// # fn demo(x: Tile<u32, 1>, y: Tile<u32, 1>) -> Tile<u32, 1> {
/// InlinePtx::new("lop3.b32 $0, $1, $2, 0, 0x3C;", "=r,r,r").apply2(x, y, |x, y| x ^ y)
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct InlinePtx {
    asm: String,
    constraints: String,
}

impl InlinePtx {
    /// `$0` is the result, `$1`.. the operands; constraints are LLVM's, the result first: `=r,r,r`.
    pub fn new(asm: &str, constraints: &str) -> InlinePtx {
        InlinePtx { asm: asm.to_owned(), constraints: constraints.to_owned() }
    }

    /// With one operand.
    #[track_caller]
    pub fn apply<A: Plain, O: Plain, const R: usize>(
        self,
        a: Tile<A, R>,
        meaning: impl FnOnce(Scalar<A>) -> Scalar<O>,
    ) -> Tile<O, R> {
        self.record(&[a.handle], |p| meaning(Tile::new(p[0])).handle, Loc::caller())
    }

    /// With two operands.
    #[track_caller]
    pub fn apply2<A: Plain, B: Plain, O: Plain, const R: usize>(
        self,
        a: Tile<A, R>,
        b: Tile<B, R>,
        meaning: impl FnOnce(Scalar<A>, Scalar<B>) -> Scalar<O>,
    ) -> Tile<O, R> {
        let body = |p: &[Handle]| meaning(Tile::new(p[0]), Tile::new(p[1])).handle;
        self.record(&[a.handle, b.handle], body, Loc::caller())
    }

    /// With three operands.
    #[track_caller]
    pub fn apply3<A: Plain, B: Plain, C: Plain, O: Plain, const R: usize>(
        self,
        a: Tile<A, R>,
        b: Tile<B, R>,
        c: Tile<C, R>,
        meaning: impl FnOnce(Scalar<A>, Scalar<B>, Scalar<C>) -> Scalar<O>,
    ) -> Tile<O, R> {
        let body = |p: &[Handle]| meaning(Tile::new(p[0]), Tile::new(p[1]), Tile::new(p[2])).handle;
        self.record(&[a.handle, b.handle, c.handle], body, Loc::caller())
    }

    fn record<O: Plain, const R: usize>(
        self,
        operands: &[Handle],
        body: impl FnOnce(&[Handle]) -> Handle,
        loc: Loc,
    ) -> Tile<O, R> {
        if record::checked() {
            record::report(
                Diagnostic::error(BAD_ARGUMENT, loc, "inline PTX in a codec or hook of a cache")
                    .help("nothing keeps it within its buffers; write it with the ops of the language"),
            );
            return Tile::poison();
        }
        let types: Option<Vec<Type>> = operands.iter().map(|&h| record::ty(h, loc)).collect();
        let Some(types) = types else { return Tile::poison() };
        let op = Op::InlinePtx { asm: self.asm, constraints: self.constraints };
        let depth = record::depth();
        let Some(region) = record::begin(op, operands, loc) else { return Tile::poison() };
        let scalars: Vec<Type> = types.iter().map(|ty| record::scalar_type(ty.dtype())).collect();
        let params = record::open(region, &scalars);
        if params.len() != operands.len() {
            return Tile::poison();
        }
        let result = body(&params);
        if record::depth() != depth + 1 || !record::close(region, &[result], loc) {
            record::abandoned("function", depth, loc);
            return Tile::poison();
        }
        Tile::new(record::finish(region, &[types[0].with_dtype(O::TYPE)])[0])
    }
}
