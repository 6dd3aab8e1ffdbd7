//! What comes to a pod: its sidecar takes it first, asks who is there and whether they may come in, and hands it on.
//!
//! Knows the doors of one pod. Who may come in is never decided here: the library says it.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, Version};
use meshroute::Roll;
use meshroute::authorize::{Call, MutualTls};
use meshroute::limit::{Spot, Stage};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::admission;
use crate::answer::Answer;
use crate::config::{Config, Entrance};
use crate::dial;
use crate::forward::{deliver, outgoing};
use crate::message::{self, CLIENT_CERT, Ends, PEER_METADATA};
use crate::opening::{self, Expected, Opening};
use crate::passage::Passage;
use crate::pool::Tongue;
use crate::question;
use crate::record::{Record, Sending};
use crate::spiffe::Name;
use crate::station::Station;
use crate::times::times;
use crate::tunnel;
use crate::wire::Carries;
use crate::workload::Workload;

/// How long somebody at the door waits for the first configuration.
const PATIENCE: Duration = Duration::from_secs(5);
/// What Istio calls the one route of a pod's port.
static DEFAULT: LazyLock<Arc<str>> = LazyLock::new(|| "default".into());

/// Somebody at the door.
struct Caller {
    /// Who they have proved to be; `None`: nobody.
    name: Option<Name>,
    /// The pod's port that they want.
    port: u16,
    ends: Ends,
    /// Which workload they last said they are, and what that was read as: on most connections it stays the same.
    said: Mutex<Option<(HeaderValue, Option<Arc<Workload>>)>>,
    /// What the pod, by this name, was last told of who asks.
    introduced: Mutex<Option<(Name, HeaderValue)>>,
}

impl Caller {
    fn new(name: Option<Name>, port: u16, ends: Ends) -> Self {
        Caller { name, port, ends, said: Mutex::default(), introduced: Mutex::default() }
    }

    /// Which workload it is, it says itself; of which namespace, it has proved.
    fn workload(&self, headers: &HeaderMap) -> Option<Arc<Workload>> {
        let (name, value) = (self.name.as_ref()?, headers.get(PEER_METADATA)?);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(&*said, Some((known, _)) if known == value) {
            *said = Some((value.clone(), serde_json::from_slice(value.as_bytes()).ok().map(Arc::new)));
        }
        let (_, workload) = said.as_ref()?;
        workload.clone().filter(|workload| workload.namespace == name.namespace() && workload.is_plausible())
    }

    /// What the pod is told of who asks.
    fn introduction(&self, own: Name) -> Option<HeaderValue> {
        let name = self.name.as_ref()?;
        let mut introduced = self.introduced.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(&*introduced, Some((to, _)) if *to == own) {
            let value = HeaderValue::from_str(&format!("By={own};URI={name}")).ok()?;
            *introduced = Some((own, value));
        }
        introduced.as_ref().map(|(_, value)| value.clone())
    }
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
    let ends = Ends { local, remote };
    let mode = config.guard.mutual_tls(port);
    let Some(entrance) = config.entrance(port) else { return };
    // On a port that is declared as HTTP's nothing else comes, and so nothing gets around the rules for requests.
    let inside = match entrance.inbound.carries {
        Carries::Http => Expected::Requests,
        Carries::Anything | Carries::Bytes => Expected::Anything,
    };
    let outside = if mode == MutualTls::Strict { Expected::Requests } else { inside };
    let Some((opening, begun)) = opening::hear(outside, &mut stream).await else { return };
    match (&opening, mode) {
        // The mesh's own encryption ends here; any other is the program's.
        (Opening::Tls { mesh: true, .. }, MutualTls::Permissive | MutualTls::Strict) => {
            let Some((mut stream, name)) = station.identity.accept(opening::rewound(begun, stream)).await else {
                let passage = station.passage(Some(ends), opening.hello().and_then(|hello| hello.sni));
                return passage.without_handshake("no such certificate is taken");
            };
            let caller = Caller::new(Some(name), port, ends);
            let Some((opening, begun)) = opening::hear(inside, &mut stream).await else { return };
            converse(station, config, caller, opening, opening::rewound(begun, stream)).await;
        }
        (_, MutualTls::Strict) => {
            let mut passage = station.passage(Some(ends), opening.hello().and_then(|hello| hello.sni));
            passage.counts = false;
            passage.refused("NR", "filter_chain_not_found");
        }
        _ => converse(station, config, Caller::new(None, port, ends), opening, opening::rewound(begun, stream)).await,
    }
}

/// What is in force. Others may hear of this pod before its own proxy has heard what to do for it.
async fn first(station: &Station, port: u16) -> Option<Arc<Config>> {
    let mut config = station.config.clone();
    let is_known = |config: &Option<Arc<Config>>| config.as_ref().is_some_and(|config| config.entrance(port).is_some());
    let _ = timeout(PATIENCE, config.wait_for(is_known)).await;
    station.config.borrow().clone()
}

/// Goes on with a connection whose other end is known as far as it can be.
async fn converse<S>(station: Arc<Station>, config: Arc<Config>, caller: Caller, opening: Opening, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(entrance) = config.entrance(caller.port) else { return };
    let is_http = match entrance.inbound.carries {
        Carries::Http => true,
        Carries::Anything => matches!(opening, Opening::One | Opening::Two),
        Carries::Bytes => false,
    };
    if is_http {
        let caller = Arc::new(caller);
        let answer = move |request| answer(Arc::clone(&station), Arc::clone(&caller), request);
        return message::talk(stream, opening, answer).await;
    }
    let principal = caller.name.as_ref().map(Name::principal);
    let mut call = Call::new(caller.port).principal(principal).source(caller.ends.remote.ip());
    call.sni = opening.hello().and_then(|hello| hello.sni);
    let mut passage = passage(&station, &config, &caller, &entrance, call.sni);
    let ruling = config.guard.judge(&call);
    if !ruling.is_allowed() {
        return passage.closed(ruling.to_string());
    }
    match dial::home(entrance.inbound.socket).await {
        Ok(server) => {
            passage.upstream_local = server.local_addr().ok();
            passage.carry(stream, server, times().bytes).await;
        }
        Err(_) => passage.refused("UF", ""),
    }
}

/// Puts down whose connection it is, and to whom. Which workload it is, nobody says there: in a pod's own network the address
/// does, and what is proved is the namespace.
fn passage(station: &Station, config: &Config, caller: &Caller, entrance: &Entrance, sni: Option<&str>) -> Passage {
    let mut passage = station.passage(Some(caller.ends), sni);
    passage.reporter = "destination";
    passage.via.cluster = Arc::clone(&entrance.cluster.name);
    passage.upstream = Some(entrance.inbound.socket.to_string());
    passage.destination = Arc::clone(&config.own);
    passage.service = Arc::clone(&entrance.service);
    passage.security = "none";
    let Some(name) = &caller.name else { return passage };
    passage.security = "mutual_tls";
    passage.caller = Some(name.clone());
    passage.source_principal = Some(name.clone());
    passage.destination_principal = station.identity.name();
    let known = config.workload_at(caller.ends.remote.ip()).filter(|known| known.namespace == name.namespace());
    passage.source = known.unwrap_or_else(|| Workload::of_namespace(name.namespace()));
    passage
}

async fn answer(station: Arc<Station>, caller: Arc<Caller>, request: Request<Incoming>) -> Response<Sending> {
    let (mut parts, body) = request.into_parts();
    message::settle(&mut parts.headers, parts.version);
    let mut record = Record::begin(&station.telemetry, &mut parts, Some(caller.ends));
    record.caller.clone_from(&caller.name);
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
    let mut answer = answer.for_grpc(&parts.headers);
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
    let Some(entrance) = config.entrance(caller.port) else {
        return Answer::refused(503, "the pod has no such port any more");
    };
    note(station, config, caller, &entrance, &parts.headers, record);
    if caller.name.is_none() && config.guard.mutual_tls(caller.port) == MutualTls::Strict {
        // The connection came before the rule did.
        return Answer::refused(403, "mutual TLS is required").closing();
    }
    let (spot, roll) = (Spot::new(caller.port).encrypted(caller.name.is_some()), Roll::random());
    if let Some(refused) = station.admission.limited((Stage::First, &spot), &roll, record) {
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
    let call = Call::new(caller.port).principal(principal).source(caller.ends.remote.ip());
    if let Some(refused) = admission::refused(&config.guard, &call.request(&asked), record) {
        return refused;
    }
    if let Some(refused) = station.admission.limited((Stage::Last, &spot), &roll, record) {
        return refused;
    }
    introduce(station, caller, &mut parts.headers);
    let tongue = if parts.version == Version::HTTP_2 { Tongue::Two } else { Tongue::One };
    let (head, set_out) = (outgoing(&authority, parts, None), record.begun);
    let answer = deliver((station, &entrance.cluster, record), &head, entrance.inbound.socket, tongue, body).await;
    record.upstream_time = answer.came.map(|came| came.saturating_duration_since(set_out));
    answer
}

/// Puts down who came and to whom.
fn note(
    station: &Station,
    config: &Config,
    caller: &Caller,
    entrance: &Entrance,
    headers: &HeaderMap,
    record: &mut Record,
) {
    record.reporter = "destination";
    record.route = Arc::clone(&DEFAULT);
    record.via.cluster = Arc::clone(&entrance.cluster.name);
    record.destination = Arc::clone(&config.own);
    record.service = Arc::clone(&entrance.service);
    record.security = "none";
    let Some(name) = &caller.name else { return };
    record.security = "mutual_tls";
    record.source_principal = Some(name.clone());
    record.destination_principal = station.identity.name();
    if let Some(workload) = caller.workload(headers) {
        record.source = workload;
    }
}

/// Tells the program who asks. What a caller says of itself in the same place is taken out.
fn introduce(station: &Station, caller: &Caller, headers: &mut HeaderMap) {
    headers.remove(PEER_METADATA);
    headers.remove(CLIENT_CERT);
    if let Some(value) = station.identity.name().and_then(|own| caller.introduction(own)) {
        headers.insert(CLIENT_CERT, value);
    }
}
