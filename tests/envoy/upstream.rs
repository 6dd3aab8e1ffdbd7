//! The destinations: one small server for each endpoint, which writes down what it gets.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// What every destination answers with, beside its status.
pub const RESPONSE: [(&str, &str); 3] = [("x-up", "1"), ("x-multi", "a"), ("x-multi", "b")];
/// Asks a destination for a status, or with `hang` not to answer at all.
pub const WISH: &str = "x-wish";
/// The longest that a destination holds a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request as a destination got it.
#[derive(Clone, Debug)]
pub struct Received {
    /// The endpoint that it is for, as the plan has it.
    pub endpoint: String,
    /// The method.
    pub method: String,
    /// The target, byte for byte (as Latin-1).
    pub target: String,
    /// All header lines, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Received {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The case that it belongs to.
    pub fn case(&self) -> Option<usize> {
        self.header(crate::translate::CASE)?.parse().ok()
    }

    /// Whether it is a copy.
    pub fn is_shadow(&self) -> bool {
        let host = self.header("host").unwrap_or_default();
        host.split(':').next().is_some_and(|name| name.ends_with("-shadow"))
    }
}

/// All destinations, started when somebody first names them.
pub struct Upstreams {
    ports: Mutex<BTreeMap<String, u16>>,
    sender: Sender<Received>,
    receiver: Mutex<Receiver<Received>>,
}

impl Upstreams {
    /// None yet.
    pub fn new() -> Self {
        let (sender, receiver) = channel();
        Upstreams { ports: Mutex::default(), sender, receiver: Mutex::new(receiver) }
    }

    /// Where an endpoint's server listens.
    pub fn address(&self, endpoint: &str) -> (String, u16) {
        let mut ports = self.ports.lock().expect("nobody panics with it");
        let port = *ports.entry(endpoint.into()).or_insert_with(|| start(endpoint, self.sender.clone()));
        ("127.0.0.1".into(), port)
    }

    /// The endpoint whose server has an address.
    pub fn endpoint(&self, address: &str) -> Option<String> {
        let port: u16 = address.rsplit_once(':')?.1.parse().ok()?;
        let ports = self.ports.lock().expect("nobody panics with it");
        ports.iter().find(|(_, known)| **known == port).map(|(endpoint, _)| endpoint.clone())
    }

    /// What was received next; `None` when nothing comes for so long.
    pub fn received(&self, patience: Duration) -> Option<Received> {
        self.receiver.lock().expect("nobody panics with it").recv_timeout(patience).ok()
    }
}

fn start(endpoint: &str, sender: Sender<Received>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let endpoint = endpoint.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (endpoint, sender) = (endpoint.clone(), sender.clone());
            // A peer that goes away in the middle is none of our business: Envoy's answer tells.
            std::thread::spawn(move || serve(stream, endpoint, &sender));
        }
    });
    port
}

fn serve(stream: TcpStream, endpoint: String, sender: &Sender<Received>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let Some(received) = read(&mut reader, endpoint)? else { return Ok(()) };
    let wish = received.header(WISH).unwrap_or("200").to_string();
    // The test has ended if nobody listens any more.
    let _ = sender.send(received);
    if wish == "hang" {
        // Until Envoy hangs up.
        reader.read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    let mut answer = format!("HTTP/1.1 {wish} Wished\r\nconnection: close\r\ncontent-length: 0\r\n");
    RESPONSE.iter().for_each(|(name, value)| answer.push_str(&format!("{name}: {value}\r\n")));
    answer.push_str("\r\n");
    (&stream).write_all(answer.as_bytes())
}

/// Reads a request's head; what is no HTTP is received as its first byte.
fn read(reader: &mut impl BufRead, endpoint: String) -> std::io::Result<Option<Received>> {
    let first = reader.fill_buf()?.first().copied();
    let Some(first) = first else { return Ok(None) };
    let mut received = Received { endpoint, method: String::new(), target: String::new(), headers: Vec::new() };
    if !first.is_ascii_uppercase() {
        received.method = format!("byte {first:#x}");
        return Ok(Some(received));
    }
    let mut words = line(reader)?;
    if let Some(at) = words.rfind(' ') {
        words.truncate(at);
    }
    let (method, target) = words.split_once(' ').unwrap_or((&words, ""));
    (received.method, received.target) = (method.into(), target.into());
    loop {
        let line = line(reader)?;
        let Some((name, value)) = line.split_once(':') else { return Ok(Some(received)) };
        received.headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
}

fn line(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    reader.read_until(b'\n', &mut bytes)?;
    while matches!(bytes.last(), Some(b'\r' | b'\n')) {
        bytes.pop();
    }
    Ok(bytes.into_iter().map(char::from).collect())
}
