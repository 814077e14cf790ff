//! What can go wrong, as Python sees it.

use leankv_model::ModelError;
use leankv_runtime::kv::{KvError, Refused, RequestId};
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

/// A text or a number that means nothing.
pub(crate) fn value(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(one_line(&error.to_string()))
}

/// What a model's cache says of a choice.
pub(crate) fn choice(error: ModelError) -> PyErr {
    value(error)
}

/// The error of one request.
pub(crate) fn of_request(py: Python<'_>, handle: i64, why: &str) -> PyErr {
    let error = RequestError::new_err(format!("request {handle}: {}", one_line(why)));
    // A handle that cannot be set is still in the text.
    let _ = error.value(py).setattr("handle", handle);
    error
}

/// What a cache says. `handle` tells a request's handle.
pub(crate) fn cache(py: Python<'_>, error: KvError, handle: impl Fn(RequestId) -> Option<i64>) -> PyErr {
    let named = match &error {
        KvError::NoRequest { id }
        | KvError::Torn { id }
        | KvError::PromptPending { id, .. }
        | KvError::PromptDone { id }
        | KvError::Full { id, .. } => handle(*id),
        _ => None,
    };
    match (&error, named) {
        (_, Some(handle)) => of_request(py, handle, &error.to_string()),
        (KvError::Refused(Refused::OutOfPages(_)), _) => OutOfPages::new_err(error.to_string()),
        _ => LeanKvError::new_err(one_line(&error.to_string())),
    }
}

/// A message of several lines as one.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
