//! The table: what is there since when. Everything else is there in every version for every target that is known.

/// The targets: number, suffix, and the first version of PTX that knows them. `a` stands for features of exactly one
/// architecture, `f` for those of its family.
pub(super) const TARGETS: &[(u32, &str, &str)] = &[
    (75, "", "6.3"),
    (80, "", "7.0"),
    (86, "", "7.1"),
    (87, "", "7.4"),
    (88, "", "9.0"),
    (89, "", "7.8"),
    (90, "", "7.8"),
    (90, "a", "8.0"),
    (100, "", "8.6"),
    (100, "a", "8.6"),
    (100, "f", "8.8"),
    (103, "", "8.8"),
    (103, "a", "8.8"),
    (103, "f", "8.8"),
    (110, "", "9.0"),
    (110, "a", "9.0"),
    (110, "f", "9.0"),
    (120, "", "8.7"),
    (120, "a", "8.7"),
    (120, "f", "8.8"),
    (121, "", "8.8"),
    (121, "a", "8.8"),
    (121, "f", "8.8"),
];

/// The versions of PTX: major, and the last minor. Before 6.3 there is none of the targets.
pub(super) const VERSIONS: &[(u32, u32)] = &[(6, 5), (7, 8), (8, 8), (9, 5)];

/// Other words of `.target`.
pub(super) const TARGET_WORDS: &[&str] = &["debug", "texmode_unified", "texmode_independent"];

/// Instructions: opcodes (`*` for all), what modifiers and operands they have, what they then need.
///
/// * A form is words that all must be there; `a|b` is one or the other, `!a` says that there is none. `bf16.f32` are two modifiers
///   one behind the other. `#3` is a count of operands, `#predicate` a predicate among those behind the third.
/// * A need is a version and a target; of several, one is enough. `sm_90` stands for it and all newer ones, `sm_90a+` for all from
///   there on that end in `a` or `f`, `sm_100f` for members of that family that do.
pub(super) const INSTRUCTIONS: &[(&str, &str, &str)] = &[
    // Spaces, scopes, caches.
    ("*", "shared::cta !ca !cg", "7.8 sm_75"),
    ("*", "shared::cluster", "7.8 sm_90"),
    ("*", "cluster", "7.8 sm_90"),
    ("*", "param::entry|param::func", "8.3 sm_75"),
    ("*", "b128", "8.3 sm_75"),
    ("*", "L2::cache_hint", "7.4 sm_80"),
    ("ld|st", "mmio", "8.2 sm_75"),
    (
        "ld|st",
        "L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate|L2::64B|L2::128B",
        "7.4 sm_75",
    ),
    ("ld", "L2::256B", "7.4 sm_80"),
    ("ld|st", "v8", "8.8 sm_100"),
    ("ld|st", "v4 b64|u64|s64|f64", "8.8 sm_100"),
    ("ld|st", "L2::evict_last|L2::evict_normal|L2::evict_first", "8.8 sm_100"),
    ("cvta|isspacep", "param", "7.7 sm_75"),
    ("prefetch", "L2::evict_last|L2::evict_normal", "7.4 sm_80"),
    ("prefetch", "tensormap", "8.0 sm_90"),
    ("discard|applypriority|createpolicy", "", "7.4 sm_80"),
    ("cp", "", "7.0 sm_80"),
    ("cp", "L2::64B|L2::128B|L2::256B", "7.4 sm_80"),
    ("cp", "#predicate", "7.5 sm_80"),
    ("cp", "bulk", "8.0 sm_90"),
    ("red|st", "async", "8.1 sm_90"),
    ("multimem", "", "8.1 sm_90"),
    ("ldmatrix", "", "6.5 sm_75"),
    ("stmatrix", "", "7.8 sm_90"),
    ("movmatrix", "", "7.8 sm_75"),
    // Atomics, fences, barriers.
    ("atom|red", "bf16|bf16x2", "7.8 sm_90"),
    ("atom|red", "v2|v4|v8", "8.1 sm_90"),
    ("atom", "b128", "8.3 sm_90"),
    ("fence", "acquire|release !mbarrier_init !tensormap::generic", "8.6 sm_90"),
    ("fence", "mbarrier_init", "8.0 sm_90"),
    ("fence", "tensormap::generic", "8.3 sm_90"),
    ("fence|membar", "alias", "7.5 sm_75"),
    ("fence|membar", "async", "8.0 sm_90"),
    ("bar|barrier", "cta", "7.8 sm_75"),
    ("barrier", "cluster release|relaxed|acquire", "8.0 sm_90"),
    ("mbarrier", "", "7.0 sm_80"),
    ("mbarrier", "parity", "7.1 sm_80"),
    ("mbarrier", "try_wait", "7.8 sm_90"),
    ("mbarrier", "acquire|release", "8.0 sm_80"),
    ("mbarrier", "expect_tx", "8.0 sm_90"),
    ("mbarrier", "cluster|shared::cluster", "8.0 sm_90"),
    ("mbarrier", "relaxed !expect_tx", "8.6 sm_90"),
    ("mbarrier", "arrive|arrive_drop !noComplete #3", "7.8 sm_90"),
    ("elect", "", "8.0 sm_90"),
    ("griddepcontrol", "", "7.8 sm_90"),
    ("setmaxnreg", "", "8.0 sm_90a+"),
    ("mapa|getctarank", "", "7.8 sm_90"),
    ("redux", "", "7.0 sm_80"),
    ("redux", "f32", "8.6 sm_100f"),
    // Integers.
    ("add|min|max", "u16x2|s16x2", "8.0 sm_90"),
    ("min|max", "relu", "8.0 sm_90"),
    ("bmsk|szext", "", "7.6 sm_75"),
    ("lop3", "or|and", "8.2 sm_75"),
    // Floats.
    ("add|sub|mul", "bf16|bf16x2 !f32", "7.8 sm_90"),
    ("add|sub|fma", "f32.f16|f32.bf16", "8.6 sm_100"),
    ("add|sub|mul|fma", "f32x2", "8.6 sm_100"),
    ("fma", "bf16|bf16x2|relu", "7.0 sm_80"),
    ("fma", "oob", "8.1 sm_90"),
    ("min|max", "f16|f16x2|bf16|bf16x2|NaN", "7.0 sm_80"),
    ("min|max", "xorsign", "7.2 sm_86"),
    ("min|max", "f32 #4", "8.8 sm_100"),
    ("neg|abs", "bf16|bf16x2", "7.0 sm_80"),
    ("abs", "f16|f16x2", "6.5 sm_75"),
    ("ex2|tanh", "f16|f16x2", "7.0 sm_75"),
    ("tanh", "f32", "7.0 sm_75"),
    ("ex2|tanh", "bf16|bf16x2", "7.8 sm_90"),
    ("set|setp", "bf16|bf16x2", "7.8 sm_90"),
    ("set", "u32.f16|s32.f16|u32.f16x2|s32.f16x2", "6.5 sm_75"),
    // Conversions.
    ("cvt", "pack", "6.5 sm_75"),
    ("cvt", "relu", "7.0 sm_80"),
    ("cvt", "f16x2.f32|bf16x2.f32|bf16.f32", "7.0 sm_80"),
    ("cvt", "f32.bf16", "7.1 sm_80"),
    ("cvt", "bf16 f16|f64|s8|u8|s16|u16|s32|u32|s64|u64|bf16.bf16", "7.8 sm_90"),
    ("cvt", "satfinite f16.f32|f16x2.f32|bf16.f32|bf16x2.f32|tf32", "8.1 sm_75"),
    ("cvt", "tf32", "7.0 sm_80"),
    ("cvt", "tf32 rn|rz", "7.8 sm_90"),
    ("cvt", "tf32 rn|rz satfinite", "8.6 sm_100"),
    ("cvt", "e4m3x2|e5m2x2", "7.8 sm_90, 8.1 sm_89"),
    // Matrices.
    ("mma", "", "6.5 sm_75"),
    ("mma", "b1", "7.0 sm_75"),
    ("mma", "m16n8k4|m16n8k16|m16n8k32|m16n8k64|m16n8k128|m16n8k256|bf16|tf32|f64", "7.0 sm_80"),
    ("mma", "b1 and", "7.1 sm_80"),
    ("mma", "f64 m16n8k4|m16n8k8|m16n8k16", "7.8 sm_90"),
    ("mma", "e4m3|e5m2", "8.4 sm_89"),
    ("mma", "e4m3|e5m2 f16|m16n8k16", "8.7 sm_89"),
    ("wmma", "bf16|tf32|f64", "7.0 sm_80"),
];

/// Special registers.
pub(super) const REGISTERS: &[(&str, &str)] = &[
    ("%reserved_smem_offset_begin", "7.6 sm_80"),
    ("%reserved_smem_offset_end", "7.6 sm_80"),
    ("%reserved_smem_offset_cap", "7.6 sm_80"),
    ("%clusterid", "7.8 sm_90"),
    ("%nclusterid", "7.8 sm_90"),
    ("%cluster_ctaid", "7.8 sm_90"),
    ("%cluster_nctaid", "7.8 sm_90"),
    ("%cluster_ctarank", "7.8 sm_90"),
    ("%cluster_nctarank", "7.8 sm_90"),
    ("%is_explicit_cluster", "7.8 sm_90"),
    ("%current_graph_exec", "8.0 sm_75"),
    ("%aggr_smem_size", "8.1 sm_90"),
];

/// Directives of a function.
pub(super) const DIRECTIVES: &[(&str, &str)] = &[
    ("reqnctapercluster", "7.8 sm_90"),
    ("explicitcluster", "7.8 sm_90"),
    ("maxclusterrank", "7.8 sm_90"),
    ("blocksareclusters", "9.0 sm_90"),
];

/// Bytes of a kernel's parameters that need no more than the target, and what more of them need.
pub(super) const PARAMETERS: (u64, &str) = (4352, "8.1 sm_75");

/// What registers of 128 bits need.
pub(super) const WIDE_REGISTERS: &str = "8.3 sm_75";
