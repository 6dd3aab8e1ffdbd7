//! From EnvoyFilters to the limits of one workload.
//!
//! A patch is understood as a whole, or not carried out at all: half of a limit is another limit.

use std::time::Duration;

use super::limits::{Added, Filter, Fraction, RateLimit, RateLimits, Routes, Stage, Tokens};
use super::value::{Fault, Fields, Value};
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::model::envoy_filter::{EnvoyConfigObjectMatch, EnvoyConfigObjectPatch, Patch};
use crate::model::{EnvoyFilter, Object, Timestamp};
use crate::resolve::{Mesh, Viewpoint, ViewpointKind};
use crate::resources::Resources;

/// The filter's name.
const FILTER: &str = "envoy.filters.http.local_ratelimit";
/// The type of its configuration, behind whatever stands before the last slash.
const TYPE: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
/// Names of the network filter in which HTTP filters stand; the second one is old.
const CONNECTION_MANAGERS: [&str; 2] =
    ["envoy.filters.network.http_connection_manager", "envoy.http_connection_manager"];
/// The last filter.
const ROUTER: &str = "envoy.filters.http.router";
/// Envoy takes no shorter one.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);

/// What a patch asks for.
enum Asked {
    /// A filter.
    Filter(Filter),
    /// Another limit for some routes.
    Routes(Routes, RateLimit),
}

/// On whose side a patch is meant.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Inbound,
    Gateway,
    /// Both of them, and what goes out of sidecars.
    Any,
}

/// What is not understood of an EnvoyFilter, or is not right.
pub fn findings(filter: &EnvoyFilter, reference: &ResourceRef) -> Vec<Diagnostic> {
    let target = targets(filter).map(|fault| fault.told(reference));
    let patches = patches(filter, reference).filter_map(|(field, side, asked)| match asked {
        Ok(Asked::Filter(_)) if side == Side::Any => Some(only_what_comes_in(reference, &field)),
        Ok(_) => None,
        Err(fault) => Some(fault.told(reference)),
    });
    target.into_iter().chain(patches).collect()
}

/// A patch without a context limits at sidecars also what goes out.
fn only_what_comes_in(reference: &ResourceRef, field: &str) -> Diagnostic {
    let message = "at a sidecar only what comes in is limited here, and not what goes out";
    let finding = Diagnostic::info("envoy-filter", message).at(reference, format!("{field}.match.context"));
    finding.remedy("write `context: SIDECAR_INBOUND`, if that is what is meant")
}

impl RateLimits {
    /// The limits of a workload, and what was found wrong with the EnvoyFilters that concern it.
    ///
    /// Those of the root namespace come first, then by `priority`, age and name.
    /// Source: Istio, the reference of EnvoyFilter.
    pub fn of(resources: &Resources, workload: &Viewpoint, mesh: &Mesh) -> (RateLimits, Vec<Diagnostic>) {
        let (mut limits, mut found) = (RateLimits::default(), Vec::new());
        let mut first = Vec::new();
        for (filter, reference) in in_order(resources, workload, mesh) {
            if let Some(fault) = targets(filter) {
                found.push(fault.told(reference));
                continue;
            }
            for (field, side, asked) in patches(filter, reference) {
                if let (Ok(Asked::Filter(_)), Side::Any, ViewpointKind::Sidecar) = (&asked, side, workload.kind) {
                    found.push(only_what_comes_in(reference, &field));
                }
                match asked {
                    Ok(_) if !side.is_of(workload) => {}
                    Ok(Asked::Filter(filter)) if filter.stage == Stage::First => first.push(filter),
                    Ok(Asked::Filter(filter)) => limits.filters.push(filter),
                    Ok(Asked::Routes(routes, limit)) => limits.routes.push((routes, limit)),
                    Err(fault) => found.push(fault.told(reference)),
                }
            }
        }
        // One that is put in front stands before those that were put there earlier; one before the router behind them.
        first.reverse();
        first.append(&mut limits.filters);
        limits.filters = first;
        (limits, found)
    }
}

/// The EnvoyFilters that concern a workload.
fn in_order<'r>(
    resources: &'r Resources,
    workload: &Viewpoint,
    mesh: &Mesh,
) -> Vec<(&'r EnvoyFilter, &'r ResourceRef)> {
    let filters = resources.iter().filter_map(|resource| match resource.object {
        Object::EnvoyFilter(filter) => Some((filter, resource.reference)),
        _ => None,
    });
    let mut filters: Vec<_> = filters.filter(|(filter, _)| concerns(filter, workload, mesh)).collect();
    let place = |filter: &EnvoyFilter| -> (bool, i32, bool, Option<Timestamp>) {
        let age = filter.metadata.creation_timestamp;
        (filter.metadata.namespace != mesh.root_namespace, filter.spec.priority, age.is_none(), age)
    };
    // They come by name, and a sort keeps that.
    filters.sort_by_key(|(filter, _)| place(filter));
    filters
}

fn concerns(filter: &EnvoyFilter, workload: &Viewpoint, mesh: &Mesh) -> bool {
    let namespace = &filter.metadata.namespace;
    let at_home = *namespace == workload.namespace || *namespace == mesh.root_namespace;
    let wanted = filter.spec.workload_selector.iter().flat_map(|selector| &selector.labels);
    at_home && wanted.into_iter().all(|(key, value)| workload.labels.get(key) == Some(value))
}

fn targets(filter: &EnvoyFilter) -> Option<Fault> {
    let there = !filter.spec.target_refs.is_empty();
    there.then(|| Fault::unknown("spec.targetRefs", "`targetRefs` are for waypoints, of which there are none here"))
}

/// Each patch: its field, on whose side it is meant, and what it asks for.
fn patches<'f>(
    filter: &'f EnvoyFilter,
    reference: &'f ResourceRef,
) -> impl Iterator<Item = (String, Side, Result<Asked, Fault>)> + 'f {
    filter.spec.config_patches.iter().enumerate().map(move |(at, patch)| {
        let field = format!("spec.configPatches[{at}]");
        match Reader::new(patch, reference, field.clone()) {
            Ok(reader) => (field, reader.side, reader.read()),
            // What is not even known to be meant for others is told to everybody.
            Err(fault) => (field, Side::Any, Err(fault)),
        }
    })
}

impl Side {
    fn is_of(self, workload: &Viewpoint) -> bool {
        match self {
            Side::Inbound => workload.kind == ViewpointKind::Sidecar,
            Side::Gateway => workload.kind == ViewpointKind::Gateway,
            Side::Any => true,
        }
    }
}

/// Reads one patch.
struct Reader<'p> {
    apply_to: &'p str,
    selected: Option<&'p EnvoyConfigObjectMatch>,
    patch: &'p Patch,
    reference: &'p ResourceRef,
    field: String,
    side: Side,
}

impl<'p> Reader<'p> {
    fn new(written: &'p EnvoyConfigObjectPatch, reference: &'p ResourceRef, field: String) -> Result<Self, Fault> {
        let apply_to = written.apply_to.as_str();
        if !matches!(apply_to, "HTTP_FILTER" | "HTTP_ROUTE") {
            let message = format!("a patch of `{apply_to}` is not understood here");
            return Err(Fault::unknown(format!("{field}.applyTo"), message));
        }
        let Some(patch) = &written.patch else {
            return Err(Fault::bad(field, "`patch` is missing"));
        };
        let selected = written.r#match.as_ref();
        let context = selected.map_or("", |selected| &selected.context);
        let side = match context {
            "SIDECAR_INBOUND" => Side::Inbound,
            "GATEWAY" => Side::Gateway,
            "" | "ANY" => Side::Any,
            other => {
                let message = format!("nothing is limited in the context `{other}` here");
                return Err(Fault::unknown(format!("{field}.match.context"), message));
            }
        };
        Ok(Reader { apply_to, selected, patch, reference, field, side })
    }

    fn read(&self) -> Result<Asked, Fault> {
        let value = Value::new(&self.patch.value, format!("{}.patch.value", self.field)).fields()?;
        self.is_of_every_proxy()?;
        match self.apply_to {
            "HTTP_FILTER" => self.filter(&value),
            _ => self.routes(&value),
        }
    }

    fn is_of_every_proxy(&self) -> Result<(), Fault> {
        let Some(selected) = self.selected else { return Ok(()) };
        let others = [("proxy", &selected.proxy), ("cluster", &selected.cluster), ("waypoint", &selected.waypoint)];
        self.none_of(&others)
    }

    fn none_of(&self, others: &[(&str, &Option<crate::model::Untyped>)]) -> Result<(), Fault> {
        match others.iter().find(|(_, value)| value.is_some()) {
            Some((name, _)) => {
                let message = format!("a match by `{name}` is not understood here");
                Err(Fault::unknown(format!("{}.match.{name}", self.field), message))
            }
            None => Ok(()),
        }
    }

    fn operation(&self, known: &[&str]) -> Result<(), Fault> {
        let operation = self.patch.operation.as_str();
        if known.contains(&operation) {
            return Ok(());
        }
        let message = format!("the operation `{operation}` on `{}` is not understood here", self.apply_to);
        Err(Fault::unknown(format!("{}.patch.operation", self.field), message))
    }

    fn filter(&self, value: &Fields<'_>) -> Result<Asked, Fault> {
        let name = value.need("name")?;
        if name.text()? != FILTER {
            let message = format!("nothing is known of the filter `{}`", name.text()?);
            return Err(Fault::unknown(name.field, message));
        }
        value.only(&["name", "typed_config"])?;
        self.operation(&["INSERT_BEFORE", "INSERT_FIRST"])?;
        if let Some(selected) = self.selected {
            self.none_of(&[("routeConfiguration", &selected.route_configuration)])?;
        }
        let (port, before_router) = self.listener()?;
        let last = before_router && self.patch.operation == "INSERT_BEFORE";
        let stage = if last { Stage::Last } else { Stage::First };
        let limit = self.limit(&value.need("typed_config")?, false)?;
        Ok(Asked::Filter(Filter { stage, port, limit }))
    }

    /// The port that is meant, and whether the filter is to stand before the last one.
    fn listener(&self) -> Result<(Option<u16>, bool), Fault> {
        let Some(listener) = self.selected.and_then(|selected| selected.listener.as_ref()) else {
            return Ok((None, false));
        };
        let listener = Value::new(listener, format!("{}.match.listener", self.field)).fields()?;
        listener.only(&["port_number", "filter_chain"])?;
        let port = listener.get("port_number").map(|port| port_of(&port)).transpose()?;
        let Some(chain) = listener.get("filter_chain") else { return Ok((port, false)) };
        let chain = chain.fields()?;
        chain.only(&["filter"])?;
        let Some(filter) = chain.get("filter") else { return Ok((port, false)) };
        let filter = filter.fields()?;
        filter.only(&["name", "sub_filter"])?;
        if let Some(name) = filter.get("name") {
            is_named(&name, &CONNECTION_MANAGERS)?;
        }
        let Some(inner) = filter.get("sub_filter") else { return Ok((port, false)) };
        let inner = inner.fields()?;
        inner.only(&["name"])?;
        let Some(name) = inner.get("name") else { return Ok((port, false)) };
        is_named(&name, &[ROUTER])?;
        Ok((port, true))
    }

    fn routes(&self, value: &Fields<'_>) -> Result<Asked, Fault> {
        value.only(&["typed_per_filter_config"])?;
        let filters = value.need("typed_per_filter_config")?.fields()?;
        filters.only(&[FILTER])?;
        self.operation(&["MERGE"])?;
        if let Some(selected) = self.selected {
            self.none_of(&[("listener", &selected.listener)])?;
        }
        let routes = self.selected_routes()?;
        match self.limit(&filters.need(FILTER)?, true)? {
            Some(limit) => Ok(Asked::Routes(routes, limit)),
            None => Err(Fault::bad(filters.field, "a limit for routes must have a `token_bucket`")),
        }
    }

    fn selected_routes(&self) -> Result<Routes, Fault> {
        let mut routes = Routes::default();
        let Some(table) = self.selected.and_then(|selected| selected.route_configuration.as_ref()) else {
            return Ok(routes);
        };
        let table = Value::new(table, format!("{}.match.routeConfiguration", self.field)).fields()?;
        table.only(&["vhost"])?;
        let Some(host) = table.get("vhost") else { return Ok(routes) };
        let host = host.fields()?;
        host.only(&["name", "route"])?;
        if let Some(name) = host.get("name") {
            self.virtual_host(&name, &mut routes)?;
        }
        let Some(route) = host.get("route") else { return Ok(routes) };
        let route = route.fields()?;
        route.only(&["name", "action"])?;
        if let Some(action) = route.get("action") {
            is_named(&action, &["ANY"])?;
        }
        // The only route of a sidecar's inbound side is named so.
        let name = route.get("name").map(|name| name.text()).transpose()?.unwrap_or_default();
        match (self.side, name) {
            (Side::Gateway, name) => routes.route = name.into(),
            (_, "" | "default") => {}
            (_, other) => {
                let field = format!("{}.name", route.field);
                return Err(Fault::unknown(field, format!("no route that comes in is named `{other}`")));
            }
        }
        Ok(routes)
    }

    /// `inbound|http|9080` at a sidecar, `shop.example.com:80` at a gateway.
    fn virtual_host(&self, name: &Value<'_>, routes: &mut Routes) -> Result<(), Fault> {
        let text = name.text()?;
        let port = text.strip_prefix("inbound|http|").map(str::parse);
        match (self.side, port) {
            (Side::Inbound | Side::Any, Some(Ok(port))) => routes.port = Some(port),
            (Side::Gateway, None) => routes.host = text.into(),
            _ => return Err(Fault::unknown(&name.field, format!("there is no virtual host `{text}` here"))),
        }
        Ok(())
    }

    /// `None`: nothing is counted.
    fn limit(&self, config: &Value<'_>, is_of_routes: bool) -> Result<Option<RateLimit>, Fault> {
        let fields = unwrapped(config)?;
        let known = [
            "@type",
            "stat_prefix",
            "status",
            "token_bucket",
            "filter_enabled",
            "filter_enforced",
            "response_headers_to_add",
        ];
        fields.only(&known)?;
        if fields.need("stat_prefix")?.text()?.is_empty() {
            return Err(Fault::bad(fields.field, "`stat_prefix` is empty"));
        }
        let (enabled, enforced) = (fraction(&fields, "filter_enabled")?, fraction(&fields, "filter_enforced")?);
        let (status, headers) = (status(&fields)?, headers(&fields)?);
        let Some(tokens) = fields.get("token_bucket").map(|bucket| tokens(&bucket)).transpose()? else {
            return Ok(None);
        };
        if !is_of_routes && enabled.numerator == 0 {
            return Ok(None);
        }
        let (resource, field) = (self.reference.clone(), self.field.clone());
        Ok(Some(RateLimit { resource, field, tokens, status, enabled, enforced, headers }))
    }
}

/// The filter's own configuration: in a `TypedStruct`, or as it is.
fn unwrapped<'v>(config: &Value<'v>) -> Result<Fields<'v>, Fault> {
    let fields = config.fields()?;
    let kind = fields.need("@type")?;
    let name = |value: &Value<'v>| -> Result<&'v str, Fault> {
        let text = value.text()?;
        Ok(text.rsplit_once('/').map_or(text, |(_, name)| name))
    };
    match name(&kind)? {
        TYPE => return Ok(fields),
        "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct" => {}
        other => return Err(Fault::unknown(kind.field, format!("nothing is known of the type `{other}`"))),
    }
    fields.only(&["@type", "type_url", "value"])?;
    let inner = fields.need("type_url")?;
    match name(&inner)? {
        TYPE => fields.need("value")?.fields(),
        other => Err(Fault::unknown(inner.field, format!("nothing is known of the type `{other}`"))),
    }
}

fn is_named(value: &Value<'_>, known: &[&str]) -> Result<(), Fault> {
    let text = value.text()?;
    if known.contains(&text) {
        return Ok(());
    }
    Err(Fault::unknown(&value.field, format!("`{text}` is not understood here, only `{}`", known[0])))
}

fn port_of(value: &Value<'_>) -> Result<u16, Fault> {
    let number = value.number()?;
    u16::try_from(number).map_err(|_| Fault::bad(&value.field, format!("`{number}` is no port")))
}

fn tokens(bucket: &Value<'_>) -> Result<Tokens, Fault> {
    let bucket = bucket.fields()?;
    bucket.only(&["max_tokens", "tokens_per_fill", "fill_interval"])?;
    let most = bucket.get("max_tokens").map(|most| most.number()).transpose()?.unwrap_or(0);
    let fill = bucket.get("tokens_per_fill").map(|fill| fill.number()).transpose()?.unwrap_or(1);
    let interval = bucket.need("fill_interval")?;
    if fill == 0 {
        return Err(Fault::bad(format!("{}.tokens_per_fill", bucket.field), "at least one token must come at a time"));
    }
    match interval.duration()? {
        short if short < LEAST_INTERVAL => {
            Err(Fault::bad(interval.field, "Envoy fills no bucket more often than each `0.05s`"))
        }
        interval => Ok(Tokens { most, fill, interval }),
    }
}

/// None at all where nothing is said. The key of a runtime is passed over: there is none, and the default counts.
fn fraction(fields: &Fields<'_>, name: &str) -> Result<Fraction, Fault> {
    let Some(given) = fields.get(name) else { return Ok(Fraction::NONE) };
    let given = given.fields()?;
    given.only(&["runtime_key", "default_value"])?;
    let percent = given.need("default_value")?.fields()?;
    percent.only(&["numerator", "denominator"])?;
    let numerator = percent.get("numerator").map(|number| number.number()).transpose()?.unwrap_or(0);
    let denominator = match percent.get("denominator") {
        None => 100,
        Some(word) => match word.text()? {
            "HUNDRED" => 100,
            "TEN_THOUSAND" => 10_000,
            "MILLION" => 1_000_000,
            other => return Err(Fault::bad(word.field, format!("`{other}` is no denominator"))),
        },
    };
    Ok(Fraction { numerator, denominator })
}

/// What is no error becomes 429, as Envoy has it.
fn status(fields: &Fields<'_>) -> Result<u16, Fault> {
    let Some(status) = fields.get("status") else { return Ok(429) };
    let status = status.fields()?;
    status.only(&["code"])?;
    let Some(code) = status.get("code") else { return Ok(429) };
    match code.number() {
        Ok(number) => Ok(u16::try_from(number).ok().filter(|number| (400..600).contains(number)).unwrap_or(429)),
        Err(_) => match code.text()? {
            "TooManyRequests" => Ok(429),
            "ServiceUnavailable" => Ok(503),
            other => Err(Fault::unknown(code.field, format!("write the number of the status in place of `{other}`"))),
        },
    }
}

fn headers(fields: &Fields<'_>) -> Result<Vec<Added>, Fault> {
    let Some(list) = fields.get("response_headers_to_add") else { return Ok(Vec::new()) };
    let items = list.items()?;
    if items.len() > 10 {
        return Err(Fault::bad(list.field, "Envoy adds no more than ten headers"));
    }
    items.iter().map(header).collect()
}

fn header(item: &Value<'_>) -> Result<Added, Fault> {
    let item = item.fields()?;
    item.only(&["header", "append", "append_action"])?;
    let header = item.need("header")?.fields()?;
    header.only(&["key", "value"])?;
    let (key, value) = (header.need("key")?, header.need("value")?);
    let (name, text) = (key.text()?.to_ascii_lowercase(), value.text()?);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
        return Err(Fault::bad(key.field, format!("`{name}` is no name of a header")));
    }
    if text.contains('%') {
        return Err(Fault::unknown(value.field, "operators such as `%START_TIME%` are not understood here"));
    }
    if text.bytes().any(|b| b.is_ascii_control()) {
        return Err(Fault::bad(value.field, "no header may have such a value"));
    }
    let append = match item.get("append_action") {
        None => item.get("append").map(|append| append.flag()).transpose()?.unwrap_or(true),
        Some(action) => match action.text()? {
            "APPEND_IF_EXISTS_OR_ADD" => true,
            "OVERWRITE_IF_EXISTS_OR_ADD" => false,
            other => return Err(Fault::unknown(action.field, format!("`{other}` is not understood here"))),
        },
    };
    Ok(Added { name, value: text.into(), append })
}
