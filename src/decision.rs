//! The answer, and the one place that works out what becomes of a request: rewrites, redirects, header edits.
//!
//! Pure functions over plan data and one request. Knows nothing of how the route was found.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::cors::{self, Verdict};
use crate::path::{NormalPath, PathError, PathView, normalize};
use crate::plan::{
    Abort, Action, Cluster, Cors, Destination, DirectResponse, EditHeaders, Endpoint, Fault, Forward, HttpTable,
    Mirror, Origin, PathMatch, PathRewrite, Plan, RedirectPath, RequestLine, Route, Unclaimed, Unmatched, VirtualHost,
};
use crate::request::{Headers, NoHeaders, Question, Request};
use crate::roll::{Purpose, Roll};

/// What becomes of one request, and which rule said so. Borrows from the router and the request.
#[derive(Clone)]
#[non_exhaustive]
pub struct Decision<'a> {
    /// What becomes of it.
    pub outcome: Outcome<'a>,
    /// The virtual host that claimed it, if one did.
    pub host: Option<&'a VirtualHost>,
    /// The route that took it, if one did.
    pub route: Option<&'a Route>,
    /// How long to wait before anything else (an injected delay).
    pub delay: Option<Duration>,
    /// Which of the route's destinations.
    picked: Option<u32>,
    /// Whether the origin that the request names is let in.
    let_in: bool,
    headers: &'a dyn Headers,
    method: &'a str,
    authority: &'a str,
    /// Empty where no edit of a header could speak of it.
    scheme: &'static str,
    /// As it was sent, without its fragment; empty where no path was looked at.
    sent: &'a [u8],
    /// Whether `sent` has to be brought into normal form.
    changed: bool,
    /// Whether the virtual host sends this plain request to https.
    encrypt: bool,
}

/// What becomes of a request or connection.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Outcome<'a> {
    /// It goes on to one of the cluster's endpoints, of which there is at least one.
    Forward(Forwarded<'a>),
    /// The client is sent to [`Decision::location`].
    Redirect(u16),
    /// An answer is made here.
    Direct(&'a DirectResponse),
    /// A browser that asks what it may do is answered here, with status 200 and the headers of [`Decision::preflight`].
    Preflight(&'a Cors),
    /// It goes to the address that was dialled: nobody claims it.
    Passthrough,
    /// It is answered with an error.
    Refuse(Refusal<'a>),
    /// The connection goes on to a cluster as a whole, whatever it carries.
    Connect(Forwarded<'a>),
    /// The connection is accepted and closed: nobody claims it and nobody may.
    Blackhole,
    /// The connection is not accepted: nothing listens there.
    Reset,
}

/// A chosen cluster.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Forwarded<'a> {
    /// The one that was picked.
    pub cluster: &'a Cluster,
    way: Way<'a>,
    at: u32,
}

/// Where a chosen cluster is named.
#[derive(Clone, Copy, Debug)]
enum Way<'a> {
    Route(&'a Route),
    Connection { destinations: &'a [Destination], origin: Option<&'a Origin> },
}

impl<'a> Forwarded<'a> {
    /// The destination that names the cluster.
    pub fn destination(&self) -> &'a Destination {
        // INVARIANT: it was picked from them.
        &self.siblings()[self.at as usize]
    }

    /// All the destinations that it was picked from.
    pub fn siblings(&self) -> &'a [Destination] {
        match self.way {
            Way::Route(_) => self.forward().map_or(&[], |forward| &forward.destinations),
            Way::Connection { destinations, .. } => destinations,
        }
    }

    /// All that the route says of forwarding; absent for connections.
    pub fn forward(&self) -> Option<&'a Forward> {
        match self.way {
            Way::Route(Route { action: Action::Forward(forward), .. }) => Some(forward),
            _ => None,
        }
    }

    /// One endpoint at random, by weight: the plainest load balancing there is.
    pub fn endpoint(&self, roll: &Roll) -> Option<&'a Endpoint> {
        let weight = |endpoint: &Endpoint| u64::from(endpoint.weight.max(1));
        let endpoints = &self.cluster.endpoints;
        let total: u64 = endpoints.iter().map(weight).sum();
        let mut left = roll.draw(Purpose::Endpoint).checked_rem(total)?;
        endpoints.iter().find(|endpoint| {
            let hit = left < weight(endpoint);
            left = left.saturating_sub(weight(endpoint));
            hit
        })
    }
}

/// Why a request is answered with an error, in Envoy's terms.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Refusal<'a> {
    /// The HTTP status.
    pub status: u16,
    /// Envoy's response flag; empty where it has none.
    pub flag: &'static str,
    /// Envoy's response code details.
    pub detail: &'static str,
    /// The cluster that could not be used, if there was one.
    pub cluster: Option<&'a Cluster>,
    /// The gRPC status of an injected abort.
    pub grpc: Option<u8>,
}

impl<'a> Refusal<'a> {
    const fn new(status: u16, flag: &'static str, detail: &'static str) -> Self {
        Refusal { status, flag, detail, cluster: None, grpc: None }
    }

    /// 404 NR: the virtual host has no route for it, or no virtual host has its name.
    pub(crate) const NO_ROUTE: Refusal<'static> = Refusal::new(404, "NR", "route_not_found");
    /// 502: nobody claims the host and only registered ones are let out.
    pub(crate) const BLOCK_ALL: Refusal<'static> = Refusal::new(502, "", "block_all");
    /// 404: the target is no path.
    pub(crate) const NO_PATH: Refusal<'static> = Refusal::new(404, "NR", "absolute_path_rejected");
    /// 400: the path has no normal form.
    pub(crate) const BAD_PATH: Refusal<'static> = Refusal::new(400, "", "path_normalization_failed");

    fn for_cluster(cluster: &'a Cluster) -> Self {
        let refusal = if cluster.exists {
            Refusal::new(503, "UH", "no_healthy_upstream")
        } else {
            Refusal::new(503, "NC", "cluster_not_found")
        };
        Refusal { cluster: Some(cluster), ..refusal }
    }

    fn for_abort(abort: &Abort) -> Self {
        Refusal { grpc: abort.grpc, ..Refusal::new(abort.status, "FI", "fault_filter_abort") }
    }
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.status, if self.flag.is_empty() { "-" } else { self.flag }, self.detail)?;
        match self.cluster {
            Some(cluster) => write!(f, " ({})", cluster.name),
            None => Ok(()),
        }
    }
}

impl<'a> Decision<'a> {
    /// An outcome that no route had a part in.
    pub(crate) fn without_route(outcome: Outcome<'a>) -> Self {
        Decision {
            outcome,
            host: None,
            route: None,
            delay: None,
            picked: None,
            let_in: false,
            headers: &NoHeaders,
            method: "",
            authority: "",
            scheme: "",
            sent: b"",
            changed: false,
            encrypt: false,
        }
    }

    /// The outcome for a request that the virtual host `host` claimed and `route`, if any, took. `written` is the
    /// request's path where that is in normal form.
    pub(crate) fn of(
        plan: &'a Plan,
        host: &'a VirtualHost,
        route: Option<&'a Route>,
        request: &Request<'a>,
        written: Option<PathView<'a>>,
        question: &Question<'_>,
        roll: &Roll,
    ) -> Self {
        let encrypt = host.require_tls && request.forwarded() != "https";
        let mut decision = Decision { encrypt, ..Decision::claimed(host, route, request, written) };
        decision.act(plan, question, roll);
        decision
    }

    /// The outcome for a request that `route` took, which does nothing else than to send it to `cluster`, that of its
    /// destination `at`.
    pub(crate) fn plain(
        (cluster, at): (&'a Cluster, u32),
        host: &'a VirtualHost,
        route: &'a Route,
        request: &Request<'a>,
        written: Option<PathView<'a>>,
    ) -> Self {
        let outcome = Outcome::Forward(Forwarded { cluster, way: Way::Route(route), at });
        Decision { outcome, picked: Some(at), ..Decision::claimed(host, Some(route), request, written) }
    }

    /// What is known of a request before its route acts.
    #[inline]
    fn claimed(
        host: &'a VirtualHost,
        route: Option<&'a Route>,
        request: &Request<'a>,
        written: Option<PathView<'a>>,
    ) -> Self {
        Decision {
            outcome: Outcome::Refuse(Refusal::NO_ROUTE),
            host: Some(host),
            route,
            delay: None,
            picked: None,
            let_in: false,
            headers: request.headers,
            method: request.method,
            authority: request.authority,
            scheme: "",
            sent: written.map_or(request.path, |path| path.as_bytes()),
            changed: written.is_none(),
            encrypt: false,
        }
    }

    /// Works out what the route does.
    fn act(&mut self, plan: &'a Plan, question: &Question<'_>, roll: &Roll) {
        if self.encrypt {
            self.outcome = Outcome::Redirect(301);
            return;
        }
        let Some(route) = self.route else { return };
        if let Action::Forward(forward) = &route.action {
            self.picked = Destination::pick(&forward.destinations, || roll.draw(Purpose::Route));
        }
        if let Some(fault) = &route.fault {
            let (delay, abort) = fault.roll(roll);
            self.delay = delay;
            if let Some(abort) = abort {
                self.outcome = Outcome::Refuse(Refusal::for_abort(abort));
                return;
            }
        }
        self.outcome = match &route.action {
            Action::Redirect(redirect) => Outcome::Redirect(redirect.code),
            Action::Direct(answer) => Outcome::Direct(answer),
            Action::Forward(_) => forwarded(plan, route, self.picked),
        };
        if route.request.is_made() || self.picked().is_some_and(|picked| picked.request.is_made()) {
            self.scheme = question.scheme();
        }
        // Redirects and direct responses know nothing of origins.
        if let (Action::Forward(_), Some(cors)) = (&route.action, &route.cors) {
            self.cross(Verdict::of(cors, question), cors);
        }
    }

    /// What the cross-origin policy says: after faults, before it matters whether the cluster can be used.
    fn cross(&mut self, verdict: Verdict, cors: &'a Cors) {
        match verdict {
            Verdict::None => {}
            Verdict::Allowed => self.let_in = true,
            Verdict::Preflight { let_in } => {
                self.let_in = let_in;
                self.outcome = Outcome::Preflight(cors);
            }
        }
    }

    /// The outcome for a whole connection that goes on to one of some destinations.
    pub(crate) fn of_connection(
        plan: &'a Plan,
        destinations: &'a [Destination],
        origin: Option<&'a Origin>,
        roll: &Roll,
    ) -> Self {
        let picked = Destination::pick(destinations, || roll.draw(Purpose::Route));
        let cluster = |at: u32| plan.clusters.get(destinations[at as usize].cluster as usize);
        // A connection has no status to be refused with: it goes on to nobody.
        Decision::without_route(match picked.and_then(|at| Some((cluster(at)?, at))) {
            Some((cluster, at)) => {
                Outcome::Connect(Forwarded { cluster, way: Way::Connection { destinations, origin }, at })
            }
            None => Outcome::Reset,
        })
    }

    /// Where the rule was written that decided: an http rule's route, or the tcp or tls rule of a whole connection.
    /// `None` where no rule had a part, as for a service's default.
    pub fn origin(&self) -> Option<&'a Origin> {
        match &self.outcome {
            Outcome::Connect(Forwarded { way: Way::Connection { origin, .. }, .. }) => *origin,
            _ => self.route?.origin.as_ref(),
        }
    }

    /// The chosen cluster, where there is one: also one that is missing or empty.
    pub fn cluster(&self) -> Option<&'a Cluster> {
        match &self.outcome {
            Outcome::Forward(to) | Outcome::Connect(to) => Some(to.cluster),
            Outcome::Refuse(refusal) => refusal.cluster,
            _ => None,
        }
    }

    /// Path and query as the destination gets them: in normal form, then rewritten. Empty where the connection goes on
    /// as a whole, and where the path is refused.
    ///
    /// Allocates only where the route rewrites the path, or the request sent one that is not in normal form.
    pub fn path(&self) -> Cow<'a, [u8]> {
        let forward = match &self.outcome {
            Outcome::Forward(to) => to.forward(),
            _ => None,
        };
        match (forward.and_then(|forward| forward.rewrite.as_ref()), self.route) {
            (Some(rewrite), Some(route)) => Cow::Owned(rewritten(&self.normal_path(), &route.condition.path, rewrite)),
            _ if self.changed => Cow::Owned(self.normal_path().as_bytes().to_vec()),
            _ => Cow::Borrowed(self.sent),
        }
    }

    /// The path in normal form, worked out again: few ask for it, and it would make every decision large.
    pub(crate) fn normal_path(&self) -> NormalPath<'a> {
        // INVARIANT: a path without normal form was refused before any route took it.
        normalize(self.sent).unwrap_or_default()
    }

    /// The authority as the destination gets it; `None`: as it was sent.
    pub fn authority(&self) -> Option<&'a str> {
        match &self.outcome {
            Outcome::Forward(to) => to.destination().authority.as_deref(),
            _ => None,
        }
    }

    /// Carries out the edits of the request's headers: the destination's, then the route's.
    ///
    /// Allocates where a value speaks of others (`%REQ(x-user)%`).
    pub fn edit_request(&self, headers: &mut (impl EditHeaders + ?Sized)) {
        if let (Outcome::Forward(to), Some(route)) = (&self.outcome, self.route) {
            let path = self.normal_path();
            let line = self.line(&path);
            to.destination().request.apply_to(headers, &line);
            route.request.apply_to(headers, &line);
        }
    }

    /// What the request has beside its headers, before it is rewritten, with its [`normal_path`](Self::normal_path). A
    /// path that is no text is not known.
    pub(crate) fn line<'l>(&'l self, path: &'l NormalPath<'_>) -> RequestLine<'l> {
        let path = std::str::from_utf8(path.as_bytes()).unwrap_or_default();
        RequestLine { method: self.method, authority: self.authority, path, scheme: self.scheme }
    }

    /// Carries out the edits of the response's headers: the destination's, then the route's.
    ///
    /// They are meant for answers made here as well: redirects, direct responses and, as Envoy has it, refusals; only a
    /// preflight's answer has no part in them. Where the request's origin is let in, the headers that tell the browser
    /// so come last and win.
    pub fn edit_response(&self, headers: &mut (impl EditHeaders + ?Sized)) {
        let answered = self.encrypt || matches!(self.outcome, Outcome::Preflight(_));
        let Some(route) = self.route.filter(|_| !answered) else { return };
        // Envoy edits an abort by the entry of a route that forwards; a redirect or direct response has none.
        if matches!(self.outcome, Outcome::Refuse(_)) && !matches!(route.action, Action::Forward(_)) {
            return;
        }
        if let Some(picked) = self.picked() {
            picked.response.apply(headers);
        }
        route.response.apply(headers);
        if let (true, Some(cors)) = (self.let_in, &route.cors) {
            cors::origin(self.headers, &mut |origin| cors.edit(origin, headers));
        }
    }

    fn picked(&self) -> Option<&'a Destination> {
        let Action::Forward(forward) = &self.route?.action else { return None };
        forward.destinations.get(self.picked? as usize)
    }

    /// Writes the headers of the answer to a preflight; nothing for any other outcome. `request` is the question that
    /// this answers. Allocates.
    ///
    /// ```
    /// # use meshroute::{Mesh, Outcome, Plan, Reader, Reading, Request, Resources, Roll, Router, Viewpoint};
    /// # let mut resources = Resources::new();
    /// # let mut reader = Reader::new(Reading::Lenient);
    /// # reader.text("
    /// # apiVersion: v1
    /// # kind: Service
    /// # metadata: {name: shop}
    /// # spec: {selector: {app: shop}, ports: [{name: http, port: 80}]}
    /// # ---
    /// # apiVersion: networking.istio.io/v1
    /// # kind: VirtualService
    /// # metadata: {name: shop}
    /// # spec:
    /// #   hosts: [shop]
    /// #   http:
    /// #   - corsPolicy: {allowOrigins: [{exact: 'https://shop.example'}], allowMethods: [GET, PUT]}
    /// #     route: [{destination: {host: shop}}]
    /// # ", "shop.yaml");
    /// # resources.apply_read(reader);
    /// # let plan = Plan::resolve(&resources, &Viewpoint::sidecar("default"), &Mesh::default()).plan;
    /// # let router = Router::compile(plan)?;
    /// let headers = [("origin", "https://shop.example"), ("access-control-request-method", "PUT")];
    /// let request = Request::new("OPTIONS", "shop", "/").headers(&headers);
    /// let decision = router.decide(&request, &Roll::random());
    /// assert!(matches!(decision.outcome, Outcome::Preflight(_)));
    ///
    /// let mut answer: Vec<(String, String)> = Vec::new();
    /// decision.preflight(&request, &mut answer);
    /// assert_eq!(answer[0], ("access-control-allow-origin".into(), "https://shop.example".into()));
    /// assert_eq!(answer[1], ("access-control-allow-methods".into(), "GET,PUT".into()));
    /// # Ok::<(), meshroute::PlanError>(())
    /// ```
    pub fn preflight(&self, request: &Request<'_>, headers: &mut (impl EditHeaders + ?Sized)) {
        if let Outcome::Preflight(cors) = &self.outcome {
            cors.answer(self.let_in, request, headers);
        }
    }

    /// The origin that the route's cross-origin policy lets in, if the request names such a one.
    #[cfg(feature = "http")]
    pub(crate) fn let_in(&self) -> Option<Box<[u8]>> {
        let mut kept = None;
        if self.let_in {
            cors::origin(self.headers, &mut |origin| kept = Some(origin.into()));
        }
        kept
    }

    /// The mirrors that get a copy this time.
    pub fn mirrors<'r>(&self, roll: &'r Roll) -> impl Iterator<Item = &'a Mirror> + use<'a, 'r> {
        let mirrors: &'a [Mirror] = match &self.outcome {
            Outcome::Forward(to) => to.forward().map_or(&[], |forward| &forward.mirrors),
            _ => &[],
        };
        mirrors.iter().enumerate().filter_map(|(n, mirror)| {
            let purpose = Purpose::Mirror(u16::try_from(n).unwrap_or(u16::MAX));
            hits(mirror.per_million, roll.draw(purpose)).then_some(mirror)
        })
    }

    /// Where a redirect sends the client; `None` for every other outcome. Allocates.
    ///
    /// Source: Envoy's `newUri`: the query stays unless the new path has one; the authority stays with its port
    /// unless it is replaced, or the port belongs to a scheme that is.
    pub fn location(&self, request: &Request<'_>) -> Option<String> {
        let Outcome::Redirect(_) = &self.outcome else { return None };
        let path = self.normal_path();
        if self.encrypt {
            // The authority stays as it is, also with port 80 (Envoy's `createSslRedirectPath`).
            return Some(format!("https://{}{}", request.authority, String::from_utf8_lossy(path.as_bytes())));
        }
        let route = self.route?;
        let Action::Redirect(redirect) = &route.action else { return None };
        let scheme = redirect.scheme.as_deref().unwrap_or_else(|| request.known_scheme());
        let authority = match &redirect.authority {
            Some(authority) => authority,
            None => kept_authority(request.authority, scheme, request.forwarded(), redirect.port.is_some()),
        };
        let port = redirect.port.map(|port| format!(":{port}")).unwrap_or_default();
        let path = redirected(&path, &route.condition.path, redirect.path.as_ref());
        Some(format!("{scheme}://{authority}{port}{}", String::from_utf8_lossy(&path)))
    }
}

impl fmt::Debug for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decision")
            .field("outcome", &self.outcome)
            .field("host", &self.host.map(|host| &host.name))
            .field("route", &self.route.map(|route| &route.name))
            .field("origin", &self.origin())
            .field("delay", &self.delay)
            .finish_non_exhaustive()
    }
}

impl Fault {
    /// What this request is hit by: a delay, an abort, both or neither.
    fn roll(&self, roll: &Roll) -> (Option<Duration>, Option<&Abort>) {
        let delay = self.delay.as_ref().filter(|delay| hits(delay.per_million, roll.draw(Purpose::Delay)));
        let abort = self.abort.as_ref().filter(|abort| hits(abort.per_million, roll.draw(Purpose::Abort)));
        (delay.map(|delay| delay.duration), abort)
    }
}

/// Whether a draw falls among so many of a million.
fn hits(per_million: u32, draw: u64) -> bool {
    draw % 1_000_000 < u64::from(per_million)
}

/// The picked destination's cluster, or why it cannot be used.
fn forwarded<'a>(plan: &'a Plan, route: &'a Route, picked: Option<u32>) -> Outcome<'a> {
    let to = |cluster| Forwarded { cluster, way: Way::Route(route), at: picked.unwrap_or(0) };
    let Action::Forward(forward) = &route.action else { return Outcome::Refuse(Refusal::NO_ROUTE) };
    let destination = forward.destinations.get(picked.unwrap_or(0) as usize);
    // INVARIANT: a compiled plan has no forward without destinations and no index without a cluster.
    match destination.and_then(|destination| plan.clusters.get(destination.cluster as usize)) {
        None => Outcome::Refuse(Refusal::NO_ROUTE),
        Some(cluster) if !cluster.takes_traffic() => Outcome::Refuse(Refusal::for_cluster(cluster)),
        Some(cluster) => Outcome::Forward(to(cluster)),
    }
}

/// What a rewrite makes of path and query.
fn rewritten(path: &NormalPath<'_>, matched: &PathMatch, rewrite: &PathRewrite) -> Vec<u8> {
    match rewrite {
        PathRewrite::Matched(text) => replace_matched(path, matched, text),
        PathRewrite::Regex(rewrite) => {
            let mut new = rewrite.apply(path.path());
            push_query(&mut new, path);
            new
        }
    }
}

/// The text in place of what was matched: the prefix, or the whole path of an exact or regex match.
fn replace_matched(path: &NormalPath<'_>, matched: &PathMatch, text: &str) -> Vec<u8> {
    let kept = match matched {
        PathMatch::Any => 1,
        PathMatch::Prefix { path: prefix, .. } => prefix.len(),
        PathMatch::Exact { .. } | PathMatch::Regex(_) => path.path().len(),
    };
    let mut new = text.as_bytes().to_vec();
    new.extend_from_slice(path.as_bytes().get(kept..).unwrap_or_default());
    new
}

fn redirected<'p>(path: &'p NormalPath<'_>, matched: &PathMatch, to: Option<&RedirectPath>) -> Cow<'p, [u8]> {
    match to {
        None => Cow::Borrowed(path.as_bytes()),
        Some(RedirectPath::Prefix(text)) => Cow::Owned(replace_matched(path, matched, text)),
        Some(RedirectPath::Whole(text)) => {
            let mut new = text.as_bytes().to_vec();
            if !text.contains('?') {
                push_query(&mut new, path);
            }
            Cow::Owned(new)
        }
    }
}

fn push_query(new: &mut Vec<u8>, path: &NormalPath<'_>) {
    new.extend_from_slice(&path.as_bytes()[path.path().len()..]);
}

/// The request's authority, without its port where another port is named, or where it was the old scheme's own
/// (Envoy's `processRequestHost`, which takes `x-forwarded-proto` for the old scheme).
fn kept_authority<'r>(authority: &'r str, scheme: &str, old_scheme: &str, other_port: bool) -> &'r str {
    let host = crate::name::host_of(authority);
    let port = &authority[host.len()..];
    let old_default =
        scheme != old_scheme && ((old_scheme == "https" && port == ":443") || (old_scheme == "http" && port == ":80"));
    if other_port || old_default { host } else { authority }
}

/// What becomes of traffic that no listener or chain takes.
pub(crate) fn unmatched(plan: &Plan) -> Decision<'_> {
    Decision::without_route(match plan.unmatched {
        Unmatched::Passthrough => Outcome::Passthrough,
        Unmatched::Blackhole => Outcome::Blackhole,
        Unmatched::Reset => Outcome::Reset,
    })
}

/// What becomes of a request whose host nobody claims. What passes through does so with its path in normal form.
pub(crate) fn unclaimed<'a>(
    table: &'a HttpTable,
    request: &Request<'a>,
    written: Option<PathView<'a>>,
) -> Decision<'a> {
    let decision = Decision::without_route(match table.unclaimed {
        Unclaimed::Passthrough => Outcome::Passthrough,
        Unclaimed::BlockAll => Outcome::Refuse(Refusal::BLOCK_ALL),
        Unclaimed::NotFound => Outcome::Refuse(Refusal::NO_ROUTE),
    });
    Decision { sent: written.map_or(request.path, |path| path.as_bytes()), changed: written.is_none(), ..decision }
}

/// What becomes of a request whose path has no normal form.
pub(crate) fn refused_path(error: &PathError) -> Decision<'static> {
    Decision::without_route(Outcome::Refuse(match error {
        PathError::NotAbsolute => Refusal::NO_PATH,
        _ => Refusal::BAD_PATH,
    }))
}
