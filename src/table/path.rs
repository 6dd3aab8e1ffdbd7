//! Which prefixes a path begins with.

use super::{Bucket, FastMap, Found};

/// Routes by path prefix: one hash look-up for each length that occurs.
#[derive(Debug, Default)]
pub(super) struct PrefixIndex {
    buckets: FastMap<Box<[u8]>, Bucket>,
    lengths: Vec<usize>,
}

impl PrefixIndex {
    /// Files a route under a prefix.
    pub(super) fn insert(&mut self, prefix: &[u8], id: u32) {
        self.buckets.entry(prefix.into()).or_default().push(id);
    }

    /// To be called once, after the last insertion.
    pub(super) fn seal(&mut self) {
        self.lengths = self.buckets.keys().map(|prefix| prefix.len()).collect();
        self.lengths.sort_unstable();
        self.lengths.dedup();
        if cfg!(meshroute_fault = "path") {
            self.lengths.pop();
        }
    }

    /// Adds the buckets of all prefixes of a path.
    pub(super) fn find<'t>(&'t self, path: &[u8], found: &mut Found<'t>) {
        for &length in &self.lengths {
            let Some(prefix) = path.get(..length) else { break };
            if let Some(bucket) = self.buckets.get(prefix) {
                found.push(bucket);
            }
        }
    }
}
