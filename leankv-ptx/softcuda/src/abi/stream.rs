//! Streams and events.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

use crate::abi::entry;
use crate::code::invalid;
use crate::driver::HostCall;
use crate::types::{Handle, HostFunction, HostPointer, Out, StreamCallback};

entry! {
    fn cuStreamCreate(driver, stream: Out<Handle>, flags: c_uint) {
        stream.check()?;
        stream.set(Handle::from_id(driver.stream_create(flags, 0)?))
    }

    fn cuStreamCreateWithPriority(driver, stream: Out<Handle>, flags: c_uint, priority: c_int) {
        stream.check()?;
        stream.set(Handle::from_id(driver.stream_create(flags, priority)?))
    }

    fn cuStreamDestroy_v2(driver, stream: Handle) {
        driver.stream_destroy(stream.id())
    }

    fn cuStreamSynchronize(driver, stream: Handle) {
        driver.stream_synchronize(stream.id())
    }

    fn cuStreamQuery(driver, stream: Handle) {
        driver.stream_query(stream.id())
    }

    fn cuStreamWaitEvent(driver, stream: Handle, event: Handle, flags: c_uint) {
        driver.stream_wait(stream.id(), event.id(), flags)
    }

    fn cuStreamGetCtx(driver, stream: Handle, context: Out<Handle>) {
        context.set(Handle::from_id(driver.stream_context(stream.id())?))
    }

    fn cuStreamGetFlags(driver, stream: Handle, flags: Out<c_uint>) {
        flags.set(driver.stream_flags(stream.id())?)
    }

    fn cuStreamGetPriority(driver, stream: Handle, priority: Out<c_int>) {
        priority.set(driver.stream_priority(stream.id())?)
    }

    fn cuStreamGetId(driver, stream: Handle, id: Out<c_ulonglong>) {
        id.set(driver.stream_id(stream.id())?)
    }

    fn cuLaunchHostFunc(driver, stream: Handle, function: Option<HostFunction>, data: *mut c_void) {
        let function = function.ok_or_else(|| invalid("the function is null"))?;
        driver.host_call(stream.id(), HostCall::Function(function, HostPointer(data.cast())))
    }

    fn cuStreamAddCallback(
        driver, stream: Handle, function: Option<StreamCallback>, data: *mut c_void, flags: c_uint,
    ) {
        let function = function.ok_or_else(|| invalid("the function is null"))?;
        if flags != 0 {
            return Err(invalid("flags must be 0"));
        }
        driver.host_call(stream.id(), HostCall::Callback(function, HostPointer(data.cast()), stream))
    }

    fn cuEventCreate(driver, event: Out<Handle>, flags: c_uint) {
        event.check()?;
        event.set(Handle::from_id(driver.event_create(flags)?))
    }

    fn cuEventDestroy_v2(driver, event: Handle) {
        driver.event_destroy(event.id())
    }

    fn cuEventRecord(driver, event: Handle, stream: Handle) {
        driver.event_record(event.id(), stream.id())
    }

    fn cuEventRecordWithFlags(driver, event: Handle, stream: Handle, flags: c_uint) {
        if flags > 1 {
            return Err(invalid(format!("0x{flags:x} are not flags of a record")));
        }
        driver.event_record(event.id(), stream.id())
    }

    fn cuEventQuery(driver, event: Handle) {
        driver.event_query(event.id())
    }

    fn cuEventSynchronize(driver, event: Handle) {
        driver.event_synchronize(event.id())
    }

    fn cuEventElapsedTime(driver, milliseconds: Out<f32>, from: Handle, to: Handle) {
        milliseconds.set(driver.event_elapsed(from.id(), to.id())?)
    }

    fn cuEventElapsedTime_v2(driver, milliseconds: Out<f32>, from: Handle, to: Handle) {
        milliseconds.set(driver.event_elapsed(from.id(), to.id())?)
    }
}
