//! Many Envoys over one set of resources: who they are, what each of them is to get, and what they said of it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::protobuf::{Struct, value::Kind as Value};

use super::ads::{Session, Word};
use super::setup::Setup;
use super::snapshot::{Kind, Snapshot};
use super::translation::Translation;
use crate::live::Live;
use crate::resolve::Viewpoint;
use crate::router::Router;
use crate::views::Views;

/// Who an Envoy is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Client {
    /// Whose view of the resources it gets.
    pub viewpoint: Viewpoint,
    /// What its plan does not say of it.
    pub setup: Setup,
}

impl Client {
    /// A client.
    pub fn new(viewpoint: Viewpoint, setup: Setup) -> Self {
        Client { viewpoint, setup }
    }

    /// Who a node says that it is, in Istio's words: an id that begins with `router~` is a gateway's; the metadata
    /// `NAMESPACE` and `LABELS` are the workload's.
    pub fn of(node: &Node) -> Self {
        let namespace = text(node.metadata.as_ref(), "NAMESPACE").unwrap_or("default");
        let viewpoint = match node.id.starts_with("router~") {
            true => Viewpoint::gateway(namespace),
            false => Viewpoint::sidecar(namespace),
        };
        let viewpoint = viewpoint.labels(labels(node.metadata.as_ref()));
        let locality = node.locality.as_ref();
        let locality = locality.map(|at| format!("{}/{}/{}", at.region, at.zone, at.sub_zone));
        let locality = locality.filter(|text| text != "//").unwrap_or_default();
        let setup = Setup::of(&viewpoint, locality.trim_end_matches('/'));
        Client { viewpoint, setup }
    }
}

fn text<'n>(metadata: Option<&'n Struct>, name: &str) -> Option<&'n str> {
    match metadata?.fields.get(name)?.kind.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn labels(metadata: Option<&Struct>) -> std::collections::BTreeMap<String, String> {
    let labels = metadata.and_then(|metadata| metadata.fields.get("LABELS")?.kind.as_ref());
    let Some(Value::StructValue(labels)) = labels else { return Default::default() };
    let pair = |name: &String| Some((name.clone(), text(Some(labels), name)?.to_string()));
    labels.fields.keys().filter_map(pair).collect()
}

/// What one connected Envoy said.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Connected {
    /// The id of its node.
    pub node: String,
    /// Whose view it gets.
    pub viewpoint: Viewpoint,
    /// What it said of each kind of resources, in the order of [`Kind::ALL`].
    pub words: [Word; 4],
    /// Whether it has accepted all that there is for it.
    pub settled: bool,
    /// What of its plan could not be said in Envoy's words, and why.
    pub omitted: Vec<String>,
}

impl Connected {
    /// What it said of a kind.
    pub fn word(&self, kind: Kind) -> &Word {
        &self.words[kind as usize]
    }
}

type Recognise = Box<dyn Fn(&Node) -> Client + Send + Sync>;
type Amend = Box<dyn Fn(&Viewpoint, &mut Translation) + Send + Sync>;
type Hear = Box<dyn Fn(&Node, Kind, &Word) + Send + Sync>;

/// Many Envoys over one set of resources.
///
/// Envoys that see the same share one snapshot, and a change is worked out and encoded once for all of them. What they
/// get is a pure function of the resources, so that any number of fleets over the same resources can serve them.
pub struct Fleet {
    inner: Mutex<Inner>,
    recognise: Recognise,
    amend: Amend,
    hear: Hear,
}

struct Inner {
    views: Views,
    lanes: Vec<Lane>,
}

/// Envoys that get the same.
struct Lane {
    client: Client,
    live: Arc<Live>,
    router: Arc<Router>,
    snapshot: Arc<Snapshot>,
    seats: Vec<Weak<Seat>>,
}

impl Fleet {
    /// A fleet without Envoys.
    pub fn new(views: Views) -> Self {
        Fleet {
            inner: Mutex::new(Inner { views, lanes: Vec::new() }),
            recognise: Box::new(Client::of),
            amend: Box::new(|_, _| {}),
            hear: Box::new(|_, _, _| {}),
        }
    }

    /// With another way to tell who an Envoy is; [`Client::of`] is Istio's.
    pub fn recognise(mut self, recognise: impl Fn(&Node) -> Client + Send + Sync + 'static) -> Self {
        self.recognise = Box::new(recognise);
        self
    }

    /// With something done to every translation before it is sent. It must do the same to equal ones.
    pub fn amend(mut self, amend: impl Fn(&Viewpoint, &mut Translation) + Send + Sync + 'static) -> Self {
        self.amend = Box::new(amend);
        self
    }

    /// With somebody who hears each word of an Envoy: what it accepted, and what it refused and why.
    pub fn on_word(mut self, hear: impl Fn(&Node, Kind, &Word) + Send + Sync + 'static) -> Self {
        self.hear = Box::new(hear);
        self
    }

    /// Changes the resources, and offers what follows to all Envoys that it touches.
    pub fn change<T>(&self, change: impl FnOnce(&mut Views) -> T) -> T {
        let mut inner = self.inner();
        let done = change(&mut inner.views);
        self.offer(&mut inner);
        done
    }

    /// Looks at the resources and what they mean.
    pub fn look<T>(&self, look: impl FnOnce(&Views) -> T) -> T {
        look(&self.inner().views)
    }

    /// All connected Envoys, and what they said.
    pub fn connected(&self) -> Vec<Connected> {
        let inner = self.inner();
        let of_lane = |lane: &Lane| -> Vec<Connected> {
            let seats = lane.seats.iter().filter_map(Weak::upgrade);
            seats.map(|seat| seat.told(&lane.client.viewpoint, &lane.snapshot)).collect()
        };
        inner.lanes.iter().flat_map(of_lane).collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn translated(&self, client: &Client, router: &Router, older: &Snapshot) -> Arc<Snapshot> {
        let mut made = Translation::of(router.plan(), &client.setup);
        (self.amend)(&client.viewpoint, &mut made);
        Arc::new(Snapshot::after(older, &made))
    }

    fn offer(&self, inner: &mut Inner) {
        for at in 0..inner.lanes.len() {
            let lane = &inner.lanes[at];
            let router = lane.live.load().to_arc();
            if Arc::ptr_eq(&router, &lane.router) {
                continue;
            }
            let shares = |known: &&Lane| Arc::ptr_eq(&known.router, &router) && known.client.setup == lane.client.setup;
            let shared = inner.lanes[..at].iter().find(shares).map(|known| Arc::clone(&known.snapshot));
            let snapshot = shared.unwrap_or_else(|| self.translated(&lane.client, &router, &lane.snapshot));
            let lane = &mut inner.lanes[at];
            (lane.router, lane.snapshot) = (router, snapshot);
            lane.offer();
        }
    }

    /// Takes an Envoy in: its seat, and what there is for it.
    pub(super) fn join(&self, node: &Node) -> Result<(Arc<Seat>, Arc<Snapshot>), tonic::Status> {
        let client = (self.recognise)(node);
        let mut inner = self.inner();
        inner.lanes.retain_mut(Lane::is_used);
        let at = match inner.lanes.iter().position(|lane| lane.client == client) {
            Some(at) => at,
            None => self.open(&mut inner, client)?,
        };
        let lane = &mut inner.lanes[at];
        let seat = Arc::new(Seat { node: node.clone(), inbox: Mutex::default(), words: Mutex::default() });
        lane.seats.push(Arc::downgrade(&seat));
        Ok((seat, Arc::clone(&lane.snapshot)))
    }

    fn open(&self, inner: &mut Inner, client: Client) -> Result<usize, tonic::Status> {
        let opened = inner.views.open(&client.viewpoint);
        let live = opened.map_err(|error| tonic::Status::internal(error.to_string()))?;
        let router = live.load().to_arc();
        let shares = |known: &&Lane| Arc::ptr_eq(&known.router, &router) && known.client.setup == client.setup;
        let shared = inner.lanes.iter().find(shares).map(|known| Arc::clone(&known.snapshot));
        let snapshot = shared.unwrap_or_else(|| self.translated(&client, &router, &Snapshot::default()));
        inner.lanes.push(Lane { client, live, router, snapshot, seats: Vec::new() });
        Ok(inner.lanes.len() - 1)
    }

    pub(super) fn heard(&self, seat: &Seat, kind: Kind, word: &Word) {
        (self.hear)(&seat.node, kind, word);
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("connected", &self.connected().len()).finish_non_exhaustive()
    }
}

impl Lane {
    fn is_used(&mut self) -> bool {
        self.seats.retain(|seat| seat.strong_count() > 0);
        !self.seats.is_empty()
    }

    fn offer(&mut self) {
        self.seats.retain(|seat| seat.strong_count() > 0);
        for seat in self.seats.iter().filter_map(Weak::upgrade) {
            seat.offer(Arc::clone(&self.snapshot));
        }
    }
}

/// Where a connected Envoy is reached.
pub(super) struct Seat {
    node: Node,
    inbox: Mutex<Inbox>,
    words: Mutex<([Word; 4], bool)>,
}

/// What is to be offered next; whoever is slow gets only the newest.
#[derive(Default)]
struct Inbox {
    snapshot: Option<Arc<Snapshot>>,
    waker: Option<Waker>,
}

impl Seat {
    /// Whether there is something that it has not been told yet.
    fn is_offered(&self) -> bool {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).snapshot.is_some()
    }

    fn offer(&self, snapshot: Arc<Snapshot>) {
        let waker = {
            let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            inbox.snapshot = Some(snapshot);
            inbox.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What was offered since it was last asked.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Arc<Snapshot>> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        match inbox.snapshot.take() {
            Some(snapshot) => Poll::Ready(snapshot),
            None => {
                inbox.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Keeps what the Envoy said, for whoever looks; says of which kinds it has said something new.
    pub(super) fn note(&self, session: &Session) -> Vec<(Kind, Word)> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.1 = session.is_settled() && !self.is_offered();
        let mut new = Vec::new();
        for kind in Kind::ALL {
            let (known, word) = (&mut words.0[kind as usize], session.word(kind));
            let said = known.accepted != word.accepted || known.refused != word.refused;
            if known != word {
                known.clone_from(word);
            }
            if said {
                new.push((kind, word.clone()));
            }
        }
        new
    }

    fn told(&self, viewpoint: &Viewpoint, snapshot: &Snapshot) -> Connected {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        Connected {
            node: self.node.id.clone(),
            viewpoint: viewpoint.clone(),
            words: words.0.clone(),
            settled: words.1 && !self.is_offered(),
            omitted: snapshot.omitted().to_vec(),
        }
    }
}
