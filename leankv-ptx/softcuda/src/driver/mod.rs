//! The driver itself: devices, contexts and everything in them, behind one lock, with safe methods that the C
//! functions call.
//!
//! * Handles are numbers looked up in tables; every one is checked.
//! * Work goes to queues ([`queue`]) and is executed by whichever thread waits for it ([`schedule`]).
//! * No lock is held while a kernel, a copy or a program's function runs, so other threads can go on.
//! * The machine that holds device memory and runs kernels has a lock of its own, which is never waited for while the
//!   driver's is held.

mod capture;
mod context;
mod copy;
mod event;
mod graph;
mod launch;
mod memory;
mod module;
mod occupancy;
mod pool;
mod queue;
mod schedule;
mod stream;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

pub(crate) use copy::Place;
pub(crate) use launch::{Arguments, LaunchRequest};
pub(crate) use module::Refused;
pub(crate) use pool::PoolValue;
pub(crate) use queue::HostCall;
pub(crate) use schedule::in_host_call;

use crate::code::{Code, Fail, Res, invalid};
use crate::engine::Engine;
use crate::handles::{Id, Serial, Table};
use crate::report::Reporter;
use crate::settings::Settings;

/// The version of the driver interface that is offered: 12.8.
pub(crate) const VERSION: i32 = 12080;

/// A driver. The library has one; unit tests make their own.
pub(crate) struct Driver {
    pub(crate) settings: Settings,
    pub(crate) reporter: Reporter,
    state: Mutex<State>,
    /// Told whenever queued work ends.
    changed: Condvar,
    engine: Mutex<Engine>,
    started: Instant,
    /// Itself, for the threads that run a program's functions.
    this: Weak<Driver>,
}

/// Everything that handles stand for.
struct State {
    initialised: bool,
    serial: Serial,
    devices: Vec<DeviceState>,
    contexts: Table<context::Context>,
    modules: Table<module::LoadedModule>,
    functions: Table<module::Function>,
    streams: Table<stream::Stream>,
    events: Table<event::Event>,
    captures: Table<capture::Capture>,
    graphs: Table<graph::Graph>,
    executables: Table<graph::Executable>,
    pools: Table<pool::Pool>,
    /// Device memory by its first address.
    memory: BTreeMap<u64, memory::Allocation>,
    /// Page-locked memory by its first address.
    host: BTreeMap<usize, Arc<memory::HostBlock>>,
    /// Work that has not ended, and its stream.
    pending: BTreeMap<u64, Id>,
    next_work: u64,
    random: rand_chacha::ChaCha8Rng,
}

struct DeviceState {
    /// The primary context's handle, which never changes.
    primary: Id,
    retained: u32,
    primary_flags: u32,
    default_pool: Id,
    pool: Id,
    used_bytes: u64,
}

/// The library's driver, or why there is none.
static DRIVER: LazyLock<Result<Arc<Driver>, Vec<String>>> = LazyLock::new(|| {
    let driver = Settings::from_env().and_then(|settings| Driver::new(settings).map_err(|why| vec![why]));
    if let Err(wrong) = &driver {
        for line in wrong {
            eprintln!("softcuda: {line}");
        }
    }
    driver
});

/// The library's driver.
///
/// # Errors
/// When the environment variables make no sense; the reasons were printed once.
pub(crate) fn global() -> Res<&'static Driver> {
    DRIVER.as_deref().map_err(|wrong| invalid(wrong.join("; ")))
}

impl Driver {
    pub(crate) fn new(settings: Settings) -> Result<Arc<Driver>, String> {
        use rand::SeedableRng;
        let reporter =
            Reporter::new(settings.report.as_deref(), settings.counters.as_deref(), settings.explain)?;
        let mut state = State {
            initialised: false,
            serial: Serial::new(),
            devices: Vec::new(),
            contexts: Table::new("a context"),
            modules: Table::new("a module"),
            functions: Table::new("a function"),
            streams: Table::new("a stream"),
            events: Table::new("an event"),
            captures: Table::new("a capture"),
            graphs: Table::new("a graph"),
            executables: Table::new("an executable graph"),
            pools: Table::new("a memory pool"),
            memory: BTreeMap::new(),
            host: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_work: 0,
            random: rand_chacha::ChaCha8Rng::seed_from_u64(settings.seed),
        };
        for ordinal in 0..settings.devices {
            let primary = state.serial.next();
            let pool = state.serial.next();
            state.pools.insert(pool, pool::Pool::new(ordinal));
            state.devices.push(DeviceState {
                primary,
                retained: 0,
                primary_flags: 0,
                default_pool: pool,
                pool,
                used_bytes: 0,
            });
        }
        let engine = Engine::new(&settings)?;
        Ok(Arc::new_cyclic(|this| Driver {
            settings,
            reporter,
            state: Mutex::new(state),
            changed: Condvar::new(),
            engine: Mutex::new(engine),
            started: Instant::now(),
            this: this.clone(),
        }))
    }

    /// The state. A panic elsewhere was reported as an error code there; the tables stay usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, once `cuInit` succeeded.
    fn ready(&self) -> Res<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.initialised { Ok(state) } else { Err(Fail::new(Code::NotInitialized, "call cuInit first")) }
    }

    /// The machine. Never while the state is locked.
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `cuInit`.
    pub(crate) fn init(&self, flags: u32) -> Res<()> {
        if flags != 0 {
            return Err(invalid("flags must be 0"));
        }
        if self.settings.devices == 0 {
            let why = "no emulated device is visible: set SOFTCUDA_DEVICES=1 to have one";
            return Err(Fail::new(Code::NoDevice, why));
        }
        self.lock().initialised = true;
        Ok(())
    }

    /// `cuDeviceGetCount`.
    pub(crate) fn device_count(&self) -> Res<i32> {
        Ok(self.ready()?.devices.len() as i32)
    }

    /// The device of a `CUdevice`, as an index.
    pub(crate) fn device(&self, device: i32) -> Res<usize> {
        let state = self.ready()?;
        usize::try_from(device).ok().filter(|&index| index < state.devices.len()).ok_or_else(|| {
            let why = format!("there is no device {device}, SOFTCUDA_DEVICES is {}", state.devices.len());
            Fail::new(Code::InvalidDevice, why)
        })
    }

    /// `cuDeviceGetName`.
    pub(crate) fn device_name(&self, device: i32) -> Res<String> {
        self.device(device)?;
        Ok(format!("softcuda (emulated {})", self.settings.arch.name()))
    }

    /// `cuDeviceGetAttribute`.
    pub(crate) fn device_attribute(&self, attribute: i32, device: i32) -> Res<i32> {
        let index = self.device(device)?;
        self.settings
            .arch
            .attribute(attribute, index, self.settings.memory_pools)
            .ok_or_else(|| invalid(format!("there is no device attribute {attribute}")))
    }

    /// `cuDeviceGetUuid`: "softcuda", the architecture and the ordinal.
    pub(crate) fn device_uuid(&self, device: i32) -> Res<[u8; 16]> {
        let index = self.device(device)?;
        let mut uuid = *b"softcuda\0\0\0\0\0\0\0\0";
        let (major, minor) = self.settings.arch.capability();
        uuid[13] = major as u8;
        uuid[14] = minor as u8;
        uuid[15] = index as u8;
        Ok(uuid)
    }

    /// `cuDeviceTotalMem`.
    pub(crate) fn device_memory(&self, device: i32) -> Res<usize> {
        self.device(device)?;
        Ok(self.settings.memory_bytes as usize)
    }

    /// `cuDeviceGetPCIBusId`.
    pub(crate) fn device_bus(&self, device: i32) -> Res<String> {
        let index = self.device(device)?;
        Ok(format!("0000:{:02x}:00.0", 0x5C + index))
    }

    /// `cuDeviceGetByPCIBusId`.
    pub(crate) fn device_on_bus(&self, bus: &str) -> Res<i32> {
        let count = self.device_count()?;
        for device in 0..count {
            let name = self.device_bus(device)?;
            if name.eq_ignore_ascii_case(bus) || name[5..].eq_ignore_ascii_case(bus) {
                return Ok(device);
            }
        }
        Err(Fail::new(Code::InvalidDevice, format!("no device on bus {bus}")))
    }
}
