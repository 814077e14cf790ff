//! Unmodified cudarc on the library: each case is a program of its own.

mod cases;
mod common;

use common::Case;

const ONE: (&str, &str) = ("SOFTCUDA_DEVICES", "1");
const DEFERRED: (&str, &str) = ("SOFTCUDA_ORDER", "deferred");
const NO_POOLS: (&str, &str) = ("SOFTCUDA_POOLS", "0");

static CASES: &[Case] = &[
    Case { name: "no_device_is_visible_unless_asked", vars: &[], run: cases::basics::nothing_visible },
    Case {
        name: "a_bad_variable_fails_the_start",
        vars: &[("SOFTCUDA_DEVICES", "lots")],
        run: cases::basics::bad_variable,
    },
    Case { name: "an_emulated_h100", vars: &[("SOFTCUDA_DEVICES", "2")], run: cases::basics::sm_90 },
    Case { name: "an_emulated_a100", vars: &[ONE, ("SOFTCUDA_ARCH", "sm_80")], run: cases::basics::sm_80 },
    Case { name: "every_function_that_cudarc_reaches_is_there", vars: &[ONE], run: cases::basics::symbols },
    Case { name: "result_codes_have_names", vars: &[ONE], run: cases::basics::error_names },
    Case { name: "bad_handles_and_pointers_are_errors", vars: &[ONE], run: cases::basics::bad_handles },
    Case { name: "memory_with_pools", vars: &[ONE], run: cases::memory::copies },
    Case { name: "memory_without_pools", vars: &[ONE, NO_POOLS], run: cases::memory::copies },
    Case { name: "memory_deferred", vars: &[ONE, DEFERRED], run: cases::memory::copies },
    Case {
        name: "memory_runs_out_and_comes_back",
        vars: &[ONE, ("SOFTCUDA_MEMORY_MIB", "1")],
        run: cases::memory::runs_out,
    },
    Case { name: "memory_frees_are_checked", vars: &[ONE], run: cases::memory::frees },
    Case { name: "memory_pools_count", vars: &[ONE], run: cases::memory::pools },
    Case { name: "modules_good_and_bad", vars: &[ONE], run: cases::kernels::modules },
    Case { name: "launches", vars: &[ONE], run: cases::kernels::launches },
    Case { name: "launches_deferred", vars: &[ONE, DEFERRED], run: cases::kernels::launches },
    Case {
        name: "launches_on_independent_lanes",
        vars: &[ONE, ("SOFTCUDA_DIVERGENCE", "independent"), ("SOFTCUDA_SEED", "3")],
        run: cases::kernels::launches,
    },
    Case { name: "launch_limits", vars: &[ONE], run: cases::kernels::limits },
    Case { name: "occupancy", vars: &[ONE], run: cases::kernels::occupancy },
    Case { name: "counters_of_each_launch", vars: &[ONE], run: cases::kernels::counters },
    Case {
        name: "an_overrun_is_sticky_and_reported",
        vars: &[("SOFTCUDA_DEVICES", "2")],
        run: cases::faults::overrun,
    },
    Case {
        name: "an_overrun_deferred",
        vars: &[("SOFTCUDA_DEVICES", "2"), DEFERRED],
        run: cases::faults::overrun,
    },
    Case { name: "a_misaligned_access_is_716", vars: &[ONE], run: cases::faults::misaligned },
    Case { name: "a_trap_is_719", vars: &[ONE], run: cases::faults::trapped },
    Case {
        name: "an_endless_kernel_is_702",
        vars: &[ONE, ("SOFTCUDA_BUDGET", "10000")],
        run: cases::faults::endless,
    },
    Case { name: "a_race_is_reported", vars: &[ONE], run: cases::faults::race_reported },
    Case {
        name: "a_race_can_fail_the_launch",
        vars: &[ONE, ("SOFTCUDA_ON_FINDING", "fail")],
        run: cases::faults::race_fails,
    },
    Case {
        name: "checks_can_be_switched_off",
        vars: &[ONE, ("SOFTCUDA_CHECKS", "none"), ("SOFTCUDA_ON_FINDING", "fail")],
        run: cases::faults::race_unchecked,
    },
    Case { name: "streams_and_events", vars: &[ONE], run: cases::streams::events },
    Case { name: "streams_and_events_deferred", vars: &[ONE, DEFERRED], run: cases::streams::events },
    Case {
        name: "deferred_order_shows_a_missing_wait_of_the_host",
        vars: &[ONE, DEFERRED],
        run: cases::streams::missing_host_wait,
    },
    Case {
        name: "deferred_order_shows_a_missing_wait_of_a_stream",
        vars: &[ONE, DEFERRED],
        run: cases::streams::missing_stream_wait,
    },
    Case {
        name: "the_default_stream_orders_blocking_streams",
        vars: &[ONE, DEFERRED],
        run: cases::streams::default_stream,
    },
    Case { name: "host_functions_run_in_order", vars: &[ONE], run: cases::streams::host_function },
    Case {
        name: "host_functions_run_in_order_deferred",
        vars: &[ONE, DEFERRED],
        run: cases::streams::host_function,
    },
    Case { name: "threads_and_contexts", vars: &[ONE], run: cases::streams::threads },
    Case { name: "threads_and_contexts_deferred", vars: &[ONE, DEFERRED], run: cases::streams::threads },
    Case { name: "graphs", vars: &[ONE], run: cases::graphs::replay },
    Case { name: "graphs_deferred", vars: &[ONE, DEFERRED], run: cases::graphs::replay },
    Case { name: "graphs_of_several_kernels", vars: &[ONE], run: cases::graphs::several_kernels },
    Case {
        name: "graphs_of_several_kernels_deferred",
        vars: &[ONE, DEFERRED],
        run: cases::graphs::several_kernels,
    },
    Case { name: "graphs_fork_and_join", vars: &[ONE, DEFERRED], run: cases::graphs::fork_and_join },
    Case { name: "captures_that_go_wrong", vars: &[ONE], run: cases::graphs::wrong },
];

fn main() -> std::process::ExitCode {
    common::main(&[CASES], false)
}
