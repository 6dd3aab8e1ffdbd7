//! The compiled plan: asks the indexes, and answers with a decision.
//!
//! Immutable, `Send` and `Sync`. How it is built stands in [`compile`](crate::compile).

use std::net::IpAddr;
use std::sync::Arc;

use crate::decision::{Decision, Outcome, refused_path, unclaimed, unmatched};
use crate::name::host_of;
use crate::path::as_written;
use crate::plan::{Chain, HttpTable, List, Listener, Plan, Rest, Target};
use crate::request::{Connection, Question, Request, Room};
use crate::roll::Roll;
use crate::table::{FastMap, HostIndex, RouteTable};

/// Answers where a request goes, by one client's plan.
///
/// See the [crate's front page](crate) for how one is made.
#[derive(Debug)]
pub struct Router {
    pub(crate) plan: Arc<Plan>,
    /// By port and address.
    pub(crate) bound: Arc<FastMap<(u16, IpAddr), u32>>,
    /// By port, for any address.
    pub(crate) open: Arc<FastMap<u16, u32>>,
    /// One for each listener and each of its chains.
    pub(crate) tables: List<Tables>,
}

/// The indexes of one listener: one for each of its chains that carries HTTP.
pub(crate) type Tables = Vec<Option<Arc<Table>>>;

/// The indexes of one [`HttpTable`]. Shared with the router before where nothing changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// From a domain to the place of its virtual host.
    pub(crate) hosts: Arc<HostIndex>,
    /// For each virtual host, in the same place, its routes.
    pub(crate) routes: List<RouteTable>,
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
        let listener = &self.plan.listeners[at];
        let Some(chain) = listener.chain(&connection, true) else { return unmatched(&self.plan) };
        match &chain.target {
            Target::Tcp { destinations, origin } => {
                Decision::of_connection(&self.plan, destinations, origin.as_ref(), roll)
            }
            Target::Http(table) => {
                let index = self.tables[at][position(listener, chain)].as_deref();
                self.route(table, index, request, roll)
            }
        }
    }

    /// Where a whole connection goes, whatever it carries.
    ///
    /// Never panics, takes no lock, reads no clock and allocates nothing.
    pub fn connect(&self, connection: &Connection<'_>, roll: &Roll) -> Decision<'_> {
        let Some(at) = self.listener(connection) else { return unmatched(&self.plan) };
        match self.plan.listeners[at].chain(connection, false).map(|chain| &chain.target) {
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
        let known = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.plan.names.get(&*host.to_ascii_lowercase())
        } else {
            self.plan.names.get(host)
        };
        known.map_or(&[], Vec::as_slice)
    }

    fn listener(&self, connection: &Connection<'_>) -> Option<usize> {
        let bound = connection.address.and_then(|address| self.bound.get(&(connection.port, address)));
        bound.or_else(|| self.open.get(&connection.port)).map(|&at| at as usize)
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
        let name = host_of(request.authority).as_bytes();
        let found = index.and_then(|index| Some((index, index.hosts.find(name)? as usize)));
        let Some((index, at)) = found else { return unclaimed(table, request, written) };
        let host = &table.hosts[at];
        let holds = |id: u32, rest: Rest| host.routes[id as usize].condition.rest_holds(rest, &question);
        let route = index.routes[at].first(&question, holds).map(|id| &host.routes[id as usize]);
        Decision::of(&self.plan, host, route, request, written, &question, roll)
    }
}

fn position(listener: &Listener, chain: &Chain) -> usize {
    // INVARIANT: `chain` was borrowed from `listener.chains`, so it is found there.
    listener.chains.iter().position(|known| std::ptr::eq(known, chain)).unwrap_or_default()
}
