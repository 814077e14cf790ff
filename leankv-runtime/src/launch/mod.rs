//! Typed launch: arguments by name, checked against the kernel's signature before anything runs.

use leankv_dsl::ir::Dtype;

use crate::device::{BufferView, BufferViewMut, Device, DeviceError, Memory, Stream};
use crate::element::Element;
use crate::kernel::Kernel;
use crate::signature::{ArgumentError, ParamKind, ParamSpec, Signature, split_part};

/// How many programs run, along three axes. From a number, a pair, a triple or an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid(pub [u32; 3]);

/// Why a launch did not happen, or failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LaunchError {
    /// The arguments are not what the kernel takes. Nothing ran.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The kernel misbehaved and a checking executor caught it: an access out of bounds, a race, a failed assertion.
    #[error("kernel `{kernel}` failed while running: {message}")]
    Execution {
        /// The kernel.
        kernel: String,
        /// What the executor found, with its place in the source where it is known.
        message: String,
    },
}

/// A launch in the making. Mistakes are kept and reported by [`Launch::run`], the first one first.
#[must_use = "a launch does nothing until it is run"]
pub struct Launch<'a> {
    kernel: &'a Kernel,
    grid: Grid,
    stream: Option<&'a Stream>,
    slots: Vec<Option<Slot<'a>>>,
    error: Option<ArgumentError>,
}

/// What a launch is a launch of.
pub(crate) type Identity<'a> = (&'a Kernel, Grid, Option<&'a Stream>);

/// An argument in its place.
#[derive(Clone, Copy)]
pub(crate) enum Slot<'a> {
    Buffer {
        memory: &'a Memory,
        /// In bytes, from the start of the memory.
        offset: usize,
        bytes: usize,
        written: bool,
    },
    /// Little-endian bytes of the number, zero-extended.
    Scalar(u64),
}

impl<'a> Launch<'a> {
    pub(crate) fn new(kernel: &'a Kernel, grid: Grid) -> Launch<'a> {
        let slots = vec![None; kernel.signature().params.len()];
        Launch { kernel, grid, stream: None, slots, error: None }
    }

    /// Queues the launch on `stream` instead of the device's default stream.
    pub fn on(mut self, stream: &'a Stream) -> Self {
        self.stream = Some(stream);
        self
    }

    /// Gives a number. Extents and strides of a view come with its buffer, which they are checked against.
    pub fn scalar<T: Element>(self, name: &str, value: T) -> Self {
        self.with(|launch| {
            let place = launch.place(name, "a number", |k| k == ParamKind::Scalar)?;
            if let Some(view) = launch.signature().view_of(name) {
                let (kernel, name, view) = (launch.kernel_name(), name.to_owned(), view.to_owned());
                return Err(ArgumentError::PartOfView { kernel, name, view });
            }
            launch.check_dtype(place, T::DTYPE)?;
            let mut bytes = [0; 8];
            bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&value));
            launch.put_scalar(place, u64::from_le_bytes(bytes))
        })
    }

    /// Gives a buffer to read, for a parameter without extents.
    pub fn buffer<T: Element>(self, name: &str, buffer: impl Into<BufferView<'a, T>>) -> Self {
        let view = buffer.into();
        self.with(|launch| launch.put_view(name, view))
    }

    /// Gives a buffer to write, for a parameter without extents.
    pub fn buffer_mut<T: Element>(self, name: &str, buffer: impl Into<BufferViewMut<'a, T>>) -> Self {
        let view = buffer.into();
        self.with(|launch| launch.put_view_mut(name, view))
    }

    /// Gives a buffer to read as a dense, row-major tensor of these extents.
    pub fn view<T: Element>(
        self,
        name: &str,
        buffer: impl Into<BufferView<'a, T>>,
        extents: &[usize],
    ) -> Self {
        let view = buffer.into();
        self.with(|launch| {
            launch.put_extents(name, view.len, T::DTYPE, extents, &dense_strides(extents))?;
            launch.put_view(name, view)
        })
    }

    /// Gives a buffer to write as a dense, row-major tensor of these extents.
    pub fn view_mut<T: Element>(
        self,
        name: &str,
        buffer: impl Into<BufferViewMut<'a, T>>,
        extents: &[usize],
    ) -> Self {
        let view = buffer.into();
        self.with(|launch| {
            launch.put_extents(name, view.len, T::DTYPE, extents, &dense_strides(extents))?;
            launch.put_view_mut(name, view)
        })
    }

    /// As [`Launch::view`], with the distance in elements between neighbours along each axis.
    pub fn view_strided<T: Element>(
        self,
        name: &str,
        buffer: impl Into<BufferView<'a, T>>,
        extents: &[usize],
        strides: &[usize],
    ) -> Self {
        let view = buffer.into();
        self.with(|launch| {
            launch.put_extents(name, view.len, T::DTYPE, extents, strides)?;
            launch.put_view(name, view)
        })
    }

    /// As [`Launch::view_mut`], with the distance in elements between neighbours along each axis.
    pub fn view_mut_strided<T: Element>(
        self,
        name: &str,
        buffer: impl Into<BufferViewMut<'a, T>>,
        extents: &[usize],
        strides: &[usize],
    ) -> Self {
        let view = buffer.into();
        self.with(|launch| {
            launch.put_extents(name, view.len, T::DTYPE, extents, strides)?;
            launch.put_view_mut(name, view)
        })
    }

    /// Checks the arguments and runs the kernel: to its end on the host, queued on the stream on a GPU.
    ///
    /// # Errors
    /// [`LaunchError::Argument`] when they do not fit, with nothing run; [`LaunchError::Device`] when the device refuses;
    /// [`LaunchError::Execution`] from devices that check what a kernel does.
    ///
    /// # Safety
    /// The kernel's own address arithmetic stays within its buffers, whose lengths were checked against the views'
    /// extents only, and programs that run at the same time do not write what others read or write. Kernels that reach memory by tiles of
    /// views alone keep the first by construction, as long as no index wraps; single elements (`get`, `set`), parts (`at`) and raw pointers are where the kernel's numbers say, and kernels that
    /// follow offsets found in memory (page tables) keep it when those offsets are right.
    pub unsafe fn run(self) -> Result<(), LaunchError> {
        let stream = match self.stream {
            Some(stream) => stream.clone(),
            None => self.kernel.device().default_stream(),
        };
        if !stream.device().same_as(self.kernel.device()) {
            return Err(DeviceError::WrongDevice { what: "the stream" }.into());
        }
        let slots = self.checked()?;
        #[cfg(test)]
        crate::faults::hit("launching")?;
        // SAFETY: the arguments fit the signature; the kernel's own behaviour is promised by the caller.
        unsafe { self.kernel.execute(self.grid.0, &slots, &stream) }
    }

    /// The arguments in order, if all are there and fit together.
    fn checked(&self) -> Result<Vec<Slot<'a>>, ArgumentError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let signature = self.kernel.signature();
        let kernel = || signature.kernel.clone();
        let limits = [i32::MAX as u32, 65_535, 65_535];
        if self.grid.0.iter().zip(limits).any(|(&n, limit)| n == 0 || n > limit) {
            return Err(ArgumentError::Grid { kernel: kernel(), grid: self.grid.0 });
        }
        self.none_missing(|_| true)?;
        let slots: Vec<Slot<'a>> = self.slots.iter().flatten().copied().collect();
        for (param, slot) in signature.params.iter().zip(&slots) {
            check_multiple(signature, param, slot)?;
        }
        check_overlap(signature, &slots)?;
        Ok(slots)
    }

    /// Checks the arguments given so far; of the parameters called one of `names`, or a part of one (`name.part`), none may be missing.
    pub(crate) fn check_under(&self, names: &[&str]) -> Result<(), ArgumentError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let under = |param: &str| {
            let parts = names.iter().filter_map(|name| param.strip_prefix(name));
            parts.into_iter().any(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.none_missing(under)?;
        let signature = self.kernel.signature();
        let given = signature.params.iter().zip(&self.slots);
        given
            .filter_map(|(p, slot)| Some((p, slot.as_ref()?)))
            .try_for_each(|(p, slot)| check_multiple(signature, p, slot))
    }

    /// Which kernel is launched, over which grid and on which stream.
    pub(crate) fn identity(&self) -> Identity<'a> {
        (self.kernel, self.grid, self.stream)
    }

    /// The launch, if it is the one that this was the identity of; otherwise a launch of that one that reports the exchange.
    pub(crate) fn expecting(self, (kernel, grid, stream): Identity<'a>) -> Launch<'a> {
        let same_stream = match (self.stream, stream) {
            (None, None) => true,
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            _ => false,
        };
        if std::ptr::eq(self.kernel, kernel) && self.grid == grid && same_stream {
            return self;
        }
        let error = ArgumentError::Exchanged {
            kernel: kernel.signature().kernel.clone(),
            got: self.kernel.signature().kernel.clone(),
        };
        Launch { stream, error: Some(error), ..Launch::new(kernel, grid) }
    }

    fn none_missing(&self, wanted: impl Fn(&str) -> bool) -> Result<(), ArgumentError> {
        let params = self.kernel.signature().params.iter().zip(&self.slots);
        let missing = params.filter(|(param, slot)| slot.is_none() && wanted(&param.name));
        let names: Vec<String> = missing.map(|(param, _)| param.name.clone()).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(ArgumentError::Missing { kernel: self.kernel_name(), names })
    }

    fn with(mut self, add: impl FnOnce(&mut Self) -> Result<(), ArgumentError>) -> Self {
        if self.error.is_none() {
            self.error = add(&mut self).err();
        }
        self
    }

    fn signature(&self) -> &'a Signature {
        self.kernel.signature()
    }

    fn kernel_name(&self) -> String {
        self.signature().kernel.clone()
    }

    /// The place of parameter `name`, which must be of a fitting kind.
    fn place(
        &self,
        name: &str,
        got: &'static str,
        fits: impl Fn(ParamKind) -> bool,
    ) -> Result<usize, ArgumentError> {
        let signature = self.signature();
        let Some(place) = signature.position(name) else {
            // Parts of views are filled in with their view; listing them would only confuse.
            let known =
                signature.params.iter().map(|p| p.name.clone()).filter(|n| split_part(n).is_none()).collect();
            return Err(ArgumentError::Unknown { kernel: self.kernel_name(), name: name.to_owned(), known });
        };
        let kind = signature.params[place].kind;
        if !fits(kind) {
            let wanted = match kind {
                ParamKind::Scalar => "a number",
                ParamKind::Read => "a buffer to read",
                ParamKind::Write => "a buffer to write",
            };
            return Err(ArgumentError::Kind {
                kernel: self.kernel_name(),
                name: name.to_owned(),
                wanted,
                got,
            });
        }
        Ok(place)
    }

    fn check_dtype(&self, place: usize, got: Dtype) -> Result<(), ArgumentError> {
        let param = &self.signature().params[place];
        // A truth value takes a byte in memory and has no Rust type of its own here.
        if param.dtype == got || (param.dtype, got) == (Dtype::I1, Dtype::U8) {
            return Ok(());
        }
        Err(ArgumentError::Dtype {
            kernel: self.kernel_name(),
            name: param.name.clone(),
            wanted: param.dtype,
            got,
        })
    }

    fn check_device(&self, place: usize, other: &Device) -> Result<(), ArgumentError> {
        if other.same_as(self.kernel.device()) {
            return Ok(());
        }
        Err(ArgumentError::Device {
            kernel: self.kernel_name(),
            name: self.signature().params[place].name.clone(),
            device: self.kernel.device().name(),
            other: other.name(),
        })
    }

    fn put(&mut self, place: usize, slot: Slot<'a>) -> Result<(), ArgumentError> {
        if self.slots[place].replace(slot).is_some() {
            let name = self.signature().params[place].name.clone();
            return Err(ArgumentError::Twice { kernel: self.kernel_name(), name });
        }
        Ok(())
    }

    fn put_scalar(&mut self, place: usize, bits: u64) -> Result<(), ArgumentError> {
        self.put(place, Slot::Scalar(bits))
    }

    fn put_view<T: Element>(&mut self, name: &str, view: BufferView<'a, T>) -> Result<(), ArgumentError> {
        let place = self.place(name, "a buffer to read", |k| k == ParamKind::Read)?;
        self.check_dtype(place, T::DTYPE)?;
        self.check_device(place, view.device)?;
        let bytes = view.len * size_of::<T>();
        self.put(place, Slot::Buffer { memory: view.memory, offset: view.offset, bytes, written: false })
    }

    fn put_view_mut<T: Element>(
        &mut self,
        name: &str,
        view: BufferViewMut<'a, T>,
    ) -> Result<(), ArgumentError> {
        let place = self.place(name, "a buffer to write", |k| k != ParamKind::Scalar)?;
        self.check_dtype(place, T::DTYPE)?;
        self.check_device(place, view.device)?;
        let bytes = view.len * size_of::<T>();
        self.put(place, Slot::Buffer { memory: view.memory, offset: view.offset, bytes, written: true })
    }

    /// Fills in `name.shapeN` and `name.strideN`, after checking that the buffer holds such a tensor.
    fn put_extents(
        &mut self,
        name: &str,
        len: usize,
        dtype: Dtype,
        extents: &[usize],
        strides: &[usize],
    ) -> Result<(), ArgumentError> {
        // An unknown name is reported as such and not as a rank.
        self.place(name, "a buffer", |k| k != ParamKind::Scalar)?;
        let rank = self.signature().view_rank(name);
        for got in [extents.len(), strides.len()] {
            if got != rank {
                let (kernel, name) = (self.kernel_name(), name.to_owned());
                return Err(ArgumentError::Rank { kernel, name, wanted: rank, got });
            }
        }
        // One past the last element that the extents reach.
        let needed = if extents.contains(&0) {
            0
        } else {
            let last = |(&e, &s): (&usize, &usize)| (e as u128 - 1).saturating_mul(s as u128);
            extents.iter().zip(strides).map(last).fold(1u128, u128::saturating_add)
        };
        if needed > len as u128 {
            return Err(ArgumentError::Short {
                kernel: self.kernel_name(),
                name: name.to_owned(),
                extents: extents.to_vec(),
                dtype,
                needed,
                len,
            });
        }
        for (axis, (&extent, &stride)) in extents.iter().zip(strides).enumerate() {
            self.put_integer(&format!("{name}.shape{axis}"), extent as i128)?;
            if self.signature().position(&format!("{name}.stride{axis}")).is_some() {
                self.put_integer(&format!("{name}.stride{axis}"), stride as i128)?;
            } else if stride != 1 && extent > 1 {
                // A view without a parameter for this stride takes neighbours one element apart.
                return Err(ArgumentError::Dense {
                    kernel: self.kernel_name(),
                    name: name.to_owned(),
                    axis,
                    stride,
                });
            }
        }
        Ok(())
    }

    fn put_integer(&mut self, name: &str, value: i128) -> Result<(), ArgumentError> {
        let place = self.place(name, "a number", |k| k == ParamKind::Scalar)?;
        let dtype = self.signature().params[place].dtype;
        let bits = match dtype {
            Dtype::I32 => i32::try_from(value).map(|v| u64::from(v as u32)).ok(),
            Dtype::U32 => u32::try_from(value).map(u64::from).ok(),
            Dtype::I64 => i64::try_from(value).map(|v| v as u64).ok(),
            Dtype::U64 => u64::try_from(value).ok(),
            _ => None,
        };
        let bits = bits.ok_or_else(|| ArgumentError::Range {
            kernel: self.kernel_name(),
            name: name.to_owned(),
            value,
            dtype,
        })?;
        self.put_scalar(place, bits)
    }
}

fn check_multiple(signature: &Signature, param: &ParamSpec, slot: &Slot<'_>) -> Result<(), ArgumentError> {
    let (value, what, help) = match slot {
        Slot::Buffer { memory, offset, .. } => (
            memory.address() + *offset as u64,
            "an address that is a",
            "; buffers start aligned, slices need not",
        ),
        Slot::Scalar(bits) => (*bits, "a", ""),
    };
    let exact = match (slot, param.dtype.is_signed_int()) {
        (Slot::Scalar(bits), true) => i128::from(sign_extended(*bits, param.dtype)),
        _ => i128::from(value),
    };
    if exact.rem_euclid(i128::from(param.multiple_of)) == 0 {
        return Ok(());
    }
    let (kernel, name, multiple_of) = (signature.kernel.clone(), param.name.clone(), param.multiple_of);
    Err(ArgumentError::Multiple { kernel, name, what, multiple_of, value, help })
}

/// Strides of a dense, row-major tensor.
fn dense_strides(extents: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; extents.len()];
    for axis in (1..extents.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(extents[axis]);
    }
    strides
}

/// The signed number in the low bits.
fn sign_extended(bits: u64, dtype: Dtype) -> i64 {
    let unused = 64 - dtype.bits().min(64);
    ((bits << unused) as i64) >> unused
}

/// Compiled code assumes that a buffer it writes is reached through one parameter only.
fn check_overlap(signature: &Signature, slots: &[Slot<'_>]) -> Result<(), ArgumentError> {
    let range = |slot: &Slot<'_>| match slot {
        Slot::Buffer { memory, offset, bytes, .. } if *bytes > 0 => {
            let start = memory.address() + *offset as u64;
            Some(start..start + *bytes as u64)
        }
        _ => None,
    };
    for (i, written) in signature.params.iter().enumerate().filter(|(_, p)| p.kind == ParamKind::Write) {
        let Some(a) = range(&slots[i]) else { continue };
        for (j, other) in signature.params.iter().enumerate().filter(|(j, _)| *j != i) {
            if range(&slots[j]).is_some_and(|b| a.start < b.end && b.start < a.end) {
                return Err(ArgumentError::Overlap {
                    kernel: signature.kernel.clone(),
                    written: written.name.clone(),
                    other: other.name.clone(),
                });
            }
        }
    }
    Ok(())
}

impl From<u32> for Grid {
    fn from(x: u32) -> Grid {
        Grid([x, 1, 1])
    }
}

impl From<(u32, u32)> for Grid {
    fn from((x, y): (u32, u32)) -> Grid {
        Grid([x, y, 1])
    }
}

impl From<(u32, u32, u32)> for Grid {
    fn from((x, y, z): (u32, u32, u32)) -> Grid {
        Grid([x, y, z])
    }
}

impl From<[u32; 3]> for Grid {
    fn from(grid: [u32; 3]) -> Grid {
        Grid(grid)
    }
}

#[cfg(test)]
mod tests;
