use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut total = lit(0);
    let mut add = |x: Scalar<i32>| total += x;
    for i in range(0, n) {
        add(i);
    }
    out.set(0, total);
}

fn main() {}
