use leankv_dsl::lang::*;

struct State {
    sum: Scalar<i32>,
}

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut state = State { sum: lit(0) };
    for i in range(0, n) {
        state.sum += i;
    }
    out.set(0, state.sum);
}

fn main() {}
