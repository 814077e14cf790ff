use leankv_dsl::lang::*;

#[kernel]
fn broken(x: Scalar<f32>, out: PtrMut<i32>) {
    out.set(0, x.gt(1).cast::<i32>());
}

fn main() {}
