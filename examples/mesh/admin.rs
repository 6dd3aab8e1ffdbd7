//! A proxy's own page: its metrics, whether it is ready, what is in force, and why a request would go where.
//!
//! Knows one station. Only reads. Like Istio's agent (`/stats/prometheus`, `/healthz/ready`) and Envoy's admin page
//! (`/config_dump`) in one.

use std::collections::BTreeMap;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use meshroute::Plan;
use meshroute::plan::Origin;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::config::Config;
use crate::explain::{self, Asked};
use crate::message;
use crate::metrics::Stats;
use crate::station::Station;
use crate::world::rule_key;

/// What Prometheus wants to hear of its text format.
pub const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// JSON.
pub const JSON: &str = "application/json";

const INDEX: &str = "\
/stats/prometheus  Istio's metrics
/healthz/ready     200 once a configuration is in force
/config_dump       the resolved plan, with file and line of each route
/explain           ?url=http://HOST:PORT/PATH&method=GET&header=NAME:VALUE: why a request goes where
";

/// An answer that is all there. Nobody keeps a copy.
pub fn page(status: StatusCode, content: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A value as JSON.
pub fn json_page(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(bytes) => page(StatusCode::OK, JSON, bytes),
        Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

/// Serves a station's page for ever.
pub async fn serve(listener: TcpListener, station: Arc<Station>) {
    let born = std::time::Instant::now();
    message::serve(listener, move |request| {
        let station = Arc::clone(&station);
        async move { answer(&request, &station, born.elapsed().as_millis() as u64) }
    })
    .await;
}

fn answer(request: &Request<Incoming>, station: &Station, uptime: u64) -> Response<Full<Bytes>> {
    let metrics = &station.telemetry.metrics;
    let config = station.config.borrow().clone();
    match (request.uri().path(), config) {
        ("/", _) => page(StatusCode::OK, TEXT, INDEX),
        ("/stats/prometheus" | "/metrics", _) => {
            page(StatusCode::OK, EXPOSITION, metrics.exposition() + &station.identity.exposition())
        }
        ("/stats.json", _) => json_page(&Stats { uptime, samples: metrics.samples() }),
        ("/healthz/ready", Some(_)) => page(StatusCode::OK, TEXT, "ready\n"),
        ("/healthz/ready" | "/config_dump" | "/explain", None) => {
            page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "no configuration yet\n")
        }
        ("/config_dump", Some(config)) => json_page(&dump(config.router.plan(), &config.places)),
        ("/explain", Some(config)) => explained(request.uri().query().unwrap_or_default(), &config),
        _ => page(StatusCode::NOT_FOUND, TEXT, INDEX),
    }
}

fn explained(query: &str, config: &Config) -> Response<Full<Bytes>> {
    let asked = Asked::parse(query);
    match asked.and_then(|asked| Ok((explain::explain(&asked, &config.router, &config.places)?, asked.as_json))) {
        Ok((story, true)) => json_page(&story),
        Ok((story, false)) => page(StatusCode::OK, TEXT, format!("{}\n", story.steps.join("\n"))),
        Err(error) => page(StatusCode::BAD_REQUEST, TEXT, format!("{error}\n")),
    }
}

/// A plan as data, with a `place` beside each origin: file and line.
pub fn dump(plan: &Plan, places: &BTreeMap<String, String>) -> Value {
    let mut plan = serde_json::to_value(plan).unwrap_or_default();
    locate(&mut plan, places);
    json!({ "plan": plan })
}

fn locate(value: &mut Value, places: &BTreeMap<String, String>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| locate(item, places)),
        Value::Object(fields) => {
            fields.values_mut().for_each(|field| locate(field, places));
            let Some(Ok(origin)) = fields.get("origin").cloned().map(serde_json::from_value::<Origin>) else { return };
            fields.insert("place".into(), json!(places.get(&rule_key(&origin.written_in, &origin.field))));
        }
        _ => {}
    }
}
