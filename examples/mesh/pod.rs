//! A pod: answers as the scenario's nginx does, and says to discovery where its ports really are.
//!
//! Knows its own name and page. Knows nothing of the mesh around it. Beyond nginx it has `/echo`, which sends a
//! request's body back, `/headers` and `/name`, which tell the request's headers and the pod's name, `/count`, which tells how often it was asked for
//! anything else, `/grpc`, which answers with trailers, and upgrades to `echo`; and it does wrong what it is asked to
//! ([`Wish`]). So a mesh can be tried.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, SERVER, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::args::Args;
use crate::dial::{self, Home};
use crate::message;
use crate::wire::{self, Part};
use crate::{Failure, nginx, session};

const PAGE: &str = "<!DOCTYPE html>
<html>
<head>
<title>Welcome to nginx!</title>
<style>
html { color-scheme: light dark; }
body { width: 35em; margin: 0 auto;
font-family: Tahoma, Verdana, Arial, sans-serif; }
</style>
</head>
<body>
<h1>Welcome to nginx!</h1>
<p>If you see this page, the nginx web server is successfully installed and
working. Further configuration is required.</p>

<p>For online documentation and support please refer to
<a href=\"http://nginx.org/\">nginx.org</a>.<br/>
Commercial support is available at
<a href=\"http://nginx.com/\">nginx.com</a>.</p>

<p><em>Thank you for using nginx.</em></p>
</body>
</html>
";

/// Runs the pod `--namespace`, `--name` on every `--port`; `--greet` is whom its page welcomes to. With `--server nginx` a
/// real nginx answers.
pub async fn run(args: &Args) -> Result<(), Failure> {
    let (namespace, name) = (args.one("namespace")?.to_string(), args.one("name")?.to_string());
    let page = PAGE.replace("Welcome to nginx!", &format!("Welcome to {}!", args.one("greet")?));
    let (discovery, home) = (session::parent(), dial::settle(args)?);
    let doors = open_doors(args, home).await?;
    let sockets: BTreeMap<u16, SocketAddr> = doors.iter().map(|(port, (_, address))| (*port, *address)).collect();
    let real = home.is_none().then_some(&sockets).into_iter().flatten();
    let real = real.map(|(port, address)| (port.to_string(), address.port())).collect();
    let part = Part::Pod { namespace, name: name.clone(), sockets: sockets.clone() };
    let subscription = session::subscribe(part, 0, discovery, |_| Ok(()));
    if let [_server] = args.all("server") {
        let listen: Vec<SocketAddr> = sockets.values().copied().collect();
        drop(doors);
        let mut nginx = nginx::start(args, &page, &listen).await?;
        session::report(real)?;
        return tokio::select! {
            () = subscription => Ok(()),
            ended = nginx.wait() => Err(format!("nginx has ended ({})", ended?).into()),
        };
    }
    let own = Arc::new(Own { name, page, asked: AtomicU64::new(0) });
    for (listener, _) in doors.into_values() {
        let own = Arc::clone(&own);
        tokio::spawn(message::serve(listener, move |request| answer(request, Arc::clone(&own))));
    }
    session::report(real)?;
    subscription.await;
    Ok(())
}

/// A listener for each port, and where others find it.
async fn open_doors(args: &Args, home: Option<&Home>) -> Result<BTreeMap<u16, (TcpListener, SocketAddr)>, Failure> {
    let mut doors = BTreeMap::new();
    for port in args.all("port") {
        let known = args.port_of(port);
        let port = port.parse()?;
        let door = match home {
            Some(home) => home.listen(port).await?,
            None => wire::bind(known).await?,
        };
        doors.insert(port, door);
    }
    Ok(doors)
}

/// What a pod knows of itself.
struct Own {
    name: String,
    page: String,
    asked: AtomicU64,
}

/// What a request asks a pod to do wrong, in its header `x-misbehave`: `delay=300` (milliseconds), `status=503`, both with
/// a comma between, and `only=NAME` where a pod of another name is to answer as always.
#[derive(Default)]
struct Wish {
    delay: Duration,
    status: Option<StatusCode>,
}

impl Wish {
    fn of(request: &Request<Incoming>, name: &str) -> Self {
        let mut wish = Wish::default();
        let Some(text) = request.headers().get("x-misbehave").and_then(|text| text.to_str().ok()) else { return wish };
        for word in text.split(',') {
            match word.trim().split_once('=') {
                Some(("delay", time)) => wish.delay = Duration::from_millis(time.parse().unwrap_or(0)),
                Some(("status", status)) => wish.status = status.parse().ok(),
                Some(("only", only)) if !name.contains(only) => return Wish::default(),
                _ => {}
            }
        }
        wish
    }
}

type Answered = Response<BoxBody<Bytes, hyper::Error>>;

async fn answer(mut request: Request<Incoming>, own: Arc<Own>) -> Answered {
    if request.uri().path() == "/count" {
        return html(StatusCode::OK, own.asked.load(Ordering::Relaxed).to_string());
    }
    own.asked.fetch_add(1, Ordering::Relaxed);
    let wish = Wish::of(&request, &own.name);
    tokio::time::sleep(wish.delay).await;
    if let Some(status) = wish.status {
        return html(status, error_page(status.as_str()));
    }
    if request.headers().contains_key(UPGRADE) {
        return upgraded(&mut request);
    }
    match request.uri().path() {
        "/echo" => return Response::new(request.into_body().boxed()),
        "/headers" => return html(StatusCode::OK, format!("{:?} {:#?}", request.version(), request.headers())),
        "/name" => return html(StatusCode::OK, own.name.clone()),
        "/grpc" => return grpc(),
        _ => {}
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = html(StatusCode::METHOD_NOT_ALLOWED, error_page("405 Not Allowed"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/" | "/index.html" => html(StatusCode::OK, own.page.clone()),
        _ => html(StatusCode::NOT_FOUND, error_page("404 Not Found")),
    }
}

/// Sends back whatever comes, once the connection is upgraded.
fn upgraded(request: &mut Request<Incoming>) -> Answered {
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(stream) = upgrade.await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(stream));
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    });
    let mut response = html(StatusCode::SWITCHING_PROTOCOLS, String::new());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("echo"));
    response
}

/// An empty message, and that all went well.
fn grpc() -> Answered {
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let message = Full::new(Bytes::from_static(&[0; 5])).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(message.map_err(|never| match never {}).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn error_page(title: &str) -> String {
    format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
         <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
}

fn html(status: StatusCode, body: String) -> Response<BoxBody<Bytes, hyper::Error>> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(SERVER, HeaderValue::from_static("nginx"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}
