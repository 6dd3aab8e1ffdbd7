//! The nginx canary for gateways of every kind: what its files mean, stand-ins for its pods, and what clients must see.
//!
//! One of the two pods that are online is down.

use axum::Router;
use axum::routing::any;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use meshroute::plan::{Endpoint, Plan};
use meshroute::{Mesh, OutboundPolicy, Reading, Resources, Viewpoint};
use tokio::net::TcpListener;

pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// The port that clients dial in the mesh, whichever one a gateway really listens on.
pub const PORT: u16 = 5000;
/// The scenario's six files.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/mesh/config/nginx-canary");

/// What a folder means to a pod in `default`; only what is in it may be called.
pub fn plan(folder: &str) -> Plan {
    let (resources, mut findings) = Resources::load(folder, Reading::Lenient);
    let mut mesh = Mesh::default();
    mesh.outbound = OutboundPolicy::RegistryOnly;
    let resolution = Plan::resolve(&resources, &Viewpoint::sidecar("default"), &mesh);
    findings.extend(resolution.findings);
    findings.iter().for_each(|finding| eprintln!("{finding}"));
    resolution.plan
}

/// The scenario's plan, with pods on loopback.
pub async fn with_stand_ins() -> Result<Plan, Failed> {
    let mut plan = plan(FOLDER);
    stand_in(&mut plan).await?;
    Ok(plan)
}

/// Asks a gateway at this address for all that the scenario promises.
pub async fn check(gateway: &str) -> Result<(), Failed> {
    let ask = async |canary: &str, body: &[u8]| asked(gateway, "nginx:5000", canary, body).await;
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
    expect(asked(gateway, "nobody.example", "", b"").await?, 502, "")
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

pub async fn serve(router: Router) -> Result<String, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

type Answer = (StatusCode, String);

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
