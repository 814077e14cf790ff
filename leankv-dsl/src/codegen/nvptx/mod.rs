//! Tile IR to PTX.
//!
//! Layouts are assigned first ([`crate::pass::layout_assign`]); then each op is emitted for one thread, whose registers
//! hold its elements of each tile. One block runs one program.
//!
//! **Invariants**: every op that LLVM cannot select is refused by `legal` before LLVM sees it; PTX depends on the kernel, the
//! target and the options alone.

mod address;
mod atomic;
mod blocks;
mod cast;
mod codes;
mod debug;
mod dot;
mod elementwise;
mod emit;
mod exchange;
mod ir;
mod legal;
mod local;
mod math;
mod memory;
mod place;
mod reduce;
mod shape;
mod target;
#[cfg(test)]
pub(crate) mod tests;

use inkwell::OptimizationLevel;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::context::Context;
use inkwell::module::Linkage;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target as LlvmTarget, TargetMachine, TargetTriple,
};
use inkwell::types::BasicMetadataTypeEnum;
use inkwell::values::FunctionValue;

use crate::codegen::CodegenError;
use crate::codegen::llvm::{optimise, set_options, verify};
use crate::ir::{Access, Dtype, Func, Op, Type};
use crate::pass::early_loads::early_loads;
use crate::pass::layout_assign;
use crate::pass::pipeline::pipeline;
use crate::pass::program_order::keep_program_order;
use crate::pass::shared_operands::share_operands;

use debug::DebugInfo;
use emit::{Emitter, Input};
use ir::Ir;
use target::Target;

pub use crate::target::{NvptxTarget, UnknownTarget};

/// LLVM's passes. What the emitter writes has no memory of its own, no calls and no loops beside the author's, so most of
/// `default<O3>` finds nothing to do; ptxas does the rest.
const PIPELINE: &str = "function(simplifycfg,early-cse<memssa>,instcombine<no-verify-fixpoint>,\
    loop-mssa(loop-rotate,licm),early-cse<memssa>,instcombine<no-verify-fixpoint>,simplifycfg)";

/// The calling convention of kernels.
const PTX_KERNEL: u32 = 71;

/// How to compile.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NvptxOptions {
    /// Whether PTX names the source line of each instruction (`.loc`).
    pub line_info: bool,
    /// Whether the artifact keeps LLVM IR, for people to read.
    pub keep_llvm_ir: bool,
}

impl Default for NvptxOptions {
    fn default() -> Self {
        NvptxOptions { line_info: true, keep_llvm_ir: false }
    }
}

/// A compiled kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NvptxArtifact {
    /// The PTX text.
    pub ptx: String,
    /// LLVM IR before LLVM's optimisations, or empty.
    pub llvm_ir: String,
    /// Tile IR after layout assignment, with the layout of each value.
    pub tile_ir: String,
    /// The name of the entry in the PTX.
    pub entry: String,
    /// Threads of a block.
    pub block_threads: u32,
    /// Bytes of shared memory that the PTX declares.
    pub static_shared_bytes: u32,
    /// Bytes of shared memory that the launch must ask for.
    pub dynamic_shared_bytes: u32,
    /// How each dot is done, what is pipelined, which layouts are converted and how.
    pub notes: Vec<String>,
}

/// Compiles a kernel for a GPU.
///
/// # Errors
/// When the target lacks an op or resource that the kernel asks for, with the op's location; or when LLVM fails, which is a
/// bug of this compiler.
pub fn compile(
    func: &Func,
    target: &NvptxTarget,
    options: &NvptxOptions,
) -> Result<NvptxArtifact, CodegenError> {
    compile_for(func, &Target::from(*target), options)
}

fn compile_for(func: &Func, target: &Target, options: &NvptxOptions) -> Result<NvptxArtifact, CodegenError> {
    let gpu = &target.gpu;
    legal::check(func, gpu)?;
    let start = std::time::Instant::now();
    let mut func = func.compact();
    let mut passes = share_operands(&mut func, gpu, target);
    passes.extend(pipeline(&mut func, gpu));
    early_loads(&mut func, gpu);
    let (plan, dots) = layout_assign::assign(&mut func, target);
    keep_program_order(&mut func);
    let tile_ir = layout_assign::describe(&func, &plan);

    let assigned = start.elapsed();
    let machine = machine(gpu.target)?;
    let cx = Context::create();
    let ir = Ir::new(&cx, &func.name);
    ir.module.set_triple(&machine.get_triple());
    ir.module.set_data_layout(&machine.get_target_data().get_data_layout());
    let function = declare(&ir, &func);
    // Its size is known when everything is emitted; until then it stands for itself.
    let placeholder = ir.module.add_global(ir.i8().array_type(0), Some(Ir::shared_space()), "smem.unsized");
    ir.b.position_at_end(cx.append_basic_block(function, "entry"));
    let debug = options.line_info.then(|| DebugInfo::new(&ir, function, func.loc));
    let input = Input { gpu, func: &func, plan: &plan, dots: &dots };
    let mut emitter = Emitter::new(ir, input, function, placeholder.as_pointer_value(), debug)?;
    emitter.run()?;
    emitter.ir.b.build_return(None)?;
    if let Some(debug) = &emitter.debug {
        debug.finish();
    }

    let shared_bytes = emitter.local.bytes + emitter.scratch_bytes;
    if shared_bytes > gpu.shared_bytes {
        return Err(CodegenError::Unsupported {
            op: format!("{shared_bytes} bytes of shared memory"),
            target: gpu.target.to_string(),
            reason: format!(
                "a block has at most {}; use smaller tiles or fewer pipeline stages",
                gpu.shared_bytes
            ),
            loc: func.loc,
        });
    }
    let emitted = start.elapsed();
    let Emitter { ir, mut notes, .. } = emitter;
    let dynamic = shared_bytes > gpu.static_shared_bytes;
    if shared_bytes > 0 {
        let size = if dynamic { 0 } else { shared_bytes };
        let name = if dynamic { "dynamic_shared" } else { "static_shared" };
        let ty = ir.i8().array_type(size);
        let global = ir.module.add_global(ty, Some(Ir::shared_space()), name);
        global.set_alignment(16);
        if dynamic {
            global.set_linkage(Linkage::External);
        } else {
            global.set_linkage(Linkage::Internal);
            global.set_initializer(&ty.get_undef());
        }
        placeholder.as_pointer_value().replace_all_uses_with(global.as_pointer_value());
    }
    // SAFETY: every use of the placeholder was replaced, or there is none because no shared memory is used.
    unsafe { placeholder.delete() };
    notes.splice(0..0, passes);
    let (shuffled, shared) = plan.conversions(&func);
    notes.push(format!("layout conversions: {shuffled} by shuffles, {shared} through shared memory"));

    let llvm_ir = if options.keep_llvm_ir { ir.module.print_to_string().to_string() } else { String::new() };
    verify(&ir.module)?;
    let verified = start.elapsed();
    optimise(&ir.module, &machine, PIPELINE, false)?;
    let optimised = start.elapsed();
    let buffer = machine
        .write_to_memory_buffer(&ir.module, FileType::Assembly)
        .map_err(|e| CodegenError::llvm("writing PTX", e.to_string_lossy()))?;
    let ptx = String::from_utf8_lossy(buffer.as_slice()).trim_end_matches('\0').to_owned();
    let ptx = with_needed_version(ptx, &func, gpu.target)?;
    tracing::debug!(
        kernel = %func.name,
        ?assigned,
        ?emitted,
        ?verified,
        ?optimised,
        written = ?start.elapsed(),
        "compiled for {}; times since the start",
        gpu.target
    );
    Ok(NvptxArtifact {
        ptx,
        llvm_ir,
        tile_ir,
        entry: func.name.clone(),
        block_threads: func.num_warps * 32,
        static_shared_bytes: if dynamic { 0 } else { shared_bytes },
        dynamic_shared_bytes: if dynamic { shared_bytes } else { 0 },
        notes,
    })
}

/// The PTX with the `.version` that its instructions need: LLVM knows what its own need, and each target is given the version that the emitter's
/// do, but neither is known of an author's inline PTX.
fn with_needed_version(ptx: String, func: &Func, target: NvptxTarget) -> Result<String, CodegenError> {
    let inline = func.walk().into_iter().any(|inst| matches!(func.inst(inst).op, Op::InlinePtx { .. }));
    // Reading a kernel takes some milliseconds; where tests run, it is read all the same, to see that the above is true.
    if !inline && !cfg!(debug_assertions) {
        return Ok(ptx);
    }
    // What the parser cannot read may be right all the same; ptxas and the driver will say.
    let Ok(ast) = leankv_ptx::Ast::parse(&ptx) else { return Ok(ptx) };
    let needed = leankv_ptx::feature::required_version(&ast).map_err(|lack| {
        let line = ptx.lines().nth(lack.line as usize - 1).unwrap_or_default();
        let written = func.walk().into_iter().find_map(|inst| match &func.inst(inst).op {
            Op::InlinePtx { asm, .. } => {
                let named = asm.split_whitespace().find(|word| line.split_whitespace().any(|w| w == *word));
                named.map(|opcode| (opcode.to_owned(), func.inst(inst).loc))
            }
            _ => None,
        });
        let (op, loc) = written.unwrap_or_else(|| (func.name.clone(), func.loc));
        CodegenError::Unsupported { op, target: target.to_string(), reason: lack.message, loc }
    })?;
    if needed <= ast.version {
        return Ok(ptx);
    }
    debug_assert!(inline, "{} for {target} needs PTX {needed:?}: see `target::ptx_feature`", func.name);
    let directive = |(major, minor)| format!(".version {major}.{minor}\n");
    Ok(ptx.replacen(&directive(ast.version), &directive(needed), 1))
}

fn machine(target: NvptxTarget) -> Result<TargetMachine, CodegenError> {
    static START: std::sync::Once = std::sync::Once::new();
    set_options();
    START.call_once(|| LlvmTarget::initialize_nvptx(&InitializationConfig::default()));
    let unusable = |reason: String| CodegenError::Target { target: target.to_string(), reason };
    let triple = TargetTriple::create("nvptx64-nvidia-cuda");
    let found = LlvmTarget::from_triple(&triple).map_err(|e| unusable(e.to_string()))?;
    found
        .create_target_machine(
            &triple,
            &target.to_string(),
            target::ptx_feature(target),
            // Above it, LLVM numbers values globally once more; that changes nothing in our kernels.
            OptimizationLevel::Default,
            RelocMode::Default,
            CodeModel::Default,
        )
        .ok_or_else(|| unusable("LLVM has no code generator for it".to_owned()))
}

/// Declares the kernel's entry with the promises of its parameters.
fn declare<'c>(ir: &Ir<'c>, func: &Func) -> FunctionValue<'c> {
    let params: Vec<BasicMetadataTypeEnum<'c>> = func
        .params
        .iter()
        .map(|param| match &param.ty {
            Type::Ptr { .. } => ir.cx.ptr_type(Ir::global_space()).into(),
            ty => match ty.dtype() {
                Dtype::F16 => ir.f16().into(),
                Dtype::BF16 => ir.cx.bf16_type().into(),
                Dtype::F32 => ir.f32().into(),
                Dtype::F64 => ir.cx.f64_type().into(),
                other => ir.int_type(other.bits().max(8)).into(),
            },
        })
        .collect();
    let function = ir.module.add_function(&func.name, ir.cx.void_type().fn_type(&params, false), None);
    function.set_call_conventions(PTX_KERNEL);
    let threads = (func.num_warps * 32).to_string();
    function.add_attribute(AttributeLoc::Function, ir.cx.create_string_attribute("nvvm.maxntid", &threads));
    if func.resident > 0 {
        let attribute = ir.cx.create_string_attribute("nvvm.minctasm", &func.resident.to_string());
        function.add_attribute(AttributeLoc::Function, attribute);
    }
    let attribute =
        |name: &str, value: u64| ir.cx.create_enum_attribute(Attribute::get_named_enum_kind_id(name), value);
    function.add_attribute(AttributeLoc::Function, attribute("nounwind", 0));
    for (i, param) in func.params.iter().enumerate().filter(|(_, p)| p.ty.is_ptr()) {
        let at = AttributeLoc::Param(i as u32);
        function.add_attribute(at, attribute("noundef", 0));
        let align = param.multiple_of.max(1) & param.multiple_of.max(1).wrapping_neg();
        if align > 1 {
            function.add_attribute(at, attribute("align", align.min(1 << 12)));
        }
        if param.access == Access::Read {
            // Nobody writes there while the kernel runs, so nothing else that is written is it.
            function.add_attribute(at, attribute("noalias", 0));
            function.add_attribute(at, attribute("readonly", 0));
        }
    }
    function
}
