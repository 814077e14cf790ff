//! What a construct only mentions: variables behind which something may change that no assignment shows.

use proc_macro2::Ident;
use syn::punctuated::Punctuated;
use syn::{Expr, Token};

use super::scope::{Change, Place};
use super::walk::{Scan, Walker};

/// A variable that a construct mentions.
pub(super) struct Seen {
    pub(super) name: Ident,
    pub(super) id: usize,
    /// The construct has turns, or stands in a loop that the variable is declared outside of.
    pub(super) turns: bool,
}

/// What a construct mentions, until it is known what is mentioned later.
struct Closed {
    index: usize,
    /// The number of mentions when it ended.
    end: usize,
    seen: Vec<Seen>,
}

/// All mentions, in order.
#[derive(Default)]
pub(super) struct Mentions {
    count: usize,
    /// The last mention of each binding, by id.
    last: Vec<usize>,
    closed: Vec<Closed>,
}

impl Mentions {
    fn add(&mut self, id: usize) {
        self.count += 1;
        self.last.resize(self.last.len().max(id + 1), 0);
        self.last[id] = self.count;
    }

    /// Ends construct number `index`.
    pub(super) fn close(&mut self, index: usize, seen: Vec<Seen>) {
        self.closed.push(Closed { index, end: self.count, seen });
    }

    /// Gives each construct the variables that are still there after it.
    fn finish(self, scan: &mut Scan) {
        for closed in self.closed {
            let used_later = |seen: &Seen| seen.turns || self.last[seen.id] > closed.end;
            scan.constructs[closed.index].seen =
                closed.seen.into_iter().filter(used_later).map(|seen| seen.name).collect();
        }
    }
}

impl Walker<'_> {
    /// The scan, with each construct's mentions.
    pub(super) fn finish(mut self) -> Scan {
        self.mentions.finish(&mut self.scan);
        self.scan
    }

    /// Notes that a name is mentioned. `reads`: by a borrow, so that it is still there afterwards.
    pub(super) fn mentioned(&mut self, name: &Ident, reads: bool) {
        let Some(place) = self.scopes.find(name) else { return };
        self.mentioned_at(name, place, reads);
        for (name, place) in self.scopes.get(place).brings.clone() {
            // A closure that changes a variable in sight is called through a `mut` name, which is a candidate of its own.
            if self.scopes.find(&name) == Some(place) && self.scopes.get(place).change == Change::Fixed {
                self.mentioned_at(&name, place, true);
            }
        }
    }

    fn mentioned_at(&mut self, name: &Ident, place: Place, reads: bool) {
        let binding = self.scopes.get(place);
        let (id, skip) = (binding.id, binding.plain || binding.unset);
        // A variable that can be assigned may be moved away and get a new value.
        let may_move = binding.change == Change::Mut && !reads;
        self.mentions.add(id);
        if skip || may_move {
            return;
        }
        let turns = self.loops.iter().any(|&depth| place.0 < depth);
        for open in &mut self.open {
            if place.0 < open.depth {
                open.seen.entry(place).or_insert_with(|| Seen { name: name.clone(), id, turns });
            }
        }
    }

    /// Variables that are passed on and hold a `&mut`: what they point to may change.
    pub(super) fn passes(&mut self, args: &Punctuated<Expr, Token![,]>) {
        for arg in args {
            let Expr::Path(path) = arg else { continue };
            let Some(name) = path.path.get_ident() else { continue };
            if self.scopes.find(name).is_some_and(|place| self.scopes.get(place).change == Change::Ref) {
                self.changes(name, false, false);
            }
        }
    }

    /// A call of a macro that the function defines may change what the macro names.
    pub(super) fn local_macro(&mut self, mac: &Ident) {
        let Some(place) = self.scopes.find_macro(mac) else { return };
        for (name, place) in self.scopes.get(place).brings.clone() {
            if self.scopes.find(&name) == Some(place) {
                self.changes(&name, false, false);
                self.mentioned(&name, true);
            } else if !self.open.is_empty() && self.scopes.get(place).change != Change::Fixed {
                self.errors.on(
                    mac,
                    format!(
                        "this macro changes `{name}`, and another variable of that name is in scope here\n\
                         help: give one of the two another name, so that a loop or branch can carry the right one"
                    ),
                );
            }
        }
    }
}
