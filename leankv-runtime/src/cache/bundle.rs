//! Pre-compiled kernels in one file, for production machines that must not compile.
//!
//! ```text
//! magic "LKVBUNDL" | format u32 | entries u32 | index SHA-256 32 | index | payloads
//! index entry: bundle digest of the key 32 | offset u64 | length u64 | payload SHA-256 32      (sorted by digest)
//! ```
//! Offsets count from the end of the index. All integers are little-endian.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::key::{CacheKey, Digest};

const MAGIC: &[u8; 8] = b"LKVBUNDL";
const FORMAT: u32 = 1;
const HEADER: usize = 8 + 4 + 4 + 32;
const INDEX_ENTRY: usize = 32 + 8 + 8 + 32;

/// Why a bundle could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file could not be read or written.
    #[error("bundle {}: {source}", path.display())]
    Io {
        /// The bundle's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not a whole bundle of this version.
    #[error("bundle {}: {why}; build it again with `leankv compile --bundle`", path.display())]
    Damaged {
        /// The bundle's path.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// An opened bundle: every entry was checked against its checksum.
#[derive(Debug)]
pub struct Bundle {
    bytes: Vec<u8>,
    index: BTreeMap<Digest, std::ops::Range<usize>>,
}

impl Bundle {
    /// Reads a bundle and checks all of it, so that a damaged file is found at start-up and not at a launch.
    ///
    /// # Errors
    /// The file cannot be read, or is not a whole bundle of this version.
    pub fn open(path: &Path) -> Result<Bundle, BundleError> {
        let bytes =
            std::fs::read(path).map_err(|source| BundleError::Io { path: path.to_owned(), source })?;
        let index = parse(&bytes).map_err(|why| BundleError::Damaged { path: path.to_owned(), why })?;
        Ok(Bundle { bytes, index })
    }

    /// How many kernels it holds.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether it holds no kernel.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The digests it holds, sorted.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.index.keys()
    }

    /// The bytes of the entry with this [digest](CacheKey::bundle_digest).
    pub fn get(&self, digest: &Digest) -> Option<&[u8]> {
        Some(&self.bytes[self.index.get(digest)?.clone()])
    }
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<Digest, std::ops::Range<usize>>, &'static str> {
    let header = bytes.get(..HEADER).ok_or("too short for a bundle")?;
    if &header[..8] != MAGIC {
        return Err("not a bundle");
    }
    if header[8..12] != FORMAT.to_le_bytes() {
        return Err("written in another format version");
    }
    let entries = u32::from_le_bytes(array(&header[12..16])) as usize;
    let payloads =
        entries.checked_mul(INDEX_ENTRY).and_then(|n| n.checked_add(HEADER)).ok_or("index too long")?;
    let index_bytes = bytes.get(HEADER..payloads).ok_or("truncated index")?;
    if header[16..48] != Digest::of(index_bytes).0 {
        return Err("index checksum mismatch");
    }
    let mut index = BTreeMap::new();
    for entry in index_bytes.chunks_exact(INDEX_ENTRY) {
        let place = |at: usize| usize::try_from(u64::from_le_bytes(array(&entry[at..at + 8]))).ok();
        let range = (|| {
            let start = payloads.checked_add(place(32)?)?;
            Some(start..start.checked_add(place(40)?)?)
        })()
        .ok_or("entry out of range")?;
        let payload = bytes.get(range.clone()).ok_or("truncated entry")?;
        if entry[48..80] != Digest::of(payload).0 {
            return Err("entry checksum mismatch");
        }
        index.insert(Digest(array(&entry[..32])), range);
    }
    Ok(index)
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

/// Collects entries and writes them as one bundle. The same entries give the same file.
#[derive(Clone, Debug, Default)]
pub struct BundleWriter {
    entries: BTreeMap<Digest, Vec<u8>>,
}

impl BundleWriter {
    /// An empty bundle.
    pub fn new() -> BundleWriter {
        BundleWriter::default()
    }

    /// Adds a kernel's bytes, replacing those of the same key.
    pub fn add(&mut self, key: &CacheKey, bytes: Vec<u8>) {
        self.entries.insert(key.bundle_digest(), bytes);
    }

    /// How many kernels were added.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none was added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes the bundle by atomic rename.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), BundleError> {
        self.write_inner(path).map_err(|source| BundleError::Io { path: path.to_owned(), source })
    }

    fn write_inner(&self, path: &Path) -> io::Result<()> {
        let mut index = Vec::with_capacity(self.entries.len() * INDEX_ENTRY);
        let mut offset = 0u64;
        for (digest, payload) in &self.entries {
            index.extend_from_slice(&digest.0);
            index.extend_from_slice(&offset.to_le_bytes());
            index.extend_from_slice(&(payload.len() as u64).to_le_bytes());
            index.extend_from_slice(&Digest::of(payload).0);
            offset += payload.len() as u64;
        }
        let entries = u32::try_from(self.entries.len()).map_err(io::Error::other)?;
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = crate::staged_in(dir)?;
        file.write_all(MAGIC)?;
        file.write_all(&FORMAT.to_le_bytes())?;
        file.write_all(&entries.to_le_bytes())?;
        file.write_all(&Digest::of(&index).0)?;
        file.write_all(&index)?;
        for payload in self.entries.values() {
            file.write_all(payload)?;
        }
        file.flush()?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    }
}
