use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, x: View<f32, 1>, out: PtrMut<f32>) {
    if n > 3 {
        out.set(0, 1.0);
    }
    for i in range(0, n) {
        out.set(i, i as f32);
    }
    // Words do not tell what these are; the missing trait is named after what to write.
    let width = x.extent(0);
    if width >= 4 {
        out.set(1, 2.0);
    }
}

fn main() {}
