//! Streams and events: the order of asynchronous work.

use super::{Device, DeviceError, DeviceKind, cuda};

/// An ordered queue of work on a device. On the host, work is done when the call returns.
#[derive(Clone)]
pub struct Stream {
    device: Device,
    inner: Inner,
}

#[derive(Clone)]
enum Inner {
    Host,
    Cuda(cuda::CudaQueue),
}

/// A point in a stream's order.
pub struct Event {
    inner: EventInner,
}

enum EventInner {
    Host(std::time::Instant),
    Cuda(cuda::CudaMark),
}

/// Work that a stream was given while it was captured, to be done again and again. See [`Stream::begin_capture`].
pub struct Graph(cuda::CudaGraph);

impl Graph {
    /// Queues all of it on the stream that was captured.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// The buffers and kernels that it uses are still there, and nobody holds a borrow of the buffers that conflicts.
    pub unsafe fn launch(&self) -> Result<(), DeviceError> {
        self.0.launch()
    }
}

impl Stream {
    pub(super) fn new(device: &Device) -> Result<Stream, DeviceError> {
        let inner = match &*device.inner {
            DeviceKind::Host | DeviceKind::Reference | DeviceKind::Emulated(_) => Inner::Host,
            DeviceKind::Cuda(cuda) => Inner::Cuda(cuda.new_queue()?),
        };
        Ok(Stream { device: device.clone(), inner })
    }

    pub(super) fn default_of(device: &Device) -> Stream {
        let inner = match &*device.inner {
            DeviceKind::Host | DeviceKind::Reference | DeviceKind::Emulated(_) => Inner::Host,
            DeviceKind::Cuda(cuda) => Inner::Cuda(cuda.default_queue().clone()),
        };
        Stream { device: device.clone(), inner }
    }

    /// The device it belongs to.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Waits for all work queued so far.
    ///
    /// # Errors
    /// What the driver says, errors of the work itself included.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        match &self.inner {
            Inner::Host => Ok(()),
            Inner::Cuda(queue) => queue.synchronize(),
        }
    }

    /// From here to [`Stream::end_capture`] this thread's work on the stream does not run but becomes a [`Graph`]; what copies from or to the host, or
    /// waits, is an error. It takes a device with one stream: [`Device::cuda_on_own_stream`], [`Device::cuda_on_stream`].
    ///
    /// # Errors
    /// [`DeviceError::WrongDevice`] where streams are no GPU's, and what the driver says.
    pub fn begin_capture(&self) -> Result<(), DeviceError> {
        self.cuda()?.begin_capture()
    }

    /// The work since [`Stream::begin_capture`].
    ///
    /// # Errors
    /// As [`Stream::begin_capture`], and when the work broke the capture.
    pub fn end_capture(&self) -> Result<Graph, DeviceError> {
        self.cuda()?.end_capture().map(Graph)
    }

    /// Marks this point of the stream.
    ///
    /// # Errors
    /// What the driver says.
    pub fn record(&self) -> Result<Event, DeviceError> {
        let inner = match &self.inner {
            Inner::Host => EventInner::Host(std::time::Instant::now()),
            Inner::Cuda(queue) => EventInner::Cuda(queue.record()?),
        };
        Ok(Event { inner })
    }

    /// Lets work queued here from now on wait for `event`.
    ///
    /// # Errors
    /// [`DeviceError::WrongDevice`] and what the driver says.
    pub fn wait(&self, event: &Event) -> Result<(), DeviceError> {
        match (&self.inner, &event.inner) {
            (Inner::Host, EventInner::Host(_)) => Ok(()),
            (Inner::Cuda(queue), EventInner::Cuda(mark)) => queue.wait(mark),
            _ => Err(DeviceError::WrongDevice { what: "the event" }),
        }
    }

    pub(crate) fn cuda(&self) -> Result<&cuda::CudaQueue, DeviceError> {
        match &self.inner {
            Inner::Cuda(queue) => Ok(queue),
            Inner::Host => Err(DeviceError::WrongDevice { what: "the stream" }),
        }
    }
}

impl Event {
    /// Waits until all work before the mark is done.
    ///
    /// # Errors
    /// What the driver says, errors of the work itself included.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        match &self.inner {
            EventInner::Host(_) => Ok(()),
            EventInner::Cuda(mark) => mark.synchronize(),
        }
    }

    /// Milliseconds on the device between this mark and a later one.
    ///
    /// # Errors
    /// [`DeviceError::WrongDevice`] and what the driver says.
    pub fn elapsed_ms(&self, later: &Event) -> Result<f64, DeviceError> {
        match (&self.inner, &later.inner) {
            (EventInner::Host(from), EventInner::Host(to)) => {
                Ok(to.saturating_duration_since(*from).as_secs_f64() * 1e3)
            }
            (EventInner::Cuda(from), EventInner::Cuda(to)) => from.elapsed_ms(to),
            _ => Err(DeviceError::WrongDevice { what: "the event" }),
        }
    }
}
