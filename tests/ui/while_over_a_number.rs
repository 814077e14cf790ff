use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut left = n;
    while left {
        left -= 1;
    }
    out.set(0, left);
}

fn main() {}
