//! Clusters: the endpoints of a service, or of one subset of it, and how one of them is chosen.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::diagnostic::ResourceRef;

/// The endpoints of one port of a service, or of one subset of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cluster {
    /// Istio's name: `outbound|5000|canary-1|nginx.default.svc.cluster.local`.
    pub name: Arc<str>,
    /// The service's host, fully qualified.
    pub host: Arc<str>,
    /// The namespace that declares the service, as telemetry names it; empty where nobody declares one.
    #[serde(default)]
    pub namespace: Arc<str>,
    /// The subset; empty for the whole service.
    pub subset: Arc<str>,
    /// The service's port.
    pub port: u16,
    /// Whether it exists. A request for one that does not is 503 NC.
    pub exists: bool,
    /// Those that are ready. Without any, a request is 503 UH.
    pub endpoints: Arc<[Endpoint]>,
    /// Which HTTP is spoken to them.
    #[serde(default)]
    pub http: HttpVersion,
    /// How one of them is chosen and treated.
    pub policy: Policy,
    /// The DestinationRule that had a say.
    pub rule: Option<Arc<ResourceRef>>,
}

impl Cluster {
    /// A cluster that does not exist (yet).
    pub fn missing(host: &str, subset: &str, port: u16) -> Self {
        Cluster {
            name: format!("outbound|{port}|{subset}|{host}").into(),
            host: host.into(),
            namespace: Arc::default(),
            subset: subset.into(),
            port,
            exists: false,
            endpoints: Arc::new([]),
            http: HttpVersion::default(),
            policy: Policy::default(),
            rule: None,
        }
    }
}

impl Cluster {
    /// Whether a request for it goes anywhere: it exists, and has an endpoint or needs none.
    pub fn takes_traffic(&self) -> bool {
        self.exists && (!self.endpoints.is_empty() || self.policy.load_balancer == LoadBalancer::Passthrough)
    }
}

/// Which HTTP is spoken to the endpoints of a cluster, for a host that can speak either. Routes are the same.
///
/// Source: Envoy's `HttpProtocolOptions.upstream_protocol_options`, as Istio sets them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[default]
    One,
    /// HTTP/2, without asking first: the port's protocol is `http2`, `grpc` or the like, or the DestinationRule says
    /// `h2UpgradePolicy: UPGRADE`.
    Two,
    /// What the client speaks: the DestinationRule says `useClientProtocol`, or nothing says what the port carries and it
    /// is a sidecar that asks.
    AsClient,
}

/// One address that serves a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Endpoint {
    /// The address, or the name where DNS says it.
    pub address: Arc<str>,
    /// The port.
    pub port: u16,
    /// The pod or workload behind it; empty where it is not known.
    pub workload: Arc<str>,
    /// Relative to the others'; 0 counts as 1.
    pub weight: u32,
    /// `region/zone/subzone`; empty where it is not known.
    pub locality: Arc<str>,
}

impl Endpoint {
    /// An endpoint of equal weight.
    pub fn new(address: &str, port: u16, workload: &str) -> Self {
        Endpoint { address: address.into(), port, workload: workload.into(), weight: 0, locality: "".into() }
    }

    /// Address and port as a socket's, unless the address is a name.
    pub fn socket(&self) -> Option<SocketAddr> {
        self.address.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.address.contains(':') {
            write!(f, "[{}]:{}", self.address, self.port)
        } else {
            write!(f, "{}:{}", self.address, self.port)
        }
    }
}

/// How an endpoint is chosen and treated: what is left of a DestinationRule's `trafficPolicy` for one cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Policy {
    /// How one is chosen.
    pub load_balancer: LoadBalancer,
    /// Whether connections that are not looked into stick to an endpoint by their client's address
    /// (`consistentHash.useSourceIp`). Requests stick by what their route says.
    pub by_source: bool,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// The rest of the layered `connectionPool`, as written.
    pub connection_pool: Option<crate::model::destination_rule::ConnectionPoolSettings>,
    /// The layered `outlierDetection`, as written; absent: off.
    pub outlier_detection: Option<crate::model::destination_rule::OutlierDetection>,
    /// The layered `tls`, as written.
    pub tls: Option<crate::model::destination_rule::ClientTlsSettings>,
    /// How a new endpoint's share grows (`loadBalancer.warmup`), as written; absent: it has its share at once.
    pub warmup: Option<crate::model::destination_rule::WarmupConfiguration>,
    /// Which localities are preferred (`loadBalancer.localityLbSetting`), as written; absent: the mesh's default, near ones.
    pub locality: Option<crate::model::destination_rule::LocalityLoadBalancerSetting>,
    /// What bounds retries by what is active (`retryBudget`), as written; absent: `maxRetries` does.
    pub retry_budget: Option<crate::model::destination_rule::RetryBudget>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            load_balancer: LoadBalancer::default(),
            by_source: false,
            connect_timeout: Duration::from_secs(10),
            connection_pool: None,
            outlier_detection: None,
            tls: None,
            warmup: None,
            locality: None,
            retry_budget: None,
        }
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum LoadBalancer {
    /// The one with fewer requests of two drawn at random. Istio's default.
    #[default]
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
    /// The address that was dialled.
    Passthrough,
    /// By hash on a ring of at least this many entries.
    RingHash(u64),
    /// By hash through a Maglev table of this size.
    Maglev(u64),
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum HashKey {
    /// A header's value.
    Header(Box<str>),
    /// A cookie's value; made where it is missing and has a lifetime.
    Cookie {
        /// Its name.
        name: Box<str>,
        /// Its path.
        path: Box<str>,
        /// Its lifetime; `None`: never made.
        ttl: Option<Duration>,
    },
    /// The client's address.
    SourceIp,
    /// A query parameter's value.
    Query(Box<str>),
}
