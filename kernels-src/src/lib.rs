//! Every shipped kernel.
