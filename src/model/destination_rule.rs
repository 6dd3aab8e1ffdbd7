//! How a chosen service is spoken to, and the subsets it has (`networking/v1alpha3/destination_rule.proto`).

use std::collections::BTreeMap;

use super::virtual_service::PortSelector;
use super::{Duration, Metadata, Untyped};

document! {
    /// A DestinationRule: subsets of a host and the policy towards it.
    pub struct DestinationRule {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// What the operator asks for.
        pub spec: DestinationRuleSpec,
        /// What Istio reports; nothing here reads it.
        pub status: Option<Untyped>,
    }
}

message! {
    /// The rule of a DestinationRule.
    pub struct DestinationRuleSpec {
        /// The host that the rule is for: a short name, a fully qualified one or a wildcard; required.
        pub host: String,
        /// The policy for all of the host's ports and subsets; absent = the mesh's defaults.
        pub traffic_policy: Option<TrafficPolicy>,
        /// The subsets that routes can name.
        pub subsets: Vec<Option<Subset>>,
        /// The namespaces that see it: `.`, `*` or names; absent = the mesh's default, normally `*`.
        pub export_to: Vec<String>,
        /// The client workloads, of the rule's own namespace, that it is for; absent = all clients.
        pub workload_selector: Option<WorkloadSelector>,
    }
}

message! {
    /// Workloads by their labels (`type/v1beta1/selector.proto`; the other kinds' selectors say `labels`).
    pub struct WorkloadSelector {
        /// Labels that a workload must carry, all of them; empty = every workload.
        pub match_labels: BTreeMap<String, String>,
    }
}

message! {
    /// The policy towards a host or a subset.
    pub struct TrafficPolicy {
        /// How an endpoint is chosen; absent = `LEAST_REQUEST`.
        pub load_balancer: Option<LoadBalancerSettings>,
        /// Limits on connections and requests; absent = none.
        pub connection_pool: Option<ConnectionPoolSettings>,
        /// When an endpoint is set aside; absent = never.
        pub outlier_detection: Option<OutlierDetection>,
        /// TLS towards the endpoints; absent = automatic.
        pub tls: Option<ClientTlsSettings>,
        /// Policies for single ports, each in place of all of the above; at most 4096.
        pub port_level_settings: Vec<Option<PortTrafficPolicy>>,
        /// Wraps TCP in a tunnel; absent = no.
        pub tunnel: Option<TunnelSettings>,
        /// Sends the PROXY protocol's header first; absent = no.
        pub proxy_protocol: Option<ProxyProtocol>,
        /// Bounds retries by what is active; absent = by `maxRetries`.
        pub retry_budget: Option<RetryBudget>,
    }
}

message! {
    /// The policy for one port; what it leaves out is default, not inherited.
    pub struct PortTrafficPolicy {
        /// The port of the service.
        pub port: Option<PortSelector>,
        /// How an endpoint is chosen; absent = `LEAST_REQUEST`.
        pub load_balancer: Option<LoadBalancerSettings>,
        /// Limits on connections and requests; absent = none.
        pub connection_pool: Option<ConnectionPoolSettings>,
        /// When an endpoint is set aside; absent = never.
        pub outlier_detection: Option<OutlierDetection>,
        /// TLS towards the endpoints; absent = automatic.
        pub tls: Option<ClientTlsSettings>,
    }
}

message! {
    /// A tunnel for TCP.
    pub struct TunnelSettings {
        /// `CONNECT` or `POST`; empty = `CONNECT`.
        pub protocol: String,
        /// The host at the far end; required.
        pub target_host: String,
        /// The port at the far end; required.
        pub target_port: u32,
    }
}

message! {
    /// The PROXY protocol's header.
    pub struct ProxyProtocol {
        /// Its version; absent = `V1`.
        pub version: ProxyProtocolVersion,
    }
}

words! {
    /// A version of the PROXY protocol.
    pub enum ProxyProtocolVersion {
        /// The readable one.
        #[default]
        V1 = 0 as "V1",
        /// The binary one.
        V2 = 1 as "V2",
    }
}

message! {
    /// A bound on retries, relative to what is active.
    pub struct RetryBudget {
        /// Retries in percent of active requests, 0 to 100; absent = 20.
        pub percent: Option<f64>,
        /// How many retries are allowed in any case; 0 = 3.
        pub min_retry_concurrency: u32,
        /// The time over which requests count as active; absent = 0ms.
        pub budget_interval: Option<Duration>,
    }
}

message! {
    /// Some of a host's endpoints, under a name.
    pub struct Subset {
        /// The name that routes use; required.
        pub name: String,
        /// Labels that an endpoint must carry, all of them; empty = all endpoints.
        pub labels: BTreeMap<String, String>,
        /// The policy, field by field over the host's; absent = the host's.
        pub traffic_policy: Option<TrafficPolicy>,
    }
}

message! {
    /// How an endpoint is chosen.
    pub struct LoadBalancerSettings {
        /// A plain policy; excludes `consistent_hash`.
        pub simple: Option<SimpleLb>,
        /// The same endpoint for the same key; excludes `simple`.
        pub consistent_hash: Option<ConsistentHashLb>,
        /// Preference by locality; absent = the mesh's setting.
        pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
        /// Balance between zones; absent = none.
        pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
        /// Deprecated: how long a new endpoint warms up; `warmup` wins over it.
        pub warmup_duration_secs: Option<Duration>,
        /// How a new endpoint's share grows; absent = full at once.
        pub warmup: Option<WarmupConfiguration>,
    }
}

words! {
    /// A plain policy for choosing an endpoint.
    pub enum SimpleLb {
        /// Not said: `LEAST_REQUEST`.
        #[default]
        Unspecified = 0 as "UNSPECIFIED",
        /// Deprecated: `LEAST_REQUEST`.
        LeastConn = 1 as "LEAST_CONN",
        /// Any healthy one.
        Random = 2 as "RANDOM",
        /// The address that the client connected to.
        Passthrough = 3 as "PASSTHROUGH",
        /// One after the other.
        RoundRobin = 4 as "ROUND_ROBIN",
        /// Of two drawn at random, the one with fewer requests.
        LeastRequest = 5 as "LEAST_REQUEST",
    }
}

message! {
    /// The same endpoint for the same key.
    pub struct ConsistentHashLb {
        /// The key is this header; excludes the other keys.
        pub http_header_name: Option<String>,
        /// The key is this cookie; excludes the other keys.
        pub http_cookie: Option<HttpCookie>,
        /// The key is the client's address; excludes the other keys.
        pub use_source_ip: Option<bool>,
        /// The key is this query parameter; excludes the other keys.
        pub http_query_parameter_name: Option<String>,
        /// Hashes on a ring; excludes `maglev`, and is used when neither is there.
        pub ring_hash: Option<RingHash>,
        /// Hashes by Maglev's table; excludes `ring_hash`.
        pub maglev: Option<MagLev>,
        /// Deprecated: the least number of points on the ring; 0 = not said.
        pub minimum_ring_size: u64,
    }
}

message! {
    /// A hash ring.
    pub struct RingHash {
        /// The least number of points on the ring; 0 = 1024.
        pub minimum_ring_size: u64,
    }
}

message! {
    /// A Maglev table.
    pub struct MagLev {
        /// How many entries, a prime; 0 = 65537.
        pub table_size: u64,
    }
}

message! {
    /// A cookie that is a hash key, made if the client has none.
    pub struct HttpCookie {
        /// Its name; required.
        pub name: String,
        /// Its path; empty = none.
        pub path: String,
        /// Its lifetime; absent = no cookie is made, 0s = one for the session.
        pub ttl: Option<Duration>,
        /// Further attributes of a cookie that is made.
        pub attributes: Vec<HttpCookieAttribute>,
    }
}

message! {
    /// An attribute of a cookie.
    pub struct HttpCookieAttribute {
        /// Its name, such as `SameSite`; required.
        pub name: String,
        /// Its value; empty = none.
        pub value: String,
    }
}

message! {
    /// How a new endpoint's share grows.
    pub struct WarmupConfiguration {
        /// How long; required.
        pub duration: Option<Duration>,
        /// The share at the beginning in percent, 0 to 100; absent = 10.
        pub minimum_percent: Option<f64>,
        /// How steeply it grows, 0 or more; absent = 1.0, linear.
        pub aggression: Option<f64>,
    }
}

message! {
    /// Limits on connections and requests.
    pub struct ConnectionPoolSettings {
        /// Those of TCP, which hold for HTTP too.
        pub tcp: Option<TcpSettings>,
        /// Those of HTTP.
        pub http: Option<HttpSettings>,
    }
}

message! {
    /// Limits on connections.
    pub struct TcpSettings {
        /// How many connections at most; 0 = 2^32-1.
        pub max_connections: i32,
        /// How long connecting may take; absent = the mesh's, 10s.
        pub connect_timeout: Option<Duration>,
        /// Keepalive probes; absent = the system's setting.
        pub tcp_keepalive: Option<TcpKeepalive>,
        /// How long a connection lives at most; absent = without limit.
        pub max_connection_duration: Option<Duration>,
        /// How long a connection may be idle; absent = 1h, 0s = for ever.
        pub idle_timeout: Option<Duration>,
    }
}

message! {
    /// Keepalive probes.
    pub struct TcpKeepalive {
        /// How many unanswered ones end the connection; 0 = the system's setting.
        pub probes: u32,
        /// How long a connection is idle before the first; absent = the system's setting.
        pub time: Option<Duration>,
        /// The time between probes; absent = the system's setting.
        pub interval: Option<Duration>,
    }
}

message! {
    /// Limits on requests.
    pub struct HttpSettings {
        /// How many requests may wait for a connection; 0 = 2^32-1.
        pub http1_max_pending_requests: i32,
        /// How many requests may be active; 0 = 2^32-1.
        pub http2_max_requests: i32,
        /// How many requests one connection serves; 0 = without limit.
        pub max_requests_per_connection: i32,
        /// How many retries may be active; 0 = 2^32-1.
        pub max_retries: i32,
        /// How long a connection without requests stays open; absent = 1h.
        pub idle_timeout: Option<Duration>,
        /// Whether HTTP/1.1 is upgraded to HTTP/2; absent = `DEFAULT`.
        pub h2_upgrade_policy: H2UpgradePolicy,
        /// Whether the client's protocol is kept; absent = false.
        pub use_client_protocol: bool,
        /// How many streams one HTTP/2 connection carries; 0 = 2^31-1.
        pub max_concurrent_streams: i32,
        /// Keepalive by HTTP/2 pings; absent = none.
        pub http2_keep_alive: Option<ConnectionKeepalive>,
    }
}

words! {
    /// Whether HTTP/1.1 is upgraded to HTTP/2.
    pub enum H2UpgradePolicy {
        /// As the mesh's setting says.
        #[default]
        Default = 0 as "DEFAULT",
        /// No.
        DoNotUpgrade = 1 as "DO_NOT_UPGRADE",
        /// Yes.
        Upgrade = 2 as "UPGRADE",
    }
}

message! {
    /// Keepalive by HTTP/2 pings.
    pub struct ConnectionKeepalive {
        /// The time between pings.
        pub interval: Option<Duration>,
        /// How long an answer may take before the connection is closed.
        pub timeout: Option<Duration>,
    }
}

message! {
    /// When an endpoint is set aside, and for how long; present but empty means these defaults.
    pub struct OutlierDetection {
        /// Deprecated and hidden: errors in a row; the two counts below took its place.
        pub consecutive_errors: i32,
        /// Whether local failures, such as a timeout, are counted apart from the endpoint's answers; absent = false.
        pub split_external_local_origin_errors: bool,
        /// Local failures in a row; absent = 5, counted only if split.
        pub consecutive_local_origin_failures: Option<u32>,
        /// 502, 503 and 504 in a row; absent or 0 = not counted.
        pub consecutive_gateway_errors: Option<u32>,
        /// 5xx in a row; absent = 5, 0 = not counted.
        pub consecutive_5xx_errors: Option<u32>,
        /// The time between looks; absent = 10s.
        pub interval: Option<Duration>,
        /// How long an endpoint is set aside, times how often it has been; absent = 30s.
        pub base_ejection_time: Option<Duration>,
        /// How many endpoints may be set aside, in percent; 0 = 10.
        pub max_ejection_percent: i32,
        /// Below this share of healthy ones, in percent, nothing is set aside; 0 = never so.
        pub min_health_percent: i32,
        /// The statuses that count as errors; empty = 5xx.
        pub outlier_detection_http_error_codes: Vec<u32>,
    }
}

message! {
    /// TLS towards the endpoints.
    pub struct ClientTlsSettings {
        /// Whether, and whose certificate; absent = `DISABLE`.
        pub mode: ClientTlsMode,
        /// The file of the client's certificate; required for `MUTUAL` unless `credential_name` is given.
        pub client_certificate: String,
        /// The file of the client's key; required for `MUTUAL` unless `credential_name` is given.
        pub private_key: String,
        /// The file of the authorities that the server is checked against; empty = the system's.
        pub ca_certificates: String,
        /// The secret that holds key, certificate and authorities; empty = the files are used.
        pub credential_name: String,
        /// The names, one of which the server's certificate must carry; empty = the host's.
        pub subject_alt_names: Vec<String>,
        /// The name sent as SNI; empty = the host's.
        pub sni: String,
        /// Whether the server's certificate goes unchecked; absent = false.
        pub insecure_skip_verify: Option<bool>,
        /// The file of revoked certificates; empty = none.
        pub ca_crl: String,
    }
}

words! {
    /// Whether TLS is spoken towards the endpoints, and whose certificate is shown.
    pub enum ClientTlsMode {
        /// Plain text.
        #[default]
        Disable = 0 as "DISABLE",
        /// TLS; the client shows nothing.
        Simple = 1 as "SIMPLE",
        /// TLS; the client shows the certificate named here.
        Mutual = 2 as "MUTUAL",
        /// TLS; the client shows the certificate that Istio issued.
        IstioMutual = 3 as "ISTIO_MUTUAL",
    }
}

message! {
    /// Preference by locality; `distribute` excludes both kinds of failover.
    pub struct LocalityLoadBalancerSetting {
        /// Shares by the client's locality.
        pub distribute: Vec<Distribute>,
        /// Where to turn when a region fails.
        pub failover: Vec<LocalityFailover>,
        /// Labels in order; endpoints that share more of them with the client come first.
        pub failover_priority: Vec<String>,
        /// Whether it holds; absent = the mesh's setting.
        pub enabled: Option<bool>,
    }
}

message! {
    /// Shares for clients of one locality.
    pub struct Distribute {
        /// The client's locality, `region/zone/subzone`, `*` at its end.
        pub from: String,
        /// Shares in percent by the endpoints' locality; they sum to 100.
        pub to: BTreeMap<String, u32>,
    }
}

message! {
    /// Where to turn when a region fails.
    pub struct LocalityFailover {
        /// The region that fails.
        pub from: String,
        /// The region to turn to.
        pub to: String,
    }
}

message! {
    /// Balance between zones: as much as possible stays in the client's own.
    pub struct ZoneAwareLoadBalancerSetting {
        /// Whether it holds; absent = the mesh's setting.
        pub enabled: Option<bool>,
        /// Where to turn when a region fails.
        pub failover: Vec<ZoneAwareFailover>,
        /// Labels in order; endpoints that share more of them with the client come first.
        pub failover_priority: Vec<String>,
        /// The least number of endpoints for it to hold, 1 or more; absent = 6.
        pub min_cluster_size: Option<u64>,
    }
}

message! {
    /// Where to turn when a region fails.
    pub struct ZoneAwareFailover {
        /// The region that fails.
        pub from: String,
        /// The region to turn to.
        pub to: String,
    }
}
