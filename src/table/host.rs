//! Which virtual host claims a name.

use super::FastMap;
use crate::name::HostPattern;

/// Virtual hosts by domain: exact, then the longest wildcard, then `*`.
#[derive(Debug, Default)]
pub(crate) struct HostIndex {
    exact: FastMap<Box<[u8]>, u32>,
    suffixes: FastMap<Box<[u8]>, u32>,
    /// The lengths of the suffixes that occur, longest first.
    lengths: Vec<usize>,
    any: Option<u32>,
}

impl HostIndex {
    /// Gives a domain (in lower case) to a virtual host. The first one to claim a domain keeps it.
    pub(crate) fn insert(&mut self, domain: &HostPattern, id: u32) {
        let suffix = domain.suffix().as_bytes();
        if !domain.is_wildcard() {
            self.exact.entry(suffix.into()).or_insert(id);
        } else if suffix.is_empty() {
            self.any.get_or_insert(id);
        } else {
            self.suffixes.entry(suffix.into()).or_insert(id);
            let at = self.lengths.partition_point(|&length| length > suffix.len());
            if self.lengths.get(at) != Some(&suffix.len()) {
                self.lengths.insert(at, suffix.len());
            }
        }
    }

    /// The virtual host that claims this very name.
    pub(crate) fn exact(&self, host: &str) -> Option<u32> {
        self.exact.get(host.as_bytes()).copied()
    }

    /// The virtual host that claims a name (in lower case, without port).
    pub(crate) fn find(&self, host: &[u8]) -> Option<u32> {
        self.exact.get(host).copied().or_else(|| self.wildcard(host)).or(self.any)
    }

    fn wildcard(&self, host: &[u8]) -> Option<u32> {
        let fault = usize::from(cfg!(meshroute_fault = "host"));
        // `*` stands for at least one byte (Envoy).
        let shorter = self.lengths.iter().skip(fault).filter(|&&length| length < host.len());
        shorter.filter_map(|&length| self.suffixes.get(&host[host.len() - length..])).copied().next()
    }
}
