//! Streams, events, threads, and what deferred order finds.

use std::ffi::c_void;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cudarc::driver::sys::{self, CUevent_flags, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, PushKernelArg, result};

use super::{code, context, kernel, shape};

/// data[i] = data[i] * 2 + 1
fn double(stream: &Arc<CudaStream>, scale: &CudaFunction, data: &mut CudaSlice<u32>) {
    let n = data.len() as u32;
    // SAFETY: the kernel's parameters.
    unsafe { stream.launch_builder(scale).arg(data).arg(&2u32).arg(&n).launch(shape(1, 64)) }.unwrap();
}

pub(crate) fn events() {
    let context = context();
    let scale = kernel(&context, "scale");
    let first = context.new_stream().unwrap();
    let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
    let before = first.record_event(timed).unwrap();
    let mut data = first.clone_htod(&[1u32; 8]).unwrap();
    double(&first, &scale, &mut data);
    let second = first.fork().unwrap();
    double(&second, &scale, &mut data);
    first.join(&second).unwrap();
    double(&first, &scale, &mut data);
    let after = first.record_event(timed).unwrap();
    // Asking again and again ends.
    let mut asked = 0;
    while !after.try_is_complete().unwrap() {
        asked += 1;
        assert!(asked < 1000);
    }
    assert!(before.elapsed_ms(&after).unwrap() >= 0.0);
    assert_eq!(first.clone_dtoh(&data).unwrap(), [15; 8]);
    // An event without timing, and one that was never recorded.
    let untimed = first.record_event(None).unwrap();
    assert_eq!(code(before.elapsed_ms(&untimed)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    let never = context.new_event(timed).unwrap();
    assert_eq!(never.try_is_complete(), Ok(true));
    assert_eq!(code(before.elapsed_ms(&never)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    // Priorities; a stream may be dropped with work in it.
    let (least, most) = (0, -5);
    let urgent = context.new_stream_with_priority(most - 1).unwrap();
    let mut priority = least;
    // SAFETY: a valid pointer.
    let asked = unsafe { sys::cuStreamGetPriority(urgent.cu_stream(), &mut priority) };
    assert_eq!(asked, CUresult::CUDA_SUCCESS);
    assert_eq!(priority, most);
    let mut other = urgent.clone_htod(&[3u32]).unwrap();
    double(&urgent, &scale, &mut other);
    first.join(&urgent).unwrap();
    drop(urgent);
    assert_eq!(first.clone_dtoh(&other).unwrap(), [7]);
}

/// The program reads a page-locked buffer without waiting for the copy into it.
pub(crate) fn missing_host_wait() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let data = stream.clone_htod(&[1u8; 16]).unwrap();
    // SAFETY: page-locked memory is zero at first here, and freed below.
    let locked = unsafe { result::malloc_host(16, 0) }.unwrap().cast::<u8>();
    // SAFETY: 16 bytes of page-locked memory.
    let buffer = unsafe { std::slice::from_raw_parts_mut(locked, 16) };
    let address = cudarc::driver::DevicePtr::device_ptr(&data, &stream).0;
    // SAFETY: the ranges fit.
    unsafe { result::memcpy_dtoh_async(buffer, address, stream.cu_stream()) }.unwrap();
    // SAFETY: as above; volatile, since the driver writes behind the compiler's back.
    let read = || unsafe { locked.read_volatile() };
    assert_eq!(read(), 0, "without a wait the old value is seen");
    stream.synchronize().unwrap();
    assert_eq!(read(), 1, "after the wait the new one");
    // The source of a copy to the device is read late as well.
    let target = stream.alloc_zeros::<u8>(16).unwrap();
    let address = cudarc::driver::DevicePtr::device_ptr(&target, &stream).0;
    // SAFETY: the ranges fit.
    unsafe {
        result::memcpy_htod_async(address, std::slice::from_raw_parts(locked, 16), stream.cu_stream())
            .unwrap();
        locked.write_volatile(9);
    }
    assert_eq!(stream.clone_dtoh(&target).unwrap()[..2], [9, 1], "the buffer was reused too early");
    // SAFETY: allocated above.
    unsafe { result::free_host(locked.cast()) }.unwrap();
}

/// Two streams use one buffer and nothing orders them.
pub(crate) fn missing_stream_wait() {
    let context = context();
    // SAFETY: the point is what happens when the program orders its streams itself, and does not.
    unsafe { context.disable_event_tracking() };
    let scale = kernel(&context, "scale");
    let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let mut data = first.clone_htod(&[1u32; 8]).unwrap();
    first.synchronize().unwrap();
    double(&first, &scale, &mut data);
    assert_eq!(second.clone_dtoh(&data).unwrap(), [1; 8], "the kernel has not run yet");
    second.join(&first).unwrap();
    assert_eq!(second.clone_dtoh(&data).unwrap(), [3; 8]);
}

/// The default stream waits for blocking streams and they for it; streams made non-blocking do not.
pub(crate) fn default_stream() {
    let context = context();
    let scale = kernel(&context, "scale");
    let null = context.default_stream();
    let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
    // SAFETY: the stream lives until the end of this program.
    let blocking = unsafe { context.wrap_borrowed_stream(blocking) };
    let mut data = null.clone_htod(&[1u32; 8]).unwrap();
    double(&null, &scale, &mut data);
    double(&blocking, &scale, &mut data);
    double(&null, &scale, &mut data);
    assert_eq!(blocking.clone_dtoh(&data).unwrap(), [15; 8]);
    // A stream of this thread is a blocking one.
    let own = context.per_thread_stream();
    double(&own, &scale, &mut data);
    null.synchronize().unwrap();
    assert_eq!(null.clone_dtoh(&data).unwrap(), [31; 8]);
    double(&null, &scale, &mut data);
    // SAFETY: ordered by nothing, which is what is looked at.
    unsafe { context.disable_event_tracking() };
    let apart = context.new_stream().unwrap();
    assert_eq!(apart.clone_dtoh(&data).unwrap(), [31; 8], "a non-blocking stream does not wait");
    assert_eq!(null.clone_dtoh(&data).unwrap(), [63; 8]);
}

struct Gate {
    wait: Receiver<()>,
    log: Arc<Mutex<Vec<&'static str>>>,
}

unsafe extern "C" fn at_gate(data: *mut c_void) {
    // SAFETY: a box that the caller of cuLaunchHostFunc gave up.
    let gate = unsafe { Box::from_raw(data.cast::<Gate>()) };
    let _ = gate.wait.recv_timeout(Duration::from_secs(30));
    // Calls from here are refused, not deadlocked.
    // SAFETY: no arguments.
    let refused = unsafe { sys::cuCtxSynchronize() };
    let note = if refused == CUresult::CUDA_ERROR_NOT_PERMITTED { "host function" } else { "was allowed in" };
    gate.log.lock().unwrap().push(note);
}

pub(crate) fn host_function() {
    let context = context();
    let scale = kernel(&context, "scale");
    let stream = context.new_stream().unwrap();
    let log = Arc::new(Mutex::new(Vec::new()));
    let (open, wait): (Sender<()>, _) = channel();
    let gate = Box::into_raw(Box::new(Gate { wait, log: log.clone() }));
    let mut data = stream.clone_htod(&[1u32; 4]).unwrap();
    // SAFETY: the function takes the box.
    unsafe { sys::cuLaunchHostFunc(stream.cu_stream(), Some(at_gate), gate.cast()) }.result().unwrap();
    double(&stream, &scale, &mut data);
    let event = stream.record_event(None).unwrap();
    assert_eq!(event.try_is_complete(), Ok(false), "the function waits for this thread");
    // Other streams go on meanwhile.
    let other = context.new_stream().unwrap();
    assert_eq!(other.clone_dtoh(&other.clone_htod(&[5u8]).unwrap()).unwrap(), [5]);
    log.lock().unwrap().push("opened");
    open.send(()).unwrap();
    event.synchronize().unwrap();
    assert_eq!(*log.lock().unwrap(), ["opened", "host function"]);
    assert_eq!(stream.clone_dtoh(&data).unwrap(), [3; 4]);
}

pub(crate) fn threads() {
    let shared = context();
    let scale = kernel(&shared, "scale");
    std::thread::scope(|scope| {
        for worker in 0..4u32 {
            let (shared, scale) = (shared.clone(), scale.clone());
            scope.spawn(move || {
                let stream = shared.new_stream().unwrap();
                for round in 0..5 {
                    let mut data = stream.clone_htod(&vec![worker * 100 + round; 50]).unwrap();
                    double(&stream, &scale, &mut data);
                    double(&stream, &scale, &mut data);
                    assert_eq!(stream.clone_dtoh(&data).unwrap(), vec![(worker * 100 + round) * 4 + 3; 50]);
                }
            });
        }
        for worker in 0..2u32 {
            scope.spawn(move || {
                // A context of one's own, with its own modules and memory.
                let own = CudaContext::new_non_primary(0, 0).unwrap();
                let stream = own.new_stream().unwrap();
                let scale = kernel(&own, "scale");
                let mut data = stream.clone_htod(&[worker; 50]).unwrap();
                double(&stream, &scale, &mut data);
                assert_eq!(stream.clone_dtoh(&data).unwrap(), [worker * 2 + 1; 50]);
            });
        }
    });
    // A fault in one context leaves the others alone.
    let broken = CudaContext::new_non_primary(0, 0).unwrap();
    let trapped = kernel(&broken, "trapped");
    let stream = broken.default_stream();
    // SAFETY: it has no parameters.
    unsafe { stream.launch_builder(&trapped).launch(shape(1, 1)) }.unwrap();
    assert_eq!(code(broken.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    shared.synchronize().unwrap();
    // A function of another context than the stream's.
    let foreign = shared.default_stream();
    // SAFETY: refused before anything runs.
    let refused = unsafe { foreign.launch_builder(&trapped).launch(shape(1, 1)) };
    assert_eq!(code(refused), CUresult::CUDA_ERROR_LAUNCH_FAILED);
}
