use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    match n {
        0 => out.set(0, 1),
        _ => out.set(0, 2),
    }
}

fn main() {}
