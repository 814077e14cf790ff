use leankv_dsl::lang::*;

#[kernel]
fn broken(#[comptime] count: usize, out: PtrMut<i32>) {
    for i in range(0, count) {
        out.set(i, i);
    }
}

fn main() {}
