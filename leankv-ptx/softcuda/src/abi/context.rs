//! Contexts.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

use crate::abi::entry;
use crate::code::unsupported;
use crate::types::{Handle, In, Out};

entry! {
    fn cuDevicePrimaryCtxRetain(driver, context: Out<Handle>, device: c_int) {
        context.check()?;
        context.set(Handle::from_id(driver.primary_retain(device)?))
    }

    fn cuDevicePrimaryCtxRelease_v2(driver, device: c_int) {
        driver.primary_release(device)
    }

    fn cuDevicePrimaryCtxReset_v2(driver, device: c_int) {
        driver.primary_reset(device)
    }

    fn cuDevicePrimaryCtxGetState(driver, device: c_int, flags: Out<c_uint>, active: Out<c_int>) {
        let (value, is_active) = driver.primary_state(device)?;
        active.check()?;
        flags.set(value)?;
        active.set(c_int::from(is_active))
    }

    fn cuDevicePrimaryCtxSetFlags_v2(driver, device: c_int, flags: c_uint) {
        driver.primary_set_flags(device, flags)
    }

    fn cuCtxCreate_v2(driver, context: Out<Handle>, flags: c_uint, device: c_int) {
        context.check()?;
        context.set(Handle::from_id(driver.context_create(flags, device)?))
    }

    fn cuCtxCreate_v3(
        driver, context: Out<Handle>, affinity: In<u64>, count: c_int, flags: c_uint, device: c_int,
    ) {
        context.check()?;
        if !affinity.is_null() || count != 0 {
            return Err(unsupported("execution affinity does not exist here"));
        }
        context.set(Handle::from_id(driver.context_create(flags, device)?))
    }

    fn cuCtxCreate_v4(driver, context: Out<Handle>, parameters: In<[usize; 3]>, flags: c_uint, device: c_int) {
        context.check()?;
        if !parameters.is_null() && parameters.get()? != [0; 3] {
            return Err(unsupported("execution affinity and graphics contexts do not exist here"));
        }
        context.set(Handle::from_id(driver.context_create(flags, device)?))
    }

    fn cuCtxDestroy_v2(driver, context: Handle) {
        driver.context_destroy(context.id())
    }

    fn cuCtxGetCurrent(driver, context: Out<Handle>) {
        context.set(Handle::from_id(driver.context_current()?))
    }

    fn cuCtxSetCurrent(driver, context: Handle) {
        driver.context_set_current(context.id())
    }

    fn cuCtxPushCurrent_v2(driver, context: Handle) {
        driver.context_push(context.id())
    }

    fn cuCtxPopCurrent_v2(driver, context: Out<Handle>) {
        let popped = driver.context_pop()?;
        context.set_if_wanted(Handle::from_id(popped));
        Ok(())
    }

    fn cuCtxSynchronize(driver) {
        driver.context_synchronize()
    }

    fn cuCtxGetDevice(driver, device: Out<c_int>) {
        device.set(driver.context_device()?)
    }

    fn cuCtxGetFlags(driver, flags: Out<c_uint>) {
        flags.set(driver.context_flags()?)
    }

    fn cuCtxSetFlags(driver, flags: c_uint) {
        driver.context_set_flags(flags)
    }

    fn cuCtxGetLimit(driver, value: Out<usize>, limit: c_int) {
        value.set(driver.context_limit(limit)?)
    }

    fn cuCtxSetLimit(driver, limit: c_int, value: usize) {
        driver.context_set_limit(limit, value)
    }

    fn cuCtxGetCacheConfig(driver, config: Out<c_int>) {
        config.set(driver.context_cache_config()?)
    }

    fn cuCtxSetCacheConfig(driver, config: c_int) {
        driver.context_set_cache_config(config)
    }

    fn cuCtxGetStreamPriorityRange(driver, least: Out<c_int>, greatest: Out<c_int>) {
        let (least_urgent, most_urgent) = driver.priority_range()?;
        least.set_if_wanted(least_urgent);
        greatest.set_if_wanted(most_urgent);
        Ok(())
    }

    fn cuCtxGetApiVersion(driver, context: Handle, version: Out<c_uint>) {
        version.set(driver.context_version(context.id())?)
    }

    fn cuCtxGetId(driver, context: Handle, id: Out<c_ulonglong>) {
        driver.context_version(context.id())?;
        let handle = if context.id() == 0 { driver.context_current()? } else { context.id() };
        id.set(handle)
    }

    fn cuImportExternalMemory(_driver, _memory: Out<Handle>, _description: In<*const c_void>) {
        Err(unsupported("memory of other programs and interfaces cannot be imported here"))
    }

    fn cuExternalMemoryGetMappedBuffer(
        _driver, _address: Out<u64>, _memory: Handle, _description: In<*const c_void>,
    ) {
        Err(unsupported("memory of other programs and interfaces cannot be imported here"))
    }

    fn cuDestroyExternalMemory(_driver, _memory: Handle) {
        Err(unsupported("memory of other programs and interfaces cannot be imported here"))
    }
}
