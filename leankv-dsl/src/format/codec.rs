//! Codec descriptors: which scheme, how many bits, how many groups, which metadata type.

use super::{FormatError, HalfType};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Width of one code: 1 to 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Bits(u8);

impl Bits {
    /// A width.
    ///
    /// # Errors
    /// [`FormatError::UnsupportedBits`] outside 1 to 8.
    pub const fn new(bits: u32) -> Result<Self, FormatError> {
        match bits {
            1..=8 => Ok(Self(bits as u8)),
            _ => Err(FormatError::UnsupportedBits { bits }),
        }
    }

    /// The width in bits.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// The largest code, `2^bits - 1`: also the number of steps from the smallest to the largest level.
    #[must_use]
    pub const fn max_code(self) -> u16 {
        (1 << self.0) - 1
    }
}

impl TryFrom<u32> for Bits {
    type Error = FormatError;
    fn try_from(bits: u32) -> Result<Self, FormatError> {
        Self::new(bits)
    }
}

impl From<Bits> for u32 {
    fn from(bits: Bits) -> Self {
        bits.get()
    }
}

/// How many groups (chunks of contiguous dims with their own metadata) a vector is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum Groups {
    /// One group: the whole vector.
    #[default]
    One,
    /// Two halves.
    Two,
    /// Four quarters.
    Four,
}

impl Groups {
    /// A number of groups.
    ///
    /// # Errors
    /// [`FormatError::UnsupportedGroups`] unless 1, 2 or 4.
    pub const fn new(groups: u32) -> Result<Self, FormatError> {
        match groups {
            1 => Ok(Self::One),
            2 => Ok(Self::Two),
            4 => Ok(Self::Four),
            _ => Err(FormatError::UnsupportedGroups { groups }),
        }
    }

    /// The number of groups.
    #[must_use]
    pub const fn get(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

impl TryFrom<u32> for Groups {
    type Error = FormatError;
    fn try_from(groups: u32) -> Result<Self, FormatError> {
        Self::new(groups)
    }
}

impl From<Groups> for u32 {
    fn from(groups: Groups) -> Self {
        groups.get()
    }
}

/// Where the levels of a symmetric codec lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Levels {
    /// One at zero and as many on either side; the largest magnitude is a level.
    #[default]
    MidTread,
    /// Half a step from zero on either side, all `2^bits` of them. The outermost ones lie below the largest magnitude, where they lose least of rows
    /// whose elements are normally distributed, such as rotated ones.
    MidRise,
}

/// How one vector is coded. The meaning in arithmetic is [`CodecMath`](super::CodecMath), which this implements.
///
/// Written and read as text: `f16`, `bf16`, `affine4`, `affine4g2`, `symmetric8`, `midrise4`, `affine4g2-bf16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CodecSpec {
    /// Not quantised: 16-bit floats.
    None {
        /// The stored type.
        dtype: HalfType,
    },
    /// Asymmetric: `x ~ scale * code + zero`, scale and zero per group.
    Affine {
        /// Code width.
        bits: Bits,
        /// Groups along the head dim.
        groups: Groups,
        /// Type of scale and zero.
        meta: HalfType,
    },
    /// Symmetric: `x ~ scale * (code - centre)`, one scale per group and no stored zero point.
    Symmetric {
        /// Code width.
        bits: Bits,
        /// Where the levels lie.
        levels: Levels,
        /// Groups along the head dim.
        groups: Groups,
        /// Type of the scale.
        meta: HalfType,
    },
}

impl CodecSpec {
    /// Unquantised IEEE 16-bit floats.
    pub const F16: Self = Self::None { dtype: HalfType::F16 };
    /// Unquantised bfloat16.
    pub const BF16: Self = Self::None { dtype: HalfType::Bf16 };

    /// Affine codes with f16 metadata.
    ///
    /// # Errors
    /// [`FormatError::UnsupportedBits`] or [`FormatError::UnsupportedGroups`].
    pub fn affine(bits: u32, groups: u32) -> Result<Self, FormatError> {
        Ok(Self::Affine { bits: Bits::new(bits)?, groups: Groups::new(groups)?, meta: HalfType::F16 })
    }

    /// Symmetric codes with f16 metadata.
    ///
    /// # Errors
    /// [`FormatError::UnsupportedBits`] or [`FormatError::UnsupportedGroups`].
    pub fn symmetric(bits: u32, groups: u32) -> Result<Self, FormatError> {
        Self::symmetric_of(Levels::MidTread, bits, groups)
    }

    /// Symmetric codes into mid-rise levels with f16 metadata.
    ///
    /// # Errors
    /// [`FormatError::UnsupportedBits`] or [`FormatError::UnsupportedGroups`].
    pub fn mid_rise(bits: u32, groups: u32) -> Result<Self, FormatError> {
        Self::symmetric_of(Levels::MidRise, bits, groups)
    }

    fn symmetric_of(levels: Levels, bits: u32, groups: u32) -> Result<Self, FormatError> {
        let (bits, groups) = (Bits::new(bits)?, Groups::new(groups)?);
        Ok(Self::Symmetric { bits, levels, groups, meta: HalfType::F16 })
    }

    /// The same codec with scales and zeros (or raw values) of another 16-bit type.
    #[must_use]
    pub const fn with_meta(self, meta: HalfType) -> Self {
        match self {
            Self::None { .. } => Self::None { dtype: meta },
            Self::Affine { bits, groups, .. } => Self::Affine { bits, groups, meta },
            Self::Symmetric { bits, levels, groups, .. } => Self::Symmetric { bits, levels, groups, meta },
        }
    }

    /// Type of scale and zero, or of the raw values of an unquantised codec.
    #[must_use]
    pub const fn meta(self) -> HalfType {
        match self {
            Self::None { dtype } => dtype,
            Self::Affine { meta, .. } | Self::Symmetric { meta, .. } => meta,
        }
    }

    /// True where values are coded in 1 to 8 bits.
    #[must_use]
    pub const fn is_quantised(self) -> bool {
        !matches!(self, Self::None { .. })
    }

    /// True for symmetric codes into mid-rise levels, which are made for rotated rows.
    #[must_use]
    pub const fn is_mid_rise(self) -> bool {
        matches!(self, Self::Symmetric { levels: Levels::MidRise, .. })
    }

    /// What the codec takes in a page.
    #[must_use]
    pub const fn shape(self) -> CodecShape {
        match self {
            Self::None { .. } => CodecShape { code_bits: 16, groups: 1, meta_words: 0 },
            Self::Affine { bits, groups, .. } => {
                CodecShape { code_bits: bits.get(), groups: groups.get(), meta_words: 2 }
            }
            Self::Symmetric { bits, groups, .. } => {
                CodecShape { code_bits: bits.get(), groups: groups.get(), meta_words: 1 }
            }
        }
    }
}

/// What a codec takes in a page: all that a page layout needs to know of it, so a codec defined elsewhere
/// gets a layout by stating its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodecShape {
    /// Bits per element: 1 to 8, or 16 for unquantised values.
    pub code_bits: u32,
    /// Groups along the head dim, each with its own metadata.
    pub groups: u32,
    /// 16-bit metadata words per group, in storage order (affine: scale, zero; symmetric: scale).
    pub meta_words: u32,
}

impl CodecShape {
    /// Most metadata words a group may have.
    pub const MAX_META_WORDS: u32 = 64;

    /// Bytes of one token's codes: exactly `head_dim * code_bits / 8`.
    #[must_use]
    pub const fn row_bytes(self, head_dim: u32) -> u32 {
        head_dim * self.code_bits / 8
    }

    /// Bytes of one token's metadata.
    #[must_use]
    pub const fn meta_bytes(self) -> u32 {
        2 * self.groups * self.meta_words
    }

    /// Elements of one group.
    #[must_use]
    pub const fn group_len(self, head_dim: u32) -> u32 {
        head_dim / self.groups
    }

    /// Checks the shape against a head dim.
    ///
    /// # Errors
    /// [`FormatError::UnsupportedBits`], [`FormatError::HeadDim`], [`FormatError::GroupsDoNotDivide`]
    /// or [`FormatError::MetaWords`].
    pub fn check(self, head_dim: u32) -> Result<(), FormatError> {
        if !matches!(self.code_bits, 1..=8 | 16) {
            return Err(FormatError::UnsupportedBits { bits: self.code_bits });
        }
        if head_dim == 0 || !head_dim.is_multiple_of(8) || head_dim > 512 {
            return Err(FormatError::HeadDim { head_dim });
        }
        if self.groups == 0 || !head_dim.is_multiple_of(self.groups) {
            return Err(FormatError::GroupsDoNotDivide { head_dim, groups: self.groups });
        }
        if self.meta_words > Self::MAX_META_WORDS {
            return Err(FormatError::MetaWords { words: self.meta_words, max: Self::MAX_META_WORDS });
        }
        Ok(())
    }
}

impl fmt::Display for CodecSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, bits, groups, meta) = match *self {
            Self::None { dtype } => return dtype.fmt(f),
            Self::Affine { bits, groups, meta } => ("affine", bits, groups, meta),
            Self::Symmetric { bits, levels: Levels::MidTread, groups, meta } => {
                ("symmetric", bits, groups, meta)
            }
            Self::Symmetric { bits, levels: Levels::MidRise, groups, meta } => {
                ("midrise", bits, groups, meta)
            }
        };
        write!(f, "{scheme}{}", bits.get())?;
        if groups != Groups::One {
            write!(f, "g{}", groups.get())?;
        }
        if meta != HalfType::F16 {
            write!(f, "-{meta}")?;
        }
        Ok(())
    }
}

const GRAMMAR: &str = "f16 | bf16 | (affine | symmetric | midrise) BITS [g GROUPS] [-f16 | -bf16], \
     BITS 1 to 8, GROUPS 1, 2 or 4; for example affine4, affine4g2, symmetric8-bf16";

impl FromStr for CodecSpec {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let bad = |reason: String| FormatError::UnknownName {
            what: "codec",
            given: text.to_owned(),
            reason,
            grammar: GRAMMAR,
        };
        let lower = text.trim().to_ascii_lowercase();
        match lower.as_str() {
            "f16" | "fp16" => return Ok(Self::F16),
            "bf16" => return Ok(Self::BF16),
            _ => {}
        }
        let (body, meta) = match lower.split_once('-') {
            None => (lower.as_str(), HalfType::F16),
            Some((body, meta)) => (body, parse_half(meta).ok_or_else(|| bad(unknown_meta(meta)))?),
        };
        type Build = fn(u32, u32) -> Result<CodecSpec, FormatError>;
        let schemes: [(&str, Build); 3] =
            [("affine", Self::affine), ("symmetric", Self::symmetric), ("midrise", Self::mid_rise)];
        let scheme = schemes.into_iter().find_map(|(name, build)| Some((build, body.strip_prefix(name)?)));
        let Some((build, rest)) = scheme else {
            return Err(bad("it must start with f16, bf16, affine, symmetric or midrise".into()));
        };
        let (bits, groups) = rest.split_once('g').unwrap_or((rest, "1"));
        let bits = bits.parse().map_err(|_| bad(format!("`{bits}` is not a number of bits")))?;
        let groups = groups.parse().map_err(|_| bad(format!("`{groups}` is not a number of groups")))?;
        build(bits, groups).map(|codec| codec.with_meta(meta)).map_err(|e| bad(e.to_string()))
    }
}

impl TryFrom<String> for CodecSpec {
    type Error = FormatError;
    fn try_from(text: String) -> Result<Self, FormatError> {
        text.parse()
    }
}

impl From<CodecSpec> for String {
    fn from(codec: CodecSpec) -> Self {
        codec.to_string()
    }
}

pub(super) fn parse_half(text: &str) -> Option<HalfType> {
    match text {
        "f16" | "fp16" => Some(HalfType::F16),
        "bf16" => Some(HalfType::Bf16),
        _ => None,
    }
}

pub(super) fn unknown_meta(text: &str) -> String {
    format!("`{text}` is not a metadata type (f16 or bf16)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_round_trips_through_its_name() {
        let mut codecs = vec![CodecSpec::F16, CodecSpec::BF16];
        for bits in 1..=8 {
            for groups in [1, 2, 4] {
                for meta in [HalfType::F16, HalfType::Bf16] {
                    codecs.push(CodecSpec::affine(bits, groups).unwrap().with_meta(meta));
                    codecs.push(CodecSpec::symmetric(bits, groups).unwrap().with_meta(meta));
                    codecs.push(CodecSpec::mid_rise(bits, groups).unwrap().with_meta(meta));
                }
            }
        }
        for codec in codecs {
            assert_eq!(codec.to_string().parse(), Ok(codec), "{codec}");
        }
        assert_eq!(CodecSpec::affine(4, 2).unwrap().with_meta(HalfType::Bf16).to_string(), "affine4g2-bf16");
    }

    #[test]
    fn bad_names_say_what_is_wrong_and_what_is_allowed() {
        for (text, part) in [
            ("int4", "must start with"),
            ("affine9", "codes of 9 bits are not supported"),
            ("affine", "`` is not a number of bits"),
            ("affine4g3", "3 groups along the head dim"),
            ("affine4-f8", "`f8` is not a metadata type"),
            ("affine4g", "`` is not a number of groups"),
            ("", "must start with"),
        ] {
            let message = text.parse::<CodecSpec>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
            assert!(message.contains("allowed: f16 | bf16"), "{text}: {message}");
        }
    }

    #[test]
    fn head_dims_and_groups_are_checked_together() {
        let four = CodecSpec::affine(4, 4).unwrap().shape();
        for head_dim in [64, 80, 96, 128, 256] {
            assert_eq!(four.check(head_dim), Ok(()));
        }
        assert_eq!(four.check(0), Err(FormatError::HeadDim { head_dim: 0 }));
        assert_eq!(four.check(100), Err(FormatError::HeadDim { head_dim: 100 }));
        let wide = CodecShape { meta_words: u32::MAX, ..four };
        assert_eq!(wide.check(64), Err(FormatError::MetaWords { words: u32::MAX, max: 64 }));
        let three = CodecShape { groups: 3, ..four };
        assert_eq!(three.check(64), Err(FormatError::GroupsDoNotDivide { head_dim: 64, groups: 3 }));
    }
}
