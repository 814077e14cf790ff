//! Codecs as a user of the kernel language writes them: one file each, around whatever codec a tier's format names.
//!
//! | codec | what it does to keys before they are coded |
//! |---|---|
//! | [`KeyOffsetTables`] | takes out the rotated bias of their projection |
//! | [`Hadamard`] | rotates them, so that no element is much larger than the others |
//!
//! They compose: after the offset, a rotation is one of what is left without the bias. Both store what the inner codec stores, so they add no byte to a
//! token and page layouts stay those of the formats that are named.

mod hadamard;
mod key_offset;
mod tables;

pub use hadamard::Hadamard;
pub use key_offset::{KeyOffset, KeyOffsetArgs};
pub use tables::KeyOffsetTables;

use std::sync::Arc;

use leankv_runtime::kv::Basis;

use crate::ModelError;
use crate::cache::{Registry, RegistryError, Stage};

/// Adds the variants that `--kv` knows by name. A new one is a file of this folder and an entry here.
pub(crate) fn add(registry: Registry) -> Result<Registry, RegistryError> {
    registry
        .codecs(
            "offset",
            "takes the bias of the key projection (Qwen2.5) out of keys",
            Stage::Shift,
            KeyOffsetTables::of_model,
        )?
        .codecs(
            "hadamard",
            "rotates keys, so that no element is much larger than the others",
            Stage::Basis,
            |_| Ok(Hadamard),
        )?
        .basis(
            "rotated",
            "rotates keys and values before they meet the cache, and the output back",
            |_, basis| Ok(Basis { rotated: true, ..basis }),
        )?
        .basis(
            "centred",
            "takes each head's mean key and mean value out, as `leankv calibrate` found them",
            |context, basis| match context.model.statistics() {
                Some(statistics) => Ok(Basis { means: Some(Arc::new(statistics.means.clone())), ..basis }),
                None => {
                    let why = "no means are known of this model: measure them with `leankv calibrate --only statistics`, or leave +centred out";
                    Err(ModelError::Refused(why.to_owned()))
                }
            },
        )
}
