use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut stack = vec![n];
    while let Some(top) = stack.pop() {
        out.set(0, top);
    }
}

fn main() {}
