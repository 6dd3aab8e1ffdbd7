//! A subscription as its two ends know it: resources by type and name, what was sent of them and what was said of that.
//!
//! Pure: no sockets, no clock, and nothing of what a resource means. Each type has a version, a nonce and a word (ACK or
//! NACK) of its own, and only what changed or went is sent. One push is on its way at a time, and the order is make before
//! break: a type waits for the types that it names things of, and what others may still name is taken away only when
//! everything else was accepted.
//!
//! The library's own `adapter::xds` serves Envoys, who ask for resources by name, in two ways of speaking; here nobody asks,
//! so that there is less to keep in mind.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The types of resources, in the order in which they are sent: what is named comes before what names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// Who a proxy is, whom it trusts, and what comes to its own ports.
    Identity,
    /// Who may come in, and how many.
    Policies,
    /// Who is at an address, and where that really is.
    Addresses,
    /// Clusters, without their endpoints.
    Clusters,
    /// The endpoints of clusters.
    Endpoints,
    /// Where traffic is taken up.
    Listeners,
    /// Route tables.
    Routes,
    /// What DNS answers.
    Names,
    /// The pods that a node is to run.
    Pods,
    /// The Services that the kube-proxy serves.
    Services,
}

impl Type {
    /// Those that a sidecar or a gateway gets, all of which it needs.
    pub const OF_PROXIES: [Type; 8] = [
        Type::Identity,
        Type::Policies,
        Type::Addresses,
        Type::Clusters,
        Type::Endpoints,
        Type::Listeners,
        Type::Routes,
        Type::Names,
    ];

    /// Those of which it names resources, so that it is not sent while one of them is refused.
    fn names_of(self) -> &'static [Type] {
        match self {
            Type::Endpoints => &[Type::Addresses],
            Type::Listeners => &[Type::Clusters],
            Type::Routes => &[Type::Clusters, Type::Listeners],
            Type::Names => &[Type::Clusters, Type::Listeners, Type::Routes],
            _ => &[],
        }
    }

    /// Whether others may name its resources, which therefore go last.
    fn lingers(self) -> bool {
        matches!(self, Type::Addresses | Type::Clusters | Type::Endpoints)
    }

    /// What it is called where Istio has a name for it.
    pub fn short(self) -> &'static str {
        match self {
            Type::Clusters => "cds",
            Type::Endpoints => "eds",
            Type::Listeners => "lds",
            Type::Routes => "rds",
            Type::Names => "nds",
            Type::Identity => "identity",
            Type::Policies => "policies",
            Type::Addresses => "addresses",
            Type::Pods => "pods",
            Type::Services => "services",
        }
    }
}

/// The resources of one type, by name.
pub type Set = BTreeMap<Arc<str>, Arc<Value>>;
/// The resources of every type that concerns somebody.
pub type Sets = BTreeMap<Type, Arc<Set>>;

/// Takes from an earlier set what has not changed, so that equal resources are one.
pub fn share(set: &mut Arc<Set>, earlier: Option<&Arc<Set>>) {
    let Some(earlier) = earlier else { return };
    if *set == *earlier {
        *set = Arc::clone(earlier);
        return;
    }
    for (name, value) in Arc::make_mut(set) {
        if let Some(known) = earlier.get(name).filter(|known| *known == value) {
            *value = Arc::clone(known);
        }
    }
}

/// What has changed of one type, from discovery.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Push {
    /// The type.
    pub r#type: Type,
    /// The version of the world that it is of.
    pub version: u64,
    /// Names this message among those of its type on this connection.
    pub nonce: u64,
    /// What is new or different, as a whole. Not yet of any shape, so that one of a wrong shape can still be refused by name.
    pub resources: Set,
    /// What is no more.
    pub removed: Vec<Arc<str>>,
}

/// The subscriber's answer to a [`Push`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The type that it is about.
    pub r#type: Type,
    /// The push that is answered.
    pub nonce: u64,
    /// Why it was refused (NACK), as a whole; `None`: it was accepted (ACK).
    pub error: Option<String>,
}

/// What a subscriber would not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The version.
    pub version: u64,
    /// What it said.
    pub reason: String,
    /// What it would have had with it: that is not offered again.
    set: Arc<Set>,
}

/// Discovery's end, for one connection.
#[derive(Clone, Debug, Default)]
pub struct Subscription {
    channels: BTreeMap<Type, Channel>,
}

/// How far one type is.
#[derive(Clone, Debug, Default)]
pub struct Channel {
    /// What the subscriber said that it has; `None`: it has not accepted anything yet.
    held: Option<Arc<Set>>,
    /// What it will have with the push that it has not answered yet.
    outstanding: Option<Arc<Set>>,
    /// The last push.
    pub nonce: u64,
    /// The version that it was sent last.
    pub sent: u64,
    /// The version that it accepted last.
    pub acked: u64,
    /// What it would not take, unless it has taken something since.
    pub refused: Option<Refused>,
}

impl Channel {
    /// Whether it was offered this, and would not have it.
    fn has_refused(&self, set: &Arc<Set>) -> bool {
        self.refused.as_ref().is_some_and(|refused| refused.set == *set)
    }

    /// Whether it has this, of a target. It may then share it.
    fn has(&mut self, wanted: &Arc<Set>, target: &Arc<Set>) -> bool {
        if self.held.as_ref() != Some(wanted) {
            return false;
        }
        self.held = Some(Arc::clone(wanted));
        if !self.has_refused(target) {
            self.refused = None;
        }
        true
    }

    /// What it is to have of a target for now: with what is still there of before, as long as somebody may name it.
    fn before_break(&self, target: &Arc<Set>) -> Arc<Set> {
        let gone = |held: &Set| held.keys().any(|name| !target.contains_key(name));
        match &self.held {
            Some(held) if !Arc::ptr_eq(held, target) && gone(held) => {
                let all = held.iter().chain(target.iter());
                Arc::new(all.map(|(name, value)| (Arc::clone(name), Arc::clone(value))).collect())
            }
            _ => Arc::clone(target),
        }
    }

    /// Goes on to a set: what of it is new or different, and what is no more.
    fn send(&mut self, r#type: Type, version: u64, set: Arc<Set>) -> Push {
        let nothing = Arc::default();
        let held = self.held.as_ref().unwrap_or(&nothing);
        let new = set.iter().filter(|(name, value)| held.get(*name) != Some(value));
        let resources = new.map(|(name, value)| (Arc::clone(name), Arc::clone(value))).collect();
        let removed = held.keys().filter(|name| !set.contains_key(*name)).cloned().collect();
        self.nonce += 1;
        self.sent = version;
        self.outstanding = Some(set);
        Push { r#type, version, nonce: self.nonce, resources, removed }
    }

    fn heard(&mut self, error: Option<String>, set: Arc<Set>) {
        match error {
            Some(reason) => self.refused = Some(Refused { version: self.sent, reason, set }),
            None => {
                (self.acked, self.refused) = (self.sent, None);
                self.held = Some(set);
            }
        }
    }
}

impl Subscription {
    /// What is to be sent next on the way to a target, if anything is. To be asked again after each word.
    pub fn next(&mut self, version: u64, target: &Sets) -> Option<Push> {
        if self.waits() {
            return None;
        }
        for (r#type, set) in target {
            if r#type.names_of().iter().any(|named| self.is_refused(*named)) {
                continue;
            }
            let channel = self.channels.entry(*r#type).or_default();
            let wanted = if r#type.lingers() { channel.before_break(set) } else { Arc::clone(set) };
            if !channel.has(&wanted, set) && !channel.has_refused(&wanted) {
                return Some(channel.send(*r#type, version, wanted));
            }
        }
        if self.refused().next().is_some() {
            return None;
        }
        // Nothing names it any more: what names goes before what is named.
        let lingering = target.iter().rev().find_map(|(r#type, set)| {
            let channel = self.channels.get(r#type)?;
            (channel.held.as_ref() != Some(set)).then_some((*r#type, set))
        });
        let (r#type, set) = lingering?;
        Some(self.channels.entry(r#type).or_default().send(r#type, version, Arc::clone(set)))
    }

    /// Takes the subscriber's word. One on an older push says nothing of the newest; says whether it counted.
    pub fn heard(&mut self, reply: Reply) -> bool {
        let Some(channel) = self.channels.get_mut(&reply.r#type).filter(|channel| channel.nonce == reply.nonce) else {
            return false;
        };
        let Some(set) = channel.outstanding.take() else { return false };
        channel.heard(reply.error, set);
        true
    }

    /// Whether a push has not been answered yet.
    pub fn waits(&self) -> bool {
        self.channels.values().any(|channel| channel.outstanding.is_some())
    }

    /// What was refused, by type.
    pub fn refused(&self) -> impl Iterator<Item = (Type, &Refused)> {
        self.channels.iter().filter_map(|(r#type, channel)| Some((*r#type, channel.refused.as_ref()?)))
    }

    fn is_refused(&self, r#type: Type) -> bool {
        self.channels.get(&r#type).is_some_and(|channel| channel.refused.is_some())
    }

    /// How far each type is.
    pub fn channels(&self) -> impl Iterator<Item = (Type, &Channel)> {
        self.channels.iter().map(|(r#type, channel)| (*r#type, channel))
    }

    /// The highest version of any type that was sent.
    pub fn sent(&self) -> u64 {
        self.channels.values().map(|channel| channel.sent).max().unwrap_or_default()
    }
}

/// What is to be in force: what this connection has brought so far, over what is in force since an earlier one. A proxy that once
/// had everything takes up each push at once, whatever else of this connection is refused; what others may still name stays
/// beside what is new until all has come. `None`: something has never come.
pub fn over(in_force: &Sets, held: &Sets) -> Option<Sets> {
    if Type::OF_PROXIES.iter().all(|r#type| held.contains_key(r#type)) {
        return Some(held.clone());
    }
    let set = |r#type: &Type| match (in_force.get(r#type), held.get(r#type)) {
        (Some(before), Some(now)) if r#type.lingers() => {
            let mut both = Set::clone(before);
            both.extend(now.iter().map(|(name, value)| (Arc::clone(name), Arc::clone(value))));
            Some(Arc::new(both))
        }
        (before, now) => now.or(before).cloned(),
    };
    Type::OF_PROXIES.iter().map(|r#type| Some((*r#type, set(r#type)?))).collect()
}

/// The subscriber's end, for one connection.
#[derive(Clone, Debug, Default)]
pub struct Holding {
    sets: Sets,
}

impl Holding {
    /// Takes a push if `accept` does, which is shown what there is with it. Otherwise everything stays as it was.
    pub fn take(&mut self, push: Push, accept: impl FnOnce(&Sets) -> Result<(), String>) -> Reply {
        let (r#type, nonce) = (push.r#type, push.nonce);
        let mut set = self.sets.get(&r#type).map(|held| Set::clone(held)).unwrap_or_default();
        set.extend(push.resources);
        for name in &push.removed {
            set.remove(name);
        }
        let before = self.sets.insert(r#type, Arc::new(set));
        let error = accept(&self.sets).err();
        if error.is_some() {
            match before {
                Some(before) => self.sets.insert(r#type, before),
                None => self.sets.remove(&r#type),
            };
        }
        Reply { r#type, nonce, error }
    }
}
