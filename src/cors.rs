//! What a route's cross-origin policy makes of a request: whether its origin is let in, whether it is a preflight that
//! is answered here, and which headers the browser gets.
//!
//! Pure functions over a policy and one request. Knows nothing of routes or of how requests go on. Source: observed on
//! Envoy 1.40 (`extensions/filters/http/cors`), which stands behind the fault filter and before the router.

use crate::plan::{Cors, EditHeaders};
use crate::request::{Headers, Question, Request, joined};

/// What a policy says of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    /// Nothing: it names no origin, or one that is not let in.
    None,
    /// The origin is let in, and the request goes on.
    Allowed,
    /// It is answered here.
    Preflight { let_in: bool },
}

/// Hands out the origin that a request names, if it names one. Allocates only where it does so in several lines.
pub(crate) fn origin(headers: &dyn Headers, with: &mut dyn FnMut(&[u8])) {
    joined(headers, "origin", &mut |value| {
        if !value.is_empty() {
            with(value);
        }
        true
    });
}

impl Verdict {
    /// What `cors` says of a request that goes on to a cluster.
    pub(crate) fn of(cors: &Cors, question: &Question<'_>) -> Verdict {
        let mut allowed = None;
        origin(question.request.headers, &mut |origin| allowed = Some(cors.allows(origin)));
        let Some(let_in) = allowed else { return Verdict::None };
        let preflight = question.request.method == "OPTIONS"
            && question.any_header("access-control-request-method", &mut |method| !method.is_empty());
        match (let_in, preflight) {
            (_, true) if let_in || !cors.forward_unmatched_preflights => Verdict::Preflight { let_in },
            (true, _) => Verdict::Allowed,
            (false, _) => Verdict::None,
        }
    }
}

impl Cors {
    /// A test that `*` itself satisfies lets every origin in.
    fn allows(&self, origin: &[u8]) -> bool {
        self.allow_origins.iter().any(|test| test.holds(b"*") || test.holds(origin))
    }

    /// The headers of the answer to a preflight, in Envoy's order. A `*` gives back what was asked for.
    pub(crate) fn answer(&self, let_in: bool, request: &Request<'_>, headers: &mut (impl EditHeaders + ?Sized)) {
        if let_in {
            origin(request.headers, &mut |origin| name(origin, headers));
        }
        if self.allow_credentials {
            headers.set("access-control-allow-credentials", "true");
        }
        let mut list = |name: &str, allowed: &str, asked: &str| match allowed {
            "" => {}
            "*" => give_back(request, asked, &mut |value| headers.set(name, value)),
            _ => headers.set(name, allowed),
        };
        list("access-control-allow-methods", &self.allow_methods, "access-control-request-method");
        list("access-control-allow-headers", &self.allow_headers, "access-control-request-headers");
        if let Some(seconds) = self.max_age {
            headers.set("access-control-max-age", &seconds.to_string());
        }
        if let_in && !self.expose_headers.is_empty() {
            headers.set("access-control-expose-headers", &self.expose_headers);
        }
    }

    /// The headers that a response gets on its way back to an origin that is let in.
    pub(crate) fn edit(&self, origin: &[u8], headers: &mut (impl EditHeaders + ?Sized)) {
        name(origin, headers);
        if self.allow_credentials {
            headers.set("access-control-allow-credentials", "true");
        }
        if !self.expose_headers.is_empty() {
            headers.set("access-control-expose-headers", &self.expose_headers);
        }
    }
}

/// Nothing is said of an origin that is no text.
fn name(origin: &[u8], headers: &mut (impl EditHeaders + ?Sized)) {
    if let Ok(origin) = std::str::from_utf8(origin) {
        headers.set("access-control-allow-origin", origin);
    }
}

/// The value of a request's header; the empty text where there is none.
fn give_back(request: &Request<'_>, name: &str, set: &mut dyn FnMut(&str)) {
    let mut given = false;
    joined(request.headers, name, &mut |value| {
        if let Ok(value) = std::str::from_utf8(value) {
            set(value);
            given = true;
        }
        given
    });
    if !given {
        set("");
    }
}
