//! What a sidecar makes of an upstream's answers, byte by byte: `mesh alone` before a server that says what it is told to.
#![cfg(unix)]

#[path = "support/served.rs"]
mod served;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use served::{Folder, PATIENCE, after, program};

/// Answers by path. A piece that is empty stands for a pause; behind a path that ends with `!` the connection is closed.
const ANSWERS: [(&str, &[&str]); 12] = [
    ("/length", &["HTTP/1.1 200 OK\r\ncontent-le", "", "ngth: 10\r\n\r\n01234", "", "56789"]),
    (
        "/chunks",
        &[
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc",
            "",
            "\r\n2\r\nde\r",
            "",
            "\n0\r\nx-end: 1\r\n\r\n",
        ],
    ),
    ("/open!", &["HTTP/1.1 200 OK\r\n\r\nto the", "", " end"]),
    ("/head", &["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"]),
    (
        "/early",
        &["HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", "", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx"],
    ),
    ("/none", &["HTTP/1.1 204 No Content\r\n\r\n"]),
    ("/both", &["HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"]),
    ("/two", &["HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"]),
    ("/folded", &["HTTP/1.1 200 OK\r\ncontent-length: 1\r\nx-a: b\r\n c\r\n\r\nx"]),
    ("/noise", &["\u{1}\u{2}\u{3} nothing that is HTTP\r\n\r\n"]),
    ("/more", &["HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"]),
    ("/short!", &["HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"]),
];

/// Serves [`ANSWERS`], and counts connections.
fn upstream() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || serve(stream));
        }
    });
    (port, count)
}

fn serve(stream: TcpStream) {
    let mut read = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(read.read_line(&mut head), Ok(1..)) {
                return;
            }
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_string();
        let pieces = ANSWERS.iter().find(|(known, _)| *known == path).map_or(&[][..], |(_, pieces)| pieces);
        for piece in pieces {
            // A pause, so that what is around it comes in two pieces.
            if piece.is_empty() {
                std::thread::sleep(Duration::from_millis(20));
            } else if read.get_mut().write_all(piece.as_bytes()).is_err() {
                return;
            }
        }
        if path.ends_with('!') || pieces.is_empty() {
            return;
        }
    }
}

/// A sidecar of its own, before a Service whose one pod is at this port.
struct Alone {
    child: Child,
    proxy: String,
    _folder: Folder,
}

impl Alone {
    fn before(port: u16, name: &str) -> Self {
        let folder = Folder::empty(name);
        folder.write(
            "all.yaml",
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: raw}}\nspec:\n  selector: {{app: raw}}\n  ports: [{{name: http, \
                 port: 80, targetPort: {port}}}]\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: raw, labels: {{app: \
                 raw}}}}\nspec: {{containers: [{{name: raw, ports: [{{containerPort: {port}}}]}}]}}\nstatus: {{podIP: 127.0.0.1, \
                 conditions: [{{type: Ready, status: 'True'}}]}}\n"
            ),
        );
        let mut command = Command::new(program());
        command.arg("alone").arg(&folder.0).args(["--access-log", "off"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("`cargo test` builds the example `mesh`");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Alone { child, proxy: after(&line, "http_proxy="), _folder: folder }
    }

    fn ask(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.proxy).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: raw\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.to_ascii_lowercase()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_answer_ends_where_it_says_and_its_connection_serves_on() {
    let (port, connections) = upstream();
    let alone = Alone::before(port, "ends");
    let body = |answer: &str| answer.split_once("\r\n\r\n").unwrap().1.to_string();
    for _ in 0..2 {
        let answer = alone.ask("GET", "/length");
        assert!(answer.starts_with("http/1.1 200") && body(&answer) == "0123456789", "{answer}");
        let answer = alone.ask("GET", "/chunks");
        assert!(answer.starts_with("http/1.1 200") && body(&answer).replace("\r\n", "|").contains("abc|"), "{answer}");
        assert!(body(&answer).contains("\r\nde\r\n0\r\n"), "{answer}");
        let answer = alone.ask("HEAD", "/head");
        assert!(answer.contains("content-length: 5") && body(&answer).is_empty(), "{answer}");
        let answer = alone.ask("GET", "/early");
        assert!(answer.starts_with("http/1.1 200") && body(&answer) == "x" && !answer.contains("link"), "{answer}");
        assert!(alone.ask("GET", "/none").starts_with("http/1.1 204"));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1, "all of it went over one connection");
    let answer = alone.ask("GET", "/open!");
    assert!(answer.starts_with("http/1.1 200") && answer.contains("to the") && answer.contains(" end"), "{answer}");
    // The connection is over, and nobody notices.
    assert!(alone.ask("GET", "/none").starts_with("http/1.1 204"));
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[test]
fn an_answer_that_may_be_read_in_two_ways_is_none() {
    let (port, connections) = upstream();
    let alone = Alone::before(port, "two-ways");
    for path in ["/both", "/two", "/folded", "/noise", "/unknown"] {
        let answer = alone.ask("GET", path);
        assert!(answer.starts_with("http/1.1 503") && answer.contains("x-meshroute-flags: uc"), "{path}: {answer}");
    }
    let before = connections.load(Ordering::SeqCst);
    let answer = alone.ask("GET", "/more");
    assert!(answer.ends_with("\r\n\r\nx") && !answer.contains("evil"), "{answer}");
    // What stood behind it is nobody's answer.
    assert!(alone.ask("GET", "/none").starts_with("http/1.1 204"));
    assert_eq!(connections.load(Ordering::SeqCst), before + 2);
    // The client is to see that it is not all; how much of it has gone out by then is a matter of chance.
    let answer = alone.ask("GET", "/short!");
    assert!(answer.is_empty() || answer.contains("content-length: 100") && answer.len() < 400, "{answer}");
    assert!(!answer.contains("transfer-encoding") && !answer.contains("503"), "{answer}");
}
