//! `meshroute analyze`: what is wrong between resources.

use std::path::PathBuf;
use std::process::ExitCode;

use meshroute::analyze::findings;
use meshroute::{Diagnostic, Severity};
use serde_json::Value;

use super::input::{self, Input, Winner, World};
use super::print::{self, Format, Ink, ink};
use super::running::Running;

/// What is to be analyzed.
#[derive(clap::Args)]
#[command(after_help = "\
Codes that begin with IST are Istio's own; the others are explained by their names.

Examples:
  meshroute analyze -f config/
  kubectl get vs,dr,gw,se,svc,pod -A -o yaml | meshroute analyze -
  meshroute analyze -f config/ --format json | jq '.[] | select(.severity == \"error\")'

Exit status: 0 no errors, 1 errors, 2 something could not be read")]
pub struct Args {
    /// Files and folders; `-` is standard input
    #[arg(value_name = "PATH", required_unless_present_any = ["file", "mesh"], conflicts_with = "mesh")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    running: Running,
    /// Who wins where several VirtualServices claim one host
    #[arg(long, value_enum, default_value = "last-applied")]
    precedence: Winner,
    /// How the findings are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Prints what is wrong.
pub fn run(args: &Args) -> ExitCode {
    let world = match input::read_all(&args.input.paths(&args.paths), &args.running) {
        Ok(world) => world,
        Err(why) => {
            print::complain(why);
            return ExitCode::from(2);
        }
    };
    let mut all: Vec<Diagnostic> =
        world.findings.iter().filter(|finding| is_worth_telling(finding, &world)).cloned().collect();
    all.extend(findings(&world.resources, &world.surroundings, &args.precedence.mesh()));
    all.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    match args.format {
        Format::Json => print::out_json(&Value::Array(all.iter().map(print::finding_json).collect())),
        Format::Text => print::out(&text(&all, &world)),
    }
    if world.findings.iter().any(input::is_unreadable) {
        return ExitCode::from(2);
    }
    ExitCode::from(u8::from(all.iter().any(|finding| finding.severity == Severity::Error)))
}

/// Kinds of Istio's that routing does not look at, or that are looked at otherwise, are not misspelt.
fn is_worth_telling(finding: &Diagnostic, world: &World) -> bool {
    const OTHERS: [&str; 3] = ["EnvoyFilter", "ProxyConfig", "WorkloadGroup"];
    if input::is_worth_telling(finding) {
        return true;
    }
    let Some(resource) = &finding.resource else { return false };
    let istios = finding.message.starts_with("networking.istio.io/");
    istios && !OTHERS.contains(&&*resource.kind) && !world.surroundings.contains(resource)
}

fn text(all: &[Diagnostic], world: &World) -> String {
    let mut text: String = all.iter().map(print::finding).collect();
    let number = |severity| all.iter().filter(|finding| finding.severity == severity).count();
    let parts = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Info, "remark")];
    let counts: Vec<String> = parts
        .into_iter()
        .map(|(severity, noun)| (number(severity), noun))
        .filter(|(number, _)| *number > 0)
        .map(|(number, noun)| print::count(number, noun))
        .collect();
    let looked_at = print::count(world.resources.iter().count(), "resource");
    text += &match counts.is_empty() {
        true => format!("{}\n", ink(Ink::Good, format!("nothing wrong with {looked_at}"))),
        false => format!("{} in {looked_at}\n", counts.join(", ")),
    };
    text
}
