//! Modules, launches, occupancy.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUfunction_attribute_enum as Attribute, CUresult};
use cudarc::driver::{DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::{PTX, code, context, kernel, shape};

pub(crate) fn modules() {
    let context = context();
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(PTX)).unwrap();
    assert_eq!(code(module.load_function("nowhere")), CUresult::CUDA_ERROR_NOT_FOUND);
    let table = module.get_global("table", &stream).unwrap();
    assert_eq!(table.len(), 16);
    let bytes = stream.clone_dtoh(&table).unwrap();
    assert_eq!(bytes, [10u32, 20, 30, 40].map(u32::to_le_bytes).concat());
    assert_eq!(code(module.get_global("chair", &stream)), CUresult::CUDA_ERROR_NOT_FOUND);

    let load = |text: &str| code(context.load_module(Ptx::from_src(text)));
    assert_eq!(load(&PTX.replace("mad.wide.u32", "mad.broad.u32")), CUresult::CUDA_ERROR_INVALID_PTX);
    let newer = PTX.replace(".version 8.0", ".version 8.7").replace("sm_80", "sm_120");
    assert_eq!(load(&newer), CUresult::CUDA_ERROR_INVALID_PTX);
    assert_eq!(load("\x7fELF and so on"), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(load(""), CUresult::CUDA_ERROR_INVALID_IMAGE);
    assert_eq!(
        code(context.load_module(Ptx::from_file("/no/such/file.ptx"))),
        CUresult::CUDA_ERROR_FILE_NOT_FOUND
    );
    let report = crate::common::report();
    assert!(report.contains("the PTX is for sm_120, this device is sm_90"), "{report}");

    // The error log of the JIT names the place.
    let bad = format!("{}\0", PTX.replace("mad.wide.u32", "mad.broad.u32"));
    let line = bad.lines().position(|line| line.contains("broad")).unwrap() + 1;
    let mut log = [0x55u8; 200];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
    let mut loaded = null_mut();
    // SAFETY: two options and values, a log of the size given, NUL-terminated text.
    let result = unsafe {
        sys::cuModuleLoadDataEx(
            &mut loaded,
            bad.as_ptr().cast(),
            2,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
    let text = std::str::from_utf8(&log[..values[1] as usize]).unwrap();
    assert!(text.starts_with(&format!("ptx line {line}, column ")), "{text}");
    assert_eq!(log[values[1] as usize], 0);
}

#[repr(C)]
struct Pair {
    low: u64,
    high: u64,
}
// SAFETY: two plain words.
unsafe impl DeviceRepr for Pair {}

pub(crate) fn launches() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let scale = kernel(&context, "scale");
    let mut data = stream.clone_htod(&(0..1000).collect::<Vec<u32>>()).unwrap();
    for _ in 0..2 {
        // SAFETY: the kernel's parameters; it stays within n elements.
        unsafe {
            stream
                .launch_builder(&scale)
                .arg(&mut data)
                .arg(&3u32)
                .arg(&1000u32)
                .launch(shape(8, 128))
                .unwrap();
        }
    }
    let expected: Vec<u32> = (0..1000).map(|i| (i * 3 + 1) * 3 + 1).collect();
    assert_eq!(stream.clone_dtoh(&data).unwrap(), expected);

    let by_value = kernel(&context, "by_value");
    let mut out = stream.alloc_zeros::<u64>(1).unwrap();
    // SAFETY: as above, with a structure by value.
    unsafe {
        stream
            .launch_builder(&by_value)
            .arg(&mut out)
            .arg(&Pair { low: 1 << 40, high: 5 })
            .launch(shape(1, 1))
            .unwrap();
    }
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [(1 << 40) + 5 + 30]);

    // All parameters in one buffer.
    let address = data.device_ptr(&stream).0;
    let mut buffer =
        [address.to_le_bytes().to_vec(), 2u32.to_le_bytes().to_vec(), 1u32.to_le_bytes().to_vec()].concat();
    let mut bytes = buffer.len();
    let mut extra: [*mut c_void; 5] =
        [1 as _, buffer.as_mut_ptr().cast(), 2 as _, (&raw mut bytes).cast(), null_mut()];
    // SAFETY: the documented form of the extra options.
    let launched = unsafe {
        sys::cuLaunchKernel(
            scale.cu_function(),
            1,
            1,
            1,
            1,
            1,
            1,
            0,
            stream.cu_stream(),
            null_mut(),
            extra.as_mut_ptr(),
        )
    };
    assert_eq!(launched, CUresult::CUDA_SUCCESS);
    assert_eq!(stream.clone_dtoh(&data.slice(0..2)).unwrap(), [expected[0] * 2 + 1, expected[1]]);
}

pub(crate) fn limits() {
    let context = context();
    let stream = context.default_stream();
    let much = kernel(&context, "much_shared");
    let bounded = kernel(&context, "bounded");
    let mut out = stream.alloc_zeros::<u32>(1).unwrap();
    let mut run = |config: LaunchConfig, bytes: u32| {
        // SAFETY: the kernel's parameters.
        code(unsafe { stream.launch_builder(&much).arg(&mut out).arg(&bytes).launch(config) })
    };
    for bad in [shape(0, 1), shape(1, 0), shape(1, 1025)] {
        assert_eq!(run(bad, 4), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let large = 100 * 1024;
    let config = LaunchConfig { shared_mem_bytes: large, ..shape(1, 1) };
    assert_eq!(run(config, large), CUresult::CUDA_ERROR_INVALID_VALUE);
    let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    much.set_attribute(attribute, large as c_int).unwrap();
    assert_eq!(code(much.set_attribute(attribute, 228 * 1024)), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(run(config, large), CUresult::CUDA_SUCCESS);
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [99]);
    // SAFETY: as above.
    let refused = unsafe { stream.launch_builder(&bounded).arg(&mut out).launch(shape(1, 256)) };
    assert_eq!(code(refused), CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    assert!(crate::common::report().contains("bounded: a block of 256 threads, it is compiled for 128"));
    // SAFETY: as above.
    let too_many =
        unsafe { stream.launch_builder(&bounded).arg(&mut out).launch_cooperative(shape(1 << 20, 128)) };
    assert_eq!(code(too_many), CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
}

extern "C" fn no_shared(_threads: c_int) -> usize {
    0
}

extern "C" fn shared_by_threads(threads: c_int) -> usize {
    threads as usize * 1024
}

pub(crate) fn occupancy() {
    let context = context();
    let scale = kernel(&context, "scale");
    let bounded = kernel(&context, "bounded");
    // sm_90: 2048 threads, 32 blocks, 228 KiB of shared memory on each of 132 multiprocessors.
    let blocks = |threads, shared| {
        scale.occupancy_max_active_blocks_per_multiprocessor(threads, shared, None).unwrap()
    };
    assert_eq!(blocks(1024, 0), 2);
    assert_eq!(blocks(128, 0), 16);
    assert_eq!(blocks(32, 0), 32);
    assert_eq!(blocks(128, 75 * 1024), 3);
    assert_eq!(blocks(128, 300 * 1024), 0);
    assert_eq!(scale.occupancy_max_potential_block_size(no_shared, 0, 0, None).unwrap(), (264, 1024));
    assert_eq!(bounded.occupancy_max_potential_block_size(no_shared, 0, 0, None).unwrap(), (16 * 132, 128));
    let (_, threads) = scale.occupancy_max_potential_block_size(shared_by_threads, 0, 0, None).unwrap();
    assert!(threads <= 224, "{threads} threads with 1 KiB each");
    assert_eq!(scale.occupancy_available_dynamic_smem_per_block(2, 1024).unwrap(), 113 * 1024);
    assert_eq!(scale.max_threads_per_block().unwrap(), 1024);
    assert_eq!(bounded.max_threads_per_block().unwrap(), 128);
    assert_eq!(scale.ptx_version().unwrap(), 80);
    assert_eq!(kernel(&context, "racing").shared_size_bytes().unwrap(), 4);
}

pub(crate) fn counters() {
    // The library reads its variables at its first call, so a test may still set one here.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("counters.jsonl");
    // SAFETY: nothing else runs yet.
    unsafe { std::env::set_var("SOFTCUDA_COUNTERS", &path) };
    let context = context();
    let stream = context.default_stream();
    let scale = kernel(&context, "scale");
    let mut data = stream.alloc_zeros::<u32>(64).unwrap();
    // SAFETY: the kernel's parameters.
    unsafe {
        stream.launch_builder(&scale).arg(&mut data).arg(&1u32).arg(&64u32).launch(shape(1, 64)).unwrap()
    };
    stream.synchronize().unwrap();
    let line = std::fs::read_to_string(&path).unwrap();
    assert!(line.contains("\"kernel\":\"scale\"") && line.contains("\"modelled\":true"), "{line}");
}
