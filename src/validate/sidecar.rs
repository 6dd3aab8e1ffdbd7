//! A Sidecar: what a workload's proxy takes in and can reach.

use std::collections::{BTreeMap, BTreeSet};

use super::field::Field;
use super::findings::Findings;
use super::protocol::{self, Protocol};
use super::{domain, gateway, http, labels, tls, traffic_policy};
use crate::model::Sidecar;
use crate::model::gateway::{ServerTlsMode, ServerTlsSettings};
use crate::model::sidecar::{
    CaptureMode, IstioEgressListener, IstioIngressListener, OutboundMode, OutboundTrafficPolicy, SidecarPort,
};

/// Checks a Sidecar. One with a bad selector, or with nothing in it, is looked at no further.
pub(super) fn check(sidecar: &Sidecar, found: &mut Findings) {
    let (spec, field) = (&sidecar.spec, Field::spec());
    if let Some(selector) = &spec.workload_selector {
        let labels_field = field.key("workloadSelector").key("labels");
        if !labels::selector(&selector.labels, &labels_field, found) {
            return;
        }
    }
    let empty = spec.egress.is_empty()
        && spec.ingress.is_empty()
        && spec.outbound_traffic_policy.is_none()
        && spec.inbound_connection_pool.is_none();
    if empty {
        return found.error(&field, "empty-sidecar", "a Sidecar must have something in it");
    }
    ingress(&spec.ingress, &field.key("ingress"), found);
    traffic_policy::connection_pool(spec.inbound_connection_pool.as_ref(), &field.key("inboundConnectionPool"), found);
    egress(&spec.egress, &field.key("egress"), found);
    if let Some(policy) = &spec.outbound_traffic_policy {
        outbound(policy, &field.key("outboundTrafficPolicy"), found);
    }
}

fn ingress(listeners: &[IstioIngressListener], field: &Field, found: &mut Findings) {
    let mut ports = BTreeSet::new();
    for (i, listener) in listeners.iter().enumerate() {
        let field = field.at(i);
        let Some(port) = &listener.port else {
            found.error(&field, "no-port", "an inbound listener must have a `port`");
            continue;
        };
        names_and_targets(port, &field.key("port"), found);
        found.port(&field.key("port").key("number"), port.number);
        if !listener.bind.is_empty() {
            found.check(&field.key("bind"), "bad-bind", domain::ip(&listener.bind));
        }
        if !ports.insert(port.number) {
            found.error(&field.key("port"), "duplicate-port", format!("port `{}` is given before", port.number));
        }
        found.check(&field.key("defaultEndpoint"), "bad-endpoint", default_endpoint(&listener.default_endpoint));
        if let Some(settings) = &listener.tls {
            ingress_tls(settings, port, &field.key("tls"), found);
        }
        ingress_pool(listener, port, &field.key("connectionPool"), found);
    }
}

/// What holds for every listener's port.
fn names_and_targets(port: &SidecarPort, field: &Field, found: &mut Findings) {
    if port.target_port > 0 {
        found.error(&field.key("targetPort"), "no-effect", "`targetPort` has no effect in a Sidecar");
    }
    if !port.name.is_empty() && !domain::is_label(&port.name) {
        found.error(&field.key("name"), "bad-port-name", format!("`{}` is no DNS label", port.name));
    }
    found.check(&field.key("protocol"), "unknown-protocol", protocol::known_or_empty(&port.protocol));
}

fn ingress_pool(listener: &IstioIngressListener, port: &SidecarPort, field: &Field, found: &mut Findings) {
    traffic_policy::connection_pool(listener.connection_pool.as_ref(), field, found);
    let limits_http = listener.connection_pool.as_ref().is_some_and(|pool| pool.http.is_some());
    if limits_http && Protocol::of(&port.protocol) != Protocol::Http {
        let message = format!("limits for HTTP have no effect on protocol `{}`", port.protocol);
        found.warning(&field.key("http"), "no-effect", message);
    }
}

/// Empty, an address of the workload itself with a port, or the path of a Unix domain socket.
fn default_endpoint(endpoint: &str) -> Result<(), String> {
    if endpoint.is_empty() {
        return Ok(());
    }
    if let Some(path) = endpoint.strip_prefix(domain::UNIX) {
        return domain::unix(path);
    }
    let form = || {
        format!(
            "`{endpoint}` is no endpoint; expected `127.0.0.1:port`, `0.0.0.0:port`, `[::1]:port`, `[::]:port` or \
             `unix://` and a path"
        )
    };
    let (host, port) = host_and_port(endpoint).ok_or_else(form)?;
    let own = ["", "127.0.0.1", "0.0.0.0", "::1", "::"].contains(&host);
    let good = port.parse::<i64>().is_ok_and(|port| (1..=65535).contains(&port));
    if own && good { Ok(()) } else { Err(form()) }
}

/// Cuts `host:port` and `[host]:port`, as Go's `net.SplitHostPort`.
fn host_and_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    let inner = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let stray = |part: &str| part.contains(['[', ']']);
    (!stray(inner) && !stray(port)).then_some((inner, port))
}

fn ingress_tls(settings: &ServerTlsSettings, port: &SidecarPort, field: &Field, found: &mut Findings) {
    let unsupported = [
        ("subjectAltNames", !settings.subject_alt_names.is_empty()),
        ("httpsRedirect", settings.https_redirect),
        ("credentialName", !settings.credential_name.is_empty()),
        ("credentialNames", !settings.credential_names.is_empty()),
        ("tlsCertificates", !settings.tls_certificates.is_empty()),
    ];
    for (word, _) in unsupported.into_iter().filter(|(_, given)| *given) {
        found.error(&field.key(word), "not-supported", format!("a Sidecar does not support `{word}`"));
    }
    if matches!(settings.mode, ServerTlsMode::IstioMutual | ServerTlsMode::AutoPassthrough) {
        let message = format!("a Sidecar does not support mode `{}`", settings.mode);
        found.error(&field.key("mode"), "not-supported", message);
    }
    if Protocol::of(&port.protocol) != Protocol::Tls {
        let message = format!("`tls` needs a port of protocol `HTTPS` or `TLS`, not `{}`", port.protocol);
        found.error(field, "tls-on-plain-port", message);
    }
    tls::server(Some(settings), field, found);
}

fn egress(listeners: &[IstioEgressListener], field: &Field, found: &mut Findings) {
    let (mut ports, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    for (i, listener) in listeners.iter().enumerate() {
        let field = field.at(i);
        match &listener.port {
            None if i + 1 < listeners.len() => {
                found.error(&field, "catch-all-not-last", "a listener without port must be the last one");
            }
            None => {}
            Some(port) => {
                egress_port(listener, port, &field, found);
                let new = if port.number == 0 { sockets.insert(&listener.bind) } else { ports.insert(port.number) };
                if !new {
                    found.error(&field.key("port"), "duplicate-port", "this port or socket is given before");
                }
            }
        }
        egress_hosts(&listener.hosts, &field, found);
    }
}

fn egress_port(listener: &IstioEgressListener, port: &SidecarPort, field: &Field, found: &mut Findings) {
    names_and_targets(port, &field.key("port"), found);
    let bind = field.key("bind");
    if port.number != 0 {
        found.port(&field.key("port").key("number"), port.number);
        if !listener.bind.is_empty() {
            found.check(&bind, "bad-bind", domain::ip(&listener.bind));
        }
        return;
    }
    match listener.bind.strip_prefix(domain::UNIX) {
        Some(path) => found.check(&bind, "bad-bind", domain::unix(path)),
        None => found.error(&bind, "bad-bind", "a port of number 0 needs a `bind` that begins with `unix://`"),
    }
    if listener.capture_mode == CaptureMode::Iptables {
        let message = "traffic cannot be redirected to a Unix domain socket";
        found.error(&field.key("captureMode"), "bad-capture-mode", message);
    }
}

fn egress_hosts(hosts: &[String], field: &Field, found: &mut Findings) {
    if hosts.is_empty() {
        return found.error(field, "no-host", "an outbound listener must have `hosts`");
    }
    let mut known: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (i, entry) in hosts.iter().enumerate() {
        let field = field.key("hosts").at(i);
        let Some((namespace, host)) = entry.split_once('/') else {
            found.error(&field, "bad-host", format!("`{entry}` has no namespace; write `namespace/host`"));
            continue;
        };
        egress_host(namespace, host, &field, found);
        if !namespace.starts_with('~') {
            let namespace = if namespace == "." { found.namespace() } else { namespace.to_owned() };
            repeated(entry, host, known.entry(namespace).or_default(), &field, found);
        }
    }
    if known.len() > 1 && known.get("*").is_some_and(|hosts| hosts.contains("*")) {
        let message = "`*/*` imports everything; other entries add nothing";
        found.warning(&field.key("hosts"), "superfluous-host", message);
    }
}

/// `~` before the namespace excludes; alone it excludes from every namespace.
fn egress_host(namespace: &str, host: &str, field: &Field, found: &mut Findings) {
    let place = namespace.strip_prefix('~').unwrap_or(namespace);
    let everywhere = place.is_empty() && namespace == "~";
    if !everywhere && !["*", "."].contains(&place) && !domain::is_label(place) {
        let message = format!("`{namespace}` is neither `*`, `.`, `~` nor the name of a namespace");
        found.error(field, "bad-namespace", message);
    }
    found.check(field, "bad-host", gateway::host(host, false));
}

/// Istio warns of what an earlier entry of the same namespace has already imported.
fn repeated<'a>(entry: &str, host: &'a str, known: &mut BTreeSet<&'a str>, field: &Field, found: &mut Findings) {
    let covered = if host == "*" { !known.is_empty() } else { known.contains(host) || known.contains("*") };
    if covered {
        found.warning(field, "duplicate-host", format!("`{entry}` repeats another entry of its namespace"));
    }
    known.insert(host);
}

fn outbound(policy: &OutboundTrafficPolicy, field: &Field, found: &mut Findings) {
    let Some(proxy) = &policy.egress_proxy else { return };
    let field = field.key("egressProxy");
    if policy.mode != OutboundMode::AllowAny {
        return found.error(&field, "bad-egress-proxy", "`egressProxy` needs mode `ALLOW_ANY`");
    }
    found.check(&field.key("host"), "bad-host", domain::exact(&proxy.host));
    if proxy.port.is_none() {
        return found.error(&field, "no-port", "`egressProxy` must have a `port`");
    }
    http::destination(proxy, &field, found);
}
