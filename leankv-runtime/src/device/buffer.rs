//! Typed device memory. Rust's borrows keep a buffer from being read and written at once.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use leankv_dsl::lang::launch::{Region, Slice, SliceMut, Tensor, TensorMut};

use super::{Device, DeviceError, Memory, Pitched};
use crate::element::Element;
use crate::launch::Slot;

/// Memory of a device. What launches are given is found by it.
pub(crate) struct Allocation {
    pub(crate) device: Device,
    pub(crate) memory: Memory,
}

/// `len` elements of `T` on a device. Freed when dropped, after the work that uses it.
pub struct DeviceBuffer<T> {
    allocation: Allocation,
    len: usize,
    element: PhantomData<T>,
}

/// A part of a buffer, for reading.
#[derive(Clone, Copy)]
pub struct BufferView<'a, T> {
    pub(crate) allocation: &'a Allocation,
    /// In bytes.
    pub(crate) offset: usize,
    /// In elements.
    pub(crate) len: usize,
    element: PhantomData<T>,
}

/// A part of a buffer, for reading and writing.
pub struct BufferViewMut<'a, T> {
    pub(crate) allocation: &'a Allocation,
    pub(crate) offset: usize,
    pub(crate) len: usize,
    /// The view holds its part alone, as `&mut [T]` does.
    exclusive: PhantomData<&'a mut T>,
}

impl<T> fmt::Debug for BufferView<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferView({} elements from byte {})", self.len, self.offset)
    }
}

impl<T> fmt::Debug for BufferViewMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferViewMut({} elements from byte {})", self.len, self.offset)
    }
}

impl<T: Element> DeviceBuffer<T> {
    pub(super) fn new(device: Device, memory: Memory, len: usize) -> DeviceBuffer<T> {
        DeviceBuffer { allocation: Allocation { device, memory }, len, element: PhantomData }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device it lies on.
    pub fn device(&self) -> &Device {
        &self.allocation.device
    }

    /// The address of its first element, as kernels see it.
    pub fn address(&self) -> u64 {
        self.allocation.memory.address()
    }

    /// Overwrites the first `data.len()` elements.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] when `data` is longer than the buffer, and what the driver says.
    pub fn write(&mut self, data: &[T]) -> Result<(), DeviceError> {
        self.write_at(0, data)
    }

    /// Overwrites `data.len()` elements from element `start`.
    ///
    /// # Errors
    /// As [`DeviceBuffer::write`].
    pub fn write_at(&mut self, start: usize, data: &[T]) -> Result<(), DeviceError> {
        let range = checked(start..start.saturating_add(data.len()), self.len)?;
        #[cfg(test)]
        crate::faults::hit("copying to the device")?;
        let stream = self.allocation.device.default_stream();
        self.allocation.memory.write(range.start * size_of::<T>(), bytemuck::cast_slice(data), &stream)
    }

    /// Copies a range of elements to those from element `to` on, on the device: in order with the work queued on the default stream, and
    /// without a wait.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`], [`DeviceError::Overlap`] for parts that have elements in common, and what the driver says.
    pub fn copy_within(&mut self, from: impl RangeBounds<usize>, to: usize) -> Result<(), DeviceError> {
        let from = checked(from, self.len)?;
        let into = checked(to..to.saturating_add(from.len()), self.len)?;
        if from.start < into.end && into.start < from.end {
            return Err(DeviceError::Overlap { from: from.start, to, count: from.len() });
        }
        #[cfg(test)]
        crate::faults::hit("copying on the device")?;
        let stream = self.allocation.device.default_stream();
        let (at, bytes) = (from.start * size_of::<T>(), from.len() * size_of::<T>());
        self.allocation.memory.copy_within(at, to * size_of::<T>(), bytes, &stream)
    }

    /// All elements, after the work queued on the default stream.
    ///
    /// # Errors
    /// What the driver says, errors of earlier asynchronous work included.
    pub fn to_vec(&self) -> Result<Vec<T>, DeviceError> {
        let mut out = vec![T::zeroed(); self.len];
        self.as_view().read_into(&mut out)?;
        Ok(out)
    }

    /// The whole buffer, for reading.
    pub fn as_view(&self) -> BufferView<'_, T> {
        BufferView { allocation: &self.allocation, offset: 0, len: self.len, element: PhantomData }
    }

    /// The whole buffer, for reading and writing.
    pub fn as_view_mut(&mut self) -> BufferViewMut<'_, T> {
        BufferViewMut { allocation: &self.allocation, offset: 0, len: self.len, exclusive: PhantomData }
    }

    /// A range of elements, for reading.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`].
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<BufferView<'_, T>, DeviceError> {
        self.as_view().slice(range)
    }

    /// A range of elements, for reading and writing.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`].
    pub fn slice_mut(&mut self, range: impl RangeBounds<usize>) -> Result<BufferViewMut<'_, T>, DeviceError> {
        let range = checked(range, self.len)?;
        let mut view = self.as_view_mut();
        view.offset += range.start * size_of::<T>();
        view.len = range.len();
        Ok(view)
    }
}

impl<'a, T: Element> BufferView<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of this part.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`].
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<BufferView<'a, T>, DeviceError> {
        let range = checked(range, self.len)?;
        Ok(BufferView { offset: self.offset + range.start * size_of::<T>(), len: range.len(), ..*self })
    }

    /// The same bytes as elements of another type.
    ///
    /// # Errors
    /// [`DeviceError::BadCast`] when they are not whole, aligned elements of it.
    pub fn cast<U: Element>(&self) -> Result<BufferView<'a, U>, DeviceError> {
        let len = cast_len::<T, U>(&self.allocation.memory, self.offset, self.len)?;
        Ok(BufferView { allocation: self.allocation, offset: self.offset, len, element: PhantomData })
    }

    /// Copies all elements out, after the work queued on the default stream.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] when `out` has another length, and what the driver says.
    pub fn read_into(&self, out: &mut [T]) -> Result<(), DeviceError> {
        if out.len() != self.len {
            return Err(DeviceError::OutOfRange { start: 0, end: out.len(), len: self.len });
        }
        #[cfg(test)]
        crate::faults::hit("copying from the device")?;
        let stream = self.allocation.device.default_stream();
        self.allocation.memory.read(self.offset, bytemuck::cast_slice_mut(out), &stream)
    }
}

impl<'a, T: Element> BufferViewMut<'a, T> {
    /// As an argument in its place.
    pub(crate) fn slot(self) -> Slot<'a> {
        let (memory, bytes) = (&self.allocation.memory, self.len * size_of::<T>());
        Slot::Buffer { memory, offset: self.offset, bytes, written: true }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of this part.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`].
    pub fn slice(self, range: impl RangeBounds<usize>) -> Result<BufferViewMut<'a, T>, DeviceError> {
        let range = checked(range, self.len)?;
        let offset = self.offset + range.start * size_of::<T>();
        Ok(BufferViewMut { offset, len: range.len(), ..self })
    }

    /// Copies `rows` rows of `row` elements from another buffer of the device, whose starts lie `stride` elements apart here and `from_stride` elements
    /// there: on the device, in order with the work queued on the default stream, and without a wait.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] for rows that one of the two has not, [`DeviceError::Overlap`] for rows here that overlap, [`DeviceError::WrongDevice`], and what
    /// the driver says.
    pub fn copy_rows(
        self,
        stride: usize,
        from: BufferView<'_, T>,
        from_stride: usize,
        [rows, row]: [usize; 2],
    ) -> Result<(), DeviceError> {
        let end = |stride: usize| match rows {
            0 => 0,
            rows => (rows - 1).saturating_mul(stride).saturating_add(row),
        };
        checked(..end(stride), self.len)?;
        checked(..end(from_stride), from.len)?;
        if stride < row && rows > 1 {
            return Err(DeviceError::Overlap { from: 0, to: stride, count: row });
        }
        let device = &self.allocation.device;
        if !device.same_as(&from.allocation.device) {
            return Err(DeviceError::WrongDevice { what: "rows to copy" });
        }
        #[cfg(test)]
        crate::faults::hit("copying on the device")?;
        let size = size_of::<T>();
        let pitched = |offset: usize, stride: usize| Pitched { at: offset, stride: stride * size };
        let (to_at, from_at) = (pitched(self.offset, stride), pitched(from.offset, from_stride));
        let (to, from) = (&self.allocation.memory, &from.allocation.memory);
        // SAFETY: both ranges were checked. This view holds its part alone, so the two do not overlap.
        unsafe { to.copy_rows(to_at, from, from_at, [rows, row * size], &device.default_stream()) }
    }

    /// Two parts that do not overlap, so that one launch can write both.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] when `at` is beyond the end.
    pub fn split_at(self, at: usize) -> Result<(BufferViewMut<'a, T>, BufferViewMut<'a, T>), DeviceError> {
        let first = checked(..at, self.len)?;
        let rest = self.len - at;
        let (allocation, exclusive) = (self.allocation, PhantomData);
        Ok((
            BufferViewMut { allocation, offset: self.offset, len: first.len(), exclusive },
            BufferViewMut { allocation, offset: self.offset + at * size_of::<T>(), len: rest, exclusive },
        ))
    }

    /// The same bytes as elements of another type.
    ///
    /// # Errors
    /// [`DeviceError::BadCast`] when they are not whole, aligned elements of it.
    pub fn cast<U: Element>(self) -> Result<BufferViewMut<'a, U>, DeviceError> {
        let len = cast_len::<T, U>(&self.allocation.memory, self.offset, self.len)?;
        let (allocation, offset) = (self.allocation, self.offset);
        Ok(BufferViewMut { allocation, offset, len, exclusive: PhantomData })
    }
}

impl<T: Element> DeviceBuffer<T> {
    /// The whole buffer as a dense, row-major tensor of these extents, for a launch to read.
    pub fn tensor<const R: usize>(&self, extents: [usize; R]) -> Tensor<'_, T, R> {
        self.as_view().tensor(extents)
    }

    /// The whole buffer as a dense, row-major tensor of these extents, for a launch to write.
    pub fn tensor_mut<const R: usize>(&mut self, extents: [usize; R]) -> TensorMut<'_, T, R> {
        self.as_view_mut().tensor(extents)
    }
}

impl<'a, T: Element> BufferView<'a, T> {
    pub(crate) fn into_region(self) -> Region<'a> {
        Slice::from(self).into_region()
    }

    /// This part as a dense, row-major tensor of these extents, for a launch to read; [`Tensor::strided`] gives it other strides.
    pub fn tensor<const R: usize>(self, extents: [usize; R]) -> Tensor<'a, T, R> {
        Slice::from(self).tensor(extents)
    }
}

impl<'a, T: Element> BufferViewMut<'a, T> {
    pub(crate) fn into_region(self) -> Region<'a> {
        SliceMut::from(self).into_region()
    }

    /// This part as a dense, row-major tensor of these extents, for a launch to write.
    pub fn tensor<const R: usize>(self, extents: [usize; R]) -> TensorMut<'a, T, R> {
        SliceMut::from(self).tensor(extents)
    }
}

impl<'a, T: Element> From<BufferView<'a, T>> for Slice<'a, T> {
    fn from(view: BufferView<'a, T>) -> Self {
        Slice::new(Region::read::<T>(view.allocation, view.offset, view.len))
    }
}

impl<'a, T: Element> From<BufferViewMut<'a, T>> for SliceMut<'a, T> {
    fn from(view: BufferViewMut<'a, T>) -> Self {
        SliceMut::new(Region::written::<T>(view.allocation, view.offset, view.len))
    }
}

impl<'a, T: Element> From<&'a DeviceBuffer<T>> for Slice<'a, T> {
    fn from(buffer: &'a DeviceBuffer<T>) -> Self {
        buffer.as_view().into()
    }
}

impl<'a, T: Element> From<&'a mut DeviceBuffer<T>> for SliceMut<'a, T> {
    fn from(buffer: &'a mut DeviceBuffer<T>) -> Self {
        buffer.as_view_mut().into()
    }
}

/// The range in elements, if it lies within `len`.
fn checked(range: impl RangeBounds<usize>, len: usize) -> Result<std::ops::Range<usize>, DeviceError> {
    let start = match range.start_bound() {
        Bound::Included(&at) => at,
        Bound::Excluded(&at) => at.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&at) => at.saturating_add(1),
        Bound::Excluded(&at) => at,
        Bound::Unbounded => len,
    };
    if start <= end && end <= len { Ok(start..end) } else { Err(DeviceError::OutOfRange { start, end, len }) }
}

fn cast_len<T: Element, U: Element>(
    memory: &Memory,
    offset: usize,
    len: usize,
) -> Result<usize, DeviceError> {
    let bytes = len * size_of::<T>();
    let aligned = (memory.address() + offset as u64).is_multiple_of(align_of::<U>() as u64);
    if aligned && bytes.is_multiple_of(size_of::<U>()) {
        Ok(bytes / size_of::<U>())
    } else {
        Err(DeviceError::BadCast { bytes, offset, dtype: U::TYPE })
    }
}

impl<'a, T: Element> From<&'a DeviceBuffer<T>> for BufferView<'a, T> {
    fn from(buffer: &'a DeviceBuffer<T>) -> Self {
        buffer.as_view()
    }
}

impl<'a, T: Element> From<&'a mut DeviceBuffer<T>> for BufferViewMut<'a, T> {
    fn from(buffer: &'a mut DeviceBuffer<T>) -> Self {
        buffer.as_view_mut()
    }
}

impl<T: Element> fmt::Debug for DeviceBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceBuffer<{}>({} on {})", T::TYPE, self.len, self.allocation.device.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_uploaded_comes_back_whole_and_in_parts() {
        let device = Device::host();
        let mut buffer = device.upload(&[1i32, 2, 3, 4]).unwrap();
        buffer.write_at(2, &[30, 40]).unwrap();
        assert_eq!(buffer.to_vec().unwrap(), [1, 2, 30, 40]);
        buffer.copy_within(2..4, 0).unwrap();
        assert_eq!(buffer.to_vec().unwrap(), [30, 40, 30, 40]);
        buffer.write(&[1, 2]).unwrap();
        let mut part = [0; 2];
        buffer.slice(1..=2).unwrap().read_into(&mut part).unwrap();
        assert_eq!(part, [2, 30]);
        assert_eq!(device.zeros::<f64>(3).unwrap().to_vec().unwrap(), [0.0; 3]);
        assert!(device.upload::<u8>(&[]).unwrap().to_vec().unwrap().is_empty());
    }

    #[test]
    fn ranges_beyond_a_buffer_are_errors_that_name_it() {
        let mut buffer = Device::host().upload(&[1u8, 2, 3]).unwrap();
        let error = buffer.write_at(2, &[0, 0]).unwrap_err();
        assert_eq!(error.to_string(), "elements 2..4 are out of range for a buffer of 3");
        assert!(buffer.slice(4..).is_err());
        assert!(buffer.copy_within(1..3, 2).is_err());
        let error = buffer.copy_within(0..2, 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "2 elements from 0 and from 1 on overlap; a copy on the device wants parts that do not"
        );
        buffer.copy_within(1..1, 1).unwrap();
        #[expect(clippy::reversed_empty_ranges)]
        let reversed = buffer.slice(2..1);
        assert!(reversed.is_err());
        assert!(buffer.slice(..=usize::MAX).is_err());
        assert!(buffer.slice_mut(0..3).unwrap().split_at(4).is_err());
        assert!(buffer.as_view().read_into(&mut [0; 2]).is_err());
        assert_eq!(buffer.to_vec().unwrap(), [1, 2, 3]);
    }

    #[test]
    fn casts_need_whole_aligned_elements() {
        let buffer = Device::host().upload(&[1u8, 0, 2, 0, 3]).unwrap();
        let mut words = [0u16; 2];
        buffer.slice(0..4).unwrap().cast::<u16>().unwrap().read_into(&mut words).unwrap();
        assert_eq!(words, [1, 2]);
        assert!(matches!(buffer.as_view().cast::<u16>(), Err(DeviceError::BadCast { bytes: 5, .. })));
        assert!(matches!(
            buffer.slice(1..5).unwrap().cast::<u16>(),
            Err(DeviceError::BadCast { offset: 1, .. })
        ));
    }

    #[test]
    fn room_that_no_machine_has_is_an_error() {
        let device = Device::host();
        assert!(matches!(device.zeros::<u64>(usize::MAX), Err(DeviceError::OutOfMemory { bytes: None })));
        assert!(matches!(device.zeros::<u8>(1 << 60), Err(DeviceError::OutOfMemory { bytes: Some(_) })));
    }

    #[test]
    fn buffers_are_aligned_for_every_vector_width() {
        let device = Device::host();
        for len in [0, 1, 7, 4096] {
            assert!(device.zeros::<u8>(len).unwrap().address().is_multiple_of(256));
        }
    }
}
