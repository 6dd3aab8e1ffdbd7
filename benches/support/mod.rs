//! What is asked in the benches: plans made for the purpose, requests with the answer they must get, and the rivals.
//!
//! - W1: the canary, three rules: header `canary_id: 1` split in halves, `canary_id: 2`, the rest.
//! - W2: one host, N routes `x-user: u{i}`, and a default.
//! - W3: one host, N routes with the path prefix `/svc{i}/`, and a default.
//! - W4: one host, N mixed routes: groups of 20 share a path prefix and differ by method (three in four) and by one or
//!   two headers; one in forty is a path regex, one in forty a header regex; and a default.
//! - W5: H hosts with three routes each: header, prefix, default.
//!
//! No request can be taken by more than one route that is not the default.
#![allow(dead_code, unused_imports, reason = "each bench uses its part")]

mod meshes;
mod plans;
mod rivals;

pub use meshes::{a_mesh, read, rules};
pub use plans::{Ask, Tunnels, Workload, canary, headers, hostile, hosts, mixed, prefixes, tunnels};
pub use rivals::{Floor, Naive, Other};

use std::time::Duration;

use meshroute::{Decision, Outcome, Request, Roll, Router};

/// What an answer comes down to: the route's position in its virtual host, and the cluster that was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Position of the route.
    pub route: u32,
    /// Index of the cluster.
    pub cluster: u32,
}

impl Ask {
    /// The question in the library's words; borrows everything.
    pub fn request(&self) -> Request<'_> {
        Request::new(self.method.as_str(), &self.authority, &self.path).headers(&self.headers)
    }
}

/// The answer that a decision stands for.
pub fn answer(router: &Router, decision: &Decision<'_>) -> Option<Answer> {
    let (host, route) = (decision.host?, decision.route?);
    let Outcome::Forward(to) = &decision.outcome else { return None };
    let at = host.routes.iter().position(|known| std::ptr::eq(known, route))?;
    let known = router.plan().clusters.get(to.destination().cluster as usize)?;
    assert_eq!(known.name, to.cluster.name);
    Some(Answer { route: at as u32, cluster: to.destination().cluster })
}

impl Workload {
    /// Asks everybody everything and compares with what must come out.
    pub fn check(&self) {
        for (n, ask) in self.asks().enumerate() {
            let roll = Roll::seeded(n as u64);
            let wanted = ask.answer(&roll);
            let decision = self.router.decide(&ask.request(), &roll);
            assert_eq!(answer(&self.router, &decision), Some(wanted), "{}: router: {ask:?}", self.name);
            assert_eq!(self.naive.ask(ask, &roll), Some(wanted), "{}: naive: {ask:?}", self.name);
            if let Some(floor) = &self.floor {
                assert_eq!(floor.ask(ask, &roll), Some(wanted), "{}: floor: {ask:?}", self.name);
            }
            for (name, other) in &self.others {
                assert_eq!(other.ask(ask, &roll), Some(wanted), "{}: {name}: {ask:?}", self.name);
            }
        }
        for (n, ask) in self.asks().enumerate().take(16) {
            let roll = Roll::seeded(n as u64);
            let explained = self.router.plan().explain(&ask.request(), &roll);
            assert_eq!(answer(&self.router, &explained.decision), Some(ask.answer(&roll)), "{}: explain", self.name);
        }
    }

    /// All requests: the special ones, then the random ones.
    pub fn asks(&self) -> impl Iterator<Item = &Ask> {
        [&self.first, &self.last, &self.miss].into_iter().chain(&self.random)
    }
}

/// Criterion with less patience: ratios matter here, and there are many of them.
pub fn quick() -> criterion::Criterion {
    let (warm_up, measurement) = (Duration::from_millis(300), Duration::from_secs(1));
    criterion::Criterion::default().warm_up_time(warm_up).measurement_time(measurement).sample_size(30)
}
