//! Kubernetes' Deployment (`apps/v1`), as far as a mesh looks.

use std::collections::BTreeMap;

use super::{Metadata, PodSpec, Untyped};

document! {
    /// A Deployment: so many Pods alike.
    pub struct Deployment {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// What the operator asks for.
        pub spec: DeploymentSpec,
        /// What Kubernetes reports; nothing here reads it.
        pub status: Option<Untyped>,
    }
}

message! {
    /// How many Pods, and what they are like.
    #[serde(rename = "open:DeploymentSpec")]
    pub struct DeploymentSpec {
        /// How many; absent = 1.
        pub replicas: Option<u32>,
        /// The Pods that belong to it; required, and matches the template's labels.
        pub selector: Option<LabelSelector>,
        /// What the Pods are like.
        pub template: PodTemplateSpec,
    }
}

message! {
    /// Resources by their labels; all conditions must hold.
    #[serde(rename = "open:LabelSelector")]
    pub struct LabelSelector {
        /// Labels that must be carried.
        pub match_labels: BTreeMap<String, String>,
        /// Conditions on labels, as `{key, operator, values}`.
        pub match_expressions: Vec<Untyped>,
    }
}

message! {
    /// What Pods are like.
    #[serde(rename = "open:PodTemplateSpec")]
    pub struct PodTemplateSpec {
        /// Their labels and annotations.
        pub metadata: Metadata,
        /// What runs in them.
        pub spec: PodSpec,
    }
}
