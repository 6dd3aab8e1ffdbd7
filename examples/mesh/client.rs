//! The smallest HTTP client that the tour needs: one request, one connection, one answer. Like `curl -s`.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Failure;

const PATIENCE: Duration = Duration::from_secs(10);
const MAX_BODY: usize = 16 << 20;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Whom nginx's page welcomes to.
    pub fn welcome(&self) -> Option<&str> {
        self.body.split_once("<h1>Welcome to ")?.1.split_once("!</h1>").map(|(whom, _)| whom)
    }
}

/// Sends `GET target` to a socket. To a proxy the target is a whole address, `http://nginx:5000/`.
pub async fn get(socket: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<Answer, Failure> {
    timeout(PATIENCE, exchange(socket, target, headers)).await?
}

async fn exchange(socket: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<Answer, Failure> {
    let stream = TcpStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let host = target.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    let mut request = Request::get(target);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", host.map_or_else(|| socket.to_string(), str::to_string));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await?.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body: String::from_utf8_lossy(&body).into_owned() })
}
