//! A workload outside Kubernetes (`networking/v1alpha3/workload_entry.proto`).

use std::collections::BTreeMap;

use super::{Metadata, Untyped};

document! {
    /// A WorkloadEntry: a workload outside Kubernetes.
    pub struct WorkloadEntry {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// What the operator asks for.
        pub spec: WorkloadEntrySpec,
        /// What Istio reports; nothing here reads it.
        pub status: Option<Untyped>,
    }
}

message! {
    /// A workload; also an endpoint written inside a ServiceEntry.
    pub struct WorkloadEntrySpec {
        /// An IP address, a DNS name or a `unix://` path; empty = that of the `network`'s gateway.
        pub address: String,
        /// Its ports by the name of the service's port; a port left out = the service's target port.
        pub ports: BTreeMap<String, u32>,
        /// Its labels.
        pub labels: BTreeMap<String, String>,
        /// The network that it is in; empty = the client's.
        pub network: String,
        /// Where it is, `region/zone/subzone`; empty = not known.
        pub locality: String,
        /// Its share among the endpoints; 0 everywhere = even shares.
        pub weight: u32,
        /// The account whose identity it has, if it has a sidecar.
        pub service_account: String,
    }
}
