//! What a kernel author sees when something is wrong: one file a rule in `tests/ui`, with the compiler's whole output beside it.
//!
//! Most messages are the macros' own; those that are rustc's hold for the toolchain that the workspace pins.
//! `TRYBUILD=overwrite cargo test -p leankv-dsl --test ui` accepts new output; review the difference.

#[test]
fn mistakes_of_kernel_authors() {
    trybuild::TestCases::new().compile_fail("../tests/ui/*.rs");
}
