//! Kubernetes' Service (`core/v1`), as far as routing looks.

use std::collections::BTreeMap;

use super::{IntOrString, Metadata, Untyped};

document! {
    /// A Service: a host, its ports, and the Pods behind it.
    pub struct Service {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// What the operator asks for.
        pub spec: ServiceSpec,
        /// What Kubernetes reports.
        pub status: Option<ServiceStatus>,
    }
}

message! {
    /// The ports of a Service, and the Pods behind it.
    #[serde(rename = "open:ServiceSpec")]
    pub struct ServiceSpec {
        /// Its ports.
        pub ports: Vec<ServicePort>,
        /// Labels that a Pod must carry, all of them; empty = endpoints are given by others.
        pub selector: BTreeMap<String, String>,
        /// Its virtual address, or `None` for a headless one; empty = not given out yet.
        #[serde(rename = "clusterIP")]
        pub cluster_ip: String,
        /// All its virtual addresses, the first equal to `cluster_ip`.
        #[serde(rename = "clusterIPs")]
        pub cluster_ips: Vec<String>,
        /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`; empty = `ClusterIP`.
        pub r#type: String,
        /// Addresses outside the cluster that lead to it too.
        #[serde(rename = "externalIPs")]
        pub external_ips: Vec<String>,
        /// `ClientIP` or `None`; empty = `None`.
        pub session_affinity: String,
        /// The host that it stands for, of the type `ExternalName`.
        pub external_name: String,
        /// Whether Pods that are not ready count as endpoints; absent = false.
        pub publish_not_ready_addresses: bool,
    }
}

message! {
    /// A port of a Service.
    #[serde(rename = "open:ServicePort")]
    pub struct ServicePort {
        /// Its name, which tells the protocol up to the first `-`; may be empty if it is the only one.
        pub name: String,
        /// `TCP`, `UDP` or `SCTP`; empty = `TCP`.
        pub protocol: String,
        /// The protocol above that, in place of what the name tells; empty = what the name tells.
        pub app_protocol: String,
        /// Its number.
        pub port: u16,
        /// The port of the Pods, by number or by name; absent = `port`.
        pub target_port: Option<IntOrString>,
        /// The port on every node; 0 = none.
        pub node_port: u16,
    }
}

message! {
    /// What Kubernetes reports of a Service.
    #[serde(rename = "open:ServiceStatus")]
    pub struct ServiceStatus {
        /// Where the load balancer outside the cluster is; absent = nowhere.
        pub load_balancer: Option<Untyped>,
    }
}
