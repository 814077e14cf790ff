//! A `libcuda.so.1` for machines without a GPU.
//!
//! Programs that use the CUDA driver interface, unmodified, find this library in place of NVIDIA's; the PTX they load
//! is executed by [`leankv_ptx`], with its checks. Built for programs on cudarc 0.19, whose safe interface it covers.
//!
//! # Use
//! ```text
//! make softcuda                                  # target/softcuda/libcuda.so.1
//! SOFTCUDA_DEVICES=1 LD_LIBRARY_PATH=target/softcuda ./program
//! ```
//!
//! | variable | values (first is the default) | effect |
//! |---|---|---|
//! | `SOFTCUDA_DEVICES` | `0` to `16` | devices that programs see; none unless asked |
//! | `SOFTCUDA_ARCH` | `sm_90`, `sm_80`, `sm_86`, `sm_89`, `sm_100`, `sm_120` | what the devices say they are |
//! | `SOFTCUDA_MEMORY_MIB` | `8192` | memory of each device |
//! | `SOFTCUDA_ORDER` | `eager`, `deferred` | when queued work runs, see below |
//! | `SOFTCUDA_SEED` | `0` | order of blocks, warps and, if deferred, of streams |
//! | `SOFTCUDA_THREADS` | `0` (all cores), `1` (deterministic), ... | threads that run blocks |
//! | `SOFTCUDA_DIVERGENCE` | `reconverge`, `independent` | lanes after a branch: together again, or each on its own |
//! | `SOFTCUDA_CHECKS` | `all`, `none`, or a list of `uninit_shared`, `uninit_global`, `uninit_registers`, `shared_races`, `global_races`, `barriers`, `async_copies`, `membermask`, `read_only` | checks while kernels run; bounds, alignment and lifetime are always checked |
//! | `SOFTCUDA_ON_FINDING` | `report`, `fail` | whether a finding that is no fault fails the launch (719) |
//! | `SOFTCUDA_BUDGET` | unset | warp instructions after which a launch counts as endless (702) |
//! | `SOFTCUDA_REPORT` | unset (standard error) | file for findings and faults, and for why calls failed |
//! | `SOFTCUDA_EXPLAIN` | `0`, `1` | on standard error too: why calls failed |
//! | `SOFTCUDA_COUNTERS` | unset | file for one line of JSON with modelled counters per launch |
//! | `SOFTCUDA_POOLS` | `1`, `0` | whether devices say that they have memory pools (`cuMemAllocAsync`) |
//!
//! A variable that makes no sense fails `cuInit` with a message on standard error.
//!
//! # Order
//! `eager` runs work when it is queued. `deferred` runs it as late as it may: when a program waits for a stream, an event
//! or a context, and then only what that needs, with the seed choosing among streams. A program that forgot to wait sees
//! old data, every time. Copies from page-locked memory read it when they run; from other memory, when they are called.
//! A program that polls (`cuEventQuery`) makes one step of progress with each question.
//!
//! # Faults
//! A fault of a kernel is a sticky error of its context: an address outside every live allocation, freed or read-only
//! 700, a misaligned one 716, `trap` 719, an illegal instruction 715, a deadlock or an exhausted budget 702. Later calls
//! return it too. The report names kernel, instruction, source line, block, warp, lane and address.
//!
//! # What it does not do
//! * Machine code (cubins, fat binaries), textures, clusters of more than one block, device-side launches.
//! * Memory that host and device share: managed memory, device pointers to page-locked memory, imports. The attributes
//!   say so, the calls return `CUDA_ERROR_NOT_SUPPORTED`.
//! * Registers are unknown before `ptxas`: occupancy counts threads, blocks and shared memory and is an upper bound.
//! * An address given by `cuMemAllocAsync` is valid at once, in all streams; using it in another stream before the
//!   allocation is not found.
//! * Time. Events measure the emulator.
//!
//! It exports no Rust interface: an in-process user takes [`leankv_ptx::Machine`].

mod abi;
mod arch;
mod code;
mod driver;
mod engine;
mod handles;
mod report;
mod settings;
mod types;
