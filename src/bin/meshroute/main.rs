//! The command `meshroute`: Istio's routing, asked offline.

mod eval;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Istio's routing, asked offline: which subset does a request go to, and why?
#[derive(Parser)]
#[command(version, about)]
struct Command {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Answers cases given one per line as JSON, each with resources, a client and requests.
    Eval,
}

fn main() -> ExitCode {
    match Command::parse().task {
        Task::Eval => eval::run(),
    }
}
