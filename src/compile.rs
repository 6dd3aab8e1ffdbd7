//! Makes a [`Router`] of a [`Plan`]: checks it and builds the indexes.
//!
//! A plan that [`resolve`](crate::resolve) made is legal; one that came over a wire may not be, and is told so here.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::name::HostPattern;
use crate::plan::{
    Action, Chain, Cluster, Destination, HttpTable, List, Listener, Names, Plan, Route, Target, VirtualHost,
};
use crate::resolve::{Contested, FromNothing, HostChange, for_any_name};
use crate::router::{Able, Door, Router, Site, Table};
use crate::table::{FastMap, HostIndex, RouteTable};

/// Why a plan cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {fault}")]
pub struct PlanError {
    at: String,
    fault: String,
}

impl PlanError {
    /// Which part of the plan: `listeners[0].chains[0].hosts[2].routes[1]`.
    pub fn at(&self) -> &str {
        &self.at
    }
}

type Checked = Result<(), (String, String)>;

impl Router {
    /// Checks a plan and builds the indexes for it.
    ///
    /// # Errors
    /// A destination without cluster, a forward without destinations, weights that are 0 where there are several, a
    /// status that is none, or a domain that two virtual hosts of one table claim.
    pub fn compile(plan: impl Into<Arc<Plan>>) -> Result<Router, PlanError> {
        let plan = plan.into();
        check(&plan).map_err(|(at, fault)| PlanError { at, fault })?;
        let (bound, open) = places(&plan.listeners);
        let mut known = Known::default();
        let doors = plan.listeners.iter().map(|listener| door(listener, &mut known)).collect();
        Ok(Router {
            bound: bound.into(),
            open: open.into_iter().collect(),
            doors,
            able: Able::of(&plan.clusters),
            plan,
        })
    }
}

impl Router {
    /// The router with other clusters in the same places; all indexes are shared.
    pub(crate) fn with_clusters(&self, clusters: &List<Cluster>) -> Router {
        let plan = Arc::new(Plan { clusters: clusters.clone(), ..Plan::clone(&self.plan) });
        let able = self.able.after(&self.plan.clusters, clusters);
        let (bound, open, doors) = (self.bound.clone(), self.open.clone(), self.doors.clone());
        Router { plan, bound, open, doors, able }
    }

    /// The router with some virtual hosts changed, all others shared.
    ///
    /// # Errors
    /// Where it cannot tell which place a virtual host has, or somebody else has or wants one of its domains.
    pub(crate) fn with_hosts(
        &self,
        changes: Vec<HostChange>,
        contested: &Contested,
        clusters: &List<Cluster>,
        made: &mut Made,
    ) -> Result<Router, FromNothing> {
        let mut router = self.with_clusters(clusters);
        router.change(changes, contested, made).ok_or(FromNothing)?;
        Ok(router)
    }

    /// The router with other answers of DNS.
    pub(crate) fn with_names(mut self, names: Names) -> Router {
        Arc::make_mut(&mut self.plan).names = names;
        self
    }

    fn change(&mut self, changes: Vec<HostChange>, contested: &Contested, made: &mut Made) -> Option<()> {
        let mut by_port: BTreeMap<u16, Vec<Placed>> = BTreeMap::new();
        let mut by_name: BTreeMap<Arc<str>, Vec<Placed>> = BTreeMap::new();
        for HostChange { port, table, host, now, own } in changes {
            let change = Placed { name: format!("{host}:{port}"), host, now: now.map(Arc::new) };
            let mut routes = change.now.iter().flat_map(|now| now.routes.iter());
            routes.try_for_each(|route| check_route(&self.plan, route)).ok()?;
            if let Some(&address) = own.first() {
                let at = *self.bound.get(&(port, address))?;
                self.change_table(at, &change.name, |table, http| place_alone(table, http, &change))?;
            }
            match table {
                Some(name) => by_name.entry(name).or_default().push(change),
                None => by_port.entry(port).or_default().push(change),
            }
        }
        for (name, changes) in by_name {
            self.change_named(&name, |table, http| place(table, http, changes, |_| false, made))?;
        }
        for (port, changes) in by_port {
            let at = self.open_at(port)?;
            let contested = contested.get(&port);
            let contested = |domain: &str| contested.is_some_and(|contested| contested.contains(domain));
            self.change_table(at, &port.to_string(), |table, http| place(table, http, changes, contested, made))?;
        }
        Some(())
    }

    /// Changes the table of this name, wherever it stands: several listeners may share one.
    fn change_named(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut Table, &mut HttpTable) -> Option<()>,
    ) -> Option<()> {
        let is_it = |chain: &Chain| matches!(&chain.target, Target::Http(http) if *http.name == *name);
        let listeners = self.plan.listeners.iter().enumerate();
        let all =
            listeners.flat_map(|(at, listener)| listener.chains.iter().map(is_it).enumerate().map(move |it| (at, it)));
        let spots: Vec<(usize, usize)> =
            all.filter(|(_, (_, is_it))| *is_it).map(|(at, (chain, _))| (at, chain)).collect();
        let &(at, chain) = spots.first()?;
        let table_at = |(at, chain): (usize, usize)| match &self.plan.listeners.get(at)?.chains.get(chain)?.target {
            Target::Http(http) => Some(http),
            Target::Tcp { .. } => None,
        };
        let http = table_at((at, chain))?;
        // Two servers may have given their tables one name.
        if !spots.iter().all(|&spot| table_at(spot).is_some_and(|other| Arc::ptr_eq(other, http))) {
            return None;
        }
        let (mut http, mut table) = (HttpTable::clone(http), Table::clone(self.doors.get(at)?.table(chain)?));
        change(&mut table, &mut http)?;
        let (http, table) = (Arc::new(http), Arc::new(table));
        for (at, chain) in spots {
            let mut listener = Listener::clone(self.plan.listeners.get(at)?);
            let mut door = Door::clone(self.doors.get(at)?);
            listener.chains.get_mut(chain)?.target = Target::Http(http.clone());
            *door.table_mut(chain)? = table.clone();
            door.listener = Arc::new(listener);
            Arc::make_mut(&mut self.plan).listeners.set(at, door.listener.clone());
            self.doors.set(at, door);
        }
        Some(())
    }

    /// Changes the table of this name, which must be that of the listener's first chain.
    fn change_table(
        &mut self,
        at: u32,
        name: &str,
        change: impl FnOnce(&mut Table, &mut HttpTable) -> Option<()>,
    ) -> Option<()> {
        let at = at as usize;
        let mut listener = Listener::clone(self.plan.listeners.get(at)?);
        let mut door = Door::clone(self.doors.get(at)?);
        let Target::Http(http) = &mut listener.chains.first_mut()?.target else { return None };
        if *http.name != *name {
            return None;
        }
        change(Arc::make_mut(door.table_mut(0)?), Arc::make_mut(http))?;
        door.listener = Arc::new(listener);
        Arc::make_mut(&mut self.plan).listeners.set(at, door.listener.clone());
        self.doors.set(at, door);
        Some(())
    }
}

/// A virtual host of a table, as it is now.
struct Placed {
    name: String,
    host: HostPattern,
    now: Option<Arc<VirtualHost>>,
}

impl Placed {
    /// The domains that it has now and had not before, or the other way round.
    fn only<'h>(of: Option<&'h Arc<VirtualHost>>, other: Option<&'h Arc<VirtualHost>>) -> Vec<&'h HostPattern> {
        let others = other.map_or(&[][..], |other| &other.domains);
        of.iter().flat_map(|host| &host.domains).filter(|domain| !others.contains(domain)).collect()
    }
}

/// The virtual hosts that one change made, by name: whoever gets the same as another shares it.
#[derive(Debug, Default)]
pub(crate) struct Made(HashMap<Arc<str>, Vec<Shared>>);

/// A virtual host, and what is needed of it.
type Shared = (Arc<VirtualHost>, Arc<Site>);

impl Made {
    /// A virtual host and what is needed of it; with the index of what was in its place, where that asks the same.
    fn share(&mut self, now: Arc<VirtualHost>, before: Option<(&VirtualHost, &Site)>) -> Shared {
        let known = self.0.entry(now.name.clone()).or_default();
        if let Some(same) = known.iter().find(|(host, _)| *host == now) {
            return same.clone();
        }
        let before = before.filter(|(host, _)| same_conditions(host, &now)).map(|(_, site)| site.index.clone());
        let made = match known.iter().find(|(host, _)| host.routes == now.routes) {
            Some((host, site)) => {
                let now = Arc::new(VirtualHost { routes: host.routes.clone(), ..VirtualHost::clone(&now) });
                (now.clone(), Site::new(now, site.index.clone()))
            }
            None => (now.clone(), Site::new(now.clone(), before.unwrap_or_else(|| Arc::new(routes(&now))))),
        };
        let made = (made.0, Arc::new(made.1));
        known.push(made.clone());
        made
    }
}

/// Puts a virtual host into a table that has no other.
fn place_alone(table: &mut Table, http: &mut HttpTable, change: &Placed) -> Option<()> {
    if http.hosts.first().is_some_and(|known| *known.name != *change.name) {
        return None;
    }
    let anyone = change.now.as_ref().map(|now| for_any_name(now));
    http.hosts = anyone.into_iter().collect();
    table.sites = http.hosts.iter().map(site).collect();
    table.hosts = Arc::new(hosts(http));
    Some(())
}

/// Puts virtual hosts into the places of those of the same names; `None` where others are concerned.
fn place(
    table: &mut Table,
    http: &mut HttpTable,
    changes: Vec<Placed>,
    contested: impl Fn(&str) -> bool,
    made: &mut Made,
) -> Option<()> {
    let place_of = |change: &Placed| table.hosts.owner(&change.host).map(|at| at as usize);
    let places: Vec<Option<usize>> = changes.iter().map(place_of).collect();
    // All domains are free before one is taken: one virtual host may get what another had.
    for (change, at) in changes.iter().zip(&places) {
        let Some(before) = at.map(|at| &http.hosts[at]) else { continue };
        if *before.name != *change.name {
            return None;
        }
        for domain in Placed::only(Some(before), change.now.as_ref()) {
            if contested(domain.as_str()) {
                return None;
            }
            Arc::make_mut(&mut table.hosts).give(domain, None);
        }
    }
    let mut gone = Vec::new();
    for (change, at) in changes.into_iter().zip(places) {
        let Some(now) = change.now else {
            gone.extend(at);
            continue;
        };
        let place = at.unwrap_or(http.hosts.len());
        for domain in Placed::only(Some(&now), at.map(|at| &http.hosts[at])) {
            if table.hosts.owner(domain).is_some() {
                return None;
            }
            Arc::make_mut(&mut table.hosts).give(domain, u32::try_from(place).ok());
        }
        match at {
            Some(at) => put(table, http, at, now, made),
            None => {
                let (now, site) = made.share(now, None);
                table.sites.push(site);
                http.hosts.push(now);
            }
        }
    }
    gone.sort_unstable();
    gone.into_iter().rev().try_for_each(|at| remove(table, http, at))?;
    if table.hosts.is_patched() {
        table.hosts = Arc::new(hosts(http));
    }
    Some(())
}

/// Puts a virtual host into a place. What is as it was before stays shared.
fn put(table: &mut Table, http: &mut HttpTable, at: usize, now: Arc<VirtualHost>, made: &mut Made) {
    let (before, site) = (&http.hosts[at], &table.sites[at]);
    if before.routes != now.routes {
        let (now, site) = made.share(now, Some((before, site)));
        table.sites.set(at, site);
        http.hosts.set(at, now);
    } else if before.domains != now.domains || before.require_tls != now.require_tls {
        let now = Arc::new(VirtualHost { routes: before.routes.clone(), ..VirtualHost::clone(&now) });
        table.sites.set(at, Site::new(now.clone(), site.index.clone()));
        http.hosts.set(at, now);
    }
}

/// Takes a virtual host away, whose domains are free already; the last one gets its place.
fn remove(table: &mut Table, http: &mut HttpTable, at: usize) -> Option<()> {
    let (host, site) = (http.hosts.pop()?, table.sites.pop()?);
    if at == http.hosts.len() {
        return Some(());
    }
    let index = Arc::make_mut(&mut table.hosts);
    for domain in &host.domains {
        index.give(domain, u32::try_from(at).ok());
    }
    http.hosts.set(at, host);
    table.sites.set(at, site);
    Some(())
}

type Bound = FastMap<(u16, IpAddr), u32>;
type Open = BTreeMap<u16, u32>;

/// Where each listener is found; the first one for a place has it.
fn places(listeners: &List<Listener>) -> (Bound, Open) {
    let (mut bound, mut open) = (Bound::default(), Open::default());
    for (at, listener) in (0u32..).zip(listeners) {
        if listener.addresses.is_empty() {
            open.entry(listener.port).or_insert(at);
        }
        for address in &listener.addresses {
            bound.entry((listener.port, *address)).or_insert(at);
        }
    }
    (bound, open)
}

fn door(listener: &Arc<Listener>, known: &mut Known) -> Door {
    let tables = listener.chains.iter().map(|chain| index(chain, known).map(Arc::new)).collect();
    Door::new(listener.clone(), tables)
}

fn index(chain: &Chain, known: &mut Known) -> Option<Table> {
    let Target::Http(http) = &chain.target else { return None };
    let site = |host: &Arc<VirtualHost>| Site::new(host.clone(), known.index(host));
    let sites = http.hosts.iter().map(site).collect();
    Some(Table { hosts: Arc::new(hosts(http)), sites })
}

/// The indexes of the virtual hosts so far, for those that ask the same.
#[derive(Default)]
struct Known(FastMap<Arc<RouteTable>, ()>);

impl Known {
    /// Virtual hosts with more routes are not compared.
    const MOST: usize = 16;

    fn index(&mut self, host: &VirtualHost) -> Arc<RouteTable> {
        let made = routes(host);
        if host.routes.len() > Known::MOST {
            return Arc::new(made);
        }
        if let Some((known, ())) = self.0.get_key_value(&made) {
            return known.clone();
        }
        let made = Arc::new(made);
        self.0.insert(made.clone(), ());
        made
    }
}

fn hosts(http: &HttpTable) -> HostIndex {
    let numbered = (0u32..).zip(&http.hosts);
    HostIndex::build(numbered.flat_map(|(at, host)| host.domains.iter().map(move |domain| (domain, at))))
}

fn site(host: &Arc<VirtualHost>) -> Site {
    Site::new(host.clone(), Arc::new(routes(host)))
}

fn same_conditions(one: &VirtualHost, other: &VirtualHost) -> bool {
    one.routes.len() == other.routes.len()
        && one.routes.iter().zip(other.routes.iter()).all(|(one, other)| one.condition == other.condition)
}

fn routes(host: &VirtualHost) -> RouteTable {
    RouteTable::build(host.routes.iter().map(|route| &route.condition))
}

fn check(plan: &Plan) -> Checked {
    for (l, listener) in plan.listeners.iter().enumerate() {
        for (c, chain) in listener.chains.iter().enumerate() {
            let within = |(at, fault): (String, String)| (format!("listeners[{l}].chains[{c}]{at}"), fault);
            match &chain.target {
                Target::Http(table) => check_table(plan, table).map_err(within)?,
                Target::Tcp { destinations, .. } => check_destinations(plan, destinations).map_err(within)?,
            }
        }
    }
    Ok(())
}

fn check_table(plan: &Plan, table: &HttpTable) -> Checked {
    let mut claimed = std::collections::HashSet::new();
    for (h, host) in table.hosts.iter().enumerate() {
        if let Some(twice) = host.domains.iter().find(|domain| !claimed.insert(domain.as_str())) {
            return Err((format!(".hosts[{h}]"), format!("the domain `{twice}` is claimed twice")));
        }
        for (r, route) in host.routes.iter().enumerate() {
            check_route(plan, route).map_err(|(at, fault)| (format!(".hosts[{h}].routes[{r}]{at}"), fault))?;
        }
    }
    Ok(())
}

fn check_route(plan: &Plan, route: &Route) -> Checked {
    let fault = |text: String| Err((String::new(), text));
    match &route.action {
        Action::Forward(forward) => {
            check_destinations(plan, &forward.destinations)?;
            match forward.mirrors.iter().find(|mirror| plan.clusters.get(mirror.cluster as usize).is_none()) {
                Some(mirror) => fault(format!("there is no cluster {} to mirror to", mirror.cluster)),
                None => Ok(()),
            }
        }
        Action::Redirect(redirect) if !matches!(redirect.code, 301 | 302 | 303 | 307 | 308) => {
            fault(format!("{} is no status for a redirect", redirect.code))
        }
        Action::Direct(answer) if !(200..=600).contains(&answer.status) => {
            fault(format!("{} is no status for an answer", answer.status))
        }
        Action::Redirect(_) | Action::Direct(_) => Ok(()),
    }
}

fn check_destinations(plan: &Plan, destinations: &[Destination]) -> Checked {
    let fault = |text: String| Err((String::new(), text));
    if destinations.is_empty() {
        return fault("there is no destination".to_string());
    }
    if destinations.len() > 1 && destinations.iter().any(|destination| destination.weight == 0) {
        return fault("one of several destinations has weight 0".to_string());
    }
    match destinations.iter().find(|destination| plan.clusters.get(destination.cluster as usize).is_none()) {
        Some(destination) => fault(format!("there is no cluster {}", destination.cluster)),
        None => Ok(()),
    }
}
