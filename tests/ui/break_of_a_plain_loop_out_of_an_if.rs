use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    loop {
        if n.gt(0) {
            out.set(0, n);
            break;
        }
    }
}

fn main() {}
