//! The register file of one frame: every register is a vector over the 32 lanes of a warp.

/// A 32-bit (or narrower, zero-extended) register of all lanes.
pub(crate) type L32 = [u32; 32];
/// A 64-bit register of all lanes.
pub(crate) type L64 = [u64; 32];

/// All lanes.
pub(crate) const FULL: u32 = u32::MAX;
/// Slot number of an ignored destination (`_`).
pub(crate) const SINK: u32 = u32::MAX;

/// Registers of one function activation. Constants and special registers live in slots too, so that every
/// operand is a slot index.
#[derive(Clone, Default)]
pub(crate) struct Regs {
    pub(crate) r32: Vec<L32>,
    pub(crate) r64: Vec<L64>,
    pub(crate) p: Vec<u32>,
    /// Seed of the perturbation of approximate functions; 0 leaves them as rounded.
    pub(crate) approx_seed: u64,
}

/// Operand slots of an arithmetic instruction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Args {
    pub(crate) d: u32,
    pub(crate) d2: u32,
    pub(crate) s: [u32; 4],
    pub(crate) imm: u32,
}

/// An arithmetic instruction: register file, operands, active lanes.
pub(crate) type AluFn = fn(&mut Regs, &Args, u32);

impl Regs {
    #[inline(always)]
    pub(crate) fn put32(&mut self, slot: u32, mask: u32, v: &L32) {
        if slot == SINK {
            return;
        }
        let d = &mut self.r32[slot as usize];
        if mask == FULL {
            *d = *v;
        } else {
            for l in 0..32 {
                let keep = 0u32.wrapping_sub(mask >> l & 1);
                d[l] = (v[l] & keep) | (d[l] & !keep);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn put64(&mut self, slot: u32, mask: u32, v: &L64) {
        if slot == SINK {
            return;
        }
        let d = &mut self.r64[slot as usize];
        if mask == FULL {
            *d = *v;
        } else {
            for l in 0..32 {
                let keep = 0u64.wrapping_sub(u64::from(mask >> l & 1));
                d[l] = (v[l] & keep) | (d[l] & !keep);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn putp(&mut self, slot: u32, mask: u32, v: u32) {
        if slot == SINK {
            return;
        }
        let d = &mut self.p[slot as usize];
        *d = (v & mask) | (*d & !mask);
    }

    /// A predicate source: slot in the upper bits, negation in bit 0.
    #[inline(always)]
    pub(crate) fn pred(&self, src: u32) -> u32 {
        self.p[(src >> 1) as usize] ^ 0u32.wrapping_sub(src & 1)
    }
}
