//! Runs the programs of a grid.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::HostKernel;
use super::Site;
use super::abi::Callbacks;

/// An argument of a launch.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum HostArg {
    /// The address of memory.
    Ptr(*mut u8),
    /// A scalar's bytes as they lie in memory (little endian), in the low bytes.
    Bits(u64),
}

impl HostArg {
    fn word(self) -> u64 {
        match self {
            HostArg::Ptr(at) => at as u64,
            HostArg::Bits(bits) => bits,
        }
    }
}

macro_rules! from_scalar {
    ($($ty:ty => $bits:expr;)*) => {
        $(impl From<$ty> for HostArg {
            fn from(value: $ty) -> HostArg {
                let bits: fn($ty) -> u64 = $bits;
                HostArg::Bits(bits(value))
            }
        })*
    };
}

from_scalar! {
    bool => |x| x.into();
    i8 => |x| u64::from(x as u8);
    i16 => |x| u64::from(x as u16);
    i32 => |x| u64::from(x as u32);
    i64 => |x| x as u64;
    u8 => |x| x.into();
    u16 => |x| x.into();
    u32 => |x| x.into();
    u64 => |x| x;
    half::f16 => |x| x.to_bits().into();
    half::bf16 => |x| x.to_bits().into();
    f32 => |x| x.to_bits().into();
    f64 => |x| x.to_bits();
}

impl<T> From<*const T> for HostArg {
    fn from(at: *const T) -> HostArg {
        HostArg::Ptr(at.cast_mut().cast())
    }
}

impl<T> From<*mut T> for HostArg {
    fn from(at: *mut T) -> HostArg {
        HostArg::Ptr(at.cast())
    }
}

/// Why a launch did not run or did not finish.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LaunchError {
    /// An assertion in the kernel failed; other programs may have run.
    #[error("assertion failed at {loc}: {message}")]
    Assertion {
        /// The kernel's message.
        message: String,
        /// `file:line:column`.
        loc: String,
    },
    /// The number of arguments is not the number of the kernel's parameters.
    #[error("the kernel `{kernel}` takes {want} arguments, not {got}")]
    Arguments {
        /// The kernel.
        kernel: String,
        /// Its parameters.
        want: usize,
        /// What was given.
        got: usize,
    },
    /// A grid has too many programs along an axis.
    #[error("a grid of {0:?} programs is larger than 2^31 - 1 along an axis")]
    Grid([u32; 3]),
}

/// Scratch memory of one running program.
struct Scratch {
    at: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is owned and reached by one thread at a time.
unsafe impl Send for Scratch {}

impl Scratch {
    fn new(bytes: u64) -> Scratch {
        let layout = Layout::from_size_align((bytes as usize).max(64), 64).expect("scratch fits memory");
        // SAFETY: the layout's size is not zero.
        let at = unsafe { alloc_zeroed(layout) };
        Scratch { at: NonNull::new(at).unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, freed once.
        unsafe { dealloc(self.at.as_ptr(), self.layout) }
    }
}

/// Scratch memory that is not in use, kept for the next launch.
#[derive(Default)]
pub(super) struct ScratchPool(Mutex<Vec<Scratch>>);

impl ScratchPool {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What callbacks find behind the table's address.
#[repr(C)]
struct Reporter<'k> {
    callbacks: Callbacks,
    sites: &'k [Site],
    /// The first assertion that failed.
    failed: Mutex<Option<u32>>,
    /// Operands printed so far of the current print, by thread of arrival.
    stopped: AtomicBool,
}

unsafe extern "C" fn on_print(table: *const Callbacks, site: u32, operand: u32, data: *const u8) {
    // SAFETY: the table is the first field of the launch's reporter, which outlives its programs.
    let reporter = unsafe { &*table.cast::<Reporter<'_>>() };
    let Some(site) = reporter.sites.get(site as usize) else { return };
    let Some(of) = site.operands.get(operand as usize) else { return };
    // SAFETY: the kernel hands the operand's elements, as the callback's contract says.
    let text = unsafe { of.render(data) };
    let prefix = if operand == 0 { site.text.as_str() } else { "" };
    println!("{prefix} {text}");
}

unsafe extern "C" fn on_assert(table: *const Callbacks, site: u32) {
    // SAFETY: as for `on_print`.
    let reporter = unsafe { &*table.cast::<Reporter<'_>>() };
    reporter.stopped.store(true, Ordering::Relaxed);
    reporter.failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(site);
}

impl HostKernel {
    /// Runs one program for each point of the grid. `threads` bounds how many run at a time: 0 for as many as rayon has,
    /// 1 for the caller's thread alone.
    ///
    /// # Errors
    /// When the arguments' number is wrong, the grid is too large, or an assertion fails (programs that had not started
    /// then do not run).
    ///
    /// # Safety
    /// Each argument has the type of its parameter. All memory that the kernel reads is initialised and all that it
    /// accesses is live, aligned to its element type, and not accessed by anyone else in conflict until the launch returns.
    pub unsafe fn launch(&self, grid: [u32; 3], args: &[HostArg], threads: usize) -> Result<(), LaunchError> {
        let artifact = &self.artifact;
        if args.len() != artifact.params as usize {
            return Err(LaunchError::Arguments {
                kernel: artifact.entry.trim_start_matches("leankv_").to_owned(),
                want: artifact.params as usize,
                got: args.len(),
            });
        }
        if grid.iter().any(|&extent| extent > i32::MAX as u32) {
            return Err(LaunchError::Grid(grid));
        }
        let programs = grid.iter().try_fold(1u64, |n, &extent| n.checked_mul(extent.into()));
        let programs = programs.ok_or(LaunchError::Grid(grid))?;
        let words: Vec<u64> = args.iter().map(|arg| arg.word()).collect();
        let reporter = Reporter {
            callbacks: Callbacks { print: on_print, assert: on_assert },
            sites: &artifact.sites,
            failed: Mutex::new(None),
            stopped: AtomicBool::new(false),
        };
        let wanted = if threads == 0 { rayon::current_num_threads() } else { threads };
        let workers = (wanted as u64).min(programs).max(1);
        let next = AtomicU64::new(0);
        // A few blocks for each worker keep the counter cheap and the load even.
        let block = (programs / (workers * 8)).max(1);
        let work = || {
            let scratch = self.scratch.lock().pop().unwrap_or_else(|| Scratch::new(artifact.scratch_bytes));
            loop {
                let from = next.fetch_add(block, Ordering::Relaxed);
                if from >= programs || reporter.stopped.load(Ordering::Relaxed) {
                    break;
                }
                for program in from..(from + block).min(programs) {
                    // SAFETY: the caller answers for the arguments; words, scratch and table are as the entry expects.
                    unsafe { self.run_program(program, grid, &words, scratch.at.as_ptr(), &reporter) };
                }
            }
            self.scratch.lock().push(scratch);
        };
        if workers == 1 {
            work();
        } else {
            rayon::scope(|scope| {
                for _ in 1..workers {
                    scope.spawn(|_| work());
                }
                work();
            });
        }
        let failed = *reporter.failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match failed {
            None => Ok(()),
            Some(site) => {
                let site = &artifact.sites[site as usize];
                Err(LaunchError::Assertion { message: site.text.clone(), loc: site.loc.clone() })
            }
        }
    }

    /// Runs one program.
    ///
    /// # Safety
    /// As for [`HostKernel::launch`]; `scratch` is the kernel's scratch memory, used by nobody else.
    unsafe fn run_program(
        &self,
        program: u64,
        grid: [u32; 3],
        words: &[u64],
        scratch: *mut u8,
        reporter: &Reporter<'_>,
    ) {
        let [x, y, z] = grid.map(u64::from);
        let ids = [
            (program % x) as i32,
            (program / x % y) as i32,
            (program / x / y) as i32,
            x as i32,
            y as i32,
            z as i32,
        ];
        // The status repeats what the assertion's callback has said.
        // SAFETY: by contract of this function; the table is the reporter's first field.
        let _status =
            unsafe { (self.entry)(words.as_ptr(), scratch, &ids, std::ptr::from_ref(reporter).cast()) };
    }
}
