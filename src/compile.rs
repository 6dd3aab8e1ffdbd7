//! Makes a [`Router`] of a [`Plan`]: checks it and builds the indexes.
//!
//! A plan that [`resolve`](crate::resolve) made is legal; one that came over a wire may not be, and is told so here.

use std::net::IpAddr;
use std::sync::Arc;

use crate::plan::{Action, Chain, Cluster, Destination, HttpTable, List, Listener, Plan, Route, Target, VirtualHost};
use crate::resolve::{FromNothing, HostChange, for_any_name};
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
        Ok(Router { bound: bound.into(), open: open.into(), doors, able: Able::of(&plan.clusters), plan })
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
    /// Where it cannot tell which place a virtual host has, or somebody else has one of its domains.
    pub(crate) fn with_hosts(&self, changes: Vec<HostChange>, clusters: &List<Cluster>) -> Result<Router, FromNothing> {
        let mut router = self.with_clusters(clusters);
        for change in changes {
            router.change(change).ok_or(FromNothing)?;
        }
        Ok(router)
    }

    fn change(&mut self, change: HostChange) -> Option<()> {
        let now = change.now.map(Arc::new);
        if let Some(now) = &now {
            now.routes.iter().try_for_each(|route| check_route(&self.plan, route)).ok()?;
        }
        if let Some(&address) = change.own.first() {
            let at = *self.bound.get(&(change.port, address))?;
            let name = format!("{}:{}", change.host, change.port);
            let anyone = now.as_ref().map(|now| Arc::new(for_any_name(now)));
            self.change_table(at, &name, |table, http| place(table, http, "*", &name, anyone))?;
        }
        let at = *self.open.get(&change.port)?;
        let name = format!("{}:{}", change.host, change.port);
        let domain = change.host.as_str();
        self.change_table(at, &change.port.to_string(), |table, http| place(table, http, domain, &name, now))
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
        let mut tables = self.doors.get(at)?.tables.clone();
        let Target::Http(http) = &mut listener.chains.first_mut()?.target else { return None };
        if *http.name != *name {
            return None;
        }
        let table = tables.first_mut()?.as_mut()?;
        change(Arc::make_mut(table), Arc::make_mut(http))?;
        let listener = Arc::new(listener);
        Arc::make_mut(&mut self.plan).listeners.set(at, listener.clone());
        self.doors.set(at, Door { listener, tables });
        Some(())
    }
}

/// Puts a virtual host into the place of the one of this name, which is found by a domain that it has; `None` where others
/// are concerned.
fn place(
    table: &mut Table,
    http: &mut HttpTable,
    domain: &str,
    name: &str,
    now: Option<Arc<VirtualHost>>,
) -> Option<()> {
    let known = if domain == "*" { (!http.hosts.is_empty()).then_some(0) } else { table.hosts.exact(domain) };
    match (known.map(|at| at as usize), now) {
        (None, None) => Some(()),
        (Some(at), Some(now)) => {
            let before = &http.hosts[at];
            if *before.name != *name || before.domains != now.domains {
                return None;
            }
            let site = match table.sites[at].index.clone() {
                index if same_conditions(before, &now) => Site::new(now.clone(), index),
                _ => site(&now),
            };
            table.sites.set(at, site);
            http.hosts.set(at, now);
            Some(())
        }
        (None, Some(now)) => {
            if now.domains.iter().any(|domain| domain.is_wildcard() || table.hosts.exact(domain.as_str()).is_some()) {
                return None;
            }
            table.sites.push(site(&now));
            http.hosts.push(now);
            table.hosts = Arc::new(hosts(http));
            Some(())
        }
        (Some(at), None) => {
            if *http.hosts[at].name != *name {
                return None;
            }
            let (host, site) = (http.hosts.pop()?, table.sites.pop()?);
            http.hosts.set(at, host);
            table.sites.set(at, site);
            table.hosts = Arc::new(hosts(http));
            Some(())
        }
    }
}

type Bound = FastMap<(u16, IpAddr), u32>;
type Open = FastMap<u16, u32>;

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
    Door { listener: listener.clone(), tables }
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
    let mut index = HostIndex::default();
    for (at, host) in (0u32..).zip(&http.hosts) {
        for domain in &host.domains {
            index.insert(domain, at);
        }
    }
    index
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
