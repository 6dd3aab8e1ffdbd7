//! Outlier detection: an endpoint that keeps failing is set aside for a while.

use std::time::Duration;

use crate::model::destination_rule::OutlierDetection;

/// How one request to an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ended {
    /// It answered with this status; for gRPC the HTTP status that stands for it.
    Answered(u16),
    /// No connection could be made, or it ended before an answer began.
    Lost,
    /// The answer did not begin in time.
    TimedOut,
    /// The client went away, or something else that says nothing about the endpoint.
    Abandoned,
}

impl Ended {
    /// It answered with this `grpc-status`, and nothing else.
    ///
    /// Source: Envoy's `Grpc::Utility::grpcToHttpStatus`, which its router asks about answers without a body.
    pub fn of_grpc(status: u32) -> Self {
        Ended::Answered(match status {
            0 => 200,
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            12 => 501,
            14 => 503,
            16 => 401,
            _ => 500,
        })
    }
}

/// When an endpoint is set aside, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    errors: u32,
    gateway_errors: u32,
    local_failures: u32,
    split: bool,
    statuses: Box<[u32]>,
    pub(super) interval: Duration,
    base: Duration,
    most: u32,
    /// Below this share of healthy ones all are used.
    pub(super) panic: u32,
}

/// Envoy's `max_ejection_time`, unless the first ejection is already longer.
const LONGEST: Duration = Duration::from_secs(300);

impl Settings {
    /// Source: istio `applyOutlierDetection`, and Envoy's defaults for what it leaves out.
    pub(super) fn of(written: &OutlierDetection) -> Self {
        let time = |written: Option<crate::model::Duration>, default: u64| {
            let written = written.and_then(|time| time.to_std()).filter(|time| !time.is_zero());
            written.unwrap_or(Duration::from_secs(default))
        };
        let percent = |percent: i32| u32::try_from(percent).unwrap_or(0).min(100);
        Settings {
            errors: written.consecutive_5xx_errors.unwrap_or(5),
            gateway_errors: written.consecutive_gateway_errors.unwrap_or(0),
            local_failures: written.consecutive_local_origin_failures.unwrap_or(5),
            split: written.split_external_local_origin_errors,
            statuses: written.outlier_detection_http_error_codes.as_slice().into(),
            interval: time(written.interval, 10),
            base: time(written.base_ejection_time, 30),
            most: if written.max_ejection_percent > 0 { percent(written.max_ejection_percent) } else { 10 },
            panic: percent(written.min_health_percent),
        }
    }

    /// Whether one more of so many may be set aside.
    ///
    /// Observed on Envoy 1.40: the share with this one in it must not be above the limit. By default (10 %) none of
    /// five endpoints is ever set aside, although older versions always took one.
    pub(super) fn allows(&self, ejected: usize, all: usize) -> bool {
        (ejected + 1) * 100 <= self.most as usize * all
    }

    fn time(&self, times: u32) -> Duration {
        self.base.saturating_mul(times).min(LONGEST.max(self.base))
    }
}

/// What is known of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    errors: u32,
    gateway_errors: u32,
    local_failures: u32,
    since: Option<Duration>,
    times: u32,
}

impl Record {
    pub(super) fn is_ejected(&self) -> bool {
        self.since.is_some()
    }

    /// Counts how a request ended; says whether that was once too often.
    ///
    /// Source: Envoy, `DetectorHostMonitorImpl`. Local failures count as 503 and 504 unless they are split off.
    pub(super) fn note(&mut self, settings: &Settings, ended: Ended) -> bool {
        match ended {
            Ended::Abandoned => false,
            Ended::Lost | Ended::TimedOut if settings.split => {
                self.local_failures += 1;
                take(&mut self.local_failures, settings.local_failures)
            }
            Ended::Lost => self.answered(settings, 503),
            Ended::TimedOut => self.answered(settings, 504),
            Ended::Answered(status) => {
                self.local_failures = 0;
                self.answered(settings, status)
            }
        }
    }

    fn answered(&mut self, settings: &Settings, status: u16) -> bool {
        // Statuses that were listed count as plain errors, all others as successes.
        let (error, gateway) = match &*settings.statuses {
            [] => (status >= 500, matches!(status, 502..=504)),
            listed => (listed.contains(&u32::from(status)), false),
        };
        self.gateway_errors = if gateway { self.gateway_errors.saturating_add(1) } else { 0 };
        self.errors = if error { self.errors.saturating_add(1) } else { 0 };
        let by_gateway = take(&mut self.gateway_errors, settings.gateway_errors);
        take(&mut self.errors, settings.errors) || by_gateway
    }

    pub(super) fn eject(&mut self, now: Duration) {
        self.since = Some(now);
        self.times = self.times.saturating_add(1);
    }

    /// What the regular look does: lets an endpoint back in whose time is over, and forgets, one at a time, how often
    /// it was set aside. `looks` of them are made up for. Says whether it was let in.
    pub(super) fn look(&mut self, settings: &Settings, looks: u32, now: Duration) -> bool {
        let Some(since) = self.since else {
            self.times = self.times.saturating_sub(looks);
            return false;
        };
        if now.saturating_sub(since) < settings.time(self.times) {
            return false;
        }
        *self = Record { times: self.times, ..Record::default() };
        true
    }
}

/// Whether a count has reached its limit; it then begins anew. No limit: never.
fn take(count: &mut u32, limit: u32) -> bool {
    let hit = limit > 0 && *count >= limit;
    if hit {
        *count = 0;
    }
    hit
}
