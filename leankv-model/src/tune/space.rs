//! What a layer's low tier may be coded in.

use std::ops::RangeInclusive;

use leankv_dsl::format::{
    CodecSpec, FormatError, KvFormat, LayerFormats, PageLayout, Tiering, cache_page_bytes, normal_loss,
};
use leankv_kernels::policy::PolicySpec;
use serde::{Deserialize, Serialize};

use super::TuneError;
use super::front::{FrontPoint, LayerOption, front};
use crate::cache::{Always, KvChoice, Limit};

/// Codes of every width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codes {
    /// Symmetric with mid-rise levels, of rotated rows.
    MidRise,
    /// Symmetric with mid-tread levels.
    Symmetric,
    /// With a scale and a zero point.
    Affine,
}

/// What is chosen among: for every layer, a width for keys and one for values of its low tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Space {
    /// Bits of a code, from 1 to 8, rising: at least two.
    pub widths: Vec<u32>,
    /// Which codes.
    pub codes: Codes,
    /// The format of window and sinks, and of what a budget keeps high: the same in all layers.
    pub high: KvFormat,
    /// Tokens of the recent window.
    pub window: usize,
}

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

impl Part {
    /// Both.
    pub const BOTH: [Part; 2] = [Part::Keys, Part::Values];
}

/// Widths of keys and values, as numbers of [`Space::widths`].
pub(super) type Widths = [usize; 2];

/// A high threshold that no token reaches: a significance is at most 1, and no sequence has so many tokens.
const ALL_LOW: f32 = 1e9;

/// Parts of a byte in which costs are counted.
const UNITS: f64 = 8.0;

/// The default formats.
fn default_tiering() -> Tiering {
    *KvChoice::default_within(1.0).formats.usual()
}

impl Space {
    /// Mid-rise codes of 2 to 8 bits under the high tier of the [default formats](KvChoice::DEFAULT).
    #[must_use]
    pub fn usual() -> Space {
        let window = KvChoice::DEFAULT_ALWAYS.window;
        Space { widths: vec![2, 3, 4, 5, 6, 8], codes: Codes::MidRise, high: default_tiering().high, window }
    }

    /// Whether there is something to choose.
    ///
    /// # Errors
    /// [`TuneError::Space`].
    pub fn check(&self) -> Result<(), TuneError> {
        let rises = self.widths.windows(2).all(|pair| pair[0] < pair[1]);
        if self.widths.len() < 2 || !rises || self.widths.iter().any(|width| !(1..=8).contains(width)) {
            let why = format!(
                "widths {:?}: give at least two from 1 to 8, each once, in rising order",
                self.widths
            );
            return Err(TuneError::Space(why));
        }
        if self.window == 0 {
            return Err(TuneError::Space("a window has at least 1 token, the newest".to_owned()));
        }
        Ok(())
    }

    /// The format of these widths.
    pub(super) fn format(&self, [keys, values]: Widths) -> Result<KvFormat, TuneError> {
        let codec = |width: usize| match self.codes {
            Codes::MidRise => CodecSpec::mid_rise(self.widths[width], 1),
            Codes::Symmetric => CodecSpec::symmetric(self.widths[width], 1),
            Codes::Affine => CodecSpec::affine(self.widths[width], 1),
        };
        let wrong = |error: FormatError| TuneError::Space(error.to_string());
        Ok(KvFormat { key: codec(keys).map_err(wrong)?, value: codec(values).map_err(wrong)? })
    }

    /// The tiering of a layer with these widths.
    pub(super) fn tiering(&self, widths: Widths) -> Result<Tiering, TuneError> {
        Ok(Tiering::two(self.high, self.format(widths)?))
    }

    /// Formats of layers with these widths.
    pub(super) fn formats(&self, layers: &[Widths]) -> Result<LayerFormats, TuneError> {
        let tierings: Vec<Tiering> =
            layers.iter().map(|&widths| self.tiering(widths)).collect::<Result<_, _>>()?;
        Ok(LayerFormats::of_layers(&tierings))
    }

    /// A cache that drops nothing: all but window and sinks is low.
    pub(super) fn whole(&self, formats: LayerFormats) -> KvChoice {
        KvChoice {
            variants: None,
            limit: Limit::Thresholds([ALL_LOW, 0.0]),
            policy: PolicySpec::default().into(),
            always: Always { window: self.window, ..Always::default() },
            reconstruct: false,
            formats,
        }
    }

    /// A cache of a part of FP16, by the rules of the default formats.
    pub(super) fn within(&self, formats: LayerFormats, part: f32) -> KvChoice {
        let default = KvChoice::default_within(part);
        KvChoice { formats, always: Always { window: self.window, ..default.always }, ..default }
    }

    /// The widest codes of both.
    pub(super) fn widest(&self) -> Widths {
        [self.widths.len() - 1; 2]
    }

    /// Every pair of widths.
    pub(super) fn pairs(&self) -> impl Iterator<Item = Widths> + '_ {
        (0..self.widths.len()).flat_map(|keys| (0..self.widths.len()).map(move |values| [keys, values]))
    }

    /// How much of a Gaussian row's square codes of a width lose.
    pub(super) fn distortion(&self, width: usize, head_dim: usize) -> Result<f64, TuneError> {
        let format = self.format([width; 2])?;
        normal_loss(&format.key, head_dim).map_err(|error| TuneError::Space(error.to_string()))
    }

    /// What a token of a format costs, in [`UNITS`] of true bytes: in the pages that suit the widest and the narrowest codes.
    fn cost(&self, format: &KvFormat, head_dim: usize) -> Result<u64, TuneError> {
        let wrong = |error: FormatError| TuneError::Space(error.to_string());
        let d = u32::try_from(head_dim).unwrap_or(u32::MAX);
        let both = [self.tiering([0; 2])?, self.tiering(self.widest())?];
        let page = cache_page_bytes(&LayerFormats::of_layers(&both), d).map_err(wrong)?;
        let layout = PageLayout::derive(format, d, page).map_err(wrong)?;
        Ok((layout.account().true_bytes_per_token() * UNITS).round() as u64)
    }

    /// What a token of a low tier that is worth a trial costs: from two thirds of the default's to a sixth more. A budget keeps the more tokens the fewer bytes they take.
    pub(super) fn low_costs(&self, head_dim: usize, layers: usize) -> Result<RangeInclusive<u64>, TuneError> {
        let default = default_tiering();
        let cost = self.cost(&default.low.unwrap_or(default.high), head_dim)? * layers as u64;
        Ok(cost * 2 / 3..=cost * 7 / 6)
    }

    /// The front of all layers, by what each layer's codes lose: `[layers]`, of keys and of values, for each width.
    pub(super) fn front(
        &self,
        losses: &[[Vec<f64>; 2]],
        head_dim: usize,
    ) -> Result<Vec<(FrontPoint, Vec<Widths>)>, TuneError> {
        let pairs: Vec<Widths> = self.pairs().collect();
        let mut costs = Vec::with_capacity(pairs.len());
        for &pair in &pairs {
            costs.push(self.cost(&self.format(pair)?, head_dim)?);
        }
        let options = |of_layer: &[Vec<f64>; 2]| {
            let option = |(&[keys, values], &cost): (&Widths, &u64)| LayerOption {
                cost,
                loss: of_layer[0][keys] + of_layer[1][values],
            };
            pairs.iter().zip(&costs).map(option).collect::<Vec<_>>()
        };
        let layers: Vec<Vec<LayerOption>> = losses.iter().map(options).collect();
        let widths = |point: FrontPoint| {
            let of_layers = point.picks.iter().map(|&pick| pairs[pick]).collect();
            (point, of_layers)
        };
        Ok(front(&layers).into_iter().map(widths).collect())
    }
}
