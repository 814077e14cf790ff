//! Kernel parameters: how a Rust type becomes parameters of the launch.

use std::any::Any;
use std::sync::Arc;

use crate::diag::Diagnostic;
use crate::ir::{Access, Dtype, Loc, Param, Type};

use super::element::Plain;
use super::launch::{Arguments, Name, Slice, SliceMut, Tensor, TensorMut, Value};
use super::ops::{FloatType, Ptr, PtrMut, View, ViewMut};
use super::record::{self, BAD_ARGUMENT, Handle};
use super::tile::{Scalar, Tile};

/// What `#[arg(..)]` on a parameter says.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArgOptions {
    strided: bool,
    align: u64,
    multiple_of: u64,
    pub(super) element: Option<FloatType>,
}

impl ArgOptions {
    /// No promises but the default ones.
    pub fn new() -> ArgOptions {
        ArgOptions::default()
    }

    /// Views: the last stride is a run-time number too.
    pub fn strided(mut self) -> ArgOptions {
        self.strided = true;
        self
    }

    /// Views and pointers: the address is a multiple of `bytes`; for views every row too.
    pub fn align(mut self, bytes: usize) -> ArgOptions {
        self.align = bytes as u64;
        self
    }

    /// Views of floats: their type.
    pub fn element(mut self, element: FloatType) -> ArgOptions {
        self.element = Some(element);
        self
    }

    /// Scalars: the number is a multiple of `divisor`.
    pub fn multiple_of(mut self, divisor: usize) -> ArgOptions {
        self.multiple_of = divisor as u64;
        self
    }
}

/// Values that a kernel is recorded with, at most one of each type: what a parameter is made of where its type alone does not say it, such as
/// codecs that were chosen by name.
#[derive(Clone, Debug, Default)]
pub struct Choices(Vec<Arc<dyn Any + Send + Sync>>);

impl Choices {
    /// None.
    pub fn new() -> Choices {
        Choices::default()
    }

    /// With this value, in place of another one of its type.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(mut self, value: T) -> Choices {
        self.0.retain(|other| !(**other).is::<T>());
        self.0.push(Arc::new(value));
        self
    }

    /// The value of a type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.iter().find_map(|value| (**value).downcast_ref())
    }
}

/// Where parameters are declared.
#[derive(Debug)]
pub struct ArgScope {
    /// Whether what is declared belongs to code that must stay within its buffers, whatever it does.
    checked: bool,
    choices: Choices,
    /// The recording that it is for: one that was kept from another kernel would get around `checked`.
    session: u32,
}

impl ArgScope {
    pub(crate) fn new(choices: &Choices) -> ArgScope {
        ArgScope { checked: false, choices: choices.clone(), session: record::session() }
    }

    /// The same, for parameters of code that nobody vouches for: its views check every access, and it has no other way to memory.
    pub fn checked(&self) -> ArgScope {
        record::mark_checked();
        ArgScope { checked: true, ..self.again() }
    }

    /// The same once more.
    pub(crate) fn again(&self) -> ArgScope {
        ArgScope { choices: self.choices.clone(), ..*self }
    }

    /// What the kernel is recorded with.
    pub fn choices(&self) -> &Choices {
        &self.choices
    }

    /// Refuses a parameter that checked code cannot have.
    fn refused(&self, name: &str, what: &str, loc: Loc) -> Option<Handle> {
        self.checked.then(|| {
            let message = format!("`{name}` is {what}, which a codec or hook of a cache cannot take");
            record::fail(
                Diagnostic::error(BAD_ARGUMENT, loc, message)
                    .help("take a `View`: every access through it is checked against its extents"),
            )
        })
    }

    /// Refuses a parameter of another kernel than this is for.
    fn foreign(&self, name: &str, loc: Loc) -> Option<Handle> {
        (self.session != record::session()).then(|| {
            let message = format!("`{name}` is declared where parameters of another kernel are");
            record::fail(
                Diagnostic::error(BAD_ARGUMENT, loc, message)
                    .help("declare it with the scope that this kernel's recording passes"),
            )
        })
    }

    /// A pointer parameter whose address is a multiple of `align` bytes, at least the element's size.
    fn pointer(&mut self, name: &str, dtype: Dtype, access: Access, align: u64, loc: Loc) -> Handle {
        if let Some(foreign) = self.foreign(name, loc) {
            return foreign;
        }
        let natural = u64::from(dtype.bytes().unwrap_or(1));
        if align != 0 && (!align.is_power_of_two() || align < natural) {
            return record::fail(
                Diagnostic::error(BAD_ARGUMENT, loc, format!("`{name}` is aligned to {align} bytes"))
                    .help(format!("an alignment is a power of two, at least {natural} for `{dtype}`")),
            );
        }
        let mut param = Param::new(name, Type::ptr(dtype), access);
        param.multiple_of = align.max(natural);
        record::param(param)
    }

    fn number(&mut self, name: &str, dtype: Dtype, multiple_of: u64, loc: Loc) -> Handle {
        if let Some(foreign) = self.foreign(name, loc) {
            return foreign;
        }
        let mut param = Param::new(name, Type::scalar(dtype), Access::Read);
        param.multiple_of = multiple_of.max(1);
        record::param(param)
    }

    /// Extents and strides of a view.
    fn dims<const R: usize>(
        &mut self,
        name: &str,
        dtype: Dtype,
        options: ArgOptions,
        loc: Loc,
    ) -> super::ops::Dims<R> {
        let mut extents = [Handle::poison(); R];
        let mut strides = [None; R];
        for (axis, slot) in extents.iter_mut().enumerate() {
            *slot = self.number(&format!("{name}.shape{axis}"), Dtype::I64, 1, loc);
        }
        let row = options.align / u64::from(dtype.bytes().unwrap_or(1));
        for (axis, slot) in strides.iter_mut().enumerate() {
            if axis + 1 < R || options.strided {
                let promise = if axis + 1 < R { row } else { 1 };
                *slot = Some(self.number(&format!("{name}.stride{axis}"), Dtype::I64, promise, loc));
            }
        }
        super::ops::Dims { extents, strides, checked: self.checked }
    }
}

/// A type that can be a parameter of a kernel: views, pointers, scalars, and structs of them through
/// `#[derive(KernelArg)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a parameter of a kernel's launch",
    label = "not a kernel parameter",
    note = "parameters are View, ViewMut, Ptr, PtrMut, Scalar, and structs of them with `#[derive(KernelArg)]`",
    note = "a value known at specialisation time is marked `#[comptime]`"
)]
pub trait KernelArg: Sized {
    /// Declares the parameters called `name` and gives their handles.
    #[track_caller]
    fn declare(scope: &mut ArgScope, name: &str, options: ArgOptions) -> Self;

    /// What a launch gives for it: see [`launch`](super::launch).
    type Given<'a>;

    /// Adds what is given to the arguments of a launch, in the order in which [`declare`](KernelArg::declare) declares parameters.
    fn give<'a>(given: Self::Given<'a>, name: Name<'_>, to: &mut Arguments<'a>);
}

impl<E: Plain, const R: usize> KernelArg for View<E, R> {
    #[track_caller]
    fn declare(scope: &mut ArgScope, name: &str, options: ArgOptions) -> Self {
        let loc = Loc::caller();
        let ptr = scope.pointer(name, E::TYPE, Access::Read, options.align, loc);
        View { ptr: Ptr::new(ptr), dims: scope.dims(name, E::TYPE, options, loc) }
    }

    type Given<'a> = Tensor<'a, E, R>;

    fn give<'a>(given: Self::Given<'a>, name: Name<'_>, to: &mut Arguments<'a>) {
        to.push(name, given.into_value());
    }
}

impl<E: Plain, const R: usize> KernelArg for ViewMut<E, R> {
    #[track_caller]
    fn declare(scope: &mut ArgScope, name: &str, options: ArgOptions) -> Self {
        let loc = Loc::caller();
        let refused = scope.refused(name, "memory to write", loc);
        let ptr =
            refused.unwrap_or_else(|| scope.pointer(name, E::TYPE, Access::ReadWrite, options.align, loc));
        ViewMut { ptr: PtrMut::new(ptr), dims: scope.dims(name, E::TYPE, options, loc) }
    }

    type Given<'a> = TensorMut<'a, E, R>;

    fn give<'a>(given: Self::Given<'a>, name: Name<'_>, to: &mut Arguments<'a>) {
        to.push(name, given.into_value());
    }
}

impl<E: Plain> KernelArg for Ptr<E> {
    #[track_caller]
    fn declare(scope: &mut ArgScope, name: &str, options: ArgOptions) -> Self {
        let loc = Loc::caller();
        let refused = scope.refused(name, "a raw pointer", loc);
        Ptr::new(refused.unwrap_or_else(|| scope.pointer(name, E::TYPE, Access::Read, options.align, loc)))
    }

    type Given<'a> = Slice<'a, E>;

    fn give<'a>(given: Self::Given<'a>, name: Name<'_>, to: &mut Arguments<'a>) {
        to.push(name, Value::Buffer(given.into_region()));
    }
}

impl<E: Plain> KernelArg for PtrMut<E> {
    #[track_caller]
    fn declare(scope: &mut ArgScope, name: &str, options: ArgOptions) -> Self {
        let loc = Loc::caller();
        let refused = scope.refused(name, "a raw pointer", loc);
        PtrMut::new(
            refused.unwrap_or_else(|| scope.pointer(name, E::TYPE, Access::ReadWrite, options.align, loc)),
        )
    }

    type Given<'a> = SliceMut<'a, E>;

    fn give<'a>(given: Self::Given<'a>, name: Name<'_>, to: &mut Arguments<'a>) {
        to.push(name, Value::Buffer(given.into_region()));
    }
}

impl<E: Plain> KernelArg for Scalar<E> {
    #[track_caller]
    fn declare(scope: &mut ArgScope, name: &str, options: ArgOptions) -> Self {
        let loc = Loc::caller();
        // A launch tells the rank of a view by such names.
        let last = name.rsplit('.').next().unwrap_or(name);
        if let (true, Some(part)) =
            (scope.checked, ["shape", "stride"].iter().find(|p| last.starts_with(**p)))
        {
            let message = format!("a number called `{last}`, as the {part}s of views are");
            let diagnostic = Diagnostic::error(BAD_ARGUMENT, loc, message);
            return Tile::new(record::fail(diagnostic.help("give it another name")));
        }
        Tile::new(scope.number(name, E::TYPE, options.multiple_of, loc))
    }

    type Given<'a> = E;

    fn give<'a>(given: Self::Given<'a>, name: Name<'_>, to: &mut Arguments<'a>) {
        to.push(name, Value::Number { dtype: E::TYPE, bits: given.bits() });
    }
}

impl KernelArg for () {
    fn declare(_: &mut ArgScope, _: &str, _: ArgOptions) -> Self {}

    type Given<'a> = ();

    fn give<'a>(_: (), _: Name<'_>, _: &mut Arguments<'a>) {}
}
