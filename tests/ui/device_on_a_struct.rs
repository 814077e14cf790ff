use leankv_dsl::lang::*;

#[device]
struct Broken {
    sum: Scalar<f32>,
}

fn main() {}
