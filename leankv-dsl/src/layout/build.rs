//! Constructors: blocked layouts, and the fragments of `mma.sync`.

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

/// The two shapes of `mma.sync` in use: m16n8k16 for 16-bit operands, m16n8k32 for 8-bit operands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MmaShape {
    /// log2 of the operand elements in one 32-bit register: 1 or 2.
    pub pack_bits: u32,
}

impl MmaShape {
    /// For operands of this many bits an element (16 or 8).
    pub fn for_bits(bits: u32) -> MmaShape {
        MmaShape { pack_bits: (32 / bits).trailing_zeros() }
    }

    /// log2 of the k extent of one instruction: 4 or 5.
    pub fn k_bits(self) -> u32 {
        3 + self.pack_bits
    }
}

/// How one `dot` maps onto `mma.sync`.
///
/// Positions inside the padded problem are numbered as the hardware numbers rows, columns and k; each
/// position bit stands for an index bit of the tile given by `m`, `n` and `k`. Choosing these
/// permutations is free as long as both operands share `k` and accumulator and operand share `m`, `n`:
/// so quantised operands are laid out as they lie in memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Operand {
    /// The instruction's shape.
    pub shape: MmaShape,
    /// Index bit (of dimension m) of each row position bit: 3 of the lane group, 1 of the register,
    /// then `warps_m` of the warp, then tiles in registers.
    pub m: Vec<u32>,
    /// Index bit of each column position bit: 3, then `warps_n` of the warp, then tiles.
    pub n: Vec<u32>,
    /// Index bit of each k position bit: pack, 2 of the lane in its group, 1 of the register, then steps.
    pub k: Vec<u32>,
    /// log2 of the warps along m.
    pub warps_m: u32,
    /// log2 of the warps along n.
    pub warps_n: u32,
    /// log2 of the warps that would find no work along m or n and repeat another's.
    pub warps_spare: u32,
}

/// The identity mapping of an m x n x k problem (log2 of padded extents) onto warps.
pub fn mma_plan(
    shape: MmaShape,
    m: u32,
    n: u32,
    k: u32,
    warps_m: u32,
    warps_n: u32,
    warps_spare: u32,
) -> Operand {
    // A position bit beyond the tile stands for no index bit: those rows and columns repeat others.
    let bits = |extent: u32, least: u32| -> Vec<u32> {
        (0..extent.max(least)).map(|i| if i < extent { 1 << i } else { 0 }).collect()
    };
    Operand {
        shape,
        m: bits(m, 4 + warps_m),
        n: bits(n, 3 + warps_n),
        k: bits(k, shape.k_bits()),
        warps_m,
        warps_n,
        warps_spare,
    }
}

impl Operand {
    /// Register bits of the accumulator in position order: (column bit 0, row bit 3, column tiles, row tiles).
    /// Bits that stand for no index bit are skipped, as in the layout.
    pub fn accumulator(&self, dims: [u32; 2]) -> LinearLayout {
        mma_accumulator(self, dims)
    }
}

/// The layout of the `m x n` accumulator (log2 extents).
pub fn mma_accumulator(plan: &Operand, dims: [u32; 2]) -> LinearLayout {
    let n = |i: usize| plan.n.get(i).copied().unwrap_or(0);
    let m = |i: usize| plan.m.get(i).copied().unwrap_or(0) << dims[1];
    let mut registers = vec![n(0), m(3)];
    registers.extend((3 + plan.warps_n as usize..plan.n.len()).map(n));
    registers.extend((4 + plan.warps_m as usize..plan.m.len()).map(m));
    let lanes = [n(1), n(2), m(0), m(1), m(2)];
    let mut warps: Vec<u32> = (0..plan.warps_m as usize).map(|i| m(4 + i)).collect();
    warps.extend((0..plan.warps_n as usize).map(|i| n(3 + i)));
    warps.extend((0..plan.warps_spare).map(|_| 0));
    LinearLayout::new(&dims, registers, lanes, &warps)
}

/// The layout of an operand: `a` is `m x k`, else `k x n` (log2 extents).
pub fn mma_operand(plan: &Operand, a: bool, dims: [u32; 2]) -> LinearLayout {
    let pack = plan.shape.pack_bits as usize;
    let (k_shift, other_shift) = if a { (0, dims[1]) } else { (dims[1], 0) };
    let k = |i: usize| plan.k.get(i).copied().unwrap_or(0) << k_shift;
    let other: &[u32] = if a { &plan.m } else { &plan.n };
    let o = |i: usize| other.get(i).copied().unwrap_or(0) << other_shift;
    let mut registers: Vec<u32> = (0..pack).map(k).collect();
    let fixed = if a { 4 } else { 3 };
    if a {
        registers.push(o(3));
    }
    registers.push(k(pack + 2));
    registers.extend((pack + 3..plan.k.len()).map(k));
    let warps_here = if a { plan.warps_m } else { plan.warps_n } as usize;
    registers.extend((fixed + warps_here..other.len()).map(o));
    let lanes = [k(pack), k(pack + 1), o(0), o(1), o(2)];
    let mut warps: Vec<u32> = (0..plan.warps_m as usize).map(|i| if a { o(4 + i) } else { 0 }).collect();
    warps.extend((0..plan.warps_n as usize).map(|i| if a { 0 } else { o(3 + i) }));
    warps.extend((0..plan.warps_spare).map(|_| 0));
    LinearLayout::new(&dims, registers, lanes, &warps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_are_those_of_the_isa_manual() {
        let plan = mma_plan(MmaShape::for_bits(16), 4, 3, 4, 0, 0, 0);
        let (c, a, b) = (
            mma_accumulator(&plan, [4, 3]),
            mma_operand(&plan, true, [4, 4]),
            mma_operand(&plan, false, [4, 3]),
        );
        for lane in 0..32 {
            let (g, t) = (lane >> 2, lane & 3);
            for i in 0..4 {
                assert_eq!(c.coordinates(c.at(i, lane, 0)).as_slice(), [g + 8 * (i >> 1), 2 * t + (i & 1)]);
            }
            for e in 0..8 {
                let (i, half) = (e >> 1, e & 1);
                let at = [g + 8 * (i & 1), 2 * t + half + 8 * (i >> 1)];
                assert_eq!(a.coordinates(a.at(e, lane, 0)).as_slice(), at);
            }
            for e in 0..4 {
                let (i, half) = (e >> 1, e & 1);
                assert_eq!(b.coordinates(b.at(e, lane, 0)).as_slice(), [2 * t + half + 8 * i, g]);
            }
        }
    }

    #[test]
    fn eight_bit_fragments_are_those_of_the_isa_manual() {
        let plan = mma_plan(MmaShape::for_bits(8), 4, 3, 5, 0, 0, 0);
        let (a, b) = (mma_operand(&plan, true, [4, 5]), mma_operand(&plan, false, [5, 3]));
        for lane in 0..32 {
            let (g, t) = (lane >> 2, lane & 3);
            for e in 0..16 {
                let (i, byte) = (e >> 2, e & 3);
                let at = [g + 8 * (i & 1), 4 * t + byte + 16 * (i >> 1)];
                assert_eq!(a.coordinates(a.at(e, lane, 0)).as_slice(), at);
            }
            for e in 0..8 {
                let (i, byte) = (e >> 2, e & 3);
                assert_eq!(b.coordinates(b.at(e, lane, 0)).as_slice(), [4 * t + byte + 16 * i, g]);
            }
        }
    }

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
