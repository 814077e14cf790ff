//! Entities: `u32` handles into dense arenas, and maps keyed by them.
//!
//! Handles are `Copy` and cheap; side tables keyed by an entity replace fat nodes, so a pass keeps
//! what it learns beside the IR and not in it.

use std::fmt;
use std::marker::PhantomData;

/// A handle into an arena.
pub trait Entity: Copy + Eq + Ord + fmt::Debug {
    /// The handle of arena slot `index`.
    fn from_index(index: usize) -> Self;
    /// The arena slot.
    fn index(self) -> usize;
}

macro_rules! entity {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl Entity for $name {
            fn from_index(index: usize) -> Self {
                $name(u32::try_from(index).expect("an arena holds fewer than 2^32 entities"))
            }
            fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

entity! {
    /// An SSA value: an op's result or a block's parameter.
    Value, "%"
}
entity! {
    /// An op.
    Inst, "inst"
}
entity! {
    /// A block: parameters, ops in order, a `yield` (or `return`) at the end. Each region is one block.
    Block, "^"
}

/// A dense arena: allocates entities.
#[derive(Clone, Debug)]
pub struct Arena<K, V> {
    items: Vec<V>,
    key: PhantomData<K>,
}

impl<K: Entity, V> Arena<K, V> {
    /// An empty arena.
    pub fn new() -> Self {
        Arena { items: Vec::new(), key: PhantomData }
    }

    /// Adds an item and gives its handle.
    pub fn push(&mut self, item: V) -> K {
        self.items.push(item);
        K::from_index(self.items.len() - 1)
    }

    /// The number of items ever added.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether `key` was made by this arena (as far as can be told).
    pub fn contains(&self, key: K) -> bool {
        key.index() < self.items.len()
    }

    /// All handles in order of creation.
    pub fn keys(&self) -> impl Iterator<Item = K> + use<K, V> {
        (0..self.items.len()).map(K::from_index)
    }
}

impl<K: Entity, V> Default for Arena<K, V> {
    fn default() -> Self {
        Arena::new()
    }
}

impl<K: Entity, V> std::ops::Index<K> for Arena<K, V> {
    type Output = V;
    fn index(&self, key: K) -> &V {
        &self.items[key.index()]
    }
}

impl<K: Entity, V> std::ops::IndexMut<K> for Arena<K, V> {
    fn index_mut(&mut self, key: K) -> &mut V {
        &mut self.items[key.index()]
    }
}

/// A side table: what a pass knows about entities of an arena. Absent entries read as the default.
#[derive(Clone, Debug)]
pub struct SideTable<K, V> {
    items: Vec<V>,
    default: V,
    key: PhantomData<K>,
}

impl<K: Entity, V: Clone + Default> SideTable<K, V> {
    /// An empty table.
    pub fn new() -> Self {
        SideTable { items: Vec::new(), default: V::default(), key: PhantomData }
    }
}

impl<K: Entity, V: Clone + Default> Default for SideTable<K, V> {
    fn default() -> Self {
        SideTable::new()
    }
}

impl<K: Entity, V: Clone> std::ops::Index<K> for SideTable<K, V> {
    type Output = V;
    fn index(&self, key: K) -> &V {
        self.items.get(key.index()).unwrap_or(&self.default)
    }
}

impl<K: Entity, V: Clone> std::ops::IndexMut<K> for SideTable<K, V> {
    fn index_mut(&mut self, key: K) -> &mut V {
        if key.index() >= self.items.len() {
            self.items.resize(key.index() + 1, self.default.clone());
        }
        &mut self.items[key.index()]
    }
}
