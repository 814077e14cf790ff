use leankv_dsl::lang::*;

#[kernel]
struct Broken {
    block: usize,
}

fn main() {}
