use leankv_dsl::lang::*;

#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
struct Mine {
    #[spec(values = [128, 256])]
    block: usize,
}

#[kernel(space(block = [512]))]
fn broken(#[comptime] spec: Mine, out: ViewMut<f32, 1>) {
    out.tile(program_id(0), [spec.block]).store(0.0);
}

fn main() {}
