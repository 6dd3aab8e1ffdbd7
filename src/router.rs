//! The compiled plan: asks the indexes, and answers with a decision.
//!
//! Immutable, `Send` and `Sync`. How it is built stands in [`compile`](crate::compile).

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::decision::{Decision, Outcome, refused_path, unclaimed, unmatched};
use crate::path::as_written;
use crate::plan::{
    Action, Chain, Cluster, Destination, Forward, HttpTable, List, Listener, Plan, Route, Target, VirtualHost,
};
use crate::request::{Connection, Question, Request, Room};
use crate::roll::{Purpose, Roll};
use crate::table::{ChainIndex, FastMap, HostIndex, RouteTable, Test};

/// Answers where a request goes, by one client's plan.
///
/// See the [crate's front page](crate) for how one is made.
// Counting the references of a router that many threads read must not take from them the line of the cache that its fields
// stand in.
#[derive(Debug)]
#[repr(align(128))]
pub struct Router {
    pub(crate) plan: Arc<Plan>,
    /// By port and address.
    pub(crate) bound: Arc<FastMap<(u16, IpAddr), u32>>,
    /// By port, for any address; in the order of ports.
    pub(crate) open: Arc<[(u16, u32)]>,
    /// One for each listener, in the same place.
    pub(crate) doors: List<Door>,
    /// Which clusters take traffic.
    pub(crate) able: Able,
}

/// A listener with the indexes of its chains.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) listener: Arc<Listener>,
    /// For each chain, in the same place, its index, if it carries HTTP.
    tables: SmallVec<[Option<Arc<Table>>; 1]>,
    /// Which of the chains takes a connection; `None`: there is one, and no connection that it does not fit.
    chains: Option<Arc<ChainIndex>>,
}

impl Door {
    pub(crate) fn new(listener: Arc<Listener>, tables: SmallVec<[Option<Arc<Table>>; 1]>) -> Self {
        let alone = matches!(listener.chains.as_slice(), [only] if only.takes_all());
        let chains = (!alone).then(|| Arc::new(ChainIndex::build(&listener.chains)));
        Door { listener, tables, chains }
    }

    /// The chain that takes a connection, with the index of its table.
    #[inline]
    fn chain(&self, connection: &Connection<'_>, http: bool) -> Option<(&Chain, Option<&Table>)> {
        let at = match &self.chains {
            None => 0,
            Some(chains) => chains.find(connection, http)?,
        };
        Some((&self.listener.chains[at], self.tables[at].as_deref()))
    }

    /// The index of one of its chains.
    pub(crate) fn table(&self, chain: usize) -> Option<&Table> {
        self.tables.get(chain)?.as_deref()
    }

    /// The same, to be changed.
    pub(crate) fn table_mut(&mut self, chain: usize) -> Option<&mut Arc<Table>> {
        self.tables.get_mut(chain)?.as_mut()
    }
}

/// The index of one [`HttpTable`]. Shared with the router before where nothing changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// From a domain to the place of its virtual host.
    pub(crate) hosts: Arc<HostIndex>,
    /// For each virtual host, in the same place, what is needed of it.
    pub(crate) sites: List<Site>,
}

/// A virtual host with the index of its routes, and at hand what most decisions need, so that they read little memory.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    host: Arc<VirtualHost>,
    routes: Arc<[Route]>,
    /// Shared with those that ask the same, as most virtual hosts of a mesh do.
    pub(crate) index: Arc<RouteTable>,
    /// For each route the cluster that it forwards to if that is all that it does, or [`Site::SPLIT`]; else [`Site::MORE`].
    plain: SmallVec<[u32; 4]>,
}

impl Site {
    /// The route does more than to forward.
    const MORE: u32 = u32::MAX;
    /// The route forwards to one of several clusters, and does no more.
    const SPLIT: u32 = u32::MAX - 1;

    pub(crate) fn new(host: Arc<VirtualHost>, index: Arc<RouteTable>) -> Self {
        let plain = |route: &Route| match route.only_forwards_to() {
            Some([only]) if !host.require_tls => only.cluster,
            Some(_) if !host.require_tls => Site::SPLIT,
            _ => Site::MORE,
        };
        let plain = host.routes.iter().map(plain).collect();
        Site { routes: host.routes.clone(), index, plain, host }
    }

    /// The destination and its cluster, if all that a route does is to forward.
    #[inline]
    fn plain(&self, id: u32, roll: &Roll) -> Option<(u32, u32)> {
        match self.plain[id as usize] {
            Site::SPLIT => {
                let Action::Forward(Forward { destinations, .. }) = &self.routes[id as usize].action else {
                    return None;
                };
                let at = Destination::pick(destinations, || roll.draw(Purpose::Route))?;
                Some((at, destinations[at as usize].cluster))
            }
            Site::MORE => None,
            cluster => Some((0, cluster)),
        }
    }
}

/// For each cluster whether it takes traffic: a bit, so that it need not be looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Able(Arc<[u64]>);

impl Able {
    pub(crate) fn of(clusters: &List<Cluster>) -> Self {
        let mut bits = vec![0; clusters.len().div_ceil(64)];
        for (at, _) in clusters.iter().enumerate().filter(|(_, cluster)| cluster.takes_traffic()) {
            bits[at / 64] |= 1 << (at % 64);
        }
        Able(bits.into())
    }

    /// That of `now`, where this is that of `before`: only what is not shared is looked at.
    pub(crate) fn after(&self, before: &List<Cluster>, now: &List<Cluster>) -> Self {
        let mut bits = self.0.to_vec();
        bits.resize(now.len().div_ceil(64), 0);
        for at in now.apart(before) {
            let takes = now.get(at).is_some_and(|cluster| cluster.takes_traffic());
            if let Some(word) = bits.get_mut(at / 64) {
                *word = *word & !(1 << (at % 64)) | u64::from(takes) << (at % 64);
            }
        }
        Able(bits.into())
    }

    fn has(&self, cluster: u32) -> bool {
        self.0.get(cluster as usize / 64).is_some_and(|word| word >> (cluster % 64) & 1 == 1)
    }
}

impl Router {
    /// The plan it was compiled from.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Where a request goes.
    ///
    /// Never panics, takes no lock and reads no clock.
    ///
    /// # Allocates
    /// Nothing, but for what outgrows its place on the stack: a path of more than 256 bytes that is not in normal form,
    /// a host of more than 64 bytes with capitals in it, several lines of a header that [has one value](crate::has_one_value) of more than
    /// 256 bytes together; and, once a thread, the work space of a regex.
    pub fn decide<'a>(&'a self, request: &Request<'a>, roll: &Roll) -> Decision<'a> {
        let connection = Connection { port: request.port, address: request.address, tls: request.tls };
        let Some(at) = self.listener(&connection) else { return unmatched(&self.plan) };
        let Some((chain, index)) = self.doors[at].chain(&connection, true) else { return unmatched(&self.plan) };
        match &chain.target {
            Target::Tcp { destinations, origin } => {
                Decision::of_connection(&self.plan, destinations, origin.as_ref(), roll)
            }
            Target::Http(table) => self.route(table, index, request, roll),
        }
    }

    /// Where a whole connection goes, whatever it carries.
    ///
    /// Never panics, takes no lock and reads no clock.
    ///
    /// # Allocates
    /// Nothing, but for a server name of more than 64 bytes with capitals in it.
    pub fn connect(&self, connection: &Connection<'_>, roll: &Roll) -> Decision<'_> {
        let Some(at) = self.listener(connection) else { return unmatched(&self.plan) };
        match self.doors[at].chain(connection, false).map(|(chain, _)| &chain.target) {
            Some(Target::Tcp { destinations, origin }) => {
                Decision::of_connection(&self.plan, destinations, origin.as_ref(), roll)
            }
            Some(Target::Http(_)) => Decision::without_route(Outcome::Reset),
            None => unmatched(&self.plan),
        }
    }

    /// The addresses that DNS would answer to this client for a host name, short ones included. The name may carry
    /// a port and capitals.
    ///
    /// Allocates for a name with capitals.
    pub fn lookup(&self, host: &str) -> &[IpAddr] {
        let host = crate::name::host_of(host);
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.plan.names.find(&host.to_ascii_lowercase());
        }
        self.plan.names.find(host)
    }

    fn listener(&self, connection: &Connection<'_>) -> Option<usize> {
        let bound = connection.address.and_then(|address| self.bound.get(&(connection.port, address)));
        bound.copied().or_else(|| self.open_at(connection.port)).map(|at| at as usize)
    }

    /// The listener on a port of any address.
    #[inline]
    pub(crate) fn open_at(&self, port: u16) -> Option<u32> {
        let at = self.open.partition_point(|&(known, _)| known < port);
        self.open.get(at).filter(|(known, _)| *known == port).map(|&(_, at)| at)
    }

    fn route<'a>(
        &'a self,
        table: &'a HttpTable,
        index: Option<&'a Table>,
        request: &Request<'a>,
        roll: &Roll,
    ) -> Decision<'a> {
        let (written, mut room) = (as_written(request.path), Room::default());
        let question = match Question::new(request, written, &mut room) {
            Ok(question) => question,
            Err(error) => return refused_path(&error),
        };
        let found = index.and_then(|index| Some((index, index.hosts.find(request.authority)? as usize)));
        let Some((index, at)) = found else { return unclaimed(table, request, written) };
        let site = &*index.sites[at];
        let holds =
            |Test { of, rest }| rest.is_empty() || site.routes[of as usize].condition.rest_holds(rest, &question);
        let Some(id) = site.index.first(&question, holds) else {
            return Decision::of(&self.plan, &site.host, None, request, written, &question, roll);
        };
        let route = &site.routes[id as usize];
        if let Some((at, cluster)) = site.plain(id, roll)
            && self.able.has(cluster)
            && let Some(cluster) = self.plan.clusters.get(cluster as usize)
        {
            return Decision::plain((cluster, at), &site.host, route, request, written);
        }
        Decision::of(&self.plan, &site.host, Some(route), request, written, &question, roll)
    }
}
