use leankv_dsl::lang::*;

#[kernel]
fn broken(n: i32, out: PtrMut<i32>) {
    out.set(0, n);
}

fn main() {}
