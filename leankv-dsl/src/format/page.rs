//! Where everything lies in a page.
//!
//! A page holds tokens of one format (one tier) of one KV head of one layer of one request. With `n` tokens,
//! `ru(x, a)` for `x` rounded up to a multiple of `a`, and bytes per token from the codecs' shapes:
//!
//! ```text
//! keys          0                                       n rows of key codes
//! key meta      ru(keys end, 32)                        n rows of {scale, zero} per group
//! values        ru(key meta end, 128)                   n rows of value codes
//! value meta    ru(values end, 32)                      n rows of {scale, zero} per group
//! significance  value meta + ru(value meta bytes, 32)   n x f32
//! positions     significance + 4 n                      n x i32
//! need(n)       ru(significance + ru(8 n, 32), 128)
//! ```
//!
//! The row of token `t` lies at `segment + t * row_bytes`; codes are packed as in [`pack`](super::pack). Quantised values
//! take an even number of rows, as in the released system, which interleaves pairs of tokens; here a spare row stays unused.
//! `tokens_per_page` is the largest `n` with `need(n) <= page_bytes`; it need not be a power of two.
//! (LeanKV section on unified pages; offsets as in the released system.)

use super::{Account, CodecShape, FormatError, KvFormat};
use std::fmt;

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentKind {
    /// Packed key codes, `u8`.
    Keys,
    /// Key metadata, 16-bit words.
    KeyMeta,
    /// Packed value codes, `u8`.
    Values,
    /// Value metadata, 16-bit words.
    ValueMeta,
    /// Accumulated significance of each token, `f32`.
    Significance,
    /// Position of each token in its sequence, `i32`.
    Positions,
}

impl fmt::Display for SegmentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keys => "keys",
            Self::KeyMeta => "key meta",
            Self::Values => "values",
            Self::ValueMeta => "value meta",
            Self::Significance => "significance",
            Self::Positions => "positions",
        })
    }
}

/// One segment of a page: an array of equal rows, one per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Segment {
    /// What it holds.
    pub kind: SegmentKind,
    /// First byte, counted from the start of the page.
    pub offset: u32,
    /// Rows, at least the tokens of the page.
    pub rows: u32,
    /// Bytes of one token's row; 0 where the codec has no metadata.
    pub row_bytes: u32,
    /// Largest power of two (at most 128) that divides the address of every row, given that the arena of
    /// pages is aligned to 128 bytes. What vector loads may rely on.
    pub row_align: u32,
}

impl Segment {
    /// First byte of a token's row, counted from the start of the page.
    #[must_use]
    pub const fn row(&self, token: u32) -> u32 {
        self.offset + token * self.row_bytes
    }

    /// Bytes of all rows.
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        self.rows * self.row_bytes
    }

    /// One past the last byte.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.offset + self.bytes()
    }
}

/// The layout of a page; the only place where page offsets come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PageLayout {
    key: CodecShape,
    value: CodecShape,
    head_dim: u32,
    page_bytes: u32,
    tokens_per_page: u32,
    segments: [Segment; 6],
}

impl PageLayout {
    /// Largest page: token offsets stay far from the limits of 32-bit arithmetic.
    pub const MAX_PAGE_BYTES: u32 = 1 << 24;

    /// Alignment in bytes that the arena of pages must have.
    pub const ARENA_ALIGN: u32 = 128;

    /// The layout of a page of `page_bytes` holding `format` at `head_dim` elements per vector.
    ///
    /// # Errors
    /// A head dim or page size that is not supported, or a page too small for one token.
    pub fn derive(format: &KvFormat, head_dim: u32, page_bytes: u32) -> Result<Self, FormatError> {
        let name = || format.to_string();
        Self::build(format.key.shape(), format.value.shape(), head_dim, page_bytes, &name)
    }

    /// The layout for codecs known by their shapes only, such as codecs defined outside this crate.
    ///
    /// # Errors
    /// As [`PageLayout::derive`].
    pub fn from_shapes(
        key: CodecShape,
        value: CodecShape,
        head_dim: u32,
        page_bytes: u32,
    ) -> Result<Self, FormatError> {
        let name = || format!("K{}V{}", key.code_bits, value.code_bits);
        Self::build(key, value, head_dim, page_bytes, &name)
    }

    fn build(
        key: CodecShape,
        value: CodecShape,
        head_dim: u32,
        page_bytes: u32,
        name: &dyn Fn() -> String,
    ) -> Result<Self, FormatError> {
        key.check(head_dim)?;
        value.check(head_dim)?;
        if !page_bytes.is_multiple_of(4) || page_bytes > Self::MAX_PAGE_BYTES {
            return Err(FormatError::PageBytes { page_bytes, max: Self::MAX_PAGE_BYTES });
        }
        let rows = Rows { key, value, head_dim };
        let tokens_per_page = rows.tokens(page_bytes);
        if tokens_per_page == 0 {
            return Err(FormatError::PageTooSmall {
                page_bytes,
                need: rows.need(1),
                format: name(),
                head_dim,
            });
        }
        let segments = rows.segments(tokens_per_page, page_bytes);
        Ok(Self { key, value, head_dim, page_bytes, tokens_per_page, segments })
    }

    /// Tokens one page holds.
    #[must_use]
    pub const fn tokens_per_page(&self) -> u32 {
        self.tokens_per_page
    }

    /// Size of a page in bytes.
    #[must_use]
    pub const fn page_bytes(&self) -> u32 {
        self.page_bytes
    }

    /// Elements per vector.
    #[must_use]
    pub const fn head_dim(&self) -> u32 {
        self.head_dim
    }

    /// What the key codec takes.
    #[must_use]
    pub const fn key_shape(&self) -> CodecShape {
        self.key
    }

    /// What the value codec takes.
    #[must_use]
    pub const fn value_shape(&self) -> CodecShape {
        self.value
    }

    /// All segments in address order.
    #[must_use]
    pub const fn segments(&self) -> &[Segment; 6] {
        &self.segments
    }

    /// One segment.
    #[must_use]
    pub const fn segment(&self, kind: SegmentKind) -> &Segment {
        &self.segments[kind as usize]
    }

    /// Packed keys.
    #[must_use]
    pub const fn keys(&self) -> &Segment {
        self.segment(SegmentKind::Keys)
    }

    /// Key metadata.
    #[must_use]
    pub const fn key_meta(&self) -> &Segment {
        self.segment(SegmentKind::KeyMeta)
    }

    /// Packed values.
    #[must_use]
    pub const fn values(&self) -> &Segment {
        self.segment(SegmentKind::Values)
    }

    /// Value metadata.
    #[must_use]
    pub const fn value_meta(&self) -> &Segment {
        self.segment(SegmentKind::ValueMeta)
    }

    /// Significance per token, `f32`.
    #[must_use]
    pub const fn significance(&self) -> &Segment {
        self.segment(SegmentKind::Significance)
    }

    /// Position per token, `i32`.
    #[must_use]
    pub const fn positions(&self) -> &Segment {
        self.segment(SegmentKind::Positions)
    }

    /// Bytes up to the end of the last segment.
    #[must_use]
    pub const fn used_bytes(&self) -> u32 {
        self.positions().end()
    }

    /// The account of bytes: true, payload, waste, compression.
    #[must_use]
    pub const fn account(&self) -> Account {
        Account::new(self.key, self.value, self.head_dim, self.page_bytes, self.tokens_per_page)
    }

    /// Checks that a token index lies in the page.
    ///
    /// # Errors
    /// [`FormatError::TokenOutOfPage`].
    pub const fn check_token(&self, token: u32) -> Result<(), FormatError> {
        if token < self.tokens_per_page {
            Ok(())
        } else {
            Err(FormatError::TokenOutOfPage { token, tokens: self.tokens_per_page })
        }
    }

    /// Checks that a buffer is one page long.
    ///
    /// # Errors
    /// [`FormatError::Length`].
    pub fn check_page(&self, page: &[u8]) -> Result<(), FormatError> {
        let expected = self.page_bytes as usize;
        if page.len() == expected {
            Ok(())
        } else {
            Err(FormatError::Length { what: "bytes of a page", expected, got: page.len() })
        }
    }
}

impl fmt::Display for PageLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "page of {} B, head dim {}: {} tokens, {} B used",
            self.page_bytes,
            self.head_dim,
            self.tokens_per_page,
            self.used_bytes()
        )?;
        for s in &self.segments {
            writeln!(
                f,
                "  {:<13} {:>6}..{:<6} {:>4} rows of {:>3} B, aligned to {}",
                s.kind.to_string(),
                s.offset,
                s.end(),
                s.rows,
                s.row_bytes,
                s.row_align
            )?;
        }
        Ok(())
    }
}

/// Segment arithmetic, in `u64` so that no intermediate overflows.
pub(super) struct Rows {
    pub(super) key: CodecShape,
    pub(super) value: CodecShape,
    pub(super) head_dim: u32,
}

impl Rows {
    fn row_bytes(&self) -> [u32; 6] {
        let (key, value) = (self.key, self.value);
        [
            key.row_bytes(self.head_dim),
            key.meta_bytes(),
            value.row_bytes(self.head_dim),
            value.meta_bytes(),
            4,
            4,
        ]
    }

    /// Bytes of one token without padding.
    pub(super) fn bytes_per_token(&self) -> u32 {
        self.row_bytes().iter().sum()
    }

    /// Rows of the value segment.
    fn value_rows(&self, tokens: u64) -> u64 {
        if self.value.code_bits < 16 { tokens.next_multiple_of(2) } else { tokens }
    }

    fn offsets(&self, tokens: u64) -> [u64; 6] {
        let [key, key_meta, value, value_meta, ..] = self.row_bytes().map(u64::from);
        let key_meta_at = (tokens * key).next_multiple_of(32);
        let value_at = (key_meta_at + tokens * key_meta).next_multiple_of(128);
        let value_meta_at = value_at + (self.value_rows(tokens) * value).next_multiple_of(32);
        let significance_at = value_meta_at + (tokens * value_meta).next_multiple_of(32);
        [0, key_meta_at, value_at, value_meta_at, significance_at, significance_at + 4 * tokens]
    }

    fn need_u64(&self, tokens: u64) -> u64 {
        (self.offsets(tokens)[4] + (8 * tokens).next_multiple_of(32)).next_multiple_of(128)
    }

    /// Page bytes that `tokens` tokens need.
    pub(super) fn need(&self, tokens: u32) -> u32 {
        u32::try_from(self.need_u64(u64::from(tokens))).unwrap_or(u32::MAX)
    }

    /// Tokens that fit a page; 0 where none does.
    pub(super) fn tokens(&self, page_bytes: u32) -> u32 {
        let most = page_bytes / self.bytes_per_token();
        // `need` grows with the tokens and padding costs a few tokens at most, so this stops early.
        (1..=most).rev().find(|&n| self.need_u64(u64::from(n)) <= u64::from(page_bytes)).unwrap_or(0)
    }

    fn segments(&self, tokens: u32, page_bytes: u32) -> [Segment; 6] {
        const KINDS: [SegmentKind; 6] = [
            SegmentKind::Keys,
            SegmentKind::KeyMeta,
            SegmentKind::Values,
            SegmentKind::ValueMeta,
            SegmentKind::Significance,
            SegmentKind::Positions,
        ];
        let (offsets, row_bytes) = (self.offsets(u64::from(tokens)), self.row_bytes());
        std::array::from_fn(|i| {
            let offset = u32::try_from(offsets[i]).expect("offsets lie inside a page of at most 2^24 bytes");
            let rows = match KINDS[i] {
                SegmentKind::Values => self.value_rows(u64::from(tokens)) as u32,
                _ => tokens,
            };
            let row_align = [PageLayout::ARENA_ALIGN, page_bytes, offset, row_bytes[i]]
                .into_iter()
                .filter(|&x| x != 0)
                .map(|x| 1 << x.trailing_zeros())
                .min()
                .expect("the arena's alignment is not zero");
            Segment { kind: KINDS[i], offset, rows, row_bytes: row_bytes[i], row_align }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: [&str; 8] = ["K8V8", "K8V4g1.2", "K8V4", "K8V2", "K4V4", "K4V2g2.4", "K4V2", "K4V1"];

    fn layout(name: &str, head_dim: u32, page_bytes: u32) -> PageLayout {
        PageLayout::derive(&name.parse().unwrap(), head_dim, page_bytes).unwrap()
    }

    fn tokens(head_dim: u32, page_bytes: u32) -> [u32; 8] {
        NAMES.map(|name| layout(name, head_dim, page_bytes).tokens_per_page())
    }

    #[test]
    fn offsets_and_tokens_match_the_released_system_at_head_dim_128() {
        let expected: [(u32, [u32; 7]); 8] = [
            (24, [0, 3072, 3200, 6272, 6368, 6464, 6560]),
            (32, [0, 4096, 4224, 6272, 6528, 6656, 6784]),
            (32, [0, 4096, 4224, 6272, 6400, 6528, 6656]),
            (37, [0, 4736, 4992, 6208, 6368, 6516, 6664]),
            (46, [0, 2944, 3200, 6144, 6336, 6520, 6704]),
            (52, [0, 3328, 3840, 5504, 6336, 6544, 6752]),
            (60, [0, 3840, 4096, 6016, 6272, 6512, 6752]),
            (69, [0, 4416, 4736, 5856, 6144, 6420, 6696]),
        ];
        for (name, (tokens, offsets)) in NAMES.iter().zip(expected) {
            let page = layout(name, 128, 6784);
            let mut got: Vec<u32> = page.segments().iter().map(|s| s.offset).collect();
            got.push(page.used_bytes());
            assert_eq!((page.tokens_per_page(), got.as_slice()), (tokens, offsets.as_slice()), "{name}");
        }
        assert_eq!(layout("fp16", 128, 6784).tokens_per_page(), 13);
    }

    #[test]
    fn tokens_match_the_rule_at_head_dims_64_and_256() {
        assert_eq!(tokens(64, 6144), [41, 52, 54, 64, 74, 76, 96, 108]);
        assert_eq!(tokens(256, 5760), [10, 14, 14, 16, 20, 25, 27, 32]);
    }

    #[test]
    fn row_alignment_is_what_vector_loads_may_rely_on() {
        let page = layout("K8V4", 128, 6784);
        assert_eq!(page.keys().row_align, 128);
        assert_eq!(page.key_meta().row_align, 4);
        assert_eq!(page.values().row_align, 64);
        assert_eq!(page.significance().row_align, 4);
        // A page size that is no multiple of 128 weakens every row.
        assert_eq!(layout("K8V4", 128, 6788).keys().row_align, 4);
        assert_eq!(layout("K3V2", 80, 8192).keys().row_align, 2);
    }

    #[test]
    fn what_does_not_fit_is_a_typed_error() {
        let derive = |name: &str, d, b| PageLayout::derive(&name.parse().unwrap(), d, b).unwrap_err();
        let small = derive("K8V4", 128, 256);
        assert_eq!(
            small.to_string(),
            "a page of 256 B cannot hold one token of K8V4 at head dim 128: use at least 512 B"
        );
        assert!(
            PageLayout::derive(&"K8V4".parse().unwrap(), 128, 512).is_ok_and(|p| p.tokens_per_page() == 1)
        );
        assert_eq!(derive("K8V4", 100, 6784), FormatError::HeadDim { head_dim: 100 });
        assert!(matches!(derive("K8V4", 128, 6783), FormatError::PageBytes { .. }));
        assert!(matches!(derive("K8V4", 128, u32::MAX - 3), FormatError::PageBytes { .. }));
        assert!(matches!(derive("K8V4", 128, 0), FormatError::PageTooSmall { .. }));
    }

    #[test]
    fn a_codec_known_by_its_shape_gets_a_layout() {
        let book = CodecShape { code_bits: 3, groups: 1, meta_words: 1 };
        let page = PageLayout::from_shapes(book, book, 128, 4096).unwrap();
        assert_eq!(page.keys().row_bytes, 48);
        assert_eq!(page.key_meta().row_bytes, 2);
    }

    proptest! {
        #[test]
        fn segments_are_disjoint_aligned_and_hold_every_token(
            kb in 1u32..=9, vb in 1u32..=9, kg in 0u32..3, vg in 0u32..3,
            d in prop::sample::select(vec![64u32, 80, 96, 128, 256]),
            quads in 256u32..6000,
        ) {
            let side = |b: u32, g: u32| if b == 9 { super::super::CodecSpec::F16 } else {
                super::super::CodecSpec::affine(b, 1 << g).unwrap()
            };
            let format = KvFormat { key: side(kb, kg), value: side(vb, vg) };
            let Ok(page) = PageLayout::derive(&format, d, quads * 4) else {
                prop_assert!(quads * 4 < 2 * 1280);
                return Ok(());
            };
            let n = page.tokens_per_page();
            let mut end = 0;
            for s in page.segments() {
                prop_assert!(s.offset >= end && s.rows >= n && s.offset % 4 == 0);
                prop_assert!((0..3).all(|t| (page.page_bytes() + s.row(t)) % s.row_align == 0));
                end = s.end();
            }
            prop_assert!(end <= page.page_bytes());
            // One more token would not fit.
            let rows = Rows { key: format.key.shape(), value: format.value.shape(), head_dim: d };
            prop_assert!(rows.need(n) <= page.page_bytes() && rows.need(n + 1) > page.page_bytes());
        }
    }
}
