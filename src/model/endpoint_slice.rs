//! Kubernetes' EndpointSlice (`discovery.k8s.io/v1`), as far as routing looks.

use super::Metadata;
use super::endpoints::ObjectReference;

document! {
    /// An EndpointSlice: some of the addresses behind the Service that its label `kubernetes.io/service-name` names.
    pub struct EndpointSlice {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// `IPv4`, `IPv6` or `FQDN`.
        pub address_type: String,
        /// The endpoints.
        pub endpoints: Vec<Endpoint>,
        /// The ports that every endpoint has.
        pub ports: Vec<EndpointPort>,
    }
}

message! {
    /// An endpoint.
    #[serde(rename = "open:Endpoint")]
    pub struct Endpoint {
        /// Its addresses, which are interchangeable; only the first is used.
        pub addresses: Vec<String>,
        /// Its state; absent = ready.
        pub conditions: Option<EndpointConditions>,
        /// Its host name below the Service's; empty = none.
        pub hostname: String,
        /// What has the addresses, normally a Pod; absent = not known.
        pub target_ref: Option<ObjectReference>,
        /// The node that it is on; empty = not known.
        pub node_name: String,
        /// The zone that it is in; empty = not known.
        pub zone: String,
    }
}

message! {
    /// The state of an endpoint.
    #[serde(rename = "open:EndpointConditions")]
    pub struct EndpointConditions {
        /// Whether it takes traffic; absent = true.
        pub ready: Option<bool>,
        /// Whether it could, though it may be about to end; absent = as `ready`.
        pub serving: Option<bool>,
        /// Whether it is about to end; absent = false.
        pub terminating: Option<bool>,
    }
}

message! {
    /// A port of every endpoint.
    #[serde(rename = "open:EndpointPort")]
    pub struct EndpointPort {
        /// The name of the Service's port; absent or empty if that has none.
        pub name: Option<String>,
        /// Its number at the endpoint; absent = all ports.
        pub port: Option<u16>,
        /// `TCP`, `UDP` or `SCTP`; empty = `TCP`.
        pub protocol: String,
        /// The protocol above that; empty = what the Service says.
        pub app_protocol: String,
    }
}
