//! The policy towards a host, a subset or a port.

use super::field::Field;
use super::findings::Findings;
use super::{domain, load_balancer, tls};
use crate::model::Duration;
use crate::model::destination_rule::H2UpgradePolicy;
use crate::model::destination_rule::{
    ConnectionKeepalive, ConnectionPoolSettings, HttpSettings, OutlierDetection, PortTrafficPolicy, RetryBudget,
    TcpSettings, TrafficPolicy, TunnelSettings,
};

/// Checks a policy. An empty one, and one with both a tunnel and the PROXY protocol, is looked at no further.
pub(super) fn check(policy: &TrafficPolicy, field: &Field, found: &mut Findings) {
    if *policy == TrafficPolicy::default() {
        return found.error(field, "empty-policy", "a traffic policy must have at least one field");
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        return found.error(field, "tunnel-conflict", "`tunnel` and `proxyProtocol` must not be given together");
    }
    outlier_detection(policy.outlier_detection.as_ref(), &field.key("outlierDetection"), found);
    connection_pool(policy.connection_pool.as_ref(), &field.key("connectionPool"), found);
    if let Some(settings) = &policy.load_balancer {
        let ejects = policy.outlier_detection.is_some();
        load_balancer::check(settings, ejects, &field.key("loadBalancer"), found);
    }
    tls::client(policy.tls.as_ref(), &field.key("tls"), found);
    found.without_warnings(|found| ports(&policy.port_level_settings, &field.key("portLevelSettings"), found));
    tunnel(policy.tunnel.as_ref(), &field.key("tunnel"), found);
    retry_budget(policy.retry_budget.as_ref(), &field.key("retryBudget"), found);
}

/// Policies for single ports; Istio drops their warnings.
fn ports(policies: &[Option<PortTrafficPolicy>], field: &Field, found: &mut Findings) {
    for (i, policy) in policies.iter().enumerate() {
        let field = field.at(i);
        match policy {
            Some(policy) => port(policy, &field, found),
            None => found.error(&field, "null-entry", "a policy must not be null"),
        }
    }
}

fn port(policy: &PortTrafficPolicy, field: &Field, found: &mut Findings) {
    if policy.port.is_none() {
        found.error(field, "no-port", "a policy for a port must name its `port`");
    }
    if *policy == (PortTrafficPolicy { port: policy.port.clone(), ..PortTrafficPolicy::default() }) {
        return found.error(field, "empty-policy", "a policy for a port must have at least one field");
    }
    outlier_detection(policy.outlier_detection.as_ref(), &field.key("outlierDetection"), found);
    connection_pool(policy.connection_pool.as_ref(), &field.key("connectionPool"), found);
    if let Some(settings) = &policy.load_balancer {
        let ejects = policy.outlier_detection.is_some();
        load_balancer::check(settings, ejects, &field.key("loadBalancer"), found);
    }
    tls::client(policy.tls.as_ref(), &field.key("tls"), found);
}

fn outlier_detection(detection: Option<&OutlierDetection>, field: &Field, found: &mut Findings) {
    let Some(detection) = detection else { return };
    found.duration(&field.key("baseEjectionTime"), detection.base_ejection_time);
    found.duration(&field.key("interval"), detection.interval);
    if detection.consecutive_errors != 0 {
        let message = "`consecutiveErrors` is deprecated; use `consecutiveGatewayErrors` or `consecutive5xxErrors`";
        found.warning(&field.key("consecutiveErrors"), "deprecated-field", message);
    }
    let local = detection.consecutive_local_origin_failures.is_some_and(|count| count > 0);
    if local && !detection.split_external_local_origin_errors {
        let message = "`consecutiveLocalOriginFailures` needs `splitExternalLocalOriginErrors`";
        found.error(&field.key("consecutiveLocalOriginFailures"), "not-split", message);
    }
    found.percent(&field.key("maxEjectionPercent"), detection.max_ejection_percent.into());
    found.percent(&field.key("minHealthPercent"), detection.min_health_percent.into());
}

/// Limits on connections and requests; also those of a Sidecar.
pub(super) fn connection_pool(pool: Option<&ConnectionPoolSettings>, field: &Field, found: &mut Findings) {
    let Some(pool) = pool else { return };
    if pool.http.is_none() && pool.tcp.is_none() {
        return found.error(field, "empty-connection-pool", "a connection pool must have `tcp` or `http`");
    }
    if let Some(settings) = &pool.http {
        http(settings, &field.key("http"), found);
    }
    if let Some(settings) = &pool.tcp {
        tcp(settings, &field.key("tcp"), found);
    }
}

fn http(settings: &HttpSettings, field: &Field, found: &mut Findings) {
    let limits = [
        ("http1MaxPendingRequests", settings.http1_max_pending_requests),
        ("http2MaxRequests", settings.http2_max_requests),
        ("maxRequestsPerConnection", settings.max_requests_per_connection),
        ("maxRetries", settings.max_retries),
        ("maxConcurrentStreams", settings.max_concurrent_streams),
    ];
    for (word, limit) in limits {
        found.not_negative(&field.key(word), limit);
    }
    found.duration(&field.key("idleTimeout"), settings.idle_timeout);
    if settings.h2_upgrade_policy == H2UpgradePolicy::Upgrade && settings.use_client_protocol {
        let message = "`useClientProtocol` must not be true when `h2UpgradePolicy` is `UPGRADE`";
        found.error(&field.key("useClientProtocol"), "upgrade-conflict", message);
    }
    if let Some(ConnectionKeepalive { interval, timeout }) = &settings.http2_keep_alive {
        let field = field.key("http2KeepAlive");
        required_duration(&field, "interval", *interval, found);
        required_duration(&field, "timeout", *timeout, found);
    }
}

/// A duration that must be given.
pub(super) fn required_duration(field: &Field, word: &str, duration: Option<Duration>, found: &mut Findings) {
    if duration.is_none() {
        found.error(field, "no-duration", format!("`{word}` must be given"));
    }
    found.duration(&field.key(word), duration);
}

/// An idle timeout of less than a millisecond is taken as none.
fn tcp(settings: &TcpSettings, field: &Field, found: &mut Findings) {
    found.not_negative(&field.key("maxConnections"), settings.max_connections);
    found.duration(&field.key("connectTimeout"), settings.connect_timeout);
    found.duration(&field.key("maxConnectionDuration"), settings.max_connection_duration);
    let idle = settings.idle_timeout.filter(|timeout| timeout.as_nanos() / 1_000_000 != 0);
    found.duration(&field.key("idleTimeout"), idle);
    if let Some(keepalive) = &settings.tcp_keepalive {
        let field = field.key("tcpKeepalive");
        found.duration(&field.key("time"), keepalive.time);
        found.duration(&field.key("interval"), keepalive.interval);
    }
}

fn tunnel(tunnel: Option<&TunnelSettings>, field: &Field, found: &mut Findings) {
    let Some(tunnel) = tunnel else { return };
    if !["", "CONNECT", "POST"].contains(&tunnel.protocol.as_str()) {
        let message = format!("`{}` is neither `CONNECT` nor `POST`", tunnel.protocol);
        found.error(&field.key("protocol"), "unknown-protocol", message);
    }
    if domain::exact(&tunnel.target_host).is_err() && !domain::is_ip(&tunnel.target_host) {
        let message = format!("`{}` is neither a domain nor an IP address", tunnel.target_host);
        found.error(&field.key("targetHost"), "bad-host", message);
    }
    found.port(&field.key("targetPort"), tunnel.target_port);
}

fn retry_budget(budget: Option<&RetryBudget>, field: &Field, found: &mut Findings) {
    if let Some(percent) = budget.and_then(|budget| budget.percent) {
        found.percent(&field.key("percent"), percent);
    }
}
