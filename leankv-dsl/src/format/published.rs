//! The published order of codes, and conversion between it and the token-major order.
//!
//! The released CUDA kernels store codes in 16-bit packs (element 0 in the lowest bits, `16 / bits` elements
//! a pack) and interleave the packs of tokens so that a warp's load is contiguous. With `n` tokens per page,
//! pack `p` of token `t` lies at this 16-bit index of its segment:
//!
//! * keys, `vpt = packs / 16`, `vec = p / 4`:
//!   `((vec % vpt) * n + t) * 16 + (vec / vpt) * 4 + p % 4`: four threads share a key, each loads 8 bytes;
//! * values, `ppt = packs / 8`, `n' = n` rounded up to even:
//!   `((p % ppt) * (n' / 2) + t / 2) * 16 + (p / ppt) * 2 + t % 2`: eight threads share a value, each loads
//!   two tokens' packs at once.
//!
//! Defined for power-of-two widths whose packs fill the threads (keys: a multiple of 16 packs, and whole
//! loads inside a group; values: a multiple of 8 packs).

use super::{CodecShape, FormatError, Interleave, PageLayout, Segment};

impl PageLayout {
    /// The same page with codes in another order. Offsets do not change.
    ///
    /// # Errors
    /// [`FormatError::PublishedOrder`] where the published order is not defined for this layout.
    pub fn with_interleave(&self, interleave: Interleave) -> Result<Self, FormatError> {
        Self::from_shapes(
            self.key_shape(),
            self.value_shape(),
            self.head_dim(),
            self.page_bytes(),
            interleave,
        )
    }

    /// Rewrites a page from this layout's order of codes into another.
    ///
    /// # Errors
    /// A buffer that is not one page long, or an order that is not defined for this layout.
    pub fn convert_page(&self, page: &[u8], to: Interleave) -> Result<Vec<u8>, FormatError> {
        self.check_page(page)?;
        self.with_interleave(to)?;
        let mut out = page.to_vec();
        let copy = |out: &mut [u8], segment: &Segment, index: &dyn Fn(Interleave, u32, u32) -> u32| {
            for token in 0..segment.rows {
                for pack in 0..segment.row_bytes / 2 {
                    let byte = |order| (segment.offset + 2 * index(order, token, pack)) as usize;
                    let (from, to) = (byte(self.interleave()), byte(to));
                    out[to..to + 2].copy_from_slice(&page[from..from + 2]);
                }
            }
        };
        if to != self.interleave() {
            let (keys, values) = (self.keys(), self.values());
            copy(&mut out, keys, &|order, t, p| key_index(order, keys, t, p));
            copy(&mut out, values, &|order, t, p| value_index(order, values, t, p));
        }
        Ok(out)
    }
}

/// Checks that the published order is defined.
pub(super) fn check(key: CodecShape, value: CodecShape, head_dim: u32) -> Result<(), FormatError> {
    let error = |side, bits, reason| Err(FormatError::PublishedOrder { side, bits, head_dim, reason });
    for (side, shape) in [("key", key), ("value", value)] {
        if !matches!(shape.code_bits, 1 | 2 | 4 | 8) {
            return error(side, shape.code_bits, "codes must be 1, 2, 4 or 8 bits wide");
        }
    }
    let packs = |shape: CodecShape| head_dim * shape.code_bits / 16;
    if packs(key) == 0 || packs(key) % 16 != 0 || packs(key) % (4 * key.groups) != 0 {
        return error("key", key.code_bits, "a key must be a multiple of 16 packs of 16 bits");
    }
    if packs(value) == 0 || packs(value) % 8 != 0 {
        return error("value", value.code_bits, "a value must be a multiple of 8 packs of 16 bits");
    }
    Ok(())
}

fn key_index(order: Interleave, keys: &Segment, token: u32, pack: u32) -> u32 {
    let packs = keys.row_bytes / 2;
    match order {
        Interleave::TokenMajor => token * packs + pack,
        Interleave::Published => {
            let (vec, vecs_per_thread) = (pack / 4, packs / 16);
            ((vec % vecs_per_thread) * keys.rows + token) * 16 + (vec / vecs_per_thread) * 4 + pack % 4
        }
    }
}

fn value_index(order: Interleave, values: &Segment, token: u32, pack: u32) -> u32 {
    let packs = values.row_bytes / 2;
    match order {
        Interleave::TokenMajor => token * packs + pack,
        Interleave::Published => {
            let packs_per_thread = packs / 8;
            ((pack % packs_per_thread) * (values.rows / 2) + token / 2) * 16
                + (pack / packs_per_thread) * 2
                + token % 2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::KvFormat;

    fn layout(name: &str) -> PageLayout {
        let format: KvFormat = name.parse().unwrap();
        PageLayout::derive(&format, 128, 6784, Interleave::TokenMajor).unwrap()
    }

    /// A page whose bytes are all different enough to notice any misplaced pack.
    fn page() -> Vec<u8> {
        (0..6784u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn conversion_is_a_bijection_that_leaves_the_rest_alone() {
        for name in ["K8V8", "K8V4", "K8V4g1.2", "K8V2", "K4V4", "K4V2", "K4V2g2.4", "K4V1"] {
            let token_major = layout(name);
            let published = token_major.with_interleave(Interleave::Published).unwrap();
            let page = page();
            let there = token_major.convert_page(&page, Interleave::Published).unwrap();
            assert_ne!(there, page, "{name}");
            assert_eq!(published.convert_page(&there, Interleave::TokenMajor).unwrap(), page, "{name}");
            assert_eq!(token_major.convert_page(&page, Interleave::TokenMajor).unwrap(), page, "{name}");
            for s in [token_major.key_meta(), token_major.value_meta(), token_major.positions()] {
                let range = s.offset as usize..s.end() as usize;
                assert_eq!(there[range.clone()], page[range], "{name}: {}", s.kind);
            }
        }
    }

    /// What the order is for: a thread's elements of a key are contiguous dims, and a warp's first load
    /// (8 tokens, 4 threads, 8 bytes each) reads 256 contiguous bytes.
    #[test]
    fn threads_own_contiguous_dims_and_warps_read_contiguous_bytes() {
        let keys = *layout("K8V4").keys();
        // 64 packs a key: thread j owns packs [16 j, 16 j + 16), four packs a load.
        let mut first_load = Vec::new();
        for token in 0..8 {
            for thread in 0..4 {
                for lane in 0..4 {
                    first_load.push(key_index(Interleave::Published, &keys, token, thread * 16 + lane));
                }
            }
        }
        assert_eq!(first_load, (0..128).collect::<Vec<u32>>());

        let values = *layout("K8V4").values();
        // 32 packs a value: thread j owns packs [4 j, 4 j + 4), two tokens a load.
        let pair = |thread: u32, token| value_index(Interleave::Published, &values, token, thread * 4);
        assert_eq!([pair(0, 0), pair(0, 1), pair(1, 0), pair(1, 1), pair(0, 2)], [0, 1, 2, 3, 16]);
    }

    #[test]
    fn undefined_orders_are_errors() {
        let published = |name: &str, head_dim| {
            let format: KvFormat = name.parse().unwrap();
            PageLayout::derive(&format, head_dim, 8192, Interleave::Published)
        };
        for (name, head_dim) in [("fp16", 128), ("K3V4", 128), ("K8V5", 128), ("K1V4", 128), ("K4V2", 80)] {
            let error = published(name, head_dim).unwrap_err();
            assert!(matches!(error, FormatError::PublishedOrder { .. }), "{name}: {error}");
        }
        let page = vec![0; 6784];
        assert!(layout("K3V4").convert_page(&page, Interleave::Published).is_err());
        assert!(layout("K8V4").convert_page(&page[1..], Interleave::Published).is_err());
    }
}
