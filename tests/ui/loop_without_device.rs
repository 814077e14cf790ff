use leankv_dsl::lang::*;

fn helper(n: Scalar<i32>, out: PtrMut<i32>) {
    for i in range(0, n) {
        out.set(i, i);
    }
}

#[kernel]
fn kernel(n: Scalar<i32>, out: PtrMut<i32>) {
    helper(n, out);
}

fn main() {}
