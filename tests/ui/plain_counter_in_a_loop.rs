use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut turns = 0u32;
    for i in range(0, n) {
        turns += 1;
        out.set(i, i);
    }
    out.set(0, turns as i32);
}

fn main() {}
