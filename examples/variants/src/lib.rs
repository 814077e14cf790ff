//! Compression variants and policies of one's own, one file each. Nothing else is edited for them: what this crate puts into a
//! [`Registry`] works in the cache, in the evaluation and in every command that takes `--kv`.
//!
//! | text of a cache | what it does | from |
//! |---|---|---|
//! | `k4v4+nf4` | 4-bit codes into the levels of a normal distribution | QLoRA (arXiv 2305.14314) |
//! | `k8v8+fp8` | 8-bit floats e4m3 with a scale a row | OCP 8-bit floating point |
//! | `k4v4+outlier` | the largest element of a row beside its codes, in FP16 | KVQuant (arXiv 2401.18079), a row at a time |
//! | `k8v4/k4v2@1/5:snapkv` | significance pooled over neighbours before it is judged | SnapKV (arXiv 2404.14469) |
//! | `k8v4/k4v2@1/5:value-norm` | significance times the norm of a token's value | VATP (arXiv 2406.12335) |
//! | `k8v4@1,0:duo` | some heads keep everything, the others sinks and window | DuoAttention (arXiv 2410.10819) |

pub mod duo;
pub mod fp8;
pub mod nf4;
pub mod outlier;
pub mod snapkv;
pub mod value_norm;

use leankv_model::ModelError;
use leankv_model::cache::{Registry, RegistryError, Stage};
use leankv_runtime::kv::KvError;

/// What this project has, and the variants and policies of this crate.
///
/// # Errors
/// When a name is taken.
pub fn registry() -> Result<Registry, RegistryError> {
    let no_room = |error| ModelError::from(KvError::from(error));
    Registry::builtin()
        .codecs(
            "nf4",
            "4-bit codes into the levels of a normal distribution",
            Stage::Codes,
            move |context| nf4::Nf4::new(context.device).map_err(no_room),
        )?
        .codecs("fp8", "8-bit floats e4m3 with a scale a row", Stage::Codes, |_| Ok(fp8::Fp8))?
        .codecs("outlier", "the largest element of a row beside its codes", Stage::Shift, |_| {
            Ok(outlier::Outlier)
        })?
        .policy("snapkv", "significance pooled over neighbours", |_| Ok(snapkv::SnapKv { reach: 3 }))?
        .policy("value-norm", "significance times the norm of the value", |_| Ok(value_norm::ValueNorm))?
        .policy("duo", "every other head keeps everything", move |context| {
            let config = context.model.config();
            let keeps = (0..config.layers * config.kv_heads).map(|head| head % 2 == 0).collect();
            duo::Duo::new(context.device, keeps, [config.layers, config.kv_heads]).map_err(no_room)
        })
}
