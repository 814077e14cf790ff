//! The reference executor: it defines the meaning of the IR.
