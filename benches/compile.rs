//! What does a change of configuration cost: text to resources, resources to plan, plan to router?
//!
//! Every router that comes out is asked before its making is timed.

mod support;

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use meshroute::{Mesh, Outcome, Plan, Reading, Request, Resources, Roll, Router, Viewpoint};
use support::{Workload, headers, hosts, mixed, prefixes};

/// Routes, or hosts in W5.
const SIZES: [usize; 3] = [100, 1_000, 10_000];

fn plan_to_router(c: &mut Criterion) {
    for (name, make) in [("W2", headers as fn(usize) -> Workload), ("W3", prefixes), ("W4", mixed), ("W5", hosts)] {
        let mut group = c.benchmark_group(format!("router/{name}"));
        for n in SIZES {
            let workload = make(n);
            let plan = workload.router.plan();
            group.throughput(Throughput::Elements(n as u64));
            group.bench_function(BenchmarkId::from_parameter(n), |b| {
                b.iter_with_large_drop(|| {
                    Router::compile(Arc::clone(black_box(plan))).expect("it was compiled before")
                });
            });
        }
    }
}

fn text_to_router(c: &mut Criterion) {
    let (viewpoint, mesh) = (Viewpoint::sidecar("default"), Mesh::default());
    let mut group = c.benchmark_group("text");
    for n in SIZES {
        let text = mesh_of(n);
        let resources = read(&text);
        check(&resources, &viewpoint, &mesh, n);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::new("read", n), |b| b.iter_with_large_drop(|| read(black_box(&text))));
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::new("resolve", n), |b| {
            b.iter_with_large_drop(|| Plan::resolve(black_box(&resources), &viewpoint, &mesh));
        });
    }
}

/// One service, and one VirtualService with so many rules.
fn mesh_of(n: usize) -> String {
    let mut text = String::from(HEAD);
    for at in 0..n {
        write!(
            text,
            "  - match: [{{headers: {{x-user: {{exact: u{at}}}}}}}]\n    route: [{{destination: {{host: web}}}}]\n"
        )
        .expect("a string takes all that is written");
    }
    text
}

const HEAD: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web}}
status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http:
";

fn read(text: &str) -> Resources {
    let mut resources = Resources::new();
    let findings = resources.apply_text(text, "mesh.yaml", Reading::Strict);
    assert!(findings.is_empty(), "{}", findings[0]);
    resources
}

fn check(resources: &Resources, viewpoint: &Viewpoint, mesh: &Mesh, n: usize) {
    let router = Router::compile(Plan::resolve(resources, viewpoint, mesh).plan).expect("what was resolved is legal");
    let last = [("x-user", format!("u{}", n - 1))];
    let decision = router.decide(&Request::new("GET", "web", "/").headers(&last), &Roll::seeded(1));
    assert!(matches!(decision.outcome, Outcome::Forward(_)), "{decision:?}");
    let rule = decision.route.and_then(|route| route.origin.as_ref()).map(|origin| origin.rule as usize);
    assert_eq!(rule, Some(n - 1));
}

criterion_group! {
    name = benches;
    config = support::quick();
    targets = plan_to_router, text_to_router
}
criterion_main!(benches);
