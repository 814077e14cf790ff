//! KV formats (a key codec and a value codec) and tierings (a high and a low format), and their names.

use super::codec::{parse_half, unknown_meta};
use super::{CodecSpec, FormatError, HalfType, Levels};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How keys and values of one tier are stored.
///
/// Named as in the field, K bits before V bits: `fp16`, `K8V4`, `K4V2g2.4` (2 key groups, 4 value groups),
/// `K8sV4` (symmetric keys), `K4mV4m` (symmetric, mid-rise levels), `K16V4` (unquantised keys), `K4V4-bf16` (bf16 metadata).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KvFormat {
    /// Codec of keys (after RoPE).
    pub key: CodecSpec,
    /// Codec of values.
    pub value: CodecSpec,
}

impl KvFormat {
    /// The unquantised baseline.
    pub const FP16: Self = Self { key: CodecSpec::F16, value: CodecSpec::F16 };

    /// Whether keys or values have mid-rise codes, which are of rotated rows.
    #[must_use]
    pub const fn is_mid_rise(&self) -> bool {
        self.key.is_mid_rise() || self.value.is_mid_rise()
    }

    /// Affine one-group format with f16 metadata.
    ///
    /// # Errors
    /// [`FormatError::UnsupportedBits`] outside 1 to 8.
    pub fn affine(key_bits: u32, value_bits: u32) -> Result<Self, FormatError> {
        Ok(Self { key: CodecSpec::affine(key_bits, 1)?, value: CodecSpec::affine(value_bits, 1)? })
    }

    /// The formats LeanKV's ablations compare, from FP16 down, then the two reversed pairs.
    #[must_use]
    pub fn standard() -> [Self; 8] {
        let f = |k, v| Self::affine(k, v).expect("the standard widths are within 1 to 8");
        [Self::FP16, f(8, 8), f(8, 4), f(4, 4), f(4, 2), f(8, 2), f(2, 4), f(4, 8)]
    }
}

/// The formats of a sequence's tiers.
///
/// Named `HIGH` or `HIGH/LOW`: `K8V4`, `K8V4/K4V2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tiering {
    /// Format of significant and recent tokens.
    pub high: KvFormat,
    /// Format of less significant tokens; none disables the low tier.
    pub low: Option<KvFormat>,
}

impl Tiering {
    /// One tier only.
    #[must_use]
    pub const fn single(high: KvFormat) -> Self {
        Self { high, low: None }
    }

    /// A high and a low tier.
    #[must_use]
    pub const fn two(high: KvFormat, low: KvFormat) -> Self {
        Self { high, low: Some(low) }
    }

    /// The formats in tier order, high first.
    pub fn formats(&self) -> impl Iterator<Item = KvFormat> + use<> {
        [Some(self.high), self.low].into_iter().flatten()
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, value) = (self.key.shape(), self.value.shape());
        match *self {
            Self::FP16 => return f.write_str("fp16"),
            Self { key: CodecSpec::BF16, value: CodecSpec::BF16 } => return f.write_str("bf16"),
            _ => {}
        }
        let mark = |codec| match codec {
            CodecSpec::Symmetric { levels: Levels::MidTread, .. } => "s",
            CodecSpec::Symmetric { levels: Levels::MidRise, .. } => "m",
            CodecSpec::Affine { .. } | CodecSpec::None { .. } => "",
        };
        write!(f, "K{}{}V{}{}", key.code_bits, mark(self.key), value.code_bits, mark(self.value))?;
        match (key.groups, value.groups) {
            (1, 1) => {}
            (k, v) if k == v => write!(f, "g{k}")?,
            (k, v) => write!(f, "g{k}.{v}")?,
        }
        match (self.key.meta(), self.value.meta()) {
            (HalfType::F16, HalfType::F16) => Ok(()),
            (k, v) if k == v => write!(f, "-{k}"),
            (k, v) => write!(f, "-{k}.{v}"),
        }
    }
}

const GRAMMAR: &str = "fp16 | bf16 | K BITS [s | m] V BITS [s | m] [g GROUPS | g KEY_GROUPS.VALUE_GROUPS] [-f16 | -bf16 | -KEY.VALUE], \
     BITS 1 to 8 or 16 (unquantised), s for symmetric, m for symmetric with mid-rise levels, GROUPS 1, 2 or 4; for example fp16, K8V8, K8V4, K4V4, K4V2, K4V2g2.4, K8sV4-bf16";

impl FromStr for KvFormat {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        parse_format(&text.trim().to_ascii_lowercase()).map_err(|reason| FormatError::UnknownName {
            what: "KV format",
            given: text.to_owned(),
            reason,
            grammar: GRAMMAR,
        })
    }
}

fn parse_format(text: &str) -> Result<KvFormat, String> {
    match text {
        "fp16" | "f16" => return Ok(KvFormat::FP16),
        "bf16" => return Ok(KvFormat { key: CodecSpec::BF16, value: CodecSpec::BF16 }),
        _ => {}
    }
    let (body, metas) = match text.split_once('-') {
        Some((body, metas)) => (body, parse_pair(metas, parse_meta)?),
        None => (text, (HalfType::F16, HalfType::F16)),
    };
    let rest = body.strip_prefix('k').ok_or("it must be fp16, bf16 or start with K")?;
    let (key, rest) = rest.split_once('v').ok_or("the value width (V and a number of bits) is missing")?;
    let (value, groups) = match rest.split_once('g') {
        Some((value, groups)) => (value, parse_pair(groups, parse_number)?),
        None => (rest, (1, 1)),
    };
    Ok(KvFormat {
        key: side(key, groups.0)?.with_meta(metas.0),
        value: side(value, groups.1)?.with_meta(metas.1),
    })
}

/// `A` for both, or `A.B`.
fn parse_pair<T: Copy>(text: &str, one: fn(&str) -> Result<T, String>) -> Result<(T, T), String> {
    match text.split_once('.') {
        Some((a, b)) => Ok((one(a)?, one(b)?)),
        None => one(text).map(|a| (a, a)),
    }
}

fn parse_number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}

fn parse_meta(text: &str) -> Result<HalfType, String> {
    parse_half(text).ok_or_else(|| unknown_meta(text))
}

fn side(text: &str, groups: u32) -> Result<CodecSpec, String> {
    let mark = text.chars().last().filter(|last| matches!(last, 's' | 'm'));
    let digits = mark.map_or(text, |mark| &text[..text.len() - mark.len_utf8()]);
    match (parse_number(digits)?, mark) {
        // One vector of raw values has no groups; a shared suffix is about the other side.
        (16, None) => super::Groups::new(groups).map(|_| CodecSpec::F16),
        (16, Some(mark)) => return Err(format!("16 bits are unquantised: they take no `{mark}`")),
        (bits, Some('s')) => CodecSpec::symmetric(bits, groups),
        (bits, Some(_)) => CodecSpec::mid_rise(bits, groups),
        (bits, None) => CodecSpec::affine(bits, groups),
    }
    .map_err(|e| e.to_string())
}

impl fmt::Display for Tiering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.low {
            Some(low) => write!(f, "{}/{low}", self.high),
            None => self.high.fmt(f),
        }
    }
}

impl FromStr for Tiering {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text.split_once('/') {
            Some((high, low)) => Ok(Self::two(high.parse()?, low.parse()?)),
            None => text.parse().map(Self::single),
        }
    }
}

macro_rules! text_conversions {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = FormatError;
            fn try_from(text: String) -> Result<Self, FormatError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}

pub(super) use text_conversions;

text_conversions!(KvFormat, Tiering);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn standard_names() {
        let names: Vec<String> = KvFormat::standard().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["fp16", "K8V8", "K8V4", "K4V4", "K4V2", "K8V2", "K2V4", "K4V8"]);
    }

    #[test]
    fn names_say_groups_schemes_and_metadata() {
        let format: KvFormat = "K4V2g2.4".parse().unwrap();
        assert_eq!(format.key, CodecSpec::affine(4, 2).unwrap());
        assert_eq!(format.value, CodecSpec::affine(2, 4).unwrap());
        let format: KvFormat = "k8sv4-bf16".parse().unwrap();
        assert_eq!(format.key, CodecSpec::symmetric(8, 1).unwrap().with_meta(HalfType::Bf16));
        assert_eq!(format.to_string(), "K8sV4-bf16");
        let format: KvFormat = "K16V4g2".parse().unwrap();
        assert_eq!((format.key, format.value), (CodecSpec::F16, CodecSpec::affine(4, 2).unwrap()));
        assert_eq!(format.to_string(), "K16V4g1.2");
        assert_eq!("K16V16".parse::<KvFormat>().unwrap(), KvFormat::FP16);
        assert_eq!("K16V16-bf16".parse::<KvFormat>().unwrap().to_string(), "bf16");
    }

    #[test]
    fn bad_names_are_explained() {
        for (text, part) in [
            ("int8", "must be fp16, bf16 or start with K"),
            ("K8", "the value width"),
            ("KxV4", "`x` is not a number"),
            ("K9V4", "codes of 9 bits"),
            ("K8V0", "codes of 0 bits"),
            ("K8V4g3", "3 groups"),
            ("K8V4g1.2.4", "`2.4` is not a number"),
            ("K8V4-f8", "`f8` is not a metadata type"),
            ("K16sV4", "take no `s`"),
            ("K8V4 K4V2", "`4 k4v2` is not a number"),
        ] {
            let message = text.parse::<KvFormat>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
            assert!(message.contains("for example fp16, K8V8"), "{text}: {message}");
        }
    }

    #[test]
    fn tierings_round_trip() {
        for text in ["K8V4", "K8V4/K4V2", "fp16/K4V2g2.4"] {
            assert_eq!(text.parse::<Tiering>().unwrap().to_string(), text);
        }
        assert!("K8V4/".parse::<Tiering>().is_err());
        let two: Tiering = "K8V4/K4V2".parse().unwrap();
        assert_eq!(two.formats().map(|f| f.to_string()).collect::<Vec<_>>(), ["K8V4", "K4V2"]);
    }

    fn codec() -> impl Strategy<Value = CodecSpec> {
        let meta = prop::sample::select(vec![HalfType::F16, HalfType::Bf16]);
        (1u32..=9, prop::sample::select(vec![1u32, 2, 4]), 0..3, meta).prop_map(|(bits, g, scheme, meta)| {
            match (bits, scheme) {
                (9, _) => CodecSpec::F16,
                (b, 0) => CodecSpec::symmetric(b, g).unwrap(),
                (b, 1) => CodecSpec::mid_rise(b, g).unwrap(),
                (b, _) => CodecSpec::affine(b, g).unwrap(),
            }
            .with_meta(meta)
        })
    }

    proptest! {
        #[test]
        fn every_format_round_trips_through_its_name(key in codec(), value in codec()) {
            let format = KvFormat { key, value };
            prop_assert_eq!(format.to_string().parse(), Ok(format), "{}", format);
        }

        #[test]
        fn parsing_never_panics(text in ".{0,24}") {
            let _ = text.parse::<KvFormat>();
            let _ = text.parse::<Tiering>();
            let _ = text.parse::<CodecSpec>();
        }
    }
}
