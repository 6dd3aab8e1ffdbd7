//! Who may do what with a workload (`security/v1/authorization_policy.proto`).

use std::collections::BTreeMap;

use super::{Metadata, Untyped};

document! {
    /// An AuthorizationPolicy: what is let through to some workloads, or is not.
    pub struct AuthorizationPolicy {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// What the operator asks for.
        pub spec: AuthorizationPolicySpec,
        /// What Istio reports; nothing here reads it.
        pub status: Option<Untyped>,
    }
}

message! {
    /// Which workloads, what, and what becomes of it.
    pub struct AuthorizationPolicySpec {
        /// The workloads that it is for; absent = all of the namespace, in the root namespace all of the mesh.
        pub selector: Option<LabelSelector>,
        /// Deprecated: one resource that it is for, such as a waypoint.
        pub target_ref: Option<Untyped>,
        /// Resources that it is for, such as a waypoint or a service.
        pub target_refs: Vec<Untyped>,
        /// What it is about; a request is meant if any rule means it. Empty = none is meant.
        pub rules: Vec<Rule>,
        /// What becomes of a request that is meant.
        pub action: Action,
        /// Who judges; only for `CUSTOM`.
        pub provider: Option<ExtensionProvider>,
    }
}

message! {
    /// Workloads by their labels (`type/v1beta1/selector.proto`).
    pub struct LabelSelector {
        /// Labels that a workload must carry, all of them; empty = every workload.
        pub match_labels: BTreeMap<String, String>,
    }
}

words! {
    /// What becomes of a request that a policy means.
    pub enum Action {
        /// It is let through; what no such policy means is not.
        #[default]
        Allow = 0 as "ALLOW",
        /// It is refused, whatever else allows it.
        Deny = 1 as "DENY",
        /// It is to be written down.
        Audit = 2 as "AUDIT",
        /// Somebody else judges.
        Custom = 3 as "CUSTOM",
    }
}

message! {
    /// Somebody else who judges.
    pub struct ExtensionProvider {
        /// The name in the mesh's settings.
        pub name: String,
    }
}

message! {
    /// Requests: from any of `from`, to any of `to`, and all of `when`. What is empty means any.
    pub struct Rule {
        /// Who asks.
        pub from: Vec<From>,
        /// What is asked for.
        pub to: Vec<To>,
        /// What else must hold.
        pub when: Vec<Condition>,
    }
}

message! {
    /// Who asks.
    pub struct From {
        /// Who; absent = anybody.
        pub source: Option<Source>,
    }
}

message! {
    /// What is asked for.
    pub struct To {
        /// What; absent = anything.
        pub operation: Option<Operation>,
    }
}

message! {
    /// Who asks: all of the fields must hold, each by one of its values. Values may begin or end with `*`.
    pub struct Source {
        /// By the identity that the connection proves, `cluster.local/ns/default/sa/web`.
        pub principals: Vec<String>,
        /// Not with one of these identities.
        pub not_principals: Vec<String>,
        /// By a token's issuer and subject, `issuer/subject`.
        pub request_principals: Vec<String>,
        /// Not with one of these tokens.
        pub not_request_principals: Vec<String>,
        /// By the namespace of the identity.
        pub namespaces: Vec<String>,
        /// Not from one of these namespaces.
        pub not_namespaces: Vec<String>,
        /// By the account of the identity: `namespace/account`, or an account of the policy's own namespace.
        pub service_accounts: Vec<String>,
        /// Not with one of these accounts.
        pub not_service_accounts: Vec<String>,
        /// By the address of the connection: an address or a range.
        pub ip_blocks: Vec<String>,
        /// Not from one of these addresses.
        pub not_ip_blocks: Vec<String>,
        /// By the address of the first client, as proxies before say it.
        pub remote_ip_blocks: Vec<String>,
        /// Not from a first client with one of these addresses.
        pub not_remote_ip_blocks: Vec<String>,
    }
}

message! {
    /// What is asked for: all of the fields must hold, each by one of its values. Values may begin or end with `*`.
    pub struct Operation {
        /// By the host that is named; case does not count.
        pub hosts: Vec<String>,
        /// Not with one of these hosts.
        pub not_hosts: Vec<String>,
        /// By the workload's port.
        pub ports: Vec<String>,
        /// Not at one of these ports.
        pub not_ports: Vec<String>,
        /// By the method.
        pub methods: Vec<String>,
        /// Not with one of these methods.
        pub not_methods: Vec<String>,
        /// By the path; `{*}` is one segment of it, `{**}` any number of them.
        pub paths: Vec<String>,
        /// Not with one of these paths.
        pub not_paths: Vec<String>,
    }
}

message! {
    /// What else must hold.
    pub struct Condition {
        /// Of what, such as `request.headers[version]`; required.
        pub key: String,
        /// One of these holds.
        pub values: Vec<String>,
        /// None of these holds.
        pub not_values: Vec<String>,
    }
}
