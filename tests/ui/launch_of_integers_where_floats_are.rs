use leankv_dsl::lang::*;
use leankv_dsl::workload::{Workload, given};

#[kernel]
fn widen(#[comptime] input: FloatType, #[arg(element = input)] x: FloatView<1>, out: ViewMut<f32, 1>) {
    out.tile(0, [64]).store(x.tile(0, [64]).load::<f32>());
}

fn main() {
    let (x, out) = (given(&[1i32; 64]), given(&[0.0f32; 64]));
    let args = WidenArgs { x: x.tensor([64]).into(), out: out.tensor_mut([64]) };
    Workload::of::<widen>([1, 1, 1], args);
}
