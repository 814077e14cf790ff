//! Whose files the cache takes.

use std::convert::Infallible;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::*;

fn key() -> CacheKey {
    let text = |text: &str| text.to_owned();
    CacheKey { ir: text("k"), target: text("host"), llvm: text("1"), compiler: text("c"), options: text("o") }
}

fn fetch(cache: &KernelCache) -> Origin {
    cache.get_or_build(&key(), |_| true, || Ok::<_, Infallible>(b"code".to_vec())).unwrap().origin
}

/// A folder with one entry, and the entry's path.
fn filled() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let cache = KernelCache::at(dir.path());
    assert_eq!(fetch(&cache), Origin::Built);
    let path = cache.path_of(&key().digest()).unwrap();
    (dir, path)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn what_the_cache_makes_is_for_this_user_alone() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("a").join("cache");
    let cache = KernelCache::at(&root);
    fetch(&cache);
    let path = cache.path_of(&key().digest()).unwrap();
    assert_eq!([mode(&root), mode(path.parent().unwrap()), mode(&path)], [0o700, 0o700, 0o600]);
    assert_eq!(fetch(&KernelCache::at(&root)), Origin::Disk);
}

#[test]
fn a_folder_that_others_can_write_is_not_read_or_written() {
    for wrong in [0o770, 0o707, 0o1777] {
        let (dir, path) = filled();
        for folder in [dir.path(), path.parent().unwrap()] {
            set_mode(folder, wrong);
            let before = fs::read(&path).unwrap();
            let cache = KernelCache::at(dir.path());
            assert_eq!(fetch(&cache), Origin::Built, "{wrong:o}");
            cache.put(&key(), b"other");
            let stats = cache.stats();
            assert_eq!((stats.disk_hits, stats.io_errors), (0, 0), "{stats:?}");
            assert!(stats.distrusted >= 3, "{stats:?}");
            assert_eq!(fs::read(&path).unwrap(), before);
            set_mode(folder, 0o700);
        }
        set_mode(dir.path(), wrong);
        let error = KernelCache::at(dir.path()).clear().unwrap_err();
        assert!(error.to_string().contains("chmod go-w"), "{error}");
        assert!(path.exists());
        set_mode(dir.path(), 0o755);
        assert_eq!(fetch(&KernelCache::at(dir.path())), Origin::Disk, "others may read");
    }
}

#[test]
fn what_another_user_owns_is_not_read_or_written_by_root_either() {
    // SAFETY: it takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        // Root's folder, as a user sees it.
        let cache = KernelCache::at("/");
        assert_eq!((fetch(&cache), cache.stats().distrusted > 0), (Origin::Built, true));
        return;
    }
    let (dir, path) = filled();
    for folder in [dir.path(), path.parent().unwrap()] {
        chown(folder, Some(12_345), None).unwrap();
        let cache = KernelCache::at(dir.path());
        assert_eq!((fetch(&cache), cache.stats().distrusted > 0), (Origin::Built, true));
        chown(folder, Some(0), None).unwrap();
    }
    assert_eq!(fetch(&KernelCache::at(dir.path())), Origin::Disk);
    chown(&path, Some(12_345), None).unwrap();
    let cache = KernelCache::at(dir.path());
    assert_eq!((fetch(&cache), cache.stats().corrupt), (Origin::Built, 1));
    assert_eq!(fs::metadata(&path).unwrap().uid(), 0, "it was replaced");
}

/// Puts something in the place of an entry that holds what an entry would.
type Place = fn(entry: &Path, aside: &Path);

#[test]
fn only_regular_files_of_bounded_size_are_entries_and_no_link_is_followed() {
    let places: [(&str, Place); 4] = [
        ("a link to a good entry", |entry, aside| symlink(aside, entry).unwrap()),
        ("a pipe that nobody writes", |entry, _| {
            let made = std::process::Command::new("mkfifo").arg(entry).status().unwrap();
            assert!(made.success());
        }),
        ("a terabyte of zeros", |entry, _| File::create(entry).unwrap().set_len(1 << 40).unwrap()),
        ("a good entry that others can write", |entry, aside| {
            fs::copy(aside, entry).unwrap();
            set_mode(entry, 0o666);
        }),
    ];
    for (what, place) in places {
        let (dir, entry) = filled();
        let aside = dir.path().join("aside");
        fs::rename(&entry, &aside).unwrap();
        let good = fs::read(&aside).unwrap();
        place(&entry, &aside);
        let cache = KernelCache::at(dir.path());
        assert_eq!((fetch(&cache), cache.stats().corrupt), (Origin::Built, 1), "{what}");
        assert!(fs::symlink_metadata(&entry).unwrap().is_file(), "{what} was replaced by an entry");
        assert_eq!(fs::read(&aside).unwrap(), good, "{what}");
        assert_eq!(fetch(&KernelCache::at(dir.path())), Origin::Disk);
    }
    // A link in the place of a folder of entries.
    let (dir, entry) = filled();
    let (folder, aside) = (entry.parent().unwrap(), dir.path().join("aside"));
    fs::rename(folder, &aside).unwrap();
    symlink(&aside, folder).unwrap();
    let cache = KernelCache::at(dir.path());
    assert_eq!((fetch(&cache), cache.clear().unwrap()), (Origin::Built, 0));
    assert!(aside.join(entry.file_name().unwrap()).exists());
}

#[test]
fn what_writers_left_that_died_is_removed_and_what_is_being_written_is_not() {
    let (dir, entry) = filled();
    let folder = entry.parent().unwrap();
    let file = |name: &str, hours: u64| {
        let path = folder.join(name);
        let written = SystemTime::now() - Duration::from_secs(hours * 3600 + 60);
        File::create(&path).unwrap().set_modified(written).unwrap();
        path
    };
    let (old, new, other) = (file(".writing-old", 1), file(".writing-new", 0), file("notes", 9));
    let cache = KernelCache::at(dir.path());
    fetch(&cache);
    assert!(old.exists(), "a lookup writes nothing");
    cache.put(&key(), b"code");
    assert_eq!([old.exists(), new.exists(), other.exists()], [false, true, true]);
    let old = file(".writing-old", 1);
    assert_eq!(cache.clear().unwrap(), 1);
    assert_eq!([old.exists(), new.exists(), other.exists()], [false, true, true]);
}
