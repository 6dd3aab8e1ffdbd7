//! Connections to upstreams, kept open between requests.
//!
//! Knows sockets and HTTP/1.1. Knows nothing of routing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Failure;

/// A body on its way through.
pub type Body = BoxBody<Bytes, Failure>;

/// How many connections that nobody uses are kept for one socket.
const IDLE: usize = 16;

/// Why nothing came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// No connection could be made.
    Connect,
    /// The connection ended before an answer began.
    Reset,
    /// The answer did not begin in time.
    Timeout,
}

/// The open connections by socket.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<HashMap<SocketAddr, Vec<SendRequest<Body>>>>,
}

impl Pool {
    /// Sends a request to a socket and waits for the head of its answer.
    ///
    /// A kept connection may turn out closed by the other side. A request that did not get onto it goes onto a new one.
    pub async fn send(
        self: &Arc<Self>,
        to: SocketAddr,
        request: Request<Body>,
        patience: Duration,
    ) -> Result<Response<Incoming>, Lost> {
        let mut request = request;
        while let Some(mut kept) = self.kept(to) {
            match kept.try_send_request(request).await {
                Ok(response) => return Ok(self.keep(to, kept, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Lost::Reset),
                },
            }
        }
        let mut fresh = timeout(patience, dial(to)).await.ok().flatten().ok_or(Lost::Connect)?;
        let response = fresh.send_request(request).await.map_err(|_| Lost::Reset)?;
        Ok(self.keep(to, fresh, response))
    }

    fn kept(&self, to: SocketAddr) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.get_mut(&to)?;
        while let Some(connection) = connections.pop() {
            if connection.is_ready() && !connection.is_closed() {
                return Some(connection);
            }
        }
        idle.remove(&to);
        None
    }

    /// Puts a connection back once its answer has been read to the end.
    fn keep(
        self: &Arc<Self>,
        to: SocketAddr,
        mut connection: SendRequest<Body>,
        response: Response<Incoming>,
    ) -> Response<Incoming> {
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            if connection.ready().await.is_err() {
                return;
            }
            let mut idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let connections = idle.entry(to).or_default();
            if connections.len() < IDLE {
                connections.push(connection);
            }
        });
        response
    }
}

async fn dial(to: SocketAddr) -> Option<SendRequest<Body>> {
    let stream = TcpStream::connect(to).await.ok()?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}
