//! Tables of live objects.
//!
//! A handle is a number that is given out once: a stale or foreign one is never found, so it is an error code and not
//! a crash.

use std::collections::BTreeMap;

use crate::code::{Code, Fail, Res};

/// Number of an object.
pub(crate) type Id = u64;

/// Gives out numbers. They look like addresses in a range that no program maps, and 0, 1 and 2 (the special streams)
/// are not among them.
#[derive(Debug)]
pub(crate) struct Serial(u64);

impl Serial {
    pub(crate) fn new() -> Serial {
        Serial(0x5C00_0000_0000_0000)
    }

    pub(crate) fn next(&mut self) -> Id {
        self.0 += 16;
        self.0
    }
}

/// Live objects of one sort.
#[derive(Debug)]
pub(crate) struct Table<T> {
    what: &'static str,
    live: BTreeMap<Id, T>,
}

impl<T> Table<T> {
    /// `what` names the sort in messages, with its article.
    pub(crate) fn new(what: &'static str) -> Table<T> {
        Table { what, live: BTreeMap::new() }
    }

    pub(crate) fn insert(&mut self, id: Id, value: T) {
        self.live.insert(id, value);
    }

    fn missing(&self, id: Id) -> Fail {
        Fail::new(Code::InvalidHandle, format!("0x{id:x} is not {} (any more)", self.what))
    }

    pub(crate) fn get(&self, id: Id) -> Res<&T> {
        self.live.get(&id).ok_or_else(|| self.missing(id))
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> Res<&mut T> {
        if !self.live.contains_key(&id) {
            return Err(self.missing(id));
        }
        Ok(self.live.get_mut(&id).expect("internal error: a key was just seen"))
    }

    pub(crate) fn find(&self, id: Id) -> Option<&T> {
        self.live.get(&id)
    }

    pub(crate) fn find_mut(&mut self, id: Id) -> Option<&mut T> {
        self.live.get_mut(&id)
    }

    pub(crate) fn remove(&mut self, id: Id) -> Res<T> {
        self.live.remove(&id).ok_or_else(|| self.missing(id))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.live.iter().map(|(id, value)| (*id, value))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Id, &mut T)> {
        self.live.iter_mut().map(|(id, value)| (*id, value))
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&Id, &mut T) -> bool) {
        self.live.retain(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_never_given_out_twice() {
        let mut serial = Serial::new();
        let mut table = Table::new("a stream");
        let first = serial.next();
        table.insert(first, 1);
        assert_eq!(table.remove(first).unwrap(), 1);
        let second = serial.next();
        table.insert(second, 2);
        assert_ne!(first, second);
        let stale = table.get(first).unwrap_err();
        assert_eq!(stale.code, Code::InvalidHandle);
        assert!(stale.why.ends_with("is not a stream (any more)"), "{}", stale.why);
    }
}
