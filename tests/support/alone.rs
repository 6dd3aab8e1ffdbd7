//! `mesh alone` before a server of the test's own: a sidecar without a mesh around it.
#![allow(dead_code)] // Each test needs another part of it.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::served::{Folder, after, program};

/// A sidecar of its own.
pub struct Alone {
    child: Child,
    pub proxy: String,
    _folder: Folder,
}

impl Alone {
    /// On these resources, with these options.
    pub fn start(name: &str, yaml: &str, options: &[&str]) -> Self {
        let folder = Folder::empty(name);
        folder.write("all.yaml", yaml);
        let mut command = Command::new(program());
        command.arg("alone").arg(&folder.0).args(["--access-log", "off"]).args(options);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`cargo test` builds the example `mesh`");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Alone { child, proxy: after(&line, "http_proxy="), _folder: folder }
    }

    /// Before a Service `raw`, whose one pod is at this port: 80 is gRPC's, 81 is undeclared, 82 HTTP/1.1's.
    pub fn before(port: u16, name: &str, policy: &str, options: &[&str]) -> Self {
        Alone::start(name, &raw(port, policy), options)
    }

    /// The memory that it has of its own, in KiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// A connection of HTTP/2.
    pub async fn two(&self) -> hyper::client::conn::http2::SendRequest<BoxBody<Bytes, Infallible>> {
        let stream = TcpStream::connect(&self.proxy).await.unwrap();
        let http = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = http.await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// A connection of HTTP/1.1.
    pub async fn one(&self) -> hyper::client::conn::http1::SendRequest<BoxBody<Bytes, Infallible>> {
        let stream = TcpStream::connect(&self.proxy).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Service `raw` and its pod, and a DestinationRule with this policy.
pub fn raw(port: u16, policy: &str) -> String {
    let policy = if policy.is_empty() { "{}" } else { policy };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: raw}}\nspec:\n  selector: {{app: raw}}\n  ports:\n  - {{name: grpc, port: \
         80, targetPort: {port}}}\n  - {{name: anything, port: 81, targetPort: {port}}}\n  - {{name: http, port: 82, targetPort: \
         {port}}}\n  - {{name: tcp, port: 83, targetPort: {port}}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: raw, labels: {{app: raw}}}}\nspec: {{containers: [{{name: raw, \
         ports: [{{containerPort: {port}}}]}}]}}\nstatus: {{podIP: 127.0.0.1, conditions: [{{type: Ready, status: 'True'}}]}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: raw}}\nspec: {{host: raw, trafficPolicy: \
         {policy}}}\n"
    )
}

/// What an upstream of a test's own has seen.
#[derive(Default)]
pub struct Seen {
    pub connections: AtomicUsize,
    pub requests: AtomicUsize,
}

/// An upstream that speaks either HTTP. What a request wants, its path and query say:
/// `/hold?MS`: an answer after so long; `/grpc?CODE`: gRPC's status alone; `/drip?MS`: a body in ten pieces over so long;
/// `/stall`: a body that begins; `/flood`: one that never ends; `/flaky`: 503 the first time; `/echo`: the request's own; else the request as it came. An upgrade is echoed.
pub async fn upstream(streams: u32) -> (u16, Arc<Seen>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, seen) = (listener.local_addr().unwrap().port(), Arc::new(Seen::default()));
    let told = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            told.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream, peer, streams, Arc::clone(&told)));
        }
    });
    (port, seen)
}

async fn serve(stream: TcpStream, peer: SocketAddr, streams: u32, seen: Arc<Seen>) {
    let mut first = [0; 3];
    while stream.peek(&mut first).await.is_ok_and(|read| (1..3).contains(&read)) {
        tokio::task::yield_now().await;
    }
    let service = service_fn(move |request| {
        let first = seen.requests.fetch_add(1, Ordering::SeqCst) == 0;
        async move { Ok::<_, Infallible>(answer(request, peer, first).await) }
    });
    if &first == b"PRI" {
        let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http.max_concurrent_streams(streams).serve_connection(TokioIo::new(stream), service).await;
    } else {
        let http = hyper::server::conn::http1::Builder::new();
        let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    }
}

type Answered = Response<BoxBody<Bytes, hyper::Error>>;

async fn answer(mut request: Request<Incoming>, peer: SocketAddr, first: bool) -> Answered {
    let number = request.uri().query().and_then(|query| query.parse().ok()).unwrap_or(0);
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        let answer = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
        return answer.body(full("")).unwrap();
    }
    match request.uri().path() {
        "/hold" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            Response::new(full(peer.port().to_string()))
        }
        "/grpc" => {
            let answer = Response::builder().header("content-type", "application/grpc").header("grpc-status", number);
            answer.body(full("")).unwrap()
        }
        "/status" => {
            let mut answer = Response::new(full("as asked"));
            *answer.status_mut() = StatusCode::from_u16(number as u16).unwrap();
            answer
        }
        "/drip" => Response::new(dripping(number)),
        "/flood" => Response::new(BodyExt::boxed(Flood)),
        // The first one fails, and what comes after it gets its own body back, with its trailers.
        "/flaky" if first => {
            let mut answer = Response::new(full("not now"));
            let _ = request.into_body().frame().await;
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            answer
        }
        "/flaky" => Response::new(request.into_body().boxed()),
        "/stall" => Response::builder().header("content-length", "10").body(dripping(600_000)).unwrap(),
        "/echo" => Response::new(request.into_body().boxed()),
        path => {
            let (path, headers) = (path.to_string(), request.headers().clone());
            let size = request.into_body().collect().await.map(|body| body.to_bytes().len());
            Response::new(full(format!(
                "{path} {} {}",
                size.map_or("broken".into(), |size| size.to_string()),
                listed(&headers)
            )))
        }
    }
}

fn listed(headers: &HeaderMap) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {};", String::from_utf8_lossy(value.as_bytes()))).collect()
}

fn full(text: impl Into<Bytes>) -> BoxBody<Bytes, hyper::Error> {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

fn dripping(time: u64) -> BoxBody<Bytes, hyper::Error> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Frame<Bytes>>(1);
    tokio::spawn(async move {
        for _ in 0..10 {
            if sender.send(Frame::data(Bytes::from_static(b"x"))).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(time / 10)).await;
        }
    });
    BodyExt::boxed(Channel(receiver))
}

/// A body without an end, as fast as it is read.
struct Flood;

impl hyper::body::Body for Flood {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        std::task::Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 16 << 10])))))
    }
}

/// A body that somebody else makes.
pub struct Channel(pub tokio::sync::mpsc::Receiver<Frame<Bytes>>);

impl hyper::body::Body for Channel {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}
