use leankv_dsl::lang::*;

#[kernel]
fn broken(x: View<f32, 2>, out: ViewMut<f32, 1>) {
    let row = x.tile(program_id(0), [16, 16]).load();
    out.tile(0, [16]).store(row.reduce_sum(1));
}

fn main() {}
