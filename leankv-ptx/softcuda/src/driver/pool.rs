//! Memory pools. Memory goes back to the machine when it is freed, so a pool only counts.

use super::Driver;
use crate::code::{Code, Fail, Res, invalid};
use crate::handles::Id;

/// A pool.
pub(crate) struct Pool {
    pub(super) device: usize,
    pub(super) used: u64,
    pub(super) most_used: u64,
    release_threshold: u64,
    reuse: [u32; 3],
}

/// The value of a pool's attribute, in the width that the interface gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolValue {
    /// An `int`.
    Small(u32),
    /// A `cuuint64_t`.
    Large(u64),
}

impl Pool {
    pub(super) fn new(device: usize) -> Pool {
        Pool { device, used: 0, most_used: 0, release_threshold: 0, reuse: [1; 3] }
    }
}

impl Driver {
    /// `cuDeviceGetDefaultMemPool`.
    pub(crate) fn default_pool(&self, device: i32) -> Res<Id> {
        let index = self.device(device)?;
        Ok(self.ready()?.devices[index].default_pool)
    }

    /// `cuDeviceGetMemPool`.
    pub(crate) fn device_pool(&self, device: i32) -> Res<Id> {
        let index = self.device(device)?;
        Ok(self.ready()?.devices[index].pool)
    }

    /// `cuDeviceSetMemPool`.
    pub(crate) fn device_set_pool(&self, device: i32, pool: Id) -> Res<()> {
        let index = self.device(device)?;
        let mut state = self.ready()?;
        if state.pools.get(pool)?.device != index {
            return Err(invalid("the pool belongs to another device"));
        }
        state.devices[index].pool = pool;
        Ok(())
    }

    /// `cuMemPoolCreate`.
    pub(crate) fn pool_create(&self, allocation_type: i32, location: (i32, i32)) -> Res<Id> {
        // Pinned memory on a device is all there is.
        if allocation_type != 1 || location.0 != 1 {
            return Err(invalid("a pool holds pinned memory (1) on a device (1)"));
        }
        let device = self.device(location.1)?;
        let mut state = self.ready()?;
        let id = state.serial.next();
        state.pools.insert(id, Pool::new(device));
        Ok(id)
    }

    /// `cuMemPoolDestroy`. What was allocated from it stays.
    pub(crate) fn pool_destroy(&self, pool: Id) -> Res<()> {
        let mut state = self.ready()?;
        let device = state.pools.get(pool)?.device;
        if state.devices[device].default_pool == pool {
            return Err(invalid("a device's default pool cannot be destroyed"));
        }
        if state.devices[device].pool == pool {
            state.devices[device].pool = state.devices[device].default_pool;
        }
        state.pools.remove(pool).map(drop)
    }

    /// `cuMemPoolTrimTo`: nothing is held back, so there is nothing to trim.
    pub(crate) fn pool_trim(&self, pool: Id) -> Res<()> {
        self.ready()?.pools.get(pool).map(drop)
    }

    /// `cuMemPoolGetAttribute`.
    pub(crate) fn pool_attribute(&self, pool: Id, attribute: i32) -> Res<PoolValue> {
        let state = self.ready()?;
        let pool = state.pools.get(pool)?;
        Ok(match attribute {
            1..=3 => PoolValue::Small(pool.reuse[attribute as usize - 1]),
            4 => PoolValue::Large(pool.release_threshold),
            5 | 7 => PoolValue::Large(pool.used),
            6 | 8 => PoolValue::Large(pool.most_used),
            _ => return Err(invalid(format!("there is no pool attribute {attribute}"))),
        })
    }

    /// `cuMemPoolSetAttribute`; `read` reads the value in the attribute's width.
    pub(crate) fn pool_set_attribute(
        &self,
        pool: Id,
        attribute: i32,
        read: impl FnOnce(bool) -> Res<u64>,
    ) -> Res<()> {
        let large = attribute >= 4;
        let mut state = self.ready()?;
        let pool = state.pools.get_mut(pool)?;
        if !(1..=8).contains(&attribute) {
            return Err(invalid(format!("there is no pool attribute {attribute}")));
        }
        let value = read(large)?;
        match attribute {
            1..=3 => pool.reuse[attribute as usize - 1] = value as u32,
            4 => pool.release_threshold = value,
            // High-water marks can be set to zero only, which means to what is used now.
            6 | 8 if value == 0 => pool.most_used = pool.used,
            _ => return Err(Fail::new(Code::InvalidValue, "this pool attribute cannot be set to that")),
        }
        Ok(())
    }
}
