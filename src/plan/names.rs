//! What DNS would answer to a client.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

type Known = BTreeMap<Arc<str>, Arc<[IpAddr]>>;

/// Host names in lower case, short ones included, with their addresses. Copies share what they have in common.
///
/// ```
/// use meshroute::plan::Names;
/// let mut names = Names::default();
/// names.insert("web", vec![[10, 0, 0, 1].into()]);
/// assert_eq!(names.find("web").len(), 1);
/// assert!(names.find("nobody").is_empty());
/// ```
#[derive(Clone, Default)]
pub struct Names {
    all: Arc<Known>,
    /// What was told of some names since; without an address: nobody has it any more.
    since: Arc<Known>,
}

impl Names {
    /// The addresses of a name; none where there is no such name.
    pub fn find(&self, name: &str) -> &[IpAddr] {
        self.since.get(name).or_else(|| self.all.get(name)).map_or(&[], |addresses| addresses)
    }

    /// Tells what a name stands for from now on; without an address: for nobody.
    pub fn insert(&mut self, name: impl Into<Arc<str>>, addresses: impl Into<Arc<[IpAddr]>>) {
        Arc::make_mut(&mut self.since).insert(name.into(), addresses.into());
        if self.since.len() > 64 + self.all.len() / 16 {
            *self = self.iter().map(|(name, addresses)| (name.clone(), addresses.clone())).collect();
        }
    }

    /// All names that have addresses; their order is that of the alphabet.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<[IpAddr]>)> {
        let (mut all, mut since) = (self.all.iter().peekable(), self.since.iter().peekable());
        let next = move || match (all.peek(), since.peek()) {
            (Some(known), Some(told)) if known.0 < told.0 => all.next(),
            (Some(known), Some(told)) if known.0 == told.0 => {
                all.next();
                since.next()
            }
            (_, Some(_)) => since.next(),
            (_, None) => all.next(),
        };
        std::iter::from_fn(next).filter(|(_, addresses)| !addresses.is_empty())
    }

    /// Whether two share what they know, so that it is the same.
    pub fn is_shared_with(&self, other: &Names) -> bool {
        Arc::ptr_eq(&self.all, &other.all) && Arc::ptr_eq(&self.since, &other.since)
    }
}

impl<A: Into<Arc<[IpAddr]>>> FromIterator<(Arc<str>, A)> for Names {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, A)>>(known: I) -> Self {
        let known = known.into_iter().map(|(name, addresses)| (name, addresses.into()));
        Names { all: Arc::new(known.collect()), since: Arc::default() }
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        self.is_shared_with(other) || self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(BTreeMap::<Arc<str>, Vec<IpAddr>>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(known: &[(&str, u8)]) -> Names {
        known.iter().map(|&(name, last)| (Arc::from(name), vec![IpAddr::from([10, 0, 0, last])])).collect()
    }

    #[test]
    fn what_was_told_last_holds() {
        let before = names(&[("a", 1), ("b", 2), ("d", 4)]);
        let mut after = before.clone();
        after.insert("a", vec![]);
        after.insert("b", vec![[10, 0, 0, 9].into()]);
        after.insert("c", vec![[10, 0, 0, 3].into()]);
        assert_eq!(after, names(&[("b", 9), ("c", 3), ("d", 4)]));
        assert_eq!(before, names(&[("a", 1), ("b", 2), ("d", 4)]));
        assert_eq!((after.find("a").len(), after.find("b")[0]), (0, [10, 0, 0, 9].into()));
        assert!(after.is_shared_with(&after.clone()) && !after.is_shared_with(&before));
    }

    #[test]
    fn much_that_was_told_is_put_in_its_place() {
        let mut told = names(&[("a", 1)]);
        (0..200u8).for_each(|n| told.insert(format!("n{n:03}"), vec![[10, 0, 1, n].into()]));
        assert_eq!(told.iter().count(), 201);
        assert!((0..200u8).all(|n| told.find(&format!("n{n:03}")) == [IpAddr::from([10, 0, 1, n])]));
    }
}
