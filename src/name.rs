//! Host names and the patterns that stand for them.
//!
//! Knows Istio's algebra of names (which pattern covers, overlaps or beats which). Knows nothing of namespaces,
//! services or short names: whoever asks has qualified the name before.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A host name, or a pattern with `*` in front: `reviews.prod.svc.cluster.local`, `*.example.com`, `*`.
///
/// Compared as Istio compares hosts: byte by byte, case-sensitive
/// ([`pkg/config/host`](https://pkg.go.dev/istio.io/istio/pkg/config/host)). A virtual host's domains are lower-cased
/// before they get here.
///
/// ```
/// use meshroute::HostPattern;
/// let all = HostPattern::parse("*.example.com")?;
/// assert!(all.covers("a.b.example.com") && !all.covers("example.com"));
/// assert!(HostPattern::parse("a.*.com").is_err());
/// # Ok::<(), meshroute::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(Arc<str>);

impl HostPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// The text is empty, longer than 255 bytes, has `*` elsewhere than in front, or white space, control characters
    /// or `/` anywhere. What more Istio's admission asks of a host is not asked here.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let fault = if text.is_empty() {
            "a host must not be empty"
        } else if text.len() > 255 {
            "a host has at most 255 bytes"
        } else if text.bytes().skip(1).any(|b| b == b'*') {
            "`*` may only stand in front of a host"
        } else if text.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control() || b == b'/') {
            "a host has no white space, control characters or `/`"
        } else {
            return Ok(HostPattern(text.into()));
        };
        Err(NameError { text: text.chars().take(80).collect(), fault })
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it begins with `*`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// What must follow: the text after `*`, or all of an exact name.
    pub fn suffix(&self) -> &str {
        self.0.strip_prefix('*').unwrap_or(&self.0)
    }

    /// Whether a concrete name falls under this pattern. `*.x` covers `a.x` and `a.b.x`, not `x`.
    pub fn covers(&self, name: &str) -> bool {
        if self.is_wildcard() { name.ends_with(self.suffix()) } else { name == &*self.0 }
    }

    /// Whether some name falls under both (Istio's `Name.Matches`).
    pub fn overlaps(&self, other: &HostPattern) -> bool {
        match (self.is_wildcard(), other.is_wildcard()) {
            (true, true) => {
                let (a, b) = (self.suffix(), other.suffix());
                if a.len() >= b.len() { a.ends_with(b) } else { b.ends_with(a) }
            }
            (true, false) => self.covers(&other.0),
            (false, true) => other.covers(&self.0),
            (false, false) => self == other,
        }
    }

    /// Whether everything under this falls under `other` as well (Istio's `Name.SubsetOf`).
    pub fn is_within(&self, other: &HostPattern) -> bool {
        match (self.is_wildcard(), other.is_wildcard()) {
            (true, true) => self.0.len() >= other.0.len() && self.suffix().ends_with(other.suffix()),
            (true, false) => false,
            (false, _) => other.covers(&self.0),
        }
    }

    /// More specific first: exact before wildcard, then longer before shorter, then by alphabet.
    pub fn by_specificity(&self, other: &HostPattern) -> Ordering {
        self.is_wildcard()
            .cmp(&other.is_wildcard())
            .then(other.0.len().cmp(&self.0.len()))
            .then_with(|| self.0.cmp(&other.0))
    }

    /// The same pattern in lower case.
    pub fn to_lowercase(&self) -> HostPattern {
        HostPattern(self.0.to_ascii_lowercase().into())
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HostPattern {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        HostPattern::parse(&text)
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> String {
        pattern.0.to_string()
    }
}

/// A text that cannot be a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no host: {fault}")]
pub struct NameError {
    text: String,
    fault: &'static str,
}

/// The host of an authority: what stands before the last `:`, unless that belongs to an IPv6 literal.
///
/// As Envoy's `getPortStart`: the port is cut whatever it says (`a:x` is `a`).
pub fn host_of(authority: &str) -> &str {
    if let Some(host) = before_port(authority) {
        return host;
    }
    match memchr::memrchr2(b':', b']', authority.as_bytes()) {
        Some(at) if authority.as_bytes()[at] == b':' => &authority[..at],
        _ => authority,
    }
}

/// The host of an authority, if a port stands among its last eight bytes, which are looked at all at once.
#[inline]
pub(crate) fn before_port(authority: &str) -> Option<&str> {
    let last = u64::from_le_bytes(*authority.as_bytes().last_chunk()?);
    // The uppermost bit of each byte that is `byte`.
    let where_it_is = |byte: u8| {
        let differs = last ^ u64::from_le_bytes([byte; 8]);
        let low = 0x7F7F_7F7F_7F7F_7F7F;
        !(((differs & low) + low) | differs | low)
    };
    let (colons, brackets) = (where_it_is(b':'), where_it_is(b']'));
    (colons > brackets).then(|| &authority[..authority.len() - 1 - colons.leading_zeros() as usize / 8])
}

/// Expands a short name as Istio does: what has no dot gets the namespace of the resource that says it.
///
/// `*`, IP literals and everything with a dot stay as they are, so `reviews.prod` is *not* the service `reviews` in
/// `prod` (istio `pkg/config/resource`, `ResolveShortnameToFQDN`).
pub fn qualify(host: &str, namespace: &str, domain: &str) -> String {
    if host.is_empty() || host == "*" || host.contains('.') || host.parse::<IpAddr>().is_ok() {
        return host.to_string();
    }
    if namespace.is_empty() { format!("{host}.svc.{domain}") } else { format!("{host}.{namespace}.svc.{domain}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_cut_wherever_its_colon_stands() {
        let plainly = |text: &'static str| match text.rfind([':', ']']) {
            Some(at) if text[at..].starts_with(':') => &text[..at],
            _ => text,
        };
        let names = [
            "",
            "a",
            "a.b",
            "seven.c",
            "eight.co",
            "reviews.prod.svc.cluster.local",
            "[::1]",
            "::1",
            "é.example",
            "\u{ba}é",
        ];
        let ports = [
            "",
            ":",
            ":1",
            ":80",
            ":65535",
            ":1234567",
            ":12345678",
            ":x",
            ":é",
            "]:",
            ":]",
            "]",
            "::",
            ":1:2",
            "\u{3a}\u{7f}",
        ];
        for text in names.iter().flat_map(|name| ports.map(|port| &*format!("{name}{port}").leak())) {
            assert_eq!(host_of(text), plainly(text), "{text:?}");
        }
    }

    fn host(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    #[test]
    fn overlap_looks_both_ways() {
        for (a, b, overlap) in [
            ("*.foo.com", "foo.com", false),
            ("*foo.com", "foo.com", true),
            ("*foo.com", "barfoo.com", true),
            ("*.com", "a.b.com", true),
            ("*", "anything", true),
            ("*.foo.com", "*.com", true),
            ("*.foo.com", "*.bar.com", false),
            ("a.com", "A.com", false),
        ] {
            assert_eq!(host(a).overlaps(&host(b)), overlap, "{a} {b}");
            assert_eq!(host(b).overlaps(&host(a)), overlap, "{b} {a}");
        }
    }

    #[test]
    fn within_looks_one_way() {
        assert!(host("a.com").is_within(&host("*.com")));
        assert!(!host("*.com").is_within(&host("a.com")));
        assert!(host("*.a.com").is_within(&host("*.com")));
        assert!(!host("*.com").is_within(&host("*.a.com")));
        assert!(host("*").is_within(&host("*")));
    }

    #[test]
    fn specific_names_come_first() {
        let mut hosts: Vec<_> = ["*", "*.com", "b.com", "*.a.com", "longer.com", "a.com"].map(host).into();
        hosts.sort_by(HostPattern::by_specificity);
        let sorted: Vec<_> = hosts.iter().map(HostPattern::as_str).collect();
        assert_eq!(sorted, ["longer.com", "a.com", "b.com", "*.a.com", "*.com", "*"]);
    }

    #[test]
    fn a_port_is_cut_whatever_it_says() {
        for (authority, name) in
            [("a:80", "a"), ("a", "a"), ("a:x", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", ""), (":", "")]
        {
            assert_eq!(host_of(authority), name);
        }
    }

    #[test]
    fn only_a_name_without_dots_is_expanded() {
        assert_eq!(qualify("reviews", "prod", "cluster.local"), "reviews.prod.svc.cluster.local");
        for kept in ["reviews.prod", "*", "10.0.0.1", "::1", ""] {
            assert_eq!(qualify(kept, "prod", "cluster.local"), kept);
        }
    }
}
