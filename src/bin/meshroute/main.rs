//! The command `meshroute`: Istio's routing, asked offline.

mod analyze;
mod eval;
mod get;
mod input;
mod print;
mod route;
mod running;
mod validate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Istio's routing, asked offline: which subset does a request go to, and why?
///
/// Reads VirtualServices, DestinationRules, Gateways, ServiceEntries and Sidecars, and the Services, Pods and
/// Deployments that they speak of, from files and folders. Needs no cluster.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "\
Examples:
  meshroute route -f config/ --from default/shop GET http://nginx:5000/ -H 'canary_id: 1'
  meshroute validate config/
  meshroute analyze -f config/
  meshroute get vs,dr,po -A -f config/
  meshroute get po -A --mesh 127.0.0.1:20001

`meshroute COMMAND --help` says more about each"
)]
struct Command {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Says where a request goes, and why
    Route(route::Args),
    /// Says whether Istio's admission would take resources, and why not
    Validate(validate::Args),
    /// Says what is wrong between resources
    Analyze(analyze::Args),
    /// Lists what is loaded, as kubectl would
    Get(get::Args),
    /// Answers cases given one per line as JSON, each with resources, a client and requests
    ///
    /// Reads standard input and writes a line for each case. `precedence` is `istio` unless a case says `last-applied`.
    #[command(after_help = EVAL)]
    Eval,
}

const EVAL: &str = "\
Example (one line each):
  {\"id\": \"1\", \"client\": {\"namespace\": \"default\"}, \"resources\": \"YAML\", \"requests\": [{\"authority\": \"nginx:5000\", \"port\": 5000}]}
  {\"id\": \"1\", \"results\": [{...}]}, or {\"id\": \"1\", \"invalid\": \"why\"}

Exit status: 0, or 2 if standard input could not be read";

fn main() -> ExitCode {
    match Command::parse().task {
        Task::Route(args) => route::run(&args),
        Task::Validate(args) => validate::run(&args),
        Task::Analyze(args) => analyze::run(&args),
        Task::Get(args) => get::run(&args),
        Task::Eval => eval::run(),
    }
}
