use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    let chosen;
    if n.gt(0) {
        chosen = n;
    } else {
        chosen = lit(0);
    }
    out.set(0, chosen);
}

fn main() {}
