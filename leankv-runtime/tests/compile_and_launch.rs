//! From tile IR to results on every device this machine has, through the cache.

mod scaling;

use std::sync::Barrier;

use leankv_dsl::ir::Func;
use leankv_dsl::lang::Settings;
use leankv_runtime::cache::{Bundle, BundleWriter, CacheKey, KernelCache, Origin};
use leankv_runtime::{
    ArgumentError, CompileError, CompileOptions, CompiledKernel, Compiler, Device, KernelOf, LaunchError, Sm,
    Target,
};
use scaling::{ScaleArgs, ScaleSpec, scale, scaled};

fn func() -> Func {
    scale::build(&ScaleSpec {}).unwrap()
}

fn load(compiler: &Compiler, device: &Device) -> Result<KernelOf<scale>, CompileError> {
    compiler.load(device, &scale::KERNEL, &ScaleSpec {})
}

fn in_memory() -> Compiler {
    Compiler::new(KernelCache::without_folder())
}

/// The devices of this machine: a GPU where there is one.
fn devices() -> Vec<Device> {
    let mut devices = vec![Device::host(), Device::reference()];
    devices.extend(Sm::ALL.map(Device::emulated));
    devices.extend(Device::cuda(0).ok());
    devices
}

#[test]
fn one_kernel_gives_the_same_result_on_every_device() {
    const N: usize = 1000;
    let x: Vec<f32> = (0..N).map(|i| i as f32 - 500.0).collect();
    let expected: Vec<f32> = x.iter().map(|v| v * 0.5).collect();
    for device in devices() {
        let kernel = load(&in_memory(), &device).unwrap();
        let input = device.upload(&x).unwrap();
        // One element more than is written, to see that the mask holds.
        let mut out = device.upload(&vec![7.0f32; N + 1]).unwrap();
        let launch = scaled(&kernel, N.div_ceil(64) as u32, &input, &mut out, N as i32, 0.5);
        // SAFETY: the mask keeps every access below `n`, which is the buffers' length.
        unsafe { launch.run() }.unwrap();
        let out = out.to_vec().unwrap();
        assert_eq!(out[..N], expected, "{device:?}");
        assert_eq!(out[N], 7.0, "{device:?}");
    }
}

#[test]
fn wrong_arguments_are_refused_on_a_compiled_kernel_as_on_a_fresh_one() {
    for device in devices() {
        let kernel = load(&in_memory(), &device).unwrap();
        let input = device.upload(&[1.0f32; 8]).unwrap();
        let mut out = device.zeros::<f32>(8).unwrap();
        let x = input.slice(1..).unwrap().into();
        let misaligned = kernel.launch(1, ScaleArgs { x, out: (&mut out).into(), n: 4, by: 1.0 });
        // SAFETY: refused before anything runs.
        let error = unsafe { misaligned.run() }.unwrap_err();
        assert!(matches!(error, LaunchError::Argument(ArgumentError::Multiple { .. })), "{error}");
    }
}

#[test]
fn the_reference_device_reports_what_a_kernel_does_out_of_bounds() {
    let device = Device::reference();
    let kernel = load(&in_memory(), &device).unwrap();
    let input = device.upload(&[1.0f32; 8]).unwrap();
    let mut out = device.zeros::<f32>(8).unwrap();
    let launch = scaled(&kernel, 1, &input, &mut out, 9, 1.0);
    // SAFETY: the reference device checks every access.
    let error = unsafe { launch.run() }.unwrap_err();
    assert!(matches!(&error, LaunchError::Execution { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("scale") && text.contains("`x`"), "{text}");
    assert_eq!(out.to_vec().unwrap(), [0.0; 8]);
}

#[test]
fn a_buffer_of_another_device_is_refused() {
    let (host, reference) = (Device::host(), Device::reference());
    let kernel = load(&in_memory(), &host).unwrap();
    let input = reference.upload(&[1.0f32; 8]).unwrap();
    let mut out = host.zeros::<f32>(8).unwrap();
    let launch = scaled(&kernel, 1, &input, &mut out, 8, 1.0);
    // SAFETY: refused before anything runs.
    let error = unsafe { launch.run() }.unwrap_err();
    assert!(matches!(error, LaunchError::Argument(ArgumentError::Device { .. })), "{error}");
}

#[test]
fn compiled_kernels_come_back_from_disk_equal_for_every_target() {
    let dir = tempfile::tempdir().unwrap();
    for target in Target::all() {
        let options = CompileOptions { llvm_ir: true };
        let compiler = || Compiler::new(KernelCache::at(dir.path())).with_options(options);
        let fresh = compiler().compile(&func(), target).unwrap();
        let cached = compiler().compile(&func(), target).unwrap();
        assert_eq!((fresh.origin, cached.origin), (Origin::Built, Origin::Disk), "{target}");
        assert_eq!(fresh.kernel, cached.kernel, "{target}");
        assert!(fresh.kernel.tile_ir.contains("@scale"), "{target}");
        assert!(fresh.kernel.llvm_ir.contains("define"), "{target}");
    }
}

#[test]
fn a_kernel_from_a_damaged_cache_still_runs() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::host();
    let key = Compiler::new(KernelCache::at(dir.path())).compile(&func(), Target::Host).unwrap().key;
    let compiler = Compiler::new(KernelCache::at(dir.path()));
    let path = compiler.cache().path_of(&key.digest()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let kernel = load(&compiler, &device).unwrap();
    assert_eq!(compiler.cache().stats().corrupt, 1);
    let input = device.upload(&[3.0f32]).unwrap();
    let mut out = device.zeros::<f32>(1).unwrap();
    let launch = scaled(&kernel, 1, &input, &mut out, 1, 2.0);
    // SAFETY: `n` is the buffers' length.
    unsafe { launch.run() }.unwrap();
    assert_eq!(out.to_vec().unwrap(), [6.0]);
}

#[test]
fn production_runs_from_a_bundle_and_never_compiles() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernels.lkvb");
    let compiled = in_memory().compile(&func(), Target::Host).unwrap();
    let mut bundle = BundleWriter::new();
    bundle.add(&compiled.key, compiled.kernel.to_bytes());
    bundle.write(&path).unwrap();

    let production = in_memory();
    production.cache().deny_jit(true);
    let error = load(&production, &Device::host()).unwrap_err();
    assert!(matches!(error, CompileError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("`scale`"), "{error}");
    production.cache().add_bundle(Bundle::open(&path).unwrap());
    load(&production, &Device::host()).unwrap();
    assert_eq!(production.cache().stats().built, 0);
}

#[test]
fn a_bundle_is_found_by_what_a_kernel_is_not_by_who_looks() {
    let compiler = in_memory().recording();
    let (device, target) = (Device::emulated(Sm::Sm80), Target::Gpu(Sm::Sm80));
    load(&compiler, &device).unwrap();
    let key = compiler.key(&func(), target).unwrap();
    assert_eq!(compiler.recorded().len(), 1);
    assert_eq!(in_memory().recorded().len(), 0, "it does not record");

    // One built elsewhere, over another LLVM or none.
    let elsewhere = key.ir.replace("scaling/mod.rs", "elsewhere.rs");
    assert_ne!(elsewhere, key.ir);
    let moved = CacheKey { ir: elsewhere, llvm: String::new(), ..key.clone() };
    assert_eq!(moved.bundle_digest(), key.bundle_digest());
    assert_ne!(moved.digest(), key.digest());
    for other in [
        CacheKey { ir: key.ir.replace("f32", "f64"), ..key.clone() },
        compiler.key(&func(), Target::Gpu(Sm::Sm90)).unwrap(),
        CacheKey { compiler: String::new(), ..key.clone() },
    ] {
        assert_ne!(other.bundle_digest(), key.bundle_digest());
    }
}

#[test]
fn what_a_launch_looks_for_does_not_depend_on_what_was_kept_besides() {
    for target in [Target::Host, Target::Gpu(Sm::Sm80)] {
        let asked = in_memory().key(&func(), target).unwrap();
        for llvm_ir in [false, true] {
            let compiler = in_memory().with_options(CompileOptions { llvm_ir });
            let compiled = compiler.compile(&func(), target).unwrap();
            let (key, bytes) = compiled.for_launch();
            assert_eq!((key == asked, compiled.key == asked), (true, !llvm_ir), "{target}");
            let kernel = CompiledKernel::from_bytes(&bytes).unwrap();
            assert_eq!([kernel.llvm_ir, kernel.tile_ir], ["", ""], "texts are for people");
            assert_eq!(kernel.code, compiled.kernel.code);
        }
    }
}

#[test]
fn threads_that_compile_at_once_give_the_bytes_of_one_after_another() {
    const THREADS: usize = 4;
    let kernels = ["decode_attention", "matmul", "scan_pages", "softmax", "vector_add"];
    let funcs = kernels.map(|name| {
        let kernel = leankv_kernels::find(name).unwrap();
        kernel.build(&Settings::default()).unwrap()
    });
    let ptx = |func: &Func| {
        let compiled = in_memory().compile(func, Target::Gpu(Sm::Sm80)).unwrap();
        assert_eq!(compiled.origin, Origin::Built);
        compiled.kernel.ptx().unwrap().to_owned()
    };
    let sequential = funcs.each_ref().map(ptx);
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (funcs, sequential, start) = (&funcs, &sequential, &start);
            scope.spawn(move || {
                start.wait();
                // Each begins with another kernel, so that different ones and the same ones meet.
                for i in (0..funcs.len()).map(|i| (i + thread) % funcs.len()) {
                    assert!(ptx(&funcs[i]) == sequential[i], "{} on thread {thread}", kernels[i]);
                }
            });
        }
    });
}

#[test]
fn every_gpu_target_assembles_with_no_spills_and_reports_its_resources() {
    for sm in Sm::ALL {
        let compiled = in_memory().compile(&func(), Target::Gpu(sm)).unwrap();
        let resources = compiled.kernel.resources().unwrap();
        let assembled = resources.assembled.unwrap();
        assert_eq!(assembled.spill_store_bytes + assembled.spill_load_bytes, 0, "{sm}");
        assert!(assembled.registers > 0, "{sm}");
        let ptx = resources.ptx.unwrap();
        assert_eq!((ptx.count("st.global") > 0, ptx.count("ld.global") > 0), (true, true), "{sm}");
        assert_eq!(resources.threads, 32, "{sm}");
    }
}

#[test]
fn code_of_another_target_is_refused_with_both_names() {
    let host = Device::host();
    let for_gpu = in_memory().compile(&func(), Target::Gpu(Sm::Sm80)).unwrap();
    let error = host.load(&for_gpu.kernel).unwrap_err().to_string();
    assert!(error.contains("sm_80") && error.contains("host"), "{error}");
}
