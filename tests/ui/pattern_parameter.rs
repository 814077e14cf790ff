use leankv_dsl::lang::*;

#[kernel]
fn broken((a, b): (Scalar<i32>, Scalar<i32>), out: PtrMut<i32>) {
    out.set(0, a + b);
}

fn main() {}
