//! Memory for native code, with a border that shows what was written beside it.

/// Bytes of each border, and the alignment.
const GUARD: usize = 128;
/// What the borders hold.
const PATTERN: u8 = 0xa5;

/// A copy of a buffer, aligned to 128 bytes, between two borders of at least 128 bytes that nobody may touch.
///
/// Executors that run native code cannot see a stray store. They give the code guarded memory and ask afterwards whether it is
/// [`intact`](Guarded::intact).
///
/// ```
/// use leankv_dsl::workload::Guarded;
///
/// let mut buffer = Guarded::new(&[1, 2, 3]);
/// assert!(buffer.as_mut_ptr().addr().is_multiple_of(128));
/// assert_eq!((buffer.bytes(), buffer.intact()), (&[1, 2, 3][..], true));
/// ```
#[derive(Debug)]
pub struct Guarded {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Guarded {
    /// Guarded memory that holds `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Guarded {
        let mut memory = vec![PATTERN; bytes.len() + 3 * GUARD];
        let start = GUARD + memory.as_ptr().align_offset(GUARD);
        memory[start..start + bytes.len()].copy_from_slice(bytes);
        Guarded { memory, start, len: bytes.len() }
    }

    /// Its first byte, for native code. The place stays the same as long as this value lives.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        // From the whole memory: it may be used to reach the borders, which is what they are for.
        self.memory.as_mut_ptr().wrapping_add(self.start)
    }

    /// What it holds.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..][..self.len]
    }

    /// Whether both borders are as they were.
    #[must_use]
    pub fn intact(&self) -> bool {
        let (before, rest) = self.memory.split_at(self.start);
        before.iter().chain(&rest[self.len..]).all(|&byte| byte == PATTERN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_written_beside_the_buffer_shows_and_one_inside_does_not() {
        for len in [0usize, 1, 100, 128, 1000] {
            let bytes = vec![7; len];
            for at in [-1isize, -128, len as isize, len as isize + 127] {
                let mut buffer = Guarded::new(&bytes);
                // SAFETY: the borders are 128 bytes wide and part of the same allocation.
                unsafe { buffer.as_mut_ptr().offset(at).write(0) };
                assert!(!buffer.intact(), "{len} bytes, written at {at}");
                assert_eq!(buffer.bytes(), bytes);
            }
            let mut buffer = Guarded::new(&bytes);
            for at in 0..len {
                // SAFETY: within the buffer.
                unsafe { buffer.as_mut_ptr().add(at).write(9) };
            }
            assert!(buffer.intact());
            assert_eq!(buffer.bytes(), vec![9; len]);
        }
    }
}
