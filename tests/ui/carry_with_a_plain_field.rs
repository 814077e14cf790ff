use leankv_dsl::lang::*;

#[derive(Clone, Copy, Carry)]
struct Broken {
    sum: Scalar<f32>,
    width: usize,
}

fn main() {}
