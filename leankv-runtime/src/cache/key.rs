//! What determines compiled code, and its digest.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Everything that determines a kernel's compiled code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheKey {
    /// The tile IR, printed. Source locations are part of it: they reach the code's debug information.
    pub ir: String,
    /// Target and its features (`sm_90`, or a host CPU with its feature string).
    pub target: String,
    /// Version of the code generator (LLVM).
    pub llvm: String,
    /// Fingerprint of this compiler: its sources, not its version number, so a rebuilt compiler never meets old code.
    pub compiler: String,
    /// Every option that changes the output, printed.
    pub options: String,
}

/// SHA-256 of a [`CacheKey`]; shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl CacheKey {
    /// The digest under which a bundle holds it: without what the looker need not have, LLVM and the folder of the sources.
    pub fn bundle_digest(&self) -> Digest {
        let ir =
            self.ir.lines().flat_map(|line| [line.rsplit_once(" loc(\"").map_or(line, |(op, _)| op), "\n"]);
        CacheKey { ir: ir.collect(), llvm: String::new(), ..self.clone() }.digest()
    }

    /// The digest under which an entry is stored. Fields are length-prefixed: no two keys share their bytes.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        for field in [&self.ir, &self.target, &self.llvm, &self.compiler, &self.options] {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field.as_bytes());
        }
        Digest(hash.finalize().into())
    }
}

impl Digest {
    /// The digest of plain bytes.
    pub(crate) fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// The first 12 hexadecimal digits, for messages.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}
