//! One row for each rule: a snippet of `spec`, and the codes that it is told, errors before warnings.

use serde::de::DeserializeOwned;

use super::*;
use crate::diagnostic::Severity;
use crate::model::{DestinationRule, Gateway, Service, ServiceEntry, Sidecar, VirtualService, WorkloadEntry};
use crate::yaml::{Options, Reading, documents};

/// Reads a spec as the command does.
fn read<T: DeserializeOwned>(spec: &str) -> T {
    let text = format!("{{apiVersion: v1, kind: T, metadata: {{name: web, namespace: default}}, spec: {spec}}}");
    let options = Options { reading: Reading::Strict, ..Options::default() };
    let (documents, broken) = documents(&text, "-", &options);
    assert_eq!(broken, [], "{spec}");
    documents[0].typed(&options).unwrap_or_else(|findings| panic!("{spec}: {findings:#?}")).0
}

fn codes(findings: &[Diagnostic]) -> Vec<&str> {
    let of = |severity| findings.iter().filter(move |f| f.severity == severity).map(|f| f.code.as_ref());
    of(Severity::Error).chain(of(Severity::Warning)).collect()
}

fn hold<T>(rows: &[(&str, &[&str])])
where
    T: DeserializeOwned + Into<Object>,
{
    for (spec, wanted) in rows {
        let findings = validate(&read::<T>(spec).into());
        assert_eq!(codes(&findings), *wanted, "{spec}: {findings:#?}");
    }
}

/// Rows whose snippet is the only HTTP rule of a VirtualService.
fn hold_http(rows: &[(&str, &[&str])]) {
    let specs: Vec<_> = rows.iter().map(|(rule, _)| format!("{{hosts: [a.b], http: [{rule}]}}")).collect();
    let rows: Vec<_> = specs.iter().map(String::as_str).zip(rows.iter().map(|(_, wanted)| *wanted)).collect();
    hold::<VirtualService>(&rows);
}

/// Rows whose snippet goes beside the `route` of an HTTP rule.
fn hold_beside_route(rows: &[(&str, &[&str])]) {
    let rules: Vec<_> =
        rows.iter().map(|(field, _)| format!("{{{field}, route: [{{destination: {{host: x.y}}}}]}}")).collect();
    let rows: Vec<_> = rules.iter().map(String::as_str).zip(rows.iter().map(|(_, wanted)| *wanted)).collect();
    hold_http(&rows);
}

/// Rows whose snippet is the traffic policy of a DestinationRule.
fn hold_policy(rows: &[(&str, &[&str])]) {
    let specs: Vec<_> = rows.iter().map(|(policy, _)| format!("{{host: a.b, trafficPolicy: {policy}}}")).collect();
    let rows: Vec<_> = specs.iter().map(String::as_str).zip(rows.iter().map(|(_, wanted)| *wanted)).collect();
    hold::<DestinationRule>(&rows);
}

const RULE: &str = "http: [{route: [{destination: {host: x.y}}]}]";

fn with_rule(field: &str) -> String {
    format!("{{{field}, {RULE}}}")
}

/// Rows whose snippet goes beside a good HTTP rule.
fn hold_beside_rule(rows: &[(&str, &[&str])]) {
    let specs: Vec<_> = rows.iter().map(|(field, _)| with_rule(field)).collect();
    let rows: Vec<_> = specs.iter().map(String::as_str).zip(rows.iter().map(|(_, wanted)| *wanted)).collect();
    hold::<VirtualService>(&rows);
}

#[test]
fn delegates_have_rules_only() {
    // 1
    hold_beside_rule(&[
        ("hosts: []", &[]),
        ("hosts: [], gateways: [g]", &["bad-delegate"]),
        ("tcp: [{route: [{destination: {host: x}}]}]", &["bad-delegate"]),
        (
            "tls: [{match: [{sniHosts: [a.b]}], route: [{destination: {host: x}}]}]",
            &["bad-delegate", "foreign-sni-host"],
        ),
    ]);
}

#[test]
fn gateway_names_are_looked_at_up_to_the_first_plain_one() {
    // 2
    hold_beside_rule(&[
        ("hosts: [a.b], gateways: [ns/g, g, mesh]", &[]),
        ("hosts: [a.b], gateways: [b@d]", &["bad-gateway-name"]),
        ("hosts: [a.b], gateways: ['ns/*']", &["bad-gateway-name"]),
        ("hosts: [a.b], gateways: ['./g']", &["bad-gateway-name"]),
        ("hosts: [a.b], gateways: [/, 'a/']", &["bad-gateway-name", "bad-gateway-name"]),
        ("hosts: [a.b], gateways: [g, 'b@d', 'ns/*']", &[]),
        ("hosts: [a.b], gateways: [g.ns.svc.cluster.local]", &["legacy-gateway-name"]),
    ]);
    hold_beside_route(&[("match: [{gateways: [b@d]}]", &["bad-gateway-name"]), ("match: [{gateways: [g.ns]}]", &[])]);
}

#[test]
fn claims_need_a_gateway() {
    // 3
    let claim =
        "http: [{match: [{headers: {'@request.auth.claims.a': {exact: b}}}], route: [{destination: {host: x}}]}]";
    for (field, wanted) in [
        ("hosts: [a.b]", &["claim-without-gateway"][..]),
        ("hosts: [a.b], gateways: [mesh, g]", &["claim-without-gateway"]),
        ("hosts: []", &["claim-without-gateway"]),
        ("hosts: [a.b], gateways: [g]", &[]),
    ] {
        hold::<VirtualService>(&[(&format!("{{{field}, {claim}}}"), wanted)]);
    }
    hold_beside_route(&[("match: [{headers: {'@request.auth.claims': {exact: b}}}]", &["bad-header-name"])]);
}

#[test]
fn hosts_are_domains_that_do_not_overlap() {
    // 4, 5
    let long = format!("hosts: [{}.b]", "a".repeat(64));
    hold_beside_rule(&[
        ("hosts: [a, A.b, '*.c', '*-d.e', '*f.g', '10.0.0.1', '::1', 'h.i.']", &[]),
        ("hosts: [a.1]", &["bad-host"]),
        ("hosts: ['1']", &[]),
        ("hosts: ['a.*.b']", &["bad-host"]),
        ("hosts: ['']", &["bad-host"]),
        ("hosts: ['.']", &["bad-host"]),
        ("hosts: ['a..']", &["bad-host"]),
        (&long, &["bad-host"]),
        ("hosts: ['*']", &["bad-host"]),
        ("hosts: ['*'], gateways: [mesh, g]", &["bad-host"]),
        ("hosts: ['*'], gateways: [g]", &[]),
        ("hosts: ['*.foo.bar', '*.bar']", &["duplicate-host"]),
        ("hosts: [a.b, a.b]", &["duplicate-host"]),
        ("hosts: [a.b, a.b, 'a b']", &["bad-host"]),
        ("hosts: [outbound_.80_._.a.b], gateways: [g]", &["bad-host"]),
    ]);
}

#[test]
fn there_is_a_rule() {
    // 6
    hold::<VirtualService>(&[
        ("{hosts: [a.b]}", &["no-routes"]),
        ("{hosts: [a.b], http: [null]}", &["null-entry"]),
        ("{hosts: [a.b], tcp: [null], tls: [null]}", &[]),
    ]);
}

#[test]
fn exports_are_namespaces() {
    // 7
    hold_beside_rule(&[
        ("hosts: [a.b], exportTo: ['.', ns]", &[]),
        ("hosts: [a.b], exportTo: ['*']", &[]),
        ("hosts: [a.b], exportTo: ['.', default]", &["duplicate-export"]),
        ("hosts: [a.b], exportTo: ['.', '*']", &["mixed-export"]),
        ("hosts: [a.b], exportTo: ['~']", &["bad-export"]),
        ("hosts: [a.b], exportTo: [a_b]", &["bad-export"]),
    ]);
}

#[test]
fn a_rule_delegates_or_acts() {
    // 8, 9, 10, 11
    let route = "route: [{destination: {host: x}}]";
    hold_http(&[
        ("{delegate: {name: d}, timeout: 1s, directResponse: {status: 200}}", &[]),
        ("{delegate: {name: d}, redirect: {uri: /}}", &["delegate-conflict"]),
        (&format!("{{delegate: {{name: d}}, {route}}}"), &["delegate-conflict"]),
        ("{}", &["no-action"]),
        (&format!("{{redirect: {{uri: /}}, {route}}}"), &["action-conflict"]),
        ("{redirect: {uri: /}, rewrite: {uri: /}}", &["action-conflict"]),
        ("{redirect: {uri: /}, fault: {abort: {httpStatus: 500}}}", &["action-conflict"]),
        ("{redirect: {uri: /}, directResponse: {status: 200}}", &["action-conflict"]),
        (&format!("{{directResponse: {{status: 200}}, {route}}}"), &["action-conflict"]),
        ("{directResponse: {status: 200}, rewrite: {uri: /}}", &["action-conflict"]),
        (&format!("{{mirror: {{host: m}}, mirrors: [{{destination: {{host: m}}}}], {route}}}"), &["mirror-conflict"]),
    ]);
    hold::<VirtualService>(&[
        (&format!("{{http: [{{delegate: {{name: d}}, {route}}}]}}"), &["nested-delegate"]),
        ("{http: [{delegate: {name: d}}]}", &["nested-delegate", "no-action"]),
    ]);
}

#[test]
fn matches_make_sense() {
    // 12
    let long = format!("match: [{{uri: {{regex: {}}}}}]", "a".repeat(1025));
    hold_beside_route(&[
        ("match: [{uri: {prefix: ''}}, {uri: {exact: ''}}, null]", &[]),
        ("match: [{headers: {a: {exact: ''}}, queryParams: {b: {}}}]", &[]),
        ("match: [{headers: {a: null}}]", &["null-match"]),
        ("match: [{withoutHeaders: {a: null}}]", &[]),
        ("match: [{headers: {'a b': {}}}]", &["bad-header-name"]),
        ("match: [{headers: {':path': {}, 'a.b': {}}}]", &[]),
        ("match: [{headers: {a: {prefix: ''}}}]", &["empty-prefix"]),
        ("match: [{withoutHeaders: {a: {prefix: ''}}}]", &["empty-prefix"]),
        ("match: [{scheme: {prefix: ''}, method: {prefix: ''}}]", &["empty-prefix", "empty-prefix"]),
        ("match: [{authority: {prefix: ''}, queryParams: {a: {prefix: ''}}}]", &["empty-prefix", "empty-prefix"]),
        ("match: [{uri: {regex: ''}}]", &["bad-regex"]),
        ("match: [{uri: {regex: '('}}]", &["bad-regex"]),
        (&long, &["bad-regex"]),
        ("match: [{headers: {a: {regex: '*'}}}]", &["bad-regex"]),
        ("match: [{withoutHeaders: {a: {regex: '*'}}}]", &[]),
        ("match: [{withoutHeaders: {a: {regex: '?'}}}]", &["bad-regex"]),
        ("match: [{port: 65536}]", &["port-out-of-range"]),
        ("match: [{sourceLabels: {'a b': c}}]", &["bad-label"]),
        ("match: [{sourceLabels: {x/a: ''}}]", &[]),
        ("match: [{sourceNamespace: a_b}]", &["bad-namespace"]),
    ]);
}

#[test]
fn header_operations_are_legal() {
    // 13, 14
    hold_beside_route(&[
        ("headers: {request: {set: {':authority': a}}}", &[]),
        ("headers: {request: {set: {':path': a}}}", &["bad-header-name"]),
        ("headers: {request: {remove: [host]}}", &["bad-header-name"]),
        ("headers: {response: {add: {host: a}}}", &["bad-header-name"]),
        ("headers: {response: {add: {'': a}}}", &["bad-header-name"]),
        ("headers: {request: {add: {a: '100%% %HOSTNAME% %START_TIME(%s)% %REQ([\"a\", \"b\"])%'}}}", &[]),
        ("headers: {request: {add: {a: 'abc%123'}}}", &["bad-header-value"]),
        ("headers: {request: {add: {a: '%START_TIME%%'}}}", &["bad-header-value"]),
        ("headers: {request: {add: {a: \"b\\r\"}}}", &["bad-header-value"]),
        ("headers: {request: {set: {host: a}}}, rewrite: {authority: b}", &["authority-conflict"]),
        ("headers: {request: {set: {host: a}, add: {':authority': b}}}", &["authority-conflict"]),
    ]);
    hold_http(&[("{route: [{destination: {host: x}, headers: {request: {remove: ['']}}}]}", &["bad-header-name"])]);
}

#[test]
fn cors_and_faults_are_legal() {
    // 15, 16
    hold_beside_route(&[
        ("corsPolicy: {allowOrigins: [{exact: a}], allowMethods: [GET, '*'], allowHeaders: ['*'], maxAge: 1s}", &[]),
        ("corsPolicy: {allowOrigins: [{}]}", &["empty-origin"]),
        ("corsPolicy: {allowOrigins: [{regex: '*'}]}", &["bad-regex"]),
        ("corsPolicy: {allowMethods: [get]}", &["bad-method"]),
        ("corsPolicy: {exposeHeaders: ['']}", &["bad-header-name"]),
        ("corsPolicy: {maxAge: 1500ms}", &["duration-precision"]),
        ("fault: {}", &["empty-fault"]),
        ("fault: {abort: {}}", &[]),
        ("fault: {abort: {httpStatus: 600, percentage: {value: 0.0001}}}", &[]),
        ("fault: {abort: {httpStatus: 199, percentage: {value: 0.00001}}}", &["percentage-too-small", "bad-status"]),
        ("fault: {abort: {httpStatus: 601, percentage: {value: 101}}}", &["percentage-out-of-range", "bad-status"]),
        ("fault: {abort: {grpcStatus: NOT_FOUND}}", &[]),
        ("fault: {abort: {grpcStatus: LOST}}", &["bad-status"]),
        ("fault: {abort: {http2Error: x}}", &["not-supported"]),
        ("fault: {delay: {}}", &[]),
        ("fault: {delay: {fixedDelay: 1us}}", &["duration-too-short"]),
        ("fault: {delay: {exponentialDelay: 1s}}", &["not-supported"]),
    ]);
}

#[test]
fn mirrors_are_legal() {
    // 17
    hold_beside_route(&[
        ("mirror: {host: m}, mirrorPercent: 5", &["deprecated-field"]),
        ("mirror: {host: m}, mirrorPercent: 101", &["percentage-out-of-range", "deprecated-field"]),
        ("mirror: {host: m}, mirrorPercentage: {value: -1}", &["percentage-out-of-range"]),
        ("mirrors: [null, {}]", &["no-destination", "no-destination"]),
        ("mirrors: [{destination: {host: m}, percentage: {value: 101}}]", &["percentage-out-of-range"]),
    ]);
}

#[test]
fn redirects_and_answers_are_legal() {
    // 18, 19
    hold_http(&[
        ("{redirect: {prefixRewrite: /, redirectCode: 304, scheme: https, port: 8080}}", &[]),
        ("{redirect: {derivePort: FROM_REQUEST_PORT}}", &[]),
        ("{redirect: {uri: /, prefixRewrite: /}}", &["redirect-conflict"]),
        ("{redirect: {prefixRewrite: /}, match: [{uri: {exact: /a}}]}", &["redirect-conflict"]),
        ("{redirect: {prefixRewrite: /}, match: [{uri: {prefix: /a}}, {port: 80}]}", &[]),
        ("{redirect: {}}", &["empty-redirect"]),
        ("{redirect: {uri: /, redirectCode: 299}}", &["bad-status"]),
        ("{redirect: {uri: /, scheme: ftp}}", &["bad-scheme"]),
        ("{redirect: {uri: /, port: 65536}}", &["port-out-of-range"]),
        ("{redirect: {port: 80, derivePort: FROM_REQUEST_PORT}}", &["exclusive-fields"]),
        ("{directResponse: {status: 199}}", &["bad-status"]),
        ("{directResponse: {status: 600, body: {string: a}}}", &[]),
        (&format!("{{directResponse: {{status: 200, body: {{string: {}}}}}}}", "a".repeat(200_000)), &["large-body"]),
        (&format!("{{directResponse: {{status: 200, body: {{bytes: {}}}}}}}", "a".repeat(1_400_000)), &["large-body"]),
    ]);
}

#[test]
fn retries_rewrites_and_timeouts_are_legal() {
    // 20, 21, 23
    hold_beside_route(&[
        ("retries: {attempts: 0, backoff: 1s, retryIgnorePreviousHosts: true}", &[]),
        ("retries: {attempts: 0, retryOn: 5xx}", &["retries-disabled"]),
        ("retries: {attempts: -1}", &["negative"]),
        ("retries: {attempts: 1, retryOn: '503,connect-failure'}", &[]),
        ("retries: {attempts: 1, retryOn: '5xx, reset'}", &["bad-retry-condition"]),
        ("retries: {attempts: 1, retryOn: '418,419'}", &["bad-retry-condition"]),
        ("retries: {attempts: 1, perTryTimeout: 0s}", &["duration-too-short"]),
        ("retries: {attempts: 1, backoff: 1.5ms}", &["duration-precision"]),
        ("rewrite: {uri: /, authority: a}", &[]),
        ("rewrite: {}", &["empty-rewrite"]),
        ("rewrite: {uri: /, uriRegexRewrite: {match: a, rewrite: b}}", &["rewrite-conflict"]),
        ("rewrite: {uriRegexRewrite: {match: a}}", &["empty-rewrite"]),
        ("rewrite: {uriRegexRewrite: {match: '(', rewrite: b}}", &["bad-regex"]),
        ("timeout: 0s", &["duration-too-short"]),
        ("timeout: 1ms", &[]),
    ]);
}

#[test]
fn destinations_are_legal() {
    // 22
    hold_http(&[
        ("{route: [null]}", &["null-entry"]),
        ("{route: [{}]}", &["no-destination"]),
        ("{route: [{destination: {host: '*'}}]}", &["bad-host"]),
        ("{route: [{destination: {host: '*.a', subset: V1, port: {number: 1}}}]}", &[]),
        ("{route: [{destination: {host: a, subset: v_1}}]}", &["bad-subset-name"]),
        ("{route: [{destination: {host: a, port: {}}}]}", &["port-out-of-range"]),
        ("{route: [{destination: {host: a}, weight: -1}]}", &["negative-weight"]),
        ("{route: [{destination: {host: a}}, {destination: {host: b}}]}", &["no-weight"]),
        ("{route: [{destination: {host: a}, weight: 550}, {destination: {host: b}, weight: 0}]}", &[]),
    ]);
}

#[test]
fn rules_of_tls_and_tcp_are_legal() {
    // 24, 25
    let tls = |rule: &str| format!("{{hosts: ['*.a'], tls: [{rule}]}}");
    let route = "route: [{destination: {host: x}}]";
    for (rule, wanted) in [
        (format!("{{match: [{{sniHosts: [x.a]}}], {route}}}"), &[][..]),
        (format!("{{{route}}}"), &["no-match"]),
        (format!("{{match: [null], {route}}}"), &["null-entry"]),
        (format!("{{match: [{{}}], {route}}}"), &["no-sni-host"]),
        (format!("{{match: [{{sniHosts: ['x.*.a']}}], {route}}}"), &["bad-host"]),
        (format!("{{match: [{{sniHosts: [10.0.0.1]}}], {route}}}"), &["ip-as-sni"]),
        (format!("{{match: [{{sniHosts: [x.b]}}], {route}}}"), &["foreign-sni-host"]),
        (format!("{{match: [{{sniHosts: [x.a], destinationSubnets: [10.0.0.0/33]}}], {route}}}"), &["bad-subnet"]),
        (format!("{{match: [{{sniHosts: [x.a], port: 70000}}], {route}}}"), &["port-out-of-range"]),
        (format!("{{match: [{{sniHosts: [x.a], sourceLabels: {{'': a}}}}], {route}}}"), &["bad-label"]),
        (format!("{{match: [{{sniHosts: [x.a], gateways: ['a/*']}}], {route}}}"), &["bad-gateway-name"]),
        ("{match: [{sniHosts: [x.a]}]}".into(), &["no-action"]),
    ] {
        hold::<VirtualService>(&[(&tls(&rule), wanted)]);
    }
    for (rule, wanted) in [
        (format!("{{match: [{{destinationSubnets: [10.0.0.0/8, 10.0.0.1, '::/0'], port: 1}}], {route}}}"), &[][..]),
        (format!("{{{route}}}"), &[]),
        (format!("{{match: [null], {route}}}"), &["null-entry"]),
        (format!("{{match: [{{destinationSubnets: [10.0.0.0/08]}}], {route}}}"), &["bad-subnet"]),
        (format!("{{match: [{{port: 70000, sourceSubnet: nonsense}}], {route}}}"), &["port-out-of-range"]),
        (format!("{{match: [{{gateways: [g.ns, 'a/*']}}], {route}}}"), &[]),
        ("{match: [{port: 1}]}".into(), &["no-action"]),
        ("{route: [{destination: {host: x}}, {destination: {host: z}}]}".into(), &["no-weight"]),
    ] {
        hold::<VirtualService>(&[(&format!("{{hosts: [a], tcp: [{rule}]}}"), wanted)]);
    }
    let sni = "outbound_.15010_._.istiod.istio-system.svc.cluster.local";
    let rule = format!("tls: [{{match: [{{sniHosts: [{sni}]}}], {route}}}]");
    hold::<VirtualService>(&[(&format!("{{hosts: [{sni}], gateways: [ns/g], {rule}}}"), &[])]);
}

#[test]
fn what_is_never_reached_is_told() {
    let (a, b) = ("{uri: {prefix: /a}}", "{uri: {prefix: /ab}}");
    let rule = |blocks: &str| format!("{{match: [{blocks}], route: [{{destination: {{host: x}}}}]}}");
    let all = "{route: [{destination: {host: x}}]}";
    for (rules, wanted) in [
        (format!("{}, {all}", rule(a)), &[][..]),
        (format!("{all}, {all}"), &["unreachable-rule"]),
        (format!("{all}, {}", rule(a)), &["unreachable-rule"]),
        (format!("{}, {}", rule(a), rule(a)), &["ineffective-match", "unreachable-rule"]),
        (format!("{}, {}", rule(a), rule(&format!("{a}, {{port: 1}}"))), &["ineffective-match"]),
        (rule(&format!("{{name: x, {}, {{name: z, {}", &a[1..], &a[1..])), &["ineffective-match"]),
        (format!("{}, {}", rule(a), rule(b)), &["ineffective-match"]),
        (format!("{}, {}", rule(b), rule(a)), &[]),
        (format!("{}, {}", rule(a), rule("{uri: {prefix: /ab}, method: {exact: POST}}")), &[]),
        (format!("{}, {}", rule(a), rule("{uri: {prefix: /ab}, headers: {x: {exact: z}}}")), &[]),
        (format!("{}, {}", rule(a), rule("{uri: {prefix: /ab}, port: 80}")), &[]),
        (format!("{}, {}", rule(a), rule("{uri: {exact: /ab}}")), &[]),
    ] {
        hold::<VirtualService>(&[(&format!("{{hosts: [a.b], http: [{rules}]}}"), wanted)]);
    }
    hold::<VirtualService>(&[(&format!("{{hosts: [a.b], tcp: [{all}, {all}]}}"), &["unreachable-rule"])]);
}

#[test]
fn subsets_are_legal() {
    // 1, 2
    hold::<DestinationRule>(&[
        ("{host: '*'}", &[]),
        ("{host: ''}", &["bad-host"]),
        ("{host: a, subsets: [{name: v1}]}", &[]),
        ("{host: a, subsets: [null, {}]}", &["null-entry", "bad-subset-name"]),
        ("{host: a, subsets: [{name: v1}, {name: v1}]}", &["duplicate-subset"]),
        ("{host: a, subsets: [{name: v_1, labels: {a: '-'}}]}", &["bad-subset-name", "bad-label"]),
        ("{host: a, subsets: [{name: v1, trafficPolicy: {}}]}", &["empty-policy"]),
        ("{host: a, subsets: [{name: v1, trafficPolicy: {outlierDetection: {consecutiveErrors: 1}}}]}", &[]),
    ]);
}

#[test]
fn a_rule_for_some_workloads_stays_at_home() {
    // 3, 4
    hold::<DestinationRule>(&[
        ("{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: ['.']}", &[]),
        ("{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: ['*']}", &["selector-export"]),
        ("{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: ['.', x]}", &["selector-export"]),
        ("{host: a, workloadSelector: {matchLabels: {a: '*'}}}", &["bad-selector"]),
        ("{host: a, workloadSelector: {matchLabels: {'': b}}}", &["bad-selector"]),
        ("{host: a, workloadSelector: {}}", &["empty-selector"]),
        ("{host: a, exportTo: ['.', default]}", &["duplicate-export"]),
    ]);
}

#[test]
fn policies_are_legal() {
    // 5, 6, 7, 11, 12
    hold_policy(&[
        ("{}", &["empty-policy"]),
        ("{tunnel: {targetHost: a, targetPort: 1}, proxyProtocol: {}}", &["tunnel-conflict"]),
        ("{retryBudget: {percent: 50}}", &[]),
        ("{retryBudget: {percent: 101}}", &["percentage-out-of-range"]),
        ("{outlierDetection: {interval: 0s}}", &["duration-too-short"]),
        ("{outlierDetection: {baseEjectionTime: 1.5ms}}", &["duration-precision"]),
        ("{outlierDetection: {consecutiveErrors: 1}}", &["deprecated-field"]),
        ("{outlierDetection: {consecutiveLocalOriginFailures: 1}}", &["not-split"]),
        ("{outlierDetection: {consecutiveLocalOriginFailures: 1, splitExternalLocalOriginErrors: true}}", &[]),
        ("{outlierDetection: {maxEjectionPercent: 101}}", &["percentage-out-of-range"]),
        ("{outlierDetection: {minHealthPercent: -1}}", &["percentage-out-of-range"]),
        ("{connectionPool: {}}", &["empty-connection-pool"]),
        ("{connectionPool: {tcp: {idleTimeout: 0s, connectTimeout: 1s}, http: {}}}", &[]),
        ("{connectionPool: {tcp: {maxConnections: -1}}}", &["negative"]),
        ("{connectionPool: {tcp: {tcpKeepalive: {time: 0s}}}}", &["duration-too-short"]),
        ("{connectionPool: {http: {maxRetries: -1, idleTimeout: 0s}}}", &["negative", "duration-too-short"]),
        ("{connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}", &["upgrade-conflict"]),
        ("{connectionPool: {http: {http2KeepAlive: {interval: 1s}}}}", &["no-duration"]),
        ("{portLevelSettings: [null]}", &["null-entry"]),
        ("{portLevelSettings: [{}]}", &["no-port", "empty-policy"]),
        ("{portLevelSettings: [{port: {}, connectionPool: {}}]}", &["empty-connection-pool"]),
        ("{portLevelSettings: [{port: {number: 1}, outlierDetection: {consecutiveErrors: 1}}]}", &[]),
        ("{tunnel: {protocol: POST, targetHost: 10.0.0.1, targetPort: 80}}", &[]),
        (
            "{tunnel: {protocol: GET, targetHost: '*', targetPort: 0}}",
            &["unknown-protocol", "bad-host", "port-out-of-range"],
        ),
    ]);
}

#[test]
fn load_balancers_are_legal() {
    // 8
    hold_policy(&[
        ("{loadBalancer: {consistentHash: {}}}", &[]),
        ("{loadBalancer: {simple: RANDOM, consistentHash: {}}}", &["exclusive-fields"]),
        ("{loadBalancer: {consistentHash: {httpCookie: {}}}}", &["no-cookie-name"]),
        (
            "{loadBalancer: {consistentHash: {httpCookie: {name: a, attributes: [{name: b}, {name: b}, {}]}}}}",
            &["duplicate-attribute", "no-cookie-name"],
        ),
        ("{loadBalancer: {consistentHash: {minimumRingSize: 1}}}", &["deprecated-field"]),
        (
            "{loadBalancer: {consistentHash: {minimumRingSize: 1, ringHash: {}}}}",
            &["exclusive-fields", "deprecated-field"],
        ),
        ("{loadBalancer: {consistentHash: {maglev: {tableSize: 65537}}}}", &[]),
        ("{loadBalancer: {consistentHash: {maglev: {}}}}", &["bad-table-size"]),
        ("{loadBalancer: {consistentHash: {maglev: {tableSize: 9}}}}", &["bad-table-size"]),
        ("{loadBalancer: {consistentHash: {maglev: {tableSize: 5000011}}}}", &["bad-table-size"]),
        ("{loadBalancer: {localityLbSetting: {}, zoneAwareLbSetting: {}}}", &["exclusive-fields"]),
        ("{loadBalancer: {warmup: {}}}", &["no-duration"]),
        ("{loadBalancer: {warmup: {duration: 1s, minimumPercent: 101}}}", &["percentage-out-of-range"]),
        ("{loadBalancer: {warmup: {duration: 1s, aggression: 0}}}", &["bad-aggression"]),
        ("{loadBalancer: {warmup: {duration: 1s, aggression: 0.5}}}", &[]),
    ]);
}

#[test]
fn localities_are_legal() {
    // 9
    let rows: [(&str, &[&str]); 18] = [
        ("localityLbSetting: {distribute: [{from: a/b/*, to: {a/b/c: 80, x: 20}}]}", &[]),
        (
            "localityLbSetting: {distribute: [{from: a, to: {b: 100}}], failover: [{from: a, to: b}]}",
            &["exclusive-fields"],
        ),
        (
            "localityLbSetting: {failover: [{from: a, to: b}], failoverPriority: [topology.kubernetes.io/zone]}",
            &["topology-label"],
        ),
        ("localityLbSetting: {failoverPriority: [topology.kubernetes.io/zone]}", &[]),
        ("localityLbSetting: {distribute: [{from: a, to: {b: 0, c: 100}}]}", &["bad-share"]),
        ("localityLbSetting: {distribute: [{from: a, to: {b: 80, c: 15}}]}", &["bad-share"]),
        ("localityLbSetting: {distribute: [{from: a, to: {a/b/c: 80, a/b: 20}}]}", &["bad-locality"]),
        ("localityLbSetting: {distribute: [{from: a, to: {a: 80, a/b: 20}}]}", &["bad-locality"]),
        ("localityLbSetting: {distribute: [{from: a, to: {'*/a': 100}}]}", &["bad-locality"]),
        ("localityLbSetting: {distribute: [{from: a//b, to: {a: 100}}]}", &["bad-locality"]),
        ("localityLbSetting: {distribute: [{from: a, to: {a: 100}}, {from: a, to: {a: 100}}]}", &["bad-locality"]),
        ("localityLbSetting: {failover: [{from: a, to: a}]}", &["bad-failover"]),
        ("localityLbSetting: {failover: [{from: a/b, to: c}]}", &["bad-failover"]),
        ("localityLbSetting: {failover: [{from: a, to: '*'}]}", &["bad-failover"]),
        ("zoneAwareLbSetting: {failover: [{from: a, to: b}], failoverPriority: [version]}", &[]),
        ("zoneAwareLbSetting: {failoverPriority: [topology.istio.io/subzone]}", &["topology-label"]),
        ("zoneAwareLbSetting: {failover: [{from: a, to: a}]}", &["bad-failover"]),
        ("zoneAwareLbSetting: {minClusterSize: 0}", &["bad-cluster-size"]),
    ];
    for (setting, wanted) in rows {
        hold_policy(&[(&format!("{{outlierDetection: {{}}, loadBalancer: {{{setting}}}}}"), wanted)]);
    }
    hold_policy(&[(
        "{loadBalancer: {localityLbSetting: {failoverPriority: [version]}}}",
        &["failover-without-outlier-detection"],
    )]);
}

#[test]
fn tls_towards_endpoints_is_legal() {
    // 10
    hold_policy(&[
        ("{tls: {}}", &[]),
        ("{tls: {mode: ISTIO_MUTUAL, clientCertificate: c}}", &[]),
        ("{tls: {mode: SIMPLE, credentialName: 'configmap://default/a'}}", &[]),
        ("{tls: {mode: SIMPLE, credentialName: 'configmap://other/a'}}", &["bad-credential-name"]),
        ("{tls: {mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]}}", &["unverified-conflict"]),
        ("{tls: {mode: SIMPLE, insecureSkipVerify: true, credentialName: a}}", &["unverified-conflict"]),
        ("{tls: {mode: MUTUAL, insecureSkipVerify: true, credentialName: a}}", &[]),
        ("{tls: {mode: MUTUAL, credentialName: a, caCrl: b}}", &["certificate-conflict"]),
        ("{tls: {mode: MUTUAL}}", &["no-certificate", "no-certificate"]),
        ("{tls: {mode: MUTUAL, clientCertificate: c, privateKey: k}}", &[]),
    ]);
}

#[test]
fn servers_are_legal() {
    let port = "port: {number: 80, name: http, protocol: HTTP}";
    let server = |fields: &str| format!("{{servers: [{{{fields}}}]}}");
    let with = |field: &str| server(&format!("{field}, {port}"));
    for (spec, wanted) in [
        ("{}".into(), &["no-servers"][..]),
        (server(""), &["no-host", "no-port"]),
        (with("hosts: [a.b, ns/a.b, '*/a.b', './a.b', '*', '*.a', 1.1.1.1]"), &[]),
        (with("hosts: [a]"), &["bad-host"]),
        (with("hosts: ['*a.b']"), &["bad-host"]),
        (with("hosts: ['a.*.b']"), &["bad-host"]),
        (with("hosts: ['~/a.b']"), &["bad-namespace"]),
        (with("hosts: [a.b], bind: 10.0.0.1"), &[]),
        (with("hosts: [a.b], bind: here"), &["bad-bind"]),
        (with("hosts: [a.b], bind: 'unix:///a'"), &["bad-bind"]),
        (with("hosts: [a.b], tls: {httpsRedirect: true}"), &[]),
        (with("hosts: [a.b], tls: {mode: SIMPLE, credentialName: c}"), &["tls-on-plain-port"]),
        (server("hosts: [a.b], port: {number: 0, name: a, protocol: HTTP}, bind: 'unix://@a'"), &[]),
        (
            server("hosts: [a.b], port: {number: 66000, protocol: kafka, targetPort: 1}"),
            &["unknown-protocol", "port-out-of-range", "no-effect", "no-port-name"],
        ),
        (server("hosts: [a.b], port: {number: 443, name: a, protocol: HTTPS}"), &["no-tls"]),
        (server("hosts: [a.b], port: {number: 1, name: a, protocol: TCP}, tls: {}"), &["tls-on-plain-port"]),
        (format!("{{servers: [{{hosts: [a.b], {port}}}, {{hosts: [c.d], {port}}}]}}"), &["duplicate-port-name"]),
    ] {
        hold::<Gateway>(&[(&spec, wanted)]);
    }
    let mut named: Gateway = read(&with("hosts: [a.b]"));
    named.metadata.name = "a.b".into();
    assert_eq!(codes(&validate(&named.into())), ["bad-name"]);
}

#[test]
fn tls_of_servers_is_legal() {
    let rows: [(&str, &[&str]); 21] = [
        ("mode: SIMPLE, serverCertificate: c, privateKey: k", &[]),
        ("mode: SIMPLE", &["no-certificate", "no-certificate"]),
        ("mode: SIMPLE, credentialName: a", &[]),
        ("mode: SIMPLE, credentialNames: [a, b]", &[]),
        ("mode: SIMPLE, credentialName: a, credentialNames: [a]", &["certificate-conflict"]),
        ("mode: SIMPLE, serverCertificate: c, privateKey: k, caCrl: l", &["certificate-conflict"]),
        ("mode: MUTUAL, serverCertificate: c, privateKey: k", &["no-certificate"]),
        ("mode: MUTUAL, serverCertificate: c, privateKey: k, caCertificates: a, caCrl: l", &[]),
        ("mode: OPTIONAL_MUTUAL", &["no-certificate", "no-certificate", "no-certificate"]),
        ("mode: MUTUAL, credentialName: a", &[]),
        ("mode: SIMPLE, tlsCertificates: [{serverCertificate: c}]", &["no-certificate"]),
        ("mode: ISTIO_MUTUAL", &[]),
        ("mode: ISTIO_MUTUAL, credentialName: a", &["certificate-conflict"]),
        ("mode: PASSTHROUGH, caCrl: l", &["unused-certificate"]),
        ("mode: AUTO_PASSTHROUGH", &[]),
        ("mode: SIMPLE, credentialName: a, cipherSuites: [AES128-SHA, ALL, '+X']", &[]),
        (
            "mode: SIMPLE, credentialName: a, cipherSuites: [AES, AES128-SHA, AES128-SHA]",
            &["unknown-cipher", "duplicate-cipher"],
        ),
        ("mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_1", &["no-compatible-ciphers"]),
        ("mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_1, cipherSuites: [AES128-SHA]", &[]),
        ("httpsRedirect: true", &["redirect-without-http"]),
        (
            "mode: SIMPLE, tlsCertificates: [{serverCertificate: c, privateKey: k}, {serverCertificate: c, \
             privateKey: k}, {serverCertificate: c, privateKey: k}]",
            &["too-many-certificates"],
        ),
    ];
    for (tls, wanted) in rows {
        let port = "port: {number: 443, name: https, protocol: HTTPS}";
        hold::<Gateway>(&[(&format!("{{servers: [{{hosts: [a.b], {port}, tls: {{{tls}}}}}]}}"), wanted)]);
    }
}

#[test]
fn sidecars_are_legal() {
    let all = "egress: [{hosts: ['*/*']}]";
    hold::<Sidecar>(&[
        ("{}", &["empty-sidecar"]),
        ("{workloadSelector: {labels: {'': a}}}", &["bad-selector"]),
        (&format!("{{workloadSelector: {{}}, {all}}}"), &["empty-selector"]),
        ("{egress: [{hosts: ['./*', ns/a.b, '*/*.c', '~/x.y', '~ns/*']}]}", &[]),
        ("{egress: [{hosts: ['*/*', '~ns1/*']}]}", &[]),
        ("{egress: [{hosts: ['*/*', ns/a.b]}]}", &["superfluous-host"]),
        ("{egress: [{hosts: [default/a.b, './*']}]}", &["duplicate-host"]),
        ("{egress: [{hosts: [ns/a.b, ns/a.b]}]}", &["duplicate-host"]),
        ("{egress: [{hosts: ['*']}]}", &["bad-host"]),
        ("{egress: [{hosts: [/]}]}", &["bad-namespace", "bad-host"]),
        ("{egress: [{hosts: [ns/a]}]}", &["bad-host"]),
        ("{egress: [{hosts: ['ns/*a.b']}]}", &["bad-host"]),
        ("{egress: [{}]}", &["no-host"]),
        ("{egress: [{hosts: ['*/*']}, {hosts: ['*/*']}]}", &["catch-all-not-last"]),
        ("{egress: [{port: {number: 90}, hosts: ['*/*']}, {port: {number: 90}, hosts: ['*/*']}]}", &["duplicate-port"]),
        ("{egress: [{port: {protocol: http}, bind: 'unix://@a', hosts: ['*/*']}]}", &[]),
        ("{egress: [{port: {protocol: http}, bind: 'tcp://@a', hosts: ['*/*']}]}", &["bad-bind"]),
        ("{egress: [{port: {}, bind: 'unix:///a', captureMode: IPTABLES, hosts: ['*/*']}]}", &["bad-capture-mode"]),
        (
            "{egress: [{port: {number: 90, name: a_b, protocol: x, targetPort: 1}, bind: x, hosts: ['*/*']}]}",
            &["no-effect", "bad-port-name", "unknown-protocol", "bad-bind"],
        ),
        ("{outboundTrafficPolicy: {}}", &[]),
        ("{outboundTrafficPolicy: {egressProxy: {host: a.b, port: {number: 1}}}}", &["bad-egress-proxy"]),
        ("{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.b, port: {number: 1}}}}", &[]),
        ("{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.b}}}", &["no-port"]),
    ]);
    let rows: [(&str, &[&str]); 14] = [
        ("port: {number: 90}, defaultEndpoint: '127.0.0.1:80'", &[]),
        ("port: {number: 90}, defaultEndpoint: '[::1]:80'", &[]),
        ("port: {number: 90}, defaultEndpoint: ':80'", &[]),
        ("port: {number: 90}, defaultEndpoint: 'unix:///a'", &[]),
        ("port: {number: 90}, defaultEndpoint: '10.0.0.1:80'", &["bad-endpoint"]),
        ("port: {number: 90}, defaultEndpoint: '::1:80'", &["bad-endpoint"]),
        ("port: {number: 90}, defaultEndpoint: '127.0.0.1:x'", &["bad-endpoint"]),
        ("bind: 127.0.0.1", &["no-port"]),
        ("port: {}", &["port-out-of-range"]),
        ("port: {number: 90}, bind: 'unix:///a'", &["bad-bind"]),
        ("port: {number: 90, protocol: https}, tls: {mode: SIMPLE, serverCertificate: c, privateKey: k}", &[]),
        (
            "port: {number: 90, protocol: tcp}, tls: {mode: ISTIO_MUTUAL, httpsRedirect: true}",
            &["not-supported", "not-supported", "tls-on-plain-port"],
        ),
        ("port: {number: 90, protocol: http}, connectionPool: {}", &["empty-connection-pool"]),
        ("port: {number: 90, protocol: tcp}, connectionPool: {http: {}}", &["no-effect"]),
    ];
    for (listener, wanted) in rows {
        hold::<Sidecar>(&[(&format!("{{ingress: [{{{listener}}}]}}"), wanted)]);
    }
}

#[test]
fn service_entries_are_legal() {
    let http = "ports: [{number: 80, name: http, protocol: http}]";
    let entry = |fields: &str| format!("{{{fields}, {http}}}");
    let plain = |fields: &str| format!("{{{fields}}}");
    for (spec, wanted) in [
        (entry("hosts: [a.b]"), &[][..]),
        (entry("location: MESH_EXTERNAL"), &["no-host"]),
        (entry("hosts: ['*']"), &["bad-host"]),
        (entry("hosts: ['*a.b']"), &["partial-wildcard"]),
        (entry("hosts: [a.b], addresses: [10.0.0.0/8], resolution: STATIC"), &[]),
        (entry("hosts: [a.b], addresses: [10.0.0.0/8], resolution: DNS"), &["range-of-addresses"]),
        (entry("hosts: [a.b], addresses: [a]"), &["bad-address"]),
        (entry("hosts: [a.b], endpoints: [{address: 10.0.0.1}]"), &["unused-endpoints"]),
        (entry("hosts: [a.b], workloadSelector: {labels: {a: b}}"), &["no-effect"]),
        (entry("hosts: [a.b], workloadSelector: {labels: {a: b}}, resolution: DNS"), &[]),
        (entry("hosts: [a.b], workloadSelector: {labels: {a: '*'}}"), &["bad-selector"]),
        (
            entry(
                "hosts: [a.b], workloadSelector: {labels: {a: b}}, resolution: STATIC, endpoints: [{address: 1.1.1.1}]",
            ),
            &["exclusive-fields"],
        ),
        (entry("hosts: [a.b], resolution: STATIC, endpoints: [{address: 1.1.1.1, ports: {http: 80}}]"), &[]),
        (entry("hosts: [a.b], resolution: STATIC, endpoints: [{address: a.b}]"), &["bad-address"]),
        (entry("hosts: [a.b], resolution: STATIC, endpoints: [{address: 1.1.1.1, ports: {x: 80}}]"), &["unknown-port"]),
        (entry("hosts: [a.b], resolution: STATIC, endpoints: [{address: 'unix:///a'}]"), &[]),
        (
            entry("hosts: [a.b], resolution: STATIC, endpoints: [{address: 'unix:///a', ports: {http: 1}}]"),
            &["ports-of-socket"],
        ),
        (entry("hosts: ['*.a'], resolution: DNS"), &["unresolvable-host"]),
        (entry("hosts: ['*.a'], resolution: DNS, endpoints: [{address: a.b}, {address: 1.1.1.1}]"), &[]),
        (entry("hosts: ['*.a'], resolution: DNS, endpoints: [{address: '*.b'}]"), &["bad-address"]),
        (
            entry("hosts: [a.b], resolution: DNS_ROUND_ROBIN, endpoints: [{address: a.b}, {address: c.d}]"),
            &["too-many"],
        ),
        (entry("hosts: ['*.a', '*.b'], resolution: DYNAMIC_DNS"), &[]),
        (entry("hosts: [a.b], resolution: DYNAMIC_DNS, location: MESH_INTERNAL"), &["bad-location", "bad-host"]),
        (entry("hosts: ['*.a'], resolution: DYNAMIC_DNS, endpoints: [{address: a.b}]"), &["unused-endpoints"]),
        (entry("hosts: [a.b], exportTo: ['~']"), &[]),
        (entry("hosts: [a.b], exportTo: ['~', ns]"), &["mixed-export"]),
        (
            plain("hosts: ['*.a'], resolution: DYNAMIC_DNS, ports: [{number: 1, name: a, protocol: TCP}]"),
            &["unknown-protocol"],
        ),
        (plain("hosts: [a.b], ports: [{number: 1, name: a, protocol: TCP}]"), &["no-addresses"]),
        (plain("hosts: [a.b], resolution: DNS, ports: [{number: 1, name: a}]"), &[]),
        (
            plain("hosts: [a.b, c.d], resolution: DNS, ports: [{number: 1, name: a, protocol: TCP}]"),
            &["ambiguous-hosts"],
        ),
        (
            plain(
                "hosts: [a.b, c.d], addresses: [1.1.1.1], resolution: DNS, ports: [{number: 1, name: a, protocol: TLS}]",
            ),
            &["ambiguous-hosts"],
        ),
        (
            plain("hosts: [a.b], ports: [{number: 1, name: a, protocol: http}, {number: 1, name: a, protocol: http}]"),
            &["duplicate-port-name", "duplicate-port"],
        ),
        (
            plain("hosts: [a.b], ports: [{number: 0, name: '', protocol: x, targetPort: 70000}]"),
            &["port-out-of-range", "port-out-of-range", "bad-port-name", "unknown-protocol"],
        ),
    ] {
        hold::<ServiceEntry>(&[(&spec, wanted)]);
    }
}

#[test]
fn workloads_are_legal() {
    hold::<WorkloadEntry>(&[
        ("{address: 1.1.1.1, ports: {http: 1}, labels: {a: b}}", &[]),
        ("{address: a.b}", &[]),
        ("{}", &["no-address"]),
        ("{network: net}", &["no-address"]),
        ("{address: 'unix://relative'}", &["bad-address"]),
        ("{address: 'unix:///dir/'}", &["bad-address"]),
        ("{address: 'unix:///a', ports: {http: 1}}", &["ports-of-socket"]),
        ("{address: '*.a'}", &["bad-address"]),
        (
            "{address: a.b, ports: {'a b': 99999}, labels: {a: '*'}}",
            &["bad-port-name", "port-out-of-range", "bad-label"],
        ),
    ]);
    let network_only = validate(&read::<WorkloadEntry>("{network: net}").into());
    assert_eq!(network_only[0].severity, Severity::Warning);
}

#[test]
fn workload_groups_are_legal() {
    for (spec, wanted) in [
        ("{template: {serviceAccount: sa}}", &[][..]),
        ("{}", &["no-template"]),
        ("{template: {}, metadata: {labels: {'': a}}}", &["bad-label"]),
        ("{template: {ports: {http: 99999}}}", &["port-out-of-range"]),
        ("{template: {}, probe: {}}", &["empty-probe"]),
        ("{template: {}, probe: {tcpSocket: {port: 65536}}}", &["port-out-of-range"]),
        (
            "{template: {}, probe: {httpGet: {port: 1, scheme: FTP, httpHeaders: [{name: a_b}]}}}",
            &["bad-scheme", "bad-header-name"],
        ),
        ("{template: {}, probe: {exec: {}, periodSeconds: -1}}", &["negative", "empty-probe"]),
        ("{template: {}, probe: {exec: {command: [a]}, tcpSocket: {port: 1}}}", &["exclusive-fields"]),
    ] {
        let findings = validate_workload_group(&read::<WorkloadGroup>(spec));
        assert_eq!(codes(&findings), wanted, "{spec}: {findings:#?}");
    }
}

#[test]
fn annotations_of_istio_are_refused() {
    let mut rule: VirtualService = read(&with_rule("hosts: [a.b]"));
    rule.metadata.annotations.insert("istio.io/dry-run".into(), "true".into());
    let findings = validate(&rule.into());
    assert_eq!(codes(&findings), ["forbidden-annotation"]);
    assert_eq!(findings[0].field, "metadata.annotations[\"istio.io/dry-run\"]");
}

#[test]
fn a_route_of_the_gateway_api_may_go_anywhere() {
    let mut rule: VirtualService =
        read("{hosts: [a.b], gateways: [ns/g.h], http: [{route: [{destination: {host: a~b}}]}]}");
    assert_eq!(codes(&validate(&rule.clone().into())), ["bad-gateway-name", "bad-host"]);
    rule.metadata.annotations.insert("internal.istio.io/route-semantics".into(), "gateway".into());
    assert_eq!(codes(&validate(&rule.into())), [] as [&str; 0]);
}

#[test]
fn kinds_of_kubernetes_are_not_judged() {
    assert_eq!(validate(&Service::default().into()), []);
}

#[test]
fn findings_name_the_field() {
    let rule: VirtualService =
        read("{hosts: [a.b], http: [{match: [{headers: {x.y: {regex: '('}}}], redirect: {uri: /}}]}");
    let findings = validate(&rule.into());
    assert_eq!(findings[0].field, "spec.http[0].match[0].headers[\"x.y\"].regex");
    assert_eq!(findings[0].resource.as_ref().map(ToString::to_string).as_deref(), Some("VirtualService default/web"));
}
