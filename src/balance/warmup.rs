//! Slow start: an endpoint that was just added gets less than its share, growing over a window.

use std::time::Duration;

use crate::model::destination_rule::WarmupConfiguration;

/// How a new endpoint's share grows (Istio's `warmup`, Envoy's `slow_start_config`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Warmup {
    window: Duration,
    least: f64,
    aggression: f64,
}

impl Warmup {
    /// `None` where there is no window.
    pub(super) fn of(settings: &WarmupConfiguration) -> Option<Self> {
        let window = settings.duration?.to_std().filter(|window| !window.is_zero())?;
        let percent = settings.minimum_percent.filter(|percent| percent.is_finite()).unwrap_or(10.0);
        let aggression = settings.aggression.filter(|aggression| aggression.is_finite() && *aggression > 0.0);
        Some(Warmup { window, least: (percent / 100.0).clamp(0.0, 1.0), aggression: aggression.unwrap_or(1.0) })
    }

    /// Whether somebody who was added then is still warming up.
    pub(super) fn holds(&self, added: Duration, now: Duration) -> bool {
        now.saturating_sub(added) < self.window
    }

    /// What its weight is multiplied by: `max(least, t^(1/aggression))`, where `t` is the part of the window that is
    /// over.
    pub(super) fn factor(&self, added: Duration, now: Duration) -> f64 {
        if !self.holds(added, now) {
            return 1.0;
        }
        let age = now.saturating_sub(added).max(Duration::from_millis(1));
        let part = age.as_secs_f64() / self.window.as_secs_f64();
        part.powf(1.0 / self.aggression).max(self.least).min(1.0)
    }
}
