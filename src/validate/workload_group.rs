//! A WorkloadGroup (`networking/v1alpha3/workload_group.proto`): what WorkloadEntries are made from.
//!
//! Routing has no use for it, so the model does not know it; admission judges it all the same.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::field::Field;
use super::findings::Findings;
use super::{annotations_are_allowed, domain, labels, reference};
use crate::diagnostic::Diagnostic;
use crate::model::{Metadata, WorkloadEntrySpec};

/// A WorkloadGroup: a template for workloads outside Kubernetes, and how their health is probed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadGroup {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(rename = "status")]
    _status: IgnoredAny,
    /// Its name, namespace, labels and so on.
    pub metadata: Metadata,
    /// What the operator asks for.
    pub spec: WorkloadGroupSpec,
}

/// What WorkloadEntries are made from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadGroupSpec {
    /// The labels and annotations that they get.
    pub metadata: Template,
    /// The rest of them; required.
    pub template: Option<WorkloadEntrySpec>,
    /// How their health is found out; absent = they count as healthy.
    pub probe: Option<Probe>,
}

/// The labels and annotations of a WorkloadEntry to come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Template {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// How the health of a workload is found out; one of the four ways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    /// Seconds before the first probe.
    pub initial_delay_seconds: i32,
    /// Seconds that a probe may take; 0 = 1.
    pub timeout_seconds: i32,
    /// Seconds between probes; 0 = 10.
    pub period_seconds: i32,
    /// Successes in a row for a sick workload to count as healthy; 0 = 1.
    pub success_threshold: i32,
    /// Failures in a row for a healthy workload to count as sick; 0 = 3.
    pub failure_threshold: i32,
    /// By a request; excludes the others.
    pub http_get: Option<HttpProbe>,
    /// By a connection; excludes the others.
    pub tcp_socket: Option<TcpProbe>,
    /// By a command; excludes the others.
    pub exec: Option<ExecProbe>,
    /// By gRPC's health protocol; excludes the others.
    pub grpc: Option<GrpcProbe>,
}

/// A probe by a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpProbe {
    /// The path that is asked for.
    pub path: String,
    /// The port; required.
    pub port: u32,
    /// The host that is connected to; empty = the workload.
    pub host: String,
    /// `HTTP` or `HTTPS`; empty = `HTTP`.
    pub scheme: String,
    /// Headers that are sent.
    pub http_headers: Vec<Option<HttpHeader>>,
}

/// A header of a probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HttpHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A probe by a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TcpProbe {
    /// The host that is connected to; empty = the workload.
    pub host: String,
    /// The port; required.
    pub port: u32,
}

/// A probe by a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExecProbe {
    /// The command and its arguments; required.
    pub command: Vec<String>,
}

/// A probe by gRPC's health protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GrpcProbe {
    /// The port; required.
    pub port: u32,
    /// The service that is asked about; empty = the server as a whole.
    pub service: String,
}

/// What Istio's admission has to say about a WorkloadGroup, as [`validate`](super::validate) does for the other kinds.
pub fn validate_workload_group(group: &WorkloadGroup) -> Vec<Diagnostic> {
    let mut found = Findings::new(reference("WorkloadGroup", &group.metadata));
    if annotations_are_allowed(&group.metadata, &mut found) {
        check(&group.spec, &Field::spec(), &mut found);
    }
    found.list()
}

/// A template without address is the normal case. What is wrong with labels is told before the probe is looked at.
fn check(spec: &WorkloadGroupSpec, field: &Field, found: &mut Findings) {
    let Some(template) = &spec.template else {
        return found.error(field, "no-template", "a WorkloadGroup must have a `template`");
    };
    template_fields(template, &field.key("template"), found);
    labels::check(&spec.metadata.labels, &field.key("metadata").key("labels"), found);
    if let Some(it) = &spec.probe {
        probe(it, &field.key("probe"), found);
    }
}

/// What the CRD's schema says of a WorkloadEntry, wherever one stands; but the address is not required here.
fn template_fields(template: &WorkloadEntrySpec, field: &Field, found: &mut Findings) {
    for (name, port) in &template.ports {
        let field = field.key("ports").key(name);
        if !domain::is_label(name) {
            found.error(&field, "bad-port-name", format!("`{name}` is no DNS label"));
        }
        found.port(&field, *port);
    }
    if let Some(path) = template.address.strip_prefix(domain::UNIX) {
        found.check(&field.key("address"), "bad-address", domain::unix(path));
        if !template.ports.is_empty() {
            found.error(&field.key("ports"), "ports-of-socket", "a Unix domain socket has no `ports`");
        }
    }
}

fn probe(probe: &Probe, field: &Field, found: &mut Findings) {
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (word, number) in numbers {
        found.not_negative(&field.key(word), number);
    }
    let ways = [
        ("httpGet", probe.http_get.is_some()),
        ("tcpSocket", probe.tcp_socket.is_some()),
        ("exec", probe.exec.is_some()),
        ("grpc", probe.grpc.is_some()),
    ];
    found.exclusive(field, &ways);
    if ways.iter().all(|(_, given)| !given) {
        found.error(field, "empty-probe", "a probe must have `httpGet`, `tcpSocket`, `exec` or `grpc`");
    }
    if let Some(http) = &probe.http_get {
        http_probe(http, &field.key("httpGet"), found);
    }
    if let Some(tcp) = &probe.tcp_socket {
        found.port(&field.key("tcpSocket").key("port"), tcp.port);
    }
    if let Some(grpc) = &probe.grpc {
        found.port(&field.key("grpc").key("port"), grpc.port);
    }
    let runs_nothing = |exec: &ExecProbe| exec.command.is_empty() || exec.command.iter().any(String::is_empty);
    if probe.exec.as_ref().is_some_and(runs_nothing) {
        found.error(&field.key("exec").key("command"), "empty-probe", "a command must not be empty");
    }
}

fn http_probe(probe: &HttpProbe, field: &Field, found: &mut Findings) {
    found.port(&field.key("port"), probe.port);
    if !["", "HTTP", "HTTPS"].contains(&probe.scheme.as_str()) {
        let message = format!("`{}` is neither `HTTP` nor `HTTPS`", probe.scheme);
        found.error(&field.key("scheme"), "bad-scheme", message);
    }
    for (i, header) in probe.http_headers.iter().enumerate() {
        let name = header.as_ref().map_or("", |header| header.name.as_str());
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            let message = format!("`{name}` is no header name of a probe");
            found.error(&field.key("httpHeaders").at(i), "bad-header-name", message);
        }
    }
}
