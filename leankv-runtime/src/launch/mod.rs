//! Launches, whose arguments are checked against the kernel's signature before anything runs: a struct of them for a kernel whose type is known
//! ([`KernelOf::launch`](crate::KernelOf::launch)), or one by one and by name for any kernel.

use leankv_dsl::ir::Dtype;
use leankv_dsl::lang::launch::{Arguments, Region, Value};

use crate::device::{Allocation, BufferView, BufferViewMut, DeviceError, Memory, Stream};
use crate::element::Element;
use crate::kernel::Kernel;
use crate::signature::{ArgumentError, ArgumentSpec, ParamKind, ParamSpec, Signature, split_part};

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

    /// A launch with what parameters are given, in their order, unchecked but for what [`Launch::run`] checks.
    pub(crate) fn with_slots(kernel: &'a Kernel, grid: Grid, slots: Vec<Slot<'a>>) -> Launch<'a> {
        Launch { slots: slots.into_iter().map(Some).collect(), ..Launch::new(kernel, grid) }
    }

    /// A launch with all of its arguments, in the order of parameters.
    pub(crate) fn with_arguments(kernel: &'a Kernel, grid: Grid, arguments: Arguments<'a>) -> Launch<'a> {
        Launch::new(kernel, grid).with(|launch| {
            let (specs, values) = (kernel.arguments(), arguments.into_values());
            if specs.len() != values.len() {
                let (kernel, wanted, got) = (launch.kernel_name(), specs.len(), values.len());
                return Err(ArgumentError::Count { kernel, wanted, got });
            }
            specs.iter().zip(values).try_for_each(|(spec, value)| launch.put_value(spec, value))
        })
    }

    /// Checks some arguments of a launch, each by its name.
    pub(crate) fn check_some(kernel: &Kernel, given: Arguments<'_>) -> Result<(), ArgumentError> {
        let mut launch = Launch::new(kernel, Grid::from(1));
        given.into_named().try_for_each(|(name, value)| {
            let spec = launch.argument(&name)?;
            launch.put_value(&spec, value)
        })?;
        let signature = kernel.signature();
        let given = signature.params.iter().zip(&launch.slots);
        given
            .filter_map(|(param, slot)| Some((param, slot.as_ref()?)))
            .try_for_each(|(param, slot)| check_multiple(signature, param, slot))
    }

    /// Queues the launch on `stream` instead of the device's default stream.
    pub fn on(mut self, stream: &'a Stream) -> Self {
        self.stream = Some(stream);
        self
    }

    /// Gives a number. Extents and strides of a view come with its buffer, which they are checked against.
    pub fn scalar<T: Element>(self, name: &str, value: T) -> Self {
        self.with(|launch| {
            let place = launch.place(name)?;
            if let Some(view) = launch.signature().view_of(name) {
                let (kernel, name, view) = (launch.kernel_name(), name.to_owned(), view.to_owned());
                return Err(ArgumentError::PartOfView { kernel, name, view });
            }
            launch.put_number(place, T::TYPE, value.bits())
        })
    }

    /// Gives a buffer to read, for a parameter without extents.
    pub fn buffer<T: Element>(self, name: &str, buffer: impl Into<BufferView<'a, T>>) -> Self {
        let view = buffer.into().into_region();
        self.with(|launch| launch.put_buffer(launch.place(name)?, &view))
    }

    /// Gives a buffer to write, for a parameter without extents.
    pub fn buffer_mut<T: Element>(self, name: &str, buffer: impl Into<BufferViewMut<'a, T>>) -> Self {
        let view = buffer.into().into_region();
        self.with(|launch| launch.put_buffer(launch.place(name)?, &view))
    }

    /// Gives a buffer to read as a dense, row-major tensor of these extents.
    pub fn view<T: Element>(
        self,
        name: &str,
        buffer: impl Into<BufferView<'a, T>>,
        extents: &[usize],
    ) -> Self {
        let view = buffer.into().into_region();
        self.with(|launch| {
            let spec = launch.argument(name)?;
            launch.put_view(&spec, &view, extents, None)
        })
    }

    /// Gives a buffer to write as a dense, row-major tensor of these extents.
    pub fn view_mut<T: Element>(
        self,
        name: &str,
        buffer: impl Into<BufferViewMut<'a, T>>,
        extents: &[usize],
    ) -> Self {
        let view = buffer.into().into_region();
        self.with(|launch| {
            let spec = launch.argument(name)?;
            launch.put_view(&spec, &view, extents, None)
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
        let view = buffer.into().into_region();
        self.with(|launch| {
            let spec = launch.argument(name)?;
            launch.put_view(&spec, &view, extents, Some(strides))
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
        let view = buffer.into().into_region();
        self.with(|launch| {
            let spec = launch.argument(name)?;
            launch.put_view(&spec, &view, extents, Some(strides))
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
        self.none_missing()?;
        let slots: Vec<Slot<'a>> = self.slots.iter().flatten().copied().collect();
        for (param, slot) in signature.params.iter().zip(&slots) {
            check_multiple(signature, param, slot)?;
        }
        check_overlap(signature, &slots)?;
        Ok(slots)
    }

    fn none_missing(&self) -> Result<(), ArgumentError> {
        let params = self.kernel.signature().params.iter().zip(&self.slots);
        let missing = params.filter(|(_, slot)| slot.is_none());
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

    /// The place of parameter `name`.
    fn place(&self, name: &str) -> Result<usize, ArgumentError> {
        let signature = self.signature();
        signature.position(name).ok_or_else(|| {
            // Parts of views are filled in with their view; listing them would only confuse.
            let known =
                signature.params.iter().map(|p| p.name.clone()).filter(|n| split_part(n).is_none()).collect();
            ArgumentError::Unknown { kernel: self.kernel_name(), name: name.to_owned(), known }
        })
    }

    /// The argument whose number or pointer is parameter `name`.
    fn argument(&self, name: &str) -> Result<ArgumentSpec, ArgumentError> {
        let place = self.place(name)?;
        let found = self.kernel.arguments().iter().find(|spec| spec.place == place);
        // A part of a view is given as one.
        let alone = || ArgumentSpec { place, extents: Vec::new(), strides: Vec::new() };
        Ok(found.cloned().unwrap_or_else(alone))
    }

    /// Whether parameter `place` takes what is `got`.
    fn check_kind(
        &self,
        place: usize,
        got: &'static str,
        fits: impl Fn(ParamKind) -> bool,
    ) -> Result<(), ArgumentError> {
        let param = &self.signature().params[place];
        if fits(param.kind) {
            return Ok(());
        }
        let wanted = match param.kind {
            ParamKind::Scalar => "a number",
            ParamKind::Read => "a buffer to read",
            ParamKind::Write => "a buffer to write",
        };
        Err(ArgumentError::Kind { kernel: self.kernel_name(), name: param.name.clone(), wanted, got })
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

    fn put(&mut self, place: usize, slot: Slot<'a>) -> Result<(), ArgumentError> {
        if self.slots[place].replace(slot).is_some() {
            let name = self.signature().params[place].name.clone();
            return Err(ArgumentError::Twice { kernel: self.kernel_name(), name });
        }
        Ok(())
    }

    fn put_value(&mut self, spec: &ArgumentSpec, value: Value<'a>) -> Result<(), ArgumentError> {
        match value {
            Value::Number { dtype, bits } => self.put_number(spec.place, dtype, bits),
            Value::Buffer(region) => self.put_buffer(spec.place, &region),
            Value::View { region, extents, strides } => {
                self.put_view(spec, &region, &extents, strides.as_deref())
            }
        }
    }

    fn put_number(&mut self, place: usize, dtype: Dtype, bits: u64) -> Result<(), ArgumentError> {
        self.check_kind(place, "a number", |k| k == ParamKind::Scalar)?;
        self.check_dtype(place, dtype)?;
        self.put(place, Slot::Scalar(bits))
    }

    fn put_buffer(&mut self, place: usize, region: &Region<'a>) -> Result<(), ArgumentError> {
        match region.is_written() {
            false => self.check_kind(place, "a buffer to read", |k| k == ParamKind::Read)?,
            true => self.check_kind(place, "a buffer to write", |k| k != ParamKind::Scalar)?,
        }
        self.check_dtype(place, region.dtype())?;
        let Some(allocation) = region.borrowed_as::<Allocation>() else {
            return Err(self.other_device(place, "memory that is of no device"));
        };
        if !allocation.device.same_as(self.kernel.device()) {
            return Err(self.other_device(place, &allocation.device.name()));
        }
        let bytes = region.len() * region.dtype().bytes().unwrap_or(1) as usize;
        let (memory, offset, written) = (&allocation.memory, region.offset(), region.is_written());
        self.put(place, Slot::Buffer { memory, offset, bytes, written })
    }

    fn other_device(&self, place: usize, other: &str) -> ArgumentError {
        ArgumentError::Device {
            kernel: self.kernel_name(),
            name: self.signature().params[place].name.clone(),
            device: self.kernel.device().name(),
            other: other.to_owned(),
        }
    }

    /// Gives a buffer and its extents, after checking that it holds such a tensor.
    fn put_view(
        &mut self,
        spec: &ArgumentSpec,
        region: &Region<'a>,
        extents: &[usize],
        strides: Option<&[usize]>,
    ) -> Result<(), ArgumentError> {
        let (kernel, name) = (self.kernel_name(), self.signature().params[spec.place].name.clone());
        self.check_kind(spec.place, "a buffer", |k| k != ParamKind::Scalar)?;
        let wanted = spec.extents.len();
        let lens = [Some(extents.len()), strides.map(<[usize]>::len)];
        if let Some(got) = lens.into_iter().flatten().find(|&got| got != wanted) {
            return Err(ArgumentError::Rank { kernel, name, wanted, got });
        }
        let dense = dense_strides(extents);
        let strides = strides.unwrap_or(&dense);
        // One past the last element that the extents reach.
        let needed = if extents.contains(&0) {
            0
        } else {
            let last = |(&e, &s): (&usize, &usize)| (e as u128 - 1).saturating_mul(s as u128);
            extents.iter().zip(strides).map(last).fold(1u128, u128::saturating_add)
        };
        let (dtype, len) = (region.dtype(), region.len());
        if needed > len as u128 {
            let extents = extents.to_vec();
            return Err(ArgumentError::Short { kernel, name, extents, dtype, needed, len });
        }
        for (axis, (&extent, &stride)) in extents.iter().zip(strides).enumerate() {
            self.put_integer(spec.extents[axis], extent as i128)?;
            match spec.strides[axis] {
                Some(place) => self.put_integer(place, stride as i128)?,
                // A view without a parameter for this stride takes neighbours one element apart.
                None if stride != 1 && extent > 1 => {
                    return Err(ArgumentError::Dense { kernel, name, axis, stride });
                }
                None => {}
            }
        }
        self.put_buffer(spec.place, region)
    }

    fn put_integer(&mut self, place: usize, value: i128) -> Result<(), ArgumentError> {
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
            name: self.signature().params[place].name.clone(),
            value,
            dtype,
        })?;
        self.put(place, Slot::Scalar(bits))
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
