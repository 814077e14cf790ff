use leankv_dsl::lang::*;

#[kernel]
fn broken(a: View<half::f16, 2>, b: View<f32, 2>, out: ViewMut<f32, 2>) {
    let acc = Tile::zeros([16, 16]);
    let (a, b) = (a.tile((0, 0), [16, 16]).load(), b.tile((0, 0), [16, 16]).load());
    out.tile((0, 0), [16, 16]).store(a.dot(b, acc));
}

fn main() {}
