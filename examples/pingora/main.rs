//! A Pingora proxy: a folder of Istio's YAML says where requests go.
//!
//! ```sh
//! cargo run --features pingora --example pingora -- --self-check             # the nginx canary, with stand-ins for its pods
//! cargo run --features pingora --example pingora -- FOLDER 127.0.0.1:8080    # any folder; as a pod in `default` sees port 5000
//! ```
//!
//! It needs cmake to build, for the zlib inside Pingora.

#[path = "../canary/mod.rs"]
mod canary;

use std::sync::Arc;
use std::time::{Duration, Instant};

use meshroute::adapter::pingora::Routed;
use meshroute::plan::Plan;
use meshroute::{Live, Router};
use pingora_core::server::Server;

use canary::{Failed, PORT};

fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--self-check"] => tokio::runtime::Runtime::new()?.block_on(self_check()),
        [folder, address] => server(canary::plan(folder), address)?.run_forever(),
        _ => Err("say `--self-check`, or FOLDER ADDRESS".into()),
    }
}

fn server(plan: Plan, address: &str) -> Result<Server, Failed> {
    let live = Arc::new(Live::new(Router::compile(plan)?));
    let mut server = Server::new(None)?;
    server.bootstrap();
    let begin = Instant::now();
    let routed = Routed::new(live, PORT, (move || begin.elapsed(), tokio::time::sleep));
    let mut service = pingora_proxy::http_proxy_service(&server.configuration, routed);
    service.add_tcp(address);
    server.add_service(service);
    Ok(server)
}

/// Pingora's server runs for ever, in a thread that ends with the process.
async fn self_check() -> Result<(), Failed> {
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let proxy = server(canary::with_stand_ins().await?, &free)?;
    std::thread::spawn(move || proxy.run_forever());
    for _ in 0..100 {
        if tokio::net::TcpStream::connect(&free).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    canary::check(&free).await?;
    println!("pingora: the canary is served; a pod that is down was passed over, a subset without pods refused");
    Ok(())
}
