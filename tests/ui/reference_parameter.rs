use leankv_dsl::lang::*;

#[kernel]
fn broken(x: &View<f32, 1>, out: PtrMut<f32>) {
    out.set(0, x.ptr().get(0));
}

fn main() {}
