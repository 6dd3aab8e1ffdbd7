//! Who is asking, and the mesh that they ask in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One client of the mesh. Istio answers each of them differently: exportTo, gateways, sourceLabels and
/// sourceNamespace are looked at when its table is built.
///
/// ```
/// use meshroute::Viewpoint;
/// let client = Viewpoint::sidecar("default").label("app", "nginx-master");
/// assert_eq!(client.namespace, "default");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Viewpoint {
    /// Whether requests leave a workload or arrive at a gateway.
    pub kind: ViewpointKind,
    /// The workload's namespace.
    pub namespace: String,
    /// The workload's labels. A gateway's decide which Gateway resources apply to it.
    pub labels: BTreeMap<String, String>,
    /// The domain that its DNS completes short names with; empty: `<namespace>.svc.<mesh domain>`.
    pub dns_domain: String,
}

/// The two kinds of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ViewpointKind {
    /// Requests leave a workload.
    Sidecar,
    /// Requests arrive at a gateway.
    Gateway,
}

impl Viewpoint {
    /// A workload without labels in a namespace.
    pub fn sidecar(namespace: impl Into<String>) -> Self {
        Viewpoint {
            kind: ViewpointKind::Sidecar,
            namespace: namespace.into(),
            labels: BTreeMap::new(),
            dns_domain: String::new(),
        }
    }

    /// A gateway without labels in a namespace.
    pub fn gateway(namespace: impl Into<String>) -> Self {
        Viewpoint { kind: ViewpointKind::Gateway, ..Viewpoint::sidecar(namespace) }
    }

    /// With one label more.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// With these labels.
    pub fn labels(mut self, labels: BTreeMap<String, String>) -> Self {
        self.labels = labels;
        self
    }
}

/// What holds for the whole mesh (Istio's `MeshConfig`, as far as routing looks at it).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Mesh {
    /// What services' names end with.
    pub domain: String,
    /// Where DestinationRules and Sidecars for everybody stand.
    pub root_namespace: String,
    /// What becomes of traffic that nobody claims.
    pub outbound: OutboundPolicy,
    /// Who wins where two resources claim one host.
    pub precedence: Precedence,
    /// `exportTo` of a VirtualService that has none.
    pub default_virtual_service_export_to: Vec<String>,
    /// `exportTo` of a DestinationRule that has none.
    pub default_destination_rule_export_to: Vec<String>,
    /// `exportTo` of a service that has none.
    pub default_service_export_to: Vec<String>,
}

impl Default for Mesh {
    fn default() -> Self {
        let everybody = || vec!["*".to_string()];
        Mesh {
            domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
            outbound: OutboundPolicy::AllowAny,
            precedence: Precedence::LastApplied,
            default_virtual_service_export_to: everybody(),
            default_destination_rule_export_to: everybody(),
            default_service_export_to: everybody(),
        }
    }
}

impl Mesh {
    /// The defaults, but for who wins.
    pub fn with_precedence(precedence: Precedence) -> Self {
        Mesh { precedence, ..Mesh::default() }
    }
}

/// What becomes of traffic that nobody claims (`outboundTrafficPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundPolicy {
    /// It goes to the address that was dialled.
    #[default]
    AllowAny,
    /// It is refused.
    RegistryOnly,
}

/// Who wins where several VirtualServices claim one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precedence {
    /// The one applied later overrides the *same* rules of the earlier one; rules that differ stand together, the
    /// later one's first, catch-alls last. Alike in the mesh and at gateways.
    #[default]
    LastApplied,
    /// As Istio does it: in the mesh the oldest one has the host alone; at gateways all are joined, oldest first,
    /// catch-alls last.
    Istio,
}
