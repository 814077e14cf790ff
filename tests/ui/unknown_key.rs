use leankv_dsl::lang::*;

#[kernel(spaces(block = [128, 256]))]
fn broken(#[comptime] block: usize, out: ViewMut<f32, 1>) {
    out.tile(program_id(0), [block]).store(0.0);
}

fn main() {}
