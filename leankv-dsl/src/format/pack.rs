//! How codes lie in bytes.
//!
//! Widths 1, 2, 4 and 8 are packed densely: element 0 in the lowest bits of byte 0, elements in row order.
//! Other widths are split into bit planes of widths 4, 2 and 1, widest first, each packed densely, one
//! plane after another within the row; the low bits of a code are in the first plane:
//!
//! | width | planes (code bits) |
//! |---|---|
//! | 3 | 2 (0..2), 1 (2) |
//! | 5 | 4 (0..4), 1 (4) |
//! | 6 | 4 (0..4), 2 (4..6) |
//! | 7 | 4 (0..4), 2 (4..6), 1 (6) |
//!
//! So a row takes exactly `head_dim * bits / 8` bytes at every width, and no code straddles a byte.
//! Width 16 is the bit pattern of an unquantised value, little-endian.

use super::FormatError;

/// One bit plane of a code width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plane {
    /// Bits per element in this plane: 1, 2, 4, 8 or 16.
    pub width: u32,
    /// Position of the plane's lowest bit within the code.
    pub shift: u32,
}

impl Plane {
    /// Bytes of this plane in a row of `len` elements.
    #[must_use]
    pub const fn bytes(self, len: usize) -> usize {
        len * self.width as usize / 8
    }

    /// The plane's part of a code, moved to the low bits.
    const fn part(self, code: u16) -> u16 {
        (code >> self.shift) & (((1u32 << self.width) - 1) as u16)
    }
}

/// The planes of a width, in storage order.
///
/// # Errors
/// [`FormatError::UnsupportedBits`] unless the width is 1 to 8 or 16.
pub const fn planes(bits: u32) -> Result<&'static [Plane], FormatError> {
    const fn plane(width: u32, shift: u32) -> Plane {
        Plane { width, shift }
    }
    Ok(match bits {
        1 => &const { [plane(1, 0)] },
        2 => &const { [plane(2, 0)] },
        3 => &const { [plane(2, 0), plane(1, 2)] },
        4 => &const { [plane(4, 0)] },
        5 => &const { [plane(4, 0), plane(1, 4)] },
        6 => &const { [plane(4, 0), plane(2, 4)] },
        7 => &const { [plane(4, 0), plane(2, 4), plane(1, 6)] },
        8 => &const { [plane(8, 0)] },
        16 => &const { [plane(16, 0)] },
        _ => return Err(FormatError::UnsupportedBits { bits }),
    })
}

/// Bytes of a packed row of `len` elements: `len * bits / 8`. `len` is a multiple of 8.
#[must_use]
pub const fn row_bytes(len: usize, bits: u32) -> usize {
    len * bits as usize / 8
}

/// Packs one row of codes.
///
/// # Errors
/// An unsupported width, a row that is not a multiple of 8 elements, a buffer that is not
/// [`row_bytes`] long, or a code that does not fit its width.
pub fn pack_row(codes: &[u16], bits: u32, out: &mut [u8]) -> Result<(), FormatError> {
    let planes = check(codes.len(), bits, out.len())?;
    if let Some((index, &code)) = codes.iter().enumerate().find(|&(_, &c)| u32::from(c) >> bits != 0) {
        return Err(FormatError::CodeRange { index, code, bits });
    }
    let mut rest = out;
    for plane in planes {
        let (bytes, tail) = rest.split_at_mut(plane.bytes(codes.len()));
        if plane.width == 16 {
            for (pair, code) in bytes.chunks_exact_mut(2).zip(codes) {
                pair.copy_from_slice(&code.to_le_bytes());
            }
        } else {
            let per_byte = 8 / plane.width as usize;
            for (byte, codes) in bytes.iter_mut().zip(codes.chunks_exact(per_byte)) {
                *byte =
                    codes.iter().rev().fold(0, |acc, &c| (acc << (plane.width % 8)) | plane.part(c) as u8);
            }
        }
        rest = tail;
    }
    Ok(())
}

/// Unpacks one row of codes: the inverse of [`pack_row`].
///
/// # Errors
/// As [`pack_row`]; every bit pattern is a valid row.
pub fn unpack_row(bytes: &[u8], bits: u32, codes: &mut [u16]) -> Result<(), FormatError> {
    let planes = check(codes.len(), bits, bytes.len())?;
    codes.fill(0);
    let mut rest = bytes;
    for plane in planes {
        let (bytes, tail) = rest.split_at(plane.bytes(codes.len()));
        if plane.width == 16 {
            for (pair, code) in bytes.chunks_exact(2).zip(codes.iter_mut()) {
                *code = u16::from_le_bytes([pair[0], pair[1]]);
            }
        } else {
            let per_byte = 8 / plane.width as usize;
            for (byte, codes) in bytes.iter().zip(codes.chunks_exact_mut(per_byte)) {
                for (lane, code) in codes.iter_mut().enumerate() {
                    let part = Plane { width: plane.width, shift: lane as u32 * plane.width };
                    *code |= part.part(u16::from(*byte)) << plane.shift;
                }
            }
        }
        rest = tail;
    }
    Ok(())
}

fn check(len: usize, bits: u32, bytes: usize) -> Result<&'static [Plane], FormatError> {
    let planes = planes(bits)?;
    if !len.is_multiple_of(8) {
        return Err(FormatError::Length {
            what: "codes of a row (a multiple of 8)",
            expected: len.next_multiple_of(8),
            got: len,
        });
    }
    let expected = row_bytes(len, bits);
    if bytes != expected {
        return Err(FormatError::Length { what: "bytes of a packed row", expected, got: bytes });
    }
    Ok(planes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(codes: &[u16], bits: u32) -> Vec<u8> {
        let mut out = vec![0; row_bytes(codes.len(), bits)];
        pack_row(codes, bits, &mut out).unwrap();
        out
    }

    #[test]
    fn dense_widths_put_element_zero_in_the_lowest_bits() {
        assert_eq!(packed(&[1, 0, 0, 0, 0, 0, 0, 1], 1), [0b1000_0001]);
        assert_eq!(packed(&[1, 2, 3, 0, 0, 0, 0, 3], 2), [0b00_11_10_01, 0b11_00_00_00]);
        assert_eq!(packed(&[0xA, 0xB, 0, 1, 2, 3, 4, 5], 4), [0xBA, 0x10, 0x32, 0x54]);
        assert_eq!(packed(&[1, 2, 3, 4, 5, 6, 7, 255], 8), [1, 2, 3, 4, 5, 6, 7, 255]);
        assert_eq!(packed(&[0x1234, 0, 0, 0, 0, 0, 0, 0xFFFE], 16)[..2], [0x34, 0x12]);
    }

    #[test]
    fn odd_widths_store_the_low_bits_in_the_first_plane() {
        // 7 = 4 + 2 + 1: element 0 is 0b1_01_0110.
        let bytes = packed(&[0b101_0110, 0, 0, 0, 0, 0, 0, 0], 7);
        assert_eq!(bytes, [0b0110, 0, 0, 0, 0b01, 0, 0b1]);
        let bytes = packed(&[0, 0b110, 0, 0, 0, 0, 0, 0b101], 3);
        assert_eq!(bytes, [0b10_00, 0b01 << 6, 0b1000_0010]);
    }

    #[test]
    fn planes_cover_each_bit_of_a_code_once() {
        for bits in (1..=8).chain([16]) {
            let planes = planes(bits).unwrap();
            let mut next = 0;
            for p in planes {
                assert_eq!(p.shift, next);
                next += p.width;
            }
            assert_eq!(next, bits);
            assert!(planes.is_sorted_by(|a, b| a.width > b.width));
        }
        for bits in [0, 9, 15, 17, u32::MAX] {
            assert_eq!(planes(bits), Err(FormatError::UnsupportedBits { bits }));
        }
    }

    #[test]
    fn wrong_lengths_and_codes_are_errors() {
        let mut out = [0; 4];
        assert!(matches!(pack_row(&[0; 7], 4, &mut out), Err(FormatError::Length { got: 7, .. })));
        assert!(matches!(pack_row(&[0; 16], 4, &mut out), Err(FormatError::Length { expected: 8, .. })));
        let mut codes = [0; 8];
        codes[5] = 16;
        assert_eq!(
            pack_row(&codes, 4, &mut out),
            Err(FormatError::CodeRange { index: 5, code: 16, bits: 4 })
        );
    }

    fn row() -> impl Strategy<Value = (u32, Vec<u16>)> {
        (1u32..=8, 1usize..=64)
            .prop_flat_map(|(bits, eights)| (Just(bits), prop::collection::vec(0u16..1 << bits, eights * 8)))
    }

    proptest! {
        #[test]
        fn unpack_inverts_pack((bits, codes) in row()) {
            let bytes = packed(&codes, bits);
            prop_assert_eq!(bytes.len() * 8, codes.len() * bits as usize);
            let mut back = vec![0xFFFF; codes.len()];
            unpack_row(&bytes, bits, &mut back).unwrap();
            prop_assert_eq!(back, codes);
        }

        #[test]
        fn pack_inverts_unpack(bits in 1u32..=8, seed in prop::collection::vec(any::<u8>(), 64)) {
            let bytes = &seed[..bits as usize * 8];
            let mut codes = vec![0; 64];
            unpack_row(bytes, bits, &mut codes).unwrap();
            prop_assert_eq!(packed(&codes, bits), bytes);
        }
    }
}
