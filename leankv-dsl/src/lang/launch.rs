//! The host's side of kernel parameters: what a launch gives for each of them.
//!
//! [`KernelArg::Given`](super::KernelArg::Given) is the type of what is given for a parameter: a [`Tensor`] for a view, a [`TensorMut`] for one that is written,
//! [`Slice`]s for pointers, a number for a scalar, and for a struct of parameters a struct of these. `#[kernel]` writes such a struct for the
//! whole kernel (`SoftmaxArgs` beside `SoftmaxSpec`), so rustc checks names, element types, ranks and who may write.
//!
//! What a buffer is only a runtime knows: it makes a [`Region`] of its own memory, and finds that memory again in the [`Arguments`] of a launch.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::element::{Float, Plain};
use crate::ir::Dtype;

/// A part of some memory: `len` elements of a type.
///
/// Whoever owns the memory makes it, and vouches for its length and for who may write; nobody else can, since that takes a reference to the
/// memory itself.
pub struct Region<'a> {
    memory: Memory<'a>,
    offset: usize,
    len: usize,
    dtype: Dtype,
    written: bool,
}

#[derive(Clone)]
enum Memory<'a> {
    Borrowed(&'a (dyn Any + Send + Sync)),
    Owned(Arc<dyn Any + Send + Sync>),
}

impl<'a> Region<'a> {
    /// `len` elements of `memory`, from byte `offset` on, that a kernel reads.
    pub fn read<E: Plain>(memory: &'a (dyn Any + Send + Sync), offset: usize, len: usize) -> Self {
        Self { memory: Memory::Borrowed(memory), offset, len, dtype: E::TYPE, written: false }
    }

    /// As [`Region::read`], for a kernel that writes them too. The memory is borrowed for this alone.
    pub fn written<E: Plain>(memory: &'a (dyn Any + Send + Sync), offset: usize, len: usize) -> Self {
        Self { written: true, ..Self::read::<E>(memory, offset, len) }
    }

    /// All `len` elements of memory that belongs to the launch.
    pub fn owned<E: Plain>(memory: Arc<dyn Any + Send + Sync>, len: usize, written: bool) -> Self {
        Self { memory: Memory::Owned(memory), offset: 0, len, dtype: E::TYPE, written }
    }

    /// The memory, if it is borrowed and a `T`.
    pub fn borrowed_as<T: Any>(&self) -> Option<&'a T> {
        match self.memory {
            Memory::Borrowed(memory) => memory.downcast_ref(),
            Memory::Owned(_) => None,
        }
    }

    /// The memory, if it belongs to the launch and is a `T`.
    pub fn owned_as<T: Any>(&self) -> Option<&T> {
        match &self.memory {
            Memory::Borrowed(_) => None,
            Memory::Owned(memory) => memory.downcast_ref(),
        }
    }

    /// Where it begins, in bytes from the start of the memory.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of an element.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Whether a kernel may write it.
    pub fn is_written(&self) -> bool {
        self.written
    }

    /// The same part again; only for memory that is read.
    fn again(&self) -> Self {
        Self { memory: self.memory.clone(), ..*self }
    }
}

impl fmt::Debug for Region<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.written { "&mut " } else { "&" };
        write!(f, "{access}[{}; {}]", self.dtype, self.len)
    }
}

/// A buffer for a pointer that is read.
#[derive(Debug)]
pub struct Slice<'a, E> {
    region: Region<'a>,
    element: PhantomData<E>,
}

/// A buffer for a pointer that is written.
#[derive(Debug)]
pub struct SliceMut<'a, E> {
    region: Region<'a>,
    element: PhantomData<&'a mut E>,
}

/// A buffer for a view that is read, as a tensor of `R` extents.
#[derive(Debug)]
pub struct Tensor<'a, E, const R: usize> {
    slice: Slice<'a, E>,
    extents: [usize; R],
    strides: Option<[usize; R]>,
}

/// A buffer for a view that is written, as a tensor of `R` extents.
#[derive(Debug)]
pub struct TensorMut<'a, E, const R: usize> {
    slice: SliceMut<'a, E>,
    extents: [usize; R],
    strides: Option<[usize; R]>,
}

impl<E> Clone for Slice<'_, E> {
    fn clone(&self) -> Self {
        Self { region: self.region.again(), element: PhantomData }
    }
}

impl<E, const R: usize> Clone for Tensor<'_, E, R> {
    fn clone(&self) -> Self {
        Self { slice: self.slice.clone(), extents: self.extents, strides: self.strides }
    }
}

impl<'a, E: Plain> Slice<'a, E> {
    /// Of a part of memory, which is read, also if it was for writing: a slice can be given twice.
    pub fn new(region: Region<'a>) -> Self {
        Self { region: Region { written: false, ..region }, element: PhantomData }
    }
}

impl<'a, E: Plain> SliceMut<'a, E> {
    /// Of a part of memory. A launch refuses memory that is not for writing.
    pub fn new(region: Region<'a>) -> Self {
        Self { region, element: PhantomData }
    }
}

macro_rules! slices {
    ($slice:ident, $tensor:ident) => {
        impl<'a, E: Plain> $slice<'a, E> {
            /// As a dense, row-major tensor of these extents. A launch checks them against the buffer's length.
            pub fn tensor<const R: usize>(self, extents: [usize; R]) -> $tensor<'a, E, R> {
                $tensor { slice: self, extents, strides: None }
            }

            /// The part of memory.
            pub fn into_region(self) -> Region<'a> {
                self.region
            }
        }

        impl<'a, E: Plain, const R: usize> $tensor<'a, E, R> {
            /// With these distances, in elements, between neighbours along each axis.
            pub fn strided(self, strides: [usize; R]) -> Self {
                Self { strides: Some(strides), ..self }
            }

            /// The extents.
            pub fn extents(&self) -> [usize; R] {
                self.extents
            }

            pub(super) fn into_value(self) -> Value<'a> {
                let (extents, strides) = (self.extents.to_vec(), self.strides.map(|s| s.to_vec()));
                Value::View { region: self.slice.region, extents, strides }
            }
        }
    };
}
slices!(Slice, Tensor);
slices!(SliceMut, TensorMut);

macro_rules! float_tensors {
    ($(#[$doc:meta])* $float:ident, $tensor:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $float<'a, const R: usize>(Value<'a>);

        impl<'a, E: Float, const R: usize> From<$tensor<'a, E, R>> for $float<'a, R> {
            fn from(tensor: $tensor<'a, E, R>) -> Self {
                Self(tensor.into_value())
            }
        }

        impl<'a, const R: usize> $float<'a, R> {
            pub(super) fn into_value(self) -> Value<'a> {
                self.0
            }
        }
    };
}
float_tensors!(
    /// A buffer for a [`FloatView`](super::FloatView): a [`Tensor`] of any type of floats. A launch checks that it is the kernel's.
    FloatTensor,
    Tensor
);
float_tensors!(
    /// A buffer for a [`FloatViewMut`](super::FloatViewMut): a [`TensorMut`] of any type of floats. A launch checks that it is the kernel's.
    FloatTensorMut,
    TensorMut
);

/// What is given for one parameter.
#[derive(Debug)]
pub enum Value<'a> {
    /// A number.
    Number {
        /// Its type.
        dtype: Dtype,
        /// Its little-endian bytes, zero-extended.
        bits: u64,
    },
    /// Memory, for a pointer.
    Buffer(Region<'a>),
    /// Memory, for a view.
    View {
        /// The memory.
        region: Region<'a>,
        /// Extents, the outermost first.
        extents: Vec<usize>,
        /// Distances in elements between neighbours along each axis; `None` for a dense, row-major tensor.
        strides: Option<Vec<usize>>,
    },
}

/// The name of a parameter while arguments are listed: `kv.table` is the part `table` of `kv`.
#[derive(Clone, Copy, Debug)]
pub struct Name<'n> {
    whole: Option<&'n Name<'n>>,
    last: &'n str,
}

impl<'n> Name<'n> {
    /// A parameter of the kernel.
    pub fn new(name: &'n str) -> Name<'n> {
        Name { whole: None, last: name }
    }

    /// A field of a parameter that is a struct.
    pub fn part(&'n self, field: &'n str) -> Name<'n> {
        Name { whole: Some(self), last: field }
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(whole) = self.whole {
            write!(f, "{whole}.")?;
        }
        f.write_str(self.last)
    }
}

/// The arguments of a launch, in the order of the kernel's parameters. A view is one of them, with its extents and strides.
#[derive(Debug, Default)]
pub struct Arguments<'a> {
    values: Vec<Value<'a>>,
    names: Option<Vec<String>>,
}

impl<'a> Arguments<'a> {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// None yet; each comes with the name of its parameter.
    pub fn with_names() -> Self {
        Self { values: Vec::new(), names: Some(Vec::new()) }
    }

    /// Adds what is given for the next parameter.
    pub fn push(&mut self, name: Name<'_>, value: Value<'a>) {
        if let Some(names) = &mut self.names {
            names.push(name.to_string());
        }
        self.values.push(value);
    }

    /// Adds what code that nobody vouches for gives. It gets a list of its own, so what was given before stays whatever it does.
    pub fn push_all(&mut self, give: impl FnOnce(&mut Arguments<'a>)) {
        let mut own = Self { values: Vec::new(), names: self.names.as_ref().map(|_| Vec::new()) };
        give(&mut own);
        self.values.append(&mut own.values);
        if let (Some(names), Some(more)) = (&mut self.names, own.names) {
            names.extend(more);
        }
    }

    /// What was given, in order.
    pub fn into_values(self) -> Vec<Value<'a>> {
        self.values
    }

    /// What was given, with the names of the parameters.
    pub fn into_named(self) -> impl Iterator<Item = (String, Value<'a>)> {
        let names = self.names.unwrap_or_default();
        names.into_iter().zip(self.values)
    }
}
