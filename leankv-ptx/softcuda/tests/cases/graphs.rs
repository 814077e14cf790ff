//! Stream capture and graphs.

use std::sync::Arc;

use cudarc::driver::sys::{
    self, CUgraphInstantiate_flags as Flags, CUresult, CUstreamCaptureMode as Mode,
    CUstreamCaptureStatus as Status,
};
use cudarc::driver::{CudaContext, CudaStream, PushKernelArg};

use super::{code, context, kernel, shape};

/// A stream of a context in which the program orders its streams itself, as captures need.
fn stream(context: &Arc<CudaContext>) -> Arc<CudaStream> {
    // SAFETY: every buffer below is used in one stream, or ordered by events.
    unsafe { context.disable_event_tracking() };
    context.new_stream().unwrap()
}

pub(crate) fn replay() {
    let context = context();
    let stream = stream(&context);
    let scale = kernel(&context, "scale");
    let mut data = stream.clone_htod(&[1u32; 8]).unwrap();
    let mut copy = stream.alloc_zeros::<u32>(8).unwrap();
    assert_eq!(stream.capture_status().unwrap(), Status::CU_STREAM_CAPTURE_STATUS_NONE);
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    assert_eq!(stream.capture_status().unwrap(), Status::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    // SAFETY: the kernel's parameters.
    unsafe { stream.launch_builder(&scale).arg(&mut data).arg(&2u32).arg(&8u32).launch(shape(1, 8)) }
        .unwrap();
    stream.memcpy_dtod(&data, &mut copy).unwrap();
    stream.memset_zeros(&mut data.slice_mut(0..1)).unwrap();
    let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
    stream.synchronize().unwrap();
    assert_eq!(stream.clone_dtoh(&data).unwrap(), [1; 8], "capturing runs nothing");
    graph.upload().unwrap();
    for round in 1..=3u32 {
        graph.launch().unwrap();
        let seen = stream.clone_dtoh(&copy).unwrap();
        assert_eq!(seen[7], (2 << round) - 1);
        assert_eq!(seen[0], if round == 1 { 3 } else { 1 });
    }
}

/// Kernels that depend on one another, with arguments that the program changes and drops after the capture.
pub(crate) fn several_kernels() {
    let context = context();
    let stream = stream(&context);
    let scale = kernel(&context, "scale");
    let mut data = stream.clone_htod(&[1u32; 40]).unwrap();
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    for factor in [2u32, 3, 5] {
        // SAFETY: the kernel's parameters; two blocks of 20 threads cover the buffer.
        unsafe { stream.launch_builder(&scale).arg(&mut data).arg(&factor).arg(&40u32).launch(shape(2, 20)) }
            .unwrap();
    }
    // SAFETY: the kernel's parameters; the first half alone.
    unsafe { stream.launch_builder(&scale).arg(&mut data).arg(&7u32).arg(&20u32).launch(shape(2, 20)) }
        .unwrap();
    let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
    // Between two replays the stream does other work, which the next one builds on.
    let chain = |x: u32, factors: &[u32]| factors.iter().fold(x, |x, f| x.wrapping_mul(*f).wrapping_add(1));
    let (mut first, mut second) = (1, 1);
    for round in 0..4 {
        graph.launch().unwrap();
        (first, second) = (chain(first, &[2, 3, 5, 7]), chain(second, &[2, 3, 5]));
        let seen = stream.clone_dtoh(&data).unwrap();
        assert!(seen[..20].iter().all(|x| *x == first), "round {round}: {seen:?}");
        assert!(seen[20..].iter().all(|x| *x == second), "round {round}: {seen:?}");
        // SAFETY: the kernel's parameters.
        unsafe { stream.launch_builder(&scale).arg(&mut data).arg(&9u32).arg(&40u32).launch(shape(2, 20)) }
            .unwrap();
        (first, second) = (chain(first, &[9]), chain(second, &[9]));
    }
}

pub(crate) fn fork_and_join() {
    let context = context();
    let first = stream(&context);
    let second = context.new_stream().unwrap();
    let scale = kernel(&context, "scale");
    let (mut a, mut b) = (first.clone_htod(&[1u32; 4]).unwrap(), first.clone_htod(&[2u32; 4]).unwrap());
    let mut both = first.alloc_zeros::<u32>(8).unwrap();
    first.synchronize().unwrap();
    first.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    second.join(&first).unwrap();
    // SAFETY: the kernel's parameters.
    unsafe {
        first.launch_builder(&scale).arg(&mut a).arg(&2u32).arg(&4u32).launch(shape(1, 4)).unwrap();
        second.launch_builder(&scale).arg(&mut b).arg(&2u32).arg(&4u32).launch(shape(1, 4)).unwrap();
    }
    second.memcpy_dtod(&b, &mut both.slice_mut(4..8)).unwrap();
    first.join(&second).unwrap();
    first.memcpy_dtod(&a, &mut both.slice_mut(0..4)).unwrap();
    let graph = first.end_capture(Flags(0)).unwrap().unwrap();
    graph.launch().unwrap();
    graph.launch().unwrap();
    assert_eq!(first.clone_dtoh(&both).unwrap(), [7, 7, 7, 7, 11, 11, 11, 11]);
}

pub(crate) fn wrong() {
    let context = context();
    let first = stream(&context);
    let second = context.new_stream().unwrap();
    let begin = || first.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let end = || code(first.end_capture(Flags(0)));
    assert_eq!(end(), CUresult::CUDA_ERROR_ILLEGAL_STATE);
    // The default stream cannot capture.
    let null = context.default_stream();
    let refused = code(null.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_RELAXED));
    assert_eq!(refused, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    // Waiting spoils a capture.
    begin();
    assert_eq!(code(first.synchronize()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(first.capture_status().unwrap(), Status::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    assert_eq!(end(), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // A captured event has no state to ask for.
    let event = context.new_event(None).unwrap();
    begin();
    event.record(&first).unwrap();
    assert_eq!(
        event.try_is_complete(),
        Err(cudarc::driver::DriverError(CUresult::CUDA_ERROR_CAPTURED_EVENT))
    );
    assert_eq!(end(), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // Work that never comes back.
    begin();
    second.join(&first).unwrap();
    let mut data = vec![0u8; 4];
    // SAFETY: the copy becomes a node and never runs.
    let copied = unsafe {
        sys::cuMemcpyAsync(data.as_mut_ptr() as u64, data.as_mut_ptr() as u64, 4, second.cu_stream())
    };
    assert_eq!(copied, CUresult::CUDA_SUCCESS);
    assert_eq!(end(), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    assert_eq!(second.capture_status().unwrap(), Status::CU_STREAM_CAPTURE_STATUS_NONE);
    // Waiting for uncaptured work.
    second.synchronize().unwrap();
    let outside = second.record_event(None).unwrap();
    begin();
    assert_eq!(code(first.wait(&outside)), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    assert_eq!(end(), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // Flags that exclude each other.
    begin();
    let flags = Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH
        | Flags::CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH;
    assert_eq!(code(first.end_capture(flags)), CUresult::CUDA_ERROR_INVALID_VALUE);
    // After all that the stream works.
    begin();
    first.end_capture(Flags(0)).unwrap().unwrap().launch().unwrap();
    first.synchronize().unwrap();
}
