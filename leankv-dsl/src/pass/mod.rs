//! IR to IR transformations, one file a pass.
