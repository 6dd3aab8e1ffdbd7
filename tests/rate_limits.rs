//! How many requests the small mesh's pods and gateways take, and who may ask a gateway. Knows nothing of the library.
#![cfg(unix)]

#[path = "support/served.rs"]
mod served;

use std::time::{Duration, Instant};

use served::{Answer, Folder, PATIENCE, Served, exchange, get};

const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop, labels: {app: shop}}
spec: {containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c, ports: [{containerPort: 81}]}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example, calm.example]}
  - {port: {number: 9001, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: [shop.example, calm.example]
  gateways: [edge]
  http: [{route: [{destination: {host: shop}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge-tcp}
spec:
  hosts: ["*"]
  gateways: [edge]
  tcp: [{match: [{port: 9001}], route: [{destination: {host: shop, port: {number: 80}}}]}]
"#;

/// As Istio's task writes it: for the shop's pods, whoever asks.
const POD: &str = r#"
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: filter-local-ratelimit-svc, namespace: istio-system}
spec:
  workloadSelector: {labels: {app: shop}}
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          "@type": type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          value:
            stat_prefix: http_local_rate_limiter
            token_bucket: {max_tokens: 4, tokens_per_fill: 4, fill_interval: 3600s}
            filter_enabled: {runtime_key: local_rate_limit_enabled, default_value: {numerator: 100, denominator: HUNDRED}}
            filter_enforced: {runtime_key: local_rate_limit_enforced, default_value: {numerator: 100, denominator: HUNDRED}}
            response_headers_to_add: [{append: false, header: {key: x-local-rate-limit, value: 'true'}}]
"#;

/// For one virtual host of the gateway.
const EDGE: &str = r#"
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: edge, namespace: istio-system}
spec:
  workloadSelector: {labels: {istio: ingressgateway}}
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: GATEWAY}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          stat_prefix: edge
  - applyTo: HTTP_ROUTE
    match: {context: GATEWAY, routeConfiguration: {vhost: {name: "calm.example:80", route: {action: ANY}}}}
    patch:
      operation: MERGE
      value:
        typed_per_filter_config:
          envoy.filters.http.local_ratelimit:
            "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
            stat_prefix: edge
            token_bucket: {max_tokens: 2, fill_interval: 3600s}
            filter_enabled: {default_value: {numerator: 100}}
            filter_enforced: {default_value: {numerator: 100}}
"#;

const POLICIES: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admins, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin*]}}]
  - to: [{operation: {ports: ["9001"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: shop-only, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  rules: [{to: [{operation: {hosts: [shop.example]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: others, namespace: istio-system}
spec: {selector: {matchLabels: {istio: egressgateway}}, action: DENY, rules: [{}]}
"#;

fn shop(name: &str) -> (Folder, Served) {
    let folder = Folder::empty(name);
    folder.write("shop.yaml", SHOP);
    let served = Served::start(&folder);
    until("the shop answers", || ask(&served, "/name").status() == "200");
    (folder, served)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Puts a file in the folder and waits until everybody goes by it.
fn put(folder: &Folder, served: &Served, file: &str, text: &str) {
    let readings = served.status()["readings"].as_u64();
    folder.write(file, text);
    served.until("it is in force", |status| status["settled"] == true && status["readings"].as_u64() > readings);
}

fn ask(served: &Served, path: &str) -> Answer {
    get(&served.sidecar("default/client"), &format!("http://shop{path}"), "")
}

fn at_gateway(door: &str, host: &str, path: &str, more: &str) -> Answer {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
    exchange(door, head, Vec::new()).expect("the gateway answers")
}

/// Whether a part counts requests with these labels.
fn counted(served: &Served, part: &str, wanted: &[&str]) -> bool {
    let status = served.status();
    let found = status["subscribers"].as_array().unwrap().iter().find(|one| one["part"] == part);
    let page = format!("127.0.0.1:{}", found.unwrap()["admin"]);
    let body = get(&page, "/stats/prometheus", "").body;
    let mut lines = body.lines().filter(|line| line.starts_with("istio_requests_total{"));
    lines.any(|line| wanted.iter().all(|label| line.contains(label)))
}

/// How many pass until one is refused.
fn passing(mut ask: impl FnMut() -> Answer) -> (usize, Answer) {
    for passed in 0..20 {
        let answer = ask();
        if answer.status() != "200" {
            return (passed, answer);
        }
    }
    panic!("none is refused");
}

#[test]
fn a_pod_takes_so_many_requests_and_the_others_are_told() {
    let (folder, served) = shop("limited");
    put(&folder, &served, "limit.yaml", POD);
    let (passed, refused) = passing(|| ask(&served, "/name"));
    assert_eq!((passed, refused.status(), refused.body.as_str()), (4, "429", "local_rate_limited"));
    assert!(refused.has("x-local-rate-limit: true"), "{}", refused.head);
    assert!(refused.head.contains("EnvoyFilter istio-system/filter-local-ratelimit-svc"), "{}", refused.head);
    let grpc = get(&served.sidecar("default/client"), "http://shop/grpc", "content-type: application/grpc\r\n");
    assert!(grpc.status() == "200" && grpc.has("grpc-status: 14"), "{}", grpc.head);
    assert!(grpc.has("grpc-message: local_rate_limited"), "{}", grpc.head);

    // Who comes without encryption comes through another of Envoy's filter chains.
    let outside = served.place("default/shop:80");
    assert_eq!(passing(|| get(&outside, "/name", "")).0, 4);
    until("the access log says so", || {
        std::fs::read_to_string(&served.log).unwrap().contains(" 429 RL local_rate_limited ")
    });
    until("it is counted", || {
        counted(&served, "sidecar default/shop", &["response_code=\"429\"", "response_flags=\"RL\""])
    });

    // A change of something else gives nobody a new bucket; a change of the limit does.
    put(&folder, &served, "other.yaml", &EDGE.replace("calm", "other"));
    assert_eq!(ask(&served, "/name").status(), "429");
    put(&folder, &served, "limit.yaml", &POD.replace("max_tokens: 4", "max_tokens: 6"));
    assert_eq!(passing(|| ask(&served, "/name")).0, 6);

    // What Envoy would refuse changes nothing.
    folder.write("limit.yaml", &POD.replace("3600s", "3600"));
    let status = served.until("it is refused", |status| status["refused"][0].is_object());
    assert_eq!(status["refused"][0]["code"], "bad-rate-limit", "{status}");
    assert_eq!(ask(&served, "/name").status(), "429");
}

#[test]
fn a_gateway_limits_one_virtual_host() {
    let (folder, served) = shop("limited-edge");
    let door = served.place("port 80");
    put(&folder, &served, "limit.yaml", EDGE);
    let (passed, refused) = passing(|| at_gateway(&door, "calm.example", "/name", ""));
    assert_eq!((passed, refused.status(), refused.body.as_str()), (2, "429", "local_rate_limited"));
    assert!(refused.has("x-meshroute-flags: RL"), "{}", refused.head);
    for _ in 0..5 {
        assert_eq!(at_gateway(&door, "shop.example", "/name", "").status(), "200");
    }
}

#[test]
fn a_gateway_asks_who_may_come_in() {
    let (folder, served) = shop("gateway-policies");
    let (door, tcp) = (served.place("port 80"), served.place("port 9001"));
    assert_eq!(at_gateway(&door, "calm.example", "/name", "").status(), "200");
    assert!(get(&tcp, "/name", "").body == "shop");
    put(&folder, &served, "policies.yaml", POLICIES);
    assert_eq!(at_gateway(&door, "shop.example", "/name", "").status(), "200");
    // Denied by a path, however it is written; not allowed by host, whether or not there is a route for it.
    for (host, path) in
        [("shop.example", "/admin/a"), ("shop.example", "/x/../admin"), ("calm.example", "/name"), ("none", "/name")]
    {
        let answer = at_gateway(&door, host, path, "");
        assert_eq!((answer.status(), answer.body.as_str()), ("403", "RBAC: access denied"), "{host}{path}");
        assert!(!answer.head.contains("flags"), "{}", answer.head);
    }
    let answer = at_gateway(&door, "calm.example", "/grpc", "content-type: application/grpc\r\n");
    assert!(answer.status() == "200" && answer.has("grpc-status: 7"), "{}", answer.head);
    assert!(served::try_get(&tcp, "/name", "").is_none(), "a connection that passes as a whole is closed");
    let denied = "rbac_access_denied_matched_policy[ns[istio-system]-policy[no-admins]-rule[0]]";
    until("the access log says so", || std::fs::read_to_string(&served.log).unwrap().contains(denied));
    // Inside the mesh nothing is changed by it.
    assert_eq!(ask(&served, "/admin").status(), "404");
}
