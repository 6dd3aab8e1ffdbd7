//! Discovery: reads the folder, watches it, and pushes to each subscriber what has changed of that which concerns it.
//!
//! Knows files, sockets and who is there; in which order what is sent says [`Subscription`]. What the resources mean is worked out by [`World`] through the
//! library. A reading with an error in it is refused as a whole, and the last good one stays in force everywhere.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meshroute::{Reader, Reading, Resources};
use serde_json::Value;
use tokio::io::AsyncWrite;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::ads::{Push, Reply, Subscription};
use crate::args::Args;
use crate::ca::{Authority, seconds};
use crate::history::History;
use crate::pilot::Pilot;
use crate::scene::Scene;
use crate::trust::Seal;
use crate::warmth::{Look, Warmth};
use crate::wire::{self, Claim, Hello, MAX_SHORT_LINE, Opened, Part, Report, Roster, Signed, Signing};
use crate::world::{Subscriber, World};
use crate::{Failure, dashboard, gather, session, status};

/// How often the folder is looked at. A change counts once it has stood still for as long.
const LOOK: Duration = Duration::from_millis(150);
/// After how many looks that each found something else the folder is read as it is.
const RESTLESS: u32 = 3;
/// How long a subscriber may take to say hello, or to take a message off the wire.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a token that is not known is given.
const COURTESY: Duration = Duration::from_secs(1);
/// How long a certificate is good for, unless the one who starts discovery says otherwise: whoever loses discovery for an
/// hour has one to the end of it.
const LIFETIME: Duration = Duration::from_secs(4 * 3600);

/// What all tasks share.
pub struct Shared {
    world: Mutex<World>,
    history: Mutex<History>,
    pilot: Mutex<Pilot>,
    scene: Mutex<Arc<Scene>>,
    authority: Mutex<Authority>,
    /// What parts know it by.
    seal: Seal,
    /// Who may be what, as the parent says.
    roster: watch::Receiver<Roster>,
    /// Where parts subscribe, and are signed.
    pub api: SocketAddr,
    /// Where the page is.
    pub page: SocketAddr,
    /// Says that something has changed.
    changed: watch::Sender<()>,
}

impl Shared {
    /// The world, for a moment.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the proxies counted, for a moment.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Discovery's own counters, for a moment. Whoever wants the world too takes that first.
    pub fn pilot(&self) -> MutexGuard<'_, Pilot> {
        self.pilot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is in the mesh as of now. Not to be called while the world is held.
    pub fn scene(&self) -> Arc<Scene> {
        let mut scene = self.scene.lock().unwrap_or_else(PoisonError::into_inner);
        dashboard::scene(self, &mut scene);
        Arc::clone(&scene)
    }

    /// Tells the parent where it is, and whose certificates are trusted: the parent tells the parts.
    fn report(&self, roots: Vec<Vec<u8>>) -> std::io::Result<()> {
        let listening = [("api", self.api), ("status", self.page)];
        let listening = listening.map(|(name, address)| (name.to_string(), address.port())).into();
        session::tell(&Report { listening, roots })
    }
}

/// Runs discovery on `--dir`. `--state` is where it keeps, for its next life, what was applied in which order.
pub async fn run(args: &Args) -> Result<(), Failure> {
    let (folder, state) = (PathBuf::from(args.one("dir")?), PathBuf::from(args.one("state")?));
    let authority = open_authority(args, &state)?;
    let roster = session::roster();
    let (api, api_address) = wire::bind(args.port_of("api")).await?;
    let (page, page_address) = wire::bind(args.port_of("status")).await?;
    let roots = authority.bundle();
    let shared = Arc::new(Shared {
        world: Mutex::new(World::new(&folder, remembered(&state), roots.clone())),
        history: Mutex::new(History::new(Instant::now())),
        pilot: Mutex::new(Pilot::new()),
        scene: Mutex::default(),
        seal: Seal::new(&authority)?,
        authority: Mutex::new(authority),
        roster,
        api: api_address,
        page: page_address,
        changed: watch::Sender::new(()),
    });
    tokio::spawn(status::serve(page, Arc::clone(&shared)));
    open_page(args, &shared);
    tokio::spawn(watch_folder(folder, state, Arc::clone(&shared)));
    tokio::spawn(warm_up(Arc::clone(&shared)));
    tokio::spawn(gather::follow(Arc::clone(&shared)));
    tokio::spawn(turn_roots(Arc::clone(&shared)));
    shared.report(roots)?;
    for id in 1.. {
        match api.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(id, stream, Arc::clone(&shared)))),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
    Ok(())
}

/// The authority, which keeps its roots beside the state. `--lifetime` and `--root-lifetime` are in seconds.
fn open_authority(args: &Args, state: &Path) -> Result<Authority, Failure> {
    let said = |key: &str| -> Result<Option<Duration>, Failure> {
        let said = args.all(key).first().map(|text| text.parse::<u32>()).transpose();
        let said = said.map_err(|_| format!("`--{key}` is a number of seconds"))?;
        Ok(said.map(|seconds| Duration::from_secs(u64::from(seconds.max(1)))))
    };
    let (lifetime, age) = (said("lifetime")?.unwrap_or(LIFETIME), said("root-lifetime")?);
    Authority::open(&state.with_file_name("roots"), lifetime, age, seconds())
}

/// Replaces roots in time, and tells everybody.
async fn turn_roots(shared: Arc<Shared>) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let heard = shared.world().is_settled();
        if let Err(error) = turn(heard, &shared) {
            once_told(&mut told, format!("roots cannot be replaced: {error}"));
        }
    }
}

fn turn(heard: bool, shared: &Shared) -> Result<(), Failure> {
    let mut authority = shared.authority.lock().unwrap_or_else(PoisonError::into_inner);
    let turned = authority.turn(heard, seconds());
    shared.seal.renew(&authority)?;
    if turned? {
        let bundle = authority.bundle();
        drop(authority);
        // The parent first: pods and kube-proxy hear of roots from it alone. Whoever meets a certificate of the new root
        // before it has heard of that comes again, and has heard by then.
        shared.report(bundle.clone())?;
        shared.world().set_roots(bundle);
        shared.changed.send_replace(());
    }
    Ok(())
}

/// A second door to the page, where `--address` wants one. While somebody else has it, discovery does without: what it does for
/// the mesh is worth more than a page, and its own door is there.
fn open_page(args: &Args, shared: &Arc<Shared>) {
    for address in args.all("address") {
        tokio::spawn(keep_open(address.clone(), Arc::clone(shared)));
    }
}

async fn keep_open(address: String, shared: Arc<Shared>) {
    let mut told = String::new();
    loop {
        match TcpListener::bind(&address).await {
            Ok(listener) => return status::serve(listener, shared).await,
            Err(error) => once_told(&mut told, format!("the page cannot be at `{address}` yet: {error}")),
        }
        tokio::time::sleep(COURTESY).await;
    }
}

/// Says what goes wrong, unless that was the last that was said.
fn once_told(told: &mut String, trouble: String) {
    if *told != trouble {
        let _ = writeln!(std::io::stderr(), "discovery: {trouble}");
        *told = trouble;
    }
}

/// The resources of an earlier life, in their order.
fn remembered(state: &Path) -> Resources {
    let mut resources = Resources::new();
    if let Ok(text) = std::fs::read_to_string(state) {
        resources.apply_text(&text, "as last accepted", Reading::Lenient);
    }
    resources
}

/// Wakes everybody who waits for pods.
async fn warm_up(shared: Arc<Shared>) {
    let mut warmth = Warmth::default();
    loop {
        let look = {
            let world = shared.world();
            warmth.look(world.is_warm(), world.has_waited())
        };
        if look != Look::Wait {
            shared.changed.send_replace(());
        }
        if look == Look::Last {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn watch_folder(folder: PathBuf, state: PathBuf, shared: Arc<Shared>) {
    let (mut read, mut before, mut restless) = (None, None, 0);
    loop {
        let now = fingerprint(&folder);
        // A folder that never stands still is read all the same, as Istio's own debouncing has an end.
        let due = read.is_none() || before == Some(now) || restless >= RESTLESS;
        if due && read != Some(now) {
            let mut reader = Reader::new(Reading::Lenient);
            reader.path(&folder);
            // What was changed while it was read is read again.
            if fingerprint(&folder) == now {
                (read, restless) = (Some(now), 0);
                take(reader, &state, &shared);
            }
        }
        restless += u32::from(before != Some(now));
        before = Some(now);
        tokio::time::sleep(LOOK).await;
    }
}

fn take(reader: Reader, state: &Path, shared: &Shared) {
    let accepted = shared.world().accept(reader);
    if accepted && let Err(error) = remember(state, &shared.world().journal()) {
        let _ = writeln!(std::io::stderr(), "discovery: the order of application cannot be kept: {error}");
    }
    shared.changed.send_replace(());
}

/// Written beside and moved into place, so that an end in between leaves the old one whole.
fn remember(state: &Path, journal: &str) -> std::io::Result<()> {
    let beside = state.with_extension("new");
    std::fs::write(&beside, journal)?;
    std::fs::rename(beside, state)
}

/// Stands for names and contents of everything below a folder.
fn fingerprint(folder: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    hash_below(folder, &mut hasher, 16);
    hasher.finish()
}

fn hash_below(path: &Path, hasher: &mut DefaultHasher, depth: u8) {
    path.hash(hasher);
    let Ok(entries) = std::fs::read_dir(path) else {
        return std::fs::read(path).ok().hash(hasher);
    };
    let mut entries: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    for entry in entries.iter().filter(|_| depth > 0) {
        hash_below(entry, hasher, depth - 1);
    }
}

/// One subscriber, from its hello to the end of its connection.
async fn serve(id: u64, stream: TcpStream, shared: Arc<Shared>) {
    let Some(stream) = shared.seal.accept(stream).await else { return };
    let (read, write) = tokio::io::split(stream);
    // The first line is a hello and the others are replies: each is looked at when its turn comes.
    let mut lines = wire::messages::<Value, _>(read, MAX_SHORT_LINE);
    let Ok(Some(first)) = tokio::time::timeout(PATIENCE, lines.recv()).await else { return };
    let hello = match serde_json::from_value::<Opened>(first) {
        Ok(Opened::Hello(hello)) => hello,
        Ok(Opened::Signing(signing)) => return sign(&signing, write, &shared).await,
        Err(_) => return,
    };
    // Who is not what it says it is hears nothing.
    let claimed = hello.part.to_string();
    if bearer(&hello.token, &shared).await.is_none_or(|claim| claim.part != claimed) {
        return;
    }
    let part = hello.part.clone();
    enter(id, hello, &shared);
    let _ = converse(id, &part, write, &mut lines, &shared).await;
    leave(id, &part, &shared);
}

/// Who has this token. The parent's word on it may come a moment later than its bearer.
async fn bearer(token: &str, shared: &Shared) -> Option<Claim> {
    let mut roster = shared.roster.clone();
    let known = tokio::time::timeout(COURTESY, roster.wait_for(|roster| roster.contains_key(token)));
    known.await.ok()?.ok()?.get(token).cloned()
}

/// Signs the bearer of a token: as what the parent says it is, whatever its request says.
async fn sign(signing: &Signing, mut write: impl AsyncWrite + Unpin, shared: &Shared) {
    let signed = match bearer(&signing.token, shared).await.and_then(|claim| claim.name) {
        Some(name) => {
            let authority = shared.authority.lock().unwrap_or_else(PoisonError::into_inner);
            let lifetime = authority.lifetime().as_millis() as u64;
            let certificate = authority.sign(&signing.request, &name).map_err(|error| error.to_string());
            certificate.map(|certificate| Signed { certificate, roots: authority.bundle(), lifetime })
        }
        None => Err("nobody is signed with this token".to_string()),
    };
    // Who does not hear it asks again.
    let _ = tokio::time::timeout(PATIENCE, wire::send(&mut write, &signed)).await;
}

fn enter(id: u64, hello: Hello, shared: &Shared) {
    let Hello { part, pid, admin, .. } = hello;
    let is_pod = matches!(part, Part::Pod { .. } | Part::Sidecar { .. } | Part::Gateway { .. });
    let mut world = shared.world();
    let subscriber =
        Subscriber { part, pid, admin, seen: 0, subscription: Subscription::default(), acked: 0, findings: Vec::new() };
    world.subscribers.insert(id, subscriber);
    if is_pod {
        world.rebuild();
        drop(world);
        shared.changed.send_replace(());
    }
}

fn leave(id: u64, part: &Part, shared: &Shared) {
    let mut world = shared.world();
    world.subscribers.remove(&id);
    if matches!(part, Part::Pod { .. } | Part::Sidecar { .. } | Part::Gateway { .. }) {
        world.rebuild();
        drop(world);
        shared.changed.send_replace(());
    }
}

/// Sends what has changed, and takes note of what is said of it, until either of the two is no longer possible.
async fn converse(
    id: u64,
    part: &Part,
    mut write: impl AsyncWrite + Unpin,
    lines: &mut tokio::sync::mpsc::Receiver<Value>,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut changed = shared.changed.subscribe();
    loop {
        changed.borrow_and_update();
        if let Some(push) = next(id, part, shared) {
            tokio::time::timeout(PATIENCE, wire::send(&mut write, &push)).await??;
        }
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return Ok(()) },
            line = lines.recv() => {
                let Some(Ok(reply)) = line.map(serde_json::from_value::<Reply>) else { return Ok(()) };
                hear(id, reply, shared);
            }
        }
    }
}

/// What to send now, noted as sent; `None`: there is nothing new, or it is not its turn yet.
fn next(id: u64, part: &Part, shared: &Shared) -> Option<Push> {
    let mut world = shared.world();
    let (version, since) = (world.version, world.changed);
    if world.subscribers.get(&id)?.is_done(version) {
        return None;
    }
    let (sets, findings) = world.wanted(part)?;
    let subscriber = world.subscribers.get_mut(&id)?;
    subscriber.findings = findings;
    let push = subscriber.subscription.next(version, &sets);
    match &push {
        Some(push) => shared.pilot().pushed(push.r#type),
        None if subscriber.subscription.waits() => {}
        None if subscriber.done(version) => shared.pilot().converged(since.elapsed()),
        None => {}
    }
    push
}

/// Takes note of what the subscriber says of a push.
fn hear(id: u64, reply: Reply, shared: &Shared) {
    let (r#type, refused) = (reply.r#type, reply.error.is_some());
    let mut world = shared.world();
    let Some(subscriber) = world.subscribers.get_mut(&id) else { return };
    if subscriber.subscription.heard(reply) {
        subscriber.seen = 0;
        if refused {
            shared.pilot().refused(r#type);
        }
    }
}

/// Findings, each once, in order of file and line.
pub fn once(findings: impl IntoIterator<Item = meshroute::Diagnostic>) -> Vec<meshroute::Diagnostic> {
    let place = |finding: &meshroute::Diagnostic| match &finding.place {
        Some(place) => (place.file.to_string(), place.line),
        None => (String::new(), 0),
    };
    let by_text = findings.into_iter().map(|finding| ((place(&finding), finding.to_string()), finding));
    by_text.collect::<BTreeMap<_, _>>().into_values().collect()
}
