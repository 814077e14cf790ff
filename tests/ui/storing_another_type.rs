use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<f32>) {
    out.set(0, n);
}

fn main() {}
