//! What takes requests: a sidecar, or a gateway. Asks the router, and has done what it says.
//!
//! Sidecars and gateways share it; they differ in what they take as the question.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use meshroute::adapter::http::{self as adapter, Change};
use meshroute::authorize::Call;
use meshroute::limit::{Spot, Stage};
use meshroute::{Connection, Decision, Outcome, Roll, TlsHello};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::admission::{self, Admission};
use crate::ads::{self, Set, Sets};
use crate::answer::{Answer, reason};
use crate::config::{Config, Told};
use crate::credentials::{Credentials, Secured};
use crate::forward::{Trip, outgoing};
use crate::identity::Identity;
use crate::message::{self, Ends};
use crate::opening::{self, Opening};
use crate::passage::Passage;
use crate::pool::Tongue;
use crate::portions;
use crate::question::{Door, Question, asked, question};
use crate::record::{FORWARDED_FOR, Record, Sending, Telemetry};
use crate::spiffe::Name;
use crate::tunnel::{self, Going};
use crate::upstream::Upstreams;
use crate::wire::Routes;
use crate::workload::{Service, UNKNOWN};
use crate::world::rule_key;

/// A sidecar or a gateway.
pub struct Station {
    /// The snapshot in force; `None` before the first.
    pub config: watch::Receiver<Option<Arc<Config>>>,
    /// Where it tells what it did.
    pub telemetry: Arc<Telemetry>,
    /// The clusters as it knows them.
    pub upstreams: Upstreams,
    /// Who it is to others.
    pub identity: Arc<Identity>,
    /// What it shows to those from outside.
    pub credentials: Arc<Credentials>,
    /// How much it has let in.
    pub admission: Admission,
}

/// What a proxy has in force of what discovery told it.
#[derive(Default)]
pub struct InForce {
    sets: Sets,
    /// The listeners, each as it was when its tables last were there.
    warm: Set,
}

impl Station {
    /// Takes what a connection has brought so far, by type, and puts it in force beside what is. Until everything has come once it
    /// is only checked.
    pub fn take(
        &self,
        held: &Sets,
        now: &mut InForce,
        into: &watch::Sender<Option<Arc<Config>>>,
    ) -> Result<(), String> {
        let Some(sets) = ads::over(&now.sets, held) else {
            let (routes, _) = portions::join(held, &now.warm)?;
            return Config::check(routes, None).map(drop);
        };
        let (routes, warm) = portions::join(&sets, &now.warm)?;
        self.adopt(routes, into)?;
        *now = InForce { sets, warm };
        Ok(())
    }

    /// Puts what a proxy gets in force.
    pub fn adopt(&self, mut routes: Routes, into: &watch::Sender<Option<Arc<Config>>>) -> Result<(), String> {
        // A pod that is on its way out is served until it is gone: not everybody has heard of it yet.
        if let (true, Some(before)) = (routes.inbound.is_empty(), &*self.config.borrow()) {
            routes.inbound = before.entrances.iter().map(|(port, into)| (*port, into.inbound.clone())).collect();
        }
        let (roots, credentials, limits) = (routes.roots.clone(), routes.credentials.clone(), routes.limits.clone());
        let before = self.config.borrow().clone();
        let config = Config::check(routes, before.as_deref())?;
        self.identity.trust(&roots);
        self.credentials.adopt(credentials);
        self.admission.adopt(limits);
        let own = config.entrances.values().map(|entrance| &entrance.cluster);
        self.upstreams.adopt(config.router.plan().clusters.iter().chain(own));
        into.send_replace(Some(Arc::new(config)));
        Ok(())
    }
}

/// How often connections are looked at that nobody uses.
const TIDYING: Duration = Duration::from_secs(1);

/// Lets go, for ever, of connections that others have closed.
pub async fn tidy(station: Arc<Station>) {
    loop {
        tokio::time::sleep(TIDYING).await;
        station.upstreams.sweep(TIDYING);
    }
}

/// Who is at the other end of a connection.
pub struct Caller {
    /// Where they are.
    pub peer: SocketAddr,
    /// The sockets at both ends, where they are worth noting.
    pub ends: Option<Ends>,
    /// Who they have proved to be in this mesh; `None`: nobody.
    pub name: Option<Name>,
    /// Whether it came encrypted, which ended here.
    pub secured: Option<Secured>,
}

/// Serves a station's door for ever.
pub async fn serve(listener: TcpListener, station: Arc<Station>, door: Door) {
    message::accept(listener, move |stream, peer| {
        let station = Arc::clone(&station);
        async move { station.receive(stream, peer, door).await }
    })
    .await;
}

impl Station {
    async fn receive(self: Arc<Self>, mut stream: TcpStream, peer: SocketAddr, door: Door) {
        let ends = stream.local_addr().ok().map(|local| Ends { local, remote: peer });
        let config = self.config.borrow().clone();
        if let (Door::Gateway(port), Some(config)) = (door, config)
            && (config.carries_whole(door) || self.credentials.any(port))
        {
            let expected = tunnel::expected(&config, &Connection::new(port));
            let Some((opening, begun)) = opening::hear(expected, &mut stream).await else { return };
            if let Opening::Tls { name, mesh: true } = &opening
                && self.credentials.are_own(port, name.as_deref())
            {
                let stream = opening::rewound(begun, stream);
                let Some((mut stream, from)) = self.identity.accept(stream).await else {
                    return self.passage(ends, name.as_deref()).without_handshake("no such certificate is taken");
                };
                let expected = tunnel::expected(&config, &inside_of(port, name.as_deref()));
                let Some((inside, begun)) = opening::hear(expected, &mut stream).await else { return };
                let caller =
                    Caller { peer, ends, name: Some(from), secured: Some(Secured(name.as_deref().map(Into::into))) };
                return self.enter(&config, port, caller, inside, begun, stream).await;
            }
            if let Opening::Tls { name, .. } = &opening
                && self.credentials.ends_here(port, name.as_deref())
            {
                let stream = opening::rewound(begun, stream);
                let Some(mut stream) = self.credentials.accept(port, name.as_deref(), stream).await else {
                    return self.passage(ends, name.as_deref()).without_handshake("no handshake");
                };
                let expected = tunnel::expected(&config, &inside_of(port, name.as_deref()));
                let Some((inside, begun)) = opening::hear(expected, &mut stream).await else { return };
                let caller = Caller { peer, ends, name: None, secured: Some(Secured(name.as_deref().map(Into::into))) };
                return self.enter(&config, port, caller, inside, begun, stream).await;
            }
            let caller = Caller { peer, ends, name: None, secured: None };
            return self.enter(&config, port, caller, opening, begun, stream).await;
        }
        let caller = Arc::new(Caller { peer, ends, name: None, secured: None });
        let answer = move |request| Arc::clone(&self).answer(door, Arc::clone(&caller), request);
        message::converse(stream, answer).await;
    }

    /// Goes on with a connection to a gateway's port, which may have been decrypted.
    async fn enter<S>(
        self: Arc<Self>,
        config: &Config,
        port: u16,
        caller: Caller,
        opening: Opening,
        begun: Vec<u8>,
        stream: S,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut connection = Connection::new(port);
        connection.tls = match &caller.secured {
            Some(Secured(name)) => Some(TlsHello { sni: name.as_deref() }),
            None => opening.hello(),
        };
        if !tunnel::is_http(config, &connection) {
            let principal = caller.name.as_ref().map(Name::principal);
            let mut call = Call::new(port).principal(principal).source(caller.peer.ip());
            call.sni = connection.tls.and_then(|hello| hello.sni);
            let mut passage = self.passage(caller.ends, call.sni);
            passage.source = Arc::clone(&config.own);
            passage.caller.clone_from(&caller.name);
            let ruling = config.guard.judge(&call);
            if !ruling.is_allowed() {
                return passage.closed(ruling.to_string());
            }
            let going = Going { connection: &connection, asked: None, peer: caller.peer.ip() };
            return tunnel::carry(&self, config, going, begun, stream, passage).await;
        }
        if matches!(opening, Opening::One | Opening::Two) {
            let caller = Arc::new(caller);
            let answer = move |request| Arc::clone(&self).answer(Door::Gateway(port), Arc::clone(&caller), request);
            message::talk(opening::rewound(begun, stream), opening, answer).await;
        }
    }

    /// Answers a request, which is written down from this call on: a client may leave before anything is done for it.
    pub fn answer(
        self: Arc<Self>,
        door: Door,
        caller: Arc<Caller>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Sending>> + Send {
        let (mut parts, body) = request.into_parts();
        message::settle(&mut parts.headers, parts.version);
        if matches!(door, Door::Gateway(_)) {
            vouch(&mut parts.headers, caller.peer.ip(), caller.secured.is_some());
        }
        let mut record = Record::begin(&self.telemetry, &mut parts, caller.ends);
        record.caller.clone_from(&caller.name);
        record.sni = caller.secured.as_ref().and_then(|Secured(name)| name.clone());
        // Whatever becomes of it, and be it nonsense: who sends it is known.
        if let Some(config) = &*self.config.borrow() {
            record.source = Arc::clone(&config.own);
        }
        self.settle(door, caller, Box::new(parts), body, record)
    }

    async fn settle(
        self: Arc<Self>,
        door: Door,
        caller: Arc<Caller>,
        mut parts: Box<Parts>,
        body: Incoming,
        mut record: Box<Record>,
    ) -> Response<Sending> {
        let upgrade = parts.extensions.remove();
        let mut answer = if parts.method == Method::CONNECT {
            let answer = self.open_tunnel(&parts, door, &caller, upgrade);
            record.is_tunnel = answer.response.status().is_success();
            answer
        } else {
            let mut answer = self.ask(door, &caller, &parts, body, &mut record).await;
            tunnel::splice(upgrade, &mut answer.response);
            answer
        };
        if parts.version == Version::HTTP_2 {
            message::strip_hop_by_hop(answer.response.headers_mut());
        }
        let mut answer = answer.for_grpc(&parts.headers);
        answer.note(&mut record);
        record.answered(answer.labelled())
    }

    async fn ask(&self, door: Door, caller: &Caller, parts: &Parts, body: Incoming, record: &mut Record) -> Answer {
        let question = match question(door, caller, parts) {
            Ok(question) => question,
            // What follows might be the rest of something that was misunderstood.
            Err((status, text)) => return Answer::refused(status, text).closing(),
        };
        let config = self.config.borrow().clone();
        let Some(config) = config else {
            return Answer::refused(503, "no configuration yet");
        };
        let roll = Roll::random();
        let (told, made_here, change, refused, decision) = {
            let asked = asked(&config, door, caller, &question, parts);
            let decision = config.router.decide(&asked, &roll);
            let told = config.told(&decision);
            note(told.as_deref(), door, &question, &decision, record);
            let refused = match door {
                Door::Gateway(port) => self.refuse(&config, (port, caller), &decision, &asked, &roll, record),
                _ => None,
            };
            let change = Change::of(&decision, &asked);
            (told, adapter::answer(&decision, &asked), change, refused, decision)
        };
        if let Some(refused) = refused {
            return refused;
        }
        let mut set_out = record.begun;
        if let Some(delay) = decision.delay {
            tokio::time::sleep(delay).await;
            set_out = Instant::now();
        }
        if let Some(refused) = self.no_room_left((door, caller), &decision, &roll, record) {
            return refused;
        }
        let mut answer = match (made_here, change) {
            (Some(response), _) => Answer::of_decision(&decision, response),
            (None, Err(error)) => Answer::refused(500, error.to_string()),
            (None, Ok(change)) => {
                let trip = Trip {
                    station: self,
                    config: &config,
                    decision: &decision,
                    question: &question,
                    told: told.as_deref(),
                    roll,
                    peer: caller.peer,
                    set_out,
                    record,
                };
                let tongue = if parts.version == Version::HTTP_2 { Tongue::Two } else { Tongue::One };
                let head = outgoing(question.authority, parts, Some(&change));
                let mut answer = trip.set_out(door, &head, tongue, body).await;
                if let Some(reached) = &answer.upstream {
                    record.upstream_time = answer.came.map(|came| came.saturating_duration_since(set_out));
                    record.destination = config.workload(reached);
                    let peer = decision.cluster().and_then(|cluster| config.peer(cluster, reached.socket?));
                    let peer = peer.filter(|_| answer.was_met());
                    if let (Some(peer), Some(own)) = (peer, self.identity.name()) {
                        record.source_principal = Some(own);
                        record.destination_principal = Some(peer.clone());
                    }
                }
                decision.edit_response(answer.response.headers_mut());
                answer
            }
        };
        if answer.reason.is_empty() {
            (answer.reason, answer.shown) = match told {
                Some(told) => (Arc::clone(&told.reason), told.shown.clone()),
                None => (reason(&config.places, &decision).into(), None),
            };
        }
        answer
    }

    /// The answer to a request that a gateway does not let in, whatever was decided for it.
    fn refuse(
        &self,
        config: &Config,
        (port, caller): (u16, &Caller),
        decision: &Decision<'_>,
        asked: &meshroute::Request<'_>,
        roll: &Roll,
        record: &mut Record,
    ) -> Option<Answer> {
        let spot = spot(port, caller, decision);
        if let Some(answer) = self.admission.limited((Stage::First, &spot), roll, record) {
            return Some(answer);
        }
        let principal = caller.name.as_ref().map(Name::principal);
        let mut call = Call::new(port).principal(principal).source(caller.peer.ip()).request(asked);
        call.sni = asked.tls.and_then(|hello| hello.sni);
        admission::refused(&config.guard, &call, record)
    }

    /// The same for one that has been let in, and for which no fault was injected.
    fn no_room_left(
        &self,
        (door, caller): (Door, &Caller),
        decision: &Decision<'_>,
        roll: &Roll,
        record: &mut Record,
    ) -> Option<Answer> {
        let Door::Gateway(port) = door else { return None };
        match &decision.outcome {
            Outcome::Preflight(_) => None,
            Outcome::Refuse(refusal) if refusal.flag == "FI" => None,
            _ => {
                let spot = spot(port, caller, decision);
                self.admission.limited((Stage::Last, &spot), roll, record)
            }
        }
    }

    /// Agrees to carry whatever comes, where it is a sidecar's to carry.
    fn open_tunnel(
        self: &Arc<Self>,
        parts: &Parts,
        door: Door,
        caller: &Caller,
        upgrade: Option<hyper::upgrade::OnUpgrade>,
    ) -> Answer {
        let (Door::Proxy(_), Some(upgrade)) = (door, upgrade) else {
            return Answer::refused(405, "a gateway opens no tunnels");
        };
        let Some((host, Some(port))) = parts.uri.authority().map(|to| (to.host().to_string(), to.port_u16())) else {
            return Answer::refused(400, "a tunnel goes to HOST:PORT");
        };
        if self.config.borrow().is_none() {
            return Answer::refused(503, "no configuration yet");
        }
        tokio::spawn(tunnel::dig(Arc::clone(self), upgrade, (host, port), (caller.peer, caller.ends)));
        let mut answer = Answer::made_here(200, "", "").because("a tunnel");
        *answer.response.status_mut() = StatusCode::OK;
        answer
    }

    /// What is to be noted of a connection that may be carried as a whole.
    pub fn passage(&self, ends: Option<Ends>, sni: Option<&str>) -> Passage {
        Passage::begin(&self.telemetry, ends, sni)
    }
}

/// Puts what a gateway knows of a client in the place of what that says of itself, as Istio sets Envoy up
/// (`use_remote_address`, no trusted hops, `SANITIZE_SET`): how it came, from where, and that it has shown no certificate of
/// the mesh. A sidecar leaves to its program what that says.
fn vouch(headers: &mut HeaderMap, peer: IpAddr, secured: bool) {
    let scheme = HeaderValue::from_static(if secured { "https" } else { "http" });
    headers.insert("x-forwarded-proto", scheme);
    headers.remove(message::CLIENT_CERT);
    let before = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let way: Vec<&[u8]> = before.filter(|before| !before.is_empty()).collect();
    let way = [way.join(&b","[..]), peer.to_string().into_bytes()].into_iter().filter(|part| !part.is_empty());
    let way = way.collect::<Vec<_>>().join(&b","[..]);
    headers.remove(FORWARDED_FOR);
    if let Ok(way) = HeaderValue::from_bytes(&way) {
        headers.insert(FORWARDED_FOR, way);
    }
}

/// A connection to a gateway's port that was decrypted.
fn inside_of(port: u16, name: Option<&str>) -> Connection<'_> {
    let mut connection = Connection::new(port);
    connection.tls = Some(TlsHello { sni: name });
    connection
}

/// Where a request is at a gateway.
fn spot<'a>(port: u16, caller: &Caller, decision: &Decision<'a>) -> Spot<'a> {
    let host = decision.host.map_or("", |host| &host.name);
    let route = decision.route.map_or("", |route| &route.name);
    Spot::new(port).encrypted(caller.secured.is_some()).routed(host, route)
}

/// Puts down what was decided for a request.
fn note(told: Option<&Told>, door: Door, question: &Question<'_>, decision: &Decision<'_>, record: &mut Record) {
    if let Some(route) = decision.route {
        record.route = Arc::clone(&route.name);
    }
    if let Some(told) = told {
        record.via = told.via.clone();
        record.service = Arc::clone(&told.service);
        return;
    }
    let origin = decision.origin();
    record.via.rule = origin.map(|origin| rule_key(&origin.written_in, &origin.field).into()).unwrap_or_default();
    if let Outcome::Refuse(refusal) = &decision.outcome {
        record.details = refusal.detail.to_string().into();
    }
    let nobodys = |name: &str| Service::nobodys(name, question.authority);
    let service = match (decision.cluster(), decision.host, &decision.outcome) {
        (Some(cluster), ..) => {
            record.via.cluster = Arc::clone(&cluster.name);
            Service::of_cluster(cluster)
        }
        (None, Some(host), _) => Service::of_host(meshroute::host_of(&host.name)),
        (None, None, Outcome::Passthrough) => {
            record.via.cluster = "PassthroughCluster".into();
            record.route = "allow_any".into();
            nobodys("PassthroughCluster")
        }
        // Istio's gateways do not make a label of what any client says (`disable_host_header_fallback`).
        (None, None, _) if matches!(door, Door::Gateway(_)) => Service::nobodys(UNKNOWN, UNKNOWN),
        _ => nobodys("BlackHoleCluster"),
    };
    record.service = Arc::new(service);
}
