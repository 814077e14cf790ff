//! The devices that can be emulated: name, compute capability, limits, attributes.
//!
//! Limits are those of NVIDIA's CUDA C++ programming guide, tables "technical specifications per compute capability";
//! processor counts are those of a usual board of that architecture.

/// An architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    Sm80,
    Sm86,
    Sm89,
    Sm90,
    Sm100,
    Sm120,
}

const ALL: [(&str, Arch); 6] = [
    ("sm_80", Arch::Sm80),
    ("sm_86", Arch::Sm86),
    ("sm_89", Arch::Sm89),
    ("sm_90", Arch::Sm90),
    ("sm_100", Arch::Sm100),
    ("sm_120", Arch::Sm120),
];

/// Limits of one architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) processors: u32,
    pub(crate) threads_per_processor: u32,
    pub(crate) blocks_per_processor: u32,
    /// In bytes.
    pub(crate) shared_per_processor: u32,
    /// In bytes, with the attribute that asks for it.
    pub(crate) shared_per_block_opt_in: u32,
    pub(crate) l2_bytes: u32,
    pub(crate) bus_bits: u32,
}

/// Largest block.
pub(crate) const THREADS_PER_BLOCK: u32 = 1024;
/// Shared memory of a block that asks for nothing, in bytes.
pub(crate) const SHARED_PER_BLOCK: u32 = 48 * 1024;
/// Shared memory of a block that the system takes, in bytes.
pub(crate) const SHARED_RESERVED: u32 = 1024;
/// 32-bit registers of a multiprocessor.
pub(crate) const REGISTERS: u32 = 65536;
/// Largest block, per axis.
pub(crate) const BLOCK: [u32; 3] = [1024, 1024, 64];
/// Largest grid, per axis.
pub(crate) const GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];

impl Arch {
    pub(crate) fn parse(text: &str) -> Result<Arch, String> {
        ALL.iter().find(|(name, _)| *name == text).map(|(_, arch)| *arch).ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
            format!("expected one of {}", names.join(", "))
        })
    }

    pub(crate) fn name(self) -> &'static str {
        ALL.iter().find(|(_, arch)| *arch == self).map_or("sm_90", |(name, _)| name)
    }

    /// Major and minor version.
    pub(crate) fn capability(self) -> (u32, u32) {
        match self {
            Arch::Sm80 => (8, 0),
            Arch::Sm86 => (8, 6),
            Arch::Sm89 => (8, 9),
            Arch::Sm90 => (9, 0),
            Arch::Sm100 => (10, 0),
            Arch::Sm120 => (12, 0),
        }
    }

    pub(crate) fn limits(self) -> Limits {
        let kib = 1024;
        let (processors, threads_per_processor, blocks_per_processor, shared, l2_mib, bus_bits) = match self {
            Arch::Sm80 => (108, 2048, 32, 164, 40, 5120),
            Arch::Sm86 => (84, 1536, 16, 100, 6, 384),
            Arch::Sm89 => (128, 1536, 24, 100, 72, 384),
            Arch::Sm90 => (132, 2048, 32, 228, 50, 5120),
            Arch::Sm100 => (148, 2048, 32, 228, 126, 8192),
            Arch::Sm120 => (170, 1536, 24, 100, 96, 512),
        };
        Limits {
            processors,
            threads_per_processor,
            blocks_per_processor,
            shared_per_processor: shared * kib,
            shared_per_block_opt_in: (shared - 1) * kib,
            l2_bytes: l2_mib * 1024 * kib,
            bus_bits,
        }
    }

    /// Whether PTX for `target` (`sm_80`, `sm_90a`) can run here: code for an older architecture does, code for
    /// architecture-specific features only on exactly that one.
    pub(crate) fn runs(self, target: &str) -> bool {
        let Some(digits) = target.strip_prefix("sm_") else { return false };
        let number = digits.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let suffix = &digits[number.len()..];
        let (major, minor) = self.capability();
        let here = major * 10 + minor;
        match (number.parse::<u32>(), suffix) {
            (Ok(wanted), "") => wanted <= here,
            (Ok(wanted), "a") => wanted == here,
            // Family-specific code runs on the later members of the family.
            (Ok(wanted), "f") => wanted <= here && wanted / 10 == here / 10,
            _ => false,
        }
    }

    /// A device attribute by number; `None` for one that does not exist.
    pub(crate) fn attribute(self, attribute: i32, ordinal: usize, memory_pools: bool) -> Option<i32> {
        let limits = self.limits();
        let (major, minor) = self.capability();
        let value = match attribute {
            1 => THREADS_PER_BLOCK,
            2..=4 => BLOCK[attribute as usize - 2],
            5..=7 => GRID[attribute as usize - 5],
            8 => SHARED_PER_BLOCK,
            // Constant memory.
            9 => 65536,
            // Warp.
            10 => 32,
            // Longest row of a two-dimensional copy.
            11 => i32::MAX as u32,
            12 | 82 => REGISTERS,
            // Clocks in kHz: a nominal 1 GHz, since an emulator has none.
            13 | 36 => 1_000_000,
            14 | 30 => 512,
            51 => 32,
            // Copies overlap kernels, kernels overlap each other.
            15 | 31 => 1,
            16 => limits.processors,
            // A bus number that tells devices apart.
            33 => 0x5C + ordinal as u32,
            37 => limits.bus_bits,
            38 => limits.l2_bytes,
            39 => limits.threads_per_processor,
            // Copy engines.
            40 => 2,
            // One address space for all devices.
            41 => 1,
            75 => major,
            76 => minor,
            // Stream priorities, L1 caches.
            78..=80 => 1,
            81 => limits.shared_per_processor,
            // Single to double precision speed: nominal.
            87 => 2,
            // Preemption; cooperative launches.
            90 | 95 => 1,
            97 => limits.shared_per_block_opt_in,
            106 => limits.blocks_per_processor,
            111 => SHARED_RESERVED,
            115 => u32::from(memory_pools),
            // Not here: textures and surfaces (21 to 29, 42 to 74), the host's memory under a kernel (19, 83, 88, 89),
            // clusters (120) and all the rest.
            17..=160 => 0,
            _ => return None,
        };
        Some(i32::try_from(value).unwrap_or(i32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_runs_on_its_own_and_later_architectures_only() {
        assert!(Arch::Sm90.runs("sm_80") && Arch::Sm90.runs("sm_90") && Arch::Sm90.runs("sm_90a"));
        assert!(!Arch::Sm80.runs("sm_90") && !Arch::Sm100.runs("sm_90a"));
        assert!(Arch::Sm100.runs("sm_100f") && !Arch::Sm120.runs("sm_100f"));
        assert!(!Arch::Sm80.runs("compute_80") && !Arch::Sm80.runs("sm_"));
    }

    #[test]
    fn every_attribute_number_is_answered_and_no_other() {
        for arch in ALL.map(|(_, arch)| arch) {
            assert!((1..=160).all(|n| arch.attribute(n, 0, true).is_some()));
            assert_eq!(arch.attribute(0, 0, true), None);
            assert_eq!(arch.attribute(161, 0, true), None);
        }
        assert_eq!(Arch::Sm90.attribute(97, 0, true), Some(227 * 1024));
        assert_eq!(Arch::Sm80.attribute(75, 0, true), Some(8));
        assert_eq!(Arch::Sm80.attribute(115, 0, false), Some(0));
    }
}
