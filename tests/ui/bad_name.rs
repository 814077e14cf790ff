use leankv_dsl::lang::*;

#[kernel(name = "8-bit")]
fn broken(out: PtrMut<f32>) {
    out.set(0, 0.0);
}

fn main() {}
