//! Discovery's own metrics, under the names of Istio's.
//!
//! Knows what was pushed, refused and how long it took.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::ads::Type;
use crate::metrics::{build, head};
use crate::world::World;

/// Upper bounds of the convergence time's buckets, in seconds: istiod's.
const BOUNDS: [f64; 9] = [0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0];

/// What discovery counts.
pub struct Pilot {
    born: Instant,
    /// What was sent.
    pushes: BTreeMap<Type, u64>,
    /// What was refused.
    rejects: BTreeMap<Type, u64>,
    buckets: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Pilot {
    /// Nothing so far.
    pub fn new() -> Self {
        Pilot {
            born: Instant::now(),
            pushes: BTreeMap::new(),
            rejects: BTreeMap::new(),
            buckets: [0; BOUNDS.len() + 1],
            sum: 0.0,
        }
    }

    /// Something of a type was sent.
    pub fn pushed(&mut self, r#type: Type) {
        *self.pushes.entry(r#type).or_default() += 1;
    }

    /// Something of a type was refused.
    pub fn refused(&mut self, r#type: Type) {
        *self.rejects.entry(r#type).or_default() += 1;
    }

    /// A proxy has what follows from a change that is so old.
    pub fn converged(&mut self, after: Duration) {
        let seconds = after.as_secs_f64();
        let at = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[at] += 1;
        self.sum += seconds;
    }

    /// As Prometheus reads it.
    pub fn exposition(&self, world: &World) -> String {
        let mut text = build("pilot");
        let mut one = |name: &str, kind: &str, help: &str, labels: &str, value: f64| {
            head(&mut text, name, kind, help);
            let _ = writeln!(text, "{name}{labels} {value}");
        };
        let version = format!("{{version=\"meshroute-{}\"}}", env!("CARGO_PKG_VERSION"));
        let services = world.every_service().count() as f64;
        let refused = world.refused.as_ref().map_or(0, Vec::len) as f64;
        one("pilot_info", "gauge", "Which build this is.", &version, 1.0);
        one("istiod_uptime_seconds", "gauge", "How long it has run.", "", self.born.elapsed().as_secs_f64());
        one("pilot_xds", "gauge", "Who is subscribed.", &version, world.subscribers.len() as f64);
        one("pilot_services", "gauge", "Services that are known.", "", services);
        one("pilot_k8s_cfg_events", "counter", "How often the folder was read.", "", world.readings as f64);
        let rejects: u64 = self.rejects.values().sum();
        one("pilot_total_xds_rejects", "counter", "Pushes that were refused.", "", rejects as f64);
        one("galley_validation_failed", "gauge", "Errors for which the folder as it stands is refused.", "", refused);
        by_type(&mut text, "pilot_xds_pushes", "Pushes that were sent.", &self.pushes);
        by_type(&mut text, "meshroute_xds_rejects", "Pushes that were refused.", &self.rejects);
        self.push_convergence(&mut text);
        text
    }

    fn push_convergence(&self, text: &mut String) {
        let name = "pilot_proxy_convergence_time";
        head(text, name, "histogram", "Seconds from a change to a proxy that has what follows from it.");
        let mut below = 0;
        for (bound, count) in BOUNDS.iter().zip(self.buckets) {
            below += count;
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        let count: u64 = self.buckets.iter().sum();
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {}\n{name}_count {count}", self.sum);
    }
}

fn by_type(text: &mut String, name: &str, help: &str, counts: &BTreeMap<Type, u64>) {
    head(text, name, "counter", help);
    for (r#type, count) in counts {
        let _ = writeln!(text, "{name}{{type=\"{}\"}} {count}", r#type.short());
    }
}
