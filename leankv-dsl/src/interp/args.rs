//! Arguments of a launch and whether they fit.

use std::rc::Rc;

use half::{bf16, f16};

use super::access::Pointer;
use super::data::Data;
use super::exec::Val;
use super::memory::{BufferId, Memory};
use crate::ir::{Dtype, Func, Type};

/// One argument.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Arg {
    /// For a pointer: a buffer and the byte in it that the pointer points to.
    Buffer(BufferId, usize),
    /// For a scalar.
    Scalar(ScalarValue),
}

impl<T: Into<ScalarValue>> From<T> for Arg {
    fn from(value: T) -> Arg {
        Arg::Scalar(value.into())
    }
}

macro_rules! scalar_value {
    ($($variant:ident($ty:ty)),*) => {
        /// A scalar of any plain element type.
        #[derive(Clone, Copy, PartialEq, Debug)]
        pub enum ScalarValue {
            $(#[doc = concat!("`", stringify!($ty), "`.")] $variant($ty),)*
        }

        $(impl From<$ty> for ScalarValue {
            fn from(value: $ty) -> ScalarValue { ScalarValue::$variant(value) }
        })*

        impl ScalarValue {
            /// Its element type.
            pub fn dtype(self) -> Dtype {
                match self { $(ScalarValue::$variant(_) => Dtype::$variant,)* }
            }

            fn data(self) -> Data {
                match self { $(ScalarValue::$variant(value) => Data::$variant(vec![value]),)* }
            }
        }
    };
}

scalar_value! {
    I1(bool), I8(i8), I16(i16), I32(i32), I64(i64), U8(u8), U16(u16), U32(u32), U64(u64),
    F16(f16), BF16(bf16), F32(f32), F64(f64)
}

/// Why an argument does not fit.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum ArgError {
    /// Too many or too few.
    #[error("kernel `{kernel}` takes {expected} arguments, not {given}")]
    Count {
        /// The kernel.
        kernel: String,
        /// Its number of parameters.
        expected: usize,
        /// The number of arguments.
        given: usize,
    },
    /// A scalar for a pointer, a buffer for a scalar, or a scalar of another type.
    #[error("argument `{param}` must be {expected}, not {given}")]
    Kind {
        /// The parameter.
        param: String,
        /// What it takes.
        expected: String,
        /// What was given.
        given: String,
    },
    /// The buffer is not of this memory.
    #[error("argument `{param}`: no such buffer in this memory")]
    UnknownBuffer {
        /// The parameter.
        param: String,
    },
    /// The pointer starts outside its buffer.
    #[error("argument `{param}` starts at byte {byte} of a buffer of {buffer_bytes} bytes")]
    Offset {
        /// The parameter.
        param: String,
        /// Where it starts.
        byte: usize,
        /// The buffer's length.
        buffer_bytes: usize,
    },
    /// The kernel was specialised for multiples of something else.
    #[error("argument `{param}` is {value}, but the kernel was specialised for multiples of {multiple_of}")]
    Multiple {
        /// The parameter.
        param: String,
        /// Its value; for a pointer, the byte in the buffer.
        value: i128,
        /// What it must be a multiple of.
        multiple_of: u64,
    },
}

/// The values of the kernel's parameters.
pub(crate) fn bind(func: &Func, args: &[Arg], memory: &Memory) -> Result<Vec<Val>, Vec<ArgError>> {
    if args.len() != func.params.len() {
        let kernel = func.name.clone();
        return Err(vec![ArgError::Count { kernel, expected: func.params.len(), given: args.len() }]);
    }
    let mut errors = Vec::new();
    let mut values = Vec::new();
    for (i, (param, arg)) in func.params.iter().zip(args).enumerate() {
        match bind_one(&param.name, &param.ty, param.multiple_of, i as u32, *arg, memory) {
            Ok(value) => values.push(value),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(values) } else { Err(errors) }
}

fn bind_one(
    name: &str,
    ty: &Type,
    multiple_of: u64,
    index: u32,
    arg: Arg,
    memory: &Memory,
) -> Result<Val, ArgError> {
    let param = || name.to_owned();
    let multiple = |value: i128| match multiple_of > 1 && value % i128::from(multiple_of) != 0 {
        true => Err(ArgError::Multiple { param: param(), value, multiple_of }),
        false => Ok(()),
    };
    match (ty, arg) {
        (Type::Ptr { .. }, Arg::Buffer(buffer, byte)) => {
            let Some(found) = memory.get(buffer) else {
                return Err(ArgError::UnknownBuffer { param: param() });
            };
            if byte > found.bytes.len() {
                return Err(ArgError::Offset { param: param(), byte, buffer_bytes: found.bytes.len() });
            }
            multiple(byte as i128)?;
            Ok(Val::Ptr(Pointer { buffer, byte: byte as i64, param: index }))
        }
        (Type::Tile { dtype, shape }, Arg::Scalar(value)) if shape.rank() == 0 && *dtype == value.dtype() => {
            let integer = match value {
                ScalarValue::U64(value) => Some(value.into()),
                other => other.data().as_int().map(i128::from),
            };
            integer.map_or(Ok(()), multiple)?;
            Ok(Val::Tile(Rc::new(value.data())))
        }
        _ => Err(ArgError::Kind {
            param: param(),
            expected: match ty {
                Type::Ptr { .. } => "a buffer".to_owned(),
                other => format!("a scalar of type `{other}`"),
            },
            given: match arg {
                Arg::Buffer(..) => "a buffer".to_owned(),
                Arg::Scalar(value) => format!("a scalar of type `{}`", value.dtype()),
            },
        }),
    }
}

/// Whether two parameters point into one buffer.
pub(crate) fn may_alias(args: &[Arg]) -> bool {
    let buffers = || {
        args.iter().filter_map(|arg| match arg {
            Arg::Buffer(id, _) => Some(*id),
            Arg::Scalar(_) => None,
        })
    };
    buffers().enumerate().any(|(i, id)| buffers().skip(i + 1).any(|other| other == id))
}
