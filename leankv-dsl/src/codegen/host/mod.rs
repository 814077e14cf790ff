//! The production CPU back end.
