//! The fragments of `mma.sync`.

use super::linear::LinearLayout;

/// The shape of one `mma.sync`: an `m x k` operand times a `k x n` operand. One row takes 256 bits along k.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MmaShape {
    /// Rows of the product.
    pub m: u32,
    /// Columns of the product.
    pub n: u32,
    /// The extent that is summed over.
    pub k: u32,
}

impl MmaShape {
    /// For operands of 16 bits an element.
    pub const M16N8K16: MmaShape = MmaShape { m: 16, n: 8, k: 16 };
    /// For operands of 8 bits an element.
    pub const M16N8K32: MmaShape = MmaShape { m: 16, n: 8, k: 32 };

    /// log2 of the operand elements in one 32-bit register.
    pub fn pack_bits(self) -> u32 {
        self.k_bits() - 3
    }

    /// log2 of the k extent.
    pub fn k_bits(self) -> u32 {
        self.k.trailing_zeros()
    }
}

impl std::fmt::Display for MmaShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "m{}n{}k{}", self.m, self.n, self.k)
    }
}

/// How one `dot` maps onto `mma.sync`.
///
/// Positions inside the padded problem are numbered as the hardware numbers rows, columns and k; each
/// position bit stands for an index bit of the tile given by `m`, `n` and `k`. Choosing these
/// permutations is free as long as both operands share `k` and accumulator and operand share `m`, `n`:
/// so quantised operands are laid out as they lie in memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MmaMapping {
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
    /// Whether the operands have changed places: the instruction computes the transposed product, from the transposed right operand and the transposed
    /// left one. Then `m` counts columns of the tile and `n` its rows.
    pub exchanged: bool,
}

impl MmaMapping {
    /// The identity mapping of a problem onto warps: log2 of its padded extents m, n and k, and log2 of the warps along m, along n, and
    /// without work of their own.
    pub fn identity(shape: MmaShape, [m, n, k]: [u32; 3], warps: [u32; 3]) -> MmaMapping {
        let [warps_m, warps_n, warps_spare] = warps;
        // A position bit beyond the tile stands for no index bit: those rows and columns repeat others.
        let bits = |extent: u32, least: u32| -> Vec<u32> {
            (0..extent.max(least)).map(|i| if i < extent { 1 << i } else { 0 }).collect()
        };
        MmaMapping {
            shape,
            m: bits(m, 4 + warps_m),
            n: bits(n, 3 + warps_n),
            k: bits(k, shape.k_bits()),
            warps_m,
            warps_n,
            warps_spare,
            exchanged: false,
        }
    }

    /// The layout of the `m x n` accumulator (log2 extents). Register bits in position order: column bit 0, row bit 3, column tiles,
    /// row tiles; those that stand for no index bit are left out.
    pub fn accumulator(&self, dims: [u32; 2]) -> LinearLayout {
        let (m_shift, n_shift) = self.accumulator_shifts(dims);
        let n = |i: usize| self.n.get(i).copied().unwrap_or(0) << n_shift;
        let m = |i: usize| self.m.get(i).copied().unwrap_or(0) << m_shift;
        let mut registers = vec![n(0), m(3)];
        registers.extend((3 + self.warps_n as usize..self.n.len()).map(n));
        registers.extend((4 + self.warps_m as usize..self.m.len()).map(m));
        let lanes = [n(1), n(2), m(0), m(1), m(2)];
        let mut warps: Vec<u32> = (0..self.warps_m as usize).map(|i| m(4 + i)).collect();
        warps.extend((0..self.warps_n as usize).map(|i| n(3 + i)));
        warps.extend((0..self.warps_spare).map(|_| 0));
        LinearLayout::new(&dims, registers, lanes, &warps)
    }

    /// The layout of the dot's left operand (log2 extents).
    pub fn left(&self, dims: [u32; 2]) -> LinearLayout {
        self.operand(!self.exchanged, dims)
    }

    /// The layout of the dot's right operand (log2 extents).
    pub fn right(&self, dims: [u32; 2]) -> LinearLayout {
        self.operand(self.exchanged, dims)
    }

    /// How far row bits and column bits of the instruction's accumulator are shifted in an index into the tile.
    pub fn accumulator_shifts(&self, dims: [u32; 2]) -> (u32, u32) {
        if self.exchanged { (0, dims[1]) } else { (dims[1], 0) }
    }

    /// How far bits along k, and along the other dimension, are shifted in an index into the instruction's `a` or `b`, which is a tile of `dims`.
    pub fn operand_shifts(&self, a: bool, dims: [u32; 2]) -> (u32, u32) {
        // The dot's left operand has k along its columns.
        if a != self.exchanged { (0, dims[1]) } else { (dims[1], 0) }
    }

    /// The layout of the instruction's `a` (`m x k`) or `b` (`k x n`).
    fn operand(&self, a: bool, dims: [u32; 2]) -> LinearLayout {
        let pack = self.shape.pack_bits() as usize;
        let (k_shift, other_shift) = self.operand_shifts(a, dims);
        let k = |i: usize| self.k.get(i).copied().unwrap_or(0) << k_shift;
        let other: &[u32] = if a { &self.m } else { &self.n };
        let o = |i: usize| other.get(i).copied().unwrap_or(0) << other_shift;
        let mut registers: Vec<u32> = (0..pack).map(k).collect();
        let fixed = if a { 4 } else { 3 };
        if a {
            registers.push(o(3));
        }
        registers.push(k(pack + 2));
        registers.extend((pack + 3..self.k.len()).map(k));
        let warps_here = if a { self.warps_m } else { self.warps_n } as usize;
        registers.extend((fixed + warps_here..other.len()).map(o));
        let lanes = [k(pack), k(pack + 1), o(0), o(1), o(2)];
        let mut warps: Vec<u32> = (0..self.warps_m as usize).map(|i| if a { o(4 + i) } else { 0 }).collect();
        warps.extend((0..self.warps_n as usize).map(|i| if a { 0 } else { o(3 + i) }));
        warps.extend((0..self.warps_spare).map(|_| 0));
        LinearLayout::new(&dims, registers, lanes, &warps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_are_those_of_the_isa_manual() {
        let plan = MmaMapping::identity(MmaShape::M16N8K16, [4, 3, 4], [0, 0, 0]);
        let (c, a, b) = (plan.accumulator([4, 3]), plan.left([4, 4]), plan.right([4, 3]));
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
        let plan = MmaMapping::identity(MmaShape::M16N8K32, [4, 3, 5], [0, 0, 0]);
        let (a, b) = (plan.left([4, 5]), plan.right([5, 3]));
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
}
