//! The client: writes requests byte by byte and reads what comes back.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// All header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How long it took.
    pub took: Duration,
}

impl Answer {
    /// Reads the answer out of all bytes of a connection; `None` where there is none.
    pub fn parse(bytes: &[u8]) -> Option<Answer> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).to_string();
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let line =
            |line: &str| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().into()));
        let headers: Vec<(String, String)> = lines.filter_map(line).collect();
        let rest = &bytes[end + 4..];
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if chunked { dechunked(rest) } else { rest.to_vec() };
        Some(Answer { status, headers, body, took: Duration::ZERO })
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn dechunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(chunk) = size.filter(|size| *size > 0).and_then(|size| rest.get(end + 2..end + 2 + size)) else {
            break;
        };
        body.extend_from_slice(chunk);
        rest = rest.get(end + 4 + chunk.len()..).unwrap_or_default();
    }
    body
}

/// Where a connection claims to come from, one for each case.
pub fn source(case: usize) -> SocketAddr {
    let (high, low) = (case / 50_000, case % 50_000);
    SocketAddr::new(IpAddr::from([192, 0, 2, high as u8]), 10_000 + low as u16)
}

/// Sends bytes over a connection that claims to be from `case` to `dialled`; gives back everything until it is closed.
pub fn exchange(
    entry: SocketAddr,
    case: usize,
    dialled: SocketAddr,
    bytes: &[u8],
) -> std::io::Result<(Vec<u8>, Duration)> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(entry)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let from = source(case);
    let mut all =
        format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), dialled.ip(), from.port(), dialled.port()).into_bytes();
    all.extend_from_slice(bytes);
    stream.write_all(&all)?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // Whoever closes with bytes unread resets.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => drop(other?),
    }
    Ok((answer, began.elapsed()))
}

/// A TLS hello with a server name (RFC 8446, section 4.1.2): as much of one as it takes to be recognised.
pub fn hello(name: &str) -> Vec<u8> {
    let sized = |bytes: Vec<u8>| [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
    let extension = |kind: u16, body: Vec<u8>| [&kind.to_be_bytes()[..], &sized(body)].concat();
    let server_name = extension(0, sized([vec![0], sized(name.as_bytes().to_vec())].concat()));
    let groups = extension(10, sized(vec![0, 29]));
    let signatures = extension(13, sized(vec![4, 3, 8, 4]));
    let versions = extension(43, vec![4, 3, 4, 3, 3]);
    let key = extension(51, sized([vec![0, 29], sized(vec![9; 32])].concat()));
    let extensions = sized([server_name, groups, signatures, versions, key].concat());
    let ciphers = sized(vec![0x13, 0x01, 0xc0, 0x2f]);
    let body = [vec![3, 3], vec![7; 32], vec![0], ciphers, vec![1, 0], extensions].concat();
    let handshake = [vec![1, 0], sized(body)].concat();
    [vec![0x16, 3, 1], sized(handshake)].concat()
}
