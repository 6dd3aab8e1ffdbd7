//! What the proxies counted in the last minutes: what was added from one time at which they were asked to the next.
//!
//! Knows counters and times, which are handed in, and nothing of what they are shown as. A proxy that was started again begins
//! at zero. What is kept is bounded by how many series there are, not by how long it is looked back: names are kept once, and
//! what is older than a minute is added up.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::metrics::{Carried, Counts, Histogram, Labels, Sample, Stats, Via};

/// How often the proxies are asked.
pub const PERIOD: Duration = Duration::from_secs(1);
/// How long is looked back at most.
pub const LONGEST: Duration = Duration::from_secs(600);
/// For how long what was added each time is kept by itself.
const FINE: Duration = Duration::from_secs(75);
/// How much time is put together after that.
const COARSE: Duration = Duration::from_secs(5);

/// What a series is counted under, kept once: two are the same where they are in the same place.
#[derive(Clone, Debug)]
pub struct Series(Arc<(Labels, Via)>);

impl std::ops::Deref for Series {
    type Target = (Labels, Via);

    fn deref(&self) -> &(Labels, Via) {
        &self.0
    }
}

impl PartialEq for Series {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Series {}

impl Hash for Series {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// What is kept of [`Counts`]: sizes only as sums.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sum {
    /// Requests.
    pub requests: u64,
    /// Their durations, in milliseconds.
    pub duration: Histogram,
    /// The bytes of their bodies.
    pub received: f64,
    /// The bytes of the answers' bodies.
    pub sent: f64,
    /// Connections.
    pub carried: Carried,
}

impl Sum {
    fn of(counts: Counts) -> Self {
        let Counts { requests, duration, received, sent, carried } = counts;
        Sum { requests, duration, received: received.sum, sent: sent.sum, carried }
    }

    /// Takes in another.
    pub fn add(&mut self, other: &Sum) {
        self.requests += other.requests;
        if !other.duration.buckets.is_empty() {
            self.duration.add(&other.duration);
        }
        self.received += other.received;
        self.sent += other.sent;
        self.carried.add(&other.carried);
    }

    /// What came since an earlier state.
    fn since(&self, before: &Sum) -> Sum {
        let mut duration = self.duration.since(&before.duration);
        let used = duration.buckets.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        duration.buckets.truncate(used);
        duration.buckets.shrink_to_fit();
        Sum {
            requests: self.requests.saturating_sub(before.requests),
            duration,
            received: (self.received - before.received).max(0.0),
            sent: (self.sent - before.sent).max(0.0),
            carried: self.carried.since(&before.carried),
        }
    }

    /// Whether nothing has happened.
    fn is_nothing(&self) -> bool {
        self.requests == 0 && self.carried == Carried::default()
    }
}

type Sums = HashMap<Series, Sum>;

/// What was added in a stretch of time.
#[derive(Clone)]
struct Slot {
    since: Instant,
    until: Instant,
    added: Sums,
}

/// One process, as it was last heard of.
struct Life {
    heard: Instant,
    uptime: u64,
    last: Sums,
}

/// The last minutes.
pub struct History {
    born: Instant,
    lives: HashMap<u32, Life>,
    names: HashSet<Arc<(Labels, Via)>>,
    /// The oldest first.
    coarse: VecDeque<Arc<Slot>>,
    /// What came after that, each time by itself.
    fine: VecDeque<Arc<Slot>>,
    /// When, all requests then, and those that failed.
    timeline: VecDeque<(Instant, u64, u64)>,
}

/// What is kept of some time, to be added up where nobody waits for it.
pub struct Recent {
    seconds: f64,
    slots: Vec<Arc<Slot>>,
    timeline: Vec<(u64, u64)>,
}

/// What came together in some time.
pub struct Window {
    /// How long it was: never more than was looked back at.
    pub seconds: f64,
    /// What was added in it.
    pub flows: Vec<(Series, Sum)>,
    /// All requests, and those that failed, in each period of it, the oldest first.
    pub timeline: Vec<(u64, u64)>,
}

impl History {
    /// A history that begins now.
    pub fn new(now: Instant) -> Self {
        History {
            born: now,
            lives: HashMap::new(),
            names: HashSet::new(),
            coarse: VecDeque::new(),
            fine: VecDeque::new(),
            timeline: VecDeque::new(),
        }
    }

    /// Takes what the proxies, by process, say of themselves at a time. Whoever says nothing may do so the next time.
    pub fn take(&mut self, at: Instant, stats: BTreeMap<u32, Stats>) {
        let mut added = Sums::new();
        for (pid, stats) in stats {
            self.hear(at, pid, stats, &mut added);
        }
        let since = self.fine.back().map_or(self.born, |before| before.until);
        self.note(at, &added);
        self.fine.push_back(Arc::new(Slot { since, until: at, added }));
        self.coarsen(at);
        self.lives.retain(|_, life| at - life.heard <= LONGEST);
        self.names.retain(|name| Arc::strong_count(name) > 1);
    }

    fn hear(&mut self, at: Instant, pid: u32, stats: Stats, added: &mut Sums) {
        // What an older proxy had counted before anybody looked was not counted just now.
        let begun_here = Duration::from_millis(stats.uptime) < at - self.born;
        let mut before = self.lives.remove(&pid).filter(|life| life.uptime <= stats.uptime);
        let is_unheard_of = before.is_none() && !begun_here;
        let mut last = Sums::with_capacity(stats.samples.len());
        for Sample { labels, via, counts } in stats.samples {
            let (series, now) = (self.name(labels, via), Sum::of(counts));
            let news = match before.as_mut().and_then(|life| life.last.remove(&series)) {
                Some(was) => now.since(&was),
                None if is_unheard_of => Sum::default(),
                None => now.since(&Sum::default()),
            };
            if !news.is_nothing() {
                added.entry(series.clone()).or_default().add(&news);
            }
            last.insert(series, now);
        }
        self.lives.insert(pid, Life { heard: at, uptime: stats.uptime, last });
    }

    fn name(&mut self, labels: Labels, via: Via) -> Series {
        let name = (labels, via);
        if let Some(known) = self.names.get(&name) {
            return Series(Arc::clone(known));
        }
        let name = Arc::new(name);
        self.names.insert(Arc::clone(&name));
        Series(name)
    }

    fn note(&mut self, at: Instant, added: &Sums) {
        let (mut all, mut failed) = (0, 0);
        for (series, sum) in added.iter().filter(|(series, _)| !series.0.0.is_second_hand()) {
            all += sum.requests;
            failed += if series.0.0.is_failure() { sum.requests } else { 0 };
        }
        self.timeline.push_back((at, all, failed));
        while self.timeline.front().is_some_and(|(then, ..)| at - *then > LONGEST) {
            self.timeline.pop_front();
        }
    }

    /// Adds up what is not so new any more, and forgets what is old.
    fn coarsen(&mut self, at: Instant) {
        while self.fine.front().is_some_and(|slot| at - slot.until > FINE) {
            let Some(slot) = self.fine.pop_front() else { break };
            match self.coarse.back_mut().filter(|last| slot.until - last.since <= COARSE) {
                Some(last) => Arc::make_mut(last).take_in(&slot),
                None => self.coarse.push_back(slot),
            }
        }
        while self.coarse.front().is_some_and(|slot| at - slot.until > LONGEST) {
            self.coarse.pop_front();
        }
    }

    /// In how many pieces it is kept.
    #[cfg(test)]
    pub fn slots(&self) -> usize {
        self.coarse.len() + self.fine.len()
    }

    /// What was counted in the time before now.
    pub fn recent(&self, length: Duration, now: Instant) -> Recent {
        let age = (now - self.born).clamp(PERIOD, LONGEST);
        let slots = self.coarse.iter().chain(&self.fine).filter(|slot| now - slot.until < length);
        let timeline = self.timeline.iter().filter(|(at, ..)| now - *at < length);
        Recent {
            seconds: length.min(age).as_secs_f64(),
            slots: slots.cloned().collect(),
            timeline: timeline.map(|(_, all, failed)| (*all, *failed)).collect(),
        }
    }
}

impl Slot {
    /// Takes in what came next.
    fn take_in(&mut self, next: &Slot) {
        self.until = next.until;
        for (series, sum) in &next.added {
            self.added.entry(series.clone()).or_default().add(sum);
        }
    }
}

impl Recent {
    /// Adds it up.
    pub fn window(self) -> Window {
        let mut flows = Sums::new();
        for (series, sum) in self.slots.iter().flat_map(|slot| &slot.added) {
            flows.entry(series.clone()).or_default().add(sum);
        }
        Window { seconds: self.seconds, flows: flows.into_iter().collect(), timeline: self.timeline }
    }
}
