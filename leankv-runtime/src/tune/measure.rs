//! Launches of one candidate on a device, timed.

use std::time::Instant;

use leankv_dsl::workload::Argument;

use crate::device::Kind;
use crate::kernel::Kernel;
use crate::launch::LaunchError;
use crate::verify::DeviceLaunch;

/// Seconds of launches that make one measurement, so that a clock's resolution and single interruptions do not matter.
const MEASUREMENT: f64 = 2e-3;
/// Most launches of a measurement.
const MOST_LAUNCHES: usize = 1000;

/// A candidate that can be launched again and again.
pub(super) struct Timed<'a> {
    kernel: &'a Kernel,
    launch: DeviceLaunch<'a>,
    /// Launches of a measurement.
    launches: usize,
}

impl<'a> Timed<'a> {
    /// Uploads the arguments and launches once. Also gives what stands in the buffers then.
    ///
    /// # Safety
    /// As [`Launch::run`](crate::Launch::run), for every launch of it.
    pub(super) unsafe fn new(
        kernel: &'a Kernel,
        grid: [u32; 3],
        args: &'a [(String, Argument)],
    ) -> Result<(Self, Vec<Vec<u8>>), LaunchError> {
        let mut timed = Timed { kernel, launch: DeviceLaunch::new(kernel, grid, args)?, launches: 1 };
        timed.once()?;
        let buffers = timed.launch.buffers()?;
        // The first launch met cold memory.
        let seconds = timed.once()?;
        timed.launches = ((MEASUREMENT / seconds.max(1e-9)).ceil() as usize).clamp(1, MOST_LAUNCHES);
        Ok((timed, buffers))
    }

    /// Seconds of a launch, the mean of one measurement. Each begins with what the buffers held at first.
    pub(super) fn measure(&mut self) -> Result<f64, LaunchError> {
        let total = (0..self.launches).map(|_| self.once()).sum::<Result<f64, _>>()?;
        Ok(total / self.launches as f64)
    }

    fn once(&mut self) -> Result<f64, LaunchError> {
        self.launch.restore()?;
        let stream = self.kernel.device().default_stream();
        if self.kernel.device().kind() == Kind::Cuda {
            let before = stream.record()?;
            // SAFETY: promised where it was made.
            unsafe { self.launch.run() }?;
            let after = stream.record()?;
            after.synchronize()?;
            return Ok(before.elapsed_ms(&after)? * 1e-3);
        }
        let start = Instant::now();
        // SAFETY: promised where it was made.
        unsafe { self.launch.run() }?;
        Ok(start.elapsed().as_secs_f64())
    }
}
