//! What the fuzz target `opening` does with its bytes: the first bytes of connections, hostile ones and good ones.
//!
//! Included by path, beside [`plans`](super::plans). Panics when something is wrong, and only then.

use std::net::{IpAddr, SocketAddr};

use meshroute::adapter::proxy_protocol::{Addresses, Header, Preface, preface};
use meshroute::adapter::tls::{ClientHello, MAX_OPENING, Opening, opening as tls_opening};

use super::plans::Choices;

/// Hostile bytes: nothing panics, and an answer stands. Good ones made of them: what was written is read.
pub fn opening(data: &[u8]) {
    tls_settles(data);
    proxy_settles(data);
    tls_settles(&[&[22, 3, 1], data].concat());
    proxy_settles(&[b"PROXY TCP4 ", data].concat());
    proxy_settles(&[b"\r\n\r\n\0\r\nQUIT\n\x21", data].concat());
    let mut choices = Choices::new(data);
    while !choices.is_empty() {
        hello_comes_through(&mut choices);
        line_comes_through(&mut choices);
        packed_comes_through(&mut choices);
    }
}

/// Some beginnings of the bytes: the first ones all, and some later.
fn beginnings(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..=bytes.len()).filter(|&end| end < 300 || end.is_multiple_of(97)).map(|end| &bytes[..end])
}

/// Once there is an answer, more bytes don't change it; and nothing good is whole before as many came as were wanted.
fn tls_settles(bytes: &[u8]) {
    let whole = tls_opening(bytes);
    for beginning in beginnings(bytes) {
        match tls_opening(beginning) {
            Ok(Opening::Short(more)) => {
                assert!(more > 0 && beginning.len() + more <= MAX_OPENING);
                let almost = bytes.get(..beginning.len() + more - 1);
                almost.into_iter().for_each(|almost| assert!(!matches!(tls_opening(almost), Ok(Opening::Hello(_)))));
            }
            Ok(answer) => assert_eq!(Ok(answer), whole),
            Err(_) => assert!(whole.is_err()),
        }
    }
    if let Ok(Opening::Hello(hello)) = whole {
        assert!(hello.server_name().is_none_or(|name| name.is_ascii() && (1..=255).contains(&name.len())));
        assert!(hello.protocols().all(|protocol| !protocol.is_empty()));
    }
}

fn proxy_settles(bytes: &[u8]) {
    let whole = preface(bytes);
    for beginning in beginnings(bytes) {
        match preface(beginning) {
            Ok(Preface::Short(more)) => {
                assert!(more > 0 && beginning.len() + more <= 16 + 65_535);
                let almost = bytes.get(..beginning.len() + more - 1);
                almost.into_iter().for_each(|almost| assert!(!matches!(preface(almost), Ok(Preface::Header(_)))));
            }
            answer => assert_eq!(answer, whole),
        }
    }
    if let Ok(Preface::Header(header)) = whole {
        assert!(header.length() <= bytes.len());
        (0..=255).for_each(|kind| assert!(header.extra(kind).is_none_or(|value| value.len() < bytes.len())));
    }
}

fn list(width: usize, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("it is short").to_be_bytes();
    [&length[4 - width..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), list(2, content)].concat()
}

/// A hello with a name and protocols, between extensions that nobody knows.
fn hello_comes_through(choices: &mut Choices<'_>) {
    let text = |choices: &mut Choices<'_>| -> Vec<u8> {
        let letters = choices.bytes(200).iter().map(|byte| b'a' + byte % 26);
        letters.chain([b'.']).collect()
    };
    let name = choices.chance(80).then(|| text(choices));
    let protocols: Vec<Vec<u8>> = (0..choices.below(4)).map(|_| text(choices)).collect();
    let mut extensions = vec![extension(0xfafa, choices.bytes(255))];
    if let Some(name) = &name {
        extensions.insert(choices.below(2), extension(0, &list(2, &[vec![0], list(2, name)].concat())));
    }
    if !protocols.is_empty() {
        let names: Vec<u8> = protocols.iter().flat_map(|name| list(1, name)).collect();
        extensions.insert(choices.below(2), extension(16, &list(2, &names)));
    }
    let body = [vec![3; 34], list(1, choices.bytes(32)), vec![0, 2, 19, 1, 1, 0], list(2, &extensions.concat())];
    let message = [vec![1], list(3, &body.concat())].concat();
    let wire = in_records(&message, choices);
    tls_settles(&wire);
    let end = wire.len();
    match tls_opening(&[&wire, choices.bytes(20)].concat()) {
        Ok(Opening::Hello(hello)) => same_names(&hello, name.as_deref(), &protocols),
        Err(error) => assert!(error.is_too_long() && end > MAX_OPENING, "{error}"),
        other => panic!("{other:?}"),
    }
    (0..end.min(300)).for_each(|end| assert!(matches!(tls_opening(&wire[..end]), Ok(Opening::Short(_)))));
}

fn same_names(hello: &ClientHello<'_>, name: Option<&[u8]>, protocols: &[Vec<u8>]) {
    assert_eq!(hello.server_name().map(str::as_bytes), name);
    assert_eq!(hello.protocols().collect::<Vec<_>>(), protocols);
    assert_eq!(hello.tls().sni, hello.server_name());
}

fn in_records(message: &[u8], choices: &mut Choices<'_>) -> Vec<u8> {
    let (mut wire, mut rest) = (Vec::new(), message);
    while !rest.is_empty() {
        let length = if choices.chance(60) { 1 + choices.below(20) } else { rest.len() };
        let (part, next) = rest.split_at(length.min(rest.len()));
        wire.extend([22, 3, choices.one(&[1, 3])]);
        wire.extend(list(2, part));
        rest = next;
    }
    wire
}

fn address(choices: &mut Choices<'_>, v6: bool) -> SocketAddr {
    let ip: IpAddr = match v6 {
        true => [choices.number().to_be_bytes(), choices.number().to_be_bytes()].concat()[..]
            .try_into()
            .map(|octets: [u8; 16]| octets.into())
            .expect("it has 16 bytes"),
        false => [choices.byte(), choices.byte(), choices.byte(), choices.byte()].into(),
    };
    SocketAddr::new(ip, u16::from_be_bytes([choices.byte(), choices.byte()]))
}

fn ends(choices: &mut Choices<'_>) -> (bool, SocketAddr, SocketAddr) {
    let v6 = choices.chance(50);
    (v6, address(choices, v6), address(choices, v6))
}

fn line_comes_through(choices: &mut Choices<'_>) {
    let (v6, from, to) = ends(choices);
    let family = if v6 { "TCP6" } else { "TCP4" };
    let line = format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port());
    read_back(line.as_bytes(), (from, to), choices);
}

fn packed_comes_through(choices: &mut Choices<'_>) {
    let (v6, from, to) = ends(choices);
    let mut content = Vec::new();
    for end in [from, to] {
        match end.ip() {
            IpAddr::V4(ip) => content.extend(ip.octets()),
            IpAddr::V6(ip) => content.extend(ip.octets()),
        }
    }
    [from, to].iter().for_each(|end| content.extend(end.port().to_be_bytes()));
    let extra = choices.bytes(100);
    content.push(2);
    content.extend(list(2, extra));
    let family = if v6 { 0x21 } else { 0x11 };
    let bytes = [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family][..], &list(2, &content)].concat();
    assert_eq!(read_back(&bytes, (from, to), choices).extra(2), Some(extra));
}

fn read_back<'b>(bytes: &'b [u8], ends: (SocketAddr, SocketAddr), choices: &mut Choices<'_>) -> Header<'b> {
    proxy_settles(&[bytes, choices.bytes(20)].concat());
    let Ok(Preface::Header(header)) = preface(bytes) else { panic!("{}", bytes.escape_ascii()) };
    let Some(Addresses { source, destination, .. }) = header.addresses() else { panic!("no addresses") };
    assert_eq!(((source, destination), header.length()), (ends, bytes.len()));
    header
}
