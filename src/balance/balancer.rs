//! The endpoints of a cluster: which one is next, and how each fares.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Dice;
use super::levels::{Count, OVERPROVISIONING, Share, shares};
use super::locality::{Place, places};
use super::maglev::Maglev;
use super::outlier::{Ended, Record, Settings};
use super::pool::{Pool, Scales};
use super::ring::{Member, Ring};
use super::turns::Turns;
use super::warmup::Warmup;
use crate::plan::{Cluster, Endpoint, LoadBalancer, Policy};
use crate::roll::{Purpose, Roll};

/// An endpoint in one [`Balancer`]. It stays the same while the endpoint stays, and never comes to mean another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostId {
    id: u64,
    /// Where it stood when it was handed out, to be found quickly.
    at: u32,
}

/// What is asked when an endpoint is wanted.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Ask<'a> {
    /// The dice of the request.
    pub roll: Roll,
    /// What it sticks by ([`key::hash`](super::key::hash)); without it a ring or Maglev table picks at random.
    pub hash: Option<u64>,
    /// Those that were tried before; another is preferred. Leave it empty where the policy does not say so.
    pub before: &'a [HostId],
    /// The time.
    pub now: Duration,
}

impl Ask<'_> {
    /// For a first try that sticks to nothing.
    pub fn new(roll: Roll, now: Duration) -> Self {
        Ask { roll, hash: None, before: &[], now }
    }
}

/// A chosen endpoint.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Chosen<'b> {
    /// Its name for [`Balancer::begin`] and [`Balancer::end`].
    pub host: HostId,
    /// Where it is.
    pub endpoint: &'b Endpoint,
}

/// How often another endpoint is looked for before one that was tried is taken again, as Istio sets it.
const RESELECTIONS: usize = 5;
/// Envoy's panic threshold in percent, where no outlier detection says another.
const PANIC: u32 = 50;

/// Chooses endpoints of one cluster under its policy, and keeps count of how they fare.
///
/// It is built when a cluster appears and updated when that changes; picking then allocates nothing. What is due by a
/// certain time (an endpoint whose ejection is over) happens when it is next asked.
#[derive(Clone, Debug)]
pub struct Balancer {
    here: Arc<str>,
    policy: Policy,
    outlier: Option<Settings>,
    warmup: Option<Warmup>,
    hosts: Vec<Host>,
    levels: Vec<Level>,
    newest: Option<Duration>,
    next_id: u64,
    next_look: Duration,
    /// Where turns begin; moves on with every rebuilding.
    start: usize,
}

#[derive(Clone, Debug)]
struct Host {
    id: u64,
    endpoint: Endpoint,
    added: Duration,
    active: u32,
    record: Record,
}

/// The endpoints of one priority.
#[derive(Clone, Debug)]
struct Level {
    load: u32,
    choice: Choice,
}

#[derive(Clone, Debug)]
enum Choice {
    Ring(Ring),
    Maglev(Maglev),
    /// Localities in turn by their weight; one pool alone needs no turns.
    Pools(Option<Turns>, Vec<(f64, Pool)>),
}

impl Balancer {
    /// For a cluster. `here` is the client's own locality, `region/zone/subzone`; empty where it is not known. `roll` says
    /// where turns begin, so that not every client begins with the same endpoint.
    pub fn new(cluster: &Cluster, here: &str, roll: Roll, now: Duration) -> Self {
        let mut balancer = Balancer {
            here: here.into(),
            policy: Policy::default(),
            outlier: None,
            warmup: None,
            hosts: Vec::new(),
            levels: Vec::new(),
            newest: None,
            next_id: 0,
            next_look: now,
            start: (roll.draw(Purpose::Endpoint) >> 33) as usize,
        };
        balancer.update(cluster, now);
        balancer
    }

    /// The cluster has changed. What is known of endpoints that stay (same address and port) is kept.
    pub fn update(&mut self, cluster: &Cluster, now: Duration) {
        let same = self.hosts.iter().map(|host| &host.endpoint).eq(cluster.endpoints.iter());
        if same && self.policy == cluster.policy && self.next_id > 0 {
            return;
        }
        self.set_policy(&cluster.policy, now);
        let key = |endpoint: &Endpoint| (Arc::clone(&endpoint.address), endpoint.port);
        let before = std::mem::take(&mut self.hosts).into_iter();
        let mut before: HashMap<_, Host> = before.map(|host| (key(&host.endpoint), host)).collect();
        for endpoint in cluster.endpoints.iter() {
            let host = match before.remove(&key(endpoint)) {
                Some(host) => Host { endpoint: endpoint.clone(), ..host },
                None => self.host(endpoint, now),
            };
            self.hosts.push(host);
        }
        self.rebuild(now);
    }

    fn set_policy(&mut self, policy: &Policy, now: Duration) {
        self.policy = policy.clone();
        self.outlier = policy.outlier_detection.as_ref().map(Settings::of);
        self.warmup = policy.warmup.as_ref().and_then(Warmup::of);
        match &self.outlier {
            Some(settings) => self.next_look = self.next_look.max(now).min(now.saturating_add(settings.interval)),
            None => self.hosts.iter_mut().for_each(|host| host.record = Record::default()),
        }
    }

    fn host(&mut self, endpoint: &Endpoint, now: Duration) -> Host {
        self.next_id += 1;
        self.newest = Some(now);
        Host { id: self.next_id, endpoint: endpoint.clone(), added: now, active: 0, record: Record::default() }
    }

    /// An endpoint for a request. `None`: there is none, or none that is healthy, and the policy does not want the
    /// others; the request is answered 503 with Envoy's flag UH. Also for [`LoadBalancer::Passthrough`] without
    /// endpoints, where the caller goes to the address that was dialled.
    pub fn pick(&mut self, ask: &Ask<'_>) -> Option<Chosen<'_>> {
        self.look(ask.now);
        let mut dice = Dice::new(&ask.roll, ask.before.len());
        let hash = ask.hash.unwrap_or_else(|| dice.draw());
        let attempts = if ask.before.is_empty() { 1 } else { 1 + RESELECTIONS };
        let mut found = None;
        for attempt in 0..attempts {
            let at = self.pick_once(hash, attempt, &mut dice, ask.now)?;
            let id = self.hosts.get(at as usize)?.id;
            found = Some(HostId { id, at });
            if !ask.before.iter().any(|before| before.id == id) {
                break;
            }
        }
        let host = found?;
        self.hosts.get(host.at as usize).map(|known| Chosen { host, endpoint: &known.endpoint })
    }

    fn pick_once(&mut self, hash: u64, attempt: usize, dice: &mut Dice, now: Duration) -> Option<u32> {
        let Balancer { levels, hosts, policy, warmup, .. } = self;
        let weigh = |at: u32| hosts.get(at as usize).map_or(0.0, |host| host.weight(policy, *warmup, now));
        let active = |at: u32| hosts.get(at as usize).map_or(0, |host| host.active);
        let by_hash = !matches!(levels.first()?.choice, Choice::Pools(..));
        let level = level(levels, if by_hash { hash } else { dice.draw() })?;
        match &mut level.choice {
            Choice::Ring(ring) => ring.host(hash, attempt),
            Choice::Maglev(table) => table.host(hash, attempt),
            Choice::Pools(turns, pools) => {
                let weight = |at: u32| pools.get(at as usize).map_or(0.0, |(weight, _)| *weight);
                let at = turns.as_mut().map_or(Some(0), |turns| turns.next(weight))?;
                let (_, pool) = pools.get_mut(at as usize)?;
                pool.pick(&policy.load_balancer, dice, &Scales { weight: weigh, active })
            }
        }
    }

    /// A request is on its way to a host.
    pub fn begin(&mut self, host: HostId) {
        if let Some(host) = known(&mut self.hosts, host) {
            host.active = host.active.saturating_add(1);
        }
    }

    /// A request to a host has ended, and how. The host is set aside if that was once too often.
    pub fn end(&mut self, host: HostId, ended: Ended, now: Duration) {
        if let Some(host) = known(&mut self.hosts, host) {
            host.active = host.active.saturating_sub(1);
        }
        self.report(host, ended, now);
    }

    /// How a request to a host fares, where that is known before it has ended: when the head of the answer is there. It
    /// is then ended as [`Ended::Abandoned`], so that it does not count twice.
    pub fn report(&mut self, host: HostId, ended: Ended, now: Duration) {
        self.look(now);
        let (Some(known), Some(settings)) = (known(&mut self.hosts, host), &self.outlier) else { return };
        if known.record.note(settings, ended) && !known.record.is_ejected() {
            self.eject(host, now);
        }
    }

    fn eject(&mut self, host: HostId, now: Duration) {
        let ejected = self.hosts.iter().filter(|host| host.record.is_ejected()).count();
        let allowed = self.outlier.as_ref().is_some_and(|settings| settings.allows(ejected, self.hosts.len()));
        if let Some(host) = known(&mut self.hosts, host).filter(|_| allowed) {
            host.record.eject(now);
            self.rebuild(now);
        }
    }

    /// Whether a host is set aside.
    pub fn is_ejected(&self, host: HostId) -> bool {
        self.hosts.iter().any(|known| known.id == host.id && known.record.is_ejected())
    }

    /// Endpoints, each with whether it is set aside and how many requests it has.
    pub fn hosts(&self) -> impl Iterator<Item = (&Endpoint, bool, u32)> {
        self.hosts.iter().map(|host| (&host.endpoint, host.record.is_ejected(), host.active))
    }

    /// The regular look at who may come back, as often as it is due.
    fn look(&mut self, now: Duration) {
        let Some(settings) = self.outlier.as_ref().filter(|_| now >= self.next_look) else { return };
        let (late, interval) = ((now - self.next_look).as_nanos(), settings.interval.as_nanos().max(1));
        let looks = u32::try_from(late / interval).unwrap_or(u32::MAX).saturating_add(1);
        let back =
            self.hosts.iter_mut().filter_map(|host| host.record.look(settings, looks, now).then_some(())).count();
        self.next_look = now.saturating_add(settings.interval);
        if back > 0 {
            self.rebuild(now);
        }
    }

    /// Works out anew who is chosen from.
    fn rebuild(&mut self, now: Duration) {
        self.start = self.start.wrapping_add(1);
        let there: Vec<(&str, u32)> =
            self.hosts.iter().map(|host| (&*host.endpoint.locality, host.endpoint.weight)).collect();
        let places = places(self.policy.locality.as_ref(), self.outlier.is_some(), &self.here, &there);
        let last = places.iter().flatten().map(|place| place.priority).max();
        let counts: Vec<Count> = (0..=last.unwrap_or(0)).map(|priority| self.count(&places, priority)).collect();
        let threshold = self.outlier.as_ref().map_or(PANIC, |settings| settings.panic);
        let shares = shares(&counts, threshold);
        self.levels = (0..).zip(shares).map(|(priority, share)| self.level(&places, priority, share, now)).collect();
    }

    fn count(&self, places: &[Option<Place>], priority: u32) -> Count {
        let of_level = self.hosts.iter().zip(places).filter(|(_, place)| place.is_some_and(|p| p.priority == priority));
        let (mut all, mut healthy) = (0, 0);
        for (host, _) in of_level {
            all += 1;
            healthy += u32::from(!host.record.is_ejected());
        }
        Count { all, healthy }
    }

    fn level(&self, places: &[Option<Place>], priority: u32, share: Share, now: Duration) -> Level {
        let mut localities: Vec<Locality<'_>> = Vec::new();
        for (at, (host, place)) in (0u32..).zip(self.hosts.iter().zip(places)) {
            let Some(place) = place.filter(|place| place.priority == priority) else { continue };
            // Without shares all localities are one, and so they are in a panic.
            let key = place.share.filter(|_| !share.panic).map(|share| (&*host.endpoint.locality, share));
            let found = localities.iter().position(|locality| locality.key == key).unwrap_or_else(|| {
                localities.push(Locality { key, all: 0, usable: Vec::new() });
                localities.len() - 1
            });
            localities[found].all += 1;
            if share.panic || !host.record.is_ejected() {
                localities[found].usable.push(at);
            }
        }
        localities.retain(|locality| !locality.usable.is_empty());
        Level { load: share.load, choice: self.choice(&localities, now) }
    }

    fn choice(&self, localities: &[Locality<'_>], now: Duration) -> Choice {
        match self.policy.load_balancer {
            LoadBalancer::RingHash(smallest) => Choice::Ring(Ring::build(&self.members(localities), smallest)),
            LoadBalancer::Maglev(size) => Choice::Maglev(Maglev::build(&self.members(localities), size)),
            _ => self.pools(localities, now),
        }
    }

    fn pools(&self, localities: &[Locality<'_>], now: Duration) -> Choice {
        let warming = self.warmup.is_some_and(|warmup| self.newest.is_some_and(|newest| warmup.holds(newest, now)));
        let plain = |at: &u32| self.hosts[*at as usize].endpoint.weight.max(1);
        let weight = |at: u32| self.hosts[at as usize].weight(&self.policy, self.warmup, now);
        let pool = |locality: &Locality<'_>| {
            let hosts = locality.usable.clone();
            let uneven = warming || hosts.iter().any(|at| plain(at) != plain(&hosts[0]));
            (locality.weight(), Pool::new(hosts, uneven, self.start, weight))
        };
        let pools: Vec<(f64, Pool)> = localities.iter().map(pool).collect();
        let all: Vec<u32> = (0..pools.len() as u32).collect();
        let turns = (pools.len() > 1).then(|| Turns::new(&all, self.start, |at| pools[at as usize].0));
        Choice::Pools(turns, pools)
    }

    /// Each with its share of all: its locality's, and of that its own by weight.
    fn members(&self, localities: &[Locality<'_>]) -> Vec<Member> {
        let share = |locality: &Locality<'_>| locality.key.map_or(1.0, |(_, share)| f64::from(share));
        let all: f64 = localities.iter().map(share).sum();
        let weight = |at: &u32| f64::from(self.hosts[*at as usize].endpoint.weight.max(1));
        let of_locality = |locality: &Locality<'_>| {
            let (part, sum) = (share(locality) / all, locality.usable.iter().map(weight).sum::<f64>());
            let member = |at: &u32| Member {
                host: *at,
                name: self.hosts[*at as usize].endpoint.to_string(),
                share: weight(at) * part / sum,
            };
            locality.usable.iter().map(member).collect::<Vec<_>>()
        };
        localities.iter().flat_map(of_locality).collect()
    }
}

/// The endpoints of one locality; `key` is its name and share, where shares were given.
struct Locality<'h> {
    key: Option<(&'h str, u32)>,
    all: u32,
    usable: Vec<u32>,
}

impl Locality<'_> {
    /// Its share, less what it lacks of healthy endpoints.
    fn weight(&self) -> f64 {
        let share = self.key.map_or(1.0, |(_, share)| f64::from(share));
        let healthy = self.usable.len() as f64 / f64::from(self.all.max(1));
        share * (f64::from(OVERPROVISIONING) / 100.0 * healthy).min(1.0)
    }
}

impl Host {
    /// What it counts for now: less while it warms up, and for least request less the more it has to do.
    fn weight(&self, policy: &Policy, warmup: Option<Warmup>, now: Duration) -> f64 {
        let weight = f64::from(self.endpoint.weight.max(1));
        let busy = match policy.load_balancer {
            LoadBalancer::LeastRequest => 1.0 + f64::from(self.active),
            _ => 1.0,
        };
        weight / busy * warmup.map_or(1.0, |warmup| warmup.factor(self.added, now))
    }
}

fn known(hosts: &mut [Host], host: HostId) -> Option<&mut Host> {
    let at = host.at as usize;
    if hosts.get(at).is_some_and(|known| known.id == host.id) {
        return hosts.get_mut(at);
    }
    hosts.iter_mut().find(|known| known.id == host.id)
}

/// The level that a draw falls on.
fn level(levels: &mut [Level], draw: u64) -> Option<&mut Level> {
    let mut left = (draw % 100) as u32;
    levels.iter_mut().find(|level| {
        let hit = left < level.load;
        left = left.saturating_sub(level.load);
        hit
    })
}
