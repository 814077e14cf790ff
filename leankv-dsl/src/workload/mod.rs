//! Launches as data: the arguments of a kernel ([`Workload::of`]), which buffers it may change, and what must stand in them afterwards.
//!
//! A [`Workload`] is all that an executor needs besides the kernel. Tests, `leankv verify` and `leankv profile` run the same one on
//! every executor; nothing in here runs anything.
//!
//! ```
//! use leankv_dsl::lang::*;
//! use leankv_dsl::workload::{Check, Generator, Workload, given};
//!
//! /// The length of each row of `x`.
//! #[kernel]
//! fn lengths(x: View<f32, 2>, out: ViewMut<f32, 1>) {
//!     let row = x.tile((program_id(0), 0), [1, 128]).load();
//!     out.tile(program_id(0), [1]).store((row * row).reduce_sum(1).sqrt());
//! }
//!
//! let (rows, cols) = (5, 100);
//! let x = Generator::new(1).f32s(rows * cols, -1.0, 1.0);
//! let expected: Vec<f32> = x.chunks(cols).map(|row| row.iter().map(|x| x * x).sum::<f32>().sqrt()).collect();
//! let out = given(&vec![f32::NAN; rows])
//!     .output(Check::close(1e-5, 1e-6))
//!     .expect(&expected, Check::close(1e-4, 1e-5));
//! let args = LengthsArgs { x: given(&x).tensor([rows, cols]), out: out.tensor_mut([rows]) };
//! let workload = Workload::of::<lengths>([rows, 1, 1], args);
//! assert_eq!(workload.grid(), [5, 1, 1]);
//! ```

mod compare;
mod generate;
mod guarded;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use half::{bf16, f16};

pub use compare::{Check, Comparison, compare};
pub use generate::Generator;
pub use guarded::Guarded;

use crate::interp::ScalarValue;
use crate::ir::{Dtype, Func, Type};
use crate::lang::launch::{Arguments, Name, Region, Slice, SliceMut, Tensor, TensorMut, Value};
use crate::lang::{KernelArg, Plain, TypedKernel};

/// Element types of a workload's buffers.
pub trait Item: Copy {
    /// The element type.
    const DTYPE: Dtype;
    /// Appends the element's bytes, as they lie in memory.
    fn put(self, out: &mut Vec<u8>);
    /// The elements that lie in memory as these bytes.
    fn take(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! items {
    ($($ty:ty: $dtype:ident)*) => {$(
        impl Item for $ty {
            const DTYPE: Dtype = Dtype::$dtype;
            fn put(self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
            fn take(bytes: &[u8]) -> Vec<Self> {
                bytes.as_chunks().0.iter().map(|&bytes| <$ty>::from_le_bytes(bytes)).collect()
            }
        }
    )*};
}
items!(i8: I8 i16: I16 i32: I32 i64: I64 u8: U8 u16: U16 u32: U32 u64: U64 f16: F16 bf16: BF16 f32: F32 f64: F64);

fn bytes_of<T: Item>(data: &[T]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of_val(data));
    data.iter().for_each(|x| x.put(&mut bytes));
    bytes
}

/// A buffer of a workload.
#[derive(Clone, PartialEq, Debug)]
pub struct Buffer {
    /// Element type.
    pub dtype: Dtype,
    /// Content before the launch.
    pub bytes: Vec<u8>,
    /// How executors must agree on its content afterwards; `None` for a buffer that must not change.
    pub output: Option<Check>,
    /// The content that is right, found without the kernel, and how close it must come.
    pub expect: Option<(Vec<u8>, Check)>,
    /// Bytes of it that the kernel cannot do without reading, in whole 32-byte sectors, if that is known.
    pub least_read_bytes: Option<u64>,
}

impl Buffer {
    /// In what its expected content cannot be its content.
    fn mismatch(&self, name: &str) -> Option<String> {
        let (len, (expected, _)) = (self.bytes.len(), self.expect.as_ref()?);
        let wrong = expected.len() != len;
        wrong.then(|| format!("`{name}` has {len} bytes, and {} are expected of it", expected.len()))
    }
}

/// A buffer of `T` in the making, for the arguments of [`Workload::of`].
#[derive(Clone, Debug)]
pub struct Given<T> {
    buffer: Buffer,
    len: usize,
    element: PhantomData<T>,
}

/// A buffer with a copy of `data`.
pub fn given<T: Item>(data: &[T]) -> Given<T> {
    let buffer =
        Buffer { dtype: T::DTYPE, bytes: bytes_of(data), output: None, expect: None, least_read_bytes: None };
    Given { buffer, len: data.len(), element: PhantomData }
}

impl<T: Item + Plain> Given<T> {
    /// The kernel may change this buffer, and executors must agree on it as `check` says. All other buffers must stay as they are.
    #[must_use]
    pub fn output(mut self, check: Check) -> Self {
        self.buffer.output = Some(check);
        self
    }

    /// What must stand in this output afterwards, found without the kernel.
    #[must_use]
    pub fn expect(mut self, data: &[T], check: Check) -> Self {
        self.buffer.expect = Some((bytes_of(data), check));
        self
    }

    /// Bytes of this buffer that the kernel cannot do without reading, in whole 32-byte sectors: what a profile compares with.
    #[must_use]
    pub fn least_read(mut self, bytes: u64) -> Self {
        self.buffer.least_read_bytes = Some(bytes);
        self
    }

    /// For a pointer that is read.
    #[must_use]
    pub fn slice(self) -> Slice<'static, T> {
        Slice::new(Region::owned::<T>(Arc::new(self.buffer), self.len, false))
    }

    /// For a pointer that is written.
    #[must_use]
    pub fn slice_mut(self) -> SliceMut<'static, T> {
        SliceMut::new(Region::owned::<T>(Arc::new(self.buffer), self.len, true))
    }

    /// For a view that is read.
    #[must_use]
    pub fn tensor<const R: usize>(self, extents: [usize; R]) -> Tensor<'static, T, R> {
        self.slice().tensor(extents)
    }

    /// For a view that is written.
    #[must_use]
    pub fn tensor_mut<const R: usize>(self, extents: [usize; R]) -> TensorMut<'static, T, R> {
        self.slice_mut().tensor(extents)
    }
}

/// An argument.
#[derive(Clone, PartialEq, Debug)]
pub enum Argument {
    /// A number.
    Scalar(ScalarValue),
    /// Memory.
    Buffer(Buffer),
}

/// What a kernel is launched with. See the [module](self).
#[derive(Clone, PartialEq, Debug)]
pub struct Workload {
    grid: [u32; 3],
    args: BTreeMap<String, Argument>,
    /// Parts of views: they need not be parameters, since the stride of a contiguous axis is none.
    implied: BTreeMap<String, i64>,
    problems: Vec<String>,
}

/// Why a workload is none for a kernel: everything that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the workload does not fit kernel `{kernel}`: {}", problems.join("; "))]
pub struct WorkloadMismatch {
    /// The kernel.
    pub kernel: String,
    /// What is wrong.
    pub problems: Vec<String>,
}

impl Workload {
    /// A launch of a kernel with these arguments, whose buffers are [`given`].
    ///
    /// ```
    /// use leankv_dsl::lang::*;
    /// use leankv_dsl::workload::{Check, Workload, given};
    ///
    /// /// `out = x + n`.
    /// #[kernel]
    /// fn add(x: View<f32, 1>, n: Scalar<f32>, out: ViewMut<f32, 1>) {
    ///     out.tile(0, [4]).store(x.tile(0, [4]).load() + n);
    /// }
    ///
    /// let out = given(&[f32::NAN; 4]).output(Check::Bits).expect(&[2.0, 2.0, 2.0, 2.0], Check::Bits);
    /// let args = AddArgs { x: given(&[1.0; 4]).tensor([4]), n: 1.0, out: out.tensor_mut([4]) };
    /// let workload = Workload::of::<add>([1, 1, 1], args);
    /// assert_eq!(workload.arguments(&add::build(&AddSpec {})?)?.len(), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn of<K: TypedKernel>(grid: [usize; 3], args: K::Args<'_>) -> Workload {
        let mut arguments = Arguments::with_names();
        K::give(args, &mut arguments);
        let mut problems = Vec::new();
        let grid = grid.map(|n| {
            u32::try_from(n).unwrap_or_else(|_| {
                problems.push(format!("a grid of {n} programs along one axis is too large"));
                1
            })
        });
        let mut workload = Workload { grid, args: BTreeMap::new(), implied: BTreeMap::new(), problems };
        arguments.into_named().for_each(|(name, value)| workload.put(name, value));
        workload
    }

    /// Also gives what the parameter called `name` takes: for kernels that were recorded with more than their own parameters, such as a cache's
    /// codecs (`codecs.offset`).
    #[must_use]
    pub fn with<A: KernelArg>(mut self, name: &str, given: A::Given<'_>) -> Workload {
        let mut arguments = Arguments::with_names();
        A::give(given, Name::new(name), &mut arguments);
        arguments.into_named().for_each(|(name, value)| self.put(name, value));
        self
    }

    fn put(&mut self, name: String, value: Value<'_>) {
        let (region, extents) = match value {
            Value::Number { dtype, bits } => {
                self.args.insert(name, Argument::Scalar(scalar(dtype, bits)));
                return;
            }
            Value::Buffer(region) => (region, None),
            Value::View { region, extents, strides } => {
                if strides.is_some() {
                    self.problems.push(format!("`{name}` has strides; a workload's views are dense"));
                }
                (region, Some(extents))
            }
        };
        let Some(buffer) = region.owned_as::<Buffer>().cloned() else {
            self.problems.push(format!("`{name}` is no buffer of a workload"));
            return;
        };
        self.problems.extend(buffer.mismatch(&name));
        if let Some(extents) = extents {
            self.imply(&name, region.len(), &extents);
        }
        self.args.insert(name, Argument::Buffer(buffer));
    }

    /// Notes the extents and strides of a view that is dense.
    fn imply(&mut self, name: &str, len: usize, extents: &[usize]) {
        let elements: usize = extents.iter().product();
        if elements != len {
            self.problems.push(format!("`{name}` as {extents:?} has {elements} elements, not {len}"));
        }
        let mut stride = 1i64;
        for (axis, &extent) in extents.iter().enumerate().rev() {
            self.implied.insert(format!("{name}.shape{axis}"), extent as i64);
            self.implied.insert(format!("{name}.stride{axis}"), stride);
            stride *= extent as i64;
        }
    }

    /// Programs along x, y and z.
    #[must_use]
    pub fn grid(&self) -> [u32; 3] {
        self.grid
    }

    /// The arguments in the order of the kernel's parameters, each with the parameter's name.
    ///
    /// # Errors
    /// Everything in which the workload does not fit the kernel.
    pub fn arguments(&self, func: &Func) -> Result<Vec<(String, Argument)>, WorkloadMismatch> {
        let mut problems = self.problems.clone();
        let mut out = Vec::new();
        for param in &func.params {
            let name = &param.name;
            let arg = match (self.args.get(name), self.implied.get(name)) {
                (Some(arg), _) => arg.clone(),
                (None, Some(&value)) => Argument::Scalar(value.into()),
                (None, None) => {
                    problems.push(format!("parameter `{name}` is not given"));
                    continue;
                }
            };
            let given = match &arg {
                Argument::Scalar(value) => Type::scalar(value.dtype()),
                Argument::Buffer(buffer) => Type::ptr(buffer.dtype),
            };
            if given != param.ty {
                problems.push(format!("`{name}` takes {}, not {given}", param.ty));
            }
            out.push((name.clone(), arg));
        }
        for name in self.args.keys().filter(|name| !func.params.iter().any(|p| p.name == **name)) {
            problems.push(format!("there is no parameter `{name}`"));
        }
        if problems.is_empty() {
            Ok(out)
        } else {
            Err(WorkloadMismatch { kernel: func.name.clone(), problems })
        }
    }
}

/// The scalar's bits, in the low bytes.
#[must_use]
pub fn scalar_bits(value: ScalarValue) -> u64 {
    match value {
        ScalarValue::I1(x) => x.into(),
        ScalarValue::I8(x) => (x as u8).into(),
        ScalarValue::I16(x) => (x as u16).into(),
        ScalarValue::I32(x) => (x as u32).into(),
        ScalarValue::I64(x) => x as u64,
        ScalarValue::U8(x) => x.into(),
        ScalarValue::U16(x) => x.into(),
        ScalarValue::U32(x) => x.into(),
        ScalarValue::U64(x) => x,
        ScalarValue::F16(x) => x.to_bits().into(),
        ScalarValue::BF16(x) => x.to_bits().into(),
        ScalarValue::F32(x) => x.to_bits().into(),
        ScalarValue::F64(x) => x.to_bits(),
    }
}

/// The scalar with these bits in the low bytes.
fn scalar(dtype: Dtype, bits: u64) -> ScalarValue {
    match dtype {
        Dtype::I1 => ScalarValue::I1(bits != 0),
        Dtype::I8 => ScalarValue::I8(bits as i8),
        Dtype::I16 => ScalarValue::I16(bits as i16),
        Dtype::I32 => ScalarValue::I32(bits as i32),
        Dtype::I64 => ScalarValue::I64(bits as i64),
        Dtype::U8 => ScalarValue::U8(bits as u8),
        Dtype::U16 => ScalarValue::U16(bits as u16),
        Dtype::U32 => ScalarValue::U32(bits as u32),
        Dtype::U64 | Dtype::Code(_) => ScalarValue::U64(bits),
        Dtype::F16 => ScalarValue::F16(f16::from_bits(bits as u16)),
        Dtype::BF16 => ScalarValue::BF16(bf16::from_bits(bits as u16)),
        Dtype::F32 => ScalarValue::F32(f32::from_bits(bits as u32)),
        Dtype::F64 => ScalarValue::F64(f64::from_bits(bits)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lang::*;

    #[kernel]
    fn takes(x: View<f32, 1>, n: Scalar<i32>) {
        let _ = (x, n);
    }

    #[kernel]
    fn takes_others(x: View<i32, 1>, m: Scalar<i32>) {
        let _ = (x, m);
    }

    #[test]
    fn arguments_come_in_the_order_of_the_parameters() {
        let args = TakesArgs { x: given(&[1.0, 2.0]).tensor([2]), n: 7 };
        let args = Workload::of::<takes>([1, 1, 1], args).arguments(&takes::build(&TakesSpec {}).unwrap());
        let args = args.unwrap();
        let names: Vec<&str> = args.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x", "x.shape0", "n"]);
        assert_eq!(args[1].1, Argument::Scalar(2i64.into()));
    }

    #[test]
    fn all_that_does_not_fit_is_named() {
        let x = given(&[1, 2]).expect(&[1], Check::Bits).tensor([3]);
        let workload = Workload::of::<takes_others>([1, 1, 1 << 40], TakesOthersArgs { x, m: 1 });
        let error = workload.arguments(&takes::build(&TakesSpec {}).unwrap()).unwrap_err().to_string();
        for part in
            ["1099511627776 programs", "`x` as [3]", "`m`", "`n` is not given", "`x` takes", "4 are expected"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
