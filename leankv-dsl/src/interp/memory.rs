//! The memory that kernels run on: buffers of bytes that know which of them were ever written.

/// A buffer of a [`Memory`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BufferId(u32);

impl BufferId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Buffers by id. Their addresses are aligned to any power of two.
///
/// ```
/// let mut mem = leankv_dsl::interp::Memory::new();
/// let x = mem.alloc_bytes(&1.5f32.to_le_bytes());
/// let out = mem.alloc_uninit(4);
/// assert_eq!(mem.bytes(x).len(), 4);
/// assert!(!mem.is_initialised(out));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Memory {
    buffers: Vec<Buffer>,
}

#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    /// Whether each byte was written; `None` when all were.
    pub(crate) written: Option<Vec<bool>>,
}

impl Memory {
    /// No buffers.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// A buffer with this content.
    pub fn alloc_bytes(&mut self, bytes: &[u8]) -> BufferId {
        self.push(Buffer { bytes: bytes.to_vec(), written: None })
    }

    /// A buffer of `len` bytes that must be written before they are read.
    pub fn alloc_uninit(&mut self, len: usize) -> BufferId {
        self.push(Buffer { bytes: vec![0; len], written: Some(vec![false; len]) })
    }

    /// The buffer's bytes; those that were never written are 0.
    ///
    /// # Panics
    /// When `id` was made by another `Memory` that holds more buffers.
    pub fn bytes(&self, id: BufferId) -> &[u8] {
        &self.buffers[id.index()].bytes
    }

    /// The buffer's bytes, to change; this does not count as writing them (see [`Memory::write`]).
    ///
    /// # Panics
    /// As [`Memory::bytes`].
    pub fn bytes_mut(&mut self, id: BufferId) -> &mut [u8] {
        &mut self.buffers[id.index()].bytes
    }

    /// Writes bytes from `offset` on and marks them as written. Gives false, and writes nothing, when they do not fit.
    ///
    /// # Panics
    /// As [`Memory::bytes`].
    #[must_use]
    pub fn write(&mut self, id: BufferId, offset: usize, bytes: &[u8]) -> bool {
        let buffer = &mut self.buffers[id.index()];
        let Some(end) = offset.checked_add(bytes.len()).filter(|&end| end <= buffer.bytes.len()) else {
            return false;
        };
        buffer.bytes[offset..end].copy_from_slice(bytes);
        buffer.mark(offset, end);
        true
    }

    /// Whether all bytes of the buffer were written.
    ///
    /// # Panics
    /// As [`Memory::bytes`].
    pub fn is_initialised(&self, id: BufferId) -> bool {
        self.unwritten(id).is_none()
    }

    /// The first byte that was never written.
    ///
    /// # Panics
    /// As [`Memory::bytes`].
    pub fn unwritten(&self, id: BufferId) -> Option<usize> {
        self.buffers[id.index()].written.as_ref()?.iter().position(|&written| !written)
    }

    pub(crate) fn get(&self, id: BufferId) -> Option<&Buffer> {
        self.buffers.get(id.index())
    }

    pub(crate) fn get_mut(&mut self, id: BufferId) -> &mut Buffer {
        &mut self.buffers[id.index()]
    }

    pub(crate) fn len(&self) -> usize {
        self.buffers.len()
    }

    fn push(&mut self, buffer: Buffer) -> BufferId {
        let id = u32::try_from(self.buffers.len()).expect("fewer than 2^32 buffers fit into memory");
        self.buffers.push(buffer);
        BufferId(id)
    }
}

impl Buffer {
    /// Marks bytes as written.
    pub(crate) fn mark(&mut self, start: usize, end: usize) {
        if let Some(written) = &mut self.written {
            written[start..end].fill(true);
        }
    }
}
