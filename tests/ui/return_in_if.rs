use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    if n.gt(0) {
        out.set(0, n);
        return;
    }
    out.set(0, 1);
}

fn main() {}
