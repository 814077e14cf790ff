use leankv_dsl::lang::*;
use leankv_dsl::workload::{Workload, given};

#[kernel]
fn scale(x: View<f32, 2>, by: Scalar<f32>, out: ViewMut<f32, 2>) {
    let at = (program_id(0), 0);
    out.tile(at, [1, 64]).store(x.tile(at, [1, 64]).load() * by);
}

fn main() {
    let (x, out) = (given(&[1.0f32; 64]), given(&[0.0f32; 64]));
    let args = ScaleArgs { x: x.tensor([64]), by: 2.0, out: out.tensor_mut([1, 64]) };
    Workload::of::<scale>([1, 1, 1], args);
}
