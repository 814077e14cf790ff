//! The builder: appends ops at a cursor and opens and closes regions.

use super::entity::{Block, Inst, Value};
use super::func::{Func, Param};
use super::infer::{self, TypeError};
use super::loc::Loc;
use super::op::{Const, InstData, Op};
use super::types::{Dtype, Type};
use smallvec::SmallVec;

/// A region that is being filled.
struct Open {
    /// The op that the region belongs to.
    owner: Inst,
    /// The block.
    block: Block,
}

/// Builds a function op by op.
///
/// Every op takes a [`Loc`]. Types of results come from [`infer`], so an op that breaks a typing rule is
/// refused here, at the user's line, with nothing appended.
pub struct Builder {
    func: Func,
    open: Vec<Open>,
}

/// A structural mistake: regions closed out of order, values used outside their region.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BuildError {
    /// The operands do not fit the op.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// A region was closed that is not the innermost open one.
    #[error("a region was closed out of order")]
    Nesting,
    /// An operand was made inside a region that is closed by now.
    #[error("a value is used outside the loop or branch that computes it")]
    OutOfRegion,
}

impl Builder {
    /// Starts a kernel.
    pub fn new(name: impl Into<String>, params: Vec<Param>, loc: Loc) -> Builder {
        Builder { func: Func::new(name, params, loc), open: Vec::new() }
    }

    /// The function so far.
    pub fn func(&self) -> &Func {
        &self.func
    }

    /// The function so far, to set its attributes.
    pub fn func_mut(&mut self) -> &mut Func {
        &mut self.func
    }

    /// The block that ops are appended to.
    pub fn block(&self) -> Block {
        self.open.last().map_or(self.func.entry(), |open| open.block)
    }

    /// The number of open regions.
    pub fn depth(&self) -> usize {
        self.open.len()
    }

    /// The op whose region is innermost.
    pub fn innermost(&self) -> Option<Inst> {
        self.open.last().map(|open| open.owner)
    }

    /// The op whose open region a block is.
    pub fn owner_of(&self, block: Block) -> Option<Inst> {
        self.open.iter().find(|open| open.block == block).map(|open| open.owner)
    }

    /// The type of a value.
    pub fn ty(&self, value: Value) -> &Type {
        self.func.ty(value)
    }

    /// Appends an op without regions and gives its results. `wanted` is the result type where the op does not imply it
    /// (see [`infer::result_types`]).
    ///
    /// # Errors
    /// When the operands break the op's typing rule or were made in a region that is closed.
    pub fn op(
        &mut self,
        op: Op,
        operands: &[Value],
        wanted: Option<&Type>,
        loc: Loc,
    ) -> Result<SmallVec<[Value; 2]>, BuildError> {
        self.check_visible(operands)?;
        let types: Vec<&Type> = operands.iter().map(|&v| self.func.ty(v)).collect();
        let results = infer::result_types(&op, &types, wanted)?;
        let inst = self.func.make_inst(op, operands, &results, &[], loc);
        let block = self.block();
        self.func.append(block, inst);
        Ok(self.func.inst(inst).results.clone())
    }

    /// As [`Builder::op`], for ops with exactly one result.
    ///
    /// # Errors
    /// As [`Builder::op`].
    pub fn value(
        &mut self,
        op: Op,
        operands: &[Value],
        wanted: Option<&Type>,
        loc: Loc,
    ) -> Result<Value, BuildError> {
        Ok(self.op(op, operands, wanted, loc)?[0])
    }

    /// A constant scalar or tile, rounded to its element type.
    ///
    /// # Errors
    /// When the type is no tile or its extents are not allowed.
    pub fn constant(&mut self, value: Const, ty: &Type, loc: Loc) -> Result<Value, BuildError> {
        self.value(Op::Constant(value.rounded(ty.dtype())), &[], Some(ty), loc)
    }

    /// A constant `i32` scalar.
    pub fn i32(&mut self, value: i32, loc: Loc) -> Value {
        self.constant(Const::Int(value.into()), &Type::scalar(Dtype::I32), loc)
            .expect("an i32 constant has a scalar type")
    }

    /// A constant `i64` scalar.
    pub fn i64(&mut self, value: i64, loc: Loc) -> Value {
        self.constant(Const::Int(value.into()), &Type::scalar(Dtype::I64), loc)
            .expect("an i64 constant has a scalar type")
    }

    /// Appends an op with regions whose results are given when it is finished. Its regions are opened one after another with
    /// [`Builder::open_region`].
    ///
    /// # Errors
    /// When an operand is not visible or the operand count is wrong.
    pub fn begin(&mut self, op: Op, operands: &[Value], loc: Loc) -> Result<Inst, BuildError> {
        self.check_visible(operands)?;
        let types: Vec<&Type> = operands.iter().map(|&v| self.func.ty(v)).collect();
        infer::result_types(&op, &types, None).or_else(|e| match op {
            // Their result types come later; everything else was checked.
            Op::InlinePtx { .. } if e.code == infer::MALFORMED => Ok(SmallVec::new()),
            _ => Err(e),
        })?;
        let inst = self.func.make_inst(op, operands, &[], &[], loc);
        let block = self.block();
        self.func.append(block, inst);
        Ok(inst)
    }

    /// Opens the next region of `owner` with parameters of these types and moves the cursor into it. Gives the parameters.
    pub fn open_region(&mut self, owner: Inst, params: &[Type]) -> Vec<Value> {
        let block = self.func.new_block();
        self.func.inst_mut(owner).regions.push(block);
        self.open.push(Open { owner, block });
        params.iter().map(|ty| self.func.add_block_param(block, ty.clone())).collect()
    }

    /// Ends the innermost region, which must be one of `owner`, with a `yield`.
    ///
    /// # Errors
    /// When another region is innermost, or a yielded value is not visible.
    pub fn close_region(&mut self, owner: Inst, yields: &[Value], loc: Loc) -> Result<(), BuildError> {
        self.check_visible(yields)?;
        if self.open.last().map(|open| open.owner) != Some(owner) {
            return Err(BuildError::Nesting);
        }
        let inst = self.func.make_inst(Op::Yield, yields, &[], &[], loc);
        let block = self.block();
        self.func.append(block, inst);
        self.open.pop();
        Ok(())
    }

    /// Appends a block parameter to the innermost region: for a carried variable that is found while the region is open.
    pub fn add_region_param(&mut self, ty: Type) -> Value {
        let block = self.block();
        self.func.add_block_param(block, ty)
    }

    /// Appends an operand to an op with regions: the initial value of a carried variable.
    pub fn add_operand(&mut self, inst: Inst, value: Value) {
        self.func.inst_mut(inst).operands.push(value);
    }

    /// Gives an op with regions its results.
    pub fn finish(&mut self, inst: Inst, types: &[Type]) -> SmallVec<[Value; 2]> {
        for ty in types {
            self.func.add_result(inst, ty.clone());
        }
        self.func.inst(inst).results.clone()
    }

    /// The op.
    pub fn inst(&self, inst: Inst) -> &InstData {
        self.func.inst(inst)
    }

    /// Ends the body and gives the function.
    ///
    /// # Errors
    /// When a region is still open.
    pub fn build(mut self, loc: Loc) -> Result<Func, BuildError> {
        if !self.open.is_empty() {
            return Err(BuildError::Nesting);
        }
        let inst = self.func.make_inst(Op::Return, &[], &[], &[], loc);
        let entry = self.func.entry();
        self.func.append(entry, inst);
        Ok(self.func)
    }

    fn check_visible(&self, operands: &[Value]) -> Result<(), BuildError> {
        if operands.iter().all(|&v| self.visible(v)) { Ok(()) } else { Err(BuildError::OutOfRegion) }
    }

    /// Whether a value's block is one of those that enclose the cursor.
    pub(crate) fn visible(&self, value: Value) -> bool {
        let in_block = |block: Block| match self.func.value(value).def {
            super::func::Def::Param(owner, _) => owner == block,
            // Ops are appended in order, so a recent value is found quickly from the end.
            super::func::Def::Result(inst, _) => {
                self.func.block(block).insts.iter().rev().any(|&i| i == inst)
            }
        };
        self.open.iter().rev().any(|open| in_block(open.block)) || in_block(self.func.entry())
    }
}
