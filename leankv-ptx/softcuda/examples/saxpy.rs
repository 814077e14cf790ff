//! A program on cudarc as anybody writes it: it knows nothing of an emulator.
//!
//! ```text
//! make softcuda
//! SOFTCUDA_DEVICES=1 LD_LIBRARY_PATH=target/softcuda cargo run --release -p softcuda --example saxpy
//! ```

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

/// `y[i] += a * x[i]` for `i < n`.
const SAXPY: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry saxpy(.param .u32 n, .param .f32 a, .param .u64 x, .param .u64 y) {
    .reg .pred %p;
    .reg .b32 %i, %n, %t, %b;
    .reg .f32 %a, %u, %v;
    .reg .b64 %x, %y;
    mov.u32 %b, %ctaid.x;
    mov.u32 %t, %ntid.x;
    mov.u32 %i, %tid.x;
    mad.lo.u32 %i, %b, %t, %i;
    ld.param.u32 %n, [n];
    setp.ge.u32 %p, %i, %n;
    @%p ret;
    ld.param.f32 %a, [a];
    ld.param.u64 %x, [x];
    ld.param.u64 %y, [y];
    mad.wide.u32 %x, %i, 4, %x;
    mad.wide.u32 %y, %i, 4, %y;
    ld.global.f32 %u, [%x];
    ld.global.f32 %v, [%y];
    fma.rn.f32 %v, %a, %u, %v;
    st.global.f32 [%y], %v;
    ret;
}
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // SAFETY: looks for the driver library, nothing else.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(
            "there is no libcuda.so.1: run `make softcuda` and set LD_LIBRARY_PATH=target/softcuda".into()
        );
    }
    let context = CudaContext::new(0)
        .map_err(|error| format!("{error}; softcuda shows devices when SOFTCUDA_DEVICES=1 is set"))?;
    println!("device: {}", context.name()?);
    let saxpy = context.load_module(Ptx::from_src(SAXPY))?.load_function("saxpy")?;
    let stream = context.default_stream();

    let n = 1000u32;
    let x = stream.clone_htod(&(0..n).map(|i| i as f32).collect::<Vec<f32>>())?;
    let mut y = stream.clone_htod(&vec![1.0f32; n as usize])?;
    let shape =
        LaunchConfig { grid_dim: (n.div_ceil(128), 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the arguments are the kernel's parameters, and it stays within n elements.
    unsafe { stream.launch_builder(&saxpy).arg(&n).arg(&0.5f32).arg(&x).arg(&mut y).launch(shape) }?;
    let y = stream.clone_dtoh(&y)?;
    println!("y[0..4] = {:?}, y[999] = {}", &y[..4], y[999]);
    Ok(())
}
