//! How large a cache is.

use leankv_kernels::reference::PageShape;

use super::KvError;

/// Extents of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheShape {
    /// Requests that it holds at once.
    pub slots: usize,
    /// Layers of the model.
    pub layers: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Entries of a row of the page table: high and low pages of one (request, layer, KV head) together.
    pub table_len: usize,
    /// Pages of the arena.
    pub pages: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Tokens of a high and of a low page, for requests that say nothing else.
    pub tokens: [usize; 2],
}

impl CacheShape {
    /// Most requests, layers and KV heads, which is a limit of launch grids.
    pub const MAX_SLOTS: usize = 65_535;
    /// Longest row of the page table.
    pub const MAX_TABLE_LEN: usize = 1 << 20;

    /// (layer, KV head) pairs: pairs of lists that a request has.
    pub fn lists(&self) -> usize {
        self.layers * self.kv_heads
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.pages * self.page_bytes
    }

    pub(crate) fn page_shape(&self) -> PageShape {
        PageShape {
            slots: self.slots,
            lists: self.lists(),
            table_len: self.table_len,
            pages: self.pages,
            page_tokens: self.tokens,
        }
    }

    /// Checks the extents.
    ///
    /// # Errors
    /// [`KvError::Shape`], with what to change.
    pub fn check(&self) -> Result<(), KvError> {
        let wrong = |why: String| Err(KvError::Shape { why });
        let all = [self.slots, self.layers, self.kv_heads, self.table_len, self.pages, self.page_bytes];
        if all.contains(&0) || self.tokens.contains(&0) {
            return wrong("every extent is at least 1".to_owned());
        }
        if self.slots > CacheShape::MAX_SLOTS {
            return wrong(format!("{} slots; at most {} are possible", self.slots, CacheShape::MAX_SLOTS));
        }
        if self.table_len > CacheShape::MAX_TABLE_LEN {
            let most = CacheShape::MAX_TABLE_LEN;
            return wrong(format!(
                "a page table of {} entries a row; at most {most} are possible",
                self.table_len
            ));
        }
        let lists = self.layers.checked_mul(self.kv_heads).filter(|&lists| lists <= 1 << 20);
        if lists.is_none() {
            return wrong(format!(
                "{} layers of {} KV heads; at most 2^20 in all",
                self.layers, self.kv_heads
            ));
        }
        for (what, extent) in [("layers", self.layers), ("KV heads", self.kv_heads)] {
            if extent > CacheShape::MAX_SLOTS {
                return wrong(format!("{extent} {what}; at most {} are possible", CacheShape::MAX_SLOTS));
            }
        }
        if i32::try_from(self.pages).is_err() {
            return wrong(format!("{} pages; page numbers have 31 bits", self.pages));
        }
        if !self.page_bytes.is_multiple_of(16) {
            return wrong(format!("pages of {} bytes; a page is a multiple of 16 bytes", self.page_bytes));
        }
        super::size::check_bytes(self.bytes(), self, None)
    }
}
