use leankv_dsl::lang::*;

#[kernel]
fn broken(x: Scalar<f32>, out: PtrMut<i32>) {
    if x {
        out.set(0, 1);
    }
}

fn main() {}
