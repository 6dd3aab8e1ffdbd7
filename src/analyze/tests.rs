use super::*;
use crate::yaml::Reading;

/// What is found in a text: code, resource and field.
fn found(text: &str) -> Vec<String> {
    let mut resources = Resources::new();
    resources.apply_text(text, "-", Reading::Lenient);
    let mut surroundings = Surroundings::default();
    surroundings.read(text, "-");
    findings(&resources, &surroundings, &Mesh::default())
        .iter()
        .map(|finding| {
            let resource = finding.resource.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{} {resource} {}", finding.code, finding.field)
        })
        .collect()
}

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web, version: v1}}
status: {podIP: 10.0.0.1}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}]}
---
";

fn virtual_service(name: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let rules = virtual_service("web", "{hosts: [web], http: [{route: [{destination: {host: web, subset: v1}}]}]}");
    assert_eq!(found(&format!("{WEB}{rules}")), [] as [&str; 0]);
}

#[test]
fn a_missing_subset_is_told_once_and_says_what_it_costs() {
    let rules = virtual_service("web", "{hosts: [web], http: [{route: [{destination: {host: web, subset: v9}}]}]}");
    let text = format!("{WEB}{rules}");
    assert_eq!(found(&text), ["IST0101 VirtualService default/web spec.http[0].route[0].destination"]);
    let mut resources = Resources::new();
    resources.apply_text(&text, "-", Reading::Lenient);
    let told = &findings(&resources, &Surroundings::default(), &Mesh::default())[0];
    assert!(told.message.contains("503 NC"), "{}", told.message);
    assert!(told.place.as_ref().is_some_and(|place| place.line > 0));
}

#[test]
fn a_subset_without_pods_is_told_where_it_is_defined() {
    let rule = WEB.replace("{name: v1, labels: {version: v1}}", "{name: v1, labels: {version: v2}}");
    let rules = virtual_service("web", "{hosts: [web], http: [{route: [{destination: {host: web, subset: v1}}]}]}");
    assert_eq!(found(&format!("{rule}{rules}")), ["IST0173 DestinationRule default/web spec.subsets[0]"]);
}

#[test]
fn a_conflict_is_told_once_for_each_and_says_who_wins() {
    let spec = "{hosts: [web], http: [{route: [{destination: {host: web}}]}]}";
    let text = format!("{WEB}{}{}", virtual_service("a", spec), virtual_service("b", spec));
    let told = found(&text);
    assert_eq!(told, ["IST0109 VirtualService default/a spec.hosts", "IST0109 VirtualService default/b spec.hosts"]);
}

#[test]
fn a_host_that_stands_twice_is_no_conflict() {
    let spec = "{hosts: [web, web.default.svc.cluster.local], http: [{route: [{destination: {host: web}}]}]}";
    assert_eq!(found(&format!("{WEB}{}", virtual_service("web", spec))), [] as [&str; 0]);
}

#[test]
fn a_shadowed_rule_is_told_with_the_one_that_covers_it() {
    let to = "route: [{destination: {host: web}}]";
    let spec = format!(
        "{{hosts: [web], http: [{{match: [{{uri: {{prefix: /}}}}], {to}}}, {{match: [{{uri: {{exact: /a}}}}], {to}}}]}}"
    );
    assert_eq!(
        found(&format!("{WEB}{}", virtual_service("web", &spec))),
        ["shadowed-rule VirtualService default/web spec.http[1]"]
    );
}

#[test]
fn two_regexes_are_not_taken_for_one() {
    let to = "route: [{destination: {host: web}}]";
    let block = |path: &str, regex: &str| {
        format!("{{match: [{{uri: {{prefix: {path}}}, headers: {{a: {{regex: {regex}}}}}}}], {to}}}")
    };
    let spec = format!("{{hosts: [web], http: [{}, {}]}}", block("/a", "x"), block("/ab", "y"));
    assert_eq!(found(&format!("{WEB}{}", virtual_service("web", &spec))), [] as [&str; 0]);
}

#[test]
fn what_stands_behind_a_rule_for_everything_is_never_reached() {
    let to = "route: [{destination: {host: web}}]";
    let spec = format!("{{hosts: [web], http: [{{{to}}}, {{match: [{{uri: {{prefix: /a}}}}], {to}}}]}}");
    assert_eq!(
        found(&format!("{WEB}{}", virtual_service("web", &spec))),
        ["IST0130 VirtualService default/web spec.http[1].match[0]"]
    );
}

#[test]
fn failover_needs_somebody_to_find_failures() {
    let policy = "trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}";
    let rule = WEB.replace("host: web, subsets", &format!("host: web, {policy}, subsets"));
    assert_eq!(
        found(&rule),
        [
            "failover-without-outlier-detection DestinationRule default/web spec.trafficPolicy.loadBalancer.localityLbSetting"
        ]
    );
    let mended = rule.replace("trafficPolicy: {", "trafficPolicy: {outlierDetection: {}, ");
    assert_eq!(found(&mended), [] as [&str; 0]);
}

#[test]
fn configuration_without_workloads_misses_no_pods() {
    let rules = virtual_service("web", "{hosts: [web], http: [{route: [{destination: {host: web}}]}]}");
    let service = WEB.split("---").next().unwrap_or_default();
    assert_eq!(found(&format!("{service}---\n{rules}")), [] as [&str; 0]);
}

#[test]
fn a_rule_that_delegates_lets_through_what_its_delegate_does_not_take() {
    let spec = "{hosts: [web], http: [{delegate: {name: inner}}, {route: [{destination: {host: web}}]}]}";
    let inner = "{http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: web}}]}]}";
    let text = format!("{WEB}{}{}", virtual_service("web", spec), virtual_service("inner", inner));
    assert_eq!(found(&text), [] as [&str; 0]);
}

#[test]
fn a_certificate_is_read_as_far_as_its_days() {
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec: {selector: {app: web}, servers: [\
                   {port: {number: 80, name: https, protocol: HTTPS}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: cert}}]}\n---\n";
    let secret = |name: &str, data: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ndata: {{tls.key: YQ==, tls.crt: {data}}}\n---\n"
        )
    };
    // PEM of a DER that holds for 2020 alone: only what is looked at is in it.
    let body = [b"\x02\x01\x01\x30\x00\x30\x00\x30\x1e\x17\x0d200101000000Z\x17\x0d201231235959Z".as_slice()].concat();
    let der = [&[0x30, body.len() as u8 + 2, 0x30, body.len() as u8][..], &body].concat();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", encoded(&der));
    let expired = encoded(pem.as_bytes());
    let codes = |secret: String, now: i64| {
        let text = format!("{WEB}{gateway}{secret}");
        let mut resources = Resources::new();
        resources.apply_text(&text, "-", Reading::Lenient);
        let mut surroundings = Surroundings::default().at(now);
        surroundings.read(&text, "-");
        let found = findings(&resources, &surroundings, &Mesh::default());
        found.iter().map(|finding| finding.code.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(codes(String::new(), 0), [] as [&str; 0]);
    assert_eq!(codes(secret("other", "YQ=="), 0), ["IST0101"]);
    assert_eq!(codes(secret("cert", "YQ=="), 0), ["IST0161"]);
    assert_eq!(codes(secret("cert", &expired), 1_590_000_000), [] as [&str; 0]);
    assert_eq!(codes(secret("cert", &expired), 1_700_000_000), ["IST0161"]);
}

/// Base64, the long way.
fn encoded(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    bits.chunks(6)
        .map(|six| LETTERS[six.iter().fold(0, |value, bit| value << 1 | usize::from(*bit)) << (6 - six.len())] as char)
        .collect()
}

fn envoy_filter(patch: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: a}}\nspec:\n  configPatches:\n  - applyTo: \
         HTTP_FILTER\n    match: {{context: SIDECAR_INBOUND}}\n    patch: {{operation: INSERT_BEFORE, value: {patch}}}\n---\n"
    )
}

#[test]
fn of_an_envoy_filter_only_what_is_not_understood_is_told_and_never_as_a_mistake() {
    let kind = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
    let config = format!("{{'@type': {kind}, stat_prefix: a, token_bucket: {{max_tokens: 1, fill_interval: 60s}}}}");
    let known = envoy_filter(&format!("{{name: envoy.filters.http.local_ratelimit, typed_config: {config}}}"));
    assert_eq!(found(&format!("{WEB}{known}")), [] as [&str; 0]);
    let lua = format!("{WEB}{}", envoy_filter("{name: envoy.filters.http.lua, typed_config: {}}"));
    assert_eq!(found(&lua), ["envoy-filter EnvoyFilter default/a spec.configPatches[0].patch.value.name"]);
    let mut resources = Resources::new();
    resources.apply_text(&lua, "-", Reading::Strict);
    let told = &findings(&resources, &Surroundings::default(), &Mesh::default())[0];
    assert_eq!((told.severity, told.place.as_ref().map(|place| place.line)), (Severity::Info, Some(24)));
}

/// A server says the Service's port or the pod's (istio `gatewayCustomIngressGatewayTranslation`).
#[test]
fn a_gateway_may_say_the_port_of_its_service_or_that_of_its_pods() {
    let told = |port: u16| {
        found(&format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec: {{selector: {{app: edge}}, servers: \
             [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}]}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: edge-0, labels: {{app: edge}}}}\nstatus: {{podIP: 10.0.0.9}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: edge}}\nspec: {{selector: {{app: edge}}, ports: [{{name: http, port: 80, \
             targetPort: 8003}}]}}"
        ))
    };
    assert_eq!((told(80), told(8003)), (vec![], vec![]));
    assert_eq!(told(8004), ["IST0162 Gateway default/edge spec.servers[0].port.number"]);
}

/// Sidecars answer DNS only where they are told to.
#[test]
fn an_address_that_was_given_out_is_none_that_clients_use() {
    let told = |spec: &str| {
        found(&format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e}}\nspec: {{hosts: [istio.io], ports: [{{number: \
             443, name: tcp, protocol: TCP}}], resolution: DNS{spec}}}\nstatus: {{addresses: [{{host: istio.io, value: 240.240.0.1}}]}}"
        ))
    };
    assert_eq!(told(""), ["IST0134 ServiceEntry default/e spec.ports[0]"]);
    assert_eq!(told(", addresses: [10.0.0.1]"), [] as [&str; 0]);
}
