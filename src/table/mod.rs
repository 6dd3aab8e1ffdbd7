//! Indexes: which routes of a table can hold for a request, without asking each of them.
//!
//! Answers with the smallest id that fully holds. Knows conditions and hosts; knows nothing of actions, clusters or
//! where a route came from, so that it can be tested, measured and replaced alone.
//!
//! Each route is filed once, under the one of its conditions that the fewest other routes share: an exact path, a
//! path prefix (a regex counts with the literal text that it begins with), a header's or parameter's exact value or its
//! beginning (likewise), an authority or method, or at least the presence of a header or parameter. Where many share even that, those
//! that do are filed among themselves by the next condition, and so on. What a key has proven is not tested again.
//!
//! A request is led through the table in the order of ids: a part of the table is looked at no sooner than the first
//! route in it is due, so that a request which an early route takes pays nothing for the later ones, and no look-up is
//! made that a plain scan up to the same route would not have paid for with a test of its own.

mod build;
mod chain;
mod hash;
mod host;
mod key;
mod search;
mod text;

pub(crate) use chain::ChainIndex;
pub(crate) use hash::FastMap;
pub(crate) use host::HostIndex;

use crate::plan::Rest;
use text::Packed;

/// The routes of one virtual host, found by what a request carries. Flat: everything of one kind stands together.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct RouteTable {
    root: Target,
    parts: Box<[Part]>,
    keys: Box<[Key]>,
    entries: Box<[Entry]>,
    /// The bytes of the keys that are too long to stand in a [`Key`].
    text: Box<[u8]>,
    /// The names of headers and parameters.
    names: Box<str>,
    /// What a route asks if nothing of it is known: only needed when a request finds too much.
    whole: Box<[Test]>,
}

/// A route, and what of its condition is not proven by the way that led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry {
    id: u32,
    test: Test,
}

/// The tests that are left for a route. Thousands of routes may share the same ones, of which the first stands for all,
/// so that a large table is not read from all over the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Test {
    /// The route that asks for them.
    pub(crate) of: u32,
    /// Which parts of its condition.
    pub(crate) rest: Rest,
}

/// Where a key leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Target {
    #[default]
    Nothing,
    One(Entry),
    /// A range of `entries`, in ascending order.
    Many(u32, u32),
    /// A range of `parts`, in ascending order of their first routes.
    Parts(u32, u32),
}

/// All routes that are filed under values of the same thing. A line of the cache holds one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[repr(align(64))]
struct Part {
    /// The smallest id in it.
    first: u32,
    look: Look,
    values: Values,
    /// What a value may begin with, of all lengths.
    starts: Values,
    /// How long these are: a bit for each length, the lowest for one byte.
    lengths: u64,
    /// Those that want nothing but a value, whichever.
    present: Target,
}

const _: () = assert!(size_of::<Part>() == 64 && size_of::<Key>() == 32);

/// What is looked at in the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Look {
    /// Nothing: its routes are candidates always.
    #[default]
    Always,
    ExactPath,
    /// The first bytes of the path, so many; `last` has a bit for each byte that some prefix of that length ends with.
    Prefix {
        len: u32,
        last: u64,
    },
    /// The lines of a header, one by one.
    Header(Span),
    /// A pseudo header, or one whose lines are joined.
    OneValue(Span),
    Query(Span),
    Authority,
    Method,
}

/// A piece of the texts or names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn of<T: std::ops::Index<std::ops::Range<usize>> + ?Sized>(self, texts: &T) -> &T::Output {
        &texts[self.start as usize..(self.start + self.len) as usize]
    }
}

/// Keys of one part, a range of `keys`: a few stand one after the other, many are a hash table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Values {
    start: u32,
    /// How many places there are: a power of two above [`FEW`] is a hash table, never more than three quarters full.
    len: u32,
}

/// A key, or a free place of a hash table. What is compared and what is found stand together, mostly. None lies across two
/// lines of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(align(32))]
struct Key {
    text: Packed,
    /// `Nothing` for a free place.
    target: Target,
}

/// Up to so many keys of a part are compared without hashing.
const FEW: usize = 4;
