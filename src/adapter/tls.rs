//! Server name and protocols out of the first bytes of a TLS connection, which is passed on as it is.
//!
//! A pure function of bytes: it opens no socket, keeps nothing between calls, and never panics. Whoever accepts
//! connections reads until it has an answer, asks the router, and sends on what was read with all that follows.
//!
//! ```
//! use meshroute::adapter::tls::{Opening, opening};
//! use meshroute::{Connection, Outcome, Plan, Roll, Router};
//!
//! let router = Router::compile(Plan::default())?;
//! # let mut socket = std::io::Cursor::new(b"GET / HTTP/1.1\r\n\r\n");
//! let mut read = Vec::new();
//! let connection = Connection::new(443);
//! let decision = loop {
//!     match opening(&read)? {
//!         Opening::Hello(hello) => break router.connect(&connection.tls(hello.tls()), &Roll::random()),
//!         Opening::Plain => break router.connect(&connection, &Roll::random()),
//!         // If it is a hello, as many as that will come.
//!         Opening::Short(more) => std::io::copy(&mut std::io::Read::take(&mut socket, more as u64), &mut read)?,
//!     };
//! };
//! assert!(matches!(decision.outcome, Outcome::Passthrough)); // the empty plan claims nothing
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What stands in an encrypted hello (ECH) stays hidden; the outer name is what is seen.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;

use crate::request::TlsHello;

/// How many bytes of a connection are looked at, at most: 16 KiB, records' headers among them (Envoy's TLS inspector,
/// `TLS_MAX_CLIENT_HELLO`).
pub const MAX_OPENING: usize = 16 * 1024;

/// A record's own header.
const RECORD_HEADER: usize = 5;
/// The header of the message inside.
const MESSAGE_HEADER: usize = 4;
/// Plain records are no longer (RFC 8446, section 5.1).
const MAX_RECORD: usize = 1 << 14;

/// What a connection begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening<'a> {
    /// Too few bytes to tell: if it is a hello, at least so many more belong to it.
    ///
    /// A client that waits for the server to speak first never sends them; how long to wait is for the caller to say.
    Short(usize),
    /// TLS, and the whole hello is there.
    Hello(ClientHello<'a>),
    /// No TLS.
    Plain,
}

/// What a TLS client says first (RFC 8446, section 4.1.2; older versions alike).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    message: Cow<'a, [u8]>,
    /// Within the message.
    server_name: Option<Range<usize>>,
    /// The list within the message, each item behind a byte that says how long it is.
    protocols: Range<usize>,
}

impl ClientHello<'_> {
    /// The name of the server that the client wants (SNI, RFC 6066, section 3), as it was sent: ASCII, 1 to 255 bytes.
    pub fn server_name(&self) -> Option<&str> {
        let name = self.message.get(self.server_name.clone()?)?;
        std::str::from_utf8(name).ok()
    }

    /// The protocols that the client speaks inside (ALPN, RFC 7301), the one it likes best first: `h2`, `http/1.1`.
    pub fn protocols(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.message.get(self.protocols.clone()).unwrap_or_default();
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first()?;
            let (protocol, next) = behind.split_at_checked((*length).into())?;
            rest = next;
            Some(protocol)
        })
    }

    /// In the router's words.
    pub fn tls(&self) -> TlsHello<'_> {
        TlsHello { sni: self.server_name() }
    }
}

/// A connection begins like TLS, and then goes wrong.
///
/// Envoy's TLS inspector closes a connection that is [too long](Self::is_too_long), and takes any other for one
/// without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection begins like TLS, but {kind}")]
pub struct Malformed {
    kind: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("its hello does not end within {MAX_OPENING} bytes")]
    TooLong,
    #[error("{0}")]
    Broken(&'static str),
}

impl Malformed {
    const TOO_LONG: Malformed = Malformed { kind: Fault::TooLong };

    const fn broken(why: &'static str) -> Self {
        Malformed { kind: Fault::Broken(why) }
    }

    /// Whether the hello may be good, and is only longer than [`MAX_OPENING`].
    pub fn is_too_long(&self) -> bool {
        self.kind == Fault::TooLong
    }
}

/// What the connection that begins with these bytes is.
///
/// Ask with all that was read so far; once the answer is another than [`Opening::Short`], more bytes don't change it
/// (an error may become another error). It may come in any pieces, and a hello may be cut into any records. Bytes behind the hello are not looked at.
///
/// # Errors
/// It begins like TLS, but the hello is broken or too long.
///
/// # Allocates
/// Nothing, but for a hello that was cut into several records: as much as the hello is long.
///
/// ```
/// use meshroute::adapter::tls::{Opening, opening};
/// assert_eq!(opening(b""), Ok(Opening::Short(1)));
/// assert_eq!(opening(b"SSH-2.0-OpenSSH_9.6\r\n"), Ok(Opening::Plain));
/// assert_eq!(opening(&[22, 3, 1]), Ok(Opening::Short(2))); // the rest of a record's header
/// ```
pub fn opening(bytes: &[u8]) -> Result<Opening<'_>, Malformed> {
    if !begins_like_tls(bytes) {
        return Ok(Opening::Plain);
    }
    match unwrapped(&bytes[..bytes.len().min(MAX_OPENING)])? {
        Message::Whole(message) => hello(message).map(Opening::Hello),
        Message::Short(more) if bytes.len().saturating_add(more) > MAX_OPENING => Err(Malformed::TOO_LONG),
        Message::Short(more) => Ok(Opening::Short(if bytes.is_empty() { 1 } else { more })),
    }
}

/// A record of handshake messages of TLS or SSL 3, and a hello in it; as far as can be seen.
fn begins_like_tls(bytes: &[u8]) -> bool {
    let known = |at: usize, wanted: u8| bytes.get(at).is_none_or(|byte| *byte == wanted);
    let sized = bytes.get(..RECORD_HEADER).is_none_or(|header| record_length(header).is_ok());
    known(0, 22) && known(1, 3) && sized && known(RECORD_HEADER, 1)
}

/// A handshake message without the records around it.
enum Message<'a> {
    Short(usize),
    Whole(Cow<'a, [u8]>),
}

fn unwrapped(mut bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut parts = Parts::default();
    while let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER) {
        let length = record_length(header)?;
        let (part, next) = rest.split_at(length.min(rest.len()));
        parts.push(part);
        match parts.wanted() {
            Some(wanted) if wanted > MAX_OPENING => return Err(Malformed::TOO_LONG),
            Some(wanted) if wanted <= parts.length => return Ok(Message::Whole(parts.joined(wanted))),
            _ if part.len() < length => return Ok(Message::Short(missing(&parts, length - part.len()))),
            _ => bytes = next,
        }
    }
    Ok(Message::Short(RECORD_HEADER - bytes.len()))
}

/// How much is missing at least: the rest of the record, or of a message that ends before it does.
fn missing(parts: &Parts<'_>, of_record: usize) -> usize {
    let of_message = parts.wanted().unwrap_or(MESSAGE_HEADER).saturating_sub(parts.length);
    of_record.min(of_message)
}

fn record_length(header: &[u8]) -> Result<usize, Malformed> {
    match *header {
        [22, 3, _, high, low] => match usize::from(u16::from_be_bytes([high, low])) {
            0 => Err(Malformed::broken("a record is empty")),
            length if length > MAX_RECORD => Err(Malformed::broken("a record is longer than any may be")),
            length => Ok(length),
        },
        _ => Err(Malformed::broken("something else comes before the hello ends")),
    }
}

/// The pieces of a message, in order. Nearly always it is one.
#[derive(Default)]
struct Parts<'a> {
    all: SmallVec<[&'a [u8]; 1]>,
    length: usize,
}

impl<'a> Parts<'a> {
    fn push(&mut self, part: &'a [u8]) {
        self.length += part.len();
        self.all.push(part);
    }

    /// How long the message is with its header, once that is known.
    fn wanted(&self) -> Option<usize> {
        let mut header = self.all.iter().copied().flatten().skip(1).map(|byte| usize::from(*byte));
        let length = header.next()? << 16 | header.next()? << 8 | header.next()?;
        Some(MESSAGE_HEADER + length)
    }

    fn joined(&self, length: usize) -> Cow<'a, [u8]> {
        match self.all.as_slice() {
            [only] => Cow::Borrowed(&only[..length]),
            several => Cow::Owned(several.iter().copied().flatten().copied().take(length).collect()),
        }
    }
}

/// Reads a whole message.
fn hello(message: Cow<'_, [u8]>) -> Result<ClientHello<'_>, Malformed> {
    let mut cursor = Cursor { bytes: &message, at: MESSAGE_HEADER, end: message.len() };
    cursor.skip(2 + 32)?; // version and random
    cursor.list(1)?; // session
    cursor.list(2)?; // cipher suites
    cursor.list(1)?; // compressions
    let extensions = if cursor.is_at_end() { None } else { Some(cursor.list(2)?) };
    cursor.must_end()?;
    let (mut server_name, mut protocols) = (None, None);
    if let Some(mut extensions) = extensions {
        while !extensions.is_at_end() {
            let kind = extensions.number(2)?;
            let content = extensions.list(2)?;
            match kind {
                0 => set_once(&mut server_name, name_in(content)?)?,
                16 => set_once(&mut protocols, protocols_in(content)?)?,
                _ => {}
            }
        }
    }
    Ok(ClientHello { message, server_name, protocols: protocols.unwrap_or_default() })
}

fn set_once(place: &mut Option<Range<usize>>, value: Range<usize>) -> Result<(), Malformed> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed::broken("an extension stands twice in its hello")),
    }
}

/// One name of the only kind there is. The syntax has room for more, but nobody ever sent any, and BoringSSL, which
/// Envoy asks, refuses them.
fn name_in(mut extension: Cursor<'_>) -> Result<Range<usize>, Malformed> {
    let mut names = extension.list(2)?;
    extension.must_end()?;
    if names.number(1)? != 0 {
        return Err(Malformed::broken("its server name is no host name"));
    }
    let name = names.list(2)?;
    names.must_end()?;
    let text = name.rest();
    if !(1..=255).contains(&text.len()) || !text.is_ascii() || text.contains(&0) {
        return Err(Malformed::broken("its server name is no host name"));
    }
    Ok(name.at..name.end)
}

fn protocols_in(mut extension: Cursor<'_>) -> Result<Range<usize>, Malformed> {
    let mut list = extension.list(2)?;
    extension.must_end()?;
    let whole = list.at..list.end;
    while !list.is_at_end() {
        if list.list(1)?.is_at_end() {
            return Err(Malformed::broken("one of its protocols has no name"));
        }
    }
    if whole.is_empty() {
        return Err(Malformed::broken("it names no protocol where it should"));
    }
    Ok(whole)
}

/// A place in the message, and where what is being read ends.
struct Cursor<'m> {
    bytes: &'m [u8],
    at: usize,
    end: usize,
}

impl<'m> Cursor<'m> {
    /// INVARIANT: `at <= end <= bytes.len()`; only `skip` and `list` move either.
    fn rest(&self) -> &'m [u8] {
        self.bytes.get(self.at..self.end).unwrap_or_default()
    }

    fn is_at_end(&self) -> bool {
        self.at == self.end
    }

    fn must_end(&self) -> Result<(), Malformed> {
        if self.is_at_end() { Ok(()) } else { Err(Malformed::broken("its hello has something left over")) }
    }

    fn skip(&mut self, count: usize) -> Result<(), Malformed> {
        if count > self.end - self.at {
            return Err(Malformed::broken("its hello ends too early"));
        }
        self.at += count;
        Ok(())
    }

    /// So many bytes as a number.
    fn number(&mut self, width: usize) -> Result<usize, Malformed> {
        let bytes = self.rest();
        self.skip(width)?;
        Ok(bytes[..width].iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What stands behind a length of so many bytes.
    fn list(&mut self, width: usize) -> Result<Cursor<'m>, Malformed> {
        let length = self.number(width)?;
        let at = self.at;
        self.skip(length)?;
        Ok(Cursor { bytes: self.bytes, at, end: self.at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(width: usize, content: &[u8]) -> Vec<u8> {
        let mut bytes = content.len().to_be_bytes()[size_of::<usize>() - width..].to_vec();
        bytes.extend_from_slice(content);
        bytes
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [kind.to_be_bytes().to_vec(), list(2, content)].concat()
    }

    fn sni(name: &[u8]) -> Vec<u8> {
        extension(0, &list(2, &[vec![0], list(2, name)].concat()))
    }

    fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
        let names: Vec<u8> = protocols.iter().flat_map(|name| list(1, name)).collect();
        extension(16, &list(2, &names))
    }

    fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
        let body =
            [vec![3; 34], list(1, &[7; 32]), list(2, &[0x13, 0x01]), list(1, &[0]), list(2, &extensions.concat())];
        [vec![1], list(3, &body.concat())].concat()
    }

    fn record(content: &[u8]) -> Vec<u8> {
        [vec![22, 3, 1], list(2, content)].concat()
    }

    /// In records of so many bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(record).collect()
    }

    fn usual() -> Vec<u8> {
        message(&[extension(43, &[2, 3, 4]), sni(b"Web.example"), alpn(&[b"h2", b"http/1.1"]), extension(21, &[0; 40])])
    }

    fn names(hello: &ClientHello<'_>) -> (Option<String>, Vec<String>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (hello.server_name().map(str::to_string), hello.protocols().map(text).collect())
    }

    fn broken(bytes: &[u8]) -> String {
        let error = opening(bytes).unwrap_err();
        assert!(!error.is_too_long());
        error.to_string()
    }

    #[test]
    fn name_and_protocols_are_read_whatever_the_records() {
        for size in [1, 2, 3, 4, 5, 37, 38, 39, 100, 10_000] {
            let bytes = records(&usual(), size);
            let Ok(Opening::Hello(hello)) = opening(&bytes) else { panic!("records of {size}") };
            assert_eq!(names(&hello), (Some("Web.example".into()), vec!["h2".into(), "http/1.1".into()]));
            assert_eq!(hello.tls().sni, Some("Web.example"));
            assert_eq!(matches!(hello.message, Cow::Borrowed(_)), size == 10_000);
        }
    }

    #[test]
    fn as_long_as_bytes_are_missing_it_says_how_many_at_least() {
        for size in [1, 3, 50, 10_000] {
            let bytes = records(&usual(), size);
            let mut have = 0;
            let mut asked = 0;
            while let Ok(Opening::Short(more)) = opening(&bytes[..have]) {
                assert!(more > 0 && have + more <= bytes.len(), "{more} of {} after {have}", bytes.len());
                (have, asked) = (have + more, asked + 1);
            }
            assert_eq!(have, bytes.len());
            for have in 0..bytes.len() {
                assert!(matches!(opening(&bytes[..have]), Ok(Opening::Short(_))), "{have} bytes of {size} each");
            }
            // One record: its header, the message's, the rest; and the first byte, to see whether it is TLS at all.
            assert!(size < 10_000 || asked == 4, "{asked} times");
        }
    }

    #[test]
    fn what_follows_the_hello_is_not_looked_at() {
        let early = [record(&usual()), vec![23, 3, 3, 0, 1, 0]].concat();
        assert!(matches!(opening(&early), Ok(Opening::Hello(_))));
        let longer = record(&[usual(), vec![99; 40]].concat());
        let Ok(Opening::Hello(hello)) = opening(&longer) else { panic!("no hello") };
        assert_eq!(hello.server_name(), Some("Web.example"));
    }

    #[test]
    fn a_hello_need_not_name_anything() {
        let bytes = record(&message(&[]));
        let Ok(Opening::Hello(hello)) = opening(&bytes) else { panic!("no hello") };
        assert_eq!(names(&hello), (None, vec![]));
        let mut ancient = message(&[]);
        ancient.truncate(ancient.len() - 2);
        ancient[3] -= 2;
        assert!(matches!(opening(&record(&ancient)), Ok(Opening::Hello(_))), "no extensions at all");
    }

    #[test]
    fn what_is_no_tls_is_plain_at_once() {
        for bytes in
            [b"G".as_slice(), b"\0", b"PROXY TCP4 ", &[22, 2], &[22, 3, 1, 0, 5, 2], &[22, 3, 1, 0, 0], &[21, 3, 3]]
        {
            assert_eq!(opening(bytes), Ok(Opening::Plain), "{bytes:?}");
        }
        // A hello of SSL 2, as clients sent it for the sake of old servers until about 2010.
        assert_eq!(opening(&[0x80, 0x2e, 1, 3, 1]), Ok(Opening::Plain));
    }

    #[test]
    fn a_hello_that_is_longer_than_any_is_not_waited_for() {
        let mut long = record(&usual());
        long[6] = 1; // 64 KiB and more
        let error = opening(&long[..9]).unwrap_err();
        assert!(error.is_too_long());
        assert_eq!(error.to_string(), "the connection begins like TLS, but its hello does not end within 16384 bytes");
        let padded = message(&[extension(21, &[0; 9_000])]);
        assert!(matches!(opening(&records(&padded, 1_000)), Ok(Opening::Hello(_))));
        assert!(opening(&records(&padded, 1)).unwrap_err().is_too_long(), "its records' headers are counted");
    }

    #[test]
    fn what_is_broken_says_how() {
        let after = |header: &[u8]| broken(&[&record(&usual()[..20]), header].concat());
        assert!(after(&[22, 3, 1, 0, 0]).contains("a record is empty"));
        assert!(after(&[22, 3, 1, 0x40, 1]).contains("longer than any"));
        let cut = [record(&usual()[..20]), vec![21, 3, 3, 0, 2]].concat();
        assert!(broken(&cut).contains("something else"));
        let short = record(&[1, 0, 0, 2, 3, 3]);
        assert!(broken(&short).contains("ends too early"));
        let over = record(&[vec![1], list(3, &[usual()[4..].to_vec(), vec![0]].concat())].concat());
        assert!(broken(&over).contains("left over"));
        for name in [b"".as_slice(), b"a\0b", "\u{e9}.example".as_bytes(), &[b'a'; 256]] {
            assert!(broken(&record(&message(&[sni(name)]))).contains("no host name"), "{name:?}");
        }
        let address = extension(0, &list(2, &[vec![1], list(2, b"x")].concat()));
        assert!(broken(&record(&message(&[address]))).contains("no host name"));
        assert!(broken(&record(&message(&[sni(b"a"), sni(b"a")]))).contains("twice"));
        assert!(broken(&record(&message(&[alpn(&[])]))).contains("no protocol"));
        assert!(broken(&record(&message(&[alpn(&[b"h2", b""])]))).contains("no name"));
    }
}
