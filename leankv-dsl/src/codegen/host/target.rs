//! The machine that this process runs on, as LLVM sees it.

use std::sync::OnceLock;

use inkwell::OptimizationLevel;
use inkwell::targets::{CodeModel, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple};

use super::HostTarget;
use crate::codegen::llvm::{CodegenError, llvm_version, set_options};

impl HostTarget {
    /// This machine. It is asked once: on a virtual one each question goes to its host, and every launchable kernel has several.
    ///
    /// # Errors
    /// When LLVM has no back end for it, or it lacks what generated code needs (on x86-64: AVX2, FMA, F16C).
    pub fn native() -> Result<HostTarget, CodegenError> {
        static NATIVE: OnceLock<Result<HostTarget, CodegenError>> = OnceLock::new();
        NATIVE.get_or_init(HostTarget::detect).clone()
    }

    fn detect() -> Result<HostTarget, CodegenError> {
        let unusable = |reason: String| CodegenError::Target { target: "host".to_owned(), reason };
        Target::initialize_native(&InitializationConfig::default()).map_err(unusable)?;
        let target = HostTarget {
            triple: TargetMachine::get_default_triple().as_str().to_string_lossy().into_owned(),
            cpu: TargetMachine::get_host_cpu_name().to_string(),
            features: TargetMachine::get_host_cpu_features().to_string(),
        };
        let missing = ["avx2", "fma", "f16c"].into_iter().find(|feature| !target.has(feature));
        match missing.filter(|_| target.is_x86()) {
            None => Ok(target),
            Some(feature) => Err(unusable(format!(
                "the CPU `{}` has no {feature}; kernels need x86-64-v3 (use the interpreter here)",
                target.cpu
            ))),
        }
    }

    /// A class of machines: `x86-64-v3` (AVX2) or `x86-64-v4` (AVX-512), for objects that are shipped.
    ///
    /// # Errors
    /// When the name is another one, or LLVM has no back end for it.
    pub fn baseline(name: &str) -> Result<HostTarget, CodegenError> {
        let v3 = "+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe";
        let features = match name {
            "x86-64-v3" => v3.to_owned(),
            "x86-64-v4" => format!("{v3},+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"),
            _ => {
                return Err(CodegenError::Target {
                    target: "host".to_owned(),
                    reason: format!("`{name}` is no class of machines; there are x86-64-v3 and x86-64-v4"),
                });
            }
        };
        let native = HostTarget::native()?;
        Ok(HostTarget { triple: native.triple, cpu: name.to_owned(), features })
    }

    /// Whether code for `self` runs on `machine`: it is that machine, or a class to which it belongs.
    pub fn runs_on(&self, machine: &HostTarget) -> bool {
        let class = self.cpu.starts_with("x86-64-v");
        let wanted = || self.features.split(',').filter_map(|entry| entry.strip_prefix('+'));
        self == machine || (class && self.triple == machine.triple && wanted().all(|name| machine.has(name)))
    }

    /// What compiled objects depend on beside the IR: CPU, features and LLVM's version.
    pub fn cache_key(&self) -> String {
        format!("host;{};{};{};llvm-{}", self.triple, self.cpu, self.features, llvm_version())
    }

    /// The processor's model as LLVM names it, and how wide its vectors are: `sapphirerapids, 512-bit vectors`.
    pub fn model(&self) -> String {
        format!("{}, {}-bit vectors", self.cpu, 32 * self.width())
    }

    fn is_x86(&self) -> bool {
        self.triple.starts_with("x86_64")
    }

    fn has(&self, feature: &str) -> bool {
        self.features.split(',').any(|entry| entry.strip_prefix('+') == Some(feature))
    }

    /// 32-bit elements in a vector register.
    pub(super) fn width(&self) -> u32 {
        match () {
            _ if self.is_x86() && self.has("avx512f") && self.has("avx512bw") && self.has("avx512vl") => 16,
            _ if self.is_x86() => 8,
            _ => 4,
        }
    }

    /// Whether a byte of a vector may take any 8 bits of its 64.
    pub(super) fn has_multishift(&self) -> bool {
        self.is_x86() && self.width() == 16 && self.has("avx512vbmi")
    }

    /// Vector registers.
    pub(super) fn registers(&self) -> u32 {
        if self.is_x86() && self.width() < 16 { 16 } else { 32 }
    }

    /// LLVM's machine for it.
    pub(super) fn machine(&self) -> Result<TargetMachine, CodegenError> {
        set_options();
        let fail = |reason: String| CodegenError::Target { target: "host".to_owned(), reason };
        let triple = TargetTriple::create(&self.triple);
        let target = Target::from_triple(&triple).map_err(|e| fail(e.to_string()))?;
        // LLVM prefers 256-bit vectors on most CPUs with AVX-512; the emitter has already chosen its width.
        let features = if self.width() == 16 {
            format!("{},-prefer-256-bit", self.features)
        } else {
            self.features.clone()
        };
        target
            .create_target_machine(
                &triple,
                &self.cpu,
                &features,
                OptimizationLevel::Default,
                RelocMode::PIC,
                CodeModel::Small,
            )
            .ok_or_else(|| fail(format!("LLVM has no back end for {}", self.triple)))
    }
}
