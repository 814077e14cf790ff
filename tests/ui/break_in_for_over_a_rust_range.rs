use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut total = n;
    for i in 0..4 {
        if i == 2 {
            break;
        }
        total += i;
    }
    out.set(0, total);
}

fn main() {}
