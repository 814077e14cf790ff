//! The formats that requests have, as the launches need them.

use leankv_dsl::format::{LayerFormats, Tiering};
use leankv_kernels::budget::LayerRungs;

use super::CacheConfig;
use super::batch::Run;
use crate::device::{BufferView, Device, DeviceBuffer, DeviceError};
use crate::kv::KvError;

/// The formats of [`CacheConfig::all_formats`], in that order.
#[derive(Debug)]
pub(super) struct AllFormats {
    all: Vec<OfRequest>,
    /// The numbers of the layers of every band, one band after another.
    numbers: DeviceBuffer<i32>,
}

/// The formats of a request.
#[derive(Debug)]
pub(super) struct OfRequest {
    pub(super) formats: LayerFormats,
    /// For each layer, which of [`CacheConfig::tierings`].
    pub(super) tierings: Vec<usize>,
    /// Tokens of a high and of a low page, `[layers, kv_heads]`; 0 for a low tier that a layer does not have.
    pub(super) page_tokens: Vec<[usize; 2]>,
    /// Where the thresholds of each layer stand, if a budget solves for them.
    pub(super) stands: Vec<LayerRungs>,
    /// Every layer is in one of them.
    pub(super) bands: Vec<Band>,
}

/// The layers of one tiering, which one launch takes together.
#[derive(Clone, Debug)]
pub(super) struct Band {
    pub(super) tiering: usize,
    /// In ascending order.
    pub(super) layers: Vec<usize>,
    /// Where their numbers begin on the device.
    first: usize,
}

impl AllFormats {
    pub(super) fn new(device: &Device, config: &CacheConfig) -> Result<AllFormats, KvError> {
        let tierings = config.tierings();
        let (mut all, mut numbers) = (Vec::new(), Vec::new());
        for formats in config.all_formats() {
            all.push(OfRequest::new(config, formats, &tierings, &mut numbers)?);
        }
        Ok(AllFormats { all, numbers: device.upload(&numbers)? })
    }

    /// Those with this number.
    pub(super) fn of(&self, formats: usize) -> &OfRequest {
        &self.all[formats]
    }

    /// The bands of every run, each with its number among those of its run.
    pub(super) fn bands<'a>(&'a self, runs: &'a [Run]) -> impl Iterator<Item = (&'a Run, usize, &'a Band)> {
        let of_run = |run: &'a Run| {
            let bands = self.of(run.formats).bands.iter().enumerate();
            bands.map(move |(at, band)| (run, at, band))
        };
        runs.iter().flat_map(of_run)
    }

    /// The numbers of a band's layers, `[layers]`.
    pub(super) fn numbers(&self, band: &Band) -> Result<BufferView<'_, i32>, DeviceError> {
        self.numbers.slice(band.first..band.first + band.layers.len())
    }
}

impl OfRequest {
    fn new(
        config: &CacheConfig,
        formats: &LayerFormats,
        all: &[Tiering],
        numbers: &mut Vec<i32>,
    ) -> Result<OfRequest, KvError> {
        let usual = formats.usual();
        let (mut tierings, mut page_tokens, mut stands) = (Vec::new(), Vec::new(), Vec::new());
        for layer in 0..config.layers {
            let tiering = formats.of(layer);
            // They are those of all formats.
            tierings.push(all.iter().position(|known| known == tiering).unwrap_or_default());
            let [in_high, in_low] = config.page_tokens(tiering)?;
            let pair = [in_high, if tiering.low.is_some() { in_low } else { 0 }];
            page_tokens.extend(vec![pair; config.kv_heads]);
            let (lift, gap) = (config.lift_of(tiering, usual)?, config.gap_of(tiering)?);
            stands.push(LayerRungs { lift, gap: gap as i32 });
        }
        let mut bands = Vec::new();
        for tiering in 0..all.len() {
            let layers: Vec<usize> = (0..config.layers).filter(|&layer| tierings[layer] == tiering).collect();
            if !layers.is_empty() {
                let first = numbers.len();
                numbers.extend(layers.iter().map(|&layer| layer as i32));
                bands.push(Band { tiering, layers, first });
            }
        }
        Ok(OfRequest { formats: formats.clone(), tierings, page_tokens, stands, bands })
    }
}

impl Band {
    /// Each of its layers as a band of its own.
    pub(super) fn single(&self) -> impl Iterator<Item = Band> + '_ {
        let one = |(at, &layer)| Band { tiering: self.tiering, layers: vec![layer], first: self.first + at };
        self.layers.iter().enumerate().map(one)
    }
}
