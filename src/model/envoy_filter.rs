//! Patches to the configuration that Istio makes for Envoy (`networking/v1alpha3/envoy_filter.proto`).
//!
//! Of what a patch puts in and where, only the outer form has types: it is Envoy's configuration, of which there is no end.

use super::sidecar::WorkloadSelector;
use super::{Metadata, Untyped};

document! {
    /// An EnvoyFilter: changes to what some workloads' proxies are told.
    pub struct EnvoyFilter {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// What the operator asks for.
        pub spec: EnvoyFilterSpec,
        /// What Istio reports; nothing here reads it.
        pub status: Option<Untyped>,
    }
}

message! {
    /// Which workloads, and the changes.
    pub struct EnvoyFilterSpec {
        /// The workloads that it is for; absent = all of the namespace, in the root namespace all of the mesh.
        pub workload_selector: Option<WorkloadSelector>,
        /// Resources that it is for, such as a waypoint.
        pub target_refs: Vec<Untyped>,
        /// The changes, in order.
        pub config_patches: Vec<EnvoyConfigObjectPatch>,
        /// Its place among the EnvoyFilters of its namespace: the lower number is applied first; absent = 0.
        pub priority: i32,
    }
}

message! {
    /// A change.
    pub struct EnvoyConfigObjectPatch {
        /// What kind of thing is changed, such as `HTTP_FILTER`.
        pub apply_to: String,
        /// Which of them; absent = all.
        pub r#match: Option<EnvoyConfigObjectMatch>,
        /// What becomes of it.
        pub patch: Option<Patch>,
    }
}

message! {
    /// Which things are changed.
    pub struct EnvoyConfigObjectMatch {
        /// On whose side, such as `SIDECAR_INBOUND`; empty = `ANY`.
        pub context: String,
        /// Of which proxies: by version or metadata.
        pub proxy: Option<Untyped>,
        /// Of which listeners, and the filters in them.
        pub listener: Option<Untyped>,
        /// Of which tables of routes, and the virtual hosts and routes in them.
        pub route_configuration: Option<Untyped>,
        /// Which clusters.
        pub cluster: Option<Untyped>,
        /// Of which waypoints.
        pub waypoint: Option<Untyped>,
    }
}

message! {
    /// What becomes of a thing.
    pub struct Patch {
        /// How it is changed, such as `INSERT_BEFORE`.
        pub operation: String,
        /// What is put in, in Envoy's words.
        pub value: Untyped,
        /// Where in the chain it belongs, for `ADD`.
        pub filter_class: String,
    }
}
