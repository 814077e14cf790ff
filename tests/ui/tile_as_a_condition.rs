use leankv_dsl::lang::*;

#[kernel]
fn broken(x: View<f32, 1>, out: PtrMut<i32>) {
    let row = x.tile(0, [16]).load();
    if row.gt(0.0) {
        out.set(0, 1);
    }
}

fn main() {}
