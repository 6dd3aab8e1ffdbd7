//! Random worlds: what operators wrote, as Istio's resources, and what one client makes of it.
//!
//! The services stand still; rules are thrown anew for each world. Words come from small alphabets, so that requests
//! hit rules and rules hide each other. Chances are 0 or 100 % wherever Envoy rolls dice that cannot be handed in.

use std::sync::Arc;

use meshroute::{Diagnostic, Mesh, OutboundPolicy, Plan, Precedence, Reading, Resources, Router, Severity, Viewpoint};
use serde_json::{Map, Value, json};

use crate::dice::Dice;

/// Patterns of paths, each with something that it matches.
const PATH_PATTERNS: [(&str, &str); 6] = [
    ("/a.*", "/a/x"),
    ("/a|/ab", "/ab"),
    ("/api/v[12]/.*", "/api/v2/x"),
    ("(?i)/A\\d+", "/a12"),
    ("/(a|b)(/.*)?", "/b/q"),
    (".*html", "/index.html"),
];

/// Patterns of values, each with something that it matches.
const VALUE_PATTERNS: [(&str, &str); 5] =
    [("1|2", "2"), ("\\d+", "12"), (".+", "x"), ("(?i)v1", "V1"), ("(.*; )?b=2", "a=1; b=2")];

/// Patterns of methods, schemes and authorities, each with something that it matches.
const OWN_PATTERNS: [(&str, &str); 5] =
    [("GET|HEAD", "GET"), ("P.*", "PUT"), ("https?", "http"), ("[a-z.]+", "web"), ("(?i)[a-z.]+(:80)?", "Web:80")];

/// Something that a pattern of the generator matches.
pub fn hit(pattern: &str) -> &'static str {
    let all = PATH_PATTERNS.iter().chain(&VALUE_PATTERNS).chain(&OWN_PATTERNS);
    all.clone().find(|(known, _)| *known == pattern).map_or("x", |(_, hit)| hit)
}

const PATHS: [&str; 12] =
    ["/a", "/a/", "/a/b", "/ab", "/A", "/b", "/api", "/api/v1", "/api/v1/users", "/a%2Fb", "/a//b", "/index.html"];
const HEADERS: [&str; 6] = ["canary_id", "x-a", "X-B", "cookie", "accept", "user-agent"];
const VALUES: [&str; 6] = ["1", "2", "12", "V1", "a=1; b=2", "x"];
const QUERIES: [&str; 3] = ["q", "v", "Q"];
pub const METHODS: [&str; 6] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"];
/// Pod addresses and the like end up as loopback ports of the test's own; see `upstream`.
const MESH_HOSTS: [&[&str]; 12] = [
    &["web"],
    &["web"],
    &["web", "api"],
    &["web.default.svc.cluster.local"],
    &["api"],
    &["ext.example.com"],
    &["*.example.com"],
    &["custom.test"],
    &["*.custom.test", "Mixed.Test"],
    &["shop.other.svc.cluster.local"],
    &["api.default"],
    &["void"],
];
const GATEWAY_HOSTS: [&[&str]; 5] =
    [&["shop.test"], &["*.example.com"], &["a.example.com", "shop.test"], &["*"], &["Shop.Test"]];

/// Some resources, one client, and what it makes of them.
pub struct World {
    /// The resources, in order of application.
    pub objects: Vec<Value>,
    /// Whether the client is a gateway.
    pub gateway: bool,
    /// What becomes of traffic that nobody claims.
    pub outbound: OutboundPolicy,
    /// What was found wrong with the resources.
    pub findings: Vec<Diagnostic>,
    /// What is asked.
    pub router: Router,
}

impl World {
    /// The world of a number.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut dice = Dice::new(seed, number << 32);
        let gateway = dice.chance(25);
        let outbound = dice.one(&[OutboundPolicy::AllowAny, OutboundPolicy::RegistryOnly]);
        let mut objects = services();
        if gateway {
            objects.push(gateway_resource(&mut dice));
        }
        let count = 2 + dice.below(4);
        objects.extend((0..count).map(|n| virtual_service(&mut dice, n, gateway)));
        objects.push(layer_four(gateway));
        let (router, findings) = resolved(&objects, gateway, outbound);
        World { objects, gateway, outbound, findings, router }
    }

    /// The resources as text.
    pub fn text(&self) -> String {
        text(&self.objects)
    }

    /// The plan that is asked.
    pub fn plan(&self) -> &Arc<Plan> {
        self.router.plan()
    }

    /// A rule of a VirtualService, as it was written.
    pub fn rule(&self, virtual_service: &str, rule: u32) -> &Value {
        let named =
            |object: &&Value| object["kind"] == "VirtualService" && object["metadata"]["name"] == virtual_service;
        self.objects.iter().find(named).map_or(&Value::Null, |object| &object["spec"]["http"][rule as usize])
    }
}

fn text(objects: &[Value]) -> String {
    let written = |object: &Value| serde_yaml::to_string(object).expect("JSON can be written as YAML");
    objects.iter().map(written).collect::<Vec<_>>().join("---\n")
}

fn resolved(objects: &[Value], gateway: bool, outbound: OutboundPolicy) -> (Router, Vec<Diagnostic>) {
    let mut resources = Resources::new();
    let read = resources.apply_text(&text(objects), "generated.yaml", Reading::Strict);
    let wrong = read.iter().filter(|finding| finding.severity == Severity::Error);
    assert!(wrong.clone().next().is_none(), "the generator wrote what cannot be read: {:?}", wrong.collect::<Vec<_>>());
    let client = match gateway {
        true => Viewpoint::gateway("istio-system").label("istio", "ingressgateway"),
        false => Viewpoint::sidecar("default").label("app", "client"),
    };
    let resolution = Plan::resolve(&resources, &client, &mesh(outbound));
    (Router::compile(resolution.plan).expect("what was resolved is legal"), resolution.findings)
}

/// The mesh of a world.
pub fn mesh(outbound: OutboundPolicy) -> Mesh {
    let mut mesh = Mesh::with_precedence(Precedence::Istio);
    mesh.outbound = outbound;
    mesh
}

fn service(namespace: &str, name: &str, address: &str, ports: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": address, "selector": {"app": name}, "ports": ports}})
}

fn pod(namespace: &str, app: &str, version: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{app}-{version}"), "namespace": namespace, "labels": {"app": app, "version": version}},
        "status": {"podIP": address, "phase": "Running"}})
}

fn istio(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn services() -> Vec<Value> {
    let http = || json!([{"name": "http", "port": 80}]);
    let external = |host: &str, resolution: &str, endpoints: Value| {
        json!({"hosts": [host], "location": "MESH_EXTERNAL", "resolution": resolution, "endpoints": endpoints,
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]})
    };
    let web = json!([{"name": "http", "port": 80, "targetPort": 8000}, {"name": "http-alt", "port": 8080}]);
    let raw =
        json!([{"name": "tcp-raw", "port": 9000}, {"name": "tls-raw", "port": 9443}, {"port": 7000, "name": "any"}]);
    let rule = |host: &str, versions: &[&str]| {
        let subset = |version: &&str| json!({"name": version, "labels": {"version": version}});
        json!({"host": host, "subsets": versions.iter().map(subset).collect::<Vec<_>>()})
    };
    vec![
        service("default", "web", "10.96.0.1", web),
        pod("default", "web", "v1", "10.0.0.1"),
        pod("default", "web", "v2", "10.0.0.2"),
        service("default", "api", "10.96.0.2", http()),
        pod("default", "api", "v1", "10.0.0.3"),
        service("default", "void", "10.96.0.3", http()),
        service("other", "shop", "10.96.0.4", http()),
        pod("other", "shop", "v1", "10.0.0.4"),
        service("default", "raw", "10.96.0.5", raw),
        pod("default", "raw", "v1", "10.0.0.5"),
        pod("default", "raw", "v2", "10.0.0.6"),
        istio(
            "ServiceEntry",
            "default",
            "ext",
            external("ext.example.com", "STATIC", json!([{"address": "10.2.0.1"}])),
        ),
        istio("ServiceEntry", "default", "dns", external("dns.example.com", "DNS", json!([]))),
        istio("ServiceEntry", "default", "wild", external("*.wild.example.com", "NONE", json!([]))),
        istio("DestinationRule", "default", "web", rule("web", &["v1", "v2", "v3"])),
        istio("DestinationRule", "default", "raw", rule("raw", &["v1", "v2"])),
    ]
}

fn gateway_resource(dice: &mut Dice) -> Value {
    let server = |dice: &mut Dice, port: u16| {
        let hosts = dice.one(&[json!(["*"]), json!(["*.example.com", "shop.test"]), json!(["*/shop.test"])]);
        let mut server =
            json!({"port": {"number": port, "name": format!("http-{port}"), "protocol": "HTTP"}, "hosts": hosts});
        if dice.chance(20) {
            server["tls"] = json!({"httpsRedirect": true});
        }
        server
    };
    let servers = json!([
        server(dice, 80),
        server(dice, 8080),
        {"port": {"number": 9443, "name": "tls", "protocol": "TLS"}, "tls": {"mode": "PASSTHROUGH"}, "hosts": ["*.tls.test"]},
        {"port": {"number": 9000, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]},
    ]);
    istio("Gateway", "istio-system", "gw", json!({"selector": {"istio": "ingressgateway"}, "servers": servers}))
}

/// Rules for connections, the same in every world: there is little to vary.
fn layer_four(gateway: bool) -> Value {
    let to =
        |subset: &str, port: u16| json!({"destination": {"host": "raw", "subset": subset, "port": {"number": port}}});
    let spec = if gateway {
        json!({"hosts": ["*.tls.test"], "gateways": ["istio-system/gw"],
            "tls": [{"match": [{"sniHosts": ["a.tls.test"]}], "route": [to("v1", 9443)]},
                {"match": [{"sniHosts": ["*.tls.test"]}], "route": [to("v2", 9443)]}],
            "tcp": [{"route": [to("v2", 9000)]}]})
    } else {
        json!({"hosts": ["raw"],
            "tls": [{"match": [{"port": 9443, "sniHosts": ["raw"]}], "route": [to("v1", 9443)]}],
            "tcp": [{"match": [{"port": 9000, "destinationSubnets": ["10.96.0.0/16"]}], "route": [to("v1", 9000)]},
                {"match": [{"port": 9000}], "route": [to("v2", 9000)]}]})
    };
    istio("VirtualService", "default", "layer-four", spec)
}

fn virtual_service(dice: &mut Dice, n: usize, gateway: bool) -> Value {
    let hosts = if gateway { dice.one(&GATEWAY_HOSTS) } else { dice.one(&MESH_HOSTS) };
    let rules = 1 + dice.below(7);
    let http: Vec<Value> = (0..rules).map(|_| rule(dice, gateway)).collect();
    let mut spec = json!({"hosts": hosts, "http": http});
    if gateway {
        spec["gateways"] = json!(["istio-system/gw"]);
    }
    let mut made = istio("VirtualService", "default", &format!("rules-{n}"), spec);
    made["metadata"]["creationTimestamp"] = json!(format!("2024-01-0{}T00:00:00Z", 1 + dice.below(9)));
    made
}

/// A JSON object in the making, in which what is unlikely is left out.
struct Parts(Map<String, Value>);

impl Parts {
    fn maybe(&mut self, dice: &mut Dice, percent: usize, key: &str, value: impl FnOnce(&mut Dice) -> Value) {
        if dice.chance(percent) {
            self.0.insert(key.into(), value(dice));
        }
    }
}

fn rule(dice: &mut Dice, gateway: bool) -> Value {
    let mut parts = Parts(Map::new());
    parts.maybe(dice, 95, "match", |dice| {
        let blocks = dice.one(&[1, 1, 1, 2, 3]);
        (0..blocks).map(|_| block(dice, gateway)).collect()
    });
    match dice.below(20) {
        0..=3 => {
            let prefixed = dice.chance(40) && put_prefixes(dice, &mut parts.0);
            let redirect = redirect(dice, prefixed);
            parts.0.insert("redirect".into(), redirect);
        }
        4..=5 => {
            parts.0.insert("directResponse".into(), direct(dice));
        }
        _ => forward(dice, &mut parts),
    }
    parts.maybe(dice, 12, "fault", fault);
    parts.maybe(dice, 35, "headers", |dice| headers(dice, false));
    Value::Object(parts.0)
}

/// Makes every block of a rule match a prefix, as `prefixRewrite` asks for; says whether there is one.
fn put_prefixes(dice: &mut Dice, rule: &mut Map<String, Value>) -> bool {
    let Some(blocks) = rule.get_mut("match").and_then(Value::as_array_mut) else { return false };
    blocks.iter_mut().for_each(|block| block["uri"] = json!({"prefix": dice.one(&PATHS)}));
    true
}

fn forward(dice: &mut Dice, parts: &mut Parts) {
    let count = dice.one(&[1, 1, 1, 2, 2, 3]);
    let mut routes: Vec<Value> = (0..count).map(|_| destination(dice)).collect();
    if count > 1 {
        for route in &mut routes {
            route["weight"] = json!(dice.one(&[0, 1, 10, 33, 50, 90]));
        }
        routes[0]["weight"] = json!(1 + dice.below(99));
    }
    parts.0.insert("route".into(), Value::Array(routes));
    parts.maybe(dice, 30, "rewrite", rewrite);
    parts.maybe(dice, 20, "timeout", |dice| json!(dice.one(&["300ms", "0.4s"])));
    parts.maybe(dice, 45, "retries", retries);
    parts.maybe(dice, 12, "mirror", place);
    parts.maybe(
        dice,
        12,
        "mirrors",
        |dice| json!([{"destination": place(dice), "percentage": {"value": dice.one(&[0, 100, 100])}}]),
    );
    parts.maybe(dice, 30, "corsPolicy", cors);
}

/// A place to go to; some have nobody, some are not there.
fn place(dice: &mut Dice) -> Value {
    let web = |subset: &str| json!({"host": "web", "subset": subset, "port": {"number": 80}});
    match dice.below(16) {
        0..=3 => web("v1"),
        4..=6 => web("v2"),
        7 => web("v3"),
        8 => web("nope"),
        9 => json!({"host": "void", "port": {"number": 80}}),
        10 => json!({"host": "nobody.test"}),
        11 => json!({"host": "ext.example.com", "port": {"number": 80}}),
        12 => json!({"host": "shop.other.svc.cluster.local", "port": {"number": 80}}),
        13 => json!({"host": "web"}),
        _ => json!({"host": "api"}),
    }
}

fn destination(dice: &mut Dice) -> Value {
    let mut parts = Parts(Map::new());
    let place = place(dice);
    parts.0.insert("destination".into(), place);
    parts.maybe(dice, 30, "headers", |dice| headers(dice, true));
    Value::Object(parts.0)
}

fn string_match(dice: &mut Dice, words: &[&str], patterns: &[(&str, &str)]) -> Value {
    match dice.below(8) {
        0..=2 => json!({"exact": dice.one(words)}),
        3..=5 => json!({"prefix": dice.one(words)}),
        _ => json!({"regex": dice.one(patterns).0}),
    }
}

fn block(dice: &mut Dice, gateway: bool) -> Value {
    let mut parts = Parts(Map::new());
    parts.maybe(dice, 60, "uri", |dice| string_match(dice, &PATHS, &PATH_PATTERNS));
    if parts.0.contains_key("uri") {
        parts.maybe(dice, 25, "ignoreUriCase", |_| json!(true));
    }
    parts.maybe(dice, 22, "method", |dice| string_match(dice, &METHODS, &OWN_PATTERNS[..2]));
    parts.maybe(dice, 14, "scheme", |dice| string_match(dice, &["http", "https"], &OWN_PATTERNS[2..3]));
    parts.maybe(dice, 22, "authority", |dice| {
        let words = if gateway { ["shop.test", "a.example.com"] } else { ["web", "web:80"] };
        string_match(dice, &words, &OWN_PATTERNS[3..])
    });
    parts.maybe(dice, 28, "headers", |dice| named(dice, &HEADERS, true));
    parts.maybe(dice, 18, "withoutHeaders", |dice| named(dice, &HEADERS, true));
    parts.maybe(dice, 22, "queryParams", |dice| named(dice, &QUERIES, false));
    parts.maybe(dice, 8, "port", |dice| json!(dice.one(&[80, 80, 8080])));
    if gateway {
        parts.maybe(dice, 6, "gateways", |_| json!(["istio-system/gw"]));
    } else {
        parts.maybe(dice, 6, "gateways", |_| json!(["mesh"]));
        parts.maybe(dice, 8, "sourceLabels", |dice| json!({"app": dice.one(&["client", "client", "other"])}));
        parts.maybe(dice, 9, "sourceNamespace", |dice| json!(dice.one(&["default", "default", "other"])));
    }
    Value::Object(parts.0)
}

/// Tests of one or two named values.
fn named(dice: &mut Dice, names: &[&str], presence: bool) -> Value {
    let mut tests = Map::new();
    for _ in 0..dice.one(&[1, 1, 2]) {
        let test = match presence && dice.chance(15) {
            true => json!({}),
            false => string_match(dice, &VALUES, &VALUE_PATTERNS),
        };
        tests.insert(dice.one(names).into(), test);
    }
    Value::Object(tests)
}

fn redirect(dice: &mut Dice, prefixed: bool) -> Value {
    let mut parts = Parts(Map::new());
    if prefixed {
        parts.maybe(dice, 100, "prefixRewrite", |dice| json!(dice.one(&["/", "/new", "/new/"])));
    } else {
        parts.maybe(dice, 60, "uri", |dice| json!(dice.one(&["/", "/new", "/new?x=1", "/%20"])));
    }
    parts.maybe(dice, 40, "authority", |dice| json!(dice.one(&["other.test", "other.test:8443"])));
    parts.maybe(dice, 40, "scheme", |dice| json!(dice.one(&["http", "https"])));
    match dice.below(4) {
        0 => parts.maybe(dice, 100, "port", |dice| json!(dice.one(&[80, 443, 8443]))),
        1 => parts
            .maybe(dice, 100, "derivePort", |dice| json!(dice.one(&["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"]))),
        _ => {}
    }
    parts.maybe(dice, 60, "redirectCode", |dice| json!(dice.one(&[301, 302, 303, 307, 308])));
    Value::Object(parts.0)
}

fn direct(dice: &mut Dice) -> Value {
    let mut parts = Parts(Map::new());
    parts.0.insert("status".into(), json!(dice.one(&[200, 404, 418, 503])));
    parts.maybe(dice, 70, "body", |dice| dice.one(&[json!({"string": "hello"}), json!({"bytes": "aGVsbG8gYnl0ZXM="})]));
    Value::Object(parts.0)
}

fn fault(dice: &mut Dice) -> Value {
    let often = |dice: &mut Dice| json!({"value": dice.one(&[0, 100, 100])});
    let mut parts = Parts(Map::new());
    parts.maybe(dice, 50, "delay", |dice| json!({"fixedDelay": "30ms", "percentage": often(dice)}));
    if parts.0.is_empty() || dice.chance(50) {
        let kind =
            dice.one(&[("httpStatus", json!(500)), ("httpStatus", json!(418)), ("grpcStatus", json!("UNAVAILABLE"))]);
        parts.maybe(dice, 100, "abort", |dice| json!({kind.0: kind.1, "percentage": often(dice)}));
    }
    Value::Object(parts.0)
}

fn rewrite(dice: &mut Dice) -> Value {
    let mut parts = Parts(Map::new());
    let authority = dice.chance(40);
    if authority {
        parts.0.insert("authority".into(), json!(dice.one(&["rewritten.test", "Rewritten.test:81"])));
    }
    match dice.below(10) {
        0..=5 => parts.maybe(dice, 100, "uri", |dice| json!(dice.one(&["/", "/new", "/new/", "/n?x=1", "/%41"]))),
        6..=8 => {
            let regexes = [("a", "b"), ("^/(.)(.*)$", "/\\2\\1"), ("/a/(.*)", "/\\1"), ("[0-9]+", "#")];
            let (pattern, text) = dice.one(&regexes);
            parts.0.insert("uriRegexRewrite".into(), json!({"match": pattern, "rewrite": text}));
        }
        _ => parts.maybe(dice, 100, "authority", |_| json!("rewritten.test")),
    }
    Value::Object(parts.0)
}

fn retries(dice: &mut Dice) -> Value {
    let mut parts = Parts(Map::new());
    parts.0.insert("attempts".into(), json!(dice.one(&[0, 1, 1, 2])));
    if parts.0["attempts"] == json!(0) {
        return Value::Object(parts.0);
    }
    parts.maybe(dice, 80, "retryOn", |dice| {
        json!(dice.one(&["5xx", "gateway-error", "retriable-4xx", "503", "connect-failure", "429,gateway-error"]))
    });
    parts.maybe(dice, 20, "perTryTimeout", |_| json!("0.25s"));
    parts.maybe(dice, 70, "backoff", |_| json!("1ms"));
    Value::Object(parts.0)
}

fn cors(dice: &mut Dice) -> Value {
    let mut parts = Parts(Map::new());
    parts
        .0
        .insert("allowOrigins".into(), json!([string_match(dice, &["https://a.test"], &[("https://[ab].test", "")])]));
    parts.maybe(dice, 60, "allowMethods", |dice| dice.one(&[json!(["GET", "POST"]), json!(["*"])]));
    parts.maybe(dice, 60, "allowHeaders", |dice| dice.one(&[json!(["x-a", "x-b"]), json!(["*"])]));
    parts.maybe(dice, 60, "exposeHeaders", |_| json!(["x-up"]));
    parts.maybe(dice, 40, "maxAge", |_| json!("60s"));
    parts.maybe(dice, 40, "allowCredentials", |dice| json!(dice.chance(50)));
    parts.maybe(dice, 40, "unmatchedPreflights", |dice| json!(dice.one(&["FORWARD", "IGNORE"])));
    Value::Object(parts.0)
}

/// Edits of headers; those of a destination at times concern the authority.
fn headers(dice: &mut Dice, destination: bool) -> Value {
    let mut parts = Parts(Map::new());
    parts.maybe(dice, 70, "request", |dice| {
        let mut edits = edits(dice, &["x-a", "X-B", "x-new", "x-other"]);
        if destination && dice.chance(20) {
            edits["set"] = json!({"Host": "by-header.test"});
        }
        edits
    });
    parts.maybe(dice, 60, "response", |dice| edits(dice, &["x-up", "X-Multi", "x-new", "x-other"]));
    Value::Object(parts.0)
}

fn edits(dice: &mut Dice, names: &[&str]) -> Value {
    let written = |dice: &mut Dice| {
        let mut map = Map::new();
        for _ in 0..dice.one(&[1, 1, 2]) {
            map.insert(dice.one(names).into(), json!(dice.one(&["1", "two words", "50%%", "", "a,b"])));
        }
        Value::Object(map)
    };
    let mut parts = Parts(Map::new());
    parts.maybe(dice, 50, "set", written);
    parts.maybe(dice, 50, "add", written);
    parts.maybe(dice, 40, "remove", |dice| json!([dice.one(names)]));
    Value::Object(parts.0)
}
