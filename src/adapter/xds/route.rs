//! Route tables: virtual hosts, and routes in their order.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use envoy_types::pb::google::protobuf::Any;
use pb::route_action::{ClusterSpecifier, HashPolicy, HostRewriteSpecifier, hash_policy};

use super::cluster::PASSTHROUGH;
use super::proto::{boolean, bytes, fraction, pack, regex, runtime_fraction, seconds, string_match, uint};
use crate::pattern::Pattern;
use crate::plan::{
    Action, Condition, Cors, Destination, DirectResponse, Fault, Forward, HashKey, HeaderEdits, HeaderMatch,
    HeaderWrite, HttpTable, Part, PathMatch, PathRewrite, Plan, Redirect, RedirectPath, RegexRewrite, Retry, Route,
    Unclaimed, ValueMatch, VirtualHost,
};

/// The largest body of an answer made by Envoy itself that is let through (its default is 4 KiB).
const LONGEST_BODY: u32 = 1 << 20;

/// A table of the plan under a name.
pub(super) fn table(name: &str, table: &HttpTable, plan: &Plan) -> pb::RouteConfiguration {
    let served = table.hosts.iter().filter(|host| !host.domains.is_empty());
    let mut virtual_hosts: Vec<pb::VirtualHost> = served.map(|host| virtual_host(host, plan)).collect();
    let claims_all = |host: &VirtualHost| host.domains.iter().any(|domain| domain.as_str() == "*");
    if !table.hosts.iter().any(|host| claims_all(host)) {
        virtual_hosts.extend(unclaimed(table.unclaimed));
    }
    pb::RouteConfiguration {
        name: name.into(),
        virtual_hosts,
        // A cluster that does not exist is answered 503 NC, and takes nothing else with it.
        validate_clusters: boolean(false),
        ignore_port_in_host_matching: true,
        max_direct_response_body_size_bytes: uint(LONGEST_BODY),
        ..pb::RouteConfiguration::default()
    }
}

/// Who takes what nobody claims, under Istio's names for it.
fn unclaimed(unclaimed: Unclaimed) -> Option<pb::VirtualHost> {
    let (name, action) = match unclaimed {
        Unclaimed::Passthrough => ("allow_any", pb::route::Action::Route(to_passthrough())),
        Unclaimed::BlockAll => ("block_all", pb::route::Action::DirectResponse(status(502))),
        Unclaimed::NotFound => return None,
    };
    let route = pb::Route {
        name: name.into(),
        r#match: Some(matching(pb::route_match::PathSpecifier::Prefix("/".into()))),
        action: Some(action),
        ..pb::Route::default()
    };
    let domains = vec!["*".into()];
    Some(pb::VirtualHost { name: name.into(), domains, routes: vec![route], ..pb::VirtualHost::default() })
}

fn to_passthrough() -> pb::RouteAction {
    pb::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(PASSTHROUGH.into())),
        timeout: seconds(Duration::ZERO),
        ..pb::RouteAction::default()
    }
}

fn status(status: u16) -> pb::DirectResponseAction {
    pb::DirectResponseAction { status: status.into(), ..pb::DirectResponseAction::default() }
}

fn virtual_host(host: &VirtualHost, plan: &Plan) -> pb::VirtualHost {
    use pb::virtual_host::TlsRequirementType;
    let encrypted = if host.require_tls { TlsRequirementType::All } else { TlsRequirementType::None };
    pb::VirtualHost {
        name: host.name.to_string(),
        domains: host.domains.iter().map(|domain| domain.as_str().to_string()).collect(),
        routes: host.routes.iter().map(|known| route(known, plan)).collect(),
        require_tls: encrypted.into(),
        include_request_attempt_count: true,
        ..pb::VirtualHost::default()
    }
}

fn route(known: &Route, plan: &Plan) -> pb::Route {
    let action = match &known.action {
        Action::Forward(forward) => pb::route::Action::Route(forwarded(forward, plan)),
        Action::Redirect(redirect) => pb::route::Action::Redirect(redirected(redirect)),
        Action::Direct(direct) => pb::route::Action::DirectResponse(answered(direct)),
    };
    let fault = known.fault.as_ref().map(|known| ("envoy.filters.http.fault", pack(&fault(known))));
    let cors = known.cors.as_ref().map(|known| ("envoy.filters.http.cors", pack(&cors(known))));
    let (request, response) = (Edits::of(&known.request), Edits::of(&known.response));
    pb::Route {
        name: known.name.to_string(),
        r#match: Some(condition(&known.condition)),
        typed_per_filter_config: in_order(cors.into_iter().chain(fault)),
        request_headers_to_add: request.add,
        request_headers_to_remove: request.remove,
        response_headers_to_add: response.add,
        response_headers_to_remove: response.remove,
        action: Some(action),
        ..pb::Route::default()
    }
}

/// A map that is written out in the order of its keys: equal plans make equal bytes, by whomever, so that the hash of a
/// resource is its version. `HashMap` is what the generated types have; a few tries find one in order, as it has two
/// entries at most.
fn in_order(entries: impl Iterator<Item = (&'static str, Any)>) -> HashMap<String, Any> {
    let entries: Vec<(String, Any)> = entries.map(|(name, config)| (name.to_string(), config)).collect();
    loop {
        let map: HashMap<String, Any> = entries.iter().cloned().collect();
        if map.keys().is_sorted() {
            return map;
        }
    }
}

fn matching(path: pb::route_match::PathSpecifier) -> pb::RouteMatch {
    pb::RouteMatch { path_specifier: Some(path), ..pb::RouteMatch::default() }
}

fn condition(condition: &Condition) -> pb::RouteMatch {
    use pb::route_match::PathSpecifier;
    let (path, ignore_case) = match &condition.path {
        PathMatch::Any => (PathSpecifier::Prefix("/".into()), false),
        PathMatch::Exact { path, ignore_case } => (PathSpecifier::Path(path.to_string()), *ignore_case),
        PathMatch::Prefix { path, ignore_case } => (PathSpecifier::Prefix(path.to_string()), *ignore_case),
        PathMatch::Regex(pattern) => (PathSpecifier::SafeRegex(regex(pattern.as_str())), false),
    };
    let own = [(":method", &condition.method), (":scheme", &condition.scheme), (":authority", &condition.authority)];
    let own = own.into_iter().filter_map(|(name, test)| Some(header(name, test.as_ref()?)));
    pb::RouteMatch {
        case_sensitive: boolean(!ignore_case),
        headers: own.chain(condition.headers.iter().map(header_match)).collect(),
        query_parameters: condition.query.iter().map(|test| query(&test.name, &test.value)).collect(),
        ..matching(path)
    }
}

fn header(name: &str, test: &ValueMatch) -> pb::HeaderMatcher {
    use pb::header_matcher::HeaderMatchSpecifier;
    let specifier =
        string_match(test).map_or(HeaderMatchSpecifier::PresentMatch(true), HeaderMatchSpecifier::StringMatch);
    pb::HeaderMatcher { name: name.into(), header_match_specifier: Some(specifier), ..pb::HeaderMatcher::default() }
}

fn header_match(test: &HeaderMatch) -> pb::HeaderMatcher {
    pb::HeaderMatcher {
        invert_match: test.invert,
        treat_missing_header_as_empty: test.missing_is_empty,
        ..header(&test.name, &test.value)
    }
}

fn query(name: &str, test: &ValueMatch) -> pb::QueryParameterMatcher {
    use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    let specifier = string_match(test).map_or(Specifier::PresentMatch(true), Specifier::StringMatch);
    pb::QueryParameterMatcher { name: name.into(), query_parameter_match_specifier: Some(specifier) }
}

/// Edits of headers, in Envoy's two lists.
struct Edits {
    add: Vec<HeaderValueOption>,
    remove: Vec<String>,
}

impl Edits {
    fn of(edits: &HeaderEdits) -> Self {
        Edits {
            add: edits.write.iter().map(written).collect(),
            remove: edits.remove.iter().map(ToString::to_string).collect(),
        }
    }
}

fn written(write: &HeaderWrite) -> HeaderValueOption {
    let action = match write.append {
        true => HeaderAppendAction::AppendIfExistsOrAdd,
        false => HeaderAppendAction::OverwriteIfExistsOrAdd,
    };
    let value = match write.parts.is_empty() {
        true => literal(&write.value),
        false => write.parts.iter().map(part).collect(),
    };
    let header = HeaderValue { key: write.name.to_string(), value, ..HeaderValue::default() };
    HeaderValueOption { header: Some(header), append_action: action.into(), ..HeaderValueOption::default() }
}

/// In Envoy's language of formats `%` begins a command, and `%%` stands for one.
fn literal(text: &str) -> String {
    text.replace('%', "%%")
}

fn part(part: &Part) -> String {
    let Part::Header { name, or, most } = part else {
        let Part::Text(text) = part else { return String::new() };
        return literal(text);
    };
    let or = or.as_ref().map(|or| format!("?{or}")).unwrap_or_default();
    let most = most.map(|most| format!(":{most}")).unwrap_or_default();
    format!("%REQ({name}{or}){most}%")
}

fn name(plan: &Plan, cluster: u32) -> String {
    usize::try_from(cluster)
        .ok()
        .and_then(|at| plan.clusters.get(at))
        .map(|known| known.name.to_string())
        .unwrap_or_default()
}

fn forwarded(forward: &Forward, plan: &Plan) -> pb::RouteAction {
    let mut made = pb::RouteAction {
        timeout: seconds(forward.timeout.unwrap_or_default()),
        retry_policy: forward.retry.as_ref().map(retry),
        hash_policy: forward.hash.iter().map(hash).collect(),
        ..pb::RouteAction::default()
    };
    let specifier = match forward.destinations.as_slice() {
        [only] if !forward.weighted => {
            let literal = |authority: &str| HostRewriteSpecifier::HostRewriteLiteral(authority.into());
            made.host_rewrite_specifier = only.authority.as_deref().map(literal);
            ClusterSpecifier::Cluster(name(plan, only.cluster))
        }
        several => {
            let clusters = several.iter().map(|to| weighted(to, plan)).collect();
            ClusterSpecifier::WeightedClusters(pb::WeightedCluster { clusters, ..pb::WeightedCluster::default() })
        }
    };
    made.cluster_specifier = Some(specifier);
    match &forward.rewrite {
        Some(PathRewrite::Matched(text)) => made.prefix_rewrite = text.to_string(),
        Some(PathRewrite::Regex(rewrite)) => made.regex_rewrite = Some(substitute(rewrite)),
        None => {}
    }
    let mirror = |mirror: &crate::plan::Mirror| pb::route_action::RequestMirrorPolicy {
        cluster: name(plan, mirror.cluster),
        runtime_fraction: Some(runtime_fraction(mirror.per_million)),
        ..pb::route_action::RequestMirrorPolicy::default()
    };
    made.request_mirror_policies = forward.mirrors.iter().map(mirror).collect();
    made
}

fn substitute(rewrite: &RegexRewrite) -> RegexMatchAndSubstitute {
    let (pattern, substitution): (Pattern, String) = rewrite.clone().into();
    RegexMatchAndSubstitute { pattern: Some(regex(pattern.as_str())), substitution }
}

fn weighted(to: &Destination, plan: &Plan) -> pb::weighted_cluster::ClusterWeight {
    use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let (request, response) = (Edits::of(&to.request), Edits::of(&to.response));
    let literal = |authority: &str| HostRewriteSpecifier::HostRewriteLiteral(authority.into());
    pb::weighted_cluster::ClusterWeight {
        name: name(plan, to.cluster),
        weight: uint(to.weight),
        request_headers_to_add: request.add,
        request_headers_to_remove: request.remove,
        response_headers_to_add: response.add,
        response_headers_to_remove: response.remove,
        host_rewrite_specifier: to.authority.as_deref().map(literal),
        ..pb::weighted_cluster::ClusterWeight::default()
    }
}

fn hash(key: &HashKey) -> HashPolicy {
    use hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter};
    let specifier = match key {
        HashKey::Header(name) => PolicySpecifier::Header(Header { header_name: name.to_string(), ..Header::default() }),
        HashKey::Cookie { name, path, ttl } => PolicySpecifier::Cookie(Cookie {
            name: name.to_string(),
            path: path.to_string(),
            ttl: ttl.and_then(seconds),
            ..Cookie::default()
        }),
        HashKey::SourceIp => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
        HashKey::Query(name) => PolicySpecifier::QueryParameter(QueryParameter { name: name.to_string() }),
    };
    HashPolicy { policy_specifier: Some(specifier), terminal: false }
}

fn retry(retry: &Retry) -> pb::RetryPolicy {
    use pb::retry_policy::{RetryBackOff, RetryHostPredicate, retry_host_predicate::ConfigType};
    let predicate = || RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".into(),
        config_type: Some(ConfigType::TypedConfig(pack(&PreviousHostsPredicate::default()))),
    };
    pb::RetryPolicy {
        retry_on: retry.on.join(","),
        num_retries: uint(retry.attempts),
        per_try_timeout: retry.per_try_timeout.and_then(seconds),
        retriable_status_codes: retry.statuses.iter().map(|status| u32::from(*status)).collect(),
        retry_back_off: Some(RetryBackOff { base_interval: seconds(retry.backoff), ..RetryBackOff::default() }),
        retry_host_predicate: retry.ignore_previous_hosts.then(predicate).into_iter().collect(),
        host_selection_retry_max_attempts: if retry.ignore_previous_hosts { 5 } else { 0 },
        ..pb::RetryPolicy::default()
    }
}

fn redirected(redirect: &Redirect) -> pb::RedirectAction {
    use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let code = match redirect.code {
        301 => RedirectResponseCode::MovedPermanently,
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        _ => RedirectResponseCode::PermanentRedirect,
    };
    let path = redirect.path.as_ref().map(|path| match path {
        RedirectPath::Whole(text) => PathRewriteSpecifier::PathRedirect(text.to_string()),
        RedirectPath::Prefix(text) => PathRewriteSpecifier::PrefixRewrite(text.to_string()),
    });
    let scheme = |scheme: &str| SchemeRewriteSpecifier::SchemeRedirect(scheme.into());
    pb::RedirectAction {
        host_redirect: redirect.authority.as_deref().unwrap_or_default().into(),
        port_redirect: redirect.port.unwrap_or_default().into(),
        response_code: code.into(),
        scheme_rewrite_specifier: redirect.scheme.as_deref().map(scheme),
        path_rewrite_specifier: path,
        ..pb::RedirectAction::default()
    }
}

fn answered(direct: &DirectResponse) -> pb::DirectResponseAction {
    let body = (!direct.body.is_empty()).then(|| bytes(&direct.body));
    pb::DirectResponseAction { body, ..status(direct.status) }
}

fn fault(fault: &Fault) -> HttpFault {
    let delay = fault.delay.map(|delay| FaultDelay {
        percentage: Some(fraction(delay.per_million)),
        fault_delay_secifier: seconds(delay.duration).map(FaultDelaySecifier::FixedDelay),
    });
    let abort = fault.abort.map(|abort| FaultAbort {
        percentage: Some(fraction(abort.per_million)),
        error_type: Some(match abort.grpc {
            Some(code) => ErrorType::GrpcStatus(code.into()),
            None => ErrorType::HttpStatus(abort.status.into()),
        }),
        ..FaultAbort::default()
    });
    HttpFault { delay, abort, ..HttpFault::default() }
}

fn cors(cors: &Cors) -> CorsPolicy {
    CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().filter_map(string_match).collect(),
        allow_methods: cors.allow_methods.to_string(),
        allow_headers: cors.allow_headers.to_string(),
        expose_headers: cors.expose_headers.to_string(),
        max_age: cors.max_age.map(|age| age.to_string()).unwrap_or_default(),
        allow_credentials: boolean(cors.allow_credentials),
        forward_not_matching_preflights: boolean(cors.forward_unmatched_preflights),
        ..CorsPolicy::default()
    }
}
