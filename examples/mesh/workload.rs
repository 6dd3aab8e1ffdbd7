//! Who a pod is in metrics: the workload that made it, and Istio's canonical names for it.
//!
//! Knows labels. Knows nothing of requests.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use meshroute::plan::Cluster;
use serde::{Deserialize, Serialize};

/// What stands in a label that cannot be known. Kiali passes over a series in which one is missing.
pub const UNKNOWN: &str = "unknown";

/// The longest name that DNS and Kubernetes have.
const LONGEST_NAME: usize = 253;

/// A workload: what a Deployment's pods are together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name: the Deployment's, or the pod's own where there is none.
    pub name: String,
    /// The label `app`.
    pub app: String,
    /// The label `version`.
    pub version: String,
    /// Istio's canonical service.
    pub service: String,
    /// Istio's canonical revision.
    pub revision: String,
}

impl Workload {
    /// A workload by its name and the labels of its pods.
    ///
    /// The canonical names are those of Istio: `service.istio.io/canonical-name`, `app.kubernetes.io/name`, `app`, the
    /// workload's name; `service.istio.io/canonical-revision`, `app.kubernetes.io/version`, `version`, `latest`.
    pub fn new(namespace: &str, name: &str, labels: &BTreeMap<String, String>) -> Self {
        let first = |keys: &[&str], default: &str| {
            let known = keys.iter().filter_map(|key| labels.get(*key)).find(|value| !value.is_empty());
            known.map_or(default, String::as_str).to_string()
        };
        Workload {
            namespace: namespace.to_string(),
            name: name.to_string(),
            app: first(&["app"], UNKNOWN),
            version: first(&["version"], UNKNOWN),
            service: first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"], name),
            revision: first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"], "latest"),
        }
    }

    /// An ingress, named as Istio's own are: `istio-ingressgateway`.
    pub fn gateway(namespace: &str, labels: &BTreeMap<String, String>) -> Self {
        let name = labels.get("istio").map_or("gateway".into(), |kind| format!("istio-{kind}"));
        Workload::new(namespace, &name, labels)
    }

    /// Nobody that is known.
    pub fn unknown() -> Arc<Self> {
        static NOBODY: LazyLock<Arc<Workload>> = LazyLock::new(|| {
            let unknown = || UNKNOWN.to_string();
            Arc::new(Workload {
                namespace: unknown(),
                name: unknown(),
                app: unknown(),
                version: unknown(),
                service: unknown(),
                revision: unknown(),
            })
        });
        Arc::clone(&NOBODY)
    }

    /// Somebody of a namespace, of whom no more is known.
    pub fn of_namespace(namespace: &str) -> Arc<Self> {
        Arc::new(Workload { namespace: namespace.to_string(), ..(*Workload::unknown()).clone() })
    }

    /// Whether its names may be Kubernetes': another proxy says them, and they become labels that are kept.
    pub fn is_plausible(&self) -> bool {
        let names = [&self.namespace, &self.name, &self.app, &self.version, &self.service, &self.revision];
        names.iter().all(|name| name.len() <= LONGEST_NAME)
    }

    /// The name of the cluster that it is in; Istio's is `Kubernetes`.
    pub fn cluster(&self) -> &'static str {
        if self.namespace == UNKNOWN { UNKNOWN } else { "Kubernetes" }
    }
}

/// A service as metrics name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Service {
    /// `nginx.default.svc.cluster.local`.
    pub host: String,
    /// `nginx`.
    pub name: String,
    /// `default`.
    pub namespace: String,
}

impl Service {
    /// The service of a cluster; one outside has its host for a name, and the namespace that declares it.
    pub fn of_cluster(cluster: &Cluster) -> Self {
        let by_host = Service::of_host(&cluster.host);
        let namespace = Some(&*cluster.namespace).filter(|namespace| !namespace.is_empty());
        Service { namespace: namespace.map_or(by_host.namespace, str::to_string), ..by_host }
    }

    /// A service by its host, where no more is known of it.
    pub fn of_host(host: &str) -> Self {
        let cluster = host.strip_suffix(".svc.cluster.local").and_then(|short| short.split_once('.'));
        let (name, namespace) = cluster.unwrap_or((host, UNKNOWN));
        Service { host: host.to_string(), name: name.to_string(), namespace: namespace.to_string() }
    }

    /// None that is known.
    pub fn unknown() -> Arc<Self> {
        static NONE: LazyLock<Arc<Service>> = LazyLock::new(|| Arc::new(Service::nobodys(UNKNOWN, UNKNOWN)));
        Arc::clone(&NONE)
    }

    /// What Istio calls traffic that no service of the mesh is asked for: `PassthroughCluster`, `BlackHoleCluster`. The host is
    /// the client's word, and none where it is longer than a host and a port can be.
    pub fn nobodys(name: &str, host: &str) -> Self {
        let host = if host.len() <= LONGEST_NAME + ":65535".len() { host } else { UNKNOWN };
        Service { host: host.to_string(), name: name.to_string(), namespace: UNKNOWN.to_string() }
    }
}
