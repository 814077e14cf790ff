//! Tiles in shared memory: a linear map from flat index to element offset, swizzled against bank conflicts.

use std::collections::BTreeMap;

use super::f2::{self, Span};
use super::linear::LinearLayout;

/// Bytes of all shared-memory banks together: what one conflict-free pass moves.
const BANK_ROW_BYTES_LOG2: u32 = 7;

/// The widest access of one thread, 16 bytes.
const ACCESS_BYTES_LOG2: u32 = 4;

/// Where elements of a tile lie in a block of shared memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SharedLayout {
    /// Element offset of each flat index bit; an invertible map.
    offsets: Vec<u32>,
}

/// One thread's registers grouped into vector accesses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vectors {
    /// log2 of the elements of one access.
    pub bits: u32,
    /// Per access, the registers in order of address.
    pub groups: Vec<Vec<u32>>,
}

impl Vectors {
    /// Groups registers into vectors of up to `2^max_bits` consecutive offsets, given the offset of each register, lane and
    /// warp bit. A vector starts at a multiple of its length.
    pub fn find(registers: &[u32], others: &[u32], max_bits: u32) -> Vectors {
        let span = Span::of(registers.iter().copied());
        let others = others.iter().fold(0, |a, &b| a | b);
        let mut bits = 0;
        while bits < max_bits && span.contains(1 << bits) && others >> bits & 1 == 0 {
            bits += 1;
        }
        let mut by_start: BTreeMap<u32, usize> = BTreeMap::new();
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for r in 0..1u32 << registers.len() {
            let offset = f2::apply(registers, r);
            let slot = *by_start.entry(offset >> bits).or_insert_with(|| {
                groups.push(vec![0; 1 << bits]);
                groups.len() - 1
            });
            groups[slot][(offset & ((1 << bits) - 1)) as usize] = r;
        }
        Vectors { bits, groups }
    }
}

impl SharedLayout {
    /// Row-major order of a tile (log2 extents), with 16-byte chunks of each row permuted by row number so that reading or
    /// writing eight rows' chunks of one column touches every bank once. `element_bytes` is log2.
    pub fn swizzled_rows(dims: &[u32], element_bytes: u32) -> SharedLayout {
        let bits: u32 = dims.iter().sum();
        let columns = dims.last().copied().unwrap_or(0);
        let vector = ACCESS_BYTES_LOG2 - element_bytes;
        // Chunks of one row that fall into different banks, and rows that share one pass of the banks.
        let chunks = columns.saturating_sub(vector).min(3);
        let rows_a_pass = 3 - chunks;
        let offsets = (0..bits)
            .map(|i| {
                let row = i.checked_sub(columns);
                let swizzle = match row.and_then(|row| row.checked_sub(rows_a_pass)) {
                    Some(j) if j < chunks => 1 << (vector + j),
                    _ => 0,
                };
                1 << i | swizzle
            })
            .collect();
        SharedLayout { offsets }
    }

    /// A tile of 16-bit elements (log2 extents) that `writer` writes and `ldmatrix` reads, eight rows of eight elements at a time: index bits of a row come in the order
    /// `columns`, the first three together; neither side has bank conflicts, the writer where it holds these three in registers.
    pub fn matrices(dims: &[u32], columns: &[u32], writer: &LinearLayout) -> SharedLayout {
        let (rows, row_bits) = (dims[0], dims[1]);
        let vector: Vec<u32> = columns.iter().take(ACCESS_BYTES_LOG2 as usize - 1).map(|c| 1 << c).collect();
        let lanes = lanes_a_pass(vector.len() as u32 + 1);
        let read: Vec<u32> = (0..rows.min(3)).map(|row| 1 << (row_bits + row)).collect();
        apart(rows + row_bits, &vector, [&writer.lanes()[..lanes], &read])
    }

    /// The element offset of a flat index.
    pub fn offset(&self, flat: u32) -> u32 {
        f2::apply(&self.offsets, flat)
    }

    /// The number of elements of the block.
    pub fn elements(&self) -> u32 {
        1 << self.offsets.len()
    }

    /// How a thread that holds `layout` reads or writes this block, in vectors of at most 16 bytes of
    /// elements of `2^element_bytes` bytes.
    pub fn vectors(&self, layout: &LinearLayout, element_bytes: u32) -> Vectors {
        let map = |v: &u32| self.offset(*v);
        let registers: Vec<u32> = layout.registers().iter().map(map).collect();
        let others: Vec<u32> = layout.lanes().iter().chain(layout.warps()).map(map).collect();
        Vectors::find(&registers, &others, ACCESS_BYTES_LOG2 - element_bytes)
    }
}

/// The block through which a tile goes from layout `from` to layout `to`: as wide vectors as both allow, and lanes of one
/// pass in different banks on both sides. `element_bytes` is log2.
///
/// Method: the common registers give the vector bits; then, modulo those, a subspace that meets neither side's lanes is taken as
/// the bits above the banks, so both sides' lanes stay apart in the bank bits. Where the lanes of the sides differ, sums of
/// one vector of each do that (Zhou et al., "Linear Layouts", arXiv 2505.23819, section 5).
pub fn conversion_scratch(from: &LinearLayout, to: &LinearLayout, element_bytes: u32) -> SharedLayout {
    let mut vector = f2::intersection(from.registers(), to.registers());
    vector.truncate((ACCESS_BYTES_LOG2 - element_bytes) as usize);
    let lanes = lanes_a_pass(vector.len() as u32 + element_bytes);
    apart(from.bits(), &vector, [&from.lanes()[..lanes], &to.lanes()[..lanes]])
}

/// The block into which vectors of the first `2^vector` registers of `from` are copied, and from which `to` is read, in narrower vectors if need be: as
/// [`conversion_scratch`] has it.
pub fn staging(from: &LinearLayout, to: &LinearLayout, vector: usize, element_bytes: u32) -> SharedLayout {
    let vector = &from.registers()[..vector];
    let lanes = |layout: &LinearLayout| {
        lanes_a_pass(f2::intersection(vector, layout.registers()).len() as u32 + element_bytes)
    };
    apart(from.bits(), vector, [&from.lanes()[..lanes(from)], &to.lanes()[..lanes(to)]])
}

/// log2 of the lanes whose accesses of `2^access` bytes make one pass.
fn lanes_a_pass(access: u32) -> usize {
    BANK_ROW_BYTES_LOG2.saturating_sub(access).min(5) as usize
}

/// A block of `2^bits` elements in which those that differ by `vector` alone lie together, and those that differ by either of `sides` lie in different banks.
fn apart(bits: u32, vector: &[u32], sides: [&[u32]; 2]) -> SharedLayout {
    let rest = f2::complement(vector.iter().copied(), bits);
    let columns: Vec<u32> = vector.iter().chain(&rest).copied().collect();
    let to_quotient = f2::inverse(&columns).expect("a basis completed by `complement` is invertible");
    let quotient = |v: u32| f2::apply(&to_quotient, v) >> vector.len();
    let [a, b] = sides.map(|lanes| f2::independent(lanes.iter().map(|&v| quotient(v))));
    let common = f2::intersection(&a, &b);
    let beyond = |own: &[u32]| -> Vec<u32> {
        let mut span = Span::of(common.iter().copied());
        own.iter().copied().filter(|&v| span.insert(v)).collect()
    };
    let (only_a, only_b) = (beyond(&a), beyond(&b));
    let longer = if only_a.len() >= only_b.len() { &only_a } else { &only_b };
    let quotient_bits = bits - vector.len() as u32;
    let mut basis: Vec<u32> = common.iter().chain(longer).copied().collect();
    basis.extend(only_a.iter().zip(&only_b).map(|(x, y)| x ^ y));
    basis.extend(f2::complement(a.iter().chain(&b).copied(), quotient_bits));
    let to_offset = f2::inverse(&basis).expect("bank and segment bits complete each other");

    let offsets = (0..bits)
        .map(|i| {
            let image = f2::apply(&to_quotient, 1 << i);
            let low = image & ((1 << vector.len()) - 1);
            low | f2::apply(&to_offset, image >> vector.len()) << vector.len()
        })
        .collect();
    SharedLayout { offsets }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{MmaMapping, MmaShape, blocked};
    use super::*;

    /// The worst number of passes that one vector access of one warp needs, beyond the least.
    fn conflicts(shared: &SharedLayout, layout: &LinearLayout, element_bytes: u32) -> u32 {
        let vectors = shared.vectors(layout, element_bytes);
        let bytes = vectors.bits + element_bytes;
        let lanes = 1u32 << BANK_ROW_BYTES_LOG2.saturating_sub(bytes).min(5);
        let mut worst = 1;
        for group in &vectors.groups {
            for pass in 0..32 / lanes {
                let mut words: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); 32];
                for lane in pass * lanes..(pass + 1) * lanes {
                    let byte = shared.offset(layout.at(group[0], lane, 0)) << element_bytes;
                    for word in byte / 4..(byte + (1 << bytes)).div_ceil(4) {
                        words[(word % 32) as usize].insert(word);
                    }
                }
                worst = worst.max(words.iter().map(|w| w.len() as u32).max().unwrap_or(0));
            }
        }
        worst
    }

    #[test]
    fn conversions_have_no_bank_conflicts() {
        let plan = MmaMapping::identity(MmaShape::M16N8K16, [6, 6, 6], [1, 1, 0]);
        let layouts = [
            blocked(&[6, 6], &[0, 3], &[2, 3], &[2, 0], &[1, 0], 2),
            blocked(&[6, 6], &[3, 0], &[3, 2], &[0, 2], &[0, 1], 2),
            blocked(&[6, 6], &[0, 0], &[0, 5], &[2, 0], &[1, 0], 2),
            plan.accumulator([6, 6]),
            plan.left([6, 6]),
            plan.right([6, 6]),
        ];
        for from in &layouts {
            for to in &layouts {
                for element_bytes in [0, 1, 2] {
                    let shared = conversion_scratch(from, to, element_bytes);
                    let cost =
                        (conflicts(&shared, from, element_bytes), conflicts(&shared, to, element_bytes));
                    assert_eq!(cost, (1, 1), "{from} -> {to}, {element_bytes}");
                }
            }
        }
    }

    #[test]
    fn swizzled_rows_put_a_column_of_chunks_into_different_banks() {
        for columns in 4..8u32 {
            let shared = SharedLayout::swizzled_rows(&[6, columns], 1);
            let offsets: BTreeSet<u32> = (0..1u32 << (6 + columns)).map(|i| shared.offset(i)).collect();
            assert_eq!(offsets.len(), 1 << (6 + columns));
            for start in (0..64u32).step_by(8) {
                let banks: BTreeSet<u32> =
                    (start..start + 8).map(|row| shared.offset(row << columns) * 2 / 16 % 8).collect();
                assert_eq!(banks.len(), 8, "{columns}");
            }
        }
    }

    /// A thread has 16 elements of a row (of which every other one lies together), or 8; eight lanes share a row, or four.
    #[test]
    fn tiles_that_warps_put_together_have_no_bank_conflicts() {
        for (row, held, columns) in
            [(7, 4, &[2, 3, 1, 4, 5, 0, 6][..]), (6, 4, &[0, 2, 1, 4, 5, 3]), (6, 3, &[2, 1, 0, 3, 4, 5])]
        {
            let lanes = row - held;
            let writer = blocked(&[4, row], &[0, held], &[5 - lanes, lanes], &[4 + lanes - 5, 0], &[1, 0], 2);
            let shared = SharedLayout::matrices(&[4, row], columns, &writer);
            assert_eq!((shared.vectors(&writer, 1).bits, conflicts(&shared, &writer, 1)), (3, 1), "{writer}");
            for first in (0..16 << row).filter(|flat| flat >> row & 7 == 0) {
                let banks: BTreeSet<u32> =
                    (0..8).map(|i| shared.offset(first | i << row) * 2 / 16 % 8).collect();
                assert_eq!(banks.len(), 8, "{writer}");
            }
        }
    }

    #[test]
    fn vectors_follow_the_offsets() {
        let layout = blocked(&[4, 6], &[0, 3], &[2, 3], &[0, 0], &[1, 0], 0);
        let shared = SharedLayout::swizzled_rows(&[4, 6], 1);
        let vectors = shared.vectors(&layout, 1);
        assert_eq!(vectors.bits, 3);
        for group in &vectors.groups {
            let first = shared.offset(layout.at(group[0], 5, 0));
            for (i, &r) in group.iter().enumerate() {
                assert_eq!(shared.offset(layout.at(r, 5, 0)), first + i as u32);
            }
        }
    }
}
