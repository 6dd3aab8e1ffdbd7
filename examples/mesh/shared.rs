//! Connections of HTTP/2 to upstreams, each of which takes many requests at a time: as many as the other side allows, and in
//! all as many as the rule does.
//!
//! Knows how full each is, and which are being opened. Opens none itself.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::{Notify, watch};

use crate::pool::Body;
use crate::transport::{Io, Way};
use crate::upstream::Held;

/// The connections to one cluster.
#[derive(Default)]
pub struct Connections {
    open: HashMap<Way, Vec<Shared>>,
    /// Those that are being opened. Who wants to go the same way waits for them, as with Envoy.
    coming: HashMap<Way, watch::Receiver<Option<String>>>,
}

/// To be told why a connection could not be opened; dropped without a word: it is open, or nobody cares any more.
pub type Coming = watch::Sender<Option<String>>;

/// One connection.
struct Shared {
    sender: http2::SendRequest<Body>,
    streams: Arc<Streams>,
    /// How many requests it may take yet.
    left: u32,
    /// For how many looks nobody has used it.
    quiet: u64,
}

/// The requests on a connection.
struct Streams {
    active: AtomicUsize,
    /// How many the other side allows at a time.
    room: AtomicUsize,
    /// Told when there is room again.
    freed: Arc<Notify>,
}

/// The place of one request on a connection, until this value goes.
pub struct Place(Arc<Streams>);

impl Streams {
    /// A place, if there is one.
    fn enter(self: &Arc<Self>) -> Option<Place> {
        let room = self.room.load(Ordering::Acquire);
        let entered = |active| (active < room).then_some(active + 1);
        self.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, entered).ok()?;
        Some(Place(Arc::clone(self)))
    }

    fn allow(&self, room: usize) {
        if self.room.swap(room, Ordering::AcqRel) < room {
            self.freed.notify_waiters();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Streams { active, room, freed } = &*self.0;
        if active.fetch_sub(1, Ordering::AcqRel) >= room.load(Ordering::Acquire) {
            freed.notify_waiters();
        }
    }
}

impl Connections {
    /// A place on a connection that is open and has room.
    pub fn take(&mut self, to: &Way) -> Option<(http2::SendRequest<Body>, Place)> {
        let open = self.open.get_mut(to)?;
        open.retain(|shared| !shared.sender.is_closed());
        let (at, place) = open.iter().enumerate().find_map(|(at, shared)| Some((at, shared.streams.enter()?)))?;
        let shared = &mut open[at];
        (shared.left, shared.quiet) = (shared.left.saturating_sub(1), 0);
        let sender = shared.sender.clone();
        if shared.left == 0 {
            open.swap_remove(at);
        }
        Some((sender, place))
    }

    /// That one is to be opened; or what comes of one that is being opened already.
    pub fn begin(&mut self, to: &Way) -> Result<Coming, watch::Receiver<Option<String>>> {
        let coming = self.coming.get(to).filter(|coming| coming.has_changed().is_ok() && coming.borrow().is_none());
        if let Some(coming) = coming {
            return Err(coming.clone());
        }
        let (told, coming) = watch::channel(None);
        self.coming.insert(to.clone(), coming);
        Ok(told)
    }

    /// Takes out what is over, and what nobody has used for so many looks.
    pub fn sweep(&mut self, idle: Option<u64>) {
        for open in self.open.values_mut() {
            open.retain_mut(|shared| {
                let used = shared.streams.active.load(Ordering::Acquire) > 0;
                shared.quiet = if used { 0 } else { shared.quiet.saturating_add(1) };
                !shared.sender.is_closed() && idle.is_none_or(|idle| shared.quiet <= idle)
            });
        }
        self.open.retain(|_, open| !open.is_empty());
        self.coming.retain(|_, coming| coming.has_changed().is_ok());
    }

    fn add(&mut self, to: &Way, shared: Shared) {
        self.open.entry(to.clone()).or_default().push(shared);
    }
}

/// A connection on which HTTP/2 has begun, and the place on it of whoever opened it.
pub struct Opened {
    shared: Shared,
    place: Place,
}

impl Opened {
    /// Begins; the connection counts as open until it has ended. `most`: how many requests it may take.
    pub async fn begin(stream: Box<dyn Io>, held: Held, most: u32, freed: Arc<Notify>) -> Option<Self> {
        let mut http = http2::Builder::new(TokioExecutor::new());
        let (sender, mut connection) = http.timer(TokioTimer::new()).handshake(TokioIo::new(stream)).await.ok()?;
        let room = AtomicUsize::new(connection.current_max_send_streams());
        let streams = Arc::new(Streams { active: AtomicUsize::new(0), room, freed });
        let place = streams.enter()?;
        let told = Arc::clone(&streams);
        tokio::spawn(async move {
            poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                told.allow(connection.current_max_send_streams());
                polled.map(drop)
            })
            .await;
            drop(held);
        });
        Some(Opened { shared: Shared { sender, streams, left: most.saturating_sub(1), quiet: 0 }, place })
    }

    /// From now on others may share it.
    pub fn share(self, to: &Way, among: &mut Connections) -> (http2::SendRequest<Body>, Place) {
        let sender = self.shared.sender.clone();
        if self.shared.left > 0 {
            among.add(to, self.shared);
        }
        (sender, self.place)
    }
}
