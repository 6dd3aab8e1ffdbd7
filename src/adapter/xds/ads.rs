//! One subscription: what a client asked for, what it was sent, and what it said of it. Requests in, responses out; no
//! sockets, no clock.
//!
//! What is in force is changed in an order in which nothing is ever referred to that is not there (make before break):
//! clusters with their endpoints, listeners, their route tables, and only then clusters are taken away. Each step waits for
//! the client's word on the one before. A step that the client refuses is as far as it goes: what it has stays in force
//! until there is something else to offer.
//!
//! Source: Envoy's page "xDS REST and gRPC protocol".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status;

use super::snapshot::{Kind, Resource, Set, Snapshot, hex};

/// The two ways of speaking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// Each response says how things are (`StreamAggregatedResources`).
    StateOfTheWorld,
    /// Each response says what has changed (`DeltaAggregatedResources`).
    Delta,
}

/// What a client said of one kind of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Word {
    /// The version that it was sent last.
    pub sent: Option<String>,
    /// The version that it accepted last.
    pub accepted: Option<String>,
    /// What it would not accept, unless it has accepted something since.
    pub refused: Option<Refused>,
}

/// A version that a client would not accept, and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// The version.
    pub version: String,
    /// What the client said.
    pub reason: String,
}

/// What is to be sent to a client.
#[derive(Clone, Debug)]
pub struct Response {
    pub(super) kind: Kind,
    pub(super) version: u64,
    pub(super) nonce: u64,
    pub(super) resources: Payload,
    pub(super) removed: Vec<Arc<str>>,
}

/// The resources of a response.
#[derive(Clone, Debug)]
pub(super) enum Payload {
    /// All of them.
    Whole(Arc<Set>),
    /// Some.
    Some(Vec<Arc<Resource>>),
}

impl Payload {
    pub(super) fn for_each(&self, with: impl FnMut(&Arc<Resource>)) {
        match self {
            Payload::Whole(set) => set.iter().for_each(with),
            Payload::Some(some) => some.iter().for_each(with),
        }
    }
}

impl Response {
    /// What it is about.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The version of what the client has with it.
    pub fn version(&self) -> String {
        hex(self.version)
    }

    /// What the client's word on it will refer to.
    pub fn nonce(&self) -> String {
        self.nonce.to_string()
    }

    /// The names of the resources in it.
    pub fn names(&self) -> Vec<&str> {
        match &self.resources {
            Payload::Whole(set) => set.iter().map(|resource| &*resource.name).collect(),
            Payload::Some(some) => some.iter().map(|resource| &*resource.name).collect(),
        }
    }

    /// The names of those that are no more (delta only).
    pub fn removed(&self) -> impl Iterator<Item = &str> {
        self.removed.iter().map(|name| &**name)
    }
}

/// One client's subscription.
#[derive(Debug)]
pub struct Session {
    flavor: Flavor,
    target: Arc<Snapshot>,
    /// What will be the target when the client is done with the clusters of this one.
    next: Option<Arc<Snapshot>>,
    channels: [Channel; 4],
    nonce: u64,
}

/// How far one kind is.
enum Step {
    Done,
    Refused,
    Wait,
    Send,
}

/// What a client asked for.
#[derive(Debug)]
enum Asked {
    All,
    Names(BTreeSet<Arc<str>>),
}

impl Asked {
    fn has(&self, name: &str) -> bool {
        match self {
            Asked::All => true,
            Asked::Names(names) => names.contains(name),
        }
    }

    /// Whether nothing of a set is missing.
    fn covers(&self, set: &Set) -> bool {
        match self {
            Asked::All => true,
            Asked::Names(names) => set.iter().all(|resource| names.contains(&resource.name)),
        }
    }
}

/// A response that the client has not said anything of yet.
#[derive(Debug)]
struct Outstanding {
    version: u64,
    /// What was new in it.
    names: Vec<Arc<str>>,
    /// What was told as removed.
    removed: Vec<Arc<str>>,
}

/// The subscription to one kind.
#[derive(Debug, Default)]
struct Channel {
    asked: Option<Asked>,
    /// What the client was sent: of this set, what it asked for, but for what is `due`.
    held: Arc<Set>,
    /// What the client had of that which was sent anew and which it has not accepted yet.
    had: BTreeMap<Arc<str>, Arc<Resource>>,
    /// What the client does not have, or may not have.
    due: BTreeSet<Arc<str>>,
    /// What the client was sent and shall lose, once nothing refers to it any more.
    lingering: Vec<Arc<Resource>>,
    /// What it asked for that does not exist, and has not been told so.
    absent: BTreeSet<Arc<str>>,
    /// Whether the client waits for an answer, whatever it says.
    owed: bool,
    outstanding: Option<Outstanding>,
    last_nonce: u64,
    /// The set that was refused: it is not offered again.
    stuck: Option<Arc<Set>>,
    /// Whether the client has once, before clusters or listeners were sent, asked for all that those need. If so, it is
    /// waited for that it does so again.
    follows: bool,
    word: Word,
}

impl Session {
    /// A subscription to a snapshot; nothing is asked yet.
    pub fn new(flavor: Flavor, snapshot: Arc<Snapshot>) -> Self {
        Session { flavor, target: snapshot, next: None, channels: Default::default(), nonce: 0 }
    }

    /// What is offered from now on.
    pub fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.next = Some(snapshot);
    }

    /// What the client said of a kind.
    pub fn word(&self, kind: Kind) -> &Word {
        &self.channels[kind as usize].word
    }

    /// Whether the client has asked for all that there is, as an Envoy does, and has accepted it.
    pub fn is_settled(&self) -> bool {
        let has_all = |kind: Kind| {
            let (channel, set) = (self.channel(kind), self.target.set(kind));
            match &channel.asked {
                None => set.len() == 0,
                Some(asked) => {
                    asked.covers(set)
                        && channel.outstanding.is_none()
                        && channel.lingering.is_empty()
                        && !channel.lacks(kind, set)
                }
            }
        };
        self.next.is_none() && Kind::ALL.into_iter().all(has_all)
    }

    fn channel(&self, kind: Kind) -> &Channel {
        &self.channels[kind as usize]
    }

    fn channel_mut(&mut self, kind: Kind) -> &mut Channel {
        &mut self.channels[kind as usize]
    }

    /// Takes a request of the state of the world. One of a kind that is not served here is passed over.
    pub fn request(&mut self, request: &DiscoveryRequest) {
        let Some(kind) = Kind::of(&request.type_url) else { return };
        if !self.heard(kind, &request.response_nonce, request.error_detail.as_ref()) {
            return;
        }
        let set = Arc::clone(self.target.set(kind));
        let channel = self.channel_mut(kind);
        let first = channel.asked.is_none();
        channel.ask(kind, &request.resource_names, &set);
        // Whoever comes back from another replica may have all of it already. Endpoints and routes are sent in any case:
        // what needs them may wait for them although they are the same.
        if first
            && kind.is_root()
            && request.version_info == hex(channel.version(&set))
            && !request.version_info.is_empty()
        {
            channel.word.accepted = Some(request.version_info.clone());
            channel.word.sent.clone_from(&channel.word.accepted);
            channel.due.clear();
            channel.held = set;
            channel.owed = false;
        }
    }

    /// Takes a request for changes. One of a kind that is not served here is passed over.
    pub fn delta_request(&mut self, request: &DeltaDiscoveryRequest) {
        let Some(kind) = Kind::of(&request.type_url) else { return };
        self.heard(kind, &request.response_nonce, request.error_detail.as_ref());
        let set = Arc::clone(self.target.set(kind));
        let channel = self.channel_mut(kind);
        let first = channel.asked.is_none();
        if first {
            channel.held = Arc::clone(&set);
        }
        channel.subscribe(kind, &request.resource_names_subscribe, &set, first);
        channel.unsubscribe(&request.resource_names_unsubscribe);
        if first && kind.is_root() {
            channel.knows(kind, request.initial_resource_versions.iter(), &set);
        }
    }

    /// Takes the client's word on a response; says whether the rest of the request counts.
    fn heard(&mut self, kind: Kind, nonce: &str, refusal: Option<&Status>) -> bool {
        if nonce.is_empty() {
            return true;
        }
        let target = Arc::clone(self.target.set(kind));
        let channel = self.channel_mut(kind);
        // A stale nonce: the client has not seen yet what was sent last. It will speak again when it has.
        if nonce.parse() != Ok(channel.last_nonce) {
            return false;
        }
        let Some(outstanding) = channel.outstanding.take() else { return true };
        let version = hex(outstanding.version);
        match refusal {
            Some(status) => {
                channel.due.extend(outstanding.names);
                channel.absent.extend(outstanding.removed);
                channel.word.refused = Some(Refused { version, reason: status.message.clone() });
                channel.stuck = Some(Arc::clone(&channel.held)).filter(|_| Arc::ptr_eq(&channel.held, &target));
            }
            None => {
                channel.word.accepted = Some(version);
                channel.word.refused = None;
                channel.stuck = None;
                channel.had.clear();
            }
        }
        true
    }

    /// What is put in force anew waits for what it needs, even if that is the same as before. It is sent after this one,
    /// so that it is there when it is waited for.
    fn needed(&mut self, kind: Kind, names: &[Arc<str>]) {
        let Some(next) = kind.needed() else { return };
        let set = Arc::clone(&self.channel(kind).held);
        let channel = self.channel_mut(next);
        let Some(asked) = &channel.asked else { return };
        let needs = names.iter().filter_map(|name| set.get(name)).flat_map(|resource| &resource.needs);
        channel.due.extend(needs.filter(|name| asked.has(name)).cloned());
    }

    /// What is to be sent next, if anything is. To be called until there is nothing.
    pub fn next_response(&mut self) -> Option<Response> {
        // An Envoy says nothing of clusters until it has the endpoints of all of them: those it is sent meanwhile, out of
        // the same snapshot.
        let mut waits = self.channel(Kind::Cluster).outstanding.is_some();
        if !waits && let Some(next) = self.next.take() {
            self.target = next;
        }
        let (mut refused, mut held_back) = (false, false);
        for kind in Kind::ALL {
            match self.step(kind, held_back) {
                Step::Wait if kind == Kind::Cluster => waits = true,
                Step::Done if waits => return None,
                Step::Done => {}
                Step::Refused => {
                    refused = true;
                    // A listener that was refused keeps no route from its cluster.
                    held_back |= kind != Kind::Listener;
                }
                Step::Wait => return None,
                Step::Send => return Some(self.send(kind)),
            }
        }
        let left = !refused && !self.channel(Kind::Cluster).lingering.is_empty();
        left.then(|| self.clear_away())
    }

    /// How far a kind is on the way to the target. After a refusal endpoints go on, which refer to nothing. What would
    /// refer to what was refused does not, unless the client has nothing of it yet: something is better than nothing.
    fn step(&mut self, kind: Kind, held_back: bool) -> Step {
        let set = Arc::clone(self.target.set(kind));
        let channel = self.channel_mut(kind);
        let Some(asked) = &channel.asked else { return Step::Done };
        if channel.outstanding.is_some() {
            return Step::Wait;
        }
        if !channel.owed && channel.stuck.as_ref().is_some_and(|stuck| Arc::ptr_eq(stuck, &set)) {
            return Step::Refused;
        }
        if held_back && kind != Kind::Endpoints && channel.word.accepted.is_some() {
            return Step::Refused;
        }
        if channel.owed || channel.lacks(kind, &set) {
            return Step::Send;
        }
        let complete = held_back || !channel.follows || asked.covers(&set);
        channel.held = set;
        if complete { Step::Done } else { Step::Wait }
    }

    /// Takes away what nothing refers to any more.
    fn clear_away(&mut self) -> Response {
        let channel = self.channel_mut(Kind::Cluster);
        let gone: Vec<Arc<str>> = channel.lingering.drain(..).map(|resource| Arc::clone(&resource.name)).collect();
        match self.flavor {
            Flavor::StateOfTheWorld => self.respond(Kind::Cluster, Vec::new(), Vec::new()),
            Flavor::Delta => self.respond(Kind::Cluster, Vec::new(), gone),
        }
    }

    /// Sends what is new of a kind.
    fn send(&mut self, kind: Kind) -> Response {
        let set = Arc::clone(self.target.set(kind));
        let follows = kind.needed().map(|next| (next, self.follows(next)));
        if let Some((next, follows)) = follows {
            self.channel_mut(next).follows |= follows;
        }
        let channel = self.channel_mut(kind);
        let (names, removed) = channel.go_over(kind, &set);
        self.needed(kind, &names);
        self.respond(kind, names, removed)
    }

    fn follows(&self, kind: Kind) -> bool {
        let channel = self.channel(kind);
        channel.asked.as_ref().is_some_and(|asked| asked.covers(&channel.held))
    }

    fn respond(&mut self, kind: Kind, names: Vec<Arc<str>>, removed: Vec<Arc<str>>) -> Response {
        self.nonce += 1;
        let (flavor, nonce) = (self.flavor, self.nonce);
        let channel = self.channel_mut(kind);
        let resources = match flavor {
            Flavor::StateOfTheWorld if kind.is_root() => channel.all(),
            _ => Payload::Some(names.iter().filter_map(|name| channel.held.get(name)).cloned().collect()),
        };
        let version = channel.version(&channel.held);
        channel.last_nonce = nonce;
        channel.owed = false;
        channel.word.sent = Some(hex(version));
        let removed = if flavor == Flavor::Delta { removed } else { Vec::new() };
        channel.outstanding = Some(Outstanding { version, names, removed: removed.clone() });
        Response { kind, version, nonce, resources, removed }
    }
}

impl Channel {
    /// Whether the client lacks something of a set, or has what is to be taken away.
    fn lacks(&self, kind: Kind, set: &Arc<Set>) -> bool {
        if !self.due.is_empty() || !self.absent.is_empty() {
            return true;
        }
        if Arc::ptr_eq(&self.held, set) {
            return false;
        }
        let asked = |known: &&Arc<Resource>| self.asked.as_ref().is_some_and(|asked| asked.has(&known.name));
        new(&self.held, set).any(|known| asked(&known))
            || (kind.is_root() && gone(&self.held, set).any(|known| asked(&known)))
    }

    /// Goes over to a set: what is new in it, and what is to be told as removed.
    fn go_over(&mut self, kind: Kind, set: &Arc<Set>) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let unsure = std::mem::take(&mut self.due);
        let absent = std::mem::take(&mut self.absent).into_iter();
        let mut removed: Vec<Arc<str>> = absent.filter(|name| set.get(name).is_none()).collect();
        let held = std::mem::replace(&mut self.held, Arc::clone(set));
        let Some(asked) = &self.asked else { return (Vec::new(), removed) };
        let is_asked = |known: &&Arc<Resource>| asked.has(&known.name);
        let mut new: BTreeSet<Arc<str>> =
            new(&held, set).filter(is_asked).map(|known| Arc::clone(&known.name)).collect();
        for name in &new {
            let had = held.get(name).or_else(|| self.lingering.iter().find(|known| known.name == *name));
            if let Some(had) = had.filter(|_| !unsure.contains(name)) {
                self.had.entry(Arc::clone(name)).or_insert_with(|| Arc::clone(had));
            }
        }
        // What was refused lingers as it was before, if it was.
        let as_it_was = |known: &Arc<Resource>| {
            if unsure.contains(&known.name) { self.had.get(&known.name) } else { Some(known) }.cloned()
        };
        let gone = gone(&held, set).filter(is_asked);
        match kind {
            Kind::Cluster => self.lingering.extend(gone.filter_map(as_it_was)),
            Kind::Listener => removed.extend(gone.map(|known| Arc::clone(&known.name))),
            // Nobody asks any more for what nothing refers to.
            Kind::Endpoints | Kind::Route => {}
        }
        self.lingering.retain(|known| set.get(&known.name).is_none());
        new.extend(unsure.into_iter().filter(|name| set.get(name).is_some()));
        (new.into_iter().collect(), removed)
    }

    /// Everything that the client asked for.
    fn all(&self) -> Payload {
        let Some(Asked::Names(names)) = &self.asked else {
            if self.lingering.is_empty() {
                return Payload::Whole(Arc::clone(&self.held));
            }
            return Payload::Some(self.held.iter().chain(&self.lingering).cloned().collect());
        };
        Payload::Some(names.iter().filter_map(|name| self.held.get(name)).chain(&self.lingering).cloned().collect())
    }

    /// The version of what the client has when it has all that it asked for of a set.
    fn version(&self, set: &Set) -> u64 {
        let lingering = self.lingering.iter().map(|known| known.version).fold(0, u64::wrapping_add);
        let sum = match &self.asked {
            Some(Asked::Names(names)) => {
                names.iter().filter_map(|name| set.get(name)).fold(0u64, |sum, known| sum.wrapping_add(known.version))
            }
            _ => set.version,
        };
        sum.wrapping_add(lingering)
    }

    /// Takes the names that a client asks for, all of them at once.
    fn ask(&mut self, kind: Kind, names: &[String], set: &Arc<Set>) {
        let first = self.asked.is_none();
        let all =
            names.iter().any(|name| name == "*") || (kind.is_root() && names.is_empty() && self.is_all_or_first());
        if all {
            if !matches!(self.asked, Some(Asked::All)) {
                self.due.extend(set.iter().map(|known| Arc::clone(&known.name)));
                self.owed = true;
            }
            self.asked = Some(Asked::All);
        } else {
            let now: BTreeSet<Arc<str>> = names.iter().map(|name| interned(name, set)).collect();
            let known = |name: &Arc<str>| self.asked.as_ref().is_some_and(|asked| asked.has(name));
            let new: Vec<Arc<str>> = now.iter().filter(|name| !known(name)).cloned().collect();
            self.owed |= !new.is_empty();
            self.due.extend(new);
            self.due.retain(|name| now.contains(name));
            self.asked = Some(Asked::Names(now));
        }
        if first {
            self.held = Arc::clone(set);
        }
    }

    fn is_all_or_first(&self) -> bool {
        matches!(self.asked, None | Some(Asked::All))
    }

    /// Adds names to those that a client asks for; every one of them is answered, known or not.
    fn subscribe(&mut self, kind: Kind, names: &[String], set: &Arc<Set>, first: bool) {
        let all = names.iter().any(|name| name == "*") || (first && kind.is_root() && names.is_empty());
        if all {
            self.asked = Some(Asked::All);
            self.due.extend(set.iter().map(|known| Arc::clone(&known.name)));
            self.owed = true;
            return;
        }
        for name in names {
            let name = interned(name, set);
            let place = if set.get(&name).is_some() { &mut self.due } else { &mut self.absent };
            place.insert(Arc::clone(&name));
            match &mut self.asked {
                Some(Asked::All) => {}
                Some(Asked::Names(asked)) => drop(asked.insert(name)),
                None => self.asked = Some(Asked::Names([name].into())),
            }
            self.owed = true;
        }
        if self.asked.is_none() {
            self.asked = Some(Asked::Names(BTreeSet::new()));
        }
    }

    fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            match &mut self.asked {
                Some(Asked::Names(asked)) => drop(asked.remove(name.as_str())),
                Some(Asked::All) if name == "*" => self.asked = Some(Asked::Names(BTreeSet::new())),
                _ => continue,
            }
            self.due.remove(name.as_str());
            self.absent.remove(name.as_str());
        }
    }

    /// Takes what a client has from an earlier stream: that is not due, and what is no more is taken away, in its turn.
    fn knows<'v>(&mut self, kind: Kind, versions: impl Iterator<Item = (&'v String, &'v String)>, set: &Arc<Set>) {
        let mut knew = false;
        for (name, version) in versions {
            knew = true;
            match set.get(name) {
                Some(known) if hex(known.version) == *version => drop(self.due.remove(&known.name)),
                Some(_) => {}
                None if kind == Kind::Cluster => self.lingering.push(Arc::new(Resource::gone(name))),
                None => drop(self.absent.insert(name.as_str().into())),
            }
        }
        self.owed &= !knew || !self.due.is_empty() || !self.absent.is_empty();
    }
}

/// The name as the set has it, so that it is kept once for all sessions.
fn interned(name: &str, set: &Set) -> Arc<str> {
    set.get(name).map_or_else(|| name.into(), |known| Arc::clone(&known.name))
}

/// Those that are new or changed from one set to another.
fn new<'s>(from: &'s Set, to: &'s Set) -> impl Iterator<Item = &'s Arc<Resource>> {
    to.iter().filter(|known| from.get(&known.name).is_none_or(|before| before.version != known.version))
}

/// Those that are in a set and not in another.
fn gone<'s>(from: &'s Set, to: &'s Set) -> impl Iterator<Item = &'s Arc<Resource>> {
    from.iter().filter(|known| to.get(&known.name).is_none())
}
