//! The PROXY protocol, versions 1 and 2: what a load balancer says of a connection before the connection itself.
//!
//! A pure function of bytes, as [`tls`](super::tls) is. Take it only from peers that are known to speak it: whoever
//! sends such a header chooses what address the connection seems to come from.
//!
//! ```
//! use meshroute::adapter::proxy_protocol::{Preface, preface};
//!
//! let read = b"PROXY TCP4 192.0.2.1 10.96.0.7 51234 443\r\n\x16\x03\x01";
//! let Preface::Header(header) = preface(read)? else { panic!("it is whole") };
//! let dialled = header.connection().expect("it says the addresses");
//! assert_eq!((dialled.port, dialled.address), (443, Some([10, 96, 0, 7].into())));
//! let rest = &read[header.length()..]; // the connection itself; here, a TLS hello begins
//! assert_eq!(rest[0], 22);
//! # Ok::<(), meshroute::adapter::proxy_protocol::Malformed>(())
//! ```
//!
//! Source: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::request::Connection;

const TEXT_SIGNATURE: &[u8] = b"PROXY ";
const BINARY_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 1's longest line, with its end (section 2.1).
const MAX_LINE: usize = 107;
/// Version 2: signature, version and command, family, length.
const BINARY_HEADER: usize = 16;

/// What stands before a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preface<'a> {
    /// Too few bytes to tell: if it is a header, at least so many more belong to it.
    Short(usize),
    /// A whole header.
    Header(Header<'a>),
    /// None: the connection begins with the first byte.
    Absent,
}

/// What a load balancer says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    addresses: Option<Addresses>,
    length: usize,
    extras: &'a [u8],
}

/// The two ends of a connection, as they were at the load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Addresses {
    /// The client's.
    pub source: SocketAddr,
    /// What the client dialled.
    pub destination: SocketAddr,
}

impl<'a> Header<'a> {
    /// The ends of the connection; `None` where the header leaves them open (`UNKNOWN`, `LOCAL`, Unix sockets): then
    /// they are those of the connection itself.
    pub fn addresses(&self) -> Option<Addresses> {
        self.addresses
    }

    /// How many bytes it takes: the connection itself begins behind them. At most 16 + 65,535.
    pub fn length(&self) -> usize {
        self.length
    }

    /// A value that version 2 adds, by its type: 1 is the ALPN, 2 the host name that the client asked for.
    pub fn extra(&self, kind: u8) -> Option<&'a [u8]> {
        Extras(self.extras).find_map(|extra| extra.ok().filter(|(known, _)| *known == kind)).map(|(_, value)| value)
    }

    /// The connection as the client dialled it, in the router's words.
    pub fn connection(&self) -> Option<Connection<'static>> {
        let dialled = self.addresses?.destination;
        Some(Connection::new(dialled.port()).address(dialled.ip()))
    }
}

/// It begins like a header, and then goes wrong. Such a connection is to be closed (section 2 of the specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection begins with a PROXY header, but {why}")]
pub struct Malformed {
    why: &'static str,
}

const fn broken<T>(why: &'static str) -> Result<T, Malformed> {
    Err(Malformed { why })
}

/// What stands before the connection that begins with these bytes.
///
/// Ask with all that was read so far; once the answer is another than [`Preface::Short`], more bytes don't change it.
/// Allocates nothing.
///
/// # Errors
/// It begins like a header of either version, but is none.
///
/// ```
/// use meshroute::adapter::proxy_protocol::{Preface, preface};
/// assert_eq!(preface(b"GET / HTTP/1.1\r\n"), Ok(Preface::Absent));
/// assert_eq!(preface(b"PRO"), Ok(Preface::Short(3)));
/// assert!(preface(b"PROXY SCTP 192.0.2.1\r\n").is_err());
/// ```
pub fn preface(bytes: &[u8]) -> Result<Preface<'_>, Malformed> {
    if bytes.starts_with(TEXT_SIGNATURE) {
        return text(bytes);
    }
    if bytes.starts_with(BINARY_SIGNATURE) {
        return binary(bytes);
    }
    let missing = |signature: &[u8]| signature.starts_with(bytes).then(|| signature.len() - bytes.len());
    let shortest = missing(TEXT_SIGNATURE).or(missing(BINARY_SIGNATURE));
    // Nothing is known of a connection that has not begun.
    let shortest = if bytes.is_empty() { Some(1) } else { shortest };
    Ok(shortest.map_or(Preface::Absent, Preface::Short))
}

/// Version 1: a line of text.
fn text(bytes: &[u8]) -> Result<Preface<'_>, Malformed> {
    let line = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        let more = if line.ends_with(b"\r") { 1 } else { 2 };
        return if line.len() + more > MAX_LINE { broken("its line does not end") } else { Ok(Preface::Short(more)) };
    };
    let words = std::str::from_utf8(&line[TEXT_SIGNATURE.len()..end]);
    let Ok(words) = words else { return broken("its line is no text") };
    Ok(Preface::Header(Header { addresses: written(words)?, length: end + 2, extras: &[] }))
}

/// `TCP4 192.0.2.1 10.0.0.1 51234 443`; behind `UNKNOWN`, anything may stand.
fn written(words: &str) -> Result<Option<Addresses>, Malformed> {
    if words == "UNKNOWN" || words.starts_with("UNKNOWN ") {
        return Ok(None);
    }
    let mut words = words.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let read: fn(&str) -> Option<IpAddr> = match word() {
        "TCP4" => |text| text.parse().ok().map(IpAddr::V4),
        "TCP6" => |text| text.parse().ok().map(IpAddr::V6),
        _ => return broken("its protocol is none of TCP4, TCP6 and UNKNOWN"),
    };
    let (from, to) = (read(word()), read(word()));
    let (from_port, to_port) = (port(word()), port(word()));
    match (from, to, from_port, to_port, words.next()) {
        (Some(from), Some(to), Some(from_port), Some(to_port), None) => {
            Ok(Some(Addresses { source: SocketAddr::new(from, from_port), destination: SocketAddr::new(to, to_port) }))
        }
        _ => broken("its line is not two addresses and two ports"),
    }
}

/// Digits alone, and no 0 in front of others.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Preface<'_>, Malformed> {
    let Some((header, rest)) = bytes.split_at_checked(BINARY_HEADER) else {
        return Ok(Preface::Short(BINARY_HEADER - bytes.len()));
    };
    let [.., command, family, high, low] = *header else { return Ok(Preface::Absent) };
    if !matches!(command, 0x20 | 0x21) {
        return broken("its version or command is unknown");
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    let Some(content) = rest.get(..length) else { return Ok(Preface::Short(length - rest.len())) };
    let length = BINARY_HEADER + length;
    if command == 0x20 {
        // The load balancer speaks for itself; whatever else it says is to be passed over.
        return Ok(Preface::Header(Header { addresses: None, length, extras: &[] }));
    }
    let (addresses, extras) = packed(family, content)?;
    if Extras(extras).any(|extra| extra.is_err()) {
        return broken("one of its additions is longer than the header");
    }
    Ok(Preface::Header(Header { addresses, length, extras }))
}

/// The addresses of a family, and what stands behind them.
fn packed(family: u8, content: &[u8]) -> Result<(Option<Addresses>, &[u8]), Malformed> {
    let size = match family {
        0x00 => return Ok((None, content)),
        0x11 | 0x12 => 4,
        0x21 | 0x22 => 16,
        0x31 | 0x32 => 108,
        _ => return broken("its family is unknown"),
    };
    // Ports stand behind both addresses; the names of Unix sockets have none.
    let ports = if size == 108 { 0 } else { 4 };
    let Some((block, extras)) = content.split_at_checked(2 * size + ports) else {
        return broken("it is too short for its addresses");
    };
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    let ends = ip(&block[..size]).zip(ip(&block[size..2 * size]));
    let addresses = ends.map(|(from, to)| Addresses {
        source: SocketAddr::new(from, port(2 * size)),
        destination: SocketAddr::new(to, port(2 * size + 2)),
    });
    Ok((addresses, extras))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => Some(Ipv4Addr::from(v4).into()),
        Err(_) => <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into()),
    }
}

/// Type, length, value; again and again. An error where one is longer than what is left, and then no more.
struct Extras<'a>(&'a [u8]);

impl<'a> Iterator for Extras<'a> {
    type Item = Result<(u8, &'a [u8]), ()>;

    fn next(&mut self) -> Option<Self::Item> {
        let whole = std::mem::take(&mut self.0);
        if whole.is_empty() {
            return None;
        }
        let [kind, high, low, rest @ ..] = whole else { return Some(Err(())) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((value, next)) = rest.split_at_checked(length) else { return Some(Err(())) };
        self.0 = next;
        Some(Ok((*kind, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(bytes: &[u8]) -> Header<'_> {
        match preface(bytes) {
            Ok(Preface::Header(header)) => header,
            other => panic!("{other:?}: {}", bytes.escape_ascii()),
        }
    }

    fn ends(bytes: &[u8]) -> Option<(String, String)> {
        header(bytes).addresses().map(|ends| (ends.source.to_string(), ends.destination.to_string()))
    }

    fn why(bytes: &[u8]) -> &'static str {
        preface(bytes).unwrap_err().why
    }

    fn packed_header(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [BINARY_SIGNATURE, &[command, family], &length, content].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0xc0, 0, 1, 187];

    #[test]
    fn a_line_says_both_ends() {
        let wanted = Some(("192.0.2.1:51234".to_string(), "10.0.0.1:443".to_string()));
        assert_eq!(ends(b"PROXY TCP4 192.0.2.1 10.0.0.1 51234 443\r\nrest"), wanted);
        let wanted = Some(("[2001:db8::1]:1".to_string(), "[::1]:65535".to_string()));
        assert_eq!(ends(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"), wanted);
        for unknown in [b"PROXY UNKNOWN\r\n".as_slice(), b"PROXY UNKNOWN ffff::1 x y\r\n"] {
            assert_eq!((ends(unknown), header(unknown).connection().is_none()), (None, true));
            assert_eq!(header(unknown).length(), unknown.len());
        }
    }

    #[test]
    fn a_packed_header_says_both_ends_and_more() {
        let extras = [&V4[..], &[2, 0, 3], b"web", &[1, 0, 2], b"h2"].concat();
        let bytes = [packed_header(0x21, 0x11, &extras), b"rest".to_vec()].concat();
        assert_eq!(ends(&bytes), Some(("192.0.2.1:49152".into(), "10.0.0.1:443".into())));
        let header = header(&bytes);
        assert_eq!((header.extra(2), header.extra(1)), (Some(&b"web"[..]), Some(&b"h2"[..])));
        assert_eq!((header.extra(3), &bytes[header.length()..]), (None, &b"rest"[..]));
        let v6 = [[0; 15].as_slice(), &[1], &[0; 15], &[2], &[0, 80, 1, 187]].concat();
        assert_eq!(ends(&packed_header(0x21, 0x21, &v6)), Some(("[::1]:80".into(), "[::2]:443".into())));
    }

    #[test]
    fn a_header_may_leave_the_ends_open() {
        for bytes in [
            packed_header(0x20, 0x11, &V4),
            packed_header(0x20, 0xff, b"whatever"),
            packed_header(0x21, 0x00, b""),
            packed_header(0x21, 0x31, &[0; 216]),
        ] {
            assert_eq!((ends(&bytes), header(&bytes).length()), (None, bytes.len()));
        }
    }

    #[test]
    fn what_is_short_is_waited_for_and_what_is_none_is_absent() {
        let line = b"PROXY TCP4 192.0.2.1 10.0.0.1 51234 443\r\n".to_vec();
        for bytes in [line, packed_header(0x21, 0x11, &[&V4[..], &[2, 0, 1, b'a']].concat())] {
            for have in 0..bytes.len() {
                let Ok(Preface::Short(more)) = preface(&bytes[..have]) else { panic!("{have} bytes") };
                assert!(more > 0 && have + more <= bytes.len());
            }
        }
        for bytes in [b"G".as_slice(), b"PROXX", b"\r\n\r\nQ", b"POST / HTTP/1.1", &[22, 3, 1]] {
            assert_eq!(preface(bytes), Ok(Preface::Absent));
        }
    }

    #[test]
    fn what_is_broken_says_how() {
        for line in ["TCP4 192.0.2.1 10.0.0.1 1", "TCP4 ::1 10.0.0.1 1 2", "TCP4 192.0.2.1 10.0.0.1 1 2 3"] {
            assert!(why(format!("PROXY {line}\r\n").as_bytes()).contains("two addresses"), "{line}");
        }
        for ports in ["01 2", "+1 2", "1 65536", "1  2", "1 ", "-1 2"] {
            assert!(why(format!("PROXY TCP4 1.2.3.4 1.2.3.4 {ports}\r\n").as_bytes()).contains("ports"), "{ports}");
        }
        assert!(why(b"PROXY UNKNOWNS\r\n").contains("protocol"));
        assert!(why(b"PROXY \xff\r\n").contains("no text"));
        assert!(why(&[b"PROXY UNKNOWN ".as_slice(), &[b'a'; 92]].concat()).contains("does not end"));
        assert!(why(&packed_header(0x11, 0x11, &V4)).contains("version"));
        assert!(why(&packed_header(0x22, 0x11, &V4)).contains("command"));
        assert!(why(&packed_header(0x21, 0x13, &V4)).contains("family"));
        assert!(why(&packed_header(0x21, 0x11, &V4[1..])).contains("too short"));
        for extra in [&[1][..], &[1, 0], &[1, 0, 2, 0]] {
            assert!(why(&packed_header(0x21, 0x11, &[&V4, extra].concat())).contains("additions"));
        }
    }

    #[test]
    fn the_longest_line_is_just_taken() {
        let line = |length: usize| [b"PROXY UNKNOWN ".as_slice(), &vec![b'a'; length - 16], b"\r\n"].concat();
        assert_eq!(header(&line(MAX_LINE)).length(), MAX_LINE);
        assert!(why(&line(MAX_LINE + 1)).contains("does not end"));
    }
}
