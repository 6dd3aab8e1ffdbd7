//! Questions to `adapter::pingora`: over a connection, into Pingora's own session, through the hooks in Pingora's order.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use meshroute::adapter::pingora::{Arrival, Routed, Trip};
use meshroute::{Connection, Live, Roll, TlsHello};
use pingora_core::Error;
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
};
use pingora_core::upstreams::peer::Peer;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{ProxyHttp, Session};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use super::{Asked, Seen, Sent, Told, Window, ended_up, lines};

/// Why a question cannot be put to Pingora as it stands: the hook that it lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// Its session does not say what name a TLS client asked for, unless a callback of the listener kept it.
    ServerName,
    /// Its peers are addresses, and no hook looks a name up.
    NamedEndpoint,
    /// It refuses the request before any hook: a `Host` with a user, or another one than the target's.
    Refused,
}

/// The address that is dialled where a question does not say: one that no resource mentions.
const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 40_000);
const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15_001);

type Clock = (fn() -> Duration, fn(Duration) -> std::future::Ready<()>);

impl Seen {
    /// Asks as a client whose connection was redirected to the proxy; with `named`, as if a callback had kept the server's
    /// name. An error of the second kind is a question that cannot be put.
    pub async fn pingora(
        live: &Arc<Live>,
        asked: &Asked<'_>,
        roll: Roll,
        named: bool,
    ) -> Result<Result<Seen, Gap>, String> {
        let clock: Clock = (|| Duration::ZERO, |_| std::future::ready(()));
        let routed = Routed::new(Arc::clone(live), PROXY.port(), clock).redirected().rolls(move || roll);
        let mut trip = routed.new_ctx();
        let (mut client, mut session) = connect(asked).await?;
        match session.as_downstream_mut().read_request().await {
            Ok(true) => {}
            Ok(false) => return Err("the connection ended".into()),
            Err(_) => return Ok(Err(Gap::Refused)),
        }
        match carry(&routed, asked, &mut session, &mut trip, named).await {
            Ok(Some(seen)) => return Ok(Ok(seen)),
            Ok(None) => {}
            Err(error) if error.to_string().contains("is a name") => return Ok(Err(Gap::NamedEndpoint)),
            Err(error) => {
                routed.fail_to_proxy(&mut session, &error, &mut trip).await;
            }
        }
        drop(session);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.map_err(|error| error.to_string())?;
        answered(&answer, &trip).map(Ok)
    }
}

/// As `HttpProxy` does it. `None`: the client has its answer.
async fn carry<R: Fn() -> Roll + Send + Sync>(
    routed: &Routed<Clock, R>,
    asked: &Asked<'_>,
    session: &mut Session,
    trip: &mut Trip<Clock>,
    named: bool,
) -> Result<Option<Seen>, Box<Error>> {
    let answered = if named {
        let dialled = dialled(asked);
        let connection = Connection::new(dialled.port()).address(dialled.ip()).tls(TlsHello { sni: asked.sni });
        let next = routed.ask(session.req_header(), &Arrival::new(connection).source(CLIENT.ip()), trip);
        routed.begin(session, next, trip).await?
    } else {
        routed.request_filter(session, trip).await?
    };
    if answered {
        return Ok(None);
    }
    let peer = routed.upstream_peer(session, trip).await?;
    let mut header = session.req_header().clone();
    routed.upstream_request_filter(session, &mut header, trip).await?;
    let mut response = ResponseHeader::build(200, None)?;
    for (name, value) in asked.upstream {
        response.append_header(name.clone(), value.as_str())?;
    }
    routed.upstream_response_filter(session, &mut response, trip).await?;
    routed.response_filter(session, &mut response, trip).await?;
    let end = end(asked, trip, peer.address());
    let told = trip.chosen().map(Told::from);
    Ok(Some(Seen { window: Window::Pingora, end, sent: Some(sent(&header)), response: lines(&response.headers), told }))
}

fn end(asked: &Asked<'_>, trip: &Trip<Clock>, peer: &PeerAddress) -> String {
    let peer = peer.as_inet().copied();
    let endpoints = trip.chosen().map(|chosen| &chosen.cluster().endpoints).filter(|all| !all.is_empty());
    let right = match endpoints {
        Some(endpoints) => endpoints.iter().any(|endpoint| endpoint.socket() == peer),
        None => peer == Some(dialled(asked)),
    };
    let end = ended_up(trip.chosen());
    if right { end } else { format!("{end}, but by way of {peer:?}") }
}

fn dialled(asked: &Asked<'_>) -> SocketAddr {
    SocketAddr::new(asked.address.unwrap_or(ANYWHERE), asked.port)
}

fn sent(header: &RequestHeader) -> Sent {
    let host = header.headers.get("host").map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    Sent {
        path: String::from_utf8_lossy(header.raw_path()).into_owned(),
        authority: host.unwrap_or_default(),
        headers: lines(&header.headers),
    }
}

/// The client's end of a connection on which the request was sent, and the proxy's.
async fn connect(asked: &Asked<'_>) -> Result<(DuplexStream, Session), String> {
    let (mut client, stream) = tokio::io::duplex(1 << 20);
    let socket = SocketDigest::from_raw_fd(-1);
    let original = dialled(asked);
    for (cell, address) in [(&socket.peer_addr, CLIENT), (&socket.local_addr, PROXY), (&socket.original_dst, original)]
    {
        cell.set(Some(address.into())).map_err(|_| "it is set once")?;
    }
    let mut text = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", asked.method, asked.target, asked.authority);
    for (name, value) in asked.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    client.write_all(text.as_bytes()).await.map_err(|error| error.to_string())?;
    let tls = asked.sni.map(|_| Arc::new(SslDigest::new("", "TLSv1.3", None, None, Vec::new())));
    Ok((client, Session::new_h1(Box::new(Wire { stream, socket: Arc::new(socket), tls }))))
}

/// What the client got; nothing at all is a connection that was closed, or that would have been passed on to a cluster
/// without endpoints.
fn answered(bytes: &[u8], trip: &Trip<Clock>) -> Result<Seen, String> {
    let text = String::from_utf8_lossy(bytes);
    if text.is_empty() {
        let end = trip.chosen().map_or("closed".to_string(), |chosen| ended_up(Some(chosen)));
        return Ok(Seen { window: Window::Pingora, end, sent: None, response: Vec::new(), told: None });
    }
    let (head, body) = text.split_once("\r\n\r\n").ok_or("the answer has no end")?;
    let mut head = head.split("\r\n");
    let status = head.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or("the answer has no status")?;
    let mut headers = http::HeaderMap::new();
    for (name, value) in head.filter_map(|line| line.split_once(": ")) {
        let name = http::HeaderName::try_from(name).map_err(|error| error.to_string())?;
        headers.append(name, http::HeaderValue::try_from(value).map_err(|error| error.to_string())?);
    }
    Ok(Seen::ended(Window::Pingora, status, &headers, body.as_bytes()))
}

/// A connection in memory, with the addresses of a real one.
#[derive(Debug)]
struct Wire {
    stream: DuplexStream,
    socket: Arc<SocketDigest>,
    tls: Option<Arc<SslDigest>>,
}

impl GetSocketDigest for Wire {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.socket))
    }
}

impl GetTimingDigest for Wire {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Wire {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl UniqueID for Wire {
    fn id(&self) -> i32 {
        0
    }
}

impl Ssl for Wire {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.tls.clone()
    }
}

impl Peek for Wire {}

impl Shutdown for Wire {
    fn shutdown<'s, 'f>(&'s mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(std::future::ready(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
