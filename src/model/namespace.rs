//! Kubernetes' Namespace (`core/v1`): its labels are what matters.

use super::{Metadata, Untyped};

document! {
    /// A Namespace. It has a name and labels, and is itself in no namespace.
    pub struct Namespace {
        /// Its name, labels and so on.
        pub metadata: Metadata,
        /// What the operator asks for; nothing here reads it.
        pub spec: Option<Untyped>,
        /// What Kubernetes reports; nothing here reads it.
        pub status: Option<Untyped>,
    }
}
