//! Makes a [`Router`] of a [`Plan`]: checks it and builds the indexes.
//!
//! A plan that [`resolve`](crate::resolve) made is legal; one that came over a wire may not be, and is told so here.

use std::net::IpAddr;
use std::sync::Arc;

use crate::plan::{Action, Chain, Destination, HttpTable, List, Listener, Plan, Route, Target, VirtualHost};
use crate::router::{Router, Table, Tables};
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
        let tables = plan.listeners.iter().map(|listener| tables(listener)).collect();
        Ok(Router { bound: bound.into(), open: open.into(), tables, plan })
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

fn tables(listener: &Listener) -> Tables {
    listener.chains.iter().map(|chain| index(chain).map(Arc::new)).collect()
}

fn index(chain: &Chain) -> Option<Table> {
    let Target::Http(http) = &chain.target else { return None };
    let routes = http.hosts.iter().map(|host| routes(host)).collect();
    Some(Table { hosts: Arc::new(hosts(http)), routes })
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
