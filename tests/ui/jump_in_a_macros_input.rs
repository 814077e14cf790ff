use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    macro_rules! guarded {
        ($($body:tt)*) => { $($body)* };
    }
    for i in range(0, n) {
        guarded! { out.set(i, i); return; }
    }
}

fn main() {}
