//! [`LinearLayout`]: the map from (register, lane, warp) to tile index.

use std::fmt;

use smallvec::SmallVec;

use super::f2::Span;

/// Bits of a lane number: 32 lanes a warp.
pub const LANE_BITS: usize = 5;

/// log2 of `extent` rounded up to a power of two.
pub fn log2_padded(extent: u32) -> u32 {
    extent.max(1).next_power_of_two().trailing_zeros()
}

/// How a tile is spread over registers, lanes and warps. See the [module](super) for the conventions.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinearLayout {
    /// log2 of the padded extents, outermost first.
    dims: SmallVec<[u8; 5]>,
    registers: SmallVec<[u32; 8]>,
    lanes: [u32; LANE_BITS],
    warps: SmallVec<[u32; 4]>,
}

impl LinearLayout {
    /// The layout with these basis vectors (flat indices). Register bits that are zero or depend on
    /// earlier register bits are dropped.
    ///
    /// # Panics
    /// If a basis vector lies outside the tile, which is a bug of the caller.
    pub fn new(
        dims: &[u32],
        registers: impl IntoIterator<Item = u32>,
        lanes: [u32; LANE_BITS],
        warps: &[u32],
    ) -> LinearLayout {
        let mut span = Span::new();
        let layout = LinearLayout {
            dims: dims.iter().map(|&d| d as u8).collect(),
            registers: registers.into_iter().filter(|&v| v != 0 && span.insert(v)).collect(),
            lanes,
            warps: SmallVec::from_slice(warps),
        };
        let bits = layout.bits();
        let inside = |v: &u32| u64::from(*v) < 1u64 << bits;
        assert!(
            layout.registers.iter().chain(&layout.lanes).chain(&layout.warps).all(inside),
            "internal error: a basis vector lies outside the tile: {layout:?}"
        );
        layout
    }

    /// Every thread holds the whole tile.
    pub fn replicated(dims: &[u32], warp_bits: usize) -> LinearLayout {
        let bits: u32 = dims.iter().sum();
        LinearLayout::new(dims, (0..bits).map(|i| 1 << i), [0; LANE_BITS], &vec![0; warp_bits])
    }

    /// The number of dimensions of the tile.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// log2 of the padded extents, outermost first.
    pub fn dims(&self) -> SmallVec<[u32; 5]> {
        self.dims.iter().map(|&d| d.into()).collect()
    }

    /// The number of bits of a flat index.
    pub fn bits(&self) -> u32 {
        self.dims.iter().map(|&d| u32::from(d)).sum()
    }

    /// The number of elements each thread holds.
    pub fn register_count(&self) -> usize {
        1 << self.registers.len()
    }

    /// Basis vectors of the register bits.
    pub fn registers(&self) -> &[u32] {
        &self.registers
    }

    /// Basis vectors of the lane bits.
    pub fn lanes(&self) -> &[u32; LANE_BITS] {
        &self.lanes
    }

    /// Basis vectors of the warp bits.
    pub fn warps(&self) -> &[u32] {
        &self.warps
    }

    /// The flat index of the element in `register` of `lane` of `warp`.
    pub fn at(&self, register: u32, lane: u32, warp: u32) -> u32 {
        super::f2::apply(&self.registers, register)
            ^ super::f2::apply(&self.lanes, lane)
            ^ super::f2::apply(&self.warps, warp)
    }

    /// The lowest bit of dimension `axis` in a flat index.
    pub fn shift(&self, axis: usize) -> u32 {
        self.dims[axis + 1..].iter().map(|&d| u32::from(d)).sum()
    }

    /// The bits of dimension `axis` in a flat index.
    pub fn axis_mask(&self, axis: usize) -> u32 {
        ((1u32 << self.dims[axis]) - 1) << self.shift(axis)
    }

    /// The coordinate along `axis` of a flat index.
    pub fn coordinate(&self, flat: u32, axis: usize) -> u32 {
        (flat & self.axis_mask(axis)) >> self.shift(axis)
    }

    /// The coordinates of a flat index.
    pub fn coordinates(&self, flat: u32) -> SmallVec<[u32; 5]> {
        (0..self.rank()).map(|axis| self.coordinate(flat, axis)).collect()
    }

    /// The flat index of coordinates.
    pub fn flat(&self, coordinates: &[u32]) -> u32 {
        coordinates.iter().enumerate().map(|(axis, &c)| c << self.shift(axis)).sum()
    }

    /// Whether every element of the tile lives somewhere.
    pub fn is_surjective(&self) -> bool {
        let all = self.registers.iter().chain(&self.lanes).chain(&self.warps).copied();
        Span::of(all).rank() == self.bits() as usize
    }

    /// The lane bits that only make copies (given all registers): an element is held once if these
    /// and [`LinearLayout::free_warps`] are taken as zero.
    pub fn free_lanes(&self) -> u32 {
        let mut span = Span::of(self.registers.iter().copied());
        (0..LANE_BITS).filter(|&i| !span.insert(self.lanes[i])).fold(0, |mask, i| mask | 1 << i)
    }

    /// The warp bits that only make copies (given all registers and lanes).
    pub fn free_warps(&self) -> u32 {
        let mut span = Span::of(self.registers.iter().chain(&self.lanes).copied());
        (0..self.warps.len()).filter(|&i| !span.insert(self.warps[i])).fold(0, |mask, i| mask | 1 << i)
    }

    /// How many threads hold each element.
    pub fn copies(&self) -> u32 {
        1 << (self.free_lanes().count_ones() + self.free_warps().count_ones())
    }

    /// The same threads holding another tile: each basis vector is replaced by its image, which must
    /// be a linear function.
    pub fn map(&self, dims: &[u32], image: impl Fn(u32) -> u32) -> LinearLayout {
        let mut lanes = [0; LANE_BITS];
        for (out, &lane) in lanes.iter_mut().zip(&self.lanes) {
            *out = image(lane);
        }
        let warps: SmallVec<[u32; 4]> = self.warps.iter().map(|&v| image(v)).collect();
        LinearLayout::new(dims, self.registers.iter().map(|&v| image(v)), lanes, &warps)
    }

    /// The layout of the transposed tile: dimension `i` of the result is dimension `permutation[i]`.
    pub fn transpose(&self, permutation: &[usize]) -> LinearLayout {
        let dims: SmallVec<[u32; 5]> = permutation.iter().map(|&p| self.dims[p].into()).collect();
        self.map(&dims, |flat| {
            let old = self.coordinates(flat);
            permutation.iter().zip(&dims).fold(0, |acc, (&p, &bits)| acc << bits | old[p])
        })
    }

    /// The layout of the tile before [`LinearLayout::transpose`] by `permutation` gave this one.
    pub fn untranspose(&self, permutation: &[usize]) -> LinearLayout {
        let mut back: SmallVec<[usize; 5]> = SmallVec::from_elem(0, permutation.len());
        for (i, &p) in permutation.iter().enumerate() {
            back[p] = i;
        }
        self.transpose(&back)
    }

    /// The tile without dimension `axis`: what holds the result of reducing along it.
    pub fn slice(&self, axis: usize) -> LinearLayout {
        let mut dims = self.dims();
        dims.remove(axis);
        let (low, width) = (self.shift(axis), u32::from(self.dims[axis]));
        self.map(&dims, |flat| drop_bits(flat, low, width))
    }

    /// The tile with dimension `axis` shrunk to extent 1: what is broadcast along it.
    pub fn squash(&self, axis: usize) -> LinearLayout {
        let mut dims = self.dims();
        let (low, width) = (self.shift(axis), dims[axis]);
        dims[axis] = 0;
        self.map(&dims, |flat| drop_bits(flat, low, width))
    }

    /// The tile with a dimension of extent 1 put in at `axis`.
    pub fn insert_unit_axis(&self, axis: usize) -> LinearLayout {
        let mut dims = self.dims();
        dims.insert(axis, 0);
        self.map(&dims, |flat| flat)
    }

    /// The same flat index cut into other dimensions; `None` if the number of bits differs.
    pub fn regroup(&self, dims: &[u32]) -> Option<LinearLayout> {
        (dims.iter().sum::<u32>() == self.bits()).then(|| self.map(dims, |flat| flat))
    }

    /// This layout with register bits in another order: `order[i]` is the old bit that becomes bit `i`.
    pub fn with_register_order(&self, order: &[usize]) -> LinearLayout {
        let mut out = self.clone();
        out.registers = order.iter().map(|&i| self.registers[i]).collect();
        out
    }

    /// This layout where lanes that hold copies share them: of elements next to each other along `axis`, runs of `2^keep` stay in one thread, and
    /// the runs go to as many lanes as hold them all. No thread gets an element that it did not hold.
    pub fn shared_by_copies(&self, axis: usize, keep: u32) -> LinearLayout {
        let mut out = self.clone();
        for bit in keep..u32::from(self.dims[axis]) {
            let next = 1 << (self.shift(axis) + bit);
            let register = out.registers.iter().position(|&v| v == next);
            let (Some(register), Some(lane)) = (register, out.lanes.iter().position(|&v| v == 0)) else {
                break;
            };
            out.registers.remove(register);
            out.lanes[lane] = next;
        }
        out
    }

    /// This layout where lanes that hold copies share all that they hold, as far as `may` allows it for a lane bit: the last registers go to them, so that vectors
    /// stay. No thread gets an element that it did not hold.
    pub fn spread_over_copies(&self, may: impl Fn(usize) -> bool) -> LinearLayout {
        let mut out = self.clone();
        for (_, lane) in out.lanes.iter_mut().enumerate().filter(|(bit, lane)| **lane == 0 && may(*bit)) {
            *lane = out.registers.pop().unwrap_or(0);
        }
        out
    }

    /// How many elements next to each other along `axis` one thread holds in registers that differ only
    /// in their lowest bits, counted in bits.
    pub fn contiguous_register_bits(&self, axis: usize) -> u32 {
        let low = self.shift(axis);
        let run = self
            .registers
            .iter()
            .enumerate()
            .take_while(|&(i, &v)| (i as u32) < u32::from(self.dims[axis]) && v == 1 << (low + i as u32));
        run.count() as u32
    }

    /// Whether the same bits of a register number and of a lane or warp number never meet in one index
    /// bit, so that `xor` of their parts is addition.
    pub fn registers_add(&self) -> bool {
        let of = |v: &[u32]| v.iter().fold(0, |a, &b| a | b);
        of(&self.registers) & (of(&self.lanes) | of(&self.warps)) == 0
    }
}

/// `flat` without the `width` bits from `low` up.
pub(crate) fn drop_bits(flat: u32, low: u32, width: u32) -> u32 {
    let below = flat & ((1 << low) - 1);
    let above = (u64::from(flat) >> (low + width)) as u32;
    above << low | below
}

impl fmt::Display for LinearLayout {
    /// `[16x128; reg 1 2 1024; lane 4 8 128 256 512; warp -]`, basis vectors as flat indices in coordinates.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.dims.iter().enumerate() {
            if i > 0 {
                f.write_str("x")?;
            }
            write!(f, "{}", 1u32 << d)?;
        }
        let list = |f: &mut fmt::Formatter<'_>, name: &str, vectors: &[u32]| -> fmt::Result {
            write!(f, "; {name}")?;
            for &v in vectors {
                let c = self.coordinates(v);
                let text: Vec<String> = c.iter().map(u32::to_string).collect();
                write!(f, " {}", if text.is_empty() { "0".to_owned() } else { text.join(".") })?;
            }
            Ok(())
        };
        list(f, "reg", &self.registers)?;
        list(f, "lane", &self.lanes)?;
        list(f, "warp", &self.warps)?;
        f.write_str("]")
    }
}

impl fmt::Debug for LinearLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
