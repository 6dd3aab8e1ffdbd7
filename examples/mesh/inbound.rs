//! What comes to a pod: its sidecar takes it first, asks who is there and whether they may come in, and hands it on.
//!
//! Knows the doors of one pod. Who may come in is never decided here: the library says it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, Version};
use meshroute::Roll;
use meshroute::authorize::{Call, MutualTls};
use meshroute::limit::{Spot, Stage};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::admission;
use crate::answer::Answer;
use crate::config::Config;
use crate::dial;
use crate::forward::{deliver, outgoing};
use crate::message::{self, CLIENT_CERT, Ends, PEER_METADATA};
use crate::opening::{self, Opening};
use crate::pool::{Body, Tongue};
use crate::question;
use crate::record::Record;
use crate::spiffe::Name;
use crate::station::Station;
use crate::tunnel;
use crate::wire::Inbound;
use crate::workload::{Service, Workload};

/// How long somebody at the door waits for the first configuration.
const PATIENCE: Duration = Duration::from_secs(5);

/// Somebody at the door.
#[derive(Clone)]
struct Caller {
    /// Who they have proved to be; `None`: nobody.
    name: Option<Name>,
    /// The pod's port that they want.
    port: u16,
    ends: Ends,
}

/// Serves one of the pod's ports for ever.
pub async fn serve(listener: TcpListener, station: Arc<Station>, port: u16) {
    message::accept(listener, move |stream, peer| {
        let station = Arc::clone(&station);
        async move {
            if let Ok(local) = stream.local_addr() {
                receive(station, stream, peer, local, port).await;
            }
        }
    })
    .await;
}

/// Takes a connection to the pod's `port`; `local` is where whoever called found it.
pub async fn receive(station: Arc<Station>, mut stream: TcpStream, remote: SocketAddr, local: SocketAddr, port: u16) {
    let Some(config) = first(&station, port).await else { return };
    let mut caller = Caller { name: None, port, ends: Ends { local, remote } };
    let mode = config.guard.mutual_tls(port);
    let (opening, begun) = opening::hear(&mut stream).await;
    match (&opening, mode) {
        // The mesh's own encryption ends here; any other is the program's.
        (Opening::Tls { mesh: true, .. }, MutualTls::Permissive | MutualTls::Strict) => {
            let Some((mut stream, name)) = station.identity.accept(opening::rewound(begun, stream)).await else {
                return station.note(&format!("inbound {port} \"TLS\" - DC - (no such certificate is taken)"));
            };
            caller.name = Some(name);
            let (opening, begun) = opening::hear(&mut stream).await;
            converse(station, config, caller, opening, opening::rewound(begun, stream)).await;
        }
        (_, MutualTls::Strict) => {
            station.note(&format!("inbound {port} \"TCP\" - DC - (mutual TLS is required)"));
        }
        _ => converse(station, config, caller, opening, opening::rewound(begun, stream)).await,
    }
}

/// What is in force. Others may hear of this pod before its own proxy has heard what to do for it.
async fn first(station: &Station, port: u16) -> Option<Arc<Config>> {
    let mut config = station.config.clone();
    let is_known = |config: &Option<Arc<Config>>| config.as_ref().is_some_and(|config| config.inbound(port).is_some());
    let _ = timeout(PATIENCE, config.wait_for(is_known)).await;
    station.config.borrow().clone()
}

/// Goes on with a connection whose other end is known as far as it can be.
async fn converse<S>(station: Arc<Station>, config: Arc<Config>, caller: Caller, opening: Opening, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(inbound) = config.inbound(caller.port) else { return };
    if inbound.http && matches!(opening, Opening::One | Opening::Two) {
        let answer = move |request| answer(Arc::clone(&station), caller.clone(), request);
        return message::talk(stream, opening, answer).await;
    }
    let principal = caller.name.as_ref().map(Name::principal);
    let mut call = Call::new(caller.port).principal(principal.as_deref()).source(caller.ends.remote.ip());
    call.sni = opening.hello().and_then(|hello| hello.sni);
    let ruling = config.guard.judge(&call);
    if !ruling.is_allowed() {
        return station.note(&format!("inbound {} \"TCP\" - - {ruling}", caller.port));
    }
    if let Ok(mut server) = dial::home(inbound.socket).await {
        let _ = copy_bidirectional(&mut stream, &mut server).await;
        let _ = server.shutdown().await;
    }
}

async fn answer(station: Arc<Station>, caller: Caller, request: Request<Incoming>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(caller.ends);
    let mut record = Record::begin(&station.telemetry, &mut parts);
    let upgrade = parts.extensions.remove();
    let config = station.config.borrow().clone();
    let mut answer = match config {
        Some(config) => admit(&station, &config, &caller, &mut parts, body, &mut record).await,
        None => Answer::refused(503, "no configuration yet"),
    };
    tunnel::splice(upgrade, &mut answer.response);
    if parts.version == Version::HTTP_2 {
        message::strip_hop_by_hop(answer.response.headers_mut());
    }
    answer.note(&mut record);
    // The caller's proxy says why a request came here.
    record.answered(answer.response)
}

/// Lets a request in, or doesn't.
async fn admit(
    station: &Station,
    config: &Config,
    caller: &Caller,
    parts: &mut Parts,
    body: Incoming,
    record: &mut Record,
) -> Answer {
    let Some(inbound) = config.inbound(caller.port) else {
        return Answer::refused(503, "the pod has no such port any more");
    };
    note(station, config, caller, &inbound, &parts.headers, record);
    if caller.name.is_none() && config.guard.mutual_tls(caller.port) == MutualTls::Strict {
        // The connection came before the rule did.
        return Answer::refused(403, "mutual TLS is required").closing();
    }
    let (spot, roll) = (Spot::new(caller.port).encrypted(caller.name.is_some()), Roll::random());
    if let Some(refused) = station.admission.limited((Stage::First, &spot), &roll, &parts.headers, record) {
        return refused;
    }
    if parts.method == Method::CONNECT {
        return Answer::refused(405, "a tunnel ends at the caller's sidecar");
    }
    let authority = match question::authority(parts) {
        Ok(authority) => authority.to_string(),
        // What the policy judges and what the program sees must be the same.
        Err((status, text)) => return Answer::refused(status, text).closing(),
    };
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let principal = caller.name.as_ref().map(Name::principal);
    let asked = meshroute::Request::new(parts.method.as_str(), &authority, path).headers(&parts.headers);
    let call = Call::new(caller.port).principal(principal.as_deref()).source(caller.ends.remote.ip());
    if let Some(refused) = admission::refused(&config.guard, &call.request(&asked), &parts.headers, record) {
        return refused;
    }
    if let Some(refused) = station.admission.limited((Stage::Last, &spot), &roll, &parts.headers, record) {
        return refused;
    }
    introduce(station, caller, &mut parts.headers);
    let tongue = if parts.version == Version::HTTP_2 { Tongue::Two } else { Tongue::One };
    let cluster = record.via.cluster.clone();
    let (head, set_out) = (outgoing(&authority, parts, None), Instant::now());
    let answer = deliver((station, &cluster, record), head, inbound.socket, tongue, body).await;
    record.upstream_time = Some(set_out.elapsed());
    answer
}

/// Puts down who came and to whom.
fn note(
    station: &Station,
    config: &Config,
    caller: &Caller,
    inbound: &Inbound,
    headers: &HeaderMap,
    record: &mut Record,
) {
    record.reporter = "destination";
    record.route = "default".into();
    record.via.cluster = format!("inbound|{}||", caller.port).into();
    record.destination = Arc::clone(&config.own);
    record.service = match inbound.service.as_str() {
        "" => Service::unknown(),
        host => Arc::new(Service::of_host(host)),
    };
    record.security = "none";
    let Some(name) = &caller.name else { return };
    record.security = "mutual_tls";
    record.source_principal = name.to_string();
    record.destination_principal = station.identity.name().map(|own| own.to_string()).unwrap_or_default();
    // Which workload it is, it says itself; of which namespace, it has proved.
    let said = headers.get(PEER_METADATA).and_then(|said| serde_json::from_slice::<Workload>(said.as_bytes()).ok());
    if let Some(workload) = said.filter(|workload| workload.namespace == name.namespace) {
        record.source = Arc::new(workload);
    }
}

/// Tells the program who asks. What a caller says of itself in the same place is taken out.
fn introduce(station: &Station, caller: &Caller, headers: &mut HeaderMap) {
    headers.remove(PEER_METADATA);
    headers.remove(CLIENT_CERT);
    let (Some(name), Some(own)) = (&caller.name, station.identity.name()) else { return };
    if let Ok(value) = HeaderValue::from_str(&format!("By={own};URI={name}")) {
        headers.insert(CLIENT_CERT, value);
    }
}
