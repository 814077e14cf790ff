//! The file that statistics of a model are kept in.

use std::path::{Path, PathBuf};

use leankv_runtime::kv::Means;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{Probe, Statistics};
use crate::config::ModelConfig;
use crate::settings::replace;

/// What to do about a file that is damaged, or of an earlier version.
const AGAIN: &str = "`leankv calibrate --model MODEL --only statistics` measures it again and replaces it";
/// What to do where a file cannot be written.
const ELSEWHERE: &str =
    "statistics stand beside the file of settings: name one in another folder with `--settings`";

/// Why a file of statistics cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}\n  {advice}", path.display())]
pub struct StatisticsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
    /// What to do.
    pub advice: &'static str,
}

/// Where the statistics of a model are kept beside a file of settings.
#[must_use]
pub fn path_of(settings: &Path, model: &str) -> PathBuf {
    settings.with_file_name(format!("leankv.{model}.safetensors"))
}

impl Statistics {
    /// Reads a file; `None` where there is none.
    ///
    /// # Errors
    /// [`StatisticsError`] for a file that cannot be read, or is of another model.
    pub fn read(path: &Path, config: &ModelConfig) -> Result<Option<Statistics>, StatisticsError> {
        let wrong = |why: String| StatisticsError { path: path.to_owned(), why, advice: AGAIN };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
        let read = |name: &str, shape: &[usize]| {
            let tensor = tensors.tensor(name).map_err(|e| wrong(e.to_string()))?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
                let (dtype, got) = (tensor.dtype(), tensor.shape());
                return Err(wrong(format!(
                    "`{name}` is {dtype:?} {got:?}, and this model's is F32 {shape:?}"
                )));
            }
            let numbers: Vec<f32> =
                tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            match numbers.iter().all(|x| x.is_finite()) {
                true => Ok(numbers),
                false => Err(wrong(format!("`{name}` holds what is no finite number"))),
            }
        };
        let ModelConfig { layers, kv_heads, head_dim, .. } = *config;
        let of_heads = [layers, kv_heads, head_dim];
        let weights = read("probe", &[layers, kv_heads, Probe::features(head_dim)])?;
        Ok(Some(Statistics {
            means: Means { keys: read("key_means", &of_heads)?, values: read("value_means", &of_heads)? },
            probe: Probe { head_dim, kv_heads, weights },
        }))
    }

    /// Writes a file, in one move.
    ///
    /// # Errors
    /// [`StatisticsError`] where it cannot be written.
    pub fn write(&self, path: &Path, config: &ModelConfig) -> Result<(), StatisticsError> {
        let wrong = |why: String| StatisticsError { path: path.to_owned(), why, advice: ELSEWHERE };
        let ModelConfig { layers, kv_heads, head_dim, .. } = *config;
        let tensors = [
            ("key_means", &self.means.keys, vec![layers, kv_heads, head_dim]),
            ("probe", &self.probe.weights, vec![layers, kv_heads, Probe::features(head_dim)]),
            ("value_means", &self.means.values, vec![layers, kv_heads, head_dim]),
        ];
        let bytes = tensors.map(|(name, numbers, shape)| {
            (name, numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(), shape)
        });
        let views = bytes.iter().map(|(name, bytes, shape)| {
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (*name, view))
        });
        let views: Vec<_> = views.collect::<Result<_, _>>().map_err(|e| wrong(e.to_string()))?;
        let file = safetensors::serialize(views, None).map_err(|e| wrong(e.to_string()))?;
        replace(path, &file).map_err(|e| wrong(e.to_string()))
    }
}
