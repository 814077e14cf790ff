//! Writing expansions; each file has a namesake in `parse`.

pub(crate) mod control;
pub(crate) mod derive;
pub(crate) mod device;
pub(crate) mod kernel;
pub(crate) mod spec;
