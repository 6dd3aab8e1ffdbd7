//! A plan as Envoy's configuration: field by field, and set up around it as Istio does.
//!
//! Connections come in at one listener with a PROXY line that says which address was dialled, and are handed on from
//! there to the plan's own listeners, which bind nothing (Istio's `use_original_dst`). Since many worlds share one
//! Envoy, each of their ports has a number of its own in it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use meshroute::Plan;
use meshroute::plan::{
    Action, Chain, Cluster, Condition, Cors, Destination, Fault, Forward, HeaderEdits, HeaderMatch, HttpTable,
    Listener, PathMatch, PathRewrite, Redirect, RedirectPath, Retry, Route, Target, Transport, Unclaimed, Unmatched,
    ValueMatch, VirtualHost,
};
use serde_json::{Map, Value, json};

use crate::upstream::Upstreams;

/// The names of the ways in, by what becomes of a connection that no listener takes.
pub const PASSING: &str = "in-passthrough";
pub const BLOCKING: &str = "in-blackhole";
/// Where traffic goes that nobody claims.
pub const PASSTHROUGH: &str = "PassthroughCluster";
const BLACKHOLE: &str = "BlackHoleCluster";
/// Carries the number that a weighted choice is made with.
pub const ROLL: &str = "x-roll";
/// Carries the number of the case.
pub const CASE: &str = "x-case";
/// The fields of the access log.
const LOG: [(&str, &str); 8] = [
    ("case", "%REQ(X-CASE)%"),
    ("from", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("status", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("details", "%RESPONSE_CODE_DETAILS%"),
    ("cluster", "%UPSTREAM_CLUSTER%"),
    ("host", "%UPSTREAM_HOST%"),
    ("route", "%ROUTE_NAME%"),
];

/// A configuration in the making.
pub struct Translation<'u> {
    upstreams: &'u Upstreams,
    log: String,
    listeners: Vec<Value>,
    clusters: Vec<Value>,
    ports: BTreeMap<(usize, u16), u16>,
}

impl<'u> Translation<'u> {
    /// One with nothing but the ways in; the access log is written to the file `log`.
    pub fn new(upstreams: &'u Upstreams, log: &str) -> Self {
        let mut made = Translation {
            upstreams,
            log: log.into(),
            listeners: Vec::new(),
            clusters: Vec::new(),
            ports: BTreeMap::new(),
        };
        made.clusters.push(cluster(PASSTHROUGH, &[upstreams.address(PASSTHROUGH)]));
        made.clusters.push(cluster(BLACKHOLE, &[]));
        for (name, cluster) in [(PASSING, PASSTHROUGH), (BLOCKING, BLACKHOLE)] {
            let tcp = made.tcp_proxy(json!({"cluster": cluster}));
            made.listeners.push(json!({
                "name": name,
                "address": socket("127.0.0.1", 0),
                "use_original_dst": true,
                "listener_filters": [filter("listener", "proxy_protocol", "ProxyProtocol", json!({}))],
                "filter_chains": [{"filters": [tcp]}],
            }));
        }
        made
    }

    /// Adds the plan of a world. What is decrypted is left out: the test brings no certificates.
    pub fn add(&mut self, world: usize, plan: &Plan, gateway: bool) {
        for cluster in plan.clusters.iter().filter(|cluster| cluster.exists) {
            let known = self.cluster(world, cluster);
            self.clusters.push(known);
        }
        for listener in plan.listeners.iter().filter(|listener| can_be_asked(listener)) {
            let port = self.port(world, listener.port);
            let made = self.listener(world, listener, port, plan, gateway);
            self.listeners.push(made);
        }
    }

    /// The number that a port of a world has in this Envoy; one that nothing listens on where the world has none.
    pub fn known_port(&self, world: usize, port: u16) -> u16 {
        self.ports.get(&(world, port)).copied().unwrap_or(u16::MAX)
    }

    /// All of it.
    pub fn finish(&self) -> Value {
        let flags = json!({
            "envoy.reloadable_features.http_reject_path_with_fragment": false,
            "re2.max_program_size.error_level": 32768,
        });
        json!({
            "admin": {"address": socket("127.0.0.1", 0)},
            "static_resources": {"listeners": self.listeners, "clusters": self.clusters},
            "layered_runtime": {"layers": [{"name": "istio", "static_layer": flags}]},
        })
    }

    fn port(&mut self, world: usize, port: u16) -> u16 {
        let next = 1 + u16::try_from(self.ports.len()).expect("a round has fewer ports than there are numbers");
        *self.ports.entry((world, port)).or_insert(next)
    }

    fn cluster(&self, world: usize, known: &Cluster) -> Value {
        let addresses: Vec<(String, u16)> = match known.policy.load_balancer {
            meshroute::plan::LoadBalancer::Passthrough => vec![self.upstreams.address(PASSTHROUGH)],
            _ => known.endpoints.iter().map(|endpoint| self.upstreams.address(&endpoint.to_string())).collect(),
        };
        cluster(&cluster_name(world, &known.name), &addresses)
    }

    fn listener(&self, world: usize, listener: &Listener, port: u16, plan: &Plan, gateway: bool) -> Value {
        let addresses: Vec<IpAddr> = listener.addresses.clone();
        let bound = addresses.first().map_or("0.0.0.0".to_string(), ToString::to_string);
        let more: Vec<Value> =
            addresses.iter().skip(1).map(|more| json!({"address": socket(&more.to_string(), port)})).collect();
        let named = |(n, chain): (usize, &Chain)| self.chain(world, chain, n, plan, gateway);
        // As Istio does, the chain that asks for nothing becomes the default.
        let (default, chains): (Vec<Value>, Vec<Value>) = listener
            .chains
            .iter()
            .enumerate()
            .map(named)
            .partition(|chain| chain["filter_chain_match"].as_object().is_some_and(Map::is_empty));
        let mut made = json!({
            "name": format!("w{world}-{bound}-{}", listener.port),
            "address": socket(&bound, port),
            "additional_addresses": more,
            "bind_to_port": false,
            "listener_filters": [
                filter("listener", "tls_inspector", "TlsInspector", json!({})),
                filter("listener", "http_inspector", "HttpInspector", json!({})),
            ],
        });
        if let Some(default) = default.into_iter().next().or_else(|| self.fallback(plan)) {
            made["default_filter_chain"] = default;
        }
        made["filter_chains"] = Value::Array(chains);
        made
    }

    /// What no chain takes goes the way of what no listener takes.
    fn fallback(&self, plan: &Plan) -> Option<Value> {
        let cluster = match plan.unmatched {
            Unmatched::Passthrough => PASSTHROUGH,
            Unmatched::Blackhole => BLACKHOLE,
            Unmatched::Reset => return None,
        };
        Some(json!({"name": "fallback", "filters": [self.tcp_proxy(json!({"cluster": cluster}))]}))
    }

    fn chain(&self, world: usize, chain: &Chain, n: usize, plan: &Plan, gateway: bool) -> Value {
        let ranges: Vec<Value> = chain.subnets.iter().map(|range| cidr(&String::from(*range))).collect();
        let names: Vec<&str> = chain.server_names.iter().map(|name| name.as_str()).collect();
        let mut fits = Map::new();
        if !ranges.is_empty() {
            fits.insert("prefix_ranges".into(), Value::Array(ranges));
        }
        if !names.is_empty() {
            fits.insert("server_names".into(), json!(names));
        }
        if chain.transport != Transport::Any {
            fits.insert("transport_protocol".into(), json!("tls"));
        }
        if chain.http_only {
            fits.insert("transport_protocol".into(), json!("raw_buffer"));
            fits.insert("application_protocols".into(), json!(["http/1.1", "h2c"]));
        }
        let filter = match &chain.target {
            Target::Http(table) => self.http(world, table, n, plan, gateway),
            Target::Tcp { destinations, .. } => self.tcp_proxy(tcp_target(world, destinations, plan)),
        };
        json!({"name": format!("chain-{n}"), "filter_chain_match": fits, "filters": [filter]})
    }

    fn log(&self) -> Value {
        let format: Map<String, Value> = LOG.iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
        json!([{
            "name": "log",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": self.log,
                "log_format": {"json_format": format},
            },
        }])
    }

    fn tcp_proxy(&self, target: Value) -> Value {
        let mut config = target;
        config["stat_prefix"] = json!("tcp");
        config["access_log"] = self.log();
        filter("network", "tcp_proxy", "TcpProxy", config)
    }

    fn http(&self, world: usize, table: &HttpTable, n: usize, plan: &Plan, gateway: bool) -> Value {
        let config = json!({
            "stat_prefix": format!("http-{n}"),
            "use_remote_address": gateway,
            // Else whoever waits for the end of a connection waits a second.
            "delayed_close_timeout": "0s",
            "normalize_path": true,
            "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
            "access_log": self.log(),
            "route_config": route_config(world, table, plan),
            "http_filters": [
                filter("http", "fault", "HTTPFault", json!({})),
                filter("http", "cors", "Cors", json!({})),
                filter("http", "router", "Router", json!({})),
            ],
        });
        filter("network", "http_connection_manager", "HttpConnectionManager", config)
    }
}

/// Whether the test can speak to a listener.
pub fn can_be_asked(listener: &Listener) -> bool {
    !listener.chains.is_empty() && listener.chains.iter().all(|chain| chain.transport != Transport::Terminated)
}

/// The name of a world's cluster.
pub fn cluster_name(world: usize, name: &str) -> String {
    format!("w{world}|{name}")
}

/// The name that a route has in Envoy.
pub fn route_name(host: &VirtualHost, route: &Route) -> Option<String> {
    host.routes.iter().position(|known| std::ptr::eq(known, route)).map(|at| format!("{}#{at}", host.name))
}

fn filter(kind: &str, name: &str, message: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.{kind}.{name}.v3.{message}"));
    let prefix = if kind == "listener" { "envoy.filters.listener" } else { "envoy.filters" };
    let full = if kind == "listener" { format!("{prefix}.{name}") } else { format!("{prefix}.{kind}.{name}") };
    json!({"name": full, "typed_config": config})
}

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn cidr(text: &str) -> Value {
    let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
    json!({"address_prefix": address, "prefix_len": bits.parse::<u32>().unwrap_or(32)})
}

fn seconds(time: Duration) -> Value {
    json!(format!("{}.{:09}s", time.as_secs(), time.subsec_nanos()))
}

fn fraction(per_million: u32) -> Value {
    json!({"numerator": per_million, "denominator": "MILLION"})
}

fn cluster(name: &str, addresses: &[(String, u16)]) -> Value {
    let endpoint = |(address, port): &(String, u16)| json!({"endpoint": {"address": socket(address, *port)}});
    let endpoints: Vec<Value> = addresses.iter().map(endpoint).collect();
    let most = u32::MAX;
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "circuit_breakers": {"thresholds": [
            {"max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most},
        ]},
    })
}

fn named_cluster(world: usize, plan: &Plan, at: u32) -> String {
    cluster_name(world, &plan.clusters[at as usize].name)
}

fn tcp_target(world: usize, destinations: &[Destination], plan: &Plan) -> Value {
    let name = |to: &Destination| named_cluster(world, plan, to.cluster);
    match destinations {
        [only] => json!({"cluster": name(only)}),
        several => {
            let entry = |to: &Destination| json!({"name": name(to), "weight": to.weight});
            json!({"weighted_clusters": {"clusters": several.iter().map(entry).collect::<Vec<_>>()}})
        }
    }
}

fn route_config(world: usize, table: &HttpTable, plan: &Plan) -> Value {
    let served = table.hosts.iter().filter(|host| !host.domains.is_empty());
    let mut hosts: Vec<Value> = served.map(|host| virtual_host(world, host, plan)).collect();
    let claims_all = |host: &VirtualHost| host.domains.iter().any(|domain| domain.as_str() == "*");
    if !table.hosts.iter().any(|host| claims_all(host)) {
        hosts.extend(unclaimed(table.unclaimed));
    }
    json!({
        "name": &*table.name,
        "virtual_hosts": hosts,
        "validate_clusters": false,
        "ignore_port_in_host_matching": true,
        "max_direct_response_body_size_bytes": 1_048_576,
    })
}

fn unclaimed(unclaimed: Unclaimed) -> Option<Value> {
    let (name, action, what) = match unclaimed {
        Unclaimed::Passthrough => ("allow_any", "route", json!({"cluster": PASSTHROUGH, "timeout": "0s"})),
        Unclaimed::BlockAll => ("block_all", "direct_response", json!({"status": 502})),
        Unclaimed::NotFound => return None,
    };
    Some(json!({"name": name, "domains": ["*"], "routes": [{"name": name, "match": {"prefix": "/"}, action: what}]}))
}

fn virtual_host(world: usize, host: &VirtualHost, plan: &Plan) -> Value {
    let domains: Vec<&str> = host.domains.iter().map(|domain| domain.as_str()).collect();
    let named = |known: &Route| {
        let mut made = route(world, known, plan);
        made["name"] = json!(route_name(host, known));
        made
    };
    json!({
        "name": &*host.name,
        "domains": domains,
        "routes": host.routes.iter().map(named).collect::<Vec<_>>(),
        "require_tls": if host.require_tls { "ALL" } else { "NONE" },
        "include_request_attempt_count": true,
    })
}

fn route(world: usize, route: &Route, plan: &Plan) -> Value {
    let mut made = json!({"match": condition(&route.condition)});
    edits(&mut made, &route.request, &route.response);
    let mut filters = Map::new();
    if let Some(known) = &route.fault {
        filters.insert("envoy.filters.http.fault".into(), fault(known));
    }
    if let Some(known) = &route.cors {
        filters.insert("envoy.filters.http.cors".into(), cors(known));
    }
    made["typed_per_filter_config"] = Value::Object(filters);
    match &route.action {
        Action::Forward(known) => made["route"] = forward(world, known, plan),
        Action::Redirect(known) => made["redirect"] = redirect(known),
        Action::Direct(known) => {
            made["direct_response"] = json!({"status": known.status});
            if !known.body.is_empty() {
                let text = std::str::from_utf8(&known.body).expect("the generator writes text");
                made["direct_response"]["body"] = json!({"inline_string": text});
            }
        }
    }
    made
}

fn condition(condition: &Condition) -> Value {
    let mut made = match &condition.path {
        PathMatch::Any => json!({"prefix": "/"}),
        PathMatch::Exact { path, ignore_case } => json!({"path": path, "case_sensitive": !ignore_case}),
        PathMatch::Prefix { path, ignore_case } => json!({"prefix": path, "case_sensitive": !ignore_case}),
        PathMatch::Regex(pattern) => json!({"safe_regex": {"regex": pattern.as_str()}}),
    };
    let own = [(":method", &condition.method), (":scheme", &condition.scheme), (":authority", &condition.authority)];
    let own = own.into_iter().filter_map(|(name, test)| Some(value_match(name, test.as_ref()?)));
    let headers: Vec<Value> = own.chain(condition.headers.iter().map(header_match)).collect();
    let query = condition.query.iter().map(|test| value_match(&test.name, &test.value));
    made["query_parameters"] = query.collect();
    made["headers"] = Value::Array(headers);
    made
}

fn value_match(name: &str, test: &ValueMatch) -> Value {
    match test {
        ValueMatch::Present => json!({"name": name, "present_match": true}),
        ValueMatch::Exact(text) => json!({"name": name, "string_match": {"exact": text}}),
        ValueMatch::Prefix(text) => json!({"name": name, "string_match": {"prefix": text}}),
        ValueMatch::Regex(pattern) => {
            json!({"name": name, "string_match": {"safe_regex": {"regex": pattern.as_str()}}})
        }
    }
}

fn header_match(test: &HeaderMatch) -> Value {
    let mut made = value_match(&test.name, &test.value);
    made["invert_match"] = json!(test.invert);
    made["treat_missing_header_as_empty"] = json!(test.missing_is_empty);
    made
}

/// In Envoy's format language `%` begins a command; Istio's `%%` stands for one.
fn edits(target: &mut Value, request: &HeaderEdits, response: &HeaderEdits) {
    for (what, edits) in [("request", request), ("response", response)] {
        let write = |write: &meshroute::plan::HeaderWrite| {
            let action = if write.append { "APPEND_IF_EXISTS_OR_ADD" } else { "OVERWRITE_IF_EXISTS_OR_ADD" };
            let value = write.value.replace('%', "%%");
            json!({"header": {"key": write.name, "value": value}, "append_action": action})
        };
        target[format!("{what}_headers_to_add")] = edits.write.iter().map(write).collect();
        target[format!("{what}_headers_to_remove")] = json!(edits.remove);
    }
}

fn forward(world: usize, forward: &Forward, plan: &Plan) -> Value {
    let mut made = json!({"timeout": seconds(forward.timeout.unwrap_or_default())});
    match forward.destinations.as_slice() {
        [only] if !forward.weighted => {
            made["cluster"] = json!(named_cluster(world, plan, only.cluster));
            if let Some(authority) = &only.authority {
                made["host_rewrite_literal"] = json!(authority);
            }
        }
        several => {
            let entry = |to: &Destination| weighted(world, to, plan);
            let clusters: Vec<Value> = several.iter().map(entry).collect();
            made["weighted_clusters"] = json!({"clusters": clusters, "header_name": ROLL});
        }
    }
    match &forward.rewrite {
        Some(PathRewrite::Matched(text)) => made["prefix_rewrite"] = json!(text),
        Some(PathRewrite::Regex(rewrite)) => {
            let (pattern, text): (meshroute::Pattern, String) = rewrite.clone().into();
            made["regex_rewrite"] = json!({"pattern": {"regex": pattern.as_str()}, "substitution": text});
        }
        None => {}
    }
    if let Some(known) = &forward.retry {
        made["retry_policy"] = retry(known);
    }
    let mirror = |mirror: &meshroute::plan::Mirror| {
        let share = fraction(mirror.per_million);
        json!({"cluster": named_cluster(world, plan, mirror.cluster), "runtime_fraction": {"default_value": share}})
    };
    made["request_mirror_policies"] = forward.mirrors.iter().map(mirror).collect();
    made
}

fn weighted(world: usize, to: &Destination, plan: &Plan) -> Value {
    let mut made = json!({"name": named_cluster(world, plan, to.cluster), "weight": to.weight});
    edits(&mut made, &to.request, &to.response);
    if let Some(authority) = &to.authority {
        made["host_rewrite_literal"] = json!(authority);
    }
    made
}

fn retry(retry: &Retry) -> Value {
    let mut made = json!({
        "retry_on": retry.on.join(","),
        "num_retries": retry.attempts,
        "retriable_status_codes": retry.statuses,
        "retry_back_off": {"base_interval": seconds(retry.backoff)},
    });
    if let Some(time) = retry.per_try_timeout {
        made["per_try_timeout"] = seconds(time);
    }
    if retry.ignore_previous_hosts {
        let message = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
        let predicate =
            json!({"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": message}});
        made["retry_host_predicate"] = json!([predicate]);
        made["host_selection_retry_max_attempts"] = json!("5");
    }
    made
}

fn redirect(redirect: &Redirect) -> Value {
    let code = match redirect.code {
        301 => "MOVED_PERMANENTLY",
        302 => "FOUND",
        303 => "SEE_OTHER",
        307 => "TEMPORARY_REDIRECT",
        _ => "PERMANENT_REDIRECT",
    };
    let mut made = json!({"response_code": code});
    match &redirect.path {
        Some(RedirectPath::Whole(text)) => made["path_redirect"] = json!(text),
        Some(RedirectPath::Prefix(text)) => made["prefix_rewrite"] = json!(text),
        None => {}
    }
    redirect.authority.iter().for_each(|authority| made["host_redirect"] = json!(authority));
    redirect.scheme.iter().for_each(|scheme| made["scheme_redirect"] = json!(scheme));
    redirect.port.iter().for_each(|port| made["port_redirect"] = json!(port));
    made
}

fn fault(fault: &Fault) -> Value {
    let mut made = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"});
    if let Some(delay) = &fault.delay {
        made["delay"] = json!({"fixed_delay": seconds(delay.duration), "percentage": fraction(delay.per_million)});
    }
    if let Some(abort) = &fault.abort {
        made["abort"] = json!({"percentage": fraction(abort.per_million)});
        match abort.grpc {
            Some(code) => made["abort"]["grpc_status"] = json!(code),
            None => made["abort"]["http_status"] = json!(abort.status),
        }
    }
    made
}

fn cors(cors: &Cors) -> Value {
    let origin = |test: &ValueMatch| value_match("", test)["string_match"].take();
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": cors.allow_origins.iter().map(origin).collect::<Vec<_>>(),
        "allow_methods": cors.allow_methods,
        "allow_headers": cors.allow_headers,
        "expose_headers": cors.expose_headers,
        "max_age": cors.max_age.map(|age| age.to_string()).unwrap_or_default(),
        "allow_credentials": cors.allow_credentials,
        "forward_not_matching_preflights": cors.forward_unmatched_preflights,
    })
}
