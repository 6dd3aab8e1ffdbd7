//! Clusters: how endpoints are found, chosen and treated.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream;

use pb::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy};
use upstream::http_protocol_options as options;

use super::endpoint::assignment;
use super::proto::{ads, file, long, pack, percent, seconds, string_match, uint};
use crate::balance::{Limits, RetryLimit};
use crate::model::destination_rule::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, HttpSettings, OutlierDetection, TcpSettings,
    WarmupConfiguration,
};
use crate::plan::{Cluster, HttpVersion, LoadBalancer, Policy, ValueMatch};

/// Where traffic goes that nobody claims.
pub(super) const PASSTHROUGH: &str = "PassthroughCluster";
/// Where traffic ends that may not go on.
pub(super) const BLACKHOLE: &str = "BlackHoleCluster";

/// The address that was dialled.
pub(super) fn passthrough() -> pb::Cluster {
    let found = ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into());
    pb::Cluster {
        name: PASSTHROUGH.into(),
        connect_timeout: seconds(Duration::from_secs(10)),
        lb_policy: LbPolicy::ClusterProvided.into(),
        cluster_discovery_type: Some(found),
        circuit_breakers: Some(breakers(&Limits::of(&Policy::default()), None)),
        // As the client speaks, so is spoken on.
        typed_extension_protocol_options: [http_options(None, HttpVersion::AsClient, http2(None))].into(),
        ..pb::Cluster::default()
    }
}

/// Nobody.
pub(super) fn blackhole() -> pb::Cluster {
    pb::Cluster {
        name: BLACKHOLE.into(),
        connect_timeout: seconds(Duration::from_secs(10)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        ..pb::Cluster::default()
    }
}

/// A cluster of the plan, and what of its policy could not be said.
pub(super) fn cluster(known: &Cluster, here: &str, omitted: &mut Vec<String>) -> pb::Cluster {
    let policy = &known.policy;
    let pool = policy.connection_pool.as_ref();
    let mut made = pb::Cluster {
        name: known.name.to_string(),
        connect_timeout: seconds(policy.connect_timeout),
        circuit_breakers: Some(breakers(&Limits::of(policy), Some(policy))),
        outlier_detection: policy.outlier_detection.as_ref().map(outliers),
        typed_extension_protocol_options: protocol(known.http, pool).into_iter().collect(),
        upstream_connection_options: keepalive(pool),
        common_lb_config: Some(common(policy)),
        ..pb::Cluster::default()
    };
    find(&mut made, known, here);
    choose(&mut made, policy);
    encrypt(&mut made, known, omitted);
    made
}

/// Whether DNS has a part in finding an endpoint.
fn is_named(known: &Cluster) -> bool {
    known.endpoints.iter().any(|endpoint| endpoint.socket().is_none())
}

fn find(made: &mut pb::Cluster, known: &Cluster, here: &str) {
    let found = match &known.policy.load_balancer {
        LoadBalancer::Passthrough => DiscoveryType::OriginalDst,
        _ if is_named(known) => {
            made.load_assignment = Some(assignment(known, here));
            DiscoveryType::StrictDns
        }
        _ => {
            let eds_config = ads();
            made.eds_cluster_config =
                Some(pb::cluster::EdsClusterConfig { eds_config, ..pb::cluster::EdsClusterConfig::default() });
            DiscoveryType::Eds
        }
    };
    made.cluster_discovery_type = Some(ClusterDiscoveryType::Type(found.into()));
}

fn choose(made: &mut pb::Cluster, policy: &Policy) {
    let slow_start_config = policy.warmup.as_ref().and_then(slow_start);
    let (chosen, config) = match policy.load_balancer {
        LoadBalancer::RoundRobin => (
            LbPolicy::RoundRobin,
            slow_start_config.map(|config| {
                LbConfig::RoundRobinLbConfig(pb::cluster::RoundRobinLbConfig { slow_start_config: Some(config) })
            }),
        ),
        LoadBalancer::Random => (LbPolicy::Random, None),
        LoadBalancer::Passthrough => (LbPolicy::ClusterProvided, None),
        LoadBalancer::RingHash(least) => {
            let config = pb::cluster::RingHashLbConfig {
                minimum_ring_size: long(least),
                ..pb::cluster::RingHashLbConfig::default()
            };
            (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config)))
        }
        LoadBalancer::Maglev(size) => {
            let config = pb::cluster::MaglevLbConfig { table_size: long(size) };
            (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(config)))
        }
        LoadBalancer::LeastRequest => {
            let config =
                pb::cluster::LeastRequestLbConfig { slow_start_config, ..pb::cluster::LeastRequestLbConfig::default() };
            (LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config)))
        }
    };
    made.lb_policy = chosen.into();
    made.lb_config = config;
}

fn slow_start(written: &WarmupConfiguration) -> Option<pb::cluster::SlowStartConfig> {
    let window = written.duration?.to_std().filter(|window| !window.is_zero())?;
    let aggression = written.aggression.filter(|aggression| aggression.is_finite() && *aggression > 0.0);
    Some(pb::cluster::SlowStartConfig {
        slow_start_window: seconds(window),
        aggression: aggression
            .map(|default_value| core::RuntimeDouble { default_value, runtime_key: "warmup.aggression".into() }),
        min_weight_percent: percent(written.minimum_percent.filter(|least| least.is_finite()).unwrap_or(10.0)),
    })
}

fn breakers(limits: &Limits, policy: Option<&Policy>) -> pb::CircuitBreakers {
    let mut thresholds = pb::circuit_breakers::Thresholds {
        max_connections: uint(limits.connections),
        max_pending_requests: uint(limits.pending),
        max_requests: uint(limits.requests),
        track_remaining: true,
        ..pb::circuit_breakers::Thresholds::default()
    };
    match limits.retries {
        RetryLimit::Count(count) => thresholds.max_retries = uint(count),
        RetryLimit::Budget { percent: most, least } => {
            let written = policy.and_then(|policy| policy.retry_budget.as_ref()?.budget_interval?.to_std());
            thresholds.retry_budget = Some(pb::circuit_breakers::thresholds::RetryBudget {
                budget_percent: percent(most),
                budget_interval: written.and_then(seconds),
                min_retry_concurrency: uint(least),
            });
        }
    }
    pb::CircuitBreakers { thresholds: vec![thresholds], ..pb::CircuitBreakers::default() }
}

/// Source: istio `applyOutlierDetection`. What Istio has no word for, chance by success rate, is off.
fn outliers(written: &OutlierDetection) -> pb::OutlierDetection {
    let time = |time: Option<crate::model::Duration>| time?.to_std().filter(|time| !time.is_zero()).and_then(seconds);
    let count = |count: Option<u32>| count.and_then(uint);
    let enforced = |count: Option<u32>| count.and_then(|count| uint(if count > 0 { 100 } else { 0 }));
    let split = written.split_external_local_origin_errors;
    let local = written.consecutive_local_origin_failures.filter(|_| split);
    let most = u32::try_from(written.max_ejection_percent).ok().filter(|most| *most > 0);
    pb::OutlierDetection {
        consecutive_5xx: count(written.consecutive_5xx_errors),
        enforcing_consecutive_5xx: enforced(written.consecutive_5xx_errors),
        consecutive_gateway_failure: count(written.consecutive_gateway_errors),
        enforcing_consecutive_gateway_failure: enforced(written.consecutive_gateway_errors),
        split_external_local_origin_errors: split,
        consecutive_local_origin_failure: count(local),
        enforcing_consecutive_local_origin_failure: enforced(local),
        enforcing_success_rate: uint(0),
        interval: time(written.interval),
        base_ejection_time: time(written.base_ejection_time),
        max_ejection_percent: count(most.map(|most| most.min(100))),
        ..pb::OutlierDetection::default()
    }
}

/// Which share must be healthy, and whether localities have shares of their own.
fn common(policy: &Policy) -> pb::cluster::CommonLbConfig {
    use pb::cluster::common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig};
    let detection = policy.outlier_detection.as_ref();
    let least = detection.map_or(0, |written| written.min_health_percent.clamp(0, 100));
    let shared = policy.locality.as_ref().is_some_and(|setting| !setting.distribute.is_empty());
    pb::cluster::CommonLbConfig {
        healthy_panic_threshold: percent(f64::from(least)),
        locality_config_specifier: shared
            .then(|| LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig::default())),
        ..pb::cluster::CommonLbConfig::default()
    }
}

fn keepalive(pool: Option<&ConnectionPoolSettings>) -> Option<pb::UpstreamConnectionOptions> {
    let written = pool?.tcp.as_ref()?.tcp_keepalive.as_ref()?;
    let whole = |time: Option<crate::model::Duration>| {
        time?.to_std().and_then(|time| uint(u32::try_from(time.as_secs()).unwrap_or(u32::MAX)))
    };
    let tcp_keepalive = core::TcpKeepalive {
        keepalive_probes: Some(written.probes).filter(|probes| *probes > 0).and_then(uint),
        keepalive_time: whole(written.time),
        keepalive_interval: whole(written.interval),
    };
    let tcp_keepalive = Some(tcp_keepalive);
    Some(pb::UpstreamConnectionOptions { tcp_keepalive, ..pb::UpstreamConnectionOptions::default() })
}

type Extension = (String, envoy_types::pb::google::protobuf::Any);

/// What HTTP is spoken, and how long a connection lives, if anything is said of it.
fn protocol(spoken: HttpVersion, pool: Option<&ConnectionPoolSettings>) -> Option<Extension> {
    let (tcp, http) = pool.map(|pool| (pool.tcp.as_ref(), pool.http.as_ref())).unwrap_or_default();
    let common = connection(tcp, http);
    let says = spoken != HttpVersion::One || common != core::HttpProtocolOptions::default();
    says.then(|| http_options(Some(common), spoken, http2(http)))
}

fn connection(tcp: Option<&TcpSettings>, http: Option<&HttpSettings>) -> core::HttpProtocolOptions {
    let most = http.and_then(|http| u32::try_from(http.max_requests_per_connection).ok()).filter(|most| *most > 0);
    let time = |time: crate::model::Duration| time.to_std().and_then(seconds);
    core::HttpProtocolOptions {
        idle_timeout: http.and_then(|http| http.idle_timeout).and_then(time),
        max_connection_duration: tcp.and_then(|tcp| tcp.max_connection_duration).and_then(time),
        max_requests_per_connection: most.and_then(uint),
        ..core::HttpProtocolOptions::default()
    }
}

fn http2(http: Option<&HttpSettings>) -> core::Http2ProtocolOptions {
    let Some(http) = http else { return core::Http2ProtocolOptions::default() };
    let streams = u32::try_from(http.max_concurrent_streams).ok().filter(|most| *most > 0);
    let time = |time: Option<crate::model::Duration>| time?.to_std().filter(|time| !time.is_zero()).and_then(seconds);
    let alive = http.http2_keep_alive.as_ref().map(|written| core::KeepaliveSettings {
        interval: time(written.interval),
        timeout: time(written.timeout),
        ..core::KeepaliveSettings::default()
    });
    core::Http2ProtocolOptions {
        max_concurrent_streams: streams.and_then(uint),
        connection_keepalive: alive.filter(|alive| alive.timeout.is_some()),
        ..core::Http2ProtocolOptions::default()
    }
}

fn http_options(
    common: Option<core::HttpProtocolOptions>,
    spoken: HttpVersion,
    http2: core::Http2ProtocolOptions,
) -> Extension {
    use options::explicit_http_config::ProtocolConfig;
    use options::{ExplicitHttpConfig, UpstreamProtocolOptions};
    let one = core::Http1ProtocolOptions::default();
    let explicit = |config: ProtocolConfig| {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) })
    };
    let spoken = match spoken {
        HttpVersion::One => explicit(ProtocolConfig::HttpProtocolOptions(one)),
        HttpVersion::Two => explicit(ProtocolConfig::Http2ProtocolOptions(http2)),
        HttpVersion::AsClient => {
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(options::UseDownstreamHttpConfig {
                http_protocol_options: Some(one),
                http2_protocol_options: Some(http2),
                ..options::UseDownstreamHttpConfig::default()
            })
        }
    };
    let made = upstream::HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_protocol_options: Some(spoken),
        ..upstream::HttpProtocolOptions::default()
    };
    ("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".into(), pack(&made))
}

/// Puts TLS around connections. What cannot be had from files is told, and the cluster is left without endpoints:
/// what was to be encrypted is never sent in the clear.
fn encrypt(made: &mut pb::Cluster, known: &Cluster, omitted: &mut Vec<String>) {
    let Some(written) = known.policy.tls.as_ref().filter(|tls| tls.mode != ClientTlsMode::Disable) else { return };
    let from_files = written.mode != ClientTlsMode::IstioMutual && written.credential_name.is_empty();
    if from_files {
        let name = "envoy.transport_sockets.tls";
        let config = core::transport_socket::ConfigType::TypedConfig(pack(&context(known, written)));
        made.transport_socket = Some(core::TransportSocket { name: name.into(), config_type: Some(config) });
        return;
    }
    omitted.push(format!("cluster `{}`: its certificates come from no file, so nothing is sent to it", known.name));
    made.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
    made.eds_cluster_config = None;
    made.load_assignment = None;
    made.lb_policy = LbPolicy::RoundRobin.into();
    made.lb_config = None;
}

/// Source: istio `buildUpstreamClusterTLSContext`.
fn context(known: &Cluster, written: &ClientTlsSettings) -> tls::UpstreamTlsContext {
    use tls::common_tls_context::ValidationContextType;
    let certificate = (written.mode == ClientTlsMode::Mutual).then(|| tls::TlsCertificate {
        certificate_chain: Some(file(&written.client_certificate)),
        private_key: Some(file(&written.private_key)),
        ..tls::TlsCertificate::default()
    });
    let checked = written.insecure_skip_verify != Some(true);
    let names = written.subject_alt_names.iter().map(|name| tls::SubjectAltNameMatcher {
        san_type: tls::subject_alt_name_matcher::SanType::Dns.into(),
        matcher: string_match(&ValueMatch::Exact(name.as_str().into())),
        ..tls::SubjectAltNameMatcher::default()
    });
    let authorities = match written.ca_certificates.as_str() {
        "" => "/etc/ssl/certs/ca-certificates.crt",
        file => file,
    };
    let validation = tls::CertificateValidationContext {
        trusted_ca: Some(file(authorities)),
        match_typed_subject_alt_names: names.collect(),
        crl: Some(written.ca_crl.as_str()).filter(|crl| !crl.is_empty()).map(file),
        ..tls::CertificateValidationContext::default()
    };
    let sni = if written.sni.is_empty() { known.host.to_string() } else { written.sni.clone() };
    tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_certificates: certificate.into_iter().collect(),
            alpn_protocols: if known.http == HttpVersion::Two { vec!["h2".into()] } else { Vec::new() },
            validation_context_type: checked.then_some(ValidationContextType::ValidationContext(validation)),
            ..tls::CommonTlsContext::default()
        }),
        sni,
        ..tls::UpstreamTlsContext::default()
    }
}
