//! `mma.sync` on fragments in registers.

use std::collections::HashMap;

use inkwell::IntPredicate;

use crate::codegen::nvptx::emit::{Emitted, Emitter};
use crate::codegen::nvptx::ir::Val;
use crate::codegen::nvptx::place::Cond;
use crate::ir::{Dtype, Inst};
use crate::layout::{LinearLayout, MmaMapping, MmaShape, log2_padded};
use crate::pass::layout_assign::DotSite;

use super::{DotCode, DotPlan, DotStrategy};

/// Products of 16-bit floats, summed in `f32`.
pub(in crate::codegen::nvptx) const HALVES: MmaSync = MmaSync {
    shape: MmaShape::M16N8K16,
    instructions: &[
        ([Dtype::F16, Dtype::F16], "llvm.nvvm.mma.m16n8k16.row.col.f32.f32"),
        ([Dtype::BF16, Dtype::BF16], "llvm.nvvm.mma.m16n8k16.row.col.bf16"),
    ],
};

/// Products of 8-bit integers, summed in `i32`.
pub(in crate::codegen::nvptx) const BYTES: MmaSync = MmaSync {
    shape: MmaShape::M16N8K32,
    instructions: &[
        ([Dtype::I8, Dtype::I8], "llvm.nvvm.mma.m16n8k32.row.col.s8"),
        ([Dtype::I8, Dtype::U8], "llvm.nvvm.mma.m16n8k32.row.col.s8.u8"),
        ([Dtype::U8, Dtype::I8], "llvm.nvvm.mma.m16n8k32.row.col.u8.s8"),
        ([Dtype::U8, Dtype::U8], "llvm.nvvm.mma.m16n8k32.row.col.u8"),
    ],
};

/// The instructions of one shape: LLVM's names by the types of `a` and `b`.
pub(in crate::codegen::nvptx) struct MmaSync {
    shape: MmaShape,
    instructions: &'static [([Dtype; 2], &'static str)],
}

/// One dot.
struct Mma {
    mapping: MmaMapping,
    intrinsic: &'static str,
}

impl DotStrategy for MmaSync {
    fn plan(&self, site: &DotSite<'_>) -> Option<DotPlan> {
        let find = |types: [Dtype; 2]| self.instructions.iter().find(|(taken, _)| *taken == types);
        let [left, right] = site.types();
        find([left, right])?;
        let mapping = mapping(site, self.shape);
        let &(_, intrinsic) = find(if mapping.exchanged { [right, left] } else { [left, right] })?;
        let [a, b, accumulator] = site.dims();
        let layouts = Some([mapping.left(a), mapping.right(b), mapping.accumulator(accumulator)]);
        Some(DotPlan { layouts, code: Box::new(Mma { mapping, intrinsic }) })
    }
}

impl DotCode for Mma {
    fn note(&self) -> String {
        let exchanged = if self.mapping.exchanged { ", operands exchanged" } else { "" };
        format!("mma.sync {}{exchanged}", self.mapping.shape)
    }

    fn packed(&self, dims: [[u32; 2]; 2]) -> Option<[u32; 2]> {
        if self.mapping.shape.pack_bits() != 1 {
            return None;
        }
        let distance = |which: usize| {
            let (k, _) = self.mapping.operand_shifts((which == 0) != self.mapping.exchanged, dims[which]);
            self.mapping.k[0] << k
        };
        Some([distance(0), distance(1)])
    }

    fn emit(&self, emitter: &mut Emitter<'_, '_>, inst: Inst) -> Emitted {
        emitter.mma(inst, &self.mapping, self.intrinsic)
    }
}

/// The mapping of a dot, with the permutations that its operands' origins ask for.
///
/// The contraction index may be permuted as both operands agree, and columns as the accumulator agrees. So an operand that comes
/// straight from global memory gets the permutation under which every lane owns elements that lie next to each other there, and is
/// loaded into its fragment with wide vectors, without shared memory.
fn mapping(site: &DotSite<'_>, shape: MmaShape) -> MmaMapping {
    let [rows, columns, k] = site.extents();
    let from_shared = site.from_shared(0) || site.from_shared(1);
    let exchanged = !from_shared && exchange_pays(site, shape);
    let (m, n) = if exchanged { (columns, rows) } else { (rows, columns) };
    let [m_bits, n_bits, k_bits] = [m, n, k].map(log2_padded);
    let (m_tiles, n_tiles) = (m_bits.saturating_sub(4), n_bits.saturating_sub(3));
    let chained = site.chained();
    let (mut warps_m, mut warps_n) = (0, 0);
    for _ in 0..site.warp_bits {
        let (more_m, more_n) = (warps_m < m_tiles, warps_n < n_tiles);
        // Rows only, when one dot feeds the next: then its accumulator is the next one's operand in place. Else as
        // square as the tiles allow, so that each operand is read by few warps.
        if more_m && (chained || !more_n || m_bits - warps_m >= n_bits - warps_n) {
            warps_m += 1;
        } else if more_n {
            warps_n += 1;
        }
    }
    let warps = [warps_m, warps_n, site.warp_bits - warps_m - warps_n];
    let mut out = MmaMapping { exchanged, ..MmaMapping::identity(shape, [m_bits, n_bits, k_bits], warps) };
    if from_shared {
        // `ldmatrix` gives fragments in the order of the hardware: what it counts is how columns lie in shared memory.
        for operand in [0, 1] {
            let Some((axis, columns)) = site.shared_columns(operand) else { continue };
            let along = match (operand, axis) {
                (0, 0) => &mut out.m,
                (1, 1) => &mut out.n,
                _ => &mut out.k,
            };
            along.iter_mut().zip(columns).for_each(|(position, bit)| *position = 1 << bit);
        }
        return out;
    }
    let (from_a, from_b) = (site.origin(0), site.origin(1));
    // The operand that streams decides: the one on the right, in attention the cache.
    let along_k = [from_b.as_ref().filter(|o| o.axis == 0), from_a.as_ref().filter(|o| o.axis == 1)];
    if let Some(origin) = along_k.into_iter().flatten().next() {
        let block = k.trailing_zeros().min(k_bits);
        if block == k_bits || block >= shape.k_bits() {
            let chunk = origin.chunk.min(block.saturating_sub(2));
            // A lane holds at least one register's worth and the two registers of one step.
            let pack = shape.pack_bits();
            if chunk >= pack {
                let lanes = pack..pack + 2;
                out.k = permuted(k_bits, chunk, origin.pair, pack, &lanes.collect::<Vec<_>>());
                out.k.resize((k_bits.max(shape.k_bits())) as usize, 0);
            }
        }
    }
    // Positions that are lanes or warps, of the dimension that is the tile's columns: rows have one bit in registers between the two.
    let lanes: Vec<u32> = match exchanged {
        false => (0..3 + warps_n).collect(),
        true => (0..3).chain(4..4 + warps_m).collect(),
    };
    let (along_columns, bits) = if exchanged { (&mut out.m, m_bits) } else { (&mut out.n, n_bits) };
    if let Some(origin) = from_b.as_ref().filter(|o| o.axis == 1)
        && columns.is_power_of_two()
        && lanes.last().is_some_and(|&last| last < bits)
    {
        let chunk = origin.chunk.min(bits - lanes.len() as u32);
        *along_columns = permuted(bits, chunk, 0, 0, &lanes);
    }
    out
}

/// Whether the transposed product takes fewer instructions: a tile with few rows, such as the queries of a KV head, fills the instruction's 8 columns
/// better than its 16 rows. Every warp must find rows of the instruction, here and, where one dot feeds this one, there: what is summed over
/// here are the other one's columns.
fn exchange_pays(site: &DotSite<'_>, shape: MmaShape) -> bool {
    let [rows, columns, k] = site.extents();
    let instructions = |m: u32, n: u32| m.div_ceil(shape.m) * n.div_ceil(shape.n);
    let tiles = if site.left_from_dot() { columns.min(k) } else { columns }.div_ceil(shape.m);
    instructions(columns, rows) < instructions(rows, columns) && 1 << site.warp_bits <= tiles
}

/// Index bits in the order of position bits: the positions `lanes` take the bits from `chunk` up, the others those that a lane holds and then
/// the rest, in order.
fn permuted(total: u32, chunk: u32, pair: u32, pack: u32, lanes: &[u32]) -> Vec<u32> {
    // Bits a lane holds, the partner in a packed pair first.
    let mut held: Vec<u32> = (0..chunk).collect();
    if pack == 1 && pair < chunk {
        held.remove(pair as usize);
        held.insert(0, pair);
    }
    let mut rest = held.into_iter().chain(chunk + lanes.len() as u32..total);
    let bit = |position: u32| match lanes.iter().position(|&lane| lane == position) {
        Some(lane) => chunk + lane as u32,
        None => rest.next().unwrap_or(position),
    };
    (0..total).map(bit).map(|bit| 1 << bit).collect()
}

/// Position bits of one operand or the accumulator, in the order of the fragment's registers.
struct Fragment {
    /// Register bit for each position bit; `None` where the tile is smaller than the fragment.
    bits: HashMap<u32, usize>,
}

impl Fragment {
    fn new(layout: &LinearLayout) -> Fragment {
        let bits = layout.registers().iter().enumerate().map(|(i, &v)| (v, i)).collect();
        Fragment { bits }
    }

    /// The register at these positions: pairs of (set, basis vector). `None` beyond the tile.
    fn register(&self, positions: &[(bool, u32)]) -> Option<usize> {
        let mut register = 0;
        for &(set, basis) in positions {
            if set {
                register |= 1 << self.bits.get(&basis)?;
            }
        }
        Some(register)
    }
}

/// Bit `i` of `number`.
fn bit(number: usize, i: usize) -> bool {
    number >> i & 1 == 1
}

impl<'c> Emitter<'c, '_> {
    /// Elements of an operand with everything beyond the contraction's extent zeroed; `None` where a register holds nothing
    /// else.
    fn contracted(&self, inst: Inst, which: usize, plan: &MmaMapping) -> Vec<Option<Val<'c>>> {
        let data = self.func.inst(inst);
        let value = data.operands[which];
        let layout = self.layout(value);
        let axis = 1 - which;
        let extent = self.func.ty(value).shape().expect("an operand is a tile")[axis];
        let zero = self.ir.zero(self.llvm_type(self.dtype(value)));
        let pack = plan.shape.pack_bits() as usize;
        let mut lane_cond = Cond::Always;
        for (i, position) in [pack, pack + 1].into_iter().enumerate() {
            if plan.k.get(position).copied().unwrap_or(0) == 0 {
                // These lanes stand for k positions beyond the tile.
                let set = self.ir.and(self.lane, self.ir.c32(1 << i));
                let inside = Cond::If(self.ir.icmp(IntPredicate::EQ, set, self.ir.c32(0)));
                lane_cond = self.both(lane_cond, inside);
            }
        }
        let inside = if extent.is_power_of_two() {
            vec![Cond::Always; layout.register_count()]
        } else {
            self.below(layout, axis, extent)
        };
        self.registers(value)
            .iter()
            .zip(inside)
            .map(|(&v, cond)| match self.both(cond, lane_cond) {
                Cond::Never => None,
                cond => Some(self.choose(cond, v, zero)),
            })
            .collect()
    }

    /// One 32-bit fragment register; `None` when all of it is zero.
    fn fragment_register(&self, dtype: Dtype, elements: &[Option<Val<'c>>]) -> Option<Val<'c>> {
        if elements.iter().all(Option::is_none) {
            return None;
        }
        let zero = self.ir.zero(self.llvm_type(dtype));
        let values: Vec<Val<'c>> = elements.iter().map(|e| e.unwrap_or(zero)).collect();
        let word = self.join_words(&values, dtype, 32)[0];
        Some(if dtype == Dtype::F16 { self.ir.bitcast(word, self.ir.f16().vec_type(2).into()) } else { word })
    }

    fn mma(&mut self, inst: Inst, plan: &MmaMapping, intrinsic: &str) -> Emitted {
        let data = self.func.inst(inst);
        // Which of the dot's operands are the instruction's.
        let (of_a, of_b) = if plan.exchanged { (1, 0) } else { (0, 1) };
        let (a, b, acc) = (data.operands[of_a], data.operands[of_b], data.operands[2]);
        let (a_type, b_type) = (self.dtype(a), self.dtype(b));
        let pack = plan.shape.pack_bits() as usize;
        let dims = |v| {
            let d = self.layout(v).dims();
            [d[0], d[1]]
        };
        let (a_k, a_m) = plan.operand_shifts(true, dims(a));
        let (b_k, b_n) = plan.operand_shifts(false, dims(b));
        let (c_m, c_n) = plan.accumulator_shifts(dims(acc));
        let (fa, fb) = (Fragment::new(self.layout(a)), Fragment::new(self.layout(b)));
        let fc = Fragment::new(self.layout(acc));
        let (av, bv) = (self.contracted(inst, of_a, plan), self.contracted(inst, of_b, plan));
        let cv = self.registers(acc);

        let k_steps = plan.k.len() - (pack + 3);
        let m_tiles = plan.m.len() - (4 + plan.warps_m as usize);
        let n_tiles = plan.n.len() - (3 + plan.warps_n as usize);
        let k_at = |i: usize| plan.k[i];
        let (m_first, n_first) = (4 + plan.warps_m as usize, 3 + plan.warps_n as usize);

        // Register of A: element e of the pack, row half, k half, step, row tile.
        let a_register = |tile: usize, step: usize, half: usize, k_half: usize, e: usize| {
            let mut at: Vec<(bool, u32)> = (0..pack).map(|i| (bit(e, i), k_at(i) << a_k)).collect();
            at.push((half == 1, plan.m[3] << a_m));
            at.push((k_half == 1, k_at(pack + 2) << a_k));
            at.extend((0..k_steps).map(|i| (bit(step, i), k_at(pack + 3 + i) << a_k)));
            at.extend((0..m_tiles).map(|i| (bit(tile, i), plan.m[m_first + i] << a_m)));
            fa.register(&at)
        };
        let b_register = |tile: usize, step: usize, k_half: usize, e: usize| {
            let mut at: Vec<(bool, u32)> = (0..pack).map(|i| (bit(e, i), k_at(i) << b_k)).collect();
            at.push((k_half == 1, k_at(pack + 2) << b_k));
            at.extend((0..k_steps).map(|i| (bit(step, i), k_at(pack + 3 + i) << b_k)));
            at.extend((0..n_tiles).map(|i| (bit(tile, i), plan.n[n_first + i] << b_n)));
            fb.register(&at)
        };
        let c_register = |m_tile: usize, n_tile: usize, half: usize, column: usize| {
            let mut at = vec![(column == 1, plan.n[0] << c_n), (half == 1, plan.m[3] << c_m)];
            at.extend((0..n_tiles).map(|i| (bit(n_tile, i), plan.n[n_first + i] << c_n)));
            at.extend((0..m_tiles).map(|i| (bit(m_tile, i), plan.m[m_first + i] << c_m)));
            fc.register(&at)
        };

        let mut sums: Vec<Val<'c>> = cv.to_vec();
        let acc_zero = self.ir.zero(self.llvm_type(self.dtype(acc)));
        let a_zero = match a_type {
            Dtype::F16 => self.ir.zero(self.ir.f16().vec_type(2).into()),
            _ => self.ir.c32(0),
        };
        for step in 0..1 << k_steps {
            for n_tile in 0..1usize << n_tiles {
                let b_regs: Vec<Option<Val<'c>>> = (0..2)
                    .map(|k_half| {
                        let elements: Vec<Option<Val<'c>>> = (0..1 << pack)
                            .map(|e| b_register(n_tile, step, k_half, e).and_then(|r| bv[r]))
                            .collect();
                        self.fragment_register(b_type, &elements)
                    })
                    .collect();
                if b_regs.iter().all(Option::is_none) {
                    continue;
                }
                for m_tile in 0..1usize << m_tiles {
                    // Order of the hardware's registers: the row half runs fastest, then the k half.
                    let a_regs: Vec<Option<Val<'c>>> = (0..4)
                        .map(|i| {
                            let elements: Vec<Option<Val<'c>>> = (0..1 << pack)
                                .map(|e| a_register(m_tile, step, i & 1, i >> 1, e).and_then(|r| av[r]))
                                .collect();
                            self.fragment_register(a_type, &elements)
                        })
                        .collect();
                    if a_regs.iter().all(Option::is_none) {
                        continue;
                    }
                    let slots: Vec<Option<usize>> =
                        (0..4).map(|i| c_register(m_tile, n_tile, i >> 1, i & 1)).collect();
                    let mut args: Vec<Val<'c>> = a_regs.iter().map(|r| r.unwrap_or(a_zero)).collect();
                    args.extend(b_regs.iter().map(|r| r.unwrap_or(a_zero)));
                    args.extend(slots.iter().map(|slot| slot.map_or(acc_zero, |s| sums[s])));
                    let out = self.ir.call(intrinsic, &[], &args)?;
                    for (i, slot) in slots.iter().enumerate() {
                        if let Some(slot) = slot {
                            sums[*slot] = self.ir.field(out, i as u32);
                        }
                    }
                }
            }
        }
        self.set_registers(data.results[0], sums);
        Ok(())
    }
}
