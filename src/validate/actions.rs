//! What an HTTP rule does with a request: redirect, answer, retry, rewrite, CORS.

use super::field::Field;
use super::findings::Findings;
use super::{headers, matches};
use crate::model::StringMatch;
use crate::model::virtual_service::{
    CorsPolicy, HttpBody, HttpDirectResponse, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, RegexRewrite,
};

/// The first mistake of a redirect.
pub(super) fn redirect(rule: &HttpRoute, field: &Field, found: &mut Findings) {
    let Some(redirect) = &rule.redirect else { return };
    let members = [("port", redirect.port.is_some()), ("derivePort", redirect.derive_port.is_some())];
    found.exclusive(field, &members);
    if let Some((code, message)) = mistaken_redirect(redirect, rule) {
        found.error(field, code, message);
    }
}

fn mistaken_redirect(redirect: &HttpRedirect, rule: &HttpRoute) -> Option<(&'static str, String)> {
    let has_port = redirect.port.is_some() || redirect.derive_port.is_some();
    let texts = [&redirect.uri, &redirect.authority, &redirect.scheme, &redirect.prefix_rewrite];
    if !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty() {
        return Some(("redirect-conflict", "a redirect must not have both `uri` and `prefixRewrite`".into()));
    }
    if !redirect.prefix_rewrite.is_empty() && !only_prefixes(rule) {
        return Some(("redirect-conflict", "`prefixRewrite` needs matches whose `uri` is a `prefix`".into()));
    }
    if texts.iter().all(|text| text.is_empty()) && !has_port {
        let message = "a redirect must have `uri`, `prefixRewrite`, `authority`, `scheme` or a port";
        return Some(("empty-redirect", message.into()));
    }
    if redirect.redirect_code != 0 && !(300..=399).contains(&redirect.redirect_code) {
        return Some(("bad-status", format!("`{}` is no status of a redirect: it is no 3xx", redirect.redirect_code)));
    }
    if !["", "http", "https"].contains(&redirect.scheme.as_str()) {
        return Some(("bad-scheme", format!("`{}` is neither `http` nor `https`", redirect.scheme)));
    }
    if redirect.port.is_some_and(|port| port > 65535) {
        return Some(("port-out-of-range", "a port goes from 1 to 65535".into()));
    }
    None
}

/// Whether no match looks at the path otherwise than by its prefix.
fn only_prefixes(rule: &HttpRoute) -> bool {
    let mut uris = rule.r#match.iter().flatten().filter_map(|block| block.uri.as_ref());
    uris.all(|uri| matches!(uri, StringMatch::Prefix(_)))
}

/// The status and the size of an answer.
pub(super) fn direct_response(answer: Option<&HttpDirectResponse>, field: &Field, found: &mut Findings) {
    let Some(answer) = answer else { return };
    if let Some(body) = &answer.body {
        let field = field.key("body");
        found.exclusive(&field, &[("string", body.string.is_some()), ("bytes", body.bytes.is_some())]);
        match size(body) {
            size if size > 1 << 20 => found.error(&field, "large-body", "a body has at most 1 MiB"),
            size if size > 100 << 10 => {
                found.warning(&field, "large-body", "a body of more than 100 KiB burdens the control plane");
            }
            _ => {}
        }
    }
    status(answer.status.into(), &field.key("status"), found);
}

/// A body in bytes; base64 takes four characters for three of them.
fn size(body: &HttpBody) -> usize {
    let encoded = body.bytes.as_ref().map_or(0, |bytes| bytes.trim_end_matches('=').len());
    body.string.as_ref().map_or(encoded / 4 * 3 + encoded % 4 * 3 / 4, String::len)
}

/// A status that a proxy can answer with. Istio lets 600 pass.
pub(super) fn status(status: i64, field: &Field, found: &mut Findings) {
    if !(200..=600).contains(&status) {
        found.error(field, "bad-status", format!("status `{status}` is out of range: it goes from 200 to 599"));
    }
}

/// Whether and when requests are tried again.
pub(super) fn retries(retries: Option<&HttpRetry>, field: &Field, found: &mut Findings) {
    let Some(retries) = retries else { return };
    found.not_negative(&field.key("attempts"), retries.attempts);
    let configured =
        retries.per_try_timeout.is_some() || !retries.retry_on.is_empty() || retries.retry_remote_localities.is_some();
    if retries.attempts == 0 && configured {
        found.error(field, "retries-disabled", "`attempts` is 0, which disables the retries configured here");
    }
    found.duration(&field.key("perTryTimeout"), retries.per_try_timeout);
    found.duration(&field.key("backoff"), retries.backoff);
    if retries.retry_on.is_empty() {
        return;
    }
    for condition in retries.retry_on.split(',').filter(|condition| !is_retry_condition(condition)) {
        let message = format!("`{condition}` is no condition to retry on; blanks count");
        found.error(&field.key("retryOn"), "bad-retry-condition", message);
    }
}

/// Conditions that Envoy knows, for HTTP and for gRPC.
const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// A condition by name, or a status that Go's `net/http` has a name for.
fn is_retry_condition(condition: &str) -> bool {
    let named = |status: i64| {
        matches!(status, 100..=103 | 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=418 | 421..=426 | 428 | 429)
            || matches!(status, 431 | 451 | 500..=508 | 510 | 511)
    };
    RETRY_ON.contains(&condition) || condition.parse().is_ok_and(named)
}

/// The first mistake of a rewrite.
pub(super) fn rewrite(rewrite: Option<&HttpRewrite>, field: &Field, found: &mut Findings) {
    let Some(rewrite) = rewrite else { return };
    match (&rewrite.uri_regex_rewrite, rewrite.uri.is_empty()) {
        (Some(_), false) => {
            let message = "a rewrite must not have both `uri` and `uriRegexRewrite`";
            found.error(field, "rewrite-conflict", message);
        }
        (None, true) if rewrite.authority.is_empty() => {
            found.error(field, "empty-rewrite", "a rewrite must have `uri`, `uriRegexRewrite` or `authority`");
        }
        (Some(regex), true) => regex_rewrite(regex, &field.key("uriRegexRewrite"), found),
        _ => {}
    }
}

fn regex_rewrite(rewrite: &RegexRewrite, field: &Field, found: &mut Findings) {
    if rewrite.r#match.is_empty() || rewrite.rewrite.is_empty() {
        return found.error(field, "empty-rewrite", "a regex rewrite must have both `match` and `rewrite`");
    }
    found.check(&field.key("match"), "bad-regex", matches::compiles(&rewrite.r#match));
}

/// Methods that CORS may allow; case counts.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];

/// Origins, methods, headers and age of a CORS policy.
pub(super) fn cors(policy: Option<&CorsPolicy>, field: &Field, found: &mut Findings) {
    let Some(policy) = policy else { return };
    for (i, origin) in policy.allow_origins.iter().enumerate() {
        cors_origin(origin, &field.key("allowOrigins").at(i), found);
    }
    for (i, method) in policy.allow_methods.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            let message = format!("`{method}` is no HTTP method; case counts");
            found.error(&field.key("allowMethods").at(i), "bad-method", message);
        }
    }
    for (word, names) in [("allowHeaders", &policy.allow_headers), ("exposeHeaders", &policy.expose_headers)] {
        for (i, name) in names.iter().enumerate() {
            found.check(&field.key(word).at(i), "bad-header-name", headers::cors_name(name));
        }
    }
    let field = field.key("maxAge");
    found.duration(&field, policy.max_age);
    if policy.max_age.is_some_and(|age| age.as_nanos() > 0 && age.as_nanos() % 1_000_000_000 != 0) {
        found.error(&field, "duration-precision", "`maxAge` must be a whole number of seconds");
    }
}

fn cors_origin(origin: &StringMatch, field: &Field, found: &mut Findings) {
    match origin {
        StringMatch::Exact(text) | StringMatch::Prefix(text) if !text.is_empty() => {}
        StringMatch::Regex(pattern) => matches::regex(pattern, field, found),
        _ => found.error(field, "empty-origin", "an allowed origin must not be empty"),
    }
}
