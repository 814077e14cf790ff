//! The kernel cache on disk: content-addressed, checksummed, single-flight, and never a reason for a launch to fail.
//!
//! The cache maps a [`CacheKey`] (everything that determines compiled code) to bytes. It knows nothing of the
//! compiler. Invariants:
//!
//! * An entry is found only under the SHA-256 of its whole key, so a change of IR, target, LLVM or options is a miss.
//! * An entry is used only if its own checksum holds. A damaged one is reported, removed and built again.
//! * Entries appear by atomic rename: a reader sees a whole entry or none, also after a crash.
//! * At any time at most one thread of a process builds a given key; the others wait for it.
//! * An I/O error (read-only or full folder) is counted and logged, and the freshly built bytes are returned.
//! * Entries are code that this process runs, so only what this user alone can have written is read: the folder is made with mode 0700, and one that
//!   another user owns or others can write is left alone, with a warning; kernels are then built in memory. Entries are regular files of the
//!   user's, opened without following a link, and of bounded size. Root is a user like any other here.
//!
//! Lookup order: bundles (see [`Bundle`]), then the folder, then the build function, unless the cache was told to
//! [`deny`](KernelCache::deny_jit) it.

mod bundle;
mod entry;
mod flight;
mod folder;
mod key;
/// What `flight` locks with; its test under every schedule (`tests/flight`) puts in another.
mod sync {
    pub(super) use std::sync::{Arc, Condvar, Mutex, MutexGuard};
}

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

pub use bundle::{Bundle, BundleError, BundleWriter};
pub use entry::Damage;
use flight::SingleFlight;
use folder::Refusal;
pub use key::{CacheKey, Digest};

/// The environment variable that moves the cache folder.
pub const CACHE_DIR_VARIABLE: &str = "LEANKV_CACHE_DIR";

/// Where a kernel's bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A pre-compiled bundle.
    Bundle,
    /// The cache folder.
    Disk,
    /// Another thread of this process that was building it.
    Shared,
    /// Built by this call.
    Built,
}

/// Bytes and where they came from.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The blob.
    pub bytes: Arc<[u8]>,
    /// Where it came from.
    pub origin: Origin,
}

/// What a cache has seen since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Entries served from a bundle.
    pub bundle_hits: u64,
    /// Entries served from the folder.
    pub disk_hits: u64,
    /// Entries served by waiting for another thread's build.
    pub shared: u64,
    /// Entries built.
    pub built: u64,
    /// Entries found damaged, removed and rebuilt.
    pub corrupt: u64,
    /// Reads and writes that failed; none of them failed a launch.
    pub io_errors: u64,
    /// Lookups and writes that were left out since another user owns the folder, or others can write it.
    pub distrusted: u64,
}

/// Why a lookup gave nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CacheError<E> {
    /// The entry is in no bundle and not in the folder, and building is not allowed here.
    #[error(
        "kernel {digest} is not pre-compiled and compiling at run time is denied; \
         ship it in a bundle (`leankv compile --bundle`) or allow compilation"
    )]
    Denied {
        /// The digest that was looked up.
        digest: Digest,
    },
    /// The build function failed.
    #[error(transparent)]
    Build(E),
}

/// A cache of compiled kernels. Cheap to share behind an [`Arc`]; every method takes `&self`.
#[derive(Debug)]
pub struct KernelCache {
    dir: Option<PathBuf>,
    bundles: RwLock<Vec<Arc<Bundle>>>,
    deny_jit: AtomicBool,
    /// Whether left-over files were looked for.
    swept: AtomicBool,
    flights: SingleFlight,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    bundle_hits: AtomicU64,
    disk_hits: AtomicU64,
    shared: AtomicU64,
    built: AtomicU64,
    corrupt: AtomicU64,
    io_errors: AtomicU64,
    distrusted: AtomicU64,
}

impl KernelCache {
    /// A cache in a folder of the caller's choice. The folder is created on the first write.
    pub fn at(dir: impl Into<PathBuf>) -> KernelCache {
        KernelCache::new(Some(dir.into()))
    }

    /// A cache that keeps nothing on disk: single-flight and bundles only.
    pub fn without_folder() -> KernelCache {
        KernelCache::new(None)
    }

    /// The cache in the user's [folder](user_cache_dir), on disk only if there is one.
    pub fn user() -> KernelCache {
        KernelCache::new(user_cache_dir())
    }

    fn new(dir: Option<PathBuf>) -> KernelCache {
        KernelCache {
            dir,
            bundles: RwLock::default(),
            deny_jit: AtomicBool::new(false),
            swept: AtomicBool::new(false),
            flights: SingleFlight::default(),
            counters: Counters::default(),
        }
    }

    /// The folder, if this cache has one.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// Forbids (or allows again) building on a miss. Production sets this: a launch then never waits for a compiler.
    pub fn deny_jit(&self, deny: bool) {
        self.deny_jit.store(deny, Ordering::Relaxed);
    }

    /// Whether building on a miss is forbidden.
    pub fn jit_denied(&self) -> bool {
        self.deny_jit.load(Ordering::Relaxed)
    }

    /// Adds a pre-compiled bundle. Bundles are asked in the order they were added, before the folder.
    pub fn add_bundle(&self, bundle: Bundle) {
        self.bundles.write().unwrap_or_else(|e| e.into_inner()).push(Arc::new(bundle));
    }

    /// What this cache has seen so far.
    pub fn stats(&self) -> CacheStats {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        CacheStats {
            bundle_hits: get(&self.counters.bundle_hits),
            disk_hits: get(&self.counters.disk_hits),
            shared: get(&self.counters.shared),
            built: get(&self.counters.built),
            corrupt: get(&self.counters.corrupt),
            io_errors: get(&self.counters.io_errors),
            distrusted: get(&self.counters.distrusted),
        }
    }

    /// Where the entry of `digest` lies, if this cache has a folder. The file need not exist.
    pub fn path_of(&self, digest: &Digest) -> Option<PathBuf> {
        Some(entry::path(self.dir.as_deref()?, digest))
    }

    /// The bytes of `key`, from a bundle, the folder, another thread, or `build`.
    ///
    /// `usable` is asked about stored bytes whose checksum holds; answering `false` (an older format inside, say)
    /// makes them count as damaged, so they are removed and built again.
    ///
    /// # Errors
    /// [`CacheError::Build`] with the error of `build`; [`CacheError::Denied`] on a miss when building is denied.
    /// Never an I/O error. A failed build is not remembered: the next caller builds again.
    pub fn get_or_build<E>(
        &self,
        key: &CacheKey,
        usable: impl Fn(&[u8]) -> bool,
        build: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Fetched, CacheError<E>> {
        let digest = key.digest();
        if let Some(hit) = self.find(key, &digest, &usable) {
            return Ok(hit);
        }
        if self.jit_denied() {
            return Err(CacheError::Denied { digest });
        }
        let flight = match self.flights.join(digest) {
            flight::Role::Waited(bytes) => {
                count(&self.counters.shared);
                return Ok(Fetched { bytes, origin: Origin::Shared });
            }
            flight::Role::Leader(flight) => flight,
        };
        // Between the miss above and taking the lead, another thread may have finished and stored the entry.
        if let Some(hit) = self.on_disk(&digest, &usable) {
            flight.finish(hit.bytes.clone());
            return Ok(hit);
        }
        let bytes: Arc<[u8]> = build().map_err(CacheError::Build)?.into();
        count(&self.counters.built);
        self.store(&digest, &bytes);
        flight.finish(bytes.clone());
        Ok(Fetched { bytes, origin: Origin::Built })
    }

    /// The stored bytes of `key`, without building.
    pub fn get(&self, key: &CacheKey, usable: impl Fn(&[u8]) -> bool) -> Option<Fetched> {
        self.find(key, &key.digest(), &usable)
    }

    fn find(&self, key: &CacheKey, digest: &Digest, usable: &impl Fn(&[u8]) -> bool) -> Option<Fetched> {
        let bundles = self.bundles.read().unwrap_or_else(|e| e.into_inner()).clone();
        if !bundles.is_empty() {
            let digest = key.bundle_digest();
            let found = bundles.iter().find_map(|bundle| bundle.get(&digest).filter(|bytes| usable(bytes)));
            if let Some(bytes) = found {
                count(&self.counters.bundle_hits);
                return Some(Fetched { bytes: bytes.into(), origin: Origin::Bundle });
            }
        }
        self.on_disk(digest, usable)
    }

    /// Writes `bytes` under `key`, replacing what is there. An I/O error is counted and logged only.
    pub fn put(&self, key: &CacheKey, bytes: &[u8]) {
        self.store(&key.digest(), bytes);
    }

    /// Removes every entry of the folder. Files that are not entries stay.
    ///
    /// # Errors
    /// The first file or folder that could not be listed or removed, and a folder that is not this user's alone.
    pub fn clear(&self) -> std::io::Result<u64> {
        let Some(dir) = &self.dir else { return Ok(0) };
        match folder::trusted(dir, dir) {
            Ok(true) => entry::clear(dir),
            Ok(false) => Ok(0),
            Err(Refusal::Io(error)) => Err(error),
            Err(Refusal::Distrust(why)) => {
                let text = format!("the kernel cache in {} is not cleared: {why}", dir.display());
                Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, text))
            }
        }
    }

    fn on_disk(&self, digest: &Digest, usable: &impl Fn(&[u8]) -> bool) -> Option<Fetched> {
        let (dir, path) = (self.dir.as_deref()?, self.path_of(digest)?);
        match folder::trusted(dir, path.parent()?) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(refusal) => {
                self.refused("read", &path, refusal);
                return None;
            }
        }
        let damage = match entry::read(&path, digest) {
            Ok(None) => return None,
            Ok(Some(bytes)) if usable(&bytes) => {
                count(&self.counters.disk_hits);
                return Some(Fetched { bytes: bytes.into(), origin: Origin::Disk });
            }
            Ok(Some(_)) => Damage::Contents,
            Err(entry::ReadError::Damaged(damage)) => damage,
            Err(entry::ReadError::Io(error)) => {
                self.io_error("read", &path, &error);
                return None;
            }
        };
        count(&self.counters.corrupt);
        tracing::warn!(path = %path.display(), %damage, "kernel cache entry is damaged; it is removed and built again");
        if let Err(error) = std::fs::remove_file(&path) {
            self.io_error("remove", &path, &error);
        }
        None
    }

    fn store(&self, digest: &Digest, bytes: &[u8]) {
        let (Some(dir), Some(path)) = (self.dir.as_deref(), self.path_of(digest)) else { return };
        let Some(of_entry) = path.parent() else { return };
        if let Err(refusal) = folder::make(dir, of_entry) {
            return self.refused("write", &path, refusal);
        }
        if !self.swept.swap(true, Ordering::Relaxed)
            && let Err(error) = entry::sweep(dir)
        {
            self.io_error("remove", dir, &error);
        }
        if let Err(error) = entry::write(&path, digest, bytes) {
            self.io_error("write", &path, &error);
        }
    }

    fn refused(&self, what: &str, path: &Path, refusal: Refusal) {
        let why = match refusal {
            Refusal::Io(error) if error.kind() == std::io::ErrorKind::NotADirectory && what == "read" => {
                return;
            }
            Refusal::Io(error) => return self.io_error(what, path, &error),
            Refusal::Distrust(why) => why,
        };
        if self.counters.distrusted.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(path = %path.display(), %why, "the folder of the kernel cache is not this user's alone; kernels are built in memory");
        }
    }

    fn io_error(&self, what: &str, path: &Path, error: &std::io::Error) {
        // One warning a cache: a full disk would otherwise repeat itself at every launch.
        if self.counters.io_errors.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(path = %path.display(), %error, "kernel cache could not {what} an entry; going on without it");
        } else {
            tracing::debug!(path = %path.display(), %error, "kernel cache could not {what} an entry");
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The user's cache folder: `$LEANKV_CACHE_DIR`, else `$XDG_CACHE_HOME/leankv`, else `$HOME/.cache/leankv`, else none.
pub fn user_cache_dir() -> Option<PathBuf> {
    user_dir(|name| std::env::var_os(name))
}

fn user_dir(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set(CACHE_DIR_VARIABLE)
        .or_else(|| set("XDG_CACHE_HOME").map(|d| d.join("leankv")))
        .or_else(|| set("HOME").map(|d| d.join(".cache").join("leankv")))
}

#[cfg(all(test, unix))]
mod folder_tests;
#[cfg(test)]
mod tests;
