//! Which sectors a block has loaded before.

/// Sectors of one chunk: 32 KiB of memory.
const CHUNK: usize = 1024;

/// The last block that loaded each sector of a range; only chunks that were touched take memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touched {
    chunks: Vec<Option<Box<[u32; CHUNK]>>>,
}

impl Touched {
    /// How many of the sectors under these accesses `block` loads for the first time. `base` is the range's first address.
    pub(crate) fn first(
        &mut self,
        block: u32,
        base: u64,
        addresses: &[u64; 32],
        mask: u32,
        bytes: u32,
    ) -> u64 {
        let mut count = 0;
        let mut last = usize::MAX;
        for l in (0..32).filter(|l| mask >> l & 1 == 1) {
            // A range need not start at a sector, so sectors are counted from the one that holds its first byte.
            let sector = |address: u64| ((address >> 5) - (base >> 5)) as usize;
            let end = addresses[l] + u64::from(bytes.max(1)) - 1;
            for s in sector(addresses[l])..=sector(end) {
                if s == last {
                    continue;
                }
                last = s;
                if s / CHUNK >= self.chunks.len() {
                    self.chunks.resize(s / CHUNK + 1, None);
                }
                let chunk = self.chunks[s / CHUNK].get_or_insert_with(|| Box::new([0; CHUNK]));
                // 0 is nobody, so that a fresh chunk is one of zeros.
                count += u64::from(std::mem::replace(&mut chunk[s % CHUNK], block + 1) != block + 1);
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::Touched;

    #[test]
    fn a_sector_counts_once_for_each_block() {
        let mut touched = Touched::default();
        let at = |start: u64, step: u64| std::array::from_fn(|l| 0x1_0010 + start + step * l as u64);
        assert_eq!(touched.first(0, 0x1_0010, &at(0, 4), u32::MAX, 4), 5);
        assert_eq!(touched.first(0, 0x1_0010, &at(0, 4), u32::MAX, 4), 0);
        assert_eq!(touched.first(0, 0x1_0010, &at(128, 0), 1, 4), 0);
        assert_eq!(touched.first(0, 0x1_0010, &at(1 << 20, 64), u32::MAX, 16), 32);
        assert_eq!(touched.first(1, 0x1_0010, &at(0, 4), 1, 16), 1);
        assert_eq!(touched.first(1, 0x1_0010, &at(8, 4), 1, 16), 1);
        assert_eq!(touched.first(1, 0x1_0010, &at(0, 4), 0, 16), 0);
    }
}
