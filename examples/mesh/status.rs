//! Discovery's page over HTTP: who has which version, what was found in the folder, and why a request goes where.
//!
//! `GET /` for people (a browser gets the [`dashboard`]), `GET /status.json` for programs,
//! `GET /explain?from=NAMESPACE/POD&url=http://nginx:5000/&header=canary_id:1` for one request. Only reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use meshroute::{Diagnostic, Router, kubernetes};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::admin::{TEXT, json_page, page};
use crate::ads::{Channel, Type};
use crate::dashboard;
use crate::discovery::{Shared, once};
use crate::explain::{self, Asked};
use crate::message;
use crate::wire::Part;
use crate::world::World;

const INDEX: &str = "\
/                  this mesh: for browsers a live graph, for others a list
/status.json       the list as data
/explain           ?from=NAMESPACE/POD&url=http://HOST:PORT/PATH&header=NAME:VALUE: why a request goes where
/config_dump       ?from=NAMESPACE/POD: a proxy's resolved plan, with file and line of each route
/api/graph         ?duration=60s: the graph in Kiali's form
/api/targets       the proxies, for Prometheus' http_sd_configs
/api/resources     what is in force, in order of application
/metrics           discovery's own metrics
/healthz/ready     200 once the folder was read
";

/// What the page says, as data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Discovery's process.
    pub pid: u32,
    /// Where parts subscribe, and are signed.
    pub api: SocketAddr,
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
    /// Whether its process is connected, and its sidecar's.
    pub ready: bool,
    /// Whether it has a sidecar.
    pub sidecar: bool,
}

/// A subscriber on the page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubscriberStatus {
    /// What it is.
    pub part: String,
    /// Its process.
    pub pid: u32,
    /// The port of its own page; 0: it has none.
    pub admin: u16,
    /// Where it takes what comes to its pod's ports.
    pub inbound: BTreeMap<u16, SocketAddr>,
    /// The last version of which something was sent.
    pub sent: u64,
    /// The last one that it has as a whole.
    pub acked: u64,
    /// Why it refused what it refused.
    pub nack: Option<String>,
    /// How far it is, by type: `cds`, `eds`, `lds`, `rds`, ...
    pub types: BTreeMap<String, TypeStatus>,
}

/// How far a subscriber is with one type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TypeStatus {
    /// The last version that was sent.
    pub sent: u64,
    /// The nonce of that push.
    pub nonce: u64,
    /// The last version that it accepted.
    pub acked: u64,
    /// The version that it refused since, if it did.
    pub refused: Option<u64>,
    /// Why.
    pub nack: Option<String>,
}

impl TypeStatus {
    fn of(channel: &Channel) -> Self {
        let Channel { sent, nonce, acked, refused, .. } = channel;
        TypeStatus {
            sent: *sent,
            nonce: *nonce,
            acked: *acked,
            refused: refused.as_ref().map(|refused| refused.version),
            nack: refused.as_ref().map(|refused| refused.reason.clone()),
        }
    }

    /// As `istioctl proxy-status` has it.
    fn word(&self) -> &'static str {
        match self {
            TypeStatus { refused: Some(_), .. } => "REFUSED",
            TypeStatus { sent, acked, .. } if sent == acked => "SYNCED",
            _ => "STALE",
        }
    }
}

impl Status {
    fn of(world: &World, api: SocketAddr) -> Self {
        let mut subscribers: Vec<_> = world.subscribers.values().collect();
        subscribers.sort_by_cached_key(|subscriber| subscriber.part.to_string());
        let typed = |(r#type, channel): (Type, &Channel)| (r#type.short().to_string(), TypeStatus::of(channel));
        let resolved = subscribers.iter().flat_map(|subscriber| &subscriber.findings);
        Status {
            pid: std::process::id(),
            api,
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
                    sidecar: world.is_injected(pod),
                })
                .collect(),
            services: world.service_ports(),
            subscribers: subscribers
                .iter()
                .map(|subscriber| SubscriberStatus {
                    part: subscriber.part.to_string(),
                    pid: subscriber.pid,
                    admin: subscriber.admin,
                    inbound: match &subscriber.part {
                        Part::Sidecar { inbound, .. } => inbound.clone(),
                        _ => BTreeMap::new(),
                    },
                    sent: subscriber.subscription.sent(),
                    acked: subscriber.acked,
                    nack: subscriber.nack(),
                    types: subscriber.subscription.channels().map(typed).collect(),
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
        page.push_str(
            "\nsubscribers                                                             pid   sent  acked  page\n",
        );
        for one in &self.subscribers {
            let own = if one.admin == 0 { String::new() } else { format!("  127.0.0.1:{}", one.admin) };
            let _ = writeln!(page, "  {:<64} {:>8} {:>6} {:>6}{own}", one.part, one.pid, one.sent, one.acked);
            let words: Vec<String> =
                one.types.iter().map(|(name, channel)| format!("{name} {}", channel.word())).collect();
            let _ = writeln!(page, "    {}", words.join("  "));
            for (name, channel) in &one.types {
                if let (Some(version), Some(nack)) = (channel.refused, &channel.nack) {
                    let _ =
                        writeln!(page, "    {name} of version {version} refused, {} in force: {nack}", channel.acked);
                }
            }
        }
        if !self.refused.is_empty() {
            page.push_str("\nthe folder as it stands is REFUSED; the last good version stays in force\n");
            push_findings(&mut page, &self.refused);
        }
        page.push_str("\nfindings in what is in force\n");
        push_findings(&mut page, &self.findings);
        page.push('\n');
        page.push_str(INDEX);
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
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    match path {
        "/" if dashboard::is_browser(request) => dashboard::html(),
        "/" => page(StatusCode::OK, TEXT, Status::of(&shared.world(), shared.api).page()),
        "/status.json" => json_page(&Status::of(&shared.world(), shared.api)),
        "/explain" => explain(query, &shared.world())
            .unwrap_or_else(|error| page(StatusCode::BAD_REQUEST, TEXT, format!("{error}\n"))),
        _ => dashboard::answer(path, query, shared).unwrap_or_else(|| page(StatusCode::NOT_FOUND, TEXT, INDEX)),
    }
}

/// The whole story of one request, as the library tells it.
fn explain(query: &str, world: &World) -> Result<Response<Full<Bytes>>, String> {
    let asked = Asked::parse(query)?;
    let part = world.named(&asked.from).ok_or_else(|| format!("there is no sidecar `{}`", asked.from))?;
    let plan = world.plan(part).ok_or("it has no plan")?;
    let places = world.places(&plan);
    let router = Router::compile(plan).map_err(|error| error.to_string())?;
    let story = explain::explain(&asked, &router, &places)?;
    Ok(if asked.as_json {
        json_page(&story)
    } else {
        page(StatusCode::OK, TEXT, format!("{}\n", story.steps.join("\n")))
    })
}
