//! Tokens of a page, written and read one by one.
//!
//! Pages live in an arena `[pages, page_bytes]`. The tokens of one tier of one KV head are listed by page
//! ids: token `t` is slot `t % tokens_per_page` of page `ids[t / tokens_per_page]`.

use super::error::{ReferenceError, check_len};
use leankv_dsl::format::{CodecSpec, KvFormat, PageLayout, Segment, SegmentKind, decode_row, encode_row};

/// A KV format with its page layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagedFormat {
    format: KvFormat,
    layout: PageLayout,
}

/// One token of one KV head, as read back from a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Decoded key, `[head_dim]`.
    pub key: Vec<f32>,
    /// Decoded value, `[head_dim]`.
    pub value: Vec<f32>,
    /// Accumulated significance.
    pub significance: f32,
    /// Position in the sequence.
    pub position: i32,
}

impl PagedFormat {
    /// A format in pages of `page_bytes`.
    ///
    /// # Errors
    /// Whatever [`PageLayout::derive`] rejects.
    pub fn new(format: KvFormat, head_dim: u32, page_bytes: u32) -> Result<Self, ReferenceError> {
        let layout = PageLayout::derive(&format, head_dim, page_bytes)?;
        Ok(Self { format, layout })
    }

    /// The format.
    #[must_use]
    pub const fn format(&self) -> &KvFormat {
        &self.format
    }

    /// The layout.
    #[must_use]
    pub const fn layout(&self) -> &PageLayout {
        &self.layout
    }

    /// Elements per vector.
    #[must_use]
    pub const fn head_dim(&self) -> usize {
        self.layout.head_dim() as usize
    }

    /// Tokens one page holds.
    #[must_use]
    pub const fn tokens_per_page(&self) -> usize {
        self.layout.tokens_per_page() as usize
    }
}

/// Encodes one token of one KV head into a slot of a page. Bytes of other slots are not touched.
///
/// # Errors
/// A page or vector of the wrong length, or a slot outside the page.
pub fn write_token(
    paged: &PagedFormat,
    page: &mut [u8],
    slot: u32,
    key: &[f32],
    value: &[f32],
    significance: f32,
    position: i32,
) -> Result<(), ReferenceError> {
    let layout = &paged.layout;
    layout.check_page(page)?;
    layout.check_token(slot)?;
    check_len("key [head_dim]", paged.head_dim(), key.len())?;
    check_len("value [head_dim]", paged.head_dim(), value.len())?;
    let mut side = |codec: &CodecSpec, x: &[f32], codes, meta| -> Result<(), ReferenceError> {
        let shape = codec.shape();
        let mut words = vec![0; (shape.groups * shape.meta_words) as usize];
        encode_row(codec, x, row_mut(page, layout.segment(codes), slot), &mut words)?;
        for (bytes, word) in row_mut(page, layout.segment(meta), slot).chunks_exact_mut(2).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    };
    side(&paged.format.key, key, SegmentKind::Keys, SegmentKind::KeyMeta)?;
    side(&paged.format.value, value, SegmentKind::Values, SegmentKind::ValueMeta)?;
    row_mut(page, layout.significance(), slot).copy_from_slice(&significance.to_le_bytes());
    row_mut(page, layout.positions(), slot).copy_from_slice(&position.to_le_bytes());
    Ok(())
}

/// Decodes one slot of a page.
///
/// # Errors
/// A page of the wrong length or a slot outside the page.
pub fn read_token(paged: &PagedFormat, page: &[u8], slot: u32) -> Result<Token, ReferenceError> {
    let layout = &paged.layout;
    layout.check_page(page)?;
    layout.check_token(slot)?;
    let side = |codec: &CodecSpec, codes, meta| -> Result<Vec<f32>, ReferenceError> {
        let words: Vec<u16> = row(page, layout.segment(meta), slot)
            .chunks_exact(2)
            .map(|w| u16::from_le_bytes([w[0], w[1]]))
            .collect();
        let mut x = vec![0.0; paged.head_dim()];
        decode_row(codec, row(page, layout.segment(codes), slot), &words, &mut x)?;
        Ok(x)
    };
    Ok(Token {
        key: side(&paged.format.key, SegmentKind::Keys, SegmentKind::KeyMeta)?,
        value: side(&paged.format.value, SegmentKind::Values, SegmentKind::ValueMeta)?,
        significance: f32::from_le_bytes(four(row(page, layout.significance(), slot))),
        position: i32::from_le_bytes(four(row(page, layout.positions(), slot))),
    })
}

/// Decodes the first `len` tokens of one page list.
///
/// # Errors
/// More tokens than the list holds, or a page id outside the arena.
pub fn read_tokens(
    paged: &PagedFormat,
    arena: &[u8],
    page_ids: &[i32],
    len: usize,
) -> Result<Vec<Token>, ReferenceError> {
    (0..len)
        .map(|t| {
            let (page, slot) = place(paged, page_ids, t)?;
            let at = page_start(paged, arena.len(), page)?;
            read_token(paged, &arena[at..][..paged.layout.page_bytes() as usize], slot)
        })
        .collect()
}

/// The page and slot of a token in a page list.
pub(super) fn place(paged: &PagedFormat, ids: &[i32], token: usize) -> Result<(i32, u32), ReferenceError> {
    let n = paged.tokens_per_page();
    let page = ids
        .get(token / n)
        .copied()
        .ok_or(ReferenceError::LengthBeyondPages { len: token as i64 + 1, room: ids.len() * n })?;
    Ok((page, (token % n) as u32))
}

/// One page of an arena.
pub(super) fn page_mut<'a>(
    paged: &PagedFormat,
    arena: &'a mut [u8],
    page: i32,
) -> Result<&'a mut [u8], ReferenceError> {
    let at = page_start(paged, arena.len(), page)?;
    Ok(&mut arena[at..][..paged.layout.page_bytes() as usize])
}

/// One page of an arena, to read.
pub(super) fn page<'a>(paged: &PagedFormat, arena: &'a [u8], page: i32) -> Result<&'a [u8], ReferenceError> {
    let at = page_start(paged, arena.len(), page)?;
    Ok(&arena[at..][..paged.layout.page_bytes() as usize])
}

fn page_start(paged: &PagedFormat, arena_bytes: usize, page: i32) -> Result<usize, ReferenceError> {
    let bytes = paged.layout.page_bytes() as usize;
    let pages = arena_bytes / bytes;
    match usize::try_from(page) {
        Ok(id) if id < pages => Ok(id * bytes),
        _ => Err(ReferenceError::PageOutOfArena { page, pages }),
    }
}

/// One token's row of a segment.
pub(super) fn row_mut<'a>(page: &'a mut [u8], segment: &Segment, slot: u32) -> &'a mut [u8] {
    &mut page[segment.row(slot) as usize..][..segment.row_bytes as usize]
}

fn row<'a>(page: &'a [u8], segment: &Segment, slot: u32) -> &'a [u8] {
    &page[segment.row(slot) as usize..][..segment.row_bytes as usize]
}

/// A significance or position row.
pub(super) fn four(row: &[u8]) -> [u8; 4] {
    row.try_into().expect("significance and position rows are 4 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::testing::random;
    use crate::reference::{dequantize, quantize, write_chunk};

    fn paged(name: &str, head_dim: u32) -> PagedFormat {
        PagedFormat::new(name.parse().unwrap(), head_dim, 8192).unwrap()
    }

    #[test]
    fn a_chunk_reads_back_as_quantised_tokens_with_position_and_significance() {
        for (name, d) in [("fp16", 64), ("K8V4", 128), ("K4V2g2.4", 80), ("K3V5", 96), ("K7sV6s", 256)] {
            let paged = paged(name, d as u32);
            let (tokens, heads) = (2 * paged.tokens_per_page() + 3, 2);
            let (keys, values) = (random(1, tokens * heads * d), random(2, tokens * heads * d));
            let significance = random(3, heads * tokens);
            let dest: Vec<i32> = (0..heads * tokens).map(|i| 2 * (i % tokens) as i32).collect();
            // Pages deliberately out of order.
            let ids = [5, 0, 3, 1, 4, 2];
            let mut arena = vec![0xAA; 6 * 8192];
            write_chunk(&paged, None, &mut arena, &ids, &keys, &values, &significance, &dest, 7, heads)
                .unwrap();
            let exact =
                |codec: &CodecSpec, x: &[f32]| dequantize(codec, &quantize(codec, x, d).unwrap(), d).unwrap();
            let (keys, values) = (exact(&paged.format.key, &keys), exact(&paged.format.value, &values));
            for head in 0..heads {
                let got = read_tokens(&paged, &arena, &ids[head * 3..][..3], tokens).unwrap();
                for (t, got) in got.iter().enumerate() {
                    let at = (t * heads + head) * d;
                    assert_eq!(got.key, keys[at..][..d], "{name} head {head} token {t}");
                    assert_eq!(got.value, values[at..][..d], "{name} head {head} token {t}");
                    assert_eq!(got.significance, significance[head * tokens + t]);
                    assert_eq!(got.position, 7 + t as i32);
                }
            }
        }
    }

    #[test]
    fn writing_a_slot_touches_no_other_byte() {
        let paged = paged("K5V3g2", 128);
        let n = paged.layout.tokens_per_page();
        for slot in [0, 1, n / 2, n - 1] {
            let mut page = vec![0x55; 8192];
            write_token(&paged, &mut page, slot, &random(6, 128), &random(7, 128), 0.25, 9).unwrap();
            let mut mine = vec![false; 8192];
            for s in paged.layout.segments() {
                mine[s.row(slot) as usize..][..s.row_bytes as usize].fill(true);
            }
            assert!(page.iter().zip(&mine).all(|(&b, &mine)| mine || b == 0x55), "slot {slot}");
        }
    }

    #[test]
    fn bad_places_are_errors() {
        let paged = paged("K8V4", 64);
        let n = paged.tokens_per_page();
        let mut arena = vec![0; 8192];
        let (key, value) = (vec![0.0; 64], vec![0.0; 64]);
        let mut write =
            |page, to| write_chunk(&paged, None, &mut arena, &[page], &key, &value, &[0.0], &[2 * to], 0, 1);
        assert_eq!(write(1, 0), Err(ReferenceError::PageOutOfArena { page: 1, pages: 1 }));
        assert_eq!(write(-1, 0), Err(ReferenceError::PageOutOfArena { page: -1, pages: 1 }));
        let beyond = ReferenceError::LengthBeyondPages { len: n as i64 + 1, room: n };
        assert_eq!(write(0, n as i32), Err(beyond.clone()));
        assert_eq!(read_tokens(&paged, &arena, &[0], n + 1), Err(beyond));
        assert!(write_token(&paged, &mut arena, n as u32, &key, &value, 0.0, 0).is_err());
        assert!(write_token(&paged, &mut arena, 0, &key[1..], &value, 0.0, 0).is_err());
        assert!(write_token(&paged, &mut arena[1..], 0, &key, &value, 0.0, 0).is_err());
        assert!(read_tokens(&paged, &arena, &[0], 0).unwrap().is_empty());
    }
}
