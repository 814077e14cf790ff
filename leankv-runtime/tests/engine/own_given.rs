//! What a user's codecs, hooks and policies give for their parameters is held to what they declared, at every launch.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use leankv_dsl::lang::attention::{AttentionHooks, CodecChoice, CodecVariant, HookChoice, HookVariant, Site};
use leankv_dsl::lang::launch::{Arguments, Name};
use leankv_dsl::lang::*;
use leankv_kernels::policy::{Policy, PolicyChoice, PolicyVariant};
use leankv_runtime::kv::{CacheConfig, KvCache, KvError, Thresholds};
use leankv_runtime::{ArgumentError, Device, DeviceBuffer, LaunchError};

use crate::common::{PLAIN, checking_devices, chunk_of, kernels, sound, step_of};
use crate::safety::{Keeps, Reader, ReaderArgs, Unlaunched, refusal, small};

/// Gives enough when it is asked before there is a cache, and too little later.
#[derive(Debug)]
struct Shrinking {
    numbers: DeviceBuffer<f32>,
    extent: Arc<AtomicI64>,
}

impl HookVariant for Shrinking {
    type Params = Reader;

    fn hooks(&self, reader: Reader) -> Box<dyn AttentionHooks> {
        Box::new(reader)
    }

    fn given(&self, _: usize) -> ReaderArgs<'_> {
        let n = self.extent.load(Ordering::Relaxed) as usize;
        ReaderArgs { line: self.numbers.tensor([n]), table: self.numbers.tensor([1, 3]), at: 0 }
    }
}

#[test]
fn what_is_given_is_checked_at_every_launch() {
    let device = Device::host();
    let (numbers, extent) = (device.zeros(3).unwrap(), Arc::new(AtomicI64::new(3)));
    let hooks = HookChoice::plain().with("mine", Shrinking { numbers, extent: Arc::clone(&extent) });
    let mut cache = crate::common::cache(&device, &CacheConfig { hooks, ..small() });
    let id = cache.admit(5, &Thresholds::new(0.0, 0.0)).unwrap();
    chunk_of(&mut cache, id, 1, &PLAIN).unwrap();
    extent.store(1 << 40, Ordering::Relaxed);
    let error = step_of(&mut cache, &[(id, 1)], &PLAIN).unwrap_err();
    let KvError::Launch(LaunchError::Argument(ArgumentError::Short { name, len: 3, .. })) = &error else {
        panic!("{error}")
    };
    assert_eq!(name, "hooks.mine.line");
}

/// Parameters of which more are given than were declared, or fewer.
#[derive(Clone, Copy)]
struct Miscounted<const GIVEN: usize> {
    number: Scalar<i32>,
}

impl<const GIVEN: usize> KernelArg for Miscounted<GIVEN> {
    fn declare(scope: &mut ArgScope, name: &str, options: ArgOptions) -> Self {
        Self { number: Scalar::declare(scope, &format!("{name}.number"), options) }
    }

    type Given<'a> = i32;

    fn give<'a>(given: i32, name: Name<'_>, to: &mut Arguments<'a>) {
        for _ in 0..GIVEN {
            Scalar::<i32>::give(given, name.part("number"), to);
        }
    }
}

#[derive(Debug)]
struct Miscounting<const GIVEN: usize>;

impl<const GIVEN: usize> AttentionHooks for Miscounted<GIVEN> {
    fn logits(&self, logits: Tile<f32, 2>, _: &Site) -> Tile<f32, 2> {
        logits + self.number.cast::<f32>()
    }
}

impl<const GIVEN: usize> HookVariant for Miscounting<GIVEN> {
    type Params = Miscounted<GIVEN>;

    fn hooks(&self, params: Miscounted<GIVEN>) -> Box<dyn AttentionHooks> {
        Box::new(params)
    }

    fn given(&self, _: usize) -> i32 {
        1
    }
}

#[test]
fn another_number_of_arguments_than_was_declared_is_refused() {
    fn run(hooks: HookChoice) -> KvError {
        let config = CacheConfig { hooks, ..small() };
        let built = kernels(&Device::reference(), &config);
        match KvCache::with_kernels(&Device::reference(), config, built) {
            Ok(mut cache) => {
                let id = cache.admit(5, &Thresholds::new(0.0, 0.0)).unwrap();
                chunk_of(&mut cache, id, 1, &PLAIN).unwrap_err()
            }
            Err(error) => error,
        }
    }
    let error = run(HookChoice::plain().with("mine", Miscounting::<2>));
    assert!(error.to_string().contains("`hooks.mine.number` was given twice"), "{error}");
    let error = run(HookChoice::plain().with("mine", Miscounting::<0>));
    assert!(matches!(&error, KvError::Launch(LaunchError::Argument(_))), "{error}");
    // One too many and one too few are two mistakes, not none.
    let error = run(HookChoice::plain().with("a", Miscounting::<2>).with("b", Miscounting::<0>));
    assert!(matches!(&error, KvError::Launch(LaunchError::Argument(_))), "{error}");
}

/// Takes away what was given before, and gives its own number alone.
#[derive(Clone, Copy)]
struct Grabbing {
    number: Scalar<i32>,
}

impl KernelArg for Grabbing {
    fn declare(scope: &mut ArgScope, name: &str, options: ArgOptions) -> Self {
        Self { number: Scalar::declare(scope, name, options) }
    }

    type Given<'a> = i32;

    fn give<'a>(given: i32, name: Name<'_>, to: &mut Arguments<'a>) {
        *to = Arguments::new();
        Scalar::<i32>::give(given, name, to);
    }
}

impl AttentionHooks for Grabbing {
    fn logits(&self, logits: Tile<f32, 2>, _: &Site) -> Tile<f32, 2> {
        logits + self.number.cast::<f32>()
    }
}

/// A codec, hook and policy that grab.
#[derive(Debug)]
struct Grabs;

impl CodecVariant for Grabs {
    type Params = Grabbing;

    fn given(&self, _: usize) -> i32 {
        1
    }
}

impl HookVariant for Grabs {
    type Params = Grabbing;

    fn hooks(&self, params: Grabbing) -> Box<dyn AttentionHooks> {
        Box::new(params)
    }

    fn given(&self, _: usize) -> i32 {
        2
    }
}

impl PolicyVariant for Grabs {
    type Params = Grabbing;

    fn policy(&self, _: Grabbing) -> Box<dyn Policy> {
        Box::new(Keeps)
    }

    fn given(&self) -> i32 {
        3
    }
}

#[test]
fn what_a_launch_gives_is_out_of_reach_of_a_variant_s_arguments() {
    let config = CacheConfig {
        codecs: CodecChoice::stock().with("mine", Grabs),
        hooks: HookChoice::plain().with("mine", Grabs),
        policy: PolicyChoice::user("mine", Grabs),
        ..small()
    };
    for device in checking_devices() {
        let mut cache = crate::common::cache(&device, &config);
        let id = cache.admit(5, &Thresholds::new(0.0, 0.0)).unwrap();
        chunk_of(&mut cache, id, 1, &PLAIN).unwrap();
        step_of(&mut cache, &[(id, 1)], &PLAIN).unwrap();
        sound(&cache);
    }
}

/// The scope of a kernel that its author vouches for, kept.
static KEPT: Mutex<Option<ArgScope>> = Mutex::new(None);

/// Keeps the scope.
struct Lends;

impl KernelArg for Lends {
    fn declare(scope: &mut ArgScope, _: &str, _: ArgOptions) -> Self {
        let other = scope.checked();
        *KEPT.lock().unwrap() = Some(std::mem::replace(scope, other));
        Lends
    }

    type Given<'a> = ();

    fn give<'a>((): (), _: Name<'_>, _: &mut Arguments<'a>) {}
}

#[kernel]
fn lends(kept: Lends) {
    let Lends = kept;
}

/// Declares its pointer and its number in the scope that was kept.
struct Borrows;

impl KernelArg for Borrows {
    fn declare(_: &mut ArgScope, name: &str, options: ArgOptions) -> Self {
        let mut kept = KEPT.lock().unwrap();
        let kept = kept.as_mut().unwrap();
        Ptr::<f32>::declare(kept, &format!("{name}.data"), options);
        Scalar::<i64>::declare(kept, &format!("{name}.shape0"), options);
        Borrows
    }

    type Given<'a> = ();

    fn give<'a>((): (), _: Name<'_>, _: &mut Arguments<'a>) {}
}

impl AttentionHooks for Borrows {}

#[test]
fn a_scope_that_was_kept_from_another_kernel_declares_nothing() {
    lends::build(&LendsSpec {}).unwrap();
    let found = refusal(|c| c.hooks = HookChoice::plain().with("mine", Unlaunched::<Borrows>(PhantomData)));
    for name in ["data", "shape0"] {
        let wanted = format!("`hooks.mine.{name}` is declared where parameters of another kernel are");
        assert!(found.contains(&wanted), "{found}");
    }
}
