//! What kernel authors write: tiles, scalars, views, control flow, attention hooks.
