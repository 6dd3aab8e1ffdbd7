//! Carries out a decision: forwarding, tries, timeouts, copies.
//!
//! Where a request goes is never decided here, nor whether it is tried again, nor who is set aside: the library says it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderValue, SET_COOKIE};
use hyper::http::request::Parts;
use hyper::{Request, Uri, header};
use meshroute::adapter::http::Change;
use meshroute::balance::key::{self, Keyed};
use meshroute::balance::{Ask, Failure, HostId, Tries, Verdict};
use meshroute::plan::{Cluster, Endpoint, HttpVersion, Retry};
use meshroute::{Decision, Forwarded, Outcome, Purpose, Roll};
use smallvec::smallvec;
use tokio::time::timeout;

use crate::answer::{Answer, arrived};
use crate::config::{Config, Told};
use crate::identity::Identity;
use crate::message;
use crate::pool::{Body, Parcel, Stuck, Tongue};
use crate::question::{Door, Question, ip};
use crate::record::Record;
use crate::retry::{self, Cargo, Tried};
use crate::station::Station;
use crate::times::Stalled;
use crate::transport::Way;
use crate::upload::Upload;
use crate::upstream::{Held, Reached, Upstream, What, at, now};

/// How long a copy may take.
const MIRROR_PATIENCE: Duration = Duration::from_secs(60);

/// One request on its way.
pub struct Trip<'a> {
    /// Who carries it.
    pub station: &'a Station,
    /// The snapshot that it began with.
    pub config: &'a Config,
    /// What is done with it.
    pub decision: &'a Decision<'a>,
    /// What it asked.
    pub question: &'a Question<'a>,
    /// What is said of every request that goes this way, if that is known.
    pub told: Option<&'a Told>,
    /// Its dice.
    pub roll: Roll,
    /// Who sent it.
    pub peer: SocketAddr,
    /// When it sets out.
    pub set_out: Instant,
    /// What is noted of it.
    pub record: &'a Record,
}

/// What makes a request stick to an endpoint.
struct Sticky {
    hash: Option<u64>,
    /// For the client, so that its next request sticks as well.
    cookie: Option<HeaderValue>,
}

/// What the tries of a request have in common.
struct Errand<'e> {
    head: &'e Request<()>,
    cluster: &'e Cluster,
    /// Who sends it, for the sidecar at the other end.
    metadata: Option<&'e HeaderValue>,
    identity: &'e Identity,
    upstream: Arc<Upstream>,
    connect_timeout: Duration,
    tongue: Tongue,
    /// When all of it must be over, which is never where that is reckoned from the end of an upload.
    deadline: Option<Instant>,
    /// A body that is still coming, and the route's time.
    upload: Option<(&'e Upload, Option<Duration>)>,
    retry: Option<&'e Retry>,
    /// What is noted of the request; nothing is of a copy.
    record: Option<&'e Record>,
}

impl Errand<'_> {
    /// Whether it is HTTP/1.1 and stays so.
    fn is_plain(&self) -> bool {
        self.tongue == Tongue::One && !self.head.headers().contains_key(header::UPGRADE)
    }

    /// When all of it must be over, if that is known by now.
    fn deadline(&self) -> Option<Instant> {
        match self.upload {
            Some((upload, time)) => Some(upload.ended_at()? + time?),
            None => self.deadline,
        }
    }
}

impl Trip<'_> {
    /// Does what the decision says, up to the head of an answer.
    pub async fn set_out(&self, door: Door, head: &Request<()>, tongue: Tongue, body: Incoming) -> Answer {
        match self.decision.outcome {
            Outcome::Forward(to) | Outcome::Connect(to) => {
                let original = self.config.original(to.cluster, || self.dialled(door));
                self.forward(to, original, head, tongue, body).await
            }
            Outcome::Passthrough => self.pass_through(door, head, tongue, body).await,
            _ => Answer::refused(502, "nobody takes this connection"),
        }
    }

    /// Where the client has sent its request, as it would have without a proxy. What comes to a gateway was sent to that.
    fn dialled(&self, door: Door) -> Option<SocketAddr> {
        let address = match door {
            Door::Gateway(_) => None,
            Door::Tunnel(_, address) => address,
            Door::Proxy(_) => {
                let host = self.question.host;
                ip(host).or_else(|| self.config.router.lookup(host).first().copied())
            }
        };
        Some(SocketAddr::new(address?, self.question.port))
    }

    /// Forwards to one of a cluster's endpoints, and to another if the route says so. `original`: the client has chosen one.
    async fn forward(
        &self,
        to: Forwarded<'_>,
        original: Option<Reached>,
        head: &Request<()>,
        tongue: Tongue,
        body: Incoming,
    ) -> Answer {
        let is_waited_for = !body.is_end_stream();
        let cargo = match Cargo::load(body).await {
            Ok(cargo) => cargo,
            Err(error) if error.is::<Stalled>() => return stalled(408).closing(),
            Err(_) => return Answer::refused(400, "the request's body ended too soon"),
        };
        let start = if is_waited_for { Instant::now() } else { self.set_out };
        let upload = cargo.upload();
        let time = to.forward().and_then(|forward| forward.timeout);
        self.mirror(head, tongue, &cargo);
        let sticky = self.sticky(to, head);
        let retry = to.forward().and_then(|forward| forward.retry.as_ref());
        let errand = Errand {
            head,
            cluster: to.cluster,
            metadata: self.config.metadata.as_ref(),
            identity: &self.station.identity,
            upstream: self.upstream(to.cluster),
            connect_timeout: to.cluster.policy.connect_timeout,
            tongue: spoken(to.cluster, tongue, head),
            deadline: time.filter(|_| upload.is_none()).map(|timeout| start + timeout),
            upload: upload.as_ref().map(|upload| (upload, time)),
            retry,
            record: Some(self.record),
        };
        let tries = (original, &sticky, start);
        let mut answer = match &upload {
            // Apart, so that what is all there has no room for it.
            Some(upload) => Box::pin(settled(upload, time, self.tries(&errand, tries, &cargo))).await,
            None => self.tries(&errand, tries, &cargo).await,
        };
        if let Some(cookie) = sticky.cookie {
            answer.response.headers_mut().append(SET_COOKIE, cookie);
        }
        answer
    }

    /// A cluster in motion, which a route looks for once.
    fn upstream(&self, cluster: &Cluster) -> Arc<Upstream> {
        match self.told {
            Some(told) => Arc::clone(told.upstream.get_or_init(|| self.station.upstreams.of(cluster))),
            None => self.station.upstreams.of(cluster),
        }
    }

    async fn tries(
        &self,
        errand: &Errand<'_>,
        (original, sticky, start): (Option<Reached>, &Sticky, Instant),
        cargo: &Cargo,
    ) -> Answer {
        let mut tries = errand.retry.map(Tries::new);
        let (mut before, mut _retrying): (Vec<HostId>, Option<Held>) = (Vec::new(), None);
        let mut start = at(start);
        loop {
            let passed = if errand.retry.is_some_and(|retry| retry.ignore_previous_hosts) { &before[..] } else { &[] };
            let mut ask = Ask::new(self.roll, start);
            (ask.hash, ask.before) = (sticky.hash, passed);
            let picked = match &original {
                Some(chosen) => Some((None, chosen.clone(), None)),
                None => errand.upstream.pick(&ask).map(|(host, reached, held)| (Some(host), reached, Some(held))),
            };
            let Some((host, reached, held)) = picked else {
                return Answer::made_here(503, "UH", "no healthy upstream");
            };
            let tried = self.attempt(errand, &reached, held, cargo).await;
            let came = Instant::now();
            if let Some(host) = host {
                errand.upstream.report(host, retry::report_on(&tried), at(came));
            }
            let verdict = match &mut tries {
                Some(tries) => {
                    let draw = Purpose::Mirror(before.len() as u16 + 1);
                    let draw = Roll::seeded(self.roll.draw(Purpose::Endpoint)).draw(draw);
                    tries.judge(retry::verdict_on(&tried), draw)
                }
                None => Verdict::Done,
            };
            let Verdict::Again(pause) = verdict else {
                let flag = if verdict == Verdict::Exhausted { "URX" } else { "" };
                return arrived(tried, (reached, came), errand.deadline(), flag);
            };
            if cargo.is_spent() || retry::is_past(errand.deadline()) {
                return arrived(tried, (reached, came), errand.deadline(), "");
            }
            before.extend(host);
            _retrying = None;
            match errand.upstream.hold(What::Retry) {
                Ok(held) => _retrying = Some(held),
                Err(_) => return arrived(tried, (reached, came), errand.deadline(), "UO"),
            }
            drop(tried);
            tokio::time::sleep(retry::limit(errand.deadline(), None).map_or(pause, |left| pause.min(left))).await;
            start = now();
        }
    }

    /// One try, within its time.
    async fn attempt(&self, errand: &Errand<'_>, reached: &Reached, held: Option<Held>, cargo: &Cargo) -> Tried {
        let Some(way) = self.config.way(errand.cluster, reached) else {
            return Err(Failure::Connect.into());
        };
        let tried = match retry::limit(errand.deadline, errand.retry) {
            // Apart, so that what waits for no time has no room for a timer.
            each if errand.upload.is_some() => Box::pin(in_time(errand, each, send(errand, way, cargo))).await,
            Some(limit) => {
                Box::pin(timeout(limit, send(errand, way, cargo))).await.unwrap_or(Err(Failure::TimedOut.into()))
            }
            None => send(errand, way, cargo).await,
        };
        tried.map(|(response, mut taken)| {
            taken.extend(held);
            (response, taken)
        })
    }

    fn sticky(&self, to: Forwarded<'_>, head: &Request<()>) -> Sticky {
        let nothing = Sticky { hash: None, cookie: None };
        let Some(by) = to.forward().and_then(|forward| forward.hash.as_ref()) else { return nothing };
        let path = head.uri().path_and_query().map_or("/", |path| path.as_str());
        let keyed = Keyed { headers: head.headers(), path: path.as_bytes(), source: Some(self.peer.ip()) };
        if let Some(hash) = key::hash(by, &keyed) {
            return Sticky { hash: Some(hash), cookie: None };
        }
        match key::fresh_cookie(by, self.roll.draw(Purpose::Endpoint)) {
            Some((hash, cookie)) => Sticky { hash: Some(hash), cookie: HeaderValue::from_str(&cookie).ok() },
            None => nothing,
        }
    }

    /// Sends the copies that the route asks for, of what can be copied. Nobody waits for them.
    fn mirror(&self, head: &Request<()>, tongue: Tongue, cargo: &Cargo) {
        for mirror in self.decision.mirrors(&self.roll) {
            let Some(cluster) = self.config.router.plan().clusters.get(mirror.cluster as usize) else { continue };
            let upstream = self.station.upstreams.of(cluster);
            let Some((_, reached, held)) = upstream.pick(&Ask::new(self.roll, now())) else { continue };
            let Some(way) = self.config.way(cluster, &reached) else { continue };
            let (cluster, identity) = (Arc::clone(cluster), Arc::clone(&self.station.identity));
            let metadata = self.config.metadata.clone();
            let (head, original) = (head.clone(), cargo.original());
            let connect_timeout = cluster.policy.connect_timeout;
            let tongue = spoken(&cluster, tongue, &head);
            tokio::spawn(timeout(MIRROR_PATIENCE, async move {
                // One that is still coming is copied when it is all there.
                let Some(cargo) = original.await else { return };
                let errand = Errand {
                    head: &head,
                    cluster: &cluster,
                    metadata: metadata.as_ref(),
                    identity: &identity,
                    upstream,
                    connect_timeout,
                    tongue,
                    deadline: None,
                    upload: None,
                    retry: None,
                    record: None,
                };
                // Read to the end, so that the connection can be used again.
                if let Ok((answer, _taken)) = send(&errand, way, &cargo).await {
                    let _ = answer.into_body().collect().await;
                }
                drop(held);
            }));
        }
    }

    /// Goes to the address that was asked for, if it is one that may be reached.
    async fn pass_through(&self, door: Door, head: &Request<()>, tongue: Tongue, body: Incoming) -> Answer {
        let asked = ip(self.question.host).map(|ip| SocketAddr::new(ip, self.question.port));
        let authority = self.question.authority;
        let Some(socket) = asked.and_then(|address| self.config.real(address)) else {
            let text = format!("nobody in the mesh claims `{authority}`, and nothing beyond loopback is reached");
            return Answer::refused(502, text);
        };
        if matches!(door, Door::Proxy(own) if own == socket) {
            return Answer::refused(502, "this is the proxy itself; name a service");
        }
        let cluster = single("PassthroughCluster", socket);
        let answer = Box::pin(deliver((self.station, &cluster, self.record), head, socket, tongue, body)).await;
        answer.because(format!("nobody claims {authority}: it goes where it was sent"))
    }
}

/// What the endpoints of a cluster are spoken to in. What becomes something else does so in HTTP/1.1 only.
fn spoken(cluster: &Cluster, client: Tongue, head: &Request<()>) -> Tongue {
    match cluster.http {
        HttpVersion::AsClient => client,
        HttpVersion::Two if !head.headers().contains_key(header::UPGRADE) => Tongue::Two,
        _ => Tongue::One,
    }
}

/// A cluster that no plan has, of one endpoint.
pub fn single(name: &str, socket: SocketAddr) -> Cluster {
    let mut cluster = Cluster::missing(name, "", 0);
    cluster.name = name.into();
    cluster.endpoints = [Endpoint::new(&socket.ip().to_string(), socket.port(), "")].into();
    cluster
}

/// Sends a request to a socket as it is, on account of a [`single`] cluster.
pub async fn deliver(
    (station, cluster, record): (&Station, &Cluster, &Record),
    head: &Request<()>,
    socket: SocketAddr,
    tongue: Tongue,
    body: Incoming,
) -> Answer {
    let Some(endpoint) = cluster.endpoints.first() else {
        return Answer::made_here(503, "UH", "no healthy upstream");
    };
    let upstream = station.upstreams.of(cluster);
    let connect_timeout = cluster.policy.connect_timeout;
    let errand = Errand {
        head,
        cluster,
        metadata: None,
        identity: &station.identity,
        upstream,
        connect_timeout,
        tongue,
        deadline: None,
        upload: None,
        retry: None,
        record: Some(record),
    };
    let cargo = Cargo::once(body);
    match cargo.upload() {
        // Apart, so that what is all there has no room for it.
        Some(upload) => Box::pin(settled(&upload, None, once(&errand, endpoint, socket, &cargo))).await,
        None => once(&errand, endpoint, socket, &cargo).await,
    }
}

/// The answer to the only try of a request.
async fn once(errand: &Errand<'_>, endpoint: &Endpoint, socket: SocketAddr, cargo: &Cargo) -> Answer {
    let tried = send(errand, Way::plain(socket), cargo).await;
    arrived(tried, (Reached::from(endpoint), Instant::now()), None, "")
}

/// One try of a request that may still be coming, within its time: that is reckoned from its end, as with Envoy.
async fn in_time(errand: &Errand<'_>, each: Option<Duration>, sending: impl Future<Output = Tried>) -> Tried {
    let Some((upload, time)) = errand.upload else { return sending.await };
    tokio::select! {
        tried = sending => tried,
        () = upload.late(each, time) => Err(Failure::TimedOut.into()),
    }
}

/// The answer to a request that may still be coming. Nobody waits without end for either of them.
async fn settled(upload: &Upload, time: Option<Duration>, tries: impl Future<Output = Answer>) -> Answer {
    let mut answer = tokio::select! {
        answer = tries => answer,
        () = upload.unanswered() => return stalled(504),
    };
    if upload.is_stalled() && answer.is_made_here() {
        return stalled(408).closing();
    }
    if let (Some(time), None) = (time, upload.ended_at()) {
        answer.response = answer.response.map(|body| upload.clone().due(body, time));
    }
    answer
}

/// The answer where nothing more came: of the request (408), or of an answer to it (504).
fn stalled(status: u16) -> Answer {
    Answer::made_here(status, "SI", "stream timeout")
}

/// Sends a request, and sends it again where a kept connection turns out to be closed.
async fn send(errand: &Errand<'_>, way: Way, cargo: &Cargo) -> Tried {
    let way = &way.of_request(errand.head.headers());
    let metadata = errand.metadata.filter(|_| way.peer.is_some());
    let mut unsent: Option<Box<Request<Body>>> = None;
    loop {
        let line = errand.upstream.line(way, errand.tongue, errand.identity, errand.connect_timeout).await?;
        if let (Cargo::Small(body), true) = (cargo, line.is_bare() && errand.is_plain()) {
            if let Some(record) = errand.record {
                record.loaded(body.len() as u64);
            }
            let parcel =
                Parcel { head: errand.head, more: metadata.map(|value| (message::PEER_METADATA, value)), body };
            match errand.upstream.ask(line, parcel).await? {
                Some((response, active)) => return Ok((response, smallvec![active])),
                None => continue,
            }
        }
        let request = match unsent.take() {
            Some(request) => *request,
            None => whole(errand, way, metadata, cargo)?,
        };
        // Apart, so that what goes without hyper has no room for it.
        match Box::pin(errand.upstream.send(line, request)).await {
            Ok((response, active)) => return Ok((response, smallvec![active])),
            Err(Stuck::Unsent(request)) => unsent = Some(request),
            Err(Stuck::Lost(failure)) => return Err(failure),
        }
    }
}

/// The request with its body, which goes with it if it can be sent only once.
fn whole(
    errand: &Errand<'_>,
    way: &Way,
    metadata: Option<&HeaderValue>,
    cargo: &Cargo,
) -> Result<Request<Body>, Failure> {
    let body = cargo.unload().ok_or(Failure::Reset)?;
    let body = match errand.record {
        Some(record) => record.receiving(body),
        None => body,
    };
    let mut request = with(errand.head, body, way.to, errand.tongue);
    if let Some(metadata) = metadata {
        request.headers_mut().insert(message::PEER_METADATA, metadata.clone());
    }
    Ok(request)
}

/// The request as it goes out, but for its body.
pub fn outgoing(authority: &str, parts: &Parts, change: Option<&Change>) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    let path = parts.uri.path_and_query().cloned().map(Uri::from);
    *request.uri_mut() = path.unwrap_or_default();
    // They are few: looking through them costs less than looking up.
    let asks_of_the_next = message::is_for_one_connection(&parts.headers);
    *request.headers_mut() = if asks_of_the_next { message::passed_on(&parts.headers) } else { parts.headers.clone() };
    let upgrade = asks_of_the_next.then(|| message::upgrade(&parts.headers)).flatten().cloned();
    let trailers = asks_of_the_next && message::wants_trailers(&parts.headers);
    // Who somebody is, is not for the program to say.
    if parts.headers.keys().any(|name| *name == message::PEER_METADATA) {
        request.headers_mut().remove(message::PEER_METADATA);
    }
    if request.headers().get(header::HOST).is_none_or(|host| host != authority) {
        message::insert(request.headers_mut(), header::HOST, authority);
    }
    if let Some(change) = change {
        change.request(&mut request);
    }
    if trailers {
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        request.headers_mut().insert(header::UPGRADE, upgrade);
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    request
}

/// With a body, and in the form that the protocol wants: HTTP/2 has the authority in the target.
fn with(head: &Request<()>, body: Body, socket: SocketAddr, tongue: Tongue) -> Request<Body> {
    let mut request = head.clone().map(|()| body);
    if tongue == Tongue::One {
        return request;
    }
    let host = request.headers_mut().remove(header::HOST);
    let host = host.and_then(|host| host.to_str().map(str::to_string).ok()).unwrap_or_else(|| socket.to_string());
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_string();
    if let Ok(uri) = Uri::builder().scheme("http").authority(host).path_and_query(path).build() {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = hyper::Version::HTTP_2;
    request
}
