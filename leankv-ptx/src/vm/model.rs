//! Architectural rules behind the modelled counters.

/// Distinct 32-byte sectors of one request. Each lane's access lies within one sector, or starts one if larger.
#[inline(always)]
pub(crate) fn sectors(addresses: &[u64; 32], mask: u32, bytes: u32) -> u64 {
    if mask == 0 {
        return 0;
    }
    let per_lane = u64::from(bytes.div_ceil(32).max(1));
    let mut count = 0u64;
    let mut last = u64::MAX;
    let mut sorted = true;
    for l in 0..32 {
        if mask >> l & 1 == 0 {
            continue;
        }
        let s = addresses[l] >> 5;
        if last == u64::MAX || s > last {
            count += 1;
            last = s;
        } else if s < last {
            sorted = false;
            break;
        }
    }
    if !sorted {
        let mut all = [0u64; 32];
        let mut n = 0;
        for l in 0..32 {
            if mask >> l & 1 == 1 {
                all[n] = addresses[l] >> 5;
                n += 1;
            }
        }
        let all = &mut all[..n];
        all.sort_unstable();
        count = 1 + all.windows(2).filter(|w| w[0] != w[1]).count() as u64;
    }
    count * per_lane
}

/// Sectors that the bytes asked for would fill, never more than `actual` (lanes may share bytes).
pub(crate) fn ideal_sectors(lanes: u32, bytes: u32, actual: u64) -> u64 {
    u64::from((lanes * bytes).div_ceil(32)).min(actual)
}

/// Shared-memory wavefronts of one request of `bytes` per lane: 32 banks of four bytes; lanes that read the same
/// word share it; 8- and 16-byte accesses go by half- and quarter-warps.
#[inline(always)]
pub(crate) fn wavefronts(offsets: &[u32; 32], mask: u32, bytes: u32) -> (u64, u64) {
    let words = (bytes / 4).max(1);
    let phases = words.min(4);
    let lanes = 32 / phases;
    let (mut total, mut ideal) = (0u64, 0u64);
    for phase in 0..phases {
        let part = (mask >> (phase * lanes)) & if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
        if part == 0 {
            continue;
        }
        ideal += u64::from(words / phases).max(1);
        // Per bank, the distinct words asked for; one is the common case.
        let mut first = [u32::MAX; 32];
        let mut worst = 1u32;
        let mut more: [(u32, u32); 128] = [(0, 0); 128];
        let mut extra = 0usize;
        let mut counts = [0u32; 32];
        for l in 0..lanes {
            if part >> l & 1 == 0 {
                continue;
            }
            let base = offsets[(phase * lanes + l) as usize] / 4;
            for w in base..base + words {
                let bank = (w & 31) as usize;
                if first[bank] == u32::MAX {
                    first[bank] = w;
                    counts[bank] = 1;
                } else if first[bank] != w && !more[..extra].contains(&(bank as u32, w)) && extra < 128 {
                    more[extra] = (bank as u32, w);
                    extra += 1;
                    counts[bank] += 1;
                    worst = worst.max(counts[bank]);
                }
            }
        }
        total += u64::from(worst);
    }
    (total, ideal.min(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stride(step: u64) -> [u64; 32] {
        std::array::from_fn(|l| 0x1000 + l as u64 * step)
    }

    #[test]
    fn a_full_warp_of_consecutive_words_touches_four_sectors() {
        assert_eq!(sectors(&stride(4), u32::MAX, 4), 4);
        assert_eq!(sectors(&stride(16), u32::MAX, 16), 16);
        assert_eq!(sectors(&stride(32), u32::MAX, 4), 32);
        assert_eq!(sectors(&stride(0), u32::MAX, 4), 1);
        let mut reversed = stride(4);
        reversed.reverse();
        assert_eq!(sectors(&reversed, u32::MAX, 4), 4);
    }

    #[test]
    fn bank_conflicts_count_distinct_words_of_a_bank() {
        let at = |f: fn(u32) -> u32| std::array::from_fn(|l| f(l as u32));
        assert_eq!(wavefronts(&at(|l| l * 4), u32::MAX, 4), (1, 1));
        assert_eq!(wavefronts(&at(|_| 0), u32::MAX, 4), (1, 1));
        assert_eq!(wavefronts(&at(|l| l * 8), u32::MAX, 4).0, 2);
        assert_eq!(wavefronts(&at(|l| l * 128), u32::MAX, 4).0, 32);
        assert_eq!(wavefronts(&at(|l| l * 16), u32::MAX, 16), (4, 4));
        assert_eq!(wavefronts(&at(|l| l * 8), u32::MAX, 8), (2, 2));
    }
}
