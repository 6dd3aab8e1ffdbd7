//! What the proxies counted in the last minutes: discovery asks each for its counters, as Prometheus would, and keeps
//! what was added from one time to the next.
//!
//! Knows counters and times, and nothing of what they are shown as. A proxy that was started again begins at zero.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::Stats;
use crate::client;
use crate::discovery::Shared;
use crate::metrics::{Counts, Labels, Sample, Via};
use crate::node::loopback;

/// How often the proxies are asked.
pub const PERIOD: Duration = Duration::from_secs(1);
/// How long a proxy may take to answer.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long is looked back at most.
pub const LONGEST: Duration = Duration::from_secs(600);

/// One series of one proxy's life.
type Key = (u32, Labels, Via);

/// What was added at one time.
struct Tick {
    at: Instant,
    added: Vec<(Labels, Via, Counts)>,
}

/// The last minutes.
pub struct History {
    born: Instant,
    known: BTreeSet<u32>,
    last: HashMap<Key, Counts>,
    ticks: VecDeque<Tick>,
}

/// What came together in some time.
pub struct Window {
    /// How long it was: never more than was looked back at.
    pub seconds: f64,
    /// What was added in it.
    pub flows: BTreeMap<(Labels, Via), Counts>,
    /// All requests, and those that failed, in each period of it, the oldest first.
    pub timeline: Vec<(u64, u64)>,
}

impl History {
    /// A history without a past.
    pub fn new() -> Self {
        History { born: Instant::now(), known: BTreeSet::new(), last: HashMap::new(), ticks: VecDeque::new() }
    }

    /// Takes what the proxies, by process, say of themselves at a time.
    fn take(&mut self, at: Instant, stats: &BTreeMap<u32, Stats>) {
        let mut added = Vec::new();
        for (pid, stats) in stats {
            // What an older proxy had counted before anybody looked was not counted just now.
            let begun_here = Duration::from_millis(stats.uptime) < at - self.born;
            let is_new = self.known.insert(*pid);
            for Sample { labels, via, counts } in &stats.samples {
                let before = self.last.insert((*pid, labels.clone(), via.clone()), counts.clone());
                let before = before.or_else(|| (is_new && !begun_here).then(|| counts.clone()));
                let news = counts.since(&before.unwrap_or_default());
                if news.requests > 0 {
                    added.push((labels.clone(), via.clone(), news));
                }
            }
        }
        self.ticks.push_back(Tick { at, added });
        while self.ticks.front().is_some_and(|tick| at - tick.at > LONGEST) {
            self.ticks.pop_front();
        }
    }

    /// Forgets the processes that are gone.
    fn keep(&mut self, pids: &[u32]) {
        self.known.retain(|pid| pids.contains(pid));
        self.last.retain(|(pid, ..), _| pids.contains(pid));
    }

    /// What was counted in the time before now.
    pub fn window(&self, length: Duration) -> Window {
        let now = Instant::now();
        let age = (now - self.born).clamp(PERIOD, LONGEST);
        let (mut flows, mut timeline) = (BTreeMap::new(), Vec::new());
        for tick in self.ticks.iter().filter(|tick| now - tick.at < length) {
            let (mut all, mut failed) = (0, 0);
            for (labels, via, counts) in &tick.added {
                flows.entry((labels.clone(), via.clone())).or_insert_with(Counts::default).add(counts);
                if labels.is_second_hand() {
                    continue;
                }
                all += counts.requests;
                failed += if labels.is_failure() { counts.requests } else { 0 };
            }
            timeline.push((all, failed));
        }
        Window { seconds: length.min(age).as_secs_f64(), flows, timeline }
    }
}

/// Asks all proxies, again and again.
pub async fn follow(shared: Arc<Shared>) {
    let mut pace = tokio::time::interval(PERIOD);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let proxies = shared.world().pages();
        let stats = ask_all(&proxies).await;
        let mut history = shared.history();
        history.take(Instant::now(), &stats);
        history.keep(&proxies.iter().map(|(pid, _)| *pid).collect::<Vec<_>>());
    }
}

async fn ask_all(proxies: &[(u32, u16)]) -> BTreeMap<u32, Stats> {
    let mut asked = JoinSet::new();
    for (pid, port) in proxies.iter().copied() {
        asked.spawn(timeout(PATIENCE, async move {
            let answer = client::get(loopback(port), "/stats.json", &[]).await.ok()?;
            Some((pid, serde_json::from_str(&answer.body).ok()?))
        }));
    }
    asked.join_all().await.into_iter().filter_map(|answer| answer.ok().flatten()).collect()
}
