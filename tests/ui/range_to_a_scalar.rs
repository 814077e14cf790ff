use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    for i in 0..n {
        out.set(0, i);
    }
}

fn main() {}
