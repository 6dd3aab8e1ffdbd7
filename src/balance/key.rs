//! What makes requests stick to an endpoint: the hash of a header, a cookie, a query parameter or the client's address.
//!
//! Source: Envoy, `HashPolicyImpl`.

use std::net::IpAddr;
use std::time::Duration;

use smallvec::SmallVec;

use super::xxh64::xxh64;
use crate::plan::{HashKey, Policy};
use crate::request::Headers;

/// What a request is hashed by.
#[derive(Clone, Copy)]
pub struct Keyed<'a> {
    /// The request's headers.
    pub headers: &'a dyn Headers,
    /// Path and query.
    pub path: &'a [u8],
    /// The client's address.
    pub source: Option<IpAddr>,
}

impl std::fmt::Debug for Keyed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyed").field("path", &self.path).field("source", &self.source).finish_non_exhaustive()
    }
}

/// The hash of a request, for [`Ask::hash`](super::Ask::hash). `None`: it lacks the key, and goes anywhere.
///
/// ```
/// use meshroute::balance::key::{Keyed, hash};
/// use meshroute::plan::HashKey;
/// let headers = [("cookie", "theme=dark; user=\"jane\"")];
/// let request = Keyed { headers: &headers, path: b"/?user=joe", source: None };
/// let cookie = HashKey::Cookie { name: "user".into(), path: "/".into(), ttl: None };
/// assert_eq!(hash(&cookie, &request), Some(meshroute::balance::xxh64(b"jane", 0)));
/// assert_eq!(hash(&HashKey::Query("user".into()), &request), Some(meshroute::balance::xxh64(b"joe", 0)));
/// ```
pub fn hash(key: &HashKey, request: &Keyed<'_>) -> Option<u64> {
    match key {
        HashKey::Header(name) => of_header(name, request.headers),
        HashKey::Cookie { name, .. } => of_cookie(name, request.headers),
        HashKey::SourceIp => request.source.map(|source| of_text(&source.to_canonical())),
        HashKey::Query(name) => of_query(name, request.path),
    }
}

/// The same for a connection that is not looked into, under a policy that sticks by the client's address.
pub fn of_connection(policy: &Policy, source: IpAddr) -> Option<u64> {
    policy.by_source.then(|| of_text(&source.to_canonical()))
}

/// The cookie for a client that has none, with a value of its own, and the hash that goes with it. `None` where the
/// key is no cookie, or one that is never made. Allocates.
///
/// The text is for `set-cookie`: `user="38046f6f812c2e64"; Max-Age=10; Path=/; HttpOnly`, as Envoy 1.40 has it.
pub fn fresh_cookie(key: &HashKey, draw: u64) -> Option<(u64, String)> {
    let HashKey::Cookie { name, path, ttl: Some(ttl) } = key else { return None };
    let value = format!("{draw:016x}");
    let age = match ttl {
        &Duration::ZERO => String::new(),
        ttl => format!("; Max-Age={}", ttl.as_secs()),
    };
    let path = if path.is_empty() { String::new() } else { format!("; Path={path}") };
    Some((xxh64(value.as_bytes(), 0), format!("{name}=\"{value}\"{age}{path}; HttpOnly")))
}

/// Several values are hashed in their order, not in that of the lines.
fn of_header(name: &str, headers: &dyn Headers) -> Option<u64> {
    let mut values: SmallVec<[SmallVec<[u8; 64]>; 2]> = SmallVec::new();
    headers.any(name, &mut |value| {
        values.push(value.into());
        false
    });
    values.sort_unstable();
    (!values.is_empty()).then(|| values.iter().fold(0, |seed, value| xxh64(value, seed)))
}

fn of_cookie(name: &str, headers: &dyn Headers) -> Option<u64> {
    let mut found = None;
    headers.any("cookie", &mut |line| {
        found = line.split(|byte| *byte == b';').find_map(|pair| {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
            Some(bare.unwrap_or(value)).filter(|value| !value.is_empty()).map(|value| xxh64(value, 0))
        });
        found.is_some()
    });
    found
}

fn of_query(name: &str, path: &[u8]) -> Option<u64> {
    let at = path.iter().position(|byte| *byte == b'?')?;
    path[at + 1..].split(|byte| *byte == b'&').find_map(|pair| {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let found = halves.next() == Some(name.as_bytes());
        found.then(|| xxh64(halves.next().unwrap_or_default(), 0))
    })
}

/// Hashes what is displayed, without allocating: no address is longer than this.
fn of_text(text: &impl std::fmt::Display) -> u64 {
    use std::io::Write as _;
    let mut buffer = [0; 64];
    let mut left = &mut buffer[..];
    // What does not fit is left out, which no address comes to.
    let _ = write!(left, "{text}");
    let unused = left.len();
    xxh64(&buffer[..buffer.len() - unused], 0)
}
