//! `leankv devices`: what kernels can run on here.

use leankv_runtime::{Device, DeviceError};
use serde_json::json;

use crate::args;
use crate::failure::Failure;

/// Runs the command. A missing driver is an answer, not a failure.
pub(crate) fn run(args: &args::Devices) -> Result<(), Failure> {
    let mut devices = vec![(Device::host().name(), "host".to_owned())];
    let mut absent = None;
    match Device::cuda_count() {
        Ok(count) => {
            for ordinal in 0..count {
                let device = Device::cuda(ordinal).map_err(Failure::machine)?;
                let (major, minor) = device.compute_capability().unwrap_or_default();
                devices.push((device.name(), format!("cuda:{ordinal}, compute capability {major}.{minor}")));
            }
        }
        Err(error @ (DeviceError::NoDriver | DeviceError::OldDriver { .. })) => {
            absent = Some(error.to_string())
        }
        Err(error) => return Err(Failure::machine(error)),
    }
    if args.json {
        let list: Vec<_> =
            devices.iter().map(|(name, what)| json!({ "name": name, "device": what })).collect();
        println!("{:#}", json!({ "devices": list, "cuda": absent }));
    } else {
        for (name, what) in devices {
            println!("{what}: {name}");
        }
        if let Some(why) = absent {
            println!("no CUDA device: {why}");
        }
    }
    Ok(())
}
