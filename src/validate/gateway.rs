//! A Gateway: its name and its servers.

use std::collections::BTreeSet;

use super::field::Field;
use super::findings::Findings;
use super::protocol::{self, Protocol};
use super::{domain, tls};
use crate::model::Gateway;
use crate::model::gateway::{Port, Server, ServerTlsMode, ServerTlsSettings};

/// Says that a Gateway was made from one of the Gateway API.
const SEMANTICS: &str = "internal.istio.io/gateway-semantics";

/// Checks a Gateway.
pub(super) fn check(gateway: &Gateway, found: &mut Findings) {
    let name = &gateway.metadata.name;
    let from_gateway_api = gateway.metadata.annotations.get(SEMANTICS).is_some_and(|what| what == "gateway");
    if !domain::is_label(name) && !from_gateway_api {
        let message = format!("`{name}` is no name for a Gateway: it is no DNS label");
        found.error(&Field::root("metadata").key("name"), "bad-name", message);
    }
    let field = Field::spec().key("servers");
    if gateway.spec.servers.is_empty() {
        found.error(&Field::spec(), "no-servers", "a Gateway must have `servers`");
    }
    for (i, it) in gateway.spec.servers.iter().enumerate() {
        server(it, from_gateway_api, &field.at(i), found);
    }
    unique_ports(&gateway.spec.servers, &field, found);
}

fn server(server: &Server, from_gateway_api: bool, field: &Field, found: &mut Findings) {
    if server.hosts.is_empty() {
        found.error(field, "no-host", "a server must have `hosts`");
    }
    for (i, entry) in server.hosts.iter().enumerate() {
        let field = field.key("hosts").at(i);
        let (namespace, name) = entry.split_once('/').map_or((None, entry.as_str()), |(ns, name)| (Some(ns), name));
        if let Some(namespace) = namespace {
            found.check(&field, "bad-namespace", visible_namespace(namespace, from_gateway_api));
        }
        found.check(&field, "bad-host", host(name, true));
    }
    let before = found.count();
    port(server.port.as_ref(), &server.bind, &field.key("port"), found);
    let port_is_good = found.count() == before;
    bind(server.port.as_ref(), &server.bind, &field.key("bind"), found);
    tls::server(server.tls.as_ref(), &field.key("tls"), found);
    if let (Some(port), true) = (&server.port, port_is_good) {
        protocol_and_tls(port, server.tls.as_ref(), &field.key("tls"), found);
    }
}

/// The namespace before a host: `*`, `.` or a name.
fn visible_namespace(namespace: &str, from_gateway_api: bool) -> Result<(), String> {
    if ["*", "."].contains(&namespace) || (namespace == "~" && from_gateway_api) || domain::is_label(namespace) {
        return Ok(());
    }
    Err(format!("`{namespace}` is neither `*` nor `.` nor the name of a namespace"))
}

/// A host of a Gateway's server, or one that a Sidecar imports: a domain with a dot, or `*`; a gateway also takes an IP
/// address, if it has a dot.
pub(super) fn host(host: &str, at_gateway: bool) -> Result<(), String> {
    if host != "*" && !host.contains('.') {
        return Err(format!("`{host}` is a short name; write the whole domain"));
    }
    if at_gateway && domain::is_ip(host) {
        return Ok(());
    }
    domain::wildcard(host)?;
    if domain::is_partial_wildcard(host) {
        return Err(format!("`{host}` has a wildcard for a part of a label only; write `*.`"));
    }
    Ok(())
}

fn port(port: Option<&Port>, bind: &str, field: &Field, found: &mut Findings) {
    let Some(port) = port else { return found.error(field, "no-port", "a server must have a `port`") };
    if Protocol::of(&port.protocol) == Protocol::Unknown {
        found.error(&field.key("protocol"), "unknown-protocol", protocol::unknown(&port.protocol));
    }
    if port.number > 0 || !bind.starts_with(domain::UNIX) {
        found.port(&field.key("number"), port.number);
    }
    if port.target_port > 0 {
        found.error(&field.key("targetPort"), "no-effect", "`targetPort` has no effect at a gateway");
    }
    if port.name.is_empty() {
        found.error(&field.key("name"), "no-port-name", "a port must have a name");
    }
}

fn bind(port: Option<&Port>, bind: &str, field: &Field, found: &mut Findings) {
    if bind.is_empty() {
        return;
    }
    let Some(path) = bind.strip_prefix(domain::UNIX) else {
        return found.check(field, "bad-bind", domain::ip(bind));
    };
    found.check(field, "bad-bind", domain::unix(path));
    if port.is_some_and(|port| port.number != 0) {
        found.error(field, "bad-bind", "the port's number must be 0 for a Unix domain socket");
    }
}

/// What is TLS needs settings for it; what is plain HTTP may only redirect to it; nothing else has any.
fn protocol_and_tls(port: &Port, tls: Option<&ServerTlsSettings>, field: &Field, found: &mut Findings) {
    match (Protocol::of(&port.protocol), tls) {
        (Protocol::Tls, None) => {
            found.error(field, "no-tls", format!("protocol `{}` needs `tls`", port.protocol));
        }
        (Protocol::Http, Some(tls)) if !only_redirects(tls) => {
            let message = "a server of plain HTTP has no `tls` but `httpsRedirect`";
            found.error(field, "tls-on-plain-port", message);
        }
        (Protocol::Tcp | Protocol::Udp, Some(_)) => {
            found.error(field, "tls-on-plain-port", format!("protocol `{}` has no `tls`", port.protocol));
        }
        _ => {}
    }
}

fn only_redirects(tls: &ServerTlsSettings) -> bool {
    let files = [&tls.ca_certificates, &tls.private_key, &tls.server_certificate];
    let passes = matches!(tls.mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough);
    passes && files.iter().all(|file| file.is_empty())
}

fn unique_ports(servers: &[Server], field: &Field, found: &mut Findings) {
    let mut names = BTreeSet::new();
    for (i, server) in servers.iter().enumerate() {
        let Some(port) = &server.port else { continue };
        if !names.insert(port.name.as_str()) {
            let message = format!("the port name `{}` is given more than once", port.name);
            found.error(&field.at(i).key("port").key("name"), "duplicate-port-name", message);
        }
        let redirects = server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
        if redirects && Protocol::of(&port.protocol) != Protocol::Http {
            let message = format!("`httpsRedirect` is for servers of HTTP, not of `{}`", port.protocol);
            found.warning(&field.at(i).key("tls").key("httpsRedirect"), "redirect-without-http", message);
        }
    }
}
