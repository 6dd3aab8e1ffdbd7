//! Which exact values a request carries: headers, query parameters, authority, method.

use super::{Bucket, FastMap, Found};
use crate::request::Question;

/// A part of the request with a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Field<'c> {
    Header(&'c str),
    Query(&'c str),
    Authority,
    Method,
}

/// Routes by exact value, one map for each field that occurs.
#[derive(Debug, Default)]
pub(super) struct ValueIndex {
    headers: Vec<(Box<str>, Values)>,
    queries: Vec<(Box<str>, Values)>,
    authority: Values,
    method: Values,
}

type Values = FastMap<Box<[u8]>, Bucket>;

impl ValueIndex {
    /// Files a route under a value of a field.
    pub(super) fn insert(&mut self, field: &Field<'_>, value: &str, id: u32) {
        let values = match field {
            Field::Header(name) => named(&mut self.headers, name),
            Field::Query(name) => named(&mut self.queries, name),
            Field::Authority => &mut self.authority,
            Field::Method => &mut self.method,
        };
        values.entry(value.as_bytes().into()).or_default().push(id);
    }

    /// Adds the buckets of all values that a request carries.
    pub(super) fn find<'t>(&'t self, question: &Question<'_>, found: &mut Found<'t>) {
        for (name, values) in &self.headers {
            question.any_header(name, &mut |line| {
                add(values, line, found);
                cfg!(meshroute_fault = "header") // planted: looks at the first line only
            });
        }
        for (name, values) in &self.queries {
            if let Some(value) = question.query(name.as_bytes()) {
                add(values, if cfg!(meshroute_fault = "query") { value.trim_ascii() } else { value }, found);
            }
        }
        add(&self.authority, question.request.authority.as_bytes(), found);
        let method = question.request.method.as_bytes();
        add(&self.method, if cfg!(meshroute_fault = "method") { b"GET" } else { method }, found);
    }
}

fn named<'v>(fields: &'v mut Vec<(Box<str>, Values)>, name: &str) -> &'v mut Values {
    let at = fields.iter().position(|(known, _)| **known == *name).unwrap_or_else(|| {
        fields.push((name.into(), Values::default()));
        fields.len() - 1
    });
    &mut fields[at].1
}

fn add<'t>(values: &'t Values, value: &[u8], found: &mut Found<'t>) {
    if values.is_empty() {
        return;
    }
    if let Some(bucket) = values.get(value) {
        found.push(bucket);
    }
}
