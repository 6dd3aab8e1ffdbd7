//! Questions from, and answers for, the types of the `http` crate.
//!
//! A [`Decision`] borrows from the request that it was made for, so nothing of that request can be changed while it
//! is there. [`Change`] is what remains of it when it has let go: owned, and cheap to make.
//!
//! ```
//! use meshroute::adapter::http::{Change, answer, request};
//! use meshroute::{Plan, Roll, Router};
//!
//! let router = Router::compile(Plan::default())?;
//! let mut incoming = http::Request::get("/").header("host", "nginx:5000").body(())?;
//!
//! let asked = request(&incoming, 5000);
//! let decision = router.decide(&asked, &Roll::random());
//! if let Some(response) = answer(&decision, &asked) {
//!     return Ok(drop(response)); // sent to the client
//! }
//! let change = Change::of(&decision, &asked)?;
//! change.request(&mut incoming);
//! // ... it is sent on, and when the response comes back: change.response(response.headers_mut())
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::Arc;

use ::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use ::http::uri::{Authority, PathAndQuery};
use ::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri};

use crate::decision::{Decision, Outcome, Refusal};
use crate::plan::{Action, Destination, EditHeaders, Forward, RequestLine, Route};
use crate::request::{Headers, Request};

/// Up to so many lines are looked through rather than looked up, for which a name would have to be parsed and hashed.
const FEW: usize = 16;

/// Looks names up without allocating.
impl Headers for HeaderMap {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        if self.len() <= FEW {
            return self.iter().any(|(known, value)| known.as_str() == name && test(value.as_bytes()));
        }
        self.get_all(name).iter().any(|value| test(value.as_bytes()))
    }
}

/// A name or value that HTTP does not allow is passed over, and so is a line for which a full map has no room.
impl EditHeaders for HeaderMap {
    fn read(&self, name: &str, with: &mut dyn FnMut(&str)) {
        if let Some(value) = self.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok()) {
            with(value);
        }
    }

    fn remove(&mut self, name: &str) {
        HeaderMap::remove(self, name);
    }

    fn set(&mut self, name: &str, value: &str) {
        if let Some((name, value)) = line(name, value) {
            let _ = self.try_insert(name, value);
        }
    }

    fn append(&mut self, name: &str, value: &str) {
        if let Some((name, value)) = line(name, value) {
            let _ = self.try_append(name, value);
        }
    }
}

fn line(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
}

/// The question that a request asks, for the port that was dialled. Borrows all of it.
///
/// The authority is the URI's where it has one (RFC 9112, section 3.2.2; HTTP/2's `:authority`), else the `host`
/// header's, and empty where that is missing or no text. The scheme is the URI's, and empty where it has none. Address
/// and TLS hello belong to the connection; add them with the methods of [`Request`].
///
/// ```
/// let incoming = http::Request::get("/a?b=c").header("host", "nginx:5000").body(()).unwrap();
/// let asked = meshroute::adapter::http::request(&incoming, 5000);
/// assert_eq!((asked.authority, asked.path), ("nginx:5000", &b"/a?b=c"[..]));
/// ```
pub fn request<B>(request: &::http::Request<B>, port: u16) -> Request<'_> {
    let uri = request.uri();
    let path = uri.path_and_query().map_or("", PathAndQuery::as_str);
    Request::new(request.method().as_str(), authority(uri, request.headers()), path)
        .scheme(uri.scheme_str().unwrap_or(""))
        .headers(request.headers())
        .port(port)
}

pub(crate) fn authority<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> &'r str {
    match uri.authority().map(Authority::as_str) {
        Some(named) => without_user(named),
        None => headers.get(HOST).and_then(|host| std::str::from_utf8(host.as_bytes()).ok()).unwrap_or_default(),
    }
}

/// Who the user claims to be is no part of where the request goes.
pub(crate) fn without_user(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// The response for a request that ends here: a redirect, a direct response, a preflight or a refusal, with the edits of
/// the route. `None` where it goes on, and for a connection that is to be closed.
///
/// `request` is the question that the decision answers. Bodies are Envoy's: `no healthy upstream` for 503 UH,
/// `fault filter abort` for an injected abort, none for other refusals, and none at all in answer to `HEAD` or with
/// status 204 or 304. A gRPC request is refused as gRPC clients understand it, with status 200 and a `grpc-status`
/// (Envoy's `sendLocalReply`). An injected delay is not waited for.
///
/// ```
/// use meshroute::adapter::http::{answer, request};
/// use meshroute::{Plan, Roll, Router, plan};
///
/// let mut plan = Plan::default();
/// let mut listener = plan::Listener::new(80, Vec::new());
/// let table = plan::HttpTable::new("80", plan::Unclaimed::NotFound);
/// listener.chains.push(plan::Chain::new(plan::Target::Http(table.into())));
/// plan.listeners.push(listener);
///
/// let router = Router::compile(plan)?;
/// let incoming = http::Request::get("http://nobody.example/").body(())?;
/// let asked = request(&incoming, 80);
/// let response = answer(&router.decide(&asked, &Roll::random()), &asked).unwrap();
/// assert_eq!(response.status(), 404);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn answer(decision: &Decision<'_>, request: &Request<'_>) -> Option<Response<Vec<u8>>> {
    let mut response = match &decision.outcome {
        Outcome::Redirect(code) => redirect(*code, decision.location(request)),
        Outcome::Direct(answer) => reply(answer.status, &answer.body),
        Outcome::Preflight(_) => preflight(decision, request),
        Outcome::Refuse(refusal) if is_grpc(request) => refuse_grpc(refusal),
        Outcome::Refuse(refusal) => reply(refusal.status, text(refusal).as_bytes()),
        _ => return None,
    };
    decision.edit_response(response.headers_mut());
    if request.method == "HEAD" {
        response.body_mut().clear();
    }
    Some(response)
}

/// A short text, with the headers that Envoy gives it.
fn reply(status: u16, body: &[u8]) -> Response<Vec<u8>> {
    let mut response = Response::new(Vec::new());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    if matches!(status, 204 | 304) {
        return response;
    }
    response.headers_mut().insert(CONTENT_LENGTH, body.len().into());
    if !body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        *response.body_mut() = body.to_vec();
    }
    response
}

fn preflight(decision: &Decision<'_>, request: &Request<'_>) -> Response<Vec<u8>> {
    let mut response = reply(200, b"");
    decision.preflight(request, response.headers_mut());
    response
}

fn redirect(code: u16, location: Option<String>) -> Response<Vec<u8>> {
    let mut response = reply(code, b"");
    if let Some(location) = location.and_then(|location| HeaderValue::from_bytes(location.as_bytes()).ok()) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn text(refusal: &Refusal<'_>) -> &'static str {
    match refusal.flag {
        "UH" => "no healthy upstream",
        "FI" => "fault filter abort",
        _ => "",
    }
}

/// `application/grpc`, alone or with a `+` behind it (Envoy, `Grpc::Common::hasGrpcContentType`).
fn is_grpc(request: &Request<'_>) -> bool {
    is_grpc_type(request.headers)
}

pub(crate) fn is_grpc_type(headers: &dyn Headers) -> bool {
    headers.any("content-type", &mut |value| {
        value.strip_prefix(b"application/grpc").is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
    })
}

fn refuse_grpc(refusal: &Refusal<'_>) -> Response<Vec<u8>> {
    grpc(refusal.grpc.unwrap_or(grpc_status(refusal.status)), text(refusal))
}

fn grpc(status: u8, text: &str) -> Response<Vec<u8>> {
    let mut response = Response::new(Vec::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(HeaderName::from_static("grpc-status"), u16::from(status).into());
    if let (false, Ok(text)) = (text.is_empty(), HeaderValue::from_str(text)) {
        headers.insert(HeaderName::from_static("grpc-message"), text);
    }
    response
}

/// An answer of a proxy that has none from an upstream, to a client that may speak gRPC: to such a one it is 200, with a
/// `grpc-status` for the HTTP status and the text as `grpc-message`.
///
/// ```
/// use meshroute::adapter::http::made_here;
/// let answer = made_here(503, "no healthy upstream", true);
/// assert_eq!((answer.status().as_u16(), &answer.headers()["grpc-status"]), (200, &"14".parse().unwrap()));
/// ```
///
/// Source: Envoy's `Utility::prepareLocalReply` and `Grpc::Utility::httpToGrpcStatus`.
pub fn made_here(status: u16, text: &str, speaks_grpc: bool) -> Response<Vec<u8>> {
    if speaks_grpc { grpc(grpc_status(status), text) } else { reply(status, text.as_bytes()) }
}

/// Envoy's `Grpc::Utility::httpToGrpcStatus`.
fn grpc_status(http: u16) -> u8 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// What a decision changes in the request that goes on and in its response. Owned: it outlives both.
///
/// Allocates only where the path changes, or the authority, or where a header's value speaks of others.
#[derive(Clone, Debug, Default)]
pub struct Change {
    path: Option<PathAndQuery>,
    authority: Option<Authority>,
    taken: Option<Taken>,
    let_in: Option<Box<[u8]>>,
    line: Option<Box<Line>>,
}

/// A request's line as it came in, for values that speak of it.
#[derive(Clone, Debug)]
struct Line {
    method: String,
    authority: String,
    path: String,
    scheme: String,
}

impl Line {
    /// The line, where an edit of the request speaks of other headers.
    fn of(decision: &Decision<'_>) -> Option<Box<Self>> {
        let Outcome::Forward(to) = &decision.outcome else { return None };
        if !to.destination().request.is_made() && !decision.route?.request.is_made() {
            return None;
        }
        let path = decision.normal_path();
        let RequestLine { method, authority, path, scheme } = decision.line(&path);
        let [method, authority, path, scheme] = [method, authority, path, scheme].map(str::to_string);
        Some(Box::new(Line { method, authority, path, scheme }))
    }

    fn borrowed(&self) -> RequestLine<'_> {
        RequestLine { method: &self.method, authority: &self.authority, path: &self.path, scheme: &self.scheme }
    }
}

impl Change {
    /// What `decision` changes; nothing, unless the request is forwarded. `request` is the question that it answers.
    ///
    /// # Errors
    /// The route makes of the path or of the authority what no HTTP request can carry.
    pub fn of(decision: &Decision<'_>, request: &Request<'_>) -> Result<Self, Unwritable> {
        let (Outcome::Forward(_) | Outcome::Passthrough) = decision.outcome else { return Ok(Change::default()) };
        let path = decision.path();
        let path = (!path.is_empty() && *path != *request.path).then(|| writable(&path, "a path")).transpose()?;
        let authority = decision.authority().map(|name| writable(name.as_bytes(), "an authority")).transpose()?;
        Ok(Change { path, authority, taken: Taken::of(decision), let_in: decision.let_in(), line: Line::of(decision) })
    }

    /// Changes the request: path, then authority, then the headers, the destination's edits before the route's.
    ///
    /// The authority is changed in the URI where it stands there, and in the `host` header where that is there or the
    /// URI has none.
    pub fn request<B>(&self, request: &mut ::http::Request<B>) {
        if self.path.is_some() || self.authority.is_some() {
            self.redirect_to(request);
        }
        self.edit_request(request.headers_mut());
    }

    /// Carries out the edits of the request's headers alone.
    pub(crate) fn edit_request(&self, headers: &mut dyn EditHeaders) {
        let Some(taken) = &self.taken else { return };
        if let (Some(route), Some(destination)) = (taken.route(), taken.destination()) {
            let line = self.line.as_deref().map(Line::borrowed).unwrap_or_default();
            destination.request.apply_to(headers, &line);
            route.request.apply_to(headers, &line);
        }
    }

    /// What path and authority become; `None`: as they are.
    #[cfg(feature = "pingora")]
    pub(crate) fn target(&self) -> (Option<&PathAndQuery>, Option<&Authority>) {
        (self.path.as_ref(), self.authority.as_ref())
    }

    fn redirect_to<B>(&self, request: &mut ::http::Request<B>) {
        let mut parts = request.uri().clone().into_parts();
        if let Some(path) = &self.path {
            parts.path_and_query = Some(path.clone());
        }
        if let Some(authority) = &self.authority {
            let in_uri = parts.authority.is_some();
            if in_uri {
                parts.authority = Some(authority.clone());
            }
            if !in_uri || request.headers().contains_key(HOST) {
                EditHeaders::set(request.headers_mut(), HOST.as_str(), authority.as_str());
            }
        }
        // INVARIANT: the parts had a legal shape, and none was added or taken away.
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }

    /// Changes the headers of the response that came back.
    pub fn response(&self, headers: &mut HeaderMap) {
        self.edit_response(headers);
    }

    pub(crate) fn edit_response(&self, headers: &mut dyn EditHeaders) {
        let Some(taken) = &self.taken else { return };
        if let (Some(route), Some(destination)) = (taken.route(), taken.destination()) {
            destination.response.apply(headers);
            route.response.apply(headers);
            if let (Some(origin), Some(cors)) = (&self.let_in, &route.cors) {
                cors.edit(origin, headers);
            }
        }
    }
}

fn writable<'t, T: TryFrom<&'t [u8]>>(text: &'t [u8], what: &'static str) -> Result<T, Unwritable> {
    T::try_from(text).map_err(|_| Unwritable { text: text.escape_ascii().take(200).map(char::from).collect(), what })
}

/// A rewrite made something that cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rewritten request cannot be sent: `{text}` is not {what}")]
pub struct Unwritable {
    text: String,
    what: &'static str,
}

/// The route and destination that took a request, kept alive by the routes of their virtual host.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    routes: Arc<[Route]>,
    route: usize,
    destination: Option<usize>,
}

impl Taken {
    /// What took it, if a route did.
    pub(crate) fn of(decision: &Decision<'_>) -> Option<Self> {
        let (routes, route) = (&decision.host?.routes, decision.route?);
        let destination = match &decision.outcome {
            Outcome::Forward(to) => position(to.siblings(), to.destination()),
            _ => None,
        };
        Some(Taken { routes: Arc::clone(routes), route: position(routes, route)?, destination })
    }

    pub(crate) fn route(&self) -> Option<&Route> {
        self.routes.get(self.route)
    }

    pub(crate) fn forward(&self) -> Option<&Forward> {
        match &self.route()?.action {
            Action::Forward(forward) => Some(forward),
            _ => None,
        }
    }

    pub(crate) fn destination(&self) -> Option<&Destination> {
        self.forward()?.destinations.get(self.destination?)
    }
}

/// Where an item of a list stands in it: counted, not searched for, since a virtual host may have thousands of routes.
fn position<T>(all: &[T], item: &T) -> Option<usize> {
    let bytes = std::ptr::from_ref(item).addr().checked_sub(all.as_ptr().addr())?;
    let at = bytes.checked_div(size_of::<T>())?;
    all.get(at).filter(|found| std::ptr::eq(*found, item)).map(|_| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{
        Chain, Cluster, Condition, DirectResponse, Endpoint, HeaderWrite, HttpTable, Listener, PathMatch, PathRewrite,
        Plan, Redirect, RedirectPath, Target, Unclaimed, VirtualHost,
    };
    use crate::roll::Roll;
    use crate::router::Router;
    use ::http::Request as HttpRequest;

    fn prefix(path: &str) -> Condition {
        let path = PathMatch::Prefix { path: path.into(), ignore_case: false };
        Condition { path, ..Condition::default() }
    }

    fn direct(path: &str, status: u16, body: &str) -> Route {
        Route::new("direct", prefix(path), Action::Direct(DirectResponse::new(status, body)))
    }

    fn forward(path: &str, cluster: u32, rewrite: &str) -> Route {
        let mut destination = Destination::new(cluster, 1);
        destination.authority = Some("v2.example".into());
        destination.request.write.push(HeaderWrite::new("x-order", "destination", true));
        destination.response.remove.push("server".into());
        let mut forward = Forward::new(vec![destination]);
        forward.rewrite = Some(PathRewrite::Matched(rewrite.into()));
        let mut route = Route::new("forward", prefix(path), Action::Forward(forward));
        route.request.write.push(HeaderWrite::new("x-order", "route", true));
        route.request.write.push(HeaderWrite::new("x-broken", "a\nb", false));
        route
    }

    fn router() -> Router {
        let mut healthy = Cluster::missing("nginx", "", 80);
        healthy.exists = true;
        let empty = healthy.clone();
        healthy.endpoints = [Endpoint::new("10.0.0.1", 80, "pod")].into();
        let mut redirect = Redirect::new(308);
        redirect.path = Some(RedirectPath::Prefix("/new".into()));
        let mut moved = Route::new("moved", prefix("/old"), Action::Redirect(redirect));
        moved.response.write.push(HeaderWrite::new("via", "mesh", false));
        let mut host = VirtualHost::new("nginx:80", vec!["*".to_string().try_into().unwrap()]);
        host.routes = [
            direct("/hello", 200, "hello"),
            direct("/nothing", 204, "never sent"),
            moved,
            forward("/empty", 1, "/"),
            forward("/missing", 2, "/"),
            forward("/broken", 0, "no slash"),
            forward("/api", 0, "/v2"),
        ]
        .into();
        let mut table = HttpTable::new("80", Unclaimed::NotFound);
        table.hosts.push(host);
        let mut listener = Listener::new(80, Vec::new());
        listener.chains.push(Chain::new(Target::Http(table.into())));
        let clusters = [healthy, empty, Cluster::missing("gone", "", 80)].into_iter().collect();
        let mut plan = Plan { clusters, ..Plan::default() };
        plan.listeners.push(listener);
        Router::compile(plan).unwrap()
    }

    fn answered(request: HttpRequest<()>) -> Response<Vec<u8>> {
        let router = router();
        let asked = super::request(&request, 80);
        answer(&router.decide(&asked, &Roll::seeded(1)), &asked).unwrap()
    }

    fn changed(mut request: HttpRequest<()>) -> Result<(HttpRequest<()>, Change), Unwritable> {
        let router = router();
        let asked = super::request(&request, 80);
        let decision = router.decide(&asked, &Roll::seeded(1));
        assert!(answer(&decision, &asked).is_none());
        let change = Change::of(&decision, &asked)?;
        change.request(&mut request);
        Ok((request, change))
    }

    fn get(uri: &str) -> HttpRequest<()> {
        HttpRequest::get(uri).header("host", "nginx").body(()).unwrap()
    }

    #[test]
    fn the_authority_is_taken_from_the_uri_before_the_header() {
        let named = |uri: &str, host: &[u8]| {
            let request = HttpRequest::get(uri).header("host", host).body(()).unwrap();
            let asked = super::request(&request, 80);
            (asked.authority.to_string(), String::from_utf8_lossy(asked.path).into_owned(), asked.scheme.to_string())
        };
        let all = |authority: &str, path: &str, scheme: &str| (authority.into(), path.into(), scheme.into());
        assert_eq!(named("/a?b", b"nginx:5000"), all("nginx:5000", "/a?b", ""));
        assert_eq!(named("https://me@a.com:1/x", b"nginx"), all("a.com:1", "/x", "https"));
        assert_eq!(named("*", b"nginx"), all("nginx", "*", ""));
        assert_eq!(named("/", b"\xff"), all("", "/", ""));
        assert_eq!(named("a.com:443", b""), all("a.com:443", "", ""));
    }

    #[test]
    fn headers_are_looked_up_line_by_line() {
        let mut map = HeaderMap::new();
        EditHeaders::append(&mut map, "Canary_ID", "1");
        EditHeaders::append(&mut map, "canary_id", "2");
        EditHeaders::set(&mut map, "bad name", "1");
        assert!(Headers::any(&map, "canary_id", &mut |value| value == b"2"));
        assert!(!Headers::any(&map, "bad name", &mut |_| true));
        assert!(!Headers::any(&map, ":path", &mut |_| true));
        EditHeaders::remove(&mut map, "CANARY_ID");
        assert!(map.is_empty());
    }

    #[test]
    fn answers_made_here() {
        let hello = answered(get("/hello"));
        assert_eq!((hello.status().as_u16(), hello.body().as_slice()), (200, &b"hello"[..]));
        assert_eq!(
            (&hello.headers()["content-type"], &hello.headers()["content-length"]),
            (&HeaderValue::from_static("text/plain"), &HeaderValue::from_static("5"))
        );
        let head = answered(HttpRequest::head("/hello").body(()).unwrap());
        assert_eq!(
            (head.body().as_slice(), &head.headers()["content-length"]),
            (&b""[..], &hello.headers()["content-length"])
        );
        let nothing = answered(get("/nothing"));
        assert!(nothing.body().is_empty() && nothing.headers().is_empty());
        let moved = answered(get("/old/x?y"));
        assert_eq!((moved.status().as_u16(), &moved.headers()["via"]), (308, &HeaderValue::from_static("mesh")));
        assert_eq!(moved.headers()["location"], "http://nginx/new/x?y");
    }

    #[test]
    fn refusals_have_envoys_texts() {
        let refused = |path: &str| {
            let response = answered(get(path));
            (response.status().as_u16(), String::from_utf8(response.into_body()).unwrap())
        };
        assert_eq!(refused("/empty"), (503, "no healthy upstream".into()));
        assert_eq!(refused("/missing"), (503, String::new()));
        assert_eq!(refused("/nobody"), (404, String::new()));
        assert_eq!(refused("*"), (404, String::new()));
        let call = HttpRequest::post("/empty").header("content-type", "application/grpc+proto").body(()).unwrap();
        let response = answered(call);
        assert_eq!(
            (response.status().as_u16(), &response.headers()["grpc-status"]),
            (200, &HeaderValue::from_static("14"))
        );
    }

    #[test]
    fn what_goes_on_is_rewritten() {
        let (request, change) = changed(get("/api/./x?y=/api")).unwrap();
        assert_eq!(request.uri(), "/v2/x?y=/api");
        assert_eq!(request.headers()["host"], "v2.example");
        let order: Vec<_> = request.headers().get_all("x-order").iter().collect();
        assert_eq!(order, ["destination", "route"]);
        assert!(!request.headers().contains_key("x-broken"));
        let mut headers = HeaderMap::new();
        headers.insert("server", HeaderValue::from_static("nginx"));
        change.response(&mut headers);
        assert!(headers.is_empty());
        let absolute = HttpRequest::get("http://nginx/api").body(()).unwrap();
        let (request, _) = changed(absolute).unwrap();
        assert_eq!(request.uri(), "http://v2.example/v2");
        assert!(!request.headers().contains_key("host"));
    }

    #[test]
    fn a_rewrite_that_cannot_be_sent_is_an_error() {
        let error = changed(get("/broken/x")).unwrap_err();
        assert_eq!(error.to_string(), "the rewritten request cannot be sent: `no slash/x` is not a path");
    }
}
