//! Kubernetes' Pod (`core/v1`), as far as routing and a mesh look.

use super::{Metadata, Untyped};

document! {
    /// A Pod: a workload with an address.
    pub struct Pod {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// What the operator asks for.
        pub spec: PodSpec,
        /// What Kubernetes reports.
        pub status: Option<PodStatus>,
    }
}

message! {
    /// What runs in a Pod, and where.
    #[serde(rename = "open:PodSpec")]
    pub struct PodSpec {
        /// Its containers.
        pub containers: Vec<Container>,
        /// The account whose identity it has; empty = `default`.
        pub service_account_name: String,
        /// The node that it runs on; empty = none yet.
        pub node_name: String,
        /// Whether it shares the node's network; absent = false.
        pub host_network: bool,
        /// Its host name; empty = its name.
        pub hostname: String,
        /// The headless Service under which its host name is found; empty = none.
        pub subdomain: String,
    }
}

message! {
    /// A container.
    #[serde(rename = "open:Container")]
    pub struct Container {
        /// Its name.
        pub name: String,
        /// Its image.
        pub image: String,
        /// The program; empty = the image's.
        pub command: Vec<String>,
        /// The program's arguments; empty = the image's.
        pub args: Vec<String>,
        /// The ports that it listens to, as far as they are told.
        pub ports: Vec<ContainerPort>,
        /// The program's environment.
        pub env: Vec<Untyped>,
        /// What is run after its start and before its end.
        pub lifecycle: Option<Untyped>,
    }
}

message! {
    /// A port of a container.
    #[serde(rename = "open:ContainerPort")]
    pub struct ContainerPort {
        /// Its name, which a Service's target port may use; empty = none.
        pub name: String,
        /// Its number.
        pub container_port: u16,
        /// `TCP`, `UDP` or `SCTP`; empty = `TCP`.
        pub protocol: String,
    }
}

message! {
    /// What Kubernetes reports of a Pod.
    #[serde(rename = "open:PodStatus")]
    pub struct PodStatus {
        /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`; empty = not known.
        pub phase: String,
        /// Whether it is ready, among other things.
        pub conditions: Vec<PodCondition>,
        /// Its address; empty = none yet.
        #[serde(rename = "podIP")]
        pub pod_ip: String,
        /// All its addresses, the first equal to `pod_ip`.
        #[serde(rename = "podIPs")]
        pub pod_ips: Vec<PodIp>,
    }
}

message! {
    /// One thing that is true of a Pod, or not.
    #[serde(rename = "open:PodCondition")]
    pub struct PodCondition {
        /// What: `Ready`, `PodScheduled` and so on.
        pub r#type: String,
        /// `True`, `False` or `Unknown`.
        pub status: String,
    }
}

message! {
    /// An address of a Pod.
    #[serde(rename = "open:PodIP")]
    pub struct PodIp {
        /// The address.
        pub ip: String,
    }
}
