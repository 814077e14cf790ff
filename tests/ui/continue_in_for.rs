use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    for i in range(0, n) {
        out.set(i, i);
        continue;
    }
}

fn main() {}
