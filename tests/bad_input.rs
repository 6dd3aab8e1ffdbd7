//! What the small mesh does with what no well-meaning client sends, at each kind of door: a sidecar's for what goes out and for
//! what comes in, a gateway's with and without TLS, and discovery's own. Each is refused or closed, nothing of it is taken
//! for another request, and who comes next is served. Knows nothing of the library.
#![cfg(unix)]

#[path = "support/served.rs"]
mod served;
#[path = "support/tls.rs"]
mod tls;

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use served::{Folder, PATIENCE, Served, exchange, try_get};
use tls::{Root, knock};

const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop, labels: {app: shop}}
spec: {containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c, ports: [{containerPort: 81}]}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example]}
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [shop.example]
    tls: {mode: SIMPLE, credentialName: shop}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: [shop.example]
  gateways: [edge]
  http: [{route: [{destination: {host: shop}}]}]
"#;

/// A door of the mesh, how a request's target begins there, and whom it names.
struct Door {
    name: &'static str,
    socket: String,
    target: &'static str,
    host: &'static str,
}

impl Door {
    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A text as it is written at this door: `{}` is where the target begins.
    fn of(&self, text: &str) -> String {
        text.replace("{}", self.target).replace("Host: shop\r\n", &format!("Host: {}\r\n", self.host))
    }

    /// Everything that comes back until the connection ends.
    fn says(&self, text: &str) -> String {
        let mut stream = self.dial();
        // Who has heard enough does not listen to the end.
        let _ = stream.write_all(self.of(text).as_bytes());
        rest(&mut stream)
    }

    fn serves(&self) -> bool {
        let head = self.of("GET {}/name HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
        exchange(&self.socket, head, Vec::new()).is_some_and(|answer| answer.status() == "200" && answer.body == "shop")
    }
}

fn rest(stream: &mut TcpStream) -> String {
    let (started, mut bytes) = (Instant::now(), Vec::new());
    let _ = stream.read_to_end(&mut bytes);
    assert!(started.elapsed() < PATIENCE, "the connection does not end: {}", String::from_utf8_lossy(&bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Mesh {
    served: Served,
    root: Root,
    _folder: Folder,
}

impl Mesh {
    fn start(name: &str) -> Self {
        let (folder, root) = (Folder::empty(name), Root::new("test root"));
        std::fs::create_dir_all(folder.0.join("secrets/shop")).unwrap();
        let issued = root.issue("shop.example");
        folder.write("secrets/shop/tls.crt", &issued.pem());
        folder.write("secrets/shop/tls.key", &issued.key_pem());
        folder.write("shop.yaml", SHOP);
        let mesh = Mesh { served: Served::start(&folder), root, _folder: folder };
        let started = Instant::now();
        for door in mesh.doors() {
            while !door.serves() {
                assert!(started.elapsed() < PATIENCE, "{} does not serve", door.name);
            }
        }
        mesh
    }

    fn doors(&self) -> [Door; 3] {
        let status = self.served.status();
        let mut subscribers = status["subscribers"].as_array().unwrap().iter();
        let sidecar = subscribers.find(|one| one["part"] == "sidecar default/shop").unwrap();
        let inbound = sidecar["inbound"]["8080"].as_str().unwrap().to_string();
        [
            Door { name: "out", socket: self.served.sidecar("default/client"), target: "http://shop", host: "shop" },
            Door { name: "in", socket: inbound, target: "", host: "shop" },
            Door { name: "gateway", socket: self.served.place("port 80"), target: "", host: "shop.example" },
        ]
    }

    /// How many requests the pod has seen.
    fn count(&self) -> u64 {
        let answer = try_get(&self.served.sidecar("default/client"), "http://shop/count", "").unwrap();
        answer.body.parse().unwrap()
    }

    fn serves(&self) {
        assert!(self.doors().iter().all(Door::serves));
    }
}

/// Whatever comes after it must never be taken for a request of its own.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: shop\r\n\r\n";

/// Heads that are none, and the statuses with which they may be refused; `{}` is where the target begins.
const REFUSED: [(&str, &str); 27] = [
    // Lengths that contradict each other, or are none.
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "400"),
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: 3, 4\r\n\r\nabcd", "400"),
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: +3\r\n\r\nabc", "400"),
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: 0x3\r\n\r\nabc", "400"),
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: 3 3\r\n\r\nabc", "400"),
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: 99999999999999999999\r\n\r\nabc", "400"),
    // A length beside chunks, which is how one request is made to look like two.
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\nCONTENT-LENGTH: 6\r\n\r\n0\r\n\r\n", "400"),
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\nContent-Length: x\n\n0\r\n\r\n", "400"),
    // Codings that one reader may know and the next one not.
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"),
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "400 501"),
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400 501"),
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: identity\r\n\r\n", "400 501"),
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n", "400 501"),
    ("POST {}/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400"),
    ("POST {}/echo HTTP/1.0\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 501"),
    // Lines that one reader may join or part where the next one does not.
    ("GET {}/name HTTP/1.1\r\nHost: shop\r\nx-a: b\r\n folded\r\n\r\n", "400"),
    ("GET {}/name HTTP/1.1\r\n folded: x\r\nHost: shop\r\n\r\n", "400"),
    ("GET {}/name HTTP/1.1\r\nHost: shop\r\nx-a: b\rx-b: c\r\n\r\n", "400"),
    ("GET {}/name HTTP/1.1\rHost: shop\r\n\r\n", "400"),
    ("GET {}/name HTTP/1.1\r\nHost: shop\r\nx-a: b\0c\r\n\r\n", "400"),
    ("GET {}/name HTTP/1.1\r\nHost: shop\r\n: b\r\n\r\n", "400"),
    ("GET {}/name HTTP/1.1\r\nHost: shop\r\nnothing\r\n\r\n", "400"),
    // Lines that are none.
    ("GET {}/na me HTTP/1.1\r\nHost: shop\r\n\r\n", "400"),
    ("GET {}/name HTTP/3.0\r\nHost: shop\r\n\r\n", "400"),
    ("GET {}/name\r\nHost: shop\r\n\r\n", "400"),
    ("GET {}/name HTTP/1.1\r\nHost: shop\r\nHost: other\r\n\r\n", "400"),
];

#[test]
fn what_is_no_http_is_refused_at_every_door() {
    let mesh = Mesh::start("refused");
    what_may_be_read_in_two_ways_is_refused(&mesh);
    bodies_that_break_off_or_lie_end_their_connection(&mesh);
    heads_that_are_too_large_are_refused(&mesh);
    nothing_gets_around_http_where_a_port_is_declared_as_http(&mesh);
    discovery_hears_nobody_who_says_nonsense(&mesh);
}

fn what_may_be_read_in_two_ways_is_refused(mesh: &Mesh) {
    for door in mesh.doors() {
        let before = mesh.count();
        for (request, wanted) in REFUSED {
            let answer = door.says(&format!("{request}{HIDDEN}"));
            let status = answer.split(' ').nth(1).unwrap_or("none");
            assert!(
                answer.starts_with("HTTP/1.") && wanted.contains(status),
                "{}: {answer} for {request:?}",
                door.name
            );
            assert_eq!(answer.matches("HTTP/1.").count(), 1, "{}: {answer} for {request:?}", door.name);
        }
        if door.target.is_empty() {
            let answer = door.says(&format!("GET /name HTTP/1.1\r\n\r\n{HIDDEN}"));
            assert!(answer.starts_with("HTTP/1.1 400 ") && answer.matches("HTTP/1.").count() == 1, "{answer}");
        }
        assert_eq!(mesh.count(), before, "{}: nothing of it came to the pod", door.name);
        assert!(door.serves());
    }
}

fn bodies_that_break_off_or_lie_end_their_connection(mesh: &Mesh) {
    let chunked = "POST {}/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bodies = [
        "zz\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "-1\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc",
        " 3\r\nabc\r\n0\r\n\r\n",
    ];
    for door in mesh.doors() {
        for body in bodies {
            let mut stream = door.dial();
            let hidden = if body == "3\r\nabc" { "" } else { HIDDEN };
            stream.write_all(door.of(&format!("{chunked}{body}{hidden}")).as_bytes()).unwrap();
            if hidden.is_empty() {
                stream.shutdown(Shutdown::Write).unwrap();
            }
            let answer = rest(&mut stream);
            assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{}: {answer} for {body:?}", door.name);
            let whole = answer.contains("\r\n0\r\n\r\n") && answer.starts_with("HTTP/1.1 200");
            assert!(!whole, "{}: {answer} for {body:?}: it never had an end", door.name);
        }
        // A head that ends in the middle, and a body that does; their clients are gone for good.
        for text in [
            "GET {}/na",
            "GET {}/name HTTP/1.1\r\nHos",
            "POST {}/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\nhalf",
        ] {
            door.dial().write_all(door.of(text).as_bytes()).unwrap();
        }
        assert!(door.serves());
    }
}

/// A pod believes what its sidecar says of callers, so nobody may reach it without being read as HTTP first.
fn nothing_gets_around_http_where_a_port_is_declared_as_http(mesh: &Mesh) {
    let [_, door, _] = mesh.doors();
    let spoofed =
        "/headers HTTP/1.1\r\nHost: shop\r\nX-Forwarded-Client-Cert: By=me;URI=spoofed\r\nConnection: close\r\n\r\n";
    for (before, pause, method) in [("", 500, "GET"), ("\r\n", 0, "GET"), ("", 0, "get"), ("", 0, "x-odd!")] {
        let mut stream = door.dial();
        stream.write_all(before.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        let _ = stream.write_all(format!("{method} {spoofed}").as_bytes());
        let answer = rest(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 ") && !answer.contains("spoofed"), "{before:?} {method}: {answer}");
    }
    for nonsense in ["\u{1}\u{2}\r\n\r\n", "{\"a\": 1}\r\n\r\n", "SSH-2.0-a\r\n\r\n"] {
        assert!(door.says(nonsense).starts_with("HTTP/1.1 400 "), "{nonsense:?}");
    }
}

fn heads_that_are_too_large_are_refused(mesh: &Mesh) {
    let long = "x".repeat(100 << 10);
    let many: String = (0..500).map(|at| format!("x-{at}: {at}\r\n")).collect();
    for door in mesh.doors() {
        for (text, wanted) in [
            (format!("GET {{}}/name HTTP/1.1\r\nHost: shop\r\nx-a: {long}\r\n\r\n"), "431"),
            (format!("GET {{}}/{long} HTTP/1.1\r\nHost: shop\r\n\r\n"), "414 431"),
            (format!("{long}{long} / HTTP/1.1\r\nHost: shop\r\n\r\n"), "400 414 431"),
            (format!("GET {{}}/name HTTP/1.1\r\nHost: shop\r\n{many}\r\n"), "431"),
        ] {
            // The answer may be lost where more is sent than is read; that it was refused is what counts.
            let answer = door.says(&text);
            let status = answer.split(' ').nth(1).unwrap_or("none");
            assert!(wanted.contains(status) || answer.is_empty(), "{}: {answer} for {}", door.name, &text[..40]);
        }
        assert!(door.serves());
    }
}

/// What opens HTTP/2, and a frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET /name` in HPACK, and more of it.
fn head(host: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (index, value) in [(0x04, "/name"), (0x01, host)] {
        block.extend([&[index, value.len() as u8], value.as_bytes()].concat());
    }
    for (name, value) in more {
        let parts = [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()];
        block.extend(parts.concat());
    }
    block
}

/// The types of the frames that come back, up to one that says what becomes of the first request, or to the end.
fn frames(door: &Door, bytes: &[u8]) -> Vec<u8> {
    let mut stream = door.dial();
    let _ = stream.write_all(&[PREFACE, bytes].concat());
    let (mut kinds, mut start) = (Vec::new(), [0; 9]);
    while !kinds.iter().any(|kind| [HEADERS, RESET, GOAWAY].contains(kind)) {
        if stream.read_exact(&mut start).is_err() {
            break;
        }
        kinds.push(start[3]);
        let length = u32::from_be_bytes([0, start[0], start[1], start[2]]);
        let mut payload = vec![0; length as usize];
        let _ = stream.read_exact(&mut payload);
    }
    kinds
}

const HEADERS: u8 = 1;
const RESET: u8 = 3;
const GOAWAY: u8 = 7;

#[test]
fn http2_that_breaks_its_own_rules_is_reset_or_ended() {
    let mesh = Mesh::start("frames");
    for door in mesh.doors() {
        let head = |more: &[(&str, &str)]| head(door.host, more);
        let opened = |at| [frame(1, 5, at, &head(&[])), frame(3, 0, at, &[0, 0, 0, 8])].concat();
        let flood: Vec<u8> = (0..2_000).flat_map(|at| opened(2 * at + 1)).collect();
        let more = (0..2_000).flat_map(|_| frame(9, 0, 1, &[0, 1, b'x', 1, b'y'])).collect();
        let endless = [frame(1, 1, 1, &head(&[])), more].concat();
        let good = frames(&door, &frame(1, 5, 1, &head(&[])));
        assert!(good.contains(&HEADERS) && !good.contains(&RESET), "{}: {good:?}", door.name);
        let before = mesh.count();
        for (what, bytes, wanted) in [
            ("a frame that is too large", frame(0, 0, 1, &vec![0; 20_000]), GOAWAY),
            ("a frame for no stream", frame(0, 0, 0, b"abc"), GOAWAY),
            ("no HPACK", frame(1, 5, 1, &[0xff; 20]), GOAWAY),
            ("a field of the connection's", frame(1, 5, 1, &head(&[("connection", "close")])), RESET),
            ("a coding", frame(1, 5, 1, &head(&[("transfer-encoding", "chunked")])), RESET),
            ("a capital letter", frame(1, 5, 1, &head(&[("X-A", "b")])), RESET),
            ("a second path", frame(1, 5, 1, &[head(&[]), vec![0x04, 1, b'/']].concat()), RESET),
            ("a line within a value", frame(1, 5, 1, &head(&[("x-a", "b\r\nx-c: d")])), RESET),
        ] {
            let got = frames(&door, &bytes);
            let refused = got.contains(&wanted) || got.contains(&GOAWAY);
            assert!(refused && !got.contains(&HEADERS), "{}: {got:?} for {what}", door.name);
        }
        assert_eq!(mesh.count(), before, "{}: nothing of it came to the pod", door.name);
        let got = frames(&door, &endless);
        assert!(!got.contains(&HEADERS), "{}: {got:?} for a head without an end", door.name);
        // Opened and reset at once, again and again: whatever is said of it, others are served.
        let started = Instant::now();
        frames(&door, &flood);
        assert!(started.elapsed() < PATIENCE, "{}", door.name);
        assert!(door.serves());
    }
}

/// Says something and no more. Who is not interested may have closed the connection meanwhile.
fn say(stream: &mut TcpStream, bytes: &[u8]) {
    let said = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let gone = [ErrorKind::NotConnected, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(said.as_ref().map_err(std::io::Error::kind).err().is_none_or(|kind| gone.contains(&kind)), "{said:?}");
}

#[test]
fn what_is_no_tls_is_closed() {
    let mesh = Mesh::start("no-tls");
    let door = Door { name: "https", socket: mesh.served.place("port 443"), target: "", host: "shop.example" };
    let good = || {
        knock(&door.socket, "shop.example", &[b"http/1.1"], None, "/name")
            .is_ok_and(|(answer, _)| answer.contains("\r\n\r\nshop"))
    };
    let started = Instant::now();
    while !good() {
        assert!(started.elapsed() < PATIENCE);
    }
    let hello = hello("shop.example");
    let mut old = hello.clone();
    // The versions that a client offers stand in the extension 43. Now it is TLS 1.1 each time.
    let at = old.windows(5).position(|at| at[..3] == [0, 43, 0] && at[4] + 1 == at[3]).expect("rustls names versions");
    let end = at + 4 + usize::from(old[at + 3]);
    old[at + 5..end].chunks_mut(2).for_each(|version| version.copy_from_slice(&[3, 2]));
    let cases: [(&str, Vec<u8>); 8] = [
        ("HTTP without TLS", b"GET /name HTTP/1.1\r\nHost: shop\r\n\r\n".to_vec()),
        ("a record without a hello", b"\x16\x03\x01\0\x05hello".to_vec()),
        ("a record of an impossible length", b"\x16\x03\x01\xff\xff\x01\0\0\x01".to_vec()),
        ("an alert", b"\x15\x03\x01\0\x02\x02\x28".to_vec()),
        ("SSL 2", b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10".to_vec()),
        ("old versions only", old),
        ("a hello, and then none", [hello.as_slice(), &[0; 64]].concat()),
        ("half a hello, and an end", hello[..hello.len() / 2].to_vec()),
    ];
    for (what, bytes) in &cases {
        let mut stream = door.dial();
        say(&mut stream, bytes);
        let answer = rest(&mut stream);
        assert!(!answer.contains("200 OK") && !answer.contains("shop\n"), "{what}: {answer}");
        assert!(good(), "after {what}");
    }
    // The same at a pod, whose sidecar takes plain requests too, and says what they are worth.
    let [_, inbound, _] = mesh.doors();
    for (what, bytes) in &cases[1..] {
        let mut stream = inbound.dial();
        say(&mut stream, bytes);
        assert!(!rest(&mut stream).contains("200 OK"), "{what}");
        assert!(inbound.serves(), "after {what}");
    }
    assert!(
        knock(&door.socket, "shop.example", &[b"http/1.1"], Some(mesh.root.issue("a")), "/name").is_ok(),
        "nobody asked for it"
    );
}

/// What a TLS client says first.
fn hello(server: &str) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(server.to_string()).unwrap();
    let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn who_is_slow_or_gone_holds_nobody_up_and_is_let_go() {
    let mesh = Mesh::start("slow-doors");
    let https = Door { name: "https", socket: mesh.served.place("port 443"), target: "", host: "shop.example" };
    let started = Instant::now();
    let hello = hello("shop.example");
    let mut waiting = Vec::new();
    // Who keeps a connection for later is not slow.
    let [kept, ..] = mesh.doors();
    let mut kept = BufReader::new(kept.dial());
    assert_eq!(asked_again(&mut kept), "HTTP/1.1 200 OK\r\n");
    for door in mesh.doors().iter().chain([&https]) {
        let half: [&[u8]; 4] = [b"", b"G", b"GET / HTTP/1.1\r\nHos", &hello[..hello.len() / 2]];
        for begun in half.iter().cycle().take(24) {
            let mut stream = door.dial();
            stream.write_all(begun).unwrap();
            waiting.push((door.name, *begun == b"", stream));
        }
        // Who asks for much and reads nothing of it: the pod is not asked faster than its client reads.
        let mut deaf = door.dial();
        let asked = door.of("GET {}/name HTTP/1.1\r\nHost: shop\r\n\r\n").repeat(2_000);
        deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let _ = deaf.write_all(asked.as_bytes());
        drop(deaf);
    }
    // One that trickles keeps its place, and takes nobody else's.
    let [out, ..] = mesh.doors();
    let mut trickle = out.dial();
    trickle
        .write_all(b"POST http://shop/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nConnection: close\r\n\r\n")
        .unwrap();
    for byte in b"abcde" {
        trickle.write_all(&[*byte]).unwrap();
        mesh.serves();
    }
    let answer = rest(&mut trickle);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("abcde"), "{answer}");
    for (door, silent, mut stream) in waiting {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        assert!(started.elapsed() < PATIENCE, "{door}, silent: {silent}: it is not closed");
        assert!(!text.contains("200 OK"), "{door}: {text}");
    }
    assert_eq!(asked_again(&mut kept), "HTTP/1.1 200 OK\r\n");
    mesh.serves();
}

/// The first line of the answer to a request on a connection that stays open.
fn asked_again(kept: &mut BufReader<TcpStream>) -> String {
    kept.get_mut().write_all(b"GET http://shop/name HTTP/1.1\r\nHost: shop\r\n\r\n").unwrap();
    let (mut status, mut line, mut length) = (String::new(), String::new(), 0);
    kept.read_line(&mut status).unwrap();
    while kept.read_line(&mut line).unwrap() > 2 {
        if let Some(said) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = said.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    kept.read_exact(&mut body).unwrap();
    status
}

/// Nothing, or the one record in which TLS says why it ends.
fn is_alert(bytes: &[u8]) -> bool {
    bytes.is_empty() || bytes.first() == Some(&21) && bytes.len() <= 7
}

fn discovery_hears_nobody_who_says_nonsense(mesh: &Mesh) {
    let subscribed = mesh.served.status()["subscribers"].as_array().unwrap().len();
    let page = Door { name: "page", socket: mesh.served.page.clone(), target: "", host: "" };
    let api =
        Door { name: "api", socket: mesh.served.status()["api"].as_str().unwrap().to_string(), target: "", host: "" };
    let long = vec![b'x'; 200 << 10];
    let texts: [&[u8]; 6] = [b"{}\n", b"{\"hello\": {}}\n", b"null\n", b"\xff\xfe\n", b"GET / HTTP/1.1\r\n\r\n", &long];
    for text in texts {
        let mut stream = api.dial();
        let _ = stream.write_all(text).and_then(|()| stream.shutdown(Shutdown::Write));
        assert!(is_alert(rest(&mut stream).as_bytes()), "there is no TLS in it, and nothing else is heard");
        let (mut stream, _) = tls::open(&api.socket, tls::DISCOVERY, &[], None).unwrap();
        let _ = stream.write_all(text).and_then(|()| stream.sock.shutdown(Shutdown::Write));
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        assert_eq!(said, "");
        let mut stream = page.dial();
        let _ = stream.write_all(text).and_then(|()| stream.shutdown(Shutdown::Write));
        assert!(!rest(&mut stream).contains("\"subscribers\""));
    }
    assert_eq!(mesh.served.status()["subscribers"].as_array().unwrap().len(), subscribed);
    mesh.serves();
}
