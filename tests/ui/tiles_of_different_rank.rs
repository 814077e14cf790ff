use leankv_dsl::lang::*;

#[kernel]
fn broken(x: View<f32, 2>, y: View<f32, 1>, out: ViewMut<f32, 2>) {
    let (x, y) = (x.tile((0, 0), [16, 16]).load(), y.tile(0, [16]).load());
    out.tile((0, 0), [16, 16]).store(x.max(y));
}

fn main() {}
