use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut total = lit(0);
    while total.lt(n) {
        total += 1;
        break;
    }
    out.set(0, total);
}

fn main() {}
