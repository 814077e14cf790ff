//! Faults and findings.

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaSlice, DriverError, PushKernelArg};

use super::{code, context, kernel, shape};

/// Runs a kernel of one pointer and waits.
fn run(name: &str) -> Result<(), DriverError> {
    let context = context();
    let stream = context.default_stream();
    let function = kernel(&context, name);
    let data: CudaSlice<u32> = stream.alloc_zeros(64).unwrap();
    // SAFETY: the kernel's parameter; the fault is the point.
    unsafe { stream.launch_builder(&function).arg(&data).launch(shape(1, 64)) }?;
    stream.synchronize()?;
    Ok(())
}

pub(crate) fn overrun() {
    let first = context();
    let stream = first.default_stream();
    let overrun = kernel(&first, "overrun");
    let data: CudaSlice<u32> = stream.alloc_zeros(64).unwrap();
    let event = stream.record_event(None).unwrap();
    // SAFETY: the kernel's parameter. The launch itself succeeds, as on a GPU.
    unsafe { stream.launch_builder(&overrun).arg(&data).launch(shape(2, 64)) }.unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    // From now on everything in this context fails so.
    assert_eq!(code(stream.clone_dtoh(&data)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(stream.alloc_zeros::<u8>(1)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(first.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(event.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let report = crate::common::report();
    for part in [
        "CUDA_ERROR_ILLEGAL_ADDRESS: out-of-bounds store of 4 bytes at 0x",
        "kernel overrun, PTX line ",
        "(st.global.u32)",
        // Both blocks overrun and they run side by side: either may be first.
        ",0,0) warp 0 lane 0",
    ] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
    // The other device is as it was.
    let second = CudaContext::new(1).unwrap();
    let stream = second.default_stream();
    assert_eq!(stream.clone_dtoh(&stream.alloc_zeros::<u8>(2).unwrap()).unwrap(), [0, 0]);
}

pub(crate) fn misaligned() {
    assert_eq!(code(run("misaligned")), CUresult::CUDA_ERROR_MISALIGNED_ADDRESS);
}

pub(crate) fn trapped() {
    let context = context();
    let stream = context.default_stream();
    let trapped = kernel(&context, "trapped");
    // SAFETY: it has no parameters.
    unsafe { stream.launch_builder(&trapped).launch(shape(1, 1)) }.unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

pub(crate) fn endless() {
    let context = context();
    let stream = context.default_stream();
    let endless = kernel(&context, "endless");
    // SAFETY: it has no parameters.
    unsafe { stream.launch_builder(&endless).launch(shape(1, 32)) }.unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_TIMEOUT);
}

pub(crate) fn race_reported() {
    run("racing").unwrap();
    let report = crate::common::report();
    assert!(report.contains("SharedRace") && report.contains("kernel racing"), "{report}");
}

pub(crate) fn race_fails() {
    assert_eq!(code(run("racing")), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    assert!(crate::common::report().contains("SharedRace"));
}

pub(crate) fn race_unchecked() {
    run("racing").unwrap();
    assert_eq!(crate::common::report(), "");
}
