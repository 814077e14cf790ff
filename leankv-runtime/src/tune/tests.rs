use std::fs;
use std::path::Path;

use leankv_dsl::lang::*;
use leankv_dsl::target::Product;
use leankv_dsl::workload::{Check, Workload, given};

use super::*;
use crate::cache::{Bundle, BundleWriter, KernelCache};
use crate::compiler::CompileError;
use crate::kernel::KernelOf;
use crate::target::Target;

/// `out = out + x`, with `turns` times as much work as it takes. `what` makes it wrong (1), endless (2), or changes nothing (3).
///
/// * Grid: `[ceil(n / block)]`.
#[kernel(
    default(turns = 256, what = 0),
    space(block = [64]),
    tune(turns = [1, 16, 256, 4096], what = [0, 1, 2, 3]),
    valid = |s| s.turns != 16
)]
fn add_slowly(
    #[comptime] block: usize,
    #[comptime] turns: i32,
    #[comptime] what: usize,
    x: View<f32, 1>,
    out: ViewMut<f32, 1>,
) {
    let at = program_id(0);
    let x = x.tile(at, [block]).load();
    let mut most = x;
    // Every turn depends on the one before and on the data, so that none is left out.
    for turn in range(0, turns) {
        most = most.max((x * 0.5).min(most.sqrt() + turn.cast::<f32>()));
    }
    if what == 2 {
        let mut n = program_id(0) + 1;
        while n.gt(0) {
            n = n.max(1);
        }
    }
    let add = if what == 1 { most + 1.0 } else { most };
    let sum = out.tile(at, [block]).load() + add;
    out.tile(at, [block]).store(sum);
}

const N: usize = 500;

/// Of values of at least 1, for which what is added is `x`.
fn workload(spec: &AddSlowlySpec) -> Workload {
    let x: Vec<f32> = (0..N).map(|i| 1.0 + i as f32).collect();
    let sums: Vec<f32> = x.iter().map(|x| x + 10.0).collect();
    let out = given(&[10.0f32; N]).output(Check::Bits).expect(&sums, Check::Bits);
    let args = AddSlowlyArgs { x: given(&x).tensor([N]), out: out.tensor_mut([N]) };
    Workload::of::<add_slowly>([N.div_ceil(spec.block), 1, 1], args)
}

fn spec(turns: i32, what: usize) -> AddSlowlySpec {
    AddSlowlySpec { block: 64, turns, what }
}

fn compiler() -> Compiler {
    Compiler::new(KernelCache::without_folder())
}

fn set(turns: i32, what: usize) -> Settings {
    [("turns", turns.to_string()), ("what", what.to_string())]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

fn of<'a, S>(found: &'a Found<S>, set: &Settings) -> &'a Outcome {
    &found
        .trials
        .iter()
        .find(|trial| trial.set == *set)
        .unwrap_or_else(|| panic!("{set:?} was not tried"))
        .outcome
}

#[test]
fn the_fastest_is_found_and_what_is_wrong_is_listed_with_the_reason() {
    let (compiler, device) = (compiler(), Device::host());
    let tuner = Tuner::new(&compiler, &device).effort(Effort::Full).sizes([("n", N)]);
    let found = tuner.tune(&add_slowly::KERNEL, &spec(256, 0), workload).unwrap();
    // 256 times the work: no noise is that large.
    assert_eq!(found.best, spec(1, 0), "{found}");
    assert!(found.gain.low > 1.0, "{found}");
    assert_eq!((found.candidates, found.trials.len(), found.cut_short), (16, 16, false));
    assert_eq!(found.trials[0].set, set(256, 0));
    assert!(found.to_string().contains("turns=1,what=0 is "), "{found}");

    let why = |turns, what| match of(&found, &set(turns, what)) {
        Outcome::Failed { why } => why.clone(),
        other => panic!("{other:?}"),
    };
    assert!(why(16, 0).contains("s.turns != 16"), "{}", why(16, 0));
    assert!(why(1, 1).contains("`out`"), "{}", why(1, 1));
    assert!(why(1, 2).contains("steps"), "{}", why(1, 2));
    assert_eq!(*of(&found, &set(256, 3)), Outcome::SameCode { like: set(256, 0) });
    assert!(matches!(of(&found, &set(4096, 0)), Outcome::Timed { best: false, .. }));
}

#[test]
fn a_quick_search_stays_within_its_measurements_and_its_time() {
    let (compiler, device) = (compiler(), Device::host());
    let seen = std::cell::Cell::new(0);
    let tuner = Tuner::new(&compiler, &device).watch(|_| seen.set(seen.get() + 1));
    let found = tuner.tune(&add_slowly::KERNEL, &spec(256, 0), workload).unwrap();
    assert!(found.timed() <= 8 && found.best == spec(1, 0), "{found}");
    assert_eq!(seen.get(), found.trials.len());
    let found = tuner.time(Duration::ZERO).tune(&add_slowly::KERNEL, &spec(256, 0), workload).unwrap();
    assert!(found.cut_short && found.best == spec(256, 0) && found.trials.len() == 1, "{found}");
}

#[test]
fn without_a_clock_a_space_or_a_right_start_there_is_nothing_to_find() {
    let compiler = compiler();
    let tune =
        |device: &Device, spec| Tuner::new(&compiler, device).tune(&add_slowly::KERNEL, &spec, workload);
    let error = tune(&Device::reference(), spec(1, 0)).unwrap_err().to_string();
    assert!(error.contains("reference interpreter has no speed"), "{error}");
    let error = tune(&Device::host(), spec(1, 1)).unwrap_err().to_string();
    assert!(
        error.contains("`add_slowly` at the specialisation that was given") && error.contains("`out`"),
        "{error}"
    );

    #[kernel]
    fn plain(out: ViewMut<f32, 1>) {
        out.tile(0, [4]).store(Tile::zeros([4]));
    }
    let work = |_: &PlainSpec| {
        Workload::of::<plain>(
            [1, 1, 1],
            PlainArgs { out: given(&[0.0f32; 4]).output(Check::Bits).tensor_mut([4]) },
        )
    };
    let error = Tuner::new(&compiler, &Device::host()).tune(&plain::KERNEL, &PlainSpec {}, work).unwrap_err();
    assert!(
        matches!(error, TuneError::Nothing(_)) && error.to_string().contains("tune(block = [64, 128])"),
        "{error}"
    );
}

#[test]
fn a_gpu_that_is_not_here_is_modelled_and_kept_in_no_table() {
    let (compiler, h200) = (compiler(), Product::named("h200").unwrap());
    let found = Tuner::modelled(&compiler, h200).tune(&add_slowly::KERNEL, &spec(256, 0), workload).unwrap();
    assert!(found.modelled && found.best == spec(1, 0), "{found}");
    assert!(
        found.to_string().contains("add_slowly on h200") && found.to_string().contains("modelled"),
        "{found}"
    );
    let folder = tempfile::tempdir().unwrap();
    let error = TunedTable::keep(&folder.path().join("tuned.json"), &found).unwrap_err().to_string();
    assert!(error.contains("modelled") && !folder.path().join("tuned.json").exists(), "{error}");
}

/// What a search on the host might have found for a kernel at a specialisation.
pub(crate) fn as_found(kernel: &dyn KernelDef, given: &Settings, set: Settings) -> Found<()> {
    let mut given = given.clone();
    given.retain(|name, _| !set.contains_key(name));
    let all: Settings = given.clone().into_iter().chain(set.clone()).collect();
    // Of a table that somebody changed by hand, the kernel may not be possible.
    let fingerprint = kernel.build(&all).map_or("none".to_owned(), |func| fingerprint(&func));
    Found {
        kernel: kernel.name().to_owned(),
        device: device_key(&Device::host()).unwrap(),
        modelled: false,
        best: (),
        set,
        given,
        gain: Ratio { median: 2.0, low: 1.9, high: 2.1 },
        trials: Vec::new(),
        candidates: 16,
        cut_short: false,
        sizes: BTreeMap::new(),
        fingerprint,
    }
}

fn found(best: AddSlowlySpec, n: usize) -> Found<()> {
    let found = as_found(&add_slowly::KERNEL, &spec(256, 0).settings(), set(best.turns, best.what));
    Found { sizes: [("n".to_owned(), n)].into(), ..found }
}

fn loaded(path: &Path, compiler: Compiler, n: usize) -> Result<KernelOf<add_slowly>, CompileError> {
    let compiler = compiler.with_tuned(TunedTable::read(path).unwrap());
    compiler.load_tuned(
        &Device::host(),
        &add_slowly::KERNEL,
        &spec(256, 0),
        &Choices::new(),
        &[("n", n), ("m", 3)],
    )
}

#[test]
fn a_table_gives_what_was_found_for_the_nearest_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/tuned.json");
    TunedTable::keep(&path, &found(spec(4096, 0), 5000)).unwrap();
    TunedTable::keep(&path, &found(spec(1, 0), 100)).unwrap();
    // About as many, so it takes the place of the first one.
    TunedTable::keep(&path, &found(spec(1, 3), 4900)).unwrap();
    assert_eq!(TunedTable::read(&path).unwrap().len(), 2);
    for (n, tuned) in [(90, spec(1, 0)), (100_000, spec(1, 3))] {
        assert_eq!(*loaded(&path, compiler(), n).unwrap().spec(), tuned);
    }
    // What cannot be had is no reason to fail.
    let mut bundle = BundleWriter::default();
    let of = add_slowly::KERNEL.build_spec(&spec(256, 0)).unwrap();
    let (key, bytes) = compiler().compile(&of, Target::Host).unwrap().for_launch();
    bundle.add(&key, bytes);
    bundle.write(&folder.path().join("bundle")).unwrap();
    let cache = KernelCache::without_folder();
    cache.add_bundle(Bundle::open(&folder.path().join("bundle")).unwrap());
    cache.deny_jit(true);
    assert_eq!(*loaded(&path, Compiler::new(cache), 90).unwrap().spec(), spec(256, 0));
}

#[test]
fn what_does_not_fit_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuned.json");
    let good = || found(spec(1, 0), 100);
    let others = [
        Found { device: "another CPU".to_owned(), ..good() },
        Found { fingerprint: "of an older kernel".to_owned(), ..good() },
        Found { given: [("block".to_owned(), "a word".to_owned())].into(), ..good() },
        Found { given: Settings::new(), ..good() },
        Found { kernel: "another".to_owned(), ..good() },
        // The kernel no longer takes it.
        Found { set: set(16, 0), ..good() },
        Found { set: [("gone".to_owned(), "1".to_owned())].into(), ..good() },
        // What no tuner sets: another field, a value that is not declared, fields that are missing.
        Found {
            set: {
                let mut set = set(1, 0);
                set.insert("block".to_owned(), "32".to_owned());
                set
            },
            ..good()
        },
        Found { set: set(7, 0), ..good() },
        Found { set: [("turns".to_owned(), "1".to_owned())].into(), ..good() },
    ];
    for other in others {
        fs::remove_file(&path).ok();
        TunedTable::keep(&path, &other).unwrap();
        assert_eq!(*loaded(&path, compiler(), 100).unwrap().spec(), spec(256, 0), "{other:?}");
    }
}

#[test]
fn what_was_found_is_taken_where_the_usual_values_are_not_possible() {
    #[kernel(default(block = 64), tune(block = [16, 32, 64]), valid = |s| s.block * s.rows <= 64)]
    fn narrow(#[comptime] rows: usize, #[comptime] block: usize, out: ViewMut<f32, 2>) {
        out.tile((0, 0), [rows, block]).store(Tile::zeros([rows, block]));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuned.json");
    let given = NarrowSpec { rows: 2, block: 32 };
    let set: Settings = [("block".to_owned(), "16".to_owned())].into();
    TunedTable::keep(&path, &as_found(&narrow::KERNEL, &given.settings(), set)).unwrap();
    let compiler = compiler().with_tuned(TunedTable::read(&path).unwrap());
    let load = |spec| {
        compiler
            .load_tuned(&Device::host(), &narrow::KERNEL, &spec, &Choices::new(), &[])
            .unwrap()
            .spec()
            .block
    };
    assert_eq!(load(given), 16);
    // The nearest entry of another number of rows, where it is possible; else the given one.
    assert_eq!(load(NarrowSpec { rows: 4, block: 8 }), 16);
    assert_eq!(load(NarrowSpec { rows: 8, block: 8 }), 8);
}

#[test]
fn an_entry_that_holds_is_found_behind_one_that_is_nearer_and_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuned.json");
    TunedTable::keep(&path, &found(spec(1, 0), 5000)).unwrap();
    TunedTable::keep(&path, &Found { fingerprint: "old".to_owned(), ..found(spec(4096, 0), 100) }).unwrap();
    assert_eq!(*loaded(&path, compiler(), 100).unwrap().spec(), spec(1, 0));
}

#[test]
fn a_search_that_was_cut_short_replaces_nothing_and_a_link_stays_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("tuned.json"), folder.path().join("link.json"));
    TunedTable::keep(&path, &found(spec(1, 0), 100)).unwrap();
    let before = fs::read_to_string(&path).unwrap();
    let error = TunedTable::keep(&path, &Found { cut_short: true, ..found(spec(256, 0), 100) }).unwrap_err();
    assert!(error.to_string().contains("cut short"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), before);

    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&path, &link).unwrap();
        TunedTable::keep(&link, &found(spec(1, 0), 1 << 20)).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(TunedTable::read(&path).unwrap().len(), 2);
    }
    let error = TunedTable::check_writable(&path.join("below/tuned.json")).unwrap_err();
    assert!(matches!(error, TableError::Io { .. }), "{error}");
}

#[test]
fn a_file_that_is_not_understood_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuned.json");
    for (text, says) in [
        ("{\"schema\": 1, \"tuned\": [", "damaged"),
        ("[]", "no table"),
        ("{\"schema\": 7, \"tuned\": 3}", "form 7"),
        ("{\"schema\": 1, \"tuned\": [{\"kernel\": \"x\"}]}", "device"),
    ] {
        fs::write(&path, text).unwrap();
        for error in [TunedTable::read(&path).map(drop), TunedTable::keep(&path, &found(spec(1, 0), 1))] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("tuned.json"), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn processes_that_keep_at_one_time_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuned.json");
    std::thread::scope(|scope| {
        for power in 0..12 {
            let path = &path;
            scope.spawn(move || TunedTable::keep(path, &found(spec(1, 0), 1 << power)).unwrap());
        }
    });
    assert_eq!(TunedTable::read(&path).unwrap().len(), 12);
}
