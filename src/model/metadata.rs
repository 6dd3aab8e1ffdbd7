//! What every resource has: its name, where it lives and how it is labelled (`k8s.io/apimachinery`, `ObjectMeta`).

use std::collections::BTreeMap;

use super::Timestamp;

message! {
    /// A resource's name and what is said about it.
    #[serde(rename = "open:ObjectMeta")]
    pub struct Metadata {
        /// The name, unique among its kind and namespace.
        pub name: String,
        /// The beginning of a name that the API server is to complete; empty if `name` is given.
        pub generate_name: String,
        /// The namespace; empty when it was not written, or for a kind that has none.
        pub namespace: String,
        /// The identity that no later resource of the same name shares.
        pub uid: String,
        /// The version that the API server last stored; opaque.
        pub resource_version: String,
        /// How often the desired state has changed; absent = 0.
        pub generation: i64,
        /// When the resource was created; what is older often takes precedence.
        pub creation_timestamp: Option<Timestamp>,
        /// When the resource is to be gone; absent unless its deletion has begun.
        pub deletion_timestamp: Option<Timestamp>,
        /// The labels that selectors look at.
        pub labels: BTreeMap<String, String>,
        /// What is noted for tools, such as `networking.istio.io/exportTo`.
        pub annotations: BTreeMap<String, String>,
        /// What this resource belongs to, such as the ReplicaSet of a Pod.
        pub owner_references: Vec<OwnerReference>,
    }
}

message! {
    /// A resource that another one belongs to.
    #[serde(rename = "open:OwnerReference")]
    pub struct OwnerReference {
        /// The owner's group and version.
        pub api_version: String,
        /// The owner's kind.
        pub kind: String,
        /// The owner's name, in the same namespace.
        pub name: String,
        /// The owner's identity.
        pub uid: String,
    }
}
