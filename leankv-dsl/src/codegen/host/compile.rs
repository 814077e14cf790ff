//! Tile IR to an object.

use inkwell::AddressSpace;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::context::Context;
use inkwell::targets::FileType;
use serde::{Deserialize, Serialize};

use super::build::Build;
use super::{HostArtifact, HostTarget, check, emit, plan};
use crate::codegen::llvm::{CodegenError, optimise, verify};
use crate::ir::Func;

/// How to compile for the host. By default: for this machine, at its width, without LLVM's text.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HostOptions {
    /// Elements of 32 bits in a vector; `None` for the machine's own width. A power of two.
    pub width: Option<u32>,
    /// A class of machines to compile for, `x86-64-v3` or `x86-64-v4`; `None` for this very machine.
    pub class: Option<String>,
    /// Whether to keep LLVM's text, before and after its passes, in the artifact.
    pub keep_llvm_ir: bool,
}

/// The passes. The emitter chooses vectors, blocking and unrolling itself; what is left is to clean up addresses and move what does not
/// change out of loops.
const PIPELINE: &str = "function(sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>,simplifycfg,\
                        loop-mssa(loop-rotate,licm<allowspeculation>),gvn,loop-mssa(licm<allowspeculation>),\
                        instcombine<no-verify-fixpoint>,simplifycfg,adce)";

/// Compiles a verified kernel for this machine.
///
/// # Errors
/// When the machine or an op is not supported, or (a bug of ours) LLVM refuses what was emitted.
pub fn compile(func: &Func, options: &HostOptions) -> Result<HostArtifact, CodegenError> {
    let target = match &options.class {
        None => HostTarget::native()?,
        Some(name) => HostTarget::baseline(name)?,
    };
    check::check(func)?;
    let machine = target.machine()?;
    let width = options.width.unwrap_or(target.width());
    if !width.is_power_of_two() || width > 64 {
        return Err(CodegenError::Target {
            target: "host".to_owned(),
            reason: format!("the vector width {width} is not a power of two up to 64"),
        });
    }

    let cx = Context::create();
    let module = cx.create_module(&func.name);
    module.set_triple(&machine.get_triple());
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    let ptr = cx.ptr_type(AddressSpace::default());
    let signature = cx.i32_type().fn_type(&[ptr.into(), ptr.into(), ptr.into(), ptr.into()], false);
    let entry = format!("leankv_{}", func.name);
    let function = module.add_function(&entry, signature, None);
    let flag = |name: &str| cx.create_enum_attribute(Attribute::get_named_enum_kind_id(name), 0);
    // Scratch memory is reached through its own parameter alone.
    function.add_attribute(AttributeLoc::Param(1), flag("noalias"));
    function.add_attribute(AttributeLoc::Function, flag("nounwind"));
    for (key, value) in
        [("prefer-vector-width", (width * 32).max(128).to_string()), ("no-trapping-math", "true".to_owned())]
    {
        function.add_attribute(AttributeLoc::Function, cx.create_string_attribute(key, &value));
    }

    let plan = plan::plan(func);
    let mut build = Build::new(&cx, module);
    build.begin(function);
    let emitted = emit::emit(func, &plan, build, width, &target)?;
    let module = &emitted.build.module;
    let text = |keep: bool| if keep { module.print_to_string().to_string() } else { String::new() };
    let llvm_ir = text(options.keep_llvm_ir);
    verify(module)?;
    optimise(module, &machine, PIPELINE, true)?;
    let optimised_llvm_ir = text(options.keep_llvm_ir);
    let object = machine
        .write_to_memory_buffer(module, FileType::Object)
        .map_err(|e| CodegenError::llvm("emitting the object", e.to_string()))?;
    Ok(HostArtifact {
        object: object.as_slice().to_vec(),
        entry,
        scratch_bytes: emitted.scratch_bytes,
        params: func.params.len() as u32,
        sites: emitted.sites,
        llvm_ir,
        optimised_llvm_ir,
        notes: vec![format!("{} lanes of 32 bits on {}", width, target.cpu)],
        target,
    })
}
