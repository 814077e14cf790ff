//! What can go wrong, as Python sees it.

use leankv_runtime::kv::{KvError, Refused};
use pyo3::create_exception;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

create_exception!(
    leankv,
    LeanKvError,
    PyRuntimeError,
    "A cache refused something; its text says what to do."
);
create_exception!(
    leankv,
    OutOfPages,
    LeanKvError,
    "Too few pages are free: free or preempt a request and try again. No token was touched."
);
create_exception!(
    leankv,
    RequestError,
    LeanKvError,
    "One request is to blame, and nothing was changed; `handle` is its handle."
);

/// What went wrong, before it is an exception.
#[derive(Debug)]
pub(crate) enum Failure {
    /// One request is to blame.
    Request { handle: i64, why: String },
    /// An argument means nothing.
    Argument(String),
    /// A request of the step was freed.
    Freed,
    /// The cache refused.
    Cache(KvError),
    /// An earlier call panicked.
    Broken,
    /// The process is a fork of one in which kernels may have run.
    Forked,
}

impl Failure {
    pub(crate) fn into_py(self, py: Python<'_>) -> PyErr {
        match self {
            Failure::Request { handle, why } => of_request(py, handle, &why),
            Failure::Argument(why) => value(why),
            Failure::Freed => LeanKvError::new_err(
                "a request of this step was freed, so the step cannot go on; the others of it can only be freed, unless no layer was done",
            ),
            Failure::Cache(error @ KvError::Refused(Refused::OutOfPages(_))) => {
                OutOfPages::new_err(error.to_string())
            }
            Failure::Cache(error) => LeanKvError::new_err(one_line(&error.to_string())),
            Failure::Broken => LeanKvError::new_err(
                "an earlier call ended with an internal error, so what the cache holds is not known; make a new one",
            ),
            Failure::Forked => LeanKvError::new_err(
                "kernels' threads do not live on in a forked process; start processes with the method \"spawn\", or make the first cache in the fork",
            ),
        }
    }
}

/// A text or a number that means nothing.
pub(crate) fn value(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(one_line(&error.to_string()))
}

/// The error of one request.
fn of_request(py: Python<'_>, handle: i64, why: &str) -> PyErr {
    let error = RequestError::new_err(format!("request {handle}: {}", one_line(why)));
    // A handle that cannot be set is still in the text.
    let _ = error.value(py).setattr("handle", handle);
    error
}

/// A message of several lines as one.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
