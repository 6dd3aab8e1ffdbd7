//! What the parts say to each other: one JSON message a line, each line bounded.
//!
//! Knows the messages and how a line is read and written. Knows nothing of what they are for, and believes nothing
//! that it reads: who uses a message checks it again.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use meshroute::Plan;
use meshroute::authorize::Guard;
use meshroute::limit::RateLimits;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::spiffe::Name;
use crate::workload::Workload;

/// The longest line that is read: all of one type.
pub const MAX_LINE: u64 = 64 << 20;
/// The longest line that discovery reads, and a parent from its children.
pub const MAX_SHORT_LINE: u64 = 64 << 10;

/// The first message on a connection to discovery: what for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Opened {
    /// Somebody subscribes.
    Hello(Hello),
    /// Somebody wants to be signed.
    Signing(Signing),
}

/// Asks for a certificate. The answer is a `Result<Signed, String>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Signing {
    /// What the parent has handed out: it says who asks.
    pub token: String,
    /// A certificate signing request, of which only the key counts.
    pub request: Vec<u8>,
}

/// A certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Signed {
    /// It.
    pub certificate: Vec<u8>,
    /// Whose certificates are trusted.
    pub roots: Vec<Vec<u8>>,
    /// How long it is good for, in milliseconds.
    pub lifetime: u64,
}

/// Who subscribes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The subscriber's process.
    pub pid: u32,
    /// What it is.
    pub part: Part,
    /// Where it answers questions about itself, on loopback; 0: nowhere.
    pub admin: u16,
    /// What the parent has handed out: it says who may be which part.
    pub token: String,
}

impl Hello {
    /// The greeting of this process.
    pub fn of(part: Part, admin: u16, token: String) -> Self {
        Hello { pid: std::process::id(), part, admin, token }
    }
}

/// What a subscriber is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Runs pods; gets [`PodSpec`]s.
    Node,
    /// A pod that runs: ready as long as it is connected. Gets nothing.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Where each of its ports really is.
        sockets: BTreeMap<u16, SocketAddr>,
    },
    /// A pod's proxy; gets [`Routes`].
    Sidecar {
        /// Its pod's namespace.
        namespace: String,
        /// Its pod's name.
        pod: String,
        /// Its pod's labels.
        labels: BTreeMap<String, String>,
        /// Where it takes what comes to each of its pod's ports.
        inbound: BTreeMap<u16, SocketAddr>,
    },
    /// An ingress; gets [`Routes`].
    Gateway {
        /// Its namespace.
        namespace: String,
        /// Its labels.
        labels: BTreeMap<String, String>,
        /// The pod that it is, and where that pod's ports really are; `None`: it is the one that every mesh has.
        pod: Option<(String, BTreeMap<u16, SocketAddr>)>,
    },
    /// Serves Services to callers outside the mesh; gets [`Services`].
    KubeProxy,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Node => f.write_str("node"),
            Part::Pod { namespace, name, .. } => write!(f, "pod {namespace}/{name}"),
            Part::Sidecar { namespace, pod, .. } => write!(f, "sidecar {namespace}/{pod}"),
            Part::Gateway { namespace, pod: None, .. } => write!(f, "gateway {namespace}"),
            Part::Gateway { namespace, pod: Some((pod, _)), .. } => write!(f, "gateway {namespace}/{pod}"),
            Part::KubeProxy => f.write_str("kube-proxy"),
        }
    }
}

/// What a sidecar or gateway gets, put together.
#[derive(Clone, Debug)]
pub struct Routes {
    /// What holds for it.
    pub plan: Plan,
    /// What comes to each port of its own pod.
    pub inbound: BTreeMap<u16, Inbound>,
    /// Who may come in.
    pub guard: Guard,
    /// How many.
    pub limits: RateLimits,
    /// Who is at an address, where the mesh encrypts what goes there.
    pub peers: BTreeMap<SocketAddr, Peer>,
    /// Whose certificates are trusted.
    pub roots: Vec<Vec<u8>>,
    /// What a gateway shows.
    pub credentials: Vec<Credential>,
    /// How hosts outside are spoken to where a DestinationRule wants TLS, by cluster.
    pub outside: BTreeMap<String, Outside>,
    /// Where a pod's address really is: `10.244.3.7:80` to `127.0.0.1:41234`. Pods' addresses are made up, unless pods
    /// have network namespaces: then each is where it says.
    pub underlay: BTreeMap<SocketAddr, SocketAddr>,
    /// File and line of each rule, by `<resource>, <field>`.
    pub places: BTreeMap<String, String>,
    /// Who the subscriber itself is.
    pub own: Workload,
    /// Whose pod is at an address.
    pub workloads: BTreeMap<IpAddr, Workload>,
}

/// A port of a pod, as its sidecar serves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inbound {
    /// Where the pod itself listens.
    pub socket: SocketAddr,
    /// What comes there.
    pub carries: Carries,
    /// The service that leads there, by host; empty: none.
    pub service: String,
}

/// What a port of a pod carries, as the Services that lead there declare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carries {
    /// Requests, and nothing else.
    Http,
    /// What it is, the first bytes say.
    Anything,
    /// Bytes that nobody looks into.
    Bytes,
}

/// Somebody who takes mutual TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Who it is.
    pub name: Name,
    /// Whether it is spoken to so without being asked for; a gateway is only where a DestinationRule says so.
    pub unasked: bool,
}

/// A certificate that a gateway is to show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Credential {
    /// The server's port.
    pub port: u16,
    /// The server's hosts, exact or with a wildcard.
    pub hosts: Vec<String>,
    /// Whether it is the gateway's own as a workload of the mesh, and none of a file's.
    pub own: bool,
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
    /// The file of the authorities that clients are checked against; `None`: they show nothing.
    pub authorities: Option<PathBuf>,
    /// Whether a client may also show nothing.
    pub optional: bool,
    /// The names, one of which a client's certificate must carry; empty: any.
    pub names: Vec<String>,
    /// A field that says more of clients than is understood here: nobody is let in.
    pub beyond: Option<String>,
}

/// TLS to a host outside: `SIMPLE`, or `MUTUAL` with what it proves itself with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outside {
    /// The file of the authorities that the server is checked against; `None`: those of the system.
    pub authorities: Option<PathBuf>,
    /// The files of the own certificate and its key; `None`: nothing is shown.
    pub own: Option<(PathBuf, PathBuf)>,
    /// The names, one of which the server's certificate must carry; empty: the host's.
    pub names: Vec<String>,
    /// The server name that is sent; empty: the host's.
    pub sni: String,
    /// Whether the server's certificate goes unchecked.
    pub unchecked: bool,
    /// Whether a list of revoked certificates is named, which nobody reads here.
    pub revocable: bool,
}

/// What the kube-proxy gets, by `namespace/service:port`.
pub type Services = BTreeMap<String, Balanced>;

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Balanced {
    /// Its address, which is real only where pods have network namespaces; `None`: it has none.
    pub address: Option<SocketAddr>,
    /// The sockets of the ready pods behind it.
    pub pods: Vec<SocketAddr>,
}

/// What a node gets of each pod that it is to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodSpec {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its address, which is real only where pods have network namespaces.
    pub address: Option<IpAddr>,
    /// The ports that it listens on.
    pub ports: Vec<u16>,
    /// Whom its page welcomes to: its own name, or `nginx`.
    pub greet: String,
    /// Its service account.
    pub account: String,
    /// Whether it gets a sidecar.
    pub sidecar: bool,
    /// Whether it is a gateway itself.
    pub gateway: bool,
}

/// From a parent to each of its parts, on standard input: where discovery is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Whereabouts {
    /// Whom to connect to.
    pub discovery: Discovery,
    /// What the part proves itself to it with.
    pub token: String,
}

/// Discovery, as whoever connects to it knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Discovery {
    /// Its socket.
    pub socket: SocketAddr,
    /// One of these vouches for it.
    pub roots: Vec<Vec<u8>>,
}

/// From the parent to discovery, on standard input: who may be what, by token.
pub type Roster = BTreeMap<String, Claim>;

/// Who the bearer of a token is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The part, as [`Part`] is displayed.
    pub part: String,
    /// Who it may be signed as, if anybody.
    pub name: Option<Name>,
}

/// From a part to its parent, on standard output: what it listens on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Ports on 127.0.0.1 by what they are for.
    pub listening: BTreeMap<String, u16>,
    /// The certificates that discovery's own hangs on, from discovery; nobody else has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<Vec<u8>>,
}

/// A listener on loopback: on this port if it is free (0: any), else on any.
pub async fn bind(port: u16) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = match TcpListener::bind(("127.0.0.1", port)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(("127.0.0.1", 0)).await?,
    };
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The messages of a stream, one a line, until it ends or one is no such message or too long, or until nobody waits for them:
/// the stream is let go then, so that the other end hears of it.
pub fn messages<T, R>(stream: R, limit: u64) -> mpsc::Receiver<T>
where
    T: DeserializeOwned + Send + 'static,
    R: AsyncRead + Unpin + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut reader = BufReader::new(stream);
        loop {
            let line = tokio::select! {
                line = line(&mut reader, limit) => line,
                () = sender.closed() => return,
            };
            let Some(Ok(message)) = line.map(|line| serde_json::from_slice(&line)) else { return };
            if sender.send(message).await.is_err() {
                return;
            }
        }
    });
    receiver
}

async fn line<R: AsyncRead + Unpin>(reader: &mut BufReader<R>, limit: u64) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    reader.take(limit).read_until(b'\n', &mut line).await.ok()?;
    line.ends_with(b"\n").then_some(line)
}

/// Writes a message as one line.
pub async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}
