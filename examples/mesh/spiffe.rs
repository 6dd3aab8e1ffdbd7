//! Names of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
//!
//! Knows how a name is written and read. Knows nothing of how it is proved.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The trust domain of this mesh: Istio's default.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// Who a workload is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub account: String,
}

impl Name {
    /// Reads a whole URI of this trust domain; `None`: it is none, or another domain's.
    pub fn parse(uri: &str) -> Option<Self> {
        let path = uri.strip_prefix("spiffe://")?.strip_prefix(TRUST_DOMAIN)?;
        let (namespace, account) = path.strip_prefix("/ns/")?.split_once("/sa/")?;
        let plain = |word: &str| !word.is_empty() && !word.contains('/');
        (plain(namespace) && plain(account)).then(|| Name { namespace: namespace.into(), account: account.into() })
    }

    /// As policies name it: without the scheme.
    pub fn principal(&self) -> String {
        format!("{TRUST_DOMAIN}/ns/{}/sa/{}", self.namespace, self.account)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.principal())
    }
}
