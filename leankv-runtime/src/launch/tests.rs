use std::sync::{Arc, Mutex};

use leankv_dsl::ir::{Access, Func, Loc, Param, Type};

use super::*;
use crate::Device;
use crate::kernel::{HostArg, HostCode, Loaded};

/// Records what it is run with, so that tests see exactly what reaches a kernel.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<([u32; 3], Vec<HostArg>)>>>);

// SAFETY: the recorded pointers are compared, never followed.
unsafe impl Send for Recorder {}
// SAFETY: as above.
unsafe impl Sync for Recorder {}

impl HostCode for Recorder {
    unsafe fn run(&self, grid: [u32; 3], args: &[HostArg]) -> Result<(), String> {
        self.0.lock().unwrap().push((grid, args.to_vec()));
        Ok(())
    }
}

/// `scale(x: view of f16 [m, n], y: &mut view of f32 [m, n] with strides, table: &u8, n: i32, by: f32)`.
fn scale() -> (Kernel, Recorder) {
    let ptr = |name: &str, dtype, access| Param::new(name, Type::ptr(dtype), access);
    let number = |name: &str, dtype| Param::new(name, Type::scalar(dtype), Access::Read);
    let mut params = vec![
        ptr("x", Dtype::F16, Access::Read),
        number("x.shape0", Dtype::I32),
        number("x.shape1", Dtype::I32),
        number("x.stride0", Dtype::I32),
        ptr("y", Dtype::F32, Access::ReadWrite),
        number("y.shape0", Dtype::I64),
        number("y.shape1", Dtype::I64),
        number("y.stride0", Dtype::I64),
        number("y.stride1", Dtype::I64),
        ptr("table", Dtype::U8, Access::Read),
        number("n", Dtype::I32),
        number("by", Dtype::F32),
    ];
    params[0].multiple_of = 16;
    params[10].multiple_of = 8;
    let signature = Signature::of(&Func::new("scale", params, Loc::caller())).unwrap();
    let recorder = Recorder::default();
    (Kernel::new(Device::host(), signature, Loaded::Host(Box::new(recorder.clone()))), recorder)
}

struct Buffers {
    x: crate::DeviceBuffer<half::f16>,
    y: crate::DeviceBuffer<f32>,
    table: crate::DeviceBuffer<u8>,
}

fn buffers() -> Buffers {
    let device = Device::host();
    Buffers { x: device.zeros(32).unwrap(), y: device.zeros(32).unwrap(), table: device.zeros(4).unwrap() }
}

/// The error of a launch that is right but for what `change` does to it.
fn refused<'a>(kernel: &'a Kernel, launch: impl FnOnce(Launch<'a>) -> Launch<'a>) -> String {
    // SAFETY: the recorder follows no pointer.
    unsafe { launch(kernel.launch(1)).run() }.unwrap_err().to_string()
}

#[test]
fn arguments_reach_the_kernel_in_the_order_of_its_parameters() {
    let (kernel, recorder) = scale();
    let mut b = buffers();
    let start = |address: u64| address as *mut u8;
    let (x, y, table) = (start(b.x.address()), start(b.y.address()), start(b.table.address()));
    let launch = kernel
        .launch((2, 3))
        .scalar("by", -1.0f32)
        .view_mut("y", b.y.slice_mut(8..).unwrap(), &[2, 12])
        .scalar("n", -8i32)
        .buffer("table", &b.table)
        .view("x", &b.x, &[4, 8]);
    // SAFETY: the recorder follows no pointer.
    unsafe { launch.run() }.unwrap();
    let pointer = |start, bytes| HostArg::Pointer { start, bytes };
    let number = HostArg::Scalar;
    let expected = vec![
        pointer(x, 64),
        number(4),
        number(8),
        number(8),
        pointer(y.wrapping_add(32), 96),
        number(2),
        number(12),
        number(12),
        number(1),
        pointer(table, 4),
        number(u64::from(-8i32 as u32)),
        number(u64::from((-1.0f32).to_bits())),
    ];
    assert_eq!(*recorder.0.lock().unwrap(), [([2, 3, 1], expected)]);
}

#[test]
fn each_wrong_argument_is_refused_with_a_message_that_names_it_and_nothing_runs() {
    let (kernel, recorder) = scale();
    let b = buffers();
    let check = |launch: &dyn Fn(Launch<'_>) -> Launch<'_>, expected: &str| {
        // SAFETY: the recorder follows no pointer.
        let error = unsafe { launch(kernel.launch(1)).run() }.unwrap_err().to_string();
        assert_eq!(error, expected);
    };
    check(
        &|l| l.scalar("bye", 1.0f32),
        "kernel `scale` has no parameter `bye` (did you mean `by`?); it takes `x`, `y`, `table`, `n` and `by`",
    );
    check(&|l| l.scalar("by", 1.0f64), "kernel `scale`: `by` takes f32, not f64");
    check(&|l| l.scalar("x", 1.0f32), "kernel `scale`: `x` takes a buffer to read, not a number");
    check(&|l| l.scalar("n", 8).scalar("n", 8), "kernel `scale`: `n` was given twice");
    check(
        &|l| l.scalar("n", 8).scalar("by", 1.0f32),
        "kernel `scale`: `x`, `x.shape0`, `x.shape1`, `x.stride0`, `y`, `y.shape0`, `y.shape1`, `y.stride0`, `y.stride1` and `table` \
         not given; give the extents of a view with `view` or `view_mut`",
    );
    drop(b);
    assert!(recorder.0.lock().unwrap().is_empty());
}

#[test]
fn buffers_are_held_to_type_access_length_rank_and_index_range() {
    let (kernel, recorder) = scale();
    let mut b = buffers();
    assert_eq!(
        refused(&kernel, |l| l.view("y", &b.y, &[4, 8])),
        "kernel `scale`: `y` takes a buffer to write, not a buffer to read"
    );
    assert_eq!(refused(&kernel, |l| l.view("x", &b.y, &[4, 8])), "kernel `scale`: `x` takes f16, not f32");
    assert_eq!(
        refused(&kernel, |l| l.view("x", &b.x, &[3, 11])),
        "kernel `scale`: `x` as [3, 11] needs 33 elements of f16, and the buffer has 32"
    );
    assert_eq!(
        refused(&kernel, |l| l.view("x", &b.x, &[usize::MAX, usize::MAX])).split(" needs").next(),
        Some("kernel `scale`: `x` as [18446744073709551615, 18446744073709551615]")
    );
    assert_eq!(
        refused(&kernel, |l| l.view("x", &b.x, &[32])),
        "kernel `scale`: `x` is a view of rank 2, not 1"
    );
    // Rows of 8, 16 apart: the last one ends at element 24.
    assert_eq!(
        refused(&kernel, |l| l.view_mut_strided("y", b.y.slice_mut(..23).unwrap(), &[2, 8], &[16, 1])),
        "kernel `scale`: `y` as [2, 8] needs 24 elements of f32, and the buffer has 23"
    );
    assert_eq!(
        refused(&kernel, |l| l.view_strided("x", &b.x, &[2, 8], &[16, 2])),
        "kernel `scale`: `x` takes elements that lie one after another along axis 1, not 2 apart; mark the parameter \
         `#[arg(strided)]` in the kernel, or copy the data"
    );
    assert_eq!(
        refused(&kernel, |l| l.view("x", &b.x, &[0, 1 << 31])),
        "kernel `scale`: 2147483648 does not fit `x.stride0`, which is i32"
    );
    assert_eq!(
        refused(&kernel, |l| l.buffer_mut("y", &mut b.y)).split(" not given").next(),
        Some(
            "kernel `scale`: `x`, `x.shape0`, `x.shape1`, `x.stride0`, `y.shape0`, `y.shape1`, `y.stride0`, `y.stride1`, `table`, `n` \
             and `by`"
        )
    );
    assert!(recorder.0.lock().unwrap().is_empty());
}

#[test]
fn alignment_multiples_overlap_and_grids_are_checked_last() {
    let (kernel, recorder) = scale();
    let mut b = buffers();
    let message = refused(&kernel, |l| {
        l.view("x", b.x.slice(4..).unwrap(), &[1, 8])
            .view_mut("y", &mut b.y, &[1, 8])
            .buffer("table", &b.table)
            .scalar("n", 8)
            .scalar("by", 1.0f32)
    });
    assert!(
        message.starts_with("kernel `scale`: `x` must be an address that is a multiple of 16, and it is 0x"),
        "{message}"
    );
    let message = refused(&kernel, |l| {
        l.view("x", &b.x, &[1, 8])
            .view_mut("y", &mut b.y, &[1, 8])
            .buffer("table", &b.table)
            .scalar("n", 12)
            .scalar("by", 1.0f32)
    });
    assert_eq!(message, "kernel `scale`: `n` must be a multiple of 8, and it is 0xc");

    // Memory of someone else's can be handed in twice; Rust's borrows rule it out for our own.
    // SAFETY: the bytes of `y` are alive, and only addresses are looked at.
    let alias = unsafe { Device::host().wrap::<u8>(b.y.address() as usize + 12, 4) }.unwrap();
    let message = refused(&kernel, |l| {
        l.view("x", &b.x, &[1, 8])
            .view_mut("y", &mut b.y, &[1, 8])
            .buffer("table", &alias)
            .scalar("n", 8)
            .scalar("by", 1.0f32)
    });
    assert_eq!(message, "kernel `scale` writes `y`, which overlaps `table`; give it a buffer of its own");

    for grid in [(0, 1, 1), (1, 65_536, 1), (1 << 31, 1, 1)] {
        // SAFETY: the recorder follows no pointer.
        let error = unsafe { kernel.launch(grid).run() }.unwrap_err();
        assert!(matches!(error, LaunchError::Argument(ArgumentError::Grid { .. })), "{error}");
    }
    assert!(recorder.0.lock().unwrap().is_empty());
}

/// Launches whose arguments are structs.
mod typed {
    use half::f16;
    use leankv_dsl::lang::*;
    use leankv_dsl::workload::given;

    use crate::cache::KernelCache;
    use crate::{Compiler, Device, DeviceBuffer, KernelOf};

    /// A table and its number.
    #[derive(Clone, Copy, KernelArg)]
    struct Table {
        data: Ptr<f32>,
        number: View<i32, 1>,
    }

    /// `out = (x + y) * by + table[number[0]]`, `[4, 8]`.
    #[kernel]
    fn add(
        #[comptime] input: FloatType,
        #[arg(align = 16, element = input)] x: FloatView<2>,
        #[arg(strided)] y: View<f32, 2>,
        table: Table,
        #[arg(multiple_of = 8)] by: Scalar<i32>,
        out: ViewMut<f32, 2>,
    ) {
        let at = (program_id(0), 0);
        let sum = x.tile(at, [4, 8]).load::<f32>() + y.tile(at, [4, 8]).load();
        let more = table.data.get(table.number.get([lit(0)]));
        out.tile(at, [4, 8]).store(sum * by.cast::<f32>() + more);
    }

    struct Buffers {
        x: DeviceBuffer<f16>,
        y: DeviceBuffer<f32>,
        data: DeviceBuffer<f32>,
        number: DeviceBuffer<i32>,
        out: DeviceBuffer<f32>,
    }

    fn load(device: &Device) -> KernelOf<add> {
        let spec = AddSpec { input: FloatType::F16 };
        Compiler::new(KernelCache::without_folder()).load(device, &add::KERNEL, &spec).unwrap()
    }

    fn buffers(device: &Device) -> Buffers {
        let x: Vec<f16> = (0..32).map(|i| f16::from_f32(i as f32)).collect();
        let y: Vec<f32> = (0..32).map(|i| i as f32 * 100.0).collect();
        Buffers {
            x: device.upload(&x).unwrap(),
            y: device.upload(&y).unwrap(),
            data: device.upload(&[0.25f32, 0.5, 0.75]).unwrap(),
            number: device.upload(&[1, 0, 0]).unwrap(),
            out: device.zeros(32).unwrap(),
        }
    }

    impl Buffers {
        fn args(&mut self) -> AddArgs<'_> {
            AddArgs {
                x: self.x.tensor([4, 8]).into(),
                y: self.y.tensor([4, 8]),
                table: TableArgs { data: (&self.data).into(), number: self.number.tensor([1]) },
                by: 8,
                out: self.out.tensor_mut([4, 8]),
            }
        }
    }

    /// What is wrong with a launch, of which nothing runs.
    #[track_caller]
    fn refused<'a>(kernel: &'a KernelOf<add>, args: AddArgs<'a>) -> String {
        // SAFETY: the kernel reaches memory through views, and number 1 of a table of three.
        unsafe { kernel.launch(1, args).run() }.unwrap_err().to_string()
    }

    #[test]
    fn arguments_reach_the_parameters_of_their_names() {
        for device in [Device::host(), Device::reference()] {
            let (kernel, mut b) = (load(&device), buffers(&device));
            // `y` as its transpose.
            let y = b.y.tensor([4, 8]).strided([1, 4]);
            // SAFETY: the kernel reaches memory through views, and number 1 of a table of three.
            unsafe {
                kernel
                    .launch(
                        1,
                        AddArgs {
                            x: b.x.tensor([4, 8]).into(),
                            y,
                            table: TableArgs { data: (&b.data).into(), number: b.number.tensor([3]) },
                            by: -8,
                            out: b.out.tensor_mut([4, 8]),
                        },
                    )
                    .run()
            }
            .unwrap();
            let want = |i: usize| (i as f32 + ((i % 8) * 4 + i / 8) as f32 * 100.0) * -8.0 + 0.5;
            assert_eq!(b.out.to_vec().unwrap(), (0..32).map(want).collect::<Vec<_>>(), "{device:?}");
        }
    }

    #[test]
    fn what_rustc_cannot_see_is_refused_with_a_message_that_names_the_field() {
        let device = Device::host();
        let (kernel, mut b) = (load(&device), buffers(&device));
        let (spare, halves) = (device.zeros::<f32>(32).unwrap(), device.zeros::<f16>(64).unwrap());

        let args = AddArgs { x: halves.slice(..32).unwrap().tensor([4, 9]).into(), ..b.args() };
        assert_eq!(
            refused(&kernel, args),
            "kernel `add`: `x` as [4, 9] needs 36 elements of f16, and the buffer has 32"
        );
        let short = device.zeros::<i32>(2).unwrap();
        let mut args = b.args();
        args.table.number = short.tensor([3]);
        assert_eq!(
            refused(&kernel, args),
            "kernel `add`: `table.number` as [3] needs 3 elements of i32, and the buffer has 2"
        );
        // Rows of 8, 16 apart: the last one ends at element 56.
        let mut args = b.args();
        args.y = spare.tensor([4, 8]).strided([16, 1]);
        assert_eq!(
            refused(&kernel, args),
            "kernel `add`: `y` as [4, 8] needs 56 elements of f32, and the buffer has 32"
        );
        let mut args = b.args();
        args.y = spare.tensor([1, 8]).strided([usize::MAX, 1]);
        assert_eq!(
            refused(&kernel, args),
            "kernel `add`: 18446744073709551615 does not fit `y.stride0`, which is i64"
        );
        let numbers = device.zeros::<i32>(3).unwrap();
        let mut args = b.args();
        args.table.number = numbers.tensor([2]).strided([2]);
        assert_eq!(
            refused(&kernel, args),
            "kernel `add`: `table.number` takes elements that lie one after another along axis 0, not 2 apart; mark the \
             parameter `#[arg(strided)]` in the kernel, or copy the data"
        );
        // The struct takes all floats, the specialisation one type of them.
        let mut args = b.args();
        args.x = spare.tensor([4, 8]).into();
        assert_eq!(refused(&kernel, args), "kernel `add`: `x` takes f16, not f32");
        assert_eq!(
            refused(&kernel, AddArgs { by: 12, ..b.args() }),
            "kernel `add`: `by` must be a multiple of 8, and it is 0xc"
        );
        let mut args = b.args();
        args.x = halves.slice(4..).unwrap().tensor([4, 8]).into();
        let message = refused(&kernel, args);
        assert!(
            message
                .starts_with("kernel `add`: `x` must be an address that is a multiple of 16, and it is 0x"),
            "{message}"
        );
        assert!(message.ends_with("; buffers start aligned, slices need not"), "{message}");
        assert_eq!(b.out.to_vec().unwrap(), [0.0; 32], "nothing ran");
    }

    #[test]
    fn memory_of_another_device_or_of_none_is_refused() {
        let (host, reference) = (Device::host(), Device::reference());
        let (kernel, mut b, other) = (load(&host), buffers(&host), buffers(&reference));
        let mut args = b.args();
        args.table.data = (&other.data).into();
        assert_eq!(
            refused(&kernel, args),
            format!(
                "kernel `add`: the buffer of `table.data` lies on another device ({}) than the kernel ({})",
                reference.name(),
                host.name()
            )
        );
        let args = AddArgs { y: given(&[0.0f32; 32]).tensor([4, 8]), ..b.args() };
        let message = refused(&kernel, args);
        assert!(message.contains("`y` lies on another device (memory that is of no device)"), "{message}");
        let stream = reference.default_stream();
        // SAFETY: refused before anything runs.
        let error = unsafe { kernel.launch(1, b.args()).on(&stream).run() }.unwrap_err();
        assert!(error.to_string().contains("the stream"), "{error}");
    }

    #[test]
    fn what_is_written_overlaps_nothing_else() {
        let device = Device::host();
        let (kernel, mut b) = (load(&device), buffers(&device));
        // Memory of someone else's can be handed in twice; Rust's borrows rule it out for our own.
        // SAFETY: the bytes of `out` are alive, and the launch is refused.
        let alias = unsafe { Device::host().wrap::<f32>(b.out.address() as usize + 12, 3) }.unwrap();
        let mut args = b.args();
        args.table.data = (&alias).into();
        assert_eq!(
            refused(&kernel, args),
            "kernel `add` writes `out`, which overlaps `table.data`; give it a buffer of its own"
        );
        // Two parts of one buffer do not overlap.
        let mut both = device.zeros::<f32>(64).unwrap();
        let (first, _) = both.as_view_mut().split_at(32).unwrap();
        let out = first.tensor([4, 8]);
        // SAFETY: the kernel reaches memory through views, and number 1 of a table of three.
        unsafe { kernel.launch(1, AddArgs { out, ..b.args() }).run() }.unwrap();
        assert!(both.to_vec().unwrap()[32..].iter().all(|x| *x == 0.0));
    }

    /// What one type of numbers has to do with another.
    trait Beside<U> {}

    impl Beside<f16> for f32 {}

    #[derive(Clone, Copy, KernelArg)]
    struct Words {
        r#type: Scalar<f32>,
    }

    /// Names that are Rust's own words, and a bound with a type that no parameter has.
    #[kernel]
    fn r#move<T: Float + Beside<U>, U: Float>(
        #[comptime] r#loop: usize,
        r#in: View<T, 1>,
        r#fn: Words,
        out: ViewMut<T, 1>,
    ) {
        let moved = r#in.tile(0, [r#loop]).load().cast::<U>().cast::<f32>() + r#fn.r#type;
        out.tile(0, [r#loop]).store(moved.cast::<T>());
    }

    #[test]
    fn words_of_rust_are_names_without_their_mark() {
        let device = Device::host();
        let compiler = Compiler::new(KernelCache::without_folder());
        let spec = MoveSpec { r#loop: 4 };
        assert_eq!(spec.to_string(), "loop=4");
        let kernel = compiler.load(&device, &r#move::<f32, f16>::KERNEL, &spec).unwrap();
        let signature = kernel.untyped().signature().to_string();
        assert_eq!(signature, "move(in: &f32, in.shape0: i64, fn.type: f32, out: &mut f32, out.shape0: i64)");
        let (x, mut out) = (device.upload(&[1.0f32; 4]).unwrap(), device.zeros(4).unwrap());
        let args =
            MoveArgs { r#in: x.tensor([4]), r#fn: WordsArgs { r#type: 2.0 }, out: out.tensor_mut([4]) };
        // SAFETY: the kernel reaches memory through its views alone.
        unsafe { kernel.launch(1, args).run() }.unwrap();
        assert_eq!(out.to_vec().unwrap(), [3.0; 4]);
    }
}
