//! What decode attention costs a token with codecs that are written in this crate, each beside its bar.
//!
//! ```text
//! cargo bench -p leankv-model --bench bars
//! ```

#[allow(dead_code, reason = "not every bench needs all of it")]
#[path = "../../leankv-runtime/benches/common/mod.rs"]
mod common;
#[allow(dead_code, reason = "not every bench needs all of it")]
#[path = "../../leankv-runtime/benches/common/decode.rs"]
mod decode;

use half::f16;
use leankv_dsl::lang::attention::{ChosenCodecs, ChosenHooks, CodecChoice, PagedKv};
use leankv_dsl::lang::{Choices, Spec, TypedKernel};
use leankv_dsl::workload::given;
use leankv_kernels::decode::{DecodeSpec, decode_attention};
use leankv_kernels::workload::{Size, recipe};
use leankv_model::variants::{Hadamard, KeyOffset, KeyOffsetArgs, KeyOffsetTables};
use leankv_model::{Rope, RopeConfig, RopePairs};
use leankv_runtime::Device;

use common::{Outcome, settings};

const HEAD_DIM: usize = 128;
const POSITIONS: usize = 8192;

fn main() -> Outcome<()> {
    let pairs = [("tiering", "K4V4")];
    let rope = Rope::new(&RopeConfig::plain(1e6), HEAD_DIM, RopePairs::Halves, None);
    let bias = vec![1.0f32; HEAD_DIM];
    let tables = KeyOffsetTables::new(&Device::host(), vec![bias.clone()], [1, HEAD_DIM], &rope, POSITIONS)?;
    let codecs = CodecChoice::stock().with("hadamard", Hadamard).with("offset", tables);
    let choices = Choices::new().with(codecs);
    let kernel = decode_attention::<ChosenCodecs, ChosenHooks, PagedKv>::KERNEL;
    let func = kernel
        .build_with(&DecodeSpec::from_settings(&settings(&pairs))?, &choices)
        .map_err(|e| e.to_string())?;
    // Which angles they are costs nothing.
    let angles = vec![f16::from_f32(0.5); POSITIONS * HEAD_DIM];
    let workload = |tokens: usize| {
        let recipe = recipe("decode_attention")?;
        let asked = [("requests", 1), ("kv_heads", 1), ("tokens", tokens)];
        let sizes = recipe.sizes(Size::Typical, &asked.map(|(name, n)| (name.to_owned(), n)))?;
        let offset = KeyOffsetArgs {
            rope: given(&angles).tensor([POSITIONS, HEAD_DIM]),
            bias: given(&bias).tensor([1, HEAD_DIM]),
        };
        Ok(recipe.make(&settings(&pairs), &sizes, 1)?.with::<KeyOffset>("codecs.offset", offset))
    };
    let gpus = decode::GPUS.map(|gpu| decode::token(&func, gpu, workload));
    let tokens = gpus.into_iter().collect::<Outcome<Vec<_>>>()?;
    common::print(&decode::rows("decode K4V4 with offset and Hadamard", 40.0, &tokens));
    Ok(())
}
