//! Start, errors, devices.

use std::ffi::{c_char, c_int, c_uint};
use std::ptr::null;

use crate::abi::entry;
use crate::code::{self, Res, invalid};
use crate::driver::VERSION;
use crate::types::{Handle, Out, Text, Uuid};

entry! {
    fn cuInit(driver, flags: c_uint) {
        driver.init(flags)
    }

    fn cuDriverGetVersion(_driver, version: Out<c_int>) {
        version.set(VERSION)
    }

    fn cuGetErrorName(_driver, error: c_int, text: Out<*const c_char>) {
        describe(error, text, |(name, _)| name.as_ptr())
    }

    fn cuGetErrorString(_driver, error: c_int, text: Out<*const c_char>) {
        describe(error, text, |(_, text)| text.as_ptr())
    }

    fn cuDeviceGet(driver, device: Out<c_int>, ordinal: c_int) {
        device.set(driver.device(ordinal)? as c_int)
    }

    fn cuDeviceGetCount(driver, count: Out<c_int>) {
        count.set(driver.device_count()?)
    }

    fn cuDeviceGetName(driver, name: Out<c_char>, len: c_int, device: c_int) {
        store_text(name, len, &driver.device_name(device)?)
    }

    fn cuDeviceGetUuid(driver, uuid: Out<Uuid>, device: c_int) {
        uuid.set(Uuid { bytes: driver.device_uuid(device)? })
    }

    fn cuDeviceGetUuid_v2(driver, uuid: Out<Uuid>, device: c_int) {
        uuid.set(Uuid { bytes: driver.device_uuid(device)? })
    }

    fn cuDeviceTotalMem_v2(driver, bytes: Out<usize>, device: c_int) {
        bytes.set(driver.device_memory(device)?)
    }

    fn cuDeviceGetAttribute(driver, value: Out<c_int>, attribute: c_int, device: c_int) {
        value.set(driver.device_attribute(attribute, device)?)
    }

    fn cuDeviceComputeCapability(driver, major: Out<c_int>, minor: Out<c_int>, device: c_int) {
        major.check()?;
        minor.set(driver.device_attribute(76, device)?)?;
        major.set(driver.device_attribute(75, device)?)
    }

    fn cuDeviceGetPCIBusId(driver, name: Out<c_char>, len: c_int, device: c_int) {
        store_text(name, len, &driver.device_bus(device)?)
    }

    fn cuDeviceGetByPCIBusId(driver, device: Out<c_int>, bus: Text) {
        device.set(driver.device_on_bus(&bus.string()?)?)
    }

    fn cuDeviceCanAccessPeer(driver, can: Out<c_int>, device: c_int, peer: c_int) {
        let (device, peer) = (driver.device(device)?, driver.device(peer)?);
        can.set(c_int::from(device != peer))
    }

    fn cuCtxEnablePeerAccess(driver, peer: Handle, flags: c_uint) {
        if flags != 0 {
            return Err(invalid("flags must be 0"));
        }
        driver.peer_access(peer.id())
    }

    fn cuCtxDisablePeerAccess(driver, peer: Handle) {
        driver.peer_access(peer.id())
    }

    fn cuProfilerStart(driver) {
        driver.context_device().map(drop)
    }

    fn cuProfilerStop(driver) {
        driver.context_device().map(drop)
    }
}

fn describe(
    error: c_int,
    text: Out<*const c_char>,
    pick: impl FnOnce((&'static std::ffi::CStr, &'static std::ffi::CStr)) -> *const c_char,
) -> Res<()> {
    match code::describe(error) {
        Some(names) => text.set(pick(names)),
        None => {
            text.set_if_wanted(null());
            Err(invalid(format!("there is no result code {error}")))
        }
    }
}

/// Stores text and a NUL, cut to the `len` bytes there are.
fn store_text(target: Out<c_char>, len: c_int, text: &str) -> Res<()> {
    let room = usize::try_from(len)
        .ok()
        .filter(|room| *room > 0)
        .ok_or_else(|| invalid(format!("{len} bytes are no room for a string")))?;
    let mut bytes: Vec<c_char> = text.bytes().take(room - 1).map(|byte| byte as c_char).collect();
    bytes.push(0);
    target.set_all(&bytes)
}
