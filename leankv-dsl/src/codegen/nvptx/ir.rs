//! A thin layer over inkwell's builder: one value type, no `Result` at each instruction.
//!
//! inkwell's builder fails only when it is not positioned or types do not match; both are bugs of an emitter,
//! so they are invariants here.

use inkwell::attributes::AttributeLoc;
use inkwell::basic_block::BasicBlock;
use inkwell::builder::Builder;
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::types::{BasicMetadataTypeEnum, BasicType, BasicTypeEnum, FloatType, IntType, StructType};
use inkwell::values::{
    BasicMetadataValueEnum, BasicValue, BasicValueEnum, InstructionValue, PhiValue, PointerValue,
};
use inkwell::{AddressSpace, FloatPredicate, IntPredicate};

use crate::codegen::CodegenError;
use crate::codegen::llvm::intrinsic;

/// Any LLVM value.
pub(crate) type Val<'c> = BasicValueEnum<'c>;

const BUILDER: &str = "internal error: the builder is positioned and operand types match";

/// A module under construction and the cursor in it.
pub(crate) struct Ir<'c> {
    pub(crate) cx: &'c Context,
    pub(crate) module: Module<'c>,
    pub(crate) b: Builder<'c>,
}

macro_rules! int_binary {
    ($($name:ident => $build:ident),* $(,)?) => {$(
        pub(crate) fn $name(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
            if a.is_vector_value() {
                return self.b.$build(a.into_vector_value(), b.into_vector_value(), "").expect(BUILDER).into();
            }
            self.b.$build(a.into_int_value(), b.into_int_value(), "").expect(BUILDER).into()
        }
    )*};
}

macro_rules! float_binary {
    ($($name:ident => $build:ident),* $(,)?) => {$(
        pub(crate) fn $name(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
            if a.is_vector_value() {
                return self.b.$build(a.into_vector_value(), b.into_vector_value(), "").expect(BUILDER).into();
            }
            self.b.$build(a.into_float_value(), b.into_float_value(), "").expect(BUILDER).into()
        }
    )*};
}

impl<'c> Ir<'c> {
    pub(crate) fn new(cx: &'c Context, name: &str) -> Ir<'c> {
        Ir { cx, module: cx.create_module(name), b: cx.create_builder() }
    }

    // Types.

    pub(crate) fn i1(&self) -> IntType<'c> {
        self.cx.bool_type()
    }

    pub(crate) fn i8(&self) -> IntType<'c> {
        self.cx.i8_type()
    }

    pub(crate) fn i16(&self) -> IntType<'c> {
        self.cx.i16_type()
    }

    pub(crate) fn i32(&self) -> IntType<'c> {
        self.cx.i32_type()
    }

    pub(crate) fn i64(&self) -> IntType<'c> {
        self.cx.i64_type()
    }

    pub(crate) fn f16(&self) -> FloatType<'c> {
        self.cx.f16_type()
    }

    pub(crate) fn f32(&self) -> FloatType<'c> {
        self.cx.f32_type()
    }

    pub(crate) fn int_type(&self, bits: u32) -> IntType<'c> {
        match bits {
            1 => self.i1(),
            8 => self.i8(),
            16 => self.i16(),
            32 => self.i32(),
            _ => self.i64(),
        }
    }

    // Constants.

    pub(crate) fn int(&self, ty: IntType<'c>, value: i64) -> Val<'c> {
        ty.const_int(value as u64, true).into()
    }

    pub(crate) fn c32(&self, value: u32) -> Val<'c> {
        self.i32().const_int(value.into(), false).into()
    }

    pub(crate) fn c64(&self, value: i64) -> Val<'c> {
        self.int(self.i64(), value)
    }

    pub(crate) fn bool(&self, value: bool) -> Val<'c> {
        self.i1().const_int(value.into(), false).into()
    }

    pub(crate) fn cf32(&self, value: f32) -> Val<'c> {
        self.f32().const_float(value.into()).into()
    }

    pub(crate) fn zero(&self, ty: BasicTypeEnum<'c>) -> Val<'c> {
        ty.const_zero()
    }

    pub(crate) fn undef(&self, ty: BasicTypeEnum<'c>) -> Val<'c> {
        match ty {
            BasicTypeEnum::VectorType(t) => t.get_poison().into(),
            BasicTypeEnum::IntType(t) => t.get_poison().into(),
            BasicTypeEnum::FloatType(t) => t.get_poison().into(),
            other => other.const_zero(),
        }
    }

    // Instructions.

    int_binary! {
        add => build_int_add, sub => build_int_sub, mul => build_int_mul,
        udiv => build_int_unsigned_div, sdiv => build_int_signed_div,
        urem => build_int_unsigned_rem, srem => build_int_signed_rem,
        and => build_and, or => build_or, xor => build_xor, shl => build_left_shift,
    }

    float_binary! {
        fadd => build_float_add, fsub => build_float_sub, fmul => build_float_mul, fdiv => build_float_div,
    }

    /// Sum that does not wrap as an unsigned number.
    pub(crate) fn add_nuw(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.b.build_int_nuw_add(a.into_int_value(), b.into_int_value(), "").expect(BUILDER).into()
    }

    /// Sum that does not wrap as a signed number.
    pub(crate) fn add_nsw(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.b.build_int_nsw_add(a.into_int_value(), b.into_int_value(), "").expect(BUILDER).into()
    }

    /// Difference that does not wrap as a signed number.
    pub(crate) fn sub_nsw(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.b.build_int_nsw_sub(a.into_int_value(), b.into_int_value(), "").expect(BUILDER).into()
    }

    /// Product that does not wrap as a signed number.
    pub(crate) fn mul_nsw(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.b.build_int_nsw_mul(a.into_int_value(), b.into_int_value(), "").expect(BUILDER).into()
    }

    pub(crate) fn shr(&self, a: Val<'c>, b: Val<'c>, signed: bool) -> Val<'c> {
        self.b.build_right_shift(a.into_int_value(), b.into_int_value(), signed, "").expect(BUILDER).into()
    }

    pub(crate) fn lshr(&self, a: Val<'c>, bits: u32) -> Val<'c> {
        if bits == 0 {
            return a;
        }
        self.shr(a, self.int(a.into_int_value().get_type(), bits.into()), false)
    }

    pub(crate) fn fneg(&self, a: Val<'c>) -> Val<'c> {
        self.b.build_float_neg(a.into_float_value(), "").expect(BUILDER).into()
    }

    pub(crate) fn not(&self, a: Val<'c>) -> Val<'c> {
        self.b.build_not(a.into_int_value(), "").expect(BUILDER).into()
    }

    pub(crate) fn icmp(&self, p: IntPredicate, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.b.build_int_compare(p, a.into_int_value(), b.into_int_value(), "").expect(BUILDER).into()
    }

    pub(crate) fn fcmp(&self, p: FloatPredicate, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.b.build_float_compare(p, a.into_float_value(), b.into_float_value(), "").expect(BUILDER).into()
    }

    pub(crate) fn select(&self, c: Val<'c>, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.b.build_select(c.into_int_value(), a, b, "").expect(BUILDER)
    }

    pub(crate) fn zext(&self, a: Val<'c>, ty: IntType<'c>) -> Val<'c> {
        self.resize(a, ty, false)
    }

    /// Extends (by sign if `signed`), truncates or leaves an integer.
    pub(crate) fn resize(&self, a: Val<'c>, ty: IntType<'c>, signed: bool) -> Val<'c> {
        let from = a.into_int_value().get_type().get_bit_width();
        let to = ty.get_bit_width();
        let value = a.into_int_value();
        match from.cmp(&to) {
            std::cmp::Ordering::Equal => a,
            std::cmp::Ordering::Greater => self.b.build_int_truncate(value, ty, "").expect(BUILDER).into(),
            std::cmp::Ordering::Less if signed => {
                self.b.build_int_s_extend(value, ty, "").expect(BUILDER).into()
            }
            std::cmp::Ordering::Less => self.b.build_int_z_extend(value, ty, "").expect(BUILDER).into(),
        }
    }

    pub(crate) fn fpext(&self, a: Val<'c>, ty: FloatType<'c>) -> Val<'c> {
        self.b.build_float_ext(a.into_float_value(), ty, "").expect(BUILDER).into()
    }

    pub(crate) fn fptrunc(&self, a: Val<'c>, ty: FloatType<'c>) -> Val<'c> {
        self.b.build_float_trunc(a.into_float_value(), ty, "").expect(BUILDER).into()
    }

    pub(crate) fn int_to_float(&self, a: Val<'c>, ty: FloatType<'c>, signed: bool) -> Val<'c> {
        let a = a.into_int_value();
        if signed {
            self.b.build_signed_int_to_float(a, ty, "").expect(BUILDER).into()
        } else {
            self.b.build_unsigned_int_to_float(a, ty, "").expect(BUILDER).into()
        }
    }

    pub(crate) fn bitcast(&self, a: Val<'c>, ty: BasicTypeEnum<'c>) -> Val<'c> {
        if a.get_type() == ty { a } else { self.b.build_bit_cast(a, ty, "").expect(BUILDER) }
    }

    pub(crate) fn extract(&self, vector: Val<'c>, index: u32) -> Val<'c> {
        let at = self.i32().const_int(index.into(), false);
        self.b.build_extract_element(vector.into_vector_value(), at, "").expect(BUILDER)
    }

    pub(crate) fn insert(&self, vector: Val<'c>, value: Val<'c>, index: u32) -> Val<'c> {
        let at = self.i32().const_int(index.into(), false);
        self.b.build_insert_element(vector.into_vector_value(), value, at, "").expect(BUILDER).into()
    }

    /// A vector of these elements.
    pub(crate) fn vector(&self, elements: &[Val<'c>]) -> Val<'c> {
        let ty = vector_type(elements[0].get_type(), elements.len() as u32);
        let start = self.undef(ty);
        elements.iter().enumerate().fold(start, |v, (i, &e)| self.insert(v, e, i as u32))
    }

    pub(crate) fn field(&self, aggregate: Val<'c>, index: u32) -> Val<'c> {
        self.b.build_extract_value(aggregate.into_struct_value(), index, "").expect(BUILDER)
    }

    /// The address `offset` elements of `ty` after `pointer`.
    pub(crate) fn gep(
        &self,
        ty: BasicTypeEnum<'c>,
        pointer: PointerValue<'c>,
        offset: Val<'c>,
    ) -> PointerValue<'c> {
        // SAFETY: an address computation without `inbounds` has no undefined behaviour in LLVM; whether the address may be
        // accessed is decided by who uses it.
        unsafe { self.b.build_gep(ty, pointer, &[offset.into_int_value()], "").expect(BUILDER) }
    }

    pub(crate) fn load(&self, ty: BasicTypeEnum<'c>, pointer: PointerValue<'c>, align: u32) -> Val<'c> {
        let value = self.b.build_load(ty, pointer, "").expect(BUILDER);
        if let Some(inst) = value.as_instruction_value() {
            inst.set_alignment(align).expect("a load takes an alignment that is a power of two");
        }
        value
    }

    pub(crate) fn store(
        &self,
        pointer: PointerValue<'c>,
        value: Val<'c>,
        align: u32,
    ) -> InstructionValue<'c> {
        let inst = self.b.build_store(pointer, value).expect(BUILDER);
        inst.set_alignment(align).expect("a store takes an alignment that is a power of two");
        inst
    }

    pub(crate) fn br(&self, to: BasicBlock<'c>) -> InstructionValue<'c> {
        self.b.build_unconditional_branch(to).expect(BUILDER)
    }

    pub(crate) fn cond_br(&self, c: Val<'c>, yes: BasicBlock<'c>, no: BasicBlock<'c>) {
        self.b.build_conditional_branch(c.into_int_value(), yes, no).expect(BUILDER);
    }

    pub(crate) fn phi(&self, ty: BasicTypeEnum<'c>) -> PhiValue<'c> {
        self.b.build_phi(ty, "").expect(BUILDER)
    }

    /// The block that instructions are appended to.
    pub(crate) fn block(&self) -> BasicBlock<'c> {
        self.b.get_insert_block().expect("the builder is positioned")
    }

    /// Calls an intrinsic that gives a value.
    pub(crate) fn call(
        &self,
        name: &str,
        types: &[BasicTypeEnum<'c>],
        args: &[Val<'c>],
    ) -> Result<Val<'c>, CodegenError> {
        let function = intrinsic(&self.module, name, types)?;
        let args: Vec<BasicMetadataValueEnum<'c>> = args.iter().map(|&a| a.into()).collect();
        let call = self.b.build_call(function, &args, "").expect(BUILDER);
        call.try_as_basic_value()
            .basic()
            .ok_or_else(|| CodegenError::llvm("calling an intrinsic", format!("{name} gives no value")))
    }

    /// Calls an intrinsic for its effect.
    pub(crate) fn call_void(
        &self,
        name: &str,
        types: &[BasicTypeEnum<'c>],
        args: &[Val<'c>],
    ) -> Result<(), CodegenError> {
        let function = intrinsic(&self.module, name, types)?;
        let args: Vec<BasicMetadataValueEnum<'c>> = args.iter().map(|&a| a.into()).collect();
        self.b.build_call(function, &args, "").expect(BUILDER);
        Ok(())
    }

    /// Inline assembly with results of these types: none, one, or a struct of several.
    pub(crate) fn asm(
        &self,
        text: &str,
        constraints: &str,
        results: &[BasicTypeEnum<'c>],
        args: &[Val<'c>],
        side_effects: bool,
    ) -> Vec<Val<'c>> {
        let params: Vec<BasicMetadataTypeEnum<'c>> = args.iter().map(|a| a.get_type().into()).collect();
        let ty = match results {
            [] => self.cx.void_type().fn_type(&params, false),
            [one] => one.fn_type(&params, false),
            many => self.struct_type(many).fn_type(&params, false),
        };
        let callee = self.cx.create_inline_asm(
            ty,
            text.to_owned(),
            constraints.to_owned(),
            side_effects,
            false,
            None,
            false,
        );
        let args: Vec<BasicMetadataValueEnum<'c>> = args.iter().map(|&a| a.into()).collect();
        let call = self.b.build_indirect_call(ty, callee, &args, "").expect(BUILDER);
        if !side_effects {
            // Without this LLVM must assume that the text reads memory that others write.
            let kind = inkwell::attributes::Attribute::get_named_enum_kind_id("memory");
            call.add_attribute(AttributeLoc::Function, self.cx.create_enum_attribute(kind, 0));
        }
        match results.len() {
            0 => Vec::new(),
            1 => vec![call.try_as_basic_value().expect_basic("one result")],
            n => {
                let all = call.try_as_basic_value().expect_basic("several results");
                (0..n as u32).map(|i| self.field(all, i)).collect()
            }
        }
    }

    pub(crate) fn struct_type(&self, fields: &[BasicTypeEnum<'c>]) -> StructType<'c> {
        self.cx.struct_type(fields, false)
    }

    pub(crate) fn global_space() -> AddressSpace {
        AddressSpace::from(1u16)
    }

    pub(crate) fn shared_space() -> AddressSpace {
        AddressSpace::from(3u16)
    }
}

/// The vector type of `n` elements of a scalar type.
pub(crate) fn vector_type(element: BasicTypeEnum<'_>, n: u32) -> BasicTypeEnum<'_> {
    match element {
        BasicTypeEnum::IntType(t) => t.vec_type(n).into(),
        BasicTypeEnum::FloatType(t) => t.vec_type(n).into(),
        BasicTypeEnum::PointerType(t) => t.vec_type(n).into(),
        other => unreachable!("internal error: a vector of {other}"),
    }
}
