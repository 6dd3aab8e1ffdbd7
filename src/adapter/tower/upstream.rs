//! The side that sends requests: to one of the endpoints that the router chose, again if the route says so.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::header::{self, HOST, HeaderName};
use ::http::request::Parts;
use ::http::uri::{Authority, Scheme};
use ::http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use http_body::Body;
use tower_service::Service;

use super::body::RoutedBody;
use super::leased::{BodyError, LeasedBody};
use super::replay::{Replay, Source};
use crate::adapter::chosen::Chosen;
use crate::adapter::crew::{Clock, Crew, Lease};
use crate::adapter::http::{is_grpc_type, made_here, without_user};
use crate::adapter::sticky::stickiness;
use crate::balance::{Ended, Failure, HostId, Tried, Tries, Verdict};
use crate::plan::Endpoint;
use crate::roll::{Purpose, Roll};

/// Of a request that may be tried again, so many bytes are kept.
const KEPT: u64 = 64 << 10;

/// One try of a request that has ended, for whoever counts or logs.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt<'a> {
    /// Where the request should go, and how.
    pub chosen: &'a Chosen,
    /// Where this try went.
    pub endpoint: &'a Endpoint,
    /// What came of it.
    pub tried: Tried,
    /// How long it took, up to the head of the response.
    pub took: Duration,
    /// What follows.
    pub verdict: Verdict,
}

/// Sends requests to where the [`Chosen`] among their extensions says: waits for an injected delay, balances over the
/// cluster's endpoints, keeps to the route's times, and tries again under its policy. To be put behind a
/// [`RouteLayer`](super::RouteLayer), which decides and rewrites.
///
/// The service inside gets each try with an absolute URI that names the endpoint (`http://10.0.0.7:80/path`), and the
/// authority that the client sent in the `host` header: hyper-util's legacy client can be put there as it is. A request
/// without [`Chosen`], and one that [goes where it was dialled](Chosen::goes_where_dialled), is sent once, as it came.
///
/// It never fails: what cannot be had is answered with Envoy's status and text (503, or 504 when time is over).
///
/// # Allocates
/// The future, the body and what is kept of it.
#[derive(Debug)]
pub struct Upstream<S, K, F, A = fn(&Attempt<'_>)> {
    sender: S,
    crew: Arc<Crew<K>>,
    failure: F,
    attempt: A,
}

impl<S: Clone, K, F: Clone, A: Clone> Clone for Upstream<S, K, F, A> {
    fn clone(&self) -> Self {
        let Upstream { sender, crew, failure, attempt } = self;
        let (sender, failure, attempt) = (sender.clone(), failure.clone(), attempt.clone());
        Upstream { sender, crew: Arc::clone(crew), failure, attempt }
    }
}

impl<S, K: Clock, F> Upstream<S, K, F> {
    /// Sends by `sender`. `failure` says what an error of it means to the conditions under which a route tries again.
    pub fn new(sender: S, clock: K, failure: F) -> Self {
        Upstream { sender, crew: Arc::new(Crew::new(clock)), failure, attempt: |_| {} }
    }
}

impl<S, K, F, A> Upstream<S, K, F, A> {
    /// Tells each try that has ended. Called in the midst of a request, so it should be quick.
    pub fn on_attempt<N: Fn(&Attempt<'_>)>(self, attempt: N) -> Upstream<S, K, F, N> {
        let Upstream { sender, crew, failure, .. } = self;
        Upstream { sender, crew, failure, attempt }
    }
}

/// A response, or one that was made here.
type Answer<D, K> = Response<RoutedBody<LeasedBody<D, K>>>;

impl<S, K, F, A, B, D> Service<Request<B>> for Upstream<S, K, F, A>
where
    S: Service<Request<Replay<B>>, Response = Response<D>, Future: Send> + Clone + Send + 'static,
    S::Error: Send,
    K: Clock<Sleep: Send> + Send + Sync + 'static,
    F: Fn(&S::Error) -> Failure + Clone + Send + Sync + 'static,
    A: Fn(&Attempt<'_>) + Clone + Send + 'static,
    B: Body<Data: Clone + Send> + Send + 'static,
    D: Body<Data: From<Vec<u8>>, Error: Into<BodyError>> + Send + 'static,
{
    type Response = Answer<D, K>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Each try waits for the service inside by itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let upstream = self.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            forget_hop(&mut parts.headers);
            name_in_host(&mut parts);
            parts.version = Version::HTTP_11;
            let mut response = match parts.extensions.get::<Chosen>().cloned() {
                Some(chosen) if !chosen.goes_where_dialled() => upstream.exchange(&chosen, parts, body).await,
                _ => upstream.pass(parts, body).await,
            };
            forget_hop(response.headers_mut());
            Ok(response)
        })
    }
}

impl<S, K: Clock, F, A> Upstream<S, K, F, A> {
    /// Once, as it came.
    async fn pass<B, D>(mut self, parts: Parts, body: B) -> Answer<D, K>
    where
        S: Service<Request<Replay<B>>, Response = Response<D>>,
        F: Fn(&S::Error) -> Failure,
        B: Body,
    {
        let grpc = is_grpc_type(&parts.headers);
        let Some(body) = Source::new(body, 0).again() else { return unsent(Failure::Reset, grpc) };
        match attempt(&mut self.sender, Request::from_parts(parts, body), None::<K::Sleep>, &self.failure).await {
            Ok(response) => response.map(|body| RoutedBody::inner(LeasedBody::new(body, None, None))),
            Err(failure) => unsent(failure, grpc),
        }
    }

    /// As often as the route says.
    async fn exchange<B, D>(mut self, chosen: &Chosen, parts: Parts, body: B) -> Answer<D, K>
    where
        S: Service<Request<Replay<B>>, Response = Response<D>>,
        F: Fn(&S::Error) -> Failure,
        A: Fn(&Attempt<'_>),
        B: Body<Data: Clone>,
    {
        let clock = self.crew.clock.clone();
        if let Some(delay) = chosen.delay() {
            clock.sleep(delay).await;
        }
        let mut way = Way::new(chosen, &parts, &clock);
        let source = Source::new(body, if chosen.retry().is_some() { KEPT } else { 0 });
        let mut next = source.again();
        loop {
            let Some(body) = next.take() else { return unsent(Failure::Reset, way.grpc) };
            let Some((endpoint, mut lease)) = self.crew.pick(chosen, way.hash, &way.before) else {
                return local(503, "no healthy upstream", way.grpc);
            };
            way.goes_to(lease.host);
            let (request, began) = (addressed(&parts, &endpoint, body), clock.now());
            let limit = way.limit().map(|limit| clock.sleep(limit));
            let answer = attempt(&mut self.sender, request, limit, &self.failure).await;
            let tried;
            (tried, lease.ended) = outcome(&answer);
            let (verdict, took) = (way.judge(tried), clock.now().saturating_sub(began));
            (self.attempt)(&Attempt { chosen, endpoint: &endpoint, tried, took, verdict });
            if let Verdict::Again(pause) = verdict {
                next = source.again();
                if next.is_some() {
                    drop((answer, lease));
                    clock.sleep(way.left().map_or(pause, |left| left.min(pause))).await;
                    continue;
                }
            }
            return match answer {
                Ok(response) => arrived(response, lease, way.left().map(|left| clock.sleep(left)), way.cookie),
                Err(failure) => unsent(failure, way.grpc),
            };
        }
    }
}

/// What is remembered between the tries of one request.
struct Way<'c, K> {
    chosen: &'c Chosen,
    clock: &'c K,
    deadline: Option<Duration>,
    tries: Option<Tries<'c>>,
    draw: u64,
    /// What it sticks by.
    hash: Option<u64>,
    /// What its client gets to stick by next time.
    cookie: Option<HeaderValue>,
    before: Vec<HostId>,
    grpc: bool,
}

impl<'c, K: Clock> Way<'c, K> {
    fn new(chosen: &'c Chosen, parts: &Parts, clock: &'c K) -> Self {
        let path = parts.uri.path_and_query().map_or(&b"/"[..], |path| path.as_str().as_bytes());
        let (hash, cookie) = stickiness(chosen, &parts.headers, path, None);
        Way {
            deadline: chosen.timeout().map(|timeout| clock.now().saturating_add(timeout)),
            tries: chosen.retry().map(Tries::new),
            draw: chosen.roll().draw(Purpose::Endpoint),
            before: Vec::new(),
            grpc: is_grpc_type(&parts.headers),
            chosen,
            clock,
            hash,
            cookie,
        }
    }

    fn goes_to(&mut self, host: HostId) {
        if self.chosen.retry().is_some_and(|retry| retry.ignore_previous_hosts) {
            self.before.push(host);
        }
    }

    /// What is left of the route's time.
    fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_sub(self.clock.now()))
    }

    /// How long the next try may take.
    fn limit(&self) -> Option<Duration> {
        let per_try = self.chosen.retry().and_then(|retry| retry.per_try_timeout);
        self.left().into_iter().chain(per_try).min()
    }

    /// Whether there is another try. When the route's time is over, there is none.
    fn judge(&mut self, tried: Tried) -> Verdict {
        self.draw = Roll::seeded(self.draw).draw(Purpose::Endpoint);
        let over = self.left() == Some(Duration::ZERO);
        match &mut self.tries {
            Some(tries) if !over => tries.judge(tried, self.draw),
            _ => Verdict::Done,
        }
    }
}

/// One try, and no longer than `limit`.
async fn attempt<S, R, D, T>(
    sender: &mut S,
    request: R,
    limit: Option<T>,
    failure: &impl Fn(&S::Error) -> Failure,
) -> Result<Response<D>, Failure>
where
    S: Service<R, Response = Response<D>>,
    T: Future<Output = ()>,
{
    let mut sending = pin!(async {
        poll_fn(|context| sender.poll_ready(context)).await?;
        sender.call(request).await
    });
    let mut limit = limit.map(Box::pin);
    poll_fn(|context| {
        if let Poll::Ready(answer) = sending.as_mut().poll(context) {
            return Poll::Ready(answer.map_err(|error| failure(&error)));
        }
        let over = limit.as_mut().is_some_and(|limit| limit.as_mut().poll(context).is_ready());
        if over { Poll::Ready(Err(Failure::TimedOut)) } else { Poll::Pending }
    })
    .await
}

/// How a try ended, to those who decide on another and to those who count an endpoint's failures.
fn outcome<D>(answer: &Result<Response<D>, Failure>) -> (Tried, Ended) {
    match answer {
        Ok(response) => {
            let status = response.status().as_u16();
            let number = |name| response.headers().get(name).and_then(|value| value.to_str().ok()?.parse().ok());
            let rate_limited = response.headers().contains_key("x-envoy-ratelimited");
            (Tried::Answered { status, grpc: number("grpc-status"), rate_limited }, Ended::Answered(status))
        }
        Err(Failure::TimedOut) => (Tried::Failed(Failure::TimedOut), Ended::TimedOut),
        Err(failure) => (Tried::Failed(*failure), Ended::Lost),
    }
}

/// The request for an endpoint.
fn addressed<B>(parts: &Parts, endpoint: &Endpoint, body: B) -> Request<B> {
    let mut parts = parts.clone();
    if let Ok(authority) = Authority::try_from(endpoint.to_string()) {
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        (uri.scheme, uri.authority) = (Some(uri.scheme.unwrap_or(Scheme::HTTP)), Some(authority));
        uri.path_and_query.get_or_insert_with(|| ::http::uri::PathAndQuery::from_static("/"));
        // INVARIANT: a URI with scheme, authority and path is one.
        parts.uri = Uri::from_parts(uri).unwrap_or_default();
    }
    Request::from_parts(parts, body)
}

fn arrived<D, K: Clock>(
    response: Response<D>,
    lease: Lease<K>,
    rest: Option<K::Sleep>,
    cookie: Option<HeaderValue>,
) -> Answer<D, K> {
    let mut response = response.map(|body| RoutedBody::inner(LeasedBody::new(body, Some(lease), rest)));
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Envoy's answer when no answer came.
fn unsent<D, K: Clock>(failure: Failure, grpc: bool) -> Answer<D, K> {
    const LOST: &str = "upstream connect error or disconnect/reset before headers. reset reason: ";
    match failure {
        Failure::TimedOut => local(504, "upstream request timeout", grpc),
        Failure::Connect => local(503, &format!("{LOST}remote connection failure"), grpc),
        Failure::Refused => local(503, &format!("{LOST}remote refused stream reset"), grpc),
        Failure::Overflow => local(503, &format!("{LOST}overflow"), grpc),
        _ => local(503, &format!("{LOST}connection termination"), grpc),
    }
}

fn local<D, K: Clock>(status: u16, text: &str, grpc: bool) -> Answer<D, K> {
    made_here(status, text, grpc).map(RoutedBody::local)
}

/// What an absolute target names is what the request is for, whatever `Host` says (RFC 9112, section 3.2.2); and the URI will
/// name the endpoint.
fn name_in_host(parts: &mut Parts) {
    let named = parts.uri.authority().map(|named| without_user(named.as_str()));
    if let Some(named) = named.and_then(|named| HeaderValue::from_str(named).ok()) {
        parts.headers.insert(HOST, named);
    }
}

/// What is meant for the next hop only (RFC 9110, section 7.6.1).
fn forget_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    named.iter().for_each(|name| drop(headers.remove(name)));
    for name in [header::CONNECTION, header::PROXY_AUTHENTICATE, header::PROXY_AUTHORIZATION, header::TRANSFER_ENCODING]
    {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "upgrade"] {
        headers.remove(name);
    }
}
