use leankv_dsl::lang::*;

#[kernel]
fn broken(#[comptime] scale: f32, out: PtrMut<f32>) {
    out.set(0, scale);
}

fn main() {}
