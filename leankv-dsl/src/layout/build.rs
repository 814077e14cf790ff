//! Constructor of blocked layouts.

use smallvec::SmallVec;

use super::linear::{LANE_BITS, LinearLayout};

/// A blocked layout: per dimension (outermost first) log2 of elements a thread, of lanes and of warps,
/// with dimensions filled in `order` (fastest first). Bits of the tile that are left go to registers;
/// lanes and warps that are left over hold copies.
pub fn blocked(
    dims: &[u32],
    per_thread: &[u32],
    lanes: &[u32],
    warps: &[u32],
    order: &[usize],
    warp_bits: usize,
) -> LinearLayout {
    let shift = |axis: usize| dims[axis + 1..].iter().sum::<u32>();
    let mut used: SmallVec<[u32; 5]> = SmallVec::from_elem(0, dims.len());
    let mut take = |axis: usize, count: u32| -> SmallVec<[u32; 8]> {
        (0..count)
            .map(|_| {
                let bit = used[axis];
                if bit < dims[axis] {
                    used[axis] += 1;
                    1 << (shift(axis) + bit)
                } else {
                    0
                }
            })
            .collect()
    };
    let mut registers: SmallVec<[u32; 8]> = SmallVec::new();
    let (mut lane, mut warp) = (SmallVec::<[u32; 8]>::new(), SmallVec::<[u32; 8]>::new());
    for &axis in order {
        registers.extend(take(axis, per_thread[axis].min(dims[axis])));
    }
    for &axis in order {
        lane.extend(take(axis, lanes[axis]));
    }
    for &axis in order {
        warp.extend(take(axis, warps[axis]));
    }
    for &axis in order {
        registers.extend(take(axis, dims[axis]));
    }
    lane.resize(LANE_BITS, 0);
    warp.resize(warp_bits, 0);
    let lanes: [u32; LANE_BITS] = std::array::from_fn(|i| lane[i]);
    LinearLayout::new(dims, registers, lanes, &warp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_layout_holds_every_element_once_when_it_fits() {
        let layout = blocked(&[6, 7], &[0, 3], &[1, 4], &[2, 0], &[1, 0], 2);
        assert!(layout.is_surjective());
        assert_eq!(layout.copies(), 1);
        assert_eq!(layout.register_count(), 64 * 128 / 128);
        assert_eq!(layout.contiguous_register_bits(1), 3);
    }

    #[test]
    fn small_tiles_are_copied_and_known_to_be() {
        let layout = blocked(&[3], &[1], &[5], &[2], &[0], 2);
        assert!(layout.is_surjective());
        assert_eq!(layout.copies(), 128 / 4);
        assert_eq!(layout.register_count(), 2);
    }
}
