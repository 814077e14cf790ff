use leankv_dsl::lang::*;

#[kernel]
fn broken(hooks: impl Fn(), out: PtrMut<i32>) {
    out.set(0, 1);
}

fn main() {}
