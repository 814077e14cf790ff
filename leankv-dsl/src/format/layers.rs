//! Formats that differ from layer to layer, and their text.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{FormatError, KvFormat, Tiering};

/// The tiering of every layer of a model: the usual one, and those of layers that have another.
///
/// Named `USUAL[;LAYERS=TIERING]...`, with layers counted from 0 and separated by commas, such as `K8V4/K4V2`, `K8V4/K4V2;0,27=K8V8`
/// and `K4V4;3-5,9=K4V2;0=fp16`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerFormats {
    usual: Tiering,
    /// Layers of another tiering than the usual one.
    others: BTreeMap<usize, Tiering>,
}

impl LayerFormats {
    /// The tiering of each of a model's layers, the first layer first; the usual one is that of most.
    ///
    /// # Panics
    /// Without a layer.
    #[must_use]
    pub fn of_layers(layers: &[Tiering]) -> Self {
        let mut counts: BTreeMap<Tiering, usize> = BTreeMap::new();
        for tiering in layers {
            *counts.entry(*tiering).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|&(_, count)| count);
        let (usual, _) = most.expect("a model has layers");
        let formats = Self::from(usual);
        layers.iter().enumerate().fold(formats, |formats, (layer, tiering)| formats.with(layer, *tiering))
    }

    /// The same but for one layer.
    #[must_use]
    pub fn with(mut self, layer: usize, tiering: Tiering) -> Self {
        if tiering == self.usual {
            self.others.remove(&layer);
        } else {
            self.others.insert(layer, tiering);
        }
        self
    }

    /// The tiering of layers that are not named.
    #[must_use]
    pub fn usual(&self) -> &Tiering {
        &self.usual
    }

    /// The tiering of a layer.
    #[must_use]
    pub fn of(&self, layer: usize) -> &Tiering {
        self.others.get(&layer).unwrap_or(&self.usual)
    }

    /// Every tiering once: the usual one, then others by their first layer.
    #[must_use]
    pub fn tierings(&self) -> Vec<Tiering> {
        let mut all = vec![self.usual];
        for tiering in self.others.values() {
            if !all.contains(tiering) {
                all.push(*tiering);
            }
        }
        all
    }

    /// Every format of every tiering.
    pub fn formats(&self) -> impl Iterator<Item = KvFormat> + use<> {
        self.tierings().into_iter().flat_map(|tiering| tiering.formats())
    }

    /// Whether any layer has a low tier.
    #[must_use]
    pub fn has_low(&self) -> bool {
        self.tierings().iter().any(|tiering| tiering.low.is_some())
    }

    /// The last layer that is named.
    #[must_use]
    pub fn last_named(&self) -> Option<usize> {
        self.others.last_key_value().map(|(&layer, _)| layer)
    }
}

impl From<Tiering> for LayerFormats {
    fn from(usual: Tiering) -> Self {
        Self { usual, others: BTreeMap::new() }
    }
}

impl fmt::Display for LayerFormats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.usual)?;
        for tiering in &self.tierings()[1..] {
            let of = |(&layer, other): (&usize, &Tiering)| (other == tiering).then_some(layer);
            write!(f, ";{}={tiering}", ranges(self.others.iter().filter_map(of)))?;
        }
        Ok(())
    }
}

/// Ascending numbers as text, runs of three and more as `FIRST-LAST`.
fn ranges(numbers: impl Iterator<Item = usize>) -> String {
    let mut runs: Vec<[usize; 2]> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some([_, last]) if *last + 1 == number => *last = number,
            _ => runs.push([number; 2]),
        }
    }
    let text = |[first, last]: &[usize; 2]| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

const GRAMMAR: &str =
    "TIERING[;LAYERS=TIERING]..., with layers counted from 0, such as K8V4/K4V2;0,27=K8V8 or K4V4;3-5=K4V2";

/// No model has so many layers; a range is not written out beyond it.
const MOST_LAYERS: usize = 65_535;

impl FromStr for LayerFormats {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let mut parts = text.split(';');
        let mut formats = Self::from(parts.next().unwrap_or_default().parse::<Tiering>()?);
        let bad = |reason: String| FormatError::UnknownName {
            what: "formats of layers",
            given: text.to_owned(),
            reason,
            grammar: GRAMMAR,
        };
        let mut named = std::collections::BTreeSet::new();
        for part in parts {
            let (layers, tiering) =
                part.split_once('=').ok_or_else(|| bad(format!("`{part}` is no LAYERS=TIERING")))?;
            let tiering: Tiering = tiering.parse()?;
            for layer in parse_layers(layers).map_err(bad)? {
                if !named.insert(layer) {
                    return Err(bad(format!("layer {layer} is named twice")));
                }
                formats = formats.with(layer, tiering);
            }
        }
        Ok(formats)
    }
}

/// Numbers and ranges of numbers.
fn parse_layers(text: &str) -> Result<Vec<usize>, String> {
    let number = |text: &str| {
        let number = text.trim().parse().ok().filter(|&number: &usize| number <= MOST_LAYERS);
        number.ok_or_else(|| format!("`{text}` is no number of a layer"))
    };
    let mut layers = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("`{part}` ends before it begins"));
        }
        layers.extend(first..=last);
    }
    Ok(layers)
}

super::kv::text_conversions!(LayerFormats);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tiering(text: &str) -> Tiering {
        text.parse().unwrap()
    }

    #[test]
    fn a_layer_has_the_tiering_that_names_it_or_the_usual_one() {
        let formats: LayerFormats = "k8v4/k4v2;0,27=K8V8;3-5=K4V4".parse().unwrap();
        let names = [0, 1, 3, 4, 5, 6, 27].map(|layer| formats.of(layer).to_string());
        assert_eq!(names, ["K8V8", "K8V4/K4V2", "K4V4", "K4V4", "K4V4", "K8V4/K4V2", "K8V8"]);
        assert_eq!(formats.to_string(), "K8V4/K4V2;0,27=K8V8;3-5=K4V4");
        assert_eq!(formats.tierings(), ["K8V4/K4V2", "K8V8", "K4V4"].map(tiering));
        assert_eq!((formats.last_named(), formats.has_low()), (Some(27), true));
        // What is said of a layer is that of the others.
        assert_eq!("K8V4;2=K8V4".parse::<LayerFormats>().unwrap(), tiering("K8V4").into());
    }

    #[test]
    fn the_usual_tiering_is_that_of_most_layers() {
        let layers = ["K8V8", "K4V2", "K4V2", "K4V4", "K4V2"].map(tiering);
        let formats = LayerFormats::of_layers(&layers);
        assert_eq!(formats.to_string(), "K4V2;0=K8V8;3=K4V4");
        assert_eq!([0, 1, 2, 3, 4].map(|layer| *formats.of(layer)), layers);
    }

    #[test]
    fn bad_texts_are_explained() {
        for (text, part) in [
            ("K8V4;", "no LAYERS=TIERING"),
            ("K8V4;3", "no LAYERS=TIERING"),
            ("K8V4;x=K4V4", "`x` is no number of a layer"),
            ("K8V4;-1=K4V4", "no number of a layer"),
            ("K8V4;5-3=K4V4", "ends before it begins"),
            ("K8V4;1=K4V4;0-2=K8V8", "layer 1 is named twice"),
            ("K8V4;0-99999999999=K4V4", "no number of a layer"),
            ("K8V4;1=K9V4", "codes of 9 bits"),
        ] {
            let message = text.parse::<LayerFormats>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn every_plan_round_trips_through_its_text(
            layers in prop::collection::vec(prop::sample::select(vec!["K8V4", "K4V2", "K8V4/K4V2", "fp16"]), 1..40)
        ) {
            let layers: Vec<Tiering> = layers.into_iter().map(tiering).collect();
            let formats = LayerFormats::of_layers(&layers);
            prop_assert!(layers.iter().enumerate().all(|(layer, tiering)| formats.of(layer) == tiering));
            prop_assert_eq!(formats.to_string().parse(), Ok(formats));
        }

        #[test]
        fn parsing_never_panics(text in "[kv0-9;=,/-]{0,24}") {
            let _ = text.parse::<LayerFormats>();
        }
    }
}
