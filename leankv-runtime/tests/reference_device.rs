//! The interpreter as a device: right results, and every mistake of a kernel found.

mod scaling;

use leankv_runtime::cache::KernelCache;
use leankv_runtime::{ArgumentError, BufferView, Compiler, Device, DeviceError, KernelOf, LaunchError};
use scaling::{ScaleArgs, ScaleSpec, scale, scaled};

fn load(device: &Device) -> KernelOf<scale> {
    Compiler::new(KernelCache::without_folder()).load(device, &scale::KERNEL, &ScaleSpec {}).unwrap()
}

#[test]
fn a_launch_computes_over_all_programs_and_keeps_to_its_mask() {
    const N: usize = 100;
    let device = Device::reference();
    let kernel = load(&device);
    let x: Vec<f32> = (0..N).map(|i| i as f32).collect();
    let input = device.upload(&x).unwrap();
    let mut out = device.upload(&[7.0f32; N + 1]).unwrap();
    let launch = scaled(&kernel, 2, &input, &mut out, N as i32, 0.5);
    // SAFETY: the reference device checks every access.
    unsafe { launch.run() }.unwrap();
    let out = out.to_vec().unwrap();
    assert!(out[..N].iter().zip(&x).all(|(o, x)| *o == x * 0.5));
    assert_eq!(out[N], 7.0);
}

#[test]
fn an_access_out_of_bounds_is_reported_with_its_parameter_and_writes_nothing() {
    let device = Device::reference();
    let kernel = load(&device);
    let input = device.upload(&[1.0f32; 8]).unwrap();
    let mut out = device.zeros::<f32>(8).unwrap();
    let launch = scaled(&kernel, 1, &input, &mut out, 9, 1.0);
    // SAFETY: the reference device checks every access.
    let error = unsafe { launch.run() }.unwrap_err();
    assert!(matches!(&error, LaunchError::Execution { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("`scale`") && text.contains("`x`"), "{text}");
    assert_eq!(out.to_vec().unwrap(), [0.0; 8]);
}

#[test]
fn buffers_of_other_devices_and_misaligned_ones_are_refused() {
    let device = Device::reference();
    let kernel = load(&device);
    let input = device.upload(&[1.0f32; 8]).unwrap();
    let of_host = Device::host().upload(&[1.0f32; 8]).unwrap();
    let mut out = device.zeros::<f32>(8).unwrap();
    let mut refused = |x: BufferView<'_, f32>| {
        let args = ScaleArgs { x: x.into(), out: (&mut out).into(), n: 4, by: 1.0 };
        let launch = kernel.launch(1, args);
        // SAFETY: the reference device checks every access.
        unsafe { launch.run() }.unwrap_err()
    };
    let error = refused(of_host.as_view());
    assert!(matches!(error, LaunchError::Argument(ArgumentError::Device { .. })), "{error}");
    let error = refused(input.slice(1..).unwrap());
    assert!(
        matches!(error, LaunchError::Argument(ArgumentError::Multiple { multiple_of: 16, .. })),
        "{error}"
    );
}

#[test]
fn the_host_device_does_not_interpret() {
    let error = Device::host().interpret(&scale::build(&ScaleSpec {}).unwrap()).unwrap_err();
    assert!(matches!(error, DeviceError::NeedsCode { .. }), "{error}");
}
