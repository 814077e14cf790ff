use std::convert::Infallible;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

fn key(ir: &str) -> CacheKey {
    CacheKey {
        ir: ir.into(),
        target: "sm_80".into(),
        llvm: "22.1.8".into(),
        compiler: "c".into(),
        options: "opt=3".into(),
    }
}

fn any(_: &[u8]) -> bool {
    true
}

fn fetch(cache: &KernelCache, key: &CacheKey, built: &[u8]) -> Fetched {
    cache.get_or_build(key, any, || Ok::<_, Infallible>(built.to_vec())).unwrap()
}

#[test]
fn an_entry_survives_the_process_that_built_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = fetch(&KernelCache::at(dir.path()), &key("a"), b"code");
    assert_eq!(first.origin, Origin::Built);
    let again = fetch(&KernelCache::at(dir.path()), &key("a"), b"never used");
    assert_eq!((&again.bytes[..], again.origin), (&b"code"[..], Origin::Disk));
}

#[test]
fn each_field_of_the_key_and_their_borders_matter() {
    let base = key("a");
    let mut changed = vec![base.clone(); 6];
    changed[0].ir = "b".into();
    changed[1].target = "sm_90".into();
    changed[2].llvm = "22.1.9".into();
    changed[3].compiler = "d".into();
    changed[4].options = "opt=2".into();
    // The same concatenation, split elsewhere.
    changed[5].ir = "as".into();
    changed[5].target = "m_80".into();
    for other in &changed {
        assert_ne!(base.digest(), other.digest(), "{other:?}");
    }
    assert_eq!(base.digest(), key("a").digest());
}

#[test]
fn every_kind_of_damage_is_found_reported_and_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let k = key("a");
    fetch(&KernelCache::at(dir.path()), &k, b"code of the kernel");
    let path = KernelCache::at(dir.path()).path_of(&k.digest()).unwrap();
    let good = std::fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("cut in the header", good[..20].to_vec()),
        ("cut in the payload", good[..good.len() - 1].to_vec()),
        ("overlong", [&good[..], b"x"].concat()),
        ("magic", flipped(0)),
        ("format", flipped(8)),
        ("key", flipped(12)),
        ("length", flipped(44)),
        ("checksum", flipped(52)),
        ("payload", flipped(good.len() - 1)),
    ];
    for (what, bytes) in cases {
        std::fs::write(&path, bytes).unwrap();
        let cache = KernelCache::at(dir.path());
        let got = fetch(&cache, &k, b"code of the kernel");
        assert_eq!(got.origin, Origin::Built, "{what}");
        assert_eq!(cache.stats().corrupt, 1, "{what}");
        assert_eq!(std::fs::read(&path).unwrap(), good, "{what}: the entry is whole again");
    }
}

#[test]
fn contents_that_cannot_be_used_count_as_damage() {
    let dir = tempfile::tempdir().unwrap();
    let k = key("a");
    fetch(&KernelCache::at(dir.path()), &k, b"old");
    let cache = KernelCache::at(dir.path());
    let got = cache.get_or_build(&k, |b| b == b"new", || Ok::<_, Infallible>(b"new".to_vec())).unwrap();
    assert_eq!((&got.bytes[..], got.origin, cache.stats().corrupt), (&b"new"[..], Origin::Built, 1));
}

#[test]
fn a_folder_that_cannot_be_written_fails_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the folder should be: works as root too, unlike permissions.
    let blocked = dir.path().join("file");
    std::fs::write(&blocked, b"").unwrap();
    let cache = KernelCache::at(&blocked);
    for _ in 0..2 {
        assert_eq!(&fetch(&cache, &key("a"), b"code").bytes[..], b"code");
    }
    let stats = cache.stats();
    assert_eq!((stats.built, stats.disk_hits), (2, 0));
    assert!(stats.io_errors >= 2, "{stats:?}");
    assert_eq!(std::fs::read(&blocked).unwrap(), b"", "the file in the way is untouched");
}

#[test]
fn a_full_device_fails_nothing_and_leaves_no_part_of_an_entry() {
    // /dev/full cannot be a folder, so the write is made to fail through an entry's path that is a folder.
    let dir = tempfile::tempdir().unwrap();
    let cache = KernelCache::at(dir.path());
    let k = key("a");
    let path = cache.path_of(&k.digest()).unwrap();
    std::fs::create_dir_all(path.join("in the way")).unwrap();
    assert_eq!(&fetch(&cache, &k, b"code").bytes[..], b"code");
    assert!(cache.stats().io_errors >= 1);
    let left: Vec<_> =
        std::fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [path]);
}

#[test]
fn threads_that_want_the_same_kernel_share_one_build() {
    const THREADS: usize = 8;
    let cache = KernelCache::without_folder();
    let builds = AtomicU32::new(0);
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                let got = cache.get_or_build(&key("a"), any, || {
                    builds.fetch_add(1, Ordering::SeqCst);
                    // The leader waits until every other thread had the time to queue up behind it.
                    std::thread::sleep(std::time::Duration::from_millis(100));
                    Ok::<_, Infallible>(b"code".to_vec())
                });
                assert_eq!(&got.unwrap().bytes[..], b"code");
            });
        }
    });
    let stats = cache.stats();
    assert_eq!(stats.built + stats.shared, THREADS as u64);
    assert_eq!(u64::from(builds.into_inner()), stats.built);
    assert!(stats.shared > 0, "{stats:?}");
}

#[test]
fn a_failed_or_panicking_build_lets_the_next_caller_build() {
    let cache = KernelCache::without_folder();
    let failed = cache.get_or_build(&key("a"), any, || Err::<Vec<u8>, _>("no"));
    assert!(matches!(failed, Err(CacheError::Build("no"))));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cache.get_or_build(&key("a"), any, || -> Result<Vec<u8>, Infallible> { panic!("builder") }).is_ok()
    }));
    assert!(panicked.is_err());
    assert_eq!(fetch(&cache, &key("a"), b"code").origin, Origin::Built);
}

#[test]
fn a_waiter_takes_over_from_a_failed_leader() {
    let cache = KernelCache::without_folder();
    let leading = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let failed = cache.get_or_build(&key("a"), any, || {
                leading.wait();
                std::thread::sleep(std::time::Duration::from_millis(50));
                Err::<Vec<u8>, _>("no")
            });
            assert!(matches!(failed, Err(CacheError::Build("no"))));
        });
        scope.spawn(|| {
            leading.wait();
            assert_eq!(fetch(&cache, &key("a"), b"code").origin, Origin::Built);
        });
    });
}

#[test]
fn deny_jit_is_an_error_that_says_what_to_do_and_bundles_satisfy_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernels.lkvb");
    let cache = KernelCache::at(dir.path().join("cache"));
    cache.deny_jit(true);
    let never = || -> Result<Vec<u8>, Infallible> { unreachable!("building is denied") };
    let denied = cache.get_or_build(&key("a"), any, never).unwrap_err().to_string();
    assert!(denied.contains("denied") && denied.contains("--bundle"), "{denied}");

    let mut writer = BundleWriter::new();
    writer.add(&key("b"), b"code b".to_vec());
    writer.add(&key("a"), b"code a".to_vec());
    writer.write(&path).unwrap();
    cache.add_bundle(Bundle::open(&path).unwrap());
    let got = cache.get_or_build(&key("a"), any, never).unwrap();
    assert_eq!((&got.bytes[..], got.origin), (&b"code a"[..], Origin::Bundle));
}

#[test]
fn a_damaged_bundle_is_an_error_at_opening_wherever_the_damage_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernels.lkvb");
    let mut writer = BundleWriter::new();
    writer.add(&key("a"), b"code a".to_vec());
    writer.add(&key("b"), b"code b".to_vec());
    writer.write(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    assert_eq!(Bundle::open(&path).unwrap().len(), 2);
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(Bundle::open(&path), Err(BundleError::Damaged { .. })), "byte {at}");
        std::fs::write(&path, &good[..at]).unwrap();
        assert!(matches!(Bundle::open(&path), Err(BundleError::Damaged { .. })), "cut at {at}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Bundle::open(&path), Err(BundleError::Io { .. })));
}

#[test]
fn clearing_removes_entries_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let cache = KernelCache::at(dir.path());
    fetch(&cache, &key("a"), b"code");
    fetch(&cache, &key("b"), b"code");
    let other = dir.path().join("notes.txt");
    std::fs::write(&other, b"mine").unwrap();
    assert_eq!(cache.clear().unwrap(), 2);
    assert!(other.exists());
    assert_eq!(fetch(&cache, &key("a"), b"code").origin, Origin::Built);
    assert_eq!(KernelCache::at(dir.path().join("none")).clear().unwrap(), 0);
}

#[test]
fn the_user_folder_follows_the_environment() {
    let with = |set: &[(&str, &str)]| {
        user_dir(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
            .map(|p| p.display().to_string())
    };
    let home = ("HOME", "/home/u");
    assert_eq!(with(&[home]).as_deref(), Some("/home/u/.cache/leankv"));
    assert_eq!(with(&[home, ("XDG_CACHE_HOME", "/x")]).as_deref(), Some("/x/leankv"));
    assert_eq!(with(&[home, (CACHE_DIR_VARIABLE, "/here")]).as_deref(), Some("/here"));
    assert_eq!(with(&[home, (CACHE_DIR_VARIABLE, "")]).as_deref(), Some("/home/u/.cache/leankv"));
    assert_eq!(with(&[]), None);
}
