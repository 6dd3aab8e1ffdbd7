//! How workloads let themselves be spoken to (`security/v1/peer_authentication.proto`).

use std::collections::BTreeMap;

use super::{LabelSelector, Metadata, Untyped};

document! {
    /// A PeerAuthentication: whether connections to some workloads must be, may be or are not encrypted by the mesh.
    pub struct PeerAuthentication {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// What the operator asks for.
        pub spec: PeerAuthenticationSpec,
        /// What Istio reports; nothing here reads it.
        pub status: Option<Untyped>,
    }
}

message! {
    /// Which workloads, and how.
    pub struct PeerAuthenticationSpec {
        /// The workloads that it is for; absent or without labels = all of the namespace, in the root namespace all of the mesh.
        pub selector: Option<LabelSelector>,
        /// How; absent = as the wider one says.
        pub mtls: Option<MutualTls>,
        /// How for single ports of the workload (not of its Service); only looked at where there is a selector.
        pub port_level_mtls: BTreeMap<String, MutualTls>,
    }
}

message! {
    /// Mutual TLS.
    pub struct MutualTls {
        /// Whether it must be.
        pub mode: MutualTlsMode,
    }
}

words! {
    /// Whether connections must be encrypted by the mesh, both sides showing who they are.
    pub enum MutualTlsMode {
        /// As the wider one says; without any: `PERMISSIVE`.
        #[default]
        Unset = 0 as "UNSET",
        /// They are not.
        Disable = 1 as "DISABLE",
        /// They may be.
        Permissive = 2 as "PERMISSIVE",
        /// They must be.
        Strict = 3 as "STRICT",
    }
}
