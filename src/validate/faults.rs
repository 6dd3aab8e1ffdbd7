//! Faults that a rule injects.

use super::actions;
use super::field::Field;
use super::findings::Findings;
use crate::model::virtual_service::{Abort, Delay, HttpFaultInjection, Percent};

/// Delays and aborts, at least one of them.
pub(super) fn check(fault: Option<&HttpFaultInjection>, field: &Field, found: &mut Findings) {
    let Some(fault) = fault else { return };
    if fault.abort.is_none() && fault.delay.is_none() {
        found.error(field, "empty-fault", "a fault must have `abort` or `delay`");
    }
    if let Some(it) = &fault.abort {
        abort(it, &field.key("abort"), found);
    }
    if let Some(it) = &fault.delay {
        delay(it, &field.key("delay"), found);
    }
}

/// Names of gRPC's statuses.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// An abort without any status is taken; the warning that Istio has for it never reaches anybody.
fn abort(abort: &Abort, field: &Field, found: &mut Findings) {
    let members = [
        ("httpStatus", abort.http_status.is_some()),
        ("grpcStatus", abort.grpc_status.is_some()),
        ("http2Error", abort.http2_error.is_some()),
    ];
    found.exclusive(field, &members);
    share(abort.percentage.as_ref(), field, found);
    if let Some(status) = abort.http_status {
        actions::status(status.into(), &field.key("httpStatus"), found);
    }
    if let Some(status) = abort.grpc_status.as_ref().filter(|status| !GRPC.contains(&status.as_str())) {
        let message = format!("`{status}` is no gRPC status, such as `NOT_FOUND`");
        found.error(&field.key("grpcStatus"), "bad-status", message);
    }
    if abort.http2_error.is_some() {
        found.error(&field.key("http2Error"), "not-supported", "Istio does not support `http2Error`");
    }
}

fn delay(delay: &Delay, field: &Field, found: &mut Findings) {
    let members =
        [("fixedDelay", delay.fixed_delay.is_some()), ("exponentialDelay", delay.exponential_delay.is_some())];
    found.exclusive(field, &members);
    share(delay.percentage.as_ref(), field, found);
    found.duration(&field.key("fixedDelay"), delay.fixed_delay);
    if delay.exponential_delay.is_some() {
        found.error(&field.key("exponentialDelay"), "not-supported", "Istio does not support `exponentialDelay`");
    }
}

/// Envoy counts in millionths, so what is less than one of them cannot be meant.
fn share(percentage: Option<&Percent>, field: &Field, found: &mut Findings) {
    let Some(Percent { value }) = percentage else { return };
    let field = field.key("percentage").key("value");
    found.percent(&field, *value);
    if *value > 0.0 && *value < 0.0001 {
        found.error(&field, "percentage-too-small", format!("`{value}` is less than the least percentage, 0.0001"));
    }
}
