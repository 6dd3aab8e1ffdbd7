//! One rule of a VirtualService, as routes: what Istio's route translation makes of it for one listener.
//!
//! Source: istio `pilot/pkg/networking/core/route/route.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::cluster::Clusters;
use super::operators::{self, Whose, has_unknown};
use super::virtual_service::{Root, Rule};
use super::{Findings, Viewpoint};
use crate::diagnostic::Diagnostic;
use crate::model::virtual_service::{
    CorsPolicy, HeaderOperations, Headers, HttpFaultInjection, HttpMatchRequest, HttpRedirect, HttpRetry, HttpRoute,
    HttpRouteDestination, Percent, RedirectPortSelection, UnmatchedPreflights,
};
use crate::model::{self, StringMatch};
use crate::pattern::Pattern;
use crate::plan::{
    Abort, Action, Condition, Cors, Delay, Destination, DirectResponse, Fault, Forward, HeaderEdits, HeaderMatch,
    HeaderWrite, Mirror, Origin, PathMatch, PathRewrite, QueryMatch, Redirect, RedirectPath, RegexRewrite, Retry,
    Route, ValueMatch,
};

/// The listener that routes are made for.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The service's port, or the gateway server's.
    pub(super) port: u16,
    /// `mesh`, or `namespace/name` of a Gateway.
    pub(super) gateway: &'a str,
    /// Whether requests come in over TLS.
    pub(super) encrypted: bool,
    pub(super) viewpoint: &'a Viewpoint,
}

/// The routes of one rule.
#[derive(Clone, Debug)]
pub(super) struct LoweredRule<'r> {
    blocks: &'r [Option<HttpMatchRequest>],
    pub(super) routes: Vec<Route>,
    /// Whether the last of the routes takes everything.
    pub(super) catch_all: bool,
}

/// The rules of a VirtualService that apply at a place, up to its first catch-all.
pub(super) fn rules<'r>(
    root: &'r Root,
    place: &Place<'_>,
    clusters: &mut Clusters<'_>,
    findings: &mut Findings,
) -> Vec<LoweredRule<'r>> {
    let mut lowered = Vec::new();
    for (index, rule) in root.http.iter().enumerate() {
        let made = Lowering { root, rule, index, place }.rule(clusters, findings);
        let Some(made) = made else { continue };
        let last = made.catch_all;
        lowered.push(made);
        if last {
            break;
        }
    }
    lowered
}

struct Lowering<'r, 'p> {
    root: &'r Root,
    rule: &'r Rule,
    index: usize,
    place: &'p Place<'p>,
}

impl<'r> Lowering<'r, '_> {
    fn rule(&self, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Option<LoweredRule<'r>> {
        let (rule, empty) = (&self.rule.rule, HttpMatchRequest::default());
        let blocks: Vec<Block<'_>> = match rule.r#match.as_slice() {
            [] => vec![None],
            blocks => {
                let blocks = blocks.iter().map(|block| block.as_ref().unwrap_or(&empty)).enumerate();
                blocks.filter(|(_, block)| self.applies(block)).map(Some).collect()
            }
        };
        let mut conditions = Vec::new();
        for block in blocks {
            match condition(block.map(|(_, block)| block)) {
                Ok((condition, catch_all)) => {
                    conditions.push((block, condition));
                    if catch_all {
                        let action = self.action(clusters, findings)?;
                        return Some(self.routes(conditions, &action, true));
                    }
                }
                Err((field, message)) => {
                    let at = block.map_or(0, |(at, _)| at);
                    let field = format!("{}.{field}", self.rule.blocks.get(at).unwrap_or(&self.rule.field));
                    let finding = Diagnostic::error("bad-match", message).at(&self.rule.written_in, field);
                    findings.push(finding.remedy("this match never holds until it is mended"));
                }
            }
        }
        if conditions.is_empty() {
            return None;
        }
        let action = self.action(clusters, findings)?;
        Some(self.routes(conditions, &action, false))
    }

    /// Whether a block applies to this client at all (reference 4.3).
    fn applies(&self, block: &HttpMatchRequest) -> bool {
        let (place, client) = (self.place, self.place.viewpoint);
        if block.port != 0 && block.port != u32::from(place.port) {
            return false;
        }
        if !block.gateways.is_empty() {
            return block.gateways.iter().any(|gateway| gateway == place.gateway);
        }
        crate::kubernetes::has_labels(&client.labels, &block.source_labels)
            && (block.source_namespace.is_empty() || block.source_namespace == client.namespace)
    }

    fn routes(&self, conditions: Vec<(Block<'_>, Condition)>, made: &Made, catch_all: bool) -> LoweredRule<'r> {
        let route = |(block, condition): (Block<'_>, Condition)| {
            let name = block.map(|(_, block)| block.name.as_str()).unwrap_or_default();
            let mut route = Route::new(route_name(&self.rule.rule.name, name), condition, made.action.clone());
            route.request = made.request.clone();
            route.response = made.response.clone();
            route.fault = made.fault.clone();
            route.cors = made.cors.clone();
            route.origin = Some(self.origin(block.map(|(at, _)| at)));
            route
        };
        LoweredRule { blocks: &self.rule.rule.r#match, routes: conditions.into_iter().map(route).collect(), catch_all }
    }

    fn origin(&self, block: Option<usize>) -> Origin {
        let field = block.and_then(|at| self.rule.blocks.get(at)).unwrap_or(&self.rule.field);
        Origin {
            resource: self.root.resource.clone(),
            rule: self.index as u32,
            block: block.map(|at| at as u32),
            written_in: self.rule.written_in.clone(),
            field: field.as_str().into(),
        }
    }

    /// What the rule does; `None`, with a finding, where it cannot be done.
    fn action(&self, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Option<Made> {
        match self.try_action(clusters, findings) {
            Ok(made) => Some(made),
            Err((field, message)) => {
                let field = format!("{}.{field}", self.rule.field);
                let finding = Diagnostic::error("bad-rule", message).at(&self.rule.written_in, field);
                findings.push(finding.remedy("the rule is left out until it is mended"));
                None
            }
        }
    }

    fn try_action(&self, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Result<Made, Wrong> {
        let rule = &self.rule.rule;
        let mut made = Made {
            request: edits(request(rule.headers.as_ref()), Whose::Request),
            response: edits(response(rule.headers.as_ref()), Whose::Response),
            fault: rule.fault.as_ref().map(fault).transpose()?.flatten(),
            cors: rule.cors_policy.as_ref().map(cors).transpose()?,
            action: Action::Direct(DirectResponse::new(503, "")),
        };
        self.note_operators(rule, findings);
        made.action = if let Some(to) = &rule.redirect {
            Action::Redirect(redirect(to, self.place)?)
        } else if let Some(answer) = &rule.direct_response {
            Action::Direct(direct(answer)?)
        } else {
            Action::Forward(self.forward(rule, &mut made, clusters, findings)?)
        };
        Ok(made)
    }

    /// Says where a header's value asks for what only a proxy knows: Envoy's command operators.
    fn note_operators(&self, rule: &HttpRoute, findings: &mut Findings) {
        let of_routes = rule.route.iter().flatten().filter_map(|route| route.headers.as_ref());
        for headers in rule.headers.iter().chain(of_routes) {
            let of = |operations: &'_ Option<HeaderOperations>, whose: Whose| -> Vec<String> {
                let values = operations.iter().flat_map(|all| all.set.values().chain(all.add.values()));
                values.filter(|value| has_unknown(value, whose)).cloned().collect()
            };
            let unknown = [of(&headers.request, Whose::Request), of(&headers.response, Whose::Response)];
            for value in unknown.concat() {
                let message =
                    format!("`{value}` is sent as it stands: what Envoy would put in for `%..%` is not known here");
                let field = format!("{}.headers", self.rule.field);
                findings.push(Diagnostic::warning("command-operator", message).at(&self.rule.written_in, field));
            }
        }
    }

    fn forward(
        &self,
        rule: &HttpRoute,
        made: &mut Made,
        clusters: &mut Clusters<'_>,
        findings: &mut Findings,
    ) -> Result<Forward, Wrong> {
        let numbered = rule.route.iter().enumerate();
        let written: Vec<(usize, &HttpRouteDestination)> =
            numbered.filter_map(|(at, route)| Some((at, route.as_ref()?))).collect();
        if written.is_empty() {
            return Err(("route".into(), "the rule has neither `route` nor `redirect` nor `directResponse`".into()));
        }
        let several = written.len() > 1;
        let kept: Vec<_> = written.into_iter().filter(|(_, route)| !several || route.weight > 0).collect();
        if kept.is_empty() {
            return Err(("route".into(), "the weights of the destinations add up to 0".into()));
        }
        let rewrite = rule.rewrite.as_ref();
        let authority = rewrite.map(|rewrite| rewrite.authority.as_str()).filter(|authority| !authority.is_empty());
        let authority = authority.or_else(|| written_authority(request(rule.headers.as_ref())));
        let mut destinations = Vec::new();
        for (at, route) in &kept {
            let destination = self.destination(route, authority, clusters)?;
            self.note_cluster(*at, route, destination.cluster, clusters, findings);
            destinations.push(destination);
        }
        if let [only] = destinations.as_mut_slice()
            && !several
        {
            // One destination: its edits follow the route's, so they win; several: the route's follow theirs.
            made.request.extend(&std::mem::take(&mut only.request));
            made.response.extend(&std::mem::take(&mut only.response));
        }
        let mut forward = Forward::new(destinations);
        forward.weighted = several;
        forward.hash = kept.iter().find_map(|(_, route)| {
            let destination = route.destination.as_ref()?;
            // Settings of a port count only where the port is written (istio `route.go`, hashForHTTPDestination).
            let port = destination.port.as_ref().and_then(|port| u16::try_from(port.number).ok()).unwrap_or(0);
            clusters.hash_key(&destination.host, &destination.subset, port)
        });
        forward.rewrite = rewrite.map(path_rewrite).transpose()?.flatten();
        forward.timeout = rule.timeout.and_then(model::Duration::to_std).filter(|timeout| !timeout.is_zero());
        forward.retry = retry(rule.retries.as_ref())?;
        forward.mirrors = self.mirrors(rule, clusters, findings)?;
        Ok(forward)
    }

    fn destination(
        &self,
        route: &HttpRouteDestination,
        authority: Option<&str>,
        clusters: &mut Clusters<'_>,
    ) -> Result<Destination, Wrong> {
        let Some(written) = &route.destination else {
            return Err(("route".into(), "an entry of `route` has no `destination`".into()));
        };
        let cluster = clusters.intern(&written.host, &written.subset, self.port(written, clusters)?);
        let mut destination = Destination::new(cluster, u32::try_from(route.weight).unwrap_or(0));
        let own = request(route.headers.as_ref());
        destination.authority = authority.or_else(|| written_authority(own)).map(Into::into);
        destination.request = edits(own, Whose::Request);
        destination.response = edits(response(route.headers.as_ref()), Whose::Response);
        Ok(destination)
    }

    /// Says where a destination leads to a refusal, whenever it is picked.
    fn note_cluster(
        &self,
        at: usize,
        route: &HttpRouteDestination,
        cluster: u32,
        clusters: &Clusters<'_>,
        findings: &mut Findings,
    ) {
        let port_written = route.destination.as_ref().is_some_and(|destination| destination.port.is_some());
        if !port_written && !clusters.hides(cluster) && self.is_beside_the_point(clusters) {
            return;
        }
        if let Some(finding) = clusters.fault(cluster) {
            let field = format!("{}.route[{at}].destination", self.rule.field);
            findings.push(finding.at(&self.rule.written_in, field));
        }
    }

    /// Whether nobody comes this way: on port 80 every VirtualService has a say, also one whose hosts are services that
    /// have no such port.
    fn is_beside_the_point(&self, clusters: &Clusters<'_>) -> bool {
        let hosts = &self.root.hosts;
        self.place.gateway == "mesh"
            && hosts.iter().any(|host| clusters.registry.find(host.as_str()).is_some())
            && !hosts.iter().any(|host| clusters.registry.serves(host, self.place.port))
    }

    /// The destination's port; without one, the listener's, except that a gateway knows a service with one port only.
    fn port(&self, written: &model::virtual_service::Destination, clusters: &Clusters<'_>) -> Result<u16, Wrong> {
        if let Some(port) = &written.port {
            let fault = || ("route".to_string(), format!("`{}` is no port", port.number));
            return u16::try_from(port.number).map_err(|_| fault());
        }
        if self.place.gateway != "mesh"
            && let Some(service) = clusters.registry.find(&written.host)
            && let [only] = service.ports.as_slice()
        {
            return Ok(only.number);
        }
        Ok(self.place.port)
    }

    fn mirrors(
        &self,
        rule: &HttpRoute,
        clusters: &mut Clusters<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<Mirror>, Wrong> {
        let old_percent = rule.mirror_percent.map(|percent| percent.saturating_mul(10_000));
        let percent = rule.mirror_percentage.as_ref().map(per_million).or(old_percent).unwrap_or(1_000_000);
        let mut mirrors = Vec::new();
        if let Some(destination) = &rule.mirror {
            mirrors.push((destination, percent, "mirror".to_string()));
        }
        for (at, mirror) in rule.mirrors.iter().enumerate().filter_map(|(at, mirror)| Some((at, mirror.as_ref()?))) {
            if let Some(destination) = &mirror.destination {
                let percent = mirror.percentage.as_ref().map_or(1_000_000, per_million);
                mirrors.push((destination, percent, format!("mirrors[{at}].destination")));
            }
        }
        let wanted = mirrors.into_iter().filter(|(_, percent, _)| *percent > 0);
        wanted
            .map(|(destination, percent, field)| {
                let port = self.port(destination, clusters)?;
                let cluster = clusters.intern(&destination.host, &destination.subset, port);
                if !self.is_beside_the_point(clusters)
                    && let Some(finding) = clusters.fault(cluster)
                {
                    findings.push(finding.at(&self.rule.written_in, format!("{}.{field}", self.rule.field)));
                }
                Ok(Mirror::new(cluster, percent.min(1_000_000)))
            })
            .collect()
    }
}

/// A field and what is wrong with it.
type Wrong = (String, String);

/// All that the routes of one rule share.
struct Made {
    action: Action,
    request: HeaderEdits,
    response: HeaderEdits,
    fault: Option<Fault>,
    cors: Option<Cors>,
}

fn route_name(rule: &str, block: &str) -> String {
    let parts: Vec<&str> = [rule, block].into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(".")
}

/// A match block with its position; `None`: the rule has none.
type Block<'b> = Option<(usize, &'b HttpMatchRequest)>;

impl LoweredRule<'_> {
    /// Equal for rules that are the same rule (see [`Precedence::LastApplied`](super::Precedence::LastApplied)). Worked out with
    /// each call.
    pub(super) fn sameness(&self) -> BTreeSet<String> {
        sameness(self.blocks)
    }
}

/// What makes two rules the same rule: their match blocks as a set; `name` and `statPrefix` don't count, nor does the
/// case of header names.
fn sameness(blocks: &[Option<HttpMatchRequest>]) -> BTreeSet<String> {
    let lower = |headers: &BTreeMap<String, Option<StringMatch>>| -> BTreeMap<String, Option<StringMatch>> {
        headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
    };
    let key = |block: &Option<HttpMatchRequest>| {
        let mut block = block.clone().unwrap_or_default();
        block.name.clear();
        block.stat_prefix.clear();
        block.headers = lower(&block.headers);
        block.without_headers = lower(&block.without_headers);
        block.gateways.sort();
        format!("{block:?}")
    };
    blocks.iter().map(key).collect()
}

/// The condition of a match block, and whether it is a catch-all (reference 4.2).
fn condition(block: Option<&HttpMatchRequest>) -> Result<(Condition, bool), Wrong> {
    let Some(block) = block else { return Ok((Condition::default(), true)) };
    let mut condition = Condition { path: path(block)?, ..Condition::default() };
    for (name, test) in &block.headers {
        let value = value(test.as_ref(), || format!("headers.{name}"))?;
        condition.headers.push(HeaderMatch::new(claim_free(name)?, value));
    }
    for (name, test) in &block.without_headers {
        let star = matches!(test, Some(StringMatch::Regex(regex)) if regex == "*");
        let test = test.as_ref().filter(|_| !star);
        let value = value(test, || format!("withoutHeaders.{name}"))?;
        condition.headers.push(HeaderMatch::without(claim_free(name)?, value));
    }
    for (name, test) in &block.query_params {
        condition.query.push(QueryMatch::new(name, value(test.as_ref(), || format!("queryParams.{name}"))?));
    }
    let pseudo = |test: &Option<StringMatch>, field: &str| {
        test.as_ref().map(|test| value(Some(test), || field.to_string())).transpose()
    };
    condition.method = pseudo(&block.method, "method")?;
    condition.scheme = pseudo(&block.scheme, "scheme")?;
    condition.authority = pseudo(&block.authority, "authority")?;
    let any_path = match &condition.path {
        PathMatch::Any => true,
        PathMatch::Regex(pattern) => pattern.as_str() == ".*",
        _ => false,
    };
    let catch_all = any_path && Condition { path: PathMatch::Any, ..condition.clone() }.is_any();
    Ok((condition, catch_all))
}

/// A JWT claim is no header: nothing here has verified a token.
fn claim_free(name: &str) -> Result<&str, Wrong> {
    if name.starts_with("@request.auth.claims") {
        let message = "claims of a JWT are not looked at here, so the match never holds".to_string();
        return Err((format!("headers.{name}"), message));
    }
    Ok(name)
}

fn path(block: &HttpMatchRequest) -> Result<PathMatch, Wrong> {
    let ignore_case = block.ignore_uri_case;
    Ok(match &block.uri {
        None | Some(StringMatch::Present) => PathMatch::Any,
        Some(StringMatch::Prefix(path)) if path == "/" => PathMatch::Any,
        Some(StringMatch::Prefix(path)) => PathMatch::Prefix { path: path.as_str().into(), ignore_case },
        Some(StringMatch::Exact(path)) => PathMatch::Exact { path: path.as_str().into(), ignore_case },
        Some(StringMatch::Regex(regex)) => PathMatch::Regex(pattern(regex, || "uri".to_string())?),
    })
}

/// The test of one value; `{}` and null ask only that it is there. (So does the regex `*`, but only in
/// `withoutHeaders`: elsewhere Istio's admission refuses it.)
fn value(test: Option<&StringMatch>, field: impl Fn() -> String) -> Result<ValueMatch, Wrong> {
    Ok(match test {
        None | Some(StringMatch::Present) => ValueMatch::Present,
        Some(StringMatch::Exact(text)) => ValueMatch::Exact(text.as_str().into()),
        Some(StringMatch::Prefix(text)) => ValueMatch::Prefix(text.as_str().into()),
        Some(StringMatch::Regex(regex)) => ValueMatch::Regex(pattern(regex, field)?),
    })
}

fn pattern(regex: &str, field: impl Fn() -> String) -> Result<Pattern, Wrong> {
    Pattern::parse(regex).map_err(|error| (format!("{}.regex", field()), format!("`{regex}` is no pattern: {error}")))
}

fn request(headers: Option<&Headers>) -> Option<&HeaderOperations> {
    headers?.request.as_ref()
}

fn response(headers: Option<&Headers>) -> Option<&HeaderOperations> {
    headers?.response.as_ref()
}

/// Removals, then `set`, then `add`, each by name. What concerns the authority is dealt with elsewhere.
fn edits(operations: Option<&HeaderOperations>, whose: Whose) -> HeaderEdits {
    let Some(operations) = operations else { return HeaderEdits::default() };
    let own = |name: &str| !name.starts_with(':') && !name.eq_ignore_ascii_case("host");
    let write = |headers: &BTreeMap<String, String>, append: bool| -> Vec<HeaderWrite> {
        let kept = headers.iter().filter(|(name, _)| own(name));
        kept.map(|(name, value)| operators::write(name, value, append, whose)).collect()
    };
    let mut edits = HeaderEdits::default();
    let removed = operations.remove.iter().filter(|name| own(name));
    edits.remove = removed.map(|name| name.to_ascii_lowercase().into()).collect();
    edits.write = write(&operations.set, false);
    edits.write.extend(write(&operations.add, true));
    edits
}

/// The authority that header operations write: of `set` before `add`.
fn written_authority(operations: Option<&HeaderOperations>) -> Option<&str> {
    let operations = operations?;
    let of = |headers: &'_ BTreeMap<String, String>| {
        headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("host") || *name == ":authority")
            .map(|(name, _)| name.clone())
    };
    if let Some(name) = of(&operations.set) {
        return operations.set.get(&name).map(String::as_str);
    }
    of(&operations.add).and_then(|name| operations.add.get(&name)).map(String::as_str)
}

fn path_rewrite(rewrite: &model::virtual_service::HttpRewrite) -> Result<Option<PathRewrite>, Wrong> {
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        let field = || "rewrite.uriRegexRewrite".to_string();
        let pattern = pattern(&regex.r#match, field)?;
        let rewrite = RegexRewrite::parse(pattern, &regex.rewrite).map_err(|error| (field(), error.to_string()))?;
        return Ok(Some(PathRewrite::Regex(rewrite)));
    }
    Ok((!rewrite.uri.is_empty()).then(|| PathRewrite::Matched(rewrite.uri.as_str().into())))
}

fn redirect(written: &HttpRedirect, place: &Place<'_>) -> Result<Redirect, Wrong> {
    let code = if written.redirect_code == 0 { 301 } else { written.redirect_code };
    if !matches!(code, 301 | 302 | 303 | 307 | 308) {
        return Err((
            "redirect.redirectCode".into(),
            format!("`{code}` is no status that Envoy redirects with: it refuses all rules of the port with this one"),
        ));
    }
    let mut redirect = Redirect::new(code as u16);
    if !written.prefix_rewrite.is_empty() {
        redirect.path = Some(RedirectPath::Prefix(written.prefix_rewrite.as_str().into()));
    } else if !written.uri.is_empty() {
        redirect.path = Some(RedirectPath::Whole(written.uri.as_str().into()));
    }
    redirect.authority = Some(&written.authority).filter(|text| !text.is_empty()).map(|text| text.as_str().into());
    redirect.scheme = Some(&written.scheme).filter(|text| !text.is_empty()).map(|text| text.as_str().into());
    let port = match (written.port, written.derive_port) {
        (Some(port), _) => Some(port),
        (None, Some(RedirectPortSelection::FromRequestPort)) => Some(u32::from(place.port)),
        (None, _) => None,
    };
    let scheme = redirect.scheme.as_deref().unwrap_or(if place.encrypted { "https" } else { "http" });
    let own = |port: &u32| !matches!((port, scheme), (80, "http") | (443, "https"));
    redirect.port = port.filter(own).and_then(|port| u16::try_from(port).ok());
    Ok(redirect)
}

fn direct(written: &model::virtual_service::HttpDirectResponse) -> Result<DirectResponse, Wrong> {
    let wrong = |field: &str, message: String| (format!("directResponse.{field}"), message);
    let status = u16::try_from(written.status).ok().filter(|status| (200..=600).contains(status));
    let status = status.ok_or_else(|| wrong("status", format!("`{}` is no status of an answer", written.status)))?;
    let body = match &written.body {
        None => Vec::new(),
        Some(body) => match (&body.string, &body.bytes) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(text)) => base64(text).ok_or_else(|| wrong("body.bytes", "the text is no base64".into()))?,
            (None, None) => Vec::new(),
        },
    };
    Ok(DirectResponse::new(status, body))
}

/// Base64 with the standard alphabet, padding optional (RFC 4648).
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

/// The route's policy; without one Istio's built-in; none where there are no attempts.
fn retry(written: Option<&HttpRetry>) -> Result<Option<Retry>, Wrong> {
    let Some(written) = written else { return Ok(Some(Retry::built_in())) };
    let Some(attempts) = u32::try_from(written.attempts).ok().filter(|attempts| *attempts > 0) else { return Ok(None) };
    let mut retry = Retry { attempts, ..Retry::built_in() };
    retry.per_try_timeout = written.per_try_timeout.and_then(model::Duration::to_std).filter(|time| !time.is_zero());
    retry.ignore_previous_hosts = written.retry_ignore_previous_hosts.unwrap_or(true);
    if let Some(backoff) = written.backoff.and_then(model::Duration::to_std) {
        retry.backoff = backoff;
    }
    if !written.retry_on.is_empty() {
        retry.on = Vec::new();
        for item in written.retry_on.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match item.parse() {
                Ok(status) => retry.statuses.push(status),
                Err(_) => retry.on.push(item.into()),
            }
        }
        if !retry.statuses.is_empty() {
            retry.on.push("retriable-status-codes".into());
        }
    }
    Ok(Some(retry))
}

/// A percentage as parts of a million, rounded down (`translatePercentToFractionalPercent`).
fn per_million(percent: &Percent) -> u32 {
    (percent.value * 10_000.0) as u32
}

fn fault(written: &HttpFaultInjection) -> Result<Option<Fault>, Wrong> {
    let mut fault = Fault::default();
    if let Some(delay) = &written.delay {
        let old = u32::try_from(delay.percent).unwrap_or(0).saturating_mul(10_000);
        let per_million = delay.percentage.as_ref().map_or(old, per_million);
        let duration = delay.fixed_delay.and_then(model::Duration::to_std).unwrap_or(Duration::ZERO);
        fault.delay = (per_million > 0).then_some(Delay { duration, per_million });
    }
    if let Some(abort) = &written.abort {
        let per_million = abort.percentage.as_ref().map_or(0, per_million);
        let wrong = |message: String| ("fault.abort".to_string(), message);
        let (status, grpc) = match (abort.http_status, &abort.grpc_status) {
            (Some(status), _) => {
                let status = u16::try_from(status).ok().filter(|status| (200..=600).contains(status));
                (status.ok_or_else(|| wrong("`httpStatus` is no status".to_string()))?, None)
            }
            (None, Some(name)) => {
                // Whoever does not speak gRPC gets 200 all the same (Envoy's `FaultFilter::abortHttpStatus`).
                (200, Some(grpc_status(name).ok_or_else(|| wrong(format!("`{name}` is no gRPC status")))?))
            }
            (None, None) => return Ok(Some(fault).filter(|fault| fault.delay.is_some())),
        };
        fault.abort = (per_million > 0).then_some(Abort { status, grpc, per_million });
    }
    Ok(Some(fault).filter(|fault| fault.delay.is_some() || fault.abort.is_some()))
}

/// A gRPC status by its name.
fn grpc_status(name: &str) -> Option<u8> {
    const STATUSES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    (0u8..).zip(STATUSES).find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(code, _)| code)
}

fn cors(written: &CorsPolicy) -> Result<Cors, Wrong> {
    let mut cors = Cors::default();
    for origin in &written.allow_origins {
        cors.allow_origins.push(value(Some(origin), || "corsPolicy.allowOrigins".to_string())?);
    }
    if cors.allow_origins.is_empty() {
        let old = |origin: &String| match origin.as_str() {
            "*" => ValueMatch::Present,
            exact => ValueMatch::Exact(exact.into()),
        };
        cors.allow_origins = written.allow_origin.iter().map(old).collect();
    }
    cors.allow_methods = written.allow_methods.join(",").into();
    cors.allow_headers = written.allow_headers.join(",").into();
    cors.expose_headers = written.expose_headers.join(",").into();
    cors.max_age = written.max_age.and_then(model::Duration::to_std).map(|age| age.as_secs());
    cors.allow_credentials = written.allow_credentials.unwrap_or(false);
    cors.forward_unmatched_preflights = written.unmatched_preflights != UnmatchedPreflights::Ignore;
    Ok(cors)
}
