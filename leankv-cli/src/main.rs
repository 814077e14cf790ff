//! The `leankv` command.
fn main() {}
