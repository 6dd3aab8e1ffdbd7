//! Keeps a question that the two answered differently, as a case with Envoy's answer: it stays red until it is mended.

use std::path::{Path, PathBuf};

use meshroute::Severity;
use serde_json::{Map, Value, json};

use crate::ask::Kind;
use crate::compare::Comparison;
use crate::translate::PASSTHROUGH;

/// Writes the case to `tests/cases/found`, and says where.
pub fn save(seed: u64, case: usize, comparison: &Comparison<'_>, differences: &[String]) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/found");
    let file = folder.join(format!("seed-{seed}-case-{case}.yaml"));
    std::fs::create_dir_all(&folder).expect("the repository can be written to");
    let text =
        serde_yaml::to_string(&written(seed, case, comparison, differences)).expect("JSON can be written as YAML");
    std::fs::write(&file, text).expect("the repository can be written to");
    file
}

fn written(seed: u64, case: usize, comparison: &Comparison<'_>, differences: &[String]) -> Value {
    let world = comparison.world;
    let (kind, namespace, label) = match world.gateway {
        true => ("gateway", "istio-system", json!({"istio": "ingressgateway"})),
        false => ("sidecar", "default", json!({"app": "client"})),
    };
    let errors = world.findings.iter().filter(|finding| finding.severity == Severity::Error);
    json!({
        "source": format!("a real Envoy, asked by tests/envoy.rs with seed {seed}, case {case}"),
        "says": differences.join("; "),
        "precedence": "istio",
        "client": {"kind": kind, "namespace": namespace, "labels": label},
        "mesh": {"outbound": world.outbound},
        "findings": errors.map(|finding| json!({"code": finding.code})).collect::<Vec<_>>(),
        "questions": [question(comparison)],
        "resources": world.text(),
    })
}

fn question(comparison: &Comparison<'_>) -> Value {
    let ask = comparison.ask;
    let mut made = json!({"port": ask.port, "address": ask.address, "roll": ask.roll, "expects": expects(comparison)});
    match &ask.kind {
        Kind::Http => {
            made["ask"] = json!(format!("{} http://{}/", ask.method, ask.authority));
            made["host"] = json!(ask.authority);
            made["target"] = json!(ask.target());
            made["headers"] = json!(ask.headers);
        }
        Kind::Bytes => made["ask"] = json!(format!("tcp://any:{}", ask.port)),
        Kind::Hello(name) => {
            made["ask"] = json!(format!("tls://{name}:{}", ask.port));
            made["sni"] = json!(name);
        }
    }
    made
}

/// What Envoy did, in the words of a case.
fn expects(comparison: &Comparison<'_>) -> Value {
    let (ask, seen) = (comparison.ask, comparison.seen);
    let mut made = Map::new();
    let cluster = seen.told("cluster");
    let location = seen.answer.as_ref().and_then(|answer| answer.header("location"));
    let refused = seen.flags().into_iter().find(|flag| matches!(*flag, "NR" | "NC" | "UH" | "FI"));
    if let Some(first) = seen.received.first() {
        let key = if ask.kind == Kind::Http { "to" } else { "connect" };
        match cluster == PASSTHROUGH {
            true => made.insert("passthrough".into(), json!(true)),
            false => made.insert(key.into(), json!(case_name(cluster))),
        };
        made.insert("path".into(), json!(first.target));
        made.insert("authority".into(), json!(first.header("host")));
    } else if let Some(flag) = refused {
        made.insert("status".into(), json!(format!("{} {flag}", seen.status())));
    } else if let Some(location) = location {
        made.insert("redirect".into(), json!(format!("{} {location}", seen.status())));
    } else if let Some(answer) = &seen.answer {
        let text = format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body));
        made.insert("direct".into(), json!(text.trim_end()));
    } else {
        made.insert("reset".into(), json!(true));
    }
    Value::Object(made)
}

/// `w3|outbound|80|v1|web.default.svc.cluster.local` as a case names it: `web.default.svc.cluster.local:80/v1`.
fn case_name(cluster: &str) -> String {
    match cluster.split('|').collect::<Vec<_>>().as_slice() {
        [_, _, port, "", host] => format!("{host}:{port}"),
        [_, _, port, subset, host] => format!("{host}:{port}/{subset}"),
        _ => cluster.to_string(),
    }
}
