//! The nginx canary behind the gateway. Its pods are stand-ins on loopback, and one of the two that are online is down.

use std::sync::Arc;

use axum::Router;
use axum::routing::any;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use meshroute::Live;
use meshroute::plan::{Endpoint, Plan};
use tokio::net::TcpListener;

use crate::{Failed, gateway, plan};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/mesh/config/nginx-canary");

pub async fn run() -> Result<(), Failed> {
    let mut plan = plan(FOLDER);
    stand_in(&mut plan).await?;
    let gateway = serve(gateway(Arc::new(Live::new(meshroute::Router::compile(plan)?)))).await?;
    let ask = async |canary: &str, body: &[u8]| ask(&gateway, canary, body).await;
    for _ in 0..20 {
        expect(ask("", b"").await?, 200, "online")?;
        expect(ask("2", b"").await?, 200, "canary-2")?;
    }
    let long = vec![b'x'; 1 << 20];
    expect(ask("2", &long).await?, 200, "canary-2 got 1048576 bytes")?;
    let (mut served, mut refused) = (0, 0);
    while served == 0 || refused == 0 {
        let answer = ask("1", b"").await?;
        match answer.0 {
            StatusCode::OK => (served += 1, expect(answer, 200, "canary-1")?).1,
            _ => (refused += 1, expect(answer, 503, "no healthy upstream")?).1,
        }
        if served + refused > 200 {
            return Err(format!("the split is none: {served} served, {refused} refused").into());
        }
    }
    expect(asked(&gateway, "nobody.example", "", b"").await?, 502, "")?;
    println!("axum: the canary is served; a pod that is down was passed over, a subset without pods refused");
    Ok(())
}

/// Puts addresses on loopback in the place of pods'.
async fn stand_in(plan: &mut Plan) -> Result<(), Failed> {
    let down = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
    for at in 0..plan.clusters.len() {
        let Some(cluster) = plan.clusters.get(at) else { continue };
        let (mut cluster, mut endpoints) = (meshroute::plan::Cluster::clone(cluster), Vec::new());
        for _ in cluster.endpoints.iter() {
            endpoints.push(Endpoint::new("127.0.0.1", pod(&cluster.subset).await?, &cluster.subset));
        }
        if &*cluster.subset == "online" {
            endpoints.push(Endpoint::new("127.0.0.1", down, "down"));
        }
        cluster.endpoints = endpoints.into();
        plan.clusters.set(at, cluster);
    }
    Ok(())
}

/// A pod that says its name, and how much it got.
async fn pod(name: &str) -> Result<u16, Failed> {
    let name = name.to_string();
    let answer = async move |body: Bytes| match body.len() {
        0 => name.clone(),
        length => format!("{name} got {length} bytes"),
    };
    let address = serve(Router::new().fallback(any(answer)).layer(axum::extract::DefaultBodyLimit::disable())).await?;
    Ok(address.rsplit(':').next().unwrap_or_default().parse()?)
}

async fn serve(router: Router) -> Result<String, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

type Answer = (StatusCode, String);

async fn ask(gateway: &str, canary: &str, body: &[u8]) -> Result<Answer, Failed> {
    asked(gateway, "nginx:5000", canary, body).await
}

async fn asked(gateway: &str, host: &str, canary: &str, body: &[u8]) -> Result<Answer, Failed> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::post(format!("http://{gateway}/")).header("host", host);
    if !canary.is_empty() {
        request = request.header("canary_id", canary);
    }
    let response = client.request(request.body(Full::new(Bytes::copy_from_slice(body)))?).await?;
    let (parts, body) = response.into_parts();
    Ok((parts.status, String::from_utf8(body.collect().await?.to_bytes().into())?))
}

fn expect(answer: Answer, status: u16, text: &str) -> Result<(), Failed> {
    if answer == (StatusCode::from_u16(status)?, text.to_string()) {
        return Ok(());
    }
    Err(format!("wanted {status} `{text}`, got {} `{}`", answer.0, answer.1).into())
}
