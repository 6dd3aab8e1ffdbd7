//! Resources of kinds that routing does not look at, but that a whole set is judged by: Secrets, Nodes,
//! RequestAuthentications, the Gateway API's Gateways.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::Findings;
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::model::Metadata;
use crate::model::deployment::LabelSelector;
use crate::yaml::{Options, RawDocument, documents};

/// What stands around the resources that routing looks at.
///
/// ```
/// use meshroute::analyze::Surroundings;
/// let mut surroundings = Surroundings::default();
/// surroundings.read("apiVersion: v1\nkind: Secret\nmetadata: {name: cert}\n", "cert.yaml");
/// assert!(!surroundings.is_empty());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// By namespace and name.
    pub(super) secrets: BTreeMap<(String, String), Secret>,
    /// Namespace and selector of each RequestAuthentication.
    pub(super) authentications: Vec<(String, BTreeMap<String, String>)>,
    /// The labels of each Node.
    pub(super) nodes: BTreeMap<String, BTreeMap<String, String>>,
    /// The hosts of the Gateway API's Gateways, by namespace and name; an empty host is every host.
    pub(super) gateways: BTreeMap<(String, String), Vec<String>>,
    definitions: Vec<(ResourceRef, String)>,
    now: Option<i64>,
    read: BTreeSet<ResourceRef>,
}

/// A Secret's data, in base64 as it is written.
pub(super) type Secret = BTreeMap<String, String>;

/// All that is looked at in any of these kinds.
#[derive(Default, Deserialize)]
#[serde(default, rename = "open:Foreign")]
struct Foreign {
    metadata: Metadata,
    data: Secret,
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename = "open:ForeignSpec")]
struct Spec {
    selector: Option<LabelSelector>,
    listeners: Vec<Listener>,
    group: String,
    names: Names,
}

#[derive(Default, Deserialize)]
#[serde(default, rename = "open:Listener")]
struct Listener {
    hostname: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename = "open:Names")]
struct Names {
    kind: String,
}

impl Surroundings {
    /// Takes in what a text says of the kinds known here; everything else in it, broken or not, is passed over.
    pub fn read(&mut self, text: &str, file: &str) {
        let options = Options::default();
        for document in documents(text, file, &options).0 {
            if !is_known(&document) {
                continue;
            }
            if let (Some(reference), Ok((foreign, _))) = (document.resource(), document.typed::<Foreign>(&options)) {
                self.read.insert(reference.clone());
                self.take(reference, foreign);
            }
        }
    }

    /// Tells what time it is, in seconds since the Unix epoch, so that a certificate can be found to be out of date.
    pub fn at(mut self, unix_seconds: i64) -> Self {
        self.now = Some(unix_seconds);
        self
    }

    /// Whether nothing was taken in.
    pub fn is_empty(&self) -> bool {
        self.read.is_empty()
    }

    /// Whether a resource was taken in.
    pub fn contains(&self, reference: &ResourceRef) -> bool {
        self.read.contains(reference)
    }

    pub(super) fn now(&self) -> Option<i64> {
        self.now
    }

    fn take(&mut self, reference: &ResourceRef, foreign: Foreign) {
        let name = (reference.namespace.to_string(), reference.name.to_string());
        match &*reference.kind {
            "Secret" => {
                self.secrets.insert(name, foreign.data);
            }
            "RequestAuthentication" => {
                let selector = foreign.spec.selector.unwrap_or_default().match_labels;
                self.authentications.push((name.0, selector));
            }
            "Node" => {
                self.nodes.insert(name.1, foreign.metadata.labels);
            }
            "Gateway" => {
                let hosts = foreign.spec.listeners.into_iter().map(|listener| listener.hostname).collect();
                self.gateways.insert(name, hosts);
            }
            _ if foreign.spec.group == "rbac.istio.io" => {
                self.definitions.push((reference.clone(), foreign.spec.names.kind));
            }
            _ => {}
        }
    }

    /// IST0002 for definitions of kinds that Istio once had.
    pub(super) fn analyze(&self, found: &mut Findings) {
        const GONE: [&str; 4] = ["ClusterRbacConfig", "RbacConfig", "ServiceRole", "ServiceRoleBinding"];
        for (reference, kind) in self.definitions.iter().filter(|(_, kind)| GONE.contains(&kind.as_str())) {
            let message = format!("the kind `{kind}` of `rbac.istio.io` is no longer part of Istio");
            let finding = Diagnostic::warning("IST0002", message).at(reference, "spec.names.kind");
            found.push(finding.remedy("use AuthorizationPolicy of `security.istio.io`"));
        }
    }
}

fn is_known(document: &RawDocument) -> bool {
    let group = document.api_version.split_once('/').map_or("", |(group, _)| group);
    matches!(
        (group, document.kind.as_str()),
        ("", "Secret" | "Node")
            | ("security.istio.io", "RequestAuthentication")
            | ("gateway.networking.k8s.io", "Gateway")
            | ("apiextensions.k8s.io", "CustomResourceDefinition")
    )
}
