//! Istio's standard metrics: counters and histograms by label, and how Prometheus reads them.
//!
//! Knows numbers and names. Knows nothing of how a request went, and looks at no clock.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::workload::{Service, UNKNOWN, Workload};

/// Upper bounds of the buckets, in milliseconds and in bytes alike: those of Envoy's histograms.
pub const BOUNDS: [f64; 19] =
    [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6];

/// The most series that are kept. Clients choose hosts, backends choose statuses and callers say who they are: none of them
/// must be able to fill the memory with that. What is too much is counted all the same, under labels of which there are few.
pub const MAX_SERIES: usize = 4096;
/// What a connection that is carried as a whole has for a protocol.
pub const TCP: &str = "tcp";

/// What a request is counted under. Every label is always there; what is not known is `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Labels {
    /// Whose proxy reports: the caller's (`source`), or that of who is asked (`destination`).
    pub reporter: Word,
    /// Who the caller has proved to be.
    pub source_principal: Arc<str>,
    /// Who answered has proved to be.
    pub destination_principal: Arc<str>,
    /// Who asks.
    pub source: Arc<Workload>,
    /// Who answered.
    pub destination: Arc<Workload>,
    /// Who was asked for.
    pub service: Arc<Service>,
    /// `http`, `grpc` or `tcp`.
    pub protocol: Word,
    /// The status; 0: none was sent.
    pub code: u16,
    /// gRPC's own status; empty where it is not gRPC.
    pub grpc: Word,
    /// Envoy's flags, with commas between them; `-`: none.
    pub flags: Word,
    /// `mutual_tls`, `none` or `unknown`.
    pub security: Word,
}

/// What most labels are: one of a few words.
pub type Word = Cow<'static, str>;

/// By what tells the series of one proxy apart, mostly: they are looked up for each request.
impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.code, &self.flags, &self.service.host, &self.destination.name).hash(state);
    }
}

impl Labels {
    /// Whether nobody answered, or with an error of the server's; with gRPC, with any error.
    pub fn is_failure(&self) -> bool {
        self.code == 0 || self.code >= 500 || !matches!(&*self.grpc, "" | "0")
    }

    /// Whether the caller's own proxy tells of the same: it is known who asks. Connections don't say it; those of the mesh prove
    /// at least that they have a proxy.
    pub fn is_second_hand(&self) -> bool {
        self.reporter == "destination"
            && (self.source.name != UNKNOWN || self.is_tcp() && self.security == "mutual_tls")
    }

    /// Whether it is of connections, which have no answers.
    pub fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }

    /// The labels of all that is one series too many: of each there are a few values.
    fn overflowed(&self) -> Self {
        let known = |word: &Word, words: &[&'static str]| {
            let known = words.iter().find(|known| *word == **known);
            Word::Borrowed(known.copied().unwrap_or(UNKNOWN))
        };
        Labels {
            reporter: known(&self.reporter, &["source", "destination"]),
            source_principal: UNKNOWN.into(),
            destination_principal: UNKNOWN.into(),
            source: Workload::unknown(),
            destination: Workload::unknown(),
            service: Service::unknown(),
            protocol: known(&self.protocol, &["http", "grpc", TCP]),
            code: if self.code < 600 { self.code / 100 * 100 } else { 0 },
            grpc: Word::default(),
            flags: "-".into(),
            security: UNKNOWN.into(),
        }
    }

    /// Istio's names and their values, in Istio's order.
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let (from, to, service) = (&*self.source, &*self.destination, &self.service);
        // A known service has a known cluster, also where none of its pods was reached.
        let in_mesh = service.namespace != UNKNOWN;
        let cluster = if in_mesh { "Kubernetes" } else { to.cluster() };
        let mut pairs = vec![("reporter", self.reporter.to_string())];
        let mut push = |name, value: &str| pairs.push((name, value.to_string()));
        push("source_workload", &from.name);
        push("source_canonical_service", &from.service);
        push("source_canonical_revision", &from.revision);
        push("source_workload_namespace", &from.namespace);
        push("source_principal", &self.source_principal);
        push("source_app", &from.app);
        push("source_version", &from.version);
        push("source_cluster", from.cluster());
        push("destination_workload", &to.name);
        push("destination_workload_namespace", &to.namespace);
        push("destination_principal", &self.destination_principal);
        push("destination_app", &to.app);
        push("destination_version", &to.version);
        push("destination_service", &service.host);
        push("destination_canonical_service", &to.service);
        push("destination_canonical_revision", &to.revision);
        push("destination_service_name", &service.name);
        push("destination_service_namespace", &service.namespace);
        push("destination_cluster", cluster);
        push("request_protocol", &self.protocol);
        if !self.is_tcp() {
            push("response_code", &self.code.to_string());
            push("grpc_response_status", &self.grpc);
        }
        push("response_flags", &self.flags);
        push("connection_security_policy", &self.security);
        pairs
    }

    fn written(&self) -> String {
        let pair = |(name, value): (&str, String)| format!("{name}=\"{}\"", escaped(&value));
        self.pairs().into_iter().map(pair).collect::<Vec<_>>().join(",")
    }
}

/// By which rule a request went where. No label of Istio's: discovery's page shows it, Prometheus does not get it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Via {
    /// The rule, as [`rule_key`](crate::world::rule_key) names it; empty: the service's default route.
    pub rule: Arc<str>,
    /// The cluster, by Istio's name for it; empty: none.
    pub cluster: Arc<str>,
}

/// How often values fell into each of some ranges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// One for each of [`BOUNDS`], not added up, and one for all above.
    pub buckets: Vec<u64>,
    /// All values together.
    pub sum: f64,
}

impl Histogram {
    /// Counts a value.
    pub fn observe(&mut self, value: f64) {
        self.buckets.resize(BOUNDS.len() + 1, 0);
        let at = BOUNDS.iter().position(|bound| value <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[at] += 1;
        self.sum += value;
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Takes in another's values.
    pub fn add(&mut self, other: &Histogram) {
        self.buckets.resize(BOUNDS.len() + 1, 0);
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, more)| *mine += more);
        self.sum += other.sum;
    }

    /// What came since an earlier state of it.
    pub fn since(&self, before: &Histogram) -> Histogram {
        let was = before.buckets.iter().copied().chain(std::iter::repeat(0));
        let buckets = self.buckets.iter().zip(was).map(|(now, was)| now.saturating_sub(was)).collect();
        Histogram { buckets, sum: (self.sum - before.sum).max(0.0) }
    }

    /// The value below which this share of the values lies, as Prometheus guesses it: evenly within a bucket.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = share * self.count() as f64;
        let mut below = 0.0;
        for (at, count) in self.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = *count as f64;
            if below + count >= rank {
                let low = if at == 0 { 0.0 } else { BOUNDS[at - 1] };
                let high = BOUNDS.get(at).copied().unwrap_or(low);
                return Some(low + (high - low) * ((rank - below) / count));
            }
            below += count;
        }
        None
    }
}

/// What is counted of connections that are carried as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Connections that began.
    pub opened: u64,
    /// Connections that ended.
    pub closed: u64,
    /// The bytes that whoever called has sent: Istio's `istio_tcp_received_bytes_total`.
    pub received: u64,
    /// The bytes that were sent to whoever called: Istio's `istio_tcp_sent_bytes_total`.
    pub sent: u64,
}

impl Carried {
    /// Takes in another's.
    pub fn add(&mut self, other: &Carried) {
        self.opened += other.opened;
        self.closed += other.closed;
        self.received += other.received;
        self.sent += other.sent;
    }

    /// What came since an earlier state.
    pub fn since(&self, before: &Carried) -> Carried {
        Carried {
            opened: self.opened.saturating_sub(before.opened),
            closed: self.closed.saturating_sub(before.closed),
            received: self.received.saturating_sub(before.received),
            sent: self.sent.saturating_sub(before.sent),
        }
    }
}

/// What is counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// Their durations, in milliseconds.
    pub duration: Histogram,
    /// The sizes of their bodies.
    pub received: Histogram,
    /// The sizes of the answers' bodies.
    pub sent: Histogram,
    /// Connections, where it is they that are counted.
    #[serde(default)]
    pub carried: Carried,
}

impl Counts {
    /// Takes in other counts.
    pub fn add(&mut self, other: &Counts) {
        self.requests += other.requests;
        self.duration.add(&other.duration);
        self.received.add(&other.received);
        self.sent.add(&other.sent);
        self.carried.add(&other.carried);
    }
}

/// One request, once it is over.
pub struct Observation {
    /// How long it took, in milliseconds.
    pub duration: f64,
    /// The size of its body.
    pub received: u64,
    /// The size of the answer's body.
    pub sent: u64,
}

/// One series, as discovery asks for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What is counted under.
    pub labels: Labels,
    /// By which rule it went.
    pub via: Via,
    /// What was counted so far.
    pub counts: Counts,
}

/// All counters of a proxy, as discovery asks for them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stats {
    /// How long it has run, in milliseconds.
    pub uptime: u64,
    /// The series.
    pub samples: Vec<Sample>,
}

/// All that a proxy counts.
#[derive(Default)]
pub struct Metrics {
    series: Mutex<Series>,
}

#[derive(Default)]
struct Series {
    known: HashMap<Arc<(Labels, Via)>, usize>,
    counts: Vec<(Arc<(Labels, Via)>, Counts)>,
    /// Which one was counted last under a [`Series::mark`]: most requests are like one shortly before.
    recent: [usize; 32],
}

impl Series {
    /// The counts of a series, which may be new; or of the one that stands for all that are too many.
    fn of(&mut self, mut labels: Labels, mut via: Via) -> &mut Counts {
        let mark = Series::mark(&labels);
        let likely = self.recent[mark];
        let is_it = |(key, _): &(Arc<(Labels, Via)>, _)| key.0 == labels && key.1 == via;
        if self.counts.get(likely).is_some_and(is_it) {
            return &mut self.counts[likely].1;
        }
        if self.counts.len() >= MAX_SERIES && !self.known.contains_key(&(labels.clone(), via.clone())) {
            (labels, via) = (labels.overflowed(), Via::default());
        }
        let key = Arc::new((labels, via));
        let at = *self.known.entry(Arc::clone(&key)).or_insert_with(|| {
            self.counts.push((key, Counts::default()));
            self.counts.len() - 1
        });
        self.recent[mark] = at;
        &mut self.counts[at].1
    }

    /// Tells series apart at little cost: by where things are, not by what they are.
    fn mark(labels: &Labels) -> usize {
        let (service, destination) = (Arc::as_ptr(&labels.service).addr(), Arc::as_ptr(&labels.destination).addr());
        ((service >> 4) ^ (destination >> 6) ^ usize::from(labels.code)) % 32
    }
}

impl Metrics {
    /// Counts a request.
    pub fn observe(&self, labels: Labels, via: Via, seen: &Observation) {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = series.of(labels, via);
        counts.requests += 1;
        counts.duration.observe(seen.duration);
        counts.received.observe(seen.received as f64);
        counts.sent.observe(seen.sent as f64);
    }

    /// Counts what has become of a connection since it was last told of.
    pub fn carry(&self, labels: Labels, via: Via, seen: &Carried) {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.of(labels, via).carried.add(seen);
    }

    /// All series.
    pub fn samples(&self) -> Vec<Sample> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let sample = |(key, counts): &(Arc<(Labels, Via)>, Counts)| {
            let (labels, via) = (key.0.clone(), key.1.clone());
            Sample { labels, via, counts: counts.clone() }
        };
        let mut samples: Vec<Sample> = series.counts.iter().map(sample).collect();
        drop(series);
        samples.sort_by(|one, other| (&one.labels, &one.via).cmp(&(&other.labels, &other.via)));
        samples
    }

    /// All series as Prometheus reads them (text format 0.0.4).
    pub fn exposition(&self) -> String {
        let mut by_labels: BTreeMap<Labels, Counts> = BTreeMap::new();
        for sample in self.samples() {
            by_labels.entry(sample.labels).or_default().add(&sample.counts);
        }
        let (connections, requests): (Vec<_>, Vec<_>) = by_labels
            .into_iter()
            .map(|(labels, counts)| (labels.is_tcp(), labels.written(), counts))
            .partition(|(is_tcp, ..)| *is_tcp);
        let mut text = build("proxy");
        head(&mut text, "istio_requests_total", "counter", "Requests that were handled.");
        for (_, labels, counts) in &requests {
            let _ = writeln!(text, "istio_requests_total{{{labels}}} {}", counts.requests);
        }
        let mut push = |name, help, histogram: fn(&Counts) -> &Histogram| {
            head(&mut text, name, "histogram", help);
            requests.iter().for_each(|(_, labels, counts)| push_histogram(&mut text, name, labels, histogram(counts)));
        };
        push("istio_request_duration_milliseconds", "How long requests took.", |counts| &counts.duration);
        push("istio_request_bytes", "Sizes of requests' bodies.", |counts| &counts.received);
        push("istio_response_bytes", "Sizes of answers' bodies.", |counts| &counts.sent);
        let mut push = |name, help, value: fn(&Carried) -> u64| {
            head(&mut text, name, "counter", help);
            for (_, labels, counts) in &connections {
                let _ = writeln!(text, "{name}{{{labels}}} {}", value(&counts.carried));
            }
        };
        // Istio names them as whoever answers sees it: sent is what the caller gets (istio/istio#32399).
        push("istio_tcp_sent_bytes_total", "Bytes that went back to callers.", |carried| carried.sent);
        push("istio_tcp_received_bytes_total", "Bytes that came from callers.", |carried| carried.received);
        push("istio_tcp_connections_opened_total", "Connections that began.", |carried| carried.opened);
        push("istio_tcp_connections_closed_total", "Connections that ended.", |carried| carried.closed);
        text
    }
}

/// gRPC's status as a label: one of its seventeen codes. What is none of them means `UNKNOWN` to a client too (gRPC, "Status
/// codes and their use"); empty: none was sent.
pub fn grpc_status(sent: &str) -> &'static str {
    const CODES: [&str; 17] =
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
    match sent {
        "" => "",
        sent => CODES.into_iter().find(|code| *code == sent).unwrap_or("2"),
    }
}

/// The two lines that stand before a metric.
pub fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Istio's word for which build this is.
pub fn build(component: &str) -> String {
    let mut text = String::new();
    head(&mut text, "istio_build", "gauge", "Which build this is.");
    let _ =
        writeln!(text, "istio_build{{component=\"{component}\",tag=\"meshroute-{}\"}} 1", env!("CARGO_PKG_VERSION"));
    text
}

fn push_histogram(text: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let mut below = 0;
    for (bound, count) in BOUNDS.iter().zip(&histogram.buckets) {
        below += count;
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
    }
    let count = histogram.count();
    let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {count}", histogram.sum);
}

/// As the text format has it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
