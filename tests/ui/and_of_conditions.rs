use leankv_dsl::lang::*;

#[kernel]
fn broken(#[comptime] on: bool, n: Scalar<i32>, out: PtrMut<i32>) {
    if on && n.gt(0) {
        out.set(0, 1);
    }
    if n.gt(0) || n.lt(-5) {
        out.set(0, 1);
    }
}

fn main() {}
