//! Services that Kubernetes does not know of (`networking/v1alpha3/service_entry.proto`).

use super::sidecar::WorkloadSelector;
use super::workload_entry::WorkloadEntrySpec;
use super::{IntOrString, Metadata, Untyped};

document! {
    /// A ServiceEntry: a service added to the registry.
    pub struct ServiceEntry {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// What the operator asks for.
        pub spec: ServiceEntrySpec,
        /// What Istio reports, above all the addresses that it gave out.
        pub status: Option<ServiceEntryStatus>,
    }
}

message! {
    /// The service of a ServiceEntry.
    pub struct ServiceEntrySpec {
        /// Its hosts, fully qualified or with a wildcard; 1 to 256, required.
        pub hosts: Vec<String>,
        /// Its virtual addresses, single or `a.b.c.d/n`; at most 256.
        pub addresses: Vec<String>,
        /// Its ports; at most 256.
        pub ports: Vec<ServicePort>,
        /// Whether it belongs to the mesh; absent = `MESH_EXTERNAL`.
        pub location: Location,
        /// How its endpoints are found; absent = `NONE`.
        pub resolution: Resolution,
        /// Its endpoints; at most 4096, and excludes `workload_selector`.
        pub endpoints: Vec<WorkloadEntrySpec>,
        /// The WorkloadEntries and Pods that are its endpoints; excludes `endpoints`.
        pub workload_selector: Option<WorkloadSelector>,
        /// The namespaces that see it: `.`, `*`, `~` or names; absent = the mesh's default, normally `*`.
        pub export_to: Vec<String>,
        /// The names, one of which an endpoint's certificate must carry; empty = any.
        pub subject_alt_names: Vec<String>,
    }
}

words! {
    /// Whether a service belongs to the mesh.
    pub enum Location {
        /// No; its workloads have no sidecars.
        #[default]
        MeshExternal = 0 as "MESH_EXTERNAL",
        /// Yes.
        MeshInternal = 1 as "MESH_INTERNAL",
    }
}

words! {
    /// How a service's endpoints are found.
    pub enum Resolution {
        /// Not at all: the address that the client connected to is used.
        #[default]
        None = 0 as "NONE",
        /// They are the addresses written here.
        Static = 1 as "STATIC",
        /// By DNS, all addresses of the answer.
        Dns = 2 as "DNS",
        /// By DNS, the first address of the answer.
        DnsRoundRobin = 3 as "DNS_ROUND_ROBIN",
        /// By DNS, for the host that each request names.
        DynamicDns = 4 as "DYNAMIC_DNS",
    }
}

message! {
    /// A port of a service.
    pub struct ServicePort {
        /// Its number; required.
        pub number: u32,
        /// `HTTP`, `HTTPS`, `GRPC`, `HTTP2`, `MONGO`, `TCP` or `TLS`; empty = sniffed.
        pub protocol: String,
        /// Its name; required.
        pub name: String,
        /// The port of the endpoints; 0 = `number`.
        pub target_port: u32,
    }
}

message! {
    /// What Istio reports of a ServiceEntry.
    #[serde(rename = "open:ServiceEntryStatus")]
    pub struct ServiceEntryStatus {
        /// Its state, in Kubernetes' form.
        pub conditions: Vec<Untyped>,
        /// What Istio's analysis found.
        pub validation_messages: Vec<Untyped>,
        /// The generation that the report is about; an int64, which proto's JSON writes in quotes.
        pub observed_generation: Option<IntOrString>,
        /// The addresses that Istio gave out.
        pub addresses: Vec<ServiceEntryAddress>,
    }
}

message! {
    /// An address that Istio gave out.
    #[serde(rename = "open:ServiceEntryAddress")]
    pub struct ServiceEntryAddress {
        /// The address.
        pub value: String,
        /// The host that it is for; empty = all of the entry's.
        pub host: String,
    }
}
