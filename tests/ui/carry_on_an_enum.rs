use leankv_dsl::lang::*;

#[derive(Clone, Copy, Carry)]
enum Broken {
    One(Scalar<f32>),
    Two(Scalar<f32>, Scalar<f32>),
}

fn main() {}
