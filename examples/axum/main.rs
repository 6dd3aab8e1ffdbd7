//! A gateway on axum: a folder of Istio's YAML says where requests go, axum takes them, hyper sends them.
//!
//! ```sh
//! cargo run --example axum -- --self-check             # the nginx canary, with stand-ins for its pods
//! cargo run --example axum -- FOLDER 127.0.0.1:8080    # any folder; serves what a pod in `default` may call on port 5000
//! ```

#[path = "../canary/mod.rs"]
mod canary;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::routing::get;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use meshroute::adapter::tower::{RouteLayer, Upstream};
use meshroute::balance::Failure;
use meshroute::{Live, Plan, PlanError};
use tokio::net::TcpListener;
use tower::Layer;

use canary::{Failed, PORT};

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--self-check"] => {
            canary::check(&canary::serve(gateway(live(canary::with_stand_ins().await?)?)).await?).await?;
            println!("axum: the canary is served; a pod that is down was passed over, a subset without pods refused");
            Ok(())
        }
        [folder, address] => {
            let gateway = gateway(live(canary::plan(folder))?);
            Ok(axum::serve(TcpListener::bind(address).await?, gateway).await?)
        }
        _ => Err("say `--self-check`, or FOLDER ADDRESS".into()),
    }
}

fn live(plan: Plan) -> Result<Arc<Live>, PlanError> {
    Ok(Arc::new(Live::new(meshroute::Router::compile(plan)?)))
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
