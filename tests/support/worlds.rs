//! Small worlds: resources of every kind out of few names, and changes to them.

use meshroute::model::{IntOrString, Object};
use meshroute::{Reader, Reading, ResourceRef, Viewpoint, Views};

use crate::plans::Choices;

const NAMESPACES: [&str; 2] = ["x", "y"];
const NAMES: [&str; 3] = ["a", "b", "c"];
const HOSTS: [&str; 12] = [
    "a",
    "b",
    "c",
    "a.x.svc.cluster.local",
    "b.y.svc.cluster.local",
    "plain.com",
    "ext.com",
    "a.x",
    "a.y.svc",
    "*.x.svc.cluster.local",
    "*.com",
    "*",
];

/// Clients of two namespaces that differ in labels, and a gateway.
pub fn viewpoints() -> Vec<Viewpoint> {
    vec![
        Viewpoint::sidecar("x").label("app", "a"),
        Viewpoint::sidecar("x").label("app", "b").label("unheard", "of"),
        Viewpoint::sidecar("x").label("app", "b").label("v", "1"),
        Viewpoint::sidecar("y").label("app", "a"),
        Viewpoint::gateway("x").label("gw", "g"),
    ]
}

/// Clients that come later: in namespaces that were seen, and in one that nobody has anything in.
pub fn latecomer(choices: &mut Choices<'_>) -> Viewpoint {
    let viewpoint = Viewpoint::sidecar(choices.one(&["x", "y", "y", "z"]));
    match choices.below(4) {
        0 => viewpoint.label("app", choices.one(&NAMES)),
        1 => viewpoint.label("unheard", "of"),
        _ => viewpoint,
    }
}

/// Applies or deletes something, or some things at once.
pub fn change(choices: &mut Choices<'_>, views: &mut Views) {
    if choices.chance(12) {
        several(choices, views);
    } else if choices.chance(25) {
        let all: Vec<ResourceRef> = views.resources().iter().map(|resource| resource.reference.clone()).collect();
        if !all.is_empty() {
            views.delete(&all[choices.below(all.len())]).expect("what was resolved is legal");
        }
    } else {
        let made = match choices.below(10) {
            0 | 1 => retouched(choices, views),
            2 => reshaped(choices, views),
            3 => declared(choices),
            _ => object(choices),
        };
        if let Some(object) = made {
            views.apply(object).expect("what was resolved is legal");
        }
    }
}

/// A few changes that are published as one: some that come or change, and, where the whole is read again, some that go.
fn several(choices: &mut Choices<'_>, views: &mut Views) {
    let come: Vec<String> = (0..1 + choices.below(3)).map(|_| text(choices)).collect();
    let come = come.join("\n---\n");
    if choices.chance(50) {
        views.apply_text(&come, "-", Reading::Lenient);
        return;
    }
    let mut reader = Reader::new(Reading::Lenient);
    for resource in views.resources().iter().filter(|_| !choices.chance(8)) {
        reader.text(&meshroute::yaml::write(resource.object).expect("a resource can be written"), "-");
    }
    reader.text(&come, "-");
    assert!(!reader.failed(), "{:?}", reader.findings());
    views.replace(reader);
}

/// A Service or ServiceEntry that is there, in another shape; `None` where there is none.
fn reshaped(choices: &mut Choices<'_>, views: &Views) -> Option<Object> {
    let declares = |object: &&Object| matches!(object, Object::Service(_) | Object::ServiceEntry(_));
    let all: Vec<&Object> = views.resources().iter().map(|resource| resource.object).filter(declares).collect();
    let mut object = (*all.get(choices.below(all.len().max(1)))?).clone();
    let target = choices.below(3);
    match (&mut object, choices.below(4)) {
        (Object::Service(service), 0) => service.spec.ports.reverse(),
        (Object::Service(service), 1) => {
            service.spec.ports.iter_mut().for_each(|port| port.target_port = Some(IntOrString::Int(target as i64)));
        }
        (Object::Service(service), 2) => service.spec.cluster_ip = choices.one(&["", "10.0.0.1", "10.0.0.3"]).into(),
        (Object::Service(service), _) => {
            service.spec.ports.retain(|port| port.port == 80);
        }
        (Object::ServiceEntry(entry), 0) => entry.spec.hosts.reverse(),
        (Object::ServiceEntry(entry), 1) => {
            entry.spec.ports.iter_mut().for_each(|port| port.target_port = target as u32);
        }
        (Object::ServiceEntry(entry), 2) => {
            entry.spec.export_to = [".".to_string()][..choices.below(2)].to_vec();
        }
        (Object::ServiceEntry(entry), _) => {
            entry.spec.addresses = vec![format!("10.6.0.{}", choices.below(3))];
        }
        _ => {}
    }
    Some(object)
}

/// Something that declares services.
fn declared(choices: &mut Choices<'_>) -> Option<Object> {
    let text = if choices.chance(60) { service(choices) } else { entry(choices) };
    read(&text)
}

/// A resource that is there, with other endpoints; `None` where none has any.
fn retouched(choices: &mut Choices<'_>, views: &Views) -> Option<Object> {
    let has_endpoints =
        |object: &&Object| matches!(object, Object::Service(_) | Object::ServiceEntry(_) | Object::Deployment(_));
    let all: Vec<&Object> = views.resources().iter().map(|resource| resource.object).filter(has_endpoints).collect();
    let mut object = (*all.get(choices.below(all.len().max(1)))?).clone();
    let selector = [("app", choices.one(&NAMES)), ("gw", "g")][usize::from(choices.chance(20))];
    match &mut object {
        Object::Service(service) => service.spec.selector = [selector].map(|(k, v)| (k.into(), v.into())).into(),
        Object::ServiceEntry(entry) if choices.chance(50) => entry.spec.endpoints.clear(),
        Object::ServiceEntry(entry) => {
            let place = format!("10.5.0.{}", choices.below(3));
            entry.spec.endpoints.iter_mut().for_each(|endpoint| endpoint.address.clone_from(&place));
        }
        Object::Deployment(deployment) => deployment.spec.replicas = Some(choices.one(&[0, 1, 3])),
        _ => {}
    }
    Some(object)
}

/// A resource; `None` where the reader would not have it.
pub fn object(choices: &mut Choices<'_>) -> Option<Object> {
    read(&text(choices))
}

fn text(choices: &mut Choices<'_>) -> String {
    match choices.below(20) {
        0..=6 => rules(choices),
        7..=8 => service(choices),
        9..=11 => pod(choices),
        12 => slice(choices),
        13 => endpoints(choices),
        14 => workload(choices),
        15 => entry(choices),
        16..=17 => destination_rule(choices),
        18 => seldom(choices),
        _ => gateway(choices),
    }
}

fn read(text: &str) -> Option<Object> {
    let mut reader = Reader::new(Reading::Lenient);
    reader.text(text, "-");
    assert!(!reader.failed(), "{text}\n{:?}", reader.findings());
    reader.objects().next().cloned()
}

fn metadata(choices: &mut Choices<'_>) -> String {
    let (name, namespace) = (choices.one(&NAMES), choices.one(&NAMESPACES));
    format!("metadata: {{name: {name}, namespace: {namespace}}}")
}

fn labels(choices: &mut Choices<'_>) -> String {
    let version = if choices.chance(50) { format!(", v: '{}'", 1 + choices.below(2)) } else { String::new() };
    format!("{{app: {}{version}}}", choices.one(&NAMES))
}

fn service(choices: &mut Choices<'_>) -> String {
    let kept = choices.one(&["", "", "", "", "", "", "", "", "'.'", "x"]);
    let export = if kept.is_empty() {
        "}".to_string()
    } else {
        format!(", annotations: {{networking.istio.io/exportTo: {kept}}}}}")
    };
    let head = format!("apiVersion: v1\nkind: Service\n{}\n", metadata(choices).replace('}', &export));
    let ports = choices.one(&[
        "{name: http, port: 80}",
        "{name: http, port: 80}, {name: http-b, port: 8080}",
        "{name: odd, port: 80}",
        "{name: odd, port: 8080, targetPort: 9}",
        "{name: tcp, port: 9000}, {name: http, port: 80}",
        "{name: tls, port: 443}",
        "{name: http, port: 80, targetPort: http}",
        "{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}",
    ]);
    let kind = choices.one(&[
        "",
        "",
        "",
        "clusterIP: 10.0.0.1, ",
        "clusterIP: 10.0.0.2, ",
        "clusterIP: 10.0.0.3, ",
        "clusterIP: None, ",
        "type: ExternalName, externalName: ext.com, ",
        "type: ExternalName, externalName: b.x.svc.cluster.local, ",
    ]);
    let selector = if choices.chance(15) { "{gw: g}".to_string() } else { labels(choices) };
    format!("{head}spec: {{{kind}selector: {selector}, ports: [{ports}]}}")
}

fn pod(choices: &mut Choices<'_>) -> String {
    let (name, namespace) = (choices.one(&["p", "q", "r"]), choices.one(&NAMESPACES));
    // A gateway's own pods say where it listens.
    let labels = if choices.chance(15) { "{gw: g}".to_string() } else { labels(choices) };
    let ports = choices.one(&["{}", "{containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}"]);
    let ready = choices.one(&["True", "True", "False"]);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}\nspec: {ports}\n\
         status: {{podIP: 10.1.0.{}, conditions: [{{type: Ready, status: '{ready}'}}]}}",
        choices.below(4)
    )
}

fn slice(choices: &mut Choices<'_>) -> String {
    let (name, namespace, of) = (choices.one(&["s", "t"]), choices.one(&NAMESPACES), choices.one(&NAMES));
    let target = choices.one(&["", ", targetRef: {kind: Pod, name: p}", ", targetRef: {kind: Pod, name: q}"]);
    let port = choices.one(&["{name: http, port: 80}", "{name: odd, port: 81}"]);
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: {namespace}, labels: \
         {{kubernetes.io/service-name: {of}}}}}\naddressType: IPv4\nports: [{port}]\nendpoints: [{{addresses: [10.2.0.{}]{target}}}]",
        choices.below(3)
    )
}

fn endpoints(choices: &mut Choices<'_>) -> String {
    let head = format!("apiVersion: v1\nkind: Endpoints\n{}\n", metadata(choices));
    let target = choices.one(&["", ", targetRef: {kind: Pod, name: p}"]);
    format!(
        "{head}subsets: [{{addresses: [{{ip: 10.3.0.{}{target}}}], ports: [{{name: http, port: 80}}]}}]",
        choices.below(3)
    )
}

fn workload(choices: &mut Choices<'_>) -> String {
    let head = format!("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n{}\n", metadata(choices));
    format!("{head}spec: {{address: 10.4.0.{}, labels: {}}}", choices.below(3), labels(choices))
}

fn entry(choices: &mut Choices<'_>) -> String {
    let head = format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n{}\n", metadata(choices));
    let host = choices.one(&[
        "ext.com",
        "'*.ext.com'",
        "plain.com",
        "a.x.svc.cluster.local",
        "plain.com, b.ext.com",
        "b.ext.com, '*.ext.com'",
        "plain.com, ext.com, plain.com",
        "b.y",
        "'*.y.svc.cluster.local', b.y.svc.cluster.local",
        "10.0.0.2, Plain.com",
    ]);
    let port = choices.one(&[
        "{number: 80, name: http, protocol: HTTP}",
        "{number: 80, name: http, protocol: HTTP}",
        "{number: 8080, name: http, protocol: HTTP}, {number: 80, name: http-b, protocol: HTTP2}",
        "{number: 9000, name: tcp, protocol: TCP}",
        "{number: 443, name: tls, protocol: TLS}",
    ]);
    let from = match choices.below(4) {
        0 => "endpoints: [{address: 10.5.0.1, labels: {v: '1'}}], resolution: STATIC".to_string(),
        1 => format!("workloadSelector: {{labels: {}}}, resolution: STATIC", labels(choices)),
        2 => "resolution: DNS".to_string(),
        _ => "addresses: [10.6.0.0/16], resolution: NONE".to_string(),
    };
    let export = if choices.chance(30) { export(choices) } else { "" };
    format!("{head}spec: {{hosts: [{host}], ports: [{port}], {from}{export}}}")
}

fn export(choices: &mut Choices<'_>) -> &'static str {
    choices.one(&["", "", "", ", exportTo: ['.']", ", exportTo: [y]", ", exportTo: ['*']", ", exportTo: [x, z]"])
}

fn destination_rule(choices: &mut Choices<'_>) -> String {
    let head = format!("apiVersion: networking.istio.io/v1\nkind: DestinationRule\n{}\n", metadata(choices));
    let host = choices.one(&HOSTS);
    let subsets = choices.one(&[
        "{name: v1, labels: {v: '1'}}",
        "{name: v1, labels: {v: '1'}}, {name: v2, labels: {v: '2'}}",
        "{name: v2, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: h}}}}",
    ]);
    let selector = choices.one(&["", "", "", ", workloadSelector: {matchLabels: {app: a}}"]);
    let policy = choices.one(&["", ", trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}"]);
    format!("{head}spec: {{host: '{host}', subsets: [{subsets}]{policy}{selector}{}}}", export(choices))
}

fn rules(choices: &mut Choices<'_>) -> String {
    let (name, namespace) = (choices.one(&["a", "b", "c", "d"]), choices.one(&NAMESPACES));
    let head = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}, \
         creationTimestamp: '2024-01-01T00:00:0{}Z'}}\n",
        choices.below(3)
    );
    let http: Vec<String> = (0..=choices.below(2)).map(|_| http_rule(choices)).collect();
    let http = http.join(", ");
    if choices.chance(6) {
        return format!("{head}spec: {{http: [{http}]}}"); // a delegate
    }
    let wild = choices.chance(15);
    let known = if wild { &HOSTS[..] } else { &HOSTS[..9] };
    let hosts: Vec<String> = (0..choices.one(&[1, 1, 2])).map(|_| format!("'{}'", choices.one(known))).collect();
    let gateways = choices.one(&["", "", "", "", "", ", gateways: [mesh, g]", ", gateways: [x/g]"]);
    let opaque = match choices.below(16) {
        0 => ", tcp: [{route: [{destination: {host: b}}]}]",
        1 => ", tcp: [{match: [{sourceLabels: {app: a}}], route: [{destination: {host: c}}]}]",
        _ => "",
    };
    format!("{head}spec: {{hosts: [{}], http: [{http}]{gateways}{opaque}{}}}", hosts.join(", "), export(choices))
}

fn http_rule(choices: &mut Choices<'_>) -> String {
    let block = match choices.below(8) {
        0 => "match: [{uri: {prefix: /a}}], ",
        1 => "match: [{headers: {v: {exact: '1'}}}], ",
        2 => "match: [{sourceLabels: {app: a}}], ",
        3 => "match: [{sourceLabels: {app: b}, uri: {prefix: /a}}], ",
        4 => choices.one(&["match: [{sourceNamespace: y}], ", "match: [{sourceNamespace: x}], "]),
        5 => "match: [{port: 8080}], ",
        _ => "",
    };
    let to = |choices: &mut Choices<'_>| {
        let subset = choices.one(&["", "", ", subset: v1", ", subset: v2"]);
        let port = choices.one(&["", "", "", ", port: {number: 80}", ", port: {number: 8080}"]);
        format!("destination: {{host: {}{subset}{port}}}", choices.one(&["a", "b", "c", "ext.com"]))
    };
    match choices.below(8) {
        0 => format!("{{{block}delegate: {{name: {}}}}}", choices.one(&["a", "b", "c", "d"])),
        1 => format!("{{{block}redirect: {{uri: /elsewhere}}}}"),
        2 => format!("{{{block}route: [{{{}, weight: 10}}, {{{}, weight: 90}}]}}", to(choices), to(choices)),
        3 => format!("{{{block}route: [{{{}}}], mirrors: [{{{}}}]}}", to(choices), to(choices)),
        _ => format!("{{{block}name: n{}, route: [{{{}}}]}}", choices.below(3), to(choices)),
    }
}

fn gateway(choices: &mut Choices<'_>) -> String {
    let head = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: x}\n";
    let hosts = choices.one(&["'*'", "a", "plain.com, './b'"]);
    let selector = choices.one(&["gw: g", "gw: g", "app: a"]);
    format!(
        "{head}spec: {{selector: {{{selector}}}, servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [{hosts}]}}]}}"
    )
}

/// What is seldom changed.
fn seldom(choices: &mut Choices<'_>) -> String {
    let namespace = choices.one(&NAMESPACES);
    match choices.below(4) {
        0 => format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d, namespace: {namespace}}}\nspec: {{replicas: 2, \
             selector: {{matchLabels: {{app: a}}}}, template: {{metadata: {{labels: {{app: a, v: '1'}}}}}}}}"
        ),
        1 => format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s, namespace: {namespace}}}\nspec: \
             {{workloadSelector: {{labels: {{app: b}}}}, egress: [{{hosts: ['./*']}}]}}"
        ),
        2 => format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: t, namespace: {namespace}}}\nspec: \
             {{outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}}}"
        ),
        _ => format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}"),
    }
}
