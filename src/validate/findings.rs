//! What has been found so far about one resource.

use super::field::Field;
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::model::Duration;

/// One millisecond, in nanoseconds.
const MILLISECOND: i64 = 1_000_000;

/// The findings about a resource.
#[derive(Debug)]
pub(super) struct Findings {
    resource: ResourceRef,
    list: Vec<Diagnostic>,
    /// Whether warnings are dropped for now, as Istio drops them.
    quiet: bool,
}

impl Findings {
    pub fn new(resource: ResourceRef) -> Self {
        Findings { resource, list: Vec::new(), quiet: false }
    }

    pub fn list(self) -> Vec<Diagnostic> {
        self.list
    }

    /// The namespace of the resource, never empty.
    pub fn namespace(&self) -> String {
        self.resource.namespace.to_string()
    }

    /// How many there are; to learn whether a check has found something.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    pub fn add(&mut self, field: &Field, finding: Diagnostic) {
        self.list.push(finding.at(&self.resource, field.as_str()));
    }

    pub fn error(&mut self, field: &Field, code: &'static str, message: impl Into<String>) {
        self.add(field, Diagnostic::error(code, message));
    }

    pub fn warning(&mut self, field: &Field, code: &'static str, message: impl Into<String>) {
        if !self.quiet {
            self.add(field, Diagnostic::warning(code, message));
        }
    }

    /// Does a check whose warnings Istio loses on the way.
    pub fn without_warnings(&mut self, check: impl FnOnce(&mut Findings)) {
        let before = std::mem::replace(&mut self.quiet, true);
        check(self);
        self.quiet = before;
    }

    /// An error under `code` if `checked` is one.
    pub fn check(&mut self, field: &Field, code: &'static str, checked: Result<(), String>) {
        if let Err(message) = checked {
            self.error(field, code, message);
        }
    }

    /// A duration, where one is given, is a whole number of milliseconds, and at least one.
    pub fn duration(&mut self, field: &Field, duration: Option<Duration>) {
        self.at_least_a_millisecond(field, duration);
        let fraction = duration.is_some_and(|d| d.as_nanos() >= MILLISECOND && d.as_nanos() % MILLISECOND != 0);
        if fraction {
            self.error(field, "duration-precision", "a duration must be a whole number of milliseconds");
        }
    }

    /// A duration, where one is given, is at least a millisecond.
    pub fn at_least_a_millisecond(&mut self, field: &Field, duration: Option<Duration>) {
        if duration.is_some_and(|d| d.as_nanos() < MILLISECOND) {
            self.error(field, "duration-too-short", "a duration must be at least `1ms`");
        }
    }

    /// A port is 1 to 65535.
    pub fn port(&mut self, field: &Field, port: u32) {
        if !(1..=65535).contains(&port) {
            self.error(field, "port-out-of-range", format!("port `{port}` is out of range: it goes from 1 to 65535"));
        }
    }

    /// A number is not negative.
    pub fn not_negative(&mut self, field: &Field, number: i32) {
        if number < 0 {
            self.error(field, "negative", format!("`{number}` must not be negative"));
        }
    }

    /// A number is a percentage, 0 to 100.
    pub fn percent(&mut self, field: &Field, percent: f64) {
        if !(0.0..=100.0).contains(&percent) {
            self.error(
                field,
                "percentage-out-of-range",
                format!("`{percent}` is no percentage: it goes from 0 to 100"),
            );
        }
    }

    /// At most one of the members of a oneof is given.
    pub fn exclusive(&mut self, field: &Field, members: &[(&str, bool)]) {
        let given: Vec<String> =
            members.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| format!("`{name}`")).collect();
        if given.len() > 1 {
            self.error(field, "exclusive-fields", format!("only one of {} may be given", given.join(", ")));
        }
    }
}
