//! Memory, copies, fills.

use std::ffi::{c_int, c_uint, c_void};

use crate::abi::entry;
use crate::code::{Res, invalid, unsupported};
use crate::driver::{Driver, Place};
use crate::types::{Handle, HostPointer, In, MemoryLocation, Out};

const NOT_SHARED: &str = "memory that host and device share does not exist here, since kernels run in an address space of their own";

fn host(pointer: *const c_void) -> Place {
    Place::Host(HostPointer(pointer.cast_mut().cast()))
}

entry! {
    fn cuMemAlloc_v2(driver, address: Out<u64>, bytes: usize) {
        address.check()?;
        address.set(driver.alloc(bytes)?)
    }

    fn cuMemAllocPitch_v2(
        driver, address: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: c_uint,
    ) {
        address.check()?;
        pitch.check()?;
        if !matches!(element, 4 | 8 | 16) {
            return Err(invalid(format!("an element of {element} bytes; 4, 8 and 16 do")));
        }
        let row = width.checked_next_multiple_of(512).filter(|row| *row > 0);
        let bytes = row.and_then(|row| row.checked_mul(height)).ok_or_else(|| invalid("no rows, or too many"))?;
        address.set(driver.alloc(bytes)?)?;
        pitch.set(bytes / height)
    }

    fn cuMemFree_v2(driver, address: u64) {
        driver.free(address)
    }

    fn cuMemAllocAsync(driver, address: Out<u64>, bytes: usize, stream: Handle) {
        address.check()?;
        address.set(driver.alloc_async(bytes, None, stream.id())?)
    }

    fn cuMemAllocFromPoolAsync(driver, address: Out<u64>, bytes: usize, pool: Handle, stream: Handle) {
        address.check()?;
        address.set(driver.alloc_async(bytes, Some(pool.id()), stream.id())?)
    }

    fn cuMemFreeAsync(driver, address: u64, stream: Handle) {
        driver.free_async(address, stream.id())
    }

    fn cuMemGetInfo_v2(driver, free: Out<usize>, total: Out<usize>) {
        let (free_bytes, total_bytes) = driver.memory_info()?;
        free.set_if_wanted(free_bytes);
        total.set_if_wanted(total_bytes);
        Ok(())
    }

    fn cuMemGetAddressRange_v2(driver, start: Out<u64>, bytes: Out<usize>, address: u64) {
        let (first, size) = driver.address_range(address)?;
        start.set_if_wanted(first);
        bytes.set_if_wanted(size);
        Ok(())
    }

    fn cuMemAllocHost_v2(driver, pointer: Out<usize>, bytes: usize) {
        pointer.check()?;
        pointer.set(driver.host_alloc(bytes, 0)?)
    }

    fn cuMemHostAlloc(driver, pointer: Out<usize>, bytes: usize, flags: c_uint) {
        pointer.check()?;
        pointer.set(driver.host_alloc(bytes, flags)?)
    }

    fn cuMemFreeHost(driver, pointer: usize) {
        driver.host_free(pointer)
    }

    fn cuMemHostRegister_v2(driver, pointer: usize, bytes: usize, flags: c_uint) {
        driver.host_register(pointer, bytes, flags)
    }

    fn cuMemHostUnregister(driver, pointer: usize) {
        driver.host_unregister(pointer)
    }

    fn cuMemHostGetFlags(driver, flags: Out<c_uint>, pointer: usize) {
        flags.set(driver.host_flags(pointer)?)
    }

    fn cuMemHostGetDevicePointer_v2(_driver, _address: Out<u64>, _pointer: usize, _flags: c_uint) {
        Err(unsupported(NOT_SHARED))
    }

    fn cuMemAllocManaged(_driver, _address: Out<u64>, _bytes: usize, _flags: c_uint) {
        Err(unsupported(NOT_SHARED))
    }

    fn cuMemAdvise_v2(driver, address: u64, bytes: usize, advice: c_int, _location: MemoryLocation) {
        advise(driver, address, bytes, advice)
    }

    fn cuMemAdvise(driver, address: u64, bytes: usize, advice: c_int, _device: c_int) {
        advise(driver, address, bytes, advice)
    }

    fn cuMemPrefetchAsync_v2(
        _driver, _address: u64, _bytes: usize, _location: MemoryLocation, _flags: c_uint, _stream: Handle,
    ) {
        Err(unsupported(NOT_SHARED))
    }

    fn cuMemPrefetchAsync(_driver, _address: u64, _bytes: usize, _device: c_int, _stream: Handle) {
        Err(unsupported(NOT_SHARED))
    }

    fn cuStreamAttachMemAsync(_driver, _stream: Handle, _address: u64, _bytes: usize, _flags: c_uint) {
        Err(unsupported(NOT_SHARED))
    }

    fn cuPointerGetAttribute(driver, data: Out<u8>, attribute: c_int, address: u64) {
        pointer_attribute(driver, data, attribute, address)
    }

    fn cuPointerGetAttributes(
        driver, count: c_uint, attributes: In<c_int>, data: In<*mut u8>, address: u64,
    ) {
        for index in 0..count as usize {
            // One that cannot be answered for this address is left as it is.
            let _ = pointer_attribute(driver, Out::at(data.at(index)?), attributes.at(index)?, address);
        }
        Ok(())
    }

    fn cuMemcpyHtoD_v2(driver, to: u64, from: *const c_void, bytes: usize) {
        driver.copy_memory(Place::Device(to), host(from), bytes, None)
    }

    fn cuMemcpyDtoH_v2(driver, to: *mut c_void, from: u64, bytes: usize) {
        driver.copy_memory(host(to), Place::Device(from), bytes, None)
    }

    fn cuMemcpyDtoD_v2(driver, to: u64, from: u64, bytes: usize) {
        driver.copy_memory(Place::Device(to), Place::Device(from), bytes, None)
    }

    fn cuMemcpyHtoDAsync_v2(driver, to: u64, from: *const c_void, bytes: usize, stream: Handle) {
        driver.copy_memory(Place::Device(to), host(from), bytes, Some(stream.id()))
    }

    fn cuMemcpyDtoHAsync_v2(driver, to: *mut c_void, from: u64, bytes: usize, stream: Handle) {
        driver.copy_memory(host(to), Place::Device(from), bytes, Some(stream.id()))
    }

    fn cuMemcpyDtoDAsync_v2(driver, to: u64, from: u64, bytes: usize, stream: Handle) {
        driver.copy_memory(Place::Device(to), Place::Device(from), bytes, Some(stream.id()))
    }

    fn cuMemcpy(driver, to: u64, from: u64, bytes: usize) {
        driver.copy_memory(Place::Any(to), Place::Any(from), bytes, None)
    }

    fn cuMemcpyAsync(driver, to: u64, from: u64, bytes: usize, stream: Handle) {
        driver.copy_memory(Place::Any(to), Place::Any(from), bytes, Some(stream.id()))
    }

    fn cuMemcpyPeer(driver, to: u64, _to_context: Handle, from: u64, _from_context: Handle, bytes: usize) {
        driver.copy_memory(Place::Device(to), Place::Device(from), bytes, None)
    }

    fn cuMemcpyPeerAsync(
        driver, to: u64, _to_context: Handle, from: u64, _from_context: Handle, bytes: usize, stream: Handle,
    ) {
        driver.copy_memory(Place::Device(to), Place::Device(from), bytes, Some(stream.id()))
    }

    fn cuMemsetD8_v2(driver, address: u64, value: u8, count: usize) {
        driver.fill_memory(address, u32::from(value), 1, count, None)
    }

    fn cuMemsetD16_v2(driver, address: u64, value: u16, count: usize) {
        driver.fill_memory(address, u32::from(value), 2, count, None)
    }

    fn cuMemsetD32_v2(driver, address: u64, value: c_uint, count: usize) {
        driver.fill_memory(address, value, 4, count, None)
    }

    fn cuMemsetD8Async(driver, address: u64, value: u8, count: usize, stream: Handle) {
        driver.fill_memory(address, u32::from(value), 1, count, Some(stream.id()))
    }

    fn cuMemsetD16Async(driver, address: u64, value: u16, count: usize, stream: Handle) {
        driver.fill_memory(address, u32::from(value), 2, count, Some(stream.id()))
    }

    fn cuMemsetD32Async(driver, address: u64, value: c_uint, count: usize, stream: Handle) {
        driver.fill_memory(address, value, 4, count, Some(stream.id()))
    }
}

/// Advice is for shared memory, of which there is none: any live range is fine, and nothing follows.
fn advise(driver: &Driver, address: u64, bytes: usize, advice: c_int) -> Res<()> {
    if !(1..=6).contains(&advice) {
        return Err(invalid(format!("there is no advice {advice}")));
    }
    let (start, size) = driver.address_range(address).map_err(|fail| invalid(fail.why))?;
    if bytes as u64 > start + size as u64 - address {
        return Err(invalid("the range is longer than its allocation"));
    }
    Ok(())
}

fn pointer_attribute(driver: &Driver, data: Out<u8>, attribute: c_int, address: u64) -> Res<()> {
    data.check()?;
    let facts = driver.pointer_facts(address)?;
    match attribute {
        1 => data.cast().set(facts.context),
        // CU_MEMORYTYPE_HOST is 1, CU_MEMORYTYPE_DEVICE is 2.
        2 => data.cast().set(if facts.on_device { 2_u32 } else { 1 }),
        3 if facts.on_device => data.cast().set(address),
        4 if !facts.on_device => data.cast().set(address),
        3 | 4 => Err(invalid("the address has no counterpart on that side")),
        // Synchronous operations, managed, IPC, RDMA: no.
        6 | 8 => data.cast().set(0_u32),
        10 | 15 => data.cast().set(0_u8),
        7 => data.cast().set(facts.start),
        9 => data.cast().set(facts.device as c_int),
        11 => data.cast().set(facts.start),
        12 => data.cast().set(facts.bytes as usize),
        13 => data.cast().set(1_u8),
        14 => data.cast().set(0_u64),
        16 => data.cast().set(3_u32),
        17 => data.cast().set(0_u64),
        _ => Err(invalid(format!("there is no pointer attribute {attribute}"))),
    }
}
