//! What is a DNS label, a domain, an address or a subnet to Istio's admission
//! (`pkg/config/validation/agent/validation.go`, `pkg/config/labels/instance.go`).

use std::net::IpAddr;

/// The longest label.
const LABEL: usize = 63;
/// The longest domain.
const DOMAIN: usize = 255;
/// What the address of a Unix domain socket begins with.
pub(super) const UNIX: &str = "unix://";

/// Letters of either case, digits and inner hyphens; of any length but none.
pub(super) fn has_label_shape(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

/// A DNS label. Upper case is fine.
pub(super) fn is_label(text: &str) -> bool {
    text.len() <= LABEL && has_label_shape(text)
}

/// A DNS label that may be `*`, or begin with `*` or `*-`.
fn is_wildcard_label(text: &str) -> bool {
    if text.len() > LABEL {
        return false;
    }
    match text.strip_prefix('*') {
        Some("") => true,
        Some(rest) => has_label_shape(rest.strip_prefix('-').unwrap_or(rest)),
        None => has_label_shape(text),
    }
}

fn length(domain: &str) -> Result<(), String> {
    if domain.is_empty() {
        return Err("a domain must not be empty".into());
    }
    if domain.len() > DOMAIN {
        return Err(format!("a domain has at most {DOMAIN} bytes"));
    }
    Ok(())
}

fn all_labels(domain: &str, part: &str) -> Result<(), String> {
    let last = part.rsplit('.').next().unwrap_or(part);
    if last.parse::<i64>().is_ok() {
        return Err(format!("`{domain}` is no domain: its last label must not be a number"));
    }
    if part.is_empty() {
        return Ok(());
    }
    let part = part.strip_suffix('.').unwrap_or(part);
    match part.split('.').find(|label| !is_label(label)) {
        Some(label) => Err(format!("`{domain}` is no domain: `{label}` is no DNS label")),
        None => Ok(()),
    }
}

/// A domain without wildcards: `reviews`, `a.example.com`, `a.example.com.`.
pub(super) fn exact(domain: &str) -> Result<(), String> {
    length(domain)?;
    all_labels(domain, domain)
}

/// A domain whose first label may be `*` or begin with it. A single label may be a number here.
pub(super) fn wildcard(domain: &str) -> Result<(), String> {
    length(domain)?;
    let (first, rest) = domain.split_once('.').map_or((domain, None), |(first, rest)| (first, Some(rest)));
    if !is_wildcard_label(first) {
        return Err(format!("`{domain}` is no domain: `{first}` is no DNS label"));
    }
    rest.map_or(Ok(()), |rest| all_labels(domain, rest))
}

/// A domain with or without wildcard, or a name that a gateway in `AUTO_PASSTHROUGH` mode is given as SNI:
/// `outbound_.80_._.reviews.default.svc.cluster.local`.
pub(super) fn sni(domain: &str) -> Result<(), String> {
    if !domain.starts_with("outbound_") {
        return wildcard(domain);
    }
    length(domain)?;
    let mut parts = domain.split('_').skip(1);
    let (port, host) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default());
    let named = host.trim_matches('.').bytes().any(|b| b.is_ascii_alphabetic());
    if named && port.bytes().any(|b| b.is_ascii_digit()) {
        return Ok(());
    }
    Err(format!("`{domain}` is no domain; such a name has the form `outbound_.<port>_.<subset>_.<host>`"))
}

/// Whether `*` stands elsewhere than alone or before a dot: `*foo.com`.
pub(super) fn is_partial_wildcard(host: &str) -> bool {
    host.contains('*') && host.len() != 1 && !host.starts_with("*.")
}

/// An IP address; one of IPv6 may name its zone.
pub(super) fn is_ip(text: &str) -> bool {
    match text.split_once('%') {
        Some((address, zone)) => !zone.is_empty() && matches!(address.parse(), Ok(IpAddr::V6(_))),
        None => text.parse::<IpAddr>().is_ok(),
    }
}

/// An IP address, or a message that it is none.
pub(super) fn ip(text: &str) -> Result<(), String> {
    if is_ip(text) { Ok(()) } else { Err(format!("`{text}` is no IP address")) }
}

/// An IP address, or a range of them: `10.0.0.0/8`.
pub(super) fn subnet(text: &str) -> Result<(), String> {
    let Some((address, bits)) = text.split_once('/') else { return ip(text) };
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return Err(format!("`{text}` is no range of IP addresses")),
    };
    let plain = bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    match bits.parse::<u8>() {
        Ok(bits) if plain && bits <= most => Ok(()),
        _ => Err(format!("`{text}` is no range of IP addresses")),
    }
}

/// What follows `unix://`: an abstract name `@..`, or an absolute path to a file.
pub(super) fn unix(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("the path of a Unix domain socket must not be empty".into());
    }
    if path.starts_with('@') || (path.starts_with('/') && !path.ends_with('/')) {
        return Ok(());
    }
    Err(format!("`{path}` is no absolute path to a file"))
}
