use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut total = lit(0);
    for i in range(0, n) {
        total += i;
        break;
    }
    out.set(0, total);
}

fn main() {}
