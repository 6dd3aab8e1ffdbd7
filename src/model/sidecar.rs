//! What a workload's proxy takes in and can reach (`networking/v1alpha3/sidecar.proto`).

use std::collections::BTreeMap;

use super::destination_rule::ConnectionPoolSettings;
use super::gateway::ServerTlsSettings;
use super::virtual_service::Destination;
use super::{Metadata, Untyped};

document! {
    /// A Sidecar: the listeners of a workload's proxy, and the services it knows.
    pub struct Sidecar {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// What the operator asks for.
        pub spec: SidecarSpec,
        /// What Istio reports; nothing here reads it.
        pub status: Option<Untyped>,
    }
}

message! {
    /// The listeners of a workload's proxy.
    pub struct SidecarSpec {
        /// The workloads that it is for; absent = all of the namespace.
        pub workload_selector: Option<WorkloadSelector>,
        /// The inbound listeners; empty = from the workload's services.
        pub ingress: Vec<IstioIngressListener>,
        /// The outbound listeners; empty = everything that is visible, `*/*`.
        pub egress: Vec<IstioEgressListener>,
        /// Limits on inbound connections; absent = those of the DestinationRule.
        pub inbound_connection_pool: Option<ConnectionPoolSettings>,
        /// What becomes of traffic to unknown hosts; absent = the mesh's setting, `ALLOW_ANY`.
        pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    }
}

message! {
    /// An inbound listener.
    pub struct IstioIngressListener {
        /// The port; required.
        pub port: Option<SidecarPort>,
        /// The address to listen at; empty = all addresses.
        pub bind: String,
        /// How traffic comes to the listener; absent = `DEFAULT`.
        pub capture_mode: CaptureMode,
        /// Where traffic goes on to: `127.0.0.1:port`, `0.0.0.0:port` or `unix://` path; empty = the port it came to.
        pub default_endpoint: String,
        /// TLS towards the client; absent = the mesh's.
        pub tls: Option<ServerTlsSettings>,
        /// Limits on connections, in place of `inbound_connection_pool`.
        pub connection_pool: Option<ConnectionPoolSettings>,
    }
}

message! {
    /// An outbound listener.
    pub struct IstioEgressListener {
        /// The port; absent = all that no other listener has.
        pub port: Option<SidecarPort>,
        /// The address to listen at; empty = those of the services.
        pub bind: String,
        /// How traffic comes to the listener; absent = `DEFAULT`.
        pub capture_mode: CaptureMode,
        /// The services that it knows, `namespace/host`; `~` before the namespace excludes; required.
        pub hosts: Vec<String>,
    }
}

message! {
    /// Workloads by their labels.
    pub struct WorkloadSelector {
        /// Labels that a workload must carry, all of them; empty = every workload.
        pub labels: BTreeMap<String, String>,
    }
}

message! {
    /// What becomes of traffic to unknown hosts.
    pub struct OutboundTrafficPolicy {
        /// Refused or let through; absent = `REGISTRY_ONLY`, once the policy itself is there.
        pub mode: OutboundMode,
        /// Hidden: where it is sent, if let through; absent = the address that the client connected to.
        pub egress_proxy: Option<Destination>,
    }
}

words! {
    /// Whether traffic to unknown hosts is let through.
    pub enum OutboundMode {
        /// No.
        #[default]
        RegistryOnly = 0 as "REGISTRY_ONLY",
        /// Yes.
        AllowAny = 1 as "ALLOW_ANY",
    }
}

words! {
    /// How traffic comes to a listener.
    pub enum CaptureMode {
        /// As the workload is set up.
        #[default]
        Default = 0 as "DEFAULT",
        /// By redirection.
        Iptables = 1 as "IPTABLES",
        /// Not captured; clients connect to the listener.
        None = 2 as "NONE",
    }
}

message! {
    /// A port of a listener.
    pub struct SidecarPort {
        /// Its number.
        pub number: u32,
        /// `HTTP`, `HTTPS`, `GRPC`, `HTTP2`, `MONGO`, `TCP` or `TLS`.
        pub protocol: String,
        /// Its name.
        pub name: String,
        /// Deprecated and hidden: the port that the traffic arrives at.
        pub target_port: u32,
    }
}
