//! Kubernetes' Endpoints (`core/v1`), the older form of [EndpointSlice](super::EndpointSlice).

use super::Metadata;

document! {
    /// An Endpoints: the addresses behind the Service of the same name.
    pub struct Endpoints {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// Addresses, grouped by the ports that they have in common.
        pub subsets: Vec<EndpointSubset>,
    }
}

message! {
    /// Addresses with the same ports.
    #[serde(rename = "open:EndpointSubset")]
    pub struct EndpointSubset {
        /// Addresses that are ready.
        pub addresses: Vec<EndpointAddress>,
        /// Addresses that are not.
        pub not_ready_addresses: Vec<EndpointAddress>,
        /// Their ports.
        pub ports: Vec<EndpointPort>,
    }
}

message! {
    /// An address.
    #[serde(rename = "open:EndpointAddress")]
    pub struct EndpointAddress {
        /// The address itself.
        pub ip: String,
        /// Its host name below the Service's; empty = none.
        pub hostname: String,
        /// The node that it is on; empty = not known.
        pub node_name: String,
        /// What has the address, normally a Pod; absent = not known.
        pub target_ref: Option<ObjectReference>,
    }
}

message! {
    /// A resource that another one points at.
    #[serde(rename = "open:ObjectReference")]
    pub struct ObjectReference {
        /// Its kind.
        pub kind: String,
        /// Its namespace.
        pub namespace: String,
        /// Its name.
        pub name: String,
    }
}

message! {
    /// A port of every address of a group.
    #[serde(rename = "open:EndpointPort")]
    pub struct EndpointPort {
        /// The name of the Service's port; empty if that has none.
        pub name: String,
        /// Its number at the address.
        pub port: u16,
        /// `TCP`, `UDP` or `SCTP`; empty = `TCP`.
        pub protocol: String,
        /// The protocol above that; empty = what the Service says.
        pub app_protocol: String,
    }
}
