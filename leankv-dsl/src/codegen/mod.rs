//! LLVM code generation; the only place where inkwell appears.
