use leankv_dsl::lang::*;

#[kernel]
fn broken(x: Scalar<f32>, n: Scalar<i32>, out: PtrMut<f32>) {
    out.set(0, x + n);
}

fn main() {}
