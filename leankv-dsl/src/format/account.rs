//! Honest accounting of bytes.
//!
//! The published figures count code bits alone. Here a *true* byte is any byte of a page: codes, scales,
//! zeros, significance, positions, padding, and slots no token uses.

use super::CodecShape;

/// What one token of a format costs in pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Account {
    head_dim: u32,
    page_bytes: u32,
    tokens_per_page: u32,
    payload_bits: u32,
    raw_bytes: u32,
}

impl Account {
    pub(super) const fn new(
        key: CodecShape,
        value: CodecShape,
        head_dim: u32,
        page_bytes: u32,
        tokens_per_page: u32,
    ) -> Self {
        let codes = key.row_bytes(head_dim) + value.row_bytes(head_dim);
        Self {
            head_dim,
            page_bytes,
            tokens_per_page,
            payload_bits: head_dim * (key.code_bits + value.code_bits),
            raw_bytes: codes + key.meta_bytes() + value.meta_bytes() + 8,
        }
    }

    /// Page bytes per token of a full page: everything counted.
    #[must_use]
    pub fn true_bytes_per_token(&self) -> f64 {
        f64::from(self.page_bytes) / f64::from(self.tokens_per_page)
    }

    /// Codes, metadata, significance and position of one token, without padding.
    #[must_use]
    pub const fn raw_bytes_per_token(&self) -> u32 {
        self.raw_bytes
    }

    /// Codes alone: what the published figures count.
    #[must_use]
    pub fn payload_bytes_per_token(&self) -> f64 {
        f64::from(self.payload_bits) / 8.0
    }

    /// Bytes per token of an FP16 cache without any bookkeeping: the baseline of both ratios.
    #[must_use]
    pub const fn fp16_bytes_per_token(&self) -> u32 {
        4 * self.head_dim
    }

    /// Fraction of a full page that is padding.
    #[must_use]
    pub fn waste(&self) -> f64 {
        1.0 - f64::from(self.raw_bytes) * f64::from(self.tokens_per_page) / f64::from(self.page_bytes)
    }

    /// Compression against FP16 in true bytes: how many times fewer.
    #[must_use]
    pub fn true_compression(&self) -> f64 {
        f64::from(self.fp16_bytes_per_token()) / self.true_bytes_per_token()
    }

    /// Compression against FP16 in payload bytes, comparable with published figures.
    #[must_use]
    pub fn payload_compression(&self) -> f64 {
        f64::from(self.fp16_bytes_per_token()) / self.payload_bytes_per_token()
    }

    /// Pages that hold `tokens` tokens.
    #[must_use]
    pub fn pages(&self, tokens: u64) -> u64 {
        tokens.div_ceil(u64::from(self.tokens_per_page))
    }

    /// True bytes of `tokens` tokens of one KV head of one layer: whole pages, the last one partly filled.
    #[must_use]
    pub fn true_bytes(&self, tokens: u64) -> u64 {
        self.pages(tokens) * u64::from(self.page_bytes)
    }

    /// Payload bytes of `tokens` tokens of one KV head of one layer.
    #[must_use]
    pub fn payload_bytes(&self, tokens: u64) -> u64 {
        tokens * u64::from(self.payload_bits) / 8
    }
}

#[cfg(test)]
mod tests {
    use crate::format::{KvFormat, PageLayout};

    /// Columns: format, raw bytes, true bytes, true percentage, payload percentage.
    #[test]
    fn figures_match_the_reference_table() {
        for (name, raw, true_bytes, true_percent, payload_percent) in [
            ("K8V8", 272, 282.7, 55.2, 50.0),
            ("K8V4g1.2", 212, 212.0, 41.4, 37.5),
            ("K8V4", 208, 212.0, 41.4, 37.5),
            ("K8V2", 176, 183.4, 35.8, 31.25),
            ("K4V4", 144, 147.5, 28.8, 25.0),
            ("K4V2g2.4", 128, 130.5, 25.5, 18.75),
            ("K4V2", 112, 113.1, 22.1, 18.75),
            ("K4V1", 96, 98.3, 19.2, 15.625),
        ] {
            let format: KvFormat = name.parse().unwrap();
            let account = PageLayout::derive(&format, 128, 6784).unwrap().account();
            assert_eq!(account.raw_bytes_per_token(), raw, "{name}");
            assert!((account.true_bytes_per_token() - true_bytes).abs() < 0.05, "{name}");
            assert!((100.0 / account.true_compression() - true_percent).abs() < 0.05, "{name}");
            assert!((100.0 / account.payload_compression() - payload_percent).abs() < 1e-9, "{name}");
        }
    }

    #[test]
    fn a_partly_filled_last_page_counts_whole() {
        let page = PageLayout::derive(&"K8V4".parse().unwrap(), 128, 6784).unwrap();
        let account = page.account();
        assert_eq!(account.true_bytes(0), 0);
        assert_eq!(account.true_bytes(1), 6784);
        assert_eq!(account.true_bytes(32), 6784);
        assert_eq!(account.true_bytes(33), 2 * 6784);
        assert_eq!(account.payload_bytes(33), 33 * 192);
    }
}
