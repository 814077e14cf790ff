//! The same attention by PyTorch, where that is installed: one process, a small script.

use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::sizes::Sizes;

const SCRIPT: &str = include_str!("sdpa.py");

/// What PyTorch did.
#[derive(Serialize, Deserialize)]
pub(crate) struct Torch {
    /// Its version.
    pub(crate) version: String,
    pub(crate) times: Vec<TorchTimed>,
}

/// `scaled_dot_product_attention` of one query token over one batch in FP16, of one layer.
#[derive(Serialize, Deserialize)]
pub(crate) struct TorchTimed {
    pub(crate) batch: usize,
    pub(crate) length: usize,
    /// `None` where it has no room, or failed.
    pub(crate) microseconds: Option<f64>,
}

/// The times, where there is PyTorch with a GPU.
pub(crate) fn run(sizes: &Sizes) -> Option<Torch> {
    let sizes = serde_json::json!({
        "kv_heads": sizes.kv_heads, "group": 4, "head_dim": 128, "batches": sizes.batches, "lengths": sizes.lengths,
        "cold_bytes": sizes.cold_bytes, "launches": sizes.launches, "measurements": sizes.measurements,
    });
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT, &sizes.to_string()]).stderr(Stdio::null());
    let output = python.output().ok().filter(|output| output.status.success())?;
    serde_json::from_slice(&output.stdout).ok()
}
