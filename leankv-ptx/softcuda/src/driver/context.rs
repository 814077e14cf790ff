//! Contexts and each thread's stack of current ones.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::thread::ThreadId;

use super::{Driver, State, stream::Stream};
use crate::code::{Code, Fail, Res, invalid, unsupported};
use crate::handles::Id;

thread_local! {
    /// The contexts this thread pushed; the last one is current.
    static STACK: RefCell<Vec<Id>> = const { RefCell::new(Vec::new()) };
}

/// A context.
pub(crate) struct Context {
    pub(crate) device: usize,
    pub(crate) primary: bool,
    pub(crate) flags: u32,
    pub(crate) cache_config: i32,
    pub(crate) limits: BTreeMap<i32, usize>,
    /// A fault of earlier work: all later calls fail with it until the context is gone.
    pub(crate) broken: Option<Code>,
    pub(crate) null_stream: Id,
    pub(crate) thread_streams: BTreeMap<ThreadKey, Id>,
}

/// A thread, ordered by when it was first seen.
pub(crate) type ThreadKey = u64;

thread_local! {
    static THREAD_KEY: ThreadKey = {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

/// This thread.
pub(crate) fn this_thread() -> (ThreadKey, ThreadId) {
    (THREAD_KEY.with(|key| *key), std::thread::current().id())
}

/// Flags that `cuCtxCreate` and the like know: scheduling, mapping, resizing, dumps, memory operations.
const KNOWN_FLAGS: u32 = 0xFF;

/// Limits that can be asked for and set, with their first values.
const LIMITS: [(i32, usize); 7] = [(0, 1024), (1, 1 << 20), (2, 8 << 20), (3, 2), (4, 2048), (5, 64), (6, 0)];

impl State {
    /// The current context's handle, whatever its state.
    fn top() -> Option<Id> {
        STACK.with(|stack| stack.borrow().last().copied())
    }

    /// The current context, usable.
    pub(super) fn current(&self) -> Res<Id> {
        let id = State::top().ok_or_else(|| {
            Fail::new(
                Code::InvalidContext,
                "this thread has no current context: set one with cuCtxSetCurrent",
            )
        })?;
        self.usable(id)?;
        Ok(id)
    }

    /// Fails for a context that is gone or broken.
    pub(super) fn usable(&self, context: Id) -> Res<&Context> {
        let found = self.contexts.find(context).ok_or_else(|| {
            Fail::new(Code::ContextIsDestroyed, format!("context 0x{context:x} was destroyed"))
        })?;
        match found.broken {
            None => Ok(found),
            Some(code) => {
                let why = "earlier work in this context failed; the context cannot be used any more";
                Err(Fail::new(code, why))
            }
        }
    }

    /// Makes a context under a given handle.
    fn open_context(&mut self, id: Id, device: usize, primary: bool, flags: u32) {
        let null_stream = self.serial.next();
        self.streams.insert(null_stream, Stream::new(id, true, 0));
        self.contexts.insert(
            id,
            Context {
                device,
                primary,
                flags,
                cache_config: 0,
                limits: LIMITS.into_iter().collect(),
                broken: None,
                null_stream,
                thread_streams: BTreeMap::new(),
            },
        );
    }
}

impl Driver {
    /// `cuDevicePrimaryCtxRetain`.
    pub(crate) fn primary_retain(&self, device: i32) -> Res<Id> {
        let index = self.device(device)?;
        let mut state = self.ready()?;
        let (id, flags) = (state.devices[index].primary, state.devices[index].primary_flags);
        if state.contexts.find(id).is_none() {
            state.open_context(id, index, true, flags);
        }
        state.devices[index].retained += 1;
        Ok(id)
    }

    /// `cuDevicePrimaryCtxRelease`. The last release destroys what the context holds.
    pub(crate) fn primary_release(&self, device: i32) -> Res<()> {
        let index = self.device(device)?;
        let mut state = self.ready()?;
        let primary = state.devices[index].primary;
        match state.devices[index].retained {
            0 => Err(Fail::new(Code::InvalidContext, "the primary context is not retained")),
            1 => {
                state.devices[index].retained = 0;
                self.close_context(state, primary)
            }
            _ => {
                state.devices[index].retained -= 1;
                Ok(())
            }
        }
    }

    /// `cuDevicePrimaryCtxReset`.
    pub(crate) fn primary_reset(&self, device: i32) -> Res<()> {
        let index = self.device(device)?;
        let state = self.ready()?;
        let (id, retained) = (state.devices[index].primary, state.devices[index].retained);
        if state.contexts.find(id).is_none() {
            return Ok(());
        }
        self.close_context(state, id)?;
        if retained > 0 {
            let mut state = self.ready()?;
            let flags = state.devices[index].primary_flags;
            state.open_context(id, index, true, flags);
        }
        Ok(())
    }

    /// `cuDevicePrimaryCtxGetState`: flags, and whether it is active.
    pub(crate) fn primary_state(&self, device: i32) -> Res<(u32, bool)> {
        let index = self.device(device)?;
        let state = self.ready()?;
        let device = &state.devices[index];
        Ok((device.primary_flags, state.contexts.find(device.primary).is_some()))
    }

    /// `cuDevicePrimaryCtxSetFlags`.
    pub(crate) fn primary_set_flags(&self, device: i32, flags: u32) -> Res<()> {
        check_flags(flags)?;
        let index = self.device(device)?;
        let mut state = self.ready()?;
        let id = state.devices[index].primary;
        state.devices[index].primary_flags = flags;
        if let Some(context) = state.contexts.find_mut(id) {
            context.flags = flags;
        }
        Ok(())
    }

    /// `cuCtxCreate`: the new context becomes current.
    pub(crate) fn context_create(&self, flags: u32, device: i32) -> Res<Id> {
        check_flags(flags)?;
        let index = self.device(device)?;
        let mut state = self.ready()?;
        let id = state.serial.next();
        state.open_context(id, index, false, flags);
        STACK.with(|stack| stack.borrow_mut().push(id));
        Ok(id)
    }

    /// `cuCtxDestroy`. A broken context can be destroyed too.
    pub(crate) fn context_destroy(&self, id: Id) -> Res<()> {
        let state = self.ready()?;
        if state.contexts.find(id).ok_or_else(|| no_context(id))?.primary {
            return Err(Fail::new(Code::InvalidContext, "a primary context is released, not destroyed"));
        }
        STACK.with(|stack| {
            let mut stack = stack.borrow_mut();
            if stack.last() == Some(&id) {
                stack.pop();
            }
        });
        self.close_context(state, id)
    }

    /// Runs what is queued, then frees everything the context holds.
    fn close_context(&self, state: MutexGuard<'_, State>, id: Id) -> Res<()> {
        // A fault on the way is in the report; the context goes all the same.
        let _ = self.finish_context(state, id);
        let mut state = self.ready()?;
        let addresses: Vec<u64> =
            state.memory.iter().filter(|(_, a)| a.context == id).map(|(address, _)| *address).collect();
        for address in &addresses {
            state.forget_memory(*address);
        }
        let mut images = Vec::new();
        state.modules.retain(|_, module| {
            let keep = module.context != id;
            if !keep {
                images.push(module.image.clone());
            }
            keep
        });
        state.functions.retain(|_, function| function.context != id);
        state.streams.retain(|_, stream| stream.context != id);
        state.events.retain(|_, event| event.context != id);
        state.captures.retain(|_, capture| capture.context != id);
        state.host.retain(|_, block| block.context != id);
        state.contexts.remove(id)?;
        drop(state);
        let mut engine = self.engine();
        for address in addresses {
            engine.free(address);
        }
        for image in images {
            engine.unload(&image);
        }
        Ok(())
    }

    /// `cuCtxGetCurrent`: 0 for none.
    pub(crate) fn context_current(&self) -> Res<Id> {
        drop(self.ready()?);
        Ok(State::top().unwrap_or(0))
    }

    /// `cuCtxSetCurrent`: 0 unsets.
    pub(crate) fn context_set_current(&self, id: Id) -> Res<()> {
        let state = self.ready()?;
        if id != 0 && state.contexts.find(id).is_none() {
            return Err(no_context(id));
        }
        STACK.with(|stack| {
            let mut stack = stack.borrow_mut();
            stack.pop();
            if id != 0 {
                stack.push(id);
            }
        });
        Ok(())
    }

    /// `cuCtxPushCurrent`.
    pub(crate) fn context_push(&self, id: Id) -> Res<()> {
        if self.ready()?.contexts.find(id).is_none() {
            return Err(no_context(id));
        }
        STACK.with(|stack| stack.borrow_mut().push(id));
        Ok(())
    }

    /// `cuCtxPopCurrent`.
    pub(crate) fn context_pop(&self) -> Res<Id> {
        drop(self.ready()?);
        STACK
            .with(|stack| stack.borrow_mut().pop())
            .ok_or_else(|| Fail::new(Code::InvalidContext, "this thread has no current context"))
    }

    /// `cuCtxGetDevice`.
    pub(crate) fn context_device(&self) -> Res<i32> {
        let state = self.ready()?;
        let id = state.current()?;
        Ok(state.usable(id)?.device as i32)
    }

    /// `cuCtxGetFlags`.
    pub(crate) fn context_flags(&self) -> Res<u32> {
        let state = self.ready()?;
        let id = state.current()?;
        Ok(state.usable(id)?.flags)
    }

    /// `cuCtxSetFlags`.
    pub(crate) fn context_set_flags(&self, flags: u32) -> Res<()> {
        check_flags(flags)?;
        self.with_current(|context| context.flags = flags)
    }

    /// `cuCtxGetCacheConfig`.
    pub(crate) fn context_cache_config(&self) -> Res<i32> {
        let state = self.ready()?;
        let id = state.current()?;
        Ok(state.usable(id)?.cache_config)
    }

    /// `cuCtxSetCacheConfig`.
    pub(crate) fn context_set_cache_config(&self, config: i32) -> Res<()> {
        if !(0..=3).contains(&config) {
            return Err(invalid(format!("{config} is not a cache configuration")));
        }
        self.with_current(|context| context.cache_config = config)
    }

    /// `cuCtxGetLimit`.
    pub(crate) fn context_limit(&self, limit: i32) -> Res<usize> {
        let state = self.ready()?;
        let id = state.current()?;
        let limits = &state.usable(id)?.limits;
        limits.get(&limit).copied().ok_or_else(|| invalid(format!("there is no limit {limit}")))
    }

    /// `cuCtxSetLimit`. The machine's own limits do not follow: they are wide enough.
    pub(crate) fn context_set_limit(&self, limit: i32, value: usize) -> Res<()> {
        if !LIMITS.iter().any(|(known, _)| *known == limit) {
            return Err(invalid(format!("there is no limit {limit}")));
        }
        if matches!(limit, 3 | 4) {
            let why = "device-side launches do not exist here";
            return Err(Fail::new(Code::UnsupportedLimit, why));
        }
        self.with_current(|context| {
            context.limits.insert(limit, value);
        })
    }

    /// `cuCtxGetApiVersion`.
    pub(crate) fn context_version(&self, id: Id) -> Res<u32> {
        let state = self.ready()?;
        let id = if id == 0 { state.current()? } else { id };
        state.contexts.find(id).map(|_| 3020).ok_or_else(|| no_context(id))
    }

    /// `cuCtxSynchronize`.
    pub(crate) fn context_synchronize(&self) -> Res<()> {
        let mut state = self.ready()?;
        let context = state.current()?;
        state.forbid_during_capture(context, "cuCtxSynchronize")?;
        self.finish_context(state, context)
    }

    /// `cuCtxEnablePeerAccess` and its undoing: devices share one address space here, so access is always there.
    pub(crate) fn peer_access(&self, peer: Id) -> Res<()> {
        let state = self.ready()?;
        let id = state.current()?;
        let peer = state.contexts.find(peer).ok_or_else(|| no_context(peer))?;
        if peer.device == state.usable(id)?.device {
            return Err(unsupported("a device is not its own peer"));
        }
        Ok(())
    }

    fn with_current(&self, change: impl FnOnce(&mut Context)) -> Res<()> {
        let mut state = self.ready()?;
        let id = state.current()?;
        change(state.contexts.get_mut(id)?);
        Ok(())
    }
}

fn check_flags(flags: u32) -> Res<()> {
    if flags & !KNOWN_FLAGS != 0 || flags & 3 == 3 {
        return Err(invalid(format!("0x{flags:x} are not context flags")));
    }
    Ok(())
}

fn no_context(id: Id) -> Fail {
    Fail::new(Code::InvalidContext, format!("0x{id:x} is not a context (any more)"))
}
