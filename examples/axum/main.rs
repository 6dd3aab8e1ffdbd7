//! A gateway on axum: a folder of Istio's YAML says where requests go, axum takes them, hyper sends them.
//!
//! ```sh
//! cargo run --example axum -- --self-check             # the nginx canary, with stand-ins for its pods
//! cargo run --example axum -- FOLDER 127.0.0.1:8080    # any folder; serves what a pod in `default` may call on port 5000
//! ```

mod self_check;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::routing::get;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use meshroute::adapter::tower::{RouteLayer, Upstream};
use meshroute::balance::Failure;
use meshroute::{Live, Mesh, OutboundPolicy, Plan, Reading, Resources, Viewpoint};
use tokio::net::TcpListener;
use tower::Layer;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// The port that clients dial in the mesh, whichever one the gateway really listens on.
const PORT: u16 = 5000;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--self-check"] => self_check::run().await,
        [folder, address] => {
            let live = Arc::new(Live::new(meshroute::Router::compile(plan(folder))?));
            Ok(axum::serve(TcpListener::bind(address).await?, gateway(live)).await?)
        }
        _ => Err("say `--self-check`, or FOLDER ADDRESS".into()),
    }
}

/// What a folder means to a pod in `default`; only what is in it may be called.
fn plan(folder: &str) -> Plan {
    let (resources, mut findings) = Resources::load(folder, Reading::Lenient);
    let mut mesh = Mesh::default();
    mesh.outbound = OutboundPolicy::RegistryOnly;
    let resolution = Plan::resolve(&resources, &Viewpoint::sidecar("default"), &mesh);
    findings.extend(resolution.findings);
    findings.iter().for_each(|finding| eprintln!("{finding}"));
    resolution.plan
}

/// Publish to `live`, and the next request goes by the new rules.
fn gateway(live: Arc<Live>) -> Router {
    let begin = Instant::now();
    let clock = (move || begin.elapsed(), tokio::time::sleep);
    let failure = |error: &Error| if error.is_connect() { Failure::Connect } else { Failure::Reset };
    let upstream = Upstream::new(Client::builder(TokioExecutor::new()).build_http(), clock, failure)
        .on_attempt(|attempt| eprintln!("  {}: {:?}, then {:?}", attempt.endpoint, attempt.tried, attempt.verdict));
    let routed = RouteLayer::new(live, PORT)
        .on_decision(|request, decision| eprintln!("{request:?}: {:?}", decision.route.map(|route| &route.name)))
        .layer(upstream);
    Router::new().route("/healthz", get(async || "ok")).fallback_service(routed)
}
