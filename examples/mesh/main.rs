//! A complete small mesh on loopback: discovery, sidecars, a gateway, pods, and a tour of them.
//!
//! `cargo run --example mesh` shows it and stops; `cargo run --example mesh -- serve [DIR]` keeps it running. The same
//! program is each of the parts (`mesh discovery`, `mesh proxy`, ...), every one a process of its own.
//!
//! On loopback pods' addresses are made up, and programs send through the sidecar because they are told to
//! (`http_proxy`). With `serve --intercept` ([`fabric`], [`intercept`]) they are real: each pod has a network namespace
//! with its address, all joined by a bridge in one more namespace, and nftables redirects what it sends and gets to its
//! sidecar, which also answers its questions for names. Every part stays a process outside, beside discovery, and has
//! sockets inside; the machine's own network is not touched.
//!
//! This file is the front door: it knows the commands and nothing of what they do.

mod access_log;
mod admin;
mod admission;
mod ads;
mod alone;
mod answer;
mod args;
mod ca;
mod client;
mod config;
mod credentials;
mod dashboard;
mod demo;
mod dial;
mod discovery;
mod dns;
mod exchange;
mod exec;
mod explain;
mod fabric;
mod forward;
mod gateway;
mod gather;
mod graph;
mod history;
mod identity;
mod inbound;
mod intercept;
mod kubeproxy;
mod lines;
mod message;
mod metrics;
mod netns;
mod nginx;
mod node;
mod opening;
mod outside;
mod paper;
mod passage;
mod patience;
mod pilot;
mod pod;
mod pool;
mod portions;
mod precheck;
mod proxy;
mod question;
mod record;
mod resolver;
mod retry;
mod scene;
mod serve;
mod session;
mod shared;
mod spans;
mod spiffe;
mod station;
mod status;
mod stranger;
mod times;
mod transport;
mod trust;
mod tunnel;
mod upload;
mod upstream;
mod warmth;
mod wire;
mod workload;
mod world;

use std::io::Write as _;
use std::process::ExitCode;

use args::Args;

const HELP: &str = "\
A complete small mesh on loopback, routed by the crate `meshroute`.

  mesh                 start the scenario nginx-canary, show what it does, and stop
  mesh serve [DIR]     keep a mesh running on a folder of YAML until Ctrl-C
                       (without DIR: on the scenario nginx-canary)
    --access-log text|json|off   how requests are written down: Istio's default
                             text form, JSON, or not at all
    --spans FILE             write a span for each request, as OpenTelemetry's JSON
    --stream-idle-timeout TIME  how long a request or answer may stand still (for ever,
                             as with Istio; 0s says so)
    --idle-timeout TIME      how long a connection may be without requests (1h)
    --tcp-idle-timeout TIME  how long bytes of other protocols may pause (1h)
    --lifetime SECONDS       how long certificates are good for (14400)
    --root-lifetime SECONDS  after how long the authority replaces its root (never)
    --address ADDRESS:PORT   where the page with the graph is (127.0.0.1:20001)
    --intercept              on Linux, as root: each pod has a network namespace of its
                             own, and its sidecar takes what it sends and gets
    --pods nginx             pods are real nginx processes
  mesh exec POD [COMMAND]  run a command in a pod's network, or a shell; needs a mesh
                       that was started with --intercept
  mesh precheck [DIR]  say whether this machine can run it: ports, privileges, tools
                       (with --intercept or --pods nginx: also what those need)

  mesh alone DIR       one sidecar by itself, without discovery and identity, for pods
                       whose `status.podIP` is on loopback: to be measured
    --namespace NS           whose sidecar it is (default)
    --listen http_proxy=PORT where it listens (anywhere on loopback)
    --access-log, --stream-idle-timeout ...    as above

With cargo: `cargo run --example mesh`, `cargo run --example mesh -- serve [DIR]`.

The parts, each a process that `serve` starts and watches. They are told where discovery is, what to
know it by and what to prove themselves with, by a line on their standard input, and end when it closes:

  mesh discovery --dir DIR --state FILE
  mesh pod --namespace NS --name POD --port PORT... --greet NAME
  mesh proxy --namespace NS --pod POD --label KEY=VALUE... --port PORT...
  mesh gateway --namespace NS --label KEY=VALUE...
  mesh kubeproxy
";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let outcome = match command.as_str() {
        // Their words are another program's.
        "exec" => exec::run(words.collect()),
        "within" => nginx::within(&words.collect::<Vec<_>>()),
        _ => match Args::parse(words) {
            Ok(args) => run(&command, args).await,
            Err(error) => Err(error.into()),
        },
    };
    lines::end();
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    let _ = writeln!(std::io::stderr(), "mesh: {error}");
    ExitCode::FAILURE
}

/// What may go wrong in a part as a whole; a single request never ends one.
type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn run(command: &str, args: Args) -> Result<(), Failure> {
    times::settle(&args)?;
    match command {
        "" => demo::run().await,
        "serve" => serve::run(&args).await,
        "alone" => alone::run(&args).await,
        "precheck" => precheck::run(&args),
        "discovery" => discovery::run(&args).await,
        "pod" => pod::run(&args).await,
        "proxy" => proxy::run(&args).await,
        "gateway" => gateway::run(&args).await,
        "kubeproxy" => kubeproxy::run(&args).await,
        "help" | "--help" | "-h" => {
            let _ = std::io::stdout().write_all(HELP.as_bytes());
            Ok(())
        }
        other => Err(format!("unknown command `{other}`; `mesh help` names those that there are").into()),
    }
}
