//! Discovery asks each proxy for its counters again and again, as Prometheus would.
//!
//! Knows where they are. What was added from one time to the next is worked out in [`history`](crate::history).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client;
use crate::discovery::Shared;
use crate::history::PERIOD;
use crate::metrics::Stats;
use crate::node::loopback;

/// How long a proxy may take to answer.
const PATIENCE: Duration = Duration::from_millis(800);

/// Asks all proxies, for ever.
pub async fn follow(shared: Arc<Shared>) {
    let mut pace = tokio::time::interval(PERIOD);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let proxies = shared.world().pages();
        let stats = ask_all(&proxies).await;
        shared.history().take(Instant::now(), stats);
    }
}

async fn ask_all(proxies: &[(u32, u16)]) -> BTreeMap<u32, Stats> {
    let mut asked = JoinSet::new();
    for (pid, port) in proxies.iter().copied() {
        asked.spawn(timeout(PATIENCE, async move {
            let answer = client::get(loopback(port), "/stats.json", &[]).await.ok()?;
            Some((pid, serde_json::from_str(&answer.body).ok()?))
        }));
    }
    asked.join_all().await.into_iter().filter_map(|answer| answer.ok().flatten()).collect()
}
