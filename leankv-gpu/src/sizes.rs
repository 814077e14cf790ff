//! How much is done.

use leankv_dsl::format::Tiering;
use leankv_dsl::lang::Settings;
use leankv_kernels::decode::DecodeSpec;

/// Sizes of a run.
pub(crate) struct Sizes {
    pub(crate) quick: bool,
    /// Decode steps of the cache that are checked.
    pub(crate) steps: usize,
    /// Steps that are replayed from a graph.
    pub(crate) replays: usize,
    /// Of the attention that is timed.
    pub(crate) kv_heads: usize,
    pub(crate) batches: Vec<usize>,
    pub(crate) lengths: Vec<usize>,
    /// Bytes that attention reads in turn, so that no cache of the GPU holds them.
    pub(crate) cold_bytes: usize,
    /// Bytes of the copy that says what the memory can do.
    pub(crate) copy_bytes: usize,
    /// Launches of one measurement, at least, and measurements, of which the median is taken.
    pub(crate) launches: usize,
    pub(crate) measurements: usize,
}

/// What is timed: its name, the formats, whether significance is added and candidates are looked for, and whether codes are subnormal numbers.
pub(crate) const TIMED: [(&str, &str, bool, bool); 6] = [
    ("fp16", "fp16", false, false),
    ("K8V4", "K8V4", false, false),
    ("K8V4, subnormal", "K8V4", false, true),
    ("K4V2", "K4V2", false, false),
    ("K4V2, subnormal", "K4V2", false, true),
    ("K8V4/K4V2, significance", "K8V4/K4V2", true, false),
];

impl Sizes {
    pub(crate) fn new(quick: bool) -> Sizes {
        match quick {
            true => Sizes {
                quick,
                steps: 60,
                replays: 20,
                kv_heads: 2,
                batches: vec![1, 2],
                lengths: vec![300],
                cold_bytes: 0,
                copy_bytes: 1 << 20,
                launches: 1,
                measurements: 1,
            },
            false => Sizes {
                quick,
                steps: 400,
                replays: 60,
                kv_heads: 8,
                batches: vec![1, 8, 64],
                lengths: [1, 2, 4, 8, 16, 32].map(|k| k << 10).to_vec(),
                cold_bytes: 512 << 20,
                copy_bytes: 1 << 30,
                launches: 16,
                measurements: 7,
            },
        }
    }

    /// What was asked for in place of the usual.
    pub(crate) fn ask(&mut self, steps: Option<usize>, batches: &[usize], lengths: &[usize]) {
        let asked = |numbers: &[usize], usual: &mut Vec<usize>| {
            if !numbers.is_empty() {
                *usual = numbers.iter().map(|n| (*n).max(1)).collect();
            }
        };
        self.steps = steps.unwrap_or(self.steps);
        asked(batches, &mut self.batches);
        asked(lengths, &mut self.lengths);
    }

    /// The specialisation that is timed.
    pub(crate) fn spec(&self, tiering: Tiering, significance: bool, subnormal: bool) -> DecodeSpec {
        use leankv_dsl::lang::Spec;
        let spec = DecodeSpec::from_settings(&Settings::new()).expect("defaults are a specialisation");
        DecodeSpec { tiering, significance, candidates: significance, subnormal, ..spec }
    }
}
