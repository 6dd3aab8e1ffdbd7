//! What of the small mesh's parts is pure, with time handed in: when roots are replaced, what is counted and kept.

#[path = "../examples/mesh/ca.rs"]
#[allow(dead_code)] // The example uses the rest.
mod ca;
#[path = "../examples/mesh/history.rs"]
#[allow(dead_code)]
mod history;
#[path = "../examples/mesh/metrics.rs"]
#[allow(dead_code)]
mod metrics;
#[path = "../examples/mesh/spiffe.rs"]
#[allow(dead_code)]
mod spiffe;
#[path = "../examples/mesh/warmth.rs"]
mod warmth;
#[path = "../examples/mesh/workload.rs"]
#[allow(dead_code)]
mod workload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ca::Authority;
use history::{History, Window};
use metrics::{Carried, Labels, MAX_SERIES, Metrics, Observation, Stats, Via, Word, grpc_status};
use rcgen::{CertificateParams, KeyPair};
use spiffe::Name;
use warmth::{Look, Warmth};
use workload::{Service, UNKNOWN, Workload};

/// What the example calls so.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where an authority keeps its roots, in a folder that goes with it.
struct Kept(PathBuf);

impl Kept {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("meshroute-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Kept(folder.join("roots"))
    }

    /// An authority whose certificates are good for 100 seconds and whose root is replaced after 1000.
    fn open(&self, now: u64) -> Result<Authority, Failure> {
        Authority::open(&self.0, Duration::from_secs(100), Some(Duration::from_secs(1000)), now)
    }

    /// Nothing can be written any more, as on a full disk; or it can again.
    fn fill(&self, full: bool) {
        let beside = self.0.with_extension("new");
        let _ = std::fs::remove_file(&beside);
        if full { std::fs::create_dir(beside).unwrap() } else { std::fs::remove_dir(beside).unwrap() }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

/// Whether it signs with the root that was made then.
fn signs_with(authority: &Authority, made: u64) -> bool {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let signed = authority.sign(request.der(), &Name::new("default", "client")).unwrap();
    let name = format!("root {made}");
    signed.windows(name.len()).any(|window| window == name.as_bytes())
}

/// When it all begins.
const START: u64 = 1_800_000_000;

#[test]
fn an_old_root_is_trusted_until_the_last_that_it_signed_is_over() {
    let kept = Kept::new("root-goes");
    let mut authority = kept.open(START).unwrap();
    assert!(!authority.turn(true, START + 999).unwrap());
    assert!(authority.turn(true, START + 1000).unwrap(), "the second root is there");
    let second = START + 1000;
    // Somebody has not heard of it, for much longer than a certificate is good for.
    for late in [1, 200, 5000] {
        assert!(!authority.turn(false, second + late).unwrap());
        assert!(signs_with(&authority, START) && authority.bundle().len() == 2);
    }
    let switched = second + 6000;
    assert!(!authority.turn(true, switched).unwrap(), "the bundle is what it was");
    assert!(signs_with(&authority, second));
    for after in [0, 1, 100, 160] {
        assert!(!authority.turn(true, switched + after).unwrap());
        assert_eq!(authority.bundle().len(), 2, "{after} s after the last that the old root signed");
    }
    assert!(authority.turn(true, switched + 161).unwrap());
    assert!(authority.bundle().len() == 1 && signs_with(&authority, second));
    // And so it goes on, counted from when the second was made.
    assert!(authority.turn(true, switched + 162).unwrap() && authority.bundle().len() == 2);
}

#[test]
fn who_signs_and_since_when_outlives_a_restart() {
    let kept = Kept::new("root-stays");
    let mut authority = kept.open(START).unwrap();
    authority.turn(true, START + 1000).unwrap();
    let mut authority = kept.open(START + 1001).unwrap();
    assert!(signs_with(&authority, START), "not everybody has heard of the second");
    authority.turn(true, START + 1010).unwrap();
    let mut authority = kept.open(START + 1100).unwrap();
    assert!(signs_with(&authority, START + 1000), "the second has begun to sign");
    assert!(!authority.turn(true, START + 1170).unwrap());
    assert!(authority.turn(true, START + 1171).unwrap() && authority.bundle().len() == 1);
    assert!(signs_with(&kept.open(START + 1172).unwrap(), START + 1000));
}

#[test]
fn a_root_that_cannot_be_kept_is_none() {
    let kept = Kept::new("root-full");
    let mut authority = kept.open(START).unwrap();
    kept.fill(true);
    for later in [1000, 1001, 1002] {
        assert!(authority.turn(true, START + later).is_err());
        assert!(authority.bundle().len() == 1 && signs_with(&authority, START));
    }
    kept.fill(false);
    assert!(authority.turn(true, START + 1003).unwrap());
    kept.fill(true);
    assert!(authority.turn(true, START + 1004).is_err());
    assert!(signs_with(&authority, START), "that the second signs is not kept, so it does not");
    kept.fill(false);
    authority.turn(true, START + 1005).unwrap();
    assert!(signs_with(&authority, START + 1003));
}

#[test]
fn roots_that_cannot_be_read_are_not_replaced_in_silence() {
    let kept = Kept::new("root-broken");
    kept.open(START).unwrap();
    for broken in ["", "[", "[]", "{}"] {
        std::fs::write(&kept.0, broken).unwrap();
        let error = kept.open(START).err().expect("there was a root").to_string();
        assert!(error.contains("roots` cannot be read: ") && error.contains("put the file back"), "{error}");
        assert_eq!(std::fs::read_to_string(&kept.0).unwrap(), broken);
    }
    std::fs::remove_file(&kept.0).unwrap();
    assert!(kept.open(START).is_ok());
}

/// A request of somebody unknown to nobody known, that was answered so.
fn labels(code: u16) -> Labels {
    Labels {
        reporter: "source".into(),
        source_principal: UNKNOWN.into(),
        destination_principal: UNKNOWN.into(),
        source: Workload::unknown(),
        destination: Workload::unknown(),
        service: Service::unknown(),
        protocol: "http".into(),
        code,
        grpc: Word::default(),
        flags: "-".into(),
        security: UNKNOWN.into(),
    }
}

fn called(name: &str) -> Arc<Workload> {
    Arc::new(Workload { name: name.into(), ..(*Workload::unknown()).clone() })
}

const SEEN: Observation = Observation { duration: 2.0, received: 3, sent: 4 };

#[test]
fn whatever_others_say_the_series_stay_few_and_nothing_goes_uncounted() {
    let metrics = Metrics::default();
    let many = 3 * MAX_SERIES as u64;
    for at in 0..many {
        // Hosts, statuses, flags and callers that never come again.
        let mut labels = labels(100 + (at % 900) as u16);
        (labels.flags, labels.grpc) = (format!("F{at}").into(), format!("{at}").into());
        labels.service = Arc::new(Service::nobodys("PassthroughCluster", &format!("host-{at}.example")));
        labels.source = called(&format!("caller-{at}"));
        labels.protocol = if at % 2 == 0 { "http".into() } else { "grpc".into() };
        labels.reporter = if at % 3 == 0 { "source".into() } else { "destination".into() };
        metrics.observe(labels, Via { rule: format!("{at}").into(), cluster: "c".into() }, &SEEN);
    }
    let samples = metrics.samples();
    assert!(samples.len() <= MAX_SERIES + 64, "{} series", samples.len());
    assert_eq!(samples.iter().map(|sample| sample.counts.requests).sum::<u64>(), many);
    // What was known before is still told by itself.
    metrics.observe(samples[0].labels.clone(), samples[0].via.clone(), &SEEN);
    assert_eq!(metrics.samples()[0].counts.requests, samples[0].counts.requests + 1);
}

#[test]
fn a_grpc_status_that_is_none_is_unknown() {
    for code in 0..=16 {
        assert_eq!(grpc_status(&code.to_string()), code.to_string());
    }
    assert_eq!((grpc_status(""), grpc_status("17"), grpc_status("\"} 1"), grpc_status("00")), ("", "2", "2", "2"));
}

#[test]
fn a_host_is_a_label_only_where_it_may_be_a_host() {
    assert_eq!(Service::nobodys("PassthroughCluster", "a.example:81").host, "a.example:81");
    assert_eq!(Service::nobodys("PassthroughCluster", &"a".repeat(300)).host, UNKNOWN);
    assert!(called("a").is_plausible() && !called(&"a".repeat(300)).is_plausible());
}

#[test]
fn connections_have_metrics_and_labels_of_their_own() {
    let metrics = Metrics::default();
    let mut labels = labels(0);
    labels.protocol = "tcp".into();
    metrics.carry(labels, Via::default(), &Carried { opened: 2, closed: 1, received: 10, sent: 20 });
    let text = metrics.exposition();
    let value = |name: &str| {
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect();
        assert_eq!(lines.len(), 1, "{name} in {text}");
        assert!(lines[0].contains("request_protocol=\"tcp\"") && lines[0].contains("source_workload=\"unknown\""));
        assert!(!lines[0].contains("response_code="), "{}", lines[0]);
        lines[0].rsplit_once(' ').unwrap().1.to_string()
    };
    assert_eq!(value("istio_tcp_sent_bytes_total"), "20", "what the caller gets");
    assert_eq!(value("istio_tcp_received_bytes_total"), "10");
    assert_eq!(value("istio_tcp_connections_opened_total"), "2");
    assert_eq!(value("istio_tcp_connections_closed_total"), "1");
    assert!(!text.contains("istio_requests_total{"), "{text}");
}

/// What a proxy that has run so long says after so many requests.
fn said(uptime: Duration, requests: u64) -> Stats {
    let metrics = Metrics::default();
    (0..requests).for_each(|_| metrics.observe(labels(200), Via::default(), &SEEN));
    Stats { uptime: uptime.as_millis() as u64, samples: metrics.samples() }
}

const SECOND: Duration = Duration::from_secs(1);

fn window(history: &History, length: u32, now: Instant) -> Window {
    history.recent(length * SECOND, now).window()
}

fn requests(window: &Window) -> u64 {
    window.flows.iter().map(|(_, sum)| sum.requests).sum()
}

#[test]
fn who_is_not_heard_for_a_moment_has_not_counted_everything_since() {
    let begin = Instant::now();
    let mut history = History::new(begin);
    let mut tell = |second: u32, said: Option<Stats>| {
        let at = begin + second * SECOND;
        history.take(at, said.map(|said| (7, said)).into_iter().collect());
        requests(&window(&history, 1, at))
    };
    assert_eq!(tell(2, Some(said(SECOND, 5))), 5, "it began after whoever asks did");
    assert_eq!(tell(3, Some(said(2 * SECOND, 6))), 1);
    assert_eq!(tell(4, None), 0);
    assert_eq!(tell(5, Some(said(4 * SECOND, 8))), 2, "not all eight");
    assert_eq!(tell(6, Some(said(SECOND / 2, 3))), 3, "another one with the same number");
    // One that had counted before anybody looked.
    history.take(begin + 7 * SECOND, BTreeMap::from([(8, said(60 * SECOND, 1000))]));
    assert_eq!(requests(&window(&history, 1, begin + 7 * SECOND)), 0);
}

#[test]
fn ten_minutes_are_kept_and_little_of_each() {
    let begin = Instant::now();
    let mut history = History::new(begin);
    for second in 1..=900 {
        history
            .take(begin + second * SECOND, BTreeMap::from([(7, said((second - 1) * SECOND, 2 * u64::from(second)))]));
    }
    let now = begin + 900 * SECOND;
    for length in [15, 60] {
        assert_eq!(requests(&window(&history, length, now)), 2 * u64::from(length));
    }
    // What is older than a minute is put together, five seconds at a time.
    for length in [120, 300, 600] {
        let (window, exact) = (window(&history, length, now), 2 * u64::from(length));
        assert!((exact..=exact + 10).contains(&requests(&window)), "{length} s: {}", requests(&window));
        assert_eq!((window.timeline.len(), window.flows.len()), (length as usize, 1));
        assert!(window.timeline.iter().all(|point| *point == (2, 0)));
    }
    let slots = history.slots();
    assert!(slots < 200, "{slots} for 600 s");
}

#[test]
fn who_waits_for_a_pod_that_was_lost_is_told_in_the_end() {
    let (mut warmth, mut looks) = (Warmth::default(), Vec::new());
    // All run after a second, one is lost after two, and after three nobody is waited for any more.
    for (is_warm, is_over) in [(false, false), (true, false), (true, false), (false, false), (true, true)] {
        looks.push(warmth.look(is_warm, is_over));
    }
    assert_eq!(looks, [Look::Wait, Look::Wake, Look::Wait, Look::Wait, Look::Last]);
    // One that comes back in time is told of at once.
    let mut warmth = Warmth::default();
    let looks = [true, false, true].map(|is_warm| warmth.look(is_warm, false));
    assert_eq!(looks, [Look::Wake, Look::Wait, Look::Wake]);
}
