use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut weights = [1, 2, 3].into_iter();
    for i in range(0, n) {
        out.set(i, weights.next().unwrap_or(0));
    }
}

fn main() {}
