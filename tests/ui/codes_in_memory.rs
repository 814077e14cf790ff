use leankv_dsl::lang::*;

#[kernel]
fn broken(x: Ptr<Code>, out: PtrMut<i32>) {
    out.set(0, 1);
}

fn main() {}
