//! What a sidecar does with requests and answers that take their time, or stand still, or are asked for again; and what it
//! says to clients that speak gRPC. `mesh alone` before an upstream of the test's own.
#![cfg(unix)]

#[path = "support/alone.rs"]
mod alone;
#[path = "support/served.rs"]
mod served;

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use alone::{Alone, raw, upstream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{HeaderMap, Request, Response};
use served::PATIENCE;
use tokio::time::timeout;

type Client = BoxBody<Bytes, Infallible>;

/// Rules for the Service `raw`.
fn rules(http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: raw}}\nspec:\n  hosts: [raw]\n  http:\n{http}"
    )
}

const IN_A_SECOND: &str = "  - timeout: 1s\n    route: [{destination: {host: raw}}]\n";

fn empty() -> Client {
    Empty::new().boxed()
}

/// A body of which nobody knows the length before its end: these pieces with a pause before each, and a trailer.
fn streamed(pieces: u64, pause: u64) -> Client {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for at in 0..pieces {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if sender.send(Ok(Frame::data(Bytes::from(format!("{at},"))))).await.is_err() {
                return;
            }
        }
        let trailers = HeaderMap::from_iter([("x-end".parse().unwrap(), "1".parse().unwrap())]);
        let _ = sender.send(Ok(Frame::trailers(trailers))).await;
    });
    let receiver = std::sync::Mutex::new(receiver);
    let pieces = Pieces(receiver);
    pieces.boxed()
}

struct Pieces(std::sync::Mutex<tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, Infallible>>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.lock().unwrap().poll_recv(cx)
    }
}

fn post(url: &str, body: Client) -> Request<Client> {
    Request::post(url).header("host", "raw").header("te", "trailers").body(body).unwrap()
}

struct Whole {
    status: u16,
    headers: HeaderMap,
    trailers: Option<HeaderMap>,
    body: String,
}

impl Whole {
    fn says(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// The whole answer, in time; `None`: it breaks off.
async fn whole<E: std::fmt::Debug>(answer: impl Future<Output = Result<Response<Incoming>, E>>) -> Option<Whole> {
    let whole = timeout(PATIENCE, async {
        let (parts, body) = answer.await.ok()?.into_parts();
        let body = body.collect().await.ok()?;
        let trailers = body.trailers().cloned();
        let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        Some(Whole { status: parts.status.as_u16(), headers: parts.headers, trailers, body })
    });
    whole.await.expect("it comes to an end in time")
}

fn dial(alone: &Alone) -> TcpStream {
    let stream = TcpStream::connect(&alone.proxy).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything until the connection ends, which it must.
fn rest(stream: &mut TcpStream) -> String {
    let (started, mut bytes) = (Instant::now(), Vec::new());
    let _ = stream.read_to_end(&mut bytes);
    assert!(started.elapsed() < PATIENCE, "it does not end: {}", String::from_utf8_lossy(&bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routes_time_ends_an_answer_and_begins_with_the_end_of_the_request() {
    let (port, _seen) = upstream(100).await;
    let alone = Alone::start("time", &(raw(port, "") + &rules(IN_A_SECOND)), &[]);
    // There is always more to read, and the client takes its time.
    let ended = tokio::task::spawn_blocking({
        let mut stream = dial(&alone);
        move || {
            stream.write_all(b"GET http://raw:82/flood HTTP/1.1\r\nHost: raw:82\r\n\r\n").unwrap();
            let (started, mut piece) = (Instant::now(), vec![0; 64 << 10]);
            while started.elapsed() < PATIENCE && stream.read(&mut piece).is_ok_and(|read| read > 0) {
                std::thread::sleep(Duration::from_millis(50));
            }
            started.elapsed()
        }
    });
    assert!(ended.await.unwrap() < PATIENCE / 2, "it goes on and on");
    // An upload that takes longer than that is none of the answer's time.
    for url in ["http://raw/echo", "http://raw:82/echo"] {
        let answer = whole(alone.two().await.send_request(post(url, streamed(15, 100)))).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 35), "{url}");
    }
    let answer =
        whole(alone.two().await.send_request(post("http://raw:82/hold?5000", streamed(3, 100)))).await.unwrap();
    assert_eq!((answer.status, answer.says("x-meshroute-flags")), (504, "UT"));
    // An answer that begins before the end of its request must still come to an end in time after that.
    let started = Instant::now();
    let stalling = whole(alone.two().await.send_request(post("http://raw:82/drip?20000", streamed(3, 100)))).await;
    assert!(stalling.is_none() && started.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn a_body_of_any_length_is_sent_again_and_copied() {
    let (port, seen) = upstream(100).await;
    let again = "  - retries: {attempts: 2, retryOn: '5xx'}\n    route: [{destination: {host: raw}}]\n";
    let alone = Alone::start("again", &(raw(port, "") + &rules(again)), &[]);
    let answer = whole(alone.two().await.send_request(post("http://raw/flaky", streamed(5, 30)))).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "0,1,2,3,4,"), "{:?}", answer.headers);
    assert!(answer.trailers.is_some_and(|trailers| trailers["x-end"] == "1"), "trailers are sent again too");
    assert_eq!(seen.requests.load(SeqCst), 2);

    let ((port, _), (other, copies)) = (upstream(100).await, upstream(100).await);
    let copied = "  - mirror: {host: copy, port: {number: 82}}\n    route: [{destination: {host: raw}}]\n";
    let yaml = raw(port, "") + "---\n" + &raw(other, "").replace("raw", "copy") + &rules(copied);
    let alone = Alone::start("copied", &yaml, &[]);
    let answer = whole(alone.two().await.send_request(post("http://raw:82/echo", streamed(5, 10)))).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "0,1,2,3,4,"));
    let started = Instant::now();
    while copies.requests.load(SeqCst) == 0 {
        assert!(started.elapsed() < PATIENCE, "no copy comes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An upstream that refuses the first stream of HTTP/2, and answers the others.
fn refusing() -> u16 {
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&frame(4, 0, 0, &[])).unwrap();
        let (mut preface, mut start, mut refused) = ([0; 24], [0; 9], false);
        stream.read_exact(&mut preface).unwrap();
        while stream.read_exact(&mut start).is_ok() {
            let mut payload = vec![0; u32::from_be_bytes([0, start[0], start[1], start[2]]) as usize];
            stream.read_exact(&mut payload).unwrap();
            let id = u32::from_be_bytes([start[5], start[6], start[7], start[8]]);
            let answer = match start[3] {
                1 if refused => frame(1, 5, id, &[0x88]),
                1 => frame(3, 0, id, &[0, 0, 0, 7]),
                4 if start[4] == 0 => frame(4, 1, 0, &[]),
                _ => continue,
            };
            refused |= start[3] == 1;
            stream.write_all(&answer).unwrap();
        }
    });
    port
}

#[tokio::test]
async fn a_stream_that_was_refused_is_tried_again_where_the_rule_says_so() {
    let again = "  - retries: {attempts: 1, retryOn: refused-stream}\n    route: [{destination: {host: raw}}]\n";
    let alone = Alone::start("refused", &(raw(refusing(), "") + &rules(again)), &[]);
    let answer = whole(alone.two().await.send_request(post("http://raw/", empty()))).await.unwrap();
    assert_eq!(answer.status, 200, "{:?}", answer.headers);
    let never = "  - retries: {attempts: 1, retryOn: connect-failure}\n    route: [{destination: {host: raw}}]\n";
    let alone = Alone::start("refused-once", &(raw(refusing(), "") + &rules(never)), &[]);
    assert_eq!(whole(alone.two().await.send_request(post("http://raw/", empty()))).await.unwrap().status, 503);
}

#[tokio::test]
async fn grpc_is_spoken_to_in_its_own_words_and_its_failures_count() {
    let (port, _seen) = upstream(100).await;
    let detection =
        "{outlierDetection: {consecutive5xxErrors: 2, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}}";
    let only =
        "  - match: [{uri: {prefix: /grpc}}]\n    retries: {attempts: 0}\n    route: [{destination: {host: raw}}]\n";
    let alone = Alone::start("words", &(raw(port, detection) + &rules(only)), &[]);
    let mut two = alone.two().await;
    let mut ask = async |path: &str| {
        let mut request = post(&format!("http://raw{path}"), empty());
        request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
        whole(two.send_request(request)).await.unwrap()
    };
    let said = |answer: &Whole| {
        let [status, message] = ["grpc-status", "grpc-message"].map(|name| answer.says(name).to_string());
        (answer.status, answer.says("content-type").to_string(), status, message)
    };
    let local = |status: &str, text: &str| (200, "application/grpc".to_string(), status.to_string(), text.to_string());
    // No route.
    assert_eq!(said(&ask("/other").await), local("12", ""));
    // What the server itself says to be unavailable: it is set aside, and then nobody is left.
    for _ in 0..2 {
        assert_eq!(ask("/grpc?14").await.says("grpc-status"), "14");
    }
    let answer = ask("/grpc?0").await;
    assert_eq!(said(&answer), local("14", "no healthy upstream"));
    assert_eq!(answer.says("x-meshroute-flags"), "UH");

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let alone = Alone::before(closed, "closed", "", &[]);
    let mut request = post("http://raw/", empty());
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let answer = whole(alone.two().await.send_request(request)).await.unwrap();
    assert!(said(&answer).3.starts_with("upstream connect error") && answer.says("grpc-status") == "14");
}

/// Bodies are passed on as they are read, in both directions: what nobody reads stays with whoever sends it.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_read_is_not_taken() {
    const FEW: u64 = 16 << 10; // KiB, for sixteen bodies without an end
    let (port, _seen) = upstream(100).await;
    let alone = Alone::before(port, "slow", "", &[]);
    // Whoever is asked first makes what is kept for all.
    assert_eq!(whole(alone.two().await.send_request(post("http://raw:82/", empty()))).await.unwrap().status, 200);
    let before = alone.resident();

    let (mut bodies, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let mut http2 = alone.two().await;
        let answer = http2.send_request(post("http://raw:82/flood", empty())).await.unwrap();
        bodies.push((answer.into_body(), http2));
        let mut stream = dial(&alone);
        stream.write_all(b"GET http://raw:82/flood HTTP/1.1\r\nHost: raw:82\r\n\r\n").unwrap();
        streams.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let grown = alone.resident().saturating_sub(before);
    assert!(grown < FEW, "{grown} KiB are kept of answers that nobody reads");
    // They go on where they stopped.
    for (body, _) in &mut bodies {
        for _ in 0..200 {
            assert!(timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap().is_data());
        }
    }
    drop(bodies);
    tokio::task::spawn_blocking(move || {
        for mut stream in streams {
            stream.read_exact(&mut vec![0; 16 << 20]).unwrap();
        }
        // An upload that its server does not read.
        let before = alone.resident();
        let mut stream = dial(&alone);
        stream.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
        stream
            .write_all(b"POST http://raw:82/hold?600000 HTTP/1.1\r\nHost: raw:82\r\nTransfer-Encoding: chunked\r\n\r\n")
            .unwrap();
        let chunk = [b"4000\r\n", &[b'x'; 0x4000][..], b"\r\n"].concat();
        let taken = (0..u64::MAX).find(|_| stream.write_all(&chunk).is_err()).unwrap();
        assert!(taken * 16 < 64 << 10, "{taken} pieces of 16 KiB are taken that nobody reads");
        let grown = alone.resident().saturating_sub(before);
        assert!(grown < FEW, "{grown} KiB are kept of a request that nobody reads");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_still_is_not_kept_for_ever() {
    let (port, _seen) = upstream(100).await;
    let times = ["--stream-idle-timeout", "1s", "--idle-timeout", "2s", "--tcp-idle-timeout", "1s"];
    let alone = Alone::before(port, "still", "", &times);
    tokio::task::spawn_blocking(move || {
        // A body that was announced and does not come; in chunks too.
        for framing in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
            let mut stream = dial(&alone);
            write!(stream, "POST http://raw:82/echo HTTP/1.1\r\nHost: raw:82\r\n{framing}").unwrap();
            let answer = rest(&mut stream);
            assert!(
                answer.starts_with("HTTP/1.1 408 ") || answer.starts_with("HTTP/1.1 200 "),
                "{framing:?}: {answer}"
            );
            assert!(!answer.ends_with("0\r\n\r\n"), "{framing:?}: {answer}");
        }
        // An answer of which nothing more comes, and one of which nothing comes at all.
        for path in ["/stall", "/hold?600000"] {
            let mut stream = dial(&alone);
            write!(stream, "GET http://raw:82{path} HTTP/1.1\r\nHost: raw:82\r\n\r\n").unwrap();
            rest(&mut stream);
        }
        // HTTP/2 that begins and goes no further.
        let mut stream = dial(&alone);
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        rest(&mut stream);
        // A connection that is kept for another request.
        let mut stream = dial(&alone);
        stream.write_all(b"GET http://raw:82/hold?0 HTTP/1.1\r\nHost: raw:82\r\n\r\n").unwrap();
        assert!(rest(&mut stream).starts_with("HTTP/1.1 200 "));
        // Bytes that nobody looks into, and what an upgrade has made of a connection.
        let mut stream = dial(&alone);
        stream.write_all(b"CONNECT raw:83 HTTP/1.1\r\nHost: raw:83\r\n\r\n").unwrap();
        assert!(rest(&mut stream).starts_with("HTTP/1.1 200 "));
        let mut stream = dial(&alone);
        stream
            .write_all(b"GET http://raw:82/ HTTP/1.1\r\nHost: raw:82\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
            .unwrap();
        assert!(rest(&mut stream).starts_with("HTTP/1.1 101 "));
        // What moves slowly moves.
        let mut stream = dial(&alone);
        stream.write_all(b"GET http://raw:82/drip?4000 HTTP/1.1\r\nHost: raw:82\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!(rest(&mut stream).matches('x').count(), 10 + "x-meshroute".matches('x').count());
    })
    .await
    .unwrap();
}
