use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut found = false;
    if n.gt(0) {
        found = true;
    }
    out.set(0, i32::from(found));
}

fn main() {}
