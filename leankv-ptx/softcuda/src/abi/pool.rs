//! Memory pools.

use std::ffi::{c_int, c_void};

use crate::abi::entry;
use crate::driver::PoolValue;
use crate::types::{Handle, In, Out, PoolProperties};

entry! {
    fn cuDeviceGetDefaultMemPool(driver, pool: Out<Handle>, device: c_int) {
        pool.set(Handle::from_id(driver.default_pool(device)?))
    }

    fn cuDeviceGetMemPool(driver, pool: Out<Handle>, device: c_int) {
        pool.set(Handle::from_id(driver.device_pool(device)?))
    }

    fn cuDeviceSetMemPool(driver, device: c_int, pool: Handle) {
        driver.device_set_pool(device, pool.id())
    }

    fn cuMemPoolCreate(driver, pool: Out<Handle>, properties: In<PoolProperties>) {
        pool.check()?;
        let properties = properties.get()?;
        let location = (properties.location.kind, properties.location.id);
        if properties.handle_types != 0 {
            return Err(crate::code::unsupported("pools cannot be shared between processes here"));
        }
        pool.set(Handle::from_id(driver.pool_create(properties.allocation_type, location)?))
    }

    fn cuMemPoolDestroy(driver, pool: Handle) {
        driver.pool_destroy(pool.id())
    }

    fn cuMemPoolTrimTo(driver, pool: Handle, _keep: usize) {
        driver.pool_trim(pool.id())
    }

    fn cuMemPoolGetAttribute(driver, pool: Handle, attribute: c_int, value: Out<c_void>) {
        value.check()?;
        match driver.pool_attribute(pool.id(), attribute)? {
            PoolValue::Small(number) => value.cast().set(number),
            PoolValue::Large(number) => value.cast().set(number),
        }
    }

    fn cuMemPoolSetAttribute(driver, pool: Handle, attribute: c_int, value: In<u32>) {
        driver.pool_set_attribute(pool.id(), attribute, |large| {
            let low = u64::from(value.get()?);
            Ok(if large { low | u64::from(value.at(1)?) << 32 } else { low })
        })
    }
}
