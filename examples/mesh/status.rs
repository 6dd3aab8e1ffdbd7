//! Discovery's page over HTTP: who has which version, what was found in the folder, and why a request goes where.
//!
//! `GET /` for people, `GET /status.json` for programs,
//! `GET /explain?from=NAMESPACE/POD&url=http://nginx:5000/&header=canary_id:1` for one request. Only reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use meshroute::{Diagnostic, Roll, Router, kubernetes};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::discovery::{Shared, once};
use crate::message;
use crate::wire::Part;
use crate::world::World;

/// What the page says, as data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Discovery's process.
    pub pid: u32,
    /// The version of what it knows.
    pub version: u64,
    /// How often the folder was read.
    pub readings: u64,
    /// Whether all pods run and everybody has the newest snapshot.
    pub settled: bool,
    /// What was found in what is in force.
    pub findings: Vec<Diagnostic>,
    /// Why the folder as it stands is not in force; empty: it is.
    pub refused: Vec<Diagnostic>,
    /// The pods.
    pub pods: Vec<PodStatus>,
    /// Each `namespace/service:port`.
    pub services: Vec<String>,
    /// Who is connected.
    pub subscribers: Vec<SubscriberStatus>,
}

/// A pod on the page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodStatus {
    /// `namespace/name`.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its made-up address.
    pub ip: String,
    /// Whether its process is connected.
    pub ready: bool,
}

/// A subscriber on the page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubscriberStatus {
    /// What it is.
    pub part: String,
    /// Its process.
    pub pid: u32,
    /// The last version that was sent.
    pub sent: u64,
    /// The last version that it put in force.
    pub acked: u64,
    /// Why it refused the last one.
    pub nack: Option<String>,
}

impl Status {
    fn of(world: &World) -> Self {
        let mut subscribers: Vec<_> = world.subscribers.values().collect();
        subscribers.sort_by_cached_key(|subscriber| subscriber.part.to_string());
        let resolved = subscribers.iter().flat_map(|subscriber| &subscriber.findings);
        Status {
            pid: std::process::id(),
            version: world.version,
            readings: world.readings,
            settled: world.is_settled(),
            findings: once(world.findings.iter().chain(resolved).cloned()),
            refused: once(world.refused.iter().flatten().cloned()),
            pods: world
                .pods()
                .map(|(pod, ready)| PodStatus {
                    name: format!("{}/{}", pod.metadata.namespace, pod.metadata.name),
                    labels: pod.metadata.labels.clone(),
                    ip: kubernetes::pod_ip(pod).unwrap_or_default().to_string(),
                    ready,
                })
                .collect(),
            services: world.service_ports(),
            subscribers: subscribers
                .iter()
                .map(|subscriber| SubscriberStatus {
                    part: subscriber.part.to_string(),
                    pid: subscriber.pid,
                    sent: subscriber.sent.0,
                    acked: subscriber.acked,
                    nack: subscriber.nack.clone(),
                })
                .collect(),
        }
    }

    fn page(&self) -> String {
        let mut page = format!("discovery  version {}  pid {}\n", self.version, self.pid);
        page.push_str("\npods\n");
        for pod in &self.pods {
            let ready = if pod.ready { "ready" } else { "not ready" };
            let _ = writeln!(page, "  {:<64} {:<16} {ready}", pod.name, pod.ip);
        }
        page.push_str("\nsubscribers                                                             pid   sent  acked\n");
        for one in &self.subscribers {
            let _ = writeln!(page, "  {:<64} {:>8} {:>6} {:>6}", one.part, one.pid, one.sent, one.acked);
            if let Some(nack) = &one.nack {
                let _ = writeln!(page, "    refused: {nack}");
            }
        }
        if !self.refused.is_empty() {
            page.push_str("\nthe folder as it stands is REFUSED; the last good version stays in force\n");
            push_findings(&mut page, &self.refused);
        }
        page.push_str("\nfindings in what is in force\n");
        push_findings(&mut page, &self.findings);
        page.push_str("\nas data: /status.json\n");
        page.push_str("one request: /explain?from=NAMESPACE/POD&url=http://HOST:PORT/PATH&header=NAME:VALUE\n");
        page
    }
}

fn push_findings(page: &mut String, findings: &[Diagnostic]) {
    if findings.is_empty() {
        page.push_str("  none\n");
    }
    for finding in findings {
        let _ = writeln!(page, "  {}", finding.to_string().replace('\n', "\n  "));
    }
}

/// Serves the page.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    message::serve(listener, move |request| {
        let shared = Arc::clone(&shared);
        async move { answer(&request, &shared) }
    })
    .await;
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/" => text(StatusCode::OK, Status::of(&shared.world()).page()),
        "/status.json" => match serde_json::to_string(&Status::of(&shared.world())) {
            Ok(json) => text(StatusCode::OK, json),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/explain" => match explain(request.uri().query().unwrap_or_default(), &shared.world()) {
            Ok(story) => text(StatusCode::OK, story),
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "there is /, /status.json and /explain\n".into()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

/// The whole story of one request, as the library tells it.
fn explain(query: &str, world: &World) -> Result<String, String> {
    let (mut from, mut url, mut method, mut headers) = (String::new(), String::new(), "GET".to_string(), Vec::new());
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "from" => from = decoded(value),
            "url" => url = decoded(value),
            "method" => method = decoded(value),
            "header" => {
                let line = decoded(value);
                let (name, value) = line.split_once(':').ok_or("a header is NAME:VALUE")?;
                headers.push((name.trim().to_string(), value.trim().to_string()));
            }
            _ => return Err(format!("`{key}` is not known; there is from, url, method and header")),
        }
    }
    let part = world.subscribers.values().map(|subscriber| &subscriber.part);
    let named =
        |part: &&Part| matches!(part, Part::Sidecar { namespace, pod, .. } if format!("{namespace}/{pod}") == from);
    let part = part.into_iter().find(named).ok_or_else(|| format!("there is no sidecar `{from}`"))?;
    let plan = world.plan(part).ok_or("it has no plan")?;
    let uri: hyper::Uri = url.parse().map_err(|error| format!("`{url}`: {error}"))?;
    let authority = uri.authority().ok_or_else(|| format!("`{url}` names no host"))?;
    let router = Router::compile(plan).map_err(|error| error.to_string())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = meshroute::Request::new(&method, authority.as_str(), path)
        .headers(&headers)
        .port(authority.port_u16().unwrap_or(80))
        .address(router.lookup(authority.host()).first().copied());
    Ok(format!("{}\n", router.plan().explain(&request, &Roll::random())))
}

/// Undoes `%41`; what is not that stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match (*first, code.and_then(|code| u8::from_str_radix(code, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
