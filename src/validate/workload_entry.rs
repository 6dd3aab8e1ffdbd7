//! A WorkloadEntry, and the endpoints of a ServiceEntry.

use std::collections::BTreeSet;

use super::field::Field;
use super::findings::Findings;
use super::{domain, labels};
use crate::model::{WorkloadEntry, WorkloadEntrySpec};

/// The service's ports that an endpoint may speak of.
pub(super) enum Ports<'a> {
    /// Any: the service is not known. The address may be a domain then.
    Any,
    /// These.
    Of(&'a BTreeSet<&'a str>),
}

/// Checks a WorkloadEntry.
pub(super) fn check(entry: &WorkloadEntry, found: &mut Findings) {
    endpoint(&entry.spec, &Ports::Any, &Field::spec(), found);
}

/// Checks an endpoint. One without address and network is looked at no further.
pub(super) fn endpoint(entry: &WorkloadEntrySpec, known: &Ports<'_>, field: &Field, found: &mut Findings) {
    let at = field.key("address");
    if entry.address.is_empty() && entry.network.is_empty() {
        return found.error(&at, "no-address", "a workload must have an `address`, or a `network`");
    }
    if entry.address.is_empty() {
        let message = format!("the address is left to network `{}`", entry.network);
        found.warning(&at, "no-address", message);
    } else if let Some(path) = entry.address.strip_prefix(domain::UNIX) {
        found.check(&at, "bad-address", domain::unix(path));
        socket_ports(entry, known, field, found);
    } else {
        found.check(&at, "bad-address", address(&entry.address, known));
    }
    lengths(entry, field, found);
    ports(entry, known, field, found);
    labels::check(&entry.labels, &field.key("labels"), found);
}

fn address(address: &str, known: &Ports<'_>) -> Result<(), String> {
    match known {
        Ports::Of(_) => domain::ip(address),
        Ports::Any if domain::is_ip(address) || domain::exact(address).is_ok() => Ok(()),
        Ports::Any => Err(format!("`{address}` is neither a domain nor an IP address")),
    }
}

/// A socket has no ports, so it serves a service that has one.
fn socket_ports(entry: &WorkloadEntrySpec, known: &Ports<'_>, field: &Field, found: &mut Findings) {
    if !entry.ports.is_empty() {
        found.error(&field.key("ports"), "ports-of-socket", "a Unix domain socket has no `ports`");
    }
    if matches!(known, Ports::Of(names) if names.len() != 1) {
        let message = "a Unix domain socket serves a service of exactly one port";
        found.error(&field.key("address"), "ports-of-socket", message);
    }
}

/// The ports of an endpoint, by the names that the service gives them.
pub(super) fn ports(entry: &WorkloadEntrySpec, known: &Ports<'_>, field: &Field, found: &mut Findings) {
    for (name, port) in &entry.ports {
        let field = field.key("ports").key(name);
        if matches!(known, Ports::Of(names) if !names.contains(name.as_str())) {
            found.error(&field, "unknown-port", format!("the service has no port `{name}`"));
        }
        if !domain::is_label(name) {
            found.error(&field, "bad-port-name", format!("`{name}` is no DNS label"));
        }
        found.port(&field, *port);
    }
}

/// Bounds of the CRD's schema.
fn lengths(entry: &WorkloadEntrySpec, field: &Field, found: &mut Findings) {
    let bounds = [
        ("address", &entry.address, 256),
        ("network", &entry.network, 2048),
        ("locality", &entry.locality, 2048),
        ("serviceAccount", &entry.service_account, 253),
    ];
    for (word, text, most) in bounds {
        if text.chars().count() > most {
            found.error(&field.key(word), "too-long", format!("`{word}` has at most {most} characters"));
        }
    }
}
