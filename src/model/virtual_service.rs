//! Which request goes where (`networking/v1alpha3/virtual_service.proto`).

use std::collections::BTreeMap;

use super::{Duration, Metadata, StringMatch, Untyped};

document! {
    /// A VirtualService: routing rules for the hosts that it names.
    pub struct VirtualService {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// What the operator asks for.
        pub spec: VirtualServiceSpec,
        /// What Istio reports; nothing here reads it.
        pub status: Option<Untyped>,
    }
}

message! {
    /// The rules of a VirtualService.
    pub struct VirtualServiceSpec {
        /// The hosts that the rules are for: a short name, a fully qualified one or a wildcard. Empty for a delegate.
        pub hosts: Vec<String>,
        /// The gateways that take the rules up, `namespace/name` or `mesh` for all sidecars; absent = `mesh`.
        pub gateways: Vec<String>,
        /// The rules for HTTP, in order; the first that matches wins.
        pub http: Vec<Option<HttpRoute>>,
        /// The rules for TLS that is passed through, chosen by SNI, in order.
        pub tls: Vec<Option<TlsRoute>>,
        /// The rules for any other TCP, in order.
        pub tcp: Vec<Option<TcpRoute>>,
        /// The namespaces that see it: `.`, `*` or names; absent = the mesh's default, normally `*`.
        pub export_to: Vec<String>,
    }
}

message! {
    /// A service, or a subset of it, that traffic is sent to.
    pub struct Destination {
        /// The service's host in the registry; required. A short name is completed with the rule's own namespace.
        pub host: String,
        /// A subset that the host's DestinationRule names; empty = all endpoints.
        pub subset: String,
        /// The port of the service; absent = the only port it has, or the one that the client addressed.
        pub port: Option<PortSelector>,
    }
}

message! {
    /// One HTTP rule: conditions, and what is done when they hold.
    pub struct HttpRoute {
        /// A name for logs and for being referred to; empty = none.
        pub name: String,
        /// Blocks of conditions, any of which suffices; empty = every request.
        pub r#match: Vec<Option<HttpMatchRequest>>,
        /// The destinations, by weight.
        pub route: Vec<Option<HttpRouteDestination>>,
        /// Answers with a redirect; excludes `route`.
        pub redirect: Option<HttpRedirect>,
        /// Answers with a fixed response; excludes `route` and `redirect`.
        pub direct_response: Option<HttpDirectResponse>,
        /// Another VirtualService that goes on with what matches; excludes `route` and `redirect`.
        pub delegate: Option<Delegate>,
        /// Changes path and authority before forwarding; excludes `redirect`.
        pub rewrite: Option<HttpRewrite>,
        /// How long the whole request may take, retries included; absent = no limit.
        pub timeout: Option<Duration>,
        /// When to try again; absent = the mesh's policy, else two retries.
        pub retries: Option<HttpRetry>,
        /// Delays and aborts, for tests of resilience; absent = none.
        pub fault: Option<HttpFaultInjection>,
        /// A destination that gets a copy, whose answer is dropped; excludes `mirrors`.
        pub mirror: Option<Destination>,
        /// Destinations that each get a copy, sampled independently.
        pub mirrors: Vec<Option<HttpMirrorPolicy>>,
        /// Deprecated: the share to mirror in whole percent; `mirror_percentage` wins over it.
        pub mirror_percent: Option<u32>,
        /// The share to mirror to `mirror`; absent = 100 %.
        pub mirror_percentage: Option<Percent>,
        /// How cross-origin requests are answered; absent = not at all.
        pub cors_policy: Option<CorsPolicy>,
        /// Changes to headers, for every destination of the rule.
        pub headers: Option<Headers>,
    }
}

message! {
    /// The VirtualService that a rule hands over to.
    pub struct Delegate {
        /// Its name.
        pub name: String,
        /// Its namespace; empty = that of the rule which hands over.
        pub namespace: String,
    }
}

message! {
    /// Changes to headers on either way.
    pub struct Headers {
        /// Changes before the request is forwarded.
        pub request: Option<HeaderOperations>,
        /// Changes before the response is returned.
        pub response: Option<HeaderOperations>,
    }
}

message! {
    /// Changes to headers on one way.
    pub struct HeaderOperations {
        /// Headers to overwrite, by name.
        pub set: BTreeMap<String, String>,
        /// Headers to add a value to, by name.
        pub add: BTreeMap<String, String>,
        /// Names of headers to remove.
        pub remove: Vec<String>,
    }
}

message! {
    /// One rule for TLS that is passed through.
    pub struct TlsRoute {
        /// Blocks of conditions, any of which suffices; required.
        pub r#match: Vec<Option<TlsMatchAttributes>>,
        /// The destinations, by weight.
        pub route: Vec<Option<RouteDestination>>,
    }
}

message! {
    /// One rule for TCP.
    pub struct TcpRoute {
        /// Blocks of conditions, any of which suffices; empty = every connection.
        pub r#match: Vec<Option<L4MatchAttributes>>,
        /// The destinations, by weight.
        pub route: Vec<Option<RouteDestination>>,
    }
}

message! {
    /// A block of conditions on a request, all of which must hold.
    pub struct HttpMatchRequest {
        /// A name for logs, after the rule's own; empty = none.
        pub name: String,
        /// The path; absent = any.
        pub uri: Option<StringMatch>,
        /// The scheme; absent = any.
        pub scheme: Option<StringMatch>,
        /// The method; absent = any.
        pub method: Option<StringMatch>,
        /// The authority, with the port if the client wrote one; absent = any.
        pub authority: Option<StringMatch>,
        /// Headers by lower-case name; a null or empty pattern asks only that the header is there.
        pub headers: BTreeMap<String, Option<StringMatch>>,
        /// The port that the client addressed; 0 = any.
        pub port: u32,
        /// Labels that the client's workload must carry; ignored at gateways.
        pub source_labels: BTreeMap<String, String>,
        /// Gateways that the block is for, instead of the rule's own list; empty = all of those.
        pub gateways: Vec<String>,
        /// Query parameters by name; a null or empty pattern asks only that the parameter is there.
        pub query_params: BTreeMap<String, Option<StringMatch>>,
        /// Whether `uri` disregards case, for `exact` and `prefix`; absent = false.
        pub ignore_uri_case: bool,
        /// Headers that must not match, by lower-case name.
        pub without_headers: BTreeMap<String, Option<StringMatch>>,
        /// The namespace of the client's workload; empty = any.
        pub source_namespace: String,
        /// The prefix of the statistics kept for the route; empty = none are kept.
        pub stat_prefix: String,
    }
}

message! {
    /// A destination of an HTTP rule, with its share.
    pub struct HttpRouteDestination {
        /// Where to; required.
        pub destination: Option<Destination>,
        /// The share, relative to the sum of the rule's weights; absent = 0. A sole destination gets everything.
        pub weight: i32,
        /// Changes to headers, for this destination only.
        pub headers: Option<Headers>,
    }
}

message! {
    /// A destination of a TCP or TLS rule, with its share.
    pub struct RouteDestination {
        /// Where to; required.
        pub destination: Option<Destination>,
        /// The share, relative to the sum of the rule's weights; absent = 0. A sole destination gets everything.
        pub weight: i32,
    }
}

message! {
    /// A block of conditions on a connection, all of which must hold.
    pub struct L4MatchAttributes {
        /// The addresses connected to, as `a.b.c.d/n` or a single address, any of which suffices; empty = any.
        pub destination_subnets: Vec<String>,
        /// The port connected to; 0 = any.
        pub port: u32,
        /// Hidden: the addresses of clients; ignored by Istio.
        pub source_subnet: String,
        /// Labels that the client's workload must carry; ignored at gateways.
        pub source_labels: BTreeMap<String, String>,
        /// Gateways that the block is for, instead of the rule's own list; empty = all of those.
        pub gateways: Vec<String>,
        /// The namespace of the client's workload; empty = any.
        pub source_namespace: String,
    }
}

message! {
    /// A block of conditions on a TLS connection, all of which must hold.
    pub struct TlsMatchAttributes {
        /// The names asked for by SNI, exact or `*.suffix`, any of which suffices; required.
        pub sni_hosts: Vec<String>,
        /// The addresses connected to, as `a.b.c.d/n` or a single address, any of which suffices; empty = any.
        pub destination_subnets: Vec<String>,
        /// The port connected to; 0 = any.
        pub port: u32,
        /// Labels that the client's workload must carry; ignored at gateways.
        pub source_labels: BTreeMap<String, String>,
        /// Gateways that the block is for, instead of the rule's own list; empty = all of those.
        pub gateways: Vec<String>,
        /// The namespace of the client's workload; empty = any.
        pub source_namespace: String,
    }
}

message! {
    /// An answer that sends the client elsewhere.
    pub struct HttpRedirect {
        /// The new path, in place of the whole old one; empty = the old one.
        pub uri: String,
        /// The new authority; empty = the old one.
        pub authority: String,
        /// The new port; excludes `derive_port`.
        pub port: Option<u32>,
        /// Where the new port comes from; absent = the default of the scheme.
        pub derive_port: Option<RedirectPortSelection>,
        /// The new scheme; empty = the old one.
        pub scheme: String,
        /// The status, one of 301, 302, 303, 307, 308; 0 = 301.
        pub redirect_code: u32,
        /// What the matched prefix of the path is replaced by; empty = `uri` is used.
        pub prefix_rewrite: String,
    }
}

words! {
    /// Where the port of a redirect comes from.
    pub enum RedirectPortSelection {
        /// The default of the scheme: 80 for HTTP, 443 for HTTPS.
        #[default]
        FromProtocolDefault = 0 as "FROM_PROTOCOL_DEFAULT",
        /// The port that the client addressed.
        FromRequestPort = 1 as "FROM_REQUEST_PORT",
    }
}

message! {
    /// An answer that comes from the proxy itself.
    pub struct HttpDirectResponse {
        /// The status; required.
        pub status: u32,
        /// The body; absent = empty.
        pub body: Option<HttpBody>,
    }
}

message! {
    /// The body of a direct response.
    pub struct HttpBody {
        /// The body as text; excludes `bytes`.
        pub string: Option<String>,
        /// The body as bytes in base64, as written; excludes `string`.
        pub bytes: Option<String>,
    }
}

message! {
    /// Changes to a request before it is forwarded.
    pub struct HttpRewrite {
        /// Replaces the matched prefix of the path, or the whole path where the rule matched exactly or by regex;
        /// empty = the old one.
        pub uri: String,
        /// The new authority; empty = the old one.
        pub authority: String,
        /// Replaces parts of the path by regex; excludes `uri`.
        pub uri_regex_rewrite: Option<RegexRewrite>,
    }
}

message! {
    /// A replacement by regex, of every occurrence.
    pub struct RegexRewrite {
        /// What is replaced, in RE2's syntax.
        pub r#match: String,
        /// What by; `\1` stands for the first group.
        pub rewrite: String,
    }
}

message! {
    /// When a failed request is tried again.
    pub struct HttpRetry {
        /// How many times at most, after the first; 0 or less = never.
        pub attempts: i32,
        /// How long one attempt may take; absent = as long as the whole request.
        pub per_try_timeout: Option<Duration>,
        /// The failures to try again after, comma-separated; empty =
        /// `connect-failure,refused-stream,unavailable,cancelled`.
        pub retry_on: String,
        /// Whether other localities may be tried; absent = the mesh's setting.
        pub retry_remote_localities: Option<bool>,
        /// Whether hosts already tried are passed over; absent = true.
        pub retry_ignore_previous_hosts: Option<bool>,
        /// The least time between attempts; absent = 25ms.
        pub backoff: Option<Duration>,
    }
}

message! {
    /// How cross-origin requests are answered.
    pub struct CorsPolicy {
        /// Deprecated: origins allowed, by equality or `*`; `allow_origins` wins over it.
        pub allow_origin: Vec<String>,
        /// Origins allowed, any of which suffices.
        pub allow_origins: Vec<StringMatch>,
        /// Methods for `Access-Control-Allow-Methods`.
        pub allow_methods: Vec<String>,
        /// Headers for `Access-Control-Allow-Headers`.
        pub allow_headers: Vec<String>,
        /// Headers for `Access-Control-Expose-Headers`.
        pub expose_headers: Vec<String>,
        /// How long a preflight may be cached; absent = not stated.
        pub max_age: Option<Duration>,
        /// Whether credentials may be sent; absent = not stated.
        pub allow_credentials: Option<bool>,
        /// What becomes of preflights from other origins; absent = forwarded.
        pub unmatched_preflights: UnmatchedPreflights,
    }
}

words! {
    /// What becomes of preflights whose origin is not allowed.
    pub enum UnmatchedPreflights {
        /// Not said: forwarded.
        #[default]
        Unspecified = 0 as "UNSPECIFIED",
        /// Forwarded to the destination.
        Forward = 1 as "FORWARD",
        /// Answered with 200 and no permission.
        Ignore = 2 as "IGNORE",
    }
}

message! {
    /// Faults to inject; delay and abort are drawn independently.
    pub struct HttpFaultInjection {
        /// A delay before forwarding; absent = none.
        pub delay: Option<Delay>,
        /// An answer in place of forwarding; absent = none.
        pub abort: Option<Abort>,
    }
}

message! {
    /// A delay before forwarding.
    pub struct Delay {
        /// Deprecated: the share of requests in whole percent; `percentage` wins over it.
        pub percent: i32,
        /// How long.
        pub fixed_delay: Option<Duration>,
        /// Hidden, and refused by Istio; excludes `fixed_delay`.
        pub exponential_delay: Option<Duration>,
        /// The share of requests; absent = none.
        pub percentage: Option<Percent>,
    }
}

message! {
    /// An answer in place of forwarding.
    pub struct Abort {
        /// The HTTP status; excludes the other two.
        pub http_status: Option<i32>,
        /// The gRPC status by name or number, such as `UNAVAILABLE`; excludes the other two.
        pub grpc_status: Option<String>,
        /// Hidden, and refused by Istio; excludes the other two.
        pub http2_error: Option<String>,
        /// The share of requests; absent = none.
        pub percentage: Option<Percent>,
    }
}

message! {
    /// A destination that gets copies.
    pub struct HttpMirrorPolicy {
        /// Where to; required.
        pub destination: Option<Destination>,
        /// The share of requests; absent = 100 %.
        pub percentage: Option<Percent>,
    }
}

message! {
    /// A port by number.
    pub struct PortSelector {
        /// The number; 0 = not said.
        pub number: u32,
    }
}

message! {
    /// A share in percent.
    pub struct Percent {
        /// 0.0 to 100.0; absent = 0.
        pub value: f64,
    }
}
