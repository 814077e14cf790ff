//! Every mistake of one signature is reported at once.

use leankv_dsl::lang::*;

#[kernel]
async fn broken<'a, const N: usize>(self, x: View<f32, 1>) -> Tile<f32, 1> {
    x.tile(0, [N]).load()
}

fn main() {}
