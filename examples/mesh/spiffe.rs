//! Names of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
//!
//! Knows how a name is written and read. Knows nothing of how it is proved.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The trust domain of this mesh: Istio's default.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// What a name begins with; policies leave it out.
const SCHEME: &str = "spiffe://";

/// Who a workload is: the whole URI, written once and shared by all who repeat it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name(Arc<str>);

impl Name {
    /// The name of a service account.
    pub fn new(namespace: &str, account: &str) -> Self {
        Name(format!("{SCHEME}{TRUST_DOMAIN}/ns/{namespace}/sa/{account}").into())
    }

    /// Reads a whole URI of this trust domain; `None`: it is none, or another domain's.
    pub fn parse(uri: &str) -> Option<Self> {
        let path = uri.strip_prefix(SCHEME)?.strip_prefix(TRUST_DOMAIN)?;
        let (namespace, account) = path.strip_prefix("/ns/")?.split_once("/sa/")?;
        let plain = |word: &str| !word.is_empty() && !word.contains('/');
        (plain(namespace) && plain(account)).then(|| Name(uri.into()))
    }

    /// The URI.
    pub fn uri(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// As policies name it: without the scheme.
    pub fn principal(&self) -> &str {
        self.0.strip_prefix(SCHEME).unwrap_or(&self.0)
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        let path = self.0.split_once("/ns/").map_or("", |(_, path)| path);
        path.split_once("/sa/").map_or(path, |(namespace, _)| namespace)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
